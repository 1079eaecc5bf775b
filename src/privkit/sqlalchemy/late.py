"""Values of a statement that are asked for when it is executed: the time, the purpose, the day.

So the statement is built and compiled once, and is right whenever it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import BindParameter
from sqlalchemy.types import TypeEngine

_T = TypeVar("_T")


def late(ask: Callable[[], _T], kind: TypeEngine[Any]) -> BindParameter[_T]:
    """Return a bound value of the type ``kind`` for which ``ask`` is called at each execution."""
    return _Late(None, callable_=ask, type_=kind)


class _Late(BindParameter[Any]):
    """One that stays itself where SQLAlchemy would annotate a copy.

    A copy is equal to the original but not the same, so finding each value of a cached statement would build SQL for
    ``==``, several times an execution: half of what the filters of one row's read cost.
    """

    inherit_cache = True

    def _annotate(self, values: Any) -> Any:
        return self

    def _with_annotations(self, values: Any) -> Any:
        return self

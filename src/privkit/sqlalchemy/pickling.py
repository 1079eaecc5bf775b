"""Pickles of mapped objects: personal values stay behind, and are loaded again under a purpose.

A pickle in a cache or a queue outlives the purpose, the lifetime and the keys of what it holds. ``deepcopy`` goes the
same way. A copy by ``copy.copy`` stays in the process, as the object itself does.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, event, inspect
from sqlalchemy.orm import InstanceState, Mapper

from privkit.errors import PurposeError
from privkit.sqlalchemy.types import Guarded


class StaysBehind:
    """Base of loader options of privkit's own, which belong to a purpose and are made anew under the next one."""

    __slots__ = ()


def leave_values_behind(mapper: Mapper[Any]) -> None:
    """Have the pickles of a class hold no personal value. Safe to repeat."""
    cls: Any = mapper.class_
    if "__getstate__" in vars(cls) and getattr(cls.__getstate__, "privkit", False):
        return
    inherited = cls.__getstate__

    def __getstate__(self: Any) -> Any:  # noqa: N807
        return _without(inherited(self), personal(inspect(self)))

    __getstate__.privkit = True  # type: ignore[attr-defined]
    cls.__getstate__ = __getstate__
    if not hasattr(cls, "__copy__"):
        cls.__copy__ = _copy
    event.listen(cls, "pickle", on_pickle, propagate=True)


def on_pickle(instance: Any, pickled: dict[str, Any]) -> None:
    """Mark what was left behind, so that it is loaded anew and not taken for None."""
    left = set(personal(inspect(instance)))
    pickled["expired_attributes"] = set(pickled.get("expired_attributes", ())) | left
    options = [each for each in pickled.get("load_options", ()) if not isinstance(each, StaysBehind)]
    pickled["load_options"] = tuple(options)
    pickled["committed_state"] = {
        key: value for key, value in pickled.get("committed_state", {}).items() if key not in left
    }


def personal(state: InstanceState[Any]) -> list[str]:
    """Return the attributes that hold personal values, or are computed or composed from them.

    Raises PurposeError where one of them was not stored yet: it would be lost without a word.
    """
    mapper = state.mapper
    names = [each.key for each in mapper.column_attrs if any(map(_holds_personal, each.columns))]
    names += [each.key for each in mapper.composites if any(part.key in names for part in each.props)]
    for name in names:
        if state.dict.get(name) is not None and (state.key is None or name in state.committed_state):
            raise PurposeError(
                f"{mapper.class_.__name__}.{name} is personal data that was not stored yet, and would be pickled.",
                "A pickle outlives the purpose and the keys, and anybody can read it.",
                "Store the object and pass its id; the other side loads it under its own purpose.",
            )
    return names


def _holds_personal(column: Any) -> bool:
    """Whether a column is guarded or a residue; an expression counts whatever it is made of."""
    if not isinstance(column, Column):
        return True
    residue = column.name.removesuffix("_residue")
    return isinstance(column.type, Guarded) or (residue != column.name and residue in column.table.columns)


def _without(state: Any, names: list[str]) -> Any:
    if not isinstance(state, dict):
        return state
    kept = {key: value for key, value in state.items() if key not in names}
    if isinstance(kept.get("__dict__"), dict):  # as pydantic keeps it
        kept["__dict__"] = _without(kept["__dict__"], names)
    return kept


def _copy(self: Any) -> Any:
    made = object.__new__(type(self))
    made.__dict__.update(self.__dict__)
    return made

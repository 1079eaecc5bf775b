"""Keeps ``MutableDict.as_mutable(JSON)`` and its like working on personal columns.

SQLAlchemy finds such columns by their type object when a mapper is configured; by then a guard type stands there. The
wrapper and the type are known only to the listeners that ``as_mutable`` and ``associate_with`` registered, in their
closures, so they are read from there.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column
from sqlalchemy.ext.mutable import MutableBase
from sqlalchemy.orm import Mapper
from sqlalchemy.types import TypeEngine

from privkit.sqlalchemy.types import Guarded

_APPLIED = "_ext_mutable_listener_applied"  # SQLAlchemy's own mark, so that neither wraps a column twice


def track(mapper: Mapper[Any]) -> None:
    """Track in-place changes of personal columns whose declared type is mutable."""
    for each in mapper.column_attrs:
        column = each.expression
        if isinstance(column, Column) and isinstance(column.type, Guarded) and _APPLIED not in column.info:
            for wrapper in _wrappers(mapper, column.type.plain):
                column.info[_APPLIED] = True
                wrapper.associate_with_attribute(getattr(mapper.class_, each.key))


def _wrappers(mapper: Mapper[Any], plain: TypeEngine[Any]) -> Iterator[Any]:
    for listener in mapper.dispatch.mapper_configured:
        function = inspect.getclosurevars(listener).nonlocals.get("fn", listener)
        if function.__module__ != MutableBase.__module__:
            continue
        held = inspect.getclosurevars(function).nonlocals
        kind = held.get("sqltype")
        if kind is plain or (isinstance(kind, type) and isinstance(plain, kind)):
            yield held["cls"]

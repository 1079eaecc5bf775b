"""Which guard protects which engine: every engine has a dialect of its own, shared by its option engines."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect

if TYPE_CHECKING:
    from privkit.sqlalchemy.guard import Guard

_guards: WeakKeyDictionary[Dialect, Guard] = WeakKeyDictionary()


executing: ContextVar[Guard | None] = ContextVar("privkit_executing", default=None)
"""The guard of the engine whose statement is being prepared: its clock counts, not that of who built the statement."""


def guard_of(dialect: Dialect) -> Guard | None:
    """Return the guard of the engine that ``dialect`` belongs to."""
    return _guards.get(dialect)


def register(dialect: Dialect, guard: Guard) -> None:
    """Record that ``guard`` protects the engine of ``dialect``."""
    _guards[dialect] = guard

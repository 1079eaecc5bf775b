"""Which guard protects which engine: every engine has a dialect of its own, shared by its option engines."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect
from sqlalchemy.exc import DontWrapMixin

from privkit.catalog import Field
from privkit.errors import NotProtectedError, PrivkitError

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


def unwrapped(error: PrivkitError) -> PrivkitError:
    """Return ``error`` as a subclass that SQLAlchemy raises as it is, not inside a StatementError with parameters."""
    kind = type(error)
    said: Any = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce__": lambda _: error.__reduce__()}
    bare: Any = type(kind.__name__, (kind, DontWrapMixin), said)
    made: PrivkitError = bare(error.what, error.why, error.fix, **error.data)
    return made


def protecting(dialect: Dialect, field: Field) -> Guard:
    """Return the guard of an engine's dialect. Raises NotProtectedError when there is none."""
    guard = guard_of(dialect)
    if guard is None:
        raise unwrapped(
            NotProtectedError(
                f"{field} is personal data, and this engine is not protected.",
                "It would be written or read outside the policy.",
                "Call privacy.protect(engine) once, where the engine is made.",
                field=field.id,
            )
        )
    return guard

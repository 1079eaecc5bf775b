"""Doing a transaction again that the database ended for a reason that passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import SystemRandom
from typing import TypeVar

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, OperationalError

from privkit.errors import ConcurrentWrite

_Result = TypeVar("_Result")

_PASSES = {"40001", "40P01", "55P03", "57014", "57P01", "57P02", "57P03"}
"""SQLSTATEs (PostgreSQL 17, appendix A): serialisation failure, deadlock, lock time-out, cancelled (as by a statement
time-out), and the three of a server that stops or starts. Class 08 is a lost connection."""
_SQLITE_BUSY, _SQLITE_LOCKED = 5, 6
_STATEMENTS_FAULT = ("0A", "25", "26", "28", "3D", "3F", "42", "53", "54", "55", "57", "58", "F0", "HV", "XX")
"""Classes of SQLSTATE that have nothing to do with a row. All others are of data, constraints and triggers, which may
raise codes of their own."""


@dataclass(frozen=True, slots=True)
class Retry:
    """``attempts`` in all, with pauses that double from ``first`` to ``longest`` seconds, each cut by up to a half."""

    attempts: int = 10
    first: float = 0.05
    longest: float = 5.0
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[], float] = SystemRandom().random

    def run(self, work: Callable[[], _Result], failed: Callable[[], None] | None = None) -> _Result:
        """Return what ``work`` does. ``failed`` hears of each attempt that is made again; the last error stands."""
        for attempt in range(self.attempts - 1):
            try:
                return work()
            except (DBAPIError, ConcurrentWrite) as error:
                if not passes(error):
                    raise
            if failed is not None:
                failed()
            self.sleep(min(self.longest, self.first * 2**attempt) * (1 - self.jitter() / 2))
        return work()


def passes(error: DBAPIError | ConcurrentWrite) -> bool:
    """Whether the same transaction may succeed a moment later."""
    if isinstance(error, ConcurrentWrite) or error.connection_invalidated:
        return True
    state = _state(error)
    if state:
        return state in _PASSES or state.startswith("08")
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in (_SQLITE_BUSY, _SQLITE_LOCKED)
    # A server that cannot be reached has no chance to give a code.
    return isinstance(error, OperationalError) and not type(error.orig).__module__.startswith("sqlite3")


def waited(error: DBAPIError) -> bool:
    """Whether a statement waited for as long as it may, or worked for as long."""
    return _state(error) in ("55P03", "57014")


def refuses_row(error: DBAPIError) -> bool:
    """Whether the database refused a row, and not the statement: others of the same batch may go."""
    if passes(error):
        return False
    state = _state(error)
    if state:
        return not state.startswith(_STATEMENTS_FAULT)
    return isinstance(error, IntegrityError | DataError)


def blocker(error: DBAPIError) -> str:
    """Name what refused a row: the constraint, or the kind of the error. Never its text, which may quote the row."""
    constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    return str(constraint or getattr(error.orig, "sqlite_errorname", None) or type(error.orig).__name__)


def _state(error: DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or "")

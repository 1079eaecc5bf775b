"""Rows that stay because of a hold: the held ones, and those without which a held one could not be as it is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Table, false, literal, not_, or_, select

from privkit.sqlalchemy import holds, references
from privkit.sqlalchemy.guard import Guard, own_alias

Now = Callable[[], datetime]


def spared(guard: Guard, table: Table, at: FromClause, now: Now, *, free: bool = False) -> ColumnElement[bool]:
    """Return SQL that is true for rows that a hold keeps from deletion: held ones, and those with which one would go.

    ``at``: ``table`` or an alias of it. ``free``: only the latter.
    """
    blocking = references.blocking(guard, table)
    cleared = [foreign for foreign in references.dependants(table) if foreign not in blocking]
    found = [] if free else [holds.held(guard, table, at, now)]
    found += [_clears_held(guard, foreign, at, now) for foreign in cleared]
    return or_(false(), *found)


def free(guard: Guard, table: Table, now: Now | None = None) -> ColumnElement[bool]:
    """Return SQL that is true for rows whose values no hold keeps."""
    return not_(holds.held(guard, table, table, now or guard.now))


def _clears_held(guard: Guard, foreign: Any, at: FromClause, now: Now) -> ColumnElement[bool]:
    """Rows of ``at`` with a held one that a declared cascade deletes with them, or whose reference it takes away."""
    other = foreign.table
    row = own_alias(other, beside=at)
    held = holds.held(guard, other, row, now) if other in guard.tables else false()
    if foreign.ondelete == "CASCADE":
        held = or_(held, *(_clears_held(guard, below, row, now) for below in references.dependants(other)))
    joined = references.refers(foreign, row, at)
    return select(literal(1)).select_from(row).where(joined, held).correlate_except(row).exists()

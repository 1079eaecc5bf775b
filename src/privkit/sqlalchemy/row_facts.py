"""What a database knows of one row's lifetime: when its events happened, what is still stored, what holds it.

Instants, counts and names only. No value of a field leaves the database here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, false, select

from privkit.clock import as_utc
from privkit.purposes import internally
from privkit.sqlalchemy import due, holds
from privkit.sqlalchemy.due import Now, Target
from privkit.sqlalchemy.events import event_time
from privkit.sqlalchemy.guard import Guard


@dataclass(frozen=True, slots=True)
class RowFacts:
    """``events``: the time of each that its keeps count from. ``stored``: by column name, what is not destroyed yet.

    ``holds``: the id of each hold in force on the row, with the instant at which it ends by itself.
    """

    events: Mapping[str, datetime | None]
    stored: Mapping[str, bool]
    holds: Mapping[int, datetime | None]
    waits: bool
    """Whether its time has ended, and rows that depend on it are not gone yet."""


def read(
    connection: Connection, guard: Guard, targets: Sequence[Target], key: Sequence[ColumnElement[bool]], now: Now
) -> RowFacts | None:
    """Read the facts of the row that ``key`` finds, for fields of one table; None where there is no such row."""
    table = targets[0].table
    keeps = [keep for target in targets for keep in target.keeps.values()]
    names = sorted({event for keep in keeps if keep is not None for event in keep.events})
    moments = [event_time(guard, table, table, name) for name in names]
    living = [due.not_done(target) for target in targets]
    blocked = due.blocked(guard, table, now) if guard.tables[table].model.expire_row is not None else None
    asked = select(*moments, *living, false() if blocked is None else blocked).select_from(table).where(*key)
    with internally():
        row = connection.execute(asked).one_or_none()
        held = connection.execute(holds.on_row(guard, table, key, now)).all()
    if row is None:
        return None
    *found, waits = row
    return RowFacts(
        {name: as_instant(moment) for name, moment in zip(names, found, strict=False)},
        {str(target.field): bool(there) for target, there in zip(targets, found[len(names) :], strict=True)},
        {hold: as_instant(until) for hold, until in held},
        bool(waits),
    )


def as_instant(stored: Any) -> datetime | None:
    """Return an event column's value as an instant: naive times are UTC, a date counts from its end."""
    if stored is None:
        return None
    if isinstance(stored, datetime):
        return as_utc(stored if stored.tzinfo is not None else stored.replace(tzinfo=UTC))
    assert isinstance(stored, date)
    return datetime.combine(stored + timedelta(days=1), time(), UTC)

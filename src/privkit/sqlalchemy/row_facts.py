"""What a database knows of one row's lifetime: when its events happened, what is still stored, what holds it.

Instants, counts and names only. No value of a field leaves the database here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, false, select

from privkit.clock import as_utc
from privkit.consent.age import cautious_today
from privkit.purposes import internally
from privkit.sqlalchemy import due, holds
from privkit.sqlalchemy.children import with_consent
from privkit.sqlalchemy.due import Now, Target
from privkit.sqlalchemy.events import event_time
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.lapses import missing_since


@dataclass(frozen=True, slots=True)
class RowFacts:
    """``events``: the time of each that its keeps count from. ``stored``: by column name, what is not destroyed yet.

    ``holds``: the id of each hold in force on the row, with the instant at which it ends by itself. ``withheld``: the
    purposes that do not see the row, for want of consent.
    """

    events: Mapping[str, datetime | None]
    stored: Mapping[str, bool]
    holds: Mapping[int, datetime | None]
    waits: bool
    """Whether its time has ended, and rows that depend on it are not gone yet."""
    withheld: frozenset[str] = frozenset()


def read(
    connection: Connection, guard: Guard, targets: Sequence[Target], key: Sequence[ColumnElement[bool]], now: Now
) -> RowFacts | None:
    """Read the facts of the row that ``key`` finds, for fields of one table; None where there is no such row."""
    table = targets[0].table
    keeps = [keep for target in targets for keep in target.keeps.values()]
    names = sorted({event for keep in keeps if keep is not None for event in keep.events})
    moments = [(name, event_time(guard, table, table, name)) for name in names]
    lapses = {lapse.event: lapse for keep in keeps if keep is not None for lapse in keep.lapses}
    moments += [(name, each) for name in lapses for each in missing_since(guard, table, table, lapses[name], now)]
    living = [due.not_done(target) for target in targets]
    seen = _seen(guard, targets, now)
    blocked = due.blocked(guard, table, now) if guard.tables[table].model.expire_row is not None else None
    asked = select(*(moment for _, moment in moments), *living, *seen.values())
    asked = asked.add_columns(false() if blocked is None else blocked).select_from(table).where(*key)
    with internally():
        row = connection.execute(asked).one_or_none()
        held = connection.execute(holds.on_row(guard, table, key, now)).all()
    if row is None:
        return None
    *found, waits = row
    known, there, shown = found[: len(moments)], found[len(moments) :], found[len(moments) + len(living) :]
    return RowFacts(
        _events((name for name, _ in moments), known),
        {str(target.field): bool(each) for target, each in zip(targets, there, strict=False)},
        {hold: as_instant(until) for hold, until in held},
        bool(waits),
        frozenset(name for name, sees in zip(seen, shown, strict=True) if not sees),
    )


def _events(names: Iterable[str], known: Iterable[Any]) -> dict[str, datetime | None]:
    """Of several times of one event, one at most is known."""
    found: dict[str, datetime | None] = {}
    for name, moment in zip(names, known, strict=True):
        found[name] = found.get(name) or as_instant(moment)
    return found


def _seen(guard: Guard, targets: Sequence[Target], now: Now) -> dict[str, ColumnElement[bool]]:
    """SQL for each purpose that needs consent to see the row: that it does."""
    table = targets[0].table
    names = sorted({term.purpose.name for target in targets if target.rule for term in target.rule.terms})
    found = {name: with_consent(guard, table, table, (name,), lambda: cautious_today(now()), now) for name in names}
    return {name: condition for name, condition in found.items() if condition is not None}


def as_instant(stored: Any) -> datetime | None:
    """Return an event column's value as an instant: naive times are UTC, a date counts from its end."""
    if stored is None:
        return None
    if isinstance(stored, datetime):
        return as_utc(stored if stored.tzinfo is not None else stored.replace(tzinfo=UTC))
    assert isinstance(stored, date)
    return datetime.combine(stored + timedelta(days=1), time(), UTC)

"""Why a field of a loaded row reads as it does: set, never set, expired, restricted, and by which rule."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Table, inspect, select
from sqlalchemy.orm import object_session

from privkit.errors import MappingError
from privkit.lifetime import Clause, Lifetime, Status, field_lifetime
from privkit.markers import Technique
from privkit.policy import FieldRule, Keep
from privkit.purposes import internally
from privkit.sqlalchemy import due, holds
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.events import event_time
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.types import original


@dataclass(frozen=True, slots=True)
class FieldState:
    """``word`` is set, never set, restricted or expired; ``rule`` decided it; ``until``: when it changes next, or None.

    An expired field may still lie on disk until the purge reaches it: ``stored`` says whether it does.
    """

    word: str
    rule: str
    until: datetime | None
    stored: bool


def field_state(guard: Guard, instance: Any, name: str) -> FieldState:
    """Explain a field of a persistent object, without its value. Raises MappingError where there is none to explain."""
    session, state = object_session(instance), inspect(instance)
    each = guard.protected(type(instance))
    if session is None or state.identity is None or each is None or name not in each.model.fields:
        raise MappingError(
            f"{type(instance).__name__}.{name} is no personal field of a row that a session holds.",
            "",
            "Ask for a marked field of an object that was loaded or flushed, while its session is open.",
        )
    column: Any = state.mapper.columns[name]
    table = original(column.table)
    rule = guard.rule(each.model.fields[name])
    target = Target(table, table.columns[column.key], rule)
    events = sorted({keep.after for keep in target.keeps.values() if keep is not None})
    times = [event_time(guard, table, table, event) for event in events]
    keys = [each == value for each, value in zip(_keys(table, state.mapper), state.identity, strict=True)]
    query = select(due.not_done(target), holds.held(guard, table, table, guard.now), *times).where(*keys)
    with internally():
        found = session.connection().execute(query).one()
    stored, held, *moments = found
    instants = {event: as_instant(moment) for event, moment in zip(events, moments, strict=True)}
    lifetime = lifetime_of(rule, instants, held=bool(held), now=guard.now())
    return FieldState(_word(lifetime, stored=bool(stored)), lifetime.rule, lifetime.until, bool(stored))


def lifetime_of(rule: FieldRule, events: dict[str, datetime | None], *, held: bool, now: datetime) -> Lifetime:
    """Ask the one function that decides lifetimes about a field's rules."""
    technique: Technique = rule.field.marker.then
    return field_lifetime(
        purposes=[_clause(term.purpose.name, term.purpose.keep) for term in rule.terms],
        duties=[_clause(duty.name, duty.keep) for duty in rule.duties],
        events=events,
        technique=technique,
        held=held,
        now=now,
    )


def as_instant(stored: Any) -> datetime | None:
    """Return an event column's value as an instant: naive times are UTC, a date counts from its end."""
    if stored is None:
        return None
    if isinstance(stored, datetime):
        return stored if stored.tzinfo is not None else stored.replace(tzinfo=UTC)
    assert isinstance(stored, date)
    return datetime.combine(stored + timedelta(days=1), time(), UTC)


def _keys(table: Table, mapper: Any) -> list[Any]:
    """The columns of ``table`` that hold a mapper's identity: its own primary key, or a joined subclass's."""
    return list(table.primary_key.columns) if table is not original(mapper.local_table) else list(mapper.primary_key)


def _clause(name: str, keep: Keep | None) -> Clause:
    return Clause(name, keep.period if keep else None, keep.after if keep else "")


def _word(lifetime: Lifetime, *, stored: bool) -> str:
    if lifetime.status is Status.KEEP:
        return "set" if stored else "never set"
    if lifetime.status is Status.RESTRICT:
        return "restricted"
    return "expired"

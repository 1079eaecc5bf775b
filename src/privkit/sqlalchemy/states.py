"""Why a field of a loaded row reads as it does: set, never set, expired, restricted or off, and by which rule."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, inspect
from sqlalchemy.orm import object_session
from sqlalchemy.orm.exc import ObjectDeletedError

from privkit.errors import MappingError
from privkit.lifetime import Clause, EventTimes, Lifetime, Status, field_lifetime
from privkit.markers import Technique
from privkit.policy import FieldRule, Keep
from privkit.sqlalchemy import row_facts, switches
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.types import original


@dataclass(frozen=True, slots=True)
class FieldState:
    """``word`` is set, never set, restricted or expired; ``rule`` decided it; ``until``: when it changes next, or None.

    ``off``: switched off, in a child's row, for the purpose in force; ``rule`` is then its category. An
    expired field may still lie on disk until the purge reaches it: ``stored`` says whether it does.
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
    key = [each == value for each, value in zip(_keys(table, state.mapper), state.identity, strict=True)]
    facts = row_facts.read(session.connection(), guard, [target], key, guard.now)
    if facts is None:
        raise ObjectDeletedError(state)
    there = facts.stored[column.name]
    held = bool(facts.holds)
    lifetime = lifetime_of(rule, facts.events, held=held, now=guard.now(), withheld=facts.withheld)
    if (
        there
        and lifetime.status is Status.KEEP
        and switches.is_off(session.connection(), guard, rule.field, table, key)
    ):
        return FieldState("off", f"child: off for {rule.field.marker.category}", None, there)
    return FieldState(_word(lifetime, stored=there), lifetime.rule, lifetime.until, there)


def lifetime_of(
    rule: FieldRule, events: EventTimes, *, held: bool, now: datetime, withheld: Collection[str] = ()
) -> Lifetime:
    """Ask the one function that decides lifetimes about a field's rules."""
    technique: Technique = rule.field.marker.then
    purposes, duties = clauses([rule])
    return field_lifetime(
        purposes=purposes, duties=duties, events=events, technique=technique, held=held, now=now, withheld=withheld
    )


def clauses(rules: Iterable[FieldRule]) -> tuple[list[Clause], list[Clause]]:
    """Return the purposes and the duties of these fields, each once."""
    rules = list(rules)
    purposes = {term.purpose.name: term.purpose.keep for rule in rules for term in rule.terms}
    duties = {duty.name: duty.keep for rule in rules for duty in rule.duties}
    return [_clause(*each) for each in purposes.items()], [_clause(*each) for each in duties.items()]


def _keys(table: Table, mapper: Any) -> list[Any]:
    """The columns of ``table`` that hold a mapper's identity: its own primary key, or a joined subclass's."""
    return list(table.primary_key.columns) if table is not original(mapper.local_table) else list(mapper.primary_key)


def _clause(name: str, keep: Keep | None) -> Clause:
    if keep is None:
        return Clause(name, None, "")
    lapses = tuple((lapse.event, lapse.period) for lapse in keep.lapses)
    return Clause(name, keep.period, keep.after, keep.until, lapses)


def _word(lifetime: Lifetime, *, stored: bool) -> str:
    if lifetime.status is Status.KEEP:
        return "set" if stored else "never set"
    if lifetime.status is Status.RESTRICT:
        return "restricted"
    return "expired"

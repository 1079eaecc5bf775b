"""Why one row is still there, what each of its fields may be used for, and what a run does with it and when.

Names of rules, instants and ids of holds only: no value of the row is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Table, inspect
from sqlalchemy.orm import Mapper

from privkit.clock import as_utc
from privkit.deidentify import label
from privkit.errors import InvalidValue, MappingError
from privkit.lifetime import MISSING, Clause, Lifetime, Status, ends, field_lifetime, last_end
from privkit.markers import Delete
from privkit.policy.lapses import is_childs
from privkit.sqlalchemy import row_facts
from privkit.sqlalchemy.destroy import key_columns
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.row_facts import RowFacts
from privkit.sqlalchemy.states import clauses, lifetime_of
from privkit.sqlalchemy.types import Guarded
from privkit.sqlalchemy.visibility import table_rules


@dataclass(frozen=True, slots=True)
class Reason:
    """One purpose or duty that was considered. ``happened`` and ``ends`` are None where nothing says when.

    ``own``: the row's own end, where it has one, which replaces the period. ``withheld``: it does not see the row, for
    want of consent; ``missing``: from when on that is missing, where the policy then ends it.
    """

    name: str
    period: str
    event: str
    happened: datetime | None
    own: datetime | None
    ends: datetime | None
    withheld: bool = False
    missing: datetime | None = None

    def __str__(self) -> str:
        withheld = "; consent is missing" if self.withheld else ""
        if not self.event:
            return f"{self.name}: for ever{withheld}"
        happened = f"{self.event} {_said(self.happened)}" if self.happened else f"{self.event} has not happened"
        happened += f"; without consent from {_said(self.missing)}" if self.missing else withheld
        ends = ("; its own end" if self.own else ", ends") + f" {_said(self.ends)}" if self.ends else ""
        return f"{self.name}: {self.period} after {self.event}; {happened}{ends}"


@dataclass(frozen=True, slots=True)
class Part:
    """A field, or the whole row (``name`` is the table's): its lifetime, and what it was decided from.

    ``since``: when the status began; None for what is kept. ``goes``: the first instant at which a run destroys it
    on these facts; None: no end is known. ``becomes``: what a run makes of it. ``stored``: whether it is still there.
    """

    name: str
    status: Status
    rule: str
    since: datetime | None
    until: datetime | None
    goes: datetime | None
    becomes: str
    stored: bool
    reasons: tuple[Reason, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The lifetime of one row at one instant: of each field, and of the row where ``@expire_row`` gives it one.

    ``holds``: the id of each hold on it, with the instant at which it ends by itself. ``waits``: the row's time has
    ended, and it stays until the rows that depend on it are gone.
    """

    table: str
    at: datetime
    fields: tuple[Part, ...]
    row: Part | None
    holds: tuple[tuple[int, datetime | None], ...]
    waits: bool

    def text(self) -> str:
        """Return it for a reader, without the key of the row."""
        lines = [f"a row of {self.table} at {_said(self.at)}"]
        for part in (*self.fields, *([self.row] if self.row else [])):
            lines += _lines(part)
        lines += [f"hold {hold}: until {_said(until) if until else 'it is released'}" for hold, until in self.holds]
        return "\n".join([*lines, "waits for rows that depend on it"] if self.waits else lines)


def explain(
    guard: Guard, connection: Connection, model: type | str | Table, key: Any, at: datetime | None = None
) -> Explanation:
    """Explain one row of a mapped class, a table or the table of that name; ``key``: its primary key, or a tuple.

    What is known now is judged at the instant ``at`` (aware; default: now). Raises MappingError for a table without
    personal fields, InvalidValue where there is no such row.
    """
    now = as_utc(at) if at is not None else guard.now()
    table = table_named(guard, model)
    targets = [
        Target(table, column, guard.rule(column.type.field))
        for column in table.columns
        if isinstance(column.type, Guarded)
    ]
    if not targets:
        raise _unknown(guard, table.fullname)
    facts = row_facts.read(connection, guard, targets, _found_by(table, key), lambda: now)
    if facts is None:
        raise InvalidValue(f"{table.fullname} has no row with this key.", "It may be gone already.", "Check the key.")
    row = _row(guard, table, facts, now)
    fields = tuple(_field(target, facts, now) for target in targets)
    return Explanation(table.fullname, now, fields, row, tuple(sorted(facts.holds.items())), facts.waits)


def _field(target: Target, facts: RowFacts, now: datetime) -> Part:
    assert target.rule is not None
    purposes, duties = clauses([target.rule])
    lifetime = lifetime_of(target.rule, facts.events, held=bool(facts.holds), now=now, withheld=facts.withheld)
    name = f"{target.table.fullname}.{target.field}"
    stored = facts.stored[str(target.field)]
    return _part(name, lifetime, purposes, duties, facts, now, label(target.technique), stored=stored)


def _row(guard: Guard, table: Table, facts: RowFacts, now: datetime) -> Part | None:
    technique = guard.tables[table].model.expire_row
    if technique is None:
        return None
    purposes, duties = clauses(table_rules(guard, table))
    lifetime = field_lifetime(
        purposes=purposes,
        duties=duties,
        events=facts.events,
        technique=Delete(),
        held=bool(facts.holds),
        now=now,
        withheld=facts.withheld,
    )
    return _part(table.fullname, lifetime, purposes, duties, facts, now, "deleted", stored=True)


def _part(
    name: str,
    lifetime: Lifetime,
    purposes: Sequence[Clause],
    duties: Sequence[Clause],
    facts: RowFacts,
    now: datetime,
    becomes: str,
    *,
    stored: bool,
) -> Part:
    events = facts.events
    unneeded, over = last_end(purposes, events), last_end([*purposes, *duties], events)
    rule, since = lifetime.rule, over
    if lifetime.status is Status.KEEP or (lifetime.status is Status.RESTRICT and lifetime.rule == MISSING):
        since = None
    elif lifetime.status is Status.RESTRICT and (over is None or over > now):  # by a duty; or else by a hold
        rule, since = f"duty {rule}", unneeded
    ends_of = [over, *facts.holds.values()]
    known = [moment for moment in ends_of if moment is not None]
    goes = max(known) if len(known) == len(ends_of) else None
    named = [*((each.name, each) for each in purposes), *((f"duty {each.name}", each) for each in duties)]
    reasons = tuple(_reason(*each, facts) for each in named)
    return Part(name, lifetime.status, rule, since, lifetime.until, goes, becomes, stored, reasons)


def _reason(name: str, clause: Clause, facts: RowFacts) -> Reason:
    period, events = str(clause.period) if clause.period is not None else "", facts.events
    happened, own = events.get(clause.event), events.get(clause.until)
    missing = next(filter(None, (events.get(event) for event, _ in clause.lapses if not is_childs(event))), None)
    of_child = next((str(each) for event, each in clause.lapses if is_childs(event) and events.get(event)), "")
    period = f"{period}, of a child {of_child}," if of_child else period
    return Reason(name, period, clause.event, happened, own, ends(clause, events), name in facts.withheld, missing)


def _lines(part: Part) -> list[str]:
    instants = [f"since {_said(part.since)}"] if part.since else []
    instants += [f"until {_said(part.until)}"] if part.until else []
    state = ", ".join([f"{part.name}: {part.status.value} ({part.rule})", *instants])
    if not part.stored:
        run = "nothing is stored"
    elif part.goes is None:
        run = "no run comes to it on what is known now"
    else:
        run = f"a run from {_said(part.goes)} on: {part.becomes}"
    return [state, *(f"    {reason}" for reason in part.reasons), f"    {run}"]


def _said(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment is not None else "never"


def table_named(guard: Guard, model: type | str | Table) -> Table:
    """Return the table of a mapped class, or of that name. Raises MappingError for one without personal fields."""
    guard.keep_up()
    if isinstance(model, Table):
        found = [model] if model in guard.tables else []
    elif isinstance(model, str):
        found = [table for table in guard.tables if model in (table.fullname, table.name)]
    else:
        mapper: Any = inspect(model, raiseerr=False)
        local = mapper.local_table if isinstance(mapper, Mapper) else None
        found = [local] if isinstance(local, Table) and local in guard.tables else []
    if len(found) != 1:
        raise _unknown(guard, model if isinstance(model, str) else getattr(model, "__name__", str(model)))
    return found[0]


def _found_by(table: Table, key: Any) -> list[ColumnElement[bool]]:
    columns = key_columns(table)
    values = list(key) if isinstance(key, tuple | list) else [key]
    if len(values) != len(columns) or any(isinstance(column.type, Guarded) for column in columns):
        raise InvalidValue(
            f"A row of {table.fullname} is named by {', '.join(column.name for column in columns)}.",
            "It is not explained by part of its key, nor by personal data.",
            "Give one value for each of them, in this order.",
        )
    return [column == value for column, value in zip(columns, values, strict=True)]


def read_key(guard: Guard, name: str, written: str) -> tuple[Any, ...]:
    """Read the key of a row of the table ``name`` as a command line gives it: values parted by commas, if several.

    Raises MappingError for an unknown table, InvalidValue for what does not fit its columns.
    """
    columns = key_columns(table_named(guard, name))
    parts = written.split(",") if len(columns) > 1 else [written]
    if len(parts) != len(columns):
        parts = [""] * len(columns)
    try:
        return tuple(_READ[column.type.python_type](part) for column, part in zip(columns, parts, strict=True))
    except (KeyError, ValueError, ArithmeticError, NotImplementedError):
        kinds = ", ".join(f"{column.name} ({column.type})" for column in columns)
        raise InvalidValue(
            "The key does not fit the table. It is not shown: it may be a name.",
            "",
            f"Give, parted by commas: {kinds}.",
        ) from None


_READ: dict[Any, Callable[[str], Any]] = {
    int: int,
    str: str,
    UUID: UUID,
    bytes: bytes.fromhex,
    Decimal: Decimal,
    date: date.fromisoformat,
    datetime: datetime.fromisoformat,
}


def _unknown(guard: Guard, name: str) -> MappingError:
    known = sorted(table.fullname for table in guard.tables if table_rules(guard, table))
    return MappingError(
        f"{name} is no table with personal fields.", "It has no lifetime to explain.", f"One of: {', '.join(known)}."
    )

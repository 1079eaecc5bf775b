"""Makes a plan: counts what is due in one database, and finds out what it would refuse."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from secrets import token_hex
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, and_, case, func, or_, select, true, tuple_
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from privkit import purposes
from privkit.clock import as_utc
from privkit.deidentify import label
from privkit.errors import PrivkitError
from privkit.retention import commitment, runs, schema, trial
from privkit.retention.orphans import orphaned
from privkit.retention.partitions import planned
from privkit.retention.plan import Cascade, Plan, Step
from privkit.retention.schema import Live
from privkit.sqlalchemy import destroy, due, epochs, holds, ledger, references, rollups
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.spared import spared
from privkit.sqlalchemy.tables import LEDGER
from privkit.sqlalchemy.types import Guarded
from privkit.sqlalchemy.visibility import all_passed

A_SECOND = 2000
"""How many values and rows a run is expected to destroy in a second, where the ledger knows of none."""

_BIND = re.compile(r"(?<!:):(\w+)|\(__\[POSTCOMPILE_(\w+?)(?:~~.*?)?\]\)")


def make(guard: Guard, connection: Connection, at: datetime | None = None) -> Plan:
    """Count what is due at ``at`` (aware; default: now), and try each step on a few rows, which is rolled back.

    Nothing is changed. One step that cannot be carried out is refused with its reason; the others stand.
    """
    as_of = as_utc(at) if at is not None else guard.now()
    with purposes.internally():
        live, salt = schema.read(guard, connection), token_hex(16)
        planner = _Planner(guard, connection, as_of, live, commitment.key(guard, salt), _rate(guard, connection, live))
        found = [(step, target) for target in due.targets(guard) if (step := planner.step(target)) is not None]
        changes = _changes(guard, connection, live, found)
        steps = tuple(_noted(planner.tried(step), changes.get(step.name)) for step, _ in found)
    tables = {schema.place(target.table): target.table.fullname for target in due.targets(guard)}
    facts = {name: live.facts(where) for where, name in tables.items()}
    return Plan(as_of, guard.policy.digest, steps, guard.now(), live.identity, facts, salt)


def _changes(
    guard: Guard, connection: Connection, live: Live, found: list[tuple[Step, Target]]
) -> dict[str, runs.Change]:
    if schema.place(guard.own_table(LEDGER)) not in live.columns:
        return {}
    return runs.changes(guard, connection, ((step.name, target) for step, target in found))


def _noted(step: Step, change: runs.Change | None) -> Step:
    return step if change is None else replace(step, warnings=(str(change), *step.warnings))


@dataclass(slots=True)
class _Planner:
    guard: Guard
    connection: Connection
    as_of: datetime
    live: Live
    under: bytes | None
    rate: float
    totals: dict[Any, int] = field(default_factory=dict)
    samples: dict[tuple[str, str | None], tuple[Target, Sequence[Any]]] = field(default_factory=dict)
    busy: bool = False

    @property
    def now(self) -> due.At:
        """A clock that stands at the plan's instant."""
        return due.At(self.as_of)

    def step(self, target: Target) -> Step | None:
        """Count one target; None: it is kept for ever."""
        step = Step(target.table.fullname, target.field, technique(target), "", 0)
        fault = schema.fault(self.guard, self.live, target)
        try:
            with nested(self.connection):
                predicate = due.due(self.guard, target, self.now)
                if predicate is None:
                    return None
                if target.column is None and target.divided is None:
                    rollups.of(self.guard, target.table)  # what cannot be counted is refused
                step = replace(step, rule=rule(self.guard, target), predicate=sql(self.connection, target, predicate))
                step = self._counted(step, target, predicate)
        except (SQLAlchemyError, PrivkitError) as error:
            said = error.what if isinstance(error, PrivkitError) else type(error).__name__
            return replace(step, refused=fault or f"what is due cannot be counted: {said}")
        warnings = (*step.warnings, *dict.fromkeys(schema.advice(self.guard, self.live, target)))
        return replace(step, refused=fault, warnings=warnings)

    def _counted(self, step: Step, target: Target, predicate: ColumnElement[bool]) -> Step:
        found = count(self.connection, target, predicate)
        keys = self._keys(target, predicate) if found else []
        self.samples[step.table, step.field] = (target, keys)
        fingerprints = None
        if self.under is not None and len(keys) == found <= commitment.LIMIT and _committed(target):
            fingerprints = commitment.write(commitment.fingerprints(keys, self.under))
        blocked = due.blocked(self.guard, target.table, self.now) if target.field is None else None
        under_hold = held(self.guard, target, self.now)
        return replace(
            step,
            warnings=tuple(orphaned(self.guard, self.connection, target)),
            due=found,
            blocked=count(self.connection, target, blocked) if blocked is not None else 0,
            held=count(self.connection, target, under_hold) if under_hold is not None else 0,
            total=self._total(target),
            cascades=tuple(self._cascades(target.table, predicate)) if target.field is None and found else (),
            seconds=round(found / self.rate, 3),
            commitment=fingerprints,
            partitions=tuple(planned(self.guard, self.connection, target, self.now)) if found else (),
        )

    def _total(self, target: Target) -> int:
        key = (target.table, target.field if target.divided is not None else None)
        if key not in self.totals:
            theirs = target.table.c.field == target.field if target.divided is not None else true()
            query = select(func.count()).select_from(target.table).where(theirs)
            self.totals[key] = int(self.connection.execute(query).scalar_one())
        return self.totals[key]

    def _keys(self, target: Target, predicate: ColumnElement[bool]) -> list[Any]:
        """The keys of what is due, up to the limit of a commitment; none where a table has no key to read."""
        return keys_of(self.connection, target, predicate) if readable(target) else []

    def _cascades(self, table: Table, chosen: ColumnElement[bool], *above: Table) -> Iterator[Cascade]:
        """Count what a run clears for the rows it deletes, as it does: by declared cascades alone."""
        for foreign in references.dependants(table):
            other = foreign.table
            ours = [element.column for element in foreign.elements]
            theirs: list[Column[Any]] = [element.parent for element in foreign.elements]
            if foreign in references.blocking(self.guard, table) or other in above:
                continue
            inner = select(*ours).select_from(table).where(chosen).correlate(None)
            referring = theirs[0].in_(inner) if len(theirs) == 1 else tuple_(*theirs).in_(inner)
            query = select(func.count()).select_from(other).where(referring)
            if found := int(self.connection.execute(query).scalar_one()):
                yield Cascade(other.fullname, found, "deleted" if foreign.ondelete == "CASCADE" else "set to NULL")
                if foreign.ondelete == "CASCADE":
                    yield from self._cascades(other, referring, table, *above)

    def tried(self, step: Step) -> Step:
        """Try a step on a few of its rows. After the counts: SQLite keeps the lock to the end of the transaction."""
        target, keys = self.samples.get((step.table, step.field), (None, ()))
        if target is None or not keys or step.refused or target.divided is not None or self.busy:
            return step
        try:
            verdict = trial.run(self.guard, self.connection, target, keys)
        except OperationalError:
            self.busy = True
            return replace(step, warnings=(*step.warnings, "not tried, nor what follows: the database was busy"))
        more = (verdict.warning,) if verdict.warning else ()
        return replace(step, refused=verdict.refused, warnings=(*step.warnings, *more))


def _committed(target: Target) -> bool:
    """Epoch keys that wait for residues fall due while the run goes on, so there is no telling which before."""
    return target.divided is None


def readable(target: Target) -> bool:
    """Whether the rows of a target are told apart by columns that can be read without a key."""
    try:
        columns = destroy.key_columns(target.table)
    except PrivkitError:
        return False
    return not any(isinstance(column.type, Guarded) and column.type.sealed for column in columns)


def keys_of(connection: Connection, target: Target, predicate: ColumnElement[bool]) -> list[Any]:
    """Return the keys of a target's rows that a predicate finds, in their order, up to the limit of a commitment."""
    columns = destroy.key_columns(target.table)
    query = select(*columns).where(predicate).order_by(*columns).limit(commitment.LIMIT)
    return [tuple(row) for row in connection.execute(query)]


def nested(connection: Connection) -> AbstractContextManager[Any]:
    """A savepoint, so that one statement that fails leaves the transaction usable."""
    return nullcontext() if ledger.is_autocommit(connection) else connection.begin_nested()


def count(connection: Connection, target: Target, predicate: ColumnElement[bool]) -> int:
    """Count the rows of a target that a predicate finds."""
    query: Any = select(func.count()).select_from(target.table).where(predicate)
    return int(connection.execute(query).scalar_one())


Asked = tuple[Target, ColumnElement[bool]]
Name = tuple[str, str | None]
"""The table and the field of a step; no field: the row."""


def by_table(asked: Iterable[Asked]) -> list[list[Asked]]:
    """Put together what can be counted in one scan: the targets of each table."""
    found: dict[Table, list[Asked]] = {}
    for each in asked:
        found.setdefault(each[0].table, []).append(each)
    return list(found.values())


def count_each(connection: Connection, asked: Sequence[Asked]) -> dict[Name, int]:
    """Count the rows of each target of one table that its predicate finds, in one scan."""
    names = [(target.table.fullname, target.field) for target, _ in asked]
    predicates = [predicate for _, predicate in asked]
    query: Any = select(*(func.count(case((each, 1))) for each in predicates))
    query = query.select_from(asked[0][0].table).where(or_(*predicates))
    return dict(zip(names, connection.execute(query).one(), strict=True))


def technique(target: Target) -> str:
    """Return what becomes of a target, in words."""
    if target.divided is not None:
        return "destroy the epoch's key"
    beside = ", ".join(column.name for column in target.beside)
    return f"{label(target.technique)}, with {beside}" if beside else label(target.technique)


def held(guard: Guard, target: Target, now: Callable[[], datetime]) -> ColumnElement[bool] | None:
    """Return SQL for what has ended, is still there, and is under a hold."""
    if target.divided is not None:
        table = target.divided.table
        assert isinstance(table, Table)
        assert target.rule is not None
        living = due.not_done(Target(table, target.divided, target.rule))
        waiting = and_(living, holds.held(guard, table, table, now))
        return and_(*epochs.over(guard, target.rule, now), epochs.any_row(guard, target.rule, table, waiting))
    keeps = target.keeps if target.column is not None else due.row_keeps(guard, target.table)
    ended = all_passed(guard, target.table, target.table, list(keeps.values()), now)
    if ended is None:
        return None
    if target.column is None:
        return and_(ended, spared(guard, target.table, target.table, now))
    return and_(ended, holds.held(guard, target.table, target.table, now), due.not_done(target))


def rule(guard: Guard, target: Target) -> str:
    """Return the keeps that decide a target: for each event the longest one."""
    return ", ".join(f"{name}: {keep}" for name, keep in runs.deciding(guard, target))


def sql(connection: Connection, target: Target, predicate: ColumnElement[bool]) -> str:
    """Return a predicate as SQL to read: with its instants and the names of the models, which are all it holds."""
    dialect: Any = type(connection.dialect)
    query = select(func.count()).select_from(target.table).where(predicate)  # a part alone would be read otherwise
    compiled = query.compile(dialect=dialect(paramstyle="named"))
    values = compiled.params

    def filled(match: re.Match[str]) -> str:
        value = values.get(match[1] or match[2])
        return f"({', '.join(map(_shown, value))})" if isinstance(value, list | tuple) else _shown(value)

    return re.sub(r"\s+", " ", _BIND.sub(filled, str(compiled))).partition(" WHERE ")[2]


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return f"'{value}'" if isinstance(value, str | date) else str(value)


def _rate(guard: Guard, connection: Connection, live: Live) -> float:
    """How many values and rows the last run of which the ledger knows destroyed in a second."""
    table = guard.own_table(LEDGER)
    if schema.place(table) not in live.columns:
        return A_SECOND
    query = select(table.c.at, table.c.kind, table.c.body).where(table.c.kind.in_(["run_started", "run_ended"]))
    ended: dict[str, tuple[datetime, int]] = {}
    for at, kind, body in connection.execute(query.order_by(table.c.seq.desc()).limit(20)):
        line, moment = json.loads(body), datetime.fromisoformat(at)
        if kind == "run_ended" and line["done"]:
            ended[line["run"]] = (moment, line["done"])
        elif kind == "run_started" and line["run"] in ended:
            last, done = ended[line["run"]]
            seconds = (last - moment).total_seconds()
            return done / seconds if seconds > 0 else A_SECOND
    return A_SECOND

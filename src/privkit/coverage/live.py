"""What a database really holds, next to what the models say. It counts; no stored value is ever fetched."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Date,
    Engine,
    LargeBinary,
    Table,
    and_,
    case,
    func,
    inspect,
    literal,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.sql.sqltypes import _Binary

from privkit import purposes
from privkit.coverage import inventory
from privkit.coverage.live_ages import Untold, untold
from privkit.coverage.live_places import placeholders
from privkit.coverage.live_search import Histogram, histogram
from privkit.coverage.owners import steps
from privkit.crypto import DESTROYED, OVERHEAD
from privkit.crypto.envelope import VERSION
from privkit.sqlalchemy import observations, ownership
from privkit.sqlalchemy.events import stored
from privkit.sqlalchemy.guard import Guard, Protected
from privkit.sqlalchemy.index import SearchIndex
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.observations import Observation
from privkit.sqlalchemy.physical import Physical, state
from privkit.sqlalchemy.tables import EPOCH, LEDGER, OBSERVATION
from privkit.sqlalchemy.types import Guarded, plain_type

TOLERANCE = timedelta(minutes=5)
"""How far ahead of the clock an event may be before it counts as one in the future."""

Place = tuple[str | None, str]
_ONE: ColumnElement[int] = literal_column("1")
_THREE: ColumnElement[int] = literal_column("3")
_SIXTEEN: ColumnElement[int] = literal_column("16")


@dataclass(frozen=True, slots=True)
class Stored:
    """Counts of what a sealed column holds. ``own`` is None where the way to the owner is not in the database."""

    rows: int
    empty: int
    envelopes: int
    destroyed: int
    own: int | None

    @property
    def values(self) -> int:
        """How many rows hold something that was not destroyed."""
        return self.rows - self.empty - self.destroyed

    @property
    def other(self) -> int:
        """How many values are no envelopes."""
        return self.values - self.envelopes

    @property
    def foreign(self) -> int:
        """How many envelopes are under another key than the row's data subject's."""
        return 0 if self.own is None else self.envelopes - self.own


@dataclass(slots=True)
class Scan:
    """One look at a database. Names are looked up as (schema, name)."""

    guard: Guard
    dialect: str
    columns: Mapping[Place, Mapping[str, Any]]
    views: Mapping[Place, str | None]
    checks: dict[Table, list[tuple[str, str]]] = field(default_factory=dict)
    references: dict[Place, list[str]] = field(default_factory=dict)
    stored: dict[Column[Any], Stored] = field(default_factory=dict)
    future: dict[Column[Any], int] = field(default_factory=dict)
    searched: dict[Column[Any], Histogram] = field(default_factory=dict)
    placeholders: dict[Column[Any], int] = field(default_factory=dict)
    unchecked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """When SQL text ran unchecked, and the bodies of the ledger's lines about it."""

    observed: list[Observation] = field(default_factory=list)
    """What all processes have counted of allowed and other uses."""

    untold: dict[Table, Untold] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    """How many living epoch keys there are by field id."""

    physically: Physical | None = None
    """What is left on disks of what was destroyed last."""

    def has(self, column: Column[Any]) -> bool:
        """Whether the database has this column of the models."""
        return column.name in self.columns.get(place(column.table), {})


def place(table: Any) -> Place:
    """Return where a table of the models should stand."""
    return table.schema, table.name


def scan(guard: Guard, bind: Engine | Connection) -> Scan:
    """Look at a database: its tables and columns, and counts of what sealed and event columns hold.

    It reads every row of a sealed column's table once, in one statement per table, and twice more for a search.
    """
    with purposes.internally(), _connected(bind) as connection:
        found = _reflected(guard, connection)
        for each in inventory.covered(guard):
            _count_sealed(guard, connection, each.table, found)
            _count_hashes(connection, each.table, found)
            _count_placeholders(guard, connection, each.table, found)
            if each.model.child is not None and all(found.has(column) for column in _age_columns(each)):
                found.untold[each.table] = untold(guard, connection, each)
        for _, _, column in inventory.event_columns(guard):
            _count_future(guard, connection, column, found)
        _read_unchecked(connection, found)
        _count_epochs(guard, connection, found)
        if place(guard.own_table(LEDGER)) in found.columns:
            found.physically = state(guard, connection)
        if any(name == OBSERVATION for _, name in found.columns):
            found.observed = observations.read(connection, guard)
        return found


def _age_columns(each: Protected) -> list[Column[Any]]:
    return [each.table.columns[key] for key in (ADULT_COLUMN, *each.age_keys)]


def _count_epochs(guard: Guard, connection: Connection, found: Scan) -> None:
    table = guard.own_table(EPOCH)
    if place(table) in found.columns:
        living = select(table.c.field, func.count()).where(table.c.wrapped.is_not(None)).group_by(table.c.field)
        for field_id, count in connection.execute(living):
            found.epochs[field_id] = count


def _read_unchecked(connection: Connection, found: Scan) -> None:
    tables = (metadata.tables.get(LEDGER) for metadata in inventory.metadatas(found.guard))
    ledger = next((table for table in tables if table is not None and place(table) in found.columns), None)
    if ledger is not None:
        query = select(ledger.c.at, ledger.c.body).where(ledger.c.kind == "unchecked").order_by(ledger.c.seq)
        found.unchecked = [(at, json.loads(body)) for at, body in connection.execute(query)]


@contextmanager
def _connected(bind: Engine | Connection) -> Iterator[Connection]:
    if isinstance(bind, Connection):
        yield bind
        return
    with bind.connect() as connection:
        yield connection


def _reflected(guard: Guard, connection: Connection) -> Scan:
    inspector = inspect(connection)
    columns: dict[Place, Mapping[str, Any]] = {}
    views: dict[Place, str | None] = {}
    tables = [table for metadata in inventory.metadatas(guard) for table in metadata.tables.values()]
    for schema in sorted({table.schema for table in tables} | {None}, key=str):
        for where, found in inspector.get_multi_columns(schema=schema, kind=ObjectKind.ANY).items():
            columns[where] = {column["name"]: column["type"] for column in found}
        names = inspector.get_view_names(schema)
        if connection.dialect.name == "postgresql":
            names += inspector.get_materialized_view_names(schema)
        views |= {(schema, name): inspector.get_view_definition(name, schema) for name in names}
    scan = Scan(guard, connection.dialect.name, columns, views)
    known = {place(table) for table in tables}
    for each in inventory.covered(guard):
        if place(each.table) in columns and place(each.table) not in views:
            checks = inspector.get_check_constraints(each.table.name, each.table.schema)
            scan.checks[each.table] = [(str(check["name"] or ""), check["sqltext"]) for check in checks]
    for schema, name in columns.keys() - known - views.keys():
        foreign = inspector.get_foreign_keys(name, schema)
        scan.references[schema, name] = sorted({each["referred_table"] for each in foreign})
    return scan


def _count_sealed(guard: Guard, connection: Connection, table: Table, found: Scan) -> None:
    sealed = [column for column in table.columns if isinstance(column.type, Guarded) and column.type.sealed]
    sealed = [column for column in sealed if found.has(column)]
    if not sealed:
        return
    owner = ownership.owner_key(guard, table, table) if _way_is_there(guard, table, found) else None
    wanted = [func.count()]
    for column in sealed:
        wanted += _counts(column, owner if _binary(column, found) else None, binary=_binary(column, found))
    rows, *counts = connection.execute(select(*wanted).select_from(table)).one()
    for number, column in enumerate(sealed):
        empty, envelopes, destroyed, own = counts[4 * number : 4 * number + 4]
        known = owner is not None and _binary(column, found)
        found.stored[column] = Stored(rows, empty, envelopes, destroyed, own if known else None)


def _counts(column: Column[Any], owner: Any, *, binary: bool) -> list[Any]:
    """Return SQL that counts NULLs, envelopes, destroyed values, and envelopes under the owner's key."""
    value = type_coerce(column, LargeBinary())
    empty = func.count(case((value.is_(None), 1)))
    if not binary:
        return [empty, literal_column("0"), literal_column("0"), literal_column("0")]
    envelope = and_(_slice(value, _ONE, _ONE) == _bytes(VERSION), func.length(value) >= OVERHEAD)
    own = and_(envelope, _slice(value, _THREE, _SIXTEEN) == owner) if owner is not None else None
    return [
        empty,
        func.count(case((envelope, 1))),
        func.count(case((value == _bytes(DESTROYED), 1))),
        literal_column("0") if own is None else func.count(case((own, 1))),
    ]


def _count_hashes(connection: Connection, table: Table, found: Scan) -> None:
    for column in table.columns:
        kind, index = column.type, table.columns.get(f"{column.name}_ix")
        if not isinstance(kind, Guarded) or index is None or not isinstance(index.type, SearchIndex):
            continue
        if all(found.has(each) and _binary(each, found) for each in (column, index)):
            found.searched[column] = histogram(connection, column, index, sealed=kind.sealed)


def _count_placeholders(guard: Guard, connection: Connection, table: Table, found: Scan) -> None:
    for column in table.columns:
        if isinstance(column.type, Guarded) and found.has(column) and _binary(column, found):
            index = table.columns[f"{column.name}_ix"] if column in found.searched else None
            count = placeholders(guard, connection, column, index)
            if count is not None:
                found.placeholders[column] = count


def _slice(value: Any, start: Any, length: Any) -> Any:
    return func.substr(value, start, length, type_=LargeBinary())


def _bytes(value: bytes) -> Any:
    return literal(value, LargeBinary())


def _binary(column: Column[Any], found: Scan) -> bool:
    """Whether the database can compare the column with bytes: SQLite always can."""
    return found.dialect == "sqlite" or isinstance(found.columns[place(column.table)][column.name], _Binary)


def _way_is_there(guard: Guard, table: Table, found: Scan) -> bool:
    way = steps(guard, table)
    for each in way:
        hop = ownership.hop(guard, each)
        pairs = hop.pairs if hop is not None else ()
        needed = [each.columns[ours] for ours, _ in pairs]
        needed += [hop.target.columns[theirs] for _, theirs in pairs] if hop is not None else [each.columns[KEY_COLUMN]]
        if not all(found.has(column) for column in needed):
            return False
    return bool(way)


def _count_future(guard: Guard, connection: Connection, column: Column[Any], found: Scan) -> None:
    kind = plain_type(column)
    if not found.has(column) or (isinstance(column.type, Guarded) and column.type.sealed):
        return
    limit: Any = _latest_plausible(guard.now(), kind)
    query = select(func.count()).select_from(column.table).where(type_coerce(column, kind) > literal(limit, kind))
    found.future[column] = connection.execute(query).scalar_one()


def _latest_plausible(now: datetime, kind: Any) -> Any:
    """A date may be tomorrow's: somewhere it is tomorrow already."""
    if isinstance(kind, Date):
        return now.date() + timedelta(days=1)
    return stored(now + TOLERANCE, kind)


def seal_check(checks: list[tuple[str, str]], column: Column[Any]) -> bool:
    """Whether one of a table's CHECKs is the one that lets only envelopes into ``column``.

    A naming convention, or a database that cuts long names, changes its name, so its text may tell too.
    """
    name = f"privkit_{column.table.name}_{column.name}_sealed"[:63]
    word = re.compile(rf"(?<!\w){re.escape(column.name)}(?!\w)")
    return any(name in found or (word.search(text) and f">= {OVERHEAD}" in text) for found, text in checks)

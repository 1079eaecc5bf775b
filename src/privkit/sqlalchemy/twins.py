"""Duplicates that no constraint sees: while an index key changes, equal values have hashes under two keys.

A write looks for all of them first. It takes a lock before, until its transaction ends, so that of two builds that
write one value at once the second sees what the first wrote: advisory locks on PostgreSQL, the database's one write
lock on SQLite. A connection in AUTOCOMMIT mode holds none, and reseal then finds what slipped through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    Table,
    Update,
    and_,
    false,
    func,
    literal_column,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.exc import IntegrityError

from privkit import purposes
from privkit.crypto.search import PREFIX_SIZE
from privkit.errors import StatementRefused
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.index import SearchIndex, searches
from privkit.sqlalchemy.lookups import read
from privkit.sqlalchemy.types import Guarded
from privkit.sqlalchemy.unique import declared
from privkit.sqlalchemy.write_forms import matching

CHUNK = 100
"""How many rows one look-up asks for; SQLite allows expressions 1,000 levels deep."""

LOCKS = 64
"""How many locks a unique field has: one transaction takes no more, and rarely waits for a value not its own."""

Row = Mapping[str, Any]
Equal = Mapping[Column[Any], list[Any]]
"""For each column of a constraint the stored values that count as equal to a row's, the one it would store first."""


def refuse(
    guard: Guard, connection: Connection, table: Table, guarded: Mapping[str, Guarded], statement: Any, rows: list[Any]
) -> None:
    """Refuse to write a value that another row holds, where its field is unique and its index key changes.

    Raises sqlalchemy.exc.IntegrityError, as the database does otherwise; it holds no value.
    """
    if all(len(searches(kind.field)) < 2 for kind in guarded.values()):
        return
    fixed = _fixed(statement)
    for columns in (tuple(each.columns) for each in declared(table)):
        changing = [column for column in columns if isinstance(column.type, SearchIndex) and column.type.several]
        found = [(row, _equal(guard, columns, fixed | row)) for row in rows or [{}]] if changing else []
        wanted = [(row, equal) for row, equal in found if equal]
        if wanted:
            _lock(connection, table, changing[0], [equal for _, equal in wanted])
            _look(connection, table, statement, wanted)


def _equal(guard: Guard, columns: Sequence[Column[Any]], row: Row) -> Equal:
    """Return what would be a duplicate of a row; nothing where it sets none of the columns, or one of them to NULL."""
    names = [_source(column) for column in columns]
    given = [name for name in names if name in row]
    if not given or any(row[name] is None for name in given):
        return {}
    if any(
        isinstance(column.type, SearchIndex) and name not in row for column, name in zip(columns, names, strict=True)
    ):
        raise _incomplete(columns, names)
    pairs = zip(columns, names, strict=True)
    return {
        column: _forms(guard, column, row[name]) for column, name in pairs if row.get(name, _UNKNOWN) is not _UNKNOWN
    }


_UNKNOWN = object()
"""A value that the database computes: any may be equal to it."""


def _fixed(statement: Any) -> dict[str, Any]:
    """Return the values that stand in the statement itself, by column key."""
    values = dict(statement._values or {}) | dict(getattr(statement, "_ordered_values", None) or ())
    return {
        str(getattr(key, "key", key)): each.value
        if isinstance(each, BindParameter) and each.callable is None
        else _UNKNOWN
        for key, each in values.items()
    }


def _source(column: Column[Any]) -> str:
    """The key under which a row has the value whose hash, or which itself, a column holds."""
    if not isinstance(column.type, SearchIndex):
        return column.key
    name = column.name.removesuffix("_ix")
    return next(each.key for each in column.table.columns if each.name == name)


def _forms(guard: Guard, column: Column[Any], value: Any) -> list[Any]:
    kind = column.type
    if not isinstance(kind, SearchIndex):
        return [value]
    return [guard.index_hash(kind.field, value, search) for search in searches(kind.field)]


def _lock(connection: Connection, table: Table, column: Column[Any], wanted: list[Equal]) -> None:
    """Every build takes the same lock for a value: that of its hash under the lowest key number."""
    with purposes.internally():
        if connection.dialect.name == "postgresql":
            name = crc32(f"privkit {table.fullname}.{column.name}".encode()) - 2**31
            for number in sorted({min(equal[column])[PREFIX_SIZE] % LOCKS for equal in wanted}):
                connection.execute(select(func.pg_advisory_xact_lock(name, number)))
        elif connection.dialect.name == "sqlite":
            key = next(iter(table.primary_key))
            connection.execute(update(table).where(false()).values({key: key}))


def _look(connection: Connection, table: Table, statement: Any, wanted: list[tuple[Row, Equal]]) -> None:
    keys = list(table.primary_key)
    if not isinstance(statement, Update):
        for start in range(0, len(wanted), CHUNK):
            conditions = [_condition(equal) for _, equal in wanted[start : start + CHUNK]]
            if read(connection, select(literal_column("1")).select_from(table).where(or_(*conditions)).limit(1)):
                raise _duplicate(table)
        return
    for row, equal in wanted:
        others = {tuple(key) for key in read(connection, select(*keys).where(_condition(equal)))}
        if others and others - {tuple(key) for key in read(connection, *matching(statement, select(*keys), row))}:
            raise _duplicate(table)


def _condition(equal: Equal) -> ColumnElement[bool]:
    """Where the database's own constraint sees the duplicate, it is left to it: an upsert may want the conflict."""
    hashes = {column: type_coerce(column, LargeBinary()) for column in equal if isinstance(column.type, SearchIndex)}
    unseen = or_(*(stored != equal[column][0] for column, stored in hashes.items()))
    return and_(*(hashes.get(column, column).in_(values) for column, values in equal.items()), unseen)


def _duplicate(table: Table) -> IntegrityError:
    refusal = StatementRefused(
        f"A row of {table.name} holds the same value of a unique field already.",
        "Its hash is under another index key, so the database's constraint does not see it.",
        "Handle it as the IntegrityError of a duplicate.",
        table=table.name,
    )
    return IntegrityError(None, None, refusal)


def _incomplete(columns: Sequence[Column[Any]], names: list[str]) -> StatementRefused:
    table = columns[0].table.name
    return StatementRefused(
        f"An UPDATE of {table} sets a part of what is unique together ({', '.join(names)}) while an index key changes.",
        "Whether another row holds the same values cannot be told without all of the searched ones.",
        "Set all of them in the same UPDATE until the index key has changed.",
        table=table,
    )

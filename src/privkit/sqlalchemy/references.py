"""Which tables refer to which: what a run clears first, what it deletes together, and what keeps a row from going."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Index,
    Table,
    UniqueConstraint,
    and_,
    bindparam,
    cast,
    column,
    func,
    literal,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.schema import sort_tables
from sqlalchemy.types import TypeEngine

from privkit.errors import PlanError
from privkit.markers import Latest
from privkit.sqlalchemy.events import way
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import owner_columns


def key_columns(table: Table) -> list[Column[Any]]:
    """Return the columns that tell rows apart: the primary key, or a unique key without NULLs.

    Raises PlanError for a table that has neither.
    """
    if table.primary_key.columns:
        return list(table.primary_key.columns)
    unique = [each.columns for each in table.constraints if isinstance(each, UniqueConstraint)]
    unique += [each.columns for each in table.indexes if each.unique and _of_every_row(each)]
    whole = [list(each) for each in unique if each and not any(column.nullable for column in each)]
    if whole:
        return min(whole, key=lambda columns: [column.name for column in columns])
    raise PlanError(
        f"{table.name} has no primary key and no unique key without NULLs.",
        "A run could not say which rows it has done.",
        f"Add a primary key to {table.name}.",
        table=table.name,
    )


def _of_every_row(index: Index) -> bool:
    partial = any(index.dialect_options[name].get("where") is not None for name in ("postgresql", "sqlite"))
    return not partial and all(isinstance(each, Column) for each in index.expressions)


def keyset(columns: Sequence[ColumnElement[Any]], after: Sequence[Any] | None) -> list[ColumnElement[bool]]:
    """Return the condition that continues a scan in key order."""
    if after is None:
        return []
    if len(columns) == 1:
        return [columns[0] > after[0]]
    bound = tuple_(*(bindparam(None, value, type_=column.type) for column, value in zip(columns, after, strict=True)))
    return [tuple_(*columns) > bound]


def among(columns: Sequence[ColumnElement[Any]], keys: Sequence[Sequence[Any]]) -> ColumnElement[bool]:
    """Return the condition that a row is one of ``keys``."""
    if len(columns) == 1:
        return columns[0].in_([key[0] for key in keys])
    return tuple_(*columns).in_([tuple(key) for key in keys])


def dependants(table: Table) -> list[Any]:
    """Return the foreign keys that refer to ``table``."""
    return [
        foreign
        for other in table.metadata.tables.values()
        for foreign in other.foreign_key_constraints
        if foreign.referred_table is table
    ]


def refers(foreign: Any, theirs: FromClause, ours: FromClause) -> ColumnElement[bool]:
    """Return SQL that is true where a row of ``theirs`` refers to one of ``ours``, each the table or an alias of it."""
    return and_(*(theirs.c[each.parent.key] == ours.c[each.column.key] for each in foreign.elements))


def blocking(guard: Guard, table: Table) -> list[Any]:
    """Return the foreign keys whose rows keep a parent alive: all but those that privkit itself clears first."""
    return [foreign for foreign in dependants(table) if not _clearable(guard, foreign)]


def _clearable(guard: Guard, foreign: Any) -> bool:
    """A declared cascade is followed, but never into a table with a lifetime of its own.

    SET NULL is there too, unless a data subject or an event would be lost.
    """
    other = foreign.table
    own_lifetime = other in guard.tables and bool(guard.tables[other].model.fields)
    if foreign.ondelete == "SET NULL":
        return _nullable(foreign) and not (own_lifetime and _needed(guard, foreign))
    return (
        foreign.ondelete == "CASCADE"
        and other is not foreign.referred_table
        and not own_lifetime
        and all(_clearable(guard, below) for below in dependants(other))
    )


def _nullable(foreign: Any) -> bool:
    return all(column.nullable for column in foreign.columns)


def _needed(guard: Guard, foreign: Any) -> bool:
    """Whether a data subject, or an event from which a lifetime counts, is found through a foreign key."""
    return not set(foreign.columns).isdisjoint(_leading(guard))


def _leading(guard: Guard) -> Iterator[Any]:
    for each in guard.tables.values():
        yield from owner_columns(each.mapper, each.model)
        for source in each.model.events.values():
            path = source.path if isinstance(source, Latest) else source
            relationships, _ = way(each.mapper, path) or ((), None)
            for step in relationships:
                for pair in step.local_remote_pairs or ():
                    yield from pair


def circle(guard: Guard, table: Table) -> list[Table]:
    """Return the tables whose rows may refer to each other in a circle through ``table``; itself among them."""
    return [each for each in _referred(guard, table) if table in _referred(guard, each)]


def _referred(guard: Guard, table: Table) -> list[Table]:
    """The tables with lifetimes of their rows to which rows of ``table`` refer, directly or over others."""
    found: list[Table] = []
    waiting = [table]
    while waiting:
        for foreign in waiting.pop().foreign_key_constraints:
            other = foreign.referred_table
            lasting = _expires(guard, foreign.table) and _expires(guard, other)
            if lasting and other not in found and not _clearable(guard, foreign):
                found.append(other)
                waiting.append(other)
    return found


def _expires(guard: Guard, table: Table) -> bool:
    return table in guard.tables and guard.tables[table].model.expire_row is not None


def within(guard: Guard, table: Table) -> list[Any]:
    """Return the foreign keys to ``table`` by which rows of its circle refer to it."""
    tables = circle(guard, table)
    return [foreign for foreign in blocking(guard, table) if foreign.table in tables]


def loosened(guard: Guard, foreign: Any) -> bool:
    """Whether a run empties a foreign key of a circle before it deletes what that refers to: all these rows go.

    One that leads to an owner or an event is left, or the rows would be due no longer.
    """
    return _nullable(foreign) and not _needed(guard, foreign)


def unorderable(guard: Guard, table: Table) -> list[Table]:
    """Return the tables with which ``table`` is in a circle of which no reference may be empty: none can go first."""
    tables = circle(guard, table)
    ties = {
        each: {foreign.table for foreign in within(guard, each) if not loosened(guard, foreign)} - {each}
        for each in tables
    }
    return [
        each for each in tables if each is not table and table in _reach(ties, each) and each in _reach(ties, table)
    ]


def _reach(ties: dict[Table, set[Table]], start: Table) -> set[Table]:
    found: set[Table] = set()
    waiting = [start]
    while waiting:
        more = ties[waiting.pop()] - found
        found |= more
        waiting += more
    return found


def in_deletion_order(guard: Guard) -> list[Table]:
    """Return the protected tables, those that refer to others before them."""
    ordered: list[Table] = []
    for metadata in {id(table.metadata): table.metadata for table in guard.tables}.values():
        loose = {
            element
            for table in guard.tables
            for foreign in within(guard, table)
            if loosened(guard, foreign)
            for element in foreign.elements
        }
        by_name: list[Any] = [metadata.tables[name] for name in sorted(metadata.tables)]
        tables = sort_tables(by_name, skip_fn=loose.__contains__)
        ordered += [table for table in reversed(tables) if table in guard.tables]
    return ordered


def given(
    connection: Connection, types: Sequence[TypeEngine[Any]], rows: Sequence[Sequence[Any]]
) -> tuple[list[ColumnElement[Any]], list[dict[str, Any]] | None]:
    """Return the columns of rows that a statement is given, and its parameters.

    On PostgreSQL they are a table of arrays, which one statement joins; elsewhere it is executed for each row.
    """
    named = [(f"given_{number}", kind) for number, kind in enumerate(types)]
    if connection.dialect.name != "postgresql":
        parameters = [dict(zip(dict(named), row, strict=True)) for row in rows]
        return [bindparam(name, type_=kind) for name, kind in named], parameters
    lists = zip(named, zip(*rows, strict=True), strict=True)
    arrays = [cast(literal(list(values), ARRAY(kind)), ARRAY(kind)) for (_, kind), values in lists]
    table = func.unnest(*arrays).table_valued(*(column(*each) for each in named))
    return list(table.render_derived(name="privkit_given").c), None

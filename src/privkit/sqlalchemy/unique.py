"""Uniqueness of sealed fields: no two envelopes are equal, so it is declared of the search hashes beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Column, Index, Table, UniqueConstraint, event
from sqlalchemy.sql.elements import conv

from privkit.errors import MappingError
from privkit.markers import Equality
from privkit.sqlalchemy.types import Guarded

Unique = UniqueConstraint | Index


def settle(table: Table) -> None:
    """Move what ``table`` declares unique from its sealed columns to their search indexes. Safe to repeat.

    Raises MappingError for a sealed column that has no Equality search, or identifies a row.
    """
    for column in table.columns:
        if _sealed(column):
            _refuse_as_key(table, column)
    for each in [*declared(table)]:
        if any(_sealed(column) for column in each.columns):
            _move(table, each)


@event.listens_for(UniqueConstraint, "after_parent_attach")
@event.listens_for(Index, "after_parent_attach")
def after_parent_attach(constraint: Unique, table: Any) -> None:
    """A constraint may be declared after its class."""
    if isinstance(table, Table) and any(_sealed(column) for column in constraint.columns):
        settle(table)


def _sealed(column: Column[Any]) -> bool:
    return isinstance(column.type, Guarded) and column.type.sealed


def declared(table: Table) -> Iterator[Unique]:
    """Yield what a table declares unique, its primary key aside."""
    yield from (each for each in table.constraints if isinstance(each, UniqueConstraint))
    yield from (each for each in table.indexes if each.unique)


def _refuse_as_key(table: Table, column: Column[Any]) -> None:
    names = {f"{table.fullname}.{column.name}"}
    refers = [
        key for each in table.metadata.tables.values() for key in each.foreign_keys if key.target_fullname in names
    ]
    if column.primary_key or column.foreign_keys or refers:
        role = "a primary key" if column.primary_key else "a foreign key" if column.foreign_keys else "referred to"
        raise MappingError(
            f"{_field(column)} is sealed and {role}.",
            "Equal values have different envelopes, so no row would be found by it.",
            "Identify rows by an id of their own, and keep the value in a column beside it with search=Equality().",
            field=_field(column).id,
        )


def _field(column: Column[Any]) -> Any:
    assert isinstance(column.type, Guarded)
    return column.type.field


def _move(table: Table, each: Unique) -> None:
    columns = [_stand_in(table, column) if _sealed(column) else column for column in each.columns]
    if isinstance(each, Index):
        if len(each.expressions) != len(columns) or not all(isinstance(part, Column) for part in each.expressions):
            raise _unsupported(each, "over an expression")
        made: Unique = Index(_name(each), *columns, unique=True, **each.dialect_kwargs)
        table.indexes.discard(each)
    else:
        made = UniqueConstraint(
            *columns, name=_name(each), deferrable=each.deferrable, initially=each.initially, **each.dialect_kwargs
        )
        table.constraints.discard(each)
    if any(key.endswith("nulls_not_distinct") and value for key, value in each.dialect_kwargs.items()):
        raise _unsupported(each, "with NULLS NOT DISTINCT")
    for column in each.columns:
        if _sealed(column):
            column.unique = None  # or a copy of the table would declare it again
    if isinstance(made, UniqueConstraint):
        table.append_constraint(made)
    if len(columns) == 1:
        for index in [other for other in table.indexes if other is not made and _over(other, columns[0])]:
            table.indexes.discard(index)


def _over(index: Index, column: Column[Any]) -> bool:
    return len(index.columns) == 1 and index.columns.contains_column(column)


def _stand_in(table: Table, column: Column[Any]) -> Column[Any]:
    """Return the column beside a sealed one that holds equal bytes for equal values."""
    field = _field(column)
    index = table.columns.get(f"{column.name}_ix")
    if index is None or not isinstance(field.marker.search, Equality):
        raise MappingError(
            f"{field} is sealed and declared unique.",
            "Equal values have different envelopes, so the database would accept every duplicate.",
            "Add search=Equality() to its marker: the hash of the value is then unique. Or drop the unique constraint.",
            field=field.id,
        )
    return index


def _name(each: Unique) -> str | None:
    """Return the name that was given to a constraint; one that a naming convention made is made anew."""
    return str(each.name) if isinstance(each.name, str) and not isinstance(each.name, conv) else None


def _unsupported(each: Unique, how: str) -> MappingError:
    return MappingError(
        f"A unique constraint {how} names the sealed column {', '.join(column.name for column in each.columns)}.",
        "It would not hold: no two envelopes are equal, and a hash is equal for equal values only.",
        'Declare the column itself unique, and choose the normaliser: search=Equality("case").',
        columns=[column.name for column in each.columns],
    )

"""Rows of a base table whose subclass has lost its own row, as a database's cascade onto the subclass's table does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, exists, func, or_, select
from sqlalchemy.orm import Mapper

from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard


def orphaned(guard: Guard, connection: Connection, target: Target) -> Iterator[str]:
    """Yield, for each subclass of a target's rows, how many have lost their own row. They go with their lifetime."""
    if target.field is not None:  # a field's, or the keys of epochs, which no class maps
        return
    table, mapper = target.table, guard.tables[target.table].mapper
    kind = mapper.polymorphic_on
    if getattr(kind, "table", None) is not table:
        return
    for identity, subclass in sorted(mapper.polymorphic_map.items(), key=str):
        lost = [(each, ~exists().where(*_same(table, each))) for each in _own_tables(subclass, table)]
        if not lost:
            continue
        query = select(func.count()).select_from(table).where(kind == identity, or_(*(missing for _, missing in lost)))
        if found := connection.execute(query).scalar_one():
            names = ", ".join(each.fullname for each, _ in lost)
            yield f"{found:,} of kind {identity} {'has' if found == 1 else 'have'} no row in {names}"


def _own_tables(mapper: Mapper[Any], base: Table) -> Iterator[Table]:
    for each in mapper.tables:
        if each is not base and isinstance(each, Table):
            yield each


def _same(one: Table, other: Table) -> Iterator[ColumnElement[bool]]:
    """Under joined inheritance the primary keys are the same, column by column."""
    for ours, theirs in zip(one.primary_key.columns, other.primary_key.columns, strict=True):
        yield ours == theirs

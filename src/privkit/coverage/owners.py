"""Whose a row is, and how that is known: declared, or deduced from other declarations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Table

from privkit.errors import MappingError
from privkit.sqlalchemy import ownership
from privkit.sqlalchemy.guard import Guard, Protected
from privkit.sqlalchemy.mapping import KEY_COLUMN


@dataclass(frozen=True, slots=True)
class Path:
    """One declared way from a row towards its data subject. ``tables`` ends at the data subject's."""

    declared: str
    tables: tuple[str, ...]
    nullable: bool


@dataclass(frozen=True, slots=True)
class Owner:
    """``how``: ``"data subject"``, ``"explicit"`` (declared to the last hop), ``"deduced"`` or ``"nobody"``."""

    how: str
    paths: tuple[Path, ...] = ()

    @property
    def reachable(self) -> bool:
        """Whether a row leads to a data subject."""
        return self.how != "nobody"

    @property
    def nullable(self) -> bool:
        """Whether every path to the owner can be empty."""
        return bool(self.paths) and all(path.nullable for path in self.paths)

    def __str__(self) -> str:
        if not self.paths:
            return "its rows are data subjects" if self.reachable else "nobody"
        ways = "; ".join(
            " -> ".join(path.tables) + f" by {path.declared}" + (" (may be NULL)" if path.nullable else "")
            for path in self.paths
        )
        warning = ", every path may be NULL" if self.nullable else ""
        return f"{self.how}{warning}: {ways}"


def owner_of(guard: Guard, each: Protected) -> Owner:
    """Return who owns the rows of a class's table."""
    if KEY_COLUMN in each.table.columns:
        return Owner("data subject")
    paths = tuple(_paths(guard, each))
    if not paths:
        return Owner("nobody")
    explicit = each.model.owners and any(len(path.tables) == 2 for path in paths)
    return Owner("explicit" if explicit else "deduced", paths)


def _paths(guard: Guard, each: Protected) -> Iterator[Path]:
    inherited = each.mapper.inherits
    if inherited is not None and inherited.local_table is not each.table:
        tables = _chain(guard, each.table)
        if tables:
            yield Path("inheritance", tables, nullable=False)
        return
    for declared in each.model.owners:
        columns, target = _first_hop(each, declared)
        tables = _chain(guard, target) if target is not None else ()
        if tables:
            nullable = any(column.nullable for column in columns)
            yield Path(declared, (each.table.name, *tables), nullable or _may_be_empty(guard, target))


def _first_hop(each: Protected, declared: str) -> tuple[list[Column[Any]], Table | None]:
    """Return the local columns of a declared path and the table it leads to."""
    mapper = each.mapper
    if declared in mapper.columns:
        column = mapper.columns[declared]
        return [column], next((foreign.column.table for foreign in column.foreign_keys), None)
    if declared in mapper.relationships:
        relationship = mapper.relationships[declared]
        target = relationship.mapper.local_table
        if relationship.secondary is None and isinstance(target, Table):
            return [column for column in relationship.local_columns if isinstance(column, Column)], target
    return [], None


def _chain(guard: Guard, table: Table | None) -> tuple[str, ...]:
    """Return the tables from ``table`` to its data subject, or nothing where there is no way."""
    tables = [each.name for each in steps(guard, table)]
    return tuple(tables)


def steps(guard: Guard, table: Table | None) -> list[Table]:
    """Return ``table`` and those on its way to the data subject's; empty where the way is lost or a circle."""
    found: list[Table] = []
    while table is not None and table not in found:
        found.append(table)
        try:
            hop = ownership.hop(guard, table)
        except MappingError:
            return []
        if hop is None:
            return found
        table = hop.target
    return []


def _may_be_empty(guard: Guard, table: Table | None) -> bool:
    """Whether a later hop of the way can be NULL."""
    return any(
        each.columns[ours].nullable
        for each in steps(guard, table)
        if (hop := ownership.hop(guard, each)) is not None
        for ours, _ in hop.pairs
    )

"""Every table and column that the models know, each with the decision that was made about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import Column, MetaData, Table
from sqlalchemy.exc import NoReferencedColumnError, NoReferencedTableError
from sqlalchemy.orm import Mapper

from privkit.catalog import Field
from privkit.markers import Latest
from privkit.policy.resolve import FieldRule
from privkit.sqlalchemy import mapping
from privkit.sqlalchemy.events import way
from privkit.sqlalchemy.guard import Guard, Protected
from privkit.sqlalchemy.index import SearchIndex
from privkit.sqlalchemy.types import Guarded

OWN_TABLES = "privkit_"


class Decision(Enum):
    """What was said about a column."""

    PERSONAL = "personal"
    NOT_PERSONAL = "not personal"
    OWNER = "names the owner"
    PRIVKIT = "privkit's own"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Entry:
    """One column. ``attribute`` is its name on the class; ``rule`` is the policy's, where it is personal."""

    each: Protected
    column: Column[Any]
    attribute: str
    decision: Decision
    because: str = ""
    rule: FieldRule | None = None

    @property
    def where(self) -> str:
        """The column as ``table.column``."""
        return f"{self.each.table.fullname}.{self.column.name}"

    @property
    def field(self) -> Field | None:
        """The field, where the column is personal."""
        return self.rule.field if self.rule else None


def mappers(guard: Guard) -> list[Mapper[Any]]:
    """Return the mappers of all models that the guard was given, marked or not."""
    return list(guard.mappers())


def covered(guard: Guard) -> list[Protected]:
    """Return one class for each table that some class decides about, by table name."""
    return sorted(guard.tables.values(), key=lambda each: each.table.fullname)


def entries(guard: Guard, table: Table) -> list[Entry]:
    """Return the columns of a covered table in their order, each with its decision."""
    classes = [each for each in guard.classes.values() if each.table is table]
    open_columns = {
        each.mapper.columns[name] for each in classes for name in mapping.undecided(each.mapper, each.model)
    }
    return [_entry(guard, guard.tables[table], classes, column, open_columns) for column in table.columns]


def _entry(
    guard: Guard, each: Protected, classes: list[Protected], column: Column[Any], open_columns: set[Any]
) -> Entry:
    kind = column.type
    if isinstance(kind, Guarded):
        return Entry(each, column, kind.field.name, Decision.PERSONAL, rule=guard.rule(kind.field))
    if isinstance(kind, SearchIndex) or column.name in _own_columns(each.table):
        return Entry(each, column, column.key, Decision.PRIVKIT)
    for owner in classes:
        prop = owner.mapper.get_property_by_column(column) if column in _mapped(owner.mapper) else None
        if prop is not None and prop.key in owner.model.not_personal:
            return Entry(owner, column, prop.key, Decision.NOT_PERSONAL, owner.model.not_personal[prop.key])
        if prop is not None and column not in open_columns:
            return Entry(owner, column, prop.key, Decision.OWNER)
    return Entry(each, column, column.key, Decision.UNDECIDED)


def _own_columns(table: Table) -> set[str]:
    residues = {f"{column.name}_residue" for column in table.columns if isinstance(column.type, Guarded)}
    return residues | {mapping.KEY_COLUMN, mapping.ADULT_COLUMN}


def _mapped(mapper: Mapper[Any]) -> set[Any]:
    return {column for prop in mapper.column_attrs for column in prop.columns}


def all_entries(guard: Guard) -> Iterator[Entry]:
    """Yield the columns of all covered tables."""
    for each in covered(guard):
        yield from entries(guard, each.table)


def personal(guard: Guard) -> Iterator[tuple[Entry, FieldRule]]:
    """Yield the personal columns with their rules."""
    for entry in all_entries(guard):
        if entry.rule is not None:
            yield entry, entry.rule


def metadatas(guard: Guard) -> list[MetaData]:
    """Return the MetaData of all models."""
    found = {id(mapper.local_table): mapper.local_table for mapper in mappers(guard)}.values()
    return list({id(table.metadata): table.metadata for table in found if isinstance(table, Table)}.values())


def uncovered(guard: Guard) -> list[Table]:
    """Return the tables of the models' MetaData about which no class decides anything, by name."""
    tables = (table for metadata in metadatas(guard) for table in metadata.tables.values())
    rest = [table for table in tables if table not in guard.tables and not table.name.startswith(OWN_TABLES)]
    return sorted(rest, key=lambda table: table.fullname)


def referred(table: Table) -> Iterator[tuple[Column[Any], Table]]:
    """Yield the tables that ``table`` refers to by foreign key, as far as the models know them."""
    for foreign in sorted(table.foreign_keys, key=lambda each: each.parent.name):
        try:
            yield foreign.parent, foreign.column.table
        except (NoReferencedTableError, NoReferencedColumnError):
            continue


def way_to_subject(table: Table) -> tuple[str, ...]:
    """Return the shortest way by foreign keys from ``table`` to a data subject's, as table names; or nothing."""
    ways: list[tuple[Table, ...]] = [(table,)]
    seen = {table}
    while ways:
        way = ways.pop(0)
        for _, target in referred(way[-1]):
            if mapping.KEY_COLUMN in target.columns:
                return tuple(each.name for each in (*way, target))
            if target not in seen:
                seen.add(target)
                ways.append((*way, target))
    return ()


def event_columns(guard: Guard) -> Iterator[tuple[Protected, str, Column[Any]]]:
    """Yield every column that holds an event's time, once, with the first class and event that use it."""
    seen: set[Column[Any]] = set()
    for each in covered(guard):
        for event, source in sorted(each.model.events.items()):
            column = _event_column(each, source.path if isinstance(source, Latest) else source)
            if column is not None and column not in seen:
                seen.add(column)
                yield each, event, column


def _event_column(each: Protected, path: str) -> Column[Any] | None:
    found = way(each.mapper, path)
    return found[1] if found is not None else None

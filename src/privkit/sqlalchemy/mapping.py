"""Finds markers on classes as they are mapped, and prepares their tables.

A listener on every mapper puts a guard type on each personal column and adds what privkit needs beside it:
``privkit_key`` on a data subject's table, ``<field>_ix`` for a search, ``<field>_residue`` for a technique
that leaves one, and a CHECK that only envelopes are stored in sealed columns. Class decorators run after the
mapping, so they bring the class here again; everything is done at most once.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Column, Date, Index, LargeBinary, String, Table, Text, event, inspect
from sqlalchemy.orm import Mapper

from privkit import catalog, markers
from privkit.catalog import Field, Model
from privkit.deidentify import leaves_residue
from privkit.errors import MappingError
from privkit.sqlalchemy import (
    attributes,
    envelope_check,
    mutables,
    pairs,
    pickling,
    search,
    stored,
    stores,
    tables,
    unique,
)
from privkit.sqlalchemy.index import SearchIndex
from privkit.sqlalchemy.types import Guarded, guarded_columns, plain_type

KEY_COLUMN = "privkit_key"
ADULT_COLUMN = "privkit_adult_on"
_REFLECTED = "privkit_reflected"


declarations = 0
"""How often a mapped class declared something new; guards compare it to notice classes that came after them."""

known: WeakKeyDictionary[Mapper[Any], Model] = WeakKeyDictionary()


@event.listens_for(Mapper, "after_mapper_constructed")
def after_mapper_constructed(mapper: Mapper[Any], cls: type) -> None:
    """Prepare a class that was just mapped."""
    install(mapper)


@event.listens_for(Mapper, "mapper_configured")
def mapper_configured(mapper: Mapper[Any], cls: type) -> None:
    """Finish what needs all attributes of a class."""
    mutables.track(mapper)


def on_marked(cls: type) -> None:
    """Prepare a class that a decorator just marked, and what inherits from it."""
    mapper: Any = inspect(cls, raiseerr=False)
    if isinstance(mapper, Mapper):
        for each in mapper.self_and_descendants:
            install(each)


markers.observers.append(on_marked)


def install(mapper: Mapper[Any]) -> Model:
    """Prepare the tables of ``mapper`` for what its class declares. Safe to repeat."""
    global declarations
    model = catalog.read(mapper.class_)
    if model.marked and known.get(mapper) != model:
        known[mapper] = model
        declarations += 1
    if not model.marked or not isinstance(mapper.local_table, Table):
        return model
    tables.install(mapper.local_table.metadata)
    if model.data_subject and KEY_COLUMN not in mapper.columns:
        _add_mapped(mapper, KEY_COLUMN, Column(KEY_COLUMN, LargeBinary(16), unique=True), indexed=True)
    if model.child:
        _require_columns(mapper, model.child.fields)
    if model.child and ADULT_COLUMN not in mapper.local_table.columns and mapper.inherits is None:
        mapper.local_table.append_column(Column(ADULT_COLUMN, Date))
    for names in model.together:
        _require_emptiable(mapper, names, model)
    for field in model.fields.values():
        column = mapper.columns.get(field.name)
        if column is None:
            raise MappingError(
                f"{mapper.class_.__name__}.{field.name} is marked as personal data but is not a mapped column.",
                "Nothing would enforce the marker.",
                "Mark the column itself.",
                field=field.id,
            )
        _install_field(mapper, column, field)
    if model.fields:
        attributes.load_within_purpose(mapper, model.fields)
        attributes.guard_composites(mapper.class_)
        attributes.show_key_only(mapper.class_)
        pickling.leave_values_behind(mapper)
    unique.settle(mapper.local_table)
    return model


def _require_columns(mapper: Mapper[Any], names: Iterable[str]) -> None:
    for name in names:
        if name not in mapper.columns:
            raise MappingError(
                f"@child_protection of {mapper.class_.__name__} names {name!r}, which is no mapped column.",
                "Nobody's age would be known.",
                f"Name one of: {', '.join(mapper.columns.keys())}.",
                name=name,
            )


def _require_emptiable(mapper: Mapper[Any], names: Iterable[str], model: Model) -> None:
    """A group is one UPDATE of one table; what has no technique of its own becomes NULL."""
    for name in names:
        column = mapper.columns.get(name)
        if column is None or column.table is not mapper.local_table:
            why = "which is no mapped column of its table"
        elif name not in model.fields and not column.nullable:
            why = "which is NOT NULL and cannot be emptied"
        else:
            continue
        raise MappingError(
            f"@together of {mapper.class_.__name__} names {name!r}, {why}.",
            "The group could not end.",
            f"Name nullable columns of {mapper.local_table}.",
            name=name,
        )


def _install_field(mapper: Mapper[Any], column: Column[Any], field: Field) -> None:
    guarded = column.type
    if isinstance(guarded, Guarded):
        if guarded.field.marker != field.marker:
            raise MappingError(
                f"{column.table.name}.{column.name} is declared twice, differently.",
                "One physical column can hold to one decision only.",
                "Use the same marker on every class of the table.",
                field=field.id,
            )
        attributes.guard(mapper.class_, field.name, guarded.field)
        return
    field, plain = stored.fitted(field, column.type)
    table = column.table
    assert isinstance(table, Table)
    if any(each.field.id == field.id for each in guarded_columns(table).values()):
        raise MappingError(
            f"{table.name}.{column.name} has the id {field.id!r}, which another column of its table has already.",
            "Two columns would be sealed as one field, and one's values would open in the other.",
            f'Give its marker an id of its own: id="{table.name}.{column.name}".',
            field=field.id,
        )
    column.type = Guarded(field, plain)
    sealed = column if field.marker.adopting is None else pairs.install(table, column, field, plain)
    if field.marker.search is not None:
        search.check(field)
        _add_hidden(mapper, table, Column(f"{sealed.name}_ix", SearchIndex(field)), indexed=True)
    stores.check(field)
    if leaves_residue(field.marker.then):
        name = f"{column.name}_residue"
        short = isinstance(field.marker.then, markers.Generalise | markers.Pseudonymise)
        _add_mapped(mapper, f"{field.name}_residue", Column(name, String(80) if short else Text()))
    envelope_check.add(table, sealed)
    attributes.guard(mapper.class_, field.name, field)
    _forget_expression(mapper, field.name)


def _add_hidden(mapper: Mapper[Any], table: Table, column: Column[Any], *, indexed: bool = False) -> Column[Any]:
    """Add one of privkit's own columns to a table, or take the one that a migration made and reflection found."""
    found = table.columns.get(column.name)
    if found is None:
        unique, column.unique = bool(column.unique), None
        table.append_column(column)
        if indexed:
            # A naming convention that says nothing of indexes would leave this one without a name.
            conventional = "ix" in table.metadata.naming_convention
            Index(None if conventional else f"ix_{table.name}_{column.name}", column, unique=unique)
        return column
    if _REFLECTED not in found.info:
        raise MappingError(
            f"{table.name} already has a column {column.name!r}, which privkit needs for itself.",
            "",
            f"Rename the existing column {column.name!r}.",
            column=column.name,
        )
    if isinstance(column.type, SearchIndex) and found in mapper.c.values():
        raise MappingError(
            f"{mapper.class_.__name__} maps {column.name!r}, a search hash that nobody reads.",
            "Every object would load it.",
            f'Leave it out of the class: __mapper_args__ = {{"exclude_properties": [{column.name!r}]}}.',
            column=column.name,
        )
    found.type = column.type
    return found


def _add_mapped(mapper: Mapper[Any], key: str, column: Column[Any], *, indexed: bool = False) -> None:
    table = mapper.local_table
    assert isinstance(table, Table)
    column = _add_hidden(mapper, table, column, indexed=indexed)
    if key not in mapper.columns:
        mapper.add_property(key, column)


@event.listens_for(Table, "column_reflect")
def column_reflect(inspector: Any, table: Table, column_info: Any) -> None:
    """Note which columns come from the database, and so may be privkit's from an earlier run."""
    column_info["info"] = {**column_info.get("info", {}), _REFLECTED: True}


def _forget_expression(mapper: Mapper[Any], name: str) -> None:
    """Drop what an attribute remembered of its column before the column's type changed."""
    attribute = mapper.class_.__dict__.get(name)
    for holder in (attribute, getattr(attribute, "comparator", None)):
        for memo in ("expression", "expressions", "__clause_element__", "info"):
            with suppress(AttributeError):
                object.__delattr__(holder, memo)


def undecided(mapper: Mapper[Any], model: Model) -> list[str]:
    """Return the mapped columns of a class that carry no decision: not personal, not declared otherwise.

    Columns that privkit added and foreign keys that a declared owner explains need none.
    """
    explained = {column.name for column in owner_columns(mapper, model)}
    own = {KEY_COLUMN, ADULT_COLUMN} | {f"{name}_residue" for name in model.fields}
    return [
        key
        for key, column in mapper.columns.items()
        if key not in model.fields
        and key not in model.not_personal
        and key not in own
        and column.name not in explained
        and not isinstance(column.type, Guarded | SearchIndex)
    ]


def owner_columns(mapper: Mapper[Any], model: Model) -> list[Column[Any]]:
    """Return the local columns through which the declared owners are reached."""
    found: list[Column[Any]] = []
    for path in model.owners:
        head = path.partition(".")[0]
        if head in mapper.columns:
            found.append(mapper.columns[head])
        elif head in mapper.relationships:
            found.extend(local for local in mapper.relationships[head].local_columns if isinstance(local, Column))
    return found


__all__ = ["ADULT_COLUMN", "KEY_COLUMN", "install", "owner_columns", "plain_type", "undecided"]

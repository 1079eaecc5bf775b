"""What the database really has, read once for a plan: whether a step can be carried out there, and what would differ.

Facts about a table are one line each, without defaults, the text of a CHECK and an enum's labels: they may name values.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Dialect, Enum, Table, inspect, text
from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.engine.reflection import ObjectKind
from sqlalchemy.exc import CompileError, SAWarning

from privkit.deidentify import label, leaves_residue
from privkit.errors import PlanError
from privkit.sqlalchemy import destroy, due, references
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard

Place = tuple[str | None, str]
Found = dict[str, Any]


@dataclass(slots=True)
class Live:
    """The tables of one database, by (schema, name)."""

    dialect: str
    identity: str
    enforces_references: bool
    views: set[Place] = field(default_factory=set)
    columns: dict[Place, list[Found]] = field(default_factory=dict)
    unique: dict[Place, list[Found]] = field(default_factory=dict)
    indexes: dict[Place, list[Found]] = field(default_factory=dict)
    checks: dict[Place, list[Found]] = field(default_factory=dict)
    keys: dict[Place, list[str]] = field(default_factory=dict)
    references: dict[Place, list[Found]] = field(default_factory=dict)
    triggers: dict[Place, list[str]] = field(default_factory=dict)

    def column(self, where: Place, name: str) -> Found | None:
        """Return what is known of a column, or None."""
        return next((each for each in self.columns.get(where, ()) if each["name"] == name), None)

    def facts(self, where: Place) -> tuple[str, ...]:
        """Return what a table is made of, a line each, in an order of its own."""
        return tuple(sorted(set(self._facts(where))))

    def _facts(self, where: Place) -> Iterator[str]:
        if where in self.views:
            yield "a view"
        for each in self.columns.get(where, ()):
            null = "" if each["nullable"] else " NOT NULL"
            generated = " GENERATED" if each.get("computed") else ""
            yield f"column {each['name']}: {each['written']}{null}{generated}"
        if self.keys.get(where):
            yield f"primary key: {', '.join(self.keys[where])}"
        for each in self.unique.get(where, ()):
            yield f"unique {each['name']}: {', '.join(each['column_names'])}"
        for each in self.indexes.get(where, ()):
            if each["unique"]:
                yield f"unique index {each['name']}: {', '.join(_indexed(each))}"
        for each in self.checks.get(where, ()):
            yield f"check {each['name']} ({_digest(each['sqltext'])})"
        for each in self.references.get(where, ()):
            columns, effect = ", ".join(each["constrained_columns"]), each.get("options", {}).get("ondelete", "")
            yield f"reference {columns} -> {each['referred_table']} {effect}".rstrip()
        for name in self.triggers.get(where, ()):
            yield f"trigger {name}"

    def referring(self, table: Table) -> Iterator[tuple[Place, Found]]:
        """Yield every foreign key of the database to ``table``, whoever declared it."""
        for where, found in self.references.items():
            for each in found:
                if (each["referred_schema"], each["referred_table"]) == place(table):
                    yield where, each


def place(table: Table) -> Place:
    """Return where a table of the models should stand."""
    return table.schema, table.name


def shown(where: Place) -> str:
    """Return a table's name with its schema."""
    return ".".join(part for part in where if part)


def _digest(definition: str) -> str:
    return hashlib.sha256(definition.encode()).hexdigest()[:12]


def _indexed(index: Found) -> list[str]:
    return [str(name) for name in index.get("expressions") or index["column_names"]]


def read(guard: Guard, connection: Connection) -> Live:
    """Look at the tables of every schema that the models name."""
    live = Live(connection.dialect.name, identity(connection), _enforces_references(connection))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Skipped unsupported reflection", SAWarning
        )  # of SQLite's: they are read below
        _reflect(guard, live, connection)
    for where, name in _triggers(connection):
        live.triggers.setdefault(where, []).append(name)
    for table, name, definition in _expression_indexes(connection):
        known = live.indexes.setdefault((None, table), [])
        if all(each["name"] != name for each in known):
            known.append({"name": name, "unique": True, "column_names": [None], "expressions": [_digest(definition)]})
    return live


def _reflect(guard: Guard, live: Live, connection: Connection) -> None:
    inspector = inspect(connection)
    for schema in sorted({table.schema for table in guard.tables} | {None}, key=str):
        for kind in (ObjectKind.TABLE, ObjectKind.ANY_VIEW):
            found = inspector.get_multi_columns(schema=schema, kind=kind)
            _take(live.columns, found)
            if kind is ObjectKind.ANY_VIEW:
                live.views |= set(found)
        keys = inspector.get_multi_pk_constraint(schema=schema)
        live.keys |= {where: list(found["constrained_columns"]) for where, found in keys.items()}
        _take(live.unique, inspector.get_multi_unique_constraints(schema=schema))
        _take(live.indexes, inspector.get_multi_indexes(schema=schema))
        _take(live.checks, inspector.get_multi_check_constraints(schema=schema))
        _take(live.references, inspector.get_multi_foreign_keys(schema=schema))
    for each in (column for columns in live.columns.values() for column in columns):
        each["written"] = _written(each["type"], connection.dialect)


def _written(kind: Any, dialect: Dialect) -> str:
    """A type as DDL has it; what a type of the database's own allows, only by a digest."""
    try:
        name: str = kind.compile(dialect)
    except CompileError:
        return "unknown"
    inner = getattr(kind, "item_type", kind)
    return f"{name} ({_digest(repr(inner))})" if isinstance(inner, DOMAIN | Enum) else name


def _take(into: dict[Place, list[Found]], found: Mapping[Any, Any]) -> None:
    into |= {where: [dict(each) for each in rows] for where, rows in found.items()}


def identity(connection: Connection) -> str:
    """Return what tells this database from others: a file, or a database's name and number, and the schema in use."""
    if connection.dialect.name == "postgresql":
        query = "SELECT datname, oid, current_schema() FROM pg_database WHERE datname = current_database()"
        name, number, schema = connection.execute(text(query)).one()
        return f"postgresql {name} ({number}), schema {schema}"
    files = connection.execute(text("PRAGMA database_list")).all()
    return f"sqlite {next((file for _, name, file in files if name == 'main'), '') or 'in memory'}"


def _enforces_references(connection: Connection) -> bool:
    return connection.dialect.name != "sqlite" or bool(connection.execute(text("PRAGMA foreign_keys")).scalar())


def _expression_indexes(connection: Connection) -> Iterator[tuple[str, str, str]]:
    """Yield SQLite's unique indexes: SQLAlchemy passes over those on expressions."""
    if connection.dialect.name == "sqlite":
        query = "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE 'CREATE UNIQUE%'"
        yield from ((table, name, definition) for table, name, definition in connection.execute(text(query)))


def _triggers(connection: Connection) -> Iterator[tuple[Place, str]]:
    """Yield the triggers that are not privkit's own."""
    if connection.dialect.name == "postgresql":
        query = """
            SELECT CASE WHEN pg_table_is_visible(c.oid) THEN NULL ELSE n.nspname END, c.relname, t.tgname
            FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE NOT t.tgisinternal ORDER BY t.tgname
        """
    else:
        query = "SELECT NULL, tbl_name, name FROM sqlite_master WHERE type = 'trigger' ORDER BY name"
    for schema, table, name in connection.execute(text(query)):
        if not name.startswith("privkit_"):
            yield (schema, table), name


def fault(guard: Guard, live: Live, target: Target) -> str | None:
    """Return why no row of a target can be carried out in this database, or None."""
    return next(_faults(guard, live, target), None)


def _faults(guard: Guard, live: Live, target: Target) -> Iterator[str]:
    table, where = target.table, place(target.table)
    if where in live.views:
        yield f"{table.fullname} is a view in the database, and a run destroys in tables"
    elif where not in live.columns:
        yield f"{table.fullname} is not in the database"
    missing = [each.name for each in table.columns if live.column(where, each.name) is None]
    if missing:
        yield f"{table.fullname} lacks {', '.join(missing)} in the database"
    if target.divided is not None:
        return
    yield from _no_key(target)
    if target.column is None:
        yield from _left_behind(guard, live, table)
    else:
        yield from _column_faults(live, target)
        yield from _referred(live, target)
        yield from _collisions(live, target)


def _no_key(target: Target) -> Iterator[str]:
    try:
        destroy.key_columns(target.table)
    except PlanError as error:
        yield f"{error.what.rstrip('.')}: add a primary key"


def _column_faults(live: Live, target: Target) -> Iterator[str]:
    column, rule = target.column, target.rule
    assert column is not None
    assert rule is not None
    sealed, in_place = due.is_sealed(column), _in_place(target)
    if due.unsuppressible(target) or (in_place and rule.field.python_type is not str):
        yield (
            f"{rule.field} is NOT NULL and unsealed, so it cannot be {label(target.technique)}: make the column"
            " nullable, seal it (seal=True), or for text give then=Pseudonymise(...)"
        )
    found = live.column(place(target.table), column.name)
    assert found is not None
    if not found["nullable"] and column.nullable:
        yield f"{column.name} is NOT NULL in the database and nullable in its model, so it cannot be emptied"
    for each in target.beside:
        here = live.column(place(target.table), each.name)
        if here is not None and not here["nullable"] and not due.is_sealed(each):
            yield f"{each.name} is NOT NULL in the database, so it cannot be emptied with {column.name}"
    if found.get("computed"):
        yield f"{column.name} is a generated column, which only the database writes"
    if in_place and not sealed and isinstance(found["type"], Enum):
        yield f"{column.name} is an enum in the database, which has no room for a residue"


def _in_place(target: Target) -> bool:
    """Whether the residue takes the place of the value, in its own column."""
    column = target.column
    assert column is not None
    return leaves_residue(target.technique) and not column.nullable and not due.is_sealed(column)


def _referred(live: Live, target: Target) -> Iterator[str]:
    """A column that foreign keys refer to: emptied alone, it would leave them dangling."""
    assert target.column is not None
    for where, each in live.referring(target.table):
        followed = live.enforces_references and each.get("options", {}).get("onupdate") in ("CASCADE", "SET NULL")
        if target.column.name in each["referred_columns"] and not followed:
            yield f"{shown(where)}.{', '.join(each['constrained_columns'])} refers to it and would dangle"


def _collisions(live: Live, target: Target) -> Iterator[str]:
    """A unique key in which one NULL equals another: all rows would be equal afterwards."""
    assert target.column is not None
    where, name = place(target.table), target.column.name
    found = [*live.unique.get(where, ()), *(each for each in live.indexes.get(where, ()) if each["unique"])]
    for each in found:
        strict = each.get("dialect_options", {}).get("postgresql_nulls_not_distinct")
        if name in each["column_names"] and strict and not _in_place(target):
            yield f"the unique key {each['name']} holds {name}: rows would collide once it is {label(target.technique)}"


def _left_behind(guard: Guard, live: Live, table: Table) -> Iterator[str]:
    """Rows that none can go before, and rows of a table that no model knows: they would go unseen, or stay behind."""
    if others := references.unorderable(guard, table):
        names = ", ".join(other.fullname for other in others)
        yield f"its rows and those of {names} refer to each other and neither may be empty: make one column nullable"
    for where, each in live.referring(table):
        if any(place(known) == where for known in table.metadata.tables.values()):
            continue
        if each.get("options", {}).get("ondelete") == "CASCADE":
            yield f"rows of {shown(where)}, which no model knows, would be deleted with it"
        elif not live.enforces_references:
            yield f"rows of {shown(where)}, which no model knows, would be left behind"


def advice(guard: Guard, live: Live, target: Target) -> Iterator[str]:
    """Yield what a reader of the plan should know of a step that can be carried out."""
    where = place(target.table)
    if live.triggers.get(where) and target.divided is None:
        yield f"fires the trigger {', '.join(live.triggers[where])}"
    if target.column is not None or target.divided is not None:
        return
    for other, each in live.referring(target.table):
        columns = each["constrained_columns"]
        if not any(ordered[: len(columns)] == columns for ordered in _ordered(live, other)):
            yield f"{shown(other)}.{', '.join(columns)} refers to it and has no index: each row scans {shown(other)}"
        if all(place(known) != other for known in target.table.metadata.tables.values()):
            yield f"rows of {shown(other)}, which no model knows, may keep some rows from being deleted"


def _ordered(live: Live, where: Place) -> list[list[str]]:
    found = [*live.indexes.get(where, ()), *live.unique.get(where, ())]
    return [live.keys.get(where, []), *(each["column_names"] for each in found)]

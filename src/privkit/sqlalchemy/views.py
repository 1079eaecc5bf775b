"""What stands over protected tables in the database itself: views, partitions, stored functions, virtual tables.

The database is asked for them when an unknown name stands in a statement, again when as much time has passed as keys
are kept for, and again after the engine has changed the schema. On SQLite each connection has views of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Dialect, Table, inspect

from privkit import clock, purposes
from privkit.catalog import Field
from privkit.sqlalchemy import sqltext
from privkit.sqlalchemy.guard import OWN_ALIAS, Guard
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.sqltext import Text
from privkit.sqlalchemy.types import field_of

SAMPLES = frozenset({
    "pg_stats", "pg_statistic", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic_ext_data",
    "sqlite_dbpage", "sqlite_stat3", "sqlite_stat4",
})  # fmt: skip
"""Relations in which a database keeps copies of any table's values."""

RUNNERS = frozenset({
    "brin_page_items", "bt_page_items", "connectby", "crosstab", "crosstab2", "crosstab3", "crosstab4", "cursor_to_xml",
    "database_to_xml", "database_to_xml_and_xmlschema", "dblink", "dblink_build_sql_delete", "dblink_build_sql_insert",
    "dblink_build_sql_update", "dblink_exec", "dblink_fetch", "dblink_get_result", "dblink_open", "dblink_send_query",
    "get_raw_page", "gist_page_items", "hash_page_items", "heap_page_item_attrs", "heap_page_items", "lo_export",
    "lo_get", "lo_import", "load_extension", "pg_logical_slot_get_binary_changes", "pg_logical_slot_get_changes",
    "pg_logical_slot_peek_binary_changes", "pg_logical_slot_peek_changes", "pg_read_binary_file", "pg_read_file",
    "query_export_to_s3", "query_to_xml", "query_to_xml_and_xmlschema", "query_to_xmlschema", "readfile",
    "schema_to_xml", "schema_to_xml_and_xmlschema", "table_to_xml", "table_to_xml_and_xmlschema", "ts_rewrite",
    "ts_stat", "tuple_data_split", "xpath_table",
})  # fmt: skip
"""Functions that run SQL which is given to them as a value, or that read the database's files."""

_POSTGRESQL = """
WITH RECURSIVE over (low, high) AS (
 SELECT inhrelid, inhparent FROM pg_inherits UNION SELECT o.low, i.inhparent FROM over o JOIN pg_inherits i
 ON i.inhrelid = o.high), named AS (
 SELECT c.oid, c.relname, c.relkind, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace)
SELECT nspname, relname, 'view', pg_get_viewdef(oid) FROM named
 WHERE relkind IN ('v', 'm') AND nspname NOT IN ('pg_catalog', 'information_schema')
UNION ALL SELECT c.nspname, c.relname, 'part', p.relname
 FROM over JOIN named c ON c.oid = low JOIN named p ON p.oid = high
UNION ALL SELECT p.nspname, p.relname, 'part', c.relname
 FROM over JOIN named c ON c.oid = low JOIN named p ON p.oid = high
UNION ALL SELECT c.nspname, c.relname, 'part', o.option_value FROM pg_foreign_table f JOIN named c ON c.oid = f.ftrelid,
 pg_options_to_table(f.ftoptions) o WHERE o.option_name = 'table_name'
UNION ALL SELECT n.nspname, p.proname, 'function', pg_get_functiondef(p.oid) FROM pg_proc p
 JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prokind <> 'a' AND l.lanname NOT IN ('c', 'internal')
"""
_SQLITE = """
SELECT name, type, sql FROM "{}".sqlite_master WHERE type = 'view' OR sql LIKE 'create virtual%'
"""
_PROGRAMS = {"function": "a stored function runs it", "virtual": "a virtual table shows it"}


@dataclass(slots=True)
class Touched:
    """What a text may touch. ``own``: columns of privkit's own. ``stores``: its own tables. ``unresolved``: why it is
    not known.
    """

    fields: dict[str, Field] = field(default_factory=dict)
    tables: set[Table] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    stores: set[str] = field(default_factory=set)
    unresolved: str | None = None

    def add(self, other: Touched) -> None:
        """Touch what another one touches, too."""
        self.fields |= other.fields
        self.tables |= other.tables
        self.own |= other.own
        self.stores |= other.stores
        self.unresolved = self.unresolved or other.unresolved


@dataclass(frozen=True, slots=True)
class _Catalog:
    """The texts of views, partitions' parents and functions, and when they were read, in monotonic seconds."""

    texts: Mapping[str, list[tuple[str, str]]]
    at: float
    changes: int
    known: dict[str, Touched | None] = field(default_factory=dict)


_catalogs: WeakKeyDictionary[Dialect, dict[Any, Any]] = WeakKeyDictionary()
_changes: WeakKeyDictionary[Dialect, int] = WeakKeyDictionary()
_changing: WeakSet[Connection] = WeakSet()


def changing(connection: Connection) -> None:
    """A statement changes the schema: for this connection at once, and for the others when its transaction ends."""
    _changing.add(connection)
    _forget(connection.dialect)


def settled(connection: Connection, *transaction: Any) -> None:
    """The transaction has ended."""
    if connection in _changing:
        _changing.discard(connection)
        _forget(connection.dialect)


def _forget(dialect: Dialect) -> None:
    _changes[dialect] = _changes.get(dialect, 0) + 1


def _catalog(guard: Guard, connection: Connection) -> _Catalog:
    dialect = connection.dialect
    kept = connection.info if dialect.name == "sqlite" else _catalogs.setdefault(dialect, {})
    catalog: _Catalog | None = kept.get(_CATALOG)
    changes, oldest = _changes.get(dialect, 0), clock.monotonic() - guard.keys.max_age.total_seconds()
    if catalog is None or catalog.changes != changes or catalog.at <= oldest or connection in _changing:
        catalog = kept[_CATALOG] = _Catalog(_texts(guard, connection), clock.monotonic(), changes)
    return catalog


_CATALOG = "privkit_catalog"


def touched_by_text(guard: Guard, connection: Connection, text: Text) -> Touched:
    """Return what a text touches of protected tables, by itself and through what stands over them."""
    found = _directly(guard, text)
    found.add(touched_by_names(guard, connection, text.names | text.functions))
    return found


def touched_by_names(guard: Guard, connection: Connection, names: Iterable[str]) -> Touched:
    """Return what views, partitions and functions of these names touch, at any depth."""
    found, asked = Touched(), {name.lower() for name in names}
    for name in sorted(asked & (SAMPLES | RUNNERS)):
        found.unresolved = f"{name} can show any table's values"
    if not asked:
        return found
    catalog = _catalog(guard, connection)
    for name in asked:
        standing = _standing(guard, connection.dialect, catalog, name)
        if standing is not None:
            found.add(standing)
    return found


def _directly(guard: Guard, text: Text) -> Touched:
    found = Touched(unresolved=text.unresolved)
    found.stores.update(name for name in text.names if name.startswith(OWN_ALIAS))
    for table in guard.tables:
        name = table.name.lower()
        if name not in text.names:
            continue
        found.tables.add(table)
        if text.renames:
            found.unresolved = found.unresolved or "it gives a table another name"
        whole = text.unresolved is not None or text.calls(name, {column.name.lower() for column in table.columns})
        for column in table.columns:
            if not whole and not text.may_mean(name, column.name.lower()):
                continue
            personal = field_of(column)
            if personal is not None:
                found.fields[personal.id] = personal
            elif column.name in (KEY_COLUMN, ADULT_COLUMN):
                found.own.add(f"{table.name}.{column.name}")
    return found


def _standing(guard: Guard, dialect: Dialect, catalog: _Catalog, name: str) -> Touched | None:
    """What one name shows; None: it is no view, partition or function, or shows nothing of a protected table."""
    if name in catalog.known or name not in catalog.texts:
        return catalog.known.get(name)
    catalog.known[name] = None  # a function may call itself
    found = Touched()
    for kind, definition in catalog.texts[name]:
        text = _read(dialect, kind, definition)
        found.add(_directly(guard, text))
        for inner in (text.names | text.functions) - {name} if kind != "part" else ():
            further = _standing(guard, dialect, catalog, inner)
            if further is not None:
                found.add(further)
        if kind in _PROGRAMS and not (found.tables or found.stores or "execute" in text.names):
            found.unresolved = None
    catalog.known[name] = found if found.tables or found.stores or found.unresolved else None
    return catalog.known[name]


def _read(dialect: Dialect, kind: str, definition: str) -> Text:
    if kind == "part":
        return sqltext.read(f'SELECT * FROM "{definition}"', dialect.name)
    if kind in _PROGRAMS:
        return sqltext.opaque(definition, _PROGRAMS[kind])
    return sqltext.read(definition, dialect.name)


def _texts(guard: Guard, connection: Connection) -> dict[str, list[tuple[str, str]]]:
    """A model may be mapped to a view: its marks count, not the view's text. Another schema's view is another one."""
    found: dict[str, list[tuple[str, str]]] = {}
    usual = connection.dialect.default_schema_name
    mapped = {((table.schema or usual or "").lower(), table.name.lower()) for table in guard.tables}
    with purposes.internally():
        for schema, name, kind, definition in _rows(connection):
            if kind == "function" or (schema.lower(), name.lower()) not in mapped:
                found.setdefault(name.lower(), []).append((kind, definition or ""))
    return found


def _rows(connection: Connection) -> Iterator[tuple[str, str, str, str]]:
    """Yield schema, name, kind and definition of each."""
    if connection.dialect.name == "postgresql":
        yield from ((row[0], row[1], row[2], row[3]) for row in connection.exec_driver_sql(_POSTGRESQL).all())
    elif connection.dialect.name == "sqlite":
        for _, schema, _ in connection.exec_driver_sql("PRAGMA database_list").all():
            for name, kind, sql in connection.exec_driver_sql(_SQLITE.format(schema.replace('"', '""'))).all():
                yield schema, name, "view" if kind == "view" else "virtual", sql
    else:
        inspector = inspect(connection)
        for schema in inspector.get_schema_names():
            for name in inspector.get_view_names(schema):
                yield schema, name, "view", inspector.get_view_definition(name, schema) or ""

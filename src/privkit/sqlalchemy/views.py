"""What stands over protected tables in the database itself: views, partitions and stored functions.

The database is asked for them when an unknown name stands in a statement, again when as much time has passed as keys
are kept for, and again after the engine has changed the schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Table, inspect

from privkit import clock, purposes
from privkit.catalog import Field
from privkit.sqlalchemy import sqltext
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.sqltext import Text
from privkit.sqlalchemy.types import field_of

SAMPLES = frozenset({
    "pg_stats", "pg_statistic", "pg_stats_ext", "pg_stats_ext_exprs", "pg_statistic_ext_data",
    "sqlite_dbpage", "sqlite_stat3", "sqlite_stat4",
})  # fmt: skip
"""Relations in which a database keeps copies of any table's values."""

RUNNERS = frozenset({
    "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "cursor_to_xml", "table_to_xml",
    "table_to_xml_and_xmlschema", "schema_to_xml", "schema_to_xml_and_xmlschema", "database_to_xml",
    "database_to_xml_and_xmlschema", "ts_stat", "dblink", "dblink_exec", "dblink_open", "dblink_fetch",
    "dblink_send_query", "dblink_get_result", "crosstab", "crosstab2", "crosstab3", "crosstab4", "connectby",
    "xpath_table", "pg_read_file", "pg_read_binary_file", "lo_import", "lo_get", "lo_export", "get_raw_page",
    "heap_page_items", "pg_logical_slot_get_changes", "pg_logical_slot_peek_changes",
    "pg_logical_slot_get_binary_changes", "pg_logical_slot_peek_binary_changes", "load_extension", "readfile",
})  # fmt: skip
"""Functions that run SQL which is given to them as a value, or that read the database's files."""

_POSTGRESQL = """
SELECT c.relname, 'view', pg_get_viewdef(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('v', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
UNION ALL SELECT c.relname, 'part', p.relname FROM pg_inherits i
 JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
UNION ALL SELECT p.proname, 'function', pg_get_functiondef(p.oid) FROM pg_proc p
 JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
 WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prokind <> 'a' AND l.lanname NOT IN ('c', 'internal')
"""


@dataclass(slots=True)
class Touched:
    """What a text may touch. ``own``: columns of privkit's own. ``unresolved``: why it is not known."""

    fields: dict[str, Field] = field(default_factory=dict)
    tables: set[Table] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    unresolved: str | None = None

    def add(self, other: Touched) -> None:
        """Touch what another one touches, too."""
        self.fields |= other.fields
        self.tables |= other.tables
        self.own |= other.own
        self.unresolved = self.unresolved or other.unresolved


@dataclass(frozen=True, slots=True)
class _Catalog:
    """The texts of views, partitions' parents and functions, and when they were read, in monotonic seconds."""

    texts: Mapping[str, list[tuple[str, str]]]
    at: float
    known: dict[str, Touched | None] = field(default_factory=dict)


_catalogs: WeakKeyDictionary[Dialect, _Catalog] = WeakKeyDictionary()


def forget(dialect: Dialect) -> None:
    """The schema may have changed."""
    _catalogs.pop(dialect, None)


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
    catalog = _catalogs.get(connection.dialect)
    if not asked:
        return found
    if catalog is None or clock.monotonic() - catalog.at >= guard.keys.max_age.total_seconds():
        catalog = _catalogs[connection.dialect] = _Catalog(_texts(guard, connection), clock.monotonic())
    for name in asked:
        standing = _standing(guard, connection.dialect, catalog, name)
        if standing is not None:
            found.add(standing)
    return found


def _directly(guard: Guard, text: Text) -> Touched:
    found = Touched(unresolved=text.unresolved)
    for table in guard.tables:
        name = table.name.lower()
        if name not in text.names:
            continue
        found.tables.add(table)
        for column in table.columns:
            if text.unresolved is None and not text.may_mean(name, column.name.lower()):
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
        for inner in (text.names | text.functions) - {name}:
            further = _standing(guard, dialect, catalog, inner)
            if further is not None:
                found.add(further)
        if kind == "function" and not (found.tables or "execute" in text.names):
            found.unresolved = None
    catalog.known[name] = found if found.tables or found.unresolved else None
    return catalog.known[name]


def _read(dialect: Dialect, kind: str, definition: str) -> Text:
    if kind == "part":
        return sqltext.read(f'SELECT * FROM "{definition}"', dialect.name)
    if kind == "function":
        return sqltext.opaque(definition, "a stored function runs it")
    return sqltext.read(definition, dialect.name)


def _texts(guard: Guard, connection: Connection) -> dict[str, list[tuple[str, str]]]:
    """A model may be mapped to a view: its marks count, not the view's text."""
    found: dict[str, list[tuple[str, str]]] = {}
    mapped = {table.name.lower() for table in guard.tables}
    with purposes.internally():
        for name, kind, definition in _rows(connection):
            if name.lower() not in mapped:
                found.setdefault(name.lower(), []).append((kind, definition or ""))
    return found


def _rows(connection: Connection) -> Iterator[tuple[str, str, str]]:
    if connection.dialect.name == "postgresql":
        yield from ((row[0], row[1], row[2]) for row in connection.exec_driver_sql(_POSTGRESQL).all())
        return
    inspector = inspect(connection)
    for schema in inspector.get_schema_names():
        for name in inspector.get_view_names(schema):
            yield name, "view", inspector.get_view_definition(name, schema) or ""
    if connection.dialect.name == "sqlite":
        for name in inspector.get_temp_view_names():
            yield name, "view", inspector.get_view_definition(name) or ""

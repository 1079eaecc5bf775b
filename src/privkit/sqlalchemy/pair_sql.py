"""The SQL that stands behind a pair of columns: the sealed one's default, and the trigger that watches the old one.

SQLite adds no constraint to a table, so there the CHECK comes with the column.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from sqlalchemy import DDL, Column, DefaultClause, Dialect, LargeBinary, Table, event
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.elements import ClauseElement

from privkit.sqlalchemy.envelope_check import check_name, check_texts

DEFAULT = {"sqlite": "x'02'", "postgresql": "'\\x02'::bytea"}
"""What a sealed column holds of a row whose value is not sealed yet, as SQL, by the name of the dialect."""


class _Pending(ClauseElement):
    """The default of a sealed column: its row's value is not sealed yet."""

    inherit_cache = True


@compiles(_Pending, "sqlite")
def _pending_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return DEFAULT["sqlite"]


@compiles(_Pending, "postgresql")
def _pending_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    return DEFAULT["postgresql"]


def trigger_name(sealed: Column[Any]) -> str:
    """Return the name of the trigger that notices programs which change the old column alone.

    PostgreSQL runs triggers in the order of their names, and this one has to see what others made of the row. No two
    columns share a name, nor, on PostgreSQL, the function of that name.
    """
    assert isinstance(sealed.table, Table)
    return f"zzz_privkit_{sha256(f'{sealed.table.fullname}.{sealed.name}'.encode()).hexdigest()[:32]}_pending"


def create_sql(sealed: Column[Any], old: Column[Any], dialect: Dialect) -> list[str]:
    """Return the statements that create the trigger. It compares bytes: to a column's collation "A" may be "a"."""
    quote = dialect.identifier_preparer.quote
    table, name = dialect.identifier_preparer.format_table(sealed.table), quote(trigger_name(sealed))
    ours, theirs, index = quote(sealed.name), quote(old.name), f"{sealed.name}_ix"
    indexed = index in sealed.table.columns
    if dialect.name == "sqlite":
        keys = " AND ".join(f"{quote(key.name)} IS NEW.{quote(key.name)}" for key in sealed.table.primary_key.columns)
        cleared = f"{ours} = x'02'" + (f", {quote(index)} = NULL" if indexed else "")
        binary = LargeBinary().compile(dialect=dialect)
        new, before = (f"CAST({each}.{theirs} AS {binary})" for each in ("NEW", "OLD"))
        return [
            f"CREATE TRIGGER {name} AFTER UPDATE OF {theirs} ON {table} FOR EACH ROW WHEN {new} IS NOT {before} "
            f"AND NEW.{ours} IS OLD.{ours} AND (NEW.{theirs} IS NOT NULL OR coalesce(NEW.{ours}, x'00') <> x'00') "
            f"BEGIN UPDATE {table} SET {cleared} WHERE {keys}; END"
        ]
    new, before = (f'CAST({each}.{theirs} AS text) COLLATE "C"' for each in ("NEW", "OLD"))
    cleared = f"NEW.{ours} := '\\x02'::bytea;" + (f" NEW.{quote(index)} := NULL;" if indexed else "")
    return [
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $privkit$ BEGIN "
        f"IF {new} IS DISTINCT FROM {before} AND NEW.{ours} IS NOT DISTINCT FROM OLD.{ours} AND "
        f"(NEW.{theirs} IS NOT NULL OR coalesce(NEW.{ours}, '\\x00'::bytea) <> '\\x00'::bytea) "
        f"THEN {cleared} END IF; RETURN NEW; END $privkit$",
        f"CREATE TRIGGER {name} BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
    ]


def drop_sql(sealed: Column[Any], dialect: Dialect) -> list[str]:
    """Return the statements that drop the trigger."""
    quote = dialect.identifier_preparer.quote
    name = quote(trigger_name(sealed))
    if dialect.name == "sqlite":
        return [f"DROP TRIGGER IF EXISTS {name}"]
    table = dialect.identifier_preparer.format_table(sealed.table)
    return [f"DROP TRIGGER IF EXISTS {name} ON {table}", f"DROP FUNCTION IF EXISTS {name}()"]


def as_ddl(statement: str) -> DDL:
    """Return DDL of a statement as it stands: its percent signs are its own."""
    return DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]


def watch(sealed: Column[Any], old: Column[Any]) -> None:
    """Give a sealed column its default, and its table, where it is created, the trigger."""
    sealed.server_default = DefaultClause(_Pending())

    def after_create(target: Table, connection: Any, **kwargs: Any) -> None:
        if connection.dialect.name in ("sqlite", "postgresql"):
            for statement in create_sql(sealed, old, connection.dialect):
                connection.execute(as_ddl(statement))

    event.listen(sealed.table, "after_create", after_create)


def column_sql(sealed: Column[Any], dialect: Dialect) -> list[str]:
    """Return the statements that add the sealed column, and its search index, to a table that is there."""
    quote = dialect.identifier_preparer.quote
    table, name = dialect.identifier_preparer.format_table(sealed.table), quote(sealed.name)
    lite = dialect.name == "sqlite"
    kind, empty = LargeBinary().compile(dialect=dialect), "" if sealed.nullable else " NOT NULL"
    text = check_texts(sealed.name, pending=True)[dialect.name]
    check = f"CONSTRAINT {quote(check_name(sealed.table.name, sealed.name))} CHECK ({text})"
    added = f"ALTER TABLE {table} ADD COLUMN {name} {kind} DEFAULT {DEFAULT[dialect.name]}{empty}"
    made = [f"{added} {check}"] if lite else [added, f"ALTER TABLE {table} ADD {check} NOT VALID"]
    index = f"{sealed.name}_ix"
    if index in sealed.table.columns:
        made.append(f"ALTER TABLE {table} ADD COLUMN {quote(index)} {kind}")
        unique = "UNIQUE " if any(each.unique for each in sealed.table.indexes if index in each.columns) else ""
        label = quote(f"ix_{sealed.table.name}_{index}")
        concurrently = "" if lite else "CONCURRENTLY "
        made.append(f"CREATE {unique}INDEX {concurrently}{label} ON {table} ({quote(index)})")
    return made

"""What the directives ask of a database, and the few statements in which SQLite and PostgreSQL differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic.operations import BatchOperations, Operations
from sqlalchemy import Inspector

from privkit.errors import MigrationError
from privkit.sqlalchemy import pair_sql


def dialect(operations: Operations) -> str:
    """Return the name of the database's dialect."""
    return operations.get_context().dialect.name


def inspector(operations: Operations) -> Inspector | None:
    """Return what knows the tables as they are now; None offline, where nothing can be asked."""
    return None if operations.get_context().as_sql else sa.inspect(operations.get_bind())


def column_types(operations: Operations, table: str, schema: str | None) -> dict[str, Any]:
    """Return the types of a table's columns by name; offline none."""
    found = inspector(operations)
    return {each["name"]: each["type"] for each in found.get_columns(table, schema)} if found else {}


def checks(operations: Operations, table: str, schema: str | None) -> dict[str | None, Any]:
    """Return a table's CHECKs by name; offline none."""
    found = inspector(operations)
    return {each["name"]: each for each in found.get_check_constraints(table, schema)} if found else {}


def count(operations: Operations, table: str, schema: str | None, *conditions: Any) -> int:
    """Return how many rows of a table meet all conditions; offline 0."""
    if operations.get_context().as_sql:
        return 0
    query = sa.select(sa.func.count()).select_from(sa.table(table, schema=schema)).where(*conditions)
    found: int = operations.get_bind().scalar(query) or 0
    return found


def add_binary_column(operations: Operations, table: str, column: sa.Column[Any], schema: str | None) -> None:
    """Add a column of bytes unless it is there. Raises MigrationError where one of another type is."""
    kind = column_types(operations, table, schema).get(column.name)
    if kind is None:
        operations.add_column(table, column, schema=schema)
    elif not isinstance(kind, sa.LargeBinary):
        raise MigrationError(
            f"{table}.{column.name} exists, and its type is no binary one.",
            "Envelopes are bytes; what it holds now is something else.",
            "Choose another name for the sealed column, or drop this one first.",
            table=table,
            column=column.name,
        )


def add_index(
    operations: Operations, name: str, table: str, column: str, schema: str | None, *, unique: bool, concurrently: bool
) -> None:
    """Add an index unless it is there; on PostgreSQL without stopping writes, and anew if a build had broken off."""
    if dialect(operations) != "postgresql" or not concurrently:
        operations.create_index(name, table, [column], schema=schema, unique=unique, if_not_exists=True)
        return
    with outside_transaction(operations):
        if _is_invalid(operations, name, schema):
            operations.drop_index(name, table, schema=schema, postgresql_concurrently=True)
        operations.create_index(
            name, table, [column], schema=schema, unique=unique, if_not_exists=True, postgresql_concurrently=True
        )


def drop_index(operations: Operations, name: str, table: str, schema: str | None, *, concurrently: bool) -> None:
    """Drop an index if it is there; on PostgreSQL without stopping reads or writes."""
    if dialect(operations) != "postgresql" or not concurrently:
        operations.drop_index(name, table, schema=schema, if_exists=True)
        return
    with outside_transaction(operations):
        operations.drop_index(name, table, schema=schema, if_exists=True, postgresql_concurrently=True)


_INVALID = sa.text(
    "SELECT count(*) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
    "JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE NOT indisvalid AND relname = :name AND nspname = coalesce(:schema, current_schema())"
)


def _is_invalid(operations: Operations, name: str, schema: str | None) -> bool:
    """Whether an earlier concurrent build broke off; what it left is kept up to date and never used."""
    if operations.get_context().as_sql:
        return False
    return bool(operations.get_bind().scalar(_INVALID, {"name": name, "schema": schema}))


@contextmanager
def outside_transaction(operations: Operations) -> Iterator[None]:
    """Commit what the migration did so far, then work outside a transaction."""
    context = operations.get_context()
    if context._in_external_transaction:
        raise MigrationError(
            "PostgreSQL works concurrently outside a transaction only, and env.py began one itself.",
            "Inside it every write to the table would wait until the migration ends.",
            "Let Alembic begin it (with context.begin_transaction():), or give concurrently=False for a small table.",
        )
    with context.autocommit_block():
        yield


def execute_all(operations: Operations, statements: Iterable[str]) -> None:
    """Run DDL statements whose names are quoted already."""
    for statement in statements:
        operations.execute(pair_sql.as_ddl(statement))


def quoted(operations: Operations, name: str, schema: str | None = None) -> str:
    """Return a name as SQL."""
    quote = operations.get_context().dialect.identifier_preparer.quote
    return f"{quote(schema)}.{quote(name)}" if schema else quote(name)


_TRIGGERS = sa.text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :name")


@contextmanager
def rebuilding(operations: Operations, table: str, schema: str | None) -> Iterator[BatchOperations]:
    """Change a table as SQLite has to: copy it, drop it, rename the copy.

    Raises MigrationError where foreign keys are enforced: dropping the table would delete what refers to its rows.
    """
    found = inspector(operations)
    enforced = found is not None and operations.get_bind().scalar(sa.text("PRAGMA foreign_keys"))
    if found is not None and enforced and _is_referred_to(found, table, schema):
        raise MigrationError(
            f"{table} has to be copied and dropped, and foreign keys are enforced on this connection.",
            "SQLite would delete or refuse the rows of other tables that refer to it.",
            "Leave PRAGMA foreign_keys off for the engine in env.py.",
            table=table,
        )
    triggers = operations.get_bind().scalars(_TRIGGERS, {"name": table}).all() if found else []
    with operations.batch_alter_table(table, schema=schema) as batch:
        yield batch
    execute_all(operations, triggers)  # they went with the table


def _is_referred_to(found: Inspector, table: str, schema: str | None) -> bool:
    others = found.get_multi_foreign_keys(schema=schema).values()
    return any(key["referred_table"] == table for keys in others for key in keys)


def drop_columns(operations: Operations, table: str, columns: Sequence[str], schema: str | None) -> None:
    """Drop columns with their indexes and CHECKs, as far as they are there."""
    found = inspector(operations)
    if found is None or dialect(operations) != "sqlite":
        present = column_types(operations, table, schema) or columns
        for column in columns:
            if column in present:
                operations.drop_column(table, column, schema=schema)
        return
    gone = [column for column in columns if column in column_types(operations, table, schema)]
    for index in found.get_indexes(table, schema):
        if set(gone) & set(index["column_names"]):
            operations.drop_index(str(index["name"]), table, schema=schema)
    with rebuilding(operations, table, schema) as batch:
        for check in found.get_check_constraints(table, schema):
            if check["name"] and any(f'"{column}"' in check["sqltext"] for column in gone):
                batch.drop_constraint(check["name"], type_="check")
        for column in gone:
            batch.drop_column(column)


def watched_pair(
    operations: Operations, table: str, sealed: str, plain: str, schema: str | None
) -> tuple[sa.Column[Any], sa.Column[Any]]:
    """Return a sealed column and the one beside it, in a table that has what their trigger is made from."""
    found = inspector(operations)
    if found is None and dialect(operations) == "sqlite":
        raise MigrationError(
            f"What watches {table}.{plain} on SQLite names the table's primary key, which is not known offline.",
            "",
            "Run the migration on a database, without --sql.",
            table=table,
        )
    keys = found.get_pk_constraint(table, schema)["constrained_columns"] if found else []
    indexed = f"{sealed}_ix" in (column_types(operations, table, schema) or [f"{sealed}_ix"])
    ours = sa.Column(sealed, sa.LargeBinary())
    theirs = sa.Column(plain, sa.JSON(), primary_key=plain in keys)  # any type can be compared as JSON is
    others = [sa.Column(key, sa.Integer(), primary_key=True) for key in keys if key != plain]
    index = [sa.Column(f"{sealed}_ix", sa.LargeBinary())] if indexed else []
    sa.Table(table, sa.MetaData(), ours, theirs, *others, *index, schema=schema)
    return ours, theirs

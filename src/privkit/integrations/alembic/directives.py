"""The directives: ``op.add_sealed_column("riders", "email_sealed", search=True)`` and its like, in a migration.

One for each step of sealing a column of a live table, and back. None needs a key. What a run that broke off has done
already is not done twice, and a step that would lose a value is refused with a count. Offline (``--sql``) nothing can
be counted: there the SQL alone is written.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from privkit.crypto import DESTROYED
from privkit.errors import MigrationError
from privkit.integrations.alembic import database
from privkit.integrations.alembic.steps import directive
from privkit.sqlalchemy import tables
from privkit.sqlalchemy.envelope_check import check_name, check_texts
from privkit.sqlalchemy.mapping import KEY_COLUMN


@directive
def create_privkit_tables(operations: Operations, *, schema: str | None = None) -> None:
    """Create those of privkit's own tables that are not there, as the installed version declares them.

    Autogenerate writes them out instead, so that an old migration stays what it was.
    """
    found = database.inspector(operations)
    present = found.get_table_names(schema) if found else []
    for table in own_tables(schema):
        if table.name not in present:
            operations.impl.create_table(table)


@directive
def drop_privkit_tables(operations: Operations, *names: str, schema: str | None = None) -> None:
    """Drop privkit's own tables, or those of them that are named.

    Raises MigrationError while one holds a row: without its key no sealed value of any table opens again, and without
    the ledger nobody can show what was done.
    """
    found = database.inspector(operations)
    own = [table.name for table in own_tables(schema)]
    chosen = [name for name in names or own if found is None or name in found.get_table_names(schema)]
    for name in chosen:
        rows = database.count(operations, name, schema)
        if rows:
            raise MigrationError(
                f"{name} holds {rows} rows, so it is not dropped.",
                "Without their keys sealed values are lost; without the other tables, the evidence of what was done.",
                "Write the values back first (privkit seal TABLE.FIELD --undo), then delete its rows by hand.",
                table=name,
                rows=rows,
            )
    for name in chosen:
        operations.drop_table(name, schema=schema)


@directive
def add_key_column(
    operations: Operations,
    table: str,
    *,
    index: str | None = None,
    schema: str | None = None,
    concurrently: bool = True,
) -> None:
    """Add ``privkit_key`` to a data subject's table, and its unique index (by default ix_<table>_privkit_key).

    On PostgreSQL the index is built concurrently, for which the transaction so far is committed.
    """
    name = index or f"ix_{table}_{KEY_COLUMN}"
    database.add_binary_column(operations, table, sa.Column(KEY_COLUMN, sa.LargeBinary(16)), schema)
    database.add_index(operations, name, table, KEY_COLUMN, schema, unique=True, concurrently=concurrently)


@directive
def drop_key_column(operations: Operations, table: str, *, schema: str | None = None) -> None:
    """Drop ``privkit_key``. Raises MigrationError while a row has a key: nobody could say whose its values are."""
    rows = database.count(operations, table, schema, sa.column(KEY_COLUMN).is_not(None))
    if rows:
        raise MigrationError(
            f"{rows} rows of {table} have a key, so {KEY_COLUMN} is not dropped.",
            "Nobody could say any more whose sealed values are whose, and none of them would open.",
            f"Write the values back first (privkit seal TABLE.FIELD --undo), then set {KEY_COLUMN} to NULL by hand.",
            table=table,
            rows=rows,
        )
    database.drop_columns(operations, table, [KEY_COLUMN], schema)


@directive
def add_sealed_column(
    operations: Operations, table: str, column: str, *, search: bool = False, schema: str | None = None
) -> None:
    """Add a column for envelopes, NULL until it is filled, with the CHECK that nothing else gets into it.

    ``search``: add the column of its search index too, which ``add_search_index`` indexes. On PostgreSQL the CHECK
    holds from now on, and ``validate_envelope_check`` proves it for the rows that are there.
    """
    added = sa.Column(column, sa.LargeBinary())
    if database.dialect(operations) == "sqlite":
        check = sa.CheckConstraint(_condition(operations, column), name=check_name(table, column))
        added = sa.Column(column, sa.LargeBinary(), check)
    database.add_binary_column(operations, table, added, schema)
    if search:
        database.add_binary_column(operations, table, sa.Column(f"{column}_ix", sa.LargeBinary(16)), schema)
    if database.dialect(operations) == "postgresql":
        add_envelope_check(operations, table, column, schema=schema)


@directive
def drop_sealed_column(
    operations: Operations,
    table: str,
    column: str,
    *,
    plain: str | None = None,
    search: bool = False,
    schema: str | None = None,
) -> None:
    """Drop a sealed column, its CHECK and, with ``search``, its search index.

    ``plain``: the column that holds the same values unsealed. Raises MigrationError while a row has a sealed value
    that is not destroyed and nothing in ``plain``.
    """
    living = sa.column(column, sa.LargeBinary()) != DESTROYED
    alone = [sa.column(plain).is_(None)] if plain else []
    rows = database.count(operations, table, schema, living, *alone)
    if rows:
        raise MigrationError(
            f"{rows} rows of {table}.{column} hold a sealed value that is nowhere else, so it is not dropped.",
            "The values would be lost.",
            "Write them back first (privkit seal TABLE.FIELD --undo), and name their column: plain=...",
            table=table,
            column=column,
            rows=rows,
        )
    database.drop_columns(operations, table, [column, f"{column}_ix"] if search else [column], schema)


@directive
def add_envelope_check(operations: Operations, table: str, column: str, *, schema: str | None = None) -> None:
    """Add the CHECK that a column holds envelopes, to a column that is there.

    On PostgreSQL it holds for what is written from now on and no row is read; ``validate_envelope_check`` proves it
    for the rest. SQLite copies the table. Raises MigrationError there while a row holds something else.
    """
    name, condition = check_name(table, column), _condition(operations, column)
    if name in database.checks(operations, table, schema):
        return
    if database.dialect(operations) == "postgresql":
        operations.create_check_constraint(name, table, condition, schema=schema, postgresql_not_valid=True)
        return
    _refuse_others(operations, table, column, schema)
    with database.rebuilding(operations, table, schema) as batch:
        batch.create_check_constraint(name, condition)


@directive
def validate_envelope_check(operations: Operations, table: str, column: str, *, schema: str | None = None) -> None:
    """Prove that every row of a sealed column holds an envelope. Raises MigrationError with the count of the others.

    On PostgreSQL reads and writes go on meanwhile, for which the transaction so far is committed.
    """
    if database.dialect(operations) != "postgresql":
        _refuse_others(operations, table, column, schema)
        return
    with database.outside_transaction(operations):
        _refuse_others(operations, table, column, schema)
        where, name = database.quoted(operations, table, schema), database.quoted(operations, check_name(table, column))
        database.execute(operations, f"ALTER TABLE {where} VALIDATE CONSTRAINT {name}")


@directive
def drop_envelope_check(operations: Operations, table: str, column: str, *, schema: str | None = None) -> None:
    """Drop the CHECK of a sealed column: from now on SQL of other programs can store plain text in it."""
    name = check_name(table, column)
    if database.dialect(operations) != "sqlite":
        operations.drop_constraint(name, table, type_="check", schema=schema)
        return
    with database.rebuilding(operations, table, schema) as batch:
        batch.drop_constraint(name, type_="check")


@directive
def add_search_index(
    operations: Operations,
    table: str,
    column: str,
    *,
    index: str | None = None,
    unique: bool = False,
    schema: str | None = None,
    concurrently: bool = True,
) -> None:
    """Index the search hashes of a sealed ``column`` (by default under the name ix_<table>_<column>_ix).

    On PostgreSQL the index is built concurrently, for which the transaction so far is committed.
    """
    name = index or f"ix_{table}_{column}_ix"
    database.add_index(operations, name, table, f"{column}_ix", schema, unique=unique, concurrently=concurrently)


@directive
def drop_search_index(
    operations: Operations,
    table: str,
    column: str,
    *,
    index: str | None = None,
    schema: str | None = None,
    concurrently: bool = True,
) -> None:
    """Drop the index of a sealed column's search hashes; the hashes stay."""
    name = index or f"ix_{table}_{column}_ix"
    database.drop_index(operations, name, table, schema, concurrently=concurrently)


@directive
def drop_plain_column(
    operations: Operations, table: str, column: str, *, sealed: str, schema: str | None = None
) -> None:
    """Drop the column that held the values of ``sealed`` before they were sealed.

    Raises MigrationError while a row holds anything in it: ``privkit seal TABLE.FIELD --finish`` empties it, once it
    has seen that each sealed value is the same.
    """
    _refuse_plain(operations, table, column, sealed, schema)
    if database.dialect(operations) == "postgresql" and not operations.get_context().as_sql:
        database.execute(operations, f"LOCK TABLE {database.quoted(operations, table, schema)} IN SHARE MODE")
        _refuse_plain(operations, table, column, sealed, schema)  # an old build may have written meanwhile
    database.drop_columns(operations, table, [column], schema)


def _refuse_plain(operations: Operations, table: str, column: str, sealed: str, schema: str | None) -> None:
    held = sa.column(column).is_not(None)
    rows = database.count(operations, table, schema, held)
    if not rows:
        return
    lost = database.count(operations, table, schema, held, sa.column(sealed).is_(None))
    raise MigrationError(
        f"{rows} rows of {table}.{column} still hold a value, so it is not dropped; {lost} of them have none sealed.",
        f"Nobody has seen yet whether what stands in {table}.{sealed} is the same.",
        "Run privkit seal TABLE.FIELD, then privkit seal TABLE.FIELD --finish, which empties the column.",
        table=table,
        column=column,
        rows=rows,
        lost=lost,
    )


def _refuse_others(operations: Operations, table: str, column: str, schema: str | None) -> None:
    rows = database.count(operations, table, schema, sa.text(f"NOT ({_condition(operations, column)})"))
    if rows:
        raise MigrationError(
            f"{rows} rows of {table}.{column} hold something that is no envelope.",
            "Plain text, or another library's ciphertext, was stored where values are to be sealed.",
            "Find out which program writes there, and seal the rows: privkit seal TABLE.FIELD.",
            table=table,
            column=column,
            rows=rows,
        )


def _condition(operations: Operations, column: str) -> str:
    kind, texts = database.dialect(operations), check_texts(column)
    if kind not in texts:
        raise MigrationError(
            f"privkit has no CHECK for envelopes on {kind}.",
            "",
            f"It has one on {' and '.join(sorted(texts))}; leave the directive out elsewhere.",
        )
    return texts[kind]


def own_tables(schema: str | None) -> list[sa.Table]:
    """Return privkit's own tables as the installed version declares them."""
    metadata = sa.MetaData(schema=schema)
    tables.install(metadata)
    return metadata.sorted_tables

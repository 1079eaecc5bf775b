"""The directives: ``op.add_sealed_column("riders", "email_sealed", search=True)`` and its like, in a migration.

One for each step of sealing a column of a live table, and back. None needs a key. What a run that broke off has done
already is not done twice, and a step that would lose a value is refused with a count. Offline (``--sql``) nothing can
be counted: there the SQL alone is written.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

from privkit.crypto import DESTROYED
from privkit.crypto.envelope import KEY_ID_SIZE
from privkit.crypto.search import INDEX_SIZE
from privkit.errors import MigrationError
from privkit.integrations.alembic import database
from privkit.integrations.alembic.steps import directive
from privkit.sqlalchemy import pair_sql, tables
from privkit.sqlalchemy.envelope_check import check_name, check_texts, lets_wait
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.pairs import PENDING


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
    database.add_binary_column(operations, table, sa.Column(KEY_COLUMN, sa.LargeBinary(KEY_ID_SIZE)), schema)
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
    operations: Operations,
    table: str,
    column: str,
    *,
    beside: str | None = None,
    nullable: bool = True,
    search: bool = False,
    schema: str | None = None,
) -> None:
    """Add a column for envelopes, with the CHECK that nothing else gets into it.

    ``beside``: the column whose values it takes over (a marker's ``adopting``); until they are sealed the new one says
    so, by its default, and a trigger has it say so again when another program changes the old one alone. ``search``:
    add the column of its search hashes too, which ``add_search_index`` indexes. On PostgreSQL the CHECK holds from
    now on, and ``validate_envelope_check`` proves it for the rows that are there.
    """
    kind, waiting = database.dialect(operations), beside is not None
    known = waiting or kind in check_texts(column)
    condition = _condition(operations, column, waiting) if known else ""
    check = [sa.CheckConstraint(condition, name=check_name(table, column))] if kind == "sqlite" else []
    default = _default(kind) if waiting else None
    added = sa.Column(column, sa.LargeBinary(), *check, nullable=nullable, server_default=default)
    database.add_binary_column(operations, table, added, schema)
    if search:
        database.add_binary_column(operations, table, sa.Column(f"{column}_ix", sa.LargeBinary(INDEX_SIZE)), schema)
    if kind == "postgresql":
        _add_check(operations, table, column, schema, waiting=waiting)
    if beside is not None:
        _watch(operations, table, column, beside, schema)


@directive
def drop_sealed_column(
    operations: Operations,
    table: str,
    column: str,
    *,
    beside: str | None = None,
    search: bool = False,
    schema: str | None = None,
) -> None:
    """Drop a sealed column, its CHECK, what watches ``beside`` and, with ``search``, its search hashes.

    ``beside``: the column that holds the same values unsealed. Raises MigrationError while a row has a sealed value
    that is not destroyed and nothing in ``beside``.
    """
    living = sa.column(column, sa.LargeBinary()).not_in([DESTROYED, PENDING])
    alone = [sa.column(beside).is_(None)] if beside else []
    rows = database.count(operations, table, schema, living, *alone)
    if rows:
        raise MigrationError(
            f"{rows} rows of {table}.{column} hold a sealed value that is nowhere else, so it is not dropped.",
            "The values would be lost.",
            "Write them back first (privkit seal TABLE.FIELD --undo), and name their column: beside=...",
            table=table,
            column=column,
            rows=rows,
        )
    _unwatch(operations, table, column, schema)
    database.drop_columns(operations, table, [column, f"{column}_ix"] if search else [column], schema)


@directive
def open_sealed_column(
    operations: Operations, table: str, column: str, *, beside: str, schema: str | None = None
) -> None:
    """Let values wait in ``beside`` until they are sealed, as ``add_sealed_column(..., beside=...)`` does.

    On PostgreSQL the transaction so far is committed, and the new CHECK is proven while reads and writes go on.
    """
    _replace_check(operations, table, column, schema, waiting=True)
    _watch(operations, table, column, beside, schema)
    validate_envelope_check(operations, table, column, schema=schema)


@directive
def close_sealed_column(operations: Operations, table: str, column: str, *, schema: str | None = None) -> None:
    """End what ``open_sealed_column`` began: only envelopes are stored, and nothing watches another column.

    Raises MigrationError while a row holds anything else, such as the sign that its value is not sealed yet. On
    PostgreSQL the transaction so far is committed, and the new CHECK is proven while reads and writes go on.
    """
    _refuse_others(operations, table, column, schema)
    _unwatch(operations, table, column, schema)
    _replace_check(operations, table, column, schema, waiting=False)
    validate_envelope_check(operations, table, column, schema=schema)


@directive
def add_envelope_check(operations: Operations, table: str, column: str, *, schema: str | None = None) -> None:
    """Add the CHECK that a column holds envelopes, to a column that is there.

    On PostgreSQL it holds for what is written from now on and no row is read; ``validate_envelope_check`` proves it
    for the rest. SQLite copies the table. Raises MigrationError there while a row holds something else.
    """
    if database.dialect(operations) == "sqlite":
        _refuse_others(operations, table, column, schema)
    _add_check(operations, table, column, schema)


@directive
def validate_envelope_check(operations: Operations, table: str, column: str, *, schema: str | None = None) -> None:
    """Prove that every row of a sealed column holds an envelope. Raises MigrationError with the count of the others.

    On PostgreSQL reads and writes go on meanwhile, for which the transaction so far is committed.
    """
    if database.dialect(operations) != "postgresql":
        _refuse_others(operations, table, column, schema, waiting=_is_open(operations, table, column, schema))
        return
    with database.outside_transaction(operations):
        where, name = database.quoted(operations, table, schema), database.quoted(operations, check_name(table, column))
        _refuse_others(operations, table, column, schema, waiting=_is_open(operations, table, column, schema))
        database.execute_all(operations, [f"ALTER TABLE {where} VALIDATE CONSTRAINT {name}"])


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
        database.execute_all(operations, [f"LOCK TABLE {database.quoted(operations, table, schema)} IN SHARE MODE"])
        _refuse_plain(operations, table, column, sealed, schema)  # an old build may have written meanwhile
    _unwatch(operations, table, sealed, schema)
    database.drop_columns(operations, table, [column], schema)


def _refuse_plain(operations: Operations, table: str, column: str, sealed: str, schema: str | None) -> None:
    held = sa.column(column).is_not(None)
    rows = database.count(operations, table, schema, held)
    if not rows:
        return
    unsealed = sa.func.coalesce(sa.column(sealed, sa.LargeBinary()), PENDING) == PENDING
    lost = database.count(operations, table, schema, held, unsealed)
    raise MigrationError(
        f"{rows} rows of {table}.{column} still hold a value, so it is not dropped; {lost} of them have none sealed.",
        f"Nobody has seen yet whether what stands in {table}.{sealed} is the same.",
        "Run privkit seal TABLE.FIELD, then privkit seal TABLE.FIELD --finish, which empties the column.",
        table=table,
        column=column,
        rows=rows,
        lost=lost,
    )


def _refuse_others(
    operations: Operations, table: str, column: str, schema: str | None, *, waiting: bool = False
) -> None:
    condition = _condition(operations, column, waiting)
    rows = database.count(operations, table, schema, sa.text(f"NOT ({condition})"))
    if rows:
        raise MigrationError(
            f"{rows} rows of {table}.{column} hold something that is no envelope.",
            "Their values are not sealed yet, or another program stored plain text where it had no business.",
            "Seal them: privkit seal TABLE.FIELD.",
            table=table,
            column=column,
            rows=rows,
        )


def _condition(operations: Operations, column: str, waiting: bool = False) -> str:
    kind, texts = database.dialect(operations), check_texts(column, pending=waiting)
    if kind not in texts:
        raise MigrationError(
            f"privkit has no CHECK for envelopes on {kind}.",
            "",
            f"It has one on {' and '.join(sorted(texts))}; leave the directive out elsewhere.",
        )
    return texts[kind]


def _default(kind: str) -> sa.TextClause | None:
    text = pair_sql.DEFAULT.get(kind)
    return None if text is None else sa.text(text.replace(":", r"\:"))


def _is_open(operations: Operations, table: str, column: str, schema: str | None) -> bool:
    """Whether the CHECK of a column lets values wait."""
    found = database.checks(operations, table, schema).get(check_name(table, column))
    return found is not None and lets_wait(found["sqltext"])


def _add_check(operations: Operations, table: str, column: str, schema: str | None, *, waiting: bool = False) -> None:
    name, condition = check_name(table, column), _condition(operations, column, waiting)
    if name in database.checks(operations, table, schema):
        return
    if database.dialect(operations) == "sqlite":
        with database.rebuilding(operations, table, schema) as batch:
            batch.create_check_constraint(name, condition)
    else:
        operations.create_check_constraint(name, table, condition, schema=schema, postgresql_not_valid=True)


def _replace_check(operations: Operations, table: str, column: str, schema: str | None, *, waiting: bool) -> None:
    """Change what a column may hold, and its default."""
    name, condition = check_name(table, column), _condition(operations, column, waiting)
    kind = database.dialect(operations)
    default = _default(kind) if waiting else None
    if kind == "sqlite":
        with database.rebuilding(operations, table, schema) as batch:
            batch.drop_constraint(name, type_="check")
            batch.create_check_constraint(name, condition)
            batch.alter_column(column, existing_type=sa.LargeBinary(), server_default=default)
        return
    operations.alter_column(table, column, schema=schema, existing_type=sa.LargeBinary(), server_default=default)
    operations.drop_constraint(name, table, type_="check", schema=schema)
    operations.create_check_constraint(name, table, condition, schema=schema, postgresql_not_valid=True)


def _watch(operations: Operations, table: str, column: str, beside: str, schema: str | None) -> None:
    sealed, plain = database.watched_pair(operations, table, column, beside, schema)
    dialect = operations.get_context().dialect
    database.execute_all(operations, pair_sql.drop_sql(sealed, dialect))
    database.execute_all(operations, pair_sql.create_sql(sealed, plain, dialect))


def _unwatch(operations: Operations, table: str, column: str, schema: str | None) -> None:
    sealed = sa.Column(column, sa.LargeBinary())
    sa.Table(table, sa.MetaData(), sealed, schema=schema)
    database.execute_all(operations, pair_sql.drop_sql(sealed, operations.get_context().dialect))


def own_tables(schema: str | None) -> list[sa.Table]:
    """Return privkit's own tables as the installed version declares them."""
    metadata = sa.MetaData(schema=schema)
    tables.install(metadata)
    return metadata.sorted_tables

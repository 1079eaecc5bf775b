"""Puts wrapped keys into the key tables, and replaces them there, so that a roll never loses one.

A roll adds a generation, waits for the transactions that are open then, wraps all keys anew and destroys the older
generations. A writer may have wrapped a key before the new generation came and insert it afterwards; so it looks
again after its INSERT. Either it sees the new generation there and wraps anew, or its transaction is one of those
that the roll waits for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Insert, Table, Update, bindparam, update

from privkit.crypto import SubjectKey
from privkit.sqlalchemy.guard import Guard


def store(
    connection: Connection,
    guard: Guard,
    table: Table,
    statement: Insert,
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[SubjectKey],
) -> None:
    """Insert one wrapped key with each of ``rows``, under the generation that wraps once they are in the table."""
    under = guard.keyring.generation
    stored = [{**row, "wrapped": _wrapped(guard, key)} for row, key in zip(rows, keys, strict=True)]
    connection.execute(statement, stored)
    while guard.keyring.generation != under:
        under = guard.keyring.generation
        anew = [_wrapped(guard, key) for key in keys]
        exchange(connection, table, stored, anew)
        stored = [{**row, "wrapped": wrapped} for row, wrapped in zip(stored, anew, strict=True)]


def exchange(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], anew: Sequence[bytes]) -> None:
    """Replace the wrapped key of each row, unless it was destroyed or replaced meanwhile: that stays."""
    names = [column.name for column in table.primary_key.columns]
    parameters = [
        {**{f"at_{name}": row[name] for name in names}, "old": row["wrapped"], "new": wrapped}
        for row, wrapped in zip(rows, anew, strict=True)
    ]
    connection.execute(_exchange(table), parameters)


def _exchange(table: Table) -> Update:
    same = [column == bindparam(f"at_{column.name}") for column in table.primary_key.columns]
    return update(table).where(*same, table.c.wrapped == bindparam("old")).values(wrapped=bindparam("new"))


def _wrapped(guard: Guard, key: SubjectKey) -> bytes:
    return guard.keyring.wrap(key.id, key.secret)

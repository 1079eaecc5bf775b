"""The evidence ledger in the database: a line commits, or rolls back, with the work that it is evidence of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    LargeBinary,
    Row,
    Select,
    Table,
    cast,
    false,
    func,
    insert,
    literal,
    select,
    update,
)

from privkit import ledger
from privkit.ledger import Entry, Verified
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import LEDGER

PAGE = 1000
"""How many lines are read at a time."""

_WRITERS = int.from_bytes(b"privkit\x01", "big")
"""The advisory lock that PostgreSQL's writers of the ledger take, one after the other."""


def append(connection: Connection, guard: Guard, kind: str, body: Mapping[str, object]) -> Entry:
    """Append one line in the transaction of ``connection``, and return it.

    Writers wait for each other from here to the end of their transactions, so append last. Raises LedgerError
    for an unknown kind, InvalidValue for a body that may hold anything.
    """
    lock(connection, guard)
    table = guard.own_table(LEDGER)
    newest = connection.execute(_lines(connection, table).order_by(table.c.seq.desc()).limit(1)).first()
    previous = _entry(newest) if newest else None
    entry = ledger.next_entry(guard.keyring.secret("ledger"), previous, guard.now(), kind, body)
    values = {"seq": entry.seq, "at": entry.at, "kind": entry.kind, "body": entry.body, "link": entry.link}
    connection.execute(insert(table), values)
    return entry


def lock(connection: Connection, guard: Guard) -> None:
    """Keep other writers of the ledger waiting until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(literal(_WRITERS, BigInteger()))))
        return
    # SQLite has one writer at a time, but a SELECT makes none: two could read one head. An UPDATE begins the
    # transaction where the driver has not, and takes the write lock although it matches no row.
    table = guard.own_table(LEDGER)
    connection.execute(update(table).where(false()).values(seq=table.c.seq))


def entries(connection: Connection, guard: Guard) -> Iterator[Entry]:
    """Yield all lines by number, ``PAGE`` at a time."""
    table, after = guard.own_table(LEDGER), None
    while True:
        query = _lines(connection, table).order_by(table.c.seq).limit(PAGE)
        rows = connection.execute(query if after is None else query.where(table.c.seq > after)).all()
        yield from map(_entry, rows)
        if len(rows) < PAGE:
            return
        after = rows[-1].seq


def verify(connection: Connection, guard: Guard, expected: str | None = None) -> Verified:
    """Follow the chain through the whole table. ``expected``: a checkpoint noted earlier, ``"count:hex"``.

    Raises LedgerError at the first line that was changed or is missing, InvalidValue for a malformed checkpoint.
    """
    return ledger.verify(guard.keyring.secret("ledger"), entries(connection, guard), expected)


def _lines(connection: Connection, table: Table) -> Select[Any]:
    columns: list[Any] = [table.c.at, table.c.kind, table.c.body, table.c.link]
    if connection.dialect.name == "sqlite":
        # It stores anything in any column; as bytes, whatever was put there arrives and then fails the chain.
        columns = [cast(column, LargeBinary).label(column.name) for column in columns]
    return select(table.c.seq, *columns)


def _entry(row: Row[Any]) -> Entry:
    return Entry(row.seq, _text(row.at), _text(row.kind), _text(row.body), bytes(row.link))


def _text(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode("utf-8", "replace")

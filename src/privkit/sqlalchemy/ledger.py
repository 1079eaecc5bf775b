"""The evidence ledger in the database: a line commits, or rolls back, with the work that it is evidence of.

Where a copy is kept outside the database, a line is written there just before its transaction commits. So the copy
is never behind what was done; it is ahead where a commit failed after that, and where an older backup was restored.
Then the missing lines are copied back, and what they tell of is done again, before anything else is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sqlalchemy import (
    Connection,
    LargeBinary,
    Row,
    Select,
    Table,
    cast,
    false,
    func,
    insert,
    inspect,
    select,
    update,
)

from privkit import clock, ledger
from privkit.deidentify import token
from privkit.errors import LedgerError
from privkit.ledger import Entry, OutsideLedger, Verified
from privkit.purposes import internally
from privkit.sqlalchemy import writers
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import LEDGER

PAGE = 1000
"""How many lines are read at a time."""

_MET = "privkit_met"
"""In a connection's ``info``: when its database was last compared with the copy, in monotonic seconds."""

_WRITING = "privkit_writing"
"""In a connection's ``info``: its transaction holds the lock and may have lines that the copy lacks."""

Redo = Callable[[Connection, Guard, Entry, dict[str, Any]], None]
redone: dict[str, Redo] = {}
"""How what a line tells of is done again, by the line's kind; the other kinds are evidence alone."""


def redoes(kind: str) -> Callable[[Redo], Redo]:
    """Declare that a function does again what a line of ``kind`` tells of. It gets the line and its parsed body."""

    def declare(function: Redo) -> Redo:
        redone[kind] = function
        return function

    return declare


def append(connection: Connection, guard: Guard, kind: str, body: Mapping[str, object]) -> Entry:
    """Append one line in the transaction of ``connection``, and return it.

    Writers wait for each other from here to the end of their transactions, so append last. Raises LedgerError
    for an unknown kind and where the copy outside cannot be used, InvalidValue for a body that may hold anything.
    """
    lock(connection, guard)
    return _append(connection, guard, kind, body)


def append_at_once(connection: Connection, guard: Guard, kind: str, body: Mapping[str, object]) -> None:
    """Append one line that stands whatever becomes of the transaction of ``connection``.

    SQLite has one writer at a time: a transaction that has begun there takes the line with it.
    """
    if connection.dialect.name != "sqlite":
        with connection.engine.connect() as other:
            if is_autocommit(other):
                other = other.execution_options(isolation_level=other.dialect.default_isolation_level)
            with other.begin():
                append(other, guard, kind, body)
        return
    driver: Any = connection.connection.driver_connection
    begun = driver.in_transaction
    append(connection, guard, kind, body)
    if not begun:
        before_commit(connection, guard)
        connection.connection.commit()


def last_seq(connection: Connection, guard: Guard) -> int:
    """Return the number of the last line that is committed, or 0."""
    return connection.execute(select(func.max(guard.own_table(LEDGER).c.seq))).scalar() or 0


def _append(connection: Connection, guard: Guard, kind: str, body: Mapping[str, object]) -> Entry:
    table = guard.own_table(LEDGER)
    previous = newest(connection, table)
    entry = ledger.next_entry(guard.keyring.secret("ledger"), previous, guard.now(), kind, body)
    connection.execute(insert(table), values(entry))
    return entry


def lock(connection: Connection, guard: Guard) -> None:
    """Keep other writers of the ledger waiting until this transaction ends, and catch up with the copy outside.

    Raises LedgerError where the copy cannot be read, was forgotten, or tells of another past, and where each
    statement commits by itself.
    """
    _wait(connection, guard)
    _refuse_autocommit(connection)
    if guard.outside is None:
        _require_none_outside(connection, guard)
    elif _WRITING not in connection.info:
        connection.info[_WRITING] = True
        _settle(connection, guard, guard.outside)


def _wait(connection: Connection, guard: Guard) -> None:
    if connection.dialect.name == "postgresql":
        writers.take(connection)
        return
    # SQLite has one writer at a time, but a SELECT makes none: two could read one head. An UPDATE begins the
    # transaction where the driver has not, and takes the write lock although it matches no row.
    table = guard.own_table(LEDGER)
    connection.execute(update(table).where(false()).values(seq=table.c.seq))


def is_autocommit(connection: Connection) -> bool:
    """Whether each statement commits by itself."""
    engine_wide = getattr(connection.dialect, "_on_connect_isolation_level", None)
    asked: object = connection.get_execution_options().get("isolation_level", engine_wide)
    return asked == "AUTOCOMMIT" or getattr(connection.connection.dbapi_connection, "autocommit", None) is True


def _refuse_autocommit(connection: Connection) -> None:
    """After ``_wait``: SQLite's driver is in a transaction by then, unless it was told to begin none."""
    driver: Any = connection.connection.driver_connection
    if is_autocommit(connection) or (connection.dialect.name == "sqlite" and not driver.in_transaction):
        raise LedgerError(
            "The engine commits each statement by itself (AUTOCOMMIT).",
            "Work could be done in part, or without its line in the ledger.",
            "Use an engine with transactions: create_engine(url) without isolation_level.",
        )


def entries(connection: Connection, guard: Guard, after: int = 0) -> Iterator[Entry]:
    """Yield the lines numbered above ``after``, ``PAGE`` at a time."""
    return pages(connection, guard.own_table(LEDGER), after)


def verify(connection: Connection, guard: Guard, expected: str | None = None) -> Verified:
    """Follow the chain through the whole table, and through the copy outside. ``expected``: as ``"count:hex"``.

    Raises LedgerError at the first line that was changed or is missing, InvalidValue for a malformed checkpoint.
    """
    secret = guard.keyring.secret("ledger")
    found = ledger.verify(secret, entries(connection, guard), expected)
    if guard.outside is not None:
        ledger.verify(secret, guard.outside.lines(), found.checkpoint)
    return found


def who(guard: Guard, name: str) -> str:
    """Return a keyed token, by which the ledger can confirm a name without holding it."""
    return token(guard.keyring.secret("ledger-names"), "ledger", name)


# The copy outside.


def engine_connect(connection: Connection, guard: Guard) -> None:
    """Compare a database with the copy before it is used, and again after the age at which keys are forgotten.

    A restore ends connections, so a new one may stand before another state of the database.
    """
    met = connection.info.get(_MET)
    if met is None or clock.monotonic() - met >= guard.keys.max_age.total_seconds():
        meet(connection, guard)


def meet(connection: Connection, guard: Guard) -> None:
    """Bring a database and the copy outside to one state, in a transaction of its own.

    Raises LedgerError where the copy cannot be used, is empty although there was one, or tells of another past.
    """
    outside = guard.outside
    if outside is None or not guard.tables:
        return
    table = guard.own_table(LEDGER)
    with internally():
        with connection.begin():
            if not inspect(connection).has_table(table.name, schema=table.schema):
                return
            head = outside.head()
            known = head is not None and _same(newest(connection, table), head)
        if not known:
            with connection.begin():
                lock(connection, guard)
                if not _attached(connection, guard):
                    _append(connection, guard, "outside_attached", {})
    connection.info[_MET] = clock.monotonic()


def before_keys(connection: Connection, guard: Guard) -> None:
    """Before keys are loaded or made: the database has to have met the copy outside.

    Connections meet it when they are opened; one that was open before its engine was protected, or before its
    tables were made, has not. Raises LedgerError where there is a copy that this Privacy was not given.
    """
    if guard.outside is None:
        _require_none_outside(connection, guard)
    elif _MET not in connection.info and _WRITING not in connection.info:
        with internally():
            _settle(connection, guard, guard.outside)


def before_commit(connection: Connection, guard: Guard) -> None:
    """Write the transaction's lines to the copy outside. Raises LedgerError where it cannot: nothing is committed."""
    if _WRITING not in connection.info:
        return
    assert guard.outside is not None
    with internally():
        head = guard.outside.head()
        lines = entries(connection, guard, head.seq - 1 if head else 0)
        if head is not None and not _same(next(lines, None), head):
            raise _parted(head.seq)
        guard.outside.append(lines)
    forget(connection)


def forget(connection: Connection) -> None:
    """The transaction has ended: its lines are outside, or they are nowhere."""
    connection.info.pop(_WRITING, None)


def _settle(connection: Connection, guard: Guard, outside: OutsideLedger) -> None:
    """Catch up with the copy outside where it is ahead. Where the database is ahead, its commit writes the lines."""
    table = guard.own_table(LEDGER)
    head, last = outside.head(), newest(connection, table)
    if head is None:
        if last is not None and not outside.refill and _attached(connection, guard):
            raise _lost()
    elif last is None or last.seq < head.seq:
        _wait(connection, guard)  # it may be ahead by a transaction that is about to commit
        _catch_up(connection, guard, outside)
    elif not _same(next(entries(connection, guard, head.seq - 1), None), head):
        raise _parted(head.seq)


def _catch_up(connection: Connection, guard: Guard, outside: OutsideLedger) -> None:
    """Do again what the lines tell of that only the copy has, and copy them."""
    table, count = guard.own_table(LEDGER), 0
    last = newest(connection, table)
    lines = outside.lines(last.seq - 1 if last else 0)
    if last is not None and not _same(next(lines, None), last):
        raise _parted(last.seq)
    renewed: dict[str, str] = {}
    with internally():
        for entry in ledger.follow(guard.keyring.secret("ledger"), lines, last):
            _redo(connection, guard, entry, renewed)
            connection.execute(insert(table), values(entry))
            count += 1
        if count:
            connection.info[_WRITING] = True
            _append(connection, guard, "caught_up", {"lines": count})


def _redo(connection: Connection, guard: Guard, entry: Entry, renewed: dict[str, str]) -> None:
    """``renewed``: the key ids that data subjects have had since the backup, each with the one they have in it."""
    redo = redone.get(entry.kind)
    try:
        body = json.loads(entry.body)
        if entry.kind == "resealed" and "key" in body:
            renewed[body["key"]] = renewed.get(body["subject"], body["subject"])
        if redo is not None:
            redo(connection, guard, entry, _before_renewal(body, renewed))
    except (KeyError, ValueError, TypeError):
        raise LedgerError(
            f"Line {entry.seq} ({entry.kind}) does not say what has to be done again.",
            "It was written by another version of privkit; nothing may be opened before it is done.",
            "Use the version of privkit that wrote it, or a newer one.",
            seq=entry.seq,
        ) from None


def _before_renewal(value: Any, renewed: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return renewed.get(value, value)
    if isinstance(value, list):
        return [_before_renewal(each, renewed) for each in value]
    return {name: _before_renewal(each, renewed) for name, each in value.items()} if isinstance(value, dict) else value


def _attached(connection: Connection, guard: Guard) -> bool:
    table = guard.own_table(LEDGER)
    query = select(table.c.seq).where(table.c.kind == "outside_attached").limit(1)
    return connection.execute(query).first() is not None


def _require_none_outside(connection: Connection, guard: Guard) -> None:
    """Once for each engine."""
    if connection.dialect in guard.alone:
        return
    with internally():
        if _attached(connection, guard):
            raise LedgerError(
                "This database's ledger has a copy outside it, and this Privacy was not given the copy.",
                "If a backup was restored, it does not know who was erased since.",
                'Give the copy: Privacy(..., ledger=LedgerFile("ledger.jsonl")).',
            )
    guard.alone.add(connection.dialect)


def _same(one: Entry | None, other: Entry) -> bool:
    return one is not None and (one.seq, one.link) == (other.seq, other.link)


def _lost() -> LedgerError:
    return LedgerError(
        "The ledger's copy outside the database is empty, and there was one before.",
        "If a backup was restored, nothing tells who was erased since.",
        "Restore the copy from a backup of it. If it is lost, and the database was not restored since:\n"
        '    Privacy(..., ledger=LedgerFile("ledger.jsonl", refill=True)), for one start.',
    )


def _parted(seq: int) -> LedgerError:
    return LedgerError(
        f"The ledger and its copy outside the database tell of two different pasts from line {seq} on, or before.",
        "Another database wrote to the copy, a restored one was written to without it, or a line was changed.",
        "Find which one stands: privkit ledger verify. Restore the database from a backup again and start it with the\n"
        "copy at hand; or give it a copy of its own, and erase again whom the other one tells of.",
        seq=seq,
    )


# Lines in a table.


def newest(connection: Connection, table: Table) -> Entry | None:
    """Return the last line of a table, or None."""
    row = connection.execute(_lines(connection, table).order_by(table.c.seq.desc()).limit(1)).first()
    return _entry(row) if row else None


def pages(connection: Connection, table: Table, after: int = 0) -> Iterator[Entry]:
    """Yield the lines of a table numbered above ``after``, ``PAGE`` at a time."""
    query = _lines(connection, table).order_by(table.c.seq).limit(PAGE)
    rows = connection.execute(query.where(table.c.seq > after) if after else query).all()
    while rows:
        yield from map(_entry, rows)
        rows = connection.execute(query.where(table.c.seq > rows[-1].seq)).all() if len(rows) == PAGE else []


def values(entry: Entry) -> dict[str, Any]:
    """Return a line as the values of a row."""
    return {"seq": entry.seq, "at": entry.at, "kind": entry.kind, "body": entry.body, "link": entry.link}


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

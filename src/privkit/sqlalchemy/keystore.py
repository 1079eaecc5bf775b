"""Loads and creates data subjects' keys on the connection of the statement that needs them."""

from __future__ import annotations

from collections.abc import Iterable
from sqlite3 import sqlite_version_info

from sqlalchemy import Connection, insert, select

from privkit.crypto import SubjectKey
from privkit.errors import ShreddedError
from privkit.purposes import internally
from privkit.sqlalchemy import ledger, wrapping
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import KEY

CHUNK = 1000 if sqlite_version_info >= (3, 32) else 500
"""How many ids go into one IN list; SQLite before 3.32 allows 999 variables."""


def verify_keyring(connection: Connection, guard: Guard) -> None:
    """Open one key of this database, once for each engine and keyring: under another keyring every search misses.

    Raises SealedError or KeyringError where the keyring is not the one that the database was written with.
    """
    proof = guard.keyring.secret("index")  # no rotation changes it; another keyring in its place does
    if guard.proven.get(connection.dialect) == proof:
        return
    table = guard.own_table(KEY)
    query = select(table.c.id, table.c.wrapped).where(table.c.wrapped.is_not(None)).limit(1)
    with internally():
        row = connection.execute(query).first()
    if row is not None:
        guard.keyring.unwrap(bytes(row.id), bytes(row.wrapped))
        guard.proven[connection.dialect] = proof


def load(connection: Connection, guard: Guard, ids: Iterable[bytes]) -> list[SubjectKey]:
    """Return the keys that exist, from the cache or with one query for up to ``CHUNK`` missing ones.

    Destroyed keys are remembered in ``guard.shredded``. Raises SealedError where a key does not unwrap.
    """
    known = {key_id: guard.keys.get(key_id) for key_id in ids}
    found = [key for key in known.values() if key is not None]
    missing = [key_id for key_id, key in known.items() if key is None]
    fresh: list[SubjectKey] = []
    table = guard.own_table(KEY) if missing else None
    if missing:
        ledger.before_keys(connection, guard)
    for start in range(0, len(missing), CHUNK):
        assert table is not None
        chunk = missing[start : start + CHUNK]
        query = select(table.c.id, table.c.wrapped).where(table.c.id.in_(chunk))
        for key_id, wrapped in connection.execute(query).all():
            if wrapped is None:
                guard.shredded.add(bytes(key_id))
                guard.keys.forget(bytes(key_id))
            else:
                fresh.append(guard.keyring.unwrap(bytes(key_id), bytes(wrapped)))
    guard.keys.put(fresh)
    return found + fresh


def for_sealing(connection: Connection, guard: Guard, ids: Iterable[bytes]) -> dict[bytes, SubjectKey]:
    """Return the keys to seal with. Raises ShreddedError for a destroyed one: nobody comes back to life.

    Another process may have destroyed a key that this one still has in memory, so the table is asked.
    """
    guard.keyring.require_writable()
    wanted = set(ids)
    _forget_destroyed(connection, guard, [key_id for key_id in wanted if guard.keys.get(key_id) is not None])
    keys = {key.id: key for key in load(connection, guard, wanted)}
    if len(keys) < len(wanted):
        raise ShreddedError(
            f"{len(wanted) - len(keys)} of {len(wanted)} data subjects have no living key.",
            "They were erased or expired; a new key would undo that.",
            "Do not write for an erased data subject; a person who returns is a new data subject.",
        )
    return keys


def _forget_destroyed(connection: Connection, guard: Guard, ids: list[bytes]) -> None:
    table = guard.own_table(KEY)
    for start in range(0, len(ids), CHUNK):
        destroyed = select(table.c.id).where(table.c.id.in_(ids[start : start + CHUNK]), table.c.wrapped.is_(None))
        with internally():
            found = [bytes(key_id) for key_id in connection.execute(destroyed).scalars()]
        for key_id in found:
            guard.keys.forget(key_id)
        guard.shredded.update(found)


def create(connection: Connection, guard: Guard, count: int) -> list[SubjectKey]:
    """Create keys for new data subjects, in the transaction of ``connection``."""
    ledger.before_keys(connection, guard)
    verify_keyring(connection, guard)
    keys = [SubjectKey.new() for _ in range(count)]
    now, table = guard.now(), guard.own_table(KEY)
    wrapping.store(connection, guard, table, insert(table), [{"id": key.id, "created_at": now} for key in keys], keys)
    guard.keys.put(keys)
    return keys

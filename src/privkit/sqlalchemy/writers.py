"""The lock that PostgreSQL's writers of the ledger take, one after the other, until their transactions end."""

from __future__ import annotations

import time

from sqlalchemy import BigInteger, Connection, func, literal, select

from privkit import clock
from privkit.errors import ConcurrentWrite

_WRITERS = literal(int.from_bytes(b"privkit\x01", "big"), BigInteger())

GIVES_WAY = "privkit_gives_way"
"""An execution option: this connection's transactions hold rows when they come to the ledger, so they never queue."""

PATIENCE = 1.0
"""Seconds for which such a transaction tries to take the lock."""


def take(connection: Connection) -> None:
    """Take the lock, after whoever has it. Raises ConcurrentWrite where this transaction is one that gives way."""
    if connection.get_execution_options().get(GIVES_WAY):
        _take_or_give_way(connection)
    else:
        connection.execute(select(func.pg_advisory_xact_lock(_WRITERS)))


def _take_or_give_way(connection: Connection) -> None:
    """Whoever has the lock may want rows that this transaction holds: one that does not queue cannot deadlock."""
    pause, until = 0.001, clock.monotonic() + PATIENCE
    while not connection.execute(select(func.pg_try_advisory_xact_lock(_WRITERS))).scalar_one():
        if clock.monotonic() >= until:
            raise ConcurrentWrite(
                "Another transaction keeps the ledger.",
                "It may wait for rows of this one, so this one gives way.",
                "Run the transaction again.",
            )
        time.sleep(pause)
        pause = min(pause * 2, 0.05)

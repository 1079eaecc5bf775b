"""Waits until the transactions that are open in a database now have ended, whoever runs them."""

from __future__ import annotations

import time

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from privkit import clock
from privkit.errors import KeyringError
from privkit.sqlalchemy import ledger
from privkit.sqlalchemy.guard import Guard

POLL = 0.05
"""Seconds between two looks."""

# Every account may see these two columns of all sessions; pg_stat_activity.xact_start needs a privilege.
_OPEN = text(
    "SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid "
    "WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.pid <> pg_backend_pid() "
    "AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND coalesce(a.backend_type, 'client backend') = 'client backend'"
)
_PREPARED = text("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")


def for_open_transactions(guard: Guard, engine: Engine, *, patience: float) -> None:
    """Return once every transaction that is open now has ended: on SQLite those that write, on PostgreSQL all.

    ``patience``: seconds. Raises KeyringError when they last longer, or on another database, which cannot tell.
    """
    until = clock.monotonic() + patience
    if engine.dialect.name == "postgresql":
        _wait_for(engine, _OPEN, until)
        _wait_for(engine, _PREPARED, until)  # what was open may have been prepared meanwhile
    elif engine.dialect.name == "sqlite":
        _wait_for_writer(guard, engine, until)
    else:
        raise KeyringError(
            f"Which transactions are open cannot be told on {engine.dialect.name}.",
            "One of them may hold a key that would be lost.",
            "Rotate keys on PostgreSQL or SQLite.",
        )


def _wait_for(engine: Engine, query: object, until: float) -> None:
    awaited = _found(engine, query)
    while awaited:
        _pause(until, len(awaited))
        awaited &= _found(engine, query)


def _found(engine: Engine, query: object) -> set[str]:
    with engine.connect() as connection:
        return set(_rows(connection, query))


def _rows(connection: Connection, query: object) -> list[str]:
    return list(connection.execute(query).scalars())  # type: ignore[call-overload]


def _wait_for_writer(guard: Guard, engine: Engine, until: float) -> None:
    """SQLite has one writer at a time: whoever becomes it has waited for the one before."""
    while True:
        try:
            with engine.begin() as connection:
                ledger.lock(connection, guard)
                return
        except OperationalError:
            pass  # the driver's own waiting time is over; what is wrong otherwise shows when ours is
        _pause(until, 1)


def _pause(until: float, count: int) -> None:
    if clock.monotonic() >= until:
        raise KeyringError(
            f"{count} transactions that were open when the generation was added have not ended.",
            "One of them may hold a key that would be lost. No generation was destroyed.",
            "End them (pg_stat_activity names them) and run it again: it goes on where it was.",
            open=count,
        )
    time.sleep(POLL)

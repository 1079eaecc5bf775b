"""Standbys of a PostgreSQL server: what is erased or withdrawn on the primary is still there for as long as they lag.

So statements over personal data, and over privkit's own tables, are refused on one that is further behind than the
engine's bound. How far it is behind counts from the last transaction that it replayed, unless it has replayed all that
it received and still receives. Whatever changes something is refused on a standby at once, and told to go elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine, Table
from sqlalchemy.sql.compiler import SQLCompiler

from privkit import clock
from privkit.errors import InvalidValue, PlanError, StatementRefused
from privkit.purposes import internally
from privkit.sqlalchemy import held, tables
from privkit.sqlalchemy.facts import facts_of
from privkit.sqlalchemy.guard import Guard

BOUND = 10.0
"""Seconds for which a standby may be behind, unless ``protect`` says otherwise."""

_FRESH = 1.0
"""Seconds for which a connection is not asked again."""
_LOOKS, _PAUSE = 3, 0.05
"""How often, and after how many seconds, one that seems too far behind is looked at before it is refused: what a
primary writes after an idle hour seems an hour old until it is replayed, a moment later."""

_STANDBY, _SEEN = "privkit_standby", "privkit_seen"
"""In a connection's ``info``: whether it leads to a standby, and when that was last near enough."""

_RECOVERS = "SELECT pg_is_in_recovery()"
_LAG = """
    SELECT pg_is_in_recovery(), CASE
        WHEN NOT pg_is_in_recovery() THEN 0
        WHEN pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() AND EXISTS (
            SELECT FROM pg_stat_wal_receiver WHERE coalesce(status, 'streaming') = 'streaming') THEN 0
        ELSE extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END
"""

_bounds: WeakKeyDictionary[Dialect, float | None] = WeakKeyDictionary()


def bound(engine: Engine, max_lag: float | None) -> None:
    """Set by how many seconds a standby may be behind; None: by any. Raises InvalidValue for less than none."""
    if max_lag is not None and not max_lag >= 0:
        raise InvalidValue("A standby cannot be behind by less than no time.", "", "Give seconds: max_lag=10.")
    _bounds[engine.dialect] = max_lag


def connect(driver: Any, record: Any) -> None:
    """Learn once for each connection where it leads: a primary becomes no standby while somebody is connected."""
    cursor = driver.cursor()
    cursor.execute(_RECOVERS)
    record.info[_STANDBY] = bool(cursor.fetchone()[0])
    cursor.close()
    driver.rollback()


def is_standby(connection: Connection) -> bool:
    """Whether a connection leads to a standby, now: one may have become a primary."""
    if not _follows(connection):
        return False
    begun = connection.in_transaction()
    with internally():
        standby = connection.info[_STANDBY] = bool(connection.exec_driver_sql(_RECOVERS).scalar_one())
    if not begun:
        connection.rollback()
    return standby


def require_primary(connection: Connection) -> None:
    """Raise PlanError on a standby: what is due, held or erased has to be read where it is written."""
    if is_standby(connection):
        raise PlanError(
            "This server is a standby: it follows another one, and nothing can be written to it.",
            "What it says may be out of date, and a run destroys by what is true now.",
            "Name the primary in the URL, or let the driver find it: ?target_session_attrs=read-write",
        )


def before_cursor_execute(guard: Guard, connection: Connection, context: Any) -> None:
    """Refuse a statement over protected or privkit's own tables where they may be out of date."""
    if not _follows(connection):
        return
    compiled = context.compiled if context is not None else None
    if isinstance(compiled, SQLCompiler):
        facts = facts_of(compiled)
        if facts.personal or concerns_persons(guard, facts.tables) or any(map(tables.is_own, facts.tables)):
            require_fresh(connection)


def concerns_persons(guard: Guard, touched: Iterable[Table]) -> bool:
    """Whether one of some tables has rows of data subjects, or personal data."""
    return any(
        held.has_owner(guard, each) or guard.tables[each].model.fields for each in touched if each in guard.tables
    )


def require_fresh(connection: Connection) -> None:
    """Raise StatementRefused on a standby that is too far behind, or that cannot tell."""
    if not _follows(connection):
        return
    seen, most = connection.info.get(_SEEN), _bounds.get(connection.dialect, BOUND)
    if most is None or (seen is not None and clock.monotonic() - seen < _FRESH):
        return
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE)
        lag = _lag(connection)
        if lag is not None and lag <= most:
            connection.info[_SEEN] = clock.monotonic()
            return
    raise StatementRefused(
        f"This server is a standby, {_said(lag)} its primary; up to {most:g} seconds are allowed.",
        "What was erased, withdrawn or held in the meantime would still be as it was.",
        "Read from the primary. If so much may be out of date: privacy.protect(engine, max_lag=...).",
    )


def _follows(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql" and bool(connection.info.get(_STANDBY, True))


def _lag(connection: Connection) -> float | None:
    """The seconds by which it is behind, or None where nobody knows."""
    with internally():
        standby, lag = connection.exec_driver_sql(_LAG).one()
    connection.info[_STANDBY] = bool(standby)
    return None if lag is None else float(lag)


def _said(lag: float | None) -> str:
    return "nobody knows how far behind" if lag is None else f"{lag:.0f} seconds behind"

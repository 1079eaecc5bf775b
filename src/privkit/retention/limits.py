"""What a run keeps to, so that it can be left alone on a busy database, and what ends it early."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine, func, select, text

from privkit import clock
from privkit.errors import ClockError, InvalidValue, PlanError
from privkit.sqlalchemy import ledger
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import LEDGER

POLL = 0.5
"""Seconds between two looks at how far the replicas are behind."""
PATIENCE = 600.0
"""Seconds for which a run without a time budget waits for replicas."""
CLOCK_DIFFERENCE = 300.0
"""By how many seconds clocks may differ."""

_LAG = text(
    "SELECT count(*) FILTER (WHERE state IS NULL), coalesce(extract(epoch FROM max(replay_lag)), 0) "
    "FROM pg_stat_replication"
)


def limit_waiting(connection: Connection, lock_seconds: float, statement_seconds: float) -> None:
    """Let each statement of a PostgreSQL transaction wait and take no longer than so many seconds."""
    limits = {"lock_timeout": lock_seconds, "statement_timeout": statement_seconds}
    set_local = (func.set_config(name, f"{seconds * 1000:.0f}ms", True) for name, seconds in limits.items())
    connection.execute(select(*set_local))


def replay_lag(connection: Connection) -> float:
    """Return by how many seconds the slowest replica of a PostgreSQL server is behind. Raises PlanError if unknown."""
    if connection.dialect.name != "postgresql":
        raise PlanError(
            f"How far replicas are behind cannot be told on {connection.dialect.name}.",
            "The run would not slow down for them.",
            "Leave max_lag out, or give a probe: Limits(max_lag=10, lag=my_probe).",
        )
    hidden, lag = connection.execute(_LAG).one()
    if hidden:
        raise PlanError(
            "This account may not see how far the replicas are behind.",
            "The run would not slow down for them.",
            "As an administrator: GRANT pg_monitor TO the account that purges.",
        )
    return float(lag)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run keeps to. All that ends it early does so between two batches; the next run goes on.

    ``max_seconds``: begin no batch after as many seconds. ``sentinel``: begin none while this file exists.
    ``stop``: begin none once it returns True (it is called often). ``max_lag``: pause while the slowest replica is
    more seconds behind, as ``lag`` tells (default: PostgreSQL's own count); give up when ``max_seconds`` are over, or
    after ten minutes without. ``lock_timeout`` and ``statement_timeout``: of each statement on PostgreSQL, in
    seconds; the first is also how long a run waits for rows that others hold. ``max_refused``: after so many rows
    of one step that the database refuses, the step ends. ``clock_difference``: by how many seconds this machine's
    clock may differ from the database server's.
    """

    max_seconds: float | None = None
    sentinel: Path | None = None
    stop: Callable[[], bool] | None = None
    max_lag: float | None = None
    lag: Callable[[Connection], float] = replay_lag
    lock_timeout: float = 5.0
    statement_timeout: float = 60.0
    max_refused: int = 1000
    clock_difference: float = CLOCK_DIFFERENCE

    def __post_init__(self) -> None:
        never_negative = (self.max_seconds, self.max_lag, self.max_refused, self.clock_difference)
        if any(each is not None and not each >= 0 for each in never_negative):
            raise InvalidValue("A limit of a run is negative.", "", "Give seconds or a count from 0 on.")
        if not (self.lock_timeout >= 0.001 and self.statement_timeout >= 0.001):  # 0 is PostgreSQL's "for ever"
            raise InvalidValue("A time-out of a run is at least a millisecond.", "", "Give lock_timeout=5.")


class Watch:
    """Ends one run when a limit is reached; all its workers ask it before each batch."""

    def __init__(
        self,
        limits: Limits,
        engine: Engine,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self.stopped: str | None = None
        """The name of the limit that ended the run."""
        self._limits, self._engine, self._sleep, self._monotonic = limits, engine, sleep, monotonic
        self._began = monotonic()
        self._replicas = threading.Lock()
        self._seen = -POLL

    def halted(self) -> bool:
        """Whether no further batch may begin. Pauses while replicas are behind."""
        self.stopped = self.stopped or self._reached() or self._wait_for_replicas()
        return self.stopped is not None

    def halt(self, reason: str) -> None:
        """Let no further batch begin."""
        self.stopped = self.stopped or reason

    def _passed(self) -> float:
        return self._monotonic() - self._began

    def _reached(self) -> str | None:
        limits = self._limits
        if limits.stop is not None and limits.stop():
            return "stop"
        if limits.sentinel is not None and limits.sentinel.exists():
            return "sentinel"
        if limits.max_seconds is not None and self._passed() >= limits.max_seconds:
            return "max_seconds"
        return None

    def _wait_for_replicas(self) -> str | None:
        """All workers wait here together."""
        limits = self._limits
        if limits.max_lag is None:
            return None
        with self._replicas:
            if self._passed() - self._seen < POLL:
                return self.stopped
            until = limits.max_seconds if limits.max_seconds is not None else self._passed() + PATIENCE
            while self._lag() > limits.max_lag:
                if self._passed() >= until:
                    return "max_lag"
                if reason := self._reached():
                    return reason
                self._sleep(POLL)
            self._seen = self._passed()
        return None

    def _lag(self) -> float:
        with self._engine.connect() as connection:
            return self._limits.lag(connection)


def refuse_clock(connection: Connection, now: clock.Clock, limits: Limits) -> None:
    """Raise ClockError where this machine's clock is far from the database server's: all would look due, or nothing.

    An embedded database has no clock of its own. A Privacy whose clock is not this machine's is believed.
    """
    here = clock.system_clock()
    if connection.dialect.name == "sqlite" or abs((now() - here).total_seconds()) > limits.clock_difference:
        return
    there = clock.as_utc(connection.execute(text("SELECT clock_timestamp()")).scalar_one())
    difference = (clock.system_clock() - there).total_seconds()
    if abs(difference) > limits.clock_difference:
        raise ClockError(
            f"This machine's clock is {difference:+.0f} seconds away from the database server's.",
            "Nothing was destroyed: by a clock that runs ahead, what is still needed looks due.",
            "Set the clocks (NTP), and make the plan anew.",
            seconds=round(difference),
        )


def refuse_past(guard: Guard, connection: Connection, difference: float = CLOCK_DIFFERENCE) -> None:
    """Raise ClockError where the clock is more than ``difference`` seconds behind the ledger's last line.

    It jumped back since, or it had run ahead then: what is due cannot be told before somebody finds out which.
    """
    last = ledger.newest(connection, guard.own_table(LEDGER))
    behind = 0.0 if last is None else (datetime.fromisoformat(last.at) - guard.now()).total_seconds()
    if behind > difference:
        raise ClockError(
            f"The clock is {behind:.0f} seconds behind the last line of the ledger.",
            "Either it jumped back, or the line was written by one that ran ahead: what is due cannot be told.",
            "Set the clock (NTP). If it is the line that is wrong, wait until its instant has passed.",
            seconds=round(behind),
        )

"""The only reader of the system clock. Everything else is handed an instant."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from privkit.errors import ClockError

Clock = Callable[[], datetime]

monotonic: Callable[[], float] = time.monotonic
"""Seconds that never go back, for ages and time-outs inside one process."""


def system_clock() -> datetime:
    """Return the current instant, aware, in UTC."""
    return datetime.now(UTC)


def instant(clock: Clock) -> datetime:
    """Ask ``clock`` for the current instant, in UTC. Raises ClockError when it answers without a zone."""
    return as_utc(clock())


def as_utc(moment: datetime) -> datetime:
    """Return an aware ``moment`` in UTC. Raises ClockError for a naive one: nobody can know what it means."""
    if moment.tzinfo is None:
        raise ClockError(
            "An instant without a time zone was given.",
            "Retention would shift by the machine's UTC offset.",
            "Give an aware datetime, for example datetime.now(UTC).",
        )
    return moment.astimezone(UTC)

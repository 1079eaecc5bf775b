"""The numbers of ``privkit status`` for monitoring: names, and gauges whose labels are names of tables and rules.

``write_textfile`` writes them for node_exporter, after each run or from a timer, and needs no other library.
``privkit.integrations.prometheus`` and ``privkit.integrations.opentelemetry`` hand them out in a service.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from privkit import clock
from privkit.errors import InvalidValue, PrivkitError
from privkit.privacy import Privacy
from privkit.retention import Standing, Status

LABELS = ("table", "field", "rule")
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gauge:
    """One metric: its samples, each with the values of ``labels``."""

    name: str
    labels: tuple[str, ...]
    samples: tuple[tuple[Labels, float], ...]


NAMES = {
    "privkit_up": "Whether the status could be read.",
    "privkit_status_timestamp_seconds": "When the status was read.",
    "privkit_due_rows": "Values and rows that are due, overdue or not.",
    "privkit_overdue_rows": "Values and rows that a run should have destroyed.",
    "privkit_overdue_oldest_seconds": "For how long the oldest of what is due has been due.",
    "privkit_held_rows": "Values and rows that have ended and are under a hold.",
    "privkit_blocked_rows": "Rows that have ended and on which others depend.",
    "privkit_future_rows": "Rows with an event that is still to come.",
    "privkit_last_run_timestamp_seconds": "When the last run started.",
    "privkit_last_run_ok": "Whether the last run ended with nothing left.",
    "privkit_last_run_destroyed": "How many values and rows the last run destroyed.",
    "privkit_run_duration_seconds": "How long the last run took.",
    "privkit_last_proven_run_timestamp_seconds": "When a run last ended with nothing left.",
}
"""Every gauge, with what it is."""


def gauges(status: Status | None) -> Iterator[Gauge]:
    """Yield the gauges of a status. None: it could not be read; ``privkit_up`` alone is left, and is 0."""
    yield _alone("privkit_up", status is not None)
    if status is None:
        return
    yield _alone("privkit_status_timestamp_seconds", status.at.timestamp())
    for name, number in _OF_A_RULE.items():
        yield Gauge(name, LABELS, tuple((_labels(each), float(number(status, each))) for each in status.standings))
    if status.last is not None:
        yield _alone("privkit_last_run_timestamp_seconds", status.last.started.timestamp())
        yield _alone("privkit_last_run_ok", status.last.ok)
        yield _alone("privkit_last_run_destroyed", status.last.done)
        if status.last.duration is not None:
            yield _alone("privkit_run_duration_seconds", status.last.duration.total_seconds())
    if status.proven is not None:
        yield _alone("privkit_last_proven_run_timestamp_seconds", status.proven.timestamp())


def _alone(name: str, value: float) -> Gauge:
    return Gauge(name, (), (((), float(value)),))


def _labels(standing: Standing) -> Labels:
    return standing.table, standing.field or "", standing.rule


_OF_A_RULE: dict[str, Callable[[Status, Standing], float]] = {
    "privkit_due_rows": lambda _, each: each.due,
    "privkit_overdue_rows": lambda _, each: each.overdue,
    "privkit_overdue_oldest_seconds": lambda status, each: status.age(each).total_seconds(),
    "privkit_held_rows": lambda _, each: each.held,
    "privkit_blocked_rows": lambda _, each: each.blocked,
    "privkit_future_rows": lambda _, each: each.future,
}


def text(status: Status) -> str:
    """Return a status in Prometheus' text format."""
    lines = []
    for gauge in gauges(status):
        lines += [f"# HELP {gauge.name} {NAMES[gauge.name]}", f"# TYPE {gauge.name} gauge"]
        lines += [f"{gauge.name}{_written(gauge.labels, values)} {value!r}" for values, value in gauge.samples]
    return "\n".join(lines) + "\n"


def _written(names: tuple[str, ...], values: Labels) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{','.join(pairs)}}}" if names else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write_textfile(status: Status, path: str | os.PathLike[str]) -> None:
    """Write a status for node_exporter's textfile collector, all of it at once: a scrape sees the old or the new file.

    Whoever can enter the folder can read it. Raises OSError where it cannot be written.
    """
    target = Path(path)
    handle, draft = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text(status))
        os.chmod(draft, 0o644)  # node_exporter has an account of its own
        os.replace(draft, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft)
        raise


class Watched:
    """The gauges of one database, read again when they are ``max_age`` seconds old: a scrape is cheap."""

    def __init__(self, privacy: Privacy, engine: Engine, max_age: float = 300) -> None:
        if not max_age >= 0:
            raise InvalidValue("A maximum age is negative.", "", "Give seconds: max_age=300.")
        self._privacy, self._engine, self._max_age = privacy, engine, max_age
        self._lock = threading.Lock()
        self._read: float | None = None
        self._gauges: tuple[Gauge, ...] = ()

    def gauges(self) -> tuple[Gauge, ...]:
        """Return the gauges. Where the status cannot be read, ``privkit_up`` alone: no old number stands for a new."""
        with self._lock:
            now = clock.monotonic()
            if self._read is None or now - self._read >= self._max_age:
                self._gauges = tuple(gauges(self._status()))
                self._read = clock.monotonic()
            return self._gauges

    def _status(self) -> Status | None:
        try:
            return self._privacy.status(self._engine)
        except (PrivkitError, SQLAlchemyError):  # what is wrong, `privkit status` says
            return None

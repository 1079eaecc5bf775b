"""What the batches of a run share: the job, how many rows the next batch has, and what could not be done."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from privkit.retention.limits import Limits, Watch, limit_waiting
from privkit.retention.plan import Step
from privkit.retention.retry import Retry
from privkit.sqlalchemy import writers
from privkit.sqlalchemy.guard import Guard

Progress = Callable[[Step, int], None]
Key = tuple[Any, ...]

UNOPENED = "does not open"
"""What keeps a row whose value does not open, so that no residue can be made of it."""
_SLOW, _QUICK = 1.0, 0.25
"""Seconds: a batch that took longer is halved, one that took less is doubled."""


@dataclass(slots=True)
class Size:
    """How many rows the next batch has."""

    rows: int
    least: int
    most: int

    @classmethod
    def of(cls, batch: int | None) -> Size:
        """``batch`` rows and never more; without, what the database does in a moment."""
        return cls(1000, 100, 10_000) if batch is None else cls(batch, min(100, batch), batch)

    @classmethod
    def of_range(cls, batch: int | None) -> Size:
        """The same, where rows do not come to Python."""
        return cls(5000, 500, 50_000) if batch is None else cls.of(batch)

    def shrink(self) -> None:
        """Halve it."""
        self.rows = max(self.least, self.rows // 2)

    def took(self, seconds: float) -> None:
        """Fit it to how long a batch took."""
        if seconds > _SLOW:
            self.shrink()
        elif seconds < _QUICK:
            self.rows = min(self.most, self.rows * 2)


@dataclass(frozen=True, slots=True)
class Job:
    """What all batches of a run share."""

    guard: Guard
    engine: Engine
    run_id: str
    as_of: datetime
    batch: int | None
    limits: Limits
    retry: Retry
    watch: Watch
    progress: Progress | None
    telling: threading.Lock = field(default_factory=threading.Lock)

    @property
    def shares(self) -> bool:
        """Whether workers can share a table: the database lets each take rows that no other holds."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def transaction(self, patience: float = math.inf) -> Iterator[Connection]:
        """Begin a transaction that never makes others wait for long. ``patience``: how long it waits at most."""
        with self.engine.connect() as connection:
            if self.shares:
                # At a higher level a hold that is placed meanwhile would not be seen.
                how: Any = {"isolation_level": "READ COMMITTED", writers.GIVES_WAY: True}
                connection = connection.execution_options(**how)
            with connection.begin():
                if self.shares:
                    lock_timeout = min(self.limits.lock_timeout, patience)
                    limit_waiting(connection, lock_timeout, self.limits.statement_timeout)
                yield connection

    def tell(self, step: Step, rows: int) -> None:
        """Report progress; one worker at a time."""
        if self.progress is not None:
            with self.telling:
                self.progress(step, rows)


@dataclass(slots=True)
class Tally:
    """What the workers of one step could not do. ``failed``: why each row was left, by its key.

    ``one_by_one``: whether each row was looked at. Where none was, what fell due meanwhile is not done yet.
    """

    failed: dict[Key, str] = field(default_factory=dict)
    one_by_one: bool = False
    locked: int = 0
    error: str | None = None

    @property
    def blockers(self) -> dict[str, int]:
        """How many rows each constraint or kind of error kept, and how many values did not open."""
        return dict(sorted(Counter(self.failed.values()).items()))

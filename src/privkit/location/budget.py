"""How many noisy places of a data subject may be shown in a period: the decision, and what remembers the spending."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Protocol

from privkit.clock import as_utc
from privkit.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Budget:
    """New places of a data subject may cost at most ``eps`` (per metre, all added up) within any ``period``.

    ``Budget(20 * noise.eps, timedelta(days=1))`` allows twenty places a day. Losses add up (Dwork and Roth, The
    Algorithmic Foundations of Differential Privacy, theorem 3.16).
    """

    eps: float
    period: timedelta

    def __post_init__(self) -> None:
        if not (0 < self.eps < math.inf and self.period > timedelta()):
            raise InvalidValue(
                "A budget is a finite number above 0 in a period above 0.",
                "",
                "Give for example Budget(20 * noise.eps, timedelta(days=1)).",
            )

    def allows(self, spent: Iterable[float], cost: float) -> bool:
        """Return whether ``cost`` more is within the limit after what was ``spent`` in the period."""
        return math.fsum((*spent, cost)) <= self.eps * (1 + 1e-9)  # a sum of twenty twentieths is the whole


class Spending(Protocol):
    """Remembers which reports were made of a data subject, for as long as a budget's period."""

    def spend(self, subject: str, report: bytes, cost: float, budget: Budget, now: datetime) -> bool:
        """Return whether ``report`` may be made at ``now``, and remember it if so, both in one step.

        A report of the last ``budget.period`` may be made again at no cost. ``report`` is a keyed token of 16 bytes,
        so what is remembered names no place to who lacks the key. Two processes must not both spend the last of it:
        a database locks the data subject's row, or checks and writes in one serialisable transaction.
        """
        ...


class SpendingInMemory:
    """Spending of one process; it is forgotten when that ends, and other processes do not see it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: dict[str, dict[bytes, tuple[datetime, float]]] = {}

    def spend(self, subject: str, report: bytes, cost: float, budget: Budget, now: datetime) -> bool:
        now = as_utc(now)
        with self._lock:
            past = self._made.get(subject, {})
            made = {known: entry for known, entry in past.items() if entry[0] > now - budget.period}
            allowed = report in made or budget.allows((each for _, each in made.values()), cost)
            if allowed:
                made.setdefault(report, (now, cost))
            if made:
                self._made[subject] = made
            else:
                self._made.pop(subject, None)
            return allowed

    def forget(self, subject: str) -> None:
        """Drop what is remembered of a data subject, as after an erasure."""
        with self._lock:
            self._made.pop(subject, None)

    def __repr__(self) -> str:
        return "SpendingInMemory(...)"

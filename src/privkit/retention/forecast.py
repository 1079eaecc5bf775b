"""What falls due when, in the days to come: the plan's own predicate at one instant after another.

It is about what is stored now. What is written, closed, held or withdrawn after today changes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from privkit import purposes
from privkit.errors import InvalidValue
from privkit.retention import moments, planner
from privkit.sqlalchemy import due
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard

DAILY = 100
"""Up to how many days are told one by one; more of them by the week."""

LONGEST = 700


@dataclass(frozen=True, slots=True)
class Expected:
    """What falls due of one field of a table, of its rows, or of the keys of a field's epochs.

    ``falling``: how many fall due by each instant of the forecast that had not by the one before, if a run comes at
    each of them. ``due``: how many a plan counts at each of them, if no run comes before it.
    """

    table: str
    field: str | None
    technique: str
    rule: str
    falling: tuple[int, ...]
    due: tuple[int, ...]

    @property
    def name(self) -> str:
        """``table.field``, or the table's name alone for its rows."""
        return f"{self.table}.{self.field}" if self.field else self.table


@dataclass(frozen=True, slots=True)
class Forecast:
    """What falls due by each of ``instants``, of which the first is when it was made: what is due already."""

    instants: tuple[datetime, ...]
    policy_digest: str
    expected: tuple[Expected, ...]

    @property
    def falling(self) -> tuple[int, ...]:
        """How many values and rows fall due by each instant that had not by the one before."""
        return tuple(sum(each.falling[number] for each in self.expected) for number in range(len(self.instants)))

    def json(self) -> str:
        """Return it as JSON text."""
        body = {"privkit_forecast": 1, **asdict(self)}
        return json.dumps(body, indent=2, default=datetime.isoformat)


def make(guard: Guard, connection: Connection, days: int = 90) -> Forecast:
    """Count what falls due in the next ``days`` (1 to 700) of what is stored now.

    By the day for up to 100 days, else by the week. Raises InvalidValue for another number of days.
    """
    if not 1 <= days <= LONGEST:
        raise InvalidValue("A forecast is for 1 to 700 days.", "", "Give days=90.")
    now = guard.now()
    width = 1 if days <= DAILY else 7
    instants = [now + timedelta(days=number) for number in (*range(0, days, width), days)]
    with purposes.internally():
        found = [_expected(guard, connection, target, instants) for target in due.targets(guard)]
    return Forecast(tuple(instants), guard.policy.digest, tuple(each for each in found if each is not None))


def _expected(guard: Guard, connection: Connection, target: Target, instants: Sequence[datetime]) -> Expected | None:
    found = moments.falling_due(guard, connection, target, instants)
    if found is None:
        return None
    counted, falling = zip(*found, strict=True)
    return Expected(
        target.table.fullname,
        target.field,
        planner.technique(target),
        planner.rule(guard, target),
        falling,
        counted,
    )

"""What is overdue, since when, and how the last runs ended: the number to be alarmed by.

What is *due* waits for the next run. It is *overdue* once a run should have destroyed it: it was due already at the
instant of the last run that ended, or it has been due for longer than the grace; while no run has ever ended, at once.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Date, and_, case, func, literal, or_, select, type_coerce

from privkit import purposes
from privkit.errors import InvalidValue
from privkit.retention import limits, moments, planner, runs
from privkit.retention.planner import count
from privkit.retention.runs import PastRun
from privkit.sqlalchemy import due, outbox
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.events import event_time, stored
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.types import plain_type

GRACE = timedelta(days=1)
"""For how long something may be due before it is overdue, where a run came and went: a run a day."""

AHEAD = timedelta(minutes=5)
"""How far ahead of the clock an event may be before its row counts as one from the future."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one step of a plan stands. ``due`` counts the overdue too; ``oldest``: since when the oldest has been due.

    ``held`` and ``blocked`` have ended and wait for a hold to end or for rows that depend on them. ``future``: rows
    with an event that is still to come, from which nothing counts yet: a clock was wrong, or a value.
    """

    table: str
    field: str | None
    rule: str
    due: int
    overdue: int
    oldest: datetime | None
    held: int = 0
    blocked: int = 0
    future: int = 0

    @property
    def name(self) -> str:
        """``table.field``, or the table's name alone for its rows."""
        return f"{self.table}.{self.field}" if self.field else self.table


@dataclass(frozen=True, slots=True)
class Status:
    """How a database stands at one instant. What was due at ``deadline`` is overdue.

    ``last``: the last run to start. ``proven``: when a run last ended with nothing left; None: never.
    ``files_pending``: files whose rows are gone and that may still be there; overdue are those whose store failed, and
    those that have waited since before ``deadline``.
    """

    at: datetime
    deadline: datetime
    standings: tuple[Standing, ...]
    last: PastRun | None
    proven: datetime | None
    files_pending: int = 0
    files_overdue: int = 0

    @property
    def due(self) -> int:
        """How many values and rows are due, overdue or not."""
        return sum(each.due for each in self.standings)

    @property
    def overdue(self) -> int:
        """How many values and rows are overdue."""
        return sum(each.overdue for each in self.standings)

    @property
    def ok(self) -> bool:
        """Whether nothing is overdue, no file either."""
        return not (self.overdue or self.files_overdue)

    def age(self, standing: Standing) -> timedelta:
        """Return for how long the oldest of a step has been due; nothing where none is."""
        return self.at - standing.oldest if standing.oldest is not None else timedelta()

    def json(self) -> str:
        """Return it as JSON text."""
        last = None if self.last is None else asdict(self.last) | {"ok": self.last.ok, "result": self.last.result}
        body = {
            "privkit_status": 1,
            "at": self.at,
            "deadline": self.deadline,
            "due": self.due,
            "overdue": self.overdue,
            "files_pending": self.files_pending,
            "files_overdue": self.files_overdue,
            "standings": [asdict(each) for each in self.standings],
            "last_run": last,
            "proven": self.proven,
        }
        return json.dumps(body, indent=2, default=datetime.isoformat)


def read(guard: Guard, connection: Connection, grace: timedelta = GRACE) -> Status:
    """Count what is due and overdue now. Nothing is changed and nothing locked, so that it can be asked often.

    Raises ClockError where the clock is far from the database server's or behind the ledger, InvalidValue for a
    negative grace, and what the driver raises: a table that cannot be counted is no table without overdue rows.
    """
    if grace < timedelta():
        raise InvalidValue("A grace is negative.", "", "Give timedelta(days=1), or none for a run a day.")
    limits.refuse_clock(connection, guard.now, limits.Limits())
    with purposes.internally():
        limits.refuse_past(guard, connection)
        now, last, ended, proven = guard.now(), None, None, None
        for run in runs.past(guard, connection):
            last = last or run
            ended = ended or (run if run.ended is not None else None)
            if run.ok:
                proven = run.ended
                break
        deadline = now if ended is None else min(now, max(ended.as_of, now - grace))
        found = [_standing(guard, connection, target, now, deadline) for target in due.targets(guard)]
        files = outbox.pending(connection, guard), outbox.pending(connection, guard, since=deadline)
    return Status(now, deadline, tuple(each for each in found if each is not None), last, proven, *files)


def _standing(
    guard: Guard, connection: Connection, target: Target, now: datetime, deadline: datetime
) -> Standing | None:
    predicate, late = due.due(guard, target, lambda: now), due.parts(guard, target, lambda: deadline)
    if predicate is None or late is None:
        return None
    query = select(func.count(), func.count(case((late[0], 1)))).select_from(target.table).where(predicate)
    waiting, overdue = connection.execute(query).one()
    held = planner.held(guard, target, lambda: now)
    blocked = due.blocked(guard, target.table, lambda: now) if target.field is None else None
    future = _future(guard, target, now)
    return Standing(
        target.table.fullname,
        target.field,
        planner.rule(guard, target),
        waiting,
        overdue,
        moments.oldest(guard, connection, target, now) if waiting else None,
        count(connection, target, held) if held is not None else 0,
        count(connection, target, blocked) if blocked is not None else 0,
        count(connection, target, future) if future is not None else 0,
    )


def _future(guard: Guard, target: Target, now: datetime) -> ColumnElement[bool] | None:
    """SQL for rows from the future, where there is still something to destroy."""
    if target.divided is not None:
        return None
    found = []
    for event in sorted({event for _, keep in runs.deciding(guard, target) for event in keep.events}):
        time = event_time(guard, target.table, target.table, event)
        kind: Any = plain_type(time)
        limit: date = stored(now + AHEAD, kind)
        if isinstance(kind, Date):  # somewhere it is tomorrow already
            limit = now.date() + timedelta(days=1)
        found.append(type_coerce(time, kind) > literal(limit, kind))
    return or_(*found) if target.column is None else and_(or_(*found), due.not_done(target))

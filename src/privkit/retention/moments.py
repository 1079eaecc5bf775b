"""What is due at many instants, by the predicate of the plan itself: built and compiled once, asked again and again.

What is due of the same rows stays due as time goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Executable, case, func, literal, select

from privkit.sqlalchemy import due
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.events import MINIMUM, event_time
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.row_facts import as_instant
from privkit.sqlalchemy.types import plain_type

_SECOND = timedelta(seconds=1)


class Asked:
    """A query about a target whose instants are set when it is run: ``at``, and ``before``, an earlier one."""

    def __init__(self, target: Target, build: Callable[[Asked], Executable]) -> None:
        self.at = self.before = MINIMUM
        self._target, self._build = target, build
        self._built: Executable | None = None

    def run(self, connection: Connection, at: datetime, before: datetime = MINIMUM) -> Any:
        """Return the query's one row, or None."""
        self.at, self.before = at, before
        if self._built is None or self._target.divided is not None:  # an epoch's cut-off is no bind that asks again
            self._built = self._build(self)
        return connection.execute(self._built).first()


def falling_due(
    guard: Guard, connection: Connection, target: Target, instants: Sequence[datetime]
) -> Iterator[tuple[int, int]] | None:
    """Yield for each of ``instants``, which ascend, how many are due, and how many of them not at the one before.

    None: the target is kept for ever.
    """
    if due.due(guard, target, lambda: instants[0]) is None:
        return None

    def build(asked: Asked) -> Executable:
        chosen = due.due(guard, target, lambda: asked.at)
        earlier = due.parts(guard, target, lambda: asked.before)
        assert chosen is not None
        assert earlier is not None
        anew = func.count(case((earlier[0], None), else_=literal(1)))
        return select(func.count(), anew).select_from(target.table).where(chosen)

    asked, before = Asked(target, build), [MINIMUM, *instants]
    return ((due_, anew) for due_, anew in map(asked.run, [connection] * len(instants), instants, before))


def oldest(guard: Guard, connection: Connection, target: Target, now: datetime) -> datetime | None:
    """Return since when the oldest of what is due at ``now`` has been due; None: nothing is.

    Exact where one event decides, otherwise to a second.
    """
    predicate = due.due(guard, target, lambda: now)
    if predicate is None:
        return None
    keeps = [keep for keep in (target.keeps or due.row_keeps(guard, target.table)).values() if keep is not None]
    if target.divided is None and {(keep.anchor, keep.lapses) for keep in keeps} == {((keeps[0].after, ""), ())}:
        event = event_time(guard, target.table, target.table, keeps[0].after)
        query = select(func.min(event, type_=plain_type(event))).select_from(target.table).where(predicate)
        first = as_instant(connection.execute(query).scalar())
        return None if first is None else max(keep.period.after(first) for keep in keeps)
    return _by_halves(guard, connection, target, now)


def _by_halves(guard: Guard, connection: Connection, target: Target, now: datetime) -> datetime | None:
    """Databases share no SQL for calendar arithmetic, so the instant is searched for."""

    def build(asked: Asked) -> Executable:
        chosen, earlier = due.due(guard, target, lambda: now), due.parts(guard, target, lambda: asked.at)
        assert chosen is not None
        assert earlier is not None
        return select(literal(1)).select_from(target.table).where(chosen, earlier[0]).limit(1)

    asked, not_yet, already = Asked(target, build), MINIMUM, now
    if asked.run(connection, now) is None:
        return None
    while already - not_yet > _SECOND:
        middle = not_yet + (already - not_yet) / 2
        if asked.run(connection, middle) is None:
            not_yet = middle
        else:
            already = middle
    return already

"""At which of many instants something falls due, in one statement over the predicate of the plan itself.

What is due of the same rows stays due as time goes on. So of many instants the first at which a row is due is found
by halving, as SQL: seven looks at a row tell one of a hundred instants.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Select, case, func, literal_column, select

from privkit.sqlalchemy import due
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.events import MINIMUM, event_time
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.row_facts import as_instant
from privkit.sqlalchemy.types import plain_type

PARTS = 64
"""In how many parts one statement divides a span of time."""

_LONGEST = timedelta(days=200 * 366)
_SECOND = timedelta(seconds=1)


def first_of(conditions: Sequence[ColumnElement[bool]], number: int = 0) -> ColumnElement[int]:
    """Return SQL for the number of the first of ``conditions`` that holds, or of none; all after it have to hold."""
    if not conditions:
        return literal_column(str(number), Integer())
    middle = len(conditions) // 2
    before = first_of(conditions[:middle], number)
    return case((conditions[middle], before), else_=first_of(conditions[middle + 1 :], number + middle + 1))


def falling_due(guard: Guard, target: Target, instants: Sequence[datetime]) -> Select[Any] | None:
    """Return a query for how many rows fall due at which of ``instants``, which ascend; None: they never do.

    Its rows: the number of the first instant at which the time of a target is over, that of the first at which its row
    goes as a whole instead (``len(instants)``: at none), and how many.
    """
    found = [due.parts(guard, target, lambda at=at: at) for at in instants]  # type: ignore[misc]
    known = [each for each in found if each is not None]
    if not known:
        return None
    whole = [row for _, row in known if row is not None]
    ended = [each for each, _ in known]
    numbers = first_of(ended).label("ended"), first_of(whole, 0 if whole else len(instants)).label("whole")
    inner = select(*numbers).select_from(target.table).where(ended[-1]).subquery()
    return select(inner.c.ended, inner.c.whole, func.count()).group_by(inner.c.ended, inner.c.whole)


def oldest(guard: Guard, connection: Connection, target: Target, now: datetime) -> datetime | None:
    """Return since when the oldest of what is due at ``now`` has been due; None: nothing is.

    Exact where one event decides, otherwise to a second.
    """
    predicate = due.due(guard, target, lambda: now)
    if predicate is None:
        return None
    keeps = [keep for keep in (target.keeps or due.row_keeps(guard, target.table)).values() if keep is not None]
    if target.divided is None and {keep.anchor for keep in keeps} == {(keeps[0].after, "")}:
        event = event_time(guard, target.table, target.table, keeps[0].after)
        query = select(func.min(event, type_=plain_type(event))).select_from(target.table).where(predicate)
        first = as_instant(connection.execute(query).scalar())
        return None if first is None else max(keep.period.after(first) for keep in keeps)
    return _by_parts(guard, connection, target, now, select(target.table).where(predicate))


def _by_parts(
    guard: Guard, connection: Connection, target: Target, now: datetime, rows: Select[Any]
) -> datetime | None:
    """Halve the time until ``now`` down to a second. There is no SQL for calendar arithmetic that databases share."""
    latest, span = now, min(_LONGEST, now - MINIMUM)
    while span > _SECOND:
        instants = [latest - span * number / PARTS for number in range(PARTS - 1, 0, -1)]
        query = rows.with_only_columns(func.min(first_of(_ended(guard, target, instants))), maintain_column_froms=True)
        number = connection.execute(query).scalar()
        if number is None:
            return None
        latest, span = [*instants, latest][number], span / PARTS
    return latest


def _ended(guard: Guard, target: Target, instants: Sequence[datetime]) -> list[ColumnElement[bool]]:
    found = (due.parts(guard, target, lambda at=at: at) for at in instants)  # type: ignore[misc]
    return [each[0] for each in found if each is not None]

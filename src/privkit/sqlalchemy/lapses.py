"""From when on a purpose ends early, as SQL beside each row: consent is missing, or its period runs for a child."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

from sqlalchemy import ColumnElement, Date, FromClause, Table, and_, case, func, not_, or_, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from privkit.consent.age import cautious_today
from privkit.policy.lapses import CHILD, IN_PERSON, Lapse
from privkit.sqlalchemy import children
from privkit.sqlalchemy.events import event_time
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.ownership import hop
from privkit.sqlalchemy.standing import asked_at, spoken, withdrawn_at
from privkit.sqlalchemy.tables import CONSENT
from privkit.sqlalchemy.types import plain_type

Now = Callable[[], datetime]


def missing_since(guard: Guard, table: Table, at: FromClause, lapse: Lapse, now: Now) -> list[ColumnElement[Any]]:
    """Return SQL for when consent began to be missing: one of them is not NULL where it is. Empty: for nobody's rows.

    Of a child: when a guardian refused, withdrew or was asked in vain, or when it was recorded that the last consent
    ended. Of somebody who came of age here: the day of age, and after an answer in person when that was taken back or
    ended. With ``CHILD`` it is when the period began to run, where that was for a child.
    """
    subject = children.subject_of(guard, table)
    if subject is None or subject.model.child is None:
        return []
    consent, name = guard.own_table(CONSENT), lapse.purpose

    def of_child(row: FromClause) -> ColumnElement[Any]:
        young = children.still_child(row, lambda: cautious_today(now()))
        key = row.c[KEY_COLUMN]
        return case((young, func.coalesce(withdrawn_at(consent, key, name), asked_at(consent, key, name))))

    def day_of_age(row: FromClause) -> ColumnElement[Any]:
        day, key = row.c[ADULT_COLUMN], row.c[KEY_COLUMN]
        unanswered = not_(spoken(consent, key, name, in_person=True))
        return case((and_(day > children.ADULT, spoken(consent, key, name), unanswered), day))

    def of_answer(row: FromClause) -> ColumnElement[Any]:
        key = row.c[KEY_COLUMN]
        grown = and_(row.c[ADULT_COLUMN] > children.ADULT, spoken(consent, key, name, in_person=True))
        return case((grown, withdrawn_at(consent, key, name)))

    if lapse.whose == CHILD:
        keep = guard.policy.purposes[name].keep
        assert keep is not None
        began = event_time(guard, table, at, keep.after)
        return [case((was_child(guard, table, at, began), began))]
    wanted = (day_of_age, of_answer) if lapse.whose == IN_PERSON else (of_child,)
    return [_of_subject(guard, table, at, each) for each in wanted]


def was_child(guard: Guard, table: Table, at: FromClause, moment: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return SQL that is true where the data subject was a child on the day (UTC) of ``moment``, or is not known."""
    day = _of_subject(guard, table, at, lambda row: row.c[ADULT_COLUMN])
    return or_(day.is_(None), day > moment if isinstance(plain_type(moment), Date) else day > _UtcDay(moment))


class _UtcDay(FunctionElement[date]):
    """The day of an instant, in UTC; a naive one is in UTC already."""

    name = "privkit_utc_day"
    type = Date()
    inherit_cache = True


@compiles(_UtcDay)
def _utc_day(element: _UtcDay, compiler: SQLCompiler, **kw: Any) -> str:
    return f"date({compiler.process(element.clauses, **kw)})"


@compiles(_UtcDay, "postgresql")
def _utc_day_on_postgresql(element: _UtcDay, compiler: SQLCompiler, **kw: Any) -> str:
    (moment,) = element.clauses
    inner = compiler.process(moment, **kw)
    in_utc = f"timezone('UTC', {inner})" if getattr(moment.type, "timezone", False) else inner
    return f"CAST({in_utc} AS DATE)"


def _of_subject(
    guard: Guard, table: Table, at: FromClause, value: Callable[[FromClause], ColumnElement[Any]]
) -> ColumnElement[Any]:
    """Ask the data subject's row, at the end of the joins from ``at``."""
    step = hop(guard, table)
    if step is None:
        return value(at)
    remote = own_alias(step.target, beside=at)
    inner = _of_subject(guard, step.target, remote, value)
    return select(inner).where(step.joins(at, remote)).correlate_except(remote).scalar_subquery()

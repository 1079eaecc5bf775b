"""Since when consent to a purpose is missing, as SQL beside each row: ``without_consent`` counts from it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Table, and_, case, func, not_, select

from privkit.consent.age import cautious_today
from privkit.policy.lapses import IN_PERSON, Lapse
from privkit.sqlalchemy import children
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.ownership import hop
from privkit.sqlalchemy.standing import asked_at, spoken, withdrawn_at
from privkit.sqlalchemy.tables import CONSENT

Now = Callable[[], datetime]


def missing_since(guard: Guard, table: Table, at: FromClause, lapse: Lapse, now: Now) -> list[ColumnElement[Any]]:
    """Return SQL for when consent began to be missing: one of them is not NULL where it is. Empty: for nobody's rows.

    Of a child: when a guardian refused, withdrew or was asked in vain, or when it was recorded that the last consent
    ended. Of somebody who came of age here: the day of age, and after an answer in person when that was taken back or
    ended.
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

    wanted = (day_of_age, of_answer) if lapse.whose == IN_PERSON else (of_child,)
    return [_of_subject(guard, table, at, each) for each in wanted]


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

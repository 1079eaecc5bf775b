"""Which words of guardians stand, as SQL: the same decision as ``privkit.consent.state``, beside each row."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    FromClause,
    Table,
    and_,
    bindparam,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
)

from privkit.clock import as_utc
from privkit.consent.state import ASKED, GIVEN, LAPSED, NO
from privkit.policy import ConsentTerms

Now = Callable[[], datetime]


def given(consent: Table, subject: Any, purpose: str, terms: ConsentTerms, now: Now) -> ColumnElement[bool]:
    """Return SQL that is true where consent to a purpose counts. ``subject``: the key id, as SQL."""
    said, no = consent.alias("privkit_said"), consent.alias("privkit_no")
    theirs = said.c.subject == subject, said.c.purpose == purpose, said.c.event == GIVEN
    yes = select(1).where(*theirs, not_(_replaced(consent, said)), *_counting(said, terms, now))
    against = select(1).where(no.c.subject == subject, no.c.purpose == purpose, *_standing(consent, no))
    return and_(exists(yes.correlate_except(said)), not_(exists(against.correlate_except(no))))


def withdrawn_at(consent: Table, subject: Any, purpose: str) -> Any:
    """Return SQL for when consent to a purpose was refused or withdrawn; NULL where no such word stands."""
    no = consent.alias("privkit_no")
    theirs = no.c.subject == subject, no.c.purpose == purpose
    return select(func.max(no.c.at)).where(*theirs, *_standing(consent, no)).correlate_except(no).scalar_subquery()


def _counting(said: FromClause, terms: ConsentTerms, now: Now) -> list[ColumnElement[bool]]:
    instant = DateTime(timezone=True)
    at_once = bindparam(None, callable_=lambda: as_utc(now()), type_=instant)
    found = [or_(said.c.expires.is_(None), said.c.expires > at_once)]
    if terms.valid is not None:
        valid = terms.valid
        cutoff = bindparam(None, callable_=lambda: valid.cutoff(now()), type_=instant)
        found.append(func.coalesce(said.c.claimed_at, said.c.at) > cutoff)
    if terms.methods is not None:
        found.append(said.c.method.in_(terms.methods))
    for since, names in terms.renewals:
        begins = literal(datetime.combine(since, time.min, UTC), instant)
        found.append(or_(begins > at_once, said.c.notice.in_(names)))
    return found


def _later(consent: Table, than: FromClause) -> tuple[FromClause, list[ColumnElement[bool]]]:
    later = consent.alias("privkit_later")
    return later, [later.c.subject == than.c.subject, later.c.purpose == than.c.purpose, later.c.seq > than.c.seq]


def _replaced(consent: Table, said: FromClause) -> ColumnElement[bool]:
    later, of_those = _later(consent, said)
    same = or_(later.c.guardian == said.c.guardian, later.c.guardian.is_(None))
    return exists(select(1).where(*of_those, later.c.event != ASKED, same).correlate_except(later))


def _standing(consent: Table, no: FromClause) -> list[ColumnElement[bool]]:
    """Of a refusal or withdrawal: that nothing later ends it."""
    later, of_those = _later(consent, no)
    gone = and_(later.c.event == LAPSED, later.c.guardian == no.c.guardian)
    since = func.coalesce(no.c.claimed_at, no.c.at)
    newer = and_(later.c.at != no.c.at, or_(later.c.claimed_at.is_(None), later.c.claimed_at > since))
    same = or_(no.c.guardian.is_(None), later.c.guardian == no.c.guardian)
    ended = select(1).where(*of_those, or_(gone, and_(later.c.event == GIVEN, same, newer)))
    return [no.c.event.in_(NO), not_(exists(ended.correlate_except(later)))]

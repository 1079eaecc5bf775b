"""Which words of guardians stand, as SQL: the same decision as ``privkit.consent.state``, beside each row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, time
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    FromClause,
    Table,
    and_,
    exists,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
)

from privkit.clock import as_utc
from privkit.consent.state import ASKED, ENDED, GIVEN, IN_PERSON, LAPSED, NO
from privkit.policy import ConsentTerms
from privkit.sqlalchemy.late import late

Now = Callable[[], datetime]

_EACH: Any = literal_column("0")
"""As an offset, it has PostgreSQL look a child's words up by the index: it would read all words of everybody otherwise,
for each statement, since it does not reckon with most rows being of age and needing no look.
"""


def given(
    consent: Table, subject: Any, purpose: str, terms: ConsentTerms, now: Now, *, in_person: bool = False
) -> ColumnElement[bool]:
    """Return SQL that is true where consent to a purpose counts. ``subject``: the key id, as SQL.

    ``in_person``: the data subject came of age, and the own word alone counts.
    """
    no = _words(consent, "privkit_no")
    yes = _yes(consent, subject, purpose, terms if not in_person else replace(terms, methods=None), now, in_person)
    heard = [no.c.guardian.is_(None) | (no.c.guardian == IN_PERSON)] if in_person else []
    against = select(1).where(no.c.subject == subject, no.c.purpose == purpose, *heard)
    against = against.where(no.c.event.in_(NO), not_(_overcome(consent, no, in_person=in_person)))
    return and_(yes, not_(exists(against.offset(_EACH).correlate_except(no))))


def spoken(consent: Table, subject: Any, purpose: str, *, in_person: bool = False) -> ColumnElement[bool]:
    """Return SQL that is true where there is any word on a purpose; ``in_person``: an answer of the data subject's."""
    word = _words(consent, "privkit_word")
    found = select(1).where(word.c.subject == subject, word.c.purpose == purpose)
    if in_person:
        found = found.where(word.c.guardian == IN_PERSON, word.c.event != ASKED)
    return exists(found.correlate_except(word))


def withdrawn_at(consent: Table, subject: Any, purpose: str) -> Any:
    """Return SQL for when consent to a purpose was refused or withdrawn, or when it was recorded that the last ended.

    NULL where nothing of the kind stands. What the data subject consents to after it came of age undoes it as well.
    """
    no = _words(consent, "privkit_no")
    theirs = no.c.subject == subject, no.c.purpose == purpose
    stands = and_(no.c.event.in_(NO), not_(_overcome(consent, no)))
    ended = and_(no.c.event.in_(ENDED), not_(_yes(consent, subject, purpose)))
    own, of_those = _later(consent, no)
    own_yes = exists(
        select(1).where(*of_those, own.c.event == GIVEN, own.c.guardian == IN_PERSON).correlate_except(own)
    )
    query = select(func.max(no.c.at)).where(*theirs, or_(stands, ended), not_(own_yes))
    return query.correlate_except(no).scalar_subquery()


def asked_at(consent: Table, subject: Any, purpose: str) -> Any:
    """Return SQL for when consent to a purpose was first asked for without any answer since; NULL: there is one."""
    asked = _words(consent, "privkit_asked")
    later, of_those = _later(consent, asked)
    answered = exists(select(1).where(*of_those, later.c.event != ASKED).correlate_except(later))
    theirs = asked.c.subject == subject, asked.c.purpose == purpose, asked.c.event == ASKED
    query = select(func.min(asked.c.at)).where(*theirs, not_(answered), not_(_yes(consent, subject, purpose)))
    return query.correlate_except(asked).scalar_subquery()


@lru_cache(maxsize=64)
def _words(consent: Table, name: str) -> FromClause:
    """An alias of the ledger: made once, since to make its columns is most of what each statement would cost."""
    return consent.alias(name)


def _yes(
    consent: Table,
    subject: Any,
    purpose: str,
    terms: ConsentTerms | None = None,
    now: Now | None = None,
    in_person: bool | None = None,
) -> ColumnElement[bool]:
    """SQL that is true where a consent was given that no later word replaces, and which counts by ``terms``.

    ``in_person``: by the data subject, or by a guardian; None: by either.
    """
    said = _words(consent, "privkit_said")
    found = select(1).where(said.c.subject == subject, said.c.purpose == purpose, said.c.event == GIVEN)
    if in_person is not None:
        found = found.where(said.c.guardian == IN_PERSON if in_person else said.c.guardian != IN_PERSON)
    if terms is not None and now is not None:
        found = found.where(*_counting(said, terms, now))
    return exists(found.where(not_(_replaced(consent, said))).offset(_EACH).correlate_except(said))


def _counting(said: FromClause, terms: ConsentTerms, now: Now) -> list[ColumnElement[bool]]:
    instant = DateTime(timezone=True)
    at_once = late(lambda: as_utc(now()), instant)
    found = [or_(said.c.expires.is_(None), said.c.expires > at_once)]
    if terms.valid is not None:
        valid = terms.valid
        cutoff = late(lambda: valid.cutoff(now()), instant)
        found.append(func.coalesce(said.c.claimed_at, said.c.at) > cutoff)
    if terms.methods is not None:
        found.append(said.c.method.in_(terms.methods))
    for since, names in terms.renewals:
        begins = literal(datetime.combine(since, time.min, UTC), instant)
        found.append(or_(begins > at_once, said.c.notice.in_(names)))
    return found


def _later(consent: Table, than: FromClause) -> tuple[FromClause, list[ColumnElement[bool]]]:
    later = _words(consent, "privkit_later")
    return later, [later.c.subject == than.c.subject, later.c.purpose == than.c.purpose, later.c.seq > than.c.seq]


def _replaced(consent: Table, said: FromClause) -> ColumnElement[bool]:
    later, of_those = _later(consent, said)
    same = or_(later.c.guardian == said.c.guardian, later.c.guardian.is_(None))
    return exists(select(1).where(*of_those, later.c.event != ASKED, same).correlate_except(later))


def _overcome(consent: Table, no: FromClause, *, in_person: bool = False) -> ColumnElement[bool]:
    """Of a refusal or withdrawal: that something later ends it; ``in_person``: that the data subject said."""
    later, of_those = _later(consent, no)
    gone = and_(later.c.event == LAPSED, later.c.guardian == no.c.guardian)
    since = func.coalesce(no.c.claimed_at, no.c.at)
    newer = and_(later.c.at != no.c.at, or_(later.c.claimed_at.is_(None), later.c.claimed_at > since))
    same = or_(no.c.guardian.is_(None), later.c.guardian == no.c.guardian)
    ends = or_(gone, and_(later.c.event == GIVEN, same, newer))
    if in_person:
        ends = and_(ends, later.c.guardian == IN_PERSON)
    return exists(select(1).where(*of_those, ends).correlate_except(later))

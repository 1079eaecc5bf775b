"""Who is to be asked for consent: whoever came of age, or will soon, and children whose guardians' consent ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby

from sqlalchemy import Connection, select

from privkit.consent.age import cautious_today
from privkit.consent.state import ASKED, GIVEN, LAPSED, NO, ConsentEvent, standing, state
from privkit.policy import ConsentTerms
from privkit.policy.lapses import GUARDIAN, IN_PERSON
from privkit.purposes import internally
from privkit.sqlalchemy import children, consent_rows
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN

WITHIN = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class ToAsk:
    """One data subject of whom consent to ``purposes`` is missing, or will be from ``day`` (UTC) on.

    ``subject``: the key id, in hexadecimal. ``table``: where the row is. ``whose``: ``in_person``, or ``guardian``.
    ``day``: None where it is missing already; of somebody who came of age and has not answered the day of that.
    """

    subject: str
    table: str
    whose: str
    day: date | None
    purposes: tuple[str, ...]


def to_ask(connection: Connection, guard: Guard, within: timedelta = WITHIN) -> list[ToAsk]:
    """Return who is to be asked, now or ``within`` a time, the soonest day first, and those without one last.

    Children of whom there is no word at all are not among them: who their guardians are is not known here.
    """
    words = consent_rows.events(connection, guard)
    by_subject = {key: list(theirs) for key, theirs in groupby(sorted(words, key=_subject), key=_subject)}
    found = [
        each
        for table, key, day in _subjects(connection, guard)
        if key in by_subject
        for each in _of(guard, table, key, day, by_subject[key], guard.now() + within)
    ]
    return sorted(found, key=lambda each: (each.day or date.max, each.table, each.subject, each.whose))


def _subject(event: ConsentEvent) -> str:
    return event.subject


def _subjects(connection: Connection, guard: Guard) -> Iterator[tuple[str, str, date | None]]:
    """The rows of those who are, or were here, children, each with the day of age."""
    for table in (table for table, each in guard.tables.items() if each.model.child and ADULT_COLUMN in table.columns):
        key, day = table.c[KEY_COLUMN], table.c[ADULT_COLUMN]
        query = select(key, day).where(key.is_not(None), day.is_(None) | (day > children.ADULT))
        with internally():
            rows = connection.execute(query).all()
        yield from ((table.fullname, bytes(each).hex(), adult) for each, adult in rows)


def _of(
    guard: Guard, table: str, key: str, day: date | None, words: Sequence[ConsentEvent], until: datetime
) -> Iterator[ToAsk]:
    """Ask on each day for all purposes of that day together."""
    missing: dict[tuple[str, date | None], list[str]] = {}
    for name, theirs in groupby(sorted(words, key=lambda each: each.purpose), key=lambda each: each.purpose):
        if name in guard.policy.purposes and guard.policy.children_under(name) == "consent":
            for asked in _missing(guard, name, day, list(theirs), until):
                missing.setdefault(asked, []).append(name)
    yield from (ToAsk(key, table, whose, since, tuple(names)) for (whose, since), names in missing.items())


def _missing(
    guard: Guard, name: str, day: date | None, words: list[ConsentEvent], until: datetime
) -> Iterator[tuple[str, date | None]]:
    """Yield whose consent to one purpose is, or will be, missing, and from when on. A no is an answer."""
    now, terms, resting = guard.now(), guard.policy.consent_terms(name), guard.policy.rests_on_consent(name)
    grown = children.grew_up(day, cautious_today(now))
    growing = day is not None and not grown and day <= cautious_today(until)
    if grown and not resting:
        return
    whose, word = IN_PERSON if grown else GUARDIAN, state(words, now, terms, in_person=grown)
    if word == GIVEN:
        ends = _last_end(words, terms, now, in_person=grown)
        if ends is not None and ends <= until and not (growing and day is not None and day <= ends.date()):
            yield whose, ends.date()
    elif word not in NO:
        yield whose, day if grown and word in (ASKED, LAPSED) else None
    if growing and resting:
        yield IN_PERSON, day


def _last_end(words: list[ConsentEvent], terms: ConsentTerms, now: datetime, *, in_person: bool) -> datetime | None:
    """When the last of the consents that count ends; None: time ends one of them never."""
    found = [
        terms.end(each.since, each.expires, each.notice)
        for each, fault in standing(words, now, terms)
        if fault is None and each.in_person is in_person
    ]
    known = [end for end in found if end is not None]
    return max(known) if len(known) == len(found) else None

"""Reads the consent ledger: its events, what they amount to, and records of them that leave and enter a database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, insert, select
from sqlalchemy.orm import InstanceState

from privkit.clock import as_utc
from privkit.consent.age import cautious_today
from privkit.consent.receipts import read_records, records
from privkit.consent.state import ASKED, EXPIRED, GIVEN, LAPSED, SUPERSEDED, ConsentEvent, standing, state
from privkit.errors import InvalidValue
from privkit.purposes import internally
from privkit.sqlalchemy import children, ledger
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.tables import CONSENT

_BYTES = ("subject", "guardian", "verifier", "notice_sha256")
_NAMES = [each.name for each in fields(ConsentEvent)]


def events(
    connection: Connection, guard: Guard, subject: bytes | None = None, purpose: str | None = None
) -> list[ConsentEvent]:
    """Return the events of one data subject, or of all, in the order in which they were recorded."""
    consent = guard.own_table(CONSENT)
    query = select(*(consent.c[name] for name in _NAMES)).order_by(consent.c.seq)
    if subject is not None:
        query = query.where(consent.c.subject == subject)
    if purpose is not None:
        query = query.where(consent.c.purpose == guard.policy.purpose(purpose).name)
    with internally():
        return [_event(row) for row in connection.execute(query).all()]


def _event(row: Row[Any]) -> ConsentEvent:
    return ConsentEvent(**{name: _plain(name, value) for name, value in zip(_NAMES, row, strict=True)})


def _plain(name: str, value: Any) -> Any:
    if name in _BYTES and value is not None:
        return bytes(value).hex()
    if isinstance(value, datetime):  # SQLite gives back what it was given, without the zone
        return value.replace(tzinfo=UTC) if value.tzinfo is None else as_utc(value)
    return value


def states(connection: Connection, guard: Guard, subject: bytes, at: datetime | None = None) -> dict[str, str]:
    """Return the state of each purpose of which there is an event; ``at``: as it was recorded by then.

    Of somebody of age who answered in person that answer counts, whatever guardians said.
    """
    now = guard.now() if at is None else as_utc(at)
    known = [each for each in events(connection, guard, subject) if at is None or each.at <= now]
    by_purpose = groupby(sorted(known, key=lambda each: each.purpose), key=lambda each: each.purpose)
    day, today = children.day_of(connection, guard, subject), cautious_today(now)
    of_age, grown, found = day is not None and day <= today, children.grew_up(day, today), dict[str, str | None]()
    for name, theirs in by_purpose:
        if name in guard.policy.purposes:
            said = list(theirs)
            answered = of_age and any(each.in_person for each in said)
            in_person = answered or (grown and guard.policy.rests_on_consent(name))
            found[name] = state(said, now, guard.policy.consent_terms(name), in_person=in_person)
    return {name: each for name, each in found.items() if each is not None}


def ended(connection: Connection, guard: Guard) -> list[tuple[ConsentEvent, str]]:
    """Return the consents that time has ended and no word says so yet, each with ``expired`` or ``superseded``."""
    theirs = sorted(events(connection, guard), key=lambda each: (each.subject, each.purpose, each.seq))
    found: list[tuple[ConsentEvent, str]] = []
    for (_, name), words in groupby(theirs, key=lambda each: (each.subject, each.purpose)):
        if name in guard.policy.purposes:
            consents = standing(words, guard.now(), guard.policy.consent_terms(name))
            found += [(each, fault) for each, fault in consents if fault in (EXPIRED, SUPERSEDED)]
    return found


def allows(
    connection: Connection, guard: Guard, key_id: bytes, subject: InstanceState[Any], purpose: str, disclosure: bool
) -> bool:
    """Return whether a purpose may use a data subject's data now, or disclose it."""
    table = subject.mapper.columns[KEY_COLUMN].table
    guard.policy.purpose(purpose)
    footing = children.footing(guard, table, table, (purpose,), lambda: cautious_today(guard.now()))
    if footing is None:
        return True
    with internally():
        found = connection.execute(select(footing).where(table.c[KEY_COLUMN] == key_id)).scalar()
    if found != children.CONSENTED or not disclosure:
        return found in (children.OF_AGE, children.CONSENTED)
    terms, now = guard.policy.consent_terms(purpose, disclosure=True), guard.now()
    grown = children.grew_up(children.day_of(connection, guard, key_id), cautious_today(now))
    word = state(events(connection, guard, key_id, purpose), now, terms, in_person=grown)
    return word == GIVEN or (grown and word is None)


def unlapsed(connection: Connection, guard: Guard, guardian: bytes, subject: bytes | None) -> dict[bytes, list[str]]:
    """Return the purposes by data subject of which a guardian has said something that has not lapsed."""
    consent = guard.own_table(CONSENT)
    query = select(consent.c.subject, consent.c.purpose, consent.c.event).order_by(consent.c.seq)
    query = query.where(consent.c.guardian == guardian, consent.c.event != ASKED)
    if subject is not None:
        query = query.where(consent.c.subject == subject)
    with internally():
        newest = {(bytes(whose), name): event for whose, name, event in connection.execute(query).all()}
    found: dict[bytes, list[str]] = {}
    for (whose, name), event in sorted(newest.items()):
        if event != LAPSED:
            found.setdefault(whose, []).append(name)
    return found


def export(
    connection: Connection, guard: Guard, subject: bytes | None = None, purpose: str | None = None
) -> list[dict[str, Any]]:
    """Return the records of one data subject, or of all."""
    return records(guard.policy, events(connection, guard, subject, purpose))


def add(connection: Connection, guard: Guard, found: object) -> int:
    """Add the events of records, and a line in the evidence ledger. Returns how many."""
    read = read_records(guard.policy, found)
    ledger.lock(connection, guard)
    _refuse_mixing(connection, guard, {bytes.fromhex(each.subject) for each in read})
    rows = [{name: _stored(name, getattr(each, name)) for name in _NAMES if name != "seq"} for each in read]
    with internally():
        for row in rows:
            connection.execute(insert(guard.own_table(CONSENT)).values(row))
    ledger.append(connection, guard, "consent_imported", {"count": len(rows)})
    return len(rows)


def _stored(name: str, value: Any) -> Any:
    return bytes.fromhex(value) if name in _BYTES and value is not None else value


def _refuse_mixing(connection: Connection, guard: Guard, subjects: Iterable[bytes]) -> None:
    consent = guard.own_table(CONSENT)
    with internally():
        for subject in subjects:
            if connection.execute(select(consent.c.seq).where(consent.c.subject == subject).limit(1)).first():
                raise InvalidValue(
                    "The consent ledger knows words on a data subject of this export already.",
                    "In what order they were said could not be told. Nothing was imported.",
                    "Import into a database that knows nothing of these data subjects' consent.",
                )

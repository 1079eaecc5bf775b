"""Adds words to the ledger of consent, each with its line in the evidence ledger, and again after a restore.

Whatever takes consent away changes the key row of its data subject, which a transaction that writes on consent holds:
neither of the two can miss the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, update

from privkit.consent.state import GIVEN, IN_PERSON, LAPSED, NO
from privkit.ledger import Entry
from privkit.purposes import internally
from privkit.sqlalchemy import children, consent_rows, ledger
from privkit.sqlalchemy.consent_words import Word
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import CONSENT, KEY, REQUEST


def record(connection: Connection, guard: Guard, subject: bytes, word: Word) -> None:
    """Add the rows of one word, and its line in the evidence ledger. Raises InvalidValue for a child's own yes."""
    if word.event == GIVEN and word.guardian == IN_PERSON:
        children.require_of_age(connection, guard, subject)
    elif word.event == GIVEN:
        children.require_country(connection, guard, subject, word.method)
    if word.event in NO:
        _hold_off_writers(connection, guard, [subject])
    # Taken first, so that numbers are given out in the order in which writers commit.
    ledger.lock(connection, guard)
    consent, numbers = guard.own_table(CONSENT), []
    for row in word.rows(subject, guard.now()):
        added = connection.execute(insert(consent).values(row))
        numbers.append(added.inserted_primary_key[0])  # type: ignore[index]
    who = word.guardian and word.guardian.hex()
    body: dict[str, object] = {"purposes": [*word.purposes], "method": word.method, "guardian": who, "rows": numbers}
    # Whose consent was withdrawn has to outlive the database; whose was given has not.
    whose: dict[str, object] = {"subject": subject.hex()} if word.event in NO else {}
    ledger.append(connection, guard, f"consent_{word.event}", body | whose)


def lapse(connection: Connection, guard: Guard, guardian: bytes, subject: bytes | None = None) -> int:
    """Record that a guardian is one no more: of ``subject``, or of all. Returns of how many data subjects.

    What that guardian gave counts no more, and neither does a no of that guardian.
    """
    # First, so that an answer which is on its way is among the words that lapse.
    closed = _close_requests(connection, guard, guardian, subject, guard.now())
    theirs = consent_rows.unlapsed(connection, guard, guardian, subject)
    if not theirs and not closed:
        return 0
    _hold_off_writers(connection, guard, theirs)
    ledger.lock(connection, guard)
    _add_lapsed(connection, guard, guardian, theirs, guard.now())
    body = {"guardian": guardian.hex(), "subject": subject and subject.hex(), "count": len(theirs)}
    ledger.append(connection, guard, "consent_lapsed", body)
    return len(theirs)


def close_request(connection: Connection, guard: Guard, request: bytes, at: datetime | None = None) -> bool:
    """Close a request, so that its token answers no more. Returns whether it was open until now."""
    return _close(connection, guard, [guard.own_table(REQUEST).c.id == request], at or guard.now()) == 1


def _close_requests(connection: Connection, guard: Guard, guardian: bytes, subject: bytes | None, at: datetime) -> int:
    """Close what a guardian was asked and did not answer. Returns how many requests."""
    table = guard.own_table(REQUEST)
    chosen = [table.c.guardian == guardian]
    return _close(connection, guard, chosen if subject is None else [*chosen, table.c.subject == subject], at)


def _close(connection: Connection, guard: Guard, chosen: list[ColumnElement[bool]], at: datetime) -> int:
    table = guard.own_table(REQUEST)
    with internally():
        closing = update(table).where(*chosen, table.c.closed_at.is_(None)).values(closed_at=at)
        return connection.execute(closing).rowcount


def _add_lapsed(
    connection: Connection, guard: Guard, guardian: bytes, theirs: Mapping[bytes, list[str]], at: datetime
) -> None:
    if not theirs:
        return
    words = {each: Word(event=LAPSED, purposes=tuple(names), guardian=guardian) for each, names in theirs.items()}
    rows = [row for subject, word in words.items() for row in word.rows(subject, at)]
    connection.execute(insert(guard.own_table(CONSENT)), rows)


def _hold_off_writers(connection: Connection, guard: Guard, subjects: Iterable[bytes]) -> None:
    """Wait for those who write on consent, and have those fail whose snapshot is older than this."""
    keys = guard.own_table(KEY)
    with internally():
        for subject in sorted(subjects):
            connection.execute(update(keys).where(keys.c.id == subject).values(created_at=keys.c.created_at))


@ledger.redoes("consent_refused")
@ledger.redoes("consent_withdrawn")
def _withdraw_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """Consent that was given since is not given again: nobody's consent is made up."""
    guardian = body["guardian"] and bytes.fromhex(body["guardian"])
    word = Word(event=entry.kind.removeprefix("consent_"), purposes=tuple(body["purposes"]), guardian=guardian)
    rows = word.rows(bytes.fromhex(body["subject"]), datetime.fromisoformat(entry.at))
    connection.execute(insert(guard.own_table(CONSENT)), rows)


@ledger.redoes("consent_lapsed")
def _lapse_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    guardian, subject = bytes.fromhex(body["guardian"]), body["subject"] and bytes.fromhex(body["subject"])
    _close_requests(connection, guard, guardian, subject, datetime.fromisoformat(entry.at))
    theirs = consent_rows.unlapsed(connection, guard, guardian, subject)
    _add_lapsed(connection, guard, guardian, theirs, datetime.fromisoformat(entry.at))


@ledger.redoes("consent_answered")
def _close_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """What was answered since the backup is not asked again by an old message."""
    close_request(connection, guard, bytes.fromhex(body["request"]), datetime.fromisoformat(entry.at))

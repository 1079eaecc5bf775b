"""The consent ledger: what guardians were asked, gave, refused and withdrew. Rows are added, never changed.

``privkit.consent.state`` says what they amount to; the sequence number orders them, not the clock. Guardians are kept
as keyed tokens: a name can be confirmed, not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session, scoped_session

from privkit.consent.state import REFUSED, WITHDRAWN, ConsentEvent
from privkit.sqlalchemy import consent_rows, consent_words, ledger, transitions
from privkit.sqlalchemy.consent_recording import lapse, record
from privkit.sqlalchemy.consent_requests import Requests
from privkit.sqlalchemy.consent_subjects import (
    Target,
    connection_of,
    forget,
    guardian_token,
    living,
    mapped,
    subject_of,
    whose,
)
from privkit.sqlalchemy.consent_words import Word, known, reference
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.switching import Switching
from privkit.sqlalchemy.transitions import ToAsk


def grant(
    target: Target,
    guard: Guard,
    subject_key: bytes,
    purposes: Iterable[str],
    guardian: object,
    method: str,
    notice: str | None = None,
    **details: Any,
) -> None:
    """Record that a guardian consents to ``purposes`` for one data subject, in the transaction of ``target``.

    ``details``: as ``ConsentLedger.grant`` takes them. Raises PolicyError for an unknown purpose, InvalidValue for a
    method or notice that the policy does not list, or an empty reference.
    """
    connection = connection_of(target)
    who = guardian_token(connection, guard, guardian, subject_key)
    word = consent_words.consent(guard, purposes, who, method, notice=notice, **details)
    record(connection, guard, subject_key, word)


def withdraw(
    target: Target, guard: Guard, subject_key: bytes, purposes: Iterable[str], guardian: object = None
) -> None:
    """Record that consent to ``purposes`` is withdrawn, in the transaction of ``target``.

    Raises PolicyError for an unknown purpose.
    """
    _refuse(target, guard, subject_key, purposes, guardian, WITHDRAWN)


def _refuse(
    target: Target, guard: Guard, subject_key: bytes, purposes: Iterable[str], guardian: object, event: str
) -> None:
    connection = connection_of(target)
    who = None if guardian is None else guardian_token(connection, guard, guardian, subject_key)
    record(connection, guard, subject_key, Word(event=event, purposes=known(guard, purposes), guardian=who))


def state(target: Target, guard: Guard, subject_key: bytes, purpose: str) -> str | None:
    """Return what consent amounts to now, as ``privkit.consent.state`` says it. Raises PolicyError."""
    guard.policy.purpose(purpose)
    return consent_rows.states(connection_of(target), guard, subject_key).get(purpose)


class ConsentLedger(Requests, Switching):
    """Consent for data subjects as the application holds them: mapped objects.

    A guardian is the application's reference to the person (a text), or a mapped data subject; somebody of age who is
    named as the own guardian answers in person. A word may also be recorded on the key id of a data subject's row. What
    is recorded counts once the session commits. Each method raises PolicyError for an unknown purpose, MappingError for
    what is no data subject and InvalidValue for one without a row.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def grant(
        self,
        session: Session | scoped_session[Any],
        *,
        subject: object,
        purposes: Iterable[str],
        guardian: object,
        method: str,
        notice: str | None = None,
        locale: str | None = None,
        verifier: str | None = None,
        claimed_at: datetime | None = None,
        until: datetime | None = None,
        disclosure: Iterable[str] = (),
    ) -> None:
        """Record that a guardian consents to ``purposes`` for ``subject``.

        ``method``: how the guardian was verified, and ``verifier`` by whom. ``notice``: the version of the text that
        was shown, in ``locale``; where the policy lists notices it has to be one of them. ``claimed_at``: when it was
        given, where it arrives late. ``until``: when it ends. ``disclosure``: for which of them the guardian said a
        second yes, to giving data to others; without it ``allows(..., disclosure=True)`` says no.

        Raises InvalidValue for a method that the policy does not list, or one too weak for a purpose that discloses.
        """
        connection, key_id = living(session, self._guard, subject)
        details: dict[str, Any] = {"locale": locale, "verifier": verifier, "claimed_at": claimed_at, "until": until}
        details["disclosure"] = disclosure
        grant(connection, self._guard, key_id, purposes, guardian, method, notice, **details)

    def refuse(
        self,
        session: Session | scoped_session[Any],
        *,
        subject: object,
        purposes: Iterable[str],
        guardian: object = None,
    ) -> None:
        """Record that consent to ``purposes`` is refused for ``subject``. Of two guardians one is enough."""
        self._no(session, subject, purposes, guardian, REFUSED)

    def withdraw(
        self,
        session: Session | scoped_session[Any],
        *,
        subject: object,
        purposes: Iterable[str],
        guardian: object = None,
    ) -> None:
        """Record that consent to ``purposes`` is withdrawn for ``subject``, by one guardian or, without one, by all.

        What a guardian withdrew, that guardian alone can give again; what was withdrawn for all, any of them.
        """
        self._no(session, subject, purposes, guardian, WITHDRAWN)

    def lapse(self, session: Session | scoped_session[Any], *, guardian: object, subject: object = None) -> int:
        """Record that a guardian is one no more, of ``subject`` or of all. Returns of how many data subjects.

        Nothing of a child whose last consent this was is used from then on; what was recorded stays as evidence.
        """
        if subject is not None:
            connection, key_id = subject_of(session, subject)
        else:
            connection, key_id = connection_of(session), None
        count = lapse(connection, self._guard, guardian_token(connection, self._guard, guardian, key_id), key_id)
        forget(session, self._guard)
        return count

    def status(
        self, session: Session | scoped_session[Any], *, subject: object, at: datetime | None = None
    ) -> dict[str, str]:
        """Return what consent amounts to now, or did ``at`` an instant, for each purpose of which there is a word."""
        connection, key_id = whose(session, subject)
        return consent_rows.states(connection, self._guard, key_id, at)

    def history(
        self, session: Session | scoped_session[Any], *, subject: object, purpose: str | None = None
    ) -> list[ConsentEvent]:
        """Return what was recorded, in its order. ``subject``: also a key id, of one whose row is gone."""
        connection, key_id = whose(session, subject)
        return consent_rows.events(connection, self._guard, key_id, purpose)

    def allows(
        self,
        session: Session | scoped_session[Any],
        *,
        subject: object,
        purpose: str,
        disclosure: bool = False,
    ) -> bool:
        """Return whether ``purpose`` may use the data of ``subject`` now; with ``disclosure``, also give it to others.

        The database is asked each time: an answer that is kept is out of date as soon as consent is withdrawn.
        """
        connection, key_id = subject_of(session, subject)
        return consent_rows.allows(connection, self._guard, key_id, mapped(subject), purpose, disclosure)

    def due(self, session: Session | scoped_session[Any], *, within: timedelta = transitions.WITHIN) -> list[ToAsk]:
        """Return who is to be asked for consent, the soonest day first: those who lack it, or will ``within`` a time.

        Somebody who comes of age is asked in person; a guardian where consent ends, or is missing already.
        """
        return transitions.to_ask(connection_of(session), self._guard, within)

    def note_ended(self, session: Session | scoped_session[Any]) -> int:
        """Record, as evidence, which consents expired or were superseded since; they count no more in any case."""
        connection, guard = connection_of(session), self._guard
        ledger.lock(connection, guard)
        found = consent_rows.ended(connection, guard)
        for each, event in found:
            who = each.guardian and bytes.fromhex(each.guardian)
            word = Word(event=event, purposes=(each.purpose,), guardian=who or None, notice=each.notice)
            record(connection, guard, bytes.fromhex(each.subject), word)
        return len(found)

    def token(self, guardian: str) -> str:
        """Return what stands for a guardian in events and receipts, to confirm who it was."""
        return reference(self._guard, "guardian", guardian).hex()

    def receipt(
        self, session: Session | scoped_session[Any], *, subject: object, purpose: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the records of one data subject, one for each purpose, by the names of ISO/IEC TS 27560."""
        connection, key_id = whose(session, subject)
        return consent_rows.export(connection, self._guard, key_id, purpose)

    def export(self, session: Session | scoped_session[Any]) -> list[dict[str, Any]]:
        """Return the records of all data subjects, ready for ``json.dump``."""
        return consent_rows.export(connection_of(session), self._guard)

    def import_(self, session: Session | scoped_session[Any], records: object) -> int:
        """Add the events of exported records, in their order, under the same keyring. Returns how many.

        Raises InvalidValue, and adds nothing, for what is no such export, or where there are words on it already.
        """
        return consent_rows.add(connection_of(session), self._guard, records)

    def _no(
        self,
        session: Session | scoped_session[Any],
        subject: object,
        purposes: Iterable[str],
        guardian: object,
        event: str,
    ) -> None:
        connection, key_id = living(session, self._guard, subject)
        _refuse(connection, self._guard, key_id, purposes, guardian, event)
        forget(session, self._guard)

"""The consent ledger: what guardians were asked, gave, refused and withdrew. Rows are added, never changed.

``privkit.consent.state`` says what they amount to; the sequence number orders them, not the clock. Guardians are kept
as keyed tokens: a name can be confirmed, not read. Whatever takes consent away changes the key row of its data subject,
which a transaction that writes on consent holds: neither of the two can miss the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, inspect, select, update
from sqlalchemy.orm import InstanceState, Session, scoped_session

from privkit.consent.state import ASKED, LAPSED, NO, REFUSED, WITHDRAWN, ConsentEvent
from privkit.errors import InvalidValue, MappingError, SealedError
from privkit.ledger import Entry
from privkit.purposes import internally
from privkit.sqlalchemy import consent_rows, consent_words, ledger
from privkit.sqlalchemy.consent_words import Word, known, reference
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.tables import CONSENT, KEY

Target = Connection | Session | scoped_session[Any]


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
    connection = _connection(target)
    who = guardian_token(connection, guard, guardian)
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
    connection = _connection(target)
    who = None if guardian is None else guardian_token(connection, guard, guardian)
    record(connection, guard, subject_key, Word(event=event, purposes=known(guard, purposes), guardian=who))


def state(target: Target, guard: Guard, subject_key: bytes, purpose: str) -> str | None:
    """Return what consent amounts to now, as ``privkit.consent.state`` says it. Raises PolicyError."""
    guard.policy.purpose(purpose)
    return consent_rows.states(_connection(target), guard, subject_key).get(purpose)


def record(connection: Connection, guard: Guard, subject: bytes, word: Word) -> None:
    """Add the rows of one word, and its line in the evidence ledger."""
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
    theirs = consent_rows.unlapsed(connection, guard, guardian, subject)
    if not theirs:
        return 0
    _hold_off_writers(connection, guard, theirs)
    ledger.lock(connection, guard)
    _add_lapsed(connection, guard, guardian, theirs, guard.now())
    body = {"guardian": guardian.hex(), "subject": subject and subject.hex(), "count": len(theirs)}
    ledger.append(connection, guard, "consent_lapsed", body)
    return len(theirs)


def _add_lapsed(
    connection: Connection, guard: Guard, guardian: bytes, theirs: Mapping[bytes, list[str]], at: datetime
) -> None:
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
    if theirs := consent_rows.unlapsed(connection, guard, guardian, subject):
        _add_lapsed(connection, guard, guardian, theirs, datetime.fromisoformat(entry.at))


class ConsentLedger:
    """Consent for data subjects as the application holds them: mapped objects.

    A guardian is the application's reference to the person (a text), or a mapped data subject. What is recorded counts
    once the session commits. Each method raises PolicyError for an unknown purpose, MappingError for what is no data
    subject and InvalidValue for one without a row.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def ask(
        self,
        session: Session | scoped_session[Any],
        *,
        subject: object,
        purposes: Iterable[str],
        guardian: object = None,
        notice: str | None = None,
        locale: str | None = None,
    ) -> None:
        """Record that a guardian was asked, and with which notice. It changes no state."""
        connection, key_id = _subject(session, subject)
        names, who = known(self._guard, purposes), None
        if guardian is not None:
            who = guardian_token(connection, self._guard, guardian)
        seen = consent_words.seen(self._guard, names, notice, locale)
        record(connection, self._guard, key_id, Word(event=ASKED, purposes=names, guardian=who, **seen))

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
    ) -> None:
        """Record that a guardian consents to ``purposes`` for ``subject``.

        ``method``: how the guardian was verified, and ``verifier`` by whom. ``notice``: the version of the text that
        was shown, in ``locale``; where the policy lists notices it has to be one of them. ``claimed_at``: when it was
        given, where it arrives late. ``until``: when it ends.

        Raises InvalidValue for a method that the policy does not list, or one too weak for a purpose that discloses.
        """
        connection, key_id = _subject(session, subject)
        details = {"locale": locale, "verifier": verifier, "claimed_at": claimed_at, "until": until}
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
            connection, key_id = _subject(session, subject)
        else:
            connection, key_id = _connection(session), None
        count = lapse(connection, self._guard, guardian_token(connection, self._guard, guardian), key_id)
        _forget(session, self._guard)
        return count

    def status(
        self, session: Session | scoped_session[Any], *, subject: object, at: datetime | None = None
    ) -> dict[str, str]:
        """Return what consent amounts to now, or did ``at`` an instant, for each purpose of which there is a word."""
        connection, key_id = _whose(session, subject)
        return consent_rows.states(connection, self._guard, key_id, at)

    def history(
        self, session: Session | scoped_session[Any], *, subject: object, purpose: str | None = None
    ) -> list[ConsentEvent]:
        """Return what was recorded, in its order. ``subject``: also a key id, of one whose row is gone."""
        connection, key_id = _whose(session, subject)
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
        connection, key_id = _subject(session, subject)
        return consent_rows.allows(connection, self._guard, key_id, _mapped(subject), purpose, disclosure)

    def note_ended(self, session: Session | scoped_session[Any]) -> int:
        """Record, as evidence, which consents expired or were superseded since; they count no more in any case."""
        connection, guard = _connection(session), self._guard
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
        connection, key_id = _whose(session, subject)
        return consent_rows.export(connection, self._guard, key_id, purpose)

    def export(self, session: Session | scoped_session[Any]) -> list[dict[str, Any]]:
        """Return the records of all data subjects, ready for ``json.dump``."""
        return consent_rows.export(_connection(session), self._guard)

    def import_(self, session: Session | scoped_session[Any], records: object) -> int:
        """Add the events of exported records, in their order, under the same keyring. Returns how many.

        Raises InvalidValue, and adds nothing, for what is no such export, or where there are words on it already.
        """
        return consent_rows.add(_connection(session), self._guard, records)

    def _no(
        self,
        session: Session | scoped_session[Any],
        subject: object,
        purposes: Iterable[str],
        guardian: object,
        event: str,
    ) -> None:
        connection, key_id = _subject(session, subject)
        _refuse(connection, self._guard, key_id, purposes, guardian, event)
        _forget(session, self._guard)


def guardian_token(connection: Connection, guard: Guard, guardian: object) -> bytes:
    """Return the keyed token of a guardian: of a reference, or of a data subject, by object or key id."""
    if isinstance(guardian, bytes):
        return reference(guard, "guardian who is a data subject", guardian.hex())
    if isinstance(inspect(guardian, raiseerr=False), InstanceState):
        return guardian_token(connection, guard, key_of(connection, guardian))
    return reference(guard, "guardian", guardian)


def _connection(target: Target) -> Connection:
    if isinstance(target, Connection):
        return target
    if isinstance(target, Session | scoped_session):
        return target.connection()
    raise _no_target(target)


def _no_target(target: object) -> InvalidValue:
    return InvalidValue(
        f"Consent is recorded through a Session or a Connection, not {type(target).__name__}.",
        "It has to commit with the application's own transaction.",
        "From asyncio: await session.run_sync(lambda session: privacy.consent.grant(session, ...)).",
    )


def _subject(session: Session | scoped_session[Any], subject: object) -> tuple[Connection, bytes]:
    """Return the session's connection for a data subject's row, and the row's key id."""
    if not isinstance(session, Session | scoped_session):
        raise _no_target(session)
    instance = _mapped(subject)
    session.flush()
    if instance.identity is None:
        raise _rowless(type(subject).__name__)
    connection = session.connection(bind_arguments={"mapper": instance.mapper})
    return connection, key_of(connection, subject)


def _whose(session: Session | scoped_session[Any], subject: object) -> tuple[Connection, bytes]:
    return (_connection(session), subject) if isinstance(subject, bytes) else _subject(session, subject)


def key_of(connection: Connection, subject: object) -> bytes:
    """Return the key id of a data subject's row, by the identity of its object; the session may be another.

    Raises MappingError for what is no data subject, InvalidValue where there is no row, SealedError where the row
    has no key.
    """
    instance = _mapped(subject)
    if instance.identity is None:
        raise _rowless(type(subject).__name__)
    mapper = instance.mapper
    row = zip(mapper.primary_key, instance.identity, strict=True)
    query = select(mapper.columns[KEY_COLUMN]).select_from(mapper.persist_selectable)
    with internally():
        found = connection.execute(query.where(*(column == value for column, value in row))).first()
    if found is None:
        raise _rowless(type(subject).__name__)
    if found[0] is None:
        raise SealedError(
            f"A row of {mapper.local_table} has no data subject's key.",
            "It was written before privkit protected the table; nothing could be tied to it.",
            "Write the data subject anew through a protected engine.",
        )
    return bytes(found[0])


def _mapped(subject: object) -> InstanceState[Any]:
    instance = inspect(subject, raiseerr=False)
    if not isinstance(instance, InstanceState) or KEY_COLUMN not in instance.mapper.columns:
        raise MappingError(
            f"A {type(subject).__name__} is not a data subject.",
            "Consent, and erasure, are about a person, and cover all rows that are owned by that person.",
            "Pass the object of the class that is marked @data_subject.",
        )
    return instance


def _rowless(name: str) -> InvalidValue:
    return InvalidValue(
        f"This {name} has no row in the database yet, or no more.",
        "Consent is tied to the key of the data subject's row.",
        "Add the object to this session before consent is recorded.",
    )


def _forget(session: Session | scoped_session[Any], guard: Guard) -> None:
    """Objects loaded while consent stood would go on showing what it covered."""
    for instance in list(session):
        each = guard.protected(type(instance))
        if each is not None and each.model.fields:
            session.expire(instance, list(each.model.fields))

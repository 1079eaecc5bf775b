"""The consent ledger: what guardians gave and withdrew, for which purposes. Rows are added, never changed.

The newest row of a data subject and purpose counts; the sequence number orders them, not the clock. Guardians
are kept as keyed tokens: a name can be confirmed, not read.
"""

from __future__ import annotations

from base64 import b32decode
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, inspect, select
from sqlalchemy.orm import InstanceState, Session, scoped_session

from privkit.deidentify import token
from privkit.errors import InvalidValue, MappingError, SealedError
from privkit.ledger import Entry
from privkit.purposes import internally
from privkit.sqlalchemy import ledger
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.tables import CONSENT

GIVEN, WITHDRAWN = "given", "withdrawn"
LONGEST_METHOD = 60

Target = Connection | Session | scoped_session[Any]


def grant(
    target: Target,
    guard: Guard,
    subject_key: bytes,
    purposes: Iterable[str],
    guardian: str,
    method: str,
    notice: str | None = None,
) -> None:
    """Record that a guardian consents to ``purposes`` for one data subject, in the transaction of ``target``.

    ``guardian``: the application's reference to the person. ``method``: how the person was verified, one of
    the policy's verification methods. ``notice``: the version of the text that the person saw.

    Raises PolicyError for an unknown purpose, InvalidValue for an unknown method or an empty reference.
    """
    _check_method(guard, method)
    _record(target, guard, subject_key, purposes, GIVEN, guardian, method, notice)


def withdraw(
    target: Target, guard: Guard, subject_key: bytes, purposes: Iterable[str], guardian: str | None = None
) -> None:
    """Record that consent to ``purposes`` is withdrawn, or refused, in the transaction of ``target``.

    Raises PolicyError for an unknown purpose.
    """
    _record(target, guard, subject_key, purposes, WITHDRAWN, guardian, None, None)


def state(target: Target, guard: Guard, subject_key: bytes, purpose: str) -> str | None:
    """Return ``"given"``, ``"withdrawn"``, or None where nothing was recorded.

    Raises PolicyError for an unknown purpose.
    """
    guard.policy.purpose(purpose)
    consent = guard.own_table(CONSENT)
    events = select(consent.c.event).where(consent.c.subject == subject_key, consent.c.purpose == purpose)
    found = _connection(target).execute(events.order_by(consent.c.seq.desc()).limit(1)).scalar()
    return None if found is None else str(found)


class ConsentLedger:
    """Consent for data subjects as the application holds them: mapped objects."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def grant(
        self,
        session: Session | scoped_session[Any],
        *,
        subject: object,
        purposes: Iterable[str],
        guardian: str,
        method: str,
        notice: str | None = None,
    ) -> None:
        """Record that a guardian consents to ``purposes`` for ``subject``; it counts once the session commits.

        ``guardian``: the application's reference to the person. ``method``: how the person was verified.
        ``notice``: the version of the text that the person saw. Raises PolicyError for an unknown purpose,
        InvalidValue for an unknown method or a subject without a row, MappingError for what is no data subject.
        """
        connection, key_id = _subject(session, subject)
        grant(connection, self._guard, key_id, purposes, guardian, method, notice)

    def withdraw(
        self,
        session: Session | scoped_session[Any],
        *,
        subject: object,
        purposes: Iterable[str],
        guardian: str | None = None,
    ) -> None:
        """Record that consent to ``purposes`` is withdrawn for ``subject``; it counts once the session commits.

        Raises PolicyError for an unknown purpose, InvalidValue for a subject without a row, MappingError for
        what is no data subject.
        """
        connection, key_id = _subject(session, subject)
        withdraw(connection, self._guard, key_id, purposes, guardian)
        _forget(session, self._guard)


def _record(
    target: Target,
    guard: Guard,
    subject_key: bytes,
    purposes: Iterable[str],
    event: str,
    guardian: str | None,
    method: str | None,
    notice: str | None,
) -> None:
    names, connection = _names(guard, purposes), _connection(target)
    consent = guard.own_table(CONSENT)
    who = None if guardian is None and event == WITHDRAWN else _token(guard, guardian)
    row = {"subject": subject_key, "event": event, "guardian": who, "method": method, "notice": notice}
    # Taken first, so that numbers are given out in the order in which writers commit.
    ledger.lock(connection, guard)
    numbers: list[int] = []
    for name in names:
        added = connection.execute(insert(consent).values(row | {"purpose": name, "at": guard.now()}))
        numbers.append(added.inserted_primary_key[0])  # type: ignore[index]
    body: dict[str, object] = {"purposes": names, "method": method, "guardian": who and who.hex(), "rows": numbers}
    # Whose consent was withdrawn has to outlive the database; whose was given has not.
    whose: dict[str, object] = {"subject": subject_key.hex()} if event == WITHDRAWN else {}
    ledger.append(connection, guard, f"consent_{event}", body | whose)


@ledger.redoes("consent_withdrawn")
def _withdraw_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """Consent that was given since is not given again: nobody's consent is made up."""
    guardian = body["guardian"] and bytes.fromhex(body["guardian"])
    row = {"subject": bytes.fromhex(body["subject"]), "event": WITHDRAWN, "guardian": guardian}
    rows = [row | {"purpose": name, "at": datetime.fromisoformat(entry.at)} for name in body["purposes"]]
    connection.execute(insert(guard.own_table(CONSENT)), rows)


def _names(guard: Guard, purposes: Iterable[str]) -> list[str]:
    names = sorted({purposes} if isinstance(purposes, str) else set(purposes))
    if not names:
        raise InvalidValue(
            "Consent is given or withdrawn for a purpose, and none is named.",
            "A consent for everything is none.",
            'Name one or more: purposes={"pickup"}.',
        )
    return [guard.policy.purpose(name).name for name in names]


def _check_method(guard: Guard, method: str) -> None:
    allowed = guard.policy.verification_methods
    if allowed and method not in allowed:
        raise InvalidValue(
            "The policy lists no such method to verify a guardian.",
            "Consent of somebody unverified may not be a parent's.",
            f"Use one of: {', '.join(allowed)}; or add it to child.verification_methods in {guard.policy.path}.",
            allowed=list(allowed),
        )
    if not isinstance(method, str) or not 0 < len(method.strip()) <= LONGEST_METHOD:
        raise InvalidValue(
            f"A method to verify a guardian is a name of up to {LONGEST_METHOD} characters.",
            "Without one nobody can say how the guardian was verified.",
            'Name it: method="signed_form".',
        )


def _token(guard: Guard, guardian: str | None) -> bytes:
    if not isinstance(guardian, str) or not guardian.strip():
        raise InvalidValue(
            "A consent needs its guardian's reference.", "Consent that nobody gave is none.", 'Give guardian="...".'
        )
    return b32decode(token(guard.keyring.secret("guardian"), "guardian", guardian).upper())


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

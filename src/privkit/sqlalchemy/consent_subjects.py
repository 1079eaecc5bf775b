"""Whom a consent is about and who gives it: the key of a data subject's row, and the token of a guardian."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, inspect, select
from sqlalchemy.orm import InstanceState, Session, scoped_session

from privkit.consent.state import IN_PERSON
from privkit.errors import InvalidValue, MappingError, SealedError
from privkit.purposes import internally
from privkit.sqlalchemy.consent_words import reference
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.tables import KEY

Target = Connection | Session | scoped_session[Any]


def guardian_token(connection: Connection, guard: Guard, guardian: object, of: bytes | None = None) -> bytes:
    """Return the keyed token of a guardian: of a reference, or of a data subject, by object or key id.

    ``of``: the key of whom the word is about. Whoever is named as the own guardian answers in person.
    """
    if isinstance(guardian, bytes) and guardian == of:
        return IN_PERSON
    if isinstance(guardian, bytes):
        return reference(guard, "guardian who is a data subject", guardian.hex())
    if isinstance(inspect(guardian, raiseerr=False), InstanceState):
        return guardian_token(connection, guard, key_of(connection, guardian), of)
    return reference(guard, "guardian", guardian)


def connection_of(target: Target) -> Connection:
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


def subject_of(session: Session | scoped_session[Any], subject: object) -> tuple[Connection, bytes]:
    """Return the session's connection for a data subject's row, and the row's key id."""
    if not isinstance(session, Session | scoped_session):
        raise _no_target(session)
    instance = mapped(subject)
    session.flush()
    if instance.identity is None:
        raise _rowless(type(subject).__name__)
    connection = session.connection(bind_arguments={"mapper": instance.mapper})
    return connection, key_of(connection, subject)


def whose(session: Session | scoped_session[Any], subject: object) -> tuple[Connection, bytes]:
    return (connection_of(session), subject) if isinstance(subject, bytes) else subject_of(session, subject)


def living(session: Session | scoped_session[Any], guard: Guard, subject: object) -> tuple[Connection, bytes]:
    """The same, and of a data subject who is given by a key id. Raises InvalidValue where the key was destroyed."""
    if not isinstance(subject, bytes):
        return subject_of(session, subject)
    connection, keys = connection_of(session), guard.own_table(KEY)
    with internally():
        found = connection.execute(select(keys.c.id).where(keys.c.id == subject, keys.c.wrapped.is_not(None))).first()
    if found is None:
        raise InvalidValue(
            "No data subject has this key, or no more.",
            "Nobody's consent can be recorded for nobody.",
            "Give what privkit_key of the data subject's row holds.",
        )
    return connection, subject


def key_of(connection: Connection, subject: object) -> bytes:
    """Return the key id of a data subject's row, by the identity of its object; the session may be another.

    Raises MappingError for what is no data subject, InvalidValue where there is no row, SealedError where the row
    has no key.
    """
    instance = mapped(subject)
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


def mapped(subject: object) -> InstanceState[Any]:
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


def forget(session: Session | scoped_session[Any], guard: Guard) -> None:
    """Objects loaded while consent stood would go on showing what it covered."""
    for instance in list(session):
        each = guard.protected(type(instance))
        if each is not None and each.model.fields:
            session.expire(instance, list(each.model.fields))

"""The keys of documents that lie in other stores: a data subject's, from the key table of one database.

So erasing the data subject, or the end of its row, makes its documents unreadable too.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, select

from privkit import purposes
from privkit.consent.age import cautious_today
from privkit.crypto import SubjectKey
from privkit.errors import ConsentRequired, SealedError, ShreddedError
from privkit.sqlalchemy import children, consent_subjects, keystore
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.lookups import read
from privkit.sqlalchemy.mapping import KEY_COLUMN


class TableKeys:
    """Keys by data subject: a mapped object of its class whose row is committed, or a 16-byte key id.

    A key id whose key is cached needs no query, unless the data subject may be a child and a purpose needs consent.
    """

    def __init__(self, guard: Guard, engine: Engine) -> None:
        self._guard, self._engine = guard, engine

    def for_sealing(self, subject: object) -> SubjectKey:
        """Return the key to seal with. Raises ShreddedError where it was destroyed, ConsentRequired for a child's."""
        with self._engine.connect() as connection:
            key_id = _key_id(connection, subject)
            key = keystore.for_sealing(connection, self._guard, [key_id])[key_id]
            _require_consent(connection, self._guard, key_id)
        return key

    def for_opening(self, subject: object) -> SubjectKey:
        """Return the key to open with.

        Raises ShreddedError where it was destroyed, SealedError where there is none, ConsentRequired for a child's.
        """
        with self._engine.connect() as connection:
            key_id = _key_id(connection, subject)
            found = keystore.load(connection, self._guard, [key_id])
            if not found:
                raise _shredded() if key_id in self._guard.shredded else _unknown()
            _require_consent(connection, self._guard, key_id)
        return found[0]


def _key_id(connection: Connection, subject: object) -> bytes:
    return subject if isinstance(subject, bytes) else consent_subjects.key_of(connection, subject)


def _require_consent(connection: Connection, guard: Guard, key_id: bytes) -> None:
    """Hold a document to the rule of the rows that its data subject has. Without a purpose its gates refuse it."""
    scope, today = purposes.current(), cautious_today(guard.now())
    names = scope.names if scope is not None and not scope.internal else ()
    subjects = [table for table in guard.tables if KEY_COLUMN in table.columns]
    asked = {table: children.with_consent(guard, table, table, names, lambda: today) for table in subjects}
    if all(condition is None for condition in asked.values()):
        return
    for table, condition in asked.items():
        theirs = select(table.c[KEY_COLUMN]).where(table.c[KEY_COLUMN] == key_id).limit(1)
        if read(connection, theirs if condition is None else theirs.where(condition)):
            return
    raise ConsentRequired(
        "A document is about a child, or somebody who may be one, without consent for this purpose.",
        "Nothing of a child is stored or read without a parent's consent.",
        "Record it first: privacy.consent.grant(session, subject=..., purposes={...}, guardian=..., method=...).",
    )


def _shredded() -> ShreddedError:
    return ShreddedError(
        "The key of this data subject was destroyed.",
        "It was erased, or its time has ended; no copy of its documents can be read again.",
        "Delete the documents.",
    )


def _unknown() -> SealedError:
    return SealedError(
        "This database has no key of this data subject.",
        "The document belongs to another database, or the key tables were not restored with it.",
        "Give the engine whose database knows the data subject: privacy.document(Model, keys=engine).",
    )

"""Erasing one data subject: what can be deleted, then what remains, then the key, in one transaction; then files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, select

from privkit.errors import InvalidValue, PlanError
from privkit.purposes import internally
from privkit.retention import files
from privkit.sqlalchemy import consent_recording, consent_subjects, erasure, ledger, shred, spending
from privkit.sqlalchemy.finality import Finality, finality
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.physical import Physical, settle
from privkit.sqlalchemy.tables import KEY
from privkit.subjects import deferred


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure did. ``subject``: the key id, hexadecimal. ``kept``: field ids, with the duties that keep them.

    ``fields`` values were destroyed one by one, ``rows`` rows were deleted, at ``at``. ``finality`` of the key; None
    where a duty keeps it: then a backup made before still opens with it. ``physically``: what may be left on disks of
    values that were not sealed. ``deferred``: nothing was done yet, as it waits for a hold to end.
    ``files_pending``: files that may still be there; the next run, or ``finish_files``, tries them again.
    """

    subject: str
    fields: int
    rows: int
    kept: Mapping[str, str]
    at: datetime
    finality: Finality | None
    physically: Physical | None
    deferred: bool = False
    files_pending: int = 0

    @property
    def unreadable_by(self) -> datetime:
        """From when on no process can open what was erased: until then others may hold the key in memory."""
        return self.finality.unreadable_by if self.finality is not None else self.at

    @property
    def final_by(self) -> datetime | None:
        """By when no copy of the database opens either; None where no roll of the keys is planned, or a key is kept."""
        return self.finality.final_by if self.finality is not None else None


def erase(guard: Guard, engine: Engine, subject: object, *, by: str, defer: bool = False) -> Erasure:
    """Erase a data subject: a mapped object of its class, or its 16-byte key id. ``by``: who asked for it.

    Fields that a duty still keeps stay, and with them the key; all others are destroyed. Doing it twice is doing
    it once. Raises PlanError, and erases nothing, where a hold forbids it or a column can hold nothing in place of
    its value; InvalidValue for somebody this database does not know; LedgerError where the line cannot be written.
    ``defer``: under a hold, note that it waits, for ``erase_deferred``.
    """
    if not isinstance(by, str) or not by.strip():
        raise InvalidValue("An erasure needs the name of who asked for it.", "", 'Give it as text: by="...".')
    with internally(), engine.begin() as connection:
        ledger.lock(connection, guard)
        key_id = _known(connection, guard, subject)
        who = ledger.who(guard, by)
        waits = defer and erasure.held(connection, guard, key_id)
        if waits:
            deferred.defer(connection, guard, key_id, who)
        else:
            done = _erased(connection, guard, key_id, who)
    if waits:
        return Erasure(key_id.hex(), 0, 0, {}, guard.now(), None, None, deferred=True)
    return _ended(guard, engine, key_id, done)


def erase_deferred(guard: Guard, engine: Engine) -> list[Erasure]:
    """Erase each data subject whose erasure waits for no hold any more. Raises as ``erase`` does."""
    made = []
    with internally():
        with engine.connect() as connection:
            todo = deferred.waiting(connection, guard)
        for key_id, who in todo.items():
            with engine.begin() as connection:
                ledger.lock(connection, guard)
                free = key_id in deferred.waiting(connection, guard) and not erasure.held(connection, guard, key_id)
                done = _erased(connection, guard, key_id, who) if free else None
            if done is not None:
                made.append(_ended(guard, engine, key_id, done))
    return made


_Done = tuple[int, int, Mapping[str, str], Finality | None]


def _erased(connection: Connection, guard: Guard, key_id: bytes, who: str) -> _Done:
    _refuse_held(connection, guard, key_id)
    consent_recording.lapse(
        connection, guard, consent_subjects.guardian_token(connection, guard, key_id)
    )  # no child is left unattended
    kept = erasure.kept(connection, guard, key_id)
    rows = 0 if kept else erasure.delete(connection, guard, [key_id])
    fields = erasure.suppress(connection, guard, [key_id], on_duty=kept)
    spending.forget(connection, guard, [key_id.hex()])
    if not kept:
        shred.destroy_keys(connection, guard, [key_id])  # last: the names of files were opened with it
    _refuse_left(erasure.left(connection, guard, [key_id]).keys() - kept.keys())
    body = {"subject": key_id.hex(), "by": who, "fields": fields, "rows": rows, "kept": sorted(kept)}
    ledger.append(connection, guard, "erased", body)
    return fields, rows, kept, None if kept else finality(connection, guard)


def _ended(guard: Guard, engine: Engine, key_id: bytes, done: _Done) -> Erasure:
    fields, rows, kept, found = done
    guard.keys.forget(key_id)  # somebody may have loaded it again before the commit
    left = settle(guard, engine, (table.fullname for table in guard.tables))
    pending = files.finish(guard, engine, subject=key_id).pending
    return Erasure(key_id.hex(), fields, rows, kept, guard.now(), found, left, files_pending=pending)


def _known(connection: Connection, guard: Guard, subject: object) -> bytes:
    key_id = bytes(subject) if isinstance(subject, bytes) else consent_subjects.key_of(connection, subject)
    table = guard.own_table(KEY)
    if connection.execute(select(table.c.id).where(table.c.id == key_id)).first() is None:
        raise InvalidValue(
            "This database has no data subject with this key id.",
            "Nothing was erased.",
            "Take it from the column privkit_key of the data subject's row: 16 bytes, 32 hexadecimal digits.",
        )
    return key_id


def _refuse_held(connection: Connection, guard: Guard, key_id: bytes) -> None:
    if erasure.held(connection, guard, key_id):
        raise PlanError(
            "A hold keeps rows of this data subject.",
            "Nothing was erased: somebody recorded a reason not to destroy yet.",
            "Once it ends, erase again; or erase(..., defer=True) and then erase_deferred(engine).",
        )


def _refuse_left(fields: set[str]) -> None:
    if fields:
        raise PlanError(
            f"Nothing can stand in place of {', '.join(sorted(fields))}: the column is NOT NULL and unsealed.",
            "Nothing was erased.",
            "Make it nullable, seal it (seal=True), or let its row go with @expire_row(Delete()).",
            fields=sorted(fields),
        )

"""Keys are destroyed here, of data subjects and of epochs: their rows stay as tombstones, and the ledger says so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, insert, select, update

from privkit.crypto import Epoch
from privkit.errors import PlanError
from privkit.ledger import Entry
from privkit.sqlalchemy import holds, ledger
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import EPOCH, KEY

IN_LINE = 500
"""How many keys one line of the ledger names."""


def destroy_keys(connection: Connection, guard: Guard, ids: Iterable[bytes], kind: str = "key_destroyed") -> int:
    """Destroy data subjects' keys, leave their tombstones and a line for each 500. Returns how many were living.

    ``kind``: of the line; ``"key_renewed"`` where their data subjects live on under other keys. Raises PlanError where
    a hold names one that does not.
    """
    table, wanted, destroyed = guard.own_table(KEY), sorted(set(ids)), []
    for start in range(0, len(wanted), IN_LINE):
        these = table.c.id.in_(wanted[start : start + IN_LINE]) & table.c.wrapped.is_not(None)
        found = connection.execute(select(table.c.id).where(these).order_by(table.c.id).with_for_update()).scalars()
        if living := list(map(bytes, found)):
            if kind != "key_renewed":
                _refuse_held(connection, guard, living)
            _bury_keys(connection, guard, living, guard.now())
            destroyed += living
    for start in range(0, len(destroyed), IN_LINE):
        line = {"keys": [key_id.hex() for key_id in destroyed[start : start + IN_LINE]]}
        ledger.append(connection, guard, kind, line)
    _forget_keys(guard, wanted)
    return len(destroyed)


def _refuse_held(connection: Connection, guard: Guard, ids: Sequence[bytes]) -> None:
    if connection.execute(holds.on_subjects(guard, ids, guard.now)).first() is not None:
        raise PlanError(
            "A hold keeps a data subject whose key was to be destroyed.",
            "Nothing was destroyed: somebody recorded a reason not to destroy yet.",
            "Once it ends, do it again; privacy.release(engine, hold, by=...) ends it now.",
        )


def _bury_keys(connection: Connection, guard: Guard, ids: Sequence[bytes], at: datetime) -> None:
    table = guard.own_table(KEY)
    living = table.c.id.in_(ids) & table.c.wrapped.is_not(None)
    connection.execute(update(table).where(living).values(wrapped=None, destroyed_at=at))


def _forget_keys(guard: Guard, ids: Sequence[bytes]) -> None:
    for key_id in ids:
        guard.keys.forget(key_id)
    guard.shredded.update(ids)


@ledger.redoes("key_destroyed")
def _destroy_keys_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """One that an older backup does not know gets its tombstone too: nobody may bring the key in from elsewhere."""
    table, at = guard.own_table(KEY), datetime.fromisoformat(entry.at)
    ids = [bytes.fromhex(key_id) for key_id in body["keys"]]
    _bury_keys(connection, guard, ids, at)
    known = set(map(bytes, connection.execute(select(table.c.id).where(table.c.id.in_(ids))).scalars()))
    unknown = [{"id": key_id, "created_at": at, "destroyed_at": at} for key_id in ids if key_id not in known]
    if unknown:
        connection.execute(insert(table), unknown)
    _forget_keys(guard, ids)


def destroy_epochs(connection: Connection, guard: Guard, keys: Sequence[Sequence[Any]]) -> int:
    """Destroy the keys of epochs, each (field id, number), and leave their tombstones. Returns how many were living.

    The work is the same however many values were sealed in them.
    """
    table, count = guard.own_table(EPOCH), 0
    for field_id in sorted({field_id for field_id, _ in keys}):
        wanted = sorted({number for each, number in keys if each == field_id})
        for start in range(0, len(wanted), IN_LINE):
            these = (table.c.field == field_id) & table.c.number.in_(wanted[start : start + IN_LINE])
            among_these = select(table.c.number).where(these, table.c.wrapped.is_not(None)).with_for_update()
            living = sorted(connection.execute(among_these).scalars())
            if living:
                _bury_epochs(connection, guard, field_id, living, guard.now())
                ledger.append(connection, guard, "epoch_destroyed", {"field": field_id, "numbers": living})
            count += len(living)
        _forget_epochs(connection, guard, field_id, wanted)
    return count


def _bury_epochs(connection: Connection, guard: Guard, field_id: str, numbers: Sequence[int], at: datetime) -> None:
    table = guard.own_table(EPOCH)
    living = and_(table.c.field == field_id, table.c.number.in_(numbers), table.c.wrapped.is_not(None))
    connection.execute(update(table).where(living).values(wrapped=None, destroyed_at=at))


def _forget_epochs(connection: Connection, guard: Guard, field_id: str, numbers: Sequence[int]) -> None:
    for number in numbers:
        epoch = Epoch(connection.dialect, field_id, number)
        guard.keys.forget_epoch(epoch)
        guard.shredded.add(epoch)


@ledger.redoes("epoch_destroyed")
def _destroy_epochs_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """An epoch that an older backup does not know has no values there."""
    _bury_epochs(connection, guard, body["field"], body["numbers"], datetime.fromisoformat(entry.at))
    _forget_epochs(connection, guard, body["field"], body["numbers"])

"""The second key of a sealed value: its epoch's. Destroying it makes every copy of a time bucket unreadable at once.

An epoch is a bucket of the event that all of a field's purposes count from, as wide as the policy says
(``keep: {for: P30D, after: recorded, epoch: P1D}``). Number 0 is no epoch; 1 began with 1970 in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from privkit.crypto import SubjectKey
from privkit.errors import MappingError, ShreddedError, StatementRefused
from privkit.policy import Keep
from privkit.policy.resolve import FieldRule
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import EPOCH

CHUNK = 500
_START = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Epochs:
    """How a field's values are divided: by the time of ``event``, in buckets of ``width``."""

    event: str
    width: timedelta

    def number(self, moment: datetime) -> int:
        """Return the number of the bucket that an instant (aware, UTC) falls into."""
        return 1 + (moment - _START) // self.width

    def ends(self, number: int) -> datetime:
        """Return the instant at which a bucket is over."""
        return _START + number * self.width


def epochs_of(rule: FieldRule) -> Epochs | None:
    """Return how a field's values are divided into epochs, or None when its policy names none.

    Raises MappingError where its purposes and duties disagree: one key cannot serve two buckets.
    """
    keeps = [term.purpose.keep for term in rule.terms] + [duty.keep for duty in rule.duties]
    if not any(keep is not None and keep.epoch is not None for keep in keeps):
        return None
    found = {_epochs(keep) for keep in keeps}
    if len(found) > 1 or None in found:
        raise MappingError(
            f"The purposes of {rule.field} disagree on its epoch.",
            "A value is sealed under the key of one epoch; a purpose without it would lose the value early.",
            "Give all of its purposes and duties the same event and the same epoch, or none an epoch.",
            field=rule.field.id,
        )
    return found.pop()


def _epochs(keep: Keep | None) -> Epochs | None:
    if keep is None or keep.epoch is None:
        return None
    if keep.epoch.months or keep.epoch.rest < timedelta(hours=1):
        raise MappingError(
            f"An epoch of {keep.epoch} has no fixed length of at least an hour.",
            "Buckets are numbered from 1970 in equal steps.",
            "Write it in days, weeks or hours: epoch: P1D.",
        )
    return Epochs(keep.after, keep.epoch.rest)


def number_in(guard: Guard, rule: FieldRule, epochs: Epochs, row: Mapping[str, Any], column: str) -> int:
    """Return the epoch of a row that is being written. Raises StatementRefused where its event time is not known."""
    moment = _instant(row.get(column))
    if moment is None:
        raise StatementRefused(
            f"{rule.field} is sealed in epochs of {epochs.event!r}, and the row does not say when that was.",
            "Without its time the value belongs to no epoch.",
            f"Set {column} in the same INSERT, and together with the field in an UPDATE.",
            field=rule.field.id,
        )
    if moment < _START or epochs.number(moment) >= 1 << 32:
        raise StatementRefused(f"The event {epochs.event!r} lies outside the epochs, which began in 1970.")
    return epochs.number(moment)


def _instant(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo is not None else value.replace(tzinfo=UTC)
    return datetime.combine(value, time(), UTC) if isinstance(value, date) else None


def load(connection: Connection, guard: Guard, wanted: Iterable[tuple[str, int]]) -> None:
    """Put the keys of epochs into ``guard.epochs``, with one query for each field and ``CHUNK`` numbers."""
    missing: dict[str, list[int]] = {}
    for field_id, number in set(wanted):
        if guard.epochs.get((field_id, number)) is None:
            missing.setdefault(field_id, []).append(number)
    for field_id, numbers in missing.items():
        for start in range(0, len(numbers), CHUNK):
            _read(connection, guard, field_id, numbers[start : start + CHUNK])


def _read(connection: Connection, guard: Guard, field_id: str, numbers: list[int]) -> dict[int, SubjectKey]:
    table, found = guard.own_table(EPOCH), {}
    query = select(table.c.number, table.c.key_id, table.c.wrapped)
    for number, key_id, wrapped in connection.execute(
        query.where(table.c.field == field_id, table.c.number.in_(numbers))
    ):
        if wrapped is None:
            guard.epochs.shred((field_id, number))
        else:
            found[number] = guard.keyring.unwrap(bytes(key_id), bytes(wrapped))
            guard.epochs.put((field_id, number), found[number])
    return found


def for_sealing(connection: Connection, guard: Guard, field_id: str, numbers: Iterable[int]) -> dict[int, SubjectKey]:
    """Return the keys of epochs to seal in, created where they are missing.

    They are always read, never taken from memory: what another transaction created may have been rolled back.
    Raises ShreddedError for an epoch that was destroyed.
    """
    wanted = sorted(set(numbers))
    found = _read(connection, guard, field_id, wanted)
    _create(connection, guard, field_id, [number for number in wanted if number not in found])
    if len(found) < len(wanted):
        found = _read(connection, guard, field_id, wanted)
    if len(found) < len(wanted):
        raise ShreddedError(
            f"An epoch of {field_id} that a value belongs to was destroyed.",
            "Its lifetime has ended; a new key would bring it back.",
            "Do not write values whose period is over.",
            field=field_id,
        )
    return found


def _create(connection: Connection, guard: Guard, field_id: str, numbers: list[int]) -> None:
    if not numbers:
        return
    keys = [SubjectKey.new() for _ in numbers]
    rows = [
        {
            "field": field_id,
            "number": number,
            "key_id": key.id,
            "wrapped": guard.keyring.wrap(key.id, key.secret),
            "created_at": guard.now(),
        }
        for number, key in zip(numbers, keys, strict=True)
    ]
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(guard.own_table(EPOCH)).on_conflict_do_nothing(), rows)


def living(connection: Connection, guard: Guard, field_id: str, up_to: int) -> list[int]:
    """Return the numbers of the living epochs of a field up to and including ``up_to``."""
    table = guard.own_table(EPOCH)
    over = (table.c.field == field_id, table.c.number <= up_to, table.c.wrapped.is_not(None))
    return list(connection.execute(select(table.c.number).where(*over).order_by(table.c.number)).scalars())


def destroy(connection: Connection, guard: Guard, field_id: str, up_to: int) -> int:
    """Destroy the keys of all epochs of a field up to ``up_to``: the same work however many rows they sealed."""
    table = guard.own_table(EPOCH)
    over = (table.c.field == field_id, table.c.number <= up_to, table.c.wrapped.is_not(None))
    numbers = living(connection, guard, field_id, up_to)
    connection.execute(update(table).where(*over).values(wrapped=None, destroyed_at=guard.now()))
    for number in numbers:
        guard.epochs.shred((field_id, number))
    return len(numbers)

"""One sealed column's values as they are stored: opened under what they were sealed with, sealed as it is done now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    bindparam,
    null,
    select,
    type_coerce,
    update,
)

from privkit.catalog import Field
from privkit.crypto import DESTROYED, Epoch, SubjectKey, as_bytes, parse
from privkit.crypto.envelope import VERSION, ValueKey
from privkit.errors import SealedError, StatementRefused
from privkit.sqlalchemy import epochs, index, keystore
from privkit.sqlalchemy.destroy import among, key_columns
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.stored import codec_of
from privkit.sqlalchemy.types import Guarded, Sealed


class State(Enum):
    """How a stored value stands to how it would be sealed now."""

    present = "as it would be sealed now"
    destroyed = "under a destroyed key, or not an envelope that privkit wrote"
    due = "sealed under something else, and opens"
    failed = "does not open, or belongs to another data subject"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of one column: its key, the envelope, the search hash beside it, its owner's key id, its event's time."""

    key: tuple[Any, ...]
    envelope: bytes
    hash: bytes | None
    owner: bytes | None
    moment: Any


@dataclass(slots=True)
class Values:
    """The values of one sealed column in one database."""

    guard: Guard
    column: Column[Any]
    held: list[Any] = field(default_factory=list)

    @property
    def name(self) -> str:
        """``table.column``."""
        return f"{self.column.table.fullname}.{self.column.name}"

    @property
    def field(self) -> Field:
        """The field that is stored in the column."""
        assert isinstance(self.column.type, Guarded)
        return self.column.type.field

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids that a value may be sealed under: the present one first."""
        return self.field.id, *self.field.marker.formerly

    def query(self) -> Select[Any]:
        """Return the query that ``rows`` reads; add conditions, an order and a limit to it."""
        table = self.column.table
        hash_column = self._hash_column()
        event = self._event_column()
        return select(
            *key_columns(table),
            type_coerce(self.column, LargeBinary()),
            type_coerce(hash_column, LargeBinary()) if hash_column is not None else null(),
            owner_key(self.guard, table, table),
            event if event is not None else null(),
        ).where(type_coerce(self.column, LargeBinary()).is_not(None))

    def rows(self, connection: Connection, query: Select[Any]) -> list[Row]:
        """Read a page, and load the keys of its values and owners; they are held until the next page."""
        found = [
            Row(tuple(key), as_bytes(stored), hashed if hashed is None else bytes(hashed), owner, moment)
            for *key, stored, hashed, owner, moment in connection.execute(query).all()
        ]
        found = [row if row.owner is None else replace(row, owner=bytes(row.owner)) for row in found]
        self._load(connection, found)
        return found

    def _load(self, connection: Connection, rows: Iterable[Row]) -> None:
        ids: set[bytes] = set()
        numbers: set[int] = set()
        for row in rows:
            header = _header(row.envelope)
            if header is not None:
                ids.add(header[0])
                numbers.add(header[1])
        held: list[Any] = keystore.load(connection, self.guard, ids)
        numbers.discard(0)
        self.held = [held, epochs.load(connection, self.guard, dict.fromkeys(self.ids, numbers)) if numbers else []]

    def state(self, connection: Connection, row: Row) -> tuple[State, bytes, str]:
        """Return how a value stands, with its plaintext and the id that opened it where it is not lost."""
        if row.envelope == DESTROYED or not self._is_envelope(row.envelope):
            return State.destroyed, b"", ""
        header = _header(row.envelope)
        if header is None or header[0] != row.owner:
            return State.failed, b"", ""
        return self.opened(connection, row, header)

    def opened(self, connection: Connection, row: Row, header: tuple[bytes, int]) -> tuple[State, bytes, str]:
        """The same for an envelope whose owner is not in question."""
        for field_id in self.ids:
            key = self._value_key(connection, field_id, *header)
            if key is None:
                continue
            try:
                plaintext = key.open(row.envelope)
            except SealedError:
                continue
            return self._compared(row, plaintext, field_id, header[1]), plaintext, field_id
        return (State.destroyed if self._shredded(connection, *header) else State.failed), b"", ""

    def _compared(self, row: Row, plaintext: bytes, field_id: str, number: int) -> State:
        try:
            same = field_id == self.field.id and number == self.epoch(row) and row.hash == self.hash(plaintext)
        except (SealedError, StatementRefused):
            return State.failed
        return State.present if same else State.due

    def epoch(self, row: Row) -> int:
        """Return the epoch that a row's value belongs to. Raises StatementRefused where the row does not say."""
        rule, event = self.guard.rule(self.field), self._event_column()
        return 0 if event is None else epochs.number_of(rule, event, row.moment)

    def hash(self, plaintext: bytes) -> bytes | None:
        """Return the search hash that a value has now. Raises SealedError for a value that is not of its type."""
        if self._hash_column() is None:
            return None
        found = index.hash_for(self.guard, self.field, codec_of(self.field).decode(plaintext))
        return None if found is None else bytes(found)

    def seal(self, connection: Connection, key: SubjectKey, row: Row, plaintext: bytes) -> bytes:
        """Return the envelope that a value has now. Raises ShreddedError where its epoch is over."""
        number = self.epoch(row)
        held = epochs.for_sealing(connection, self.guard, self.field.id, {number}) if number else []
        return key.value_key(self.field.id, number, held[0].secret if held else b"").seal(plaintext)

    def exchange(self, connection: Connection, fresh: Sequence[tuple[Row, bytes, bytes | None]]) -> int:
        """Replace envelopes and their hashes, each unless it was written meanwhile. Returns how many it were."""
        table, hash_column = self.column.table, self._hash_column()
        columns = key_columns(table)
        same = [column == bindparam(f"key_{number}", type_=column.type) for number, column in enumerate(columns)]
        old = type_coerce(self.column, LargeBinary()) == bindparam("old", type_=LargeBinary())
        new: dict[Any, Any] = {self.column.key: bindparam("new", type_=self.column.type)}
        if hash_column is not None:
            new[hash_column.key] = bindparam("hash", type_=hash_column.type)
        rows = [
            {f"key_{number}": value for number, value in enumerate(row.key)}
            | {"old": row.envelope, "new": Sealed(envelope)}
            | ({"hash": None if hashed is None else index.IndexHash(hashed)} if hash_column is not None else {})
            for row, envelope, hashed in fresh
        ]
        return connection.execute(update(table).where(*same, old).values(new), rows).rowcount if rows else 0

    def locked(self, connection: Connection, rows: Sequence[Row]) -> list[Row]:
        """Lock the rows that nobody else has locked, and return them: a writer is never waited for."""
        table = self.column.table
        columns = key_columns(table)
        query = select(*columns).where(among(columns, [row.key for row in rows]))
        free = {tuple(key) for key in connection.execute(query.with_for_update(skip_locked=True)).all()}
        return [row for row in rows if row.key in free]

    def _hash_column(self) -> Column[Any] | None:
        return self.column.table.c.get(f"{self.column.name}_ix")

    def _event_column(self) -> Column[Any] | None:
        rule = self.guard.rule(self.field)
        return epochs.event_column(self.guard, self.column.table, rule) if rule.epochs is not None else None

    def _value_key(self, connection: Connection, field_id: str, key_id: bytes, number: int) -> ValueKey | None:
        key = self.guard.keys.get(key_id) or self.guard.keys.pinned(key_id)
        if key is None:
            return None
        if not number:
            return key.value_key(field_id)
        return self.guard.keys.value_key_in_epoch(key, Epoch(connection.dialect, field_id, number))

    def _shredded(self, connection: Connection, key_id: bytes, number: int) -> bool:
        gone = self.guard.shredded
        return key_id in gone or any(Epoch(connection.dialect, each, number) in gone for each in self.ids)

    def _is_envelope(self, stored: bytes) -> bool:
        """While a field is adopted, its column holds what ``privkit seal`` has still to seal."""
        return self.field.marker.adopting is None or stored.startswith(VERSION)


def _header(envelope: bytes) -> tuple[bytes, int] | None:
    try:
        return parse(envelope)
    except SealedError:
        return None


def of_owner(values: Values, owner: bytes) -> ColumnElement[bool]:
    """Return SQL that is true for the rows of one data subject."""
    table = values.column.table
    return owner_key(values.guard, table, table) == owner

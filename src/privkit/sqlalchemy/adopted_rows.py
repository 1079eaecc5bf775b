"""The scans behind an adoption: each page of rows is read in both forms, changed under compare-and-set, or compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import field as made_by
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Dialect,
    Engine,
    LargeBinary,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    cast,
    null,
    select,
    type_coerce,
    update,
)

from privkit.catalog import Field
from privkit.crypto import DESTROYED, as_bytes
from privkit.crypto.aead import nonces
from privkit.crypto.envelope import EPOCH_SIZE, HEADER_SIZE, VERSION
from privkit.errors import PrivkitError
from privkit.previous import Adopting
from privkit.purposes import internally
from privkit.sqlalchemy import children, destroy, double, epochs, keystore, ledger, pairs
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.index import hash_for
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.ownership import hop, owner_key
from privkit.sqlalchemy.types import Guarded, Sealed

Progress = Callable[[int], None]
SHOWN = 20
"""How many keys of rows that need a look are named."""


@dataclass(slots=True)
class Moved:
    """What a run did. ``done`` values were written; what is wrong was found by the full comparison after it.

    ``waiting``: not sealed. ``differing``: the two columns hold different values. ``unopened``: one of them does not
    open, or the row has no living data subject. ``double``: the value to seal is an envelope itself. ``keys``: the
    primary keys of up to 20 of those rows.
    """

    field: str
    done: int = 0
    rows: int = 0
    waiting: int = 0
    differing: int = 0
    unopened: int = 0
    double: int = 0
    keys: list[tuple[Any, ...]] = made_by(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every row's two columns agree."""
        return not (self.waiting or self.differing or self.unopened or self.double)


class Stored(TypeDecorator[Any]):
    """What a sealed column holds, as it is: bytes, or in place on SQLite the text that was there before."""

    impl = LargeBinary
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Any:
        return None if dialect.name == "sqlite" else super().bind_processor(dialect)


@dataclass(frozen=True, slots=True)
class Move:
    """An adopted field and its columns; a column in place is both of them."""

    field: Field
    old: Column[Any]
    sealed: Column[Any]

    @property
    def adopting(self) -> Adopting:
        assert self.field.marker.adopting is not None
        return self.field.marker.adopting

    @property
    def pair(self) -> bool:
        return self.old is not self.sealed

    @property
    def table(self) -> Table:
        assert isinstance(self.sealed.table, Table)
        return self.sealed.table

    @property
    def kind(self) -> Guarded:
        assert isinstance(self.sealed.type, Guarded)
        return self.sealed.type

    def old_value(self) -> Any:
        """The old column as its own type reads it."""
        plain = self.old.type.plain if isinstance(self.old.type, Guarded) and self.pair else LargeBinary()
        return type_coerce(self.old, plain)

    def old_token(self) -> Any:
        """What is compared to see whether the old column changed; PostgreSQL compares no JSON."""
        value = self.old_value()
        return cast(value, Text) if isinstance(value.type, JSON) else value


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was read. ``value`` is what the old form says, ``opened`` what the envelope says."""

    key: tuple[Any, ...]
    owner: bytes | None
    stored: Any
    token: Any
    moment: Any
    value: Any = None
    opened: Any = None
    fault: str = ""


@dataclass(slots=True)
class Work:
    """The scans over one field's table."""

    guard: Guard
    engine: Engine
    move: Move
    batch: int
    progress: Progress | None
    undoing: bool = False
    moved: Moved = made_by(init=False)

    def __post_init__(self) -> None:
        self.moved = Moved(str(self.move.field))

    def give_keys(self) -> None:
        """Create the keys of data subjects that were there before privkit."""
        if children.subject_of(self.guard, self.move.table) is None:
            return
        table = self.move.table
        while (step := hop(self.guard, table)) is not None:  # under joined inheritance the base table has the key
            table = step.target
        keys = destroy.key_columns(table)
        query = select(*keys).where(table.c[KEY_COLUMN].is_(None)).limit(self.batch).with_for_update(of=table)
        matching = [key == bindparam(f"key_{number}", type_=key.type) for number, key in enumerate(keys)]
        statement = update(table).where(*matching).values({KEY_COLUMN: bindparam("new", type_=LargeBinary())})
        while True:
            with internally(), self.engine.begin() as connection:
                ledger.lock(connection, self.guard)
                rows = connection.execute(query).all()
                if not rows:
                    return
                made = keystore.create(connection, self.guard, len(rows))
                connection.execute(
                    statement, [_bound(tuple(row)) | {"new": key.id} for row, key in zip(rows, made, strict=True)]
                )

    def scan(self, do: Callable[[Connection, list[Row]], int] | None, *, check: bool = False) -> None:
        """Go through all rows by key, ``batch`` in a transaction, and do something to each page."""
        after: Sequence[Any] | None = None
        while True:
            with internally(), self.engine.begin() as connection:
                if do is not None:
                    ledger.lock(connection, self.guard)
                rows = self._page(connection, after)
                if do is not None and rows and (done := do(connection, rows)):
                    body = {"field": self.move.field.id, "phase": self.move.adopting.phase, "count": done}
                    ledger.append(connection, self.guard, "adopted", body)
                    self.moved.done += done
            if not rows:
                return
            if check:
                for row in rows:
                    self._judge(row)
            if self.progress is not None:
                self.progress(len(rows))
            after = rows[-1].key

    def _page(self, connection: Connection, after: Sequence[Any] | None) -> list[Row]:
        table, move = self.move.table, self.move
        keys = destroy.key_columns(table)
        events: list[Any] = [column for _, column in epochs.divided(self.guard, table, self._guarded())]
        stored = type_coerce(move.sealed, LargeBinary())
        owner = owner_key(self.guard, table, table)
        query = select(*keys, owner, stored, move.old_value(), move.old_token(), *(events or [null()]))
        query = query.where(*destroy.keyset(keys, after)).order_by(*keys).limit(self.batch)
        rows = connection.execute(query).all()
        held = self._load(connection, [row[len(keys) + 1] for row in rows])
        found = [self._read(connection, tuple(row[: len(keys)]), *row[len(keys) :]) for row in rows]
        del held  # until here the keys were findable
        return found

    def _guarded(self) -> dict[str, Guarded]:
        return {self.move.sealed.key: self.move.kind}

    def _load(self, connection: Connection, stored: list[Any]) -> list[Any]:
        """Load the keys of a page's envelopes."""
        headers = {as_bytes(each)[:HEADER_SIZE] for each in stored if _is_envelope(each)}
        numbers = {int.from_bytes(each[-EPOCH_SIZE:], "big") for each in headers} - {0}
        held: list[Any] = keystore.load(connection, self.guard, {each[2:18] for each in headers})
        return held + epochs.load(connection, self.guard, {self.move.field.id: numbers})

    def _read(
        self, connection: Connection, key: tuple[Any, ...], owner: Any, stored: Any, old: Any, token: Any, moment: Any
    ) -> Row:
        owner = bytes(owner) if owner is not None else None
        value = opened = None
        fault = ""
        try:
            if self.move.pair and old is not None:
                value = pairs.converted(self.move.field, pairs.scheme_of(self.move.field).read, old)
            elif not self.move.pair and stored is not None and pairs.is_previous(self.move.field, stored):
                value = pairs.converted(self.move.field, pairs.scheme_of(self.move.field).read, stored)
            if _is_envelope(stored):
                if as_bytes(stored)[2:18] != owner:
                    fault = "owner"
                else:
                    opened = self.guard.opener(self.move.field, connection.dialect)(stored)
        except PrivkitError:
            fault = "unopened"
        return Row(key, owner, stored, token, moment, value, opened, fault)

    def compared(self) -> Moved:
        """Compare every row's two forms, and return what was done and found."""
        if self.undoing and not self.move.pair:
            return self.moved
        self.scan(None, check=True)
        return self.moved

    def _judge(self, row: Row) -> None:
        """Count a row that is not as it should be."""
        self.moved.rows += 1
        wrong = self._wrong(row)
        if wrong:
            self._count(row, wrong)

    def _count(self, row: Row, wrong: str) -> None:
        setattr(self.moved, wrong, getattr(self.moved, wrong) + 1)
        if len(self.moved.keys) < SHOWN and not any(isinstance(each.type, Guarded) for each in self._keys()):
            self.moved.keys.append(row.key)

    def _keys(self) -> list[Column[Any]]:
        return destroy.key_columns(self.move.table)

    def _wrong(self, row: Row) -> str:
        if row.fault:
            return "unopened"
        if row.stored is not None and pairs.is_previous(self.move.field, row.stored):
            return "waiting"
        ahead = self.move.adopting.phase == "finished" and not self.undoing
        if not self.move.pair or ahead or _is_destroyed(row.stored):
            return ""
        return "differing" if row.value != row.opened else ""

    def seal_rows(self, connection: Connection, rows: list[Row]) -> int:
        """Seal what waits; while reads come from the old column, also what differs from it."""
        dual = self.move.adopting.phase == "dual"
        wanted = [row for row in rows if self._to_seal(row, again=dual)]
        good = []
        for row in wanted:
            if row.value is not None and double.are_envelopes(connection, self.guard, [row.value]):
                self.moved.double += 1
            else:
                good.append(row)
        return self._write(connection, [(row, row.value, {}) for row in good])

    def _to_seal(self, row: Row, *, again: bool) -> bool:
        if row.fault == "unopened" and row.value is None:
            return False
        if row.stored is None:
            return row.value is not None and self.move.pair
        if pairs.is_previous(self.move.field, row.stored):
            return True
        return again and not _is_destroyed(row.stored) and (bool(row.fault) or row.value != row.opened)

    def unseal_rows(self, connection: Connection, rows: list[Row]) -> int:
        """Write back the old form where it differs; the sealed one is written anew, so that no trigger speaks up."""
        write = pairs.scheme_of(self.move.field).write
        wanted = [row for row in rows if _is_envelope(row.stored) and not row.fault]
        if not self.move.pair:
            lite = connection.dialect.name == "sqlite"
            changes = [(row, {self.move.sealed.key: _stored(write(row.opened), lite=lite)}) for row in wanted]
            return self._update(connection, [(row, values | self._indexed(None)) for row, values in changes])
        if self.move.adopting.phase == "finished":  # None was written to the sealed column alone
            wanted += [row for row in rows if row.stored is None and not row.fault]
        differing = [(row, row.opened) for row in wanted if row.value != row.opened]
        old = self.move.old.key
        return self._write(connection, [(row, to, {old: None if to is None else write(to)}) for row, to in differing])

    def empty_rows(self, connection: Connection, rows: list[Row]) -> int:
        """Destroy what the old column holds; what an old build left there since the comparison is not sealed yet."""
        keys = []
        for row in (each for each in rows if each.token is not None):
            if row.stored is not None and pairs.is_previous(self.move.field, row.stored):
                self._count(row, "waiting")
            else:
                keys.append(row.key)
        return destroy.empty(connection, self.move.old, self.move.sealed, keys)

    def _write(self, connection: Connection, changes: list[tuple[Row, Any, dict[str, Any]]]) -> int:
        """Seal values for their rows and store them with what belongs to them."""
        owners = {row.owner for row, _, _ in changes if row.owner is not None}
        keys = {key.id: key for key in keystore.load(connection, self.guard, owners)}
        living = [each for each in changes if each[1] is None or each[0].owner in keys]
        name, guarded = self.move.sealed.key, self._guarded()
        events = [column.key for _, column in epochs.divided(self.guard, self.move.table, guarded)]
        rows = [{name: value} | dict.fromkeys(events, row.moment) for row, value, _ in living]
        numbers, held = epochs.of_rows(self.guard, connection, self.move.table, guarded, rows, {})
        seal = self.guard.sealer(self.move.field, connection.dialect, nonces(len(rows)))
        made = []
        for place, (row, value, more) in enumerate(living):
            number = numbers[name][place] if name in numbers else 0
            sealed = None if value is None else Sealed(seal(keys[row.owner or b""], number, value))
            made.append((row, {name: sealed} | self._indexed(value) | more))
        del held
        return self._update(connection, made)

    def _indexed(self, value: Any) -> dict[str, Any]:
        name = f"{self.move.sealed.name}_ix"
        return {name: hash_for(self.guard, self.move.field, value)} if name in self.move.table.columns else {}

    def _update(self, connection: Connection, changes: list[tuple[Row, dict[str, Any]]]) -> int:
        """Change rows that still hold what was read. Returns how many did."""
        if not changes:
            return 0
        keys = self._keys()
        matching: list[Any] = [key == bindparam(f"key_{number}", type_=key.type) for number, key in enumerate(keys)]
        stored, token = type_coerce(self.move.sealed, Stored()), self.move.old_token()
        matching.append(stored.is_not_distinct_from(bindparam("was_stored", type_=Stored())))
        if self.move.pair:
            matching.append(token.is_not_distinct_from(bindparam("was_old", type_=token.type)))
        names = {name: bindparam(f"new_{name}", type_=self._type_of(name)) for name in changes[0][1]}
        statement = update(self.move.table).where(*matching).values(names)
        count = 0
        for row, values in changes:
            given = {f"new_{name}": value for name, value in values.items()}
            given |= _bound(row.key) | {"was_stored": row.stored}
            given |= {"was_old": row.token} if self.move.pair else {}
            count += connection.execute(statement, given).rowcount
        return count

    def _type_of(self, name: str) -> Any:
        kind = self.move.table.columns[name].type
        if not isinstance(kind, Guarded):
            return kind
        return Stored() if kind.sealed else kind.plain


def _bound(key: tuple[Any, ...]) -> dict[str, Any]:
    return {f"key_{number}": value for number, value in enumerate(key)}


def _is_envelope(stored: Any) -> bool:
    return stored is not None and not isinstance(stored, str) and bytes(stored[:1]) == VERSION


def _is_destroyed(stored: Any) -> bool:
    return stored is not None and not isinstance(stored, str) and bytes(stored) == DESTROYED


def _stored(token: str | bytes, *, lite: bool) -> str | bytes:
    """A column in place is binary, but on SQLite, where it may hold the text that it held before."""
    return token.encode() if isinstance(token, str) and not lite else token

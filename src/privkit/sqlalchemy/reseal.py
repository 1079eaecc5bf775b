"""Seals values again whose field id, epoch rule or search has changed, and renews a data subject's key.

Each batch is a transaction with its line in the ledger. A value that is written meanwhile stays as it was written, and
one that does not open stays as it is and makes the run red; nothing is guessed. Killed and run again, it goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Connection, Engine, LargeBinary, func, literal, select, type_coerce, update

from privkit import clock
from privkit.crypto import SubjectKey
from privkit.crypto.envelope import KEY_ID_SIZE
from privkit.errors import KeyringError, MappingError, SealedError, ShreddedError
from privkit.purposes import internally
from privkit.sqlalchemy import consent_subjects, keystore, ledger, shred, tables, waiting
from privkit.sqlalchemy.destroy import key_columns, keyset, require_rows
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.scan import require_sealed_columns
from privkit.sqlalchemy.values import Row, State, Values, of_owner

Progress = Callable[[str, int], None]
"""Called with ``table.column`` and how many of its values were looked at."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of one column's values, as the last look at all of them found it; ``resealed``, over all looks.

    ``left`` are still to be resealed; ``failed`` do not open, or belong to another data subject than their row.
    """

    scanned: int
    resealed: int
    left: int
    failed: int


@dataclass(frozen=True, slots=True)
class Resealed:
    """What a run did, by ``table.column``."""

    fields: Mapping[str, Counts]

    @property
    def ok(self) -> bool:
        """Whether nothing is left or failed."""
        return not any(each.left or each.failed for each in self.fields.values())


def reseal(
    guard: Guard,
    engine: Engine,
    *,
    fields: Iterable[str] | None = None,
    batch: int = 1000,
    patience: float = 60.0,
    progress: Progress | None = None,
) -> Resealed:
    """Seal anew what is not as it would be sealed now. ``fields``: only these, each as ``table.column``.

    ``patience``: seconds for which rows that others have locked are tried again. The keys of epochs under a former
    field id are destroyed once nothing is left under it, and the transactions have ended that were open then. Raises
    KeyringError where there is no sealed field, MappingError for an unknown one, InvalidValue for an empty batch.
    """
    require_rows(batch)
    with internally():
        work = [_Work(guard, engine, each, batch, patience, progress) for each in _chosen(guard, fields)]
        return Resealed({each.values.name: each.run() for each in work})


def _chosen(guard: Guard, fields: Iterable[str] | None) -> list[Values]:
    found = {(values := Values(guard, column)).name: values for column in require_sealed_columns(guard)}
    wanted = list(found) if fields is None else list(fields)
    for name in wanted:
        if name not in found:
            near = get_close_matches(name, found, 3)
            fix = f"Did you mean {', '.join(near)}?" if near else f"Name one of: {', '.join(found)}."
            raise MappingError(f"{name} is no sealed column.", "Nothing was resealed.", fix, field=name)
    return [found[name] for name in wanted]


@dataclass(slots=True)
class _Work:
    """The batches of one column."""

    guard: Guard
    engine: Engine
    values: Values
    batch: int
    patience: float
    progress: Progress | None

    def run(self) -> Counts:
        """Look at all values until a look finds nothing to do."""
        until, resealed, waited = clock.monotonic() + self.patience, 0, False
        while True:
            seen = self._look()
            resealed += seen.resealed
            if not seen.left and not seen.resealed:
                if not waited and not seen.failed and self._former_epochs():
                    waiting.for_open_transactions(self.guard, self.engine, patience=self.patience)
                    waited = True  # what an older build was writing meanwhile is there now: look again
                    continue
                if waited and not seen.failed:
                    self._end_former_epochs()
                return Counts(seen.scanned, resealed, 0, seen.failed)
            if not seen.resealed:
                if clock.monotonic() >= until:
                    return Counts(seen.scanned, resealed, seen.left, seen.failed)
                time.sleep(waiting.POLL)  # others hold the rest

    def _look(self) -> Counts:
        scanned = resealed = left = failed = 0
        after: Sequence[Any] | None = None
        keys = key_columns(self.values.column.table)
        while True:
            query = self.values.query().where(*keyset(keys, after)).order_by(*keys).limit(self.batch)
            with self.engine.begin() as connection:
                rows = self.values.rows(connection, query)
                judged = [(row, *self.values.state(connection, row)) for row in rows]
                due = {row.key: (row, plaintext) for row, state, plaintext, _ in judged if state is State.due}
                done = self._exchange(connection, due) if due else 0
            scanned, resealed, left = scanned + len(rows), resealed + done, left + len(due) - done
            failed += sum(state is State.failed for _, state, _, _ in judged)
            if not rows:
                return Counts(scanned, resealed, left, failed)
            if self.progress is not None:
                self.progress(self.values.name, len(rows))
            after = rows[-1].key

    def _exchange(self, connection: Connection, due: Mapping[Any, tuple[Row, bytes]]) -> int:
        if connection.dialect.name == "sqlite":
            ledger.lock(connection, self.guard)  # where no row can be locked
        free = self.values.locked(connection, [row for row, _ in due.values()])
        owners = keystore.for_sealing(connection, self.guard, {row.owner for row in free if row.owner is not None})
        fresh = []
        for row in free:
            assert row.owner is not None
            plaintext = due[row.key][1]
            with suppress(ShreddedError):  # its epoch is over: it is left for the purge
                envelope = self.values.seal(connection, owners[row.owner], row, plaintext)
                fresh.append((row, envelope, self.values.hash(plaintext)))
        count = self.values.exchange(connection, fresh)
        if count:
            ledger.append(connection, self.guard, "resealed", {"field": self.values.name, "count": count})
        return count

    def _former_epochs(self) -> list[tuple[str, int]]:
        table, former = self.guard.own_table(tables.EPOCH), self.values.field.marker.formerly
        query = select(table.c.field, table.c.number).where(table.c.field.in_(former), table.c.wrapped.is_not(None))
        with self.engine.connect() as connection:
            return [(field, number) for field, number in connection.execute(query)] if former else []

    def _end_former_epochs(self) -> None:
        """Nothing is sealed in them any more, but in backups: those end with the epoch, as all copies do."""
        keys = self._former_epochs()
        with self.engine.begin() as connection:
            shred.destroy_epochs(connection, self.guard, keys)


def renew(guard: Guard, engine: Engine, subject: bytes, *, patience: float = 600.0) -> Resealed:
    """Give a data subject a fresh key, seal all values of its rows under it, and destroy the old key.

    ``subject``: the key id (16 bytes) that the data subject's row has now. Between two transactions it waits for
    those that are open meanwhile, as they may seal under the old key. Killed, it goes on when it is called again with
    the same id. A backup made before opens under the old key, and what the ledger says of the new key holds for the old
    one there. Raises KeyringError where no row has the key, SealedError
    where a value does not open: then nothing was changed.
    """
    with internally():
        work = [Values(guard, column) for column in require_sealed_columns(guard)]
        with engine.begin() as connection:
            new = _successor(connection, guard, subject)
            counts = dict.fromkeys((each.name for each in work), 0)
            if new is None:
                new, counts = _replaced(connection, guard, work, subject)
        waiting.for_open_transactions(guard, engine, patience=patience)
        with engine.begin() as connection:
            owner = keystore.for_sealing(connection, guard, [new])[new]
            for each in work:
                counts[each.name] += _reseal_under(connection, each, new, subject, owner)
            shred.destroy_keys(connection, guard, [subject], kind="key_renewed")
    return Resealed({name: Counts(count, count, 0, 0) for name, count in counts.items()})


def _successor(connection: Connection, guard: Guard, subject: bytes) -> bytes | None:
    """Return the key that a renewal which was killed gave to the data subject; None: it has still the old one."""
    ledger.lock(connection, guard)
    if any(_has_rows(connection, table, subject) for table in _subject_tables(guard)):
        return None
    table = guard.own_table(tables.LEDGER)
    lines = select(table.c.body).where(table.c.kind == "resealed", table.c.body.contains(subject.hex()))
    for body in map(json.loads, connection.execute(lines.order_by(table.c.seq.desc())).scalars()):
        if body.get("subject") == subject.hex():
            return bytes.fromhex(body["key"])
    raise KeyringError(
        "No data subject's row has this key.",
        "Nothing was changed.",
        "Give the privkit_key of the data subject's row, 16 bytes.",
    )


def _replaced(
    connection: Connection, guard: Guard, work: Sequence[Values], subject: bytes
) -> tuple[bytes, dict[str, int]]:
    (key,) = keystore.create(connection, guard, 1)
    for table in _subject_tables(guard):
        connection.execute(select(table.c[KEY_COLUMN]).where(table.c[KEY_COLUMN] == subject).with_for_update())
    counts = {each.name: _reseal_under(connection, each, subject, subject, key) for each in work}
    for table in _subject_tables(guard):
        connection.execute(update(table).where(table.c[KEY_COLUMN] == subject).values({KEY_COLUMN: key.id}))
    for name in (tables.HOLD, tables.CONSENT, tables.REQUEST):
        table = guard.own_table(name)
        connection.execute(update(table).where(table.c.subject == subject).values(subject=key.id))
    was, becomes = (consent_subjects.guardian_token(connection, guard, each) for each in (subject, key.id))
    for name in (tables.CONSENT, tables.REQUEST):
        table = guard.own_table(name)
        connection.execute(update(table).where(table.c.guardian == was).values(guardian=becomes))
    line = {"subject": subject.hex(), "key": key.id.hex(), "count": sum(counts.values())}
    ledger.append(connection, guard, "resealed", line)
    return key.id, counts


def _reseal_under(connection: Connection, values: Values, owner: bytes, named: bytes, key: SubjectKey) -> int:
    """Seal the values of one data subject's rows that are under the key ``named`` anew under ``key``."""
    stored = type_coerce(values.column, LargeBinary())
    under = func.substr(stored, 3, KEY_ID_SIZE, type_=LargeBinary()) == literal(named, LargeBinary())
    fresh = []
    for row in values.rows(connection, values.query().where(of_owner(values, owner), under)):
        state, plaintext, _ = values.opened(connection, row, (named, int.from_bytes(row.envelope[18:22], "big")))
        if state is State.failed:
            raise SealedError(
                f"A value of {values.name} does not open.",
                "Under a new key it would be lost. Nothing was changed.",
                "Restore it, or empty the field, then renew the key.",
                field=values.name,
            )
        if state is not State.destroyed:
            fresh.append((row, values.seal(connection, key, row, plaintext), values.hash(plaintext)))
    return values.exchange(connection, fresh)


def _subject_tables(guard: Guard) -> list[Any]:
    return [table for table in guard.tables if KEY_COLUMN in table.columns]


def _has_rows(connection: Connection, table: Any, subject: bytes) -> bool:
    query = select(table.c[KEY_COLUMN]).where(table.c[KEY_COLUMN] == subject).limit(1)
    return connection.execute(query).first() is not None

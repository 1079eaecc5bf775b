"""Rotation: wraps all living keys under a new master generation, and destroys the generations before it.

A deleted wrapped key still lies in the database's heap, log and backups; once its generation is destroyed it opens
nowhere. ``rotate`` adds a generation and wraps anew; ``roll`` then destroys the older ones. Either may be killed at
any moment and run again, and two may run at once: what counts is where each key stands, and the ledger says whether
the newest generation may still serve.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, LargeBinary, Table, and_, func, inspect, select

from privkit import clock
from privkit.crypto.document import GENERATION_SIZE
from privkit.errors import KeyringError, SealedError
from privkit.purposes import internally
from privkit.sqlalchemy import ledger, tables, waiting, wrapping
from privkit.sqlalchemy.destroy import keyset, require_rows
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.scan import Found, declared_envelopes, require_sealed_columns, scan_envelopes

Progress = Callable[[str, int], None]
"""Called with a key table's name and how many of its keys were wrapped anew."""
DESTROYS = ("epoch_destroyed", "key_destroyed", "key_renewed")
"""The kinds of lines that tell of a destroyed key."""
_LINES = 100
PATIENCE = 600.0
"""Seconds for which a rotation waits for open transactions, and for keys that another worker holds."""


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """The keys of one table of one database. ``left`` living ones are under a generation older than the current."""

    table: str
    living: int
    destroyed: int
    left: int
    rewrapped: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class DatabaseKeys:
    """One database of a rotation: its key tables, and its sealed columns before and after."""

    keys: tuple[KeyCounts, ...]
    before: tuple[Found, ...]
    after: tuple[Found, ...]

    @property
    def ok(self) -> bool:
        """Whether every key is under the new generation, and no value lost its key."""
        lost = any(after.unknown > before.unknown for before, after in zip(self.before, self.after, strict=True))
        return not lost and not any(each.left or each.failed for each in self.keys)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did. ``destroyed`` are the generations that it destroyed.

    ``since``: when the generation came. What was destroyed before is final once a roll has ended.
    """

    generation: int
    since: datetime
    databases: tuple[DatabaseKeys, ...]
    destroyed: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is left under an older generation, in any of the databases."""
        return all(each.ok for each in self.databases)


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The generations of the keyring, the last of which wraps, and the keys of one database.

    What was destroyed before ``last_roll`` is final; None: there was no roll.
    """

    generations: tuple[int, ...]
    keys: tuple[KeyCounts, ...]
    last_roll: datetime | None


def rotate(
    guard: Guard,
    engines: Sequence[Engine],
    *,
    batch: int = 1000,
    patience: float = PATIENCE,
    progress: Progress | None = None,
) -> Rotation:
    """Add a generation and wrap every living key of ``engines`` under it.

    A rotation that did not end is gone on with, under the generation that it added. Raises KeyringError where there
    is no sealed field or no key, or where a transaction outlasts ``patience`` seconds.
    """
    with internally():
        return _rotated(guard, engines, "keys_rotated", batch, patience, progress)


def roll(
    guard: Guard,
    engines: Sequence[Engine],
    *,
    batch: int = 1000,
    patience: float = PATIENCE,
    progress: Progress | None = None,
) -> Rotation:
    """Rotate, then destroy the older generations: a key that was destroyed before opens nowhere any more.

    ``engines`` are all databases that use the keyring: keys of one that is left out are lost. So are those of every
    backup made before, unless the key tables of a later one go with it. Nothing is destroyed while a key is left
    under an older generation (``Rotation.ok`` is False), or while a stored envelope names a key that is in no key
    table (KeyringError): whoever sealed it may have wrapped its key under the generation.
    """
    with internally():
        made = _rotated(guard, engines, "keys_rolled", batch, patience, progress)
        if not made.ok:
            return made
        for engine in engines:
            _refuse_unknown_keys(guard, engine)
        if any(_left(guard, engine, made.generation) for engine in engines):
            return made
        made = replace(made, destroyed=_destroy_before(guard, made.generation))
        _note(guard, engines, "keys_rolled", made)
    return made


def last_roll(connection: Connection, guard: Guard) -> datetime | None:
    """Return the instant before which every destroyed key is final: it opens nowhere, backups included."""
    with internally():
        line = next(iter(_lines(connection, guard, "keys_rolled")), None)
    return datetime.fromisoformat(line["since"]) if line else None


def key_status(guard: Guard, engine: Engine) -> KeyStatus:
    """Return how the keys of a database stand, against the current generation."""
    generation = guard.keyring.generation
    with internally(), engine.connect() as connection:
        counts = tuple(_count(connection, table, generation) for table in _key_tables(guard, engine))
        return KeyStatus(guard.keyring.generations, counts, last_roll(connection, guard))


def _rotated(
    guard: Guard, engines: Sequence[Engine], ends: str, batch: int, patience: float, progress: Progress | None
) -> Rotation:
    require_rows(batch)
    for engine in engines:
        _require_keys(guard, engine)
    before = [tuple(declared_envelopes(guard, engine)) for engine in engines]
    generation, since = _begun(guard, engines, ends)
    done = []
    for engine, columns in zip(engines, before, strict=True):
        waiting.for_open_transactions(guard, engine, patience=patience)
        work = _Work(guard, engine, generation, batch, clock.monotonic() + patience, progress)
        counts = tuple(work.rewrap(table) for table in _key_tables(guard, engine))
        done.append(DatabaseKeys(counts, columns, tuple(declared_envelopes(guard, engine))))
    made = Rotation(generation, since, tuple(done))
    if made.ok:
        _note(guard, engines, "keys_rotated", made)
    return made


def _begun(guard: Guard, engines: Sequence[Engine], ends: str) -> tuple[int, datetime]:
    """Return the generation to wrap under and when it came: one whose work has not ended, or a new one."""
    current = guard.keyring.generation
    found = [_added(guard, engine, current, ends) for engine in engines]
    known = [since for since, _ in found if since is not None]
    if len(known) == len(found) and not all(ended for _, ended in found):
        return current, min(known)
    since = guard.now()
    added = guard.keyring.add_generation()
    for engine in engines:
        with engine.begin() as connection:
            line = {"generation": added, "since": since.isoformat()}
            ledger.append(connection, guard, "generation_added", line)
    return added, since


def _added(guard: Guard, engine: Engine, generation: int, ends: str) -> tuple[datetime | None, bool]:
    """Return since when a generation serves this database, and whether its work has ended here.

    No instant: it was not added for this database, or a roll could not make all final that was destroyed so far.
    """
    with engine.connect() as connection:
        added = [line for line in _lines(connection, guard, "generation_added") if line["generation"] == generation]
        since = datetime.fromisoformat(added[0]["since"]) if added else None
        if since is None or (ends == "keys_rolled" and _destroyed_since(guard, connection, engine, generation, since)):
            return None, False
        return since, any(line["generation"] == generation for line in _lines(connection, guard, ends))


def _destroyed_since(guard: Guard, connection: Connection, engine: Engine, generation: int, since: datetime) -> bool:
    """Whether a key was destroyed that may have been wrapped under the generation which came at ``since``.

    By the clock, and by the order of the ledger, which stands when a clock jumps back.
    """
    line = guard.own_table(tables.LEDGER)
    after = select(line.c.kind, line.c.body).where(line.c.kind.in_((*DESTROYS, "generation_added")))
    for kind, body in connection.execute(after.order_by(line.c.seq.desc())):
        if kind in DESTROYS:
            return True
        if json.loads(body)["generation"] == generation:
            break
    return any(
        connection.execute(select(table.c.wrapped).where(table.c.destroyed_at >= since).limit(1)).first() is not None
        for table in _key_tables(guard, engine)
    )


def _lines(connection: Connection, guard: Guard, kind: str) -> list[dict[str, Any]]:
    """Return the bodies of a kind's newest lines, newest first."""
    table = guard.own_table(tables.LEDGER)
    query = select(table.c.body).where(table.c.kind == kind).order_by(table.c.seq.desc()).limit(_LINES)
    return [json.loads(body) for body in connection.execute(query).scalars()]


def _note(guard: Guard, engines: Sequence[Engine], kind: str, made: Rotation) -> None:
    for engine, database in zip(engines, made.databases, strict=True):
        body = {
            "generation": made.generation,
            "since": made.since.isoformat(),
            "destroyed": list(made.destroyed),
            "databases": len(engines),
            "keys": {each.table: each.living for each in database.keys},
            "rewrapped": {each.table: each.rewrapped for each in database.keys},
        }
        with engine.begin() as connection:
            ledger.append(connection, guard, kind, body)


def _require_keys(guard: Guard, engine: Engine) -> None:
    """A wrong database, or models that were not given, must not pass for a rotation."""
    require_sealed_columns(guard)
    found = key_status(guard, engine).keys
    if not any(each.living + each.destroyed for each in found):
        raise KeyringError(
            f"The database holds no key in {len(found)} key tables.",
            "It is not the database that the keyring serves, or nothing was sealed there yet.",
            "Check the URL; leave out a database that holds nothing sealed.",
        )


def _key_tables(guard: Guard, engine: Engine) -> list[Table]:
    """Return the key tables of every MetaData that stand in this database."""
    named = {
        table.fullname: table
        for metadata in {id(each.metadata): each.metadata for each in guard.tables}.values()
        for table in (tables.find(metadata, tables.KEY), tables.find(metadata, tables.EPOCH))
        if table is not None
    }
    inspector = inspect(engine)
    return [table for _, table in sorted(named.items()) if inspector.has_table(table.name, schema=table.schema)]


def _refuse_unknown_keys(guard: Guard, engine: Engine) -> None:
    found = [each for each in scan_envelopes(guard, engine) if each.unknown]
    if found:
        named = ", ".join(f"{each.column} ({each.unknown})" for each in found)
        raise KeyringError(
            f"Stored envelopes name keys that are in no key table: {named}.",
            "Whoever sealed them may have wrapped their keys under the generation that was to be destroyed.",
            "All keys are wrapped anew and nothing was destroyed. Store those keys in privkit_key, or remove the\n"
            "values, and run it again. `privkit keys status --scan` lists all columns.",
            columns=[each.column for each in found],
        )


def _destroy_before(guard: Guard, generation: int) -> tuple[int, ...]:
    older = [number for number in guard.keyring.generations if number < generation]
    for number in older:
        try:
            guard.keyring.destroy_generation(number)
        except KeyringError:
            if number in guard.keyring.generations:  # else another worker was faster
                raise
    return tuple(older)


def _older(table: Table, generation: int) -> ColumnElement[bool]:
    prefix = func.substr(table.c.wrapped, 1, GENERATION_SIZE, type_=LargeBinary())
    return and_(table.c.wrapped.is_not(None), prefix < generation.to_bytes(GENERATION_SIZE, "big"))


def _left(guard: Guard, engine: Engine, generation: int) -> int:
    with engine.connect() as connection:
        return sum(_count(connection, table, generation).left for table in _key_tables(guard, engine))


def _count(connection: Connection, table: Table, generation: int) -> KeyCounts:
    total, living = connection.execute(select(func.count(), func.count(table.c.wrapped)).select_from(table)).one()
    left = connection.execute(select(func.count()).select_from(table).where(_older(table, generation))).scalar_one()
    return KeyCounts(table.fullname, living, total - living, left)


@dataclass(slots=True)
class _Work:
    """The batches of one database."""

    guard: Guard
    engine: Engine
    generation: int
    batch: int
    until: float
    progress: Progress | None

    def rewrap(self, table: Table) -> KeyCounts:
        """Go through a table until no key is left under an older generation, or only such as do not open."""
        rewrapped = 0
        with self.engine.connect() as connection:
            start = _count(connection, table, self.generation)
        while True:
            done, failed = self._pass(table)
            rewrapped += done
            with self.engine.connect() as connection:
                found = _count(connection, table, self.generation)
            if found.left <= failed or clock.monotonic() >= self.until:
                break
            time.sleep(waiting.POLL if not done else 0)  # another worker holds the rest
        if found.living + found.destroyed < start.living + start.destroyed:
            raise _rows_vanished(table)
        return replace(found, rewrapped=rewrapped, failed=failed)

    def _pass(self, table: Table) -> tuple[int, int]:
        done = failed = 0
        after: Sequence[Any] | None = None
        while True:
            rows, wrapped = self._batch(table, after)
            if not rows:
                return done, failed
            done, failed = done + wrapped, failed + len(rows) - wrapped
            after = [rows[-1][column.name] for column in table.primary_key.columns]

    def _batch(self, table: Table, after: Sequence[Any] | None) -> tuple[list[dict[str, Any]], int]:
        """Wrap the next keys anew, in one transaction. Return them, and how many it were."""
        keys = list(table.primary_key.columns)
        query = select(table).where(_older(table, self.generation), *keyset(keys, after)).order_by(*keys)
        with self.engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                ledger.lock(connection, self.guard)  # where no row can be locked
            page = connection.execute(query.limit(self.batch).with_for_update(skip_locked=True)).mappings()
            rows = [{**row} for row in page]
            fresh = [(row, anew) for row in rows if (anew := self._anew(row)) is not None]
            if fresh:
                wrapping.exchange(connection, table, [row for row, _ in fresh], [anew for _, anew in fresh])
        if fresh and self.progress is not None:
            self.progress(table.fullname, len(fresh))
        return rows, len(fresh)

    def _anew(self, row: dict[str, Any]) -> bytes | None:
        """Return a key wrapped under the current generation, or None where it does not open: it stays as it is."""
        key_id = bytes(row.get("key_id") or row["id"])
        keyring = self.guard.keyring
        try:
            return keyring.wrap(key_id, keyring.unwrap(key_id, bytes(row["wrapped"])).secret)
        except SealedError:
            return None
        except KeyringError as error:
            if "generation" not in error.data:
                raise
            return None


def _rows_vanished(table: Table) -> KeyringError:
    return KeyringError(
        f"Rows of {table.name} disappeared while keys were wrapped anew.",
        "A tombstone is never deleted, so the counts of the rotation cannot be trusted. No generation was destroyed.",
        "Find what deletes from it, and run it again.",
        table=table.name,
    )

"""The keys of epochs: which bucket a row's value belongs to, and its key, loaded or created with the statement.

A value of a field that is divided into epochs needs two keys, its data subject's and its epoch's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    LargeBinary,
    Table,
    Update,
    exists,
    false,
    func,
    select,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from privkit.catalog import Field
from privkit.clock import as_utc
from privkit.crypto import Epoch, SubjectKey
from privkit.errors import MappingError, ShreddedError, StatementRefused
from privkit.policy.epochs import Epochs, ended_before
from privkit.policy.resolve import FieldRule
from privkit.purposes import internally
from privkit.sqlalchemy import keystore, wrapping
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.registry import guard_of
from privkit.sqlalchemy.tables import EPOCH
from privkit.sqlalchemy.types import Guarded, Sealed, plain_type
from privkit.sqlalchemy.write_forms import matching

CHUNK = 500
"""How many numbers go into one IN list."""


def event_column(guard: Guard, table: Table, rule: FieldRule) -> Column[Any]:
    """Return the column of a row's own table that holds the event of a field's epochs."""
    assert rule.epochs is not None
    each = guard.tables[table]
    return each.mapper.columns[str(each.model.events[rule.epochs.event])]


def over(guard: Guard, rule: FieldRule, now: Callable[[], datetime]) -> list[ColumnElement[bool]]:
    """Return the conditions of rows of privkit_epoch: living epochs of a field, all of whose values have ended.

    Of its former ids too. One that counts from another event, under an earlier policy, tells nothing of them.
    """
    assert rule.epochs is not None
    epoch, before = guard.own_table(EPOCH), ended_before(rule.keeps, now())
    ended = false() if before is None else epoch.c.ends <= before
    theirs = epoch.c.field.in_([rule.field.id, *rule.field.marker.formerly]), epoch.c.event == rule.epochs.event
    return [*theirs, ended, epoch.c.wrapped.is_not(None)]


def any_row(guard: Guard, rule: FieldRule, table: Table, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return SQL that is true for a row of privkit_epoch when a row of ``table`` in that epoch meets a condition."""
    epoch, event = guard.own_table(EPOCH), event_column(guard, table, rule)
    starts, ends = _comparable(epoch.c.starts, event), _comparable(epoch.c.ends, event)
    return exists().where(event >= starts, event < ends, condition).correlate(epoch)


def _comparable(bound: ColumnElement[Any], event: Column[Any]) -> ColumnElement[Any]:
    return bound if getattr(plain_type(event), "timezone", False) else InUtc(bound)


class InUtc(FunctionElement[datetime]):
    """An instant as a naive column holds it, in UTC: PostgreSQL would read that in the session's time zone."""

    name = "privkit_in_utc"
    type = DateTime()
    inherit_cache = True


@compiles(InUtc)
def _as_it_is(element: InUtc, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clauses, **kw)


@compiles(InUtc, "postgresql")
def _on_postgresql(element: InUtc, compiler: SQLCompiler, **kw: Any) -> str:
    return f"timezone('UTC', {compiler.process(element.clauses, **kw)})"


def number_of(rule: FieldRule, column: Column[Any], moment: Any) -> int:
    """Return the epoch of a row whose event time is ``moment``. Raises StatementRefused where it is not known."""
    assert rule.epochs is not None
    if not isinstance(moment, datetime):
        raise StatementRefused(
            f"{rule.field} is sealed in epochs of {rule.epochs.event!r}, and its row does not say when that was.",
            "A value without its time belongs to no epoch, and would outlive them all.",
            f"Set {column.table.name}.{column.name} to a time, or give it a default in Python, in the same INSERT.",
            field=rule.field.id,
        )
    return rule.epochs.number(_in_utc(moment))


def divided(guard: Guard, table: Table, guarded: Mapping[str, Guarded]) -> list[tuple[str, Column[Any]]]:
    """Return the sealed columns that are divided into epochs, each with the column of its event."""
    found = ((name, guard.rule(kind.field)) for name, kind in guarded.items() if kind.sealed)
    return [(name, event_column(guard, table, rule)) for name, rule in found if rule.epochs is not None]


def of_rows(
    guard: Guard,
    connection: Connection,
    table: Table,
    guarded: Mapping[str, Guarded],
    rows: Sequence[Mapping[str, Any]],
    known: Mapping[str, int],
) -> tuple[dict[str, list[int]], list[SubjectKey]]:
    """Return the epoch of each row for each field that is divided into epochs, and the epochs' keys, loaded."""
    numbers: dict[str, list[int]] = {}
    held: list[SubjectKey] = []
    for name, column in divided(guard, table, guarded):
        rule = guard.rule(guarded[name].field)

        def number(row: Mapping[str, Any], name: str = name, column: Any = column, rule: Any = rule) -> int:
            if row.get(name) is None or type(row[name]) is Sealed:
                return 0
            if column.key not in row and name in known:
                return known[name]
            return number_of(rule, column, row.get(column.key))

        numbers[name] = [number(row) for row in rows]
        held += for_sealing(connection, guard, rule.field.id, set(numbers[name]) - {0})
    return numbers, held


def of_stored_rows(
    guard: Guard,
    connection: Connection,
    table: Table,
    guarded: Mapping[str, Guarded],
    statement: Update,
    row: Mapping[str, Any],
) -> dict[str, int]:
    """Return the one epoch of the rows that an UPDATE reaches, for each field whose event time it leaves as it is.

    Raises StatementRefused where they lie in several, or where a value would stay behind in its old one.
    """
    known: dict[str, int] = {}
    for name, column in divided(guard, table, guarded):
        written, moved = row.get(name) is not None, column.key in row
        if not (written and not moved) and not (moved and name not in row):
            continue
        present = type_coerce(table.c[name], LargeBinary()).is_not(None) if name not in row else true()
        query = select(func.min(column), func.max(column), func.count() - func.count(column)).where(present)
        with internally():
            first, last, without = connection.execute(*matching(statement, query, row)).one()
        if first is None and not without:
            continue  # no row, or none with a value
        rule = guard.rule(guarded[name].field)
        found = {number_of(rule, column, moment) for moment in ((first, last, None) if without else (first, last))}
        if moved:
            found.add(number_of(rule, column, row[column.key]))
        if len(found) > 1:
            raise _several_epochs(guarded[name], table, name, column)
        known[name] = found.pop()
    return known


def _several_epochs(kind: Guarded, table: Table, name: str, column: Column[Any]) -> StatementRefused:
    return StatementRefused(
        f"An UPDATE of {table.name} would put values of {kind.field} into an epoch that is not their row's.",
        "They would be destroyed with the wrong epoch, too early or too late.",
        f"Set {name} and {column.key} in the same UPDATE, and update by primary key where rows differ in {column.key}.",
        field=kind.field.id,
    )


def load(connection: Connection, guard: Guard, wanted: Mapping[str, Iterable[int]]) -> list[SubjectKey]:
    """Return the keys of epochs by field id, from the cache or with one query a field for up to ``CHUNK`` missing."""
    found: list[SubjectKey] = []
    for field_id, numbers in wanted.items():
        known = {number: guard.keys.epoch(Epoch(connection.dialect, field_id, number)) for number in numbers}
        found += [key for key in known.values() if key is not None]
        missing = [number for number, key in known.items() if key is None]
        found += _read(connection, guard, field_id, missing).values()
    return found


def _read(
    connection: Connection, guard: Guard, field_id: str, numbers: Collection[int], width: Epochs | None = None
) -> dict[int, SubjectKey]:
    """Read keys into the cache. With ``width``, epochs that were narrower under an earlier policy become as wide."""
    if not numbers:
        return {}
    table, found, ordered = guard.own_table(EPOCH), {}, sorted(numbers)
    query = select(table.c.number, table.c.key_id, table.c.wrapped, table.c.ends, table.c.event)
    query = query.where(table.c.field == field_id)
    for start in range(0, len(ordered), CHUNK):
        chunk = table.c.number.in_(ordered[start : start + CHUNK])
        for number, key_id, wrapped, ends, event in connection.execute(query.where(chunk)).all():
            if width is not None and event != width.event:
                raise _another_event(field_id, event, width.event)
            epoch = Epoch(connection.dialect, field_id, number)
            if wrapped is None:
                guard.shredded.add(epoch)
                guard.keys.forget_epoch(epoch)
                continue
            found[number] = guard.keyring.unwrap(bytes(key_id), bytes(wrapped))
            guard.keys.put_epoch(epoch, found[number])
            if width is not None and _in_utc(ends) < width.ends(number):
                this = (table.c.field == field_id) & (table.c.number == number)
                connection.execute(update(table).where(this).values(ends=width.ends(number)))
    return found


def _another_event(field_id: str, before: str, now: str) -> MappingError:
    return MappingError(
        f"Values of {field_id} lie in epochs of {before!r}, and the policy divides them by {now!r} now.",
        "One key cannot serve both: it would be destroyed too early for the ones or too late for the others.",
        f'Give the field a new id, with formerly="{field_id}", and run: privkit reseal',
        field=field_id,
    )


def load_keys(connection: Connection, guard: Guard, field: Field, envelopes: Iterable[bytes]) -> list[SubjectKey]:
    """Return the keys that open a field's envelopes, of data subjects and epochs; hold on to them while you open."""
    stored = list(envelopes)
    numbers = {int.from_bytes(each[18:22], "big") for each in stored} - {0}
    subjects = keystore.load(connection, guard, {each[2:18] for each in stored})
    return [*subjects, *load(connection, guard, dict.fromkeys((field.id, *field.marker.formerly), numbers))]


def _in_utc(moment: datetime) -> datetime:
    """SQLite gives instants back without their zone."""
    return as_utc(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def for_sealing(connection: Connection, guard: Guard, field_id: str, numbers: Iterable[int]) -> list[SubjectKey]:
    """Return the keys of epochs to seal in, created where they are missing; hold on to them while you seal.

    They are read, never taken from memory: one that another transaction created may have been rolled back. Raises
    ShreddedError for an epoch that was destroyed, MappingError for one that counts from another event.
    """
    wanted = set(numbers)
    with internally():
        found = _read(connection, guard, field_id, wanted, guard.rules[field_id].epochs)
        _create(connection, guard, field_id, wanted - found.keys())
        if len(found) < len(wanted):
            found = _read(connection, guard, field_id, wanted)
    if len(found) < len(wanted):
        raise ShreddedError(
            f"An epoch that a value of {field_id} belongs to was destroyed.",
            "Its time has ended; a new key would bring it back.",
            "Do not write a value whose period is over.",
            field=field_id,
        )
    return list(found.values())


_created: WeakKeyDictionary[Connection, set[Epoch]] = WeakKeyDictionary()


def forget_created(connection: Connection, *savepoint: Any) -> None:
    """Read keys again that were made in a transaction: it may end in a rollback, after a COMMIT that failed too.

    Then another worker may make the same epochs, with other keys.
    """
    guard = guard_of(connection.dialect)
    assert guard is not None
    for epoch in _created.get(connection, ()) if savepoint else _created.pop(connection, ()):
        guard.keys.read_epoch_again(epoch)


def _create(connection: Connection, guard: Guard, field_id: str, numbers: Collection[int]) -> None:
    """Another writer may create the same epoch at the same time: the first one that commits gives it its key."""
    if not numbers:
        return
    _created.setdefault(connection, set()).update(Epoch(connection.dialect, field_id, each) for each in numbers)
    now, rows, epochs = guard.now(), [], guard.rules[field_id].epochs
    assert epochs is not None
    keys = [SubjectKey.new() for _ in numbers]
    # In one order, or two writers would wait for each other.
    for number, key in zip(sorted(numbers), keys, strict=True):
        row = {"field": field_id, "number": number, "event": epochs.event, "key_id": key.id, "created_at": now}
        rows.append(row | {"starts": epochs.starts(number), "ends": epochs.ends(number)})
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    table = guard.own_table(EPOCH)
    wrapping.store(connection, guard, table, insert(table).on_conflict_do_nothing(), rows, keys)

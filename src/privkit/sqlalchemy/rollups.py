"""Rows that are counted in a summary before they go: ``@expire_row(Aggregate(...))``.

What a batch counts waits in ``privkit_rollup``, sealed under a key of the keyring's own, one row for each cell. A cell
is published, which adds it to the summary, once enough data subjects wait in it; each change of a published number is
therefore that of many. The ledger tells how many rows went, so what still waits could be told by subtraction: it has to
be nothing, or two cells or more with as many data subjects together. Where it is less, more cells wait.

Batches count in the transaction that deletes their rows, after the ledger's line, and a cell is published and taken off
in one transaction: each row is counted once, whenever a run is killed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import ROUND_DOWN, Decimal
from math import inf
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Integer,
    Numeric,
    String,
    Table,
    insert,
    null,
    select,
)
from sqlalchemy import update as updating

from privkit.consent.age import cautious_today
from privkit.crypto import HEADER_SIZE, SubjectKey, as_bytes
from privkit.crypto.envelope import ValueKey
from privkit.deidentify import private, reduce, token
from privkit.deidentify.keyed import drawn
from privkit.errors import InvalidValue, MappingError, SealedError, ShreddedError
from privkit.markers import Aggregate, Exact
from privkit.periods import Period
from privkit.sqlalchemy import epochs, references
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.held import has_owner
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.tables import ROLLUP, find
from privkit.sqlalchemy.types import Guarded, as_stored

_PERSON = 16
"""Characters of a data subject's token in a waiting cell: 80 bits."""


@dataclass(slots=True)
class Cell:
    """What waits of one cell. ``persons``: tokens of data subjects with rows in it, as many as are asked for."""

    key: list[Any]
    rows: int = 0
    sums: dict[str, str] = field(default_factory=dict)
    persons: list[str] = field(default_factory=list)

    def add(self, other: Cell, at_least: int) -> None:
        """Add what was counted elsewhere."""
        self.rows += other.rows
        for name, number in other.sums.items():
            self.sums[name] = str(Decimal(self.sums.get(name, "0")) + Decimal(number))
        self.persons = sorted({*self.persons, *other.persons})[:at_least]


@dataclass(frozen=True, slots=True)
class Rollup:
    """How rows of one table are counted."""

    table: Table
    aggregate: Aggregate
    summary: Table
    parts: tuple[tuple[Column[Any], Column[Any], Any], ...]
    """A column of the summary's key, the column of the row that it comes from, and the precision."""
    sums: tuple[tuple[Column[Any], Column[Any]], ...]

    def unit(self, into: Column[Any]) -> Decimal | None:
        """The smallest step of a column of the summary; None for numbers that have none."""
        if isinstance(into.type, Integer):
            return Decimal(1)
        if isinstance(into.type, Float) or not isinstance(into.type, Numeric) or into.type.scale is None:
            return None
        return Decimal(1).scaleb(-into.type.scale)


def of(guard: Guard, table: Table) -> Rollup | None:
    """Return how rows of ``table`` are counted when they go, or None. Raises MappingError for what cannot be."""
    aggregate = guard.tables[table].model.expire_row if table in guard.tables else None
    if not isinstance(aggregate, Aggregate):
        return None
    summary = find(table.metadata, aggregate.into)
    if summary is None:
        raise _wrong(table, f"the summary table {aggregate.into!r} is not mapped", "Map it beside the others.")
    if references.circle(guard, table):
        raise _wrong(table, "its rows refer to each other", "Let them go with Delete().")
    parts = []
    for name, source in aggregate.by.items():
        attribute, precision = (source, Exact()) if isinstance(source, str) else source
        column, into = _own(guard, table, attribute), _into(table, summary, name, (String, Integer))
        if isinstance(column.type, Guarded) and guard.rule(column.type.field).epochs is not None:
            raise _wrong(table, f"{attribute} is sealed in epochs, whose keys go first", "Take another attribute.")
        parts.append((into, column, precision))
    keys = {column.name for column, *_ in parts}
    if keys != {column.name for column in summary.primary_key}:
        raise _wrong(table, f"the primary key of {summary.name} is not {', '.join(sorted(keys))}", "Make it so.")
    sums = []
    for name, attribute in aggregate.sums.items():
        column = _own(guard, table, attribute)
        if isinstance(column.type, Guarded) and guard.rule(column.type.field).sealed:
            raise _wrong(table, f"{attribute} is sealed, and is not added up", "Take an unsealed number.")
        sums.append((_into(table, summary, name, (Numeric, Float, Integer)), column))
    _into(table, summary, aggregate.count, (Integer,))
    if aggregate.at_least < 2:
        raise _wrong(table, "at_least is under 2", "A cell of one data subject is that data subject: at_least=10.")
    if aggregate.epsilon is not None:
        _check_noise(table, aggregate)
    try:
        Period.parse(aggregate.wait)
    except ValueError as error:
        raise _wrong(table, f"wait is {error}", 'Give for example wait="P1Y".') from None
    rollup = Rollup(table, aggregate, summary, tuple(parts), tuple(sums))
    coarse = [into.name for into, _ in sums if rollup.unit(into) is None]
    if aggregate.epsilon is not None and coarse:
        why = f"{coarse[0]} has no smallest step, and noise is drawn in whole steps"
        raise _wrong(table, why, "Make it Integer or Numeric(12, 2).")
    return rollup


def _check_noise(table: Table, aggregate: Aggregate) -> None:
    assert aggregate.epsilon is not None
    if not 0 < aggregate.epsilon < inf:
        raise _wrong(table, "epsilon is not a finite number above 0", "Give for example epsilon=1.0.")
    if aggregate.bounds.keys() != aggregate.sums.keys():
        raise _wrong(table, "bounds are not those of the sums", 'Give each sum its own: bounds={"minutes": (0, 600)}.')
    if any(not -inf < low <= high < inf for low, high in aggregate.bounds.values()):
        raise _wrong(table, "bounds are not a lower and a higher number", 'Give bounds={"minutes": (0, 600)}.')
    if not private.available():
        raise _wrong(table, "epsilon needs OpenDP", "pip install 'privkit[dp]'")


def _own(guard: Guard, table: Table, attribute: str) -> Column[Any]:
    found = guard.tables[table].mapper.columns.get(attribute)
    if found is None or found.table is not table:
        raise _wrong(table, f"it has no attribute {attribute!r} of its own", "Name one of its columns' attributes.")
    return found


def _into(table: Table, summary: Table, name: str, kinds: tuple[type, ...]) -> Column[Any]:
    found = summary.columns.get(name)
    if found is None or not isinstance(found.type, kinds):
        said = " or ".join(kind.__name__ for kind in kinds)
        raise _wrong(table, f"{summary.name} has no column {name!r} of type {said}", "Add it.")
    return found


def _wrong(table: Table, why: str, fix: str) -> MappingError:
    what = f"Rows of {table.fullname} cannot be counted: {why}."
    return MappingError(what, "They stay until they can be.", fix)


def columns(guard: Guard, rollup: Rollup) -> list[Any]:
    """Return what has to be selected of each row, in this order, after its key: parts, sums, and whose it is."""
    parts = [as_stored(column) for _, column, _ in rollup.parts]
    owner = owner_key(guard, rollup.table, rollup.table) if has_owner(guard, rollup.table) else null()
    return [*parts, *(as_stored(column) for _, column in rollup.sums), owner]


def add(connection: Connection, guard: Guard, rollup: Rollup, cells: Iterable[Cell]) -> None:
    """Count rows, each a cell of its own, among what waits. The caller's transaction has the ledger's lock."""
    counted: dict[str, Cell] = {}
    for cell in cells:
        known = counted.setdefault(json.dumps(cell.key), Cell(cell.key))
        known.add(cell, rollup.aggregate.at_least)
    waiting = {_id(guard, rollup, cell.key): cell for cell in counted.values()}
    table, key = guard.own_table(ROLLUP), _key(guard)
    query = select(table.c.id, table.c.state).where(table.c.id.in_(list(waiting)))
    known_ids = set()
    for found, state in connection.execute(query).all():
        cell = _read(key, state)
        cell.add(waiting[found], rollup.aggregate.at_least)
        waiting[found] = cell
        known_ids.add(found)
    for each, cell in waiting.items():
        values = {"state": _sealed(key, cell), "changed_at": guard.now()}
        if each in known_ids:
            connection.execute(updating(table).where(table.c.id == each).values(values))
        else:
            connection.execute(insert(table), {"id": each, "summary": rollup.aggregate.into, **values})


def cells(
    connection: Connection, guard: Guard, rollup: Rollup, rows: Sequence[Sequence[Any]], as_of: datetime
) -> Iterator[Cell]:
    """Yield each row (``columns`` of it) as a cell of its own. What does not open, or does not fit, is unknown."""
    today, width, secret = cautious_today(as_of), len(rollup.parts), guard.keyring.secret("pseudonym")
    opened = [
        _opened(connection, guard, column, [(row[number], row[-1]) for row in rows])
        for number, (_, column, _) in enumerate(rollup.parts)
    ]
    for number, row in enumerate(rows):
        cell = [
            _part(into, precision, opened[at][number], today) for at, (into, _, precision) in enumerate(rollup.parts)
        ]
        sums = {into.name: _summand(rollup, into, row[width + at]) for at, (into, _) in enumerate(rollup.sums)}
        owner = row[-1]
        persons = [token(secret, f"rollup {rollup.aggregate.into}", bytes(owner).hex())[:_PERSON]] if owner else []
        yield Cell(cell, 1, sums, persons)


def _part(into: Column[Any], precision: Any, value: Any, today: date) -> Any:
    """A part of a cell's key; a value that does not fit must not keep its row from going."""
    text = isinstance(into.type, String)
    try:
        found = reduce(precision, value, today)
        return ("" if text else 0) if found is None else str(found) if text else int(found)
    except (InvalidValue, ValueError, TypeError, OverflowError):
        return "" if text else 0


def _summand(rollup: Rollup, into: Column[Any], value: Any) -> str:
    """What is no finite number adds nothing. With noise, what it adds is within bounds and in whole steps."""
    number = Decimal(str(value or 0))
    if not number.is_finite():
        return "0"
    if rollup.aggregate.epsilon is not None and value is not None:
        low, high = (Decimal(str(bound)) for bound in rollup.aggregate.bounds[into.name])
        unit = rollup.unit(into)
        assert unit is not None
        number = (min(max(number, low), high) / unit).to_integral_value(ROUND_DOWN) * unit
    return str(number)


def _opened(connection: Connection, guard: Guard, column: Column[Any], stored: Sequence[tuple[Any, Any]]) -> list[Any]:
    """Open values, each given with its row's owner; one that was moved there from another row is unknown."""
    if not (isinstance(column.type, Guarded) and guard.rule(column.type.field).sealed):
        return [each for each, _ in stored]
    open_value, made = guard.opener(column.type.field, connection.dialect), []
    ours = [each if each is not None and as_bytes(each)[2:18] == owner else None for each, owner in stored]
    held = epochs.load_keys(connection, guard, column.type.field, [as_bytes(each) for each in ours if each is not None])
    for each in ours:
        try:
            made.append(None if each is None else open_value(each))
        except (SealedError, ShreddedError):
            made.append(None)
    del held  # until here they were findable
    return made


def publish(
    connection: Connection, guard: Guard, rollup: Rollup, as_of: datetime
) -> tuple[dict[bytes, Cell], list[bytes]]:
    """Add to the summary what may be published. Returns what that was, and which cells have waited for too long.

    The caller takes both off, in the same transaction, which has the ledger's lock.
    """
    table, key = guard.own_table(ROLLUP), _key(guard)
    ours = table.c.summary == rollup.aggregate.into
    waiting = {
        bytes(found): _read(key, state)
        for found, state in connection.execute(select(table.c.id, table.c.state).where(ours)).all()
    }
    cutoff = Period.parse(rollup.aggregate.wait).cutoff(as_of)
    late = connection.execute(select(table.c.id).where(ours, table.c.changed_at <= cutoff)).scalars()
    going = publishable(waiting, rollup.aggregate.at_least)
    for cell in going.values():
        _into_summary(connection, rollup, cell)
    return going, [bytes(each) for each in late if bytes(each) not in going]


def publishable(waiting: dict[bytes, Cell], at_least: int) -> dict[bytes, Cell]:
    """Return the cells that may be published, so that what waits cannot be told by subtraction.

    Complementary suppression over the one total that is known, of the rows that went: see the module's docstring.
    """
    ready = sorted((each for each in waiting if len(waiting[each].persons) >= at_least), key=lambda e: waiting[e].rows)
    held = [waiting[each] for each in waiting if each not in ready]
    while held and ready and not _hidden(held, at_least):
        held.append(waiting[ready.pop(0)])
    return {each: waiting[each] for each in ready}


def _hidden(held: Iterable[Cell], at_least: int) -> bool:
    cells = list(held)
    return len(cells) > 1 and len({person for cell in cells for person in cell.persons}) >= at_least


def _into_summary(connection: Connection, rollup: Rollup, cell: Cell) -> None:
    summary, count = rollup.summary, rollup.summary.c[rollup.aggregate.count]
    keys = [column == value for (column, *_), value in zip(rollup.parts, cell.key, strict=True)]
    numbers = {count: int(_published(rollup, count, Decimal(cell.rows)))}
    numbers |= {into: _number(into, _published(rollup, into, Decimal(cell.sums[into.name]))) for into, _ in rollup.sums}
    more = {column.key: column + number for column, number in numbers.items()}
    if not connection.execute(updating(summary).where(*keys).values(more)).rowcount:
        first = {column.key: number for column, number in numbers.items()}
        named = {column.key: value for (column, *_), value in zip(rollup.parts, cell.key, strict=True)}
        connection.execute(insert(summary), named | first)


def _published(rollup: Rollup, into: Column[Any], number: Decimal) -> Decimal:
    """The number, with noise where it is asked for. A row is in one cell and published once: its numbers share epsilon.

    Within bounds of 0 to 600, a row changes a sum by 600 at most.
    """
    unit, epsilon = rollup.unit(into), rollup.aggregate.epsilon
    if epsilon is None or unit is None:
        return number
    most = max(abs(Decimal(str(bound))) for bound in rollup.aggregate.bounds.get(into.name, (1,)))
    return private.noisy(number, unit=unit, most=most, epsilon=epsilon / (1 + len(rollup.sums)))


def _number(column: Column[Any], number: Decimal) -> Any:
    return int(number) if isinstance(column.type, Integer) else column.type.python_type(number)


def _id(guard: Guard, rollup: Rollup, key: list[Any]) -> bytes:
    """The cell's keyed token: nobody can try cells. Keys that differ in anything, in letter case too, are two cells."""
    return drawn(guard.keyring.secret("rollup-cell"), "rollup cell", rollup.aggregate.into, json.dumps(key))[:16]


def _key(guard: Guard) -> ValueKey:
    return SubjectKey(guard.keyring.secret("rollup")).value_key(ROLLUP)


def _sealed(key: ValueKey, cell: Cell) -> bytes:
    state = json.dumps([cell.key, cell.rows, cell.sums, cell.persons]).encode()
    return key.seal(state)[HEADER_SIZE:]


def _read(key: ValueKey, state: Any) -> Cell:
    return Cell(*json.loads(key.open(key.header + as_bytes(state))))

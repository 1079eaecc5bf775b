"""Compares the hidden day of age of all rows with what the policy and its packs give now, and sets it where it differs.

It differs where rows are older than the protection of their table, and where an age was changed since they were
written. Each batch is a transaction with its line in the ledger; killed and run again, it goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import Connection, Engine, select, update

from privkit.consent.age import cautious_today
from privkit.errors import InvalidValue
from privkit.purposes import internally
from privkit.sqlalchemy import ledger
from privkit.sqlalchemy.children import ADULT, day_of_age, settled_day
from privkit.sqlalchemy.destroy import among, key_columns, keyset, require_rows
from privkit.sqlalchemy.guard import Guard, Protected
from privkit.sqlalchemy.mapping import ADULT_COLUMN


@dataclass(frozen=True, slots=True)
class Ages:
    """What was found in a table, in rows.

    ``unknown``: nothing tells an age, so they are children's. ``kept``: of age when they were written; what told it
    is gone since. ``differ``: the stored day was another than the policy gives; ``stored``: it was set anew.
    """

    table: str
    rows: int
    unknown: int
    kept: int
    differ: int
    stored: int

    @property
    def ok(self) -> bool:
        """Whether every row's day is as the policy gives it."""
        return self.differ == self.stored


def count_ages(guard: Guard, engine: Engine, *, store: bool = False, batch: int = 1000) -> list[Ages]:
    """Count the rows whose day of age would change, by table; with ``store``, change it.

    Raises InvalidValue for an empty batch, SealedError where a birth date does not open.
    """
    require_rows(batch)
    with internally():
        found = [each for table, each in guard.tables.items() if each.model.child and ADULT_COLUMN in table.columns]
        return [_look(guard, engine, each, store, batch) for each in found]


def _look(guard: Guard, engine: Engine, each: Protected, store: bool, batch: int) -> Ages:
    table, seen = each.table, Counter[str]()
    keys, needed = key_columns(table), [table.columns[key] for key in each.age_keys]
    query = select(*keys, table.c[ADULT_COLUMN], *needed).order_by(*keys).limit(batch)
    after: Sequence[Any] | None = None
    while True:
        with engine.begin() as connection:
            if store and connection.dialect.name == "sqlite":
                ledger.lock(connection, guard)  # where no row can be locked
            part = query.where(*keyset(keys, after))
            rows = connection.execute(part.with_for_update() if store else part).all()
            due = _judge(guard, each, len(keys), rows, seen)
            if store and due:
                seen["stored"] += _store(connection, guard, each, due)
        if not rows:
            names = ("rows", "unknown", "kept", "differ", "stored")
            return Ages(table.fullname, *(seen[name] for name in names))
        after = rows[-1][: len(keys)]


def _judge(
    guard: Guard, each: Protected, width: int, rows: Sequence[Any], seen: Counter[str]
) -> dict[date | None, list[Sequence[Any]]]:
    """Count rows, and return the keys of those whose day has to become another, by that day."""
    due: dict[date | None, list[Sequence[Any]]] = {}
    today = cautious_today(guard.now())
    for row in rows:
        stored, values = row[width], dict(zip(each.age_keys, row[width + 1 :], strict=True))
        day = _day(guard, each, values, today)
        seen["rows"] += 1
        if (
            day is None
            and stored is not None
            and stored <= today
            and all(values[each.mapper.columns[name].key] is None for name in _told(each))
        ):
            seen["kept"] += 1
            continue
        seen["unknown"] += day is None
        if day != stored and not (day == ADULT and stored is not None and stored <= today):
            seen["differ"] += 1
            due.setdefault(settled_day(day, stored, today), []).append(tuple(row[:width]))
    return due


def _day(guard: Guard, each: Protected, values: Mapping[str, Any], today: date) -> date | None:
    try:
        return day_of_age(guard, each, values, today)
    except InvalidValue:  # a birth date in the future tells nothing
        return None


def _told(each: Protected) -> list[str]:
    """The fields that tell an age, without those that tell a place."""
    child = each.model.child
    assert child is not None
    return [name for name in child.fields if name not in (child.country, child.region)]


def _store(
    connection: Connection, guard: Guard, each: Protected, due: Mapping[date | None, list[Sequence[Any]]]
) -> int:
    table, count = each.table, 0
    for day, keys in due.items():
        changed = update(table).where(among(key_columns(table), keys)).values({ADULT_COLUMN: day})
        count += connection.execute(changed).rowcount
    ledger.append(connection, guard, "ages_stored", {"table": table.fullname, "count": count})
    return count

"""Which rows a hold keeps, as SQL: what a plan counts, a run and an erasure leave, and each destructive statement asks.

A hold on a data subject keeps the rows that the person owns, alone or with others. A hold on a table, on somebody's
rows in one, or on chosen rows keeps those, and all rows that refer to them, one behind the other. It is derived from
the mapped tables, so a new one cannot be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    Text,
    and_,
    cast,
    false,
    func,
    literal,
    or_,
    select,
)

from privkit.clock import as_utc
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.late import late
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.ownership import inheritance, owner_keys
from privkit.sqlalchemy.tables import HOLD, HOLD_ROW
from privkit.sqlalchemy.types import Guarded

Condition = Callable[[FromClause], ColumnElement[bool]]
"""A condition on rows of privkit_hold, given the table or an alias of it."""

Pairs = tuple[tuple[str, str], ...]

LISTABLE = (int, str, UUID)
"""The types of key columns that every session of a database writes alike as text."""


def held(guard: Guard, table: Table, at: FromClause, now: Callable[[], datetime]) -> ColumnElement[bool]:
    """Return SQL that is true for rows of ``at`` (``table`` or an alias of it) under a hold at ``now``, else false.

    Never NULL. While no hold is in force, no row is looked at. Raises MappingError where the declared owner of
    ``table`` cannot be reached.
    """
    if at is not table:
        return _held(guard, table, at, lambda hold: in_force(hold, now))
    key = (guard.version, "held", table, now)
    found: ColumnElement[bool] | None = guard.conditions.get(key)
    if found is None:  # every step of a plan, and each batch of a run, asks for it
        found = guard.conditions[key] = _held(guard, table, at, lambda hold: in_force(hold, now))
    return found


def on_row(guard: Guard, table: Table, key: Sequence[ColumnElement[bool]], now: Callable[[], datetime]) -> Select[Any]:
    """Return a query for the id and the end of each hold in force on the row of ``table`` that ``key`` finds."""
    hold = guard.own_table(HOLD).alias()
    keeps = _held(guard, table, table, lambda each: each.c.id == hold.c.id)
    row = select(literal(1)).select_from(table).where(*key, keeps).correlate_except(table).exists()
    return select(hold.c.id, hold.c.until).where(in_force(hold, now), row).order_by(hold.c.id)


def any_active(guard: Guard, now: Callable[[], datetime]) -> Select[Any]:
    """Return a query for the holds in force at ``now``, to spare the look at every row while there is none."""
    hold = guard.own_table(HOLD).alias()
    return select(hold.c.id).where(in_force(hold, now))


def on_subjects(guard: Guard, ids: Sequence[bytes], now: Callable[[], datetime]) -> Select[Any]:
    """Return a query for the data subjects among ``ids`` whom a hold in force at ``now`` names."""
    hold = guard.own_table(HOLD).alias()
    return select(hold.c.subject).where(in_force(hold, now), hold.c.subject.in_(ids))


def in_force(hold: FromClause, now: Callable[[], datetime]) -> ColumnElement[bool]:
    """Return SQL that is true for holds that are neither released nor past their end at ``now``."""
    until = hold.c.until
    moment = late(lambda: as_utc(now()), until.type)
    return and_(hold.c.released_at.is_(None), or_(until.is_(None), until > moment))


def has_owner(guard: Guard, table: Table) -> bool:
    """Whether the rows of a table are data subjects or belong to some."""
    if KEY_COLUMN in table.columns or (table in guard.tables and guard.tables[table].model.owners):
        return True
    base = _base(guard, table)
    return base is not None and has_owner(guard, base)


def is_listable(guard: Guard, table: Table) -> bool:
    """Whether single rows of a table can be held: by a primary key that is declared to hold no personal data."""
    each, keys = guard.tables[table], list(table.primary_key.columns)
    decided = (each.mapper.get_property_by_column(key).key in each.model.not_personal for key in keys)
    return bool(keys) and all(decided) and all(_plain(key.type) in LISTABLE for key in keys)


def row_key(table: Table, at: FromClause) -> ColumnElement[str]:
    """Return a row's primary key as one text, in SQL alone: so the database compares what it wrote itself."""
    *first, last = (cast(at.c[key.key], Text()) for key in table.primary_key.columns)
    written: ColumnElement[Any] = last
    for key in reversed(first):  # each with its length, or ('a', 'bc') would be ('ab', 'c')
        written = cast(func.length(key), Text()) + ":" + key + written
    return written


def _plain(kind: Any) -> type | None:
    try:
        return None if isinstance(kind, Guarded) else kind.python_type
    except NotImplementedError:
        return None


def _held(guard: Guard, table: Table, at: FromClause, holds: Condition) -> ColumnElement[bool]:
    named = and_(_any(guard, holds, _names_rows), _named(guard, table, at, holds, frozenset()))
    if not has_owner(guard, table):
        return named
    return or_(and_(_any(guard, holds, _everywhere), _of_subjects(guard, table, at, holds, _everywhere)), named)


def _everywhere(hold: FromClause) -> ColumnElement[bool]:
    return and_(hold.c.subject.is_not(None), hold.c.table_name.is_(None))


def _names_rows(hold: FromClause) -> ColumnElement[bool]:
    return or_(hold.c.subject.is_(None), hold.c.table_name.is_not(None))


def _any(guard: Guard, holds: Condition, which: Condition) -> ColumnElement[bool]:
    hold = guard.own_table(HOLD).alias()
    return select(literal(1)).select_from(hold).where(holds(hold), which(hold)).correlate_except(hold).exists()


def _named(
    guard: Guard, table: Table, at: FromClause, holds: Condition, above: frozenset[Table]
) -> ColumnElement[bool]:
    """Rows that a hold names, by table, by owner in a table or by key, and those that refer to such rows."""
    here: Condition = lambda hold: hold.c.table_name == table.fullname  # noqa: E731
    found = [_any(guard, holds, lambda hold: and_(hold.c.subject.is_(None), here(hold)))]
    if has_owner(guard, table):
        found.append(_of_subjects(guard, table, at, holds, here))
    if is_listable(guard, table):
        found.append(_listed(guard, table, at, holds))
    above = above | {table}
    for other, pairs in _beside(guard, table):
        if other not in above:
            row = own_alias(other, beside=at)
            joined = [row.c[theirs] == at.c[ours] for ours, theirs in pairs]
            inner = select(literal(1)).select_from(row).where(*joined, _named(guard, other, row, holds, above))
            found.append(inner.correlate_except(row).exists())
    return or_(*found)


def _of_subjects(guard: Guard, table: Table, at: FromClause, holds: Condition, which: Condition) -> ColumnElement[bool]:
    hold = guard.own_table(HOLD).alias()
    subjects = select(hold.c.subject).where(holds(hold), hold.c.subject.is_not(None), which(hold))
    subjects = subjects.correlate_except(hold)
    # A row whose owner is not set yet has no key id, and NULL IN (...) would be neither held nor free.
    return or_(*(func.coalesce(key.in_(subjects), false()) for key in owner_keys(guard, table, at)))


def _listed(guard: Guard, table: Table, at: FromClause, holds: Condition) -> ColumnElement[bool]:
    hold, row = guard.own_table(HOLD).alias(), guard.own_table(HOLD_ROW).alias()
    this = and_(row.c.table_name == table.fullname, row.c.row_key == row_key(table, at), hold.c.id == row.c.hold)
    return select(literal(1)).select_from(row, hold).where(this, holds(hold)).correlate_except(row, hold).exists()


def _beside(guard: Guard, table: Table) -> Iterator[tuple[Table, Pairs]]:
    """The tables whose held rows keep rows of ``table``: to which it refers, and which hold the rest of its rows."""
    for foreign in table.foreign_key_constraints:
        if foreign.referred_table in guard.tables:
            pairs = ((str(each.parent.key), str(each.column.key)) for each in foreign.elements)
            yield foreign.referred_table, tuple(pairs)
    for other, each in guard.tables.items():
        if _base(guard, other) is table:
            yield other, tuple((base, derived) for derived, base in inheritance(each).pairs)


def _base(guard: Guard, table: Table) -> Table | None:
    inherited = guard.tables[table].mapper.inherits if table in guard.tables else None
    base = inherited.local_table if inherited is not None else None
    return base if isinstance(base, Table) and base is not table else None


def keeps_subject(connection: Connection, guard: Guard, key_id: bytes) -> bool:
    """Whether a hold names a data subject, or keeps a row that the data subject owns."""
    if connection.execute(any_active(guard, guard.now).limit(1)).first() is None:
        return False
    if connection.execute(on_subjects(guard, [key_id], guard.now)).first() is not None:
        return True
    for table in guard.tables:
        if has_owner(guard, table):
            theirs = or_(*(func.coalesce(key == key_id, false()) for key in owner_keys(guard, table, table)))
            row = select(literal(1)).select_from(table).where(theirs, held(guard, table, table, guard.now)).limit(1)
            if connection.execute(row).first() is not None:
                return True
    return False

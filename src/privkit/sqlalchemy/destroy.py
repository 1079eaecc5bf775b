"""What is due, as SQL; and the only statements that destroy: DELETE, suppressing UPDATE, tombstones of keys.

A ``Target`` is one field of a table, or its rows. ``due`` is the one predicate that the plan counts, the run
executes and the overdue number recounts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    LargeBinary,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    exists,
    false,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    tuple_,
    type_coerce,
    update,
)

from privkit.crypto import DESTROYED
from privkit.deidentify import leaves_residue
from privkit.errors import PlanError
from privkit.markers import BirthDate, Delete, Latest, Technique
from privkit.policy import Keep
from privkit.policy.resolve import FieldRule
from privkit.sqlalchemy import holds, keystore
from privkit.sqlalchemy.children import ADULT
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.tables import KEY
from privkit.sqlalchemy.types import Guarded, Sealed
from privkit.sqlalchemy.visibility import all_passed, table_rules

Now = Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class Target:
    """What a step destroys: the values of one column of a table, or whole rows (``column`` None)."""

    table: Table
    column: Column[Any] | None
    rule: FieldRule | None

    @property
    def technique(self) -> Technique:
        """What remains of it."""
        return self.rule.field.marker.then if self.rule else Delete()

    @property
    def is_birth_date(self) -> bool:
        """Whether the day a child comes of age is derived from it."""
        return self.rule is not None and isinstance(self.rule.field.marker, BirthDate)

    @property
    def keeps(self) -> dict[str, Keep | None]:
        """The purposes and duties that keep it, by name."""
        return _keeps([self.rule]) if self.rule else {}


def _keeps(rules: Iterable[FieldRule]) -> dict[str, Keep | None]:
    found: dict[str, Keep | None] = {}
    for rule in rules:
        found |= {term.purpose.name: term.purpose.keep for term in rule.terms}
        found |= {f"duty {duty.name}": duty.keep for duty in rule.duties}
    return found


def row_keeps(guard: Guard, table: Table) -> dict[str, Keep | None]:
    """Return the purposes and duties that keep a row of ``table``: those of all its fields."""
    return _keeps(table_rules(guard, table))


def targets(guard: Guard) -> list[Target]:
    """Return everything that can fall due: rows before fields and children before parents.

    But first the fields that count from the latest of other rows: without those rows they would never have ended.
    """
    tables = [table for table in _in_deletion_order(guard) if guard.tables[table].model.fields]
    rows = [Target(table, None, None) for table in tables if guard.tables[table].model.expire_row is not None]
    fields = _field_targets(guard)
    counting = {id(target) for target in fields if _latest_of(guard, target)}
    early = [target for target in fields if id(target) in counting]
    return early + rows + [target for target in fields if id(target) not in counting]


def _latest_of(guard: Guard, target: Target) -> list[tuple[Any, str]]:
    """The relationships whose latest row a field's lifetime counts from, each with the event."""
    each = guard.tables[target.table]
    events = {keep.after for keep in target.keeps.values() if keep is not None}
    return [
        (each.mapper.relationships[source.path.partition(".")[0]], event)
        for event, source in each.model.events.items()
        if isinstance(source, Latest) and event in events
    ]


def _field_targets(guard: Guard) -> list[Target]:
    return [
        Target(table, column, guard.rule(column.type.field))
        for table in _in_deletion_order(guard)
        for column in table.columns
        if isinstance(column.type, Guarded)
    ]


def _in_deletion_order(guard: Guard) -> list[Table]:
    ordered: list[Table] = []
    for metadata in {id(table.metadata): table.metadata for table in guard.tables}.values():
        ordered += [table for table in reversed(metadata.sorted_tables) if table in guard.tables]
    return ordered


def due(guard: Guard, target: Target, now: Now) -> ColumnElement[bool] | None:
    """Return SQL that is true for what is due and not yet done; None: it is kept for ever."""
    table = target.table
    if target.column is None:
        return deletable(guard, table, now)
    ended = all_passed(guard, table, table, list(target.keeps.values()), now)
    if ended is None:
        return None
    found = and_(ended, not_done(target), not_(holds.held(guard, table, table, now)))
    if guard.tables[table].model.expire_row is not None:
        whole = deletable(guard, table, now)
        found = found if whole is None else and_(found, not_(func.coalesce(whole, literal(False))))
    return found


def not_done(target: Target, at: FromClause | None = None) -> ColumnElement[bool]:
    """Return SQL that is true while the value is still there; the state is recorded, not guessed from its shape.

    ``at`` is the table or an alias of it.
    """
    assert target.column is not None
    column: Any = target.column if at is None else at.c[target.column.key]
    assert isinstance(column.type, Guarded)
    present: ColumnElement[bool] = type_coerce(column, column.type.impl_instance).is_not(None)
    if not column.nullable and column.type.sealed:
        present = func.length(type_coerce(column, LargeBinary())) != len(DESTROYED)
    if leaves_residue(target.technique) and not column.nullable and not column.type.sealed:
        present = column.table.c[f"{column.name}_residue"].is_(None)
    return present


def _residue(column: Column[Any]) -> Column[Any]:
    return column.table.c[f"{column.name}_residue"]


def deletable(guard: Guard, table: Table, now: Now) -> ColumnElement[bool] | None:
    """Return SQL that is true for rows that are due, free of holds, and on which no living row depends."""
    ended = row_ended(guard, table, now)
    if ended is None:
        return None
    return and_(ended, *(not_(each) for each in (*_dependencies(guard, table, now), *_counted_from(guard, table, now))))


def _dependencies(guard: Guard, table: Table, now: Now) -> list[ColumnElement[bool]]:
    """SQL for each way in which a living row depends on a row of ``table``. One that goes in the same run does not."""
    found: list[ColumnElement[bool]] = []
    for foreign in _blocking(guard, table):
        condition = _refers(foreign, table)
        other = foreign.table
        going = None
        if other is not table and other in guard.tables and guard.tables[other].model.expire_row is not None:
            going = deletable(guard, other, now)
        found.append(
            exists().where(condition if going is None else and_(condition, not_(func.coalesce(going, false()))))
        )
    return found


def _counted_from(guard: Guard, table: Table, now: Now) -> list[ColumnElement[bool]]:
    """SQL for each living field of another table that counts from the latest row of this one."""
    found: list[ColumnElement[bool]] = []
    for target in (each for each in _field_targets(guard) if each.table is not table):
        for relationship, _ in _latest_of(guard, target):
            if relationship.mapper.local_table is not table:
                continue
            parent = own_alias(target.table)
            joined = [parent.c[ours.key] == table.c[theirs.key] for ours, theirs in relationship.local_remote_pairs]
            ended = all_passed(guard, target.table, parent, list(target.keeps.values()), now)
            over = (
                false()
                if ended is None
                else and_(func.coalesce(ended, false()), not_(holds.held(guard, target.table, parent, now)))
            )
            found.append(exists().where(*joined, not_done(target, parent), not_(over)))
    return found


def row_ended(guard: Guard, table: Table, now: Now) -> ColumnElement[bool] | None:
    """Return SQL that is true for rows past the lifetime of all fields and free of holds."""
    ended = all_passed(guard, table, table, list(row_keeps(guard, table).values()), now)
    return None if ended is None else and_(ended, not_(holds.held(guard, table, table, now)))


def blocked(guard: Guard, table: Table, now: Now) -> ColumnElement[bool] | None:
    """Return SQL that is true for rows whose lifetime ended but on which living rows depend."""
    ended = row_ended(guard, table, now)
    blocking = [*_dependencies(guard, table, now), *_counted_from(guard, table, now)]
    return and_(ended, or_(*blocking)) if ended is not None and blocking else None


def _dependants(table: Table) -> list[Any]:
    return [
        foreign
        for other in table.metadata.tables.values()
        for foreign in other.foreign_key_constraints
        if foreign.referred_table is table
    ]


def _blocking(guard: Guard, table: Table) -> list[Any]:
    """The foreign keys whose rows keep a parent alive: all but those that privkit itself clears first."""
    return [foreign for foreign in _dependants(table) if not _clearable(guard, foreign)]


def _clearable(guard: Guard, foreign: Any) -> bool:
    """A declared cascade or SET NULL is followed, but never into a table with a lifetime of its own."""
    other = foreign.table
    own_lifetime = other in guard.tables and bool(guard.tables[other].model.fields)
    if foreign.ondelete == "SET NULL":
        return not own_lifetime and all(column.nullable for column in foreign.columns)
    return (
        foreign.ondelete == "CASCADE"
        and other is not foreign.referred_table
        and not own_lifetime
        and all(_clearable(guard, below) for below in _dependants(other))
    )


def _refers(foreign: Any, table: Table) -> ColumnElement[bool]:
    if foreign.table is table:
        other = table.alias()
        pairs = [(other.c[element.parent.key], element.column) for element in foreign.elements]
    else:
        pairs = [(element.parent, element.column) for element in foreign.elements]
    return and_(*(theirs == ours for theirs, ours in pairs))


def key_columns(table: Table) -> list[Column[Any]]:
    """Return the columns that tell rows apart: the primary key, or a unique key without NULLs.

    Raises PlanError for a table that has neither.
    """
    if table.primary_key.columns:
        return list(table.primary_key.columns)
    for constraint in table.constraints:
        columns = list(getattr(constraint, "columns", ()))
        if type(constraint).__name__ == "UniqueConstraint" and columns and not any(each.nullable for each in columns):
            return columns
    raise PlanError(
        f"{table.name} has no primary key and no unique key without NULLs.",
        "A run could not say which rows it has done.",
        f"Add a primary key to {table.name}.",
        table=table.name,
    )


def keyset(columns: Sequence[ColumnElement[Any]], after: Sequence[Any] | None) -> list[ColumnElement[bool]]:
    """Return the condition that continues a scan in key order."""
    if after is None:
        return []
    if len(columns) == 1:
        return [columns[0] > after[0]]
    bound = tuple_(*(bindparam(None, value, type_=column.type) for column, value in zip(columns, after, strict=True)))
    return [tuple_(*columns) > bound]


def among(columns: Sequence[ColumnElement[Any]], keys: Sequence[Sequence[Any]]) -> ColumnElement[bool]:
    """Return the condition that a row is one of ``keys``."""
    if len(columns) == 1:
        return columns[0].in_([key[0] for key in keys])
    return tuple_(*columns).in_([tuple(key) for key in keys])


def delete_rows(connection: Connection, guard: Guard, table: Table, keys: Sequence[Sequence[Any]]) -> int:
    """Delete rows by key, what depends on them first, and destroy their keys where they are data subjects."""
    columns, count = key_columns(table), 0
    for start in range(0, len(keys), keystore.CHUNK):
        chunk = among(columns, keys[start : start + keystore.CHUNK])
        if KEY_COLUMN in table.columns:
            found = connection.execute(select(table.c[KEY_COLUMN]).where(chunk)).scalars()
            destroy_keys(connection, guard, [bytes(key_id) for key_id in found if key_id is not None])
        _clear_dependants(connection, table, chunk)
        count += connection.execute(delete(table).where(chunk)).rowcount
    return count


def _clear_dependants(connection: Connection, table: Table, chosen: ColumnElement[bool]) -> None:
    """Follow declared cascades here: SQLite runs none unless a pragma says so, and no row may be orphaned."""
    for foreign in _dependants(table):
        ours = [element.column for element in foreign.elements]
        theirs = [element.parent for element in foreign.elements]
        inner = select(*ours).where(chosen)
        referring = theirs[0].in_(inner) if len(theirs) == 1 else tuple_(*theirs).in_(inner)
        if foreign.ondelete == "SET NULL":
            connection.execute(update(foreign.table).where(referring).values({column.key: None for column in theirs}))
        elif foreign.ondelete == "CASCADE" and foreign.table is not table:
            _clear_dependants(connection, foreign.table, referring)
            connection.execute(delete(foreign.table).where(referring))


def suppress(connection: Connection, target: Target, keys: Sequence[Sequence[Any]]) -> int:
    """Destroy the values of one column in the rows of ``keys``, and their search hashes."""
    columns, count = key_columns(target.table), 0
    for start in range(0, len(keys), keystore.CHUNK):
        chunk = among(columns, keys[start : start + keystore.CHUNK])
        count += connection.execute(update(target.table).where(chunk).values(_emptied(target))).rowcount
    return count


def replace_with_residue(
    connection: Connection, target: Target, residues: Sequence[tuple[Sequence[Any], str | None]]
) -> int:
    """Destroy values and leave their residues, in the rows named by each key."""
    column, columns = target.column, key_columns(target.table)
    assert column is not None
    matching = [key == bindparam(f"key_{number}", type_=key.type) for number, key in enumerate(columns)]
    emptied = _emptied(target)
    residue = bindparam("residue", type_=String())
    if not column.nullable and not _sealed(column):
        emptied[column.key] = bindparam("in_place", type_=column.type)
    statement = update(target.table).where(*matching).values({**emptied, _residue(column).key: residue})
    rows = [
        {"residue": text, "in_place": text} | {f"key_{number}": value for number, value in enumerate(key)}
        for key, text in residues
    ]
    if rows:
        connection.execute(statement, rows)
    return len(rows)


def _emptied(target: Target) -> dict[str, Any]:
    column = target.column
    assert column is not None
    empty: Any = Sealed(DESTROYED) if not column.nullable and _sealed(column) else null()
    values: dict[str, Any] = {column.key: empty}
    if f"{column.name}_ix" in target.table.columns:
        values[f"{column.name}_ix"] = None
    if ADULT_COLUMN in target.table.columns and target.is_birth_date:
        adult = target.table.c[ADULT_COLUMN]
        values[ADULT_COLUMN] = case((adult == ADULT, adult), else_=None)  # a child's day tells the birthday
    return values


def _sealed(column: Column[Any]) -> bool:
    return isinstance(column.type, Guarded) and column.type.sealed


def unsuppressible(target: Target) -> bool:
    """Whether a column can hold nothing in place of its value: NOT NULL, unsealed, and no residue to put there."""
    column = target.column
    return column is not None and not (column.nullable or _sealed(column) or leaves_residue(target.technique))


def destroy_keys(connection: Connection, guard: Guard, ids: Iterable[bytes]) -> int:
    """Destroy data subjects' keys and leave their tombstones. Returns how many were living."""
    table, wanted, count = guard.own_table(KEY), list(set(ids)), 0
    for start in range(0, len(wanted), keystore.CHUNK):
        chunk = wanted[start : start + keystore.CHUNK]
        living = table.c.id.in_(chunk) & table.c.wrapped.is_not(None)
        count += connection.execute(update(table).where(living).values(wrapped=None, destroyed_at=guard.now())).rowcount
    for key_id in wanted:
        guard.keys.forget(key_id)
    guard.shredded.update(wanted)
    return count

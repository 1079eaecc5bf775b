"""What is due, as SQL: the one predicate that the plan counts, the run executes and the overdue number recounts.

A ``Target`` is one field of a table, its rows, or the keys of a field's epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    LargeBinary,
    Table,
    Text,
    and_,
    cast,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
    tuple_,
    type_coerce,
    union_all,
)
from sqlalchemy.orm import RelationshipProperty

from privkit.crypto import DESTROYED
from privkit.deidentify import leaves_residue
from privkit.markers import Aggregate, Delete, Latest, Technique
from privkit.policy import Keep
from privkit.policy.resolve import FieldRule
from privkit.sqlalchemy import epochs, holds, references
from privkit.sqlalchemy.events import way
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.spared import spared
from privkit.sqlalchemy.tables import EPOCH
from privkit.sqlalchemy.types import Guarded
from privkit.sqlalchemy.visibility import all_passed, table_rules

Now = Callable[[], datetime]


_GOES = Delete()


@dataclass(frozen=True, slots=True)
class Target:
    """What a step destroys: the values of one column of a table, or whole rows (``column`` None).

    With ``divided``, the column whose epochs end, it is their keys: rows of privkit_epoch. ``whole``: what
    becomes of rows. ``beside``: the columns that are emptied in the same UPDATE (``@together``).
    """

    table: Table
    column: Column[Any] | None
    rule: FieldRule | None
    divided: Column[Any] | None = None
    whole: Delete | Aggregate = _GOES
    beside: tuple[Column[Any], ...] = ()

    @property
    def field(self) -> str | None:
        """The column's name, or the field id whose epochs end, or None for whole rows."""
        if self.divided is not None and self.rule is not None:
            return self.rule.field.id
        return self.column.name if self.column is not None else None

    @property
    def technique(self) -> Technique | Aggregate:
        """What remains of it."""
        return self.rule.field.marker.then if self.rule else self.whole

    @property
    def columns(self) -> tuple[Column[Any], ...]:
        """The columns that are emptied in one UPDATE; none for whole rows and for keys."""
        return () if self.column is None else (self.column, *self.beside)

    @property
    def destroyed(self) -> tuple[Column[Any], ...]:
        """The columns whose values go: those, or all of a row that goes as a whole; none with a key."""
        return () if self.divided is not None else self.columns or tuple(self.table.columns)

    @property
    def keeps(self) -> dict[str, Keep | None]:
        """The purposes and duties that keep it, by name."""
        return _keeps([self.rule]) if self.rule else {}


def _keeps(rules: Iterable[FieldRule]) -> dict[str, Keep | None]:
    found: dict[str, Keep | None] = {}
    for rule in rules:
        found |= {term.purpose.name: term.purpose.keep for term in rule.terms}
        found |= {duty.entered_as: duty.keep for duty in rule.duties}
    return found


def row_keeps(guard: Guard, table: Table) -> dict[str, Keep | None]:
    """Return the purposes and duties that keep a row of ``table``: those of all its fields."""
    return _keeps(table_rules(guard, table))


def targets(guard: Guard) -> list[Target]:
    """Return everything that can fall due: rows before fields and children before parents.

    But first the keys of epochs, which make every copy unreadable at once, unless values have to be opened before;
    and the fields that count from the latest of other rows: without those rows they would never have ended.
    """
    tables = [table for table in references.in_deletion_order(guard) if guard.tables[table].model.fields]
    ends = [(table, guard.tables[table].model.expire_row) for table in tables]
    rows = [Target(table, None, None, whole=whole) for table, whole in ends if whole is not None]
    fields = field_targets(guard)
    counting = {id(target) for target in fields if _latest_of(guard, target)}
    early = [target for target in fields if id(target) in counting]
    late = [target for target in fields if id(target) not in counting]
    keys = _epoch_targets(guard)
    last = [target for target in keys if _opened_first(target)]
    return [target for target in keys if target not in last] + early + rows + late + last


def _epoch_targets(guard: Guard) -> list[Target]:
    found = [each for each in field_targets(guard) if each.rule is not None and each.rule.epochs is not None]
    return [Target(guard.own_table(EPOCH), None, each.rule, divided=each.column) for each in found]


def _latest_of(guard: Guard, target: Target) -> list[list[RelationshipProperty[Any]]]:
    """The relationships, one after the other, to each latest row from which a field's lifetime counts."""
    each = guard.tables[target.table]
    events = {event for keep in target.keeps.values() if keep is not None for event in keep.events}
    sources = [source for event, source in each.model.events.items() if event in events]
    found = [way(each.mapper, source.path) for source in sources if isinstance(source, Latest)]
    return [relationships for relationships, _ in filter(None, found)]


def field_targets(guard: Guard) -> list[Target]:
    """Return every guarded column, children before parents."""
    return [
        Target(table, column, guard.rule(column.type.field), beside=_beside(guard, table, column))
        for table in references.in_deletion_order(guard)
        for column in table.columns
        if isinstance(column.type, Guarded)
    ]


def _beside(guard: Guard, table: Table, column: Column[Any]) -> tuple[Column[Any], ...]:
    """The other columns of its group."""
    each = guard.tables[table]
    groups = [[each.mapper.columns[name] for name in names] for names in each.model.together]
    return tuple(other for group in groups if column in group for other in group if other is not column)


@dataclass(frozen=True, slots=True)
class At:
    """A clock that stands at one instant. What was built for it once serves every step of a plan and a run."""

    instant: datetime

    def __call__(self) -> datetime:
        return self.instant


def due(guard: Guard, target: Target, now: Now) -> ColumnElement[bool] | None:
    """Return SQL that is true for what is due and not yet done; None: it is kept for ever."""
    key = (guard.version, guard.policy.digest, "due", target.table, target.column, target.divided, now)
    known = guard.conditions.get(key)
    if known is None:
        found = parts(guard, target, now)
        known = guard.conditions[key] = (None if found is None else _together(*found),)
    built: ColumnElement[bool] | None = known[0]
    return built


def _together(ended: ColumnElement[bool], whole: ColumnElement[bool] | None) -> ColumnElement[bool]:
    return ended if whole is None else and_(ended, not_(func.coalesce(whole, literal(False))))


def parts(guard: Guard, target: Target, now: Now) -> tuple[ColumnElement[bool], ColumnElement[bool] | None] | None:
    """Return what ``due`` is made of: that it has ended, and for a field, that its row goes as a whole instead.

    On the same rows, each stays true as time goes on. None: it is kept for ever.
    """
    table = target.table
    if target.divided is not None:
        return _epochs_due(guard, target, target.divided, now), None
    if target.column is None:
        whole = deletable(guard, table, now)
        return None if whole is None else (whole, None)
    ended = all_passed(guard, table, table, list(target.keeps.values()), now)
    if ended is None:
        return None
    found = and_(ended, not_done(target), not_(holds.held(guard, table, table, now)))
    by_row = guard.tables[table].model.expire_row is not None
    return found, deletable(guard, table, now, free=True) if by_row else None


def _opened_first(target: Target) -> bool:
    """Whether a run opens values before it destroys them: for a residue, or for the name of a file."""
    return leaves_residue(target.technique) or (target.rule is not None and target.rule.field.marker.file is not None)


def _epochs_due(guard: Guard, target: Target, column: Column[Any], now: Now) -> ColumnElement[bool]:
    """Keys of epochs that are over, with no value under a hold and none that is still to be opened."""
    assert isinstance(column.table, Table)
    assert target.rule is not None
    living = not_done(Target(column.table, column, target.rule))
    if _opened_first(target):
        keeping = epochs.any_row(guard, target.rule, column.table, living)
    else:  # while there is no hold, no row is looked at, however many there are
        held = and_(living, holds.held(guard, column.table, column.table, now))
        keeping = and_(exists(holds.any_active(guard, now)), epochs.any_row(guard, target.rule, column.table, held))
    return and_(*epochs.over(guard, target.rule, now), not_(keeping))


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


def deletable(
    guard: Guard, table: Table, now: Now, at: FromClause | None = None, *, free: bool = False
) -> ColumnElement[bool] | None:
    """Return SQL that is true for rows that are due, free of holds, and on which no living row depends.

    ``at`` is the table or an alias of it. ``free``: what is asked are rows that are known not to be held themselves.
    """
    at = table if at is None else at
    ended = row_ended(guard, table, now, at, free=free)
    return None if ended is None else and_(ended, *(not_(each) for each in _keeping(guard, table, now, at)))


def _keeping(guard: Guard, table: Table, now: Now, at: FromClause) -> list[ColumnElement[bool]]:
    """SQL for each way in which a row of ``at`` is kept by another."""
    inside = [_reached(guard, table, now, at)] if references.within(guard, table) else []
    return [*_from_outside(guard, table, now, at), *inside]


def _from_outside(guard: Guard, table: Table, now: Now, at: FromClause) -> list[ColumnElement[bool]]:
    """The same without the rows of its circle."""
    return [*_dependencies(guard, table, now, at), *_counted_from(guard, table, now, at)]


def _dependencies(guard: Guard, table: Table, now: Now, at: FromClause) -> list[ColumnElement[bool]]:
    """SQL for each way in which a living row depends on a row of ``at``. One that goes in the same run does not."""
    found: list[ColumnElement[bool]] = []
    circle = references.circle(guard, table)
    for foreign in references.blocking(guard, table):
        other = foreign.table
        if other in circle:
            continue
        theirs: FromClause = own_alias(foreign.table) if other is at else other
        condition = references.refers(foreign, theirs, at)
        if other in guard.tables and guard.tables[other].model.expire_row is not None:
            going = deletable(guard, other, now, theirs)
            condition = condition if going is None else and_(condition, not_(func.coalesce(going, false())))
        found.append(exists().where(condition))
    return found


def _reached(guard: Guard, table: Table, now: Now, at: FromClause) -> ColumnElement[bool]:
    """SQL for rows to which a row that stays refers, directly or over rows of the same circle: a circle goes whole.

    Rows are followed by their keys, as text: one query goes through tables whose keys are of different types.
    """
    circle = references.circle(guard, table)
    width = max(len(references.key_columns(each)) for each in circle)
    links, staying = [], []
    for number, foreign in [(n, each) for n, there in enumerate(circle) for each in references.within(guard, there)]:
        theirs = own_alias(foreign.table)
        ours = own_alias(circle[number], beside=theirs)
        to = _named("to", number, _key(circle[number], ours, width))
        source = _named("from", circle.index(foreign.table), _key(foreign.table, theirs, width))
        joined = select(*source, *to).join_from(theirs, ours, references.refers(foreign, theirs, ours))
        links.append(joined)
        ended = row_ended(guard, foreign.table, now, theirs)
        going = false() if ended is None else func.coalesce(ended, false())
        staying.append(joined.where(or_(not_(going), *_from_outside(guard, foreign.table, now, theirs))))
    link, first = union_all(*links).subquery("privkit_link"), union_all(*staying).subquery("privkit_first")
    names = ["number", *(f"key_{number}" for number in range(width))]
    kept = select(*(first.c[f"to_{name}"].label(name) for name in names)).cte("privkit_kept", True, nesting=True)
    onward = select(*(link.c[f"to_{name}"] for name in names))
    onward = onward.join_from(kept, link, and_(*(link.c[f"from_{name}"] == kept.c[name] for name in names)))
    kept = kept.union(onward)
    chosen = select(*(kept.c[name] for name in names[1:])).where(kept.c.number == circle.index(table))
    return tuple_(*_key(table, at, width)).in_(chosen)


def _key(table: Table, at: FromClause, width: int) -> list[ColumnElement[str]]:
    found: list[ColumnElement[str]] = [cast(at.c[column.key], Text) for column in references.key_columns(table)]
    return found + [literal("", Text)] * (width - len(found))


def _named(prefix: str, number: int, key: list[ColumnElement[str]]) -> list[ColumnElement[Any]]:
    parts = [each.label(f"{prefix}_key_{position}") for position, each in enumerate(key)]
    return [literal(number).label(f"{prefix}_number"), *parts]


def _counted_from(guard: Guard, table: Table, now: Now, at: FromClause) -> list[ColumnElement[bool]]:
    """SQL for each living field of another table that counts from the latest row of this one, or of one behind it."""
    found: list[ColumnElement[bool]] = []
    for target in (each for each in field_targets(guard) if each.table is not table):
        for way_here in _ways_to(table, _latest_of(guard, target)):
            parent = own_alias(target.table)
            joined = _joined(parent, way_here, at)
            ended = all_passed(guard, target.table, parent, list(target.keeps.values()), now)
            over = (
                false()
                if ended is None
                else and_(func.coalesce(ended, false()), not_(holds.held(guard, target.table, parent, now)))
            )
            found.append(exists().where(*joined, not_done(target, parent), not_(over)))
    return found


def _ways_to(
    table: Table, ways: list[list[RelationshipProperty[Any]]]
) -> Iterator[Sequence[RelationshipProperty[Any]]]:
    for steps in ways:
        for number, step in enumerate(steps, 1):
            if step.mapper.local_table is table:
                yield steps[:number]


def _joined(
    parent: FromClause, steps: Sequence[RelationshipProperty[Any]], at: FromClause
) -> list[ColumnElement[bool]]:
    """The joins from ``parent`` along relationships to rows of ``at``."""
    found: list[ColumnElement[bool]] = []
    for number, step in enumerate(steps, 1):
        target = step.mapper.local_table
        assert isinstance(target, Table)
        remote = at if number == len(steps) else own_alias(target, beside=parent)
        pairs = step.local_remote_pairs or ()
        found += [parent.c[str(ours.key)] == remote.c[str(theirs.key)] for ours, theirs in pairs]
        parent = remote
    return found


def row_ended(
    guard: Guard, table: Table, now: Now, at: FromClause | None = None, *, free: bool = False
) -> ColumnElement[bool] | None:
    """Return SQL that is true for rows past the lifetime of all fields and free of holds. ``free``: as above."""
    at = table if at is None else at
    ended = all_passed(guard, table, at, list(row_keeps(guard, table).values()), now)
    return None if ended is None else and_(ended, not_(spared(guard, table, at, now, free=free)))


def blocked(guard: Guard, table: Table, now: Now) -> ColumnElement[bool] | None:
    """Return SQL that is true for rows whose lifetime ended but on which living rows depend."""
    ended = row_ended(guard, table, now)
    keeping = _keeping(guard, table, now, table)
    return and_(ended, or_(*keeping)) if ended is not None and keeping else None


def unreferenced(guard: Guard, table: Table) -> ColumnElement[bool]:
    """Return SQL that is true for rows to which no other refers that would be left behind."""
    found: list[ColumnElement[bool]] = []
    for foreign in references.blocking(guard, table):
        theirs = table.alias() if foreign.table is table else foreign.table
        condition = references.refers(foreign, theirs, table)
        if theirs is not foreign.table:
            condition = and_(condition, or_(*(theirs.c[each.key] != each for each in references.key_columns(table))))
        found.append(not_(exists().where(condition)))
    return and_(true(), *found)


def is_sealed(column: Column[Any]) -> bool:
    """Whether a column holds envelopes."""
    return isinstance(column.type, Guarded) and column.type.sealed


def unsuppressible(target: Target) -> bool:
    """Whether a column can hold nothing in place of its value: NOT NULL, unsealed, and no residue to put there."""
    column = target.column
    return column is not None and not (column.nullable or is_sealed(column) or leaves_residue(target.technique))

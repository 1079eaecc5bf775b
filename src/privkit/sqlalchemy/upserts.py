"""Upserts: what changes an existing row is sealed under that row's own key, and the row keeps its key.

Before the statement runs, the rows that its conflict target finds are looked up and locked. Their parameters get
the values of DO UPDATE, so that ``excluded`` carries them sealed for the right data subject. A row that another
writer adds in between has another key or owner: DO UPDATE passes it by, and the check afterwards raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Insert,
    Null,
    Table,
    and_,
    false,
    literal_column,
    null,
    select,
    type_coerce,
    update,
)

from privkit.crypto import SubjectKey
from privkit.deidentify import leaves_residue
from privkit.errors import ConcurrentWrite, StatementRefused
from privkit.purposes import internally
from privkit.sqlalchemy import children, epochs, keystore, pairs
from privkit.sqlalchemy.conflicts import check_uses, conflict_columns, is_excluded, seeks_sealed, single, values_set
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.index import SearchIndex, hash_for
from privkit.sqlalchemy.lookups import among, chunks, footing_at, hold_consent, no_consent, read
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.ownership import hop, owner_key
from privkit.sqlalchemy.tables import KEY
from privkit.sqlalchemy.types import Guarded, copied, covered
from privkit.sqlalchemy.write_forms import (
    Parameters,
    check_expression,
    check_purpose,
    is_own,
    own_column,
    value_of,
    watched_columns,
)

OPTION = "privkit_upsert"
"""The statement's execution option that carries its Upsert to ``after_execute``."""

Target = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class _Stored:
    """A row that is there already: its data subject's key id, and the values that the upsert has to know."""

    key_id: bytes | None
    consented: bool
    values: dict[str, Any]


@dataclass(slots=True)
class Upsert:
    """One upsert. ``targets``: the values by which each of its rows is found; None conflicts with nothing."""

    guard: Guard
    table: Table
    guarded: Mapping[str, Guarded]
    found_by: Mapping[str, Any]
    where: Any
    sets: set[str]
    owners: list[str]
    ages: list[str]
    targets: list[Target | None] = field(default_factory=list)
    stored: dict[Target | None, _Stored] = field(default_factory=dict)
    expected: dict[Target, bytes | None] = field(default_factory=dict)

    @property
    def sealed(self) -> set[str]:
        """The sealed columns."""
        return {name for name, kind in self.guarded.items() if kind.sealed}

    def new(self, rows: Parameters) -> Parameters:
        """Return those rows that were not found."""
        return [row for row, target in zip(rows, self.targets, strict=True) if target not in self.stored]

    def keys(self, connection: Connection) -> list[SubjectKey | None]:
        """Return each row's key: the one it has, or a new one. Rows that will be one row share it."""
        known = {each.key_id for each in self.stored.values() if each.key_id is not None}
        keys = keystore.for_sealing(connection, self.guard, known)
        places = [position if target is None else target for position, target in enumerate(self.targets)]
        fresh = list(dict.fromkeys(place for place in places if place not in self.stored))
        made = dict(zip(fresh, keystore.create(connection, self.guard, len(fresh)) if fresh else (), strict=True))
        return [made.get(place) or keys.get(self.stored[place].key_id or b"") for place in places]  # type: ignore[index]

    def expecting(self, statement: Any, owners: Iterable[SubjectKey | None]) -> Any:
        """Return the statement with what ``after_execute`` has to find: whose the new rows are."""
        for target, owner in zip(self.targets, owners, strict=True):
            if target is not None and target not in self.stored:
                self.expected[target] = owner.id if owner is not None else None
        return statement.execution_options(**{OPTION: self})


def prepare(
    guard: Guard, connection: Connection, statement: Any, table: Table, guarded: Mapping[str, Guarded], rows: Parameters
) -> tuple[Any, Upsert | None]:
    """Return an INSERT that sets personal fields from ``excluded`` alone on conflict, and what its rows will meet.

    Raises PurposeError, ConsentRequired or StatementRefused where it would change what it may not.
    """
    given = statement._post_values_clause
    values = values_set(table, given)
    touched = values.keys() & watched_columns(guard, table, guarded)
    for name in touched & guarded.keys():
        check_purpose(guard, guarded[name])
    pairs.refuse_upsert(guarded, touched)
    for name, value in values.items():
        if is_own(table.columns[name]) and not (touched and is_excluded(name, value)):
            raise own_column(table.columns[name])
    check_uses(guard, table, given, values)
    if not touched and not seeks_sealed(table, guarded, given):
        return statement, None
    changed, clause = statement._generate(), single(table, given)._clone()
    found_by = conflict_columns(table, guarded, clause)
    if clause.inferred_target_elements:
        clause.inferred_target_elements = list(found_by.values())
    changed._post_values_clause = clause
    if not touched:
        return changed, None
    ours = {name: each for name in sorted(touched) for each in _from_excluded(guard, table, guarded, name, values)}
    upsert = _upsert(guard, table, guarded, found_by, clause.inferred_target_whereclause, set(touched))
    _meet_rows(upsert, connection, rows, ours)
    clause.update_values_to_set = _sets(upsert, values, ours, changed.excluded)
    clause.update_whereclause = _unmoved(upsert, clause.update_whereclause, changed.excluded)
    return changed, upsert


def after_execute(connection: Connection, statement: Any, result: Any) -> None:
    """Raise ConcurrentWrite where a row that an upsert took for new was there already, as another's."""
    upsert = statement.get_execution_options().get(OPTION) if isinstance(statement, Insert) else None
    if upsert is None or not upsert.expected:
        return
    stored = _stored(upsert, connection, upsert.expected, [])
    if all(target in stored and stored[target].key_id == key_id for target, key_id in upsert.expected.items()):
        return
    result.close()
    raise ConcurrentWrite(
        f"Rows of {upsert.table.name} appeared while an upsert was about to add them; it left them as they are.",
        "Its values are sealed under keys that those rows do not have.",
        "Roll back and run the transaction again: it will find the rows. If it does not, the value of the conflict\n"
        "target equals the row's only for the database (its type or collation): give it as the row has it.",
        table=upsert.table.name,
    )


def _upsert(
    guard: Guard, table: Table, guarded: Mapping[str, Guarded], found_by: Mapping[str, Any], where: Any, sets: set[str]
) -> Upsert:
    each = guard.tables[table]
    step = hop(guard, table) if children.subject_of(guard, table) is not None else None
    ages = list(each.age_keys) if ADULT_COLUMN in table.columns else []
    owners = [ours for ours, _ in step.pairs] if step is not None else []
    return Upsert(guard, table, guarded, found_by, where, sets, owners, ages if sets.intersection(ages) else [])


def _from_excluded(
    guard: Guard, table: Table, guarded: Mapping[str, Guarded], name: str, values: Mapping[str, Any]
) -> list[BindParameter[Any] | None]:
    """Return what an existing row's parameter becomes: a bound value, or None for the one it has; [] for neither."""
    value = values[name]
    if is_excluded(name, value):
        return [None]
    if isinstance(value, Null) and name in guarded and guarded[name].sealed:
        return [BindParameter(None, value, unique=True)]
    if isinstance(value, BindParameter) and value.callable is None:
        return [value]
    check_expression(guard, table, name, guarded.get(name), value)
    return []


def _meet_rows(
    upsert: Upsert, connection: Connection, rows: Parameters, ours: Mapping[str, BindParameter[Any] | None]
) -> None:
    """Look up which rows are there, and give the parameters of those what DO UPDATE would set."""
    guard, table = upsert.guard, upsert.table
    moments = {column.key: name for name, column in epochs.divided(guard, table, upsert.guarded)}
    upsert.targets = [_target(upsert, row) for row in rows]
    _lock(upsert, connection)
    kept = [*upsert.owners, *upsert.ages, *([ADULT_COLUMN] if upsert.ages else []), *moments]
    upsert.stored = _stored(upsert, connection, [each for each in upsert.targets if each is not None], kept)
    if upsert.stored and any(moment in upsert.sets and name not in upsert.sets for moment, name in moments.items()):
        raise _left_behind(table, "would move rows to another epoch", upsert.sealed)
    for row, target in zip(rows, upsert.targets, strict=True):
        stored = upsert.stored.get(target)
        _take_values(row, ours, table, known=stored is not None)
        if ADULT_COLUMN in table.columns:
            row[ADULT_COLUMN] = None
        if stored is not None:
            _meet(upsert, row, stored, [name for name in moments if name not in upsert.sets])


def _take_values(
    row: dict[str, Any], ours: Mapping[str, BindParameter[Any] | None], table: Table, *, known: bool
) -> None:
    for name, bind in ours.items():
        value = value_of(bind, row) if bind is not None else None
        if bind is not None and known:
            row[name] = value
        row.setdefault(name, None)
    for bind in ours.values():
        if bind is not None and bind.key not in table.columns:
            row.pop(bind.key, None)


def _meet(upsert: Upsert, row: dict[str, Any], stored: _Stored, moments: list[str]) -> None:
    """Make one row's parameters what the existing row will hold: what DO UPDATE leaves is as it is stored."""
    if not stored.consented:
        raise no_consent(upsert.table)
    _check_owner(upsert, row, stored)
    for name in (*upsert.owners, *moments):
        if name not in upsert.sets:
            row[name] = stored.values[name]
    if upsert.ages:
        together = {name: row[name] if name in upsert.sets else stored.values[name] for name in upsert.ages}
        row[ADULT_COLUMN] = children.changed_day(upsert.guard, upsert.table, together, stored.values[ADULT_COLUMN])


def _check_owner(upsert: Upsert, row: Mapping[str, Any], stored: _Stored) -> None:
    """A row of somebody else is met by mistake, unless the upsert gives it away together with all that is sealed."""
    given = [row.get(name) for name in upsert.owners]
    if given == [stored.values[name] for name in upsert.owners]:
        return
    moved = upsert.sets.intersection(upsert.owners)
    if (moved and upsert.sealed <= upsert.sets) or (not moved and set(given) == {None}):
        return
    raise _left_behind(upsert.table, "would change a row of another data subject", upsert.sealed | set(upsert.owners))


def _left_behind(table: Table, what: str, together: Iterable[str]) -> StatementRefused:
    return StatementRefused(
        f"An upsert into {table.name} {what} while some of its sealed fields stay.",
        "They are sealed for the row as it was and would not open, or not be destroyed in time.",
        f"Set them together ({', '.join(sorted(together))}), each from statement.excluded, or write a new row.",
        table=table.name,
    )


def _target(upsert: Upsert, row: Mapping[str, Any]) -> Target | None:
    """Return by what a row is found. NULL conflicts with nothing, nor does what the database will number."""
    found = []
    for name, column in upsert.found_by.items():
        value = row.get(name)
        if value is None:
            return None
        hashed = isinstance(column.type, SearchIndex)
        found.append(hash_for(upsert.guard, column.type.field, value) if hashed else value)
    return tuple(found)


def _lock(upsert: Upsert, connection: Connection) -> None:
    """SQLite has no FOR UPDATE: taking its one write lock now keeps other writers out until the statement ran."""
    if connection.dialect.name == "sqlite":
        keys = upsert.guard.own_table(KEY)
        with internally():
            connection.execute(update(keys).where(false()).values(created_at=keys.c.created_at))


def _stored(
    upsert: Upsert, connection: Connection, targets: Iterable[Target], kept: list[str]
) -> dict[Target | None, _Stored]:
    """Look up and lock the rows that have one of these targets."""
    guard, table = upsert.guard, upsert.table
    by = [_as_stored(column) for column in upsert.found_by.values()]
    about = children.subject_of(guard, table) is not None
    owner = owner_key(guard, table, table) if about else null()
    footing = footing_at(guard, table, table) if about else literal_column(str(children.OF_AGE))
    query = select(owner, footing, *by, *(table.columns[name] for name in kept)).with_for_update(of=table)
    query = query.order_by(*by)  # writers that lock in one order do not wait for each other in a circle
    if upsert.where is not None:
        query = query.where(upsert.where)
    found: dict[Target | None, _Stored] = {}
    resting = set()
    for chunk in chunks(sorted(set(targets), key=repr)):
        for key_id, on, *values in read(connection, query.where(among(by, chunk))):
            own_id = bytes(key_id) if key_id is not None else None
            rest = dict(zip(kept, values[len(by) :], strict=True))
            if own_id is not None and on == children.CONSENTED:
                resting.add(own_id)
            found[tuple(values[: len(by)])] = _Stored(own_id, on != children.NEITHER or own_id is None, rest)
    hold_consent(connection, guard, table, resting)
    return found


def _as_stored(column: Any) -> Any:
    return type_coerce(covered(column), column.type.plain) if isinstance(column.type, Guarded) else column


def _sets(upsert: Upsert, values: Mapping[str, Any], ours: Iterable[str], excluded: Any) -> dict[str, Any]:
    """Return what DO UPDATE sets: with a field its search hash, no residue, and the day of age."""
    columns = upsert.table.columns
    sets = {name: value for name, value in values.items() if not is_own(columns[name])}
    taken = list(ours)
    for name in upsert.sets & upsert.guarded.keys():
        marker, residue = upsert.guarded[name].field.marker, f"{columns[name].name}_residue"
        if marker.search is not None:
            taken.append(f"{columns[name].name}_ix")
        if leaves_residue(marker.then) and residue in columns:
            sets[residue] = null()
    if upsert.ages:
        taken.append(ADULT_COLUMN)
    return sets | {name: copied(excluded[name]) for name in taken}


def _unmoved(upsert: Upsert, where: Any, excluded: Any) -> Any:
    """Return the WHERE of DO UPDATE that leaves a row alone whose key or owner is not the one sealed for."""
    names = [KEY_COLUMN] if KEY_COLUMN in upsert.table.columns else upsert.owners
    if names == upsert.owners and upsert.sets.intersection(names) and upsert.sealed <= upsert.sets:
        names = []
    same = [copied(upsert.table.columns[name]).is_not_distinct_from(copied(excluded[name])) for name in names]
    parts = [*same, where] if where is not None else same
    return and_(*parts) if parts else None

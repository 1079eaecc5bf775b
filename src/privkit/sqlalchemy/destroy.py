"""The only statements that destroy: DELETE, suppressing UPDATE, tombstones of keys.

Whoever calls them, they leave what a hold keeps: each of them asks for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Date,
    LargeBinary,
    String,
    Table,
    Update,
    and_,
    case,
    delete,
    literal,
    not_,
    null,
    or_,
    select,
    text,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.schema import DropTable

from privkit.consent.age import cautious_today
from privkit.crypto import DESTROYED
from privkit.deidentify import leaves_residue
from privkit.errors import InvalidValue
from privkit.markers import BirthDate
from privkit.sqlalchemy import keystore, outbox, pairs, partitions, receipts, references, shred
from privkit.sqlalchemy.children import ADULT
from privkit.sqlalchemy.due import Now, Target, is_sealed
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.references import among as among
from privkit.sqlalchemy.references import dependants
from privkit.sqlalchemy.references import key_columns as key_columns
from privkit.sqlalchemy.references import keyset as keyset
from privkit.sqlalchemy.spared import free, spared
from privkit.sqlalchemy.types import Guarded, Sealed

Still = ColumnElement[bool] | None
"""What has to be true of a row at the moment when it is destroyed; None: nothing more than that it was chosen."""


def require_rows(batch: int) -> None:
    """Raise InvalidValue where a batch has no row: a run would look at nothing, and find nothing left to do."""
    if batch < 1:
        raise InvalidValue("A batch has at least one row.", "A run of empty ones would do nothing.", "Give batch=1000.")


def delete_rows(
    connection: Connection,
    guard: Guard,
    table: Table,
    keys: Sequence[Sequence[Any]],
    still: Still = None,
    gone: receipts.Keys | None = None,
) -> int:
    """Delete rows by key, what depends on them first, and destroy their keys where they are data subjects.

    ``still``: what has to be true of a row at this moment, or it is left. In a circle of references what refers to
    the rows goes with them, for it is due as well. Returns how many rows of ``table`` went; ``gone`` gets their keys.
    """
    columns, count, subjects = key_columns(table), 0, []
    for start in range(0, len(keys), keystore.CHUNK):
        chosen = _with_referring(guard, table, among(columns, keys[start : start + keystore.CHUNK]))
        chosen = and_(chosen, not_(spared(guard, table, table, guard.now)))
        chosen = and_(chosen, *_only(still))
        if _clears(guard, table):  # and what is cleared may decide what is due
            these = connection.execute(select(*columns).where(chosen)).all()
            chosen = among(columns, these)
            _clear_dependants(connection, guard, table, chosen)
        outbox.put(connection, guard, outbox.naming(*table.columns), chosen)
        if KEY_COLUMN in table.columns:
            going = delete(table).where(chosen).returning(table.c[KEY_COLUMN], *columns)
            found = connection.execute(going).all()
            subjects += [bytes(key_id) for key_id, *_ in found if key_id is not None]
            count += len(found)
            if gone is not None:
                gone += [key for _, *key in found]
        else:
            count += receipts.executed(connection, delete(table).where(chosen), table, gone)
    shred.destroy_keys(connection, guard, subjects)  # rows, then keys, then the ledger: no deadlock
    return count


def _with_referring(guard: Guard, table: Table, chosen: ColumnElement[bool]) -> ColumnElement[bool]:
    """Add the rows of the same table whose references to the chosen ones cannot be emptied first."""
    tied = [each for each in references.within(guard, table) if not references.loosened(guard, each)]
    tied = [each for each in tied if each.table is table]
    if not tied:
        return chosen
    columns = key_columns(table)
    ours = list(dict.fromkeys([*columns, *(each.column for foreign in tied for each in foreign.elements)]))
    going = select(*ours).where(chosen).cte("privkit_going", recursive=True, nesting=True)
    theirs = own_alias(table)
    onward = or_(*(references.refers(foreign, theirs, going) for foreign in tied))
    going = going.union(select(*(theirs.c[each.key] for each in ours)).join_from(going, theirs, onward))
    return tuple_(*columns).in_(select(*(going.c[each.key] for each in columns)))


def _clears(guard: Guard, table: Table) -> bool:
    """Whether there is anything to do before a row can go."""
    inside = any(references.loosened(guard, each) for each in references.within(guard, table))
    return inside or len(references.blocking(guard, table)) < len(dependants(table))


def _clear_dependants(connection: Connection, guard: Guard, table: Table, chosen: ColumnElement[bool]) -> None:
    """Follow declared cascades here: SQLite runs none unless a pragma says so, and no row may be orphaned.

    References within a circle are emptied: the rows that hold them are due as well.
    """
    blocking = references.blocking(guard, table)
    emptied = [each for each in references.within(guard, table) if references.loosened(guard, each)]
    for foreign in dependants(table):
        ours = [element.column for element in foreign.elements]
        theirs = [element.parent for element in foreign.elements]
        inner = select(*ours).where(chosen)
        referring = theirs[0].in_(inner) if len(theirs) == 1 else tuple_(*theirs).in_(inner)
        if foreign in emptied or (foreign.ondelete == "SET NULL" and foreign not in blocking):
            connection.execute(update(foreign.table).where(referring).values({column.key: None for column in theirs}))
        elif foreign not in blocking:
            _clear_dependants(connection, guard, foreign.table, referring)
            connection.execute(delete(foreign.table).where(referring))


def suppress(
    connection: Connection,
    guard: Guard,
    target: Target,
    keys: Sequence[Sequence[Any]],
    still: Still = None,
    gone: receipts.Keys | None = None,
    *,
    residues: bool = False,
) -> int:
    """Destroy the values of one column in the rows of ``keys`` that no hold keeps, and their search hashes.

    ``still``: what has to be true of a row at this moment. With ``residues``, also what an earlier end of their
    lifetime left.
    """
    columns, count = key_columns(target.table), 0
    emptied = _emptied(guard, target) | (_emptied_residue(target) if residues else {})
    for start in range(0, len(keys), keystore.CHUNK):
        chunk = [among(columns, keys[start : start + keystore.CHUNK]), free(guard, target.table), *_only(still)]
        outbox.put(connection, guard, outbox.naming(*target.columns), and_(*chunk))
        count += receipts.executed(connection, update(target.table).where(*chunk).values(emptied), target.table, gone)
    return count


def _only(still: Still) -> list[ColumnElement[bool]]:
    return [] if still is None else [still]


def destroy_where(
    connection: Connection, guard: Guard, target: Target, chosen: ColumnElement[bool], gone: receipts.Keys | None = None
) -> int:
    """Destroy what a condition finds and no hold keeps, where that touches nothing else. Returns how many rows."""
    table = target.table
    statement = delete(table) if target.column is None else update(table).values(_emptied(guard, target))
    return receipts.executed(connection, statement.where(chosen, free(guard, table)), table, gone)


def drop_partition(connection: Connection, guard: Guard, table: Table, leaf: partitions.Leaf, now: Now) -> int:
    """Detach a partition and drop it, where all its rows are due at ``now``, and kept by no hold. Returns how many."""
    count = partitions.lock(connection, guard, table, leaf, now, spared(guard, table, leaf.rows, guard.now))
    if count:
        connection.execute(text(f"ALTER TABLE {leaf.parent} DETACH PARTITION {leaf.name}"))
        connection.execute(DropTable(leaf.table))
    return count


def attempt(
    connection: Connection, guard: Guard, target: Target, rows: Sequence[tuple[Sequence[Any], str | None]]
) -> None:
    """Carry a target out on some rows, each with its residue, in a savepoint that is rolled back whatever happens.

    It raises what the database refuses. Data subjects' keys and the ledger are left out: they cannot be refused.
    """
    keys, postgresql = [key for key, _ in rows], connection.dialect.name == "postgresql"
    savepoint = connection.begin_nested()
    try:
        if postgresql:
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            connection.execute(text("SET LOCAL statement_timeout = '5s'"))
        if target.column is None:
            chosen = among(key_columns(target.table), keys)
            _clear_dependants(connection, guard, target.table, chosen)
            connection.execute(delete(target.table).where(chosen))
        elif leaves_residue(target.technique):
            replace_with_residue(connection, guard, target, list(rows))
        else:
            suppress(connection, guard, target, keys)
        if postgresql:
            connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
    finally:
        savepoint.rollback()


def empty(connection: Connection, column: Column[Any], sealed: Column[Any], keys: Sequence[Sequence[Any]]) -> int:
    """Empty an adopted field's old column in the rows of ``keys``, unless it waits to be sealed.

    Held rows too: the sealed column beside it has the same value.
    """
    columns, count = key_columns(column.table), 0
    waits = type_coerce(sealed, LargeBinary()).is_not_distinct_from(pairs.PENDING)
    for start in range(0, len(keys), keystore.CHUNK):
        chunk = among(columns, keys[start : start + keystore.CHUNK])
        count += connection.execute(update(column.table).where(chunk, ~waits).values({column.key: null()})).rowcount
    return count


def replace_with_residue(
    connection: Connection,
    guard: Guard,
    target: Target,
    residues: Sequence[tuple[Sequence[Any], str | None]],
    still: Still = None,
    gone: receipts.Keys | None = None,
) -> int:
    """Destroy values and leave their residues, in the rows named by each key that no hold keeps."""
    table, keys, count = target.table, key_columns(target.table), 0
    asked, at_once = [free(guard, table), *_only(still)], connection.dialect.name == "postgresql"
    for start in range(0, len(residues), keystore.CHUNK):
        made = {tuple(key): text for key, text in residues[start : start + keystore.CHUNK]}
        chosen = and_(among(keys, list(made)), *asked)
        outbox.put(connection, guard, outbox.naming(*target.columns), chosen)
        if not at_once:  # the UPDATE is executed for each row, and what it asks is asked once for all of them
            made = {tuple(key): made[tuple(key)] for key in connection.execute(select(*keys).where(chosen))}
            count += connection.execute(*_replacing(connection, guard, target, made)).rowcount if made else 0
            if gone is not None:
                gone += made
    if at_once and residues:
        statement, _ = _replacing(connection, guard, target, {tuple(key): text for key, text in residues})
        count = receipts.executed(connection, statement.where(*asked), table, gone)
    return count


def _replacing(
    connection: Connection, guard: Guard, target: Target, residues: Mapping[tuple[Any, ...], str | None]
) -> tuple[Update, list[dict[str, Any]] | None]:
    """Return what stores residues by the keys of their rows, and its parameters."""
    column, keys = target.column, key_columns(target.table)
    assert column is not None
    rows = [(*key, text) for key, text in residues.items()]
    (*these, residue), parameters = references.given(connection, [*(key.type for key in keys), String()], rows)
    values = {**_emptied(guard, target), target.table.c[f"{column.name}_residue"].key: residue}
    if not column.nullable and not is_sealed(column):
        values[column.key] = type_coerce(residue, column.type)
    matching = [key == this for key, this in zip(keys, these, strict=True)]
    firsts = [key[0] for key in residues]
    if parameters is None and isinstance(firsts[0], int | UUID):  # for an index: both order these alike
        matching.append(keys[0].between(min(firsts), max(firsts)))
    return update(target.table).where(*matching).values(values), parameters


def _emptied(guard: Guard, target: Target) -> dict[str, Any]:
    # with a pair's other column: left behind, it would pass for what the sealed one waits for
    columns = (each for column in target.columns for each in pairs.pair(column) or (column,))
    values: dict[str, Any] = {}
    for each in columns:
        values[each.key] = Sealed(DESTROYED) if not each.nullable and is_sealed(each) else null()
        if f"{each.name}_ix" in target.table.columns:
            values[f"{each.name}_ix"] = None
    if ADULT_COLUMN in target.table.columns and any(map(_is_birth_date, target.columns)):
        adult, today = target.table.c[ADULT_COLUMN], literal(cautious_today(guard.now()), Date())
        # A day of age tells the birthday. Who came of age here stays so, and a child becomes one of unknown age.
        values[ADULT_COLUMN] = case((adult == ADULT, adult), (adult <= today, today), else_=None)
    return values


def _is_birth_date(column: Column[Any]) -> bool:
    """Whether the day a child comes of age is derived from it."""
    return isinstance(column.type, Guarded) and isinstance(column.type.field.marker, BirthDate)


def _emptied_residue(target: Target) -> dict[str, Any]:
    column = target.column
    assert column is not None
    if not leaves_residue(target.technique):
        return {}
    residue = target.table.c[f"{column.name}_residue"].key
    return {residue: None} if column.nullable or is_sealed(column) else {residue: "", column.key: ""}


def take_off(connection: Connection, guard: Guard, name: str, ids: Sequence[Any]) -> set[Any]:
    """Take rows off one of privkit's tables of work that waits: the outbox, the rollups. Returns the ids met."""
    table, found = guard.own_table(name), set[Any]()
    for start in range(0, len(ids), keystore.CHUNK):
        these = table.c.id.in_(ids[start : start + keystore.CHUNK])
        found.update(connection.execute(delete(table).where(these).returning(table.c.id)).scalars())
    return found

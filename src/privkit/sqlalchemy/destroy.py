"""The only statements that destroy: DELETE, suppressing UPDATE, tombstones of keys.

Whoever calls them, they leave what a hold keeps: each of them asks for itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Date,
    LargeBinary,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    insert,
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
from privkit.crypto import DESTROYED, Epoch
from privkit.deidentify import leaves_residue
from privkit.errors import InvalidValue, PlanError
from privkit.ledger import Entry
from privkit.markers import BirthDate
from privkit.sqlalchemy import holds, keystore, ledger, outbox, pairs, partitions, receipts, references
from privkit.sqlalchemy.children import ADULT
from privkit.sqlalchemy.due import Now, Target, is_sealed
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.references import among as among
from privkit.sqlalchemy.references import dependants
from privkit.sqlalchemy.references import key_columns as key_columns
from privkit.sqlalchemy.references import keyset as keyset
from privkit.sqlalchemy.spared import free, spared
from privkit.sqlalchemy.tables import EPOCH, KEY
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
    destroy_keys(connection, guard, subjects)  # last: rows, then keys, then the ledger, or two jobs would deadlock
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
    column, columns = target.column, key_columns(target.table)
    assert column is not None
    matching = [key == bindparam(f"key_{number}", type_=key.type) for number, key in enumerate(columns)]
    matching.append(free(guard, target.table))
    emptied = _emptied(guard, target)
    residue = bindparam("residue", type_=String())
    if not column.nullable and not is_sealed(column):
        emptied[column.key] = bindparam("in_place", type_=column.type)
    statement = (
        update(target.table)
        .where(*matching, *_only(still))
        .values({**emptied, target.table.c[f"{column.name}_residue"].key: residue})
    )
    rows = [
        {"residue": text, "in_place": text} | {f"key_{number}": value for number, value in enumerate(key)}
        for key, text in residues
    ]
    for start in range(0, len(residues), keystore.CHUNK):
        chunk = among(columns, [key for key, _ in residues[start : start + keystore.CHUNK]])
        chosen = and_(chunk, free(guard, target.table), *_only(still))
        outbox.put(connection, guard, outbox.naming(column), chosen)
        if gone is not None:
            gone += connection.execute(select(*columns).where(chosen)).all()
    return connection.execute(statement, rows).rowcount if rows else 0


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


IN_LINE = 500
"""How many keys one line of the ledger names."""


def destroy_keys(connection: Connection, guard: Guard, ids: Iterable[bytes], kind: str = "key_destroyed") -> int:
    """Destroy data subjects' keys, leave their tombstones and a line for each 500. Returns how many were living.

    ``kind``: of the line; ``"key_renewed"`` where their data subjects live on under other keys. Raises PlanError where
    a hold names one that does not.
    """
    table, wanted, destroyed = guard.own_table(KEY), sorted(set(ids)), []
    for start in range(0, len(wanted), IN_LINE):
        these = table.c.id.in_(wanted[start : start + IN_LINE]) & table.c.wrapped.is_not(None)
        found = connection.execute(select(table.c.id).where(these).order_by(table.c.id).with_for_update()).scalars()
        if living := list(map(bytes, found)):
            if kind != "key_renewed":
                _refuse_held(connection, guard, living)
            _bury_keys(connection, guard, living, guard.now())
            destroyed += living
    for start in range(0, len(destroyed), IN_LINE):
        line = {"keys": [key_id.hex() for key_id in destroyed[start : start + IN_LINE]]}
        ledger.append(connection, guard, kind, line)
    _forget_keys(guard, wanted)
    return len(destroyed)


def _refuse_held(connection: Connection, guard: Guard, ids: Sequence[bytes]) -> None:
    if connection.execute(holds.on_subjects(guard, ids, guard.now)).first() is not None:
        raise PlanError(
            "A hold keeps a data subject whose key was to be destroyed.",
            "Nothing was destroyed: somebody recorded a reason not to destroy yet.",
            "Once it ends, do it again; privacy.release(engine, hold, by=...) ends it now.",
        )


def _bury_keys(connection: Connection, guard: Guard, ids: Sequence[bytes], at: datetime) -> None:
    table = guard.own_table(KEY)
    living = table.c.id.in_(ids) & table.c.wrapped.is_not(None)
    connection.execute(update(table).where(living).values(wrapped=None, destroyed_at=at))


def _forget_keys(guard: Guard, ids: Sequence[bytes]) -> None:
    for key_id in ids:
        guard.keys.forget(key_id)
    guard.shredded.update(ids)


@ledger.redoes("key_destroyed")
def _destroy_keys_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """One that an older backup does not know gets its tombstone too: nobody may bring the key in from elsewhere."""
    table, at = guard.own_table(KEY), datetime.fromisoformat(entry.at)
    ids = [bytes.fromhex(key_id) for key_id in body["keys"]]
    _bury_keys(connection, guard, ids, at)
    known = set(map(bytes, connection.execute(select(table.c.id).where(table.c.id.in_(ids))).scalars()))
    unknown = [{"id": key_id, "created_at": at, "destroyed_at": at} for key_id in ids if key_id not in known]
    if unknown:
        connection.execute(insert(table), unknown)
    _forget_keys(guard, ids)


def destroy_epochs(connection: Connection, guard: Guard, keys: Sequence[Sequence[Any]]) -> int:
    """Destroy the keys of epochs, each (field id, number), and leave their tombstones. Returns how many were living.

    The work is the same however many values were sealed in them.
    """
    table, count = guard.own_table(EPOCH), 0
    for field_id in sorted({field_id for field_id, _ in keys}):
        wanted = sorted({number for each, number in keys if each == field_id})
        for start in range(0, len(wanted), IN_LINE):
            these = (table.c.field == field_id) & table.c.number.in_(wanted[start : start + IN_LINE])
            among_these = select(table.c.number).where(these, table.c.wrapped.is_not(None)).with_for_update()
            living = sorted(connection.execute(among_these).scalars())
            if living:
                _bury_epochs(connection, guard, field_id, living, guard.now())
                ledger.append(connection, guard, "epoch_destroyed", {"field": field_id, "numbers": living})
            count += len(living)
        _forget_epochs(connection, guard, field_id, wanted)
    return count


def _bury_epochs(connection: Connection, guard: Guard, field_id: str, numbers: Sequence[int], at: datetime) -> None:
    table = guard.own_table(EPOCH)
    living = and_(table.c.field == field_id, table.c.number.in_(numbers), table.c.wrapped.is_not(None))
    connection.execute(update(table).where(living).values(wrapped=None, destroyed_at=at))


def _forget_epochs(connection: Connection, guard: Guard, field_id: str, numbers: Sequence[int]) -> None:
    for number in numbers:
        epoch = Epoch(connection.dialect, field_id, number)
        guard.keys.forget_epoch(epoch)
        guard.shredded.add(epoch)


@ledger.redoes("epoch_destroyed")
def _destroy_epochs_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """An epoch that an older backup does not know has no values there."""
    _bury_epochs(connection, guard, body["field"], body["numbers"], datetime.fromisoformat(entry.at))
    _forget_epochs(connection, guard, body["field"], body["numbers"])

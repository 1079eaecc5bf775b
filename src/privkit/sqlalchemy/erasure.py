"""What remains of data subjects in all tables, counted, destroyed, deleted where nothing refers to it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Table, and_, false, func, not_, or_, select, true

from privkit.deidentify import leaves_residue
from privkit.ledger import Entry
from privkit.purposes import internally
from privkit.sqlalchemy import destroy, due, holds, ledger, pairs, references, spending
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.spared import free, spared
from privkit.sqlalchemy.tables import KEY
from privkit.sqlalchemy.visibility import all_passed

PAGE = 500
"""How many data subjects are looked up at a time."""

Ids = Sequence[bytes] | Select[Any]
"""Key ids of data subjects, or a query for them."""


def held(connection: Connection, guard: Guard, key_id: bytes) -> bool:
    """Whether a hold names a data subject, or keeps a table in which rows of that data subject lie."""
    return holds.keeps_subject(connection, guard, key_id)


def kept(connection: Connection, guard: Guard, key_id: bytes) -> dict[str, str]:
    """Return the fields of one data subject that a duty still keeps, by field id, with the names of the duties."""
    found: dict[str, str] = {}
    for target, field_id in _fields(guard):
        assert target.rule is not None
        chosen = [_theirs(guard, target.table, [key_id]), due.not_done(target), _on_duty(guard, target)]
        if target.rule.duties and _count(connection, target.table, *chosen):
            found[field_id] = ", ".join(sorted(duty.name for duty in target.rule.duties))
    return found


def delete(connection: Connection, guard: Guard, ids: Ids) -> int:
    """Delete rows of data subjects: the subjects' own, and those that ``@expire_row`` lets go. Returns how many.

    A row to which another refers that stays is left, and so is one under a hold.
    """
    count = 0
    for table in _tables(guard):
        model = guard.tables[table].model
        if model.data_subject or model.expire_row is not None:
            going = not_(spared(guard, table, table, guard.now))
            chosen = [_theirs(guard, table, ids), due.unreferenced(guard, table), going]
            count += destroy.delete_rows(connection, guard, table, _keys(connection, table, *chosen))
    return count


def suppress(
    connection: Connection, guard: Guard, ids: Ids, *, on_duty: Collection[str] = (), sealed: bool = True
) -> int:
    """Destroy values and residues of data subjects. Returns how many values.

    ``on_duty``: ids of fields that stay while a duty keeps them. ``sealed`` False: unsealed fields alone. What is
    under a hold stays, and so does what a column must hold: ``left`` counts it.
    """
    count = 0
    for target, field_id in _fields(guard):
        if _unerasable(target) or (not sealed and _all_sealed(target)):
            continue
        table = target.table
        chosen = [_theirs(guard, table, ids), _present(target), free(guard, table)]
        if field_id in on_duty:
            chosen.append(not_(_on_duty(guard, target)))
        count += destroy.suppress(connection, guard, target, _keys(connection, table, *chosen), residues=True)
    return count


def left(connection: Connection, guard: Guard, ids: Ids) -> dict[str, int]:
    """Count the values and residues of data subjects that are still there, by field id."""
    counted = {
        field_id: _count(connection, target.table, _theirs(guard, target.table, ids), _present(target))
        for target, field_id in _fields(guard)
    }
    return {field_id: count for field_id, count in counted.items() if count}


def destroyed(guard: Guard) -> Select[Any]:
    """Return a query for the ids of the keys that were destroyed."""
    keys = guard.own_table(KEY).alias()
    return select(keys.c.id).where(keys.c.wrapped.is_(None))


def pages(connection: Connection, guard: Guard) -> Iterator[list[bytes]]:
    """Yield the ids of destroyed keys whose data subjects still have rows, ``PAGE`` at a time."""
    for table in _tables(guard):
        if KEY_COLUMN not in table.columns:
            continue
        key, after = table.c[KEY_COLUMN], b""
        query = select(key).distinct().where(key.in_(destroyed(guard))).order_by(key).limit(PAGE)
        while found := [bytes(each) for each in connection.execute(query.where(key > after)).scalars()]:
            yield found
            after = found[-1]


def bury_again(connection: Connection, guard: Guard) -> None:
    """Destroy again what the ledger says was destroyed: an older key table may stand beside a newer ledger."""
    gone = {bytes(key_id).hex() for key_id in connection.execute(destroyed(guard)).scalars()}
    for entry in ledger.entries(connection, guard):
        if entry.kind in ("key_destroyed", "epoch_destroyed"):
            body = json.loads(entry.body)
            if not gone.issuperset(body.get("keys", [""])):
                ledger.redone[entry.kind](connection, guard, entry, body)


@ledger.redoes("erased")
def _erase_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """Leave nothing readable at once. Where the key was destroyed these are the unsealed values; rows go in replay."""
    ids, on_duty = [bytes.fromhex(body["subject"])], list(body["kept"])
    with internally():
        suppress(connection, guard, ids, on_duty=on_duty, sealed=bool(on_duty))
        spending.forget(connection, guard, [body["subject"]])


def _tables(guard: Guard) -> list[Table]:
    return [table for table in references.in_deletion_order(guard) if holds.has_owner(guard, table)]


def _fields(guard: Guard) -> list[tuple[Target, str]]:
    owned = set(_tables(guard))
    found = [each for each in due.field_targets(guard) if each.table in owned and each.rule is not None]
    return [(each, each.rule.field.id) for each in found if each.rule is not None]


def _theirs(guard: Guard, table: Table, ids: Ids) -> ColumnElement[bool]:
    return func.coalesce(owner_key(guard, table, table).in_(ids), false())


def _free(guard: Guard, table: Table) -> ColumnElement[bool]:
    return not_(holds.held(guard, table, table, guard.now))


def _on_duty(guard: Guard, target: Target) -> ColumnElement[bool]:
    """SQL that is true while a duty keeps a field. A duty whose event has not happened does."""
    assert target.rule is not None
    if not target.rule.duties:
        return false()
    over = all_passed(guard, target.table, target.table, [duty.keep for duty in target.rule.duties], guard.now)
    return true() if over is None else not_(func.coalesce(over, false()))


def _present(target: Target) -> ColumnElement[bool]:
    """SQL that is true while a value, or what was left of it, is there."""
    if target.column is None or not leaves_residue(target.technique):
        return due.not_done(target)
    residue = target.table.c[f"{target.column.name}_residue"]
    if _in_place(target):
        return or_(residue.is_(None), residue != "")
    return or_(due.not_done(target), residue.is_not(None))


def _in_place(target: Target) -> bool:
    """Whether the residue of a field stands in the field's own column too."""
    return target.column is not None and not target.column.nullable and not _is_sealed(target)


def _unerasable(target: Target) -> bool:
    """Whether a column must hold a value of its own type, and has no other way to hold none."""
    text = target.rule is not None and target.rule.field.python_type is str
    return due.unsuppressible(target) or (leaves_residue(target.technique) and _in_place(target) and not text)


def _is_sealed(target: Target) -> bool:
    return target.column is not None and due.is_sealed(target.column)


def _all_sealed(target: Target) -> bool:
    """A field that is being adopted has two columns, of which one holds what it held before."""
    column = target.column
    return column is not None and all(due.is_sealed(each) for each in pairs.pair(column) or (column,))


def _count(connection: Connection, table: Table, *chosen: ColumnElement[bool]) -> int:
    return int(connection.execute(select(func.count()).select_from(table).where(and_(*chosen))).scalar_one())


def _keys(connection: Connection, table: Table, *chosen: ColumnElement[bool]) -> list[Any]:
    return list(connection.execute(select(*destroy.key_columns(table)).where(and_(*chosen))).all())

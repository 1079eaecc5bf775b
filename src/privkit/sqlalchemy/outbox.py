"""Files that are to go: their names, written down in the transaction that destroys the rows or values that name them.

So a process may be killed at any moment after that: whoever works the outbox off next deletes the files. Names are
sealed under a key of the keyring's own, since those of their data subjects may have been destroyed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    Row,
    Table,
    false,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    type_coerce,
    update,
)

from privkit.crypto import HEADER_SIZE, SubjectKey, as_bytes
from privkit.crypto.envelope import ValueKey
from privkit.errors import SealedError, ShreddedError
from privkit.markers import Equality
from privkit.sqlalchemy import due, epochs, holds, keystore
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.references import among, key_columns
from privkit.sqlalchemy.tables import OUTBOX
from privkit.sqlalchemy.types import Guarded, as_stored

_UNOPENED = object()
"""In place of a name that does not open, although its key was not destroyed."""


def naming(*columns: Column[Any]) -> list[Column[Any]]:
    """Return those of some columns that name files."""
    return [each for each in columns if isinstance(each.type, Guarded) and each.type.field.marker.file is not None]


def put(connection: Connection, guard: Guard, columns: Iterable[Column[Any]], chosen: ColumnElement[bool]) -> None:
    """Write down the files that rows name in ``columns``, which are about to be destroyed. Locks the rows.

    Raises SealedError for a name that does not open: its row has to stay. One whose key was destroyed is written down
    as not known: its file was, when that happened.
    """
    outbox, now = guard.own_table(OUTBOX), guard.now()
    for column in columns:
        store, rows = _store(column), []
        key = _key(guard, store)
        for _, subject, name in _names(connection, guard, column, chosen):
            if name is _UNOPENED:
                raise SealedError(
                    f"The name of a file in {column.table.name}.{column.name} does not open.",
                    "Nothing was destroyed: its file would stay, and nobody would know which one it is.",
                    "Restore the row from a backup; or find its file, delete it, and set the column to NULL.",
                )
            if name != "":
                sealed = None if name is None else key.seal(name.encode("utf-8", "surrogatepass"))[HEADER_SIZE:]
                rows.append({"store": store, "name": sealed, "subject": subject, "created_at": now, "attempts": 0})
        if rows:
            connection.execute(insert(outbox), rows)


def unopened(
    connection: Connection, guard: Guard, columns: Sequence[Column[Any]], keys: Sequence[Sequence[Any]]
) -> set[tuple[Any, ...]]:
    """Return which rows of ``keys`` name a file in ``columns`` with a name that does not open."""
    found: set[tuple[Any, ...]] = set()
    for column in columns if keys else ():
        for start in range(0, len(keys), keystore.CHUNK):
            chosen = among(key_columns(_table(column)), keys[start : start + keystore.CHUNK])
            names = _names(connection, guard, column, chosen)
            found.update(row_key for row_key, _, name in names if name is _UNOPENED)
    return found


def name_of(guard: Guard, row: Row[Any]) -> str:
    """Return the name in a row of the outbox. Raises SealedError where it does not open."""
    key = _key(guard, row.store)
    return key.open(key.header + as_bytes(row.name)).decode("utf-8", "surrogatepass")


def claim(connection: Connection, guard: Guard, chosen: Sequence[ColumnElement[bool]], count: int) -> list[Row[Any]]:
    """Return the first rows of the outbox that meet ``chosen`` and nobody else claims now, and count an attempt."""
    outbox = guard.own_table(OUTBOX)
    first = select(outbox.c.id).where(*chosen).order_by(outbox.c.id).limit(count).with_for_update(skip_locked=True)
    claimed = update(outbox).where(outbox.c.id.in_(first)).values(attempts=outbox.c.attempts + 1)
    rows = connection.execute(claimed.returning(outbox.c.id, outbox.c.store, outbox.c.name)).all()
    return sorted(rows, key=lambda row: int(row.id))


def failed(connection: Connection, guard: Guard, errors: Mapping[int, str]) -> None:
    """Keep what kept each row of the outbox, by its id: the kind of an error."""
    outbox = guard.own_table(OUTBOX)
    for kind in sorted(set(errors.values())):
        ids = sorted(number for number, each in errors.items() if each == kind)
        connection.execute(update(outbox).where(outbox.c.id.in_(ids)).values(last_error=kind[:80]))


def pending(connection: Connection, guard: Guard, *chosen: ColumnElement[bool], since: datetime | None = None) -> int:
    """Count the rows of the outbox: files that may still be there. 0 where there is no store.

    ``since``: only those that have waited as long, or whose store failed.
    """
    if not guard.stores:
        return 0
    outbox = guard.own_table(OUTBOX)
    if since is not None:
        chosen = (*chosen, or_(outbox.c.last_error.is_not(None), outbox.c.created_at <= since))
    return int(connection.execute(select(func.count()).select_from(outbox).where(*chosen)).scalar_one())


def is_named(connection: Connection, guard: Guard, store: str, name: str) -> bool:
    """Whether a row still names a file.

    A sealed field is searched by its hash. One without ``search=Equality()`` is not searched: no two rows of it, and
    no other field, may name one file.
    """
    columns = [each for table in guard.tables for each in naming(*table.columns) if _store(each) == store]
    rows = [select(literal(1)).select_from(each.table).where(_is(guard, each, name)).limit(1) for each in columns]
    return any(connection.execute(each).first() is not None for each in rows)


def _is(guard: Guard, column: Column[Any], name: str) -> ColumnElement[bool]:
    assert isinstance(column.type, Guarded)
    field, search = column.type.field, column.type.field.marker.search
    if not column.type.sealed:
        return type_coerce(column, column.type.plain) == name
    if not isinstance(search, Equality):
        return false()
    kinds = [search, *(each for each in search.also if isinstance(each, Equality))]
    hashes = [guard.index_hash(field, name, each) for each in kinds]
    return type_coerce(column.table.c[f"{column.name}_ix"], LargeBinary()).in_(hashes)


def _names(
    connection: Connection, guard: Guard, column: Column[Any], chosen: ColumnElement[bool]
) -> Iterator[tuple[tuple[Any, ...], bytes | None, Any]]:
    """Yield the key, the data subject's key id and the name of each row with one: None, its key was destroyed."""
    assert isinstance(column.type, Guarded)
    table, sealed, field = _table(column), column.type.sealed, column.type.field
    present = due.not_done(Target(table, column, guard.rule(field)))
    owner = owner_key(guard, table, table) if holds.has_owner(guard, table) else null()
    query = select(*key_columns(table), owner, as_stored(column)).where(chosen, present).with_for_update(of=table)
    rows = connection.execute(query).all()
    keys = epochs.load_keys(connection, guard, field, [as_bytes(row[-1]) for row in rows]) if sealed else []
    open_value = guard.opener(field, connection.dialect) if sealed else lambda value: value
    for *row_key, subject, value in rows:
        subject = bytes(subject) if subject is not None else None
        name = _UNOPENED
        try:
            if not sealed or as_bytes(value)[2:18] == subject:
                name = open_value(value)
        except ShreddedError:
            name = None
        except SealedError:
            pass
        yield tuple(row_key), subject, name
    del keys  # until here they were findable


def _table(column: Column[Any]) -> Table:
    assert isinstance(column.table, Table)
    return column.table


def _store(column: Column[Any]) -> str:
    assert isinstance(column.type, Guarded)
    store = column.type.field.marker.file
    assert store is not None
    return store


def _key(guard: Guard, store: str) -> ValueKey:
    """Return the key that seals names of one store's files; no envelope's header is stored with them."""
    return SubjectKey(guard.keyring.secret("outbox")).value_key(f"{OUTBOX}.{store}")

"""Holds: recorded reasons not to destroy yet, on a data subject, a table, or a data subject's rows in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    and_,
    bindparam,
    exists,
    false,
    func,
    insert,
    or_,
    select,
    update,
)

from privkit.clock import as_utc
from privkit.errors import InvalidValue
from privkit.ledger import Entry
from privkit.sqlalchemy import ledger
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.tables import HOLD, KEY, LEDGER


def place(
    connection: Connection,
    guard: Guard,
    *,
    reason: str,
    by: str,
    subject: bytes | None = None,
    table: str | None = None,
    until: datetime | None = None,
) -> int:
    """Hold the rows of a data subject, of a table, or with both of one in the other. Returns the hold's id.

    ``subject``: a key id. ``table``: the name of a table with personal data. ``until``: an aware instant at
    which the hold ends by itself; without one it stays until ``release``. The ledger gets a line without the
    reason. Raises InvalidValue for a hold without a reason, or one that would hold nothing.
    """
    now = guard.now()
    _require(reason, "a reason")
    _require(by, "the name of who placed it")
    _check_reach(connection, guard, subject, table)
    ends = as_utc(until) if until is not None else None
    if ends is not None and ends <= now:
        raise _useless("It would have ended already.", "Give an instant in the future, or none.")
    ledger.lock(connection, guard)
    hold = guard.own_table(HOLD)
    values = {"subject": subject, "table_name": table, "reason": reason, "placed_by": by, "placed_at": now}
    placed = connection.execute(insert(hold).values(values | {"until": ends}))
    hold_id: int = placed.inserted_primary_key[0]  # type: ignore[index]
    body = {"hold": hold_id, "subject": subject and subject.hex(), "table": table, "by": ledger.who(guard, by)}
    ledger.append(connection, guard, "hold_placed", body | {"until": ends and ends.isoformat()})
    return hold_id


def release(connection: Connection, guard: Guard, hold_id: int, *, by: str) -> None:
    """End a hold now. The row stays, and the ledger gets a line. Raises InvalidValue when no such hold is open."""
    _require(by, "the name of who released it")
    ledger.lock(connection, guard)
    hold = guard.own_table(HOLD)
    placed = update(hold).where(hold.c.id == hold_id, hold.c.released_at.is_(None))
    if not connection.execute(placed.values(released_at=guard.now())).rowcount:
        raise InvalidValue(
            "There is no open hold of this id.",
            "Nothing was released: it was released before, or never placed.",
            "Take the id that placing it returned.",
        )
    ledger.append(connection, guard, "hold_released", {"hold": hold_id, "by": ledger.who(guard, by)})


def placed_since(connection: Connection, guard: Guard, seq: int) -> bool:
    """Whether a hold may have been placed after a line of the ledger. It stays so while the ledger is locked."""
    line = guard.own_table(LEDGER)
    query = select(line.c.seq).where(line.c.kind.in_(("hold_placed", "caught_up")), line.c.seq > seq).limit(1)
    return connection.execute(query).first() is not None


@ledger.redoes("hold_placed")
def _place_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """Its reason, and who placed it, were in the database only."""
    hold, subject, until = guard.own_table(HOLD), body["subject"], body["until"]
    values = {
        "id": body["hold"],
        "subject": bytes.fromhex(subject) if subject is not None else None,
        "table_name": body["table"],
        "reason": f"line {entry.seq} of the ledger; its text was lost with the database that was restored",
        "placed_by": body["by"],
        "placed_at": datetime.fromisoformat(entry.at),
        "until": datetime.fromisoformat(until) if until is not None else None,
    }
    connection.execute(insert(hold).values(values))
    if connection.dialect.name == "postgresql":  # the next hold must not be given this one's number
        sequence = func.pg_get_serial_sequence(hold.fullname, "id")
        connection.execute(select(func.setval(sequence, select(func.max(hold.c.id)).scalar_subquery())))


@ledger.redoes("hold_released")
def _release_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    hold = guard.own_table(HOLD)
    placed = update(hold).where(hold.c.id == body["hold"], hold.c.released_at.is_(None))
    connection.execute(placed.values(released_at=datetime.fromisoformat(entry.at)))


def held(guard: Guard, table: Table, at: FromClause, now: Callable[[], datetime]) -> ColumnElement[bool]:
    """Return SQL that is true for rows of ``at`` (``table`` or an alias of it) under a hold at ``now``, else false.

    Never NULL. Raises MappingError where the declared owner of ``table`` cannot be reached.
    """
    hold = guard.own_table(HOLD).alias()
    here = hold.c.table_name.in_(list(_names(guard, table)))
    whole = exists(select(1).select_from(hold).where(_active(hold, now), hold.c.subject.is_(None), here))
    if not has_owner(guard, table):
        return whole
    theirs = guard.own_table(HOLD).alias()
    there = or_(theirs.c.table_name.is_(None), theirs.c.table_name.in_(list(_names(guard, table))))
    subjects = select(theirs.c.subject).where(_active(theirs, now), theirs.c.subject.is_not(None), there)
    # A row whose owner is not set yet has no key id, and NULL IN (...) would be neither held nor free.
    return or_(whole, func.coalesce(owner_key(guard, table, at).in_(subjects), false()))


def on_row(guard: Guard, table: Table, key: Sequence[ColumnElement[bool]], now: Callable[[], datetime]) -> Select[Any]:
    """Return a query for the id and the end of each hold in force on the row of ``table`` that ``key`` finds."""
    hold, names = guard.own_table(HOLD).alias(), list(_names(guard, table))
    found = and_(hold.c.subject.is_(None), hold.c.table_name.in_(names))
    if has_owner(guard, table):
        theirs = hold.c.subject.in_(select(owner_key(guard, table, table)).where(*key))
        found = or_(found, and_(theirs, or_(hold.c.table_name.is_(None), hold.c.table_name.in_(names))))
    return select(hold.c.id, hold.c.until).where(_active(hold, now), found).order_by(hold.c.id)


def any_active(guard: Guard, now: Callable[[], datetime]) -> Select[Any]:
    """Return a query for the holds in force at ``now``, to spare the look at every row while there is none."""
    hold = guard.own_table(HOLD).alias()
    return select(hold.c.id).where(_active(hold, now))


def on_subject(guard: Guard, key_id: bytes, now: Callable[[], datetime]) -> Select[Any]:
    """Return a query for the holds in force at ``now`` that name one data subject."""
    hold = guard.own_table(HOLD).alias()
    return select(hold.c.id).where(_active(hold, now), hold.c.subject == key_id)


def _active(hold: FromClause, now: Callable[[], datetime]) -> ColumnElement[bool]:
    until = hold.c.until
    moment = bindparam(None, callable_=lambda: as_utc(now()), type_=until.type)
    return and_(hold.c.released_at.is_(None), or_(until.is_(None), until > moment))


def _names(guard: Guard, table: Table) -> Iterator[str]:
    """The table's name, and those of the tables it inherits from: one row lies in all of them."""
    yield table.fullname
    base = _base(guard, table)
    if base is not None:
        yield from _names(guard, base)


def _base(guard: Guard, table: Table) -> Table | None:
    inherited = guard.tables[table].mapper.inherits if table in guard.tables else None
    base = inherited.local_table if inherited is not None else None
    return base if isinstance(base, Table) and base is not table else None


def has_owner(guard: Guard, table: Table) -> bool:
    """Whether the rows of a table are data subjects or belong to some."""
    if KEY_COLUMN in table.columns or (table in guard.tables and guard.tables[table].model.owners):
        return True
    base = _base(guard, table)
    return base is not None and has_owner(guard, base)


def _check_reach(connection: Connection, guard: Guard, subject: bytes | None, table: str | None) -> None:
    if subject is None and table is None:
        raise _useless("It names neither a data subject nor a table.", "Give subject=, table= or both.")
    owned = {each.fullname: has_owner(guard, each) for each in guard.tables}
    if table is not None and table not in owned:
        raise _useless("It names a table that holds no personal data.", f"Use one of: {', '.join(sorted(owned))}.")
    if subject is not None and table is not None and not owned[table]:
        raise _useless("The table's rows belong to no data subject.", "Hold the whole table: leave subject out.")
    if subject is not None:
        keys = guard.own_table(KEY)
        living = select(keys.c.id).where(keys.c.id == subject, keys.c.wrapped.is_not(None))
        if connection.execute(living).first() is None:
            raise _useless("Its data subject has no living key.", "Take the key id from the data subject's row.")


def _require(text: str, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InvalidValue(
            f"A hold needs {what}.", "Nobody could decide later whether it still stands.", "Give it as text."
        )


def _useless(why: str, fix: str) -> InvalidValue:
    return InvalidValue("The hold would hold nothing.", why, fix)

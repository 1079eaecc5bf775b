"""Holds: recorded reasons not to destroy yet, on a data subject, a table, a data subject's rows in one, or on rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Required, TypedDict

from sqlalchemy import ColumnElement, Connection, Table, func, insert, select, tuple_, update

from privkit.clock import as_utc
from privkit.errors import InvalidValue
from privkit.ledger import LONGEST_TEXT, Entry
from privkit.purposes import internally
from privkit.sqlalchemy import ledger
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.held import (
    any_active,
    has_owner,
    held,
    is_listable,
    keeps_subject,
    on_row,
    on_subjects,
    row_key,
)
from privkit.sqlalchemy.tables import HOLD, HOLD_ROW, KEY, LEDGER

__all__ = [
    "Hold",
    "Placing",
    "any_active",
    "has_owner",
    "held",
    "keeps_subject",
    "listing",
    "on_row",
    "on_subjects",
    "place",
    "placed_since",
    "release",
]

_IN_LINE = 500
"""How many rows are found, written and told of in the ledger at a time."""

_LONGEST_ROLE = 60


class Placing(TypedDict, total=False):
    """What ``place`` takes."""

    reason: Required[str]
    by: Required[str]
    role: str | None
    subject: bytes | None
    table: str | None
    rows: Iterable[Any] | None
    where: ColumnElement[bool] | None
    until: datetime | None
    reference: str | None


@dataclass(frozen=True, slots=True)
class Hold:
    """One hold. ``rows``: how many it lists; None where it keeps all of its table, or of its data subject.

    ``until``: when it ends by itself. ``reason``, ``placed_by`` and ``reference`` are left out of its repr.
    """

    id: int
    subject: bytes | None
    table: str | None
    rows: int | None
    role: str | None
    placed_at: datetime
    until: datetime | None
    released_at: datetime | None
    active: bool
    reason: str = field(repr=False)
    placed_by: str = field(repr=False)
    reference: str | None = field(repr=False)


def place(
    connection: Connection,
    guard: Guard,
    *,
    reason: str,
    by: str,
    role: str | None = None,
    subject: bytes | None = None,
    table: str | None = None,
    rows: Iterable[Any] | None = None,
    where: ColumnElement[bool] | None = None,
    until: datetime | None = None,
    reference: str | None = None,
) -> int:
    """Hold the rows of a data subject, of a table, with both of one in the other, or chosen rows. Returns its id.

    ``subject``: a key id. ``table``: a mapped table's name. ``rows``: primary keys in it, tuples where they are
    composite; ``where``: the rows that meet it now. Either is written down, once. ``until``: the aware instant at
    which it ends by itself; without one, after the policy's ``holds.longest``. ``role``: of whoever places it, one of
    ``holds.place``. ``reference``: of the case; placed again with the same one, it is the hold that is there.

    The ledger gets a line without reason, name and reference. Raises InvalidValue for a hold without a reason or an
    end, for a role that may not place one, and for one that would hold nothing, or less than was asked.
    """
    now = guard.now()
    _require(reason, "a reason")
    _require(by, "the name of who placed it")
    _require_role(guard, role, "place")
    ends = _end(guard, until, now)
    ledger.lock(connection, guard)
    if rows is not None and where is not None:
        raise _useless("It has rows and a condition.", "Give rows=, or where=.")
    chosen = rows is not None or where is not None
    whole = None if chosen else table
    if reference is not None:
        _require(reference, "a reference that is a text, or none,")
        known = _known(connection, guard, reference, (subject, whole))
        if known is not None:
            return known
    _check_reach(connection, guard, subject, table, chosen=chosen)
    token = ledger.who(guard, reference) if reference is not None else None
    values: dict[str, Any] = {"subject": subject, "table_name": whole, "reason": reason, "role": role, "placed_by": by}
    values |= {"placed_at": now, "until": ends, "reference": reference}
    placed = connection.execute(insert(guard.own_table(HOLD)).values(values))
    hold_id: int = placed.inserted_primary_key[0]  # type: ignore[index]
    body = {"hold": hold_id, "subject": subject and subject.hex(), "table": whole, "by": ledger.who(guard, by)}
    body |= {"role": role, "reference": token, "until": ends.isoformat()}
    ledger.append(connection, guard, "hold_placed", body)
    if chosen:
        assert table is not None
        for keys in _chosen(connection, guard, _table(guard, table), rows, where):
            _list_rows(connection, guard, hold_id, table, keys)
            ledger.append(connection, guard, "hold_rows", {"hold": hold_id, "table": table, "rows": keys})
    return hold_id


def release(connection: Connection, guard: Guard, hold_id: int, *, by: str, role: str | None = None) -> None:
    """End a hold now. The row stays, and the ledger gets a line.

    ``role``: of whoever releases it, one of the policy's ``holds.release``. Raises InvalidValue when no such hold is
    open, or the role may not release one.
    """
    _require(by, "the name of who released it")
    _require_role(guard, role, "release")
    ledger.lock(connection, guard)
    hold = guard.own_table(HOLD)
    placed = update(hold).where(hold.c.id == hold_id, hold.c.released_at.is_(None))
    if not connection.execute(placed.values(released_at=guard.now())).rowcount:
        raise InvalidValue(
            "There is no open hold of this id.",
            "Nothing was released: it was released before, or never placed.",
            "Take the id that placing it returned, or that privkit hold list shows.",
        )
    ledger.append(connection, guard, "hold_released", {"hold": hold_id, "by": ledger.who(guard, by), "role": role})


def listing(connection: Connection, guard: Guard) -> list[Hold]:
    """Return all holds, those in force and those that have ended, in the order in which they were placed."""
    hold, row, now = guard.own_table(HOLD), guard.own_table(HOLD_ROW), guard.now()
    counts = select(row.c.hold, func.min(row.c.table_name), func.count()).group_by(row.c.hold)
    listed = {hold_id: (name, count) for hold_id, name, count in connection.execute(counts)}
    found = []
    for each in connection.execute(select(hold).order_by(hold.c.id)).mappings():
        name, count = listed.get(each["id"], (each["table_name"], None))
        until, released = _utc(each["until"]), _utc(each["released_at"])
        found.append(
            Hold(
                id=each["id"],
                subject=each["subject"] and bytes(each["subject"]),
                table=name,
                rows=count,
                role=each["role"],
                placed_at=as_utc(_utc(each["placed_at"]) or now),
                until=until,
                released_at=released,
                active=released is None and (until is None or until > now),
                reason=each["reason"],
                placed_by=each["placed_by"],
                reference=each["reference"],
            )
        )
    return found


def placed_since(connection: Connection, guard: Guard, seq: int) -> bool:
    """Whether a hold may have been placed after a line of the ledger. It stays so while the ledger is locked."""
    line = guard.own_table(LEDGER)
    query = select(line.c.seq).where(line.c.kind.in_(("hold_placed", "caught_up")), line.c.seq > seq).limit(1)
    return connection.execute(query).first() is not None


# Placed and released again, after a backup was restored.


@ledger.redoes("hold_placed")
def _place_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    """Its reason, who placed it and its reference were in the database only."""
    hold, subject, until = guard.own_table(HOLD), body["subject"], body["until"]
    values = {
        "id": body["hold"],
        "subject": bytes.fromhex(subject) if subject is not None else None,
        "table_name": body["table"],
        "reference": body.get("reference"),
        "reason": f"line {entry.seq} of the ledger; its text was lost with the database that was restored",
        "role": body.get("role"),
        "placed_by": body["by"],
        "placed_at": datetime.fromisoformat(entry.at),
        "until": datetime.fromisoformat(until) if until is not None else None,
    }
    connection.execute(insert(hold).values(values))
    if connection.dialect.name == "postgresql":  # the next hold must not be given this one's number
        sequence = func.pg_get_serial_sequence(hold.fullname, "id")
        connection.execute(select(func.setval(sequence, select(func.max(hold.c.id)).scalar_subquery())))


@ledger.redoes("hold_rows")
def _list_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    _list_rows(connection, guard, body["hold"], body["table"], body["rows"])


@ledger.redoes("hold_released")
def _release_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    hold = guard.own_table(HOLD)
    placed = update(hold).where(hold.c.id == body["hold"], hold.c.released_at.is_(None))
    connection.execute(placed.values(released_at=datetime.fromisoformat(entry.at)))


# Which rows.


def _list_rows(connection: Connection, guard: Guard, hold_id: int, table: str, keys: Sequence[str]) -> None:
    rows = [{"hold": hold_id, "table_name": table, "row_key": key} for key in keys]
    connection.execute(insert(guard.own_table(HOLD_ROW)), rows)


def _chosen(
    connection: Connection, guard: Guard, table: Table, rows: Iterable[Any] | None, where: ColumnElement[bool] | None
) -> Iterator[list[str]]:
    """Yield the keys of the chosen rows as the database writes them. Raises InvalidValue for fewer than were named."""
    query, found, missing = select(row_key(table, table)), 0, 0
    with internally():
        for condition, named in _conditions(table, rows, where):
            count = 0
            for some in connection.execute(query.where(condition)).scalars().partitions(_IN_LINE):
                _refuse_long(some)
                count += len(some)
                yield list(some)
            found, missing = found + count, missing + max(named - count, 0)
    if missing:
        raise _useless(f"{missing} of the rows that it names are not there.", "Name rows that are.")
    if not found:
        raise _useless("No row is chosen.", "Choose rows that are there, or hold the whole table.")


def _conditions(
    table: Table, rows: Iterable[Any] | None, where: ColumnElement[bool] | None
) -> Iterator[tuple[ColumnElement[bool], int]]:
    """Yield what finds the rows, each with the number of rows that it names."""
    if where is not None:
        yield where, 0
    columns = list(table.primary_key.columns)
    keys = _named_keys(table, rows or ())
    for start in range(0, len(keys), _IN_LINE):
        some = keys[start : start + _IN_LINE]
        among = columns[0].in_([key[0] for key in some]) if len(columns) == 1 else tuple_(*columns).in_(some)
        yield among, len(some)


def _named_keys(table: Table, rows: Iterable[Any]) -> list[tuple[Any, ...]]:
    columns = list(table.primary_key.columns)
    keys = dict.fromkeys(tuple(row) if isinstance(row, tuple | list) else (row,) for row in rows)
    for key in keys:
        kinds = [column.type.python_type for column in columns]
        if len(key) != len(kinds) or not all(type(part) is kind for part, kind in zip(key, kinds, strict=True)):
            raise InvalidValue(
                f"A row of {table.fullname} is named by {', '.join(column.name for column in columns)}.",
                "Nothing was held. The key is not shown.",
                f"Give for each row: {', '.join(f'{column.name} ({column.type})' for column in columns)}.",
            )
    return list(keys)


def _refuse_long(keys: Sequence[str]) -> None:
    if any(len(key) > LONGEST_TEXT for key in keys):
        raise InvalidValue(
            f"A row's key is longer than {LONGEST_TEXT} characters.",
            "The ledger takes no longer text, as it may hold anything.",
            "Hold its data subject, or the whole table.",
        )


def _table(guard: Guard, name: str) -> Table:
    return next(each for each in guard.tables if each.fullname == name)


def _check_reach(
    connection: Connection, guard: Guard, subject: bytes | None, table: str | None, *, chosen: bool
) -> None:
    if subject is None and table is None:
        raise _useless("It names neither a data subject nor a table.", "Give subject=, table= or both.")
    owned = {each.fullname: has_owner(guard, each) for each in guard.tables}
    if table is not None and table not in owned:
        raise _useless("It names a table that holds no personal data.", f"Use one of: {', '.join(sorted(owned))}.")
    if chosen and (table is None or subject is not None):
        raise _useless("Rows are chosen in one table, and not by data subject.", "Give table= and leave subject out.")
    if chosen and not is_listable(guard, _table(guard, str(table))):
        raise InvalidValue(
            f"Single rows of {table} cannot be held.",
            "Their keys would be written down: they may be personal data, or no two sessions write them alike.",
            "Hold their data subject, or the whole table; or mark integer, text or UUID keys with NotPersonal(why).",
        )
    if subject is not None and table is not None and not owned[table]:
        raise _useless("The table's rows belong to no data subject.", "Hold the whole table: leave subject out.")
    if subject is not None:
        keys = guard.own_table(KEY)
        living = select(keys.c.id).where(keys.c.id == subject, keys.c.wrapped.is_not(None))
        if connection.execute(living).first() is None:
            raise _useless("Its data subject has no living key.", "Take the key id from the data subject's row.")


# Who, why and how long.


def _known(connection: Connection, guard: Guard, reference: str, reach: tuple[bytes | None, str | None]) -> int | None:
    """The hold of a case, placed before; after a restore the reference is there as its token."""
    hold, now = guard.own_table(HOLD), guard.now()
    written = hold.c.reference.in_([reference, ledger.who(guard, reference)])
    found = connection.execute(select(hold).where(written)).mappings().first()
    if found is None:
        return None
    until = _utc(found["until"])
    if found["released_at"] is not None or (until is not None and until <= now):
        raise InvalidValue(
            "The hold of this reference has ended.", "It holds nothing any more.", "Give the new one another reference."
        )
    if (found["subject"] and bytes(found["subject"]), found["table_name"]) != reach:
        raise InvalidValue(
            "The hold of this reference is on something else.",
            "Nothing was placed.",
            "Give each hold of a case a reference of its own.",
        )
    return int(found["id"])


def _end(guard: Guard, until: datetime | None, now: datetime) -> datetime:
    rules = guard.policy.holds
    latest = rules.longest.after(now) if rules is not None and rules.longest is not None else None
    ends = as_utc(until) if until is not None else latest
    if ends is None:
        raise InvalidValue(
            "A hold needs an end.",
            "Nobody would ask again whether it still stands.",
            "Give until=; or let the policy say how long one lasts: holds: {longest: P1Y, ...}",
        )
    if ends <= now:
        raise _useless("It would have ended already.", "Give an instant in the future.")
    if latest is not None and ends > latest:
        raise InvalidValue(
            f"A hold lasts at most {rules and rules.longest}.", "The policy says so.", "Place it again before it ends."
        )
    return ends


def _require_role(guard: Guard, role: str | None, verb: str) -> None:
    if role is not None and not (isinstance(role, str) and role.strip() and len(role) <= _LONGEST_ROLE):
        raise InvalidValue("A role is a text of up to 60 characters.", "", "Give it as the policy spells it.")
    rules = guard.policy.holds
    if rules is None:
        return
    allowed = rules.place if verb == "place" else rules.release
    if role not in allowed:
        raise InvalidValue(
            f"This role may not {verb} a hold.",
            "The policy says who may.",
            f"Give role=, one of: {', '.join(allowed)}.",
        )


def _require(text: str, what: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise InvalidValue(
            f"A hold needs {what}.", "Nobody could decide later whether it still stands.", "Give it as text."
        )


def _useless(why: str, fix: str) -> InvalidValue:
    return InvalidValue("The hold would hold nothing, or less than was asked.", why, fix)


def _utc(moment: datetime | None) -> datetime | None:
    """SQLite gives instants back without their zone."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment

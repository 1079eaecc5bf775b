"""What a statement may see of rows and fields at this instant, as SQL that asks the clock when it runs.

A field past its purpose's keep reads as NULL inside a living row (``readable``); a comparison on it is false
(``unexpired``). A row past the lifetime of all its fields, or of a child without consent, is not selected
(``row_visible``). The binds are callables, so a compiled statement stays cached while time and purpose change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    FromClause,
    LargeBinary,
    Table,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    type_coerce,
)

from privkit import purposes
from privkit.errors import StatementRefused
from privkit.policy import FieldRule, Keep
from privkit.sqlalchemy import pairs
from privkit.sqlalchemy.events import MAXIMUM, MINIMUM, event_time, stored
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.registry import executing
from privkit.sqlalchemy.search import search_refused
from privkit.sqlalchemy.types import Guarded, covered, plain_type

_THREE: Any = literal_column("3")
_SIXTEEN: Any = literal_column("16")
_ONE: Any = literal_column("1")
_FAR = datetime(9999, 12, 31, tzinfo=UTC)


def readable(column: ColumnElement[Any], kind: Guarded) -> ColumnElement[Any]:
    """Return what a SELECT list holds for a guarded column: the stored value, or NULL once it has expired.

    For a sealed column it also compares the envelope's key id with the row's data subject's; where they
    differ only one byte comes back, which no processor opens.
    """
    guard = executing.get() or kind.guard
    if guard is None or kind.guard is None:
        return column
    try:
        table, at = _standing(column, kind)
    except StatementRefused:
        if kind.sealed or kind.field.id not in guard.observations.fields:
            raise
        return column  # observed: the read gate counts it
    dead = expired(guard, kind, table, at)
    if not kind.sealed:
        return column if dead is None else type_coerce(case((dead, None), else_=column), kind)
    stored_bytes = type_coerce(column, LargeBinary())
    own = func.substr(stored_bytes, _THREE, _SIXTEEN, type_=LargeBinary()) == owner_key(guard, table, at)
    arms = [(own, stored_bytes)] if dead is None else [(dead, None), (own, stored_bytes)]
    first_byte = func.substr(stored_bytes, _ONE, _ONE, type_=LargeBinary())
    arms += pairs.arms(column, kind, at, first_byte)
    return type_coerce(case(*arms, else_=first_byte), kind)


def live(attribute: Any) -> ColumnElement[Any]:
    """Return an unsealed field as an expression that is NULL once it has expired, to sort or compute with.

    ``attribute`` is a mapped attribute or a column. Raises SearchError for a sealed field.
    """
    column = attribute.__clause_element__() if hasattr(attribute, "__clause_element__") else attribute
    kind = column.type
    if not isinstance(kind, Guarded) or kind.guard is None:
        return column  # type: ignore[no-any-return]
    if kind.sealed:
        raise search_refused(kind.field, "sorting or computing")
    table, at = _standing(column, kind)
    dead = expired(kind.guard, kind, table, at)
    shown = type_coerce(covered(column), kind.plain)
    return shown if dead is None else case((dead, None), else_=shown)


def unexpired(column: ColumnElement[Any], kind: Guarded) -> ColumnElement[Any] | None:
    """Return the condition under which a guarded column may be compared; None when it never expires."""
    guard = kind.guard
    if guard is None:
        return None
    key = (guard.version, id(column), kind.field.id)
    known = guard.conditions.get(key)
    if known is None or known[0] is not column:  # held with its column, so that the id stays this column's
        known = guard.conditions[key] = (column, _unexpired(guard, column, kind))
    found: ColumnElement[Any] | None = known[1]
    return found


def _unexpired(guard: Guard, column: ColumnElement[Any], kind: Guarded) -> ColumnElement[Any] | None:
    if not _events(guard, kind):
        return None
    table, at = _standing(column, kind)
    alive = []
    for event in _events(guard, kind):
        time = event_time(guard, table, at, event)
        alive.append(_time_or_far(time, several=len(_events(guard, kind)) > 1) > _cutoff(guard, kind, event, time))
        if len(_events(guard, kind)) == 1:
            alive.append(time.is_(None))
    return or_(*alive)


def expired(guard: Guard, kind: Guarded, table: Table, at: FromClause) -> ColumnElement[bool] | None:
    """Return SQL that is true when no purpose in force may see the field any more; None: it never expires."""
    events = _events(guard, kind)
    times = [(event, event_time(guard, table, at, event)) for event in events]
    dead = [_time_or_far(time, several=len(events) > 1) <= _cutoff(guard, kind, event, time) for event, time in times]
    return and_(*dead) if dead else None


def _events(guard: Guard, kind: Guarded) -> list[str]:
    return sorted({term.purpose.keep.after for term in guard.rule(kind.field).terms if term.purpose.keep})


def _time_or_far(time: ColumnElement[Any], *, several: bool) -> ColumnElement[Any]:
    """With several events, one that has not happened must not hide that the purposes of the others ended."""
    return func.coalesce(time, stored(_FAR, plain_type(time))) if several else time


def row_expired(guard: Guard, table: Table, at: FromClause, now: Callable[[], datetime]) -> ColumnElement[bool] | None:
    """Return SQL that is true when the purposes of all fields of a row have ended; None: they never do."""
    rules = table_rules(guard, table)
    return all_passed(guard, table, at, [term.purpose.keep for rule in rules for term in rule.terms], now)


def all_passed(
    guard: Guard, table: Table, at: FromClause, keeps: list[Keep | None], now: Callable[[], datetime]
) -> ColumnElement[bool] | None:
    """Return SQL that is true when every one of ``keeps`` has passed for a row; None: one of them is for ever."""
    longest: dict[str, list[Keep]] = {}
    for keep in keeps:
        if keep is None:
            return None
        longest.setdefault(keep.after, []).append(keep)
    if not longest:
        return None
    return and_(*(_passed(guard, table, at, event, group, now) for event, group in sorted(longest.items())))


def _passed(
    guard: Guard, table: Table, at: FromClause, event: str, keeps: list[Keep], now: Callable[[], datetime]
) -> ColumnElement[bool]:
    time = event_time(guard, table, at, event)
    kind = plain_type(time)
    return time <= bindparam(
        None, callable_=lambda: stored(min(keep.period.cutoff(now()) for keep in keeps), kind), type_=kind
    )


def table_rules(guard: Guard, table: Table) -> list[FieldRule]:
    """Return the field rules of all guarded columns of a table."""
    return [guard.rule(column.type.field) for column in table.columns if isinstance(column.type, Guarded)]


def _cutoff(guard: Guard, kind: Guarded, event: str, time: ColumnElement[Any]) -> Any:
    plain, field_id = plain_type(time), kind.field.id

    def ask() -> Any:
        return stored(cutoff(executing.get() or kind.guard or guard, field_id, event), plain)

    return bindparam(None, callable_=ask, type_=plain)


def cutoff(guard: Guard, field_id: str, event: str) -> datetime:
    """Return the event time at and before which a field has expired for the purposes now in force."""
    access = guard.observations.access(field_id, purposes.current())
    if access is None:
        return MAXIMUM
    now = guard.now()
    return max(_cutoff_of(group, event, now) for group in access.keeps)


def _cutoff_of(keeps: Iterable[Keep | None], event: str, now: datetime) -> datetime:
    """Of purposes that are in force together the most lenient counts; of nested blocks, the strictest."""
    if None in keeps:
        return MINIMUM
    return min((keep.period.cutoff(now) for keep in keeps if keep and keep.after == event), default=MAXIMUM)


def _standing(column: ColumnElement[Any], kind: Guarded) -> tuple[Table, FromClause]:
    """Return the table a column comes from, and the table, alias or subquery it stands in."""
    at = getattr(column, "table", None)
    if at is None:
        at = getattr(getattr(column, "element", None), "table", None)
    for base in getattr(column, "base_columns", ()):
        if isinstance(base.type, Guarded) and isinstance(getattr(base, "table", None), Table) and at is not None:
            return base.table, at
    raise StatementRefused(
        f"{kind.field} is selected through an expression that hides its row.",
        "Neither its owner nor its expiry can be checked.",
        "Select it as a plain column of the model.",
        field=kind.field.id,
    )

"""What a statement may see of rows and fields at this instant, as SQL that asks the clock when it runs.

A field past its purpose's keep, or off for a child, reads as NULL inside a living row (``readable``); a comparison
on it is false (``unexpired``). A row past the lifetime of all its fields, or of a child without consent, is not
selected (``row_visible``). The binds are callables, so a compiled statement stays cached while time and purpose change.
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
    case,
    false,
    func,
    literal_column,
    not_,
    or_,
    type_coerce,
)

from privkit import purposes
from privkit.clock import as_utc
from privkit.errors import StatementRefused
from privkit.policy import FieldRule, Keep
from privkit.policy.lapses import Lapse
from privkit.sqlalchemy import children, pairs, switches
from privkit.sqlalchemy.events import MAXIMUM, MINIMUM, event_time, stored
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.lapses import missing_since, was_child
from privkit.sqlalchemy.late import late
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.registry import executing
from privkit.sqlalchemy.search import search_refused
from privkit.sqlalchemy.types import Guarded, covered, plain_type, trusted

_THREE: Any = literal_column("3")
_SIXTEEN: Any = literal_column("16")
_ONE: Any = literal_column("1")
_FAR = datetime(9999, 12, 31, tzinfo=UTC)

Now = Callable[[], datetime]
Anchor = tuple[str, str]
"""The event from which keeps count, and the one that ends them instead where it is known, or ""."""

Cutoff = Callable[[bool], datetime]
"""Gives the time at and before which an event means the end: False for the first of an anchor, True for the second."""


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
    dead = unreadable(guard, kind, table, at)
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
    dead = unreadable(kind.guard, kind, table, at)
    shown = type_coerce(covered(column), kind.plain)
    return trusted(shown if dead is None else case((dead, None), else_=shown))


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
    anchors, found = _anchors(guard, kind), []
    if not anchors and not guard.rule(kind.field).child_off:
        return None
    table, at = _standing(column, kind)
    if anchors:
        dead = _all_ended(guard, kind, table, at, anchors)
        found.append(not_(dead) if len(anchors) > 1 else or_(not_(dead), dead.is_(None)))
    if (off := switches.off(guard, kind.field, table, at)) is not None:
        found.append(not_(off))
    return trusted(and_(*found)) if found else None


def unreadable(guard: Guard, kind: Guarded, table: Table, at: FromClause) -> ColumnElement[bool] | None:
    """Return SQL that is true where no purpose in force may see the field: it has expired, or is off for a child.

    None: neither can be.
    """
    anchors, off = _anchors(guard, kind), switches.off(guard, kind.field, table, at)
    dead = _all_ended(guard, kind, table, at, anchors) if anchors else None
    return dead if off is None else off if dead is None else or_(dead, off)


def _all_ended(guard: Guard, kind: Guarded, table: Table, at: FromClause, anchors: list[Anchor]) -> ColumnElement[bool]:
    several = len(anchors) > 1
    ended = []
    for each in anchors:
        in_force = _in_force(guard, kind, each)
        found = [_ended(guard, table, at, each, in_force, several), *_ended_for_child(guard, table, at, each, in_force)]
        ended.append(or_(*found))
    return and_(*ended)


def _ended_for_child(
    guard: Guard, table: Table, at: FromClause, anchor: Anchor, cutoff: Cutoff
) -> list[ColumnElement[bool]]:
    """SQL that is true when what counts from ``anchor`` has ended by the shorter period of who was a child then."""
    subject, shorter = children.subject_of(guard, table), guard.policy.child_keep
    if shorter is None or subject is None or subject.model.child is None:
        return []
    time = event_time(guard, table, at, anchor[0])
    kind = plain_type(time)

    def of_child() -> datetime:
        found = cutoff(False)
        return found if found == MINIMUM else max(found, shorter.cutoff(guard.now()))

    ended = and_(was_child(guard, table, at, time), time <= late(lambda: stored(of_child(), kind), kind))
    return [func.coalesce(ended, false())]


def _anchors(guard: Guard, kind: Guarded) -> list[Anchor]:
    return sorted({keep.anchor for keep in guard.rule(kind.field).keeps if keep})


def _ended(
    guard: Guard, table: Table, at: FromClause, anchor: Anchor, cutoff: Cutoff, several: bool = False
) -> ColumnElement[bool]:
    """SQL that is true when what counts from ``anchor`` has ended; NULL or false when its event has not happened.

    ``several``: with other anchors beside it, a NULL must not hide that what counts from those has ended.
    """
    after, until = anchor
    time = event_time(guard, table, at, after)
    kind = plain_type(time)
    if several:
        time = func.coalesce(time, stored(_FAR, kind))
    ended = time <= late(lambda: stored(cutoff(False), kind), kind)
    if not until:
        return ended
    own = event_time(guard, table, at, until)
    own_kind = plain_type(own)
    own_ended = own <= late(lambda: stored(cutoff(True), own_kind), own_kind)
    return or_(and_(own.is_not(None), own_ended), and_(own.is_(None), ended))


def row_expired(
    guard: Guard, table: Table, at: FromClause, now: Now, entered: str | None = None
) -> ColumnElement[bool] | None:
    """Return SQL that is true when the purposes of all fields of a row have ended; None: they never do.

    ``entered``: the name of a duty under which the row is read; what it keeps has to have ended as well.
    """
    rules = table_rules(guard, table)
    keeps = [term.purpose.keep for rule in rules for term in rule.terms]
    keeps += [duty.keep for rule in rules for duty in rule.duties if duty.entered_as == entered]
    return all_passed(guard, table, at, keeps, now)


def all_passed(
    guard: Guard, table: Table, at: FromClause, keeps: list[Keep | None], now: Now
) -> ColumnElement[bool] | None:
    """Return SQL that is true when every one of ``keeps`` has passed for a row; None: one of them is for ever."""
    longest: dict[tuple[Anchor, tuple[Lapse, ...]], list[Keep]] = {}
    for keep in keeps:
        if keep is None:
            return None
        longest.setdefault((keep.anchor, keep.lapses), []).append(keep)
    if not longest:
        return None
    return and_(*(_passed(guard, table, at, group, now) for _, group in sorted(longest.items(), key=_by_anchor)))


def _by_anchor(each: tuple[tuple[Anchor, tuple[Lapse, ...]], list[Keep]]) -> tuple[Anchor, list[str]]:
    (anchor, lapses), _ = each
    return anchor, [lapse.event for lapse in lapses]


def _passed(guard: Guard, table: Table, at: FromClause, keeps: list[Keep], now: Now) -> ColumnElement[bool]:
    """SQL for keeps that count from the same, and which the same lapses end."""
    passed = _ended(guard, table, at, keeps[0].anchor, _of(keeps, now))
    lapsed = [
        _lapsed(since, lapse, now) for lapse in keeps[0].lapses for since in missing_since(guard, table, at, lapse, now)
    ]
    return or_(passed, *lapsed) if lapsed else passed


def _lapsed(since: ColumnElement[Any], lapse: Lapse, now: Now) -> ColumnElement[bool]:
    kind = plain_type(since)
    return since <= late(lambda: stored(lapse.period.cutoff(now()), kind), kind)


def _of(keeps: list[Keep], now: Now) -> Cutoff:
    return lambda own: as_utc(now()) if own else min(keep.period.cutoff(now()) for keep in keeps)


def table_rules(guard: Guard, table: Table) -> list[FieldRule]:
    """Return the field rules of all guarded columns of a table."""
    return [guard.rule(column.type.field) for column in table.columns if isinstance(column.type, Guarded)]


def _in_force(guard: Guard, kind: Guarded, anchor: Anchor) -> Cutoff:
    return lambda own: cutoff(executing.get() or kind.guard or guard, kind.field.id, anchor, own)


def cutoff(guard: Guard, field_id: str, anchor: Anchor, own: bool = False) -> datetime:
    """Return the event time at and before which a field has expired for the purposes now in force.

    ``own``: of the event that ends it by itself, instead of the one from which its period counts.
    """
    access = guard.observations.access(field_id, purposes.current())
    if access is None:
        return MAXIMUM
    now = guard.now()
    return max(_cutoff_of(group, anchor, now, own) for group in access.keeps)


def _cutoff_of(keeps: Iterable[Keep | None], anchor: Anchor, now: datetime, own: bool) -> datetime:
    """Of purposes that are in force together the most lenient counts; of nested blocks, the strictest."""
    if None in keeps:
        return MINIMUM
    counting = [keep for keep in keeps if keep and keep.anchor == anchor]
    if own:
        return now if counting else MAXIMUM
    return min((keep.period.cutoff(now) for keep in counting), default=MAXIMUM)


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

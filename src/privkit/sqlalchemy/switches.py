"""What a category says is ``child: off``: in a child's row such a field reads as NULL and is not written.

But under purposes that a guardian consents to and that are switched on now: for one data subject, one purpose and
hours at most. Every statement asks the database, so what was switched on ends by itself, in every process.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Connection,
    Date,
    DateTime,
    FromClause,
    Table,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
)

from privkit import purposes
from privkit.catalog import Field
from privkit.consent.age import cautious_today
from privkit.errors import ConsentRequired
from privkit.purposes import Scope
from privkit.sqlalchemy import children
from privkit.sqlalchemy.guard import Guard, Protected, own_alias
from privkit.sqlalchemy.late import late
from privkit.sqlalchemy.lookups import chunks, hold_consent, read
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.standing import given
from privkit.sqlalchemy.tables import CONSENT, SWITCH
from privkit.sqlalchemy.types import Guarded

Asked = Callable[[], Scope | None]


def off(
    guard: Guard, field: Field, table: Table, at: FromClause, asked: Asked = purposes.current
) -> ColumnElement[bool] | None:
    """Return SQL that is true where a field of a row of ``at`` is switched off now; None: of no row.

    ``asked``: gives the scope for which, when the statement runs. Raises StatementRefused where ``at`` is a
    subquery that left the data subject's key out.
    """
    subject = subject_off(guard, field, table)
    if subject is None:
        return None
    key, adult = owner_key(guard, table, at), at.c.get(ADULT_COLUMN)
    if KEY_COLUMN in table.columns and adult is not None and table.columns[ADULT_COLUMN] in adult.base_columns:
        return not_(or_(func.coalesce(_of_age(guard, adult), false()), _on(guard, field, key, asked)))
    row = own_alias(subject.table, beside=at)
    allowed = or_(_of_age(guard, row.c[ADULT_COLUMN]), _on(guard, field, row.c[KEY_COLUMN], asked))
    return not_(exists(select(1).select_from(row).where(row.c[KEY_COLUMN] == key, allowed).correlate_except(row)))


def is_off(
    connection: Connection, guard: Guard, field: Field, table: Table, key: Iterable[ColumnElement[bool]]
) -> bool:
    """Return whether a field is switched off, for the purpose in force, in the row that ``key`` finds."""
    scope = purposes.current()
    condition = off(guard, field, table, table, lambda: scope)
    query = select(literal(1)).select_from(table)
    return condition is not None and bool(read(connection, query.where(condition, *key)))


def subject_off(guard: Guard, field: Field, table: Table) -> Protected | None:
    """Return whose rows a field of ``table`` is switched off in; None: in nobody's, for who may be a child."""
    subject = children.subject_of(guard, table) if guard.rule(field).child_off else None
    return subject if subject is not None and subject.model.child is not None else None


def refuse(
    guard: Guard,
    connection: Connection,
    table: Table,
    guarded: Mapping[str, Guarded],
    rows: Iterable[Mapping[str, Any]],
    ids: Iterable[Collection[bytes]],
) -> None:
    """Raise ConsentRequired where one of ``rows`` sets a field that is switched off for whom the row is about.

    ``ids``: beside each row the keys of its data subjects. A new row that is an adult's says so itself.
    """
    today, pairs = cautious_today(guard.now()), list(zip(rows, ids, strict=True))
    for name, kind in guarded.items():
        subject = subject_off(guard, kind.field, table)
        setting = [(row, whose) for row, whose in pairs if row.get(name) is not None] if subject is not None else []
        asked = {key for row, whose in setting for key in whose if (row.get(ADULT_COLUMN) or date.max) > today}
        if subject is not None and asked and not _all_on(guard, connection, table, subject, kind.field, asked):
            raise switched_off(kind.field)


def _all_on(
    guard: Guard, connection: Connection, table: Table, subject: Protected, field: Field, ids: Collection[bytes]
) -> bool:
    """Whether a field is on for all of these; it stays so until the transaction ends."""
    children_ids, scope, row = (
        young(guard, connection, subject.table, ids),
        purposes.current(),
        own_alias(subject.table),
    )
    hold_consent(connection, guard, table, children_ids)
    on = _on(guard, field, row.c[KEY_COLUMN], lambda: scope)
    return children_ids == _those(connection, row, children_ids, on)


def young(guard: Guard, connection: Connection, table: Table, ids: Collection[bytes]) -> set[bytes]:
    """Return those of the data subjects of ``table`` with these keys who are not of age, as far as is known."""
    if ADULT_COLUMN not in table.columns:
        return set()
    row = own_alias(table)
    return set(ids) - _those(connection, row, ids, _of_age(guard, row.c[ADULT_COLUMN]))


def _those(connection: Connection, row: FromClause, ids: Collection[bytes], on: ColumnElement[bool]) -> set[bytes]:
    key = row.c[KEY_COLUMN]
    queries = (select(key).where(key.in_(chunk), on) for chunk in chunks(sorted(ids)))
    return {bytes(each) for query in queries for (each,) in read(connection, query)}


def switched_off(field: Field) -> ConsentRequired:
    """Build the error for a child's field that is off."""
    return ConsentRequired(
        f"{field} would be written in the row of a child, or somebody who may be one, for whom it is switched off.",
        f"The policy says child: off for {field.marker.category}: a guardian's consent alone does not switch it on.",
        "Leave it empty (None), or switch it on for the session, once a guardian has consented:\n"
        "privacy.consent.switch_on(session, subject=..., purposes={...}, lasting=timedelta(hours=1)).",
        field=field.id,
    )


def consented(guard: Guard, connection: Connection, key_id: bytes, names: Iterable[str]) -> list[str]:
    """Return those of ``names`` that a guardian consents to now."""
    consent, terms = guard.own_table(CONSENT), guard.policy.consent_terms
    counts = ((name, given(consent, literal(key_id), name, terms(name), guard.now)) for name in names)
    return [name for name, condition in counts if read(connection, select(1).where(condition))]


def _of_age(guard: Guard, adult: ColumnElement[Any]) -> ColumnElement[bool]:
    return adult <= late(lambda: cautious_today(guard.now()), Date())


def _on(guard: Guard, field: Field, key: ColumnElement[Any], asked: Asked) -> ColumnElement[bool]:
    """SQL that is true where each purpose in force that needs the field is switched on, and there is one.

    A duty rests on no consent, and privkit's own work on no purpose.
    """
    each = [or_(not_(_in_force(asked, name)), _switched(guard, key, name)) for name in field.purposes]
    return and_(_in_force(asked, *field.purposes, free=True), *each)


def _in_force(asked: Asked, *names: str, free: bool = False) -> ColumnElement[bool]:
    """Whether one of ``names`` is in force; with ``free``, or what needs no consent at all."""

    def answer() -> bool:
        scope = asked()
        if scope is None:
            return False
        return any(name in scope.names for name in names) or (free and (scope.internal or scope.duty is not None))

    return late(answer, Boolean())


def _switched(guard: Guard, key: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    switch = guard.own_table(SWITCH).alias("privkit_on")
    now = bindparam(None, callable_=guard.now, type_=DateTime(timezone=True))
    on = select(1).where(switch.c.subject == key, switch.c.purpose == name, switch.c.on_until > now)
    consent = given(guard.own_table(CONSENT), key, name, guard.policy.consent_terms(name), guard.now)
    return and_(exists(on.correlate_except(switch)), consent)

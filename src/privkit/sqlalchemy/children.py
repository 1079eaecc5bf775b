"""Children in storage: the day a child comes of age, and which rows are a child's without consent.

The birth date itself is sealed, so a hidden date column says from when consent is the data subject's own. For
somebody who is of age already it holds one constant day, which tells nothing of the birthday.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Date,
    FromClause,
    Table,
    Update,
    and_,
    bindparam,
    case,
    exists,
    literal_column,
    or_,
    select,
)

from privkit.consent.age import AgeFacts, cautious_today, of_age_on
from privkit.errors import StatementRefused
from privkit.purposes import internally
from privkit.sqlalchemy.guard import Guard, Protected, own_alias
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.ownership import hop
from privkit.sqlalchemy.standing import given
from privkit.sqlalchemy.tables import CONSENT
from privkit.sqlalchemy.write_forms import matching

ADULT = date(1, 1, 1)
"""What the hidden column holds for somebody who was of age when the row was written."""


def store_ages(guard: Guard, table: Table, parameters: list[dict[str, Any]]) -> None:
    """Set the hidden date of each row of which something tells an age. Unknown or placeholder: NULL, a child."""
    each = guard.tables[table]
    if each.model.child is None or ADULT_COLUMN not in table.columns:
        return
    keys, today = each.age_keys, cautious_today(guard.now())
    for row in parameters:
        if any(key in row for key in keys):
            row[ADULT_COLUMN] = day_of_age(guard, each, row, today)


def day_of_age(guard: Guard, each: Protected, row: Mapping[str, Any], today: date) -> date | None:
    """Return what the hidden date of a row is, from its values by the keys of their columns."""
    child = each.model.child
    assert child is not None

    def value(name: str | None) -> Any:
        return row.get(each.mapper.columns[name].key) if name is not None else None

    facts = AgeFacts(tuple(value(name) for name in child.births), value(child.reached_on), value(child.age_band))
    reached = of_age_on(facts, guard.policy.ages_of_consent(value(child.country), value(child.region), today), today)
    return ADULT if reached is not None and reached <= today else reached


def store_changed_ages(
    guard: Guard, connection: Connection, table: Table, statement: Update, parameters: list[dict[str, Any]]
) -> None:
    """Set the hidden date where an UPDATE changes what it depends on, taking from the row what the UPDATE leaves.

    Raises StatementRefused for an UPDATE that changes the country of several data subjects at once.
    """
    each = guard.tables[table]
    if each.model.child is None or ADULT_COLUMN not in table.columns:
        return
    needed = [each.mapper.columns[name] for name in each.model.child.fields]
    for row in parameters:
        if not any(column.key in row for column in needed):
            continue
        query, values = matching(statement, select(*needed).limit(2), row)
        with internally():
            stored = connection.execute(query, values).all()
        if len(stored) > 1:
            raise StatementRefused(
                f"One UPDATE of {table.name} would change what the age of several data subjects depends on.",
                "Each has its own day of age.",
                "Update by primary key: session.execute(update(Model), [{'id': 1, ...}, {'id': 2, ...}]).",
                table=table.name,
            )
        for values_now in stored:
            pairs = zip((column.key for column in needed), values_now, strict=True)
            together = {key: row.get(key, value) for key, value in pairs}
            store_ages(guard, table, [together])
            row[ADULT_COLUMN] = together[ADULT_COLUMN]


def with_consent(
    guard: Guard, table: Table, at: FromClause, purposes: tuple[str, ...] | None, today: Callable[[], date]
) -> ColumnElement[bool] | None:
    """Return SQL that is true for rows of adults, and of children with consent for all ``purposes``; None: of adults.

    None where the table's data subjects are not declared to be possibly children, or no purpose needs consent.
    """
    needing = tuple(name for name in purposes or () if guard.policy.children_under(name) != "allowed")
    subject = subject_of(guard, table)
    if not (needing or purposes is None) or subject is None or subject.model.child is None:
        return None
    return _through(guard, table, at, lambda row: _allowed(guard, row, needing, today))


OF_AGE, CONSENTED, NEITHER = 2, 1, 0


def footing(
    guard: Guard, table: Table, at: FromClause, purposes: tuple[str, ...] | None, today: Callable[[], date]
) -> ColumnElement[int] | None:
    """Return SQL for what a row may be used on: ``OF_AGE``, ``CONSENTED`` or ``NEITHER``; None: on nothing it needs."""
    allowed = with_consent(guard, table, at, purposes, today)
    if allowed is None:
        return None
    of_age = _through(guard, table, at, lambda row: _of_age(row, today))
    return case(
        (of_age, literal_column(str(OF_AGE))),
        (allowed, literal_column(str(CONSENTED))),
        else_=literal_column(str(NEITHER)),
    )


def subject_of(guard: Guard, table: Table) -> Protected | None:
    """Return the class of the data subjects that rows of ``table`` are about, or None where they are about nobody."""
    if guard.tables[table].model.data_subject:
        return guard.tables[table]
    if not guard.tables[table].model.owners and guard.tables[table].mapper.inherits is None:
        return None
    step = hop(guard, table)
    return subject_of(guard, step.target) if step is not None and step.target in guard.tables else guard.tables[table]


def _through(
    guard: Guard, table: Table, at: FromClause, condition: Callable[[FromClause], ColumnElement[bool]]
) -> ColumnElement[bool]:
    """Apply a condition on the data subject's row, at the end of the joins from ``at``."""
    step = hop(guard, table)
    if step is None:
        return condition(at)
    remote = own_alias(step.target)
    inner = _through(guard, step.target, remote, condition)
    return exists(select(1).select_from(remote).where(step.joins(at, remote), inner).correlate_except(remote))


def _allowed(
    guard: Guard, row: FromClause, purposes: tuple[str, ...], today: Callable[[], date]
) -> ColumnElement[bool]:
    of_age = _of_age(row, today)
    givable = [name for name in purposes if guard.policy.children_under(name) == "consent"]
    if len(givable) < len(purposes) or not purposes:
        return of_age
    consent, subject = guard.own_table(CONSENT), row.c[KEY_COLUMN]
    terms = {name: guard.policy.consent_terms(name) for name in givable}
    return or_(of_age, and_(*(given(consent, subject, name, terms[name], guard.now) for name in givable)))


def _of_age(row: FromClause, today: Callable[[], date]) -> ColumnElement[bool]:
    return row.c[ADULT_COLUMN] <= bindparam(None, callable_=today, type_=Date())

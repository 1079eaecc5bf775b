"""Children in storage: the day a child comes of age, and which rows are a child's without consent.

The birth date itself is sealed, so a hidden date column says from when consent is the data subject's own. For
somebody who is of age already it holds one constant day, which tells nothing of the birthday.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
    case,
    exists,
    literal,
    literal_column,
    not_,
    or_,
    select,
)

from privkit.consent.age import AgeFacts, cautious_today, of_age_on
from privkit.errors import InvalidValue, StatementRefused
from privkit.policy import places_of
from privkit.purposes import internally
from privkit.sqlalchemy.guard import Guard, Protected, own_alias
from privkit.sqlalchemy.late import late
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.ownership import hop
from privkit.sqlalchemy.standing import Now, given, spoken
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


def settled_day(reached: date | None, before: date | None, today: date) -> date | None:
    """Return what the hidden date becomes of a row that holds ``before``, where its data subject reaches the age.

    Who came of age here keeps the day, from which the own answer is awaited. Where it is found out later, or a lower
    age holds now, that day is ``today``.
    """
    if reached is None or reached > today:
        return reached
    return before if before is not None and before <= today else today


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
        query, values = matching(statement, select(*needed, table.c[ADULT_COLUMN]).limit(2), row)
        with internally():
            stored = connection.execute(query, values).all()
        if len(stored) > 1:
            raise StatementRefused(
                f"One UPDATE of {table.name} would change what the age of several data subjects depends on.",
                "Each has its own day of age.",
                "Update by primary key: session.execute(update(Model), [{'id': 1, ...}, {'id': 2, ...}]).",
                table=table.name,
            )
        for *values_now, before in stored:
            pairs = zip((column.key for column in needed), values_now, strict=True)
            together = {key: row.get(key, value) for key, value in pairs}
            row[ADULT_COLUMN] = changed_day(guard, table, together, before)


def changed_day(guard: Guard, table: Table, row: Mapping[str, Any], before: date | None) -> date | None:
    """Return what the hidden date becomes of a row that holds ``before``; ``row``: its values, by the columns' keys."""
    today = cautious_today(guard.now())
    return settled_day(day_of_age(guard, guard.tables[table], row, today), before, today)


def with_consent(
    guard: Guard,
    table: Table,
    at: FromClause,
    purposes: tuple[str, ...] | None,
    today: Callable[[], date],
    now: Now | None = None,
) -> ColumnElement[bool] | None:
    """Return SQL that is true for rows of adults, and of children with consent for all ``purposes``; None: of adults.

    Somebody who came of age here is an adult to purposes that rest on consent once that was given in person.
    ``now``: when consent has to count, if not at the guard's own instant.

    None where the table's data subjects are not declared to be possibly children, or no purpose needs consent.
    """
    needing = tuple(name for name in purposes or () if guard.policy.children_under(name) != "allowed")
    subject = subject_of(guard, table)
    if not (needing or purposes is None) or subject is None or subject.model.child is None:
        return None
    return _through(guard, table, at, lambda row: _allowed(guard, row, needing, today, now or guard.now))


OF_AGE, CONSENTED, NEITHER = 2, 1, 0


def footing(
    guard: Guard, table: Table, at: FromClause, purposes: tuple[str, ...] | None, today: Callable[[], date]
) -> ColumnElement[int] | None:
    """Return SQL for what a row may be used on: ``OF_AGE``, ``CONSENTED`` or ``NEITHER``; None: on nothing it needs.

    Who came of age here is ``CONSENTED`` for what rests on consent, also where there is no word that can be taken back.
    """
    allowed = with_consent(guard, table, at, purposes, today)
    if allowed is None:
        return None
    resting = resting_on(guard, purposes)
    of_age = _through(guard, table, at, lambda row: row.c[ADULT_COLUMN] == ADULT if resting else _reached(row, today))
    return case(
        (of_age, literal_column(str(OF_AGE))),
        (allowed, literal_column(str(CONSENTED))),
        else_=literal_column(str(NEITHER)),
    )


def day_of(connection: Connection, guard: Guard, subject: bytes) -> date | None:
    """Return the hidden date of a data subject, by the key; ``ADULT`` where no child is expected. None: unknown."""
    for table in (table for table in guard.tables if KEY_COLUMN in table.columns):
        day = table.c[ADULT_COLUMN] if ADULT_COLUMN in table.columns else literal(ADULT)
        with internally():
            row = connection.execute(select(day).where(table.c[KEY_COLUMN] == subject)).first()
        if row is not None:
            found: date | None = row[0]
            return found
    return None


def grew_up(day: date | None, today: date) -> bool:
    """Whether a hidden date is that of somebody who came of age here, and was a child before."""
    return day is not None and ADULT < day <= today


def require_of_age(connection: Connection, guard: Guard, subject: bytes) -> None:
    """Raise InvalidValue for a data subject who is below the age of digital consent, or of whom nobody knows."""
    day = day_of(connection, guard, subject)
    if day is None or day > cautious_today(guard.now()):
        raise InvalidValue(
            "A child would consent in person, or somebody who may be one.",
            "Below the age of digital consent it is a guardian who consents.",
            'Name the guardian: guardian="g-17". Where the age is unknown, store it first.',
        )


def require_country(connection: Connection, guard: Guard, subject: bytes, name: str | None) -> None:
    """Raise InvalidValue where a way to verify a guardian is for some countries only, and the child is in none of them.

    An unknown country is none of them.
    """
    method = guard.policy.verification_methods.get(name or "")
    if method is None or not method.countries:
        return
    places: set[str] = set()
    for table, each in guard.tables.items():
        if KEY_COLUMN in table.columns and each.model.child is not None and each.model.child.country is not None:
            country = each.mapper.columns[each.model.child.country]
            with internally():
                found = connection.execute(select(country).where(table.c[KEY_COLUMN] == subject)).all()
            places.update(place for (value,) in found for place in places_of(value))
    if places.isdisjoint(method.countries):
        raise InvalidValue(
            f"The method {name!r} verifies a guardian in {', '.join(method.countries)} only; this child is elsewhere, "
            "or nobody knows where.",
            "A way to verify that one law accepts is none under another.",
            "Use a method without countries, or store the child's country first.",
            allowed=[each.name for each in guard.policy.verification_methods.values() if not each.countries],
        )


def resting_on(guard: Guard, purposes: Iterable[str] | None) -> tuple[str, ...]:
    """Return those of ``purposes`` to which somebody who came of age here has to consent in person."""
    return tuple(name for name in purposes or () if guard.policy.rests_on_consent(name))


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
    guard: Guard, row: FromClause, purposes: tuple[str, ...], today: Callable[[], date], now: Now
) -> ColumnElement[bool]:
    resting = resting_on(guard, purposes)
    of_age = _of_age(guard, row, today, resting, now)
    givable = [name for name in purposes if guard.policy.children_under(name) == "consent"]
    if len(givable) < len(purposes) or not purposes:
        return of_age
    consent, subject = guard.own_table(CONSENT), row.c[KEY_COLUMN]
    terms = {name: guard.policy.consent_terms(name) for name in givable}
    by_guardians = [given(consent, subject, name, terms[name], now) for name in givable]
    if resting:
        by_guardians.insert(0, still_child(row, today))
    return or_(of_age, and_(*by_guardians))


def still_child(row: FromClause, today: Callable[[], date]) -> ColumnElement[bool]:
    """Return SQL that is true for the row of somebody below the age, or of whom nobody knows."""
    day = row.c[ADULT_COLUMN]
    return or_(day.is_(None), day > late(today, Date()))


def _reached(row: FromClause, today: Callable[[], date]) -> ColumnElement[bool]:
    return row.c[ADULT_COLUMN] <= late(today, Date())


def _of_age(
    guard: Guard, row: FromClause, today: Callable[[], date], resting: Iterable[str], now: Now
) -> ColumnElement[bool]:
    """SQL for rows of those of age; who came of age here consents to ``resting`` in person, or nobody said a word."""
    consent, subject, terms = guard.own_table(CONSENT), row.c[KEY_COLUMN], guard.policy.consent_terms
    answered = [
        or_(not_(spoken(consent, subject, name)), given(consent, subject, name, terms(name), now, in_person=True))
        for name in resting
    ]
    of_age = _reached(row, today)
    return and_(of_age, or_(row.c[ADULT_COLUMN] == ADULT, and_(*answered))) if answered else of_age

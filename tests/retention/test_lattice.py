"""SQL is the same function: what is due and what reads show, for every kind of event, on both databases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from privkit import purposes
from privkit.lifetime import Status, field_lifetime
from privkit.markers import Delete
from privkit.sqlalchemy import due
from privkit.sqlalchemy.states import clauses, lifetime_of
from privkit.sqlalchemy.visibility import table_rules
from tests.retention.lattice import Booking, FilledClub, Member, club, fill
from tests.sqlalchemy.rides import Clock

EDGES = [
    datetime(2024, 1, 31, 12, tzinfo=UTC),
    datetime(2024, 2, 29, tzinfo=UTC),
    datetime(2023, 12, 31, 23, 59, 59, 999998, tzinfo=UTC),
    datetime(2024, 3, 10, 7, 30, tzinfo=UTC),  # the clocks of New York skip an hour
    datetime(2024, 11, 3, 5, 30, tzinfo=UTC),  # and go back
    datetime(2023, 11, 30, tzinfo=UTC),
    datetime(2029, 1, 1, tzinfo=UTC),
]
MOMENTS = [
    datetime(2024, 2, 29, tzinfo=UTC),
    datetime(2024, 3, 1, tzinfo=UTC),
    datetime(2024, 4, 10, 7, 30, tzinfo=UTC),
    datetime(2024, 12, 3, 5, 30, tzinfo=UTC),
    datetime(2025, 3, 1, tzinfo=UTC),
    datetime(2026, 1, 1, tzinfo=UTC),
]
FIELDS = {
    "members.name": ("account", "archive"),
    "members.email": ("account", "news"),
    "bookings.note": ("visit", "duty tax"),
    "bookings.place": ("visit", "archive", "duty safety"),
}
GONE = (Status.DELETE, Status.DEIDENTIFY)


@pytest.fixture
def filled(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[FilledClub]:
    with club(database_url, tmp_path, clock, "America/New_York") as made:
        fill(made, Random(1), 40, EDGES)
        yield made


def test_what_is_due_is_what_the_function_says_for_every_kind_of_event(filled: FilledClub) -> None:
    guard = filled.privacy.guard
    assert any(_row_gone(filled, key, MOMENTS[-1]) for key in filled.bookings)
    for now in MOMENTS:
        rows = {key for key in filled.bookings if _row_gone(filled, key, now)}
        for target in due.targets(guard):
            with filled.engine.connect() as connection, purposes.internally():
                predicate = due.due(guard, target, lambda now=now: now)
                assert predicate is not None
                key = target.table.c.id
                found = set(connection.scalars(select(key).where(predicate)))
            if target.rule is None:
                assert rows == found, now
                continue
            known = filled.members if target.table.name == "members" else filled.bookings
            gone = {
                key
                for key, happened in known.items()
                if lifetime_of(target.rule, happened, held=False, now=now).status in GONE
            }
            assert (gone - rows if known is filled.bookings else gone) == found, (now, target.field)


def _row_gone(made: FilledClub, key: int, now: datetime) -> bool:
    guard = made.privacy.guard
    needed, kept = clauses(table_rules(guard, Booking.__table__))  # type: ignore[arg-type]
    happened = made.bookings[key]
    found = field_lifetime(purposes=needed, duties=kept, events=happened, technique=Delete(), held=False, now=now)
    return found.status in GONE


@pytest.mark.parametrize("field", FIELDS)
def test_what_a_field_shows_is_what_the_function_says(filled: FilledClub, field: str) -> None:
    model = Member if field.startswith("members") else Booking
    attribute = getattr(model, field.partition(".")[2])
    for now in MOMENTS:
        filled.clock.now = now
        for scope in FIELDS[field]:
            readable = filled.readable(field, scope, now)
            if model is Booking:
                readable &= filled.seen(scope, now)
            with _entered(filled, scope), Session(filled.engine) as session:
                column = {key for key, value in session.execute(select(model.id, attribute)) if value is not None}
                entity = {row.id for row in session.scalars(select(model)) if getattr(row, attribute.key) is not None}
            assert (readable, readable) == (column, entity), (scope, now)


def test_aggregates_and_relationships_count_what_the_function_says(filled: FilledClub) -> None:
    for now in MOMENTS:
        filled.clock.now = now
        for scope in ("visit", "archive", "duty tax", "duty safety"):
            seen = filled.seen(scope, now)
            with _entered(filled, scope), Session(filled.engine) as session:
                assert len(seen) == session.scalar(select(func.count()).select_from(Booking)), (scope, now)
                loaded = session.scalars(select(Member).options(selectinload(Member.bookings))).all()
                assert seen == {booking.id for member in loaded for booking in member.bookings}
                joined = session.execute(select(Booking.id).join(Member.bookings)).scalars()
                assert seen == set(joined)
        for scope in ("visit", "duty tax"):
            readable = filled.readable("bookings.note", scope, now) & filled.seen(scope, now)
            with _entered(filled, scope), Session(filled.engine) as session:
                live = filled.privacy.live(Booking.note)
                assert len(readable) == session.scalar(select(func.count(live)).select_from(Booking)), (scope, now)
                compared = session.scalars(select(Booking.id).where(Booking.note.like("b%")))
                assert readable == set(compared), (scope, now)


def test_an_explanation_is_the_function_s_decision(filled: FilledClub) -> None:
    now = MOMENTS[2]
    guard = filled.privacy.guard
    for key in list(filled.bookings)[:25]:
        found = filled.privacy.explain(filled.engine, Booking, key, at=now)
        for part in found.fields:
            lifetime = lifetime_of(guard.rules[part.name], filled.bookings[key], held=False, now=now)
            found_rule = part.rule.removeprefix("duty ")
            assert (lifetime.status, lifetime.rule, lifetime.until) == (part.status, found_rule, part.until)
            assert {None, timedelta(0)} >= {each.ends and each.ends.utcoffset() for each in part.reasons}
            assert (part.status in GONE) is (part.goes is not None and part.goes <= now)
        assert found.row is not None
        assert _row_gone(filled, key, now) is (found.row.status in GONE)


def test_b05_what_is_explained_is_what_the_next_run_does(filled: FilledClub) -> None:
    filled.clock.now = MOMENTS[-1]
    told = {key: filled.privacy.explain(filled.engine, "bookings", key).row for key in filled.bookings}
    run = filled.privacy.purge(filled.engine, filled.privacy.plan(filled.engine))
    assert run.ok
    with filled.engine.connect() as connection, purposes.internally():
        left = set(connection.scalars(select(Booking.__table__.c.id)))
    assert left == {key for key, row in told.items() if row is not None and row.status not in GONE}
    assert left < set(told)


def _entered(made: FilledClub, scope: str) -> AbstractContextManager[object]:
    if scope.startswith("duty "):
        return made.privacy.duty(scope.removeprefix("duty "))
    return made.privacy.purpose(scope)

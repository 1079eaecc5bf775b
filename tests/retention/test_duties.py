"""What only a duty keeps is readable for that duty alone, while it lasts, and nothing is written for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, joinedload

from privkit.errors import PolicyError, PurposeError
from tests.retention.lattice import PURPOSES, Booking, Club, FilledClub, Member, Payment, club
from tests.sqlalchemy.rides import Clock


@pytest.fixture
def restricted(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[FilledClub]:
    """Booking 1 is paid: tax keeps its note. Its purposes ended a month after the visit; 2 is not over yet."""
    with club(database_url, tmp_path, clock) as made:
        clock.now = datetime(2026, 1, 1, tzinfo=UTC)
        with made.privacy.purpose(*PURPOSES), Session(made.engine) as session:
            gone = datetime(2024, 1, 1)
            member = Member(id=1, club=Club(id=1, closed_at=gone), left_at=None, name="Ada", email="ada@example.org")
            paid = [Payment(paid_at=datetime(2026, 1, 12))]
            old = Booking(id=1, ended_on=date(2026, 1, 10), note="window seat", place="Leeds", payments=paid)
            member.bookings = [old, Booking(id=2, note="aisle", place="York")]
            session.add(member)
            session.commit()
        clock.now = datetime(2026, 3, 1, tzinfo=UTC)
        yield made


def test_what_only_a_duty_keeps_is_there_for_that_duty_alone(restricted: FilledClub) -> None:
    privacy, engine = restricted.privacy, restricted.engine
    for purpose in PURPOSES:
        with privacy.purpose(purpose), Session(engine) as session:
            assert session.get(Booking, 1) is None, purpose
            assert [2] == list(session.scalars(select(Booking.id)))
    with privacy.duty("tax"), Session(engine) as session:
        assert "window seat" == session.get_one(Booking, 1).note
        assert {1: "window seat", 2: "aisle"} == {
            row.id: row.note for row in session.execute(select(Booking.id, Booking.note))
        }
        assert 2 == session.scalar(select(func.count()).select_from(Booking))
        loaded = session.scalars(select(Member).options(joinedload(Member.bookings))).unique().one()
        assert {1, 2} == {booking.id for booking in loaded.bookings}


def test_a_duty_reads_nothing_that_it_does_not_keep(restricted: FilledClub) -> None:
    with restricted.privacy.duty("tax"), Session(restricted.engine) as session:
        booking = session.get_one(Booking, 1)
        for refused in (lambda: booking.place, lambda: session.execute(select(Member.name)).all()):
            with pytest.raises(PurposeError, match="not needed for 'duty tax'"):
                refused()


def test_a_duty_ends_at_the_instant_before_any_run(restricted: FilledClub) -> None:
    restricted.clock.now = datetime(2027, 1, 12, tzinfo=UTC) - timedelta(microseconds=1)
    with restricted.privacy.duty("tax"), Session(restricted.engine) as session:
        assert "window seat" == session.get_one(Booking, 1).note
    restricted.clock.now += timedelta(microseconds=1)
    with restricted.privacy.duty("tax"), Session(restricted.engine) as session:
        assert session.get(Booking, 1) is None


def test_another_duty_sees_the_field_and_not_after_its_own_end(restricted: FilledClub) -> None:
    with restricted.privacy.duty("safety"), Session(restricted.engine) as session:
        assert "Leeds" == session.get_one(Booking, 1).place
    restricted.clock.now = datetime(2026, 4, 11, tzinfo=UTC)
    with restricted.privacy.duty("safety"), Session(restricted.engine) as session:
        assert session.get(Booking, 1) is None


def test_a_purpose_inside_a_duty_or_around_it_never_widens_it(restricted: FilledClub) -> None:
    privacy = restricted.privacy
    for outer, inner in (("duty tax", "visit"), ("visit", "duty tax"), ("duty safety", "duty tax")):
        with privacy.purpose(outer), privacy.purpose(inner), Session(restricted.engine) as session:
            assert session.get(Booking, 1) is None, (outer, inner)


def test_no_field_is_written_for_a_duty(restricted: FilledClub) -> None:
    with restricted.privacy.duty("tax"), Session(restricted.engine) as session:
        with pytest.raises(PurposeError, match="under the duty tax"):
            session.execute(update(Booking).where(Booking.id == 2).values(note="changed"))
        session.get_one(Booking, 2).note = "changed"
        with pytest.raises(PurposeError, match="under the duty tax"):
            session.flush()
    with (
        restricted.privacy.purpose("visit"),
        restricted.privacy.duty("tax"),
        Session(restricted.engine) as session,
        pytest.raises(PurposeError, match="under the duty tax"),
    ):
        session.execute(update(Booking).where(Booking.id == 2).values(note="changed"))


def test_a_duty_is_entered_alone_and_by_its_name(restricted: FilledClub) -> None:
    with pytest.raises(PurposeError, match="together"):
        restricted.privacy.purpose("visit", "duty tax")
    with pytest.raises(PolicyError) as unknown:
        restricted.privacy.duty("taxes")
    assert ("tax",) == unknown.value.data["nearest"]
    with pytest.raises(PolicyError):
        restricted.privacy.purpose("duty taxes")


def test_a_loaded_value_ends_with_the_duty_s_block(restricted: FilledClub) -> None:
    with Session(restricted.engine) as session:
        with restricted.privacy.duty("tax"):
            booking = session.get_one(Booking, 1)
            assert "window seat" == booking.note
        with pytest.raises(PurposeError):
            _ = booking.note


def test_an_explanation_names_the_duty_its_beginning_and_the_run_that_waits_for_it(restricted: FilledClub) -> None:
    found = restricted.privacy.explain(restricted.engine, "bookings", 1)
    note = next(part for part in found.fields if part.name == "bookings.note")
    since, until = datetime(2026, 2, 11, tzinfo=UTC), datetime(2027, 1, 12, tzinfo=UTC)
    assert ("restrict", "duty tax", since, until, until) == (
        note.status.value,
        note.rule,
        note.since,
        note.until,
        note.goes,
    )
    assert "visit: P1M after ended; ended 2026-01-11 00:00:00 UTC, ends 2026-02-11 00:00:00 UTC" in found.text()
    assert not any(value in found.text() for value in ("window seat", "Leeds"))
    hold = restricted.privacy.hold(
        restricted.engine, reason="claim of Ada", by="legal", table="bookings", until=datetime(2028, 1, 1, tzinfo=UTC)
    )
    held = restricted.privacy.explain(restricted.engine, Booking, 1)
    assert ((hold, datetime(2028, 1, 1, tzinfo=UTC)),) == held.holds
    assert {datetime(2028, 1, 1, tzinfo=UTC)} == {part.goes for part in held.fields}
    assert "Ada" not in held.text()


def test_a_duty_rests_on_no_consent(restricted: FilledClub) -> None:
    assert "allowed" == restricted.privacy.policy.children_under("duty tax")
    assert "consent" == restricted.privacy.policy.children_under("visit")

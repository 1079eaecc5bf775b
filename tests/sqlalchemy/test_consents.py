"""A child's rows are seen for a purpose while a guardian's consent to it stands, and not a moment longer."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from threading import Event
from typing import Any

import pytest
from sqlalchemy import event, func, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, aliased
from sqlalchemy.orm.exc import ObjectDeletedError

from privkit import GeoPoint
from privkit.errors import (
    ConsentRequired,
    InvalidValue,
    KeyringError,
    MappingError,
    PlanError,
    PolicyError,
    PurposeError,
    SealedError,
)
from privkit.sqlalchemy import consents, ledger
from privkit.sqlalchemy.consents import ConsentLedger
from tests.databases import raw_rows
from tests.sqlalchemy.rides import SIGN_UP, UNTIL, Clock, Rider, RideService, Trip, rider

CHILD, ADULT, UNKNOWN = 1, 2, 3
GUARDIAN = "Augusta Byron, g-17"


@pytest.fixture
def service(service: RideService) -> RideService:
    """A child of ten, an adult and somebody of unknown age, each with a trip; all three signed up as adults."""
    service.sign_up(rider(CHILD), rider(ADULT), rider(UNKNOWN))
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        session.get_one(Rider, CHILD).born = date(2015, 5, 5)
        session.get_one(Rider, UNKNOWN).born = None
        session.commit()
    return service


def subject(service: RideService, number: int, session: Session) -> Rider:
    with service.privacy.purpose("age_check"):
        return session.get_one(Rider, number)


def grant(service: RideService, number: int, *names: str, session: Session | None = None, **options: Any) -> None:
    given = {"purposes": set(names), "guardian": GUARDIAN, "method": "signed_form"} | options
    with Session(service.engine) as own:
        ConsentLedger(service.guard).grant(session or own, subject=subject(service, number, session or own), **given)
        own.commit()


def withdraw(service: RideService, number: int, *names: str, session: Session | None = None, **options: Any) -> None:
    with Session(service.engine) as own:
        found = subject(service, number, session or own)
        ConsentLedger(service.guard).withdraw(session or own, subject=found, purposes=set(names), **options)
        own.commit()


def seen(service: RideService, *names: str, session: Session | None = None) -> set[int]:
    """The riders that a purpose sees. Counting, joining, aliases and owned rows have to agree."""
    with service.privacy.purpose(*names), Session(service.engine) as own:
        use = session or own
        found = set(use.scalars(select(Rider.id)))
        other = aliased(Rider)
        assert len(found) == use.scalar(select(func.count()).select_from(Rider))
        assert found == {each.id for each in use.scalars(select(Rider))}
        assert found == set(use.scalars(select(other.id)))
        assert found == set(use.scalars(select(Rider.id).join(Rider.trips)))
        assert found == set(use.scalars(select(Trip.rider_id)))
        assert found == set(use.scalars(select(Trip.rider_id).join(Trip.rider)))
        assert found == {number for number in (CHILD, ADULT, UNKNOWN) if use.get(Rider, number) is not None}
        return found


def key_of(service: RideService, number: int) -> bytes:
    table = Rider.__table__
    with service.engine.connect() as connection:
        return bytes(connection.execute(select(table.c.privkit_key).where(table.c.id == number)).scalar_one())


def state(service: RideService, number: int, purpose: str) -> str | None:
    with service.engine.connect() as connection:
        return consents.state(connection, service.guard, key_of(service, number), purpose)


def evidence(service: RideService) -> list[tuple[str, dict[str, Any]]]:
    with service.engine.connect() as connection:
        return [(entry.kind, json.loads(entry.body)) for entry in ledger.entries(connection, service.guard)]


# What is seen.


def test_without_consent_only_the_adult_is_seen(service: RideService) -> None:
    assert {ADULT} == seen(service, "pickup", "navigation")


def test_a_purpose_that_needs_no_consent_sees_everybody(service: RideService) -> None:
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        assert {CHILD, ADULT, UNKNOWN} == set(session.scalars(select(Rider.id)))


def test_consent_shows_the_child_here_and_in_another_session(service: RideService) -> None:
    with Session(service.engine) as session:
        assert {ADULT} == seen(service, "pickup", session=session)
        grant(service, CHILD, "pickup", session=session)
        assert {CHILD, ADULT} == seen(service, "pickup", session=session)
        session.commit()
        assert {CHILD, ADULT} == seen(service, "pickup", session=session)
    assert {CHILD, ADULT} == seen(service, "pickup")


def test_withdrawal_hides_the_child_here_and_in_another_session(service: RideService) -> None:
    grant(service, CHILD, "pickup")
    with Session(service.engine) as session:
        assert {CHILD, ADULT} == seen(service, "pickup", session=session)
        withdraw(service, CHILD, "pickup", session=session)
        with service.privacy.purpose("pickup"):
            assert {ADULT} == set(session.scalars(select(Rider.id)))
            assert {ADULT} == set(session.scalars(select(Trip.rider_id)))
        session.commit()
        assert {ADULT} == seen(service, "pickup", session=session)
    assert {ADULT} == seen(service, "pickup")


def test_a_place_loaded_before_the_withdrawal_is_forgotten(service: RideService) -> None:
    grant(service, CHILD, "pickup")
    with Session(service.engine) as session:
        service.privacy.consent.switch_on(session, subject=subject(service, CHILD, session), purposes={"pickup"})
        session.commit()
    with service.privacy.purpose("pickup"), Session(service.engine, expire_on_commit=False) as session:
        child, trip = session.get_one(Rider, CHILD), Trip(start=GeoPoint(1, 1))
        assert 51.5 == child.home.lat  # type: ignore[union-attr]
        ConsentLedger(service.guard).withdraw(session, subject=child, purposes={"pickup"})
        assert "home" not in inspect(child).dict
        assert GeoPoint(1, 1) == trip.start
        assert "GB" == child.country


def test_a_place_loaded_before_the_withdrawal_is_not_loaded_again(service: RideService) -> None:
    grant(service, CHILD, "pickup")
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        child = session.get_one(Rider, CHILD)
        withdraw(service, CHILD, "pickup")
        session.commit()
        with pytest.raises((PurposeError, ObjectDeletedError)):
            _ = child.home


def test_somebody_of_unknown_age_needs_consent_too(service: RideService) -> None:
    grant(service, UNKNOWN, "pickup")
    assert {ADULT, UNKNOWN} == seen(service, "pickup")


def test_consent_is_for_the_purposes_it_names_and_no_others(service: RideService) -> None:
    grant(service, CHILD, "pickup", "navigation")
    assert {CHILD, ADULT} == seen(service, "pickup", "navigation")
    assert {ADULT} == seen(service, "account")
    assert {ADULT} == seen(service, "pickup", "account")
    withdraw(service, CHILD, "navigation")
    assert {ADULT} == seen(service, "pickup", "navigation")
    assert {CHILD, ADULT} == seen(service, "pickup")


def test_consent_for_one_child_is_not_for_another(service: RideService) -> None:
    service.sign_up(rider(4, born=date(2015, 5, 5), home=None, trips=[]))
    grant(service, 4, "pickup")
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        assert {ADULT, 4} == set(session.scalars(select(Rider.id)))


def test_the_latest_event_counts_although_the_clock_goes_backwards(service: RideService, clock: Clock) -> None:
    for expected in ({CHILD, ADULT}, {ADULT}, {CHILD, ADULT}, {ADULT}):
        clock.now -= timedelta(minutes=1)
        (grant if CHILD in expected else withdraw)(service, CHILD, "pickup")
        assert expected == seen(service, "pickup")


def test_consent_no_longer_matters_once_the_child_is_of_age_everywhere(service: RideService, clock: Clock) -> None:
    """Born on 5 May 2015 in Great Britain, where 13 is the age: the birthday begins last at UTC-12."""
    service.sign_up(rider(4, born=date(2015, 5, 5), home=None, trips=[]))
    withdraw(service, 4, "pickup")
    for moment, expected in [("11:59", {ADULT}), ("12:00", {ADULT, CHILD, 4})]:
        clock.now = datetime.fromisoformat(f"2028-05-05T{moment}Z")
        with service.privacy.purpose("pickup"), Session(service.engine) as session:
            assert expected == set(session.scalars(select(Rider.id)))


def test_consent_that_rolls_back_was_never_given(service: RideService) -> None:
    with Session(service.engine) as session:
        grant(service, CHILD, "pickup", session=session)
        session.rollback()
    assert {ADULT} == seen(service, "pickup")
    assert [] == evidence(service)


def test_a_child_can_be_added_and_consented_to_in_one_transaction(service: RideService) -> None:
    with service.privacy.purpose("account", "pickup", "age_check"), Session(service.engine) as session:
        child = rider(9, born=date(2015, 5, 5), home=None, trips=[])
        session.add(child)
        ConsentLedger(service.guard).grant(
            session, subject=child, purposes={"pickup"}, guardian=GUARDIAN, method="signed_form"
        )
        session.commit()
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        assert {ADULT, 4} == set(session.scalars(select(Rider.id)))


# What is recorded.


def test_state_says_given_withdrawn_or_nothing(service: RideService) -> None:
    assert state(service, CHILD, "pickup") is None
    grant(service, CHILD, "pickup")
    assert "given" == state(service, CHILD, "pickup")
    withdraw(service, CHILD, "pickup")
    assert "withdrawn" == state(service, CHILD, "pickup")
    assert state(service, CHILD, "account") is None
    assert state(service, UNKNOWN, "pickup") is None
    with pytest.raises(PolicyError):
        state(service, CHILD, "pickups")


def test_each_event_is_a_row_of_its_own_that_stays(service: RideService, database_url: str) -> None:
    grant(service, CHILD, "pickup", "account", notice="2026-01")
    withdraw(service, CHILD, "pickup", guardian=GUARDIAN)
    rows = raw_rows(database_url, "SELECT seq, purpose, event, method, notice FROM privkit_consent ORDER BY seq")
    assert [
        (1, "account", "given", "signed_form", "2026-01"),
        (2, "pickup", "given", "signed_form", "2026-01"),
        (3, "pickup", "withdrawn", None, None),
    ] == rows


def test_the_guardian_is_a_token_that_can_be_confirmed(service: RideService, database_url: str) -> None:
    grant(service, CHILD, "pickup")
    grant(service, UNKNOWN, "pickup", guardian="somebody else")
    withdraw(service, CHILD, "pickup", guardian=GUARDIAN.upper())
    withdraw(service, UNKNOWN, "pickup")
    tokens = [row[0] for row in raw_rows(database_url, "SELECT guardian FROM privkit_consent ORDER BY seq")]
    assert tokens[0] == tokens[2]
    assert tokens[0] != tokens[1]
    assert tokens[3] is None
    assert [token and bytes(token).hex() for token in tokens] == [body["guardian"] for _, body in evidence(service)]


def test_the_ledger_has_a_line_for_each_call_and_nobody_in_it(service: RideService, database_url: str) -> None:
    grant(service, CHILD, "pickup", "account")
    withdraw(service, CHILD, "pickup")
    (given, first), (withdrawn, second) = evidence(service)
    assert ("consent_given", "consent_withdrawn") == (given, withdrawn)
    assert (["account", "pickup"], "signed_form", [1, 2]) == (first["purposes"], first["method"], first["rows"])
    assert (["pickup"], None, None, [3]) == (second["purposes"], second["method"], second["guardian"], second["rows"])
    stored = str(raw_rows(database_url, "SELECT body FROM privkit_ledger"))
    for planted in (GUARDIAN, "Augusta", "g-17"):
        assert planted not in stored
    assert key_of(service, CHILD).hex() not in str(first)
    assert key_of(service, CHILD).hex() == second["subject"]  # a restored backup has to be told again


def test_the_newest_row_is_the_last_to_commit_when_two_write_at_once(service: RideService) -> None:
    """On PostgreSQL a number is given out when a row is written, so writers have to take turns until they commit."""
    key, begun = key_of(service, CHILD), Event()

    def withdraw_all() -> None:
        with service.engine.begin() as connection:
            consents.withdraw(connection, service.guard, key, {"account", "navigation", "pickup", "receipts"})

    with ThreadPoolExecutor(1) as pool:
        with service.engine.begin() as connection:
            consents.grant(connection, service.guard, key, {"account"}, GUARDIAN, "signed_form")
            event.listen(service.engine, "before_cursor_execute", lambda *_: begun.set())
            second = pool.submit(withdraw_all)
            assert begun.wait(timeout=30)
            for _ in range(20):
                consents.grant(connection, service.guard, key, {"pickup"}, GUARDIAN, "signed_form")
        second.result()
    assert list(range(1, 26)) == [number for _, body in evidence(service) for number in body["rows"]]
    assert "withdrawn" == state(service, CHILD, "pickup")


def test_many_writers_leave_one_order(service: RideService) -> None:
    key = key_of(service, CHILD)

    def work(given: bool) -> None:
        for _ in range(20):
            with service.engine.begin() as connection:
                if given:
                    consents.grant(connection, service.guard, key, {"pickup", "account"}, GUARDIAN, "signed_form")
                else:
                    consents.withdraw(connection, service.guard, key, {"pickup", "account"})

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, given) for given in (True, False)]:
            done.result()
    lines = evidence(service)
    assert list(range(1, 81)) == [number for _, body in lines for number in body["rows"]]
    assert state(service, CHILD, "pickup") == "withdrawn"  # all at one instant: a tie is a withdrawal


# What is refused.


def test_an_unknown_purpose_is_refused_with_the_nearest(service: RideService) -> None:
    for call in (grant, withdraw):
        with pytest.raises(PolicyError) as refusal:
            call(service, CHILD, "pickup", "acount")
        assert "account" in str(refusal.value)
    assert [] == evidence(service)


def test_an_unlisted_method_is_refused_with_the_list(service: RideService) -> None:
    with pytest.raises(InvalidValue) as refusal:
        grant(service, CHILD, "pickup", method="phoned Augusta")
    assert "Augusta" not in str(refusal.value)
    assert "signed_form" in refusal.value.fix
    assert list(service.privacy.policy.verification_methods) == refusal.value.data["allowed"]


@pytest.mark.parametrize("options", [{"guardian": ""}, {"guardian": "  "}, {"guardian": None}, {"purposes": set()}])
def test_consent_by_nobody_or_for_nothing_is_refused(service: RideService, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        grant(service, CHILD, "pickup", **options)
    assert [] == evidence(service)


def test_one_purpose_may_be_given_as_text(service: RideService) -> None:
    grant(service, CHILD, purposes="pickup")
    assert "given" == state(service, CHILD, "pickup")


def test_what_is_no_data_subject_cannot_be_consented_for(service: RideService) -> None:
    given: dict[str, Any] = {"purposes": {"pickup"}, "guardian": GUARDIAN, "method": "signed_form"}
    with Session(service.engine) as session:
        for wrong in (Trip(start=GeoPoint(1, 1)), object(), Rider, 7):
            with pytest.raises(MappingError):
                ConsentLedger(service.guard).grant(session, subject=wrong, **given)


def test_a_data_subject_without_a_row_cannot_be_consented_for(service: RideService) -> None:
    given: dict[str, Any] = {"purposes": {"pickup"}, "guardian": GUARDIAN, "method": "signed_form"}
    with Session(service.engine) as session:
        with pytest.raises(InvalidValue):
            ConsentLedger(service.guard).grant(session, subject=rider(9), **given)
        gone = subject(service, CHILD, session)
    with Session(service.engine) as session:
        session.execute(Trip.__table__.delete())  # type: ignore[attr-defined]
        session.execute(Rider.__table__.delete())  # type: ignore[attr-defined]
        with pytest.raises(InvalidValue) as refusal:
            ConsentLedger(service.guard).grant(session, subject=gone, **given)
    assert "rider1" not in str(refusal.value)


def test_a_row_without_a_key_cannot_be_consented_for(service: RideService, database_url: str) -> None:
    raw_rows(database_url, "UPDATE riders SET privkit_key = NULL WHERE id = 1")
    with pytest.raises(SealedError):
        grant(service, CHILD, "pickup")


async def test_asyncio_sessions_are_told_how(service: RideService, async_database_url: str) -> None:
    engine = create_async_engine(async_database_url)
    service.privacy.protect(engine)
    given: dict[str, Any] = {"purposes": {"pickup"}, "guardian": GUARDIAN, "method": "signed_form"}
    async with AsyncSession(engine) as session:
        with service.privacy.purpose("age_check"):
            child = await session.get_one(Rider, CHILD)
        with pytest.raises(InvalidValue) as refusal:
            ConsentLedger(service.guard).grant(session, subject=child, **given)  # type: ignore[arg-type]
        assert "run_sync" in refusal.value.fix
        await session.run_sync(lambda sync: ConsentLedger(service.guard).grant(sync, subject=child, **given))
        await session.commit()
    await engine.dispose()
    assert {CHILD, ADULT} == seen(service, "pickup")


def test_a_withdrawal_through_a_connection_takes_effect(service: RideService) -> None:
    grant(service, CHILD, "pickup")
    with service.engine.begin() as connection:
        consents.withdraw(connection, service.guard, key_of(service, CHILD), ["pickup"])
    assert {ADULT} == seen(service, "pickup")


def test_e21_privkit_s_own_refusals_show_names_and_counts_and_never_a_value(service: RideService, clock: Clock) -> None:
    child = rider(1, born=date(2018, 1, 2), email="planted@mail.example", name="Planted Name")
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        session.add(child)
        with pytest.raises(ConsentRequired) as denied:
            session.commit()
    clock.now += timedelta(days=1)
    plan = service.privacy.plan(service.engine)
    clock.now -= timedelta(days=1)
    with pytest.raises(PlanError) as stale:
        service.privacy.purge(service.engine, plan)
    with pytest.raises(InvalidValue) as unheld:
        service.privacy.hold(
            service.engine, reason="Planted Name", by="planted@mail.example", table="Planted Name", until=UNTIL
        )
    with pytest.raises(KeyringError) as unrolled:
        service.privacy.reseal(service.engine, subject=b"planted planted.")

    for refused in (denied, stale, unheld, unrolled):
        shown = f"{refused.value!s} {refused.value!r} {refused.value.data!r}"
        assert [] == [planted for planted in ("lanted", "2018") if planted in shown]


@pytest.mark.parametrize(("country", "fits"), [("IN", True), ("in", True), ("GB", False), ("??", False)])
def test_a_way_to_verify_that_one_country_accepts_is_refused_elsewhere(
    service: RideService, country: str, fits: bool
) -> None:
    """A digital locker token is India's."""
    with Session(service.engine) as session:
        session.get_one(Rider, CHILD).country = country
        session.commit()
    if fits:
        grant(service, CHILD, "account", method="digital_locker_token")
        assert "given" == state(service, CHILD, "account")
        return
    with pytest.raises(InvalidValue, match="IN only"):
        grant(service, CHILD, "account", method="digital_locker_token")
    assert state(service, CHILD, "account") is None

"""Epochs: a bucket of time has its own key, and destroying that key ends every value in it at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, update
from sqlalchemy.orm import Session

from privkit import GeoPoint, LedgerFile
from privkit.crypto import parse
from privkit.errors import InvalidValue, MappingError, PolicyError, SealedError, ShreddedError, StatementRefused
from privkit.location import cell
from privkit.purposes import internally
from privkit.sqlalchemy import shred
from tests.databases import raw_rows
from tests.sqlalchemy.restored import backup
from tests.sqlalchemy.rides import UNTIL, Clock, RideService
from tests.sqlalchemy.tracks import PLACE, POLICY, SPOT, START, Position, track_service

DAY = timedelta(days=1)


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def tracks(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[RideService]:
    found = track_service(database_url, tmp_path, clock)
    yield found
    found.engine.dispose()


def record(tracks: RideService, *moments: datetime, carrier: int = 1) -> None:
    with tracks.privacy.purpose("dispatch"), Session(tracks.engine) as session:
        session.add_all([Position(carrier_id=carrier, spot=SPOT, recorded_at=moment) for moment in moments])
        session.commit()


def numbers(tracks: RideService, column: str = "spot") -> list[int]:
    found = raw_rows(str_url(tracks), f"SELECT {column} FROM positions WHERE {column} IS NOT NULL ORDER BY id")
    return [parse(bytes(value)).epoch for (value,) in found]


def number_of_day(moment: datetime) -> int:
    return 1 + 24 * ((moment - datetime(1970, 1, 1, tzinfo=UTC)) // DAY)


def str_url(tracks: RideService) -> str:
    return tracks.engine.url.render_as_string(hide_password=False)


def epoch_rows(tracks: RideService) -> list[tuple[Any, ...]]:
    return raw_rows(str_url(tracks), "SELECT field, number, wrapped IS NULL FROM privkit_epoch ORDER BY field, number")


def spots(tracks: RideService) -> list[GeoPoint | None]:
    with tracks.privacy.purpose("dispatch"), Session(tracks.engine) as session:
        return list(session.scalars(select(Position.spot).order_by(Position.id)))


def test_values_of_one_bucket_are_under_one_epoch_and_open_again(tracks: RideService) -> None:
    first = START - 2 * DAY
    record(tracks, first, first + timedelta(hours=1), START)

    one, two, three = numbers(tracks)

    assert (one, one, one + 48) == (one, two, three)
    assert [SPOT] * 3 == spots(tracks)
    assert [("positions.spot", one, False), ("positions.spot", three, False)] == [
        (field, number, bool(gone)) for field, number, gone in epoch_rows(tracks)
    ]


def test_another_process_opens_them_with_one_query_for_the_page(
    tracks: RideService, tmp_path: Path, clock: Clock
) -> None:
    record(tracks, *(START - hours * timedelta(hours=12) for hours in range(40)))
    other = track_service(str_url(tracks), tmp_path, clock)
    asked: list[str] = []
    event.listen(other.engine, "before_cursor_execute", lambda conn, cursor, statement, *rest: asked.append(statement))

    assert [SPOT] * 40 == spots(other)
    assert 1 == sum("privkit_epoch" in statement for statement in asked)
    other.engine.dispose()


def test_a_default_in_python_gives_the_event_time(tracks: RideService) -> None:
    with tracks.privacy.purpose("dispatch"), tracks.engine.begin() as connection:
        connection.execute(insert(Position), [{"carrier_id": 1, "spot": SPOT}])

    assert [number_of_day(START)] == numbers(tracks)


def test_a_row_that_does_not_say_when_is_refused(tracks: RideService) -> None:
    with (
        tracks.privacy.purpose("planning"),
        tracks.engine.begin() as connection,
        pytest.raises(StatementRefused, match=r"positions\.place is sealed in epochs of 'noted'"),
    ):
        connection.execute(insert(Position), [{"carrier_id": 1, "place": PLACE}])


def test_a_time_before_1970_is_refused(tracks: RideService) -> None:
    with pytest.raises(InvalidValue, match="before 1970"):
        record(tracks, datetime(1969, 12, 31, 23, 59))


def test_a_row_without_a_value_needs_no_epoch(tracks: RideService) -> None:
    with tracks.privacy.purpose("dispatch"), tracks.engine.begin() as connection:
        connection.execute(insert(Position), [{"carrier_id": 1, "spot": None, "recorded_at": None}])

    assert [] == epoch_rows(tracks)


def test_an_update_seals_in_the_epoch_of_the_stored_time(tracks: RideService) -> None:
    record(tracks, START - 5 * DAY)
    before = numbers(tracks)
    with tracks.privacy.purpose("dispatch"), Session(tracks.engine) as session:
        session.get_one(Position, 1).spot = PLACE
        session.commit()

    assert before == numbers(tracks)
    assert [PLACE] == spots(tracks)


def test_an_update_over_several_epochs_is_refused(tracks: RideService) -> None:
    record(tracks, START, START - DAY)
    with (
        tracks.privacy.purpose("dispatch"),
        tracks.engine.begin() as connection,
        pytest.raises(StatementRefused, match="an epoch that is not their row's"),
    ):
        connection.execute(update(Position).where(Position.carrier_id == 1).values(spot=PLACE))


def test_an_update_over_one_epoch_works(tracks: RideService) -> None:
    record(tracks, START, START - timedelta(hours=1))
    with tracks.privacy.purpose("dispatch"), tracks.engine.begin() as connection:
        connection.execute(update(Position).where(Position.carrier_id == 1).values(spot=PLACE))

    assert [PLACE] * 2 == spots(tracks)


def test_moving_the_event_into_another_epoch_needs_the_value(tracks: RideService) -> None:
    record(tracks, START)
    with tracks.privacy.purpose("dispatch"), Session(tracks.engine) as session:
        row = session.get_one(Position, 1)
        row.recorded_at = (START - 3 * DAY).replace(tzinfo=None)
        with pytest.raises(StatementRefused, match="Set spot and recorded_at in the same UPDATE"):
            session.commit()
        session.rollback()
        row.recorded_at, row.spot = (START - 3 * DAY).replace(tzinfo=None), PLACE
        session.commit()

    assert [number_of_day(START - 3 * DAY)] == numbers(tracks)
    assert [PLACE] == spots(tracks)


def test_moving_the_event_within_its_epoch_needs_nothing(tracks: RideService) -> None:
    record(tracks, START)
    with tracks.privacy.purpose("dispatch"), Session(tracks.engine) as session:
        session.get_one(Position, 1).recorded_at = (START + timedelta(hours=2)).replace(tzinfo=None)
        session.commit()

    assert [SPOT] == spots(tracks)


def test_an_epoch_created_in_a_transaction_that_was_rolled_back_is_created_anew(tracks: RideService) -> None:
    with tracks.privacy.purpose("dispatch"), Session(tracks.engine) as session:
        session.add(Position(carrier_id=1, spot=SPOT, recorded_at=START))
        session.flush()
        session.rollback()
        session.add(Position(carrier_id=1, spot=PLACE, recorded_at=START))
        session.commit()
    tracks.guard.keys.clear()

    assert [PLACE] == spots(tracks)


def test_two_writers_of_one_new_epoch_agree_on_its_key(tracks: RideService, tmp_path: Path, clock: Clock) -> None:
    others = [track_service(str_url(tracks), tmp_path, clock) for _ in range(4)]
    together, failed = Barrier(len(others)), []

    def write(service: RideService) -> None:
        try:
            together.wait(10)
            record(service, START)
        except Exception as error:
            failed.append(type(error).__name__)

    threads = [Thread(target=write, args=(service,)) for service in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for service in others:
        service.engine.dispose()

    assert [] == failed
    assert 1 == len(epoch_rows(tracks))
    tracks.guard.keys.clear()
    assert [SPOT] * 4 == spots(tracks)


def test_a_purge_destroys_the_epochs_that_are_over_and_no_other(tracks: RideService, clock: Clock) -> None:
    record(tracks, START, START + 10 * DAY)
    clock.now = START + 32 * DAY
    plan = tracks.privacy.plan(tracks.engine)

    run = tracks.privacy.purge(tracks.engine, plan)

    steps = {step.name: step.due for step in plan.steps}
    assert (1, 1) == (steps["privkit_epoch.positions.spot"], steps["positions.spot"])
    assert (True, 2, 0) == (run.ok, run.done, run.overdue)
    assert [True, False] == [bool(gone) for *_, gone in epoch_rows(tracks)]
    assert [None, SPOT] == spots(tracks)


def test_the_key_goes_before_the_values_so_that_every_copy_ends_at_once(tracks: RideService, clock: Clock) -> None:
    clock.now = START + 90 * DAY
    names = [step.name for step in tracks.privacy.plan(tracks.engine).steps]

    assert names.index("privkit_epoch.positions.spot") < names.index("positions.spot")
    assert names.index("positions.place") < names.index("privkit_epoch.positions.place")


def test_an_epoch_is_over_only_when_its_last_value_is(tracks: RideService, clock: Clock) -> None:
    record(tracks, START.replace(hour=0))
    clock.now = START.replace(hour=23) + 30 * DAY

    assert {"privkit_epoch.positions.spot": 0, "positions.spot": 1} == {
        step.name: step.due for step in tracks.privacy.plan(tracks.engine).steps if step.name.endswith(".spot")
    }


@pytest.mark.parametrize(("before", "after"), [("P1D", "P7D"), ("P7D", "P1D"), ("P1D", "PT6H")])
def test_a_changed_width_destroys_nothing_too_early_and_leaves_nothing_behind(
    tracks: RideService, tmp_path: Path, clock: Clock, before: str, after: str
) -> None:
    moments = [START + DAY * day for day in range(8)]
    for width in (before, after):
        service = track_service(str_url(tracks), tmp_path, clock, POLICY.replace("epoch: P1D", f"epoch: {width}"))
        record(service, *moments)
        service.engine.dispose()
    clock.now = moments[-1] + 30 * DAY - timedelta(seconds=1)
    service.privacy.purge(service.engine, service.privacy.plan(service.engine))
    assert [SPOT, SPOT] == [spot for spot in spots(service) if spot is not None]

    clock.now = moments[-1] + 38 * DAY
    assert service.privacy.purge(service.engine, service.privacy.plan(service.engine)).ok
    assert {True} == {bool(gone) for *_, gone in epoch_rows(service)}
    service.engine.dispose()


def test_an_epoch_of_another_event_is_never_over_and_nothing_is_sealed_in_it(
    tracks: RideService, tmp_path: Path, clock: Clock
) -> None:
    with tracks.privacy.purpose("dispatch"), Session(tracks.engine) as session:
        session.add(Position(carrier_id=1, spot=SPOT, recorded_at=START - 29 * DAY, noted_at=START))
        session.commit()
    clock.now = START + 3 * DAY
    changed = POLICY.replace("after: recorded, epoch", "after: noted, epoch")
    later = track_service(str_url(tracks), tmp_path, clock, changed)
    assert later.privacy.purge(later.engine, later.privacy.plan(later.engine)).ok
    assert [SPOT] == spots(later)
    with later.privacy.purpose("dispatch"), Session(later.engine) as session:
        session.add(Position(carrier_id=1, spot=SPOT, noted_at=START - 29 * DAY))
        with pytest.raises(MappingError, match="formerly"):
            session.commit()
    later.engine.dispose()


def test_a_residue_is_made_by_a_process_that_has_no_key_in_memory(tracks: RideService, clock: Clock) -> None:
    with tracks.privacy.purpose("planning"), Session(tracks.engine) as session:
        session.add(Position(carrier_id=1, place=PLACE, noted_at=START))
        session.commit()
    tracks.guard.keys.clear()
    clock.now = START + 90 * DAY
    assert tracks.privacy.purge(tracks.engine, tracks.privacy.plan(tracks.engine)).ok
    assert [(str(cell(PLACE, 5)),)] == raw_rows(str_url(tracks), "SELECT place_residue FROM positions")
    assert [True] == [bool(gone) for *_, gone in epoch_rows(tracks)]


def test_a_residue_is_made_before_the_epoch_goes(tracks: RideService, clock: Clock) -> None:
    with tracks.privacy.purpose("planning"), Session(tracks.engine) as session:
        session.add(Position(carrier_id=1, place=PLACE, noted_at=START))
        session.commit()
    clock.now = START + 90 * DAY

    run = tracks.privacy.purge(tracks.engine, tracks.privacy.plan(tracks.engine))

    ((residue,),) = raw_rows(str_url(tracks), "SELECT place_residue FROM positions")
    assert run.ok
    assert residue == str(cell(PLACE, 5))
    assert [True] == [bool(gone) for *_, gone in epoch_rows(tracks)]


def test_a_restored_row_of_a_destroyed_epoch_is_shredded(tracks: RideService, tmp_path: Path, clock: Clock) -> None:
    record(tracks, START)
    ((stored,),) = raw_rows(str_url(tracks), "SELECT spot FROM positions")
    clock.now = START + 40 * DAY
    tracks.privacy.purge(tracks.engine, tracks.privacy.plan(tracks.engine))
    literal = f"'\\x{bytes(stored).hex()}'" if "postgresql" in str_url(tracks) else f"x'{bytes(stored).hex()}'"
    raw_rows(str_url(tracks), f"UPDATE positions SET spot = {literal}")
    clock.now = START
    other = track_service(str_url(tracks), tmp_path, clock)

    for service in (tracks, other):
        with pytest.raises(ShreddedError, match=r"positions\.spot"):
            spots(service)
        with pytest.raises(ShreddedError, match="epoch"):
            record(service, START)
    other.engine.dispose()


def test_a_restored_backup_does_not_bring_a_purged_epoch_back(database_url: str, tmp_path: Path, clock: Clock) -> None:
    outside = LedgerFile(tmp_path / "ledger.jsonl")
    before = track_service(database_url, tmp_path, clock, outside=outside)
    record(before, START, START + 30 * DAY)
    before.engine.dispose()
    with backup(database_url) as restore:
        clock.now = START + 40 * DAY
        assert before.privacy.purge(before.engine, before.privacy.plan(before.engine)).ok
        before.engine.dispose()
        restore()
    assert 2 == len(numbers(before))
    before.engine.dispose()

    clock.now = START + 29 * DAY  # when the first value was not hidden yet
    again = track_service(database_url, tmp_path, clock, outside=outside)
    with pytest.raises(ShreddedError, match=r"positions\.spot"):
        spots(again)
    clock.now = START + 40 * DAY
    assert again.privacy.replay(again.engine).ok
    assert 1 == len(numbers(again))
    assert [None, SPOT] == spots(again)
    again.engine.dispose()


def test_a_value_moved_to_another_epoch_does_not_open(tracks: RideService) -> None:
    record(tracks, START, START - DAY)
    first, second = [bytes(value) for (value,) in raw_rows(str_url(tracks), "SELECT spot FROM positions ORDER BY id")]
    forged = first[:18] + second[18:22] + first[22:]
    literal = f"'\\x{forged.hex()}'" if "postgresql" in str_url(tracks) else f"x'{forged.hex()}'"
    raw_rows(str_url(tracks), f"UPDATE positions SET spot = {literal} WHERE id = 1")

    with pytest.raises(SealedError):
        spots(tracks)


@pytest.mark.parametrize("hold", ["subject", "table"])
def test_a_held_value_keeps_its_epoch_and_lets_the_others_go(tracks: RideService, clock: Clock, hold: str) -> None:
    record(tracks, START)
    record(tracks, START + DAY, carrier=2)
    ((key,),) = raw_rows(str_url(tracks), "SELECT privkit_key FROM carriers WHERE id = 1")
    reach = {"subject": bytes(key)} if hold == "subject" else {"table": "positions"}
    placed = tracks.privacy.hold(tracks.engine, reason="dispute", by="counsel", until=UNTIL, **reach)
    clock.now = START + 40 * DAY

    tracks.privacy.purge(tracks.engine, tracks.privacy.plan(tracks.engine))
    assert [False, hold == "subject"] == [bool(gone) for *_, gone in epoch_rows(tracks)]

    tracks.privacy.release(tracks.engine, placed, by="counsel")
    assert tracks.privacy.purge(tracks.engine, tracks.privacy.plan(tracks.engine)).ok
    assert [True, True] == [bool(gone) for *_, gone in epoch_rows(tracks)]


def test_a_naive_event_column_is_compared_in_utc_in_every_session_zone(tracks: RideService, clock: Clock) -> None:
    record(tracks, START.replace(hour=0), START.replace(hour=23))
    tracks.privacy.hold(tracks.engine, reason="dispute", by="counsel", until=UNTIL, table="positions")
    clock.now = START + 40 * DAY
    if "postgresql" in str_url(tracks):

        @event.listens_for(tracks.engine, "connect")
        def connect(dbapi_connection: Any, record: Any) -> None:
            dbapi_connection.execute("SET TIME ZONE 'Asia/Tokyo'")
            dbapi_connection.commit()

        tracks.engine.dispose()

    assert 0 == tracks.privacy.plan(tracks.engine).due


def test_the_work_of_destroying_epochs_does_not_grow_with_their_values(tracks: RideService) -> None:
    record(tracks, *[START] * 300)
    ((field, number, _),) = epoch_rows(tracks)
    asked: list[str] = []
    event.listen(tracks.engine, "before_cursor_execute", lambda conn, cursor, statement, *rest: asked.append(statement))
    with internally(), tracks.engine.begin() as connection:
        assert 1 == shred.destroy_epochs(connection, tracks.guard, [(field, number)])

    assert not any("FROM positions" in statement or "UPDATE positions" in statement for statement in asked)
    with pytest.raises(ShreddedError):
        spots(tracks)


@pytest.mark.parametrize("width", ["P1M", "PT10M", "PT90M"])
def test_an_epoch_without_a_fixed_width_is_refused(sqlite_url: str, tmp_path: Path, clock: Clock, width: str) -> None:
    with pytest.raises(PolicyError, match="fixed length of whole hours"):
        track_service(sqlite_url, tmp_path, clock, POLICY.replace("epoch: P1D", f"epoch: {width}"))


def test_the_count_of_rows_under_a_purpose_is_not_hindered(tracks: RideService) -> None:
    record(tracks, START, START)
    with tracks.privacy.purpose("dispatch"), Session(tracks.engine) as session:
        assert 2 == session.scalar(select(func.count()).select_from(Position))

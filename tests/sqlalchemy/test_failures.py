"""Keys, bytes, the process, the disk, the connection or the clock fail: nothing is lost, and nothing is plain."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.orm import Session

from privkit import FileKeyring, GeoPoint, Privacy
from privkit.crypto.master import LOOK_EVERY, MasterKeyring
from privkit.crypto.providers.storage import KeyringFile
from privkit.errors import KeyringError, SealedError
from privkit.purposes import internally
from tests.databases import raw_rows
from tests.sqlalchemy.rides import POLICY, SIGN_UP, Base, Clock, Rider, RideService, Trip, ride_service, rider
from tests.sqlalchemy.tracks import SPOT, START, Position, track_service

NEEDLES = [b"@rides.example", b"1990-01-15"]


def url_of(service: RideService) -> str:
    return service.engine.url.render_as_string(hide_password=False)


def emails(service: RideService) -> list[str]:
    with service.privacy.purpose("account"), Session(service.engine) as session:
        return list(session.scalars(select(Rider.email).order_by(Rider.id)))


def plain_values(service: RideService) -> list[bytes]:
    """Which planted values of sealed fields stand in the clear in the tables."""
    rows = raw_rows(url_of(service), "SELECT email, born, home FROM riders")
    stored = b"\n".join(bytes(value) for row in rows for value in row if value is not None)
    return [needle for needle in NEEDLES if needle in stored]


def orphans(service: RideService) -> int:
    """How many riders have no key."""
    query = (
        "SELECT count(*) FROM riders WHERE privkit_key NOT IN (SELECT id FROM privkit_key WHERE wrapped IS NOT NULL)"
    )
    return int(raw_rows(url_of(service), query)[0][0])


# Keys.


class Elapsed:
    """A clock of seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def elapsed() -> Elapsed:
    return Elapsed()


@pytest.fixture
def looking(database_url: str, tmp_path: Path, clock: Clock, elapsed: Elapsed) -> Iterator[RideService]:
    """A ride service whose keyring looks at its file again when the test says that time has passed."""
    FileKeyring.create(tmp_path / "keys.json")
    keys = MasterKeyring(KeyringFile(tmp_path / "keys.json"), monotonic=elapsed)
    engine = create_engine(database_url)
    found = RideService(Privacy(policy=POLICY, models=Base, keys=keys, clock=clock), engine, clock)
    found.privacy.protect(engine)
    Base.metadata.create_all(engine)
    yield found
    engine.dispose()


def test_a_keyring_file_that_goes_missing_stops_writes_and_comes_back_without_a_restart(
    looking: RideService, tmp_path: Path, elapsed: Elapsed
) -> None:
    looking.sign_up(rider(1))
    path = tmp_path / "keys.json"
    kept = path.rename(tmp_path / "away.json")
    elapsed.seconds += LOOK_EVERY
    with pytest.raises(KeyringError):
        looking.sign_up(rider(2))
    looking.guard.keys.clear()
    with pytest.raises(KeyringError):
        emails(looking)
    assert [(1,)] == raw_rows(url_of(looking), "SELECT count(*) FROM riders")
    kept.rename(path)
    looking.sign_up(rider(2))
    assert ["rider1@rides.example", "rider2@rides.example"] == emails(looking)
    assert 0 == orphans(looking)


def test_a_keyring_file_that_is_replaced_by_another_keyring_s_stops_writes(
    looking: RideService, tmp_path: Path, elapsed: Elapsed
) -> None:
    """What was written then would not open under the right keyring, nor be found."""
    looking.sign_up(rider(1))
    path, right = tmp_path / "keys.json", tmp_path / "right.json"
    shutil.copy(path, right)
    FileKeyring.create(tmp_path / "other.json")
    os.replace(tmp_path / "other.json", path)
    elapsed.seconds += LOOK_EVERY
    with pytest.raises(SealedError):
        looking.sign_up(rider(2))
    with looking.privacy.purpose("account"), Session(looking.engine) as session, pytest.raises(SealedError):
        session.scalars(select(Rider.id).where(Rider.email == "rider1@rides.example")).all()
    assert [(1,)] == raw_rows(url_of(looking), "SELECT count(*) FROM riders")
    os.replace(right, path)
    elapsed.seconds += LOOK_EVERY
    looking.sign_up(rider(2))
    assert 2 == len(emails(looking))


# Bytes.


def test_300_envelopes_that_were_changed_or_moved_in_the_database_do_not_open(service: RideService) -> None:
    random = Random(20260102)
    numbers = range(1, 7)
    service.sign_up(*(rider(number) for number in numbers))
    stored = {
        (number, column): bytes(value)
        for column in ("email", "home")
        for number, value in raw_rows(url_of(service), f"SELECT id, {column} FROM riders")
    }
    outcomes: Counter[str] = Counter()
    for _ in range(25):
        for column in ("email", "home"):
            _store(service, column, {each: _mutated(random, stored, (each, column)) for each in numbers})
            outcomes.update(_outcome(service, each, column) for each in numbers)
            _store(service, column, {each: stored[each, column] for each in numbers})
    assert {"SealedError": 300} == outcomes
    assert 6 == len(emails(service))


def _mutated(random: Random, stored: dict[tuple[int, str], bytes], place: tuple[int, str]) -> bytes:
    envelope = bytearray(stored[place])
    match random.randrange(5):
        case 0:
            envelope[random.randrange(1, len(envelope))] ^= 1 << random.randrange(8)
        case 1:
            return bytes(envelope[: random.randrange(50, len(envelope))])
        case 2:
            envelope += random.randbytes(random.randrange(1, 20))
        case 3:  # another data subject's, of the same field
            others = [key for key in stored if key[1] == place[1] and key[0] != place[0]]
            return stored[random.choice(others)]
        case _:  # the same data subject's, of another field, or another's
            return stored[random.choice([key for key in stored if key[1] != place[1]])]
    return bytes(envelope)


def _store(service: RideService, column: str, values: dict[int, bytes], *, table: str = "riders") -> None:
    """Write a column of several rows by id, past everything that would stop it."""
    literal = "x'{}'" if service.engine.name == "sqlite" else "CAST('\\x{}' AS bytea)"
    cases = " ".join(f"WHEN {number} THEN {literal.format(value.hex())}" for number, value in values.items())
    raw_rows(url_of(service), f"UPDATE {table} SET {column} = CASE id {cases} END")


def _outcome(service: RideService, number: int, column: str) -> str:
    purpose = "account" if column == "email" else "pickup"
    with service.privacy.purpose(purpose), Session(service.engine) as session:
        try:
            return repr(session.scalars(select(getattr(Rider, column)).where(Rider.id == number)).one())
        except SealedError as error:
            return type(error).__name__


def test_two_values_of_one_subject_in_one_field_can_be_swapped_by_whoever_writes_to_the_database(
    service: RideService,
) -> None:
    """The limit of the binding, which the README states: subject and field are bound, the row is not."""
    first, second = GeoPoint(51.5, 0.2), GeoPoint(52.5, 0.4)
    service.sign_up(rider(1, trips=[Trip(start=first), Trip(start=second)]))
    stored = dict(raw_rows(url_of(service), "SELECT id, start FROM trips"))
    swapped = zip(stored, reversed(stored), strict=True)
    _store(service, "start", {one: bytes(stored[other]) for one, other in swapped}, table="trips")
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        assert [second, first] == list(session.scalars(select(Trip.start).order_by(Trip.id)))


# The process.

WORKER = """
import sys, os
from pathlib import Path
from tests.sqlalchemy.rides import Clock, ride_service, rider
url, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
service = ride_service(url, folder, Clock())
print("ready", flush=True)
number = 0
while True:
    number += 1
    service.sign_up(*(rider(number, email=f"{name}-{number}-{each}@rides.example") for each in range(3)))
    print(number, flush=True)
"""


def started(service: RideService, folder: Path, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORKER, url_of(service), str(folder), name]
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join([str(root / "src"), str(root)])
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})


def test_processes_that_are_killed_while_they_write_leave_whole_transactions_that_open(
    service: RideService, tmp_path: Path
) -> None:
    if service.engine.name == "sqlite":
        raw_rows(url_of(service), "PRAGMA journal_mode=WAL")
    random = Random(7)
    workers = [started(service, tmp_path, name) for name in ("one", "two")]
    done = []
    for worker in workers:
        assert worker.stdout is not None
        assert "ready" == worker.stdout.readline().strip()
    for worker in workers:
        assert worker.stdout is not None
        done.append([worker.stdout.readline() for _ in range(random.randrange(3, 9))])
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()
    found = Counter(email.rsplit("-", 1)[0] for email in emails(service))
    assert {3} == set(found.values())
    assert len(found) >= sum(len(lines) for lines in done)
    assert (0, []) == (orphans(service), plain_values(service))
    service.sign_up(rider(1))
    assert 3 * len(found) + 1 == len(emails(service))


# The disk.


def test_a_full_disk_is_an_error_that_loses_nothing(sqlite_url: str, tmp_path: Path, clock: Clock) -> None:
    service = ride_service(sqlite_url, tmp_path, clock)
    service.sign_up(*(rider(number) for number in range(1, 4)))
    service.engine.dispose()
    limit: list[int] = [int(raw_rows(sqlite_url, "PRAGMA page_count")[0][0]) + 2]
    event.listen(service.engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count = {limit[0]}"))
    with pytest.raises(OperationalError, match="full") as caught:
        service.sign_up(*(rider(number) for number in range(4, 400)))
    assert "@rides.example" not in str(caught.value)
    assert 3 == len(emails(service))
    assert (0, []) == (orphans(service), plain_values(service))
    service.engine.dispose()
    limit[0] = 1_000_000
    service.sign_up(*(rider(number) for number in range(4, 400)))
    assert 399 == len(emails(service))
    service.engine.dispose()


# The connection.


def test_a_connection_that_is_lost_within_a_transaction_loses_that_transaction_only(
    pg_url: str, tmp_path: Path, clock: Clock
) -> None:
    service = ride_service(pg_url, tmp_path, clock)
    service.sign_up(rider(1))
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        lost = rider(2)
        session.add(lost)
        session.flush()
        number = session.connection().connection.dbapi_connection.info.backend_pid
        raw_rows(pg_url, f"SELECT pg_terminate_backend({number})")
        session.add(rider(3))
        with pytest.raises(DBAPIError) as caught:
            session.flush()
        assert caught.value.connection_invalidated
        assert "@rides.example" not in str(caught.value)
        session.rollback()
        assert "rider1@rides.example" == session.scalars(select(Rider.email)).one()
        session.add_all([lost, rider(3)])
        session.commit()
    assert 3 == len(emails(service))
    assert (0, []) == (orphans(service), plain_values(service))
    service.engine.dispose()


def test_a_statement_that_takes_too_long_is_an_error_that_loses_nothing(
    pg_url: str, tmp_path: Path, clock: Clock
) -> None:
    service = ride_service(pg_url, tmp_path, clock)
    service.sign_up(rider(1))
    blocker = create_engine(pg_url)
    with blocker.begin() as connection:
        connection.execute(text("LOCK TABLE riders IN SHARE MODE"))
        with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
            with internally():
                session.execute(text("SET LOCAL statement_timeout = 200"))
            session.add(rider(2))
            with pytest.raises(OperationalError) as caught:
                session.flush()
    assert "@rides.example" not in str(caught.value)
    service.sign_up(rider(2))
    assert 2 == len(emails(service))
    assert 0 == orphans(service)
    blocker.dispose()
    service.engine.dispose()


# Keys of transactions that were rolled back.


@pytest.mark.parametrize("savepoint", [False, True])
def test_a_key_whose_transaction_was_rolled_back_is_used_by_nobody_afterwards(
    service: RideService, savepoint: bool
) -> None:
    """It stays in memory for a while, by an id that no row names: its id is a hash of the key, drawn at random."""
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        lost = rider(1)
        begun = session.begin_nested() if savepoint else session
        session.add(lost)
        session.flush()
        used = {key.id for key in service.guard.keys.live.values()}
        begun.rollback()
        session.add(rider(1, id=lost.id))
        session.commit()
    stored = {bytes(key) for (key,) in raw_rows(url_of(service), "SELECT privkit_key FROM riders")}
    assert used
    assert set() == used & stored
    service.guard.keys.clear()
    assert ["rider1@rides.example"] == emails(service)
    assert 0 == orphans(service)


@pytest.mark.parametrize("savepoint", [False, True])
def test_an_epoch_s_key_that_was_rolled_back_here_does_not_hide_the_one_that_another_worker_committed(
    database_url: str, tmp_path: Path, savepoint: bool
) -> None:
    clock = Clock(START)
    one, other = (track_service(database_url, tmp_path, clock) for _ in range(2))
    with one.privacy.purpose("dispatch"), Session(one.engine) as session:
        session.add(position())
        session.flush()
        if savepoint:
            with suppress(ConnectionError), session.begin_nested():
                session.execute(select(Position.id))
                raise ConnectionError
            session.add(position())
            session.flush()
        session.rollback()
    assert [SPOT] == spots_after(one, other)


def test_an_epoch_s_key_of_a_commit_that_failed_does_not_hide_the_one_that_another_worker_committed(
    pg_url: str, tmp_path: Path
) -> None:
    clock = Clock(START)
    one, other = (track_service(pg_url, tmp_path, clock) for _ in range(2))
    raw_rows(pg_url, "CREATE TABLE late (id int REFERENCES carriers DEFERRABLE INITIALLY DEFERRED)")
    with one.privacy.purpose("dispatch"), Session(one.engine) as session:
        session.add(position())
        session.flush()
        session.connection().connection.cursor().execute("INSERT INTO late VALUES (99)")
        with pytest.raises(IntegrityError):
            session.commit()
    assert [SPOT] == spots_after(one, other)


def position() -> Position:
    return Position(carrier_id=1, spot=SPOT, recorded_at=START)


def spots_after(one: RideService, other: RideService) -> list[GeoPoint]:
    """What one worker reads once another has stored a position in the same epoch."""
    with other.privacy.purpose("dispatch"), Session(other.engine) as session:
        session.add(position())
        session.commit()
    with one.privacy.purpose("dispatch"), Session(one.engine) as session:
        found = list(session.scalars(select(Position.spot)))
    one.engine.dispose()
    other.engine.dispose()
    return found


# Two workers, and a clock that jumps.


def test_two_workers_write_at_once_and_each_reads_what_the_other_wrote(
    service: RideService, tmp_path: Path, clock: Clock
) -> None:
    other = ride_service(url_of(service), tmp_path, clock)

    def write(worker: RideService, name: str) -> None:
        for number in range(20):
            worker.sign_up(rider(number, email=f"{name}{number}@rides.example"))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (service, other), "ab"))
    assert emails(service) == emails(other)
    assert sorted(f"{name}{number}@rides.example" for name in "ab" for number in range(20)) == sorted(emails(service))
    other.engine.dispose()


def test_a_clock_that_jumps_hides_what_has_ended_and_destroys_nothing(service: RideService, clock: Clock) -> None:
    service.sign_up(rider(1, closed_at=datetime(2026, 1, 1)))
    now = clock.now
    seen = []
    for days in (0, 4000, 0, -4000, 0, 10, 4000, 0):
        clock.now = now + timedelta(days=days)
        seen.append(emails(service))
        service.guard.keys.drop_expired()
    clock.now = now
    assert [True, False, True, True, True, True, False, True] == ["rider1@rides.example" in each for each in seen]
    service.sign_up(rider(2))
    assert 0 == orphans(service)

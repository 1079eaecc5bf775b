"""Keys move from one master generation to the next, and what a roll destroyed opens nowhere."""

import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Column, DateTime, Integer, MetaData, String, Table, create_engine, event, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, registry

from privkit import FileKeyring, Personal, Privacy, data_subject, events, not_personal
from privkit.crypto import SubjectKey
from privkit.errors import KeyringError
from privkit.ledger import KINDS
from privkit.purposes import internally
from privkit.sqlalchemy import ledger, rewrap, wrapping
from privkit.sqlalchemy.scan import scan_envelopes
from privkit.sqlalchemy.shred import destroy_keys
from privkit.sqlalchemy.tables import KEY
from tests.databases import Server, raw_rows
from tests.meta import ROOT
from tests.sqlalchemy.rides import SIGN_UP, Clock, Rider, RideService, ride_service, rider


def generations_in_use(service: RideService) -> set[int]:
    url = service.engine.url.render_as_string(hide_password=False)
    stored = raw_rows(url, "SELECT wrapped FROM privkit_key WHERE wrapped IS NOT NULL")
    return {int.from_bytes(bytes(wrapped)[:4], "big") for (wrapped,) in stored}


def emails(service: RideService) -> list[str]:
    service.guard.keys.clear()
    with service.privacy.purpose("account"), Session(service.engine) as session:
        return list(session.scalars(select(Rider.email).order_by(Rider.id)))


def erase(service: RideService, number: int) -> bytes:
    with internally(), service.engine.begin() as connection:
        key_id = bytes(connection.execute(select(Rider.__table__.c.privkit_key).where(Rider.id == number)).scalar_one())
        destroy_keys(connection, service.guard, [key_id])
    return key_id


def wrapped_key(service: RideService, number: int) -> tuple[bytes, bytes]:
    url = service.engine.url.render_as_string(hide_password=False)
    query = f"SELECT k.id, k.wrapped FROM privkit_key k JOIN riders r ON r.privkit_key = k.id WHERE r.id = {number}"
    ((key_id, wrapped),) = raw_rows(url, query)
    return bytes(key_id), bytes(wrapped)


def lines(service: RideService, kind: str) -> list[str]:
    with service.engine.connect() as connection:
        return [each.body for each in ledger.entries(connection, service.guard) if each.kind == kind]


def test_rotating_puts_all_living_keys_under_a_new_generation_and_loses_none(service: RideService) -> None:
    service.sign_up(*(rider(number) for number in range(1, 8)))
    erase(service, 3)
    before = emails_of(service, without=3)
    made = service.privacy.rotate_keys(service.engine, batch=2)
    assert {2} == generations_in_use(service)
    assert (1, 2) == service.guard.keyring.generations
    key = next(each for each in made.databases[0].keys if each.table.endswith(KEY))
    assert (6, 1, 0, 6, 0) == (key.living, key.destroyed, key.left, key.rewrapped, key.failed)
    assert made.ok
    assert before == emails_of(service, without=3)
    assert 1 == len(lines(service, "keys_rotated"))


def emails_of(service: RideService, *, without: int) -> list[str]:
    service.guard.keys.clear()
    with service.privacy.purpose("account"), Session(service.engine) as session:
        return list(session.scalars(select(Rider.email).where(Rider.id != without).order_by(Rider.id)))


def test_rolling_destroys_the_generations_before_and_everything_living_still_opens(service: RideService) -> None:
    service.sign_up(rider(1), rider(2))
    for generation in (2, 3):
        made = service.privacy.roll_keys(service.engine)
        assert made.ok
        assert (generation,) == service.guard.keyring.generations
        assert (generation - 1,) == made.destroyed
        assert {generation} == generations_in_use(service)
    assert ["rider1@rides.example", "rider2@rides.example"] == emails(service)


def test_a_destroyed_key_opens_until_the_roll_and_never_after_it(service: RideService) -> None:
    service.sign_up(rider(1), rider(2))
    key_id, stolen = wrapped_key(service, 1)
    erase(service, 1)
    assert key_id == service.guard.keyring.unwrap(key_id, stolen).id  # a copy from a backup still opens
    service.privacy.roll_keys(service.engine)
    with pytest.raises(KeyringError) as refusal:
        service.guard.keyring.unwrap(key_id, stolen)
    assert 1 == refusal.value.data["generation"]


def test_a_rotation_alone_leaves_the_old_generation_and_a_roll_after_it_adds_none(service: RideService) -> None:
    service.sign_up(rider(1))
    service.privacy.rotate_keys(service.engine)
    made = service.privacy.roll_keys(service.engine)
    assert (2, (1,)) == (made.generation, made.destroyed)
    assert (2,) == service.guard.keyring.generations


def test_the_wrapped_key_lies_in_a_sqlite_file_until_and_after_its_tombstone(sqlite_url: str, tmp_path: Path) -> None:
    service = ride_service(sqlite_url, tmp_path, Clock())
    raw_rows(sqlite_url, "PRAGMA journal_mode=WAL")
    service.sign_up(rider(1), rider(2))
    path = Path(sqlite_url.removeprefix("sqlite:///"))

    def in_files(wanted: bytes) -> bool:
        return any(wanted in each.read_bytes() for each in (path, Path(f"{path}-wal")) if each.exists())

    key_id, wrapped = wrapped_key(service, 1)
    assert in_files(wrapped)
    shutil.copy(path, tmp_path / "backup.sqlite")
    shutil.copy(f"{path}-wal", tmp_path / "backup.sqlite-wal")
    erase(service, 1)
    assert in_files(wrapped)
    service.privacy.roll_keys(service.engine)
    ((stored,),) = raw_rows(
        f"sqlite:///{tmp_path / 'backup.sqlite'}", f"SELECT wrapped FROM privkit_key WHERE id = x'{key_id.hex()}'"
    )
    assert wrapped == stored
    with pytest.raises(KeyringError):
        service.guard.keyring.unwrap(key_id, stored)
    with pytest.raises(KeyringError):
        FileKeyring(tmp_path / "keys.json").unwrap(key_id, stored)
    service.engine.dispose()


def test_the_wrapped_key_lies_in_postgresql_s_heap_after_its_tombstone(
    pg_url: str, pg_server: Server, tmp_path: Path
) -> None:
    service = ride_service(pg_url, tmp_path, Clock())
    service.sign_up(rider(1), rider(2))
    key_id, wrapped = wrapped_key(service, 1)

    def in_heap() -> bool:
        raw_rows(pg_url, "CHECKPOINT")
        ((file,),) = raw_rows(
            pg_url, "SELECT current_setting('data_directory') || '/' || pg_relation_filepath('privkit_key')"
        )
        return wrapped in Path(file).read_bytes()

    assert in_heap()
    erase(service, 1)
    assert in_heap()
    service.privacy.roll_keys(service.engine)
    with pytest.raises(KeyringError):
        service.guard.keyring.unwrap(key_id, wrapped)
    service.engine.dispose()


class _Stop(BaseException):
    """What a kill looks like from inside: nothing after it runs, and the open transaction is rolled back."""


def stop_at(service: RideService, number: int) -> Any:
    counted = iter(range(number))

    def stop(*_: Any) -> None:
        if next(counted, None) is None:
            raise _Stop

    event.listen(service.engine, "before_cursor_execute", stop)
    return stop


def test_a_roll_that_stops_at_any_statement_loses_no_key_and_goes_on(service: RideService) -> None:
    service.sign_up(*(rider(number) for number in range(1, 6)))
    expected = [f"rider{number}@rides.example" for number in range(1, 6)]
    number, ended = 0, False
    while not ended:
        number += 3
        stop = stop_at(service, number)
        try:
            ended = service.privacy.roll_keys(service.engine, batch=2).ok
        except _Stop:
            pass
        finally:
            event.remove(service.engine, "before_cursor_execute", stop)
        if number % 9 == 0 or ended:
            assert expected == emails(service)
    assert number > 20
    assert 1 == len(service.guard.keyring.generations)
    assert set(service.guard.keyring.generations) == generations_in_use(service)


def test_a_half_done_roll_goes_on_under_the_generation_that_it_added(service: RideService) -> None:
    service.sign_up(*(rider(number) for number in range(1, 6)))

    def stop(table: str, count: int) -> None:
        raise _Stop

    with pytest.raises(_Stop):
        service.privacy.roll_keys(service.engine, batch=2, progress=stop)
    assert {1, 2} == generations_in_use(service)
    made = service.privacy.roll_keys(service.engine, batch=2)
    assert (2, (1,)) == (made.generation, made.destroyed)
    assert 1 == len(lines(service, "generation_added"))


def test_what_was_destroyed_while_a_roll_stood_still_is_final_after_the_next_one(service: RideService) -> None:
    service.sign_up(*(rider(number) for number in range(1, 6)))

    def stop(table: str, count: int) -> None:
        raise _Stop

    with pytest.raises(_Stop):
        service.privacy.roll_keys(service.engine, progress=stop)
    key_id, under_two = wrapped_key(service, 1)
    assert 2 == int.from_bytes(under_two[:4], "big")
    erase(service, 1)
    assert (1, 2) == service.privacy.roll_keys(service.engine).destroyed
    with pytest.raises(KeyringError):
        service.guard.keyring.unwrap(key_id, under_two)


def test_what_was_destroyed_under_a_clock_that_had_jumped_back_is_final_after_the_next_roll(
    service: RideService, clock: Clock
) -> None:
    service.sign_up(rider(1), rider(2))
    service.privacy.rotate_keys(service.engine)
    key_id, under_two = wrapped_key(service, 1)
    clock.now -= timedelta(hours=1)
    erase(service, 1)
    clock.now += timedelta(hours=2)
    assert (1, 2) == service.privacy.roll_keys(service.engine).destroyed
    with pytest.raises(KeyringError):
        service.guard.keyring.unwrap(key_id, under_two)


def test_a_killed_process_is_gone_on_with(database_url: str, tmp_path: Path) -> None:
    service = ride_service(database_url, tmp_path, Clock())
    service.sign_up(*(rider(number) for number in range(1, 31)))
    code = (
        "import os, signal, sys; from pathlib import Path; from tests.sqlalchemy.rides import Clock, ride_service\n"
        "service, seen = ride_service(sys.argv[1], Path(sys.argv[2]), Clock()), []\n"
        "def kill(table, count):\n"
        "    seen.append(count)\n"
        "    if len(seen) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "service.privacy.roll_keys(service.engine, batch=4, progress=kill)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    ended = subprocess.run([sys.executable, "-c", code, database_url, str(tmp_path)], env=environment, timeout=120)
    assert -9 == ended.returncode
    assert {1, 2} == generations_in_use(service)
    assert service.privacy.roll_keys(service.engine).ok
    assert (2,) == service.guard.keyring.generations
    assert 30 == len(emails(service))
    service.engine.dispose()


def test_two_workers_at_once_lose_nothing(database_url: str, tmp_path: Path) -> None:
    services = [ride_service(database_url, tmp_path, Clock()) for _ in range(2)]
    services[0].sign_up(*(rider(number) for number in range(1, 41)))
    made: list[bool] = []
    for _ in range(3):
        workers = [
            threading.Thread(target=lambda each=each: made.append(each.privacy.roll_keys(each.engine, batch=3).ok))
            for each in services
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert [True] * 6 == made
    assert {services[0].guard.keyring.generation} == generations_in_use(services[0])
    assert 40 == len(emails(services[1]))
    for each in services:
        each.engine.dispose()


def test_a_roll_waits_for_a_transaction_that_holds_a_key_under_the_old_generation(service: RideService) -> None:
    service.sign_up(rider(1))
    made: list[Any] = []
    looked: list[str] = []
    waits = threading.Event()

    def look(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "pg_locks" in statement or (
            statement.startswith("UPDATE privkit_ledger") and "sqlite" in str(service.engine)
        ):
            looked.append(statement)
        if len(looked) == (2 if "pg_locks" in statement else 1):
            waits.set()

    event.listen(service.engine, "before_cursor_execute", look)
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        session.add(rider(2))
        session.flush()
        worker = threading.Thread(target=lambda: made.append(service.privacy.roll_keys(service.engine)))
        worker.start()
        assert waits.wait(60)
        assert (1, 2) == service.guard.keyring.generations
        session.commit()
    worker.join()
    assert made[0].ok
    assert {2} == generations_in_use(service)
    assert ["rider1@rides.example", "rider2@rides.example"] == emails(service)


def test_a_transaction_that_does_not_end_stops_the_roll_before_anything_is_destroyed(
    pg_url: str, tmp_path: Path
) -> None:
    service = ride_service(pg_url, tmp_path, Clock())
    service.sign_up(rider(1))
    with service.engine.connect() as connection, internally():
        connection.execute(select(Rider.__table__.c.id))
        with pytest.raises(KeyringError, match="have not ended"):
            rewrap.roll(service.guard, [service.engine], patience=0.2)
    assert (1, 2) == service.guard.keyring.generations
    assert service.privacy.roll_keys(service.engine).ok
    service.engine.dispose()


def test_a_key_that_was_wrapped_before_and_inserted_after_a_new_generation_is_wrapped_anew(
    service: RideService,
) -> None:
    elsewhere = FileKeyring(service.guard.keyring.path)  # type: ignore[attr-defined]

    def add(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "INSERT INTO privkit_key" in statement and elsewhere.generation < 2:
            elsewhere.add_generation()

    event.listen(service.engine, "before_cursor_execute", add)
    service.sign_up(rider(1), rider(2))
    assert {elsewhere.generation} == generations_in_use(service)
    assert ["rider1@rides.example", "rider2@rides.example"] == emails(service)


def test_a_tombstone_wins_over_a_rewrap_that_read_the_key_before(service: RideService) -> None:
    service.sign_up(rider(1))
    key_id, wrapped = wrapped_key(service, 1)
    erase(service, 1)
    with internally(), service.engine.begin() as connection:
        row = {"id": key_id, "wrapped": wrapped}
        wrapping.exchange(connection, service.guard.own_table(KEY), [row], [wrapped])
    assert set() == generations_in_use(service)


def test_a_key_that_does_not_open_is_left_and_nothing_is_destroyed(service: RideService) -> None:
    service.sign_up(rider(1), rider(2))
    url = service.engine.url.render_as_string(hide_password=False)
    key_id, wrapped = wrapped_key(service, 1)
    damaged = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    quoted = (lambda data: f"x'{data.hex()}'") if url.startswith("sqlite") else (lambda data: f"'\\x{data.hex()}'")
    raw_rows(url, f"UPDATE privkit_key SET wrapped = {quoted(damaged)} WHERE id = {quoted(key_id)}")
    made = service.privacy.roll_keys(service.engine)
    assert not made.ok
    assert [(1, 1)] == [(each.left, each.failed) for each in made.databases[0].keys if each.table.endswith(KEY)]
    assert () == made.destroyed
    assert (1, 2) == service.guard.keyring.generations
    assert [] == lines(service, "keys_rotated")


def test_a_database_without_a_key_is_refused_before_a_generation_is_added(service: RideService) -> None:
    for work in (service.privacy.rotate_keys, service.privacy.roll_keys):
        with pytest.raises(KeyringError, match="holds no key"):
            work(service.engine)
    assert (1,) == service.guard.keyring.generations


def test_all_databases_of_a_keyring_are_rolled_together(
    sqlite_url: str, pg_url: str, tmp_path: Path, clock: Clock
) -> None:
    services = [ride_service(url, tmp_path, clock) for url in (sqlite_url, pg_url)]
    for each in services:
        each.sign_up(rider(1))
    first = services[0]
    first.privacy.protect(second_engine := create_engine(pg_url))
    assert first.privacy.roll_keys(first.engine, second_engine).ok
    assert [{2}, {2}] == [generations_in_use(each) for each in services]
    assert (2,) == first.guard.keyring.generations
    assert [["rider1@rides.example"]] * 2 == [emails(each) for each in services]
    for each in services:
        each.engine.dispose()
    second_engine.dispose()


def test_the_last_roll_is_the_instant_its_generation_came(service: RideService, clock: Clock) -> None:
    service.sign_up(rider(1))
    began = clock.now
    with service.engine.connect() as connection:
        assert rewrap.last_roll(connection, service.guard) is None
    service.privacy.rotate_keys(service.engine)
    clock.now += timedelta(hours=3)
    with service.engine.connect() as connection:
        assert rewrap.last_roll(connection, service.guard) is None
    service.privacy.roll_keys(service.engine)
    with service.engine.connect() as connection:
        assert began == rewrap.last_roll(connection, service.guard)


def test_the_ledger_holds_counts_and_generations_and_still_verifies(service: RideService) -> None:
    service.sign_up(rider(1), rider(2))
    service.privacy.roll_keys(service.engine)
    (line,) = lines(service, "keys_rolled")
    assert '"destroyed":[1]' in line
    assert '"generation":2' in line
    assert {"generation_added", "keys_rotated", "keys_rolled", "resealed"} <= KINDS
    assert 3 == service.privacy.verify_ledger(service.engine).count


ONE_PURPOSE = """
privkit: 1
naive_datetimes: UTC
purposes:
  duty: {description: "Plan shifts", legal_basis: contract, keep: {for: P30D, after: left}}
"""


def test_a16_every_base_registry_and_bare_table_is_rotated_and_counted(database_url: str, tmp_path: Path) -> None:
    class First(DeclarativeBase):
        pass

    class Second(DeclarativeBase):
        metadata = MetaData()

    def declared(base: Any, name: str) -> Any:
        body = {
            "__tablename__": name,
            "__annotations__": {
                "id": Mapped[int],
                "name": Mapped[Annotated[str, Personal("user.name", purposes={"duty"}, seal=True)]],
                "left_at": Mapped[datetime | None],
            },
            "id": mapped_column(primary_key=True),
        }
        cls = type(name.title(), (base,), body)
        return not_personal("id", "left_at", because="row id and event")(events(left="left_at")(data_subject(cls)))

    drivers, cooks = declared(First, "drivers"), declared(Second, "cooks")
    mapped = registry()
    table = Table(
        "clerks",
        mapped.metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String),
        Column("left_at", DateTime),
    )

    class Clerk:
        def __init__(self, **values: Any) -> None:
            for name, value in values.items():
                setattr(self, name, value)

    data_subject(events(left="left_at")(not_personal("id", "left_at", because="row id and event")(Clerk)))
    mapped.map_imperatively(Clerk, table)
    policy = tmp_path / "policy.yaml"
    policy.write_text(ONE_PURPOSE)
    privacy = Privacy(policy, [First, Second, mapped], FileKeyring.create(tmp_path / "keys.json"))
    privacy.annotate(Clerk, name=Personal("user.name", purposes={"duty"}, seal=True))
    engine = create_engine(database_url)
    privacy.protect(engine)
    for metadata in (First.metadata, Second.metadata, mapped.metadata):
        metadata.create_all(engine)
    with privacy.purpose("duty"), Session(engine) as session:
        session.add_all([drivers(name="planted"), cooks(name="planted"), cooks(name="other"), Clerk(name="planted")])
        session.commit()
    made = privacy.roll_keys(engine)
    expected = [("clerks.name", 1, 1), ("cooks.name", 2, 2), ("drivers.name", 1, 1)]
    for found in (made.databases[0].before, made.databases[0].after):
        assert expected == [(each.column, each.envelopes, each.living) for each in found]
    privacy.guard.keys.clear()
    with privacy.purpose("duty"), Session(engine) as session:
        assert ["other", "planted"] == sorted(session.scalars(select(cooks.name)))
        assert ["planted"] == list(session.scalars(select(Clerk.name)))  # type: ignore[attr-defined]
    engine.dispose()


def test_a16_models_without_a_sealed_field_are_a_failure(sqlite_url: str, tmp_path: Path) -> None:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @events(left="left_at")
    @not_personal("id", "left_at", because="row id and event time")
    class Driver(Base):
        __tablename__ = "drivers"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[Annotated[str, Personal("user.name", purposes={"duty"})]]
        left_at: Mapped[datetime | None]

    policy = tmp_path / "policy.yaml"
    policy.write_text(ONE_PURPOSE)
    privacy = Privacy(policy, Base, FileKeyring.create(tmp_path / "keys.json"))
    engine = create_engine(sqlite_url)
    Base.metadata.create_all(engine)
    for work in (privacy.rotate_keys, privacy.roll_keys, privacy.reseal):
        with pytest.raises(KeyringError, match="No sealed field"):
            work(engine)
    engine.dispose()


def test_a17_a_keyring_that_another_process_rolled_is_followed_without_a_restart(
    database_url: str, tmp_path: Path
) -> None:
    running = ride_service(database_url, tmp_path, Clock())
    running.sign_up(rider(1))
    operator = ride_service(database_url, tmp_path, Clock())
    assert operator.privacy.roll_keys(operator.engine).ok
    running.sign_up(rider(2))
    assert {2} == generations_in_use(running)
    assert ["rider1@rides.example", "rider2@rides.example"] == emails(running)
    key_id, wrapped = wrapped_key(running, 1)
    assert key_id == FileKeyring(tmp_path / "keys.json").unwrap(key_id, wrapped).id
    for each in (running, operator):
        each.engine.dispose()


def hand_sealed(service: RideService, key: SubjectKey, table: str) -> None:
    """Store a value that was sealed with the low-level call in columns that nobody declared."""
    url = service.engine.url.render_as_string(hide_password=False)
    lite = url.startswith("sqlite")
    envelope = key.value_key("notes.text").seal(b"planted")
    data = f"x'{envelope.hex()}'" if lite else f"'\\x{envelope.hex()}'"
    raw_rows(url, f"CREATE TABLE {table} (id INTEGER, raw {'BLOB' if lite else 'BYTEA'}, said TEXT)")
    raw_rows(url, f"INSERT INTO {table} VALUES (1, {data}, '{envelope.hex()}'), (2, NULL, 'nothing of that kind')")


def test_a19_a_roll_is_refused_while_an_envelope_names_a_key_that_nobody_can_find(service: RideService) -> None:
    service.sign_up(rider(1))
    hand_sealed(service, SubjectKey.new(), "notes")
    with pytest.raises(KeyringError, match=r"notes\.raw \(1\), notes\.said \(1\)") as refusal:
        service.privacy.roll_keys(service.engine)
    assert ["notes.raw", "notes.said"] == refusal.value.data["columns"]
    assert (1, 2) == service.guard.keyring.generations
    raw_rows(service.engine.url.render_as_string(hide_password=False), "DROP TABLE notes")
    assert (1,) == service.privacy.roll_keys(service.engine).destroyed


def test_a19_a_value_sealed_by_hand_under_a_known_key_is_reported_and_stays_openable(service: RideService) -> None:
    service.sign_up(rider(1))
    key_id, wrapped = wrapped_key(service, 1)
    hand_sealed(service, service.guard.keyring.unwrap(key_id, wrapped), "notes")
    found = {each.column: each for each in scan_envelopes(service.guard, service.engine)}
    for name in ("notes.raw", "notes.said"):
        assert (False, 1, 1, 0) == (
            found[name].declared,
            found[name].envelopes,
            found[name].living,
            found[name].unknown,
        )
    assert (True, 1, 1) == (
        found["riders.email"].declared,
        found["riders.email"].envelopes,
        found["riders.email"].living,
    )
    assert service.privacy.roll_keys(service.engine).ok
    assert key_id == service.guard.keyring.unwrap(*wrapped_key(service, 1)).id
    erase(service, 1)
    found = {each.column: each for each in service.privacy.scan_envelopes(service.engine)}
    assert (1, 0, 1) == (found["notes.raw"].envelopes, found["notes.raw"].living, found["notes.raw"].destroyed)


def test_a_build_that_is_too_old_for_the_suite_in_use_reads_and_refuses_to_write(
    database_url: str, tmp_path: Path
) -> None:
    service = ride_service(database_url, tmp_path, Clock())
    service.sign_up(rider(1))
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "suite": 2}))
    service.engine.dispose()
    old = ride_service(database_url, tmp_path, Clock())
    assert ["rider1@rides.example"] == emails(old)
    with pytest.raises(KeyringError, match="newer release"):
        old.sign_up(rider(2))
    with old.privacy.purpose("account"), Session(old.engine) as session:
        session.get_one(Rider, 1).email = "changed@rides.example"
        with pytest.raises(KeyringError, match="newer release"):
            session.commit()
    with pytest.raises(KeyringError, match="newer release"):
        old.privacy.rotate_keys(old.engine)
    assert ["rider1@rides.example"] == emails(old)
    old.engine.dispose()

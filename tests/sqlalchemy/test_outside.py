"""The copy of the ledger outside the database: ahead of every commit, and obeyed after a backup was restored."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from privkit import LedgerDatabase, LedgerFile
from privkit.crypto import KeyCache
from privkit.errors import LedgerError, ShreddedError, StatementRefused
from privkit.ledger import OutsideLedger
from privkit.sqlalchemy import consents, holds, ledger, shred
from tests.databases import raw_rows
from tests.meta import ROOT
from tests.sqlalchemy.restored import backup, ride_service
from tests.sqlalchemy.rides import UNTIL, Rider, RideService, Trip, rider

Open = Callable[..., RideService]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


@pytest.fixture
def opened(database_url: str, tmp_path: Path, copy: Path) -> Iterator[Open]:
    """Opens the service as one more process does, with the copy or with another one."""
    engines: list[Engine] = []

    def open_(outside: OutsideLedger | None = None, *, alone: bool = False) -> RideService:
        service = ride_service(database_url, tmp_path, None if alone else outside or LedgerFile(copy))
        engines.append(service.engine)
        return service

    yield open_
    for engine in engines:
        engine.dispose()


def append(service: RideService, *numbers: int) -> None:
    for number in numbers:
        with service.engine.begin() as connection:
            ledger.append(connection, service.guard, "batch", {"number": number})


def inside(database_url: str) -> list[tuple[str, str]]:
    return [(kind, body) for kind, body in raw_rows(database_url, "SELECT kind, body FROM privkit_ledger ORDER BY seq")]


def outside(copy: Path) -> list[tuple[str, str]]:
    return [(line["kind"], line["body"]) for line in map(json.loads, copy.read_text().splitlines())]


def kinds(copy: Path) -> list[str]:
    return [kind for kind, _ in outside(copy)]


def key_of(service: RideService, number: int) -> bytes:
    table = Rider.__table__
    with service.engine.connect() as connection:
        return bytes(connection.execute(select(table.c.privkit_key).where(table.c.id == number)).scalar_one())


def home(service: RideService, number: int) -> Any:
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        return session.scalar(select(Rider.home).where(Rider.id == number))


def destroy_key(service: RideService, number: int) -> bytes:
    key_id = key_of(service, number)
    with service.engine.begin() as connection:
        shred.destroy_keys(connection, service.guard, [key_id])
    return key_id


# What is written when.


def test_the_copy_has_the_lines_of_the_database_in_its_order(opened: Open, database_url: str, copy: Path) -> None:
    service = opened()
    append(service, 1, 2, 3)
    assert ["outside_attached", "batch", "batch", "batch"] == kinds(copy)
    assert inside(database_url) == outside(copy)
    assert 4 == service.privacy.verify_ledger(service.engine).count


def test_a_line_is_outside_before_its_transaction_commits(opened: Open, database_url: str, copy: Path) -> None:
    service = opened()
    seen: list[tuple[int, int]] = []
    with service.engine.connect() as connection:
        ledger.append(connection, service.guard, "batch", {"number": 1})
        assert 1 == len(outside(copy))
        event.listen(service.engine, "commit", lambda _: seen.append((len(inside(database_url)), len(outside(copy)))))
        connection.commit()
    assert [(1, 2)] == seen
    assert 2 == len(inside(database_url))


def test_a_transaction_that_rolls_back_leaves_no_line_outside(opened: Open, copy: Path) -> None:
    service = opened()
    with service.engine.connect() as connection:
        ledger.append(connection, service.guard, "batch", {"number": 9})
        connection.rollback()
    append(service, 1)
    assert [("outside_attached", "{}"), ("batch", '{"number":1}')] == outside(copy)


def test_a_savepoint_that_rolls_back_takes_its_lines_with_it(opened: Open, copy: Path, database_url: str) -> None:
    service = opened()
    with service.engine.begin() as connection:
        ledger.append(connection, service.guard, "batch", {"number": 1})
        point = connection.begin_nested()
        ledger.append(connection, service.guard, "batch", {"number": 8})
        point.rollback()
        with connection.begin_nested():
            ledger.append(connection, service.guard, "batch", {"number": 2})
    assert ['{"number":1}', '{"number":2}'] == [body for _, body in outside(copy)][1:]
    assert inside(database_url) == outside(copy)


def test_a_connection_that_is_dropped_in_a_transaction_leaves_nothing_behind(opened: Open, copy: Path) -> None:
    service = opened()
    with service.engine.connect() as connection:
        ledger.append(connection, service.guard, "batch", {"number": 9})
    append(service, 1, 2)
    assert ["outside_attached", "batch", "batch"] == kinds(copy)


def test_two_processes_that_write_at_once_make_one_chain(opened: Open, database_url: str, copy: Path) -> None:
    services = [opened(), opened()]
    with ThreadPoolExecutor(2) as pool:
        for written in [pool.submit(append, service, *range(60)) for service in services]:
            written.result()
    assert inside(database_url) == outside(copy)
    assert 121 == services[0].privacy.verify_ledger(services[0].engine).count


async def test_asyncio_engines_write_it_too(
    opened: Open, database_url: str, async_database_url: str, copy: Path
) -> None:
    service = opened()
    engine = create_async_engine(async_database_url)
    service.privacy.protect(engine)
    async with engine.begin() as connection:
        await connection.run_sync(ledger.append, service.guard, "batch", {"number": 1})
    await engine.dispose()
    assert inside(database_url) == outside(copy)
    assert 2 == len(outside(copy))


def test_an_autocommit_connection_is_refused(opened: Open, copy: Path) -> None:
    service = opened()
    with service.engine.connect() as connection:
        loose = connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(LedgerError, match="AUTOCOMMIT"):
            ledger.append(loose, service.guard, "batch", {"number": 1})
    assert ["outside_attached"] == kinds(copy)


def test_no_statement_is_added_to_work_that_writes_no_line(opened: Open) -> None:
    service = opened()
    service.sign_up(rider(1))
    sent: list[str] = []
    event.listen(service.engine, "before_cursor_execute", lambda *call: sent.append(call[2]))
    with service.engine.begin() as connection:
        connection.execute(select(func.count()).select_from(service.guard.own_table("privkit_key")))
    assert 1 == len(sent)


# What cannot be written is not done.


FULL = """
import resource, sys
from pathlib import Path
from privkit import LedgerFile
from privkit.errors import LedgerError
from tests.sqlalchemy.restored import ride_service
from tests.sqlalchemy.test_outside import destroy_key

copy = Path(sys.argv[3])
service = ride_service(sys.argv[1], Path(sys.argv[2]), LedgerFile(copy))
resource.setrlimit(resource.RLIMIT_FSIZE, (copy.stat().st_size + 20,) * 2)
try:
    destroy_key(service, 1)
except LedgerError as error:
    print(error.what)
"""


def test_on_a_full_disk_nothing_is_destroyed(pg_url: str, copy: Path, tmp_path: Path) -> None:
    """A process that may write 20 bytes more and no whole line. (The limit would stop SQLite's own file too.)"""
    service = ride_service(pg_url, tmp_path, LedgerFile(copy))
    service.sign_up(rider(1))
    command = [sys.executable, "-c", FULL, pg_url, str(tmp_path), str(copy)]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120, check=True)
    assert "cannot be used (File too large)" in ended.stdout
    assert copy.read_text().endswith("\n")
    assert ["outside_attached"] == kinds(copy)
    assert home(service, 1) is not None
    destroy_key(service, 1)
    assert ["outside_attached", "key_destroyed"] == kinds(copy)
    service.engine.dispose()


def test_a_device_that_is_full_stops_the_first_connection(opened: Open) -> None:
    with pytest.raises(LedgerError, match="No space left on device"):
        opened(LedgerFile("/dev/full"))


def test_a_folder_that_is_gone_stops_the_commit(opened: Open, copy: Path, database_url: str) -> None:
    (copy.parent / "disk").mkdir()
    service = opened(LedgerFile(copy.parent / "disk" / "ledger.jsonl"))
    service.sign_up(rider(1))
    with service.engine.connect() as connection:
        shred.destroy_keys(connection, service.guard, [key_id(connection)])
        (copy.parent / "disk").rename(copy.parent / "unmounted")
        with pytest.raises(LedgerError, match=r"cannot be used \(No such file or directory\)|two different pasts"):
            connection.commit()
        connection.rollback()
    (copy.parent / "unmounted").rename(copy.parent / "disk")
    assert [(1,)] == raw_rows(database_url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NOT NULL")
    assert home(service, 1) is not None


def key_id(connection: Any) -> bytes:
    return bytes(connection.exec_driver_sql("SELECT id FROM privkit_key").scalar())


def test_a_database_outside_that_is_down_stops_the_commit(opened: Open, tmp_path: Path, database_url: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    service = opened(LedgerDatabase(create_engine(f"sqlite:///{other}/ledger.sqlite")))
    append(service, 1)
    other.rename(tmp_path / "down")
    outside = service.guard.outside
    assert isinstance(outside, LedgerDatabase)
    outside.engine.dispose()
    with pytest.raises(LedgerError, match=r"sqlite database cannot be used \(OperationalError\)"):
        append(service, 2)
    (tmp_path / "down").rename(other)
    append(service, 3)
    assert ["{}", '{"number":1}', '{"number":3}'] == [body for _, body in inside(database_url)]
    outside.engine.dispose()


# Killed, torn, tampered with.

CHILD = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from privkit import LedgerFile
from tests.sqlalchemy.restored import ride_service
from tests.sqlalchemy.test_outside import destroy_key

service = ride_service(sys.argv[1], Path(sys.argv[2]), LedgerFile(sys.argv[3]))
service.engine.connect().close()
event.listen(service.engine, "commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
destroy_key(service, 1)
"""


def environment() -> dict[str, str]:
    return dict(os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])})


def test_what_a_killed_process_wrote_outside_is_done_by_the_next(opened: Open, database_url: str, copy: Path) -> None:
    """It was killed between the line outside and its commit: the line says destroyed, so it is."""
    service = opened()
    service.sign_up(rider(1))
    home(service, 1)
    command = [sys.executable, "-c", CHILD, database_url, str(copy.parent), str(copy)]
    ended = subprocess.run(command, env=environment(), timeout=120, check=False)
    assert -signal.SIGKILL == ended.returncode
    assert ["outside_attached"] == [kind for kind, _ in inside(database_url)]
    assert ["outside_attached", "key_destroyed"] == kinds(copy)
    append(service, 1)  # over a connection that was open all the time
    assert ["outside_attached", "key_destroyed", "caught_up", "batch"] == kinds(copy)
    assert inside(database_url) == outside(copy)
    with pytest.raises(ShreddedError):
        home(service, 1)


def test_a_line_that_a_crash_tore_never_was(opened: Open, database_url: str, copy: Path) -> None:
    append(opened(), 1)
    with copy.open("a") as file:
        file.write('{"seq": 3, "at": "2026-01-')
    append(opened(), 2)
    assert inside(database_url) == outside(copy)
    assert 3 == len(outside(copy))


def test_lines_that_the_copy_lost_are_written_again(opened: Open, database_url: str, copy: Path) -> None:
    append(opened(), 1, 2, 3)
    lines = copy.read_text().splitlines(keepends=True)
    copy.write_text("".join(lines[:2]))
    opened()
    assert inside(database_url) == outside(copy)


def test_a_copy_that_is_empty_now_is_refused_until_somebody_says_so(
    opened: Open, database_url: str, copy: Path
) -> None:
    append(opened(), 1)
    copy.unlink()
    with pytest.raises(LedgerError, match="there was one before"):
        opened()
    opened(LedgerFile(copy, refill=True))
    assert inside(database_url) == outside(copy)
    append(opened(), 2)


def test_a_ledger_that_had_lines_before_is_copied_whole(
    opened: Open, database_url: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "PAGE", 3)
    append(opened(alone=True), *range(10))
    append(opened(), 10)
    assert 12 == len(outside(copy))
    assert inside(database_url) == outside(copy)


@pytest.mark.parametrize(
    ("old", "new"),
    [("key_destroyed", "batch"), ("keys", "kegs"), ('"link": "', '"link": "00'), ('"seq": 2', '"seq": 3'), ("{", "")],
)
def test_a_line_outside_that_was_changed_is_not_obeyed_and_stops_everything(
    opened: Open, database_url: str, copy: Path, old: str, new: str
) -> None:
    service = opened()
    service.sign_up(rider(1))
    service.engine.dispose()
    with backup(database_url) as restore:
        destroy_key(service, 1)
        service.engine.dispose()
        restore()
    first, second = copy.read_text().splitlines(keepends=True)
    copy.write_text(first + second.replace(old, new, 1))
    assert first + second != copy.read_text()
    with pytest.raises(LedgerError):
        home(opened(), 1)


def test_two_pasts_are_told_apart(opened: Open, database_url: str, copy: Path) -> None:
    service = opened()
    append(service, 1)
    service.engine.dispose()
    with backup(database_url) as restore:
        append(service, 2)
        service.engine.dispose()
        kept = copy.read_bytes()
        restore()
        copy.write_bytes(b"".join(kept.splitlines(keepends=True)[:2]))
        other = opened()
        append(other, 3)
        other.engine.dispose()
        copy.write_bytes(kept)
    with pytest.raises(LedgerError, match="two different pasts from line 3"):
        opened()


def test_whoever_was_not_given_the_copy_opens_and_writes_nothing(opened: Open, database_url: str) -> None:
    service = opened()
    service.sign_up(rider(1))
    stranger = opened(alone=True)
    with pytest.raises(LedgerError, match="was not given the copy"):
        home(stranger, 1)
    with pytest.raises(LedgerError, match="was not given the copy"):
        stranger.sign_up(rider(2))
    with pytest.raises(LedgerError, match="was not given the copy"):
        append(stranger, 1)
    assert home(service, 1) is not None


def test_another_keyring_does_not_follow_the_copy(database_url: str, tmp_path: Path, copy: Path, opened: Open) -> None:
    service = opened()
    service.engine.dispose()
    with backup(database_url) as restore:
        append(service, 1)
        service.engine.dispose()
        restore()
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(LedgerError, match="breaks at line 2"):
        ride_service(database_url, tmp_path / "elsewhere", LedgerFile(copy))


def test_a_copy_in_the_database_that_it_is_to_outlive_is_refused(opened: Open, database_url: str) -> None:
    service = opened()
    with pytest.raises(LedgerError, match="a Privacy protects"):
        LedgerDatabase(service.engine).head()


# After a restore.


@pytest.fixture(params=["file", "database"])
def outside_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OutsideLedger]:
    if request.param == "file":
        yield LedgerFile(tmp_path / "ledger.jsonl")
        return
    engine = create_engine(f"sqlite:///{tmp_path}/outside.sqlite")
    yield LedgerDatabase(engine)
    engine.dispose()


def test_a_restored_key_opens_nothing(opened: Open, database_url: str, outside_of: OutsideLedger) -> None:
    service = opened(outside_of)
    service.sign_up(rider(1), rider(2))
    service.engine.dispose()
    with backup(database_url) as restore:
        destroyed = destroy_key(service, 1)
        service.engine.dispose()
        restore()
    assert [(2,)] == raw_rows(database_url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NOT NULL")
    with pytest.raises(ShreddedError):
        home(opened(outside_of), 1)
    assert home(opened(outside_of), 2) is not None
    assert [(destroyed,)] == [
        (bytes(key_id),) for (key_id,) in raw_rows(database_url, "SELECT id FROM privkit_key WHERE wrapped IS NULL")
    ]


def test_a_restore_under_a_running_process_is_noticed(opened: Open, database_url: str) -> None:
    """The key is in the process's memory, and its pool makes a new connection."""
    service = opened()
    service.sign_up(rider(1), rider(2))
    service.engine.dispose()
    with backup(database_url) as restore:
        assert home(service, 1) is not None
        other = opened()
        destroy_key(other, 1)
        other.engine.dispose()
        restore()
    service.engine.dispose()  # as a pool does with connections that the server closed
    with pytest.raises(ShreddedError):
        home(service, 1)


def test_older_rows_that_are_put_back_under_open_connections_are_noticed_at_the_age_of_keys(
    opened: Open, database_url: str
) -> None:
    service = opened()
    service.guard.keys = KeyCache(max_age=timedelta(0))
    service.sign_up(rider(1))
    raw_rows(database_url, "CREATE TABLE kept AS SELECT * FROM privkit_key")
    destroy_key(service, 1)
    raw_rows(database_url, "DELETE FROM privkit_ledger WHERE kind = 'key_destroyed'")
    raw_rows(database_url, "UPDATE privkit_key SET wrapped = (SELECT wrapped FROM kept)")
    with pytest.raises(ShreddedError):
        home(service, 1)


def test_a_key_that_the_backup_does_not_know_gets_its_tombstone(opened: Open, database_url: str) -> None:
    service = opened()
    service.engine.dispose()
    with backup(database_url) as restore:
        service.sign_up(rider(1))
        key = destroy_key(service, 1)
        service.engine.dispose()
        restore()
    opened()
    found = raw_rows(database_url, "SELECT id, wrapped FROM privkit_key")
    assert [(key, None)] == [(bytes(key_id), wrapped) for key_id, wrapped in found]


def test_withdrawals_and_holds_outlive_the_restore_and_grants_are_not_made_up(
    opened: Open, database_url: str, copy: Path
) -> None:
    service = opened()
    service.sign_up(rider(1), rider(2), rider(3))
    first, second, third = (key_of(service, number) for number in (1, 2, 3))
    give(service, first, "pickup")
    early = place(service, subject=second)
    service.engine.dispose()
    with backup(database_url) as restore:
        with service.engine.begin() as connection:
            consents.withdraw(connection, service.guard, first, ["pickup"])
        give(service, first, "navigation")
        with service.engine.begin() as connection:
            holds.release(connection, service.guard, early, by="counsel")
        place(service, subject=third)
        place(service, table="trips")
        service.engine.dispose()
        restore()
    again = opened()
    with again.engine.connect() as connection:
        assert "withdrawn" == consents.state(connection, again.guard, first, "pickup")
        assert None is consents.state(connection, again.guard, first, "navigation")
    rows = raw_rows(database_url, "SELECT subject, table_name, released_at IS NULL FROM privkit_hold ORDER BY id")
    assert [(second, None, False), (third, None, True), (None, "trips", True)] == [
        (subject and bytes(subject), table, bool(open_)) for subject, table, open_ in rows
    ]
    assert 4 == place(again, table="riders")
    assert inside(database_url) == outside(copy)


def give(service: RideService, key: bytes, purpose: str) -> None:
    with service.engine.begin() as connection:
        consents.grant(connection, service.guard, key, [purpose], "guardian", "signed_form")


def place(service: RideService, **options: Any) -> int:
    with service.engine.begin() as connection:
        return holds.place(connection, service.guard, reason="a court", by="counsel", until=UNTIL, **options)


def test_catching_up_is_done_once_by_whoever_comes_first(opened: Open, database_url: str, copy: Path) -> None:
    service = opened()
    service.engine.dispose()
    with backup(database_url) as restore:
        append(service, *range(20))
        service.engine.dispose()
        restore()
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(opened) for _ in range(3)]:
            done.result()
    assert inside(database_url) == outside(copy)
    assert 1 == kinds(copy).count("caught_up")


def test_a_backup_without_any_line_is_told_everything(opened: Open, database_url: str, copy: Path) -> None:
    plain = opened(alone=True)
    plain.sign_up(rider(1))
    plain.engine.dispose()
    with backup(database_url) as restore:
        destroy_key(opened(), 1)
        opened().engine.dispose()
        restore()
    with pytest.raises(ShreddedError):
        home(opened(), 1)
    assert inside(database_url) == outside(copy)


# Nobody comes back to life.


def test_rows_of_a_destroyed_key_are_written_no_more(opened: Open, database_url: str) -> None:
    service = opened()
    service.sign_up(rider(1), rider(2))
    destroy_key(service, 1)
    with service.privacy.purpose("navigation", "age_check"), service.engine.begin() as connection:
        with pytest.raises(ShreddedError):
            connection.execute(insert(Trip), [{"rider_id": 1, "start": rider(9).home}])
        with pytest.raises(ShreddedError):
            connection.execute(update(Rider).where(Rider.id == 1).values(born=date(1990, 1, 1)))
    assert [(2,)] == raw_rows(database_url, "SELECT count(*) FROM trips")


def test_the_key_id_of_somebody_erased_is_not_given_to_a_row(opened: Open, database_url: str) -> None:
    service = opened()
    service.sign_up(rider(1), rider(2))
    destroyed = destroy_key(service, 1)
    table: Any = Rider.__table__
    row = {"id": 3, "email": "three@rides.example", "name": "Three", "born": date(1990, 1, 1), "country": "GB"}
    with service.privacy.purpose("account", "age_check"), service.engine.begin() as connection:
        with pytest.raises(StatementRefused, match="privkit_key"):
            connection.execute(insert(table), row | {"privkit_key": destroyed})
        with pytest.raises(StatementRefused, match="privkit_key"):
            connection.execute(update(table).where(table.c.id == 2).values(privkit_key=destroyed))
    keys: Any = service.guard.own_table("privkit_key")
    with service.engine.begin() as connection, pytest.raises(IntegrityError):
        connection.execute(insert(keys), {"id": destroyed, "wrapped": b"anything", "created_at": service.clock()})

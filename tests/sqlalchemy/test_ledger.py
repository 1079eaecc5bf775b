"""The ledger in real databases: it commits with its work, survives kills, and shows what raw SQL did to it."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase

from privkit import Privacy
from privkit.errors import LedgerError, NotProtectedError
from privkit.ledger import Entry
from privkit.sqlalchemy import ledger
from tests.databases import raw_rows
from tests.meta import ROOT
from tests.sqlalchemy.rides import POLICY, Clock, RideService, ride_service


def append(service: RideService, count: int) -> None:
    for number in range(count):
        with service.engine.begin() as connection:
            ledger.append(connection, service.guard, "batch", {"rows": number})


def lines(service: RideService) -> list[Entry]:
    with service.engine.connect() as connection:
        return list(ledger.entries(connection, service.guard))


def verified(service: RideService, expected: str | None = None) -> int:
    with service.engine.connect() as connection:
        return ledger.verify(connection, service.guard, expected).count


def broken(service: RideService, expected: str | None = None) -> tuple[int, str]:
    with pytest.raises(LedgerError) as refusal:
        verified(service, expected)
    return refusal.value.data["seq"], refusal.value.data["how"]


def test_what_is_appended_is_what_is_read(service: RideService) -> None:
    with service.engine.begin() as connection:
        first = ledger.append(connection, service.guard, "run_started", {"run": "r1"})
        second = ledger.append(connection, service.guard, "run_ended", {"run": "r1", "overdue": 0})
    assert [first, second] == lines(service)
    assert [1, 2] == [first.seq, second.seq]
    assert 2 == verified(service)


def test_an_empty_ledger_verifies(service: RideService) -> None:
    assert [] == lines(service)
    assert 0 == verified(service)


def test_lines_are_read_page_after_page(service: RideService, monkeypatch: pytest.MonkeyPatch) -> None:
    append(service, 7)
    for size in (1, 3, 7, 100):
        monkeypatch.setattr(ledger, "PAGE", size)
        assert list(range(1, 8)) == [entry.seq for entry in lines(service)]


def test_an_unknown_kind_writes_nothing(service: RideService) -> None:
    with service.engine.begin() as connection, pytest.raises(LedgerError):
        ledger.append(connection, service.guard, "deleted", {})
    assert [] == lines(service)


def test_a_line_rolls_back_with_the_work_it_is_evidence_of(service: RideService) -> None:
    append(service, 1)
    with service.engine.connect() as connection:
        ledger.append(connection, service.guard, "batch", {"rows": 9})
        connection.rollback()
    append(service, 1)
    assert ['{"rows":0}', '{"rows":0}'] == [entry.body for entry in lines(service)]
    assert 2 == verified(service)


@pytest.mark.parametrize(
    "change",
    ["at = '2026-01-01T13:00:00.000000+00:00'", "kind = 'erased'", """body = '{"rows":0}'""", "link = {other}"],
)
def test_a_line_changed_by_raw_sql_is_named(service: RideService, database_url: str, change: str) -> None:
    append(service, 4)
    other = "x'00'" if "sqlite" in database_url else r"'\x00'"
    raw_rows(database_url, f"UPDATE privkit_ledger SET {change.replace('{other}', other)} WHERE seq = 3")
    assert (3, "changed") == broken(service)


def test_a_line_with_another_number_is_missing_where_it_was(service: RideService, database_url: str) -> None:
    append(service, 4)
    raw_rows(database_url, "UPDATE privkit_ledger SET seq = 40 WHERE seq = 2")
    assert (2, "missing") == broken(service)


def test_two_lines_that_changed_places_are_named(service: RideService, database_url: str) -> None:
    append(service, 4)
    for old, new in ((2, 99), (3, 2), (99, 3)):
        raw_rows(database_url, f"UPDATE privkit_ledger SET seq = {new} WHERE seq = {old}")
    assert (2, "changed") == broken(service)


@pytest.mark.parametrize("value", ["CAST(x'ff' AS TEXT)", "x'ff'", "7", "12345678901234", "'text'"])
@pytest.mark.parametrize("column", ["at", "kind", "body", "link"])
def test_a_value_of_another_type_is_a_changed_line_and_no_accident(
    sqlite_url: str, tmp_path: Path, column: str, value: str
) -> None:
    service = ride_service(sqlite_url, tmp_path, Clock())
    append(service, 2)
    raw_rows(sqlite_url, f"UPDATE privkit_ledger SET {column} = {value} WHERE seq = 1")
    assert (1, "changed") == broken(service)
    service.engine.dispose()


def test_a_deleted_line_is_named(service: RideService, database_url: str) -> None:
    append(service, 4)
    raw_rows(database_url, "DELETE FROM privkit_ledger WHERE seq = 2")
    assert (2, "missing") == broken(service)


def test_a_deleted_tail_is_seen_by_whoever_noted_the_checkpoint(service: RideService, database_url: str) -> None:
    append(service, 4)
    with service.engine.connect() as connection:
        checkpoint = ledger.verify(connection, service.guard).checkpoint
    raw_rows(database_url, "DELETE FROM privkit_ledger WHERE seq > 2")
    assert 2 == verified(service)
    assert (3, "missing") == broken(service, checkpoint)
    append(service, 3)
    assert 5 == verified(service)
    assert (4, "changed") == broken(service, checkpoint)


def test_another_keyring_does_not_verify_it(service: RideService, database_url: str, tmp_path: Path) -> None:
    append(service, 1)
    (tmp_path / "other").mkdir()
    other = ride_service(database_url, tmp_path / "other", Clock())
    assert (1, "changed") == broken(other)
    other.engine.dispose()


def test_two_writers_at_once_make_one_chain(service: RideService) -> None:
    with ThreadPoolExecutor(2) as pool:
        for written in [pool.submit(append, service, 200) for _ in range(2)]:
            written.result()
    assert 400 == verified(service)
    assert list(range(1, 401)) == [entry.seq for entry in lines(service)]


def test_a_writer_waits_for_the_line_of_an_open_transaction(service: RideService) -> None:
    """The second writer has sent its first statement while the first writer still holds its line back."""
    begun = Event()
    with ThreadPoolExecutor(1) as pool:
        with service.engine.begin() as connection:
            ledger.append(connection, service.guard, "batch", {"writer": 1})
            event.listen(service.engine, "before_cursor_execute", lambda *_: begun.set())
            second = pool.submit(append, service, 1)
            assert begun.wait(timeout=30)
        second.result()
    assert ['{"writer":1}', '{"rows":0}'] == [entry.body for entry in lines(service)]
    assert 2 == verified(service)


def test_an_appended_line_costs_three_statements(service: RideService) -> None:
    sent: list[str] = []
    append(service, 1)  # the first one asks whether there is a copy outside
    event.listen(service.engine, "before_cursor_execute", lambda *call: sent.append(call[2]))
    append(service, 1)
    assert 3 == len(sent)


CHILD = """
import sys
from pathlib import Path
from privkit.sqlalchemy import ledger
from tests.sqlalchemy.rides import Clock, ride_service

service = ride_service(sys.argv[1], Path(sys.argv[2]), Clock())
with service.engine.begin() as connection:
    ledger.append(connection, service.guard, "batch", {"rows": 99})
    print("appended", flush=True)
    sys.stdin.read()
"""


def test_a_writer_killed_before_its_commit_leaves_no_line(
    service: RideService, database_url: str, tmp_path: Path
) -> None:
    append(service, 2)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-c", CHILD, database_url, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            assert "appended\n" == child.stdout.readline()
        finally:
            child.kill()
    append(service, 1)
    assert ['{"rows":0}', '{"rows":1}', '{"rows":0}'] == [entry.body for entry in lines(service)]
    assert 3 == verified(service)


async def test_asyncio_connections_append_too(async_database_url: str, database_url: str, tmp_path: Path) -> None:
    service = ride_service(database_url, tmp_path, Clock())
    engine = create_async_engine(async_database_url)
    service.privacy.protect(engine)
    async with engine.begin() as connection:
        await connection.run_sync(ledger.append, service.guard, "batch", {"rows": 1})
    async with engine.connect() as connection:
        found = await connection.run_sync(ledger.verify, service.guard)
    await engine.dispose()
    assert 1 == found.count
    assert 1 == verified(service, found.checkpoint)
    service.engine.dispose()


def test_the_ledger_needs_no_purpose_and_no_criteria(service: RideService) -> None:
    table = service.guard.own_table("privkit_ledger")
    append(service, 1)
    with service.privacy.purpose("pickup"), service.engine.connect() as connection:
        assert [1] == list(connection.execute(select(table.c.seq)).scalars())
        assert 1 == ledger.verify(connection, service.guard).count


def test_models_that_declare_nothing_have_no_ledger(service: RideService) -> None:
    class Bare(DeclarativeBase):
        pass

    bare = Privacy(policy=POLICY, models=Bare, keys=service.guard.keyring)
    with service.engine.connect() as connection, pytest.raises(NotProtectedError):
        ledger.append(connection, bare.guard, "batch", {})

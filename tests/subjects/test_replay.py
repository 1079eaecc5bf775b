"""After a backup was restored, a replay brings it to where it was: nobody who was erased is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from privkit.errors import LedgerError, ShreddedError
from tests.databases import raw_rows
from tests.meta import ROOT
from tests.sqlalchemy.restored import backup
from tests.sqlalchemy.rides import UNTIL
from tests.subjects.clinic import Clinic, Patient, clinic, patient

BY = "ada@clinic.example"


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Clinic]:
    found = clinic(database_url, tmp_path)
    yield found
    found.engine.dispose()


def state(url: str) -> list[list[tuple[object, ...]]]:
    """All that is stored of patients; an envelope by its length."""
    return [
        raw_rows(url, "SELECT id, length(email), email_ix, name, alias, bill FROM patients ORDER BY id"),
        raw_rows(url, "SELECT id, patient_id FROM visits ORDER BY id"),
        raw_rows(url, "SELECT id, text FROM letters ORDER BY id"),
        raw_rows(url, "SELECT id, wrapped IS NULL FROM privkit_key ORDER BY id"),
    ]


def leave(place: Clinic, number: int) -> None:
    with place.privacy.purpose("care"), Session(place.engine) as session:
        session.get_one(Patient, number).left_at = datetime(2025, 1, 1)
        session.commit()


def test_what_was_erased_and_purged_since_the_backup_is_gone_again(
    place: Clinic, database_url: str, tmp_path: Path
) -> None:
    place.admit(patient(1), patient(2, letters=1), patient(3, bill="planted bill"), patient(4))
    leave(place, 4)
    place.engine.dispose()
    with backup(database_url) as restore:
        for number in (1, 2, 3):
            place.privacy.erase(place.engine, place.key_of(number), by=BY)
        assert place.privacy.purge(place.engine, place.privacy.plan(place.engine)).ok
        expected = state(database_url)
        place.engine.dispose()
        restore()
    assert expected != state(database_url)
    again = clinic(database_url, tmp_path)
    with pytest.raises(ShreddedError):
        again.email(1)
    assert None is again.email(3)
    done = again.privacy.replay(again.engine)
    assert (True, 0, True) == (done.ok, done.left, done.lines > 0)
    assert expected == state(database_url)
    second = again.privacy.replay(again.engine)
    assert (0, 0, 0, 0, True) == (second.lines, second.fields, second.rows, second.run.done, second.ok)
    assert expected == state(database_url)
    again.privacy.verify_ledger(again.engine)
    again.engine.dispose()


def test_who_got_a_fresh_key_since_the_backup_lives_on_in_it_and_can_be_erased_under_either(
    place: Clinic, database_url: str, tmp_path: Path
) -> None:
    place.admit(patient(1), patient(2))
    kept, email = [place.key_of(number) for number in (1, 2)], place.email(1)
    place.engine.dispose()
    with backup(database_url) as restore:
        for key_id in kept:
            assert place.privacy.reseal(place.engine, subject=key_id).ok
        place.privacy.erase(place.engine, place.key_of(2), by=BY)
        place.engine.dispose()
        restore()
    again = clinic(database_url, tmp_path)
    assert email == again.email(1)
    with pytest.raises(ShreddedError):
        again.email(2)
    assert again.privacy.replay(again.engine).ok
    assert [(1,)] == raw_rows(database_url, "SELECT id FROM patients")
    assert email == again.email(1)
    again.engine.dispose()


def test_key_tables_that_were_restored_without_the_ledger_are_caught_up_too(place: Clinic, database_url: str) -> None:
    place.admit(patient(1), patient(2))
    copied = ("privkit_key", "patients", "visits", "letters")
    for table in copied:
        raw_rows(database_url, f"CREATE TABLE old_{table} AS SELECT * FROM {table}")
    place.privacy.erase(place.engine, place.key_of(1), by=BY)
    for table in reversed(copied):
        raw_rows(database_url, f"DELETE FROM {table}")
    for table in copied:
        raw_rows(database_url, f"INSERT INTO {table} SELECT * FROM old_{table}")
    done = place.privacy.replay(place.engine)
    assert (True, 0, 0) == (done.ok, done.left, done.lines)
    assert [(2,)] == raw_rows(database_url, "SELECT id FROM patients")
    assert [(1,)] == raw_rows(database_url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NULL")


def test_before_the_replay_nothing_unsealed_of_the_erased_is_readable(
    place: Clinic, database_url: str, tmp_path: Path
) -> None:
    place.admit(patient(1, letters=1), patient(2, bill="planted bill", letters=1))
    place.engine.dispose()
    with backup(database_url) as restore:
        for number in (1, 2):
            place.privacy.erase(place.engine, place.key_of(number), by=BY)
        place.engine.dispose()
        restore()
    again = clinic(database_url, tmp_path)
    assert [("", None, None), ("", None, "planted bill")] == raw_rows(
        database_url, "SELECT name, alias, bill FROM patients ORDER BY id"
    )
    assert [(None,), (None,)] == raw_rows(database_url, "SELECT text FROM letters")
    again.engine.dispose()


def test_a_hold_keeps_rows_from_a_replay_and_makes_it_red(place: Clinic, database_url: str, tmp_path: Path) -> None:
    place.admit(patient(1), patient(2))
    place.engine.dispose()
    with backup(database_url) as restore:
        place.privacy.erase(place.engine, place.key_of(1), by=BY)
        hold = place.privacy.hold(place.engine, reason="a court", by="counsel", until=UNTIL, table="visits")
        place.engine.dispose()
        restore()
    again = clinic(database_url, tmp_path)
    red = again.privacy.replay(again.engine)
    assert (False, 2) == (red.ok, red.left)
    assert [(4,)] == raw_rows(database_url, "SELECT count(*) FROM visits")
    again.privacy.release(again.engine, hold, by="counsel")
    assert again.privacy.replay(again.engine).ok
    assert [(2,)] == raw_rows(database_url, "SELECT count(*) FROM visits")
    again.engine.dispose()


def test_on_a_database_that_was_not_restored_nothing_happens(place: Clinic, database_url: str) -> None:
    place.admit(patient(1), patient(2))
    before = state(database_url)
    done = place.privacy.replay(place.engine)
    assert (0, 0, 0, 0, True) == (done.lines, done.fields, done.rows, done.run.done, done.ok)
    assert before == state(database_url)


def test_without_a_copy_outside_it_is_refused(database_url: str, tmp_path: Path) -> None:
    alone = clinic(database_url, tmp_path, outside=False)
    with pytest.raises(LedgerError, match="No copy of the ledger"):
        alone.privacy.replay(alone.engine)
    alone.engine.dispose()


CHILD = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from tests.subjects.clinic import clinic

place = clinic(sys.argv[1], Path(sys.argv[2]))
left = [int(sys.argv[3])]

def die(*_):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(place.engine, sys.argv[4], die)
place.privacy.replay(place.engine)
print("done")
"""


@pytest.mark.parametrize("moment", ["commit", "before_cursor_execute"])
def test_a_replay_that_is_killed_again_and_again_ends_as_one_that_was_not(
    place: Clinic, database_url: str, tmp_path: Path, moment: str
) -> None:
    place.admit(*(patient(number, letters=number % 2) for number in range(1, 5)))
    place.engine.dispose()
    with backup(database_url) as restore:
        for number in (1, 2, 3):
            place.privacy.erase(place.engine, place.key_of(number), by=BY)
        expected = state(database_url)
        place.engine.dispose()
        restore()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    codes = []
    for number in (1, 2, 3, 1000) if moment == "commit" else (8, 30, 60, 1000):
        command = [sys.executable, "-c", CHILD, database_url, str(tmp_path), str(number), moment]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        codes.append(ended.returncode)
    assert [-signal.SIGKILL] * 3 + [0] == codes, ended.stderr
    assert "done\n" == ended.stdout
    assert expected == state(database_url)
    again = clinic(database_url, tmp_path)
    again.privacy.verify_ledger(again.engine)
    again.engine.dispose()

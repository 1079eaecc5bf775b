"""What lies outside the database goes with its row: later where it must, once in the ledger, and never silently not."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import (
    Adopting,
    DirectoryStore,
    Equality,
    FileKeyring,
    Personal,
    Plain,
    Privacy,
    data_subject,
    events,
    not_personal,
)
from privkit.errors import InvalidValue, MappingError, SealedError
from privkit.retention import Files
from tests.databases import raw_rows
from tests.meta import ROOT
from tests.retention.gallery import LONG_AGO, POLICY, Gallery, Picture, Print, Sitter, gallery
from tests.sqlalchemy.rides import UNTIL

OUTBOX = "SELECT count(*) FROM privkit_outbox"


class Failing(DirectoryStore):
    """A store that is down for a number of calls."""

    def __init__(self, path: Path, times: int) -> None:
        super().__init__(path)
        self.left = times

    def delete(self, name: str) -> None:
        if self.left:
            self.left -= 1
            raise ConnectionError(f"no route to {name}")
        super().delete(name)


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Gallery]:
    found = gallery(database_url, tmp_path)
    yield found
    found.engine.dispose()


@pytest.fixture
def local(sqlite_url: str, tmp_path: Path) -> Iterator[Gallery]:
    """Where nothing depends on the database."""
    found = gallery(sqlite_url, tmp_path)
    yield found
    found.engine.dispose()


def pictures(count: int, closed_at: datetime | None = LONG_AGO, first: int = 1) -> list[Picture]:
    return [
        Picture(id=number, sitter_id=1, closed_at=closed_at, image=f"planted-{number}.jpg")
        for number in range(first, first + count)
    ]


def counted(place: Gallery, kind: str = "file_deleted") -> Counter[str]:
    """How many files the ledger says of each store."""
    found: Counter[str] = Counter()
    for body in map(json.loads, place.ledger(kind)):
        found[body["store"]] += body["count"]
    return found


# With its row, or its value.


def test_the_files_of_deleted_rows_are_gone_after_the_run_and_no_other_is(place: Gallery, database_url: str) -> None:
    place.add(Sitter(id=1), *pictures(20), *pictures(2, None, first=90))
    run = place.purge(batch=7)
    assert run.ok
    assert place.files() == {"planted-90.jpg", "planted-91.jpg"}
    assert counted(place) == {"pictures": 20}
    assert raw_rows(database_url, OUTBOX) == [(0,)]


def test_the_file_of_a_suppressed_value_goes_with_the_value(local: Gallery) -> None:
    local.add(Sitter(id=1, portrait="planted.png", closed_at=LONG_AGO), Sitter(id=2, portrait="other.png"))
    assert local.purge().ok
    assert local.files("portraits") == {"other.png"}


def test_the_file_of_a_value_that_leaves_a_residue_goes(place: Gallery) -> None:
    place.add(Sitter(id=1), Print(id=1, sitter_id=1, closed_at=LONG_AGO, scan="planted.tif"))
    assert place.purge().ok
    assert place.files() == set()
    assert place.purge().done == 0
    assert counted(place) == {"pictures": 1}


def test_a_name_that_is_sealed_in_an_epoch_is_read_before_the_epochs_key_is_destroyed(
    place: Gallery, database_url: str
) -> None:
    place.add(Sitter(id=1), Print(id=1, sitter_id=1, closed_at=LONG_AGO, scan="scan.tif", proof="planted.tif"))
    assert place.purge().ok
    assert place.files() == set()
    assert raw_rows(database_url, "SELECT count(*) FROM privkit_epoch WHERE wrapped IS NOT NULL") == [(0,)]


def test_held_rows_keep_their_files(local: Gallery) -> None:
    local.add(Sitter(id=1), *pictures(3))
    local.privacy.hold(local.engine, reason="a claim", by="dpo", table="pictures", rows=[2], until=UNTIL)
    assert local.purge().ok
    assert local.files() == {"planted-2.jpg"}


def test_a_plan_deletes_no_file(place: Gallery, database_url: str) -> None:
    place.add(Sitter(id=1, portrait="planted.png", closed_at=LONG_AGO), *pictures(3))
    assert place.privacy.plan(place.engine).due == 4
    assert raw_rows(database_url, OUTBOX) == [(0,)]
    assert len(place.files() | place.files("portraits")) == 4


def test_b32_an_event_that_is_moved_after_the_plan_keeps_row_and_file(place: Gallery, database_url: str) -> None:
    place.add(Sitter(id=1), *pictures(2))
    plan = place.privacy.plan(place.engine)
    raw_rows(database_url, "UPDATE pictures SET closed_at = '2026-01-01 00:00:00' WHERE id = 1")
    place.privacy.purge(place.engine, plan, yes_this_many=plan.due)
    assert place.files() == {"planted-1.jpg"}


# A store that fails.


def test_b32_nothing_is_done_while_a_file_remains_and_a_later_run_ends_it(
    database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Failing(tmp_path / "pictures", 3)
    place = gallery(database_url, tmp_path, pictures=store)
    place.add(Sitter(id=1), *pictures(2))
    first = place.purge(workers=2)  # both fail
    assert (first.ok, first.overdue, first.files_pending) == (False, 0, 2)
    second = place.purge(workers=2)  # one fails again
    assert (second.ok, second.files_pending) == (False, 1)
    kinds = "SELECT attempts, last_error FROM privkit_outbox"
    assert raw_rows(database_url, kinds) == [(2, "ConnectionError")]
    status = place.privacy.status(place.engine)
    assert (status.ok, status.overdue, status.files_pending, status.files_overdue) == (False, 0, 1, 1)
    assert status.last is not None
    assert (status.last.result, status.proven) == ("1 files left", None)
    third = place.purge(workers=2)
    assert (third.ok, third.files_pending) == (True, 0)
    assert place.privacy.status(place.engine).ok
    assert place.files() == set()
    assert counted(place) == {"pictures": 2}
    place.engine.dispose()
    assert "planted" not in caplog.text + repr((first, second, third))


class Lost(DirectoryStore):
    """A service that does what it was asked, and whose first answer is lost."""

    lost = False

    def delete(self, name: str) -> None:
        super().delete(name)
        if not self.lost:
            self.lost = True
            raise TimeoutError


@pytest.mark.parametrize("fails", ["before", "in the middle", "after"])
def test_c38_while_an_outside_service_fails_nobody_is_reported_as_done(
    database_url: str, tmp_path: Path, fails: str
) -> None:
    """Two services: one holds portraits and works, one holds pictures. A row whose event is NULL is not due."""
    store: DirectoryStore = Lost(tmp_path / "pictures")
    if fails != "after":
        store = Failing(tmp_path / "pictures", 3 if fails == "before" else 1)
    place = gallery(database_url, tmp_path, pictures=store)
    place.add(Sitter(id=1, portrait="one.png", closed_at=LONG_AGO), Sitter(id=2, portrait="two.png"))
    place.add(*pictures(3), Print(id=1, sitter_id=1, closed_at=LONG_AGO, scan="scan.jpg"))
    first = place.purge()
    assert not first.ok
    assert first.files_pending > 0
    assert not place.privacy.status(place.engine).ok
    left = raw_rows(database_url, "SELECT count(*), count(portrait) FROM sitters WHERE id = 1 OR portrait IS NULL")
    assert left == [(1, 0)]
    assert raw_rows(database_url, OUTBOX) == [(first.files_pending,)]
    while not place.purge().ok:
        assert fails == "before"
    assert place.privacy.status(place.engine).ok
    assert (place.files(), place.files("portraits")) == (set(), {"two.png"})
    assert counted(place) == {"pictures": 4, "portraits": 1}
    place.engine.dispose()


def test_finish_files_tries_each_again_and_says_what_became_of_them(sqlite_url: str, tmp_path: Path) -> None:
    place = gallery(sqlite_url, tmp_path, pictures=Failing(tmp_path / "pictures", 4))
    place.add(Sitter(id=1), *pictures(3))
    place.purge()
    assert place.privacy.finish_files(place.engine) == Files(deleted=2, pending=1, errors={"ConnectionError": 1})
    assert place.privacy.finish_files(place.engine) == Files(deleted=1)
    assert place.privacy.finish_files(place.engine) == Files()
    place.engine.dispose()


def test_a_name_that_leaves_the_directory_deletes_nothing_and_stays_pending(local: Gallery, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    local.add(Sitter(id=1), Picture(id=1, sitter_id=1, closed_at=LONG_AGO, image="../precious.txt"))
    assert precious.exists()
    run = local.purge()
    assert (run.ok, run.files_pending) == (False, 1)
    assert precious.exists()
    assert local.privacy.finish_files(local.engine).errors == {"InvalidValue PK501": 1}


def test_the_command_tries_each_again_and_exits_1_until_none_is_left(sqlite_url: str, tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    (tmp_path / "shown.py").write_text(
        "from pathlib import Path\n"
        "from privkit import DirectoryStore\n"
        "from tests.retention.gallery import gallery\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"privacy = gallery({sqlite_url!r}, folder, pictures=DirectoryStore(folder / 'mounted')).privacy\n"
    )
    place = gallery(sqlite_url, tmp_path, pictures=DirectoryStore(mounted))
    place.add(Sitter(id=1), *pictures(2))
    assert place.purge().files_pending == 2
    place.engine.dispose()
    command = [sys.executable, "-m", "privkit.cli", "files", "--app", "shown:privacy", "--url", sqlite_url]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT, tmp_path)))}
    said = []
    for _ in range(2):
        ended = subprocess.run(command, cwd=tmp_path, env=env, timeout=120, check=False, capture_output=True, text=True)
        said.append((ended.returncode, ended.stdout.splitlines(), ended.stderr))
        mounted.mkdir(exist_ok=True)
    assert said == [
        (1, ["files whose rows are gone: 0 deleted, 2 left", "kept by FileNotFoundError: 2"], ""),
        (0, ["files whose rows are gone: 2 deleted, 0 left"], ""),
    ]


# Killed in between.


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_b29_a_run_that_is_killed_after_a_file_is_ended_by_the_next_with_each_file_once_in_the_ledger(
    database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("sqlite_url" if database == "sqlite" else "pg_url")
    place = gallery(url, tmp_path)
    place.add(Sitter(id=1), *pictures(9))
    command = [sys.executable, "-m", "tests.retention.gallery", url, str(tmp_path)]
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    for left in (8, 7):
        assert subprocess.run(command, cwd=ROOT, env=env, timeout=120, check=False).returncode == -9
        assert len(place.files()) == left
    assert len(place.ledger("batch")) == 1  # the second one was killed at the files that the first one had left
    assert raw_rows(url, OUTBOX) == [(3,)]
    assert place.purge(batch=3).ok
    assert place.files() == set()
    assert counted(place) == {"pictures": 9}
    assert raw_rows(url, OUTBOX) == [(0,)]
    place.engine.dispose()


def test_b29_with_nothing_due_a_run_still_ends_what_was_left(local: Gallery) -> None:
    local.add(Sitter(id=1), *pictures(3))

    class Killed(BaseException):
        pass

    def end(name: str) -> None:
        raise Killed

    store = local.privacy.guard.stores["pictures"]
    local.privacy.guard.stores["pictures"] = type("Ends", (), {"delete": staticmethod(end)})()
    with pytest.raises(Killed):
        local.purge()
    local.privacy.guard.stores["pictures"] = store
    assert local.privacy.plan(local.engine).due == 0
    assert len(local.files()) == 3
    assert local.purge().ok
    assert local.files() == set()


def test_a_batch_that_is_rolled_back_leaves_its_files(place: Gallery, database_url: str) -> None:
    place.add(Sitter(id=1), *pictures(3))
    if database_url.startswith("sqlite"):
        when = "BEFORE DELETE ON pictures WHEN old.id = 2"
        raw_rows(database_url, f"CREATE TRIGGER hangs {when} BEGIN SELECT RAISE(ABORT, 'hangs'); END")
    else:
        raw_rows(database_url, "CREATE TABLE frames (picture INTEGER REFERENCES pictures (id))")
        raw_rows(database_url, "INSERT INTO frames VALUES (2)")
    run = place.purge()
    assert [each.failed for each in run.outcomes if each.step.name == "pictures"] == [1]
    assert place.files() == {"planted-2.jpg"}
    assert counted(place) == {"pictures": 2}


# Shared.


@pytest.mark.parametrize("field", ["image", "thumbnail"])
def test_e17_a_file_of_two_rows_is_kept_until_the_last_is_gone(place: Gallery, database_url: str, field: str) -> None:
    first, last = pictures(1), pictures(1, None, first=2)
    for row in (*first, *last):
        setattr(row, field, "shared.jpg")
    place.add(Sitter(id=1), *first, *last)
    assert place.purge().ok
    assert "shared.jpg" in place.files()
    assert counted(place, "file_kept") == {"pictures": 1}
    raw_rows(database_url, "UPDATE pictures SET closed_at = '2025-01-01 00:00:00'")
    assert place.purge().ok
    assert place.files() == set()


def test_a_file_that_two_fields_name_is_kept_until_neither_does(local: Gallery, sqlite_url: str) -> None:
    local.add(Sitter(id=1), Print(id=1, sitter_id=1, scan="planted-1.jpg"), *pictures(1))
    assert local.purge().ok
    assert local.files() == {"planted-1.jpg"}
    raw_rows(sqlite_url, "UPDATE prints SET closed_at = '2025-01-01 00:00:00'")
    assert local.purge().ok
    assert local.files() == set()


def test_a_file_that_two_rows_of_a_batch_name_is_counted_once(local: Gallery) -> None:
    rows = pictures(150)
    for row in rows:
        row.image = "shared.jpg"
    local.add(Sitter(id=1), *rows)
    assert local.purge().ok
    assert local.files() == set()
    assert counted(local) == {"pictures": 1}


# Erasure.


def test_e17_an_erasure_shows_what_is_pending_and_doing_it_again_ends_it(database_url: str, tmp_path: Path) -> None:
    store = Failing(tmp_path / "portraits", 2)
    place = gallery(database_url, tmp_path, portraits=store)
    place.add(Sitter(id=1, portrait="planted.png"), *pictures(2, None), Sitter(id=2, portrait="other.png"))
    key = place.key_of(1)
    first = place.privacy.erase(place.engine, key, by="planted name")
    assert (first.files_pending, place.files(), len(place.files("portraits"))) == (1, set(), 2)
    assert raw_rows(database_url, "SELECT count(*) FROM pictures") == [(0,)]
    assert place.privacy.erase(place.engine, key, by="planted name").files_pending == 1
    assert place.privacy.erase(place.engine, key, by="planted name").files_pending == 0
    assert place.files("portraits") == {"other.png"}
    assert counted(place) == {"portraits": 1, "pictures": 2}
    place.engine.dispose()


def test_the_names_outlive_their_key_sealed_and_nobodys_eyes_see_them(sqlite_url: str, tmp_path: Path) -> None:
    place = gallery(sqlite_url, tmp_path, pictures=Failing(tmp_path / "pictures", 9))
    row = Picture(id=1, sitter_id=1, image="planted-1.jpg", thumbnail="planted-small.jpg")
    place.add(Sitter(id=1), row)
    erasure = place.privacy.erase(place.engine, place.key_of(1), by="dpo")
    assert erasure.files_pending == 2
    lines = raw_rows(sqlite_url, "SELECT body FROM privkit_ledger")
    outbox = raw_rows(sqlite_url, "SELECT store, name, subject, last_error FROM privkit_outbox")
    assert len(outbox) == 2
    assert "planted" not in repr((lines, outbox, erasure, place.privacy.finish_files(place.engine)))
    assert place.privacy.scan_envelopes(place.engine) == [
        each for each in place.privacy.scan_envelopes(place.engine) if each.declared
    ]
    place.engine.dispose()


@pytest.mark.parametrize("field", ["thumbnail", "image"])
def test_after_a_restore_the_files_of_rows_that_come_back_go_where_their_names_can_be_read(
    sqlite_url: str, tmp_path: Path, field: str
) -> None:
    place = gallery(sqlite_url, tmp_path, outside=True)
    place.add(Sitter(id=1), Picture(id=1, sitter_id=1, image="sealed.jpg", thumbnail="plain.jpg"))
    place.engine.dispose()
    database = tmp_path / "test.sqlite"
    backup = database.read_bytes()
    place.privacy.erase(place.engine, place.key_of(1), by="dpo")
    place.engine.dispose()
    database.write_bytes(backup)
    for name in ("sealed.jpg", "plain.jpg"):
        (tmp_path / "pictures" / name).write_text("planted")
    again = gallery(sqlite_url, tmp_path, outside=True)
    done = again.privacy.replay(again.engine)
    assert (done.ok, done.rows) == (True, 2)
    assert again.files() == {"sealed.jpg"}  # its name was destroyed with the key, when the file was written down
    assert counted(again, "file_unknown") == {"pictures": 1}
    again.engine.dispose()


# Names that do not open.


def test_a_row_whose_name_was_moved_there_stays_with_both_files_and_the_run_is_red(
    place: Gallery, database_url: str
) -> None:
    place.add(Sitter(id=1), Sitter(id=2), *pictures(2))
    raw_rows(database_url, "UPDATE pictures SET sitter_id = 2 WHERE id = 2")
    run = place.purge()
    assert not run.ok
    assert [outcome.unopened for outcome in run.outcomes if outcome.step.name == "pictures"] == [1]
    assert raw_rows(database_url, "SELECT id FROM pictures") == [(2,)]
    assert place.files() == {"planted-2.jpg"}


def test_an_erasure_that_would_lose_a_name_erases_nothing(local: Gallery, sqlite_url: str) -> None:
    local.add(Sitter(id=1), Sitter(id=2), *pictures(2, None))
    raw_rows(sqlite_url, "UPDATE pictures SET sitter_id = 2 WHERE id = 2")
    with pytest.raises(SealedError, match="name of a file") as refused:
        local.privacy.erase(local.engine, local.key_of(2), by="dpo")
    assert "planted" not in str(refused.value)
    assert raw_rows(sqlite_url, "SELECT count(*) FROM pictures") == [(2,)]
    assert raw_rows(sqlite_url, "SELECT count(*) FROM privkit_key WHERE wrapped IS NULL") == [(0,)]
    assert len(local.files()) == 2


# What is refused.


def test_a_store_that_the_privacy_was_not_given_is_an_error_with_the_nearest_name(tmp_path: Path) -> None:
    gallery_policy = tmp_path / "policy.yaml"
    gallery_policy.write_text(POLICY)
    with pytest.raises(MappingError, match="Nearest: picture"):
        Privacy(
            gallery_policy, Picture, FileKeyring.create(tmp_path / "keys.json"), stores={"picture": DirectoryStore(".")}
        )


@pytest.mark.parametrize(
    ("kind", "marker", "why"),
    [
        (int, Personal("user.image", purposes={"show"}, file="pictures"), "is no text"),
        (
            str,
            Personal("user.image", purposes={"show"}, seal=True, file="pictures", search=Equality("case")),
            "something else than its exact text",
        ),
        (
            str,
            Personal(
                "user.image", purposes={"show"}, seal=True, file="pictures", adopting=Adopting(Plain(), beside="x")
            ),
            "is being adopted",
        ),
    ],
)
def test_a_field_that_cannot_name_files_is_an_error(kind: type, marker: Personal, why: str) -> None:
    class Other(DeclarativeBase):
        pass

    with pytest.raises(MappingError, match=why):

        @data_subject
        @events(closed="closed_at")
        @not_personal("id", "closed_at", because="row id and event time")
        class Album(Other):
            __tablename__ = "albums"
            id: Mapped[int] = mapped_column(primary_key=True)
            cover: Mapped[Annotated[kind, marker]]  # type: ignore[valid-type]
            closed_at: Mapped[datetime | None]


@pytest.mark.parametrize("name", ["", ".", "..", "../other.jpg", "below/../../other.jpg", "link/other.jpg"])
def test_a_directory_store_refuses_names_that_leave_it(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    (tmp_path / "other.jpg").write_text("other")
    with pytest.raises(InvalidValue) as refused:
        DirectoryStore(inside).delete(name)
    assert "other" not in str(refused.value).replace("Another", "")
    assert (tmp_path / "other.jpg").exists()


def test_a_directory_store_deletes_a_link_and_not_what_it_leads_to(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "other.jpg").write_text("other")
    (inside / "link.jpg").symlink_to(tmp_path / "other.jpg")
    store = DirectoryStore(inside)
    store.delete("link.jpg")
    store.delete("link.jpg")
    store.delete("never/was.jpg")
    assert (tmp_path / "other.jpg").exists()
    assert list(inside.iterdir()) == []


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DirectoryStore(tmp_path / "not mounted").delete("planted.jpg")

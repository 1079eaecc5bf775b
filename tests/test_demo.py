"""The demonstration shows what it promises, and its files hold none of the values that went into it."""

from __future__ import annotations

import json
import re
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest

from privkit import GeoPoint
from privkit.demo.service import FILES, MADE_HERE, rider_rows, trip_rows
from tests.cli.program import Ended, clean_environment

RIDERS, TRIPS = 400, 2000
SECTIONS = (
    "1. A ride service: 400 riders, some of them children, and 2,000 trips",
    "2. The bytes on disk, as any other program sees them",
    "3. One row, read for different purposes",
    "4. Children's rows are not selected without a parent's consent",
    "5. A neighbourhood search on sealed coordinates",
    "6. What is due, and the purge that executes exactly this plan",
    "7. Evidence",
)


def demonstrate(folder: Path, *, riders: str = str(RIDERS), trips: str = str(TRIPS), into: str = "demo") -> Ended:
    """Run the demonstration in ``folder``, on its folder ``into``."""
    command = [sys.executable, "-m", "privkit.demo", "--riders", riders, "--trips", trips, "--folder", into]
    process = subprocess.run(
        command, cwd=folder, env=clean_environment(), capture_output=True, encoding="utf-8", timeout=300
    )
    assert "Traceback" not in process.stderr
    return Ended(process.returncode, process.stdout, process.stderr)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def shown(place: Path) -> Ended:
    """One demonstration into a folder that did not exist."""
    return demonstrate(place)


def texts() -> list[str]:
    return [text for row in rider_rows(RIDERS) for text in (row["name"], row["email"])]


def points() -> list[GeoPoint]:
    homes = [row["home"] for row in rider_rows(RIDERS) if row["home"] is not None]
    return homes + [point for row in trip_rows(TRIPS, RIDERS) for point in (row["start"], row["finish"])]


def forms(point: GeoPoint) -> list[bytes]:
    """A coordinate as it could stand on a disk: digits, as text and JSON have them, or the bytes of a float."""
    degrees = (point.lat, point.lon)
    digits = [each for number in degrees for each in (repr(number).encode(), f"{number:.5f}".encode())]
    floats = [struct.pack(form, number) for number in degrees for form in ("<d", ">d")]
    return digits + floats


def found(stored: bytes, needles: Iterable[bytes]) -> list[bytes]:
    return [needle for needle in needles if needle in stored]


def test_it_ends_well_and_shows_every_section_in_order(shown: Ended) -> None:
    assert (0, "") == (shown.code, shown.err)
    assert list(SECTIONS) == [line for line in shown.out.splitlines() if re.match(r"\d\. ", line)]


def test_nothing_is_overdue_after_the_purge(shown: Ended) -> None:
    before = re.search(r"overdue before: ([\d,]+)", shown.out)
    assert before is not None
    assert before[1] not in ("", "0")
    assert f"destroyed {before[1]}; overdue after: 0" in shown.out


def test_it_finds_no_planted_value_and_finds_what_is_not_personal(shown: Ended) -> None:
    planted = re.search(r"planted values found in the files: 0 of (\d+) looked for", shown.out)
    plain = re.search(r"for comparison, what is not personal: (\d+) of (\d+) found", shown.out)
    assert planted is not None
    assert plain is not None
    assert int(planted[1]) > 500
    assert plain[1] == plain[2] != "0"


def test_it_refuses_reads_for_the_wrong_purpose_and_of_children(shown: Ended) -> None:
    said = " ".join(shown.out.split())
    for refused in (
        "PurposeError: riders.email is not needed for 'pickup'.",
        "StatementRefused: ",
        "ConsentRequired: ",
    ):
        assert refused in said
    assert "a child: None after a guardian's consent for pickup: selected" in said


def test_it_shows_no_value_of_anybody(shown: Ended) -> None:
    assert [] == found(shown.out.encode(), (text.encode() for text in texts()))


def test_it_is_readable_in_eighty_columns(shown: Ended) -> None:
    assert max(map(len, shown.out.splitlines())) <= 80


def test_no_name_and_no_address_stands_in_any_file(shown: Ended, place: Path) -> None:
    for path in (place / "demo").iterdir():
        stored = path.read_bytes()
        assert [] == found(stored, (text.encode() for text in texts())), path.name
        assert [] == found(stored, (text.encode("utf-16-le") for text in texts())), path.name


def test_no_coordinate_stands_in_the_database_or_its_log(shown: Ended, place: Path) -> None:
    names = ("rides.sqlite", "rides.sqlite-wal")
    stored = b"".join((place / "demo" / name).read_bytes() for name in names if (place / "demo" / name).exists())
    assert len(stored) > 100_000
    assert [] == found(stored, (form for point in points() for form in forms(point)))


def test_the_same_search_finds_what_another_program_stores(tmp_path: Path) -> None:
    riders = list(islice(rider_rows(RIDERS), 20))
    with closing(sqlite3.connect(tmp_path / "plain.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE riders (name TEXT, email TEXT, lat REAL, little BLOB, home TEXT)")
        for row in riders:
            lat, lon = row["home"].lat, row["home"].lon
            stored = (row["name"], row["email"], lat, struct.pack("<d", lat), json.dumps({"lat": lat, "lon": lon}))
            connection.execute("INSERT INTO riders VALUES (?, ?, ?, ?, ?)", stored)
    stored_bytes = (tmp_path / "plain.sqlite").read_bytes()
    for row in riders:
        lat = row["home"].lat
        needles = [repr(lat).encode(), struct.pack("<d", lat), struct.pack(">d", lat)]
        assert needles == [each for each in found(stored_bytes, forms(row["home"])) if each in needles]
        assert 2 == len(found(stored_bytes, [row["name"].encode(), row["email"].encode()]))


def test_the_rows_are_the_same_at_each_call() -> None:
    assert list(rider_rows(60)) == list(rider_rows(60))
    assert list(trip_rows(60, 60)) == list(trip_rows(60, 60))


def test_the_report_is_written(shown: Ended, place: Path) -> None:
    assert "the auditor's report: demo/report.html" in shown.out
    assert "<html" in (place / "demo" / "report.html").read_text(encoding="utf-8")


def test_it_runs_again_in_the_folder_of_an_earlier_run(tmp_path: Path) -> None:
    first = demonstrate(tmp_path, riders="25", trips="30")
    keys = (tmp_path / "demo" / "keys.json").read_bytes()
    second = demonstrate(tmp_path, riders="25", trips="30")
    assert (0, 0) == (first.code, second.code)
    assert keys != (tmp_path / "demo" / "keys.json").read_bytes()


@pytest.mark.parametrize("into", ["there", "not/there/yet", "."])
def test_its_folder_may_be_there_or_not(tmp_path: Path, into: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    assert 0 == demonstrate(tmp_path, riders="25", trips="30", into=into).code
    assert "mine" == (tmp_path / "there" / "notes.txt").read_text()


@pytest.mark.parametrize("name", FILES)
def test_files_that_no_demonstration_made_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("in use")
    ended = demonstrate(tmp_path, into=".")
    assert (2, "") == (ended.code, ended.out)
    assert f"PK901: {name} was not made by a demonstration." in ended.err
    assert [name] == [path.name for path in tmp_path.iterdir()]
    assert "in use" == (tmp_path / name).read_text()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    taken = tmp_path / "taken"
    (taken / "rides.sqlite").mkdir(parents=True)
    (taken / MADE_HERE).touch()
    for into in ("file", "file/below", "taken"):
        ended = demonstrate(tmp_path, into=into)
        assert (2, "") == (ended.code, ended.out), into
        assert f"The demonstration cannot use the folder {into} (" in ended.err
        assert "--folder" in ended.err


@pytest.mark.parametrize("wrong", [{"riders": "24"}, {"riders": "many"}, {"trips": "0"}, {"trips": "-5"}])
def test_too_few_to_show_anything_is_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    ended = demonstrate(tmp_path, **wrong)
    assert (2, "") == (ended.code, ended.out)
    assert "a whole number from" in ended.err

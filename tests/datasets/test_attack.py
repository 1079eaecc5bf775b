"""``privkit dataset attack``: files are attacked as they are written; the exit code says when too many are found."""

from __future__ import annotations

import json
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner, Result

from privkit.cli.commands import app
from privkit.datasets.attack import linkage, tracks, uniqueness
from privkit.datasets.relations import files
from privkit.deidentify.attacks import Recognised
from privkit.errors import ApplicationError, InvalidValue, PrivkitError

TRIPS = """\
id,zip,age,lat,lon,time
p1,01,30,52.5,13.4,2026-03-02T19:30:00Z
p1,01,30,52.6,13.5,2026-03-02 08:00:00
p2,01,31,52.5,13.4,2026-03-02T20:30:00+01:00
p2,1,31,52.7,13.6,2026-03-02T09:00:00+01:00
p3,01,30,52.5,13.4,2026-03-02T19:30:00Z
p3,01,30,52.6,13.5,2026-03-02T08:00:00Z
p3,01,30,,13.5,2026-03-02T08:00:00Z
,99,99,52.5,13.4,2026-03-02T19:30:00Z
"""
REGISTER = """\
id,zip,age,name
p1,01,30,Ann
p2,01,31,Bob
p4,1,31,Cyd
p5,,31,Dan
p6,01,30,Eve
"""


@pytest.fixture
def trips(tmp_path: Path) -> Path:
    (tmp_path / "trips.csv").write_text(TRIPS)
    (tmp_path / "register.csv").write_text(REGISTER)
    return tmp_path / "trips.csv"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["dataset", "attack", *map(str, arguments)], env={"COLUMNS": "100"})


def test_a_person_who_is_alone_with_one_of_several_rows_is_found_once(trips: Path) -> None:
    with files(trips) as table:
        assert Recognised(3, 1) == uniqueness(table, ["zip", "age"], "id")
        assert Recognised(8, 3) == uniqueness(table, ["zip", "age"])
        with pytest.raises(InvalidValue, match="named twice"):
            uniqueness(table, ["id"], "id")


def test_a_match_counts_as_right_only_where_both_tables_tell_the_same_person(trips: Path) -> None:
    with files(trips) as table, files(trips.with_name("register.csv")) as register:
        # p2 has a row that names p2 and one that names p4, so the two contradict each other.
        assert Recognised(3, 0, 0) == linkage(table, register, ["zip", "age"], person="id", truth="id")
        assert Recognised(8, 2, 1) == linkage(table, register, ["zip", "age"], truth="id")
        assert Recognised(8, 2) == linkage(table, register, ["zip", "age"])


def test_numbers_in_one_table_match_the_same_digits_in_the_other_s_text(trips: Path, tmp_path: Path) -> None:
    duckdb.sql("SELECT 31 AS age, 'p2' AS id UNION ALL SELECT NULL, 'p9'").write_parquet(str(tmp_path / "a.parquet"))
    with files(trips) as table, files(tmp_path / "a.parquet") as other:
        assert Recognised(3, 1, 1) == linkage(table, other, ["age"], person="id", truth="id")


def test_home_and_work_are_told_in_local_time_and_missing_values_are_nobody_s(trips: Path) -> None:
    with files(trips) as table:
        found = tracks(table, ["lat", "lon", "time"], "id", zone=timezone(timedelta(hours=1)))
        # At home p1, p2 and p3 are together; only p2 works elsewhere.
        assert {"persons": 3, "found": 1} == {key: getattr(found["home and work"], key) for key in ("persons", "found")}
        assert [1, 1, 1] == [found[f"{k} most visited"].found for k in (1, 2, 3)]
        # In UTC 19:30 is no night, so nobody has a home.
        assert Recognised(3, 0) == tracks(table, ["lat", "lon", "time"], "id")["home and work"]
        # One cell of a continent holds all.
        assert {0} == {each.found for each in tracks(table, ["lat", "lon", "time"], "id", resolution=0).values()}


def test_a_place_that_is_a_name_is_one_place(trips: Path) -> None:
    with files(trips) as table:
        assert Recognised(3, 1) == tracks(table, ["zip", "time"], "id")["2 most visited"]


def test_every_attack_is_printed_as_json_and_no_value_of_anybody(trips: Path) -> None:
    every = ("--quasi", "zip,age", "--person", "id", "--with", trips.with_name("register.csv"), "--on", "zip,age")
    ended = run(trips, *every, "--truth", "id", "--track", "lat,lon,time", "--offset", "1", "--json")
    assert 0 == ended.exit_code
    body = json.loads(ended.stdout)
    tops = [f"{k} most visited" for k in (1, 2, 3)]
    assert ["uniqueness", "linkage", "home and work", *tops] == list(body)
    assert {"persons": 3, "found": 1, "right": None, "share": pytest.approx(1 / 3)} == body["uniqueness"]
    shown = run(trips, *every, "--track", "lat,lon,time").output
    assert "33.3%" in shown
    for value in ("p1", "p2", "52.", "2026", "Ann"):
        assert value not in shown
        assert value not in ended.output


def test_a_share_above_the_bound_ends_with_1_and_names_the_attack(trips: Path) -> None:
    assert 0 == run(trips, "--quasi", "zip,age", "--person", "id", "--max-share", "0.34").exit_code
    ended = run(trips, "--quasi", "zip,age", "--person", "id", "--max-share", "0.33", "--json")
    assert 1 == ended.exit_code
    assert 1 == json.loads(ended.stdout)["uniqueness"]["found"]
    assert "uniqueness: 0.3333 of 3." in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), ApplicationError),
        (("--on", "zip"), ApplicationError),
        (("--with", "register.csv"), ApplicationError),
        (("--quasi", "zip", "--truth", "id"), ApplicationError),
        (("--track", "lat,lon,time"), ApplicationError),
        (("--track", "time", "--person", "id"), InvalidValue),
        (("--track", "lat,lon,tme", "--person", "id"), InvalidValue),
        (("--track", "lat,far,time", "--person", "id"), InvalidValue),
        (("--track", "far,lon,time", "--person", "id"), InvalidValue),
        (("--track", "lat,lon,zip", "--person", "id"), ApplicationError),
        (("--with", "register.csv", "--on", "lat"), InvalidValue),
        (("--with", "register.csv", "--on", "zip", "--person", "name"), InvalidValue),
    ],
)
def test_what_cannot_be_attacked_is_an_error_that_shows_no_value(
    trips: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, error: type[PrivkitError]
) -> None:
    monkeypatch.chdir(trips.parent)
    trips.write_text(TRIPS.replace("\n", ",999\n").replace("time,999", "time,far"))
    ended = run("trips.csv", *arguments)
    assert error is type(ended.exception)
    assert "99" not in str(ended.exception)


def test_where_nobody_was_attacked_no_bound_is_kept(trips: Path) -> None:
    trips.write_text(TRIPS.splitlines()[0] + "\n")
    assert 0 == run(trips, "--quasi", "zip").exit_code
    assert 1 == run(trips, "--quasi", "zip", "--max-share", "1").exit_code

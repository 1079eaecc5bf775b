"""Two releases are subtracted as a reader would: no cell may differ by a few."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from privkit.cli.commands import app
from privkit.deidentify.releases import Difference, check_difference, compare
from privkit.errors import InvalidValue, ReleaseRefused
from tests.datasets.engines import Make, in_database, lite

SUMMARY = {"month": str, "city": str, "visits": int}
EARLIER = [("2026-01", "Ulm", 40), ("2026-01", None, 12), ("2026-01", "Bonn", 10)]
LATER = [("2026-01", "Ulm", 41), ("2026-01", None, 12), ("2026-01", "Bonn", 30), ("2026-02", "Ulm", 11)]
ROWS = {"city": str, "person": str}


def test_a_cell_of_a_summary_that_grew_by_one_tells_that_one(make: Make) -> None:
    found = compare(make(SUMMARY, EARLIER), make(SUMMARY, LATER), by=["month", "city"], count="visits")
    assert ((1, 1), (11, 1), (20, 1)) == found.sizes
    assert (1, 1) == (found.smallest, found.below(11))
    with pytest.raises(ReleaseRefused, match=r"1 cells differ by fewer than 10: the smallest by 1\.") as refused:
        check_difference(found, at_least=10)
    assert "Ulm" not in str(refused.value)


def test_a_cell_that_is_gone_differs_by_all_of_it(make: Make) -> None:
    found = compare(make(SUMMARY, LATER), make(SUMMARY, EARLIER[:1]), by=["month", "city"], count="visits")
    assert ((1, 1), (11, 1), (12, 1), (30, 1)) == found.sizes


def test_persons_who_came_and_who_left_do_not_make_up_for_each_other(make: Make) -> None:
    before = make(ROWS, [("Ulm", f"p{number}") for number in range(20)] + [("Ulm", "p1"), ("Ulm", None)])
    now = make(ROWS, [("Ulm", f"p{number}") for number in range(1, 21)] + [(None, "p1")])
    found = compare(before, now, by=["city"], person="person")
    assert ((1, 3),) == found.sizes  # p0 left Ulm, p20 came, and p1 has come to a city that is not known


def test_equal_releases_tell_nothing_more(make: Make) -> None:
    table = make(SUMMARY, EARLIER)
    found = check_difference(compare(table, table, by=["city"], count="visits"), at_least=10)
    assert Difference(("city",), ()) == found
    assert 0 == found.smallest


RELEASE = st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["p", "q", "r", None])), max_size=9)


@given(RELEASE, RELEASE)
def test_what_is_counted_is_what_sets_say(before: list[tuple[str, str]], now: list[tuple[str, str]]) -> None:
    with closing(lite()) as connection:
        tables = [in_database(connection, ROWS, rows) for rows in (before, now)]
        found = compare(*tables, by=["city"], person="person")
    members = [{row for row in rows if row[1] is not None} for rows in (before, now)]
    moved = Counter((city, "left") for city, _ in members[0] - members[1])
    moved += Counter((city, "came") for city, _ in members[1] - members[0])
    assert Counter(moved.values()) == Counter(dict(found.sizes))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["dataset", "compare", *map(str, arguments)], env={"COLUMNS": "100"})


def test_the_command_ends_with_1_where_a_few_are_told_of(tmp_path: Path) -> None:
    for name, rows in (("earlier.csv", EARLIER), ("later.csv", LATER)):
        lines = ["month,city,visits", *(",".join("" if value is None else str(value) for value in row) for row in rows)]
        (tmp_path / name).write_text("\n".join(lines))
    summaries = [tmp_path / "earlier.csv", tmp_path / "later.csv"]
    refused = run(*summaries, "--by", "month,city", "--count", "visits")
    assert (1, "") == (refused.exit_code, refused.stdout)
    assert "differ by fewer than 10" in refused.stderr
    assert "Ulm" not in refused.stderr
    allowed = run(summaries[0], summaries[0], "--by", "month,city", "--count", "visits")
    assert (0, "0 differences, the smallest of 0\n") == (allowed.exit_code, allowed.stdout)


def test_what_cannot_be_compared_is_an_error(make: Make) -> None:
    summary = make(SUMMARY, EARLIER)
    with pytest.raises(InvalidValue, match="of numbers or of persons"):
        compare(summary, summary, by=["city"])
    with pytest.raises(InvalidValue, match="There is no column 'visits'"):
        compare(summary, make(ROWS, []), by=["city"], count="visits")
    with pytest.raises(InvalidValue, match="A change of one is that one"):
        check_difference(Difference((), ()), at_least=1)

"""The table of paths names tests that exist on both databases, and leaves no path out."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.meta import ROOT

PAGE = (ROOT / "docs" / "paths.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (?P<path>[^|]+?) \|(?P<results>(?:[^|]+\|){4}) `(?P<file>[\w./]+)::(?P<test>\w+)(?:\[(?P<case>.+)\])?` \|$"
)
ROWS = [match for line in PAGE.splitlines() if (match := ROW.match(line))]
PATHS = """
    ORM add, merge, bulk_save_objects, bulk_insert_mappings, bulk update by primary key, ORM insert, ORM
    update, ORM upsert, Core insert, Core update, upsert, several rows in values, RETURNING, executemany,
    insertmanyvalues, refresh, expire, deferred, yield_per, server-side cursor, Bundle, aliased, subquery,
    CTE, UNION, from_statement, with_expression, async session, transaction, savepoint, pickle, copy, threads,
    fork, lambda, hybrid, tuple_
"""


@pytest.fixture(scope="module")
def collected() -> list[str]:
    files = sorted({row["file"] for row in ROWS})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *files]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert 0 == found.returncode, found.stdout
    return found.stdout.splitlines()


def test_every_row_of_the_table_is_understood() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and "**" not in line]
    assert len(lines) - 1 == len(ROWS)


@pytest.mark.parametrize("path", [" ".join(each.split()) for each in PATHS.split(",")])
def test_every_path_is_in_the_table(path: str) -> None:
    assert [row["path"] for row in ROWS if path in row["path"]]


def test_no_path_stands_there_twice() -> None:
    assert len({row["path"] for row in ROWS}) == len(ROWS)


def test_every_test_of_the_table_is_collected_on_both_databases(collected: list[str]) -> None:
    assert [] == [
        f"{row['path']}, {each}" for row in ROWS for each in _databases(row) if not _is_run(row, each, collected)
    ]


def _databases(row: re.Match[str]) -> list[str]:
    return ["postgresql"] if "cannot happen" in row["results"] else ["sqlite", "postgresql"]


def _is_run(row: re.Match[str], database: str, collected: list[str]) -> bool:
    name = f"{row['file']}::{row['test']}"
    alone = [f"-{line.removeprefix(name)[1:-1]}-" for line in collected if line.partition("[")[0] == name]
    wanted = [f"-{row['case']}-"] if row["case"] else []
    if "cannot happen" not in row["results"]:
        wanted.append(f"-{database}-")
    return any(all(each in ids for each in wanted) for ids in alone)

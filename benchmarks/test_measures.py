"""k, l and t of a million rows by five quasi-identifiers, against the bare GROUP BY of DuckDB and against pycanon.

The rows are made in DuckDB; each measure is the best of several rounds, in turns. pycanon needs other releases than
privkit, so an interpreter that has it (with pandas and pyarrow) is named by PRIVKIT_PYCANON_PYTHON; it reads the same
rows from a file; reading is not timed.

    PRIVKIT_PYCANON_PYTHON=pycanon/bin/python PRIVKIT_BENCH_ROWS=1000000 make bench
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from privkit.datasets.relations import database_table
from privkit.deidentify.measures import measure

ROWS = int(os.environ.get("PRIVKIT_BENCH_ROWS", "1000000"))
ROUNDS = 5
QUASI = ["age", "sex", "city", "school", "work"]
MAKE = f"""CREATE TABLE people AS SELECT
    (18 + 70 * random())::INTEGER AS age, ['f', 'm'][(1 + random())::INTEGER] AS sex,
    'city ' || (20 * random())::INTEGER AS city, 'school ' || (8 * random())::INTEGER AS school,
    'work ' || (8 * random())::INTEGER AS work, 'disease ' || (20 * random())::INTEGER AS disease,
    (50000 * random())::INTEGER AS pay, 'p' || (range // 2) AS person FROM range({ROWS})"""
BARE = f"SELECT MIN(n) FROM (SELECT COUNT(*) AS n FROM people GROUP BY {', '.join(QUASI)})"
PYCANON = """
import sys, time
import pandas
from pycanon import anonymity
people = pandas.read_parquet(sys.argv[1]).astype({"age": str})
quasi = sys.argv[2].split(",")
jobs = {
    "k": lambda: anonymity.k_anonymity(people, quasi),
    "l": lambda: anonymity.l_diversity(people, quasi, ["disease"]),
}
for name, job in jobs.items():
    started = time.perf_counter()
    found = job()
    print(name, found, time.perf_counter() - started)
"""


def best(jobs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Return the best time of each job in seconds, run in turns."""
    found = dict.fromkeys(jobs, float("inf"))
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            found[name] = min(found[name], time.perf_counter() - started)
    return found


def test_measuring_a_million_rows(benchmark: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connection = duckdb.connect()
    connection.execute("SELECT setseed(0.5)")
    connection.execute(MAKE)
    table = database_table(connection, "people")
    times = best(
        {
            "bare": lambda: connection.execute(BARE).fetchall(),
            "k": lambda: measure(table, quasi=QUASI),
            "k of persons": lambda: measure(table, quasi=QUASI, person="person"),
            "k, l, t": lambda: measure(table, quasi=QUASI, sensitive="disease"),
            "k, l, t of numbers": lambda: measure(table, quasi=QUASI, sensitive="pay"),
        }
    )
    benchmark.pedantic(measure, args=(table,), kwargs={"quasi": QUASI}, rounds=1)
    found = measure(table, quasi=QUASI, sensitive="disease")
    with capsys.disabled():
        ratios = "   ".join(f"{name} {times[name] / times['bare']:.2f}" for name in times if name != "bare")
        print(f"\n{ROWS:,} rows, {found.classes:,} classes: bare GROUP BY {times['bare']:.3f} s   {ratios}", end="")
        path = tmp_path / "people.parquet"
        connection.execute(f"COPY (SELECT {', '.join(QUASI)}, disease FROM people) TO '{path}'")
        for name, value, seconds in pycanon(path):
            ours = times["k" if name == "k" else "k, l, t"]
            print(f"   pycanon {name} {seconds / ours:.0f} times that of ours", end="")
            assert value == (found.k if name == "k" else found.distinct_l)


def pycanon(path: Path) -> list[tuple[str, int, float]]:
    """Return what pycanon measures, and how long it takes; nothing where no interpreter has it."""
    interpreter = os.environ.get("PRIVKIT_PYCANON_PYTHON")
    if not interpreter:
        print("   pycanon: PRIVKIT_PYCANON_PYTHON names no interpreter", end="")
        return []
    command = [interpreter, "-c", PYCANON, str(path), ",".join(QUASI)]
    lines = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout.splitlines()
    return [(name, int(value), float(seconds)) for name, value, seconds in map(str.split, lines)]

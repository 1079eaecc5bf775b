"""Destroying an epoch's key against the number of rows that were sealed in it: the same time for 1,000 and 1,000,000.

What is timed is all that a run does for it: find the epochs that are over, tombstone the key, write the ledger line,
commit. The rows are copies of 1,000 sealed ones, made by the database.

    make bench
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from privkit.purposes import internally
from privkit.sqlalchemy import destroy, due, shred
from tests.databases import running_server
from tests.sqlalchemy.rides import Clock, RideService
from tests.sqlalchemy.tracks import SPOT, START, Position, track_service

SEALED = 1000
COPIES = 1000
ROUNDS = 5


@pytest.fixture(params=["sqlite", "postgresql"])
def tracks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RideService]:
    clock = Clock(START)
    if request.param == "sqlite":
        service = track_service(f"sqlite:///{tmp_path / 'tracks.sqlite'}", tmp_path, clock)
        yield service
        service.engine.dispose()
        return
    with running_server() as server, server.database() as name:
        service = track_service(server.url(name), tmp_path, clock)
        yield service
        service.engine.dispose()


def seal(tracks: RideService, day: int, copies: int) -> None:
    """Store ``SEALED`` rows in the epoch of one day, and ``copies`` of each (0: one of each)."""
    moment = START + timedelta(days=day)
    with tracks.privacy.purpose("dispatch"), tracks.engine.begin() as connection:
        rows = [{"carrier_id": 1, "spot": SPOT, "recorded_at": moment} for _ in range(SEALED)]
        connection.execute(insert(Position), rows)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {copies})"
    when = moment.replace(tzinfo=None).isoformat(" ", "microseconds")
    with internally(), tracks.engine.begin() as connection:
        connection.exec_driver_sql(
            f"{numbers} INSERT INTO positions (carrier_id, spot, recorded_at) SELECT carrier_id, spot, recorded_at "
            f"FROM positions, n WHERE recorded_at = '{when}'"
            if tracks.engine.dialect.name == "sqlite"
            else f"INSERT INTO positions (carrier_id, spot, recorded_at) {numbers} "
            f"SELECT carrier_id, spot, recorded_at FROM positions, n WHERE recorded_at = '{when}'"
        )


def destroyed_in(tracks: RideService, day: int) -> float:
    """Destroy what is over a month after ``day``, and return how many seconds that took."""
    guard = tracks.guard
    (target,) = [each for each in due.targets(guard) if each.field == "positions.spot"]
    now = START + timedelta(days=day + 31)
    started = time.perf_counter()
    with internally(), tracks.engine.begin() as connection:
        predicate: Any = due.due(guard, target, lambda: now)
        found = [tuple(row) for row in connection.execute(select(*destroy.key_columns(target.table)).where(predicate))]
        count = shred.destroy_epochs(connection, guard, found)
    assert count == 1
    return time.perf_counter() - started


def test_destroying_an_epoch(tracks: RideService, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for day in range(ROUNDS):
        seal(tracks, day, 0)
    destroyed_in(tracks, 0)
    few = min(destroyed_in(tracks, day) for day in range(1, ROUNDS))
    days = [ROUNDS, ROUNDS + 1]
    for day in days:
        seal(tracks, day, COPIES)
    many = min(destroyed_in(tracks, day) for day in days)
    seal(tracks, ROUNDS + 2, 0)
    benchmark.pedantic(destroyed_in, args=(tracks, ROUNDS + 2), rounds=1)
    with capsys.disabled():
        rows = SEALED * (COPIES + 1)
        print(
            f"\n{tracks.engine.dialect.name:10} an epoch of {SEALED:,} rows {few * 1e3:8.2f} ms"
            f"   of {rows:,} rows {many * 1e3:8.2f} ms   ratio {many / few:6.2f}"
        )

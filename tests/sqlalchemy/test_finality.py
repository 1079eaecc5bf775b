"""From when on a destroyed key is unreadable here, and final everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from privkit.sqlalchemy.finality import finality
from tests.sqlalchemy.rides import Clock, RideService
from tests.sqlalchemy.tracks import POLICY, START, track_service

MEMORY = timedelta(minutes=5)


@pytest.fixture
def clock() -> Clock:
    return Clock(START)


@pytest.fixture
def tracks(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[RideService]:
    found = track_service(database_url, tmp_path, clock)
    yield found
    found.engine.dispose()


def test_the_first_roll_counts_from_the_first_key(tracks: RideService, clock: Clock) -> None:
    clock.now = START + timedelta(days=10)
    with tracks.engine.connect() as connection:
        found = finality(connection, tracks.guard)

    assert clock.now + MEMORY == found.unreadable_by
    assert START + timedelta(days=90) == found.final_by
    assert "unreadable here by 2026-03-11 12:05:00 UTC, final everywhere by 2026-05-30 12:00 UTC" in str(found)


def test_a_roll_that_is_late_promises_nothing(tracks: RideService, clock: Clock) -> None:
    clock.now = START + timedelta(days=91)
    with tracks.engine.connect() as connection:
        found = finality(connection, tracks.guard)

    assert found.final_by is None
    assert "was due at 2026-05-30" in str(found)


def test_after_a_roll_the_next_one_counts_from_it(tracks: RideService, clock: Clock) -> None:
    clock.now = START + timedelta(days=91)
    tracks.privacy.roll_keys(tracks.engine)
    with tracks.engine.connect() as connection:
        found = finality(connection, tracks.guard)

    assert clock.now + timedelta(days=90) == found.final_by


def test_without_a_planned_roll_it_says_so(sqlite_url: str, tmp_path: Path, clock: Clock) -> None:
    tracks = track_service(sqlite_url, tmp_path, clock, POLICY.replace("keys: {roll: P90D}\n", ""))
    with tracks.engine.connect() as connection:
        found = finality(connection, tracks.guard)
    tracks.engine.dispose()

    assert found.final_by is None
    assert "the policy plans none" in str(found)


def test_a_run_says_when_what_it_destroyed_is_final(tracks: RideService) -> None:
    run = tracks.privacy.purge(tracks.engine, tracks.privacy.plan(tracks.engine))

    assert (START + MEMORY, START + timedelta(days=90)) == (run.finality.unreadable_by, run.finality.final_by)

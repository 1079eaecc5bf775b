"""The ride service, once on SQLite and once on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sqlalchemy.rides import Clock, RideService, ride_service


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[RideService]:
    found = ride_service(database_url, tmp_path, clock)
    yield found
    found.engine.dispose()

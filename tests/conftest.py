"""Fixtures for every test: real SQLite files and a real PostgreSQL, never a stand-in."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.databases import Server, running_server

_STORAGE_FIXTURES = {"sqlite_url", "pg_server", "pg_url", "database_url", "async_database_url"}

# Databases in memory: a third of the time would go into waiting for a disk.
if "TMPDIR" not in os.environ and os.access("/dev/shm", os.W_OK):  # noqa: S108
    os.environ["TMPDIR"] = tempfile.tempdir = "/dev/shm"  # noqa: S108

_HERE = Path(__file__).parent
_ABOVE = {"cli", "coverage", "integrations", "retention", "subjects"}
_STILL = ("alembic", "lattice", "one_function", "structures")
_SLOW = (
    *("adoption", "child_periods", "consent", "country_days", "destruction", "epochs", "event_loops", "failures"),
    *("holds", "leaks", "ledger", "machine", "observe", "outside", "previous", "races", "regions", "replicas"),
    *("requests", "reseal", "rotation", "search", "spark", "threads", "transitions"),
)
"""Files of the storage that ride on what the others test, and would take five minutes more under SQLAlchemy 2.0."""
_BOTH = ("physical", "quick_paths", "sealed_storage", "structures", "types", "upserts")
"""What asks PostgreSQL under 2.0 too. Else 2.0 is tried on SQLite; what a database does with a statement, 2.1 shows."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what has to hold under every supported SQLAlchemy, so that nobody has to remember to.

    Not what only calls the storage from above and starts processes of its own: it would double the time for nothing.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        room = item.path.relative_to(_HERE).parts[0] if item.path.is_relative_to(_HERE) else ""
        above = room in _ABOVE and not any(name in item.path.name for name in _STILL)
        above |= any(name in item.path.name for name in _SLOW)
        above |= "postgresql" in item.name and not any(name in item.path.name for name in _BOTH)
        if not above and (fixtures & _STORAGE_FIXTURES or "sqlalchemy" in _source(item.path)):
            item.add_marker("storage")


def pytest_collection_finish() -> None:
    """Spare the collector what is there for good: the modules and models of all tests. It took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


@cache
def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.suffix == ".py" else ""


@pytest.fixture(scope="session")
def pg_server() -> Iterator[Server]:
    with running_server() as server:
        yield server


@pytest.fixture
def pg_url(pg_server: Server) -> Iterator[str]:
    """An empty PostgreSQL database."""
    with pg_server.database() as name:
        yield pg_server.url(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'test.sqlite'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database, once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "pg_url")
    return url


@pytest.fixture
def async_database_url(database_url: str) -> str:
    """The same for ``create_async_engine``: aiosqlite, then asyncpg."""
    return database_url.replace("sqlite:", "sqlite+aiosqlite:").replace("+psycopg:", "+asyncpg:")

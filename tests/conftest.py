"""Fixtures for every test: real SQLite files and a real PostgreSQL, never a stand-in."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.databases import Server, running_server

# Databases in memory: a third of the time would go into waiting for a disk.
if "TMPDIR" not in os.environ and os.access("/dev/shm", os.W_OK):  # noqa: S108
    os.environ["TMPDIR"] = tempfile.tempdir = "/dev/shm"  # noqa: S108

_FORMS = (
    *("paths", "left_out", "random_selects", "textual", "bypasses", "types", "mappings", "minimum_group"),
    *("alembic", "conformance", "structures", "lattice", "one_function"),
)
"""What depends on how SQLAlchemy builds, compiles and loads; all else is the same under each of its versions."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what has to hold under every supported SQLAlchemy, so that nobody has to remember to."""
    for item in items:
        if any(name in item.path.name for name in _FORMS) and "sqlalchemy" in _source(item.path):
            item.add_marker("storage")


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

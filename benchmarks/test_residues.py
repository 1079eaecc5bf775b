"""Values that Python has to turn into residues, against ``UPDATE ... SET column = NULL`` of the same rows.

A run selects each value, opens it where it is sealed, makes its residue and stores that, in batches that each commit
with their ledger line; what is due is counted before and after. The UPDATE is of a plain table of the same rows and
text, and the jobs run interleaved: the best round of each counts.

    PRIVKIT_BENCH_ROWS=200000 .venv/bin/python -m pytest benchmarks/test_residues.py --benchmark-enable
"""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import FileKeyring, KeepLast, Personal, Privacy, Pseudonymise, data_subject, events, not_personal
from tests.databases import running_server

ROWS = int(os.environ.get("PRIVKIT_BENCH_ROWS", "20000"))
ROUNDS = 3
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1)
POLICY = """
privkit: 1
naive_datetimes: UTC
runs: {largest_share: 100}
purposes:
  pay: {description: Take a payment, legal_basis: contract, keep: {for: P30D, after: left}}
"""


class Base(DeclarativeBase):
    pass


def card(then: Any, *, seal: bool) -> Any:
    return Personal("user.payment", purposes={"pay"}, then=then, seal=seal)


@data_subject
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Pseudonymised(Base):
    __tablename__ = "pseudonymised"
    id: Mapped[int] = mapped_column(primary_key=True)
    card: Mapped[Annotated[str | None, card(Pseudonymise("card"), seal=False)]]
    left_at: Mapped[datetime | None]


@data_subject
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Sealed(Base):
    __tablename__ = "sealed"
    id: Mapped[int] = mapped_column(primary_key=True)
    card: Mapped[Annotated[str | None, card(KeepLast(4), seal=True)]]
    left_at: Mapped[datetime | None]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'bench.sqlite'}"
        return
    with running_server() as server, server.database() as name:
        yield server.url(name)


def filled(url: str, folder: Path) -> tuple[Privacy, Engine, Engine]:
    """Store the rows, and a copy of each table that a round begins with."""
    (folder / "policy.yaml").write_text(POLICY)
    privacy = Privacy(folder / "policy.yaml", Base, FileKeyring.create(folder / "keys.json"), clock=lambda: NOW)
    engine, plain = create_engine(url), create_engine(url, isolation_level="AUTOCOMMIT")
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    rows = [{"id": number, "card": f"4111 1111 {number:08}", "left_at": LONG_AGO} for number in range(1, ROWS + 1)]
    with privacy.purpose("pay"):
        for model in (Pseudonymised, Sealed):
            for start in range(0, ROWS, 10_000):
                with engine.begin() as connection:
                    connection.execute(insert(model), rows[start : start + 10_000])
    with plain.connect() as connection:
        for name in ("pseudonymised", "sealed"):
            connection.exec_driver_sql(f"CREATE TABLE full_{name} AS SELECT * FROM {name}")
        connection.exec_driver_sql("CREATE TABLE plain (id INTEGER PRIMARY KEY, card TEXT, left_at TIMESTAMP)")
    return privacy, engine, plain


def anew(plain: Engine, name: str, source: str, columns: str = "*") -> None:
    with plain.connect() as connection:
        connection.exec_driver_sql(f"DELETE FROM {name}" if plain.dialect.name == "sqlite" else f"TRUNCATE {name}")
        connection.exec_driver_sql(f"INSERT INTO {name} SELECT {columns} FROM {source}")
        if plain.dialect.name == "postgresql":
            connection.exec_driver_sql(f"VACUUM (ANALYZE) {name}")
            connection.exec_driver_sql("CHECKPOINT")


def emptied(plain: Engine) -> float:
    anew(plain, "plain", "full_pseudonymised", "id, card, left_at")
    begun = time.perf_counter()
    with plain.connect() as connection:
        connection.exec_driver_sql("UPDATE plain SET card = NULL WHERE left_at < '2025-12-02'")
    return time.perf_counter() - begun


def purged(privacy: Privacy, engine: Engine, plain: Engine, name: str, workers: int) -> float:
    other = "pseudonymised" if name == "sealed" else "sealed"
    anew(plain, other, f"full_{other} WHERE 1 = 0")
    anew(plain, name, f"full_{name}")
    begun = time.perf_counter()
    plan = privacy.plan(engine)
    run = privacy.purge(engine, plan, yes_this_many=plan.due, workers=workers)
    took = time.perf_counter() - begun
    assert (True, ROWS) == (run.ok, sum(outcome.done for outcome in run.outcomes))
    return took


def test_values_that_python_turns_into_residues(url: str, tmp_path: Path, benchmark: Any) -> None:
    privacy, engine, plain = filled(url, tmp_path)
    workers = (1,) if engine.dialect.name == "sqlite" else (1, 2)
    found: dict[Any, list[float]] = {}
    for _ in range(ROUNDS):
        found.setdefault("UPDATE", []).append(emptied(plain))
        for name in ("pseudonymised", "sealed"):
            for count in workers:
                found.setdefault((name, count), []).append(purged(privacy, engine, plain, name, count))
    benchmark.pedantic(lambda: None)
    bare = min(found.pop("UPDATE"))
    print(f"\n{engine.dialect.name}, {ROWS:,} rows: UPDATE ... SET NULL {bare:.2f} s")
    for (name, count), times in found.items():
        print(f"  {name}, {count} worker(s): {min(times):.2f} s, ratio {min(times) / bare:.2f}")
    engine.dispose()
    plain.dispose()

"""Reads of data subjects of whom one in ten is a child, filtered by consent, against two that are not.

One is by privkit for a purpose that children's data may be used for without consent, which tells what the filter costs;
the other is plain, without privkit.

Half of the children have a guardian's consent; the others are not selected. On PostgreSQL, interleaved, the best round
of each counts: one row by its key, a page of 1,000 rows, and a count over all.

    PRIVKIT_BENCH_ROWS=1000000 .venv/bin/python -m pytest benchmarks/test_consent.py --benchmark-enable
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import BirthDate, FileKeyring, Personal, Privacy, child_protection, data_subject, events, not_personal
from tests.databases import raw_rows, running_server

ROWS = int(os.environ.get("PRIVKIT_BENCH_ROWS", "100000"))
ROUNDS = 7
POLICY = """
privkit: 1
extends: [gdpr]
naive_datetimes: UTC
controller: {name: Benchmark, contact: privacy@bench.example, regions: [eu-west-1]}
purposes:
  play: {description: Play, legal_basis: contract, keep: {for: P1Y, after: left}, consent: {valid: P2Y}}
  look: {description: Look, legal_basis: contract, keep: {for: P1Y, after: left}, children: allowed}
"""


class Base(DeclarativeBase):
    pass


class Plain(DeclarativeBase):
    pass


@data_subject
@child_protection(birth_date="born")
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Person(Base):
    __tablename__ = "persons"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"play", "look"}, seal=False)]]
    born: Mapped[Annotated[date | None, BirthDate(purposes={"play", "look"})]]
    left_at: Mapped[datetime | None]


class PlainPerson(Plain):
    """The same table without anything around it."""

    __tablename__ = "persons"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    born: Mapped[bytes | None]
    left_at: Mapped[datetime | None]


CHILD, ADULT = "date '2099-01-01'", "date '1500-01-01'"
FILL = [
    f"""INSERT INTO persons (id, name, privkit_key, privkit_adult_on)
    SELECT i, 'Person ' || i, decode(md5(i::text), 'hex'), CASE WHEN i % 10 = 0 THEN {CHILD} ELSE {ADULT} END
    FROM generate_series(1, {ROWS}) AS n(i)""",
    f"""INSERT INTO privkit_consent (subject, purpose, event, guardian, method, at)
    SELECT decode(md5(i::text), 'hex'), 'play', 'given', decode(md5('g' || i), 'hex'), 'signed_form', now()
    FROM generate_series(20, {ROWS}, 20) AS n(i)""",
    "ANALYZE",
]


@dataclass
class Club:
    privacy: Privacy
    engine: Engine
    plain: Engine


@pytest.fixture(scope="module")
def club(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Club]:
    folder: Path = tmp_path_factory.mktemp("club")
    (folder / "club.yaml").write_text(POLICY, encoding="utf-8")
    keys = FileKeyring.create(folder / "club.json")
    privacy = Privacy(folder / "club.yaml", Base, keys, clock=lambda: datetime.now(UTC))
    with running_server() as server, server.database() as name:
        engine, plain = create_engine(server.url(name)), create_engine(server.url(name))
        privacy.protect(engine)
        Base.metadata.create_all(engine)
        for statement in FILL:
            raw_rows(server.url(name), statement)
        yield Club(privacy, engine, plain)
        engine.dispose()
        plain.dispose()


def one_row(session: Session, model: Any) -> int:
    return sum(session.get(model, number * 7919 % ROWS + 1) is not None for number in range(200))


def page(session: Session, model: Any) -> int:
    start = ROWS // 2
    return len(session.scalars(select(model).where(model.id > start, model.id <= start + 1000)).all())


def count(session: Session, model: Any) -> int:
    return session.scalar(select(func.count()).select_from(model)) or 0


@pytest.mark.parametrize("read", [one_row, page, count], ids=["200 rows one by one", "page of 1000", "count of all"])
def test_reads(
    club: Club, read: Callable[[Session, Any], int], benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def protected(purpose: str) -> tuple[int, float]:
        with club.privacy.purpose(purpose), Session(club.engine) as session:
            started = time.perf_counter()
            return read(session, Person), time.perf_counter() - started

    def plain() -> tuple[int, float]:
        with Session(club.plain) as session:
            started = time.perf_counter()
            return read(session, PlainPerson), time.perf_counter() - started

    rounds = [(protected("play"), protected("look"), plain()) for _ in range(ROUNDS)]
    benchmark.pedantic(protected, ("play",), rounds=1)
    seen, known = rounds[0][0][0], rounds[0][2][0]
    filtered, unfiltered, bare = (min(each[at][1] for each in rounds) for at in range(3))
    with capsys.disabled():
        print(
            f"\n{ROWS:,} persons, {read.__name__:8} {seen:,} of {known:,}  filtered {filtered * 1e3:8.2f} ms"
            f"   unfiltered {unfiltered * 1e3:8.2f} ms   ratio {filtered / unfiltered:5.2f}"
            f"   plain {bare * 1e3:8.2f} ms   ratio {filtered / bare:5.2f}"
        )

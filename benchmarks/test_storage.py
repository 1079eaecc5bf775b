"""The storage room against plain SQLAlchemy and against sqlalchemy-utils' AES-GCM, as ratios of processor time.

Each job runs interleaved in one process on 1,000-row sets: once on a plain table, once on one with an encrypted
type, once on one that privkit protects; 12 columns, 3 of them sealed. The best round of each counts. A row of the
printed table is: the job, its ratio to plain, and how many statements and key look-ups privkit's run sent.

    make bench
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, ForeignKey, String, Table, create_engine, delete, event, insert, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy_utils import StringEncryptedType
from sqlalchemy_utils.types.encrypted.encrypted_type import AesGcmEngine

from privkit import Equality, FileKeyring, Personal, Privacy, data_subject, events, not_personal, owned_by
from tests.databases import running_server

ROWS = 1000
ROUNDS = 12
WIDTH = ["id", "owner_id", "n1", "n2", "n3", "t1", "t2", "t3", "closed_at", "email", "name", "phone"]
POLICY = """
privkit: 1
extends: []
controller: {name: Benchmark, contact: privacy@bench.example, regions: [eu-west-1]}
purposes:
  account: {description: Measure, legal_basis: contract, keep: {for: P30D, after: account_closed}}
  counting: {description: Count, legal_basis: contract, keep: {for: P30D, after: account_closed}}
  archive: {description: Keep, legal_basis: contract, keep: {forever: true, because: a benchmark}}
  glance: {description: Look, legal_basis: contract, keep: {forever: true, because: a benchmark}}
categories:
  user.contact.email: {}
  user.contact.phone_number: {}
  user.name: {}
"""


class Protected(DeclarativeBase):
    pass


class Plain(DeclarativeBase):
    pass


class Utils(DeclarativeBase):
    pass


def sealed(category: str, purposes: frozenset[str] = frozenset({"account"}), **more: Any) -> Personal:
    return Personal(category, purposes=purposes, seal=True, **more)


Handle = Annotated[str, sealed("user.contact.email", frozenset({"account", "counting"}), search=Equality("exact"))]
Email = Annotated[str, sealed("user.contact.email")]
Name = Annotated[str, sealed("user.name")]
Phone = Annotated[str, sealed("user.contact.phone_number")]
_REASON = {"because": "made up for a benchmark"}


@data_subject
@events(account_closed="closed_at")
@not_personal("id", "closed_at", **_REASON)
class Person(Protected):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    closed_at: Mapped[datetime | None]
    handle: Mapped[Handle]


@owned_by("owner_id")
@events(account_closed="closed_at")
@not_personal("id", "n1", "n2", "n3", "t1", "t2", "t3", "closed_at", **_REASON)
class Note(Protected):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    n1: Mapped[int]
    n2: Mapped[int]
    n3: Mapped[int]
    t1: Mapped[str]
    t2: Mapped[str]
    t3: Mapped[str]
    closed_at: Mapped[datetime | None]
    email: Mapped[Email]
    name: Mapped[Name]
    phone: Mapped[Phone]


@data_subject
@events(account_closed="closed_at")
@not_personal("id", "owner_id", "n1", "n2", "n3", "t1", "t2", "t3", "closed_at", **_REASON)
class Account(Protected):
    """Rows that are data subjects themselves: a key for each."""

    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int]
    n1: Mapped[int]
    n2: Mapped[int]
    n3: Mapped[int]
    t1: Mapped[str]
    t2: Mapped[str]
    t3: Mapped[str]
    closed_at: Mapped[datetime | None]
    email: Mapped[Email]
    name: Mapped[Name]
    phone: Mapped[Phone]


def wide(base: Any, column: Callable[[str], Any]) -> Any:
    """Map a table of 12 texts of which a purpose needs two; ``column`` gives each its annotation."""
    names = [f"text{number}" for number in range(12)]
    mapped: Any = Mapped
    annotations: dict[str, Any] = {"id": Mapped[int]} | {name: mapped[column(name)] for name in names}
    body = {"__tablename__": "wide", "__annotations__": annotations, "id": mapped_column(primary_key=True)}
    return type("Wide", (base,), body)


def _wide_field(name: str) -> Any:
    needed = {"archive", "glance"} if name in ("text0", "text1") else {"archive"}
    return Annotated[str, Personal("user.contact.email", purposes=needed, seal=False)]


Wide = wide(Protected, _wide_field)
data_subject(not_personal("id", because="row id")(Wide))
PlainWide = wide(Plain, lambda name: str)


def table_of(cls: Any) -> Table:
    table: Table = cls.__table__
    return table


def unprotected(base: Any, kind: Any) -> tuple[Any, Any]:
    """Map the same two tables on ``base`` with ``kind()`` as the type of what Note seals."""

    class OtherPerson(base):  # type: ignore[misc]
        __tablename__ = "person"
        id: Mapped[int] = mapped_column(primary_key=True)
        closed_at: Mapped[datetime | None]
        handle: Mapped[str] = mapped_column(index=True)

    class OtherNote(base):  # type: ignore[misc]
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)
        owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
        n1: Mapped[int]
        n2: Mapped[int]
        n3: Mapped[int]
        t1: Mapped[str]
        t2: Mapped[str]
        t3: Mapped[str]
        closed_at: Mapped[datetime | None]
        email: Mapped[str] = mapped_column(kind())
        name: Mapped[str] = mapped_column(kind())
        phone: Mapped[str] = mapped_column(kind())

    return OtherPerson, OtherNote


@dataclass
class Side:
    """One of the three competitors: its engine and its classes."""

    engine: Engine
    person: Any
    note: Any
    statements: int = 0
    key_fetches: int = 0

    def count(self) -> None:
        @event.listens_for(self.engine, "before_cursor_execute")
        def before_cursor_execute(_c: Any, _cur: Any, statement: str, *_: Any) -> None:
            self.statements += 1
            self.key_fetches += "FROM privkit_key" in statement


@dataclass
class Bench:
    """The three sides on one database, and the figures so far."""

    name: str
    plain: Side
    utils: Side
    privkit: Side
    privacy: Privacy
    lines: list[str] = field(default_factory=list)

    def compare(
        self, job: str, run: Callable[[Side], Any], *, sides: tuple[Side, ...] = (), rounds: int = ROUNDS
    ) -> None:
        """Run ``run`` on each side in turns, and note its ratios to the first."""
        chosen = sides or (self.plain, self.utils, self.privkit)
        best = [float("inf")] * len(chosen)
        for each in chosen:
            run(each)
        self.privkit.statements = self.privkit.key_fetches = 0
        for _ in range(rounds):
            for position, side in enumerate(chosen):
                best[position] = min(best[position], _seconds(run, side))
        first = best[0]
        ratios = "  ".join(f"{value / first:6.2f}" for value in best[1:])
        counts = f"{self.privkit.statements / rounds:6.1f} {self.privkit.key_fetches / rounds:6.1f}"
        self.note(f"{job:34} {first * 1e3:8.2f} ms  {ratios:>16}  {counts}")

    def against(self, job: str, one: Callable[[], Any], other: Callable[[], Any], rounds: int = ROUNDS) -> None:
        """Note the ratio of ``other`` to ``one``, both on privkit."""
        one()
        other()
        times = [
            (_seconds(lambda _: one(), self.privkit), _seconds(lambda _: other(), self.privkit)) for _ in range(rounds)
        ]
        first, second = min(each for each, _ in times), min(each for _, each in times)
        self.note(f"{job:34} {first * 1e3:8.2f} ms  {second / first:16.2f}")

    def note(self, line: str) -> None:
        self.lines.append(f"{self.name:10} {line}")


def _seconds(run: Callable[[Side], Any], side: Side) -> float:
    gc.collect()
    started = time.process_time()
    run(side)
    return time.process_time() - started


def values(owner: Callable[[int], int]) -> list[dict[str, Any]]:
    """The values of 1,000 rows: 12 columns less the id."""
    return [
        {
            "owner_id": owner(number),
            **dict.fromkeys(("n1", "n2", "n3"), number),
            **dict.fromkeys(("t1", "t2", "t3"), "ten letters"),
            "closed_at": None,
            "email": f"somebody{number}@mail.example",
            "name": f"Some Body {number}",
            "phone": f"+4477009{number:05}",
        }
        for number in range(ROWS)
    ]


ONE = values(lambda number: 1)
MANY = values(lambda number: 1 + number)


@contextmanager
def database_urls(kind: str, folder: Path) -> Iterator[list[str]]:
    if kind == "sqlite":
        yield [f"sqlite:///{folder / name}.sqlite" for name in ("plain", "utils", "privkit")]
        return
    with running_server() as server, server.database() as one, server.database() as two, server.database() as three:
        yield [server.url(name) for name in (one, two, three)]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "policy.yaml").write_text(POLICY, encoding="utf-8")
    FileKeyring.create(folder / "keys.json")
    privacy = Privacy(folder / "policy.yaml", Protected, FileKeyring(folder / "keys.json"))
    with database_urls(request.param, folder) as urls:
        engines = [create_engine(url) for url in urls]
        plain, utils, privkit = sides = [Side(engine, *pair) for engine, pair in zip(engines, CLASSES, strict=True)]
        privacy.protect(engines[2])
        made = Bench(request.param, plain, utils, privkit, privacy)
        with privacy.purpose("account"):
            for side in sides:
                side.person.metadata.create_all(side.engine)
                with side.engine.begin() as connection:
                    people = [{"handle": f"handle{number}"} for number in range(ROWS)]
                    connection.execute(insert(side.person.__table__), people)
            made.privkit.count()
        yield made
        for engine in engines:
            engine.dispose()
    head = f"{'':10} {'job':34} {'plain':>11}  {'utils':>6} {'privkit':>9}  {'stmts':>6} {'keys':>6}"
    request.config.pluginmanager.getplugin("capturemanager").suspend_global_capture(in_=True)
    print("", head, *made.lines, sep="\n")
    request.config.pluginmanager.getplugin("capturemanager").resume_global_capture()


def _encrypted() -> Any:
    return StringEncryptedType(String, "a secret of a benchmark", AesGcmEngine)


CLASSES = (unprotected(Plain, String), unprotected(Utils, _encrypted), (Person, Note))


def for_account(test: Callable[[Bench, Any], None]) -> Callable[[Bench, Any], None]:
    """Run a test under the one purpose. A fixture cannot: of a suspended generator no purpose is in force."""

    @functools.wraps(test)
    def run(bench: Bench, benchmark: Any) -> None:
        with bench.privacy.purpose("account"):
            test(bench, benchmark)

    return run


def refill(side: Side, rows: list[dict[str, Any]]) -> None:
    """Empty the note table, and fill it with ``rows``."""
    with side.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM note")
        connection.execute(insert(side.note.__table__), rows)


def first_id(side: Side) -> int:
    with side.engine.connect() as connection:
        found: int = connection.exec_driver_sql("SELECT min(id) FROM note").scalar_one()
        return found


def orm_read(side: Side) -> None:
    with Session(side.engine) as session:
        assert ROWS == len(list(session.scalars(select(side.note))))


def orm_read_and_use(side: Side) -> None:
    with Session(side.engine) as session:
        assert ROWS == len([(each.email, each.name, each.phone) for each in session.scalars(select(side.note))])


def core_read(side: Side) -> None:
    table = side.note.__table__
    with side.engine.connect() as connection:
        assert ROWS == len(connection.execute(select(*(table.c[name] for name in WIDTH))).all())


def read_unprotected(side: Side) -> None:
    table = side.note.__table__
    with side.engine.connect() as connection:
        assert ROWS == len(connection.execute(select(*(table.c[name] for name in WIDTH[:9]))).all())


def orm_insert(rows: list[dict[str, Any]]) -> Callable[[Side], None]:
    def run(side: Side) -> None:
        with Session(side.engine) as session:
            session.add_all([side.note(**row) for row in rows])
            session.flush()

    return run


def core_insert(rows: list[dict[str, Any]]) -> Callable[[Side], None]:
    def run(side: Side) -> None:
        with side.engine.connect() as connection:
            connection.execute(insert(side.note.__table__), rows)

    return run


def look_up(side: Side) -> None:
    with Session(side.engine) as session:
        for number in range(0, ROWS, 20):
            session.scalars(select(side.person.id).where(side.person.handle == f"handle{number}")).one()


def get_all_held(bench: Bench, sides: tuple[Side, ...]) -> None:
    """What a get costs that sends no statement, since the session holds the row already."""
    held = {id(side): Session(side.engine) for side in sides}
    rows = {id(side): list(held[id(side)].scalars(select(side.note))) for side in sides}

    def run(side: Side) -> None:
        session, ids = held[id(side)], keys[id(side)]
        for each in ids:
            session.get(side.note, each)

    keys = {side: [row.id for row in found] for side, found in rows.items()}
    bench.compare("1000 gets from the session", run, sides=sides, rounds=6)
    for session in held.values():
        session.close()


def get_one(side: Side, first: int) -> None:
    with Session(side.engine) as session:
        for number in range(100):
            session.get(side.note, first + number)


@for_account
def test_rows_of_one_data_subject(bench: Bench, benchmark: Any) -> None:
    sides = (bench.plain, bench.utils, bench.privkit)
    for side in sides:
        refill(side, ONE)
    first = {id(side): first_id(side) for side in sides}
    bench.compare("ORM read", orm_read)
    bench.compare("ORM read, three fields used", orm_read_and_use)
    bench.compare("Core read", core_read)
    bench.compare("Core read of no protected field", read_unprotected)
    bench.compare("100 times one-row get", lambda side: get_one(side, first[id(side)]))
    bench.compare("ORM insert", orm_insert(ONE), rounds=6)
    bench.compare("Core insert", core_insert(ONE), rounds=8)
    bench.compare("50 look-ups by equality", look_up, sides=(bench.plain, bench.privkit))
    get_all_held(bench, sides)
    benchmark.pedantic(lambda: core_read(bench.privkit), rounds=3)


def test_a_wide_read_under_a_narrow_purpose(bench: Bench, benchmark: Any) -> None:
    """The purpose needs none of the three sealed fields, so they stay in the database."""
    with bench.privacy.purpose("account"):
        for side in (bench.plain, bench.privkit):
            refill(side, ONE)
    with bench.privacy.purpose("counting"):
        bench.compare("ORM read, 3 of 12 left out", orm_read, sides=(bench.plain, bench.privkit))
    rows = [{f"text{number}": "forty letters" * 3 for number in range(12)} for _ in range(ROWS)]
    classes = {id(bench.plain): PlainWide, id(bench.privkit): Wide}
    with bench.privacy.purpose("archive"):
        for side in (bench.plain, bench.privkit):
            with side.engine.begin() as connection:
                connection.execute(insert(classes[id(side)]), rows)

    def read(side: Side) -> None:
        with Session(side.engine) as session:
            assert ROWS == len(list(session.scalars(select(classes[id(side)]))))

    with bench.privacy.purpose("glance"):
        bench.compare("ORM read, 10 of 12 left out", read, sides=(bench.plain, bench.privkit))
        benchmark.pedantic(lambda: read(bench.privkit), rounds=3)


@for_account
def test_rows_of_1000_data_subjects(bench: Bench, benchmark: Any) -> None:
    privkit = bench.privkit

    def cold() -> None:
        bench.privacy.guard.keys.clear()
        orm_read(privkit)

    refill(bench.plain, MANY)
    refill(privkit, MANY)
    pair = (bench.plain, privkit)
    bench.compare("1000 subjects: ORM read, warm", orm_read, sides=pair)
    bench.compare("1000 subjects: Core read, warm", core_read, sides=pair)
    bench.compare("1000 subjects: ORM insert, warm", orm_insert(MANY), sides=pair, rounds=6)
    bench.compare("1000 subjects: Core insert, warm", core_insert(MANY), sides=pair, rounds=8)
    bench.compare(
        "1000 subjects: ORM read, cold", lambda side: cold() if side is privkit else orm_read(side), sides=pair
    )
    with privkit.engine.begin() as connection:
        connection.execute(delete(Note))
    benchmark.pedantic(cold, setup=lambda: refill(privkit, MANY), rounds=3)


@for_account
def test_one_key_against_1000(bench: Bench, benchmark: Any) -> None:
    """The same rows twice in one table, first of one data subject and then of 1,000."""
    privkit, half = bench.privkit, select(Note)
    refill(privkit, ONE)
    with privkit.engine.begin() as connection:
        connection.execute(insert(table_of(Note)), MANY[1:])
    last = first_id(privkit) + ROWS

    def one() -> None:
        with Session(privkit.engine) as session:
            session.scalars(half.where(Note.id < last)).all()

    def warm() -> None:
        with Session(privkit.engine) as session:
            session.scalars(half.where(Note.id >= last)).all()

    def cold() -> None:
        bench.privacy.guard.keys.clear()
        warm()

    bench.against("ORM read, 1000 keys : 1, warm", one, warm)
    bench.against("ORM read, 1000 keys : 1, cold", one, cold)
    benchmark.pedantic(warm, rounds=3)


@for_account
def test_new_data_subjects(bench: Bench, benchmark: Any) -> None:
    """A key is drawn, wrapped and stored for each row."""

    def run(side: Side) -> None:
        table = table_of(Account) if side is bench.privkit else table_of(side.note)
        with side.engine.connect() as connection:
            connection.execute(insert(table), ONE)

    bench.compare("Core insert of data subjects", run, sides=(bench.plain, bench.privkit), rounds=8)
    benchmark.pedantic(lambda: run(bench.privkit), rounds=3)

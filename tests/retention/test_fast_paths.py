"""Ranges that one statement each destroys leave the same rows and the same evidence as batches of named rows."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, ForeignKey, UniqueConstraint, create_engine, event, insert, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import Delete, FileKeyring, Personal, Privacy, data_subject, events, expire_row, not_personal, owned_by
from privkit.purposes import internally
from privkit.retention import Limits, Run, batches
from privkit.retention.job import Size
from privkit.sqlalchemy import holds, ledger
from tests.databases import raw_rows

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO, LATELY = datetime(2020, 1, 1), datetime(2025, 12, 31)
POLICY = """
privkit: 1
naive_datetimes: UTC
controller: {name: Hotel, contact: privacy@hotel.example}
purposes:
  guests: {description: Know who was here, legal_basis: contract, keep: {for: P30D, after: ended}}
  always: {description: Know a guest, legal_basis: contract, keep: {forever: true, because: a test}}
"""
TABLES = ("visits", "stays", "parts", "tickets")
Note = Annotated[str | None, Personal("user.content", purposes={"guests"}, seal=False)]


class Base(DeclarativeBase):
    pass


@data_subject
@not_personal("id", because="row id")
class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"always"}, seal=False)]]


@owned_by("guest_id")
@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "guest_id", "ended_at", because="row ids and event time")
class Visit(Base):
    """Rows that go."""

    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    guest_id: Mapped[int] = mapped_column(ForeignKey("guests.id"))
    ended_at: Mapped[datetime | None]
    note: Mapped[Note]


@owned_by("guest_id")
@events(ended="ended_at")
@not_personal("id", "guest_id", "ended_at", because="row ids and event time")
class Stay(Base):
    """Rows that lose a value, with a key of two columns."""

    __tablename__ = "stays"
    guest_id: Mapped[int] = mapped_column(ForeignKey("guests.id"), primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True)
    ended_at: Mapped[datetime | None]
    note: Mapped[Note]


@events(ended="ended_at")
@expire_row(Delete())
@owned_by("guest_id")
@not_personal("id", "guest_id", "ended_at", because="row ids and event time")
class Part(Base):
    """Rows of a partitioned table on PostgreSQL."""

    __tablename__ = "parts"
    __table_args__ = {"postgresql_partition_by": "HASH (id)"}
    id: Mapped[int] = mapped_column(primary_key=True)
    guest_id: Mapped[int] = mapped_column(ForeignKey("guests.id"))
    ended_at: Mapped[datetime | None]
    note: Mapped[Note]


@owned_by("guest_id")
@events(ended="ended_at")
@expire_row(Delete())
@not_personal("id", "guest_id", "ended_at", because="row ids and event time")
class Ticket(Base):
    """Rows without a primary key in the database."""

    __tablename__ = "tickets"
    __table_args__ = (UniqueConstraint("id"),)
    id: Mapped[int] = mapped_column()
    guest_id: Mapped[int] = mapped_column(ForeignKey("guests.id"))
    ended_at: Mapped[datetime | None]
    note: Mapped[Note]
    __mapper_args__ = {"primary_key": [id]}


@dataclass(frozen=True)
class Hotel:
    privacy: Privacy
    engine: Engine
    url: str

    def fill(self, chance: Random, rows: int) -> set[int]:
        """Store the same rows in each table; return the numbers of those that are due."""
        ended = {number: chance.choice([LONG_AGO, LONG_AGO, LATELY, None]) for number in range(1, rows + 1)}
        stored = [
            {"id": number, "guest_id": 1 + number % 3, "ended_at": at, "note": "late"} for number, at in ended.items()
        ]
        with self.privacy.purpose("always", "guests"), Session(self.engine) as session:
            session.add_all([Guest(id=number, name="Guest") for number in (1, 2, 3)])
            session.flush()
            for model in (Visit, Stay, Part, Ticket):
                session.execute(insert(model), stored)
            session.commit()
        return {number for number, at in ended.items() if at == LONG_AGO}

    def left(self) -> dict[str, set[int]]:
        """The rows of each table that still have their note."""
        return {name: {row[0] for row in self.raw(f"SELECT id FROM {name} WHERE note IS NOT NULL")} for name in TABLES}

    def raw(self, sql: str) -> list[tuple[Any, ...]]:
        return raw_rows(self.url, sql)

    def purge(self, **how: Any) -> Run:
        plan = self.privacy.plan(self.engine)
        return self.privacy.purge(self.engine, plan, yes_this_many=plan.due, **how)

    def lines(self) -> list[tuple[str, int]]:
        """The table and the count of each batch in the ledger."""
        with internally(), self.engine.connect() as connection:
            ledger.verify(connection, self.privacy.guard)
            lines = [
                json.loads(each.body) for each in ledger.entries(connection, self.privacy.guard) if each.kind == "batch"
            ]
        return [(line["table"], line["count"]) for line in lines]

    def told(self) -> dict[str, int]:
        found = dict.fromkeys(TABLES, 0)
        for table, count in self.lines():
            found[table] += count
        return found


@pytest.fixture
def hotel(database_url: str, tmp_path: Path) -> Iterator[Hotel]:
    yield from _hotel(database_url, tmp_path)


@pytest.fixture
def heap(pg_url: str, tmp_path: Path) -> Iterator[Hotel]:
    """The hotel on PostgreSQL, where ranges are blocks."""
    yield from _hotel(pg_url, tmp_path)


def _hotel(url: str, folder: Path, rules: str = POLICY) -> Iterator[Hotel]:
    policy = folder / "hotel.yaml"
    policy.write_text(rules, encoding="utf-8")
    privacy = Privacy(policy, Base, FileKeyring.create(folder / "hotel.json"), clock=lambda: NOW)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    if engine.dialect.name == "postgresql":
        for rest in range(3):
            raw_rows(url, f"CREATE TABLE part{rest} PARTITION OF parts FOR VALUES WITH (MODULUS 3, REMAINDER {rest})")
    yield Hotel(privacy, engine, url)
    engine.dispose()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of one block, of which a table of this size has several."""
    monkeypatch.setattr(
        Size, "of_range", classmethod(lambda cls, batch: cls(*((batch,) * 3 if batch else (40, 40, 40))))
    )


@contextmanager
def at_statement(engine: Engine, beginning: str, number: int, do: Callable[[], object]) -> Iterator[list[str]]:
    """Do something just before the ``number``-th statement that begins so. Yields all statements that do."""
    seen: list[str] = []

    def listen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith(beginning) and not connection.in_nested_transaction():  # a plan tries in one
            seen.append(statement)
            if len(seen) == number:
                do()

    event.listen(engine, "before_cursor_execute", listen)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", listen)


def everything_but(due: set[int], rows: int) -> dict[str, set[int]]:
    return {name: set(range(1, rows + 1)) - due for name in TABLES}


@pytest.mark.parametrize("path", ["ranges", "ranges of seven", "named rows"])
@pytest.mark.usefixtures("small")
def test_each_way_leaves_the_same_rows_and_the_same_counts(
    hotel: Hotel, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    due = hotel.fill(Random(7), 300)
    if path == "named rows":
        monkeypatch.setattr(batches, "in_one_statement", lambda *given: False)
    run = hotel.purge(batch=7 if path == "ranges of seven" else None)
    assert run.ok
    assert hotel.left() == everything_but(due, 300)
    assert hotel.told() == dict.fromkeys(TABLES, len(due))
    assert hotel.raw("SELECT count(*) FROM stays") == [(300,)]


@pytest.mark.usefixtures("small")
def test_ranges_are_destroyed_without_their_rows_coming_to_python(hotel: Hotel) -> None:
    hotel.fill(Random(1), 300)
    with at_statement(hotel.engine, "DELETE FROM visits", 0, lambda: None) as seen:
        assert hotel.purge().ok
    place = "ctid >=" if hotel.engine.dialect.name == "postgresql" else "visits.id <="
    assert len(seen) > 1
    assert [statement for statement in seen if place not in statement] == []


def test_no_transaction_has_more_rows_than_were_asked_for(hotel: Hotel) -> None:
    hotel.fill(Random(2), 100)
    assert hotel.purge(batch=7).ok
    assert max(count for _, count in hotel.lines()) == 7


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("statement", ["DELETE FROM visits", "UPDATE stays"])
@pytest.mark.usefixtures("small")
def test_a_run_that_is_killed_between_two_ranges_is_ended_by_the_next(
    hotel: Hotel, statement: str, number: int
) -> None:
    due = hotel.fill(Random(3), 300)

    def kill() -> None:
        raise KeyboardInterrupt

    with at_statement(hotel.engine, statement, number, kill), pytest.raises(KeyboardInterrupt):
        hotel.purge()
    assert hotel.purge().ok
    assert hotel.left() == everything_but(due, 300)
    assert hotel.told() == dict.fromkeys(TABLES, len(due))


@pytest.mark.usefixtures("small")
def test_rows_that_change_while_ranges_are_gone_through_are_judged_as_they_are_then(heap: Hotel) -> None:
    due = heap.fill(Random(4), 300)
    spared, early = max(due), 1000

    def change() -> None:
        heap.raw(f"UPDATE visits SET ended_at = '2025-12-31' WHERE id = {spared}")
        heap.raw(f"INSERT INTO visits (id, guest_id, ended_at, note) VALUES ({early}, 1, '2020-01-01', 'late')")

    with at_statement(heap.engine, "DELETE FROM visits", 2, change):
        assert heap.purge().ok
    assert heap.left()["visits"] == everything_but(due, 300)["visits"] | {spared}


@pytest.mark.usefixtures("small")
def test_a_held_guest_s_rows_stay_and_a_hold_that_is_placed_meanwhile_wins(heap: Hotel) -> None:
    due = heap.fill(Random(5), 300)
    guard = heap.privacy.guard

    def place(guest: int) -> None:
        ((key,),) = heap.raw(f"SELECT privkit_key FROM guests WHERE id = {guest}")
        with internally(), heap.engine.begin() as connection:
            holds.place(
                connection,
                guard,
                reason="claim",
                by="legal",
                subject=bytes(key),
                until=datetime(2027, 1, 1, tzinfo=UTC),
            )

    place(1)
    kept = {name: {number for number in due if number % 3 == 0} for name in TABLES}
    with at_statement(heap.engine, "DELETE FROM visits", 1, lambda: place(2)):
        assert heap.purge().ok
    kept["visits"] |= {number for number in due if number % 3 == 1}
    assert heap.left()["visits"] == everything_but(due - kept["visits"], 300)["visits"]


@pytest.mark.usefixtures("small")
def test_a_row_that_another_transaction_holds_keeps_no_other_row(heap: Hotel) -> None:
    due = heap.fill(Random(6), 300)
    held = min(due)
    with heap.engine.connect() as other, internally():
        other.execute(text(f"SELECT id FROM visits WHERE id = {held} FOR UPDATE"))
        run = heap.purge(limits=Limits(lock_timeout=0.05))
    assert not run.ok
    assert [outcome.locked for outcome in run.outcomes if outcome.step.name == "visits"] == [1]
    assert heap.left()["visits"] == everything_but(due - {held}, 300)["visits"]
    assert heap.purge().ok


@pytest.mark.usefixtures("small")
def test_a_row_that_the_database_refuses_keeps_no_other_row(heap: Hotel) -> None:
    due = heap.fill(Random(8), 300)
    kept = max(due)
    plan = heap.privacy.plan(heap.engine)
    heap.raw("CREATE TABLE bills (visit_id integer REFERENCES visits)")
    heap.raw(f"INSERT INTO bills VALUES ({kept})")
    run = heap.privacy.purge(heap.engine, plan, yes_this_many=plan.due)
    assert {outcome.step.name: outcome.failed for outcome in run.outcomes if outcome.failed} == {"visits": 1}
    assert heap.left()["visits"] == everything_but(due - {kept}, 300)["visits"]
    assert heap.told() == dict.fromkeys(TABLES, len(due)) | {"visits": len(due) - 1}


@pytest.mark.parametrize("batch", [None, 7])
@pytest.mark.usefixtures("small")
def test_workers_share_the_ranges_and_each_row_is_done_once(heap: Hotel, batch: int | None) -> None:
    due = heap.fill(Random(9), 300)
    run = heap.purge(workers=3, batch=batch)
    assert run.ok
    assert run.done == 4 * len(due)
    assert heap.left() == everything_but(due, 300)
    assert heap.told() == dict.fromkeys(TABLES, len(due))


def test_b16_a_range_of_blocks_takes_from_each_partition_only_what_is_due(heap: Hotel) -> None:
    due = heap.fill(Random(10), 300)
    with at_statement(heap.engine, "DELETE FROM parts", 0, lambda: None) as seen:
        assert heap.purge().ok
    assert seen
    assert "ctid" in seen[0]
    assert heap.left()["parts"] == everything_but(due, 300)["parts"]
    assert heap.raw("SELECT count(*) FROM part0") != [(0,)]


def test_where_little_is_due_its_rows_are_found_by_their_keys(heap: Hotel) -> None:
    heap.fill(Random(11), 300)
    heap.raw("UPDATE visits SET ended_at = '2025-12-31' WHERE id > 20")
    with at_statement(heap.engine, "DELETE FROM visits", 0, lambda: None) as seen:
        assert heap.purge().ok
    assert seen
    assert [statement for statement in seen if "ctid" in statement] == []


def test_a_range_fits_itself_to_how_long_it_takes() -> None:
    size = batches.Size.of_range(None)
    for _ in range(10):
        size.took(0.1)
    assert size.rows == 50_000
    size.took(1.5)
    assert size.rows == 25_000

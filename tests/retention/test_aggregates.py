"""Rows are counted in a summary before they go: each once, and no number is published that is of a few."""

import os
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, ForeignKey, create_engine, event, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import (
    AgeBand,
    Aggregate,
    Cell,
    Exact,
    FileKeyring,
    GeoPoint,
    Location,
    Month,
    Personal,
    Privacy,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.purposes import internally
from privkit.retention import Run
from privkit.sqlalchemy import rollups
from tests.databases import raw_rows

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = """
privkit: 1
naive_datetimes: UTC
runs: {largest_share: 100}
purposes:
  entry: {description: Let members in, legal_basis: contract, keep: {for: P30D, after: left}}
  always: {description: Know a member, legal_basis: contract, keep: {forever: true, because: a test}}
"""


BY: dict[str, Any] = {"month": ("left_at", Month()), "club": "club"}
STAY, WEIGHT = {"minutes": "stay"}, {"weight": "stay"}


class Base(DeclarativeBase): ...


@data_subject
@not_personal("id", because="row id")
class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"always"})]]


@not_personal("month", "club", "visits", "minutes", "weight", because="numbers of many members")
class Summary(Base):
    __tablename__ = "summary"
    month: Mapped[str] = mapped_column(primary_key=True)
    club: Mapped[str] = mapped_column(primary_key=True)
    visits: Mapped[int]
    minutes: Mapped[int]
    weight: Mapped[float | None]


@owned_by("member_id")
@events(left="left_at")
@expire_row(
    Aggregate(
        "summary",
        by=BY,
        count="visits",
        sums=STAY,
        at_least=3,
    )
)
@not_personal("id", "member_id", "left_at", "club", "stay", because="keys, event time, a place and a number")
class Visit(Base):
    __tablename__ = "visits"
    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(ForeignKey("members.id"))
    left_at: Mapped[datetime | None]
    club: Mapped[str | None]
    stay: Mapped[int | None]
    note: Mapped[Annotated[str | None, Personal("user.content", purposes={"entry"}, seal=False)]]


@dataclass
class Club:
    privacy: Privacy
    engine: Engine
    url: str
    at: datetime = NOW

    def store(self, visits: list[tuple[int, str, datetime | None]]) -> None:
        """Store visits: of which member, at which club, and when they left."""
        count = self.raw("SELECT coalesce(max(id), 0) FROM visits")[0][0]
        rows = [
            {"id": count + number, "member_id": member, "left_at": left, "club": club, "stay": number, "note": "late"}
            for number, (member, club, left) in enumerate(visits, 1)
        ]
        with self.privacy.purpose("always", "entry"), Session(self.engine) as session:
            known = {row[0] for row in self.raw("SELECT id FROM members")}
            session.add_all([Member(id=each, name="M") for each in {row["member_id"] for row in rows} - known])
            session.flush()
            session.execute(insert(Visit), rows)
            session.commit()

    def purge(self, **how: Any) -> Run:
        return self.privacy.purge(self.engine, self.privacy.plan(self.engine), **how)

    def summary(self) -> dict[tuple[str, str], tuple[int, int]]:
        rows = self.raw("SELECT month, club, visits, minutes FROM summary")
        return {(month, club): (visits, minutes) for month, club, visits, minutes in rows}

    def waiting(self) -> dict[tuple[str, str], int]:
        """How many rows of each cell wait."""
        key = rollups._key(self.privacy.guard)
        cells = [rollups._read(key, bytes(state)) for (state,) in self.raw("SELECT state FROM privkit_rollup")]
        return {tuple(cell.key): cell.rows for cell in cells}

    def raw(self, sql: str) -> list[tuple[Any, ...]]:
        return raw_rows(self.url, sql)


@pytest.fixture
def club(database_url: str, tmp_path: Path) -> Iterator[Club]:
    path = tmp_path / "club.yaml"
    path.write_text(POLICY)
    made = Club.__new__(Club)
    keys = FileKeyring.create(tmp_path / "club.json")
    privacy = Privacy(path, Base, keys, clock=lambda: made.at)
    engine = create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    made.__init__(privacy, engine, database_url)  # type: ignore[misc]
    yield made
    engine.dispose()


def given_to(club: Club, aggregate: Aggregate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let visits be counted in another way."""
    protected = club.privacy.guard.classes[Visit]
    changed = replace(protected, model=replace(protected.model, expire_row=aggregate))
    monkeypatch.setitem(club.privacy.guard.classes, Visit, changed)
    monkeypatch.setitem(club.privacy.guard.tables, Visit.__table__, changed)


MARCH, APRIL, LATELY = datetime(2025, 3, 9), datetime(2025, 4, 9), datetime(2025, 12, 30)


def test_each_row_is_counted_in_its_cell_and_gone(club: Club) -> None:
    club.store([(member, place, MARCH) for member in range(1, 5) for place in ("north", "south")])
    club.store([(1, "north", LATELY)])
    run = club.purge()
    assert run.ok
    assert {("2025-03", "north"): (4, 16), ("2025-03", "south"): (4, 20)} == club.summary()
    assert [("north",)] == club.raw("SELECT club FROM visits")
    assert {} == club.waiting()
    assert "counted in summary and deleted" in {outcome.step.technique for outcome in run.outcomes}


def test_c35_a_small_cell_waits_and_the_others_with_it_where_subtraction_would_tell_it(club: Club) -> None:
    club.store([(member, "north", MARCH) for member in range(1, 41)] + [(41, "south", MARCH)])
    assert club.purge().ok
    assert {} == club.summary()
    assert {("2025-03", "north"): 40, ("2025-03", "south"): 1} == club.waiting()
    club.store([(member, "east", MARCH) for member in (42, 43)])
    assert club.purge().ok
    assert {("2025-03", "north"): (40, sum(range(1, 41)))} == club.summary()
    assert {("2025-03", "east"): 2, ("2025-03", "south"): 1} == club.waiting()


def test_members_are_counted_and_not_their_rows(club: Club) -> None:
    club.store([(1, "north", MARCH)] * 20 + [(2, "north", MARCH)])
    assert club.purge().ok
    assert {} == club.summary()
    club.store([(3, "north", MARCH)])
    assert club.purge().ok
    assert {("2025-03", "north"): 22} == {cell: visits for cell, (visits, _) in club.summary().items()}


def test_a_published_number_changes_by_many_members_at_a_time_or_not(club: Club) -> None:
    club.store([(member, "north", MARCH) for member in (1, 2, 3)])
    assert club.purge().ok
    before = club.summary()
    club.store([(4, "north", MARCH)])
    assert club.purge().ok
    assert before == club.summary()
    club.store([(member, "north", MARCH) for member in (5, 6)])
    assert club.purge().ok
    assert 6 == club.summary()["2025-03", "north"][0]


def test_what_waits_is_not_readable_and_goes_after_its_time(club: Club) -> None:
    club.store([(1, "planted place", MARCH)])
    assert club.purge().ok
    assert b"planted" not in b"".join(
        bytes(each) for row in club.raw("SELECT id, state FROM privkit_rollup") for each in row
    )
    club.at = datetime(2026, 12, 31, tzinfo=UTC)
    assert club.purge().ok
    assert {("2025-03", "planted place"): 1} == club.waiting()
    club.at = datetime(2027, 1, 1, tzinfo=UTC)
    assert club.purge().ok
    assert {} == club.waiting() == club.summary()


def test_cells_that_differ_by_letter_case_alone_are_two(club: Club) -> None:
    club.store([(member, place, MARCH) for member in range(1, 6) for place in ("North", "north")])
    assert club.purge().ok
    assert {("2025-03", "North"): 5, ("2025-03", "north"): 5} == {
        cell: rows for cell, (rows, _) in club.summary().items()
    }


def test_what_a_summary_cannot_hold_stops_its_step_and_no_other(club: Club) -> None:
    """Here the summary's column has no room; what was counted waits, and the rows are gone only with their count."""
    club.store([(member, "north", MARCH) for member in range(1, 5)])
    plan = club.privacy.plan(club.engine)
    club.raw("DROP TABLE summary")
    run = club.privacy.purge(club.engine, plan)
    assert not run.ok
    assert ["OperationalError" if "sqlite" in club.url else "ProgrammingError"] == [
        each.error for each in run.outcomes if each.error
    ]
    assert {("2025-03", "north"): 4} == club.waiting()
    Base.metadata.create_all(club.engine)
    assert club.purge().ok
    assert 4 == club.summary()["2025-03", "north"][0]


def test_a_row_that_an_erasure_takes_is_not_counted(club: Club) -> None:
    club.store([(member, "north", MARCH) for member in (1, 2, 3)])
    key = club.raw("SELECT privkit_key FROM members WHERE id = 3")[0][0]
    club.privacy.erase(club.engine, bytes(key), by="herself")
    assert club.purge().ok
    assert {("2025-03", "north"): 2} == club.waiting()


def test_a_run_that_is_killed_at_fifty_random_moments_and_run_again_counts_each_row_once(club: Club) -> None:
    chance, wanted, killed = Random(11), Counter[tuple[str, str]](), 0
    for _ in range(70):
        visits = [(chance.randrange(1, 9), chance.choice(["north", "south", "east"]), MARCH) for _ in range(9)]
        club.store(visits)
        wanted += Counter(("2025-03", place) for _, place, _ in visits)
        when = chance.choice(["before_cursor_execute", "after_cursor_execute", "commit"])
        killed += _is_killed(club, when, chance.randrange(1, 8 if when == "commit" else 60))
        assert club.purge(batch=3).ok
        found = Counter({cell: visits for cell, (visits, _) in club.summary().items()}) + Counter(club.waiting())
        assert wanted == found
        if killed == 50:
            break
    assert killed == 50
    assert [(0,)] == club.raw("SELECT count(*) FROM visits")


def _is_killed(club: Club, when: str, moments: int) -> bool:
    """Purge in a fork of this process that SIGKILL ends after so many statements or commits, if there are as many."""
    plan, left = club.privacy.plan(club.engine), moments
    club.engine.dispose()  # a fork would share its connections

    def count(*given: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads of other tests
        child = os.fork()
    if not child:
        try:
            event.listen(club.engine, when, count)
            club.privacy.purge(club.engine, plan, batch=3)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("aggregate", "why"),
    [
        (Aggregate("nowhere", by={"club": "club"}, count="visits"), "'nowhere' is not mapped"),
        (Aggregate("summary", by={"club": "club"}, count="visits"), "primary key of summary is not club"),
        (Aggregate("summary", by={"month": ("gone", Month()), "club": "club"}, count="visits"), "no attribute 'gone'"),
        (Aggregate("summary", by=BY, count="n"), "no column 'n'"),
        (
            Aggregate("summary", by=BY, count="visits", at_least=1),
            "under 2",
        ),
        (
            Aggregate("summary", by=BY, count="visits", wait="1Y"),
            "wait is",
        ),
        (Aggregate("summary", by=BY, count="visits", epsilon=0.0), "epsilon is not a finite number above 0"),
        (Aggregate("summary", by=BY, count="visits", sums=STAY, epsilon=1.0), "bounds are not those of the sums"),
        (
            Aggregate("summary", by=BY, count="visits", sums=STAY, epsilon=1.0, bounds={"minutes": (9, 0)}),
            "not a lower and a higher",
        ),
        (
            Aggregate("summary", by=BY, count="visits", sums=WEIGHT, epsilon=1.0, bounds={"weight": (0, 9)}),
            "weight has no smallest step",
        ),
    ],
)
def test_rows_that_cannot_be_counted_stay_and_the_plan_says_why(
    club: Club, aggregate: Aggregate, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    club.store([(1, "north", MARCH)])
    given_to(club, aggregate, monkeypatch)
    plan = club.privacy.plan(club.engine)
    assert why in str([step.refused for step in plan.refused])
    assert [(1,)] == club.raw("SELECT count(*) FROM visits")


def noisily(epsilon: float) -> Aggregate:
    return Aggregate(
        "summary", by=BY, count="visits", sums=STAY, at_least=3, epsilon=epsilon, bounds={"minutes": (2, 5)}
    )


def test_with_noise_what_a_row_adds_is_within_bounds(club: Club, monkeypatch: pytest.MonkeyPatch) -> None:
    given_to(club, noisily(1e6), monkeypatch)  # so much may be lost that nothing is hidden
    club.store([(member, "north", MARCH) for member in range(1, 9)])
    club.raw("UPDATE visits SET stay = NULL WHERE id = 8")
    assert club.purge().ok
    assert {("2025-03", "north"): (8, 2 + 2 + 3 + 4 + 5 + 5 + 5)} == club.summary()


def test_each_published_number_has_noise_of_its_own_and_keeps_it(club: Club, monkeypatch: pytest.MonkeyPatch) -> None:
    given_to(club, noisily(0.2), monkeypatch)
    places = [f"club {number}" for number in range(40)]
    club.store([(member, place, MARCH) for place in places for member in (1, 2, 3)])
    assert club.purge().ok
    before = club.summary()
    assert 40 == len(before)
    off = [visits - 3 for visits, _ in before.values()], [minutes - 15 for _, minutes in before.values()]
    # Laplace of scale 10 and 50: of 40 draws the mean distance is within 60 % of that but for one test in 10^4
    assert [0.4 < sum(map(abs, each)) / 40 / scale < 1.6 for each, scale in zip(off, (10, 50), strict=True)] == [
        True
    ] * 2
    assert club.purge().ok
    assert before == club.summary()
    club.store([(member, places[0], MARCH) for member in (4, 5, 6)])
    assert club.purge().ok
    assert [places[0]] == [
        place for (_, place), numbers in club.summary().items() if before["2025-03", place] != numbers
    ]


class Sealed(DeclarativeBase): ...


@not_personal("cell", "people", because="numbers of many")
class Places(Sealed):
    __tablename__ = "places"
    cell: Mapped[str] = mapped_column(primary_key=True)
    people: Mapped[int]


@data_subject
@events(left="left_at")
@expire_row(Aggregate("places", by={"cell": ("home", Cell(5))}, count="people", at_least=2))
@not_personal("id", "left_at", because="row id and event time")
class Person(Sealed):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    home: Mapped[Annotated[GeoPoint | None, Location(purposes={"entry"})]]
    left_at: Mapped[datetime | None]


def test_sealed_places_are_counted_by_cell_and_unknown_ones_as_unknown(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "people.yaml"
    path.write_text(POLICY)
    privacy = Privacy(path, Sealed, FileKeyring.create(tmp_path / "people.json"), clock=lambda: NOW)
    engine = create_engine(database_url)
    privacy.protect(engine)
    Sealed.metadata.create_all(engine)
    with privacy.purpose("entry"), Session(engine) as session:
        homes = [GeoPoint(51.5, -0.1), GeoPoint(51.5001, -0.1001), None, None]
        session.add_all([Person(id=number, home=home, left_at=MARCH) for number, home in enumerate(homes, 1)])
        session.commit()
    assert privacy.purge(engine, privacy.plan(engine)).ok
    assert [("", 2), ("85194ad3fffffff", 2)] == sorted(raw_rows(database_url, "SELECT cell, people FROM places"))
    with internally(), engine.connect() as connection:
        assert privacy.verify_ledger(engine).count > 0
        connection.rollback()
    engine.dispose()


@given(st.one_of(st.none(), st.text(), st.integers(), st.floats(), st.dates(), st.datetimes()))
def test_no_value_keeps_its_row_from_being_counted(value: object) -> None:
    """Each kind of column of a summary, at a precision that fits few of these."""
    texts, numbers = Summary.__table__.c.month, Summary.__table__.c.visits
    for precision in (Exact(), Month(), AgeBand()):
        assert isinstance(rollups._part(texts, precision, value, date(2026, 1, 1)), str)
        assert isinstance(rollups._part(numbers, precision, value, date(2026, 1, 1)), int)
    if not isinstance(value, str | date):
        rollup = rollups.Rollup(Visit.__table__, noisily(1.0), Summary.__table__, (), ())  # type: ignore[arg-type]
        added = Decimal(rollups._summand(rollup, Summary.__table__.c.minutes, value))
        assert added in (0, 2, 3, 4, 5)


CELLS = st.lists(st.lists(st.integers(0, 12), max_size=8, unique=True), max_size=7)


@given(CELLS, st.integers(2, 5))
def test_what_stays_unpublished_is_nothing_or_two_cells_of_many(cells: list[list[int]], at_least: int) -> None:
    waiting = {
        bytes([number]): rollups.Cell([number], len(persons), {}, [f"{each:02}" for each in sorted(persons)][:at_least])
        for number, persons in enumerate(cells)
    }
    going = rollups.publishable(waiting, at_least)
    assert all(len(cell.persons) >= at_least for cell in going.values())
    held = [cell for each, cell in waiting.items() if each not in going]
    if going and held:
        assert len(held) > 1
        assert len({person for cell in held for person in cell.persons}) >= at_least

"""The stored day of age: from every way to say an age, again when what it depends on changes, and for older rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, create_engine, func, insert, select, update
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import (
    AgeBand,
    BirthDate,
    FileKeyring,
    NotPersonal,
    Personal,
    Privacy,
    child_protection,
    consent_age_reached_on,
    data_subject,
    events,
    not_personal,
)
from privkit.coverage import Severity
from privkit.errors import InvalidValue, MappingError, PrivkitError
from tests.databases import raw_rows
from tests.sqlalchemy.rides import START, Clock

POLICY = """\
privkit: 1
extends: [gdpr]
naive_datetimes: UTC
controller: {name: Club, contact: privacy@club.example, regions: [eu-west-1]}
purposes:
  check: {description: d, legal_basis: contract, keep: {for: P30D, after: closed}, children: allowed}
  play: {description: d, legal_basis: contract, keep: {for: P30D, after: closed}}
"""
RAISED = """\
child:
  age_of_digital_consent:
    rows: {GB: [{age: 13, status: A, source: s}, {age: 16, status: A, source: s, from: 2026-03-01}]}
"""
Name = Annotated[str, Personal("user.name", purposes={"check", "play"}, seal=False)]
Country = Annotated[str | None, NotPersonal("a code of millions")]


class Base(DeclarativeBase):
    pass


@data_subject
@child_protection(birth_date=("verified_on", "declared_on"), country="country", region="state")
@events(closed="closed_at")
@not_personal("id", "closed_at", "state", because="row id, event time and a state of millions")
class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Name]
    verified_on: Mapped[Annotated[date | None, BirthDate(purposes={"check": AgeBand()})]]
    declared_on: Mapped[Annotated[datetime | None, BirthDate(purposes={"check"})]]
    country: Mapped[Country] = mapped_column("land")
    state: Mapped[str | None]
    closed_at: Mapped[datetime | None]

    @hybrid_property
    def born(self) -> Any:
        return self.verified_on or self.declared_on

    @born.inplace.expression
    @classmethod
    def _born(cls) -> Any:
        return func.coalesce(cls.verified_on, cls.declared_on)


@data_subject
@child_protection(reached_on="of_age_on")
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Guest(Base):
    __tablename__ = "guests"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Name]
    of_age_on: Mapped[Annotated[date | None, BirthDate(purposes={"check"})]]
    closed_at: Mapped[datetime | None]


@data_subject
@child_protection(birth_date="year", age_band="band", country="country")
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Pupil(Base):
    __tablename__ = "pupils"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Name]
    year: Mapped[Annotated[int | None, Personal("user.demographic.age", purposes={"check"}, seal=False)]]
    band: Mapped[Annotated[str | None, Personal("user.demographic.age_range", purposes={"check"}, seal=False)]]
    country: Mapped[Country]
    closed_at: Mapped[datetime | None]


@dataclass
class Club:
    url: str
    folder: Path
    clock: Clock
    privacy: Privacy
    engine: Engine

    def again(self, more: str) -> "Club":
        """The same database under another policy, as after a change of it."""
        self.engine.dispose()
        return club(self.url, self.folder, self.clock, POLICY + more)

    def add(self, *rows: Base) -> None:
        with self.privacy.purpose("check"), Session(self.engine) as session:
            session.add_all(rows)
            session.commit()

    def change(self, model: type[Any], number: int, **values: Any) -> None:
        with self.privacy.purpose("check"), Session(self.engine) as session:
            row = session.get_one(model, number)
            for name, value in values.items():
                setattr(row, name, value)
            session.commit()

    def days(self, table: str) -> dict[int, str | None]:
        """What is stored as the day of age, by row."""
        rows = raw_rows(self.url, f"SELECT id, privkit_adult_on FROM {table} ORDER BY id")
        return {number: None if day is None else str(day) for number, day in rows}

    def players(self, model: type[Any]) -> set[int]:
        with self.privacy.purpose("play"), Session(self.engine) as session:
            return set(session.scalars(select(model.id)))

    def found(self, code: str) -> list[Any]:
        return [finding for finding in self.privacy.check(self.engine) if finding.code == code]


def club(url: str, folder: Path, clock: Clock, policy: str = POLICY) -> Club:
    (folder / "policy.yaml").write_text(policy)
    path = folder / "keys.json"
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    privacy = Privacy(policy=folder / "policy.yaml", models=Base, keys=keys, clock=clock)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return Club(url, folder, clock, privacy, engine)


@pytest.fixture
def there(database_url: str, tmp_path: Path) -> Iterator[Club]:
    made = club(database_url, tmp_path, Clock(START))
    yield made
    made.engine.dispose()


ADULT = "0001-01-01"
TODAY = "2026-01-01"
"""Of whom it was unknown until then that they are of age."""


def test_d22_the_verified_date_wins_and_a_later_one_changes_who_is_a_child(there: Club) -> None:
    there.add(
        Member(id=1, name="a", declared_on=datetime(2005, 1, 1), verified_on=date(2014, 5, 5), country="GB"),
        Member(id=2, name="b", declared_on=datetime(2005, 1, 1), country="GB"),
        Member(id=3, name="c", declared_on=datetime(2014, 1, 1), verified_on=date(2005, 5, 5), country="GB"),
    )
    assert {1: "2027-05-05", 2: ADULT, 3: ADULT} == there.days("members")
    assert {2, 3} == there.players(Member)
    there.change(Member, 2, verified_on=date(2014, 6, 6))
    assert {3} == there.players(Member)
    there.change(Member, 1, verified_on=None)
    assert {1, 3} == there.players(Member)


def test_d22_a_choice_between_two_sealed_dates_is_not_compared_in_sql(there: Club) -> None:
    with there.privacy.purpose("check"), Session(there.engine) as session, pytest.raises(PrivkitError):
        session.scalars(select(Member.id).where(Member.born > date(2010, 1, 1))).all()


def test_d18_a_child_that_moves_is_judged_anew(there: Club) -> None:
    there.add(Member(id=1, name="a", verified_on=date(2010, 6, 1), country="gb"))
    seen = [there.days("members")[1]]
    for country, state in (("DE", None), ("IN", None), (None, None), ("UK", None), ("CA", "QC"), ("EU", None)):
        there.change(Member, 1, country=country, state=state)
        seen.append(there.days("members")[1])
    assert [ADULT, "2026-06-01", "2028-06-01", "2028-06-01", TODAY, TODAY, "2026-06-01"] == seen


def test_d18_a_core_update_of_the_region_judges_anew_too(there: Club) -> None:
    there.add(Member(id=1, name="a", verified_on=date(2011, 6, 1), country="CA"))
    assert {1: "2027-06-01"} == there.days("members")
    with there.privacy.purpose("check"), there.engine.begin() as connection:
        connection.execute(update(Member).where(Member.id == 1).values(state="QC"))
    assert {1: TODAY} == there.days("members")


def test_d03_a_year_and_a_band_are_known_to_the_youngest(there: Club) -> None:
    rows: list[tuple[Any, Any]] = [(2012, None), (2013, None), (None, "13-15"), (None, "under 13"), (1900, "18+")]
    there.add(*(Pupil(id=number, name="p", year=y, band=b, country="GB") for number, (y, b) in enumerate(rows, 1)))
    assert {1: ADULT, 2: "2026-12-31", 3: ADULT, 4: None, 5: ADULT} == there.days("pupils")
    there.change(Pupil, 4, band="13-15")
    there.change(Pupil, 3, band="10-12")
    assert {1, 4, 5} == there.players(Pupil)


def test_a_bulk_insert_and_a_core_one_store_the_day_of_age(there: Club) -> None:
    rows = [
        {"id": 1, "name": "p", "band": "18+", "country": "GB"},
        {"id": 2, "name": "p", "band": None, "country": "GB"},
    ]
    with there.privacy.purpose("check"), Session(there.engine) as session:
        session.execute(insert(Pupil), rows)
        session.connection().execute(insert(Pupil.__table__), {**rows[0], "id": 3})
        session.commit()
    assert {1: ADULT, 2: None, 3: ADULT} == there.days("pupils")


def test_the_day_of_age_alone_is_enough_on_the_day_before_on_it_and_after_it(there: Club) -> None:
    policy = there.privacy.policy
    days = [consent_age_reached_on(policy, born, "GB", now=START) for born in (date(2013, 6, 15), date(1990, 1, 1))]
    there.add(*(Guest(id=number, name="g", of_age_on=day) for number, day in enumerate([*days, None], 1)))
    assert {1: "2026-06-15", 2: ADULT, 3: None} == there.days("guests")
    seen = []
    for ahead in (-1, 0, 1):
        there.clock.now = datetime(2026, 6, 15, 12, tzinfo=START.tzinfo) + timedelta(days=ahead)
        seen.append(there.players(Guest))
    assert [{2}, {1, 2}, {1, 2}] == seen


def test_d01_a_birth_date_in_the_future_is_refused_and_nothing_is_stored(there: Club) -> None:
    with pytest.raises(InvalidValue, match="future") as caught:
        there.add(Member(id=1, name="a", verified_on=date(2036, 1, 1), country="GB"))
    assert "2036" not in str(caught.value)
    assert {} == there.days("members")


def test_d01_unknown_ages_are_found_in_counts_and_placeholders_are_worse(there: Club) -> None:
    there.add(Member(id=1, name="a", country="GB"))
    (finding,) = there.found("PK835")
    assert ("members", Severity.LOW) == (finding.where, finding.severity)
    there.add(Member(id=2, name="b", verified_on=date(1970, 1, 1), country="GB"))
    (finding,) = there.found("PK835")
    assert Severity.MEDIUM is finding.severity
    assert "2 rows of unknown age among 2; 1 with a placeholder, or older than the protection." in finding.what


def test_d18_unknown_countries_are_found_in_counts(there: Club) -> None:
    countries = ["GB", "gb ", "UK", "EU", None, "XX", "SU"]
    there.add(*(Member(id=n, name="m", verified_on=date(1990, 1, 2), country=c) for n, c in enumerate(countries, 1)))
    (finding,) = there.found("PK836")
    assert "members has 3 rows of a country without a row; they are children below 18." == finding.what


def test_rows_that_are_older_than_their_protection_are_found_and_get_their_day_of_age(there: Club) -> None:
    born = [date(1990, 1, 2), date(2015, 1, 2), None]
    there.add(*(Member(id=n, name="m", verified_on=day, country="GB") for n, day in enumerate(born, 1)))
    raw_rows(there.url, "UPDATE members SET privkit_adult_on = NULL")
    assert set() == there.players(Member)
    (counted,) = [each for each in there.privacy.ages(there.engine) if each.table == "members"]
    assert (3, 1, 0, 2, 0, False) == (*_numbers(counted), counted.ok)
    assert {1: None, 2: None, 3: None} == there.days("members")
    (stored,) = [each for each in there.privacy.ages(there.engine, store=True, batch=1) if each.table == "members"]
    assert (3, 1, 0, 2, 2, True) == (*_numbers(stored), stored.ok)
    assert {1: TODAY, 2: "2028-01-02", 3: None} == there.days("members")
    assert {1} == there.players(Member)
    assert 0 == sum(each.differ for each in there.privacy.ages(there.engine))
    assert "ages_stored" in {kind for (kind,) in raw_rows(there.url, "SELECT kind FROM privkit_ledger")}


def _numbers(counted: Any) -> tuple[int, ...]:
    return counted.rows, counted.unknown, counted.kept, counted.differ, counted.stored


def test_d19_a_raised_age_affects_those_it_makes_children_again_and_whose_birth_date_is_gone_are_kept(
    there: Club,
) -> None:
    born = [date(1990, 1, 1), date(2012, 1, 1), date(2010, 3, 1), date(2012, 12, 1), date(2012, 2, 2)]
    there.add(*(Member(id=n, name="m", verified_on=day, country="GB") for n, day in enumerate(born, 1)))
    raw_rows(there.url, "UPDATE members SET verified_on = NULL WHERE id = 5")
    assert {1, 2, 3, 4, 5} == there.players(Member)
    later = there.again(RAISED)
    (counted,) = [each for each in later.privacy.ages(later.engine, store=True) if each.table == "members"]
    assert (5, 0, 1, 2, 2) == _numbers(counted)
    assert {1, 3, 5} == later.players(Member)
    assert {1: ADULT, 2: "2028-01-01", 3: ADULT, 4: "2028-12-01", 5: ADULT} == later.days("members")
    later.engine.dispose()


def test_ages_are_stored_once_however_often_and_wherever_it_was_stopped(there: Club) -> None:
    there.add(*(Member(id=n, name="m", verified_on=date(2015, 1, n), country="GB") for n in range(1, 8)))
    raw_rows(there.url, "UPDATE members SET privkit_adult_on = NULL WHERE id > 3")
    counts = [_numbers(each) for _ in range(2) for each in there.privacy.ages(there.engine, store=True, batch=2)]
    assert [(7, 0, 0, 4, 4), (7, 0, 0, 0, 0)] == [each for each in counts if each[0]]


@pytest.mark.parametrize("given", [{}, {"country": "country"}])
def test_protection_without_any_age_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(MappingError, match="no field that tells an age"):
        child_protection(**given)


def test_protection_by_a_field_that_is_not_there_is_refused() -> None:
    class Other(DeclarativeBase):
        pass

    class Person(Other):
        __tablename__ = "people"
        id: Mapped[int] = mapped_column(primary_key=True)

    with pytest.raises(MappingError, match="names 'born', which is no mapped column"):
        child_protection(birth_date="born")(data_subject(Person))

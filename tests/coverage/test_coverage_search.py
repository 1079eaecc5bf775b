"""What a search index gives away is counted in the database, printed for each field, and found above a bound."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import permutations, product
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import Equality, Personal, Privacy, data_subject, events, not_personal
from privkit.coverage import Severity, check, report
from privkit.coverage.live_search import FEWEST_ROWS, Histogram
from tests.coverage.small import POLICY, privacy_of
from tests.databases import raw_rows

FEW = POLICY.format(packs="gdpr", naive="naive_datetimes: UTC", purposes="")


def classes(search: Equality) -> Any:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @events(account_closed="closed_at")
    @not_personal("id", "closed_at", because="row id and event time")
    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        born: Mapped[Annotated[int | None, Personal("user.contact.email", purposes={"account"}, search=search)]]
        closed_at: Mapped[datetime | None]

    return Rider


class Place:
    """A database with riders whose indexed field has the values that a test gives."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder, self.engine = url, folder, create_engine(url)

    def fill(self, values: list[int | None], search: Equality | None = None) -> Privacy:
        self.rider = classes(search or Equality())
        service = privacy_of(self.folder, FEW, self.rider)
        service.protect(self.engine)
        self.rider.metadata.create_all(self.engine)
        with service.purpose("account"), self.engine.begin() as connection:
            connection.execute(insert(self.rider), [{"born": value} for value in values])
        return service

    def found(self, service: Privacy) -> list[Any]:
        return [each for each in check(service.guard, self.engine) if each.code in ("PK830", "PK831")]


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    made = Place(database_url, tmp_path)
    yield made
    made.engine.dispose()


def index(service: Privacy, place: Place) -> Histogram:
    (table,) = report(service.guard, place.engine).tables
    (found,) = [column.index for column in table.columns if column.index is not None]
    return found


def test_an_index_of_few_values_is_a_finding_with_its_figures(place: Place) -> None:
    service = place.fill([1990] * 60 + [1991] * 30 + [1992] * 30 + [None] * 5)
    (finding,) = place.found(service)

    assert ("PK831", Severity.MEDIUM, "riders.born") == (finding.code, finding.severity, finding.where)
    assert "3 hashes in 120 rows, min-entropy 1.0 bits" in finding.what
    assert "guesses 75%" in finding.what
    assert Histogram(120, 3, 60, 90, 0) == index(service, place)


def test_an_index_of_values_that_differ_gives_nothing_away(place: Place) -> None:
    service = place.fill(list(range(200)))

    assert [] == place.found(service)
    assert Histogram(200, 200, 1, 1, 0) == index(service, place)


def test_few_rows_are_printed_and_not_judged(place: Place) -> None:
    service = place.fill([1990] * (FEWEST_ROWS - 1))

    assert [] == place.found(service)
    assert "too few rows to judge" in report(service.guard, place.engine).text(width=1000)


def test_a_declared_reason_makes_the_finding_mild_and_stands_in_the_report(place: Place) -> None:
    service = place.fill([1990] * 100, Equality(guessable="birth years are public here"))
    (finding,) = place.found(service)
    made = report(service.guard, place.engine)

    assert Severity.LOW == finding.severity
    assert made.covered
    assert 'found by equality (declared guessable: "birth years are public here")' in made.text(width=1000)
    assert "birth years are public here" in made.html()


def test_every_form_of_the_report_prints_the_index(place: Place) -> None:
    made = report(place.fill([1990] * 150 + [1991] * 50).guard, place.engine)
    words = "2 hashes in 200 rows, min-entropy 0.4 bits"
    (born,) = [each for each in json.loads(made.json())["tables"][0]["columns"] if each["name"] == "born"]

    assert words in made.text(width=1000)
    assert words in made.html()
    assert (200, 2, 150, 200) == tuple(born["index"][name] for name in ("rows", "distinct", "commonest", "guessed"))


def test_a_database_without_hashes_is_reported_so(place: Place) -> None:
    assert "no hashes" == str(index(place.fill([None]), place))


def test_hashes_that_no_search_looks_for_are_a_finding(place: Place) -> None:
    place.fill([1, 2])
    place.engine.dispose()
    later = Place(place.url, place.folder)
    service = later.fill([3], Equality(key=2))
    (finding,) = later.found(service)
    later.engine.dispose()

    assert ("PK830", Severity.HIGH) == (finding.code, finding.severity)
    assert "holds 2 values that its search does not find" in finding.what


def test_hashes_under_a_key_that_is_named_are_none(place: Place) -> None:
    place.fill([1, 2])
    place.engine.dispose()
    later = Place(place.url, place.folder)
    service = later.fill([3], Equality(key=2, also=(1,)))

    assert [] == later.found(service)
    later.engine.dispose()


def test_a_sealed_value_without_a_hash_is_a_finding_and_a_destroyed_one_is_not(place: Place) -> None:
    service = place.fill([1, 2, None])
    destroyed = "x'00'" if place.url.startswith("sqlite") else r"'\x00'::bytea"
    raw_rows(place.url, "UPDATE riders SET born_ix = NULL")
    raw_rows(place.url, f"UPDATE riders SET born = {destroyed} WHERE id = 2")
    (finding,) = place.found(service)

    assert "holds 1 value that its search does not find" in finding.what


def matchings(counts: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """Every way to give each hash a value that occurs as often."""
    by_size = [[each for each in counts if counts[each] == size] for size in set(counts.values())]
    for ways in product(*(permutations(group) for group in by_size)):
        pairs = zip(by_size, ways, strict=True)
        yield {true: guess for group, way in pairs for true, guess in zip(group, way, strict=True)}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=25))
def test_the_share_that_is_guessed_is_what_matching_by_frequency_gets_right_on_average(values: list[int]) -> None:
    counts = Counter(values)
    found = Histogram.of(Counter(counts.values()).items())
    right = [sum(counts[true] for true, guess in way.items() if true == guess) for way in matchings(counts)]

    assert sum(right) / len(right) == pytest.approx(found.guessed)
    assert (len(values), len(counts)) == (found.rows, found.distinct)
    assert max(counts.values()) / len(values) == pytest.approx(2**-found.min_entropy)

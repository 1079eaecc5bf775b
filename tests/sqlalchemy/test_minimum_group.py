"""Purposes with a minimum group: no answer is about fewer persons, whatever is asked and however."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Integer,
    Select,
    and_,
    bindparam,
    case,
    cast,
    delete,
    distinct,
    exists,
    extract,
    func,
    insert,
    lambda_stmt,
    literal,
    literal_column,
    not_,
    or_,
    select,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy import column as named
from sqlalchemy.orm import Bundle, Session, aliased, joinedload, with_loader_criteria

from privkit import Personal
from privkit.errors import PurposeError, StatementRefused
from privkit.pydantic import PersonalModel
from privkit.sqlalchemy.visibility import live
from tests.databases import raw_rows
from tests.sqlalchemy.town import MINIMUM, House, Person, Ride, Stop, Town, counted, open_town, people, rides


class Form(PersonalModel):
    city: Annotated[str | None, counted()] = None
    wish: Annotated[str | None, Personal("user", purposes={"statistics"})] = None


OTHER = aliased(Person)
PEOPLE = Person.__table__


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def town(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder: Path = tmp_path_factory.mktemp("town")
    if request.param == "sqlite":
        with open_town(f"sqlite:///{folder / 't.sqlite'}", folder) as found:
            yield found
        return
    server = request.getfixturevalue("pg_server")
    with server.database() as name, open_town(server.url(name), folder) as found:
        yield found


# What is answered.


def test_g18_a_count_with_more_and_more_conditions_ends_at_none_before_it_ends_at_one(town: Town) -> None:
    everybody = select(func.count()).select_from(Person)
    in_ulm = everybody.where(Person.city == "Ulm")
    rich_in_ulm = in_ulm.where(Person.income > 500)
    assert [(20,)] == town.run(everybody)
    assert [(9,)] == town.run(in_ulm)
    assert [(None,)] == town.run(rich_in_ulm)
    assert [(20,)] == town.run_core(everybody)
    assert [(None,)] == town.run_core(rich_in_ulm)


def test_nobody_at_all_and_one_person_read_alike(town: Town) -> None:
    counted = select(func.count(), func.sum(Person.income), func.avg(Person.income)).select_from(Person)
    assert [(None, None, None)] == town.run(counted.where(Person.city == "Nowhere"))
    assert [(None, None, None)] == town.run(counted.where(Person.city == "Rust"))


def test_small_groups_are_left_out_with_their_keys(town: Town) -> None:
    by_city = select(Person.city, func.count(), func.sum(Person.income)).group_by(Person.city).order_by(Person.city)
    assert [("Bonn", 6, 270), ("Ulm", 9, 1280)] == town.run(by_city)
    assert [("Bonn", 6, 270), ("Ulm", 9, 1280)] == town.run_core(by_city)


def test_rows_have_the_names_that_they_have_without_a_minimum(town: Town) -> None:
    statement = select(
        Person.city, func.count(), func.count(Person.id), func.sum(Person.income), func.avg(Person.income).label("mean")
    ).group_by(Person.city)
    with town.privacy.purpose("statistics"), Session(town.engine) as session:
        row = session.execute(statement.where(Person.city == "Bonn")).one()
    assert ("Bonn", 6, 6, 270, 45) == (row.city, row.count_1, row.count_2, row.sum_1, row.mean)


def test_an_aggregate_of_a_column_is_over_those_who_have_a_value(town: Town) -> None:
    few = select(func.count(), func.count(Person.income), func.sum(Person.income), func.avg(Person.income)).where(
        or_(Person.income.is_(None), Person.id.in_([1, 2, 3, 4]))
    )
    raw = raw_rows(town.url, "SELECT count(*), count(income) FROM people WHERE income IS NULL OR id IN (1, 2, 3, 4)")
    assert [(6, 4)] == raw
    assert [(6, None, None, None)] == town.run(few)


def test_persons_are_counted_and_not_their_rows(town: Town) -> None:
    of_one = select(func.count(), func.sum(Ride.fare)).where(Ride.driver_id == 1)
    of_many = select(func.count(), func.sum(Ride.fare)).where(Ride.driver_id > 1)
    assert [(10,)] == raw_rows(town.url, "SELECT count(*) FROM rides WHERE driver_id = 1")
    assert [(None, None)] == town.run(of_one)
    assert [(6, 81)] == town.run(of_many)
    assert [(None, None)] == town.run(of_one.join(Ride.rider))


def test_the_owners_of_an_owner_are_counted(town: Town) -> None:
    stops = select(func.count(Stop.id)).join(Stop.ride)
    assert [(None,)] == town.run(stops.where(Ride.driver_id == 1))
    assert [(None,)] == town.run(select(func.count(Stop.id)).where(Stop.id <= 10))
    assert [(16,)] == town.run(select(func.count(Stop.id)))


def test_a_join_counts_the_persons_of_each_table(town: Town) -> None:
    driver = aliased(Person)
    driven = select(func.count(Person.id)).join(Person.rides).join(driver, Ride.driver_id == driver.id)
    assert [(16,)] == town.run(driven)
    assert [(None,)] == town.run(driven.where(driver.id == 1))
    few = select(func.count()).select_from(Person).outerjoin(Person.rides.and_(Ride.id == 0))
    with pytest.raises(PurposeError, match="foreign key"):
        town.run(few)


def test_a_field_that_expires_is_counted_and_grouped_by_while_it_lives(town: Town) -> None:
    alive = live(Person.mood)
    assert [("bad", 6), ("good", 14)] == sorted(town.run(select(alive, func.count()).group_by(live(Person.mood))))
    assert [("bad", 6)] == town.run_core(
        select(alive.label("mood"), func.count()).group_by(live(Person.mood)).order_by(func.count()).limit(1)
    )
    assert [(20,)] == town.run(select(func.count(live(Person.mood))))
    assert [(14,)] == town.run(select(func.count(OTHER.id)).where(OTHER.mood == "good"))


def test_a_sealed_field_is_counted_by_its_search(town: Town) -> None:
    assert [(7,)] == town.run(select(func.count()).where(Person.code == "code 1"))
    assert [(None,)] == town.run(select(func.count()).where(Person.code == "code 1", Person.city == "Kiel"))


def test_ordering_and_having_see_what_the_reader_sees(town: Town) -> None:
    by_city = select(Person.city).group_by(Person.city)
    assert [("Ulm",), ("Bonn",)] == town.run(by_city.order_by(func.count().desc()))
    assert [] == town.run(by_city.having(func.count() == 1))
    assert [] == town.run(by_city.having(func.count() < MINIMUM))
    assert [("Ulm",)] == town.run(by_city.having(func.sum(Person.income) > 300))
    assert [("Ulm",)] == town.run(by_city.having(Person.city != "Bonn"))
    assert [] == town.run(select(func.count()).select_from(Person).where(Person.id == 1).having(func.count() == 1))


def test_parts_of_dates_distinct_values_and_limits_are_answered(town: Town) -> None:
    year = extract("year", Person.born)
    assert [(1980, 10), (1981, 10)] == town.run(select(year, func.count()).group_by(year).order_by(year))
    assert [(4,)] == town.run(select(func.count(distinct(Person.city))))
    assert [(None,)] == town.run(select(func.count(Person.city.distinct())).where(Person.city == "Kiel"))
    by_city = select(Person.city).group_by(Person.city).order_by(Person.city)
    assert [("Ulm",)] == town.run(by_city.limit(1).offset(1))


def test_what_is_about_nobody_is_read_as_it_is(town: Town) -> None:
    assert [(1, "Ulm"), (2, "Ulm")] == town.run(select(House.id, House.city).order_by(House.id))
    assert [(1,)] == town.run(select(1))


def test_a_lambda_and_bound_parameters_are_held_to_the_minimum(town: Town) -> None:
    city = "Rust"
    assert [(None,)] == town.run(lambda_stmt(lambda: select(func.count()).where(Person.city == city)))
    with town.privacy.purpose("statistics"), Session(town.engine) as session:
        statement = select(func.count()).where(Person.city == bindparam("city"))
        assert [9, None, 9] == [session.scalar(statement, {"city": each}) for each in ("Ulm", "Rust", "Ulm")]


# What is refused.

REFUSED: dict[str, Callable[[], Any]] = {
    "an entity": lambda: select(Person),
    "a column": lambda: select(Person.city),
    "a column that is not personal": lambda: select(Person.id).where(Person.city == "Rust"),
    "a column beside an aggregate": lambda: select(Person.city, func.count()),
    "a constant with a condition": lambda: select(literal(1)).where(Person.income > 900),
    "a star": lambda: select(text("*")).select_from(Person),
    "a bundle": lambda: select(Bundle("b", Person.city)),
    "max": lambda: select(func.max(live(Person.income))),
    "min": lambda: select(func.min(Person.id)),
    "a list of values": lambda: select(func.group_concat(Person.id)),
    "an array": lambda: select(func.array_agg(Person.id)),
    "a function of its own name": lambda: select(func.app.count(Person.id)),
    "an aggregate of an expression": lambda: select(func.sum(case((Person.id == 7, live(Person.income)), else_=0))),
    "an aggregate of arithmetic": lambda: select(func.sum(Person.income * Person.id)),
    "an aggregate with a filter": lambda: select(func.sum(Person.id).filter(Person.id == 7)),
    "an aggregate of a literal column": lambda: select(func.sum(literal_column("income"))).select_from(Person),
    "arithmetic on aggregates": lambda: select(func.sum(Person.income) / (func.count() - 6)),
    "a window": lambda: select(func.count().over(order_by=Person.id)).select_from(Person),
    "a window of an aggregate": lambda: select(func.sum(func.count()).over()).select_from(Person),
    "distinct": lambda: select(Person.city).distinct(),
    "distinct groups": lambda: select(Person.city).group_by(Person.city).distinct(),
    "a union": lambda: union_all(select(func.count(Person.id)), select(func.count(Person.id))),
    "a subquery in FROM": lambda: select(func.count()).select_from(select(Person.id).limit(1).subquery()),
    "a common table expression": lambda: select(func.count()).select_from(select(Person.id).cte()),
    "one that is only added": lambda: select(func.count(Person.id)).add_cte(select(Person.id).cte("c")),
    "a lateral": lambda: select(func.count(Person.id)).join(select(OTHER.id).lateral(), true()),
    "a sample": lambda: select(func.count()).select_from(PEOPLE.tablesample(1)),
    "a scalar subquery": lambda: select(select(func.count(Person.id)).scalar_subquery()),
    "an aggregate of a subquery": lambda: select(func.sum(select(live(Person.income)).limit(1).scalar_subquery())),
    "exists in the list": lambda: select(exists(select(Person.id).where(Person.income > 900))),
    "exists as a condition": lambda: select(func.count(Person.id)).where(exists().where(OTHER.income > 900)),
    "in a subquery": lambda: select(func.count(Person.id)).where(Person.id.in_(select(OTHER.id))),
    "any": lambda: select(func.count(Person.id)).where(Person.rides.any(Ride.fare == 3)),
    "has": lambda: select(func.count(Ride.id)).where(Ride.rider.has(Person.income > 900)),
    "houses where somebody exists": lambda: select(House.id).where(exists().where(Person.income > 900)),
    "houses as often as somebody is rich": lambda: select(House.id).join(Person, Person.income > 900),
    "a division": lambda: select(func.count(Person.id)).where(1 / (Person.id - 7) > 0),
    "a cast": lambda: select(func.count(Person.id)).where(cast(Person.city, Integer) == 7),
    "a function as a condition": lambda: select(func.count(Person.id)).where(func.lower(Person.city) == "rust"),
    "like": lambda: select(func.count(Person.id)).where(Person.city.like("Ru\\")),
    "an escape of the end": lambda: select(func.count(Person.id)).where(Person.city.startswith("Ru", escape="%")),
    "text as a condition": lambda: select(func.count(Person.id)).where(text("income > 900")),
    "an operator": lambda: select(func.count(Person.id)).where(Person.city.op("||")("x") == "Rustx"),
    "case as a condition": lambda: select(func.count(Person.id)).where(case((Person.id == 7, 1), else_=0) == 1),
    "a bare name": lambda: select(func.count(Person.id)).where(named("income") > 900),
    "grouping by an expression": lambda: select(func.count(Person.id)).group_by(Person.id / 7),
    "grouping by a name": lambda: select(Person.city, func.count()).group_by("city"),
    "grouping by a subquery": lambda: select(func.count(Person.id)).group_by(select(OTHER.id).scalar_subquery()),
    "ordering by another column": lambda: select(Person.city).group_by(Person.city).order_by(Person.income),
    "ordering by max": lambda: select(Person.city).group_by(Person.city).order_by(func.max(Person.id)),
    "having max": lambda: select(Person.city).group_by(Person.city).having(func.max(Person.id) == 7),
    "having another column": lambda: select(Person.city).group_by(Person.city).having(Person.income > 900),
    "having a subquery": lambda: (
        select(Person.city).group_by(Person.city).having(func.count() > select(OTHER.income).limit(1).scalar_subquery())
    ),
    "a limit that is computed": lambda: (
        select(Person.city).group_by(Person.city).limit(select(OTHER.income).limit(1).scalar_subquery())
    ),
    "a join with one person": lambda: select(func.count(Person.id)).join(OTHER, OTHER.id == 7),
    "a join that repeats one person": lambda: select(func.avg(Person.income)).join(
        House, or_(Person.id == 7, House.id == 1)
    ),
    "a join of a key with itself": lambda: select(func.count(Person.id)).join(OTHER, OTHER.id == Person.id),
    "two tables side by side": lambda: select(func.count(Person.id), func.count(OTHER.id)),
    "a criterion of one's own": lambda: select(func.count(Person.id)).options(
        with_loader_criteria(Person, lambda cls: 1 / (cls.id - 7) > 0)
    ),
    "related objects": lambda: select(Ride).options(joinedload(Ride.rider)),
    "an insert": lambda: insert(Person).values(city="Rust"),
    "an insert into houses": lambda: insert(House).from_select(["id", "city"], select(Person.id, Person.city)),
    "an update": lambda: update(Person).where(Person.income > 900).values(city="Rust"),
    "an update of what is not personal": lambda: update(Person).where(Person.income > 900).values(left_at=None),
    "an update of houses": lambda: update(House).where(exists().where(Person.income > 900)).values(city="Ulm"),
    "a delete": lambda: delete(Person).where(Person.income > 900),
    "a delete of houses": lambda: delete(House).where(exists().where(Person.income > 900)),
    "text": lambda: text("SELECT count(*) FROM people"),
    "text of what is not personal": lambda: text("SELECT id FROM people"),
    "text of a subquery": lambda: text("SELECT id FROM houses WHERE EXISTS (SELECT 1 FROM people)"),
    "a statement that is text": lambda: select(Person).from_statement(text("SELECT * FROM people")),
}


@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SAWarning")
def test_what_could_tell_of_one_person_is_refused_before_it_is_sent(town: Town, form: str) -> None:
    def refused(run: Callable[[Any], Any]) -> None:
        with pytest.raises((PurposeError, StatementRefused)):
            run(REFUSED[form]())

    with town.sent() as sent:
        refused(town.run)
        refused(town.run_core)
    assert [] == [each for each in sent if "people" in each or "rides" in each]


def test_a_refusal_says_what_to_do_and_is_counted(town: Town) -> None:
    with pytest.raises(PurposeError, match=r"over people; 'statistics' may see groups of 5 persons") as refused:
        town.run(select(Person.city))
    assert "group_by(Model.field)" in str(refused.value)
    observed = town.privacy.observed(town.engine)
    assert any(each.field == "people.*" and each.purpose == "statistics" for each in observed)


def test_objects_are_neither_loaded_nor_read(town: Town) -> None:
    with Session(town.engine) as session, town.privacy.purpose("serve"):
        known = session.get_one(Person, 1)
        assert "Ulm" == known.city
        with town.privacy.purpose("statistics"):
            assert known is session.get(Person, 1)
            reads: list[Callable[[], Any]] = [
                lambda: known.city,
                lambda: known.rides,
                lambda: session.get(Person, 2),
                lambda: session.refresh(known),
                lambda: session.query(Person).count(),
                lambda: session.query(Person.city).first(),
            ]
            for read in reads:
                with pytest.raises(PurposeError):
                    read()
        assert "Ulm" == known.city


def test_a_flush_is_refused(town: Town) -> None:
    with town.privacy.purpose("statistics"), Session(town.engine) as session:
        session.add(Person(city="Rust"))
        with pytest.raises(PurposeError, match="A write"):
            session.flush()


# Purposes together.


def test_of_several_minimums_the_strictest_counts(town: Town) -> None:
    by_city = select(Person.city).group_by(Person.city).order_by(Person.city)
    assert [("Bonn",), ("Ulm",)] == town.run(by_city, "statistics")
    assert [("Ulm",)] == town.run(by_city, "statistics", "census")
    with town.privacy.purpose("census"):
        assert [("Ulm",)] == town.run(by_city, "statistics")
        assert [("Ulm",)] == town.run(by_city, "serve")
    with town.privacy.purpose("statistics"):
        assert [("Ulm",)] == town.run(by_city, "census")


def test_a_purpose_named_twice_keeps_its_minimum(town: Town) -> None:
    with pytest.raises(PurposeError):
        town.run(select(Person.city), "statistics", "statistics")


def test_a_block_around_or_within_never_lifts_the_minimum(town: Town) -> None:
    for outer, inner in (("statistics", "serve"), ("serve", "statistics")):
        with town.privacy.purpose(outer), pytest.raises(PurposeError):
            town.run(select(Person.city), inner)
        with town.privacy.purpose(outer):
            assert [(None,)] == town.run(select(func.count()).where(Person.city == "Rust"), inner)


def test_beside_a_purpose_without_one_it_collects_and_shows_nothing(town: Town) -> None:
    with town.privacy.purpose("serve", "statistics"), Session(town.engine) as session:
        person = Person(id=99, city="Jena", wish="planted wish")
        session.add(person)
        session.flush()
        assert "planted wish" == session.connection().exec_driver_sql("SELECT 'planted wish'").scalar_one()
        session.expire(person)
        assert "Jena" == person.city
        reads: list[Callable[[], Any]] = [
            lambda: person.wish,
            lambda: session.scalar(select(func.count()).where(Person.wish == "planted wish")),
            lambda: session.scalars(select(Person.wish)).all(),
        ]
        for read in reads:
            with pytest.raises(PurposeError):
                read()
        person.wish = "another"
        session.flush()
        session.rollback()


def test_text_goes_through_unchecked_alone(town: Town) -> None:
    count = text("SELECT count(*) FROM people")
    with town.privacy.unchecked("the yearly report"):
        assert [(20,)] == town.run(count)
        with pytest.raises(PurposeError):
            town.run(select(Person.city))


# Whatever is asked.

CITIES = ("Ulm", "Bonn", "Kiel", "Rust", "Jena")


@st.composite
def filters(draw: st.DrawFn, depth: int = 2) -> tuple[Any, Callable[[dict[str, Any]], bool]]:
    """A condition on people, and the same in Python."""
    kind = draw(st.sampled_from(["city", "cities", "id", "born", "and", "or", "not"][: 7 if depth else 4]))
    if kind in ("and", "or"):
        (left, is_left), (right, is_right) = draw(filters(depth - 1)), draw(filters(depth - 1))
        if kind == "and":
            return and_(left, right), lambda row: is_left(row) and is_right(row)
        return or_(left, right), lambda row: is_left(row) or is_right(row)
    if kind == "not":
        inner, is_inner = draw(filters(depth - 1))
        return not_(inner), lambda row: not is_inner(row)
    if kind == "city":
        city = draw(st.sampled_from(CITIES))
        return Person.city == city, lambda row: row["city"] == city
    if kind == "cities":
        cities = draw(st.lists(st.sampled_from(CITIES), min_size=1))
        return Person.city.in_(cities), lambda row: row["city"] in cities
    number = draw(st.integers(0, 21))
    if kind == "id":
        return Person.id > number, lambda row: row["id"] > number
    day = date(1980 + number % 2, 1, 1 + number)
    return Person.born <= day, lambda row: row["born"] <= day


@st.composite
def questions(draw: st.DrawFn) -> tuple[Select[Any], list[dict[str, Any]], bool]:
    """A statement over people, joined with rides or not; the rows it is about; whether it is grouped by city."""
    joined, grouped = draw(st.booleans()), draw(st.booleans())
    condition, holds = draw(filters())
    rows: list[dict[str, Any]] = [each for each in people() if holds(each)]
    statement = select(
        *([Person.city] if grouped else []), func.count(), func.count(Person.income), func.sum(Person.income)
    )
    if joined:
        fare = draw(st.integers(0, 16))
        by_id = {each["id"]: each for each in rows}
        rows = [{**by_id[each["rider_id"]], **each} for each in rides() if each["rider_id"] in by_id]
        rows = [each for each in rows if each["fare"] > fare]
        statement = statement.join(Person.rides).where(Ride.fare > fare)
    statement = statement.where(condition).select_from(Person)
    if grouped:
        statement = statement.group_by(Person.city).order_by(draw(st.sampled_from([Person.city, func.count(), None])))
    return statement, rows, grouped


def expected(rows: list[dict[str, Any]], grouped: bool) -> list[tuple[Any, ...]]:
    """What may be answered, counted in Python."""
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["city"] if grouped else None].append(row)
    if not grouped:
        return [answer(groups[None])]
    return [(city, *answer(group)) for city, group in groups.items() if answer(group)[0] is not None]


def answer(group: list[dict[str, Any]]) -> tuple[Any, ...]:
    paid = [row for row in group if row["income"] is not None]
    count = len(group) if enough(group) else None
    return (count, len(paid), sum(row["income"] for row in paid)) if enough(paid) else (count, None, None)


def enough(rows: list[dict[str, Any]]) -> bool:
    """Whether they are about enough riders, and enough drivers where they are rides."""
    persons = [{row[name] for row in rows if name in row} for name in ("rider_id", "driver_id")]
    if rows and "rider_id" in rows[0]:
        return all(len(each) >= MINIMUM for each in persons)
    return len({row["id"] for row in rows}) >= MINIMUM


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(question=questions())
def test_no_question_is_answered_over_fewer_persons_than_the_minimum(
    town: Town, question: tuple[Select[Any], list[dict[str, Any]], bool]
) -> None:
    statement, rows, grouped = question
    found = town.run(statement)
    event(f"shown: {any(value is not None for row in found for value in row)}")
    assert sorted(expected(rows, grouped), key=repr) == sorted(found, key=repr)


def test_the_report_says_which_purposes_have_a_minimum(town: Town) -> None:
    report = town.privacy.report()
    (use,) = (
        use
        for table in report.tables
        for column in table.columns
        for use in column.uses
        if (table.name, column.name, use.purpose) == ("people", "wish", "statistics")
    )
    assert MINIMUM == use.minimum_group
    said = "only in groups of 5 persons or more"
    assert said in " ".join(report.text().split())
    assert said in report.html()
    assert said in report.json()


def test_a_model_in_memory_carries_nothing_under_it(town: Town) -> None:
    with town.privacy.purpose("serve", "statistics"):
        form = Form(city="Ulm")
        assert {"city": "Ulm"} == form.model_dump()
    with town.privacy.purpose("statistics"):
        assert {} == form.model_dump()

"""What a purpose sees of a stored value, and that what it saw is never stored in place of it."""

import pickle
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import bindparam, func, insert, literal, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, load_only, make_transient

from privkit import Cell, GeoPoint, Initials, StandIn
from privkit.deidentify import Reduced
from privkit.errors import PurposeError, SealedError, ShreddedError
from privkit.location import cell
from tests.databases import raw_rows
from tests.sqlalchemy.club import ADA, BOB, Member, club, join, stored
from tests.sqlalchemy.rides import RideService


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[RideService]:
    found = club(database_url, tmp_path)
    join(found, ADA, BOB)
    yield found
    found.engine.dispose()


SEEN: list[tuple[str, str, Any, Any]] = [
    ("rating", "name", "A. L.", "B. R."),
    ("rating", "nick", "a. k.", "b."),
    ("abuse", "ip", "203.0.113.0/24", "2001:db8:1::/48"),
    ("shops", "country", True, False),
    ("gate", "born", False, True),
    ("rating", "born", "13-15", "35-44"),
    ("stats", "born", "2010-06", "1990-01"),
    ("trends", "born", "2010-Q2", "1990-Q1"),
    ("decades", "born", 2010, 1990),
    ("decades", "joined", 2024, 2020),
    ("map", "home", cell(ADA["home"], 7), cell(BOB["home"], 7)),
]


def test_a_purpose_sees_its_precision_by_object_and_by_column(service: RideService) -> None:
    for purpose, name, ada, bob in SEEN:
        with service.privacy.purpose(purpose), Session(service.engine) as session:
            objects = [getattr(each, name) for each in session.scalars(select(Member).order_by(Member.id))]
            columns = session.scalars(select(getattr(Member, name)).order_by(Member.id)).all()
            core = session.connection().execute(select(Member.__table__.c[name]).order_by(Member.id)).scalars().all()
        assert [ada, bob] == objects == list(columns) == list(core)
        assert {Reduced if isinstance(ada, str) else type(ada)} == {type(each) for each in (*objects, *columns, *core)}


def test_what_is_not_known_is_none_at_every_precision(service: RideService) -> None:
    join_empty = insert(Member).values(id=3)
    with service.privacy.purpose("account"), service.engine.begin() as connection:
        connection.execute(join_empty)
    for purpose, name, *_ in [*SEEN, ("drivers", "name")]:
        with service.privacy.purpose(purpose), Session(service.engine) as session:
            assert getattr(session.get_one(Member, 3), name) is None


def where(service: RideService) -> str:
    return service.engine.url.render_as_string(hide_password=False)


def key_of(service: RideService) -> bytes:
    ((key,),) = raw_rows(where(service), "SELECT privkit_key FROM members WHERE id = 1")
    return bytes(key)


# Ways to store what was seen. Each is given the service, the purpose, the field and the value that was seen.


def only(name: str, number: int = 1) -> Any:
    return select(Member).where(Member.id == number).options(load_only(Member.id, getattr(Member, name)))


def loaded(service: RideService, purpose: str, name: str, number: int = 1) -> Member:
    """Return a member with one field, outside of the session that loaded it."""
    with service.privacy.purpose(purpose), Session(service.engine) as session:
        found: Member = session.scalars(only(name, number)).one()
        session.expunge_all()
        return found


def merge(service: RideService, purpose: str, name: str, value: Any) -> None:
    held = loaded(service, purpose, name)
    with service.privacy.purpose("account"), Session(service.engine) as session:
        session.merge(held)
        session.commit()


def add_as_new(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose(purpose), Session(service.engine) as session:
        held = session.scalars(only(name)).one()
        make_transient(held)
    held.id = 9
    with service.privacy.purpose("account"), Session(service.engine) as session:
        session.add(held)
        session.commit()


def assign(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose("account"), Session(service.engine) as session:
        setattr(session.get_one(Member, 1), name, value)
        session.commit()


def assign_to_another_row(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose("account"), Session(service.engine) as session:
        setattr(session.get_one(Member, 2), name, value)
        session.commit()


def assign_in_its_own_purpose(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose(purpose), Session(service.engine) as session:
        setattr(session.get_one(Member, 2), name, value)
        session.commit()


def copied(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301


def assign_a_pickled_one(service: RideService, purpose: str, name: str, value: Any) -> None:
    assign(service, purpose, name, copied(value))


def core_update(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose("account"), service.engine.begin() as connection:
        connection.execute(update(Member.__table__).where(Member.__table__.c.id == 1), {name: value})


def update_values(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose("account"), Session(service.engine) as session:
        session.execute(update(Member).where(Member.id == 1).values({name: value}))
        session.commit()


def bulk_update(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose("account"), Session(service.engine) as session:
        session.execute(update(Member), [{"id": 1, name: value}, {"id": 2, name: BOB[name]}])
        session.commit()


def bulk_mappings(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose("account"), Session(service.engine) as session:
        session.bulk_update_mappings(Member.__mapper__, [{"id": 1, name: value}])
        session.commit()


def insert_many(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose("account"), service.engine.begin() as connection:
        connection.execute(insert(Member), [{"id": 8, name: ADA[name]}, {"id": 9, name: value}])


def insert_rows_of_values(service: RideService, purpose: str, name: str, value: Any) -> None:
    with service.privacy.purpose("account"), service.engine.begin() as connection:
        connection.execute(insert(Member).values([{"id": 8, name: ADA[name]}, {"id": 9, name: value}]))


def upsert(service: RideService, purpose: str, name: str, value: Any) -> None:
    kind = {"sqlite": sqlite, "postgresql": postgresql}[service.engine.dialect.name]
    with service.privacy.purpose("account"), service.engine.begin() as connection:
        statement = kind.insert(Member).values({"id": 1, name: ADA[name]})
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_={name: value}))


WAYS: list[Callable[[RideService, str, str, Any], None]] = [
    merge,
    add_as_new,
    assign,
    assign_to_another_row,
    assign_in_its_own_purpose,
    assign_a_pickled_one,
    core_update,
    update_values,
    bulk_update,
    bulk_mappings,
    insert_many,
    insert_rows_of_values,
    upsert,
]


@pytest.mark.parametrize("store", WAYS)
def test_what_was_seen_at_a_lower_precision_is_stored_in_no_way(
    service: RideService, store: Callable[..., None]
) -> None:
    for purpose, name, seen, _ in [*SEEN, ("drivers", "name", None, None)]:
        with service.privacy.purpose(purpose), Session(service.engine) as session:
            value = getattr(session.get_one(Member, 1), name)
            assert seen is None or seen == value
        with pytest.raises(PurposeError, match=rf"members\.{name} was given a value .* at a lower precision") as caught:
            store(service, purpose, name, value)
        assert "session.refresh" in str(caught.value)
        shown = {str(ADA[name]), str(value)} - {"DE"}  # which the question asks by name
        assert [] == [each for each in shown if each in str(caught.value)]
    assert (ADA, BOB) == (stored(service, 1), stored(service, 2))
    assert [(2,)] == raw_rows(where(service), "SELECT count(*) FROM members")


@pytest.mark.parametrize(
    "expression", [lambda value: func.upper(literal(value)), lambda value: func.upper(bindparam("given", value))]
)
def test_an_expression_of_what_was_seen_is_not_stored(service: RideService, expression: Any) -> None:
    with service.privacy.purpose("rating"), Session(service.engine) as session:
        nick = session.get_one(Member, 1).nick
    statement = update(Member.__table__).where(Member.__table__.c.id == 1).values(nick=expression(nick))
    with service.privacy.purpose("account"), service.engine.begin() as connection:
        with pytest.raises(PurposeError, match="lower precision"):
            connection.execute(statement)
        with pytest.raises(PurposeError, match="lower precision"):
            connection.execute(update(Member.__table__).values(nick=func.upper(bindparam("given"))), {"given": nick})
    assert ADA == stored(service)


def test_what_was_not_seen_stays_when_the_rest_of_a_row_is_written_back(service: RideService) -> None:
    with service.privacy.purpose("rating"), Session(service.engine) as session:
        held = session.get_one(Member, 1)
        assert "A. L." == held.name
        held.closed_at = None
        session.commit()
    assert ADA == stored(service)


async def test_an_async_driver_stores_it_neither(async_database_url: str, database_url: str, tmp_path: Path) -> None:
    made = club(database_url, tmp_path)
    join(made, ADA)
    engine = create_async_engine(async_database_url)
    made.privacy.protect(engine)
    with made.privacy.purpose("rating"):
        async with AsyncSession(engine) as session:
            held = await session.get_one(Member, 1)
            assert ("A. L.", "a. k.") == (held.name, held.nick)
            session.expunge_all()
    with made.privacy.purpose("account"):
        async with AsyncSession(engine) as session:
            await session.merge(held)
            with pytest.raises(PurposeError, match="lower precision"):
                await session.commit()
    assert ADA == stored(made)
    await engine.dispose()
    made.engine.dispose()


# A loaded object under another purpose than it was loaded in.


def test_what_a_block_loaded_exactly_is_reduced_in_a_narrower_one(service: RideService) -> None:
    with service.privacy.purpose("account"), Session(service.engine) as session:
        held = session.get_one(Member, 1)
        exact = {name: getattr(held, name) for name in ADA}
        for purpose, name, seen, _ in SEEN:
            with service.privacy.purpose(purpose):
                assert seen == getattr(held, name)
                session.expunge_all()  # else what it saw leaves with the block, and is loaded again
        assert exact == {name: getattr(held, name) for name in ADA}


def test_a_finer_cell_is_reduced_further_and_a_coarser_one_is_never_refined(service: RideService) -> None:
    fine, coarse = loaded(service, "map", "home"), loaded(service, "wide_map", "home")
    with service.privacy.purpose("wide_map"):
        assert cell(ADA["home"], 5) == fine.home
    with service.privacy.purpose("map"):
        assert cell(ADA["home"], 5) == coarse.home


def test_a_month_is_reduced_to_a_quarter_and_a_year(service: RideService) -> None:
    held = loaded(service, "stats", "born")
    with service.privacy.purpose("trends"):
        assert "2010-Q2" == held.born
    with service.privacy.purpose("decades"):
        assert 2010 == held.born


def test_a_band_answers_a_question_at_one_of_its_bounds(service: RideService) -> None:
    held = [loaded(service, "rating", "born", number) for number in (1, 2)]
    with service.privacy.purpose("gate"):
        assert [False, True] == [each.born for each in held]


@pytest.mark.parametrize(
    ("loaded_in", "read_in", "name"),
    [
        ("stats", "rating", "born"),
        ("decades", "rating", "born"),
        ("gate", "decades", "born"),
        ("rating", "drivers", "name"),
        ("drivers", "shops", "name"),
        ("account", "drivers", "name"),
    ],
)
def test_what_was_loaded_otherwise_is_loaded_again_or_refused(
    service: RideService, loaded_in: str, read_in: str, name: str
) -> None:
    held = loaded(service, loaded_in, name)
    with service.privacy.purpose(read_in), Session(service.engine) as session:
        with pytest.raises(PurposeError, match="was loaded at another precision") as caught:
            getattr(held, name)
        assert f"session.refresh(row, ['{name}'])" in str(caught.value)
        session.add(held)
        with pytest.raises(PurposeError, match="was loaded at another precision"):
            getattr(held, name)
        session.refresh(held, [name])
        assert getattr(session.get_one(Member, 1), name) == getattr(held, name)


def test_nested_purposes_whose_precisions_have_nothing_in_common_see_nothing_and_the_message_says_why(
    service: RideService,
) -> None:
    with service.privacy.purpose("rating"), service.privacy.purpose("decades"), Session(service.engine) as session:
        held = session.get_one(Member, 1)
        with pytest.raises(PurposeError, match="precisions of which no value tells both"):
            _ = held.born


def test_nested_purposes_see_the_coarser_of_two_precisions(service: RideService) -> None:
    for outer, inner in (("map", "wide_map"), ("wide_map", "map")):
        with service.privacy.purpose(outer), service.privacy.purpose(inner), Session(service.engine) as session:
            assert cell(ADA["home"], 5) == session.get_one(Member, 1).home
    with service.privacy.purpose("rating"), service.privacy.purpose("gate"), Session(service.engine) as session:
        assert session.get_one(Member, 1).born is False


def test_of_two_purposes_in_one_block_that_do_not_compare_the_first_counts(service: RideService) -> None:
    for names, seen in ((("rating", "decades"), "13-15"), (("decades", "rating"), 2010)):
        with service.privacy.purpose(*names), Session(service.engine) as session:
            assert seen == session.get_one(Member, 1).born


def test_a_purpose_that_sees_a_lower_precision_cannot_search_by_the_value(service: RideService) -> None:
    for purpose, name in (("rating", "nick"), ("abuse", "ip"), ("shops", "country"), ("stats", "joined")):
        query = select(Member.id).where(getattr(Member, name) == ADA[name])
        with (
            service.privacy.purpose(purpose),
            Session(service.engine) as session,
            pytest.raises(PurposeError, match="lower precision"),
        ):
            session.scalars(query).all()


# Stand-ins.


def test_the_report_says_who_sees_a_stand_in_and_which_names_nobody_goes_without(service: RideService) -> None:
    report = service.privacy.report()
    (answer,) = [each for each in report.answers if each.question == "Do people have to use their real names?"]
    assert "members.name: drivers sees stand-in name for 'drivers' only" in answer.evidence
    assert "members.nick: rating sees initials only" in answer.evidence
    assert () == answer.gaps


def names(service: RideService, audience: str) -> list[Any]:
    with service.privacy.purpose(audience), Session(service.engine) as session:
        return list(session.scalars(select(Member.name).order_by(Member.id)))


def test_a_stand_in_is_the_same_for_one_audience_and_another_for_the_next(service: RideService) -> None:
    drivers, shops = names(service, "drivers"), names(service, "shops")
    assert drivers == names(service, "drivers")
    assert 4 == len({*drivers, *shops})
    assert [StandIn("drivers")] * 2 == [each.precision for each in drivers]
    assert not {"ada", "lovelace", "bob", "ross"} & {
        word.lower() for each in (*drivers, *shops) for word in each.split()
    }


def test_a_stand_in_does_not_depend_on_the_name_and_survives_its_change(service: RideService) -> None:
    before = names(service, "drivers")
    with service.privacy.purpose("account"), service.engine.begin() as connection:
        connection.execute(update(Member).where(Member.id == 1), {"name": BOB["name"]})
    assert before == names(service, "drivers")


def test_a_stand_in_survives_a_restart_and_a_new_master_generation(
    service: RideService, database_url: str, tmp_path: Path
) -> None:
    before = names(service, "drivers")
    service.privacy.rotate_keys(service.engine)
    again = club(database_url, tmp_path)
    assert before == names(again, "drivers")
    again.engine.dispose()


def test_no_table_remembers_a_stand_in(service: RideService) -> None:
    shown = {word for each in names(service, "drivers") for word in (each, each.split()[-1])}
    held = [raw_rows(where(service), f"SELECT * FROM {table.name}") for table in Member.metadata.sorted_tables]
    assert not [word for word in shown if len(word) > 4 and word in str(held)]


def test_a_stand_in_is_gone_after_erasure_even_where_the_row_is_restored(service: RideService) -> None:
    raw_rows(where(service), "CREATE TABLE backup AS SELECT * FROM members WHERE id = 1")
    bob = names(service, "drivers")[1]
    service.privacy.erase(service.engine, key_of(service), by="test")
    raw_rows(where(service), "DELETE FROM members WHERE id = 1")
    raw_rows(where(service), "INSERT INTO members SELECT * FROM backup")
    with service.privacy.purpose("drivers"), Session(service.engine) as session:
        with pytest.raises(ShreddedError):
            session.scalars(select(Member.name).where(Member.id == 1)).all()
        assert bob == session.scalars(select(Member.name).where(Member.id == 2)).one()


def test_a_new_key_gives_a_data_subject_another_stand_in(service: RideService) -> None:
    before = names(service, "drivers")
    service.privacy.reseal(service.engine, subject=key_of(service))
    after = names(service, "drivers")
    assert before[0] != after[0]
    assert before[1] == after[1]


def test_a_stand_in_is_not_made_of_a_value_that_does_not_open(service: RideService) -> None:
    raw_rows(where(service), "UPDATE members SET name = (SELECT name FROM members WHERE id = 1) WHERE id = 2")
    with (
        service.privacy.purpose("drivers"),
        Session(service.engine) as session,
        pytest.raises(SealedError, match="not its row's data subject's"),
    ):
        session.scalars(select(Member.name).where(Member.id == 2)).all()


def test_marked_text_keeps_its_mark_in_a_pickle_and_reads_as_text() -> None:
    for given in (Reduced("A. L.", Initials()), Reduced(cell(GeoPoint(1, 2), 7), Cell(7))):
        copy = copied(given)
        assert (given, given.precision, Reduced) == (copy, copy.precision, type(copy))
        assert type(str(given)) is str


def test_the_cautious_day_decides_who_is_sixteen(service: RideService) -> None:
    assert date(2010, 6, 16) == ADA["born"]
    for day, answer in ((16, False), (17, True)):
        service.clock.now = service.clock.now.replace(day=day, hour=11)  # type: ignore[attr-defined]
        with service.privacy.purpose("gate"), Session(service.engine) as session:
            assert answer is session.get_one(Member, 1).born

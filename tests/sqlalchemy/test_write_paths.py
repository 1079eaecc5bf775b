"""Every way in which a row can be written: sealed and readable afterwards, or refused; never plain, never lost."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    MetaData,
    String,
    Table,
    bindparam,
    cast,
    column,
    delete,
    exists,
    func,
    insert,
    lambda_stmt,
    literal,
    literal_column,
    null,
    select,
    table,
    text,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, aliased

from privkit.errors import PrivkitError
from tests.databases import raw_rows
from tests.sqlalchemy.shop import (
    LEFTOVERS,
    PLAIN,
    PLANTED,
    TEXT,
    Card,
    Contact,
    Doctor,
    Guest,
    Line,
    Member,
    Order,
    Parcel,
    Patient,
    Person,
    Place,
    Shop,
    Staff,
    Stub,
    Ticket,
    Visit,
    open_async,
    open_shop,
)

people: Any = Person.__table__
TABLES = ("people", "orders", "lines", "visits", "staff", "doctors", "contacts", "cards", "guests")
Write = Callable[[Shop, Session], Any]

WORKS: dict[str, Write] = {}
"""Writes that leave person 7 with the planted values."""

SEALED: dict[str, Write] = {}
"""Unusual writes that leave person 7's note as TEXT."""

REFUSED: dict[str, Write] = {}
"""Writes that raise a PrivkitError and leave person 7's note as it was."""


def works(write: Write) -> Write:
    WORKS[write.__name__] = write
    return write


def seals(write: Write) -> Write:
    SEALED[write.__name__] = write
    return write


def refuses(write: Write) -> Write:
    REFUSED[write.__name__] = write
    return write


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    if request.param == "sqlite":
        yield from _opened(f"sqlite:///{folder / 'shop.sqlite'}", folder)
    else:
        with request.getfixturevalue("pg_server").database() as name:
            yield from _opened(request.getfixturevalue("pg_server").url(name), folder)


def _opened(url: str, folder: Path) -> Iterator[Shop]:
    found = open_shop(url, folder)
    yield found
    found.engine.dispose()


@pytest.fixture
def shop(opened: Shop) -> Shop:
    opened.reset()
    return opened


def upsert(session: Session, table: Any) -> Any:
    module = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return module.insert(table)


def person(**more: Any) -> dict[str, Any]:
    return {"id": 7} | PLANTED | PLAIN | more


@works
def orm_add(_: Shop, session: Session) -> None:
    session.add(Person(**person()))


@works
def orm_add_all(_: Shop, session: Session) -> None:
    session.add_all([Person(**person()), Person(**person(id=8))])


@works
def orm_merge_of_a_new_row(_: Shop, session: Session) -> None:
    session.merge(Person(**person()))


@works
def orm_merge_over_an_old_row(_: Shop, session: Session) -> None:
    session.add(Person(id=7, note="planted old"))
    session.commit()
    session.merge(Person(**person()))


@works
def bulk_save_objects(_: Shop, session: Session) -> None:
    session.bulk_save_objects([Person(**person()), Person(**person(id=8))])


@works
def bulk_insert_mappings(_: Shop, session: Session) -> None:
    session.bulk_insert_mappings(Person, [person(), person(id=8)])


@works
def bulk_update_mappings(_: Shop, session: Session) -> None:
    session.add_all([Person(id=7), Person(id=8)])
    session.commit()
    session.bulk_update_mappings(Person, [person(), person(id=8)])


@works
def orm_insert_with_a_list(_: Shop, session: Session) -> None:
    session.execute(insert(Person), [person(), person(id=8)])


@works
def orm_insert_with_one_row_of_values(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values(**person()))


@works
def orm_insert_with_attribute_keys(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values({getattr(Person, name): value for name, value in person().items()}))


@works
def orm_insert_with_one_dict(_: Shop, session: Session) -> None:
    session.execute(insert(Person), person())


@works
def core_insert_on_the_table(_: Shop, session: Session) -> None:
    session.connection().execute(insert(people), [person(), person(id=8)])


@works
def core_insert_with_values(_: Shop, session: Session) -> None:
    session.connection().execute(insert(people).values(**person()))


@works
def core_insert_with_named_binds(_: Shop, session: Session) -> None:
    given = person()
    binds: dict[str, Any] = {name: bindparam(f"b_{name}") for name in given}
    session.connection().execute(
        insert(people).values(**binds), [{f"b_{name}": value for name, value in given.items()}]
    )


@works
def insert_returning_the_entity(_: Shop, session: Session) -> None:
    found = session.scalars(insert(Person).returning(Person.id, Person.note), [person(), person(id=8)]).all()
    assert {7, 8} == set(found)


@works
def several_rows_of_values_returning(_: Shop, session: Session) -> None:
    rows = [person(), person(id=8)]
    found = session.execute(insert(Person).values(rows).returning(Person.id, Person.note)).all()
    assert [(7, TEXT), (8, TEXT)] == sorted(tuple(row) for row in found)


@works
def insert_returning_a_column(_: Shop, session: Session) -> None:
    assert [TEXT] == session.scalars(insert(Person).returning(Person.note), [person()]).all()


@works
def orm_flush_of_an_update(_: Shop, session: Session) -> None:
    found = Person(id=7)
    session.add(found)
    session.commit()
    for name, value in person().items():
        setattr(found, name, value)


@works
def update_by_primary_key_list(_: Shop, session: Session) -> None:
    session.add_all([Person(id=7), Person(id=8)])
    session.commit()
    session.execute(update(Person), [person(), person(id=8)])


@works
def update_where_values(_: Shop, session: Session) -> None:
    session.add_all([Person(id=7), Person(id=8)])
    session.commit()
    done: Any = session.execute(update(Person).where(Person.id == 7).values(**PLANTED, **PLAIN))
    assert 1 == done.rowcount


@works
def update_by_the_search_index(_: Shop, session: Session) -> None:
    session.add_all([Person(id=7, email="Planted.Old@x.example"), Person(id=8)])
    session.commit()
    where = update(Person).where(Person.email == "planted.old@X.example")
    session.execute(where.values(**PLANTED, **PLAIN).execution_options(synchronize_session=False))


@works
def core_update_executemany(_: Shop, session: Session) -> None:
    session.add_all([Person(id=7), Person(id=8)])
    session.commit()
    table: Any = people
    where = update(table).where(table.c.id == bindparam("who"))
    session.connection().execute(where, [{"who": each} | PLANTED | PLAIN for each in (7, 8)])


@works
def core_update_with_named_binds(_: Shop, session: Session) -> None:
    session.add(Person(id=7))
    session.commit()
    table: Any = people
    given = PLANTED | PLAIN
    binds: dict[str, Any] = {name: bindparam(f"b_{name}") for name in given}
    changed = update(table).where(table.c.id == bindparam("who")).values(binds)
    session.connection().execute(changed, [{"who": 7} | {f"b_{name}": value for name, value in given.items()}])


@works
def update_returning(_: Shop, session: Session) -> None:
    session.add(Person(id=7))
    session.commit()
    changed = update(Person).where(Person.id == 7).values(**PLANTED, **PLAIN).returning(Person.note)
    assert [TEXT] == session.scalars(changed).all()


@works
def lambda_insert(_: Shop, session: Session) -> None:
    given = person()
    session.execute(lambda_stmt(lambda: insert(Person)), [given])


@works
def savepoint_released(_: Shop, session: Session) -> None:
    with session.begin_nested():
        session.add(Person(**person()))


@works
def savepoint_rolled_back_and_again(_: Shop, session: Session) -> None:
    nested = session.begin_nested()
    session.add(Person(**person(note="planted first")))
    session.flush()
    nested.rollback()
    session.add(Person(**person()))


@works
def transaction_rolled_back_and_again(_: Shop, session: Session) -> None:
    session.add(Person(**person(note="planted first")))
    session.flush()
    session.rollback()
    session.add(Person(**person()))


@works
def upsert_do_nothing_of_a_new_row(_: Shop, session: Session) -> None:
    session.execute(upsert(session, Person).on_conflict_do_nothing(), [person()])


@works
def upsert_of_an_unsealed_column_keeps_the_sealed_ones(_: Shop, session: Session) -> None:
    session.add(Person(**person()))
    session.commit()
    statement = upsert(session, Person)
    again = statement.on_conflict_do_update(index_elements=["id"], set_={"rank": statement.excluded.rank})
    session.execute(again, [{"id": 7, "rank": 3}])


@works
def update_of_an_unsealed_field_across_subjects(_: Shop, session: Session) -> None:
    session.add_all([Person(**person(city="old")), Person(id=8)])
    session.commit()
    done: Any = session.execute(update(Person).values(city=PLAIN["city"]))
    assert 2 == done.rowcount


@works
def update_to_null_across_subjects_leaves_others(_: Shop, session: Session) -> None:
    session.add_all([Person(**person()), Person(id=8, note="planted"), Person(id=9, note="planted")])
    session.commit()
    session.execute(update(Person).where(Person.id > 7).values(note=None))
    assert [None, None] == session.scalars(select(Person.note).where(Person.id > 7)).all()


@works
def insert_with_several_rows_of_values(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values([person(), person(id=8)]))


@works
def core_insert_with_several_rows_of_values(_: Shop, session: Session) -> None:
    session.connection().execute(insert(people).values([person(), person(id=8)]))


@works
def several_rows_of_values_with_an_expression(_: Shop, session: Session) -> None:
    rows = [person(rank=func.abs(-3)), person(id=8, rank=4)]
    session.execute(insert(Person).values(rows))
    assert [3, 4] == session.scalars(select(Person.rank).order_by(Person.id)).all()


@works
def several_rows_of_values_without_names(_: Shop, session: Session) -> None:
    given = person()
    session.connection().execute(insert(people).values([tuple(given.get(each.key) for each in people.columns)]))


@works
def upsert_over_an_old_row(_: Shop, session: Session) -> None:
    session.add_all([Person(id=7, note="planted old", email="planted.old@x.example"), Person(id=8)])
    session.commit()
    statement = upsert(session, Person)
    changed = {name: statement.excluded[name] for name in PLANTED | PLAIN}
    session.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed), [person(), person(id=9)])


@refuses
def several_rows_of_values_with_different_columns(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values([{"id": 7, "note": TEXT}, {"id": 8}]))


@refuses
def several_rows_of_values_with_a_function(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values([{"id": 7, "note": func.lower(TEXT)}, {"id": 8, "note": TEXT}]))


@refuses
def rows_in_values_and_in_parameters(_: Shop, session: Session) -> None:
    session.connection().execute(insert(people).values([{"id": 7, "note": TEXT}]), [{"id": 7, "note": TEXT}])


@refuses
def insert_from_select(_: Shop, session: Session) -> None:
    session.execute(insert(Person).from_select(["id", "note"], select(literal(7), literal(TEXT))))


@refuses
def insert_from_select_of_another_subject(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values(id=9, note=TEXT))
    session.execute(insert(Person).from_select(["id", "note"], select(literal(7), Person.note).where(Person.id == 9)))


@seals
def insert_of_a_literal(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values(id=7, note=literal(TEXT)))


@refuses
def insert_of_a_function(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values(id=7, note=func.lower(TEXT)))


@refuses
def insert_of_a_literal_column(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values(id=7, note=literal_column(f"'{TEXT}'")))


@refuses
def insert_of_a_text_fragment(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values(id=7, note=text(f"'{TEXT}'")))


@refuses
def insert_of_a_subquery(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values(id=7, note=select(literal(TEXT)).scalar_subquery()))


@refuses
def insert_of_a_type_coerce(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values(id=7, note=type_coerce(TEXT, people.c.note.type)))


@refuses
def insert_of_a_callable_bind(_: Shop, session: Session) -> None:
    session.execute(insert(Person).values(id=7, note=bindparam(None, callable_=lambda: TEXT)))


@seals
def insert_values_and_parameters_disagree(_: Shop, session: Session) -> None:
    session.connection().execute(insert(people).values(note="planted other"), [{"id": 7, "note": TEXT}])


@seals
def insert_by_a_hand_made_bind_name(_: Shop, session: Session) -> None:
    session.connection().execute(insert(people).values(id=7, note=bindparam("anything")), {"anything": TEXT})


@seals
def insert_inline(_: Shop, session: Session) -> None:
    session.connection().execute(insert(people).inline(), [{"id": 7, "note": TEXT}])


@refuses
def insert_by_cte(_: Shop, session: Session) -> None:
    added = insert(people).values(id=7, note=TEXT).returning(people.c.id).cte()
    session.execute(select(added.c.id))


@refuses
def insert_as_text(_: Shop, session: Session) -> None:
    session.execute(text("INSERT INTO people (id, note) VALUES (7, :note)"), {"note": TEXT})


@refuses
def insert_by_driver_sql(_: Shop, session: Session) -> None:
    session.connection().exec_driver_sql(f"INSERT INTO people (id, note) VALUES (7, '{TEXT}')")


@refuses
def insert_forging_a_sealed_value(_: Shop, session: Session) -> None:
    session.execute(insert(Person), [{"id": 7, "note": b"\x01\x01" + TEXT.encode() * 4}])


def _existing(session: Session) -> None:
    session.add_all([Person(id=7), Person(id=8)])
    session.commit()


@seals
def update_with_a_literal(_: Shop, session: Session) -> None:
    _existing(session)
    session.execute(update(Person).where(Person.id == 7).values(note=literal(TEXT)))


@refuses
def update_with_a_function(_: Shop, session: Session) -> None:
    _existing(session)
    session.execute(update(Person).where(Person.id == 7).values(note=func.lower(TEXT)))


@refuses
def update_with_another_column(_: Shop, session: Session) -> None:
    _existing(session)
    session.execute(update(Person).where(Person.id == 7).values(city=TEXT))
    session.execute(update(Person).where(Person.id == 7).values(note=Person.city))


@refuses
def update_with_another_sealed_column(_: Shop, session: Session) -> None:
    _existing(session)
    session.execute(update(Person).where(Person.id == 7).values(diary=TEXT))
    session.execute(update(Person).where(Person.id == 7).values(note=Person.diary))


@refuses
def update_with_a_subquery(_: Shop, session: Session) -> None:
    _existing(session)
    session.execute(update(Person).where(Person.id == 7).values(note=select(literal(TEXT)).scalar_subquery()))


@seals
def update_with_ordered_values(_: Shop, session: Session) -> None:
    _existing(session)
    session.execute(update(Person).where(Person.id == 7).ordered_values((Person.note, TEXT), (Person.rank, 1)))


@seals
def update_with_ordered_values_of_the_table(_: Shop, session: Session) -> None:
    _existing(session)
    table: Any = people
    changed = update(table).where(table.c.id == 7).ordered_values((table.c.rank, 1), (table.c.note, TEXT))
    session.connection().execute(changed)


@seals
def update_with_parameters(_: Shop, session: Session) -> None:
    _existing(session)
    table: Any = people
    session.connection().execute(update(table).where(table.c.id == 7), {"note": TEXT})


@refuses
def update_across_subjects(_: Shop, session: Session) -> None:
    _existing(session)
    session.execute(update(Person).values(note=TEXT))


@seals
def update_from_another_table(_: Shop, session: Session) -> None:
    _existing(session)
    session.add(Visit(id=1, person_id=7, where="planted"))
    session.commit()
    statement = update(Person).where(Person.id == Visit.person_id, Visit.id == 1).values(note=TEXT)
    session.execute(statement.execution_options(synchronize_session=False))


@refuses
def update_of_an_alias(_: Shop, session: Session) -> None:
    _existing(session)
    alias = aliased(Person)
    session.execute(update(alias).where(alias.id == 7).values(note=TEXT))


@seals
def update_where_exists(_: Shop, session: Session) -> None:
    _existing(session)
    session.add(Visit(id=1, person_id=7, where="planted"))
    session.commit()
    has_visit = exists().where(Visit.person_id == Person.id)
    session.execute(update(Person).where(has_visit).values(note=TEXT).execution_options(synchronize_session=False))


@refuses
def update_by_cte(_: Shop, session: Session) -> None:
    _existing(session)
    table: Any = people
    changed = update(table).where(table.c.id == 7).values(note=TEXT).returning(table.c.id).cte()
    session.execute(select(changed.c.id))


@refuses
def core_update_of_an_alias(_: Shop, session: Session) -> None:
    _existing(session)
    session.connection().execute(update(people.alias("other")).values(city=PLAIN["city"]))


@refuses
def key_set_through_an_alias(_: Shop, session: Session) -> None:
    _existing(session)
    session.connection().execute(update(people.alias("other")).values(privkit_key=b"0" * 16))


@refuses
def update_as_text(_: Shop, session: Session) -> None:
    _existing(session)
    session.execute(text("UPDATE people SET note = :note WHERE id = 7"), {"note": TEXT})


@seals
def update_by_lambda(_: Shop, session: Session) -> None:
    _existing(session)
    value, who = TEXT, 7
    session.execute(
        lambda_stmt(lambda: update(Person).where(Person.id == who).values(note=value)),
        execution_options={"synchronize_session": False},
    )


@seals
def update_of_the_query_api(_: Shop, session: Session) -> None:
    _existing(session)
    session.query(Person).filter(Person.id == 7).update({"note": TEXT})


@seals
def upsert_of_a_sealed_column_by_value(_: Shop, session: Session) -> None:
    _existing(session)
    statement = upsert(session, Person).on_conflict_do_update(index_elements=["id"], set_={"note": TEXT})
    session.execute(statement, [{"id": 7, "note": TEXT}])


@seals
def upsert_of_a_sealed_column_by_excluded(_: Shop, session: Session) -> None:
    _existing(session)
    statement = upsert(session, Person)
    again = statement.on_conflict_do_update(index_elements=["id"], set_={"note": statement.excluded.note})
    session.execute(again, [{"id": 7, "note": TEXT}])


@refuses
def upsert_with_an_expression(_: Shop, session: Session) -> None:
    _existing(session)
    statement = upsert(session, Person)
    again = statement.on_conflict_do_update(index_elements=["id"], set_={"note": func.lower(TEXT)})
    session.execute(again, [{"id": 7, "note": TEXT}])


@refuses
def attribute_set_to_an_expression(_: Shop, session: Session) -> None:
    _existing(session)
    session.get_one(Person, 7).note = func.lower(TEXT)
    session.commit()


@seals
def sealed_set_to_sql_null(_: Shop, session: Session) -> None:
    _existing(session)
    session.get_one(Person, 7).note = null()
    session.commit()
    session.get_one(Person, 7).note = TEXT


async def test_an_async_session_streams_refreshes_and_rolls_back_savepoints(shop: Shop) -> None:
    engine = open_async(shop, shop.async_url)
    with shop.privacy.purpose("care"):
        async with AsyncSession(engine) as session:
            session.add_all([Person(id=each, note=f"planted {each}") for each in range(10)])
            await session.commit()
            everything = select(Person.note).order_by(Person.id).execution_options(yield_per=3)
            streamed = [note async for note in await session.stream_scalars(everything)]
            nested = await session.begin_nested()
            await session.execute(insert(Person), [{"id": 10, "note": "planted lost"}])
            await nested.rollback()
            session.add(Person(id=10, note="planted 10"))
            await session.flush()
            found = await session.get_one(Person, 3)
            session.expire(found)
            await session.refresh(found, ["note"])
            assert "planted 3" == found.note
            await session.commit()
            assert "planted 10" == (await session.scalars(select(Person.note).where(Person.id == 10))).one()
    await engine.dispose()

    assert [f"planted {each}" for each in range(10)] == streamed
    assert [] == shop.leftovers("people")


@pytest.mark.parametrize("name", list(WORKS))
def test_a_row_can_be_written_and_stands_sealed(shop: Shop, name: str) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        WORKS[name](shop, session)
        session.commit()

    assert [] == shop.leftovers("people")
    with shop.privacy.purpose("care"), shop.session() as session:
        found = session.get_one(Person, 7)
        expected = PLANTED | PLAIN
        assert expected == {each: getattr(found, each) for each in expected}
        assert {each: type(value) for each, value in expected.items()} == {
            each: type(getattr(found, each)) for each in expected
        }
        assert [7] == session.scalars(select(Person.id).where(Person.email == PLANTED["email"], Person.id == 7)).all()


@pytest.mark.parametrize("name", list(SEALED))
def test_an_unusual_write_is_sealed_and_not_lost(shop: Shop, name: str) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        SEALED[name](shop, session)
        session.commit()

    assert TEXT == _note_of_person_7(shop)


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_write_that_cannot_be_sealed_is_refused_and_stores_nothing(shop: Shop, name: str) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        assert refused(session, lambda: REFUSED[name](shop, session))

    assert _note_of_person_7(shop) is None


def _note_of_person_7(shop: Shop) -> str | None:
    assert b"planted" not in b"".join(str(row[:5]).encode() for row in shop.stored("people"))
    _nothing_plain(shop, "note", "diary")
    with shop.privacy.purpose("care"), shop.session() as session:
        return session.scalars(select(Person.note).where(Person.id == 7)).one_or_none()


def _nothing_plain(shop: Shop, *columns: str) -> None:
    rows = raw_rows(shop.url, f"SELECT {', '.join(columns)} FROM people")
    values = [bytes(each) if isinstance(each, bytes | memoryview) else each for row in rows for each in row]
    assert [] == [type(each) for each in values if not (each is None or (type(each) is bytes and each[:2] == b"\1\1"))]
    assert [] == [each for each in LEFTOVERS for value in values if value and each in value]


def test_a_data_subject_can_be_inserted_without_a_personal_field(shop: Shop) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.execute(insert(Person).values(id=7, rank=1))
        session.commit()

    assert [(True,)] == raw_rows(shop.url, "SELECT privkit_key IS NOT NULL FROM people")


CITY = {
    "a value": lambda session: session.execute(update(people).values(city="forged")),
    "NULL": lambda session: session.execute(update(people).values(city=None)),
    "a sealed NULL": lambda session: session.execute(update(people).values(note=None)),
    "a function": lambda session: session.execute(update(people).values(city=func.lower("FORGED"))),
    "another column": lambda session: session.execute(update(people).values(city=cast(people.c.rank, String))),
    "an upsert": lambda session: session.execute(
        upsert(session, people).on_conflict_do_update(index_elements=["id"], set_={"city": "forged"}),
        [{"id": 7, "rank": 1}],
    ),
    "a bare table": lambda session: session.execute(update(table("people", column("city"))).values(city="forged")),
    "a reflected table": lambda session: session.execute(
        update(Table("people", MetaData(), autoload_with=session.connection())).values(city="forged")
    ),
    "text": lambda session: session.execute(text("UPDATE people SET city = 'forged'")),
}


@pytest.mark.parametrize("purpose", ["survey", None])
@pytest.mark.parametrize("how", CITY)
def test_a_field_is_changed_only_under_a_purpose_that_needs_it(shop: Shop, how: str, purpose: str | None) -> None:
    with shop.privacy.purpose("care", "survey"), shop.session() as session:
        session.add(Person(id=7, city="there", note="here", answer="yes"))
        session.commit()
    before = raw_rows(shop.url, "SELECT city, note FROM people")

    with shop.privacy.purpose(purpose) if purpose else nullcontext(), shop.session() as session:
        with pytest.raises(PrivkitError):
            CITY[how](session)
        session.commit()

    assert before == raw_rows(shop.url, "SELECT city, note FROM people")


def test_the_key_of_a_data_subject_cannot_be_written(shop: Shop) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add(Person(id=7, note="here"))
        session.commit()
        with pytest.raises(PrivkitError):
            session.execute(update(people).values(privkit_key=b"x" * 16))


SHAPES: dict[str, Callable[[], Any]] = {
    "owned by relationship": lambda: Order(person=Person(id=2, note="x"), address="planted"),
    "owned by foreign key": lambda: Visit(person_id=1, where="planted"),
    "owned by an owned": lambda: Line(order=Order(person=Person(id=2, note="x")), engraving="planted"),
    "joined base": lambda: Staff(phone="planted"),
    "joined child": lambda: Doctor(phone="planted", licence="planted"),
    "single base": lambda: Contact(phone="planted"),
    "single child": lambda: Patient(phone="planted", ward="planted"),
    "dataclass": lambda: Card(holder="planted"),
    "imperative": lambda: Guest(login="planted"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_model_is_sealed_and_read(shop: Shop, shape: str) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add(Person(id=1))
        session.flush()
        row: Any = SHAPES[shape]()
        session.add(row)
        session.commit()
        names = [
            each
            for each in ("address", "where", "engraving", "phone", "licence", "ward", "holder", "login")
            if hasattr(row, each)
        ]
        assert ["planted"] * len(names) == [getattr(row, each) for each in names]

    assert [] == shop.leftovers(*TABLES)


@pytest.mark.parametrize("how", ["column", "relationship"])
def test_a_row_does_not_change_its_owner_while_its_sealed_fields_stay(shop: Shop, how: str) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add_all([Person(id=1), Person(id=2), Order(id=1, person_id=1, address="planted")])
        session.commit()
        order = session.get_one(Order, 1)
        if how == "column":
            order.person_id = 2
        else:
            order.person = session.get_one(Person, 2)
        with pytest.raises(PrivkitError):
            session.commit()
        session.rollback()
        assert "planted" == session.get_one(Order, 1).address


def test_a_sealed_field_needs_an_owner(shop: Shop) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add(Order(id=1, wish="no address"))
        session.commit()
        session.add(Order(id=2, address="planted"))
        with pytest.raises(PrivkitError):
            session.commit()


def test_a_row_without_an_owner_can_be_given_one(shop: Shop) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add_all([Person(id=1), Order(id=1)])
        session.commit()
        order = session.get_one(Order, 1)
        order.person_id, order.address = 1, "planted"
        session.commit()
        assert "planted" == order.address


def test_a26_two_and_a_half_thousand_rows_get_their_own_keys_and_ids(shop: Shop) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        added = [Person(note=f"planted {each}", rank=each) for each in range(2500)]
        session.add_all(added)
        session.commit()
        found = session.execute(select(Person.rank, Person.note)).all()

    assert [f"planted {rank}" for rank, _ in sorted(found)] == [note for _, note in sorted(found)]
    assert 2500 == len(set(raw_rows(shop.url, "SELECT privkit_key FROM people")))
    assert [] == shop.leftovers("people")


async def test_an_async_session_seals_and_reads(shop: Shop) -> None:
    engine = open_async(shop, shop.async_url)
    with shop.privacy.purpose("care"):
        async with AsyncSession(engine) as session:
            session.add(Person(**person()))
            await session.execute(insert(Person), [person(id=8)])
            await session.commit()
            found = (await session.scalars(select(Person.note))).all()
    await engine.dispose()

    assert [TEXT, TEXT] == found
    assert [] == shop.leftovers("people")


def test_six_threads_write_and_read_through_one_engine(shop: Shop) -> None:
    def work(worker: int) -> list[str | None]:
        mine = [{"id": worker * 1000 + each, "note": f"{worker}-{each}"} for each in range(500)]
        with shop.privacy.purpose("care"), shop.session() as session:
            for start in range(0, 500, 100):
                session.execute(insert(Person), mine[start : start + 100])
                session.commit()
            found = session.execute(
                select(Person.id, Person.note).where(Person.id.between(mine[0]["id"], mine[-1]["id"]))
            )
            return [note for _, note in sorted(found)]

    with ThreadPoolExecutor(6) as pool:
        assert [[f"{each}-{row}" for row in range(500)] for each in range(6)] == list(pool.map(work, range(6)))


def test_a_forked_child_reads_and_writes(shop: Shop) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add(Person(**person()))
        session.commit()
    shop.engine.dispose()
    code = "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads of other tests
        child = os.fork()
    if child == 0:
        with suppress(BaseException), shop.privacy.purpose("care"), shop.session() as session:
            session.add(Person(id=8, note=session.get_one(Person, 7).note))
            session.commit()
            code = "0"
        os._exit(int(code))
    assert 0 == os.waitpid(child, 0)[1]
    with shop.privacy.purpose("care"), shop.session() as session:
        assert [TEXT, TEXT] == session.scalars(select(Person.note)).all()


async def test_gathered_tasks_each_keep_their_purpose(shop: Shop) -> None:
    engine = open_async(shop, shop.async_url)
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add(Person(id=7, note="planted"))
        session.commit()

    async def read(purpose: str) -> Any:
        with shop.privacy.purpose(purpose):
            async with AsyncSession(engine) as session:
                await asyncio.sleep(0)
                try:
                    return (await session.scalars(select(Person.note))).all()
                except PrivkitError:
                    return "refused"

    found = await asyncio.gather(*(read(each) for each in ["care", "survey"] * 10))
    await engine.dispose()

    assert [["planted"], "refused"] * 10 == found


HOW = [(how, where) for how in ("auto", "fetch") for where in ("id", "city", "email")] + [("evaluate", "id")]
"""SQLAlchemy cannot evaluate an expiry condition in Python: with "evaluate" it names the other strategies."""


@pytest.mark.parametrize(("how", "where"), HOW)
def test_an_orm_update_brings_loaded_objects_up_to_date(shop: Shop, how: str, where: str) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add(Person(id=7, city="here", email="planted@x.example", note="planted old"))
        session.commit()
        found = session.get_one(Person, 7)
        assert "planted old" == found.note
        criterion = {"id": Person.id == 7, "city": Person.city == "here", "email": Person.email == "planted@x.example"}
        changed = update(Person).where(criterion[where]).values(note=TEXT)
        done: Any = session.execute(changed, execution_options={"synchronize_session": how})
        assert 1 == done.rowcount
        assert TEXT == found.note

    assert [] == shop.leftovers("people")


@pytest.mark.parametrize("how", ["auto", "fetch"])
def test_an_orm_delete_takes_loaded_objects_out_of_the_session(shop: Shop, how: str) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add_all([Person(id=7, email="planted@x.example"), Person(id=8)])
        session.commit()
        found = session.get_one(Person, 7)
        gone = delete(Person).where(Person.email == "planted@x.example")
        session.execute(gone, execution_options={"synchronize_session": how})
        assert found not in session
        assert [8] == session.scalars(select(Person.id)).all()


def refused(session: Session, write: Callable[[], Any]) -> bool:
    """Whether a write, or its flush, is refused; what is not is committed."""
    try:
        write()
        session.commit()
    except PrivkitError:
        session.rollback()
        return True
    return False


OTHER_NAMES: dict[str, Callable[[Session, Member, Parcel], Any]] = {
    "a synonym": lambda session, member, parcel: setattr(member, "alley", TEXT),
    "a composite": lambda session, member, parcel: setattr(member, "place", Place(TEXT, "a town")),
    "an association proxy": lambda session, member, parcel: setattr(parcel, "street", TEXT),
    "an update by synonym": lambda session, member, parcel: session.execute(
        update(Member).where(Member.id == 7).values({Member.alley: TEXT})
    ),
    "an update by hybrid": lambda session, member, parcel: session.execute(
        update(Member).where(Member.id == 7).values({Member.lane: TEXT})
    ),
    "an update of a composite": lambda session, member, parcel: session.execute(
        update(Member).where(Member.id == 7).values({Member.place: Place(TEXT, "a town")})
    ),
}


@pytest.mark.parametrize("name", OTHER_NAMES)
@pytest.mark.parametrize("purpose", ["care", "survey", None])
def test_a_field_is_written_through_another_name(shop: Shop, name: str, purpose: str | None) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add(Member(id=7, street="planted old", parcels=[Parcel(id=7)]))
        session.commit()
    with shop.session() as session:
        member, parcel = session.get_one(Member, 7), session.get_one(Parcel, 7)
        with shop.privacy.purpose(purpose) if purpose else nullcontext():
            assert (purpose != "care") == refused(session, lambda: OTHER_NAMES[name](session, member, parcel))

    assert [] == shop.leftovers("members", "parcels")
    with shop.privacy.purpose("care"), shop.session() as session:
        assert (TEXT if purpose == "care" else "planted old") == session.get_one(Member, 7).street


FILLED_IN: dict[str, Callable[[Session], Any]] = {
    "a flush": lambda session: session.add(Ticket(id=7)),
    "a flush of several": lambda session: session.add_all([Ticket(id=7), Ticket(id=8)]),
    "a list": lambda session: session.execute(insert(Ticket), [{"id": 7}, {"id": 8}]),
    "values": lambda session: session.execute(insert(Ticket).values(id=7)),
    "core": lambda session: session.connection().execute(insert(Ticket.__table__), [{"id": 7}, {"id": 8}]),
    "bulk_save_objects": lambda session: session.bulk_save_objects([Ticket(id=7), Ticket(id=8)]),
    "bulk_insert_mappings": lambda session: session.bulk_insert_mappings(Ticket, [{"id": 7}, {"id": 8}]),
}


@pytest.mark.parametrize("how", FILLED_IN)
def test_a_default_is_sealed_and_can_be_found(shop: Shop, how: str) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        FILLED_IN[how](session)
        session.commit()
        found = session.get_one(Ticket, 7)
        assert ("planted code", "planted@tickets.example", "planted 7", "a seat") == (
            found.code,
            found.mail,
            found.about,
            found.seat,
        )
        assert 7 in session.scalars(select(Ticket.id).where(Ticket.mail == "planted@tickets.example")).all()

    assert [] == shop.leftovers("tickets")


def test_what_is_given_wins_over_a_default(shop: Shop) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        given = {"id": 7, "code": None, "mail": "other@x.example", "about": "given"}
        session.connection().execute(insert(Ticket.__table__), [given])
        session.commit()
        found = session.get_one(Ticket, 7)
        assert (None, "other@x.example", "given") == (found.code, found.mail, found.about)


@pytest.mark.parametrize("purpose", ["survey", None])
@pytest.mark.parametrize("how", FILLED_IN)
def test_a_default_of_a_sealed_field_needs_a_purpose_too(shop: Shop, how: str, purpose: str | None) -> None:
    with shop.privacy.purpose(purpose) if purpose else nullcontext(), shop.session() as session:
        assert refused(session, lambda: FILLED_IN[how](session))

    assert [] == shop.stored("tickets")


@pytest.mark.parametrize("how", ["orm", "core"])
def test_a_sealed_field_is_not_left_to_a_default_of_the_database(shop: Shop, how: str) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:

        def write(**values: Any) -> Any:
            return session.add(Stub(**values)) if how == "orm" else session.execute(insert(Stub), [values])

        assert refused(session, lambda: write(id=7))
        assert not refused(session, lambda: write(id=8, code=TEXT))
        assert [TEXT] == session.scalars(select(Stub.code)).all()

    assert [] == shop.leftovers("stubs")


def test_a_type_of_ones_own_converts_what_is_not_sealed_and_sealed_values_stay_as_they_are(shop: Shop) -> None:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add(Person(id=7, motto="Plain Motto", creed="Planted Creed"))
        session.commit()
        assert ("plain motto", "Planted Creed") == session.execute(select(Person.motto, Person.creed)).one()

    assert [("PLAIN MOTTO",)] == raw_rows(shop.url, "SELECT motto FROM people")

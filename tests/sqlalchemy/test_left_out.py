"""What a statement left out because its purpose does not need it: read later, by another purpose, it is there."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import inspect, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, load_only
from sqlalchemy.orm.exc import DetachedInstanceError

from privkit.errors import PurposeError
from tests.sqlalchemy.shop import TEXT, Doctor, Patient, Person, Shop, Staff, open_shop


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Iterator[Shop]:
    found = open_shop(database_url, tmp_path)
    with found.privacy.purpose("care", "survey"), found.session() as session:
        session.add(Person(id=7, note=TEXT, city="a city", answer="an answer"))
        session.add(Doctor(id=3, phone="a phone", licence="a licence"))
        session.add(Patient(id=4, phone="another phone", ward="a ward"))
        session.commit()
    yield found
    found.engine.dispose()


def test_what_a_narrow_purpose_left_out_is_loaded_when_a_broader_one_touches_it(shop: Shop) -> None:
    with shop.session() as session:
        with shop.privacy.purpose("survey"):
            person = session.scalars(select(Person)).one()
            assert ("an answer", {"note", "city"}) == (person.answer, inspect(person).unloaded & {"note", "city"})
            with pytest.raises(PurposeError):
                person.note  # noqa: B018
        with shop.privacy.purpose("care"):
            assert (TEXT, "a city") == (person.note, person.city)


@pytest.mark.parametrize("touch", ["attrs", "load", "refresh", "populate"])
def test_it_is_there_however_it_is_touched(shop: Shop, touch: str) -> None:
    with shop.session() as session:
        with shop.privacy.purpose("survey"):
            person = session.get_one(Person, 7)
        with shop.privacy.purpose("care"):
            if touch == "refresh":
                session.refresh(person)
            if touch == "populate":
                session.scalars(select(Person).execution_options(populate_existing=True)).one()
            found = inspect(person).attrs.note.value if touch == "attrs" else person.note
            assert found == TEXT


def test_a_second_narrow_statement_does_not_take_away_what_is_loaded(shop: Shop) -> None:
    with shop.session() as session, shop.privacy.purpose("care"):
        person = session.get_one(Person, 7)
        assert person.note == TEXT
        session.scalars(select(Person).options(load_only(Person.city))).one()
        assert "note" in inspect(person).dict


def test_what_a_subclass_inherits_is_left_out_and_loaded_later_too(shop: Shop) -> None:
    with shop.session() as session:
        with shop.privacy.purpose("survey"):
            doctor, patient = session.scalars(select(Staff)).one(), session.scalars(select(Patient)).one()
            assert {"phone"} <= inspect(doctor).unloaded
        with shop.privacy.purpose("care"):
            assert isinstance(doctor, Doctor)
            assert ("a phone", "a licence") == (doctor.phone, doctor.licence)
            assert ("another phone", "a ward") == (patient.phone, patient.ward)


def test_a_detached_object_says_that_it_cannot_load_what_was_left_out(shop: Shop) -> None:
    with shop.session() as session, shop.privacy.purpose("survey"):
        person = session.get_one(Person, 7)
    with shop.privacy.purpose("care"), pytest.raises(DetachedInstanceError):
        person.note  # noqa: B018


def test_a_change_to_what_was_left_out_is_stored(shop: Shop) -> None:
    with shop.session() as session:
        with shop.privacy.purpose("survey"):
            person = session.get_one(Person, 7)
        with shop.privacy.purpose("care"):
            person.note = "another note"
            session.commit()
            assert person.note == "another note"


def test_what_a_new_object_was_not_given_is_null_without_a_statement(shop: Shop) -> None:
    with shop.privacy.purpose("survey"), shop.session() as session:
        session.get_one(Person, 7)
    with shop.privacy.purpose("care"), Session(shop.engine, expire_on_commit=False) as session:
        person = Person(id=8, city="here")
        session.add(person)
        session.commit()
        shop.wire.clear()
        assert (None, None, "here", []) == (person.note, person.email, person.city, shop.wire.statements)


async def test_an_async_application_touches_what_a_new_object_was_not_given(shop: Shop) -> None:
    engine = create_async_engine(shop.async_url)
    shop.privacy.protect(engine)
    with shop.privacy.purpose("care"):
        async with AsyncSession(engine, expire_on_commit=False) as session:
            await session.scalars(select(Person).options(load_only(Person.city)))
            person = Person(id=9, city="here", closed_at=datetime(2026, 1, 2))
            session.add(person)
            await session.commit()
            assert (None, "here") == (person.note, person.city)
    await engine.dispose()


def test_a_session_that_takes_its_engine_from_the_class_forgets_new_values_with_the_purpose(shop: Shop) -> None:
    binds: dict[Any, Any] = {Person: shop.engine}
    with Session(binds=binds, expire_on_commit=False) as session:
        with shop.privacy.purpose("care"):
            person = Person(id=8, note=TEXT)
            session.add(person)
            session.commit()
            assert "note" in inspect(person).dict
        assert "note" not in inspect(person).dict

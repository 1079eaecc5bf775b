"""Objects and statements apart from a plain session: pickles, copies, merges, threads, forks, savepoints, lambdas."""

import copy
import os
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated

import pytest
from sqlalchemy import (
    ForeignKeyConstraint,
    UniqueConstraint,
    create_engine,
    insert,
    lambda_stmt,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.orm.exc import DetachedInstanceError

from privkit import FileKeyring, Personal, Privacy, data_subject, events, not_personal, owned_by
from privkit.crypto.aead import nonces
from privkit.errors import PrivkitError, PurposeError, StatementRefused
from tests.databases import raw_rows
from tests.sqlalchemy.shop import POLICY, TEXT, Member, Parcel, Person, Place, Shop, open_shop


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Iterator[Shop]:
    found = open_shop(database_url, tmp_path)
    yield found
    found.engine.dispose()


@pytest.fixture
def stored(shop: Shop) -> Shop:
    with shop.privacy.purpose("care"), shop.session() as session:
        session.add_all([Person(id=7, note=TEXT, city="a city", email="planted@x.example", rank=3), Person(id=8)])
        session.add(Member(id=7, street="planted street", town="planted town", parcels=[Parcel(id=7, wish="planted")]))
        session.commit()
    return shop


ROUNDS = {"pickle": lambda each: pickle.loads(pickle.dumps(each)), "deepcopy": copy.deepcopy}  # noqa: S301


def test_a_pickle_holds_no_personal_value(stored: Shop) -> None:
    with stored.privacy.purpose("care"), stored.session() as session:
        person, member = session.get_one(Person, 7), session.get_one(Member, 7)
        assert (TEXT, "a city", Place("planted street", "planted town"), "planted") == (
            person.note,
            person.city,
            member.place,
            member.parcels[0].wish,
        )
        pickled = pickle.dumps([person, member])
        assert (TEXT, "planted street") == (person.note, member.street)

    assert b"planted" not in pickled.lower()


@pytest.mark.parametrize("how", ROUNDS)
def test_an_unpickled_object_loads_its_values_again_under_a_purpose(stored: Shop, how: str) -> None:
    with stored.privacy.purpose("care"), stored.session() as session:
        person = session.get_one(Person, 7)
        assert TEXT == person.note
        made = ROUNDS[how](person)
    with stored.privacy.purpose("care"):
        with pytest.raises(DetachedInstanceError):
            made.note  # noqa: B018
        assert 3 == made.rank
        with stored.session() as session:
            session.add(made)
            assert (TEXT, "a city") == (made.note, made.city)
        with stored.session() as session:
            assert TEXT == session.merge(ROUNDS[how](made)).note
    with pytest.raises(PurposeError):
        made.note  # noqa: B018


@pytest.mark.parametrize("how", ROUNDS)
@pytest.mark.parametrize("change", ["a new object", "a change"])
def test_what_was_not_stored_yet_is_not_pickled(stored: Shop, how: str, change: str) -> None:
    with stored.privacy.purpose("care"), stored.session() as session:
        person = Person(id=9) if change == "a new object" else session.get_one(Person, 7)
        person.note = "planted new"
        with pytest.raises(PurposeError) as caught:
            ROUNDS[how](person)

    assert "planted" not in str(caught.value)


def test_a_new_object_without_a_personal_value_is_pickled(shop: Shop) -> None:
    assert 5 == pickle.loads(pickle.dumps(Person(id=9, rank=5))).rank  # noqa: S301


def test_a_copy_stays_within_the_purpose(stored: Shop) -> None:
    with stored.privacy.purpose("care"), stored.session() as session:
        made = copy.copy(session.get_one(Person, 7))
        assert TEXT == made.note
        with stored.privacy.purpose("survey"), pytest.raises(PurposeError):
            made.note  # noqa: B018
    with pytest.raises(PurposeError):
        made.note  # noqa: B018


def test_a_detached_object_is_merged_with_its_changes(stored: Shop) -> None:
    with stored.privacy.purpose("care"):
        with stored.session() as session:
            person = session.get_one(Person, 7)
            assert TEXT == person.note
            session.expunge(person)
        person.note = "planted changed"
        with stored.session() as session:
            session.merge(person)
            session.commit()
            assert ("planted changed", "a city") == session.execute(
                select(Person.note, Person.city).where(Person.id == 7)
            ).one()

    assert [] == stored.leftovers("people")


def living(shop: Shop) -> set[bytes]:
    return {bytes(key) for (key,) in raw_rows(shop.url, "SELECT id FROM privkit_key")}


@pytest.mark.parametrize("how", ["flush", "list"])
def test_a_key_of_a_savepoint_that_was_rolled_back_is_never_used_again(shop: Shop, how: str) -> None:
    def write(session: Session, note: str) -> None:
        if how == "flush":
            session.add(Person(id=7, note=note))
            session.flush()
        else:
            session.execute(insert(Person), [{"id": 7, "note": note}])

    with shop.privacy.purpose("care"), shop.session() as session:
        for note in ("planted one", "planted two", "planted three"):
            nested = session.begin_nested()
            write(session, note)
            assert note == session.scalars(select(Person.note).where(Person.id == 7)).one()
            if note != "planted three":
                nested.rollback()
        session.execute(update(Person).where(Person.id == 7).values(diary="planted diary"))
        session.commit()

    assert living(shop) == {bytes(key) for (key,) in raw_rows(shop.url, "SELECT privkit_key FROM people")}
    shop.privacy.guard.keys.clear()  # as in another process
    with shop.privacy.purpose("care"), shop.session() as session:
        assert ("planted three", "planted diary") == session.execute(select(Person.note, Person.diary)).one()


def test_threads_share_one_loaded_object_and_each_needs_a_purpose(stored: Shop) -> None:
    with stored.privacy.purpose("care"), stored.session() as session:
        person = session.get_one(Person, 7)
        assert TEXT == person.note

        def look(purpose: str | None) -> str:
            try:
                if purpose is None:
                    return str(person.note)
                with stored.privacy.purpose(purpose):
                    return str(person.note)
            except PurposeError:
                return "refused"

        with ThreadPoolExecutor(3) as pool:
            assert [TEXT, "refused", "refused"] == list(pool.map(look, ["care", "survey", None]))


def test_parent_and_forked_child_never_draw_the_same_nonce(stored: Shop) -> None:
    draw = nonces(1)
    draw()
    reader, writer = os.pipe()
    stored.engine.dispose()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads of other tests
        child = os.fork()
    if child == 0:
        with suppress(BaseException), stored.privacy.purpose("care"), stored.session() as session:
            session.get_one(Person, 7).note = "planted by the child"
            session.commit()
            os.write(writer, nonces(1)())
        os._exit(0)
    os.waitpid(child, 0)
    with stored.privacy.purpose("care"), stored.session() as session:
        session.get_one(Person, 8).note = "planted by the parent"
        session.commit()
        notes = select(Person.note).order_by(Person.id)
        assert ["planted by the child", "planted by the parent"] == session.scalars(notes).all()
    envelopes = [bytes(note) for (note,) in raw_rows(stored.url, "SELECT note FROM people WHERE note IS NOT NULL")]
    drawn = [each[22:34] for each in envelopes] + [os.read(reader, 12), nonces(1)()]
    assert 4 == len(set(drawn))
    os.close(reader)
    os.close(writer)


def test_a22_a_lambda_statement_seals_and_searches_what_it_captured(stored: Shop) -> None:
    with stored.privacy.purpose("care"), stored.session() as session:

        def walk(number: int, mail: str, note: str) -> None:
            session.execute(lambda_stmt(lambda: insert(Person).values(id=number, email=mail, note=note)))
            by_mail = lambda_stmt(lambda: select(Person.note).where(Person.email == mail))
            assert [note] == session.scalars(by_mail).all()
            assert [note] == [found for (found,) in session.connection().execute(by_mail)]
            changed = lambda_stmt(lambda: update(Person).where(Person.email == mail).values(note=mail))
            session.execute(changed, execution_options={"synchronize_session": False})
            assert [mail] == session.scalars(by_mail).all()
            with pytest.raises(PrivkitError):
                session.scalars(lambda_stmt(lambda: select(Person.id).where(Person.note == note))).all()

        for number in (11, 12):  # the second time, SQLAlchemy takes the statements from its cache
            walk(number, f"planted{number}@x.example", f"planted {number}")
        session.commit()

    assert [] == stored.leftovers("people")


@pytest.mark.parametrize("where", ["session", "connection"])
def test_a23_a_tuple_is_refused_where_it_compares_a_sealed_field(stored: Shop, where: str) -> None:
    with stored.privacy.purpose("care"), stored.session() as session:
        execute = session.execute if where == "session" else session.connection().execute
        pair = tuple_(Person.id, Person.email).in_([(7, "planted@x.example")])
        with pytest.raises(StatementRefused):
            execute(select(Person.id).where(pair))
        assert [(7,)] == execute(select(Person.id).where(tuple_(Person.id, Person.rank).in_([(7, 3)]))).all()


class Base(DeclarativeBase):
    pass


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Branch(Base):
    __tablename__ = "branches"
    id: Mapped[int] = mapped_column(primary_key=True)
    town: Mapped[Annotated[str, Personal("user.contact.address", purposes={"archive"}, seal=False)]]
    note: Mapped[Annotated[str | None, Personal("user.contact", purposes={"archive"}, seal=True)]]
    closed_at: Mapped[datetime | None]
    desks: Mapped[list["Desk"]] = relationship(back_populates="branch")
    __table_args__ = (UniqueConstraint("id", "town"),)


@owned_by("branch")
@events(closed="branch.closed_at")
@not_personal("id", because="row id")
class Desk(Base):
    __tablename__ = "desks"
    id: Mapped[int] = mapped_column(primary_key=True)
    branch_id: Mapped[int]
    town: Mapped[Annotated[str, Personal("user.contact.address", purposes={"archive"}, seal=False)]]
    note: Mapped[Annotated[str | None, Personal("user.contact", purposes={"archive"}, seal=True)]]
    branch: Mapped[Branch] = relationship(back_populates="desks")
    __table_args__ = (ForeignKeyConstraint(["branch_id", "town"], ["branches.id", "branches.town"]),)


def test_a23_selectinload_follows_a_composite_key_that_holds_a_personal_column(
    database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.yaml").write_text(POLICY, encoding="utf-8")
    keys = FileKeyring.create(tmp_path / "keys.json")
    privacy = Privacy(policy=tmp_path / "shop.yaml", models=Base, keys=keys)
    engine = create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("archive"), Session(engine) as session:
        for number in (1, 2):
            desks = [Desk(note=f"planted desk {number}")]
            session.add(Branch(id=number, town=f"Town {number}", note="planted", desks=desks))
        session.commit()
        session.expire_all()
        found = session.scalars(select(Branch).options(selectinload(Branch.desks)).order_by(Branch.id)).all()
        assert [["planted desk 1"], ["planted desk 2"]] == [[desk.note for desk in each.desks] for each in found]
        session.expire_all()
        back = session.scalars(select(Desk).options(selectinload(Desk.branch)).order_by(Desk.id)).all()
        assert ["Town 1", "Town 2"] == [each.branch.town for each in back]
    engine.dispose()


A25 = {
    "a hybrid in a list": lambda session: session.execute(insert(Member), [{"id": 9, "lane": "planted"}]),
    "a synonym in a list": lambda session: session.execute(insert(Member), [{"id": 9, "alley": "planted"}]),
    "a synonym in one dict": lambda session: session.execute(insert(Member), {"id": 9, "alley": "planted"}),
    "a proxy in a list": lambda session: session.execute(
        insert(Parcel), [{"id": 9, "member_id": 7, "street": "planted"}]
    ),
    "a hybrid in an update": lambda session: session.execute(update(Member), [{"id": 7, "lane": "planted"}]),
    "a synonym in an update": lambda session: session.execute(update(Member), [{"id": 7, "alley": "planted"}]),
}


@pytest.mark.parametrize("how", A25)
def test_a25_a_value_under_another_name_is_refused_in_a_list_of_rows_and_not_dropped(stored: Shop, how: str) -> None:
    before = stored.stored("members")
    with stored.privacy.purpose("care"), stored.session() as session:
        with pytest.raises((StatementRefused, InvalidRequestError)):  # SQLAlchemy 2.1 refuses some by itself
            A25[how](session)
        session.rollback()
        session.commit()

    assert before == stored.stored("members")


def test_a25_a_hybrid_and_a_composite_are_sealed_where_sqlalchemy_resolves_them(stored: Shop) -> None:
    with stored.privacy.purpose("care"), stored.session() as session:
        session.execute(insert(Member).values({Member.lane: "planted lane", "id": 9}))
        session.execute(insert(Member).values(id=10, lane="planted lane"))
        session.execute(insert(Member), [{"id": 11, "place": Place("planted lane", "a town")}])
        session.execute(update(Member).where(Member.id == 7).values({Member.lane: "planted lane"}))
        session.commit()
        assert ["planted lane"] * 4 == session.scalars(select(Member.street)).all()

    assert b"planted" not in b"".join(bytes(each) for (each,) in raw_rows(stored.url, "SELECT street FROM members"))

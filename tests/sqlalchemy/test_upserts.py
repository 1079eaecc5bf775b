"""An upsert seals what it changes for the data subject of the row that is there, or changes nothing and says so."""

import threading
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import (
    Engine,
    ForeignKey,
    Index,
    UniqueConstraint,
    bindparam,
    create_engine,
    event,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    Delete,
    Equality,
    FileKeyring,
    Personal,
    Privacy,
    Pseudonymise,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.errors import ConcurrentWrite, ConsentRequired, PurposeError, ShreddedError, StatementRefused
from privkit.sqlalchemy.shred import destroy_keys
from tests.databases import raw_rows
from tests.sqlalchemy.rides import Clock, Rider, RideService, rider
from tests.sqlalchemy.shop import POLICY


class Base(DeclarativeBase):
    pass


def sealed(**more: Any) -> Personal:
    return Personal("user.contact", purposes={"care"}, seal=True, **more)


@data_subject
@events(closed="closed_at")
@not_personal("id", "number", "visits", "closed_at", because="row ids, a count and an event time")
class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int | None] = mapped_column()
    email: Mapped[Annotated[str | None, sealed(search=Equality("email"))]]
    note: Mapped[Annotated[str | None, sealed()]]
    secret: Mapped[Annotated[str | None, sealed()]] = mapped_column("secret_text", key="secret_key")
    city: Mapped[Annotated[str | None, Personal("user.name", purposes={"care"}, seal=False, then=Pseudonymise("c"))]]
    answer: Mapped[Annotated[str | None, Personal("user.behavior", purposes={"survey"}, seal=False)]]
    visits: Mapped[int | None]
    closed_at: Mapped[datetime | None]
    __table_args__ = (UniqueConstraint("number", name="account_number"),)


accounts: Any = Account.__table__
Index("account_email", accounts.c.email_ix, unique=True)


@owned_by("account")
@events(closed="account.closed_at")
@expire_row(Delete())
@not_personal("id", because="row id")
class Letter(Base):
    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int | None] = mapped_column(ForeignKey("accounts.id"))
    account: Mapped[Account | None] = relationship()
    subject: Mapped[Annotated[str | None, sealed()]]
    body: Mapped[Annotated[str | None, sealed()]]


class Bank:
    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        (folder / "shop.yaml").write_text(POLICY, encoding="utf-8")
        keys = FileKeyring.create(folder / "keys.json")
        self.privacy = Privacy(policy=folder / "shop.yaml", models=Base, keys=keys, clock=Clock())
        self.engine = self.connected()
        Base.metadata.create_all(self.engine)

    def connected(self) -> Engine:
        engine = create_engine(self.url)
        self.privacy.protect(engine)
        return engine

    def insert(self, model: Any) -> Any:
        return (sqlite if self.url.startswith("sqlite") else postgresql).insert(model)

    def stored(self, columns: str = "*", table: str = "accounts") -> list[Any]:
        rows = raw_rows(self.url, f"SELECT {columns} FROM {table} ORDER BY id")
        return [tuple(bytes(each) if isinstance(each, memoryview) else each for each in row) for row in rows]

    def planted(self) -> bool:
        return any(
            b"planted" in str(value).encode()
            for each in ("accounts", "letters")
            for row in self.stored(table=each)
            for value in row
        )


@pytest.fixture
def bank(database_url: str, tmp_path: Path) -> Iterator[Bank]:
    found = Bank(database_url, tmp_path)
    with found.privacy.purpose("care", "survey"), Session(found.engine) as session:
        for each in (1, 2):
            session.add(
                Account(id=each, number=each * 10, email=f"Planted{each}@x.example", note=f"planted old {each}")
            )
        session.commit()
    yield found
    found.engine.dispose()


def notes(bank: Bank) -> dict[int, str | None]:
    """Every note as it opens under its own row's key, in a process that has no key cached."""
    bank.privacy.guard.keys.clear()
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        return {row.id: row.note for row in session.execute(select(Account.id, Account.note))}


def keys(bank: Bank) -> dict[int, bytes]:
    return dict(bank.stored("id, privkit_key"))


def by_id(bank: Bank, *names: str, model: Any = Account, **bound: Any) -> Any:
    statement = bank.insert(model)
    values = {name: statement.excluded[name] for name in names} | bound
    return statement.on_conflict_do_update(index_elements=["id"], set_=values)


ROWS = [{"id": 1, "note": "planted new 1"}, {"id": 3, "note": "planted new 3"}, {"id": 2, "note": "planted new 2"}]
AFTER = {each: f"planted new {each}" for each in (1, 2, 3)}
FORMS = {
    "a list": lambda session, statement: session.execute(statement, ROWS),
    "several rows of values": lambda session, statement: session.execute(statement.values(ROWS)),
    "one by one": lambda session, statement: [session.execute(statement, each) for each in ROWS],
    "values one by one": lambda session, statement: [session.execute(statement.values(**each)) for each in ROWS],
    "a core list": lambda session, statement: session.connection().execute(statement, ROWS),
    "core values": lambda session, statement: session.connection().execute(statement.values(ROWS)),
    "a list returning": lambda session, statement: session.execute(statement.returning(Account.id), ROWS).all(),
    "values returning": lambda session, statement: session.execute(statement.values(ROWS).returning(Account.id)).all(),
}


@pytest.mark.parametrize("model", [Account, accounts], ids=["model", "table"])
@pytest.mark.parametrize("form", FORMS)
def test_an_upsert_changes_old_rows_under_their_keys_and_adds_new_ones(bank: Bank, form: str, model: Any) -> None:
    before = keys(bank)
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        FORMS[form](session, by_id(bank, "note", model=model))
        session.commit()

    assert AFTER == notes(bank)
    assert before == {each: key for each, key in keys(bank).items() if each in before}
    assert 3 == len(set(keys(bank).values()))
    assert not bank.planted()


@pytest.mark.parametrize("several", [False, True])
def test_an_orm_upsert_returns_its_objects(bank: Bank, several: bool) -> None:
    with bank.privacy.purpose("care", "survey"), Session(bank.engine) as session:
        statement = by_id(bank, "note").returning(Account)
        if several:
            found = session.scalars(statement.values(ROWS), execution_options={"populate_existing": True}).all()
        else:
            found = session.scalars(statement, ROWS, execution_options={"populate_existing": True}).all()
        assert AFTER == {each.id: each.note for each in found}
        session.commit()

    assert AFTER == notes(bank)


def test_a_bound_value_is_for_the_rows_that_are_there_and_the_inserted_one_for_new_rows(bank: Bank) -> None:
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        session.execute(by_id(bank, note="planted bound"), ROWS)
        session.commit()

    assert {1: "planted bound", 2: "planted bound", 3: "planted new 3"} == notes(bank)
    assert not bank.planted()


def test_a_bound_value_may_be_a_named_parameter_or_none(bank: Bank) -> None:
    with bank.privacy.purpose("care"), bank.engine.begin() as connection:
        named = by_id(bank, note=bindparam("other"), model=accounts)
        connection.execute(named, [{"id": 1, "note": "x", "other": "planted a"}, {"id": 2, "note": "x", "other": None}])

    assert {1: "planted a", 2: None} == notes(bank)
    with bank.privacy.purpose("care"), bank.engine.begin() as connection, pytest.raises(StatementRefused):
        connection.execute(named, [{"id": 1, "note": "x"}])


def test_an_upsert_by_another_unique_column_a_constraint_or_an_index_is_the_same(bank: Bank) -> None:
    statement = bank.insert(Account)
    values = {"note": statement.excluded.note}
    targets: list[dict[str, Any]] = [{"index_elements": [Account.number]}, {"index_elements": [accounts.c.number]}]
    if not bank.url.startswith("sqlite"):
        targets += [{"constraint": "account_number"}]
    for position, target in enumerate(targets):
        again = statement.on_conflict_do_update(**target, set_=values)
        with bank.privacy.purpose("care"), Session(bank.engine) as session:
            session.execute(again, [{"number": 10, "note": f"planted {position}"}])
            session.commit()
        assert {1: f"planted {position}", 2: "planted old 2"} == notes(bank)


@pytest.mark.parametrize("element", ["email", Account.email, accounts.c.email])
def test_a_sealed_field_is_a_conflict_target_through_its_search_index(bank: Bank, element: Any) -> None:
    statement = bank.insert(Account)
    again = statement.on_conflict_do_update(
        index_elements=[element], set_={"note": statement.excluded.note, "email": statement.excluded.email}
    )
    rows = [
        {"id": 90, "email": "PLANTED1@x.example", "note": "planted new 1"},
        {"id": 3, "email": "planted3@x.example", "note": "planted 3"},
    ]
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        session.execute(again, rows)
        session.execute(
            statement.on_conflict_do_nothing(index_elements=[element]), [rows[0] | {"note": "planted never"}]
        )
        session.commit()
        where = select(Account.note, Account.email).where(Account.email == "planted1@X.example")
        assert [("planted new 1", "PLANTED1@x.example")] == session.execute(where).all()

    assert ["planted new 1", "planted old 2", "planted 3"] == [note for _, note in sorted(notes(bank).items())]
    assert not bank.planted()


def test_a_sealed_field_without_a_search_is_no_conflict_target(bank: Bank) -> None:
    statement = bank.insert(Account)
    again = statement.on_conflict_do_update(index_elements=["note"], set_={"city": "there"})
    with bank.privacy.purpose("care"), Session(bank.engine) as session, pytest.raises(StatementRefused):
        session.execute(again, [{"note": "planted"}])


def test_the_search_hash_the_residue_and_utc_follow_what_an_upsert_sets(bank: Bank) -> None:
    raw_rows(bank.url, "UPDATE accounts SET city_residue = 'old'")
    moment = datetime(2026, 1, 1, 6, tzinfo=timezone(timedelta(hours=2)))
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        row = {"id": 1, "email": "planted.new@x.example", "city": "there", "closed_at": moment}
        session.execute(by_id(bank, "email", "city", "closed_at"), [row])
        session.execute(by_id(bank, closed_at=moment), [{"id": 2}])
        session.commit()
        assert [] == session.scalars(select(Account.id).where(Account.email == "planted1@x.example")).all()
        assert [1] == session.scalars(select(Account.id).where(Account.email == "Planted.New@x.example")).all()

    assert [("there", None), (None, "old")] == bank.stored("city, city_residue")
    assert ["2026-01-01 04:00"] * 2 == [str(each)[:16] for (each,) in bank.stored("closed_at")]


def test_all_of_excluded_at_once_leaves_the_key_alone(bank: Bank) -> None:
    before = keys(bank)
    statement = bank.insert(accounts)
    again = statement.on_conflict_do_update(index_elements=["id"], set_=statement.excluded)
    with bank.privacy.purpose("care", "survey"), bank.engine.begin() as connection:
        connection.execute(again, [{"id": 1, "note": "planted all"}])

    assert {1: "planted all", 2: "planted old 2"} == notes(bank)
    assert before == keys(bank)


def test_a_column_is_known_by_the_name_that_sqlalchemy_would_write(bank: Bank) -> None:
    statement = bank.insert(accounts)
    for name in ("secret_text", "secret_key"):
        again = statement.on_conflict_do_update(index_elements=["id"], set_={name: f"planted {name}"})
        with bank.privacy.purpose("care"), bank.engine.begin() as connection:
            connection.execute(again, [{"id": 1}])
            assert f"planted {name}" == connection.scalar(select(accounts.c.secret_key).where(accounts.c.id == 1))
    assert not bank.planted()


def test_rows_of_one_statement_that_become_one_row_share_its_key(bank: Bank) -> None:
    with bank.privacy.purpose("care"), bank.engine.begin() as connection:
        connection.execute(
            by_id(bank, "note", model=accounts), [{"id": 5, "note": "a"}, {"id": 5, "note": "planted b"}]
        )

    assert "planted b" == notes(bank)[5]


REFUSED: dict[str, Any] = {
    "an expression": lambda bank, new: new.on_conflict_do_update(index_elements=["id"], set_={"note": func.lower("x")}),
    "another column": lambda bank, new: new.on_conflict_do_update(
        index_elements=["id"], set_={"note": new.excluded.city}
    ),
    "another sealed column": lambda bank, new: new.on_conflict_do_update(
        index_elements=["id"], set_={"note": new.excluded.email}
    ),
    "a sealed column in plain": lambda bank, new: new.on_conflict_do_update(
        index_elements=["id"], set_={"visits": func.length(new.excluded.note)}
    ),
    "a plain column from a sealed one": lambda bank, new: new.on_conflict_do_update(
        index_elements=["id"], set_={"city": new.excluded.note}
    ),
    "the key": lambda bank, new: new.on_conflict_do_update(
        index_elements=["id"], set_={"privkit_key": new.excluded.privkit_key}
    ),
    "a search hash": lambda bank, new: new.on_conflict_do_update(index_elements=["id"], set_={"email_ix": b"x" * 16}),
    "no such column": lambda bank, new: new.on_conflict_do_update(index_elements=["id"], set_={"nothing": "planted"}),
    "an expression as target": lambda bank, new: new.on_conflict_do_update(
        index_elements=[func.lower(accounts.c.city)], set_={"note": new.excluded.note}
    ),
    "a sealed comparison": lambda bank, new: new.on_conflict_do_update(
        index_elements=["id"], set_={"note": new.excluded.note}, where=accounts.c.note == new.excluded.note
    ),
    "a comparison in text": lambda bank, new: new.on_conflict_do_update(
        index_elements=["id"], set_={"visits": 1}, where=text("accounts.answer = 'yes'")
    ),
    "mysql's form": lambda bank, new: mysql.insert(accounts).on_duplicate_key_update(note="planted"),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_an_upsert_cannot_seal_is_refused_and_changes_nothing(bank: Bank, how: str) -> None:
    before = bank.stored()
    with bank.privacy.purpose("care"), bank.engine.begin() as connection, pytest.raises(StatementRefused):
        connection.execute(REFUSED[how](bank, bank.insert(accounts)), [{"id": 1, "note": "planted x", "visits": 1}])

    assert before == bank.stored()


def test_a_conflict_target_has_to_be_named_on_sqlite_too(sqlite_url: str, tmp_path: Path) -> None:
    bank = Bank(sqlite_url, tmp_path)
    again = sqlite.insert(accounts).on_conflict_do_update(set_={"note": "planted"})
    with bank.privacy.purpose("care"), bank.engine.begin() as connection, pytest.raises(StatementRefused):
        connection.execute(again, [{"id": 1}])
    bank.engine.dispose()


def test_several_clauses_are_told_apart_only_where_nothing_personal_is_set(sqlite_url: str, tmp_path: Path) -> None:
    if not hasattr(sqlite.insert(accounts), "ext"):
        return  # SQLAlchemy 2.0 has no statement with two of them
    bank = Bank(sqlite_url, tmp_path)
    first = sqlite.insert(accounts).on_conflict_do_nothing(index_elements=["number"])
    with bank.privacy.purpose("care"), bank.engine.begin() as connection:
        connection.execute(first.on_conflict_do_update(index_elements=["id"], set_={"visits": 2}), [{"id": 1}])
        with pytest.raises(StatementRefused):
            connection.execute(
                first.on_conflict_do_update(index_elements=["id"], set_={"note": "planted"}), [{"id": 1}]
            )
    bank.engine.dispose()


@pytest.mark.parametrize("purpose", ["survey", None])
@pytest.mark.parametrize("name", ["note", "city", "email"])
def test_an_upsert_needs_a_purpose_for_what_it_sets(bank: Bank, name: str, purpose: str | None) -> None:
    before = bank.stored()
    scope = bank.privacy.purpose(purpose) if purpose else bank.engine.connect()
    with scope, bank.engine.begin() as connection, pytest.raises(PurposeError):
        connection.execute(by_id(bank, model=accounts, **{name: None}), [{"id": 1}])

    assert before == bank.stored()


def test_an_upsert_reads_only_what_its_purpose_needs(bank: Bank) -> None:
    statement = bank.insert(accounts)
    where = accounts.c.answer == "yes"
    with bank.privacy.purpose("care"), bank.engine.begin() as connection:
        for values in ({"visits": 1}, {"note": "planted"}):
            again = statement.on_conflict_do_update(index_elements=["id"], set_=values, where=where)
            with pytest.raises(PurposeError):
                connection.execute(again, [{"id": 1}])
        again = statement.on_conflict_do_update(index_elements=["id"], set_={"visits": func.length(accounts.c.answer)})
        with pytest.raises(PurposeError):
            connection.execute(again, [{"id": 1}])


def test_the_where_of_an_upsert_still_counts(bank: Bank) -> None:
    statement = bank.insert(accounts)
    again = statement.on_conflict_do_update(
        index_elements=["id"], set_={"note": statement.excluded.note}, where=accounts.c.number == 20
    )
    with bank.privacy.purpose("care"), bank.engine.begin() as connection:
        connection.execute(again, ROWS)

    assert {1: "planted old 1", 2: "planted new 2", 3: "planted new 3"} == notes(bank)


def test_nobody_who_was_erased_is_written_for(bank: Bank) -> None:
    with bank.engine.begin() as connection:
        destroy_keys(connection, bank.privacy.guard, [keys(bank)[1]])
    before = bank.stored()
    with bank.privacy.purpose("care"), bank.engine.begin() as connection, pytest.raises(ShreddedError):
        connection.execute(by_id(bank, "note", model=accounts), ROWS)

    assert before == bank.stored()


def letter(bank: Bank) -> Any:
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        session.add(Letter(id=1, account_id=1, subject="planted subject", body="planted body"))
        session.commit()
    return bank.insert(Letter)


def read_letters(bank: Bank) -> list[Any]:
    bank.privacy.guard.keys.clear()
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        return [(each.id, each.account_id, each.subject, each.body) for each in session.scalars(select(Letter))]


@pytest.mark.parametrize("owner", [{"account_id": 1}, {}])
def test_an_owned_row_keeps_its_data_subject(bank: Bank, owner: dict[str, int]) -> None:
    statement = letter(bank)
    again = statement.on_conflict_do_update(index_elements=["id"], set_={"body": statement.excluded.body})
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        session.execute(again, [{"id": 1, "body": "planted new"} | owner])
        session.commit()

    assert [(1, 1, "planted subject", "planted new")] == read_letters(bank)
    assert not bank.planted()


def test_an_upsert_for_one_data_subject_does_not_change_anothers_row(bank: Bank) -> None:
    statement = letter(bank)
    some = {"body": statement.excluded.body}
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        for values in (some, some | {"account_id": statement.excluded.account_id}):
            again = statement.on_conflict_do_update(index_elements=["id"], set_=values)
            with pytest.raises(StatementRefused):
                session.execute(again, [{"id": 1, "account_id": 2, "body": "planted new"}])
        session.commit()

    assert [(1, 1, "planted subject", "planted body")] == read_letters(bank)


def test_an_owned_row_is_given_away_together_with_all_that_is_sealed(bank: Bank) -> None:
    statement = letter(bank)
    values = {name: statement.excluded[name] for name in ("account_id", "subject", "body")}
    again = statement.on_conflict_do_update(index_elements=["id"], set_=values)
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        session.execute(again, [{"id": 1, "account_id": 2, "subject": "planted s", "body": "planted b"}])
        session.commit()

    assert [(1, 2, "planted s", "planted b")] == read_letters(bank)


def upsert_of_riders(service: RideService, *names: str) -> Any:
    statement = (sqlite if service.engine.dialect.name == "sqlite" else postgresql).insert(Rider)
    return statement.on_conflict_do_update(
        index_elements=["id"], set_={each: statement.excluded[each] for each in names}
    )


def test_an_upsert_is_held_to_a_childs_consent(service: RideService) -> None:
    service.sign_up(rider(1), rider(2))
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        session.get_one(Rider, 1).born = date(2015, 5, 5)
        session.commit()
    row = {"email": "new@rides.example", "name": "planted", "country": "GB"}
    with service.privacy.purpose("account", "receipts"), Session(service.engine) as session:
        session.execute(upsert_of_riders(service, "name"), [row | {"id": 2}])
        with pytest.raises(ConsentRequired):
            session.execute(upsert_of_riders(service, "name"), [row | {"id": 1}])


@pytest.mark.parametrize(
    ("names", "expected"), [(("born",), "2028-05-05"), (("country",), "0001-01-01"), (("name",), "0001-01-01")]
)
def test_the_day_of_age_follows_what_an_upsert_sets(
    service: RideService, names: tuple[str, ...], expected: str
) -> None:
    service.sign_up(rider(1))
    row = {"id": 1, "email": "new@rides.example", "name": "n", "country": "GB", "born": date(2015, 5, 5)}
    with service.privacy.purpose("account", "receipts", "age_check"), Session(service.engine) as session:
        session.execute(upsert_of_riders(service, *names), [row])
        session.commit()

    url = service.engine.url.render_as_string(hide_password=False)
    assert [(expected,)] == [(str(each),) for (each,) in raw_rows(url, "SELECT privkit_adult_on FROM riders")]


async def test_an_async_session_upserts(bank: Bank) -> None:
    url = bank.url.replace("sqlite:", "sqlite+aiosqlite:").replace("+psycopg:", "+asyncpg:")
    engine = create_async_engine(url)
    bank.privacy.protect(engine)
    with bank.privacy.purpose("care"):
        async with AsyncSession(engine) as session:
            found = await session.scalars(by_id(bank, "note").returning(Account.note), ROWS)
            assert set(AFTER.values()) == set(found.all())
            await session.commit()
    await engine.dispose()

    assert AFTER == notes(bank)


def test_a_savepoint_that_is_rolled_back_leaves_no_key_that_an_upsert_would_use(bank: Bank) -> None:
    with bank.privacy.purpose("care"), Session(bank.engine) as session:
        nested = session.begin_nested()
        session.execute(by_id(bank, "note"), ROWS)
        nested.rollback()
        session.execute(by_id(bank, "note"), ROWS)
        session.execute(by_id(bank, "note"), ROWS)
        session.commit()

    assert AFTER == notes(bank)
    assert {key for (key,) in bank.stored("privkit_key")} == {
        bytes(key) for (key,) in raw_rows(bank.url, "SELECT id FROM privkit_key")
    }


class Overtaken:
    """Another connection that commits a row of its own when a first one has looked, and before it writes."""

    def __init__(self, bank: Bank, write: Any, verb: str = "INSERT INTO") -> None:
        self.engine, self.done = bank.connected(), False

        def before_cursor_execute(connection: Any, cursor: Any, sql: str, *rest: Any) -> None:
            if sql.startswith((f"{verb} accounts", f"{verb} letters")) and not self.done:
                self.done = True
                with Session(self.engine) as session:
                    write(session)
                    session.commit()

        event.listen(bank.engine, "before_cursor_execute", before_cursor_execute)


@pytest.fixture
def pg_bank(pg_url: str, tmp_path: Path) -> Iterator[Bank]:
    found = Bank(pg_url, tmp_path)
    yield found
    found.engine.dispose()


@pytest.mark.parametrize("returning", [False, True])
def test_a_row_that_another_connection_adds_in_between_is_left_alone_and_told(pg_bank: Bank, returning: bool) -> None:
    with pg_bank.privacy.purpose("care"), Session(pg_bank.engine) as session:
        other = Overtaken(pg_bank, lambda own: own.add(Account(id=3, note="planted first")))
        statement = by_id(pg_bank, "note")
        with pytest.raises(ConcurrentWrite):
            session.execute(statement.returning(Account.id) if returning else statement, ROWS)
        session.commit()  # whoever ignores the error has lost its own change, and no more
        assert "planted first" == notes(pg_bank)[3]
        session.execute(statement, ROWS)
        session.commit()
    other.engine.dispose()

    assert AFTER == notes(pg_bank)


def test_an_owned_row_that_another_connection_adds_in_between_is_left_alone_too(pg_bank: Bank) -> None:
    statement = pg_bank.insert(Letter)
    again = statement.on_conflict_do_update(index_elements=["id"], set_={"body": statement.excluded.body})
    with pg_bank.privacy.purpose("care"), Session(pg_bank.engine) as session:
        session.add_all([Account(id=1), Account(id=2)])
        session.commit()
        other = Overtaken(pg_bank, lambda own: own.add(Letter(id=1, account_id=2, subject="s", body="planted first")))
        with pytest.raises(ConcurrentWrite):
            session.execute(again, [{"id": 1, "account_id": 1, "body": "planted mine"}])
        session.commit()
    other.engine.dispose()

    assert [(1, 2, "s", "planted first")] == read_letters(pg_bank)


def test_an_update_passes_by_a_row_that_another_connection_gave_away_in_between(pg_bank: Bank) -> None:
    def give_away(own: Session) -> None:
        letter = own.get_one(Letter, 1)
        letter.account_id, letter.subject, letter.body = 2, "their subject", "their body"

    with pg_bank.privacy.purpose("care"), Session(pg_bank.engine) as session:
        session.add_all([Account(id=1), Account(id=2), Letter(id=1, account_id=1, subject="s", body="b")])
        session.commit()
        other = Overtaken(pg_bank, give_away, "UPDATE")
        done: Any = session.execute(update(Letter).where(Letter.id == 1).values(body="planted mine"))
        assert 0 == done.rowcount
        session.commit()
    other.engine.dispose()

    assert [(1, 2, "their subject", "their body")] == read_letters(pg_bank)


def test_an_update_passes_by_a_row_that_another_connection_makes_match_in_between(pg_bank: Bank) -> None:
    with pg_bank.privacy.purpose("care"), Session(pg_bank.engine) as session:
        session.add_all([Account(id=1, visits=1, note="planted 1"), Account(id=2, note="planted 2")])
        session.commit()
        other = Overtaken(pg_bank, lambda own: own.execute(update(accounts).values(visits=1)), "UPDATE")
        session.execute(update(Account).where(Account.visits == 1).values(note="planted new"))
        session.commit()
    other.engine.dispose()

    assert {1: "planted new", 2: "planted 2"} == notes(pg_bank)


def test_two_writers_upsert_the_same_rows_until_both_are_done(bank: Bank) -> None:
    def work(worker: int) -> None:
        with bank.privacy.purpose("care"):
            for turn in range(20):
                rows = [{"id": each, "note": f"planted {worker} {turn}"} for each in range(turn, turn + 5)]
                while True:
                    try:
                        with bank.engine.begin() as connection:
                            connection.execute(by_id(bank, "note", model=accounts), rows)
                        break
                    except ConcurrentWrite:
                        pass

    threads = [threading.Thread(target=work, args=(each,)) for each in (1, 2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    found = notes(bank)
    assert set(range(24)) == set(found)
    assert all(note is not None and note.startswith("planted") for note in found.values())
    assert not bank.planted()

"""Planted values are looked for in everything that a failure, a log, a job or an object leaves behind."""

import enum
import logging
import pickle
import re
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter
from sqlalchemy import (
    JSON,
    CheckConstraint,
    Engine,
    String,
    TypeDecorator,
    create_engine,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlmodel import Field as SqlField
from sqlmodel import SQLModel

import privkit
from privkit import (
    BirthDate,
    Equality,
    FileKeyring,
    GeoPoint,
    Location,
    Nearby,
    Personal,
    Privacy,
    data_subject,
    events,
    not_personal,
)
from tests.databases import raw_rows
from tests.sqlalchemy.rides import UNTIL, Clock

SOURCE = str(Path(privkit.__file__).parent)
POLICY = """\
privkit: 1
naive_datetimes: UTC
purposes:
  serve: {description: Serve, legal_basis: contract, keep: {for: P30D, after: closed}}
  other: {description: Something else, legal_basis: contract, keep: {for: P30D, after: closed}}
"""


class Base(DeclarativeBase):
    pass


class Mood(enum.Enum):
    PLANTED_MOOD = 1


class Odd(Exception):
    """An application's own error, which carries the value as an attribute too."""

    def __init__(self, value: str) -> None:
        super().__init__(f"no {value}")
        self.value = value


class Outspoken(TypeDecorator[str]):
    """An application's own type, whose errors quote the value."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        if value is not None and value.startswith("pydantic"):
            TypeAdapter(int).validate_python(value)  # its error cannot be cleaned afterwards
        if value is not None and value.startswith("refused"):
            raise Odd(value)
        return value

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        if value is not None and value.startswith("unreadable"):
            raise Odd(value)
        return value


def unsealed(category: str = "user.content") -> Personal:
    return Personal(category, purposes={"serve"}, seal=False)


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Patron(Base):
    __tablename__ = "patrons"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[Annotated[str | None, Personal("user.contact.email", purposes={"serve"}, search=Equality("email"))]]
    born: Mapped[Annotated[date | None, BirthDate(purposes={"serve"})]]
    home: Mapped[Annotated[GeoPoint | None, Location(purposes={"serve"}, search=Nearby(8))]]
    card: Mapped[Annotated[str | None, unsealed("user.unique_id")]] = mapped_column(String(40), unique=True)
    age: Mapped[Annotated[int | None, unsealed("user.demographic")]]
    mood: Mapped[Annotated[Mood | None, unsealed()]]
    joined: Mapped[Annotated[date | None, unsealed()]]
    token: Mapped[Annotated[uuid.UUID | None, unsealed()]]
    extra: Mapped[Annotated[dict[str, Any] | None, unsealed()]] = mapped_column(JSON)
    motto: Mapped[Annotated[str | None, unsealed()]] = mapped_column(Outspoken(40))
    closed_at: Mapped[datetime | None]
    __table_args__ = (CheckConstraint("age <> 77123", name="not_that_age"),)


EMAIL, CARD, NUMBER, MOTTO = "planted@mail.example", "planted-card", 77123, "planted motto"
HOME, BORN = GeoPoint(48.137154, 11.576124), date(1977, 7, 23)
NEEDLES = ["planted", "PLANTED_MOOD", "77123", "48.137", "11.576", "1977", "(1977, 7, 23)"]
CHANCE = re.compile(r"(?<![0-9a-f])(?=[0-9]*[a-f])[0-9a-f]{8,}(?![0-9a-f])|(?<=\()[0-9]+(?=\), schema )")
"""Names of databases, addresses, digests and a database's number: any digits may stand there by chance."""


def patron(number: int, **fields: Any) -> dict[str, Any]:
    """Return the values of one row, all of them planted; ``fields`` say otherwise."""
    given = {"id": number, "email": EMAIL, "born": BORN, "home": HOME, "card": f"{CARD}-{number}", "age": 7712300}
    return {**given, "mood": Mood.PLANTED_MOOD, "joined": BORN, "extra": {"note": MOTTO}, "motto": MOTTO} | fields


@dataclass
class Office:
    url: str
    privacy: Privacy
    engine: Engine
    clock: Clock


@pytest.fixture
def office(database_url: str, tmp_path: Path) -> Iterator[Office]:
    (tmp_path / "office.yaml").write_text(POLICY)
    clock = Clock()
    privacy = Privacy(tmp_path / "office.yaml", Base, FileKeyring.create(tmp_path / "office.json"), clock=clock)
    engine = create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("serve"), Session(engine) as session:
        session.execute(insert(Patron), [patron(1), patron(2)])
        session.commit()
    yield Office(database_url, privacy, engine, clock)
    engine.dispose()


# Where a value may hide.


def traces(error: BaseException) -> dict[str, str]:
    """Return everything that an error, and those it is chained to, shows or carries."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    found = {"traceback": "\n".join(line for line in lines if not line.startswith("  "))}  # without source lines
    for number, each in enumerate(_chain(error)):
        name = f"{number} {type(each).__name__}"
        found[f"{name} text"] = f"{each}\n{each!r}\n{each.args!r}"
        for key in {*vars(each), *(key for key in dir(each) if not key.startswith("_"))}:
            found[f"{name}.{key}"] = _shown(getattr(each, key, None))
        found[f"{name} locals"] = "\n".join(_own_locals(each.__traceback__))
        found[f"{name} pickle"] = _pickled(each)
    return found


def _chain(error: BaseException) -> list[BaseException]:
    """Follow causes, contexts, groups, attributes and arguments."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and not any(each is other for other in seen):
            seen.append(each)
            waiting += [each.__cause__, each.__context__, *vars(each).values(), *each.args]
            waiting += getattr(each, "exceptions", ())
    return seen


def _shown(value: Any) -> str:
    parts = [repr(value)]
    if type(value).__name__ == "Diagnostic":
        parts += [repr(getattr(value, key)) for key in dir(value) if not key.startswith("_")]
    if type(value).__name__ == "PGresult":
        parts += [repr(value.error_message), repr([value.error_field(code) for code in (68, 67, 77)])]
    return "\n".join(parts)


def _own_locals(tb: TracebackType | None) -> Iterator[str]:
    """Yield what a tracker that calls repr() on locals would publish of this library's frames."""
    while tb is not None:
        frame = tb.tb_frame
        if frame.f_code.co_filename.startswith(SOURCE):
            yield f"{frame.f_code.co_filename}:{tb.tb_lineno}: {dict(frame.f_locals)!r}"
        tb = tb.tb_next


def _pickled(error: BaseException) -> str:
    if isinstance(error, privkit.PrivkitError):
        assert str(error) == str(pickle.loads(pickle.dumps(error)))  # noqa: S301
    try:
        return repr(pickle.dumps(error))
    except Exception:
        return ""  # what cannot be pickled goes nowhere


def failure_of(attempt: Callable[..., Any], *arguments: Any) -> Exception | None:
    """Return what an attempt raises, if it does: some databases take what others refuse."""
    try:
        attempt(*arguments)
    except Exception as error:
        return error
    return None


def leaks(shown: dict[str, str]) -> dict[str, list[str]]:
    told = {place: CHANCE.sub("", content) for place, content in shown.items()}
    found = {place: [needle for needle in NEEDLES if needle in content] for place, content in told.items()}
    return {place: needles for place, needles in found.items() if needles}


def test_chance_hides_no_planted_value() -> None:
    assert {} == leaks({"random": "privkit_0f008bbbbc9144e1977fbeb795238cce at 0x7f4c71977123 (21977), schema public"})
    for number in (NUMBER, NUMBER * 10**20, 7712300):
        assert leaks({"shown": f"deadbeef {number}\nx{number}"}) == {"shown": ["77123"]}
    assert leaks({"shown": f"{BORN!r} {BORN} {HOME.lat}, {HOME.lon}"}) == {
        "shown": ["48.137", "11.576", "1977", "(1977, 7, 23)"]
    }


# What goes wrong.


def add(**fields: Any) -> Callable[[Session], Any]:
    def run(session: Session) -> None:
        session.add(Patron(**patron(9, **fields)))
        session.flush()

    return run


def core(**fields: Any) -> Callable[[Session], Any]:
    return lambda session: session.connection().execute(insert(Patron.__table__), patron(9, **fields))


def rows(**fields: Any) -> Callable[[Session], Any]:
    return lambda session: session.execute(insert(Patron), [patron(8), patron(9, **fields)])


def change(**fields: Any) -> Callable[[Session], Any]:
    return lambda session: session.execute(update(Patron).where(Patron.id == 1).values(**fields))


def find(statement: Callable[[], Any]) -> Callable[[Session], Any]:
    return lambda session: session.execute(statement()).all()


WRONG: dict[str, dict[str, Any]] = {
    "a value that exists": {"card": f"{CARD}-1"},
    "a value that a check refuses": {"age": NUMBER},
    "a sealed text that is bytes": {"email": b"planted"},
    "a sealed date that is text": {"born": "planted 1977"},
    "a place that is a tuple": {"home": (48.137154, 11.576124)},
    "a date that is text": {"joined": "planted 1977"},
    "a number that is text": {"age": "planted"},
    "a number that is too large": {"age": 77123 * 10**20},
    "an enum that is text": {"mood": "planted"},
    "a UUID that is text": {"token": "planted"},
    "JSON that is none": {"extra": {"planted": object()}},
    "an object": {"card": {"planted": 77123}},
    "a text with half a character": {"card": "planted \ud800"},
    "a sealed text with half a character": {"email": "planted \ud800", "card": "planted \ud800"},
    "a text with a NUL": {"card": "planted \0", "age": NUMBER},
    "a text that is too long": {"card": "planted" * 10, "age": NUMBER},
    "a type of its own that refuses": {"motto": "refused planted"},
    "a type of its own that uses pydantic": {"motto": "pydantic planted"},
}
WRITES = {"ORM": add, "Core": core, "rows": rows, "UPDATE": change}
OTHER: dict[str, Callable[[Session], Any]] = {
    "an expression": change(email=func.lower("planted")),
    "several subjects": lambda session: session.execute(update(Patron).values(email=EMAIL)),
    "a multi-values insert": lambda session: session.execute(insert(Patron).values([patron(8), patron(9)])),
    "an own column": lambda session: session.execute(insert(Patron.__table__), [patron(9, privkit_key=b"planted")]),
    "an operator that is not served": find(lambda: select(Patron.id).where(Patron.email.like("%planted%"))),
    "a search of another type": find(lambda: select(Patron.id).where(Patron.email == 77123)),
    "a text in place of a list": find(lambda: select(Patron.id).where(Patron.email.in_("planted"))),
    "a text in place of a list, unsealed": find(lambda: select(Patron.id).where(Patron.card.in_("planted"))),
    "a literal in place of a column": find(lambda: select(Patron.id).where(Patron.age == "planted")),
    "a UUID that is searched as text": find(lambda: select(Patron.id).where(Patron.token == "planted")),
    "a type of its own in a search": find(lambda: select(Patron.id).where(Patron.motto == "refused planted")),
    "text": find(lambda: text("SELECT email FROM patrons WHERE card = :card").bindparams(card=CARD)),
    "a cast": find(lambda: select(Patron.id).where(func.json_extract(Patron.card, "planted") == 1)),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("how", WRITES)
def test_a_write_that_fails_shows_no_value_anywhere(
    office: Office, how: str, wrong: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "sqlalchemy")
    with office.privacy.purpose("serve"), Session(office.engine) as session:
        failure = failure_of(WRITES[how](**WRONG[wrong]), session)
        assert failure is not None or (office.engine.name, how) != ("postgresql", "ORM")
        assert failure is None or {} == leaks(traces(failure))
        session.rollback()
    assert {} == leaks({"log": caplog.text, "streams": repr(capsys.readouterr())})


@pytest.mark.parametrize("name", OTHER)
def test_a_statement_that_is_refused_shows_no_value_anywhere(
    office: Office, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sqlalchemy")
    with office.privacy.purpose("serve"), Session(office.engine) as session:
        failure = failure_of(OTHER[name], session)
        assert failure is None or {} == leaks(traces(failure))
    assert {} == leaks({"log": caplog.text})


@pytest.mark.parametrize("purpose", ["other", None])
def test_a_write_for_the_wrong_purpose_or_none_shows_no_value_anywhere(office: Office, purpose: str | None) -> None:
    block = office.privacy.purpose(purpose) if purpose is not None else nullcontext()
    with block, Session(office.engine) as session, pytest.raises(privkit.errors.PurposeError) as caught:
        add()(session)
    assert {} == leaks(traces(caught.value))


# Logs.


def read_and_write(office: Office, engine: Engine) -> None:
    with office.privacy.purpose("serve"), Session(engine) as session:
        session.execute(insert(Patron), [patron(number) for number in range(10, 14)])
        assert EMAIL == session.scalars(select(Patron.email).where(Patron.email == EMAIL)).first()
        assert (CARD + "-1", MOTTO) == session.execute(select(Patron.card, Patron.motto).where(Patron.id == 1)).one()
        session.get_one(Patron, 2).card = CARD
        session.flush()
        session.execute(select(Patron).where(Patron.card == CARD).execution_options(yield_per=1)).all()
        session.rollback()


@pytest.mark.parametrize("echo", [True, "debug", "level"])
@pytest.mark.parametrize("made", ["before", "options before", "options after", "shown again"])
def test_a_log_shows_statements_and_no_value(
    database_url: str,
    office: Office,
    echo: Any,
    made: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """``echo="debug"`` alone would log every row that is fetched, and ``hide_parameters=False`` all that is sent."""
    caplog.set_level(logging.DEBUG if echo == "level" else logging.NOTSET, "sqlalchemy")
    base = engine = create_engine(database_url, echo=False if echo == "level" else echo, hide_parameters=False)
    if made == "options before":
        engine = base.execution_options(isolation_level="SERIALIZABLE")
    office.privacy.protect(base)
    if made == "options after":
        engine = base.execution_options(isolation_level="SERIALIZABLE")
    if made == "shown again":
        engine.hide_parameters = False
    read_and_write(office, engine)
    base.dispose()
    shown = caplog.text + repr(capsys.readouterr())
    assert "INSERT INTO patrons" in shown
    assert {} == leaks({"log": shown})


# The drivers for asyncio, whose errors SQLAlchemy translates.


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_write_that_fails_on_asyncio_shows_no_value_anywhere(
    office: Office, async_database_url: str, wrong: str
) -> None:
    engine = create_async_engine(async_database_url)
    office.privacy.protect(engine)
    failure: Exception | None = None
    with office.privacy.purpose("serve"):
        try:
            async with engine.connect() as connection:
                await connection.execute(insert(Patron.__table__), patron(9, **WRONG[wrong]))
        except Exception as error:
            failure = error
    await engine.dispose()
    assert failure is not None or engine.name == "sqlite"
    assert failure is None or {} == leaks(traces(failure))


async def test_a_driver_s_own_log_shows_no_value(
    office: Office, async_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """aiosqlite logs every call with its arguments, and a root logger at DEBUG passes that on."""
    caplog.set_level(logging.DEBUG)
    engine = create_async_engine(async_database_url)
    office.privacy.protect(engine)
    with office.privacy.purpose("serve"):
        async with engine.begin() as connection:
            await connection.execute(insert(Patron.__table__), patron(9))
    await engine.dispose()
    assert "aiosqlite" not in engine.driver or "cursor" in caplog.text
    assert {} == leaks({"log": caplog.text})


# What an application still needs to know.


def test_an_integrity_error_still_names_its_constraint(office: Office) -> None:
    with office.privacy.purpose("serve"), Session(office.engine) as session, pytest.raises(IntegrityError) as caught:
        add(card=f"{CARD}-1")(session)
    assert "patrons" in str(caught.value)
    assert "card" in str(caught.value)
    if office.engine.name == "postgresql":
        diagnosis = caught.value.orig.diag  # type: ignore[union-attr]
        assert ("23505", "patrons_card_key", "patrons") == (
            diagnosis.sqlstate,
            diagnosis.constraint_name,
            diagnosis.table_name,
        )
        assert (None, None) == (diagnosis.message_detail, caught.value.orig.pgresult)  # type: ignore[union-attr]


async def test_e02_an_integrity_error_of_asyncpg_names_its_constraint_and_no_value(office: Office) -> None:
    engine = create_async_engine(office.url.replace("+psycopg", "+asyncpg").replace("sqlite:", "sqlite+aiosqlite:"))
    office.privacy.protect(engine)
    with pytest.raises(IntegrityError) as caught, office.privacy.purpose("serve"):
        async with engine.connect() as connection:
            await connection.execute(insert(Patron.__table__), patron(9, card=f"{CARD}-1"))
    await engine.dispose()
    assert "card" in str(caught.value)
    assert {} == leaks(traces(caught.value))


# What the database itself says, in words of its own.


def test_a_trigger_s_own_words_are_not_passed_on(office: Office) -> None:
    if office.engine.name == "postgresql":
        raw_rows(
            office.url,
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'no % here', NEW.card USING HINT = NEW.card; END $$; "
            "CREATE TRIGGER refuse BEFORE INSERT ON patrons FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
    else:
        raw_rows(
            office.url,
            "CREATE TRIGGER refuse BEFORE INSERT ON patrons BEGIN SELECT RAISE(ABORT, 'no planted card here'); END",
        )
    with office.privacy.purpose("serve"), Session(office.engine) as session, pytest.raises(DBAPIError) as caught:
        add()(session)
    assert {} == leaks(traces(caught.value))


def test_a_constraint_that_is_checked_at_commit_shows_no_value(office: Office) -> None:
    if office.engine.name == "postgresql":
        raw_rows(
            office.url,
            "ALTER TABLE patrons DROP CONSTRAINT patrons_card_key; "
            "ALTER TABLE patrons ADD UNIQUE (card) DEFERRABLE INITIALLY DEFERRED",
        )
    with office.privacy.purpose("serve"), Session(office.engine) as session:
        failure = failure_of(lambda: (add(card=f"{CARD}-1")(session), session.commit()))
    assert isinstance(failure, IntegrityError)
    assert {} == leaks(traces(failure))


# Reading.

UNREADABLE = {
    "an enum of another name": "mood = 'planted'",
    "a type of its own that cannot read": "motto = 'unreadable planted'",
    "a sealed text that is damaged": "email = {moved}",
    "a text that is no UTF-8": "card = CAST(x'706c616e746564ff' AS TEXT)",
}


@pytest.mark.parametrize("wrong", UNREADABLE)
def test_a_value_that_cannot_be_read_is_not_shown(office: Office, wrong: str) -> None:
    lite = office.engine.name == "sqlite"
    moved = "(SELECT o.email FROM patrons o WHERE o.id = 2)"
    if lite or "email" in UNREADABLE[wrong] or "motto" in UNREADABLE[wrong]:
        raw_rows(office.url, f"UPDATE patrons SET {UNREADABLE[wrong].format(moved=moved)} WHERE id = 1")
    else:
        return  # PostgreSQL keeps such values out itself
    for statement in (select(Patron), select(Patron.email, Patron.card, Patron.mood, Patron.motto)):
        with office.privacy.purpose("serve"), Session(office.engine) as session:
            with pytest.raises(Exception) as caught:  # noqa: PT011
                session.execute(statement.where(Patron.id == 1)).all()
            assert {} == leaks(traces(caught.value))


# What this library itself writes.


def test_plans_runs_reports_and_the_ledger_hold_no_value(office: Office) -> None:
    with office.privacy.purpose("serve"), Session(office.engine) as session:
        session.get_one(Patron, 1).closed_at = datetime(2026, 1, 2)
        session.commit()
    held = office.privacy.hold(office.engine, reason="a dispute", by="legal", table="patrons", until=UNTIL)
    office.privacy.release(office.engine, held, by="legal")
    office.clock.now += timedelta(days=60)
    plan = office.privacy.plan(office.engine)
    assert 1 == max(step.due for step in plan.steps)
    report = office.privacy.report(office.engine)
    run = office.privacy.purge(office.engine, plan)
    shown = {
        "plan": plan.json() + repr(plan),
        "run": repr(run),
        "report": report.text() + report.json() + report.html(),
        "findings": repr(office.privacy.check(office.engine)),
        "ledger": repr(raw_rows(office.url, "SELECT * FROM privkit_ledger")),
        "objects": repr([office.privacy, office.privacy.guard, office.privacy.guard.keys, office.engine]),
    }
    assert {} == leaks(shown)


def test_an_object_of_a_protected_class_shows_no_value_in_its_repr(office: Office) -> None:
    with office.privacy.purpose("serve"), Session(office.engine) as session:
        loaded = session.get_one(Patron, 1)
        shown = [repr(loaded), repr(Patron(**patron(3))), repr(loaded.home), repr(session), repr(session.identity_map)]
    assert {} == leaks({"repr": "\n".join(shown)})


class Quiet(MappedAsDataclass, DeclarativeBase):
    pass


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Member(Quiet):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, unsealed("user.name")]]
    closed_at: Mapped[datetime | None] = mapped_column(default=None)


class Spoken(Member):
    """One that says of itself what its author chose."""

    def __repr__(self) -> str:
        return "Spoken by its author"


def test_e06_the_repr_that_a_dataclass_generates_names_class_and_key_only() -> None:
    assert "Member(id=7)" == repr(Member(id=7, name="planted"))
    assert "Spoken by its author" == repr(Spoken(id=7, name="planted"))


class Visitor(SQLModel, table=True):
    id: int | None = SqlField(default=None, primary_key=True)
    name: Annotated[str, unsealed("user.name")]


def test_e06_the_repr_of_a_sqlmodel_class_names_class_and_key_only() -> None:
    visitor = Visitor(id=7, name="planted")
    assert ["Visitor(id=7)", "id=7"] == [repr(visitor), str(visitor)]


def test_the_repr_of_a_dataclass_needs_no_purpose(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "office.yaml").write_text(POLICY)
    privacy = Privacy(tmp_path / "office.yaml", Quiet, FileKeyring.create(tmp_path / "quiet.json"), clock=Clock())
    engine = create_engine(database_url)
    privacy.protect(engine)
    Quiet.metadata.create_all(engine)
    with privacy.purpose("serve"), Session(engine) as session:
        session.add(Member(id=7, name="planted"))
        session.commit()
        member = session.get_one(Member, 7)
        assert "Member(id=7)" == repr(member)
    assert "Member(id=7)" == repr(member)
    engine.dispose()


def test_what_explains_a_statement_is_refused_or_shows_no_value(office: Office) -> None:
    with office.privacy.purpose("serve"), office.engine.connect() as connection:
        query = text("EXPLAIN SELECT id FROM patrons WHERE card = :card")
        with pytest.raises(privkit.PrivkitError) as caught:
            connection.execute(query, {"card": CARD})
    assert {} == leaks(traces(caught.value))

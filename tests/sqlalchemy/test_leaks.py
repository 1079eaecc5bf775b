"""Planted values are looked for in everything that a failure, a log, a job or an object leaves behind."""

import enum
import json
import logging
import pickle
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter
from sqlalchemy import JSON, CheckConstraint, Engine, String, TypeDecorator, create_engine, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column

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
from tests.sqlalchemy.rides import Clock

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


def leaks(shown: dict[str, str]) -> dict[str, list[str]]:
    found = {place: [needle for needle in NEEDLES if needle in content] for place, content in shown.items()}
    return {place: needles for place, needles in found.items() if needles}


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
        try:
            WRITES[how](**WRONG[wrong])(session)
        except Exception as error:
            assert {} == leaks(traces(error))
        session.rollback()
    assert {} == leaks({"log": caplog.text, "streams": repr(capsys.readouterr())})


@pytest.mark.parametrize("name", OTHER)
def test_a_statement_that_is_refused_shows_no_value_anywhere(
    office: Office, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sqlalchemy")
    with office.privacy.purpose("serve"), Session(office.engine) as session:
        try:
            OTHER[name](session)
        except Exception as error:
            assert {} == leaks(traces(error))
    assert {} == leaks({"log": caplog.text})


@pytest.mark.parametrize("purpose", ["other", None])
def test_a_write_for_the_wrong_purpose_or_none_shows_no_value_anywhere(office: Office, purpose: str | None) -> None:
    def attempt() -> None:
        with Session(office.engine) as session:
            add()(session)

    with pytest.raises(privkit.PrivkitError) as caught:
        if purpose is None:
            attempt()
        else:
            with office.privacy.purpose(purpose):
                attempt()
    assert {} == leaks(traces(caught.value))

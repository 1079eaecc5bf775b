"""What a logger was handed leaves no personal value in what is written, through logging and through structlog."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

import pytest
import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from sqlalchemy import create_engine, literal, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import GeoPoint, Personal
from privkit.integrations.logging import PersonalFilter, is_personal, without_personal
from privkit.integrations.structlog import without_personal_data
from privkit.pydantic import PersonalModel

EMAIL = "ada.lovelace@x.example"


class Base(DeclarativeBase):
    pass


class Rider(Base):
    """A mapped class whose own repr tells everything."""

    __tablename__ = "loud_riders"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[Annotated[str, Personal("user.contact.email", purposes={"account"})]]

    def __repr__(self) -> str:
        return f"Rider({vars(self)['email']})"

    __str__ = __repr__


class Form(PersonalModel):
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})]

    def __str__(self) -> str:
        return vars(self)["email"]


@dataclass
class Note:
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})]


class Plain(BaseModel):
    born: date


class Loud(Exception):
    pass


def row() -> Any:
    with create_engine("sqlite://").connect() as connection:
        return connection.execute(select(literal(EMAIL))).one()


PERSONAL: dict[str, Callable[[], Any]] = {
    "a mapped object": lambda: Rider(id=1, email=EMAIL),
    "a pydantic model": lambda: Form.model_construct(email=EMAIL),
    "a dataclass with a marker": lambda: Note(EMAIL),
    "a row": row,
    "a row as a mapping": lambda: row()._mapping,
    "a list": lambda: [Rider(id=1, email=EMAIL)],
    "a dict in a tuple": lambda: ({"rider": [Rider(id=1, email=EMAIL)]},),
    "a key of a dict": lambda: {Rider(id=1, email=EMAIL): 1},
    "a set": lambda: {Rider(id=1, email=EMAIL)},
    "an exception": lambda: Loud(Rider(id=1, email=EMAIL)),
    "an error of pydantic": lambda: invalid(),
    "an error of FastAPI": lambda: RequestValidationError([{"type": "missing", "input": EMAIL}], body=EMAIL),
}


def invalid() -> ValidationError:
    with pytest.raises(ValidationError) as raised:
        Plain(born=EMAIL)
    return raised.value


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What a handler with the filter writes of the logger "rides"."""
    text, logger = io.StringIO(), logging.getLogger("rides")
    handler = logging.StreamHandler(text)
    handler.setFormatter(logging.Formatter("%(message)s %(extra)s", defaults={"extra": ""}))
    handler.addFilter(PersonalFilter())
    logger.addHandler(handler)
    logger.propagate = False
    yield text
    logger.removeHandler(handler)
    logger.propagate = True


@pytest.mark.parametrize("name", PERSONAL)
def test_no_value_is_written_wherever_the_object_stands_in_the_record(name: str, written: io.StringIO) -> None:
    value, logger = PERSONAL[name](), logging.getLogger("rides.of.a.child")
    assert EMAIL in f"{value} {value!r}", "the test would show nothing"
    logger.error(value)
    logger.error("%s %r", value, value)
    logger.error("%(who)s", {"who": value})
    logger.error("stored", extra={"extra": value})
    try:
        raise Loud("outer") from Loud(value)
    except Loud:
        logger.exception("failed")
    try:
        try:
            raise Loud(value)
        except Loud:
            raise ExceptionGroup("many", [Loud(value), Loud("innocent")]) from None
    except ExceptionGroup:
        logger.exception("failed")
    assert EMAIL not in written.getvalue()
    assert "Loud: outer" in written.getvalue()
    assert "innocent" in written.getvalue()


def test_without_the_filter_it_would_be_written() -> None:
    handler = logging.StreamHandler(io.StringIO())
    record = logging.makeLogRecord({"msg": "%s", "args": (Rider(id=1, email=EMAIL),)})
    assert EMAIL in handler.format(record)


def test_an_error_of_pydantic_keeps_its_type_and_place(written: io.StringIO) -> None:
    try:
        Plain(born=EMAIL)
    except ValidationError:
        logging.getLogger("rides").exception("failed")
    assert "1 validation error for Plain\nborn\n" in written.getvalue()
    assert EMAIL not in written.getvalue()


def test_a_text_that_another_handler_made_of_the_exception_is_made_anew() -> None:
    try:
        raise Loud(Rider(id=1, email=EMAIL))
    except Loud:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    assert EMAIL in logging.Formatter().format(record)
    assert PersonalFilter().filter(record)
    assert EMAIL not in logging.Formatter().format(record)


def test_what_holds_nothing_personal_is_logged_as_it_is(written: io.StringIO) -> None:
    error = Loud("plain")
    try:
        raise error
    except Loud:
        record = logging.makeLogRecord({"args": ({"a": [1, (2.5, "x")]}, date(2026, 1, 1)), "exc_info": sys.exc_info()})
    before = dict(vars(record))
    assert PersonalFilter().filter(record)
    assert all(before[name] is value for name, value in vars(record).items())


def test_the_object_itself_and_its_exception_are_left_alone() -> None:
    error = Loud(Rider(id=1, email=EMAIL))
    held = [error]
    assert "<Rider: personal data>" == without_personal(error.args[0])
    assert without_personal(held) is not held
    assert EMAIL in str(error)


def test_a_list_that_holds_itself_comes_to_an_end() -> None:
    held: list[Any] = [Form.model_construct(email=EMAIL)]
    held.append(held)
    assert EMAIL not in repr(without_personal(held))


def test_chained_exceptions_that_go_round_come_to_an_end() -> None:
    one, two = Loud("one"), Loud(Rider(id=1, email=EMAIL))
    one.__context__, two.__context__ = two, one
    assert EMAIL not in str(without_personal(one).__context__)


@pytest.mark.parametrize("value", [date(2026, 1, 1), Plain(born=date(2026, 1, 1)), Loud("x"), [1], Plain, Rider])
def test_other_objects_are_not_personal(value: Any) -> None:
    assert not is_personal(value)
    assert value is without_personal(value)


def test_a_place_is_personal() -> None:
    assert "<GeoPoint: personal data>" == without_personal(GeoPoint(51.5, 0.1))


@pytest.mark.parametrize("name", PERSONAL)
def test_structlog_renders_no_value(name: str) -> None:
    value, text = PERSONAL[name](), io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(text),
        processors=[
            without_personal_data,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=repr),
        ],
    )
    log.info("seen", rider=value, many=[value])
    log.info(value)
    log.info("failed", exc_info=Loud(value))
    try:
        raise Loud(value)
    except Loud:
        log.exception("failed")
    log.info("nothing raised", exc_info=True)
    assert EMAIL not in text.getvalue()
    assert 5 == len([json.loads(line) for line in text.getvalue().splitlines()])
    assert "Loud" in text.getvalue()

"""Nothing that a model says, well or ill, shows a value."""

from __future__ import annotations

import io
import json
import logging
import pprint
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticSerializationError
from rich.console import Console
from rich.pretty import pretty_repr

from privkit import GeoPoint, Location, NotPersonal, Personal, PrivkitError
from privkit.pydantic import PersonalModel, redacted
from tests.pydantic.scopes import Contact, everything, full, purpose

SECRET = "hush-4711"
EMAIL = Personal("user.contact.email", purposes={"account"})


def texts(error: BaseException) -> Iterator[str]:
    """Everything that an error, and all that hangs on it, says."""
    yield from (str(error), repr(error), repr(error.args), "".join(traceback.format_exception(error)))
    if isinstance(error, ValidationError):
        yield from (repr(error.errors()), error.json(), repr(error.errors(include_url=False)))
        for line in error.errors():
            raised = line.get("ctx", {}).get("error")
            if isinstance(raised, BaseException):
                yield from texts(raised)
    for linked in (error.__cause__, error.__context__):
        if linked is not None:
            yield from texts(linked)


def failure_of(call: Callable[[], Any]) -> ValidationError:
    with pytest.raises(ValidationError) as info:
        call()
    error = info.value
    info.value.__traceback__ = None  # the test's own lines hold the value
    return error


def assert_silent(error: BaseException) -> None:
    assert [] == [text for text in texts(error) if SECRET in text]


def _bad(value: Any) -> Any:
    raise ValueError(f"bad value {value}")


class Child(PersonalModel):
    """Each field complains in its own way, and most of them quote the value."""

    id: Annotated[int, NotPersonal("row id")] = 0
    number: Annotated[int, EMAIL] = 0
    short: Annotated[str, Field(max_length=3), EMAIL] = ""
    few: Annotated[list[str], Field(max_length=0), EMAIL] = []
    quoted: Annotated[str, AfterValidator(_bad), EMAIL] = ""
    asserted: Annotated[str, EMAIL] = ""
    custom: Annotated[str, EMAIL] = ""
    place: Annotated[GeoPoint | None, Location(purposes={"account"})] = None
    open: Annotated[str, NotPersonal("for the test")] = ""
    by_key: Annotated[dict[str, int], EMAIL] = {}
    both: Annotated[int | list[int], EMAIL] = 0

    @field_validator("asserted")
    @classmethod
    def check_asserted(cls, value: str) -> str:
        assert not value, f"bad value {value}"
        return value

    @field_validator("custom")
    @classmethod
    def check_custom(cls, value: str) -> str:
        raise PydanticCustomError("no_good", "bad value {value}", {"value": value})

    @field_validator("open")
    @classmethod
    def check_open(cls, value: str, info: ValidationInfo) -> str:
        raise ValueError(f"bad value {info.data}")


INPUTS: dict[str, Any] = {
    "number": SECRET,
    "short": SECRET,
    "few": [SECRET],
    "quoted": SECRET,
    "asserted": SECRET,
    "custom": SECRET,
    "place": {"lat": SECRET, "lon": 0},
    "open": SECRET,
    "by_key": {SECRET: "x"},
    "both": SECRET,
    "id": SECRET,
}


class Family(PersonalModel):
    children: list[Child]
    eldest: Child | None = None


class Plain(BaseModel):
    children: list[Child]


CALLS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "init": lambda data: Child(**data),
    "validate": Child.model_validate,
    "json": lambda data: Child.model_validate_json(json.dumps(data)),
    "strings": lambda data: Child.model_validate_strings({key: str(value) for key, value in data.items()}),
    "adapter": TypeAdapter(Child).validate_python,
    "adapter json": lambda data: TypeAdapter(Child).validate_json(json.dumps(data)),
    "adapter of a list": lambda data: TypeAdapter(list[Child]).validate_python([data]),
    "nested": lambda data: Family.model_validate({"children": [data], "eldest": data}),
    "nested json": lambda data: Family.model_validate_json(json.dumps({"children": [data]})),
    "in a plain model": lambda data: Plain.model_validate({"children": [data]}),
    "in a plain model, json": lambda data: Plain.model_validate_json(json.dumps({"children": [data]})),
    "in a union": lambda data: TypeAdapter(Child | Contact).validate_python(data),
}


PAIRS = [(field, how) for field in INPUTS for how in CALLS if not (how == "strings" and field in ("few", "by_key"))]
"""Every input in every call; only text has no lists."""


@pytest.mark.parametrize(("field", "how"), PAIRS)
def test_e03_e05_no_error_holds_or_shows_its_input(field: str, how: str) -> None:
    with purpose("account"):
        error = failure_of(lambda: CALLS[how]({field: INPUTS[field]}))
    assert_silent(error)
    assert any(field in line["loc"] for line in error.errors())
    assert {None} == {line["input"] for line in error.errors()}


def test_an_error_keeps_type_and_place_for_a_web_handler() -> None:
    with purpose("account"):
        error = failure_of(lambda: Family.model_validate({"children": [{"number": SECRET}, {"short": SECRET}]}))
    assert [
        ("int_parsing", ("children", 0, "number")),
        ("string_too_long", ("children", 1, "short")),
    ] == [(line["type"], line["loc"]) for line in error.errors()]
    assert "String should have at most 3 characters" == error.errors()[1]["msg"]
    assert ({"max_length": 3}, "Family") == (error.errors()[1]["ctx"], error.title)


def test_a_privkit_error_keeps_its_message_because_it_never_has_a_value() -> None:
    with purpose("account"):
        error = failure_of(lambda: Child.model_validate({"place": {"lat": 900, "lon": 0}}))
    assert "A location needs a latitude from -90 to 90" in error.errors()[0]["msg"]
    raised = error.errors()[0]["ctx"]["error"]
    assert (None, None, None) == (raised.__traceback__, raised.__context__, raised.__cause__)


def test_broken_json_is_told_without_showing_it() -> None:
    with purpose("account"):
        error = failure_of(lambda: Child.model_validate_json('{"quoted": "' + SECRET))
    assert_silent(error)
    assert ["json_invalid"] == [line["type"] for line in error.errors()]


def test_e05_validators_of_the_whole_model_are_silent_too() -> None:
    class Checked(PersonalModel):
        email: Annotated[str, EMAIL] = ""
        when: Annotated[str, NotPersonal("which validator")] = ""

        @model_validator(mode="before")
        @classmethod
        def before(cls, data: Any) -> Any:
            if isinstance(data, dict) and data.get("when") == "before":
                raise ValueError(f"bad {data}")
            return data

        @model_validator(mode="wrap")
        @classmethod
        def wrap(cls, data: Any, handler: Any) -> Any:
            if isinstance(data, dict) and data.get("when") == "wrap":
                raise ValueError(f"bad {data}")
            return handler(data)

        @model_validator(mode="after")
        def after(self) -> Any:
            if self.when == "after":
                raise ValueError(f"bad {self.email}") from KeyError(self.email)
            return self

    for when in ("before", "wrap", "after"):
        for call in (Checked.model_validate, TypeAdapter(list[Checked]).validate_python):
            with purpose("account"):
                data: Any = {"email": SECRET, "when": when}
                assert_silent(failure_of(lambda: call(data if call == Checked.model_validate else [data])))  # noqa: B023


def test_e05_chained_and_logged_errors_are_clean() -> None:
    class Caused(Child):
        model_config = ConfigDict(validation_error_cause=True)

    stream = io.StringIO()
    logger = logging.getLogger("test.silence")
    logger.addHandler(logging.StreamHandler(stream))
    with purpose("account"):
        error = failure_of(lambda: Caused.model_validate({"quoted": SECRET, "asserted": SECRET}))
    assert (None, None) == (error.__context__, error.__cause__)
    assert_silent(error)
    try:
        raise RuntimeError("bad settings") from error
    except RuntimeError:
        logger.exception("refused")
    try:
        raise ExceptionGroup("several", [error])
    except ExceptionGroup:
        logger.exception("refused again")
    assert "refused again" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_a_missing_field_does_not_show_the_others() -> None:
    class Two(PersonalModel):
        email: Annotated[str, EMAIL]
        other: Annotated[str, NotPersonal("for the test")]

    with purpose("account"):
        assert_silent(failure_of(lambda: Two.model_validate({"email": SECRET})))
        assert_silent(failure_of(lambda: Two.model_validate(SECRET)))
        assert_silent(failure_of(lambda: Two.model_validate([SECRET])))


def test_a_key_that_is_not_a_name_of_the_model_is_hidden_in_the_path() -> None:
    class Closed(PersonalModel):
        model_config = ConfigDict(extra="forbid")
        seats: Annotated[dict[int, int], EMAIL] = {}
        email: Annotated[str, Field(alias="e-mail"), EMAIL] = ""

    with purpose("account"):
        error = failure_of(lambda: Closed.model_validate({SECRET: 1, "seats": {447700900123: "x"}, "e-mail": 5}))
    assert_silent(error)
    assert "447700900123" not in repr(error.errors())
    assert {("...",), ("seats", "..."), ("e-mail",)} == {line["loc"] for line in error.errors()}


def test_validated_and_frozen_assignment_are_silent() -> None:
    class Assigned(PersonalModel):
        model_config = ConfigDict(validate_assignment=True)
        number: Annotated[int, EMAIL] = 0

    class Frozen(PersonalModel):
        model_config = ConfigDict(frozen=True)
        email: Annotated[str, EMAIL] = ""

    with purpose("account"):
        for model, name in ((Assigned(), "number"), (Frozen(), "email")):
            error = failure_of(lambda: setattr(model, name, SECRET))  # noqa: B023
            assert_silent(error)
            assert error.__context__ is None


def test_redacted_is_for_the_handlers_of_plain_models() -> None:
    class Open(BaseModel):
        model_config = ConfigDict(extra="forbid")
        email: str
        age: Annotated[int, AfterValidator(_bad)] = 0
        by_key: dict[str, int] = {}

    data = {SECRET: 1, "by_key": {"hush4711": "x"}, "age": 5}
    error = failure_of(lambda: Open.model_validate(data))
    clean = redacted(error)
    assert_silent(clean)
    assert ("Open", 4) == (clean.title, clean.error_count())
    assert {("email",), ("age",), ("by_key", "hush4711"), ("...",)} == {line["loc"] for line in clean.errors()}
    checked = redacted(error, Open)
    assert {("email",), ("age",), ("by_key", "..."), ("...",)} == {line["loc"] for line in checked.errors()}
    assert redacted(checked, Open).errors() == checked.errors()


def test_redacted_knows_the_schema_of_a_type_adapter() -> None:
    adapter = TypeAdapter(dict[str, list[Child]])
    error = failure_of(lambda: adapter.validate_python({SECRET: {"number": SECRET}}))
    assert [("...",)] == [line["loc"] for line in redacted(error, adapter).errors()]
    assert_silent(redacted(error, adapter))


@pytest.mark.parametrize(
    "show",
    [repr, str, pprint.pformat, pretty_repr, "{}".format, "{!r}".format, lambda m: repr(list(m.__rich_repr__()))],
)
def test_e06_a_models_text_forms_show_names_alone(show: Callable[[Any], str]) -> None:
    shown = show(full())
    assert [] == [str(value) for key, value in everything().items() if key != "id" and str(value) in shown]
    assert [] == [word for word in ("ada", "Ada", "2012", "51.5") if word in shown]
    assert "email" in shown
    assert "7" in shown


def test_e06_nested_models_lists_and_locals_show_names_alone() -> None:
    class Inner(PersonalModel):
        email: Annotated[str, EMAIL] = ""

    class Outer(PersonalModel):
        one: Inner
        many: list[Inner] = []
        undecided: str = ""
        reason: Annotated[str, NotPersonal("for the test")] = "shown"

    inner = Inner.model_construct(email=SECRET)
    outer = Outer.model_construct(one=inner, many=[inner], undecided=SECRET)
    assert "Outer(one=Inner(email=...), many=[Inner(email=...)], undecided=..., reason='shown')" == repr(outer)
    console = Console(file=io.StringIO(), width=200)
    try:
        raise RuntimeError("fails with the models as local variables")
    except RuntimeError:
        console.print_exception(show_locals=True)
    file = console.file
    assert isinstance(file, io.StringIO)
    assert "Outer(" in file.getvalue()
    assert SECRET not in file.getvalue().replace(f"SECRET = '{SECRET}'", "")


def test_extras_and_computed_values_are_not_shown() -> None:
    class Loose(PersonalModel):
        model_config = ConfigDict(extra="allow")
        email: Annotated[str, EMAIL] = ""

    assert "Loose(email=...)" == repr(Loose.model_construct(None, email=SECRET, **{SECRET: SECRET}))


def test_a_model_that_holds_itself_can_be_shown() -> None:
    class Knot(PersonalModel):
        self_: Any = None

    knot = Knot.model_construct()
    knot.self_ = knot
    assert "Knot(self_=...)" == repr(knot)


def test_a_failing_serializer_does_not_tell_the_value() -> None:
    class Failing(PersonalModel):
        email: Annotated[str, EMAIL] = ""
        other: Annotated[str, NotPersonal("for the test")] = ""

        @field_serializer("email")
        def fail(self, value: str) -> str:
            raise ValueError(f"bad {value}")

        @field_serializer("other")
        def fail_elsewhere(self, value: str) -> str:
            raise ValueError(f"bad {self.email}")

    failing = Failing.model_construct(email=SECRET, other="x")
    with purpose("account"):
        for options in ({}, {"exclude": {"email"}}):
            for how in ("model_dump", "model_dump_json"):
                with pytest.raises(PrivkitError, match="could not be serialised") as info:
                    getattr(failing, how)(**options)
                info.value.__traceback__ = None
                assert_silent(info.value)
        with pytest.raises(PydanticSerializationError, match="could not be serialised") as through:
            TypeAdapter(list[Failing]).dump_json([failing])
        through.value.__traceback__ = None
        assert_silent(through.value)

"""Ways round the gates of a PersonalModel that were open once: options of a dump, and code of the model's own."""

import json
import traceback
import warnings
from collections.abc import Callable
from datetime import date
from typing import Annotated, Any

import pytest
from pydantic import (
    BaseModel,
    PydanticDeprecatedSince20,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
)
from pydantic_core import PydanticSerializationError, to_json

from privkit import AgeBand, BirthDate, Personal
from privkit.errors import InvalidValue, PurposeError
from privkit.pydantic import PersonalModel
from tests.pydantic.scopes import BORN, EMAIL, NAME, Rider, full, purpose

SECRETS = (EMAIL, NAME, BORN.isoformat(), str(BORN.year), "51.5074")
PERSONAL = {"email", "name", "born", "home"}


class Computing(Rider):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def told(self) -> str:
        return f"{self.email} {self.born}"


class Serialising(Rider):
    @field_serializer("id")
    def of_id(self, value: int) -> str:
        return f"{self.born}"


class Wrapping(Rider):
    @model_serializer(mode="wrap")
    def whole(self, handler: Any) -> dict[str, Any]:
        return {**handler(self), "told": [self.born, str(self.born)]}


class Writing(Rider):
    @model_serializer
    def whole(self) -> dict[str, Any]:
        return {"email": self.email, "born": self.born}


class Comparing(Rider):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def is_ada(self) -> bool:
        return self.email == EMAIL


class Holder(BaseModel):
    held: SerializeAsAny[BaseModel]
    anything: Any = None


MODELS = (Rider, Computing, Serialising, Wrapping, Writing, Comparing)
READING = (Computing, Serialising, Wrapping, Writing, Comparing)
DUMPS: dict[str, Callable[[Any], Any]] = {
    "dump": lambda rider: rider.model_dump(),
    "json": lambda rider: rider.model_dump_json(),
    "as any": lambda rider: rider.model_dump(serialize_as_any=True),
    "json as any": lambda rider: rider.model_dump_json(serialize_as_any=True),
    "with a fallback": lambda rider: rider.model_dump_json(fallback=lambda each: str(vars(each))),
    "round trip": lambda rider: rider.model_dump(round_trip=True, serialize_as_any=True),
    "to_json": lambda rider: to_json([rider], serialize_as_any=True),
    "adapter": lambda rider: TypeAdapter(list[Rider]).dump_python([rider], serialize_as_any=True, warnings=False),
    "adapter of Any": lambda rider: TypeAdapter(Any).dump_json({"rider": rider}, serialize_as_any=True),
    "in a plain model": lambda rider: Holder.model_construct(held=rider, anything=[rider]).model_dump_json(),
}


@pytest.mark.parametrize("dump", DUMPS)
@pytest.mark.parametrize("model", MODELS, ids=lambda each: each.__name__)
def test_no_option_of_a_dump_shows_a_value_without_a_purpose(model: type[Rider], dump: str) -> None:
    with pytest.raises((PurposeError, PydanticSerializationError), match="no purpose is set"):
        DUMPS[dump](full(model))


@pytest.mark.parametrize("dump", DUMPS)
@pytest.mark.parametrize("model", [Rider, Serialising, Wrapping], ids=lambda each: each.__name__)
def test_no_option_of_a_dump_shows_more_than_the_precision(model: type[Rider], dump: str) -> None:
    rider = model.model_construct(id=7, born=BORN)
    with purpose("age_check"):
        written = str(DUMPS[dump](rider))
    assert "13-15" in written
    assert [] == [secret for secret in SECRETS if secret in written]


@pytest.mark.parametrize("model", READING, ids=lambda each: each.__name__)
def test_code_of_the_model_reads_nothing_of_excluded_fields_without_a_purpose(model: type[Rider]) -> None:
    with pytest.raises(PurposeError, match="no purpose is set"):
        full(model).model_dump(exclude=PERSONAL)


def test_what_is_excluded_needs_no_purpose_and_keeps_its_place() -> None:
    assert {"id": 7} == full().model_dump(exclude=PERSONAL) == full().model_dump(include={"id"}, serialize_as_any=True)
    with purpose("age_check"):
        assert ["id", "born"] == list(full().model_dump(serialize_as_any=True))


def test_code_of_the_model_sees_a_field_at_the_precision_of_the_purpose() -> None:
    class Born(PersonalModel):
        born: Annotated[date | None, BirthDate(purposes={"age_check": AgeBand()})] = None

        @computed_field  # type: ignore[prop-decorator]
        @property
        def year(self) -> int:
            return self.born.year if self.born else 0

    with purpose("age_check"), pytest.raises(InvalidValue, match="at the purpose's precision"):
        Born.model_construct(born=BORN).model_dump(exclude={"born"})


def test_a_value_that_has_no_precision_is_refused_only_where_it_is_dumped() -> None:
    rider = Rider.model_construct(id=7, born=EMAIL)
    with purpose("age_check"):
        assert {"id": 7} == rider.model_dump(exclude={"born"})
        with pytest.raises(InvalidValue, match=r"Rider\.born") as raised:
            rider.model_dump()
    assert EMAIL not in str(raised.value)


def test_the_instance_is_left_as_it_was() -> None:
    rider = full(Computing)
    with pytest.raises(PurposeError):
        rider.model_dump()
    with purpose("age_check"), pytest.raises(PurposeError):
        rider.model_dump()
    assert (EMAIL, BORN) == (rider.email, rider.born)


def test_e05_what_a_validator_raises_from_an_error_shows_no_value_in_any_form() -> None:
    class Contact(PersonalModel):
        email: Annotated[str, Personal("user.contact.email", purposes={"account"})]

        @field_validator("email")
        @classmethod
        def number(cls, value: str) -> str:
            try:
                return str(int(value))
            except ValueError as error:
                error.add_note(value)
                raise ValueError(f"bad {value}") from error

    def fail(raised: list[ValidationError]) -> None:
        try:
            Contact(email=EMAIL)
        except ValidationError as error:
            raised.append(error)
            raise LookupError("outer") from error

    raised: list[ValidationError] = []
    with purpose("account"), pytest.raises(LookupError) as outer:
        fail(raised)
    group = ExceptionGroup("many", [*raised, outer.value])
    texts = [*traceback.format_exception(group), raised[0].json(), repr(raised[0].errors())]
    assert EMAIL not in "".join(texts)
    assert "1 validation error for Contact" in "".join(texts)


def test_deprecated_parsing_shows_no_text() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticDeprecatedSince20)
        with purpose("account"), pytest.raises(ValidationError) as raised:
            Rider.parse_raw(f'{{"email": "{EMAIL}')
        with purpose("account"):
            assert EMAIL == Rider.parse_raw(json.dumps({"email": EMAIL})).email
    assert EMAIL not in f"{raised.value} {raised.value.errors()} {raised.value.__context__}"

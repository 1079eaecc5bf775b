"""Every form in which a model is made and dumped: under a purpose that needs its e-mail address, another, and none.

An allowed form gives the value; a denied one leaves it out; without a purpose it is an error. What goes round
validation (G23) is memory: no dump hands it out.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Generic, Literal, TypeVar

import pydantic.dataclasses
import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    TypeAdapter,
    computed_field,
    field_serializer,
)
from pydantic_core import PydanticSerializationError

from privkit import NotPersonal, Personal
from privkit.errors import PurposeError
from privkit.pydantic import PersonalModel
from tests.pydantic.scopes import EMAIL, purpose

ADDRESS = Personal("user.contact.email", purposes={"account"})
T = TypeVar("T")


class Person(PersonalModel):
    model_config = ConfigDict(from_attributes=True)
    kind: Annotated[Literal["person"], NotPersonal("which of two")] = "person"
    email: Annotated[str | None, ADDRESS] = None


class Firm(PersonalModel):
    kind: Annotated[Literal["firm"], NotPersonal("which of two")] = "firm"
    email: Annotated[str | None, ADDRESS] = None


class Aliased(PersonalModel):
    email: Annotated[str | None, ADDRESS] = Field(
        None, validation_alias=AliasChoices("e-mail", "mail"), serialization_alias="e-mail"
    )


class Greeting(PersonalModel):
    email: Annotated[str | None, ADDRESS] = None

    @computed_field
    def salutation(self) -> Annotated[str, NotPersonal("says nothing")]:
        return "Dear"


class Many(PersonalModel):
    emails: Annotated[list[list[str]], ADDRESS] = []


class Inside(PersonalModel):
    emails: list[Annotated[str, ADDRESS]] = []


class Keyed(PersonalModel):
    emails: dict[str, Annotated[str, ADDRESS]] = {}


class Nested(PersonalModel):
    grid: list[list[Person]] = []
    by_key: dict[str, tuple[Person, ...]] = {}
    one: Person | None = None


class Either(PersonalModel):
    who: Annotated[Person | Firm, Field(discriminator="kind")]


class Page(PersonalModel, Generic[T]):
    items: list[T] = []


class People(RootModel[list[Person]]):
    pass


class Plain(BaseModel):
    people: list[Person] = []


@pydantic.dataclasses.dataclass
class Checked:
    person: Person


@dataclass
class Bare:
    person: Person


class Row:
    kind = "person"
    email = EMAIL


GIVEN = {"email": EMAIL}
MADE: dict[str, Callable[[], Any]] = {
    "init": lambda: Person(email=EMAIL),
    "validate": lambda: Person.model_validate(GIVEN),
    "validate_json": lambda: Person.model_validate_json(json.dumps(GIVEN)),
    "validate_strings": lambda: Person.model_validate_strings(GIVEN),
    "from_attributes": lambda: Person.model_validate(Row()),
    "from_attributes in an adapter": lambda: TypeAdapter(list[Person]).validate_python([Row()]),
    "alias": lambda: Aliased.model_validate({"e-mail": EMAIL}),
    "second alias": lambda: Aliased.model_validate({"mail": EMAIL}),
    "computed": lambda: Greeting.model_validate(GIVEN),
    "nested lists of values": lambda: Many.model_validate({"emails": [[EMAIL]]}),
    "marked inside a list": lambda: Inside.model_validate({"emails": [EMAIL]}),
    "marked inside a dict": lambda: Keyed.model_validate({"emails": {"a": EMAIL}}),
    "nested lists of models": lambda: Nested.model_validate({"grid": [[GIVEN]]}),
    "tuples in a dict": lambda: Nested.model_validate({"by_key": {"a": [GIVEN]}}),
    "optional": lambda: Nested.model_validate({"one": GIVEN}),
    "discriminated union": lambda: Either.model_validate({"who": {"kind": "firm", **GIVEN}}),
    "generic": lambda: Page[Person].model_validate({"items": [GIVEN]}),
    "adapter": lambda: TypeAdapter(Person).validate_python(GIVEN),
    "adapter, json": lambda: TypeAdapter(dict[str, Person]).validate_json(json.dumps({"a": GIVEN})),
    "union in an adapter": lambda: TypeAdapter(Firm | int).validate_python(GIVEN),
    "root model": lambda: People.model_validate([GIVEN]),
    "plain model": lambda: Plain.model_validate({"people": [GIVEN]}),
    "pydantic dataclass": lambda: Checked(person=GIVEN),  # type: ignore[arg-type]
    "dataclass in an adapter": lambda: TypeAdapter(Bare).validate_python({"person": GIVEN}),
}

person = partial(Person.model_construct, kind="person", email=EMAIL)
SMUGGLED: dict[str, Callable[[], Any]] = {
    "model_construct": person,
    "model_copy": lambda: Person().model_copy(update={"email": EMAIL}),
    "deep model_copy": lambda: person().model_copy(deep=True),
    "assignment": lambda: _assigned(Person()),
    "alias": lambda: Aliased.model_construct(email=EMAIL),
    "computed": lambda: Greeting.model_construct(email=EMAIL),
    "nested lists of values": lambda: Many.model_construct(emails=[[EMAIL]]),
    "marked inside a list": lambda: Inside.model_construct(emails=[EMAIL]),
    "marked inside a dict": lambda: Keyed.model_construct(emails={"a": EMAIL}),
    "nested lists of models": lambda: Nested.model_construct(grid=[[person()]]),
    "tuples in a dict": lambda: Nested.model_construct(by_key={"a": (person(),)}),
    "discriminated union": lambda: Either.model_construct(who=Firm.model_construct(kind="firm", email=EMAIL)),
    "generic": lambda: Page[Person].model_construct(items=[person()]),
    "root model": lambda: People.model_construct([person()]),
    "plain model": lambda: Plain.model_construct(people=[person()]),
    "pydantic dataclass": lambda: _checked(person()),
    "dataclass": lambda: Bare(person()),
    "list": lambda: [person()],
}


def _assigned(model: Any) -> Any:
    model.email = EMAIL
    return model


def _checked(model: Person) -> Checked:
    with purpose("account"):
        return Checked(model)


def dumps_of(made: Any) -> list[Callable[[], Any]]:
    """Every way to dump what was made."""
    adapter = TypeAdapter[Any](list[Person] if isinstance(made, list) else type(made))
    found: list[Callable[[], Any]] = [
        lambda: adapter.dump_python(made),
        lambda: adapter.dump_python(made, mode="json"),
        lambda: adapter.dump_json(made).decode(),
    ]
    if isinstance(made, BaseModel):
        found += [made.model_dump, made.model_dump_json, lambda: made.model_dump(mode="json", by_alias=True)]
    return found


def held(made: Any) -> str:
    """All that an object holds in memory, as text."""
    if isinstance(made, list | tuple):
        return " ".join(map(held, made))
    if isinstance(made, dict):
        return held([*made.keys(), *made.values()])
    return held(vars(made)) if hasattr(made, "__dict__") else str(made)


@pytest.mark.parametrize("form", MADE)
def test_what_is_collected_is_what_the_purpose_needs(form: str) -> None:
    with purpose("account"):
        assert EMAIL in held(MADE[form]())
    with purpose("pickup"):
        assert EMAIL not in held(MADE[form]())
    with pytest.raises(PurposeError, match="no purpose is set"):
        MADE[form]()


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of a union's adapter; they show no value
@pytest.mark.parametrize("form", SMUGGLED)
def test_g23_what_is_dumped_is_what_the_purpose_needs(form: str) -> None:
    made = SMUGGLED[form]()
    assert EMAIL in held(made)
    for dump in dumps_of(made):
        with purpose("account"):
            assert EMAIL in str(dump())
        with purpose("pickup"):
            assert EMAIL not in str(dump())
        with pytest.raises((PurposeError, PydanticSerializationError), match="no purpose is set"):
            dump()


class Shouted(PersonalModel):
    emails: list[Annotated[str, ADDRESS]] = []

    @field_serializer("emails")
    def shout(self, value: list[str]) -> list[str]:
        return [each.upper() for each in value]


def test_a_serializer_of_many_values_runs_where_the_marker_is_inside_of_the_list() -> None:
    with purpose("account"):
        assert {"emails": [EMAIL.upper()]} == Shouted(emails=[EMAIL]).model_dump()

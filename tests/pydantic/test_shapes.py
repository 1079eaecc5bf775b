"""The gates stand in every shape that a pydantic model can take."""

from __future__ import annotations

from datetime import date
from enum import Enum
from typing import Annotated, Any, ClassVar, Generic, Literal, Optional, TypeVar

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    SerializeAsAny,
    Tag,
    TypeAdapter,
    ValidationError,
    create_model,
    field_serializer,
    field_validator,
)
from pydantic.alias_generators import to_camel

from privkit import Cell, Exact, GeoPoint, Location, NotPersonal, Personal, not_personal
from privkit.errors import MappingError, PolicyError, PurposeError
from privkit.pydantic import PersonalModel, check
from tests.pydantic.scopes import EMAIL, HOME, NAME, POLICY, Contact, Rider, everything, full, purpose

Email = Annotated[str, Personal("user.contact.email", purposes={"account", "receipts"})]
Name = Annotated[str, Personal("user.name", purposes={"account"})]
Item = TypeVar("Item")


class Node(PersonalModel):
    """A recursive model."""

    email: Email | None = None
    name: Name | None = None
    below: list[Node] = []


class Page(PersonalModel, Generic[Item]):
    items: list[Item]
    asked_by: Name | None = None


class Wrapped(PersonalModel, Generic[Item]):
    held: Annotated[Item | None, Personal("user.contact.email", purposes={"receipts"})] = None


class Later(PersonalModel):
    """Its field's type is defined below it."""

    other: Below | None = None
    name: Name | None = None


class Below(PersonalModel):
    email: Email | None = None


class Passenger(PersonalModel):
    kind: Literal["passenger"] = "passenger"
    email: Email | None = None
    name: Name | None = None


class Driver(PersonalModel):
    kind: Literal["driver"] = "driver"
    name: Name | None = None
    car: str = ""


class Colour(Enum):
    RED = "red"


class Party(PersonalModel):
    lead: Annotated[Passenger | Driver, Field(discriminator="kind")]
    any: Passenger | Driver | None = None


def test_a_subclass_has_the_gates_of_its_bases_and_its_own() -> None:
    class Named(Contact):
        name: Name | None = None

    class Renamed(Named, unneeded="refuse"):
        email: Annotated[str, Personal("user.contact.email", purposes={"receipts"})] = ""

    with purpose("account"):
        assert {"email": EMAIL, "country": "GB", "name": NAME} == Named(email=EMAIL, name=NAME).model_dump()
        with pytest.raises(PurposeError, match=r"Renamed\.email"):
            Renamed(email=EMAIL)
    with purpose("receipts"):
        assert {"email": EMAIL, "country": "GB"} == Renamed(email=EMAIL).model_dump()


def test_a_plain_mixin_brings_its_markers() -> None:
    class Mixin(BaseModel):
        email: Email | None = None

    class Mixed(Mixin, PersonalModel):
        pass

    class MixedToo(PersonalModel, Mixin):
        pass

    for cls in (Mixed, MixedToo):
        with pytest.raises(PurposeError):
            cls(email=EMAIL)
        with purpose("receipts"):
            assert {"email": EMAIL} == cls(email=EMAIL).model_dump()


def test_a_recursive_model_is_minimised_at_every_level() -> None:
    data = {"email": EMAIL, "name": NAME, "below": [{"email": EMAIL, "name": NAME, "below": [{"name": NAME}]}]}
    expected = {"email": EMAIL, "below": [{"email": EMAIL, "below": [{"email": None, "below": []}]}]}
    with purpose("receipts"):
        assert expected == Node.model_validate(data).model_dump()
        assert [expected] == TypeAdapter(list[Node]).dump_python(TypeAdapter(list[Node]).validate_python([data]))
    with purpose("account"):
        whole = Node.model_validate(data)
        assert NAME == whole.below[0].below[0].name
    with purpose("receipts"):
        assert expected == whole.model_dump()
        assert whole.below[0].name == NAME
    with pytest.raises(PurposeError):
        Node(below=[Node.model_construct(email=EMAIL)]).model_dump()


def test_generic_models_hold_their_parameters_and_their_own_fields_to_the_purpose() -> None:
    with purpose("receipts"):
        page = Page[Rider](items=[everything()], asked_by=NAME)  # type: ignore[list-item]
        assert {"items": [{"id": 7, "email": EMAIL}]} == page.model_dump()
        assert {"items": [1]} == Page[int](items=[1]).model_dump()
        assert {"held": EMAIL} == Wrapped[str](held=EMAIL).model_dump()
    with purpose("account"):
        assert {} == Wrapped[str](held=EMAIL).model_dump()
    with pytest.raises(PurposeError, match="held"):
        Wrapped[str](held=EMAIL)


def test_a_model_that_is_finished_later_is_gated_too() -> None:
    with purpose("receipts"):
        later = Later.model_validate({"other": {"email": EMAIL}, "name": NAME})
        assert {"other": {"email": EMAIL}} == later.model_dump()


def test_a_model_made_by_create_model_is_gated() -> None:
    made = create_model("Made", __base__=PersonalModel, email=(Email | None, None), id=(int, 0))
    with purpose("pickup"):
        assert {"id": 1} == made.model_validate({"id": 1, "email": EMAIL}).model_dump()
    with pytest.raises(PurposeError, match=r"Made\.email"):
        made.model_validate({"email": EMAIL})


@pytest.mark.parametrize(
    ("field", "data"),
    [
        (Field(None, alias="e-mail"), {"e-mail": EMAIL}),
        (Field(None, validation_alias="mail"), {"mail": EMAIL}),
        (Field(None, validation_alias=AliasChoices("mail", "post")), {"post": EMAIL}),
        (Field(None, validation_alias=AliasPath("contact", "mails", 0)), {"contact": {"mails": [EMAIL]}}),
        (Field(None, alias="mail"), {"email": EMAIL}),
    ],
)
def test_an_alias_is_no_way_round(field: Any, data: dict[str, Any]) -> None:
    class Aliased(PersonalModel):
        model_config = ConfigDict(populate_by_name=True)
        email: Email | None = field

    with pytest.raises(PurposeError, match=r"Aliased\.email"):
        Aliased.model_validate(data)
    with purpose("pickup"):
        assert Aliased.model_validate(data).email is None
    with purpose("receipts"):
        aliased = Aliased.model_validate(data)
        assert EMAIL == aliased.email
        assert EMAIL in aliased.model_dump(by_alias=True).values()
    with purpose("pickup"):
        assert {} == aliased.model_dump(by_alias=True)


def test_two_fields_that_trade_names_are_not_confused() -> None:
    class Crossed(PersonalModel):
        email: Email | None = Field(None, alias="name")
        name: Name | None = Field(None, alias="email")

    with purpose("receipts"):
        crossed = Crossed.model_validate({"name": EMAIL, "email": NAME})
        assert {"name": EMAIL} == crossed.model_dump(by_alias=True)
        assert {"email": EMAIL} == crossed.model_dump(by_alias=False)


def test_every_way_to_annotate_a_field_is_seen() -> None:
    class Many(PersonalModel):
        one: Email | None = None
        two: Optional[Email] = None  # noqa: UP045
        three: list[Email] = []
        four: Annotated[list[str], Personal("user.contact.email", purposes={"receipts"})] = []
        five: dict[str, Email] = {}
        six: tuple[Email, int] | None = None
        seven: Annotated[Email, Field(max_length=99)] = ""
        eight: Annotated[str | int, Personal("user.contact.email", purposes={"receipts"})] = ""

    data: dict[str, Any] = {
        "one": EMAIL,
        "two": EMAIL,
        "three": [EMAIL],
        "four": [EMAIL],
        "five": {"a": EMAIL},
        "six": (EMAIL, 1),
        "seven": EMAIL,
        "eight": EMAIL,
    }
    with purpose("receipts"):
        many = Many.model_validate(data)
        assert data == many.model_dump()
    with purpose("pickup"):
        assert {} == many.model_dump()
        assert set() == Many.model_validate(data).model_fields_set
    for name, value in data.items():
        with pytest.raises(PurposeError, match=rf"Many\.{name} "):
            Many.model_validate({name: value})


def test_a_marked_field_may_hold_a_model_with_gates_of_its_own() -> None:
    class Account(PersonalModel):
        holder: Annotated[Rider | None, Personal("user", purposes={"account", "receipts"})] = None

    with purpose("account"):
        account = Account(holder=Rider(**everything()))
    with purpose("receipts"):
        assert {"holder": {"id": 7, "email": EMAIL}} == account.model_dump()
    with purpose("pickup"):
        assert {} == account.model_dump()


def test_discriminated_and_plain_unions_choose_as_before_and_are_minimised() -> None:
    data = {"lead": {"kind": "passenger", "email": EMAIL, "name": NAME}, "any": {"kind": "driver", "name": NAME}}
    with purpose("receipts"):
        party = Party.model_validate(data)
        expected = {"lead": {"kind": "passenger", "email": EMAIL}, "any": {"kind": "driver", "car": ""}}
        assert (Passenger, Driver) == (type(party.lead), type(party.any))
        assert expected == party.model_dump()
    with purpose("account"):
        whole = Party.model_validate(data)
        assert data["lead"] == whole.model_dump()["lead"]
    with purpose("receipts"):
        assert expected == whole.model_dump()
    for how in ("model_dump", "model_dump_json"):
        with pytest.raises(PurposeError):
            getattr(whole, how)()


def test_a_wrong_tag_is_told_without_its_value() -> None:
    with pytest.raises(ValidationError) as info:
        Party.model_validate({"lead": {"kind": EMAIL}})
    assert EMAIL not in repr(info.value.errors())
    assert "union_tag_invalid" == info.value.errors()[0]["type"]


def test_a_union_with_a_callable_discriminator_is_gated() -> None:
    class Group(PersonalModel):
        of: Annotated[
            Annotated[Passenger, Tag("p")] | Annotated[Driver, Tag("d")],
            Discriminator(lambda v: "d" if (v.get("car") if isinstance(v, dict) else hasattr(v, "car")) else "p"),
        ]

    with purpose("receipts"):
        group = Group.model_validate({"of": {"email": EMAIL, "name": NAME}})
        assert {"of": {"kind": "passenger", "email": EMAIL}} == group.model_dump()


def test_the_errors_of_a_union_name_the_model() -> None:
    with purpose("account"), pytest.raises(ValidationError) as info:
        TypeAdapter(Passenger | Contact).validate_python({"email": 5})
    assert {("function-wrap[Passenger()]", "email"), ("function-wrap[Contact()]", "email")} == {
        line["loc"] for line in info.value.errors()
    }


def test_serialising_as_any_uses_the_gates_of_the_instance() -> None:
    class Loose(BaseModel):
        rider: SerializeAsAny[PersonalModel]

    with purpose("receipts"):
        loose = Loose(rider=full())
        assert {"rider": {"id": 7, "email": EMAIL}} == loose.model_dump()


def test_a_field_serializer_cannot_go_round_the_gate() -> None:
    class Shouting(PersonalModel):
        email: Email | None = None
        name: Name = ""

        @field_serializer("email", "name")
        def shout(self, value: str) -> str:
            return value.upper()

    with purpose("account"):
        shouting = Shouting(email=EMAIL, name=NAME)
        assert {"email": EMAIL.upper(), "name": NAME.upper()} == shouting.model_dump()
    with purpose("receipts"):
        assert {"email": EMAIL.upper()} == shouting.model_dump()
    with pytest.raises(PurposeError):
        shouting.model_dump()


def test_a_coarse_purpose_skips_the_developers_serializer() -> None:
    class Placed(PersonalModel):
        home: Annotated[GeoPoint | None, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})] = None

        @field_serializer("home")
        def exactly(self, value: GeoPoint | None) -> str:
            return f"{value.lat},{value.lon}" if value else ""

    with purpose("pickup"):
        placed = Placed(home=HOME)
        assert {"home": "51.5074,-0.1278"} == placed.model_dump()
    with purpose("demand_map"):
        assert "51" not in placed.model_dump()["home"]


def test_validators_of_a_field_still_run_when_it_is_needed() -> None:
    class Lower(PersonalModel):
        email: Annotated[Email | None, BeforeValidator(lambda v: v.strip())] = None

        @field_validator("email")
        @classmethod
        def lower(cls, value: str) -> str:
            return value.lower()

    with purpose("account"):
        assert "ada@x.example" == Lower(email=" Ada@X.example ").email


def test_types_whose_instances_are_of_another_type_keep_their_serializer() -> None:
    class Typed(PersonalModel):
        model_config = ConfigDict(use_enum_values=True)
        colour: Annotated[Colour | None, Personal("user.preferences", purposes={"account"})] = None
        day: Annotated[date | None, Personal("user.preferences", purposes={"account"})] = None

    with purpose("account"):
        typed = Typed(colour=Colour.RED, day=date(2026, 1, 2))
        assert '{"colour":"red","day":"2026-01-02"}' == typed.model_dump_json()


def test_a_root_model_holds_models_but_its_root_cannot_be_marked() -> None:
    class Riders(RootModel[list[Rider]]):
        pass

    with purpose("receipts"):
        assert [{"id": 7, "email": EMAIL}] == Riders([full()]).model_dump()
    with pytest.raises(MappingError, match="RootModel"):

        class Emails(PersonalModel, RootModel[list[str]]):
            root: list[Email]


def test_two_markers_on_one_field_are_an_error_when_the_class_is_defined() -> None:
    with pytest.raises(MappingError, match="two privkit markers"):

        class Twice(PersonalModel):
            email: Annotated[Email, NotPersonal("it is not")]


def test_a_class_variable_cannot_carry_a_marker() -> None:
    with pytest.raises(MappingError, match="cannot be protected"):

        class Shared(PersonalModel):
            email: ClassVar[Email] = ""


def test_the_json_schema_says_what_each_field_is() -> None:
    @not_personal("seats", because="a number of seats")
    class Documented(PersonalModel):
        email: Email | None = Field(None, alias="e-mail")
        home: Annotated[GeoPoint | None, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})] = None
        country: Annotated[str, NotPersonal("two-letter code")] = "GB"
        below: Below | None = None
        tax: Annotated[str, Personal("user.government_id", purposes={"account"}, duties={"tax"}, seal=True)] = ""
        seats: int = 1
        undecided: int = 1

    email = {
        "category": "user.contact.email",
        "purposes": {"account": "exact", "receipts": "exact"},
        "sealed": "by policy",
        "then": "suppressed",
    }
    for mode in ("validation", "serialization"):
        for by_alias, key in ((True, "e-mail"), (False, "email")):
            schema = Documented.model_json_schema(mode=mode, by_alias=by_alias)
            found = {name: item.get("x-privacy") for name, item in schema["properties"].items()}
            assert email == found.pop(key)
            assert {"pickup": "exact", "demand_map": "H3 cell 7"} == found["home"]["purposes"]
            assert (True, True) == (found["home"]["sealed"], found["tax"]["sealed"])
            assert ["tax"] == found["tax"]["duties"]
            assert {"not_personal": "two-letter code"} == found["country"]
            assert {"not_personal": "a number of seats"} == found["seats"]
            assert (None, None) == (found["undecided"], found["below"])
            assert email == schema["$defs"]["Below"]["properties"]["email"]["x-privacy"]


def test_an_alias_generator_is_followed_in_the_json_schema_and_in_a_dump() -> None:
    class Camel(PersonalModel):
        model_config = ConfigDict(alias_generator=to_camel)
        email_address: Email | None = None

    assert "x-privacy" in Camel.model_json_schema()["properties"]["emailAddress"]
    assert "x-privacy" in Node.model_json_schema()["$defs"]["Node"]["properties"]["email"]
    with purpose("receipts"):
        assert {"emailAddress": EMAIL} == Camel.model_validate({"emailAddress": EMAIL}).model_dump(by_alias=True)


def test_a_policy_is_asked_for_every_name_that_a_marker_uses() -> None:
    class Typo(PersonalModel):
        email: Annotated[str, Personal("user.contact.email", purposes={"acount"})] = ""

    check(POLICY, Rider, Node, Party)
    with pytest.raises(PolicyError, match=r"Typo\.email names purpose 'acount'"):
        check(POLICY, Rider, Typo)


def test_a_private_attribute_is_not_a_field() -> None:
    class Private(PersonalModel):
        _note: Email = ""
        id: int = 0

    assert {"id": 0} == Private().model_dump()

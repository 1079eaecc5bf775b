"""A model carries what the purpose needs: on the way in, on the way out, and at the purpose's precision."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from collections.abc import Callable
from datetime import date
from functools import cached_property
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, computed_field, model_serializer
from pydantic_core import PydanticSerializationError

from privkit import Cell, Exact, GeoPoint, Location, NotPersonal, Personal, PrivkitError, Year, purposes
from privkit.errors import PurposeError
from privkit.location import cell
from privkit.pydantic import PersonalModel, gates
from tests.pydantic.scopes import BORN, EMAIL, HOME, NAME, NOW, Contact, Rider, everything, full, purpose

PERSONAL = {"email", "name", "born", "home"}
NEEDED: dict[str, dict[str, Any]] = {
    "account": {"email": EMAIL, "name": NAME},
    "receipts": {"email": EMAIL},
    "age_check": {"born": BORN},
    "pickup": {"home": HOME},
    "demand_map": {"home": HOME},
    "navigation": {},
}
PLACE = {"lat": HOME.lat, "lon": HOME.lon}
DUMPED = NEEDED | {"age_check": {"born": "13-15"}, "pickup": {"home": PLACE}, "demand_map": {"home": cell(HOME, 7)}}


class Refusing(Rider, unneeded="refuse"):
    pass


class Order(PersonalModel):
    number: Annotated[int, NotPersonal("order number")]
    rider: Rider | None = None
    others: list[Rider] = []
    by_seat: dict[str, Rider] = {}


class PlainOrder(BaseModel):
    number: int
    riders: list[Rider]


@pytest.mark.parametrize("name", NEEDED)
def test_validation_keeps_only_what_the_purpose_needs(name: str) -> None:
    with purpose(name):
        rider = Rider.model_validate(everything())
    assert {"id": 7, **dict.fromkeys(PERSONAL), **NEEDED[name]} == vars(rider)
    assert {"id", *NEEDED[name]} == rider.model_fields_set


def test_init_and_every_form_of_input_are_held_to_the_purpose() -> None:
    text = json.dumps({"id": 7, "email": EMAIL, "name": NAME, "born": BORN.isoformat()})
    strings = {"id": "7", "email": EMAIL, "name": NAME, "born": BORN.isoformat()}
    with purpose("receipts"):
        riders = [
            Rider(**everything()),
            Rider.model_validate_json(text),
            Rider.model_validate_strings(strings),
            TypeAdapter(Rider).validate_python(everything()),
            TypeAdapter(Rider).validate_json(text),
            *TypeAdapter(list[Rider]).validate_python([everything()]),
        ]
    assert [{"id": 7, **dict.fromkeys(PERSONAL), "email": EMAIL}] * 6 == [vars(rider) for rider in riders]


def test_refuse_is_an_error_that_names_field_and_purpose() -> None:
    with purpose("receipts"), pytest.raises(PurposeError, match=r"Refusing\.name is not needed for 'receipts'") as info:
        Refusing.model_validate({"email": EMAIL, "name": NAME})
    assert ("Refusing.name", ("receipts",)) == (info.value.data["field"], info.value.data["purpose"])
    assert NAME not in str(info.value)


def test_refuse_takes_what_is_needed() -> None:
    with purpose("receipts"):
        assert EMAIL == Refusing(email=EMAIL).email


def test_without_a_purpose_a_personal_value_in_the_input_is_refused() -> None:
    for cls in (Rider, Refusing, Contact):
        with pytest.raises(PurposeError, match="no purpose is set"):
            cls.model_validate({"email": EMAIL})


def test_without_a_purpose_a_model_without_personal_values_is_fine() -> None:
    rider = Rider(id=3)
    assert ({"id": 3}, '{"id":3}') == (rider.model_dump(), rider.model_dump_json())


def test_a_required_field_that_is_not_needed_cannot_be_dropped() -> None:
    with purpose("pickup"), pytest.raises(PurposeError, match="give the field a default"):
        Contact.model_validate({"email": EMAIL})


def test_a_required_field_that_is_missing_is_an_ordinary_error() -> None:
    with purpose("pickup"), pytest.raises(ValidationError) as info:
        Contact.model_validate({"country": "FR"})
    assert ["missing"] == [line["type"] for line in info.value.errors()]


def test_a_dropped_value_is_not_even_validated() -> None:
    with purpose("pickup"):
        assert Rider.model_validate({"born": "no date", "email": 5}).born is None


def test_an_unknown_way_with_unneeded_values_is_an_error() -> None:
    with pytest.raises(PrivkitError, match="drop"):

        class Wrong(PersonalModel, unneeded="keep"):
            pass


def test_nested_models_are_minimised_on_the_way_in() -> None:
    given_order = {"number": 1, "rider": everything(), "others": [everything()], "by_seat": {"2": everything()}}
    with purpose("receipts"):
        order = Order.model_validate(given_order)
        plain = PlainOrder.model_validate({"number": 1, "riders": [everything()]})
    assert order.rider is not None
    for rider in (order.rider, *order.others, *order.by_seat.values(), *plain.riders):
        assert (EMAIL, None, None, None) == (rider.email, rider.name, rider.born, rider.home)


def test_an_instance_in_the_input_is_replaced_by_a_copy_of_what_is_needed() -> None:
    rider = full()
    with purpose("receipts"):
        order = Order(number=1, rider=rider)
    assert order.rider is not None
    assert (EMAIL, None) == (order.rider.email, order.rider.name)
    assert NAME == rider.name
    with pytest.raises(PurposeError):
        Order(number=1, rider=rider)
    with purpose("receipts"), pytest.raises(PurposeError, match=r"Refusing\.name"):
        Refusing.model_validate(full(Refusing))


def test_an_instance_that_holds_nothing_else_is_kept_as_it_is() -> None:
    with purpose("account"):
        rider = Rider(email=EMAIL)
        assert rider is Rider.model_validate(rider)
    with purpose("receipts"):
        assert rider is Rider.model_validate(rider)


@pytest.mark.parametrize("name", DUMPED)
def test_a_dump_has_what_the_purpose_needs_at_its_precision(name: str) -> None:
    with purpose(name):
        expected = {"id": 7, **DUMPED[name]}
        assert expected == full().model_dump()
        assert expected == full().model_dump(mode="json")
        assert expected == json.loads(full().model_dump_json())
        assert expected == json.loads(TypeAdapter(Rider).dump_json(full()))
        assert [expected] == TypeAdapter(list[Rider]).dump_python([full()], mode="json")


def test_nested_models_and_lists_are_minimised_on_the_way_out() -> None:
    rider = full()
    order = Order.model_construct(number=1, rider=rider, others=[rider], by_seat={"2": rider})
    expected = {"id": 7, "email": EMAIL}
    with purpose("receipts"):
        assert {"number": 1, "rider": expected, "others": [expected], "by_seat": {"2": expected}} == order.model_dump()
        plain = PlainOrder.model_construct(number=1, riders=[rider])
        assert {"number": 1, "riders": [expected]} == plain.model_dump()


@pytest.mark.parametrize("how", ["model_dump", "model_dump_json"])
def test_a_dump_without_a_purpose_is_refused_when_a_personal_field_is_set(how: str) -> None:
    for model in (
        full(),
        Order.model_construct(number=1, rider=full()),
        Order.model_construct(number=1, others=[full()]),
    ):
        with pytest.raises(PurposeError, match=r"Rider\.email is personal data and no purpose is set") as info:
            getattr(model, how)()
        assert (None, None) == (info.value.__cause__, info.value.__context__)


def test_through_pydantic_itself_the_refusal_is_a_serialisation_error_with_the_same_message() -> None:
    attempts: list[Callable[[], Any]] = [
        lambda: TypeAdapter(Rider).dump_python(full()),
        lambda: TypeAdapter(list[Rider]).dump_json([full()]),
        lambda: PlainOrder.model_construct(number=1, riders=[full()]).model_dump(),
        lambda: PlainOrder.model_construct(number=1, riders=[full()]).model_dump_json(),
    ]
    for attempt in attempts:
        with pytest.raises(PydanticSerializationError, match=r"PK201: Rider\.email is personal data"):
            attempt()


def test_what_is_excluded_needs_no_purpose() -> None:
    assert {"id": 7} == full().model_dump(exclude=PERSONAL)
    assert {"id": 7} == full().model_dump(include={"id"})
    assert {"number": 1} == Order.model_construct(number=1, rider=full()).model_dump(include={"number"})


def test_options_of_a_dump_still_work() -> None:
    with purpose("account"):
        rider = Rider(email=EMAIL)
        assert {"email": EMAIL} == rider.model_dump(exclude_unset=True)
        assert {"email": EMAIL} == rider.model_dump(exclude_defaults=True)
        assert {"id": 0, "email": EMAIL} == rider.model_dump(exclude_none=True)
        assert {"email": EMAIL} == rider.model_dump(include={"email"})


def test_with_two_purposes_a_field_is_needed_by_one_of_them() -> None:
    with purpose("receipts", "pickup"):
        assert {"id": 7, "email": EMAIL, "home": PLACE} == full().model_dump()


def test_nested_purposes_both_have_to_need_a_field() -> None:
    with purpose("account"), purpose("receipts"):
        assert {"id": 7, "email": EMAIL} == full().model_dump()
        assert (EMAIL, None) == ((rider := Rider(**everything())).email, rider.name)
    with purpose("receipts"), purpose("pickup"):
        assert {"id": 7} == full().model_dump()
    with purpose("pickup"), purpose("demand_map"):
        assert cell(HOME, 7) == full().model_dump()["home"]


def test_privkits_own_work_sees_everything() -> None:
    with purposes.internally():
        assert {"id", *PERSONAL} == full().model_dump().keys()


def test_g23_what_gets_in_round_validation_is_still_held_back_by_every_dump() -> None:
    with purpose("receipts"):
        slim = Rider.model_validate(everything())
    smuggled = [
        slim.model_copy(update={"born": BORN}),
        Rider.model_construct(id=7, email=EMAIL, born=BORN),
        pickle.loads(pickle.dumps(slim.model_copy(update={"born": BORN}))),  # noqa: S301
        copy.deepcopy(slim.model_copy(update={"born": BORN})),
    ]
    direct, dotted, below = slim.model_copy(), slim.model_copy(), slim.model_copy()
    direct.__dict__["born"] = BORN
    dotted.born = BORN
    object.__setattr__(below, "born", BORN)
    for rider in (*smuggled, direct, dotted, below):
        assert BORN == rider.born
        with purpose("receipts"):
            assert {"id": 7, "email": EMAIL} == rider.model_dump()
            assert {"id": 7, "email": EMAIL} == json.loads(rider.model_dump_json())
        with pytest.raises(PurposeError):
            rider.model_dump()


def test_g23_extra_fields_are_not_taken_in_by_default() -> None:
    with purpose("receipts"):
        rider = Rider.model_validate({"email": EMAIL, "phone": "+44 20 7946 0000"})
        assert {"id": 0, "email": EMAIL} == rider.model_dump()


def test_something_else_in_place_of_a_nested_model_is_refused() -> None:
    order = Order.model_construct(number=1, rider={"email": EMAIL})
    with purpose("account"), pytest.raises(PurposeError, match="holds something else") as info:
        order.model_dump()
    assert EMAIL not in str(info.value)


def test_validated_assignment_asks_for_the_purpose() -> None:
    class Strict(Rider):
        model_config = ConfigDict(validate_assignment=True)

    rider = Strict(id=1)
    rider.id = 2
    with pytest.raises(PurposeError, match=r"Strict\.email"):
        rider.email = EMAIL
    with purpose("pickup"), pytest.raises(PurposeError, match=r"Strict\.email is not needed for 'pickup'"):
        rider.email = EMAIL
    with purpose("account"):
        rider.email = EMAIL
    assert (2, EMAIL) == (rider.id, rider.email)


@pytest.mark.parametrize(
    ("name", "field", "value"), [("demand_map", "home", cell(HOME, 7)), ("age_check", "born", "13-15")]
)
def test_a_value_that_storage_already_reduced_is_taken_and_dumped_as_it_is(name: str, field: str, value: str) -> None:
    with purpose(name):
        rider = Rider.model_validate({"id": 7, field: value})
        assert value == getattr(rider, field)
        assert {"id": 7, field: value} == rider.model_dump()


def test_a_year_is_a_year_and_not_a_time_stamp() -> None:
    class Cohort(PersonalModel):
        born: Annotated[date | None, Personal("user.demographic.date_of_birth", purposes={"receipts": Year()})] = None

    with purpose("receipts"):
        assert {"born": 2012} == Cohort.model_validate({"born": 2012}).model_dump()
        assert {"born": 2012} == Cohort(born=BORN).model_dump()


def test_a_finer_cell_than_the_purpose_may_see_is_refused() -> None:
    rider = Rider.model_construct(home=cell(HOME, 9))
    with purpose("demand_map"):
        with pytest.raises(ValidationError):
            Rider.model_validate({"home": cell(HOME, 9)})
        with pytest.raises(PrivkitError, match=r"Rider\.home") as info:
            rider.model_dump()
    assert cell(HOME, 9) not in str(info.value)


def test_each_of_many_values_is_reduced() -> None:
    class Places(PersonalModel):
        inside: list[Annotated[GeoPoint, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})]] = []
        outside: Annotated[list[GeoPoint], Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})] = []

    with purpose("pickup"):
        places = Places(inside=[HOME], outside=[HOME, GeoPoint(0, 0)])
    with purpose("demand_map"):
        expected = {"inside": [cell(HOME, 7)], "outside": [cell(HOME, 7), cell(GeoPoint(0, 0), 7)]}
        assert expected == places.model_dump()
        assert expected == Places.model_validate(expected).model_dump()


def test_a_computed_field_of_an_unneeded_field_is_refused_unless_excluded() -> None:
    class Greeting(Rider):
        @computed_field
        def hello(self) -> str:
            return f"Dear {self.name}"

    with purpose("account"):
        assert f"Dear {NAME}" == Greeting(name=NAME).model_dump()["hello"]
    with purpose("receipts"):
        greeting = Greeting.model_construct(email=EMAIL, name=NAME)
        for how in ("model_dump", "model_dump_json"):
            with pytest.raises(PurposeError, match="reads name"):
                getattr(greeting, how)()
        assert EMAIL == greeting.model_dump(exclude={"hello"})["email"]


def test_a_model_serializer_sees_only_what_the_purpose_needs() -> None:
    class Custom(Rider):
        @model_serializer
        def whole(self) -> dict[str, Any]:
            return dict(self)

    with purpose("receipts"):
        assert {"id", "email"} == full(Custom).model_dump().keys()


def test_a_default_of_a_personal_field_is_not_personal_data_that_was_collected() -> None:
    class Preferences(PersonalModel):
        language: Annotated[str, Personal("user.preferences", purposes={"account"})] = "en"
        labels: Annotated[list[str], Personal("user.preferences", purposes={"account"})] = Field(default_factory=list)

    assert {} == Preferences().model_dump()
    with purpose("account"):
        assert {"language": "en", "labels": []} == Preferences().model_dump()
    for changed in ({"language": "cy"}, {"labels": ["x"]}):
        with pytest.raises(PurposeError):
            Preferences.model_construct(set(), **changed).model_dump()


def test_an_explicit_default_is_no_personal_value_either() -> None:
    rider = Rider.model_validate({"id": 1, "email": None})
    assert {"id": 1} == rider.model_dump()
    assert {"id": 1} == Refusing.model_validate_json('{"id": 1, "name": null}').model_dump()


def test_a_default_that_is_validated_passes_its_gate() -> None:
    class Validated(PersonalModel):
        model_config = ConfigDict(validate_default=True)
        language: Annotated[str, Personal("user.preferences", purposes={"account"})] = "en"
        labels: Annotated[list[str], Personal("user.preferences", purposes={"account"})] = Field(default_factory=list)

    assert ("en", []) == ((plain := Validated()).language, plain.labels)
    with purpose("pickup"):
        assert ("en", []) == ((plain := Validated(language="cy", labels=["x"])).language, plain.labels)


def test_a_cached_property_does_not_survive_into_another_purpose() -> None:
    class Cached(Rider):
        @computed_field  # type: ignore[prop-decorator]
        @cached_property
        def hello(self) -> str:
            return f"Dear {self.name}"

    cached = Cached.model_construct(**everything())
    assert f"Dear {NAME}" == cached.hello
    with purpose("receipts"):
        with pytest.raises(PurposeError, match="reads name"):
            cached.model_dump()
        assert {"id": 7, "email": EMAIL} == cached.model_dump(exclude={"hello"})
    assert f"Dear {NAME}" == vars(cached)["hello"]


def test_a_model_that_is_built_late_or_again_is_gated_once() -> None:
    class Deferred(PersonalModel):
        model_config = ConfigDict(defer_build=True)
        email: Annotated[str | None, Personal("user.contact.email", purposes={"account"})] = None

    for rebuild in (False, True, True):
        if rebuild:
            Deferred.model_rebuild(force=True)
        with pytest.raises(PurposeError):
            Deferred(email=EMAIL)
        with purpose("account"):
            assert {"email": EMAIL} == Deferred(email=EMAIL).model_dump()
        with purpose("pickup"):
            assert {} == Deferred(email=EMAIL).model_dump()


def test_revalidated_instances_are_minimised() -> None:
    class Again(Rider):
        model_config = ConfigDict(revalidate_instances="always")

    with purpose("receipts"):
        assert (EMAIL, None) == ((again := Again.model_validate(full(Again))).email, again.name)


def test_no_refusal_is_kept_after_it_was_raised() -> None:
    with pytest.raises(PurposeError):
        full().model_dump()
    assert gates.refusal_of(ValueError("PK201: Rider.email is personal data and no purpose is set.")) is None
    assert gates._refusal.get() is None


def test_a_dump_warns_about_nothing_because_pydantic_warns_with_values() -> None:
    rider = Rider.model_construct(email=["a value of the wrong type"])
    with purpose("account"), warnings.catch_warnings():
        warnings.simplefilter("error")
        rider.model_dump()
        TypeAdapter(Rider).dump_python(rider)
        TypeAdapter(list[Rider]).dump_json([rider])


@given(
    st.fixed_dictionaries({}, optional={"email": st.text(), "name": st.text(), "born": st.dates(max_value=BORN)}),
    st.lists(st.sampled_from(sorted(NEEDED)), min_size=1, unique=True),
    st.lists(st.sampled_from(sorted(NEEDED)), min_size=1, unique=True),
)
def test_no_dump_has_a_field_that_one_of_the_nested_purposes_does_not_need(
    values: dict[str, Any], outer: list[str], inner: list[str]
) -> None:
    with purpose(*outer), purpose(*inner):
        dumped = Rider.model_construct(**values).model_dump()
        validated = Rider.model_validate(values)
    for group in (outer, inner):
        allowed = {"id"}.union(*(NEEDED[name] for name in group))
        assert dumped.keys() <= allowed
        assert validated.model_fields_set <= allowed


def test_an_age_band_follows_the_clock_of_the_scope() -> None:
    with purpose("age_check", now=NOW.replace(year=2040)):
        assert "25-34" == full().model_dump()["born"]

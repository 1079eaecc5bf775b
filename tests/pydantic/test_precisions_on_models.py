"""Each precision at the door of a pydantic model: collected, dumped, described, and never passed off as the value."""

from __future__ import annotations

import json
from datetime import date
from typing import Annotated, Any

import pytest

from privkit import (
    AtLeastAge,
    BirthDate,
    Exact,
    InCountry,
    Initials,
    Is,
    Month,
    Personal,
    Quarter,
    StandIn,
    TruncatedIp,
)
from privkit.deidentify import Reduced
from privkit.errors import InvalidValue, PurposeError
from privkit.pydantic import PersonalModel
from tests.pydantic.scopes import purpose


class Member(PersonalModel):
    name: Annotated[
        str | None,
        Personal("user.name", purposes={"account": Exact(), "receipts": Initials(), "pickup": StandIn("drivers")}),
    ] = None
    ip: Annotated[str | None, Personal("user.device", purposes={"account": Exact(), "receipts": TruncatedIp()})] = None
    country: Annotated[
        str | None, Personal("user.country", purposes={"account": Exact(), "pickup": Is(InCountry({"DE"}))})
    ] = None
    born: Annotated[
        date | None,
        BirthDate(
            purposes={
                "account": Exact(),
                "age_check": Is(AtLeastAge(16)),
                "receipts": Month(),
                "demand_map": Quarter(),
            }
        ),
    ] = None
    past: Annotated[list[str], Personal("user.name", purposes={"account": Exact(), "receipts": Initials()})] = []


FORM = {"name": "Ada Lovelace", "ip": "203.0.113.77", "country": "DE", "born": date(2001, 5, 4), "past": ["Ada Byron"]}
SEEN: dict[str, dict[str, Any]] = {
    "account": FORM,
    "receipts": {"name": "A. L.", "ip": "203.0.113.0/24", "born": "2001-05", "past": ["A. B."]},
    "pickup": {"country": True},
    "age_check": {"born": True},
    "demand_map": {"born": "2001-Q2"},
}


def member() -> Member:
    with purpose("account"):
        return Member.model_validate(FORM)


@pytest.mark.parametrize("name", SEEN)
def test_a_dump_has_what_the_purpose_sees_at_its_precision(name: str) -> None:
    held = member()
    with purpose(name):
        found = held.model_dump(exclude={"name"} if name == "pickup" else None)
        assert SEEN[name] == found
        assert json.loads(json.dumps(SEEN[name], default=str)) == json.loads(
            held.model_dump_json(exclude={"name"} if name == "pickup" else None)
        )


@pytest.mark.parametrize("name", ["receipts", "pickup", "age_check", "demand_map"])
def test_what_was_dumped_is_taken_and_dumped_again_in_the_same_purpose(name: str) -> None:
    with purpose(name):
        for given in (SEEN[name], json.loads(json.dumps(SEEN[name]))):
            held = Member.model_validate(given)
            assert SEEN[name] == held.model_dump(exclude_unset=True)


def test_a_coarser_value_than_the_purpose_sees_is_taken_as_it_is() -> None:
    with purpose("receipts"):
        assert "203.0.0.0/16" == Member.model_validate({"ip": "203.0.0.0/16"}).model_dump()["ip"]
        coarse = Reduced("2001-Q2", Quarter())
        assert "2001-Q2" == Member.model_validate({"born": coarse}).model_dump()["born"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", Reduced("A. L.", Initials())),
        ("name", Reduced("Amber Heron 4821", StandIn("drivers"))),
        ("ip", Reduced("203.0.113.0/24", TruncatedIp())),
        ("country", True),
        ("past", ["Ada Byron", Reduced("A. B.", Initials())]),
    ],
)
def test_what_was_seen_at_a_lower_precision_is_not_collected_as_the_value(field: str, value: Any) -> None:
    with purpose("account"), pytest.raises(PurposeError, match=rf"Member\.{field} was given a value") as caught:
        Member.model_validate({field: value})
    assert "lower precision" in str(caught.value)
    assert "Heron" not in str(caught.value)
    assert "A. L." not in str(caught.value)


def test_a_stand_in_is_handed_on_and_made_of_no_name() -> None:
    given = Reduced("Amber Heron 4821", StandIn("drivers"))
    with purpose("pickup"):
        assert {"name": given} == Member.model_validate({"name": given}).model_dump(exclude_unset=True)
        assert '{"name":"Amber Heron 4821"}' == Member.model_validate({"name": given}).model_dump_json(
            exclude_unset=True
        )
    held = member()
    with purpose("pickup"), pytest.raises(InvalidValue, match="made where a field is read from storage") as caught:
        held.model_dump()
    assert "Ada" not in str(caught.value)


def test_a_stand_in_for_another_audience_is_not_handed_on() -> None:
    with purpose("pickup"), pytest.raises(InvalidValue, match="made where a field is read from storage"):
        Member.model_validate({"name": Reduced("Amber Heron 4821", StandIn("shops"))}).model_dump()


def test_nested_purposes_dump_the_coarser_of_their_precisions_and_one_block_the_finer() -> None:
    held = member()
    with purpose("receipts", "account"):
        assert "Ada Lovelace" == held.model_dump()["name"]
    with purpose("demand_map"), purpose("receipts"):
        assert {"born": "2001-Q2"} == held.model_dump()
    with purpose("receipts"), purpose("age_check"):
        assert {} == held.model_dump()


def test_the_json_schema_says_each_precision_in_words() -> None:
    properties = Member.model_json_schema()["properties"]
    described = {name: each["x-privacy"]["purposes"] for name, each in properties.items()}
    assert {
        "account": "exact",
        "receipts": "initials",
        "pickup": "stand-in name for 'drivers'",
    } == described["name"]
    assert "network of the IP address, /24 or /48" == described["ip"]["receipts"]
    assert "only whether in DE" == described["country"]["pickup"]
    assert {"age_check": "only whether aged 16 or over", "receipts": "month", "demand_map": "quarter"}.items() <= (
        described["born"].items()
    )

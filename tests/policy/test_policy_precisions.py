"""A precision has to fit the values of its field."""

from __future__ import annotations

from datetime import date
from ipaddress import IPv4Address
from typing import Annotated, Any

import pytest

from privkit import catalog
from privkit.errors import PolicyError
from privkit.location import GeoPoint
from privkit.markers import (
    AtLeastAge,
    BirthDate,
    Exact,
    InCountry,
    Initials,
    Is,
    Location,
    Month,
    Personal,
    Quarter,
    StandIn,
    TruncatedIp,
    events,
)
from privkit.policy import load, resolve
from tests.meta import ROOT

POLICY = load(ROOT / "policies" / "rides.yaml")


def resolved(annotation: Any) -> Any:
    made = type("Thing", (), {"__annotations__": {"x": annotation}, "__module__": __name__})
    return resolve(POLICY, [catalog.read(events(account_closed="closed_at")(made))])


def text(precision: Any, **options: Any) -> Any:
    return Annotated[str, Personal("user.name", purposes={"account": Exact(), "receipts": precision}, **options)]


@pytest.mark.parametrize(
    ("annotation", "message", "fix"),
    [
        (text(Month()), "is Month, which only a date has", "Exact()"),
        (text(Quarter()), "is Quarter, which only a date has", "Exact()"),
        (text(Is(AtLeastAge(16))), "is Is, which only a date has", "Exact()"),
        (text(Is(InCountry({"Germany"}))), "two-letter country codes", 'Is(InCountry({"DE", "FR"}))'),
        (text(Is(InCountry([]))), "two-letter country codes", 'Is(InCountry({"DE", "FR"}))'),
        (text(Is(lambda value: True)), "is not a precision", "Exact()"),  # type: ignore[arg-type]
        (text(Initials), "is not a precision", "Exact()"),
        (text(TruncatedIp(v4=32)), "truncates nothing", "TruncatedIp(v4=24, v6=48)"),
        (text(TruncatedIp(v6=64)), "names one household", "TruncatedIp(v4=24, v6=48)"),
        (text(TruncatedIp(v4=-1)), "truncates nothing", "TruncatedIp(v4=24, v6=48)"),
        (text(StandIn("drivers")), "made from the key that a field is sealed with; this one is not", "seal=True"),
        (text(StandIn("drivers"), seal=False), "made from the key that a field is sealed with", "seal=True"),
        (text(StandIn(""), seal=True), "is a StandIn for nobody", 'StandIn("drivers")'),
        (Annotated[date, BirthDate(purposes={"account": Initials()})], "is Initials, which only text has", "Exact()"),
        (Annotated[date, BirthDate(purposes={"account": StandIn("a")})], "is StandIn, which only text has", "Exact()"),
        (Annotated[GeoPoint, Location(purposes={"pickup": TruncatedIp()})], "which only an IP address has", "Exact()"),
        (
            Annotated[list[str], Personal("user.name", purposes={"account": StandIn("a")}, seal=True)],
            "the field holds many values",
            "Initials()",
        ),
        (
            Annotated[
                date,
                BirthDate(purposes={"age_check": Is(AtLeastAge(16)), "account": Is(AtLeastAge(18))}),
            ],
            "an answer does not say which",
            "AgeBand((16, 18))",
        ),
    ],
)
def test_a_precision_that_does_not_fit_is_refused_with_the_fix(annotation: Any, message: str, fix: str) -> None:
    with pytest.raises(PolicyError) as caught:
        resolved(annotation)
    problems = caught.value.data["problems"]
    assert [fix] == [each.fix for each in problems if message in each.message], [str(each) for each in problems]


@pytest.mark.parametrize(
    "annotation",
    [
        text(Initials()),
        text(TruncatedIp()),
        text(Is(InCountry({"DE"}))),
        text(StandIn("drivers"), seal=True),
        Annotated[IPv4Address, Personal("user.device", purposes={"account": TruncatedIp(16, 32)})],
        Annotated[list[str], Personal("user.name", purposes={"account": Initials()})],
        Annotated[date, BirthDate(purposes={"age_check": Is(AtLeastAge(16)), "account": Month(), "pickup": Quarter()})],
    ],
)
def test_a_precision_that_fits_is_accepted(annotation: Any) -> None:
    assert {"Thing.x"} == set(resolved(annotation))

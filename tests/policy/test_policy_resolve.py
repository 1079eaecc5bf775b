"""Models against a policy: the rule of each field, and every mistake at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import pytest

from privkit import catalog
from privkit.errors import PolicyError
from privkit.markers import (
    AgeBand,
    BirthDate,
    Cell,
    Delete,
    Equality,
    Exact,
    Generalise,
    Latest,
    Location,
    Nearby,
    Personal,
    Year,
    child_protection,
    data_subject,
    events,
    owned_by,
)
from privkit.policy import load, resolve
from privkit.policy.rules import withdrawal_of

RIDES = Path(__file__).resolve().parents[2] / "policies" / "rides.yaml"


@dataclass
class GeoPoint:
    lat: float
    lon: float


@data_subject
@child_protection(birth_date="born")
@events(account_closed="closed_at", trip_ended=Latest("trips.ended_at"))
class Rider:
    __tablename__ = "riders"
    email: Annotated[str, Personal("user.contact.email", purposes={"account", "receipts"}, search=Equality("email"))]
    name: Annotated[str, Personal("user.name", purposes={"account"}, duties=frozenset({"tax"}))]
    born: Annotated[date | None, BirthDate(purposes={"age_check": AgeBand(), "account": Year()})]
    home: Annotated[GeoPoint | None, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)}, search=Nearby(8))]
    illness: Annotated[str, Personal("user.health.condition", purposes={"pickup"})]
    nickname: Annotated[str, Personal("user.name", purposes={"account"}, seal=True)]


class PremiumRider(Rider):
    """Inherits every field; its rows lie in the same table."""


@pytest.fixture
def policy():
    return load(RIDES)


def refused(policy, *classes, **options):
    with pytest.raises(PolicyError) as caught:
        resolve(policy, [catalog.read(cls) for cls in classes], **options)
    return caught.value.data["problems"]


def only(problems):
    assert 1 == len(problems), [str(problem) for problem in problems]
    return problems[0]


def one_field(annotation, event="account_closed"):
    """A class with one field, ``x``, that maps one event."""
    return events(**{event: "closed_at"})(
        type("Thing", (), {"__annotations__": {"x": annotation}, "__module__": __name__})
    )


def test_each_field_has_its_terms_with_their_precision(policy):
    rules = resolve(policy, [catalog.read(Rider)])
    assert {"pickup": Exact(), "demand_map": Cell(7)} == {
        term.purpose.name: term.precision for term in rules["riders.home"].terms
    }
    assert ("tax",) == tuple(duty.name for duty in rules["riders.name"].duties)


def test_places_birth_dates_searched_and_sensitive_fields_are_sealed_and_a_marker_may_say_so(policy):
    rules = resolve(policy, [catalog.read(Rider)])
    assert {
        "riders.email": True,
        "riders.name": False,
        "riders.born": True,
        "riders.home": True,
        "riders.illness": True,
        "riders.nickname": True,
    } == {name: rule.sealed for name, rule in rules.items()}
    assert {"riders.home", "riders.illness"} == {name for name, rule in rules.items() if rule.sensitive}


def test_a_marker_may_leave_a_sensitive_field_open_where_no_rule_requires_the_seal(policy):
    cls = one_field(Annotated[str, Personal("user.health", purposes={"pickup"}, seal=False)])
    rule = resolve(policy, [catalog.read(cls)])["Thing.x"]
    assert (False, True) == (rule.sealed, rule.sensitive)


def test_a_field_that_a_subclass_inherits_is_one_field(policy):
    both = [catalog.read(PremiumRider), catalog.read(Rider)]
    assert set(resolve(policy, both[1:])) == set(resolve(policy, both))


def test_an_unknown_purpose_is_refused_with_the_nearest_names_the_policy_and_the_line(policy):
    problem = only(refused(policy, one_field(Annotated[str, Personal("user.name", purposes={"acount"})])))
    assert f"Thing.x names purpose 'acount', which {RIDES} does not declare." == problem.message
    assert "account" == problem.nearest[0]
    assert problem.fix.startswith("purposes: {acount: {description:")


def test_an_unknown_duty_is_refused(policy):
    cls = one_field(Annotated[str, Personal("user.name", purposes={"account"}, duties=frozenset({"taxes"}))])
    problem = only(refused(policy, cls))
    assert ("tax",) == problem.nearest
    assert "Thing.x names duty 'taxes'" in problem.message


def test_a_field_without_a_purpose_is_refused(policy):
    problem = only(refused(policy, one_field(Annotated[str, Personal("user.name", purposes=())])))
    assert "Thing.x is personal data without a purpose" in problem.message


@owned_by("rider")
@events(account_closed="rider.closed_at")
class Trip:
    __tablename__ = "trips"
    pickup: Annotated[GeoPoint, Location(purposes={"navigation"})]
    dropoff: Annotated[GeoPoint, Location(purposes={"navigation"}, duties=frozenset({"tax"}))]


def test_an_event_that_is_not_mapped_is_refused_once_with_code_in_the_models_own_names(policy):
    problem = only(refused(policy, Trip))
    users = "pickup for navigation, dropoff for navigation, dropoff for tax"
    assert f"Trip maps no event 'trip_ended', from which {users} counts." == problem.message
    assert '@events(account_closed="rider.closed_at", trip_ended="...")\nclass Trip' == problem.fix


def test_the_problem_of_a_class_names_its_source_file_and_line(policy):
    problem = only(refused(policy, Trip))
    assert problem.file.endswith("test_policy_resolve.py")
    assert "Trip" in "".join(Path(__file__).read_text().splitlines()[problem.line - 1 : problem.line + 2])


def test_a_class_without_source_is_named_by_its_module(policy):
    made = type("Made", (), {"__module__": "rides.made"})
    catalog.annotate(made, {"x": Personal("user.name", purposes={"account"})})
    problem = only(refused(policy, made))
    assert ("rides.made.Made", 0) == (problem.file, problem.line)
    assert str(problem).startswith("rides.made.Made: Made maps no event 'account_closed'")


def test_a_model_that_is_not_stored_needs_no_events(policy):
    assert {"trips.pickup", "trips.dropoff"} == set(resolve(policy, [catalog.read(Trip)], stored=False))


def test_seal_false_against_an_explicit_rule_is_refused_with_the_rules_place(policy):
    marker = Personal("user.location.precise.home", purposes={"pickup"}, seal=False)
    problem = only(refused(policy, one_field(Annotated[str, marker])))
    assert "requires user.location.precise to be sealed" in problem.message
    assert f"{RIDES}:" in problem.message


class Left:
    __tablename__ = "left"
    x: Annotated[str, Personal("user.name", purposes={"account"}, id="same")]


class Right:
    __tablename__ = "right"
    x: Annotated[str, Personal("user.name", purposes={"account"}, id="same")]


class OtherLeft:
    __tablename__ = "left"
    x: Annotated[str, Personal("user.name", purposes={"account"}, id="same")]


@pytest.mark.parametrize("other", [Right, OtherLeft])
def test_two_fields_with_one_id_are_refused(policy, other):
    problem = only(refused(policy, Left, other, stored=False))
    assert f"{other.__name__}.x and Left.x both have the id 'same'" in problem.message


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Annotated[str, Personal("user.name", purposes={"account": Cell(7)})], "is a Cell, which only a location has"),
        (Annotated[str, Location(purposes={"pickup": Cell(7)})], "is a Cell, which only a location has"),
        (Annotated[GeoPoint, Location(purposes={"pickup": Cell(16)})], "resolution is not 0 to 15"),
        (Annotated[str, Personal("user.name", purposes={"account": Year()})], "is Year, which only a date has"),
        (Annotated[str, BirthDate(purposes={"age_check": AgeBand()})], "is AgeBand, which only a date has"),
        (Annotated[GeoPoint, Location(purposes={"pickup": Year()})], "is Year, which only a date has"),
        (Annotated[str, Personal("user.name", purposes={"account": "exact"})], "is not a precision"),
        (Annotated[str, Personal("user.name", purposes={"account"}, search=Nearby(8))], "only for a location"),
        (Annotated[GeoPoint, Location(purposes={"pickup"}, search=Nearby(-1))], "not 0 to 15"),
        (Annotated[str, Personal("user.name", purposes={"account"}, then=Generalise(Cell(5)))], "residue is a Cell"),
        (Annotated[str, Personal("user.name", purposes={"account"}, then=Generalise(Year()))], "residue is Year"),
        (Annotated[str, Personal("user.name", purposes={"account"}, then=Delete())], "Delete() is for a whole row"),
    ],
)
def test_what_does_not_fit_the_value_is_refused(policy, annotation, message):
    problems = refused(policy, one_field(annotation))
    assert any(message in problem.message for problem in problems), [str(problem) for problem in problems]


@pytest.mark.parametrize(
    "annotation",
    [
        Annotated[GeoPoint, Personal("user.location", purposes={"pickup": Cell(7)}, search=Nearby(8))],
        Annotated[list[GeoPoint], Location(purposes={"pickup": Cell(7)}, then=Generalise(Cell(5)))],
        Annotated[datetime, Personal("user.behavior", purposes={"account": Year()}, then=Generalise(Year()))],
        Annotated[str, Location(purposes={"pickup"})],
    ],
)
def test_what_fits_the_value_is_accepted(policy, annotation):
    assert {"Thing.x"} == set(resolve(policy, [catalog.read(one_field(annotation))]))


def test_where_the_type_is_not_known_the_marker_decides(policy):
    for marker in (Location(purposes={"pickup": Cell(7)}), BirthDate(purposes={"account": Year()})):
        cls = events(account_closed="closed_at")(type("Outside", (), {}))
        catalog.annotate(cls, {"x": marker})
        assert {"Outside.x"} == set(resolve(policy, [catalog.read(cls)]))


def test_all_mistakes_of_all_models_are_reported_at_once(policy):
    first = one_field(Annotated[str, Personal("user.name", purposes={"acount", "pikup"}, duties=frozenset({"taxes"}))])
    problems = refused(policy, first, Trip)
    assert 4 == len(problems)


FOREVER = """\
privkit: 1
extends: [coppa]
purposes:
  register: {description: d, legal_basis: public_task, keep: forever, because: "a register", children: CHILDREN}
"""


@pytest.fixture
def kept_for_ever(tmp_path):
    def policy(children):
        (tmp_path / "policy.yaml").write_text(FOREVER.replace("CHILDREN", children))
        return load(tmp_path / "policy.yaml")

    return policy


@data_subject
@child_protection(birth_date="born")
class Child:
    name: Annotated[str, Personal("user.name", purposes={"register"})]


@data_subject
class Driver:
    name: Annotated[str, Personal("user.name", purposes={"register"})]


@owned_by("child")
class Note:
    text: Annotated[str, Personal("user.content", purposes={"register"})]


def test_a_childs_field_needs_a_period_that_ends(kept_for_ever):
    problems = refused(kept_for_ever("consent"), Child, Driver, Note)
    assert ["Child.name", "Note.text"] == [problem.message.partition(" ")[0] for problem in problems]
    assert "purposes: {register: {children: never}}" == problems[0].fix


def test_a_purpose_that_never_touches_a_child_may_keep_for_ever(kept_for_ever):
    rules = resolve(kept_for_ever("never"), [catalog.read(cls) for cls in (Child, Driver, Note)])
    assert 3 == len(rules)


def test_an_end_of_a_row_s_own_is_an_event_to_map(policy):
    keep = replace(policy.purposes["account"].keep, until="expires")
    purposes = {**policy.purposes, "account": replace(policy.purposes["account"], keep=keep)}
    cls = one_field(Annotated[str, Personal("user.name", purposes={"account"})])
    problem = only(refused(replace(policy, purposes=purposes), cls))
    assert "Thing maps no event 'expires', from which x for account counts." == problem.message


def test_a_withdrawal_is_known_of_a_data_subject_s_row_beside_the_ledger(policy):
    keep = replace(policy.purposes["account"].keep, after=withdrawal_of("account"))
    purposes = {**policy.purposes, "account": replace(policy.purposes["account"], keep=keep)}
    policy = replace(policy, purposes=purposes)
    cls = one_field(Annotated[str, Personal("user.name", purposes={"account"})])
    assert "has no data subject in the consent ledger" in only(refused(policy, cls, consents=True)).message
    assert "has no data subject in the consent ledger" in only(refused(policy, data_subject(cls))).message
    assert {"Thing.x"} == set(resolve(policy, [catalog.read(cls)], consents=True))


def test_a_model_does_not_map_the_event_that_the_ledger_tells(policy):
    cls = one_field(Annotated[str, Personal("user.name", purposes={"account"})])
    cls = events(consent_withdrawn="at")(cls)
    assert "Thing maps consent_withdrawn, which the consent ledger tells." == only(refused(policy, cls)).message

"""Documents for other stores: every personal value sealed for its data subject, and opened for the purpose alone."""

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from privkit import (
    AgeBand,
    BirthDate,
    Cell,
    Exact,
    GeoPoint,
    Location,
    NotPersonal,
    Personal,
    PrivkitError,
    events,
    not_personal,
    purposes,
)
from privkit.crypto import OVERHEAD, SubjectKey, aead
from privkit.errors import InvalidValue, MappingError, PolicyError, PurposeError, SealedError
from privkit.location import cell
from privkit.pydantic import Document, PersonalModel
from privkit.pydantic import documents as format_1
from privkit.pydantic.covering import sealing
from tests.meta import ROOT
from tests.pydantic.scopes import BORN, EMAIL, HOME, NAME, NOW, POLICY, purpose

ALL = ("account", "receipts", "age_check", "pickup", "demand_map", "navigation")
STREET, LICENCE, NOTE = "12 St James's Square", "LOVEL 812109 A99", "rings twice"
SECRETS = (EMAIL, NAME, BORN.isoformat(), str(HOME.lat), STREET, LICENCE, NOTE)


class Address(PersonalModel):
    street: Annotated[str, Personal("user.contact.address", purposes={"account", "pickup"})] = ""
    country: Annotated[str, NotPersonal("two-letter code")] = "GB"


@events(trip_ended="ended_at")
class Trip(PersonalModel):
    start: Annotated[GeoPoint | None, Location(purposes={"navigation": Exact(), "pickup": Cell(7)})] = None
    ended_at: Annotated[datetime | None, NotPersonal("event time")] = None


class Card(PersonalModel):
    kind: Annotated[Literal["card"], NotPersonal("which of two")] = "card"
    owner: Annotated[str | None, Personal("user.name", purposes={"receipts"})] = None


class Cash(PersonalModel):
    kind: Annotated[Literal["cash"], NotPersonal("which of two")] = "cash"
    owner: Annotated[str | None, Personal("user.name", purposes={"receipts"})] = None


@events(account_closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Profile(PersonalModel):
    id: int = 7
    closed_at: datetime | None = None
    email: Annotated[str, Personal("user.contact.email", purposes={"account", "receipts"})] | None = None
    name: Annotated[str | None, Personal("user.name", purposes={"account"})] = None
    born: Annotated[date | None, BirthDate(purposes={"age_check": AgeBand(), "account": Exact()})] = None
    home: Annotated[GeoPoint | None, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})] = None
    post: Address | None = None
    work: Address | None = None
    trips: list[Trip] = []
    pays_by: Annotated[Card | Cash, Field(discriminator="kind")] | None = None
    notes: Annotated[dict[str, list[str]], Personal("user.preferences", purposes={"pickup"})] = {}


class Pocket:
    """Keys by name, kept by the test: the least that can serve documents."""

    def __init__(self) -> None:
        self.keys: dict[object, SubjectKey] = {}

    def for_sealing(self, subject: object) -> SubjectKey:
        return self.keys.setdefault(subject, SubjectKey.new())

    def for_opening(self, subject: object) -> SubjectKey:
        return self.keys[subject]


POCKET = Pocket()


def document(model: Any, name: str | None = None, now: datetime = NOW) -> Document[Any]:
    return Document(model, POLICY, POCKET, lambda: now, name)


PROFILES: Document[Profile] = document(Profile)


def profile() -> Profile:
    return Profile.model_construct(
        id=7,
        closed_at=None,
        email=EMAIL,
        name=NAME,
        born=BORN,
        home=HOME,
        post=Address.model_construct(street=STREET, country="GB"),
        work=Address.model_construct(street="1 Work Road", country="FR"),
        trips=[
            Trip.model_construct(start=HOME, ended_at=None),
            Trip.model_construct(start=GeoPoint(1, 2), ended_at=NOW - timedelta(hours=2)),
        ],
        pays_by=Cash.model_construct(kind="cash", owner=LICENCE),
        notes={"bell": [NOTE]},
    )


def dumped(
    instance: PersonalModel | None = None, documents: Document[Any] = PROFILES, subject: object = "ada"
) -> bytes:
    with purpose(*ALL):
        return documents.dumps(profile() if instance is None else instance, subject=subject)


def changed(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    tree = json.loads(data)
    change(tree)
    return json.dumps(tree).encode()


def loaded(data: bytes, *names: str, documents: Document[Any] = PROFILES, subject: object = "ada") -> Any:
    with purpose(*(names or ALL)):
        return documents.loads(data, subject=subject)


# What is stored


def test_personal_values_are_sealed_and_the_rest_stays_json() -> None:
    data = dumped()
    tree = json.loads(data)
    assert [] == [secret for secret in SECRETS if secret.encode() in data]
    assert (1, "Profile", POCKET.keys["ada"].id.hex()) == (tree["privkit"], tree["document"], tree["subject"])
    plain = tree["data"]
    assert (7, None, "GB", "FR", "cash") == (
        plain["id"],
        plain["closed_at"],
        plain["post"]["country"],
        plain["work"]["country"],
        plain["pays_by"]["kind"],
    )
    sealed = [plain[name] for name in ("email", "name", "born", "home", "notes")]
    sealed += [plain["post"]["street"], plain["trips"][0]["start"], plain["pays_by"]["owner"]]
    assert [] == [token for token in sealed if not re.fullmatch(r"AQ[\w-]+", token)]


def test_a_document_comes_back_as_it_was_and_can_be_stored_again() -> None:
    back = loaded(dumped(), "account", "receipts", "pickup", "navigation")
    assert profile() == back
    assert profile() == loaded(dumped(back).decode())


def test_two_dumps_of_one_model_differ_in_what_is_sealed_alone() -> None:
    one, two = json.loads(dumped()), json.loads(dumped())
    assert one["data"]["email"] != two["data"]["email"]
    assert one["data"].keys() == two["data"].keys()


def test_what_is_none_is_null() -> None:
    assert None is json.loads(dumped(Profile()))["data"]["email"]


@given(st.floats(-90, 90), st.floats(-180, 180), st.dates(date(1, 1, 1), date(9999, 12, 31)))
def test_an_envelope_is_as_long_for_every_place_and_date(lat: float, lon: float, born: date) -> None:
    plain = json.loads(dumped(Profile.model_construct(home=GeoPoint(lat, lon), born=born)))["data"]
    assert {OVERHEAD + format_1.BUCKET} == {len(format_1._as_bytes(plain[name])) for name in ("home", "born")}


# Under a purpose


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("account", {"email": EMAIL, "name": NAME, "born": BORN, "street": STREET}),
        ("receipts", {"email": EMAIL, "owner": LICENCE}),
        ("age_check", {"born": "13-15"}),
        ("pickup", {"home": HOME, "street": STREET, "start": cell(HOME, 7), "notes": {"bell": [NOTE]}}),
        ("demand_map", {"home": cell(HOME, 7)}),
        ("navigation", {"start": HOME}),
    ],
)
def test_loading_gives_what_the_purpose_needs_at_its_precision(name: str, expected: dict[str, Any]) -> None:
    found = loaded(dumped(), name)
    personal = {each: getattr(found, each) for each in ("email", "name", "born", "home", "notes")}
    nested = {"street": found.post.street, "owner": found.pays_by.owner, "start": found.trips[0].start}
    assert expected == {key: value for key, value in (personal | nested).items() if value}
    assert expected.keys() >= personal.keys() & found.model_fields_set
    assert ("GB", Cash) == (found.post.country, type(found.pays_by))


def test_what_is_not_needed_is_not_even_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = Document._open
    monkeypatch.setattr(Document, "_open", lambda *args: opened.append(str(args[2])) or original(*args))
    data = dumped()
    opened.clear()
    loaded(data, "receipts")
    assert ["Cash.owner", "Profile.email"] == sorted(opened)


def test_without_a_purpose_nothing_is_stored_and_nothing_is_loaded() -> None:
    data = dumped()
    with pytest.raises(PurposeError, match="no purpose is set"):
        PROFILES.dumps(profile(), subject="ada")
    with pytest.raises(PurposeError, match="no purpose is set"):
        PROFILES.loads(data, subject="ada")


@pytest.mark.parametrize(("left_out", "field"), [("account", "name"), ("receipts", "owner"), ("navigation", None)])
def test_a_document_is_stored_whole_so_the_purposes_have_to_need_all_of_it(left_out: str, field: str | None) -> None:
    with purpose(*(name for name in ALL if name != left_out)):
        if field is None:
            assert PROFILES.dumps(profile(), subject="ada")  # pickup needs the start of a trip, though not exactly
            return
        with pytest.raises(PurposeError, match=rf"\.{field} is not needed for"):
            PROFILES.dumps(profile(), subject="ada")


def test_a_field_that_is_not_set_has_to_be_needed_too_as_it_would_take_the_place_of_a_stored_one() -> None:
    with purpose("receipts"), pytest.raises(PurposeError, match=r"Profile\.name is not needed for 'receipts'"):
        PROFILES.dumps(loaded(dumped(), "receipts"), subject="ada")


def test_what_was_loaded_reduced_is_not_stored_over_the_exact_value() -> None:
    data = dumped()
    for name, field in (("demand_map", "home"), ("age_check", "born")):
        found = loaded(data, name)
        assert getattr(found, field) is not None
        with purpose(*ALL), pytest.raises(PrivkitError, match=rf"Profile\.{field}") as info:
            PROFILES.dumps(found, subject="ada")
        assert str(getattr(found, field)) not in str(info.value)


@events(account_closed="at")
class Refusing(PersonalModel, unneeded="refuse"):
    at: Annotated[datetime | None, NotPersonal("event time")] = None
    email: Annotated[str | None, Personal("user.contact.email", purposes={"account"})] = None


@events(account_closed="at")
class Required(PersonalModel):
    at: Annotated[datetime | None, NotPersonal("event time")] = None
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})]


@pytest.mark.parametrize("cls", [Refusing, Required])
def test_a_field_that_cannot_be_left_out_is_refused(cls: Any) -> None:
    documents = document(cls)
    data = dumped(cls.model_construct(email=EMAIL, at=None), documents)
    assert EMAIL == loaded(data, "account", documents=documents).email
    with pytest.raises(PurposeError, match="email is not needed for 'pickup'"):
        loaded(data, "pickup", documents=documents)


def test_nested_purposes_both_have_to_need_a_field() -> None:
    data = dumped()
    with purpose("account"):
        found = loaded(data, "receipts")
    assert (EMAIL, None) == (found.email, found.name)


# When its time has ended


def test_an_expired_field_reads_as_if_it_had_never_been_set_and_needs_no_purge() -> None:
    data = dumped(profile().model_copy(update={"closed_at": NOW}))
    for days, expected in ((29, (EMAIL, NAME)), (30, (EMAIL, None)), (731, (None, None))):
        found = loaded(data, "account", "receipts", documents=document(Profile, now=NOW + timedelta(days=days)))
        assert expected == (found.email, found.name)
        assert ("name" in found.model_fields_set) == (found.name is not None)


def test_an_expired_purpose_does_not_lend_its_precision_to_another() -> None:
    data = dumped(profile().model_copy(update={"closed_at": NOW}))
    later = document(Profile, now=NOW + timedelta(days=2))
    assert cell(HOME, 7) == loaded(data, "pickup", "demand_map", documents=later).home
    assert loaded(data, "pickup", documents=later).home is None


def test_an_event_of_a_nested_model_counts_for_it_alone() -> None:
    trips = loaded(dumped(), "navigation", documents=document(Profile, now=NOW + timedelta(hours=22))).trips
    assert [HOME, None] == [trip.start for trip in trips]


def test_an_event_of_the_documents_model_counts_for_what_is_in_it() -> None:
    data = dumped(profile().model_copy(update={"closed_at": NOW}))
    found = loaded(data, "account", "pickup", documents=document(Profile, now=NOW + timedelta(days=30)))
    assert ("", "") == (found.post.street, found.work.street)


def test_a_required_field_that_has_expired_is_refused() -> None:
    data = dumped(Required.model_construct(email=EMAIL, at=NOW), document(Required))
    with pytest.raises(PurposeError, match=r"Required\.email has expired for 'account'"):
        loaded(data, "account", documents=document(Required, now=NOW + timedelta(days=30)))


def test_the_time_of_an_event_that_cannot_be_read_lets_nothing_out() -> None:
    data = changed(dumped(), lambda tree: tree["data"].update(closed_at="yesterday"))
    with pytest.raises(InvalidValue, match="does not fit Profile"):
        loaded(data, "account")


def test_a_date_counts_from_its_end_and_a_time_without_a_zone_as_the_policy_says() -> None:
    for written, days, expected in (
        ("2026-06-15", 30, NAME),
        ("2026-06-15", 31, None),
        ("2026-06-15T12:00:00", 30, None),
        ("2026-06-15T13:00:00+02:00", 30, None),
    ):
        data = changed(dumped(), lambda tree: tree["data"].update(closed_at=written))  # noqa: B023
        assert expected == loaded(data, "account", documents=document(Profile, now=NOW + timedelta(days=days))).name


# Bound to the field, the data subject and the document


def test_a_value_that_was_moved_to_another_field_does_not_open() -> None:
    def swap(tree: dict[str, Any]) -> None:
        data = tree["data"]
        data["email"], data["name"] = data["name"], data["email"]

    with pytest.raises(SealedError, match=r"Profile\.\w+: A sealed value did not open"):
        loaded(changed(dumped(), swap))


def test_a_value_that_was_moved_to_the_same_field_of_another_place_does_not_open() -> None:
    with pytest.raises(SealedError, match=r"Address\.street: A sealed value did not open"):
        loaded(changed(dumped(), lambda tree: tree["data"]["post"].update(street=tree["data"]["work"]["street"])))


def test_what_stands_in_a_list_may_move_in_it() -> None:
    found = loaded(changed(dumped(), lambda tree: tree["data"]["trips"].reverse()), "navigation")
    assert [GeoPoint(1, 2), HOME] == [trip.start for trip in found.trips]


def test_a_value_of_another_document_of_the_data_subject_does_not_open() -> None:
    other = document(Profile, name="profile_v2")
    taken = json.loads(dumped(documents=other))["data"]["email"]
    with pytest.raises(SealedError, match="did not open"):
        loaded(changed(dumped(), lambda tree: tree["data"].update(email=taken)))
    with pytest.raises(SealedError, match="of another kind"):
        loaded(dumped(documents=other))
    with pytest.raises(SealedError, match="did not open"):
        loaded(changed(dumped(documents=other), lambda tree: tree.update(document="Profile")))


def test_a_value_of_another_data_subject_does_not_open() -> None:
    mine, theirs = dumped(), dumped(subject="grace")
    with pytest.raises(SealedError, match="another data subject"):
        loaded(theirs)
    stolen = json.loads(theirs)["data"]["email"]
    with pytest.raises(SealedError, match=r"Profile\.email: A sealed value belongs to another data subject"):
        loaded(changed(mine, lambda tree: tree["data"].update(email=stolen)))
    with pytest.raises(SealedError, match="another data subject"):
        loaded(changed(theirs, lambda tree: tree.update(subject=json.loads(mine)["subject"])))


def test_a_document_without_a_personal_value_is_its_data_subjects_too() -> None:
    dumped()
    plain = document(Before)
    with pytest.raises(SealedError, match="another data subject"):
        loaded(dumped(Before.model_construct(mail=None, at=None), plain, "grace"), documents=plain)


def test_a_sealed_value_of_a_table_opens_in_no_document_and_the_other_way_round() -> None:
    key = POCKET.for_sealing("ada")
    of_table = format_1._as_text(key.value_key("Profile.email").seal(b'"x"'))
    with pytest.raises(SealedError):
        loaded(changed(dumped(), lambda tree: tree["data"].update(email=of_table)))
    envelope = format_1._as_bytes(json.loads(dumped())["data"]["email"])
    with pytest.raises(SealedError):
        key.value_key("Profile.email").open(envelope)


ONE = dumped()


@given(st.data())
def test_no_changed_character_of_a_sealed_value_opens(data: st.DataObject) -> None:
    token = json.loads(ONE)["data"]["email"]
    place = data.draw(st.integers(0, len(token) - 1))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=. +/"
    letter = data.draw(st.sampled_from(alphabet.replace(token[place], "")))
    forged = token[:place] + letter + token[place + 1 :]
    with pytest.raises(SealedError):
        loaded(changed(ONE, lambda tree: tree["data"].update(email=forged)), "account")


@pytest.mark.parametrize("planted", ["planted@x.example", "", 5, True, ["a"], {"a": "b"}, "AA"])
def test_a_plain_value_in_place_of_a_sealed_one_is_not_taken(planted: Any) -> None:
    with pytest.raises(SealedError, match=r"Profile\.email"):
        loaded(changed(dumped(), lambda tree: tree["data"].update(email=planted)))


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"data": {}}', b'{"privkit": 1}'),
        b'{"privkit": 2, "document": "Profile", "data": {}}',
        b'{"privkit": 1, "document": "Profile", "data": []}',
    ],
)
def test_what_is_no_document_is_told_without_showing_it(data: bytes) -> None:
    dumped()
    with pytest.raises(SealedError, match="A stored Profile") as info:
        loaded(data)
    assert (None, None) == (info.value.__context__, info.value.__cause__)


def test_a_document_that_does_not_fit_its_model_is_told_by_its_places_alone() -> None:
    data = changed(dumped(), lambda tree: tree["data"].update(id=EMAIL, trips=[{"ended_at": STREET}]))
    with pytest.raises(InvalidValue, match=r"does not fit Profile: id") as info:
        loaded(data, "account")
    assert [] == [secret for secret in SECRETS if secret in f"{info.value!r}{info.value.data}"]
    assert (None, None) == (info.value.__context__, info.value.__cause__)


def test_no_error_or_text_form_shows_a_value() -> None:
    data = changed(dumped(), lambda tree: tree["data"].update(email=EMAIL))
    with pytest.raises(SealedError) as info:
        loaded(data)
    assert EMAIL not in repr(info.value)
    assert EMAIL not in repr(loaded(dumped(), "account"))


# Renaming


@events(account_closed="at")
class Before(PersonalModel):
    at: Annotated[datetime | None, NotPersonal("event time")] = None
    mail: Annotated[str | None, Personal("user.contact.email", purposes={"account"})] = None


@events(account_closed="at")
class After(PersonalModel):
    at: Annotated[datetime | None, NotPersonal("event time")] = None
    email: Annotated[
        str | None,
        Field(validation_alias=AliasChoices("email", "mail")),
        Personal("user.contact.email", purposes={"account"}, formerly="Before.mail"),
    ] = None


def test_a_renamed_model_and_field_still_read_what_was_stored() -> None:
    old = dumped(Before.model_construct(mail=EMAIL, at=None), document(Before, "rider"))
    renamed = document(After, "rider")
    assert EMAIL == loaded(old, "account", documents=renamed).email
    assert EMAIL == loaded(dumped(After.model_construct(email=EMAIL, at=None), renamed), documents=renamed).email


# What no document may be made of


class Undecided(PersonalModel):
    note: str = ""


class UndecidedKeys(PersonalModel):
    by_name: dict[str, Address] = {}


class UndecidedBeside(PersonalModel):
    either: Address | str = ""


class Outside(BaseModel):
    street: Annotated[str, Personal("user.contact.address", purposes={"account"})] = ""


class Ungated(PersonalModel):
    one: Annotated[list[Outside], NotPersonal("a mistake")] = []


class Between(BaseModel):
    post: Address = Address()


class HoldsBetween(PersonalModel):
    between: Between = Between()


class Open(PersonalModel):
    model_config = ConfigDict(extra="allow")


class Ambiguous(PersonalModel):
    pays_by: list[Card | Cash] = []


class WritesItself(PersonalModel):
    @model_serializer
    def write(self) -> dict[str, Any]:
        return {}


@events(account_closed="gone")
class NoEvent(PersonalModel):
    id: Annotated[int, NotPersonal("row id")] = 0


@pytest.mark.parametrize(
    ("cls", "what"),
    [
        (Undecided, r"Undecided\.note has no decision"),
        (UndecidedKeys, r"UndecidedKeys\.by_name has no decision"),
        (UndecidedBeside, r"UndecidedBeside\.either has no decision"),
        (Ungated, r"Ungated\.one holds a Outside, which is no PersonalModel"),
        (HoldsBetween, r"HoldsBetween\.between holds a Between"),
        (Open, 'extra="allow"'),
        (Ambiguous, r"Ambiguous\.pays_by is a union of several models without a discriminator"),
        (WritesItself, "model_serializer"),
        (NoEvent, "account_closed"),
    ],
)
def test_what_could_be_stored_plain_is_refused_when_the_document_is_declared(cls: Any, what: str) -> None:
    with pytest.raises(MappingError, match=what):
        document(cls)


def test_the_policy_has_to_know_every_name_and_every_event_has_to_be_mapped() -> None:
    class Unknown(PersonalModel):
        email: Annotated[str, Personal("user.contact.email", purposes={"acount"})]

    class Uncounted(PersonalModel):
        post: Address = Address()

    with pytest.raises(PolicyError, match="acount"):
        document(Unknown)
    with pytest.raises(PolicyError, match=r"maps no event 'account_closed'"):
        document(Uncounted)


# What would not come back


@events(account_closed="at")
class Odd(PersonalModel):
    at: Annotated[datetime | None, NotPersonal("event time")] = None
    either: Annotated[date | str, Personal("user.name", purposes={"account"})] = ""
    gone: Annotated[str, Personal("user.name", purposes={"account"}), Field(exclude=True)] = ""
    posts: list[Address] = []
    cased: Annotated[str, NotPersonal("for the test"), Field(serialization_alias="Cased")] = ""


class Special(Address):
    pass


@pytest.mark.parametrize(
    "fields",
    [
        {"either": BORN},
        {"gone": NAME},
        {"posts": [{"street": STREET}]},
        {"posts": [{"unknown": STREET}]},
        {"posts": [Special.model_construct(street=STREET, country="GB")]},
        {"cased": "x"},
        {"at": "2026-13-01"},
    ],
)
def test_what_would_not_come_back_is_not_stored(fields: dict[str, Any]) -> None:
    defaults = {"at": None, "either": "", "gone": "", "posts": [], "cased": ""}
    odd = Odd.model_construct(**defaults | fields)
    with pytest.raises(PrivkitError) as info:
        dumped(odd, document(Odd))
    assert [] == [secret for secret in SECRETS if secret in f"{info.value!r}{info.value.data}"]


def test_another_model_is_not_stored_as_this_one() -> None:
    with pytest.raises(InvalidValue, match="A document of Profile was given a Address"):
        dumped(Address())


# Code of the developer's own


@events(account_closed="at")
class Leaky(PersonalModel):
    at: Annotated[datetime | None, NotPersonal("event time")] = None
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})] = ""
    label: Annotated[str, NotPersonal("for the test")] = "x"

    @cached_property
    def cached(self) -> str:
        return self.email

    @field_serializer("label")
    def tell(self, value: str) -> str:
        return f"{value} {self.email} {vars(self).get('cached')}"

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return {**super().model_dump(**options), "copy": self.email}


def test_no_code_beside_a_field_can_read_its_personal_value(monkeypatch: pytest.MonkeyPatch) -> None:
    leaky = Leaky.model_construct(at=None, email=EMAIL, label="x")
    assert EMAIL == leaky.cached
    with pytest.raises(InvalidValue, match="does not come back"):
        dumped(leaky, document(Leaky))
    monkeypatch.setattr(Document, "_require_same", lambda *given: None)
    data = dumped(leaky, document(Leaky))
    assert ("x ... None", {"at", "email", "label"}) == (
        json.loads(data)["data"]["label"],
        json.loads(data)["data"].keys(),
    )


@events(account_closed="at")
class Custom(PersonalModel):
    at: Annotated[datetime | None, NotPersonal("event time")] = None
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})] = ""

    @field_serializer("email")
    def reverse(self, value: str) -> str:
        return value[::-1]

    @field_validator("email", mode="before")
    @classmethod
    def turn(cls, value: str) -> str:
        return value[::-1]

    @model_validator(mode="before")
    @classmethod
    def seen(cls, data: Any) -> Any:
        return dict(data)

    @computed_field
    def greeting(self) -> str:
        return f"Dear {self.email}"


def test_a_fields_own_serializer_and_validators_run_on_the_value_itself() -> None:
    documents = document(Custom)
    data = dumped(Custom.model_construct(at=None, email=EMAIL), documents)
    assert "greeting" not in json.loads(data)["data"]
    assert EMAIL == loaded(data, "account", documents=documents).email


@events(account_closed="at")
class Failing(PersonalModel):
    at: Annotated[datetime | None, NotPersonal("event time")] = None
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})] = ""
    name: Annotated[str, Personal("user.name", purposes={"account"})] = ""

    @field_serializer("name")
    def fail(self, value: str) -> str:
        raise ValueError(f"bad {value} {self.email}")


def test_a_failing_serializer_tells_no_value_and_leaves_no_dump_open() -> None:
    with pytest.raises(InvalidValue, match="could not be serialised") as info:
        dumped(Failing.model_construct(at=None, email=EMAIL, name=NAME), document(Failing))
    assert [] == [secret for secret in SECRETS if secret in str(info.value)]
    assert sealing.get() is None
    with purpose("account"):
        assert {"email": EMAIL} == Failing.model_construct(email=EMAIL).model_dump(include={"email"})


# Every shape


class Colour(Enum):
    RED = "red"


class Seats(RootModel[list[Address]]):
    pass


@events(account_closed="at", trip_ended="at")
class Shapes(PersonalModel):
    model_config = ConfigDict(strict=True)
    at: Annotated[datetime | None, NotPersonal("event time")] = None
    text: Annotated[str, Personal("user.name", purposes={"account"}), Field(alias="the text")] = ""
    number: Annotated[int | None, Personal("user.name", purposes={"account"})] = None
    exact: Annotated[Decimal, Personal("user.name", purposes={"account"})] = Decimal(0)
    token: Annotated[UUID | None, NotPersonal("for the test")] = None
    when: list[Annotated[datetime, Personal("user.name", purposes={"account"})]] = []
    several: Annotated[set[date], Personal("user.name", purposes={"account"})] = set()
    pair: Annotated[tuple[int, str] | None, Personal("user.name", purposes={"account"})] = None
    colour: Annotated[Colour | None, Personal("user.name", purposes={"account"})] = None
    either: Annotated[int | str, Personal("user.name", purposes={"account"})] = 0
    anything: Annotated[dict[str, Any], NotPersonal("settings")] = {}
    choices: Annotated[dict[str, Any], Personal("user.preferences", purposes={"account"})] = {}
    marked: Annotated[Address | None, Personal("user.contact.address", purposes={"account"})] = None
    by_seat: Annotated[dict[str, list[Address]], NotPersonal("keys are seats")] = {}
    seats: Seats = Seats([])
    pair_of: tuple[Address, Address] | None = None
    inner: "Shapes | None" = None
    pays_by: list[Annotated[Card | Cash, Field(discriminator="kind")]] = []


SHAPES: Document[Shapes] = document(Shapes)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ADDRESSES = st.builds(Address.model_construct, street=TEXT, country=TEXT)
FLAT: dict[str, st.SearchStrategy[Any]] = {
    "at": st.none() | st.datetimes(timezones=st.just(UTC)),
    "text": TEXT,
    "number": st.none() | st.integers(),
    "exact": st.decimals(allow_nan=False, allow_infinity=False),
    "token": st.none() | st.uuids(),
    "when": st.lists(st.datetimes(timezones=st.just(UTC)), max_size=3),
    "several": st.sets(st.dates(), max_size=3),
    "pair": st.none() | st.tuples(st.integers(), TEXT),
    "colour": st.none() | st.just(Colour.RED),
    "either": st.integers() | TEXT,
    "anything": st.dictionaries(TEXT, st.integers() | TEXT | st.dictionaries(TEXT, TEXT, max_size=2), max_size=2),
    "choices": st.dictionaries(TEXT, st.dictionaries(TEXT, TEXT, max_size=2), max_size=2),
    "marked": st.none() | ADDRESSES,
    "by_seat": st.dictionaries(TEXT, st.lists(ADDRESSES, max_size=2), max_size=2),
    "seats": st.lists(ADDRESSES, max_size=2).map(Seats.model_construct),
    "pair_of": st.none() | st.tuples(ADDRESSES, ADDRESSES),
    "pays_by": st.lists(
        st.builds(Card.model_construct, kind=st.just("card"), owner=st.none() | TEXT)
        | st.builds(Cash.model_construct, kind=st.just("cash"), owner=st.none() | TEXT),
        max_size=3,
    ),
}


def shapes(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Shapes]:
    return st.builds(Shapes.model_construct, inner=inner, **FLAT)


@given(shapes(st.none() | shapes(st.none())))
def test_whatever_shape_a_model_has_it_comes_back(instance: Shapes) -> None:
    with purposes.internally():  # a moment of the past would have expired
        data = SHAPES.dumps(instance, subject="ada")
        back = SHAPES.loads(data, subject="ada")
    assert instance == back
    inner = [*back.anything.values(), *back.choices.values()]
    assert {dict} >= {type(each) for each in inner if isinstance(each, dict)}


@given(shapes(shapes(st.none())))
def test_no_shape_stores_or_hands_out_what_is_not_needed(instance: Shapes) -> None:
    with purposes.internally():
        data = SHAPES.dumps(instance, subject="ada")
    found = loaded(data, "navigation", documents=SHAPES)
    for each in (found, found.inner):
        assert ("", None, Decimal(0), [], set(), None, None, 0, None) == (
            *(each.text, each.number, each.exact, each.when, each.several),
            *(each.pair, each.colour, each.either, each.marked),
        )
        streets = [
            *(address.street for address in each.seats.root),
            *(address.street for address in each.pair_of or ()),
        ]
        assert {""} >= {*streets, *(address.street for many in each.by_seat.values() for address in many)}
        assert {None} >= {payment.owner for payment in each.pays_by}
        assert [type(payment) for payment in each.pays_by] == [
            {"card": Card, "cash": Cash}[payment.kind] for payment in each.pays_by
        ]


# Known answers


VECTORS = json.loads((ROOT / "tests" / "vectors" / "document_v1.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_known_answers_of_version_1(vector: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    POCKET.keys["vector"] = SubjectKey(bytes.fromhex(vector["secret"]))
    expected = json.dumps(vector["document"], ensure_ascii=False, separators=(",", ":")).encode()
    documents = document({"Before": Before, "Profile": Profile}[vector["model"]], vector["document"]["document"])
    with purposes.internally():
        instance = documents._model.model_validate(vector["value"])
        assert instance == documents.loads(expected, subject="vector")
        nonces = iter(bytes.fromhex(each) for each in vector["nonces"])
        monkeypatch.setattr(aead, "urandom", lambda size: next(nonces))
        assert expected == documents.dumps(instance, subject="vector")


@pytest.mark.parametrize("size", [66, 67, 68])
def test_the_text_of_an_envelope_has_one_spelling(size: int) -> None:
    envelope = b"\x01" * size
    text = format_1._as_text(envelope)
    assert (envelope, urlsafe_b64encode(envelope).decode().rstrip("=")) == (format_1._as_bytes(text), text)
    others = [text + "=" * (-len(text) % 4 or 4), f"{text[:8]}.{text[8:]}", text + "\n"]
    others += [text[:-1] + "R"] if size % 3 else []
    for other in others:
        with pytest.raises(SealedError, match="not sealed"):
            format_1._as_bytes(other)


@events(account_closed="at")
class Tree(PersonalModel):
    email: Annotated[str | None, Personal("user.contact.email", purposes={"account"})] = None
    at: Annotated[date | datetime | None, NotPersonal("event time")] = None
    children: "list[Tree]" = []


def with_fields(stored: bytes, **fields: Any) -> str:
    found = json.loads(stored)
    return json.dumps({**found, "data": {**found["data"], **fields}})


def test_a_document_nested_too_deep_is_refused_as_one_that_does_not_fit() -> None:
    trees = document(Tree)
    with purpose("account"):
        stored = trees.dumps(Tree(email=EMAIL), subject="deep")
        for opening, closing in (("[", "]"), ('[{"children":', "}]")):
            for key in ("children", "unknown", "email"):
                deep = with_fields(stored, **{key: "HERE"}).replace('"HERE"', opening * 700 + "[]" + closing * 700)
                with pytest.raises((InvalidValue, SealedError), match=r"does not fit Tree|no document"):
                    trees.loads(deep, subject="deep")


def test_the_last_day_of_the_calendar_is_a_time_that_has_not_come() -> None:
    trees = document(Tree)
    with purpose("account"):
        stored = trees.dumps(Tree(email=EMAIL, at=date.max), subject="late")
        assert EMAIL == trees.loads(stored, subject="late").email


@pytest.mark.parametrize("written", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:00", 5, [], {}, True])
def test_a_time_of_an_event_that_is_none_is_refused(written: Any) -> None:
    trees = document(Tree)
    with purpose("account"):
        stored = trees.dumps(Tree(email=EMAIL), subject="times")
        with pytest.raises(InvalidValue, match="does not fit Tree"):
            trees.loads(with_fields(stored, at=written), subject="times")

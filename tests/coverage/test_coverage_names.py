"""Names are split into words and matched whole, in the company they keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.coverage.names import SURE, Context, context_of, singular, suggest, tokens
from privkit.coverage.words import WORDS

ORDINARY = [
    "company_name",
    "file_name",
    "zip_file",
    "shipping_method",
    "tooltip",
    "recipe",
    "description",
    "platform_id",
    "latency_ms",
    "incident_count",
    "email_sent_at",
    "is_email_verified",
    "longitude_unit",
    "acid_level",
]
GENERIC = ["country_code", "academic_year_code", "memory_address", "contract_address", "call_count", "code"]
SHORT = {
    "fname": "user.name",
    "lname": "user.name",
    "fl_nm": "user.name",
    "dob": "user.demographic.date_of_birth",
    "bday": "user.demographic.date_of_birth",
    "ssn4": "user.government_id.national_identification_number",
    "gps": "user.location.precise",
    "lat_e7": "user.location.precise",
    "geohash": "user.location.precise",
    "plz": "user.contact.address.postal_code",
    "vorname": "user.name",
    "teléfono": "user.contact.phone_number",
    "lon": "user.location.precise",
}


@pytest.mark.parametrize("context", Context)
@pytest.mark.parametrize("name", ORDINARY)
def test_f01_an_ordinary_column_is_not_suspected_anywhere(name: str, context: Context) -> None:
    assert suggest(name, context) is None


@pytest.mark.parametrize("context", Context)
@pytest.mark.parametrize("name", GENERIC)
def test_f02_a_generic_word_raises_no_alarm(name: str, context: Context) -> None:
    assert suggest(name, context) is None


def test_f02_a_display_name_counts_where_the_table_is_about_persons() -> None:
    found = suggest("display_name", context_of("riders", data_subject=True))
    assert found is not None
    assert ("user.name", True) == (found.category, found.confidence >= SURE)
    assert suggest("display_name", context_of("products")) is None


def test_f02_a_generic_word_in_a_table_of_data_subjects_is_a_question() -> None:
    found = suggest("name", context_of("trips", linked=True))
    assert found is not None
    assert 0 < found.confidence < SURE


@pytest.mark.parametrize(("name", "category"), SHORT.items())
def test_f04_a_short_or_foreign_name_is_recognised_without_any_context(name: str, category: str) -> None:
    found = suggest(name)
    assert found is not None
    assert (category, True) == (found.category, found.confidence >= SURE)


@pytest.mark.parametrize(
    ("name", "category"),
    [
        ("lastLoginIP", "user.device.ip_address"),
        ("emailAddress", "user.contact.email"),
        ("TELÉFONO", "user.contact.phone_number"),
        ("Straße", "user.contact.address.street"),
        ("user_national_id", "user.government_id.national_identification_number"),
        ("address_line_1", "user.contact.address.street"),
        ("guardian_name", "user.name"),
    ],
)
def test_case_accents_and_neighbours_do_not_hide_a_word(name: str, category: str) -> None:
    found = suggest(name)
    assert found is not None
    assert category == found.category


def test_the_reason_names_the_word_and_the_company() -> None:
    found = suggest("home_address_text")
    assert found is not None
    assert "the word 'home address'" == found.reason
    beside = suggest("name", Context.PERSON)
    assert beside is not None
    assert "the word 'name', and its table is about persons" == beside.reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("last_loginIP", ("last", "login", "ip")),
        ("HTTPServerName", ("http", "server", "name")),
        ("lat_e7", ("lat", "e", "7")),
        ("", ()),
    ],
)
def test_a_name_is_split_at_underscores_capitals_and_digits(name: str, expected: tuple[str, ...]) -> None:
    assert expected == tokens(name)


@pytest.mark.parametrize(
    ("table", "expected"),
    [("people", "person"), ("companies", "company"), ("riders", "rider"), ("class", "class"), ("bus", "bu")],
)
def test_a_plural_becomes_singular_well_enough_to_compare(table: str, expected: str) -> None:
    assert expected == singular(table)


@pytest.mark.parametrize("table", ["users", "app_users", "CustomerProfile", "people", "drivers", "Kunde"])
def test_a_table_of_persons_is_recognised_by_its_name(table: str) -> None:
    assert Context.PERSON is context_of(table)


@given(st.text(), st.sampled_from(Context))
def test_any_text_is_a_name_that_can_be_asked_about(name: str, context: Context) -> None:
    found = suggest(name, context)
    assert found is None or 0 < found.confidence <= 1


@given(st.sampled_from(sorted(phrase for phrase, (_, _, company) in WORDS.items() if not company)))
def test_every_word_of_the_table_is_found_as_it_stands(phrase: tuple[str, ...]) -> None:
    assert suggest("_".join(phrase), Context.PERSON) is not None


@given(st.sampled_from(sorted(WORDS)))
def test_every_word_of_the_table_is_split_as_names_are(phrase: tuple[str, ...]) -> None:
    assert phrase == tokens("_".join(phrase))

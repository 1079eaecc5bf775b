"""Index hashes: one normaliser on both sides, so a value is found however it is written."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privkit.crypto.codec import codec_for
from privkit.crypto.master import MasterKeyring
from privkit.crypto.providers import FileKeyring
from privkit.crypto.providers.storage import KeyringFile
from privkit.crypto.search import (
    INDEX_SIZE,
    NORMALISER_VERSION,
    NORMALISERS,
    PREFIX_SIZE,
    index_hash,
    key_name,
    prefix,
)
from privkit.errors import InvalidValue, KeyringError, MappingError

KEY = bytes(range(32))


def email_hash(value: str) -> bytes:
    return index_hash(KEY, "riders.email", "email", value)


def test_a_hash_is_version_key_number_and_a_truncated_hmac_of_field_normaliser_and_value() -> None:
    parts = (b"riders.email", b"email", b"ana@rides.example")
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    digest = hmac.new(KEY, message, hashlib.sha256).digest()[:14]

    assert bytes((NORMALISER_VERSION, 1)) + digest == email_hash(" Ana@Rides.example ")
    assert bytes((NORMALISER_VERSION, 7)) + digest == index_hash(KEY, "riders.email", "email", "ana@rides.example", 7)
    assert prefix(7) == index_hash(KEY, "riders.email", "email", "ana@rides.example", 7)[:PREFIX_SIZE]
    assert INDEX_SIZE == len(email_hash(""))


def test_each_index_key_has_a_secret_of_its_own_and_the_first_keeps_its_name(tmp_path: Path) -> None:
    keyring = FileKeyring.create(tmp_path / "keys.json")

    assert ["index", "index:2", "index:255"] == [key_name(number) for number in (1, 2, 255)]
    assert 3 == len({keyring.secret(key_name(number)) for number in (1, 2, 255)})


def test_a_derived_secret_is_forgotten_with_the_keyring_it_was_derived_from(tmp_path: Path) -> None:
    path, moments = tmp_path / "keys.json", iter(range(100))
    FileKeyring.create(path)
    keyring = MasterKeyring(KeyringFile(path), monotonic=lambda: next(moments) * 10.0)
    first = keyring.secret("index")

    path.unlink()
    with pytest.raises(KeyringError):
        keyring.secret("index")
    FileKeyring.create(path)

    assert first != keyring.secret("index")


def test_a10_a_value_is_found_by_its_upper_case_padded_and_decomposed_spellings() -> None:
    assert email_hash("test@example.com") == email_hash("TEST@EXAMPLE.COM ")
    assert email_hash("ren\u00e9@example.com") == email_hash("Rene\u0301@example.com")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße@x", "STRASSE@X"),
        ("İ@x", "I\u0307@x"),
        ("\u00e9@x", "e\u0301@x"),
        ("\u00c9@x", "e\u0301@x"),
        ("ana@x", "ana@x\u00a0"),
        ("ana@x", "\u2007\u202fana@x\u3000"),
        ("ana@bücher.example", "ANA@XN--BCHER-KVA.EXAMPLE"),
        ("ana@straße.example", "ana@xn--strae-oqa.example"),
        ("ana@BÜCHER.example", "ana@bu\u0308cher.example"),
        ("ana@bücher.example", "ana@bücher。example"),
    ],
)
def test_a11_two_spellings_of_one_address_hash_alike(one: str, other: str) -> None:
    assert email_hash(one) == email_hash(other)


@pytest.mark.parametrize("name", NORMALISERS)
@given(
    text=st.text() | st.text(alphabet="İßςΣ¨\u0345\u0301\u00a0@.xn-+0\u0661") | st.from_regex(r"a@xn--[a-z0-9-]+\.x")
)
@example(text="@ \u00a1")
@example(text="\u00a8a")
def test_a11_normalising_twice_is_normalising_once(name: str, text: str) -> None:
    once = NORMALISERS[name](text)

    assert once == NORMALISERS[name](once)


@given(st.text(max_size=20))
def test_a11_composition_and_case_never_matter_to_the_caseless_normaliser(text: str) -> None:
    expected = index_hash(KEY, "riders.name", "case", text)

    for form in ("NFC", "NFD"):
        assert expected == index_hash(KEY, "riders.name", "case", unicodedata.normalize(form, text))


@pytest.mark.parametrize(
    "address", ["", "@", "ana", "ana@", "@x", "a@b@x", "ana@.x", "ana@x.", "ana@" + "x" * 80, "\ud800@\ud800"]
)
def test_an_address_without_a_usable_domain_still_has_a_hash(address: str) -> None:
    assert 16 == len(email_hash(address))


@pytest.mark.parametrize(
    "label", ["xn--", "xn--foo-", "xn--xn--foo-", "xn--" + "9" * 59, "xn--99999999999", "xn--" + "z" * 5000]
)
def test_a_domain_that_only_looks_like_punycode_keeps_its_spelling(label: str) -> None:
    assert f"ana@{label}.example" == NORMALISERS["email"](f"ana@{label}.example")


def test_different_addresses_hash_differently() -> None:
    different = ["ana@x", "ana@y", "anb@x", "a.na@x", "ana+1@x", "ana", "", "ana@xn--x"]

    assert len(different) == len({email_hash(address) for address in different})


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("exact", " Ana ", " Ana "),
        ("case", "\u00a0ANA\u2003", "ana"),
        ("digits", "12-34 \u0665\uff16x²", "123456"),
        ("digits", "", ""),
        ("phone", "+48 (22) 555-01-02", "+48225550102"),
        ("phone", "0048 22 5550102", "+48225550102"),
        ("phone", "(+48) 22 5550102", "+48225550102"),
        ("phone", "\uff0b48 22 5550102", "+48225550102"),
        ("phone", "022 5550102", "0225550102"),
        ("phone", "5550102+7", "55501027"),
        ("phone", "", ""),
    ],
)
def test_each_normaliser_keeps_what_it_says(name: str, text: str, expected: str) -> None:
    assert expected == NORMALISERS[name](text)


def test_key_field_and_normaliser_each_change_the_hash() -> None:
    hashes = {
        index_hash(KEY, "riders.email", "exact", "ana"),
        index_hash(KEY[::-1], "riders.email", "exact", "ana"),
        index_hash(KEY, "riders.name", "exact", "ana"),
        index_hash(KEY, "riders.email", "case", "ana"),
        index_hash(KEY, "riders.emai", "exact", "lana"),
    }

    assert 5 == len(hashes)


@pytest.mark.parametrize("value", [7, -1, 10**40, True, 1.5, b"\0\1", Decimal("1.5"), datetime(2026, 1, 1), ["json"]])
def test_a_value_that_is_not_text_is_hashed_by_its_codec(value: Any) -> None:
    encoded = codec_for(type(value)).encode(value)

    assert index_hash(KEY, "riders.field", "exact", encoded) == index_hash(KEY, "riders.field", "exact", value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Decimal("2.0"), Decimal("2.00")),
        (Decimal("-0"), Decimal("0.0")),
        (Decimal("100"), Decimal("1E+2")),
        (0.0, -0.0),
        (datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 14, tzinfo=timezone(timedelta(hours=2)))),
    ],
)
def test_values_that_compare_equal_hash_alike(one: Any, other: Any) -> None:
    assert one == other
    assert index_hash(KEY, "riders.field", "exact", one) == index_hash(KEY, "riders.field", "exact", other)


def test_a_decimal_of_any_size_is_hashed_without_rounding() -> None:
    long = Decimal("1." + "3" * 100)

    assert index_hash(KEY, "f", "exact", long) != index_hash(KEY, "f", "exact", long + Decimal("1E-27"))
    assert 16 == len(index_hash(KEY, "f", "exact", Decimal("1E+99999999")))
    assert 16 == len(index_hash(KEY, "f", "exact", Decimal("NaN")))


def test_only_the_exact_normaliser_takes_what_is_not_text() -> None:
    with pytest.raises(InvalidValue, match="takes text, not int"):
        index_hash(KEY, "riders.phone", "phone", 48225550102)


def test_an_unknown_normaliser_or_type_is_refused() -> None:
    with pytest.raises(MappingError, match="exact, case, email, digits, phone"):
        index_hash(KEY, "riders.phone", "telephone", "1")
    with pytest.raises(MappingError):
        index_hash(KEY, "riders.field", "exact", object())


def test_a_short_key_is_refused() -> None:
    with pytest.raises(KeyringError):
        index_hash(b"", "riders.email", "email", "ana@x")

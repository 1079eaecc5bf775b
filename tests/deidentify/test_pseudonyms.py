import hashlib
import re
from base64 import b32decode, b32encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.deidentify import token
from privkit.deidentify.pseudonyms import normalised
from privkit.errors import InvalidValue, KeyringError

KEY = bytes(range(32))
texts = st.text(st.characters())


def test_a_token_is_hmac_sha256_over_length_prefixed_parts() -> None:
    message = (4).to_bytes(8, "big") + b"name" + (3).to_bytes(8, "big") + b"ada"
    padded = KEY + bytes(32)
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()
    assert outer[:15] == b32decode(token(KEY, "name", "Ada").upper())


@given(texts)
def test_a_token_is_24_safe_characters_whatever_the_length(value: str) -> None:
    assert re.fullmatch("[a-z2-7]{24}", token(KEY, "name", value))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ada@Example.org", "ada@example.ORG"),
        ("  ada ", "ada"),
        ("Zo\u00eb", "Zoe\u0308"),
        ("\ufb01nn", "Finn"),
        ("STRASSE", "stra\u00dfe"),
        ("\u0130", "i\u0307"),
        ("\uff11\uff12", "12"),
    ],
)
def test_c08_two_spellings_of_one_value_join(one: str, other: str) -> None:
    assert token(KEY, "email", one) == token(KEY, "email", other)


def test_c08_two_domains_do_not_join() -> None:
    assert token(KEY, "email", "ada") != token(KEY, "name", "ada")
    assert token(KEY, "ab", "c") != token(KEY, "a", "bc")


def test_c33_a_token_depends_on_key_domain_and_value_alone() -> None:
    forward = [token(KEY, "name", str(row)) for row in range(100)]
    backward = [token(KEY, "name", str(row)) for row in reversed(range(100))]
    assert forward == backward[::-1]
    assert 100 == len(set(forward))


def test_c05_without_the_key_no_guess_can_be_tested() -> None:
    found = token(KEY, "phone", "5551234567")
    plain = [b"5551234567", b"phone5551234567", b"\0\0\0\0\0\0\0\x05phone\0\0\0\0\0\0\0\x0a5551234567"]
    guesses = {b32encode(hashlib.sha256(text).digest()[:15]).decode().lower() for text in plain}
    assert found not in guesses | {token(bytes(32), "phone", "5551234567")}


@pytest.mark.parametrize("key", [b"", bytes(15), None, "k" * 32])
def test_c05_a_missing_or_short_key_is_an_error(key: Any) -> None:
    with pytest.raises(KeyringError):
        token(key, "name", "ada")


@pytest.mark.parametrize("value", [None, 7, b"ada", ["ada"]])
def test_c11_what_is_not_text_gets_no_token(value: Any) -> None:
    with pytest.raises(InvalidValue):
        token(KEY, "name", value)


@pytest.mark.parametrize("domain", ["", None])
def test_a_domain_has_a_name(domain: Any) -> None:
    with pytest.raises(InvalidValue):
        token(KEY, domain, "ada")


def test_c11_the_empty_string_is_a_value() -> None:
    assert token(KEY, "name", "") == token(KEY, "name", "   ")
    assert token(KEY, "name", "") != token(KEY, "name", "0")


def test_broken_unicode_gets_a_token_and_no_error_that_would_carry_it() -> None:
    assert token(KEY, "name", "a\ud800") != token(KEY, "name", "a")


@given(texts)
def test_normalising_twice_is_normalising_once(value: str) -> None:
    assert normalised(value) == normalised(normalised(value))

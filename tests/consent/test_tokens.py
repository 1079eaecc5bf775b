"""A guardian's token holds under one key, for what it was made for, and not a byte of it can change."""

from __future__ import annotations

import string
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.consent import tokens
from privkit.consent.tokens import ANSWER, WITHDRAWAL
from privkit.errors import TokenRefused

ALPHABET = string.ascii_letters + string.digits + "-_"
secrets = st.binary(min_size=32, max_size=32)
ids = st.binary(min_size=16, max_size=16)
kinds = st.sampled_from([ANSWER, WITHDRAWAL])
instants = st.none() | st.datetimes(
    min_value=datetime(1970, 1, 1, 0, 0, 0, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)
)
bounds = st.lists(st.binary(max_size=20), max_size=4)


def holds(text: object, secret: bytes, *bound: bytes) -> bool:
    try:
        tokens.parse(text, ANSWER, WITHDRAWAL).verify(secret, *bound)
    except TokenRefused as refusal:
        return refusal.data["reason"] != "unknown"
    return True


@given(secrets, kinds, ids, instants, bounds)
def test_a_token_gives_back_what_it_was_made_of(
    secret: bytes, kind: bytes, request: bytes, expires: datetime | None, bound: list[bytes]
) -> None:
    text = tokens.write(secret, kind, request, expires, *bound)
    found = tokens.parse(text, kind)
    found.verify(secret, *bound)
    assert (kind, request, expires) == (found.kind, found.id, found.expires)
    assert 76 == len(text)
    assert set(ALPHABET) >= set(text)


@given(secrets, kinds, ids, instants, bounds, st.data())
def test_a_changed_byte_is_refused(
    secret: bytes, kind: bytes, request: bytes, expires: datetime | None, bound: list[bytes], data: st.DataObject
) -> None:
    text = tokens.write(secret, kind, request, expires, *bound)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(max_codepoint=0x2FF).filter(lambda each: each != text[place]))
    assert holds(text, secret, *bound)
    assert not holds(text[:place] + other + text[place + 1 :], secret, *bound)


@given(secrets, ids, st.integers(0, 75), st.sampled_from(["", "=", "\n", " ", "A", "+", "\0"]))
def test_a_token_that_is_cut_off_or_longer_is_refused(secret: bytes, request: bytes, end: int, more: str) -> None:
    text = tokens.write(secret, WITHDRAWAL, request, None)
    assert not holds(text[:end] + more, secret)
    assert more == "" or not holds(text + more, secret)
    assert more == "" or not holds(text[:end] + more + text[end:], secret)


@given(secrets, secrets, ids, bounds, bounds)
def test_another_key_or_another_request_is_refused(
    secret: bytes, other: bytes, request: bytes, bound: list[bytes], others: list[bytes]
) -> None:
    text = tokens.write(secret, ANSWER, request, None, *bound)
    assert (secret == other) == holds(text, other, *bound)
    assert (bound == others) == holds(text, secret, *others)


def test_one_kind_is_not_taken_for_the_other() -> None:
    secret, text = bytes(32), tokens.write(bytes(32), WITHDRAWAL, bytes(16), None)
    with pytest.raises(TokenRefused):
        tokens.parse(text, ANSWER)
    raw = urlsafe_b64decode(text)
    assert WITHDRAWAL == raw[:1]
    assert text != tokens.write(secret, ANSWER, bytes(16), None)


@pytest.mark.parametrize("text", ["", None, b"x" * 76, 7, "A" * 76, "é" * 76, "____" * 19, "f47ac10b-58cc-4372"])
def test_what_is_no_token_is_refused(text: object) -> None:
    assert not holds(text, bytes(32))


def test_a_token_says_when_it_ends_to_the_microsecond_and_its_repr_shows_nothing() -> None:
    when = datetime(2026, 1, 8, 12, tzinfo=UTC) + timedelta(microseconds=1)
    text = tokens.write(bytes(32), ANSWER, b"\x07" * 16, when)
    found = tokens.parse(text, ANSWER)
    assert when == found.expires
    assert "x07" not in repr(found)
    assert text not in repr(found)

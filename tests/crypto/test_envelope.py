"""Envelope v1: what is sealed opens for its own field, data subject and epoch, and for nothing else.

The reference construction here is written from the specification with other primitives (HKDF by hand from
``hmac``), so that an error in the library's own derivation cannot agree with itself.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from privkit.crypto import envelope
from privkit.crypto.aead import Aead, nonces
from privkit.crypto.keys import SubjectKey
from privkit.errors import InvalidValue, KeyringError, SealedError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "envelope_v1.json").read_text())
SECRET = bytes(range(32))
EPOCH_SECRET = bytes(range(32, 64))


def reference_key_id(secret: bytes) -> bytes:
    return hashlib.sha256(b"privkit subject key v1\x00" + secret).digest()[:16]


def reference_value_secret(secret: bytes, field_id: str, epoch_secret: bytes) -> bytes:
    extracted = hmac.digest(epoch_secret or bytes(32), secret, "sha256")
    return hmac.digest(extracted, b"privkit value v1\x00" + field_id.encode() + b"\x01", "sha256")


def reference_associated(key_id: bytes, field_id: str, epoch: int) -> bytes:
    parts = (b"\x01", b"\x01", field_id.encode(), key_id, epoch.to_bytes(4, "big"))
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def reference_envelope(vector: dict[str, Any]) -> bytes:
    secret, epoch_secret, nonce, plaintext = (
        bytes.fromhex(vector[name]) for name in ("secret", "epoch_secret", "nonce", "plaintext")
    )
    key_id = reference_key_id(secret)
    cipher = AESGCM(reference_value_secret(secret, vector["field_id"], epoch_secret))
    sealed = cipher.encrypt(nonce, plaintext, reference_associated(key_id, vector["field_id"], vector["epoch"]))
    return b"\x01\x01" + key_id + vector["epoch"].to_bytes(4, "big") + nonce + sealed


def value_key(vector: dict[str, Any]) -> envelope.ValueKey:
    key = SubjectKey(bytes.fromhex(vector["secret"]))
    return key.value_key(vector["field_id"], vector["epoch"], bytes.fromhex(vector["epoch_secret"]))


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_known_envelope_is_what_the_reference_makes_and_opens_to_its_plaintext(vector: dict[str, Any]) -> None:
    stored = bytes.fromhex(vector["envelope"])

    assert stored == reference_envelope(vector)
    assert bytes.fromhex(vector["plaintext"]) == value_key(vector).open(stored)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_what_the_library_seals_is_what_the_reference_makes_with_the_same_nonce(vector: dict[str, Any]) -> None:
    sealed = value_key(vector).seal(bytes.fromhex(vector["plaintext"]))

    assert sealed == reference_envelope({**vector, "nonce": sealed[22:34].hex()})


@given(st.binary(max_size=300), st.text(), st.integers(1, 2**32 - 1))
def test_what_is_sealed_opens_and_is_longer_by_the_overhead(plaintext: bytes, field_id: str, epoch: int) -> None:
    key = SubjectKey(SECRET).value_key(field_id, epoch, EPOCH_SECRET)

    sealed = key.seal(plaintext)

    assert plaintext == key.open(sealed)
    assert len(plaintext) + envelope.OVERHEAD == len(sealed)
    assert envelope.Header(reference_key_id(SECRET), epoch) == envelope.parse(sealed)


@given(st.binary(max_size=40), st.data())
def test_one_flipped_bit_anywhere_never_opens(plaintext: bytes, data: st.DataObject) -> None:
    key = SubjectKey(SECRET).value_key("riders.home")
    sealed = bytearray(key.seal(plaintext))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(SealedError):
        key.open(bytes(sealed))


@given(st.binary(max_size=40), st.binary(min_size=1, max_size=40), st.data())
def test_a_shorter_or_longer_envelope_never_opens(plaintext: bytes, more: bytes, data: st.DataObject) -> None:
    key = SubjectKey(SECRET).value_key("riders.home")
    sealed = key.seal(plaintext)
    cut = data.draw(st.integers(0, len(sealed) - 1))

    for damaged in (sealed[:cut], sealed + more, more + sealed):
        with pytest.raises(SealedError):
            key.open(damaged)


@given(st.binary(max_size=40), st.text(max_size=20), st.text(max_size=20))
def test_a20_an_envelope_moved_to_another_field_does_not_open(plaintext: bytes, one: str, other: str) -> None:
    key = SubjectKey(SECRET)
    sealed = key.value_key(one).seal(plaintext)

    if one == other:
        assert plaintext == key.value_key(other).open(sealed)
    else:
        with pytest.raises(SealedError, match="did not open"):
            key.value_key(other).open(sealed)


def test_a20_an_envelope_moved_to_another_data_subject_does_not_open() -> None:
    sealed = SubjectKey(SECRET).value_key("riders.home").seal(b"home")

    with pytest.raises(SealedError, match="another data subject"):
        SubjectKey.new().value_key("riders.home").open(sealed)


def test_an_envelope_whose_header_was_rewritten_for_another_data_subject_does_not_open() -> None:
    other = SubjectKey.new()
    sealed = SubjectKey(SECRET).value_key("riders.home").seal(b"home")
    forged = sealed[:2] + other.id + sealed[18:]

    with pytest.raises(SealedError, match="did not open"):
        other.value_key("riders.home").open(forged)


def test_an_envelope_of_another_epoch_or_another_epoch_key_does_not_open() -> None:
    key = SubjectKey(SECRET)
    sealed = key.value_key("riders.home", 7, EPOCH_SECRET).seal(b"home")

    with pytest.raises(SealedError, match="another epoch"):
        key.value_key("riders.home", 8, EPOCH_SECRET).open(sealed)
    with pytest.raises(SealedError, match="did not open"):
        key.value_key("riders.home", 7, SECRET).open(sealed)
    with pytest.raises(SealedError, match="did not open"):
        key.value_key("riders.home", 8, EPOCH_SECRET).open(sealed[:18] + (8).to_bytes(4, "big") + sealed[22:])


def test_a07_all_forms_that_drivers_hand_back_open_alike() -> None:
    key = SubjectKey(SECRET).value_key("riders.email")
    sealed = key.seal(b"a@x")

    forms = [sealed, bytearray(sealed), memoryview(sealed), "\\x" + sealed.hex(), sealed.hex(), sealed.hex().upper()]

    assert [b"a@x"] * 6 == [key.open(envelope.as_bytes(form)) for form in forms]
    assert {bytes} == {type(envelope.as_bytes(form)) for form in forms}


@pytest.mark.parametrize("stored", [None, 7, 1.5, [1], {}, "ana@planted.example", "\\x4", "4 1", "é"])
def test_a07_any_other_form_is_a_typed_error_that_does_not_show_it(stored: object) -> None:
    with pytest.raises(SealedError) as caught:
        envelope.as_bytes(stored)

    assert "planted" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("stored", ["", b"", b"ana@planted.example", b"x" * 80, b"\x01\x01" + b"planted" * 4])
def test_a02_legacy_content_is_a_typed_error_that_does_not_show_it(stored: object) -> None:
    with pytest.raises(SealedError) as caught:
        envelope.parse(envelope.as_bytes(stored))

    assert "planted" not in str(caught.value)
    assert "120" not in str(caught.value)  # the code of "x"


def test_a14_an_envelope_cut_by_one_byte_is_a_typed_error() -> None:
    key = SubjectKey(SECRET).value_key("riders.email")

    with pytest.raises(SealedError):
        key.open(key.seal(b"a@x")[:-1])


@pytest.mark.parametrize("place", [0, 1])
def test_another_version_or_suite_is_refused_before_any_key_is_looked_for(place: int) -> None:
    sealed = bytearray(SubjectKey(SECRET).value_key("riders.email").seal(b"a@x"))
    sealed[place] = 2

    with pytest.raises(SealedError, match="version or suite"):
        envelope.parse(bytes(sealed))


def test_a_destroyed_value_says_that_it_was_destroyed() -> None:
    with pytest.raises(SealedError, match="was destroyed"):
        envelope.parse(envelope.DESTROYED)
    with pytest.raises(SealedError, match="was destroyed"):
        SubjectKey(SECRET).value_key("riders.email").open(envelope.DESTROYED)


def test_no_error_of_a_failed_opening_chains_another() -> None:
    key = SubjectKey(SECRET).value_key("riders.email")
    sealed = key.seal(b"a@x")

    with pytest.raises(SealedError) as caught:
        key.open(sealed[:-1] + bytes((sealed[-1] ^ 1,)))

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_equal_values_seal_to_different_bytes() -> None:
    key = SubjectKey(SECRET).value_key("riders.email")

    assert key.seal(b"") != key.seal(b"")


def test_an_epoch_or_key_id_that_the_envelope_cannot_hold_is_refused() -> None:
    for epoch in (-1, 2**32):
        with pytest.raises(InvalidValue):
            SubjectKey(SECRET).value_key("riders.email", epoch, EPOCH_SECRET)
    with pytest.raises(InvalidValue):
        envelope.ValueKey(SECRET, b"short", 0, "riders.email")


def test_length_prefixes_keep_neighbouring_parts_apart() -> None:
    assert envelope.length_prefixed(b"ab", b"c") != envelope.length_prefixed(b"a", b"bc")


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_only_a_256_bit_key_is_accepted(size: int) -> None:
    with pytest.raises(KeyringError):
        Aead(bytes(size))


def test_an_aead_opens_only_with_the_same_associated_data() -> None:
    cipher = Aead(SECRET)
    sealed = cipher.encrypt(b"plain", b"one")

    assert b"plain" == cipher.decrypt(sealed, b"one")
    assert 12 + 5 + 16 == len(sealed)
    for damaged, associated in ((sealed, b"two"), (b"", b"one"), (sealed[:5], b"one"), (sealed[:20], b"one")):
        with pytest.raises(SealedError):
            cipher.decrypt(damaged, associated)


def test_a_cipher_cannot_be_pickled_and_shows_nothing() -> None:
    for holder in (Aead(SECRET), SubjectKey(SECRET).value_key("riders.email")):
        with pytest.raises(KeyringError, match="cannot be pickled"):
            pickle.dumps(holder)
        assert f"<{type(holder).__name__}>" == repr(holder)


def nonces_of(key: envelope.ValueKey, count: int) -> list[bytes]:
    return [key.seal(b"")[22:34] for _ in range(count)]


def test_nonces_are_unique_across_threads() -> None:
    key = SubjectKey(SECRET).value_key("riders.home")
    drawn: list[bytes] = []
    threads = [threading.Thread(target=lambda: drawn.extend(nonces_of(key, 500))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert 4 * 500 == len(set(drawn))


def test_nonces_that_are_drawn_together_are_all_different_also_beyond_the_number_asked_for() -> None:
    draw, other = nonces(10), nonces(0)
    drawn = [draw() for _ in range(500)] + [other() for _ in range(500)]

    assert 1000 == len(set(drawn))
    assert {12} == {len(nonce) for nonce in drawn}


def test_a_value_is_sealed_under_the_nonce_that_was_drawn_for_it() -> None:
    key, draw = SubjectKey(SECRET).value_key("riders.home"), nonces(3)
    sealed = [key.seal(b"home", draw) for _ in range(3)]

    assert 3 == len({each[22:34] for each in sealed})
    assert [b"home"] * 3 == [key.open(each) for each in sealed]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_nonces_of_parent_and_child_differ_after_a_fork() -> None:
    key = SubjectKey(SECRET).value_key("riders.home")
    key.seal(b"")
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads; this child only writes
        child = os.fork()
    if not child:
        os.write(writing, b"".join(nonces_of(key, 100)))
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        received = file.read()
    os.waitpid(child, 0)

    of_child = {received[at : at + 12] for at in range(0, len(received), 12)}
    assert 100 == len(of_child)
    assert of_child.isdisjoint(nonces_of(key, 100))

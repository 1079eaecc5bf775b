"""A chained line cannot be changed, taken out, moved or added without the key, and holds nothing personal."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from privkit.errors import ClockError, InvalidValue, LedgerError
from privkit.ledger import GENESIS, KINDS, LONGEST_TEXT, Entry, canonical, next_entry, verify

KEY = bytes(range(32))
AT = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)

texts = st.text(max_size=LONGEST_TEXT)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
bodies = st.dictionaries(texts, values, max_size=4)


def chain(*bodies: Mapping[str, object], kind: str = "batch") -> list[Entry]:
    entries: list[Entry] = []
    for number, body in enumerate(bodies):
        previous = entries[-1] if entries else None
        entries.append(next_entry(KEY, previous, AT + timedelta(seconds=number), kind, body))
    return entries


def broken(entries: Sequence[Entry], expected: str | None = None) -> tuple[int, str]:
    with pytest.raises(LedgerError) as refusal:
        verify(KEY, entries, expected)
    return refusal.value.data["seq"], refusal.value.data["how"]


FIVE = chain(*({"rows": number} for number in range(5)))


# A body has one text.


def test_the_text_is_sorted_ascii_and_without_blanks() -> None:
    body = {"b": [1, True, None, {"y": "z\u00e9", "x": -2}], "a": "trips.start"}
    assert '{"a":"trips.start","b":[1,true,null,{"x":-2,"y":"z\\u00e9"}]}' == canonical(body)


@given(bodies)
def test_the_text_is_json_of_the_body_and_canonical_again(body: dict[str, Any]) -> None:
    text = canonical(body)
    assert body == json.loads(text)
    assert text == canonical(json.loads(text))
    assert text.isascii()
    assert "\x00" not in text


@given(bodies)
def test_the_order_of_names_does_not_matter(body: dict[str, Any]) -> None:
    assert canonical(body) == canonical(dict(reversed(body.items())))


@pytest.mark.parametrize(
    "value",
    [1.5, float("nan"), b"bytes", AT, {1, 2}, object(), 2**63, -(2**63) - 1, {1: "a name that is a number"}],
)
def test_a_value_without_one_text_is_refused(value: object) -> None:
    for body in ({"rows": value}, {"rows": [value]}, {"rows": {"deep": value}}):
        with pytest.raises(InvalidValue):
            canonical(body)


def test_a_body_is_a_mapping() -> None:
    with pytest.raises(InvalidValue):
        canonical(["rows", 1])  # type: ignore[arg-type]


def test_a_long_text_is_refused_and_not_shown() -> None:
    planted = "ada@lovelace.example " * 10
    assert len(planted) > LONGEST_TEXT
    for body in ({"why": planted}, {planted: 1}, {"list": [planted]}):
        with pytest.raises(InvalidValue) as refusal:
            canonical(body)
        assert "ada@lovelace" not in str(refusal.value) + repr(refusal.value.data)
    assert canonical({"digest": "f" * LONGEST_TEXT})


# A line.


def test_a_line_says_its_number_instant_kind_and_body() -> None:
    (entry,) = chain({"table": "trips", "rows": 3})
    assert (1, "2026-01-01T12:30:00.000000+00:00", "batch", '{"rows":3,"table":"trips"}') == (
        entry.seq,
        entry.at,
        entry.kind,
        entry.body,
    )


def test_the_instant_is_written_in_utc() -> None:
    paris = AT.astimezone(timezone(timedelta(hours=1)))
    assert next_entry(KEY, None, AT, "batch", {}) == next_entry(KEY, None, paris, "batch", {})


def test_a_link_is_hmac_sha256_over_the_length_prefixed_line_and_the_previous_link() -> None:
    first, second = chain({"rows": 1}, {"rows": 2})
    assert hmac_of(GENESIS, first) == first.link
    assert hmac_of(first.link, second) == second.link


def hmac_of(previous: bytes, entry: Entry) -> bytes:
    parts = (previous, entry.seq.to_bytes(8, "big"), entry.at.encode(), entry.kind.encode(), entry.body.encode())
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    padded = KEY + bytes(32)
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()


def test_every_kind_of_line_can_be_written_and_no_other() -> None:
    assert KINDS == {next_entry(KEY, None, AT, kind, {}).kind for kind in KINDS}
    with pytest.raises(LedgerError) as refusal:
        next_entry(KEY, None, AT, "ada@lovelace.example", {})
    assert "ada" not in str(refusal.value)
    assert "hold_placed" in refusal.value.fix


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(ClockError):
        next_entry(KEY, None, datetime(2026, 1, 1), "batch", {})


# The chain.


@given(st.lists(bodies, max_size=5))
def test_a_chain_verifies_and_says_its_length_and_end(written: list[dict[str, Any]]) -> None:
    entries = chain(*written)
    found = verify(KEY, iter(entries))
    last = entries[-1] if entries else None
    assert (len(entries), last and last.link, last and last.at) == (found.count, found.head, found.at)


def test_an_empty_ledger_verifies_and_has_a_checkpoint() -> None:
    found = verify(KEY, [])
    assert (0, None, None) == (found.count, found.head, found.at)
    assert found == verify(KEY, [], found.checkpoint)
    assert 5 == verify(KEY, FIVE, found.checkpoint).count


@pytest.mark.parametrize("seq", range(1, 6))
@pytest.mark.parametrize(
    "change",
    [{"at": "2026-01-01T12:30:09.000000+00:00"}, {"kind": "erased"}, {"body": "{}"}, {"body": "\ud800"}, {"link": b""}],
)
def test_a_changed_line_is_named(seq: int, change: dict[str, Any]) -> None:
    entries = [replace(entry, **change) if entry.seq == seq else entry for entry in FIVE]
    assert (seq, "changed") == broken(entries)


@given(st.integers(0, 4), st.integers(0, 31), st.integers(1, 255))
def test_one_flipped_byte_of_a_link_is_named(index: int, position: int, flip: int) -> None:
    link = bytearray(FIVE[index].link)
    link[position] ^= flip
    entries = [*FIVE[:index], replace(FIVE[index], link=bytes(link)), *FIVE[index + 1 :]]
    assert (index + 1, "changed") == broken(entries)


@pytest.mark.parametrize("seq", range(1, 5))
def test_a_missing_line_is_named(seq: int) -> None:
    assert (seq, "missing") == broken([entry for entry in FIVE if entry.seq != seq])


def test_lines_numbered_anew_after_one_was_taken_out_are_changed() -> None:
    assert (3, "changed") == broken([*FIVE[:2], *(replace(entry, seq=entry.seq - 1) for entry in FIVE[3:])])


@given(st.permutations(FIVE))
def test_the_first_line_out_of_order_is_named(entries: list[Entry]) -> None:
    assume(entries != FIVE)
    first = next(number for number, entry in enumerate(entries, 1) if entry.seq != number)
    assert (first, "reordered") == broken(entries)


@pytest.mark.parametrize("seq", range(1, 6))
def test_a_duplicated_line_is_named(seq: int) -> None:
    assert (seq, "duplicated") == broken([*FIVE[:seq], FIVE[seq - 1], *FIVE[seq:]])


def test_a_line_before_the_first_is_a_change() -> None:
    assert (0, "changed") == broken([replace(FIVE[0], seq=0), *FIVE])


def test_a_line_of_another_key_does_not_join_the_chain() -> None:
    forged = next_entry(bytes(32), FIVE[-1], AT, "erased", {})
    assert (6, "changed") == broken([*FIVE, forged])


def test_a_chain_read_with_another_key_breaks_at_its_start() -> None:
    with pytest.raises(LedgerError) as refusal:
        verify(bytes(32), FIVE)
    assert 1 == refusal.value.data["seq"]


# The tail.


@pytest.mark.parametrize("count", range(5))
def test_a_lost_tail_verifies_alone_and_breaks_against_the_checkpoint(count: int) -> None:
    checkpoint = verify(KEY, FIVE).checkpoint
    assert count == verify(KEY, FIVE[:count]).count
    assert (count + 1, "missing") == broken(FIVE[:count], checkpoint)


def test_a_tail_written_anew_by_the_holder_of_the_key_breaks_against_the_checkpoint() -> None:
    checkpoint = verify(KEY, FIVE).checkpoint
    again = [*FIVE[:4], next_entry(KEY, FIVE[3], AT, "batch", {"rows": 0})]
    assert 5 == verify(KEY, again).count
    assert (5, "changed") == broken(again, checkpoint)


@pytest.mark.parametrize("count", range(6))
def test_a_checkpoint_holds_for_every_later_chain(count: int) -> None:
    checkpoint = verify(KEY, FIVE[:count]).checkpoint
    assert 5 == verify(KEY, FIVE, checkpoint).count
    assert 5 == verify(KEY, FIVE, f" {checkpoint.upper()}\n").count


@pytest.mark.parametrize("text", ["", "5", "5:", f"5:{'f' * 63}", f"-1:{'f' * 64}", f"x:{'f' * 64}", f"0:{'f' * 64}"])
def test_a_malformed_checkpoint_is_refused_before_anything_is_said(text: str) -> None:
    with pytest.raises(InvalidValue):
        verify(KEY, FIVE, text)

"""Stand-ins that take a value's place in a column with a form."""

import re
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit import Substitute
from privkit.deidentify import changed
from privkit.deidentify.keyed import permuted
from privkit.errors import InvalidValue

KEY = bytes(range(32))


def stand_in(value: Any, domain: str = "a", kind: Any = "shape", key: bytes = KEY) -> Any:
    return changed(Substitute(domain, kind), value, key=key, today=date(2026, 1, 1))


@given(st.integers(1, 300), st.text(max_size=3))
def test_a_keyed_order_has_every_place_once(count: int, tweak: str) -> None:
    assert list(range(count)) == sorted(permuted(KEY, each, count, tweak) for each in range(count))


@given(st.text(st.characters(), max_size=40))
def test_text_keeps_its_length_in_characters_and_bytes_its_case_and_its_punctuation(value: str) -> None:
    found = stand_in(value)
    assert len(value) == len(found)
    assert len(value.encode("utf-8", "surrogatepass")) == len(found.encode("utf-8", "surrogatepass"))
    for before, after in zip(value, found, strict=True):
        if before.isascii():
            assert (before.isupper(), before.islower(), before.isdigit()) == (
                after.isupper(),
                after.islower(),
                after.isdigit(),
            )
            assert before == after or before.isalnum()


@pytest.mark.parametrize("form", ["{:02}", "a{:02}-X", "{:02}é"])
def test_c02_different_texts_stay_different_under_a_unique_key(form: str) -> None:
    values = [form.format(each) for each in range(100)]
    assert 100 == len({stand_in(each) for each in values})


def test_c02_texts_that_differ_in_case_alone_differ_in_case_alone() -> None:
    assert stand_in("Ada").lower() == stand_in("aDA").lower()
    assert stand_in("Ada") != stand_in("aDA")


@given(st.integers(-(2**64), 2**64))
def test_a_whole_number_keeps_its_sign_its_digits_and_the_width_of_its_type(value: int) -> None:
    found = stand_in(value)
    assert (len(str(value)), value < 0, type(value)) == (len(str(found)), found < 0, type(found))
    for bits in (7, 8, 15, 16, 31, 32, 63, 64):
        assert (abs(value) < 2**bits) == (abs(found) < 2**bits)


def test_c02_different_numbers_stay_different() -> None:
    assert 2000 == len({stand_in(each) for each in range(2000)})


@pytest.mark.parametrize(
    ("kind", "form"), [("name", r"[A-Z]\w+ [A-Z]\w+ [a-z2-7]{12}"), ("email", r"[a-z0-9.]+@example\.invalid")]
)
def test_c02_names_and_addresses_have_their_form_and_stay_different(kind: str, form: str) -> None:
    found = [stand_in(f"{each}@example.org", kind=kind) for each in range(3000)]
    assert all(re.fullmatch(form, each) for each in found)
    assert 3000 == len(set(found))
    assert 60 >= max(map(len, found))
    assert found[5] == stand_in(" 5@EXAMPLE.org", kind=kind)


@pytest.mark.parametrize("kind", ["shape", "name", "email"])
def test_c33_a_stand_in_depends_on_key_domain_and_value_alone(kind: str) -> None:
    values = [f"person {each:03}" for each in range(100)]
    alone = {each: stand_in(each, kind=kind) for each in reversed(values[50:])}
    together = {each: stand_in(each, kind=kind) for each in values}
    assert alone == {each: together[each] for each in alone}
    assert set() == set(together.values()) & {stand_in(each, "b", kind) for each in values}
    assert set() == set(together.values()) & {stand_in(each, key=bytes(32), kind=kind) for each in values}


@pytest.mark.parametrize(("value", "kind"), [(1.5, "shape"), (True, "shape"), (12, "name"), (b"a", "email")])
def test_a_value_without_such_a_form_is_refused(value: Any, kind: str) -> None:
    with pytest.raises(InvalidValue, match="does not fit"):
        stand_in(value, kind=kind)


def test_stand_ins_are_the_same_in_each_release() -> None:
    assert STAND_INS == (
        stand_in("Ada-12"),
        stand_in(4821),
        stand_in("Ada", kind="name"),
        stand_in("a@b", kind="email"),
    )


STAND_INS = ("Ogs-37", 5545, "Warm Willow d2cmenn3ssor", "green.rowan.m7b6poxxwk2e@example.invalid")

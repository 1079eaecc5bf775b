"""Names to show in place of real ones."""

from hashlib import sha256

from privkit.crypto.keys import SubjectKey
from privkit.deidentify import stand_in
from privkit.deidentify.stand_ins import FIRST, NUMBERS, SECOND
from privkit.markers import StandIn

KEY = SubjectKey(bytes(range(32)))


def name(number: int, audience: str = "drivers") -> str:
    key = SubjectKey(sha256(number.to_bytes(4, "big")).digest())
    return stand_in(key.seed("stand-in", audience), StandIn(audience))


def test_a_release_gives_the_names_that_the_one_before_gave() -> None:
    shown = {audience: stand_in(KEY.seed("stand-in", audience), StandIn(audience)) for audience in ("drivers", "shops")}
    assert {"drivers": "Bright Thrush 3339", "shops": "Warm Ibis 1250"} == shown


def test_the_words_are_each_given_once() -> None:
    assert (64, 64) == (len(set(FIRST)), len(set(SECOND))) == (len(FIRST), len(SECOND))
    assert set() == set(FIRST) & set(SECOND)


def test_a_name_has_two_words_and_four_digits() -> None:
    first, second, number = name(1).split()
    assert first in FIRST
    assert second in SECOND
    assert 4 == len(number)
    assert 0 <= int(number) < NUMBERS


def test_two_audiences_cannot_be_told_to_be_of_one_data_subject() -> None:
    drivers, shops = [name(each) for each in range(2000)], [name(each, "shops") for each in range(2000)]
    assert set() == set(drivers) & set(shops)
    parts = [list(zip(*(each.split() for each in names), strict=True)) for names in (drivers, shops)]
    same = [sum(a == b for a, b in zip(mine, theirs, strict=True)) for mine, theirs in zip(*parts, strict=True)]
    assert all(count < 70 for count in same), same  # 2000 / 64 = 31 are expected, and 0.2 of the numbers


def test_different_data_subjects_seldom_share_a_name() -> None:
    assert 3000 - len({name(each) for each in range(3000)}) <= 3  # 0.11 are expected


def test_every_word_is_used() -> None:
    firsts, seconds, _ = zip(*(name(each).split() for each in range(3000)), strict=True)
    assert (64, 64) == (len(set(firsts)), len(set(seconds)))


def test_a_seed_is_bound_to_its_use_and_is_no_value_key() -> None:
    seeds = {KEY.seed("stand-in", "drivers"), KEY.seed("stand-in", "shops"), KEY.seed("other", "drivers"), KEY.secret}
    assert 4 == len(seeds)
    assert {32} == {len(each) for each in seeds}

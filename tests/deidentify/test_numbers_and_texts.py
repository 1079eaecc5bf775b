"""Techniques of numbers, texts and dates."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from statistics import mean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit import (
    AddNoise,
    AgeBand,
    Bins,
    Clamp,
    Generalise,
    KeepLast,
    Map,
    Microaggregate,
    Month,
    Pseudonymise,
    Redact,
    Reversible,
    ShiftDates,
    Substitute,
    Suppress,
    Year,
    Zip3,
)
from privkit.deidentify import changed, label, residue, restore
from privkit.deidentify.numbers import groups
from privkit.errors import InvalidValue, KeyringError, SealedError
from privkit.policy.precisions import mistakes

KEY, TODAY = bytes(range(32)), date(2026, 6, 15)
ALL: list[Any] = [
    Suppress(),
    Generalise(AgeBand()),
    Pseudonymise("email", "email"),
    Reversible("email"),
    Substitute("name"),
    KeepLast(4),
    Redact("[0-9]+"),
    ShiftDates(30),
    Zip3(),
    Bins((10, 20)),
    Clamp(high=90),
    Map({"a": "b"}, "other"),
    AddNoise(2.0, 0, 100),
]


def left(technique: Any, value: Any, subject: str = "7", today: date = TODAY) -> Any:
    return changed(technique, value, key=KEY, today=today, subject=subject)


@pytest.mark.parametrize("technique", [*ALL, Microaggregate(5)])
def test_c11_none_leaves_none_whatever_the_technique(technique: Any) -> None:
    assert residue(technique, None, key=KEY, today=TODAY) is None


def test_c11_the_empty_text_leaves_what_the_documentation_says() -> None:
    found = {type(each).__name__: left(each, "") for each in ALL if type(each).__name__ in EMPTY}
    assert found == EMPTY
    assert restore(KEY, "email", left(Reversible("email"), "")) == ""
    assert 24 == len(left(Pseudonymise("email"), ""))


EMPTY = {"Suppress": None, "Substitute": "", "KeepLast": "*", "Redact": "", "Zip3": "", "Map": "other"}


@pytest.mark.parametrize("technique", [*ALL, Microaggregate(5)])
def test_each_technique_has_words_and_no_mistake(technique: Any) -> None:
    assert label(technique)
    assert "anonym" not in label(technique)
    assert [] == list(mistakes(technique))


@pytest.mark.parametrize(
    ("technique", "said"),
    [
        (ShiftDates(0), "moves nothing"),
        (KeepLast(0), "keeps nothing"),
        (Bins(()), "no rising bounds"),
        (Bins((2, 1)), "no rising bounds"),
        (Clamp(), "no bound"),
        (AddNoise(0, 0, 1), "no scale above 0"),
        (AddNoise(1, 1, 1), "no room between its bounds"),
        (Microaggregate(1), "groups of one"),
        (Substitute("a", "number"), "a kind that is not known"),  # type: ignore[arg-type]
        (Redact("["), "no regular expression"),
        (Redact("x*"), "matches the empty text"),
    ],
)
def test_a_technique_that_does_nothing_is_a_mistake_of_the_policy_check(technique: Any, said: str) -> None:
    [(what, _)] = mistakes(technique)
    assert said in what


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("03601", "000"),
        ("00501", "005"),
        (501, "005"),
        ("10203-1234", "000"),
        (" 036 01", "000"),
        ("SW1A 1AA", ""),
        ("90210", "902"),
        ("902101234", "902"),
        (102031234, "000"),
        ("501", ""),
        ("K1A 0B1", ""),
        ("٩٠٢١٠", ""),
    ],
)
def test_c15_a_zip_code_leaves_three_digits_and_a_sparse_one_none(value: Any, expected: str) -> None:
    assert expected == left(Zip3(), value)
    assert "2000 Census" in label(Zip3())


@pytest.mark.parametrize(
    ("born", "year", "expected"),
    [
        (date(1933, 1, 1), 2022, "75-89"),
        (date(1933, 1, 1), 2026, "90+"),
        (date(1936, 6, 30), 2022, "75-89"),
        (date(1936, 6, 30), 2026, "75-89"),
    ],
)
def test_c14_who_is_ninety_is_told_from_the_reference_date(born: date, year: int, expected: str) -> None:
    assert expected == left(Generalise(AgeBand()), born, today=date(year, 6, 15))


def test_c17_29_february_goes_through_every_technique_of_dates() -> None:
    born = date(2012, 2, 29)
    assert (2012, "2012-02", "13-15") == tuple(left(Generalise(to), born) for to in (Year(), Month(), AgeBand()))
    moved = {left(ShiftDates(400), born, subject=str(each)) for each in range(50)}
    assert born not in moved
    assert all(abs((each - born).days) <= 400 for each in moved)


dates = st.dates(date(1900, 1, 1), date(2200, 1, 1))


@given(st.lists(dates, min_size=2, max_size=5), st.text(min_size=1), st.integers(1, 1000))
def test_all_dates_of_a_data_subject_move_alike_and_none_stays(values: list[date], subject: str, days: int) -> None:
    [moved] = {left(ShiftDates(days), each, subject) - each for each in values}
    assert 0 < abs(moved.days) <= days


def test_a_time_moves_by_whole_days_and_keeps_its_zone() -> None:
    at = datetime(2026, 1, 1, 23, 59, tzinfo=UTC)
    assert left(ShiftDates(10), at) - at == left(ShiftDates(10), at.date()) - at.date()
    assert left(ShiftDates(10), at).tzinfo is UTC


def test_a_shift_depends_on_the_domain_and_the_data_subject_and_every_shift_is_used() -> None:
    day = date(2026, 1, 1)
    assert 100 > sum(left(ShiftDates(200), day, str(n)) == left(ShiftDates(200, "b"), day, str(n)) for n in range(2000))
    assert {-2, -1, 1, 2} == {(left(ShiftDates(2), day, str(n)) - day).days for n in range(100)}


@pytest.mark.parametrize("technique", [ShiftDates(10), AddNoise(1.0, 0, 9)])
def test_what_depends_on_the_data_subject_refuses_a_value_of_nobody(technique: Any) -> None:
    for subject in (None, ""):
        with pytest.raises(InvalidValue, match="nobody"):
            changed(technique, date(2026, 1, 1), key=KEY, today=TODAY, subject=subject)


def test_a_date_at_the_end_of_the_calendar_is_refused_without_its_value() -> None:
    with pytest.raises(InvalidValue) as caught:
        [left(ShiftDates(9), date.max, str(each)) for each in range(50)]
    assert "9999" not in str(caught.value)
    assert caught.value.__context__ is None


@given(st.integers() | st.floats(allow_nan=False) | st.decimals(allow_nan=False))
def test_a_clamped_number_is_within_its_bounds_and_of_its_type(value: Any) -> None:
    found = left(Clamp(-5, 90), value)
    assert -5 <= found <= 90
    assert type(value) is type(found)
    assert found == value or not -5 <= value <= 90


@given(st.integers(-100, 100) | st.floats(-100, 100))
def test_a_number_has_one_class_which_holds_its_lower_bound(value: float) -> None:
    expected = "under 0" if value < 0 else "0 to under 10" if value < 10 else "10 or more"
    assert expected == left(Bins((0, 10)), value)


@pytest.mark.parametrize("value", [float("nan"), True, "12", None.__class__, Decimal("NaN")])
@pytest.mark.parametrize("technique", [Bins((1, 2)), Clamp(0, 1), AddNoise(1.0, 0, 1)])
def test_what_is_no_number_is_refused(technique: Any, value: Any) -> None:
    with pytest.raises(InvalidValue, match="number was expected"):
        left(technique, value)


@given(st.integers(0, 100), st.text(min_size=1))
def test_noise_is_drawn_once_for_a_value_of_a_data_subject_and_stays_within_its_bounds(age: int, who: str) -> None:
    found = left(AddNoise(5.0, 0, 100), age, who)
    assert found == left(AddNoise(5.0, 0, 100), age, who)
    assert 0 <= found <= 100
    assert type(found) is int


def test_noise_has_the_mean_and_the_spread_of_laplace() -> None:
    errors = [left(AddNoise(3.0, -1e9, 1e9, digits=6), 50.0, str(n)) - 50 for n in range(4000)]
    assert abs(mean(errors)) < 0.3  # six standard errors are 0.4
    assert 2.7 < mean(map(abs, errors)) < 3.3  # the mean of |Laplace| is its scale


@given(st.dictionaries(st.integers(-1000, 1000), st.integers(1, 9), min_size=1, max_size=40), st.integers(2, 8))
def test_each_mean_stands_for_k_neighbours_and_keeps_the_total(counts: dict[float, int], k: int) -> None:
    if sum(counts.values()) < k:
        with pytest.raises(InvalidValue, match="fewer than"):
            groups(counts, k)
        return
    means = groups(counts, k)
    sizes: dict[float, int] = {}
    for value, mean_of in means.items():
        sizes[mean_of] = sizes.get(mean_of, 0) + counts[value]
    assert min(sizes.values()) >= k
    assert sum(means[each] * counts[each] for each in counts) == pytest.approx(
        sum(each * counts[each] for each in counts)
    )
    assert sorted(means.values()) == [means[each] for each in sorted(means)]


def test_no_numbers_have_no_groups() -> None:
    assert {} == groups({}, 5)


@given(st.text(), st.integers(1, 20))
def test_the_last_characters_are_never_more_than_half(value: str, n: int) -> None:
    found = left(KeepLast(n), value)
    assert found.startswith("*")
    assert value.endswith(found[1:])
    assert len(found) - 1 == min(n, len(value) // 2)


def test_a_pattern_is_redacted_and_what_replaces_it_is_no_template() -> None:
    assert "call [redacted] or [redacted]" == left(Redact(r"\d{3}-\d+"), "call 555-1234 or 555-99")
    assert r"\1" == left(Redact("(a)", by=r"\1"), "a")


def test_an_unknown_category_becomes_the_declared_other() -> None:
    to = Map({"nurse": "health", "doctor": "health"}, "other")
    assert ["health", "other", "other"] == [left(to, each) for each in ("nurse", "Nurse", "beekeeper")]
    assert Map({"a": "1", "b": "2"}, "x") == Map({"b": "2", "a": "1"}, "x")
    assert 1 == len({Map({"a": "1"}, "x"), Map({"a": "1"}, "x")})


@given(st.text(st.characters()))
def test_a_reversible_token_turns_back_and_equal_values_have_equal_tokens(value: str) -> None:
    found = left(Reversible("email"), value)
    assert value == restore(KEY, "email", found)
    assert found == left(Reversible("email"), value)
    assert value not in found or len(value) < 4


@given(st.text(), st.integers(0), st.integers(1, 31))
def test_a_changed_token_another_domain_and_another_key_do_not_turn_back(value: str, place: int, by: int) -> None:
    found, letters = left(Reversible("email"), value), "abcdefghijklmnopqrstuvwxyz234567"
    place %= len(found) - 1  # the last character may hold bits that mean nothing
    forged = found[:place] + letters[letters.index(found[place]) ^ by] + found[place + 1 :]
    for key, domain, text in ((KEY, "email", forged), (KEY, "name", found), (bytes(32), "email", found)):
        with pytest.raises(SealedError) as caught:
            restore(key, domain, text)
        assert caught.value.__context__ is None


@pytest.mark.parametrize("text", ["", "a", "1", "\x00", "ä" * 40, "=", "a b"])
def test_what_is_no_token_does_not_turn_back(text: str) -> None:
    with pytest.raises(SealedError):
        restore(KEY, "email", text)


@pytest.mark.parametrize("technique", [Reversible("a"), Substitute("a"), ShiftDates(3), AddNoise(1.0, 0, 3)])
def test_c05_without_a_whole_key_nothing_is_made(technique: Any) -> None:
    value = "ada" if isinstance(technique, Reversible | Substitute) else 3
    value = date(2026, 1, 1) if isinstance(technique, ShiftDates) else value
    with pytest.raises(KeyringError):
        changed(technique, value, key=b"short", today=TODAY, subject="7")


def test_c08_spellings_that_the_normaliser_makes_one_join() -> None:
    phone = Pseudonymise("phone", "phone")
    assert left(phone, "0049 151-23") == left(phone, "+49 (151) 23")
    assert left(Pseudonymise("phone"), "0049 151-23") != left(Pseudonymise("phone"), "+49 (151) 23")
    assert left(Pseudonymise("m", "email"), "Ada@BÜCHER.de") == left(Pseudonymise("m", "email"), "ada@xn--bcher-kva.de")


def test_what_is_drawn_from_a_key_is_the_same_in_each_release() -> None:
    moved = left(ShiftDates(365), date(2026, 1, 1)) - date(2026, 1, 1)
    assert timedelta(days=SHIFT) == moved
    assert TOKEN == left(Reversible("email"), "ada@example.org")
    assert NOISE == left(AddNoise(2.0, 0, 100, digits=3), 50.0)


SHIFT, TOKEN, NOISE = 84, "62jenly3nr5on2nb6cjwqyuwj3hpbf35f6mdemp6mefwybwdmbsa", 50.758

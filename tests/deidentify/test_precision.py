from datetime import UTC, date, datetime, timedelta, timezone
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import h3.api.basic_str as h3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.deidentify import Reduced, coarser, finest, in_words, reduce
from privkit.errors import InvalidValue
from privkit.location import GeoPoint, cell
from privkit.markers import (
    AgeBand,
    AtLeastAge,
    Cell,
    Exact,
    InCountry,
    Initials,
    Is,
    Month,
    Precision,
    Quarter,
    StandIn,
    TruncatedIp,
    Year,
)

TODAY = date(2026, 6, 15)
EVERY: list[Any] = [
    *(Exact(), Cell(7), Year(), Quarter(), Month(), AgeBand(), TruncatedIp(), Initials()),
    *(Is(AtLeastAge(16)), Is(InCountry({"DE"})), StandIn("drivers")),
]


@pytest.mark.parametrize("precision", EVERY)
def test_c11_none_stays_none_at_every_precision(precision: Any) -> None:
    assert reduce(precision, None, TODAY) is None


@pytest.mark.parametrize("value", ["x", "", 0, False, GeoPoint(0, 0), date(2000, 1, 1)])
def test_exact_changes_nothing(value: Any) -> None:
    assert value is reduce(Exact(), value, TODAY)


def test_c27_a_point_at_zero_is_reduced_to_its_cell() -> None:
    assert cell(GeoPoint(0, 0), 7) == reduce(Cell(7), GeoPoint(0, 0), TODAY)


def test_c17_a_leap_day_has_a_year() -> None:
    assert 2012 == reduce(Year(), date(2012, 2, 29), TODAY)


@pytest.mark.parametrize(
    ("born", "band"),
    [
        (date(2026, 6, 15), "0-12"),
        (date(2013, 6, 16), "0-12"),
        (date(2013, 6, 15), "13-15"),
        (date(2010, 6, 16), "13-15"),
        (date(2010, 6, 15), "16-17"),
        (date(2008, 6, 15), "18-24"),
        (date(1937, 6, 15), "75-89"),
        (date(1936, 6, 16), "75-89"),
        (date(1936, 6, 15), "90+"),
        (date(1901, 1, 1), "90+"),
    ],
)
def test_a_birth_date_becomes_its_band(born: date, band: str) -> None:
    assert band == reduce(AgeBand(), born, TODAY)


def test_c14_the_band_follows_the_day_it_is_asked_on() -> None:
    bands = [reduce(AgeBand(), date(1936, 6, 30), date(year, 7, 1)) for year in (2022, 2026)]
    assert ["75-89", "90+"] == bands


@pytest.mark.parametrize(
    ("today", "band"),
    [
        (date(2025, 2, 27), "0-12"),
        (date(2025, 2, 28), "0-12"),
        (date(2025, 3, 1), "13-15"),
        (date(2028, 2, 29), "16-17"),
    ],
)
def test_d04_a_leap_day_birthday_counts_from_the_first_of_march(today: date, band: str) -> None:
    assert band == reduce(AgeBand(), date(2012, 2, 29), today)


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=13)), timezone(timedelta(hours=-10)), None])
def test_d06_a_birth_time_counts_as_the_date_written_in_it(zone: Any) -> None:
    born = datetime(2013, 6, 15, 0, 0, tzinfo=zone)
    assert "13-15" == reduce(AgeBand(), born, TODAY)
    assert "0-12" == reduce(AgeBand(), born, TODAY - timedelta(days=1))
    assert 2013 == reduce(Year(), datetime(2013, 1, 1, tzinfo=zone), TODAY)


def test_d01_a_birth_date_in_the_future_has_no_age() -> None:
    with pytest.raises(InvalidValue, match="future") as caught:
        reduce(AgeBand(), TODAY + timedelta(days=1), TODAY)
    assert "2026" not in str(caught.value)


@pytest.mark.parametrize(
    ("precision", "value"),
    [
        (Cell(7), "secret"),
        (Cell(7), (1, 2)),
        (Year(), "secret"),
        (Year(), 1987),
        (AgeBand(), 39),
        (Year(), GeoPoint(1, 2)),
        (Month(), "secret"),
        (Quarter(), 1987),
        (TruncatedIp(), 1987),
        (Initials(), 1987),
        (Initials(), GeoPoint(1, 2)),
    ],
)
def test_a_precision_that_does_not_fit_is_refused_without_the_value(precision: Any, value: Any) -> None:
    with pytest.raises(InvalidValue, match=f"{type(precision).__name__} does not fit") as caught:
        reduce(precision, value, TODAY)
    assert "secret" not in str(caught.value)
    assert "1987" not in str(caught.value)


def test_bands_of_one_year_and_no_bands_read_naturally() -> None:
    assert "13" == reduce(AgeBand((13, 14)), date(2013, 1, 1), TODAY)
    assert "0+" == reduce(AgeBand(()), date(2013, 1, 1), TODAY)


@pytest.mark.parametrize("bounds", [(16, 13), (13, 13), (0, 13), (-1,)])
def test_bounds_that_do_not_rise_are_refused(bounds: tuple[int, ...]) -> None:
    with pytest.raises(InvalidValue, match="rising"):
        reduce(AgeBand(bounds), date(2013, 1, 1), TODAY)


@given(st.dates(date(1900, 1, 1), TODAY), st.dates(TODAY, date(2100, 1, 1)))
def test_nobody_gets_younger(born: date, later: date) -> None:
    bands = ["0-12", "13-15", "16-17", "18-24", "25-34", "35-44", "45-54", "55-64", "65-74", "75-89", "90+"]
    assert bands.index(reduce(AgeBand(), born, TODAY)) <= bands.index(reduce(AgeBand(), born, later))


@pytest.mark.parametrize(
    ("day", "month", "quarter"),
    [
        (date(1, 1, 1), "0001-01", "0001-Q1"),
        (date(2012, 2, 29), "2012-02", "2012-Q1"),
        (date(2012, 4, 1), "2012-04", "2012-Q2"),
        (date(2012, 12, 31), "2012-12", "2012-Q4"),
    ],
)
def test_a_date_becomes_its_month_or_quarter(day: date, month: str, quarter: str) -> None:
    assert (month, quarter) == (reduce(Month(), day, TODAY), reduce(Quarter(), day, TODAY))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.77", "203.0.113.0/24"),
        (" 203.0.113.77 ", "203.0.113.0/24"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("203.0.113.77/32", "203.0.113.0/24"),
        ("203.0.0.0/16", "203.0.0.0/16"),
        (IPv4Address("203.0.113.77"), "203.0.113.0/24"),
        ("2001:db8:1:2::7", "2001:db8:1::/48"),
        (IPv6Address("2001:db8:1:2::7"), "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("::ffff:203.0.113.77", "203.0.113.0/24"),
        ("2002:cb00:714d::1", "203.0.113.0/24"),
        ("::1", "::/48"),
    ],
)
def test_an_address_becomes_its_network(address: Any, network: str) -> None:
    assert network == reduce(TruncatedIp(), address, TODAY)


@pytest.mark.parametrize("text", ["secret", "", "203.0.113", "203.0.113.256", "203.0.113.7, 10.0.0.1", "host:80"])
def test_text_that_is_no_address_is_refused_without_the_text(text: str) -> None:
    with pytest.raises(InvalidValue, match="is no IP address") as caught:
        reduce(TruncatedIp(), text, TODAY)
    assert not text or text not in str(caught.value)
    assert caught.value.__context__ is None


@given(st.ip_addresses(v=4), st.integers(0, 31))
def test_all_addresses_of_one_network_look_the_same(address: IPv4Address, bits: int) -> None:
    precision = TruncatedIp(v4=bits)
    network = ip_network(reduce(precision, str(address), TODAY))
    assert address in network
    assert bits == network.prefixlen
    assert reduce(precision, str(network.broadcast_address), TODAY) == str(network)


@pytest.mark.parametrize("wrapped", ["::ffff:{0}", "2002:{1}::1"])
@given(st.ip_addresses(v=4))
def test_an_ipv4_address_inside_an_ipv6_one_shows_no_more_of_itself(wrapped: str, address: IPv4Address) -> None:
    def seen(last: int) -> Any:
        whole = IPv4Address(int(address) & ~0xFF | last)
        number = f"{int(whole) >> 16:x}:{int(whole) & 0xFFFF:x}"
        return reduce(TruncatedIp(), wrapped.format(whole, number), TODAY)

    assert seen(0) == seen(77) == seen(255)


@pytest.mark.parametrize(
    ("name", "initials"),
    [
        ("Ada Lovelace", "A. L."),
        ("  ada   lovelace ", "a. l."),
        ("Jean-Pierre d'Arc", "J. d."),
        ("E\u0301mile Zola", "\u00c9. Z."),
        ("\u5c71\u7530 \u592a\u90ce", "\u5c71. \u592a."),
        ("\u0130lke", "\u0130."),
        ("...", ""),
        ("", ""),
    ],
)
def test_a_name_becomes_its_initials(name: str, initials: str) -> None:
    assert initials == reduce(Initials(), name, TODAY)


@pytest.mark.parametrize(("day", "answer"), [(date(2010, 6, 15), True), (date(2010, 6, 16), False)])
def test_a_question_about_age_is_answered_by_yes_or_no(day: date, answer: bool) -> None:
    assert answer is reduce(Is(AtLeastAge(16)), day, TODAY)


@pytest.mark.parametrize(("code", "answer"), [("DE", True), (" de ", True), ("GB", False), ("", False)])
def test_a_question_about_a_country_is_answered_by_yes_or_no(code: str, answer: bool) -> None:
    assert answer is reduce(Is(InCountry({"FR", "DE"})), code, TODAY)


def test_the_same_question_is_the_same_precision_however_it_was_written() -> None:
    assert Is(InCountry(["FR", "DE", "DE"])) == Is(InCountry({"DE", "FR"}))
    assert "Is(predicate=InCountry(codes=('DE', 'FR')))" == repr(Is(InCountry({"DE", "FR"})))
    assert InCountry("DE") == InCountry(["DE"])


@pytest.mark.parametrize(("predicate", "value"), [(AtLeastAge(16), "secret"), (InCountry("DE"), TODAY)])
def test_a_question_that_a_value_cannot_answer_is_refused(predicate: Any, value: Any) -> None:
    with pytest.raises(InvalidValue, match="cannot be told from") as caught:
        reduce(Is(predicate), value, TODAY)
    assert "secret" not in str(caught.value)


def test_a_stand_in_is_made_of_no_value() -> None:
    with pytest.raises(InvalidValue, match="made where a field is read from storage"):
        reduce(StandIn("drivers"), "Ada Lovelace", TODAY)


def test_each_value_of_a_list_is_reduced() -> None:
    assert ["A. L.", None] == reduce(Initials(), ["Ada Lovelace", None], TODAY)


# The order of precisions.

bands = st.builds(AgeBand, st.lists(st.integers(1, 99), unique=True, max_size=5).map(sorted).map(tuple))
of_dates = st.one_of(
    st.sampled_from([Exact(), Year(), Quarter(), Month(), AgeBand()]),
    bands,
    st.integers(0, 99).map(AtLeastAge).map(Is),
)
of_text = st.sampled_from([Exact(), Initials(), StandIn("drivers"), StandIn("shops")])
of_places = st.one_of(st.just(Exact()), st.integers(0, 15).map(Cell))
of_addresses = st.one_of(st.just(Exact()), st.builds(TruncatedIp, st.integers(0, 31), st.integers(0, 63)))
dates = st.dates(date(1900, 1, 1), TODAY)
points = st.builds(GeoPoint, st.floats(-90, 90), st.floats(-180, 180))
addresses = st.ip_addresses().map(str)
anything = st.one_of(of_dates, of_text, of_places, of_addresses)
cases = st.one_of(
    st.tuples(of_dates, of_dates, dates),
    st.tuples(of_places, of_places, points),
    st.tuples(of_addresses, of_addresses, addresses),
    st.tuples(st.just(Initials()), st.sampled_from([Exact(), Initials()]), st.text()),
)


@given(cases)
def test_the_coarser_of_two_is_told_from_a_value_at_either(case: tuple[Precision, Precision, Any]) -> None:
    one, other, value = case
    common = coarser(one, other)
    if common is None:
        return
    for each in (one, other):
        seen = reduce(each, value, TODAY)
        assert told(common, value, seen) == (seen if common == each else reduce(common, seen, TODAY))


def told(precision: Precision, value: Any, seen: Any) -> Any:
    """A value at a precision, as it is told from what was seen: H3 cells do not nest exactly, so the cell's parent."""
    if isinstance(precision, Cell) and isinstance(seen, Reduced):
        return h3.cell_to_parent(str(seen), precision.resolution)
    return reduce(precision, value, TODAY)


@given(cases)
def test_a_value_is_never_refined_nor_mixed_with_what_does_not_compare(
    case: tuple[Precision, Precision, Any],
) -> None:
    one, other, value = case
    seen = reduce(one, value, TODAY)
    if isinstance(seen, Reduced) and coarser(one, other) is None:
        with pytest.raises(InvalidValue, match="does not fit"):
            reduce(other, seen, TODAY)
    elif isinstance(seen, Reduced):
        common = coarser(one, other)
        assert common is not None
        assert told(common, value, seen) == reduce(other, seen, TODAY)


@given(cases)
def test_reducing_twice_is_reducing_once(case: tuple[Precision, Precision, Any]) -> None:
    precision, _, value = case
    once = reduce(precision, value, TODAY)
    if isinstance(once, Reduced):
        assert once is reduce(precision, once, TODAY)


@given(st.one_of(st.tuples(of_addresses, addresses), st.tuples(st.just(Initials()), st.text())))
def test_text_without_its_mark_is_reduced_to_itself_too(case: tuple[Precision, str]) -> None:
    precision, value = case
    once = str(reduce(precision, value, TODAY))
    assert once == reduce(precision, once, TODAY)


@given(anything, anything, anything)
def test_the_order_of_precisions_is_an_order(a: Precision, b: Precision, c: Precision) -> None:
    assert a == coarser(a, a)
    assert coarser(a, b) == coarser(b, a)
    assert a == coarser(a, Exact())
    ab, bc = coarser(a, b), coarser(b, c)
    if ab == b and bc == c:
        assert c == coarser(a, c)


@given(st.lists(anything, min_size=1))
def test_the_finest_is_one_of_them_and_none_of_them_is_finer(given: list[Precision]) -> None:
    found = finest(given)
    assert found in given
    assert [] == [each for each in given if coarser(found, each) == found != each]


def test_of_such_as_do_not_compare_the_first_is_the_finest() -> None:
    assert Year() == finest([Year(), AgeBand(), Year()])
    assert AgeBand() == finest([AgeBand(), Year()])
    assert Month() == finest([Year(), AgeBand(), Month()])


@pytest.mark.parametrize("precision", EVERY)
def test_each_precision_has_words_of_its_own(precision: Any) -> None:
    assert 1 == [in_words(each) for each in EVERY].count(in_words(precision))
    assert "only whether aged 16 or over" == in_words(Is(AtLeastAge(16)))
    assert "stand-in name for 'drivers'" == in_words(StandIn("drivers"))

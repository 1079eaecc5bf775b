from ipaddress import IPv4Address, IPv6Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privkit.errors import InvalidValue
from privkit.location.ip import truncate_in, truncated
from privkit.precisions import TruncatedIp

INSIDE_TEXT = (
    "{}",
    "{}.",
    "({})",
    "[{}]",
    "ip={},",
    "client_{} left",
    "from {}: refused",
    "sip:{};x",
    "http://[{}]:8080/path",
    "X-Forwarded-For: 10.9.8.7, {}, ::1",
    "12:34:56 {} aa:bb:cc:dd:ee:ff",
    "{}-{}",
    "'{}'\n\"{}\"",
)


@pytest.mark.parametrize(
    "address", ["::ffff:123.123.123.123", "::123.123.123.123", "64:ff9b::7b7b:7b7b", "2002:7b7b:7b7b::1"]
)
def test_c18_an_ipv4_address_in_any_wrapping_becomes_its_ipv4_network(address: str) -> None:
    assert "123.123.123.0/24" == truncated(TruncatedIp(), address)
    assert "123.123.123.0/24" == truncated(TruncatedIp(), str(IPv6Address(address).exploded).upper())
    assert "<123.123.123.0/24>" == truncate_in(f"<{address}>")


@given(st.ip_addresses(v=4), st.integers(0, 31))
def test_c18_no_wrapping_shows_more_bits_than_the_address_alone(address: IPv4Address, bits: int) -> None:
    precision, number = TruncatedIp(v4=bits), int(address)
    expected = str(ip_network((number, bits), strict=False))
    wrapped = [0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80 | 1]
    wrapped += [number] if number >= 1 << 24 else []
    assert {expected} == {truncated(precision, str(IPv6Address(each))) for each in wrapped}


def test_the_unspecified_and_the_loopback_address_hold_no_ipv4_address() -> None:
    assert "::/48" == truncated(TruncatedIp(), "::") == truncated(TruncatedIp(), "::1")


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("fe80::1%eth0", "fe80::/48"),
        ("fe80::1%eth0/64", "fe80::/48"),
        ("::ffff:203.0.113.7%3", "203.0.113.0/24"),
        ("::ffff:203.0.113.7/120", "203.0.113.0/24"),
        ("2002:cb00::/32", "203.0.0.0/16"),
        ("2000::/3", "2000::/3"),
    ],
)
def test_a_zone_is_dropped_and_a_network_is_cut_as_far_as_it_goes(text: str, network: str) -> None:
    assert network == truncated(TruncatedIp(), text)


@pytest.mark.parametrize("text", ["", "planted", "203.0.113.7, 10.0.0.1", "fe80::1 %eth0 x", "10.0.0.1/99"])
def test_what_is_no_address_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        truncated(TruncatedIp(), text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("1a00:c820:1180:c84c::ad3f:d991:ec2e:49255", "1a00:c820:1180::/48"),
        ("[2001:db8::1]:443", "2001:db8::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("[fe80::1%eth0]:80 fe80::1%eth0:8080 x", "fe80::/48 fe80::/48 x"),
        ("10.0.0.1:8080", "10.0.0.0/24"),
        ("X-Forwarded-For: 10.1.2.3, 2001:db8::1", "X-Forwarded-For: 10.1.2.0/24, 2001:db8::/48"),
        ("Failed from 2001:db8::7: port 22. Then 10.0.0.9.", "Failed from 2001:db8::/48: port 22. Then 10.0.0.0/24."),
        ("2001:db8:1:2:3:4:5:6:8080", "2001:db8:1::/48"),
        ("2001:db8::1.Next ::ffff:1.2.3.4.Next", "2001:db8::/48.Next 1.2.3.0/24.Next"),
        ("1:2:3:4:5:6:77.7.7.7:80 ::ffff:7.7.7.7:80 x", "1:2:3::/48 7.7.7.0/24 x"),
        (
            "http://[::ffff:10.0.0.7]:80/x?a=2001:db8::1%25eth0&b=fe80::1/64",
            "http://10.0.0.0/24/x?a=2001:db8::/48&b=fe80::/48",
        ),
        ("010.000.000.001 ::ffff:010.0.0.1", "10.0.0.0/24 ::/48:10.0.0.0/24"),
        ("face:2001:db8:1:2:3:4:5:6", "face:2001:db8::/48"),
        ("10.0.0.1:12:30:00", "10.0.0.0/24:12:30:00"),
    ],
)
def test_c20_addresses_in_text_are_cut_with_their_ports_and_zones(text: str, cut: str) -> None:
    assert cut == truncate_in(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12:34:56",
        "aa:bb:cc:dd:ee:ff",
        "std::vector",
        "a :: b",
        "1.2.3.4.5",
        "999.1.1.1",
        "3.14",
        "[12:30]",
        "::ggg",
    ],
)
def test_text_without_an_address_stays_as_it_is(text: str) -> None:
    assert text == truncate_in(text)


def spellings(address: IPv4Address | IPv6Address) -> list[str]:
    """The ways in which one address is written."""
    if isinstance(address, IPv4Address):
        return [str(address), ".".join(f"{part:03}" for part in address.packed), f"{address}:8080", f"{address}/32"]
    short, whole = str(address), address.exploded
    return [short, short.upper(), whole, f"{short}%eth0", f"{whole}:49255", f"{short}/128", f"[{short}]:443"]


holding_no_other = st.ip_addresses().filter(lambda each: each.version == 4 or int(each) >> 112 not in (0, 0x64, 0x2002))


@given(holding_no_other, st.integers(0, 2**80 - 1), st.sampled_from(INSIDE_TEXT))
def test_c20_two_addresses_of_one_network_leave_the_same_text(
    address: IPv4Address | IPv6Address, other: int, text: str
) -> None:
    bits = 8 if isinstance(address, IPv4Address) else 80
    neighbour = type(address)(int(address) >> bits << bits | other % 2**bits)
    for one, two in zip(spellings(address), spellings(neighbour), strict=True):
        cut = truncate_in(text.replace("{}", one))
        assert cut == truncate_in(text.replace("{}", two))
        assert cut == truncate_in(cut)
        assert str(ip_network((int(address), 24 if address.version == 4 else 48), strict=False)) in cut


def test_a_long_line_of_colons_takes_no_longer_per_character() -> None:
    assert truncate_in("a:" * 4_000 + "2001:db8::7").endswith("2001:db8::/48")
    for run in ("1.", ":", "1:", "[", "%", "."):
        truncate_in(run * 4_000)

"""IP addresses cut to their networks, alone and inside text, whatever they are wrapped in.

Source of the forms that hold an IPv4 address: RFC 4291 section 2.5.5 (mapped, compatible), RFC 6052 (64:ff9b::/96),
RFC 3056 (2002::/16). Other transition prefixes keep it behind the first 63 bits, which are all that a TruncatedIp
shows.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

from privkit.errors import InvalidValue
from privkit.precisions import TruncatedIp

_6TO4 = IPv6Network("2002::/16")
_LAST_32_BITS = tuple(IPv6Network(each) for each in ("::ffff:0:0/96", "64:ff9b::/96"))
_COMPATIBLE = IPv6Network("::/96")
_LOWEST_COMPATIBLE = 1 << 24  # below are ::, ::1 and what no network has: 0.0.0.0/8

_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)(?:%[^\]\s]{1,64})?\](?::\d{1,5}(?!\d))?")
_SHORT_PORT = r"(?::\d{1,5}(?![\d:]))?"
_ZONE_AND_LENGTH = rf"(?:%\w+(?:[.~-]\w+(?![\w:]))*{_SHORT_PORT})?(?:/\d{{1,3}}(?!\d))?"
# A dot belongs to it where a dotted quad goes on only: a sentence may end with the address.
_WITH_COLONS = re.compile(rf"([0-9A-Za-z:]+(?:(?<=\d)(?:\.\d{{1,3}}){{3}}(?!\.?\d){_SHORT_PORT})?)({_ZONE_AND_LENGTH})")
_PORT = re.compile(r":[0-9A-Fa-f]{1,5}$")
_QUAD = re.compile(
    r"(?<!\d)(?<!\d\.)(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?!\d)(?!\.\d)"
    rf"{_SHORT_PORT}(/\d{{1,2}}(?!\d))?"
)
_MOST_GROUPS = 10
"""Parts between colons that one address may have: eight groups, and an empty one where :: begins or ends it."""


def truncated(precision: TruncatedIp, text: str) -> str:
    """Return the network of an address or network, as ``"203.0.113.0/24"``; a zone id is dropped.

    Raises InvalidValue for text that is no address.
    """
    network = _network(text)
    if network is None:
        raise InvalidValue("A TruncatedIp was asked of text that is no IP address.", "", "Store addresses alone.")
    return _cut(precision, network)


def truncate_in(text: str, precision: TruncatedIp | None = None) -> str:
    """Return ``text`` with every IP address in it cut to its network, without its port and zone id.

    It finds addresses in sentences, lists, URLs and brackets. Where it cannot tell, it cuts: four small numbers with
    dots between count as an address, and so do hexadecimal words round a double colon. It does not see an address
    that is spelt otherwise, such as ``203-0-113-7.example``, ``7.113.0.203.in-addr.arpa`` or one number.
    """
    wanted = precision or TruncatedIp()
    text = _BRACKETED.sub(lambda match: match[1] if ":" in match[1] and _network(match[1]) else match[0], text)
    text = _WITH_COLONS.sub(lambda match: _cut_groups(wanted, match), text)
    return _QUAD.sub(lambda match: _cut_quad(wanted, match), text)


def _network(text: str) -> IPv4Network | IPv6Network | None:
    address, _, rest = text.strip().partition("%")
    length = rest[rest.index("/") :] if "/" in rest else ""
    try:
        return ip_network(address + length, strict=False)
    except ValueError:
        return None


def _cut(precision: TruncatedIp, network: IPv4Network | IPv6Network) -> str:
    if isinstance(network, IPv6Network):
        network = _inner(network) or network
    longest = precision.v4 if isinstance(network, IPv4Network) else precision.v6
    return str(network if network.prefixlen <= longest else network.supernet(new_prefix=longest))


def _inner(network: IPv6Network) -> IPv4Network | None:
    """Return the IPv4 network that an IPv6 one holds."""
    number, length = int(network.network_address), network.prefixlen
    if network.subnet_of(_6TO4):
        return ip_network((number >> 80 & 0xFFFF_FFFF, min(length - 16, 32)))  # type: ignore[return-value]
    compatible = network.subnet_of(_COMPATIBLE) and number >= _LOWEST_COMPATIBLE
    if compatible or any(network.subnet_of(each) for each in _LAST_32_BITS):
        return ip_network((number & 0xFFFF_FFFF, length - 96))  # type: ignore[return-value]
    return None


def _cut_groups(precision: TruncatedIp, match: re.Match[str]) -> str:
    """Cut the addresses in a run of words with colons between them: the longest that starts farthest to the left."""
    if match[1].count(":") < 2:
        return match[0]
    groups, done, start = match[1].split(":"), [], 0
    while start < len(groups):
        end = _address_end(groups, start)
        if not end:
            done.append(groups[start])
            start += 1
            continue
        rest = ":".join(["", *groups[end:]]) if end < len(groups) else ""
        found, last = ":".join(groups[start:end]), not rest or bool(_PORT.fullmatch(rest))
        network = _network(found + match[2] if last else found)
        done.append(_cut(precision, network or ip_network(found)))
        if last:
            return ":".join(done)
        start = end
    return ":".join(done) + match[2]


def _address_end(groups: list[str], start: int) -> int:
    """Return where the longest address that begins at ``start`` ends, or 0 where none does."""
    for end in range(min(len(groups), start + _MOST_GROUPS), start + 2, -1):
        text = ":".join(groups[start:end])
        if text.strip(":"):
            try:
                IPv6Address(text)
            except ValueError:
                continue
            return end
    return 0


def _cut_quad(precision: TruncatedIp, match: re.Match[str]) -> str:
    parts = [int(part) for part in match.groups()[:4]]  # by number: one with leading zeros is an address too
    if max(parts) > 255:
        return match[0]
    quad = ".".join(map(str, parts))
    network = _network(quad + (match[5] or "")) or ip_network(quad)
    return _cut(precision, network)

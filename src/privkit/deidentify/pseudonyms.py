"""Keyed tokens: equal values of one domain stay equal, and without the key nobody can test a guess."""

from __future__ import annotations

import hmac
from unicodedata import normalize

from privkit.errors import InvalidValue, KeyringError

_KEY_BYTES = 16
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS = [first + second for first in _LETTERS for second in _LETTERS]
"""Base32 of ten bits at a time: the standard library's goes byte by byte, which took longer than all the rest."""


def token(key: bytes, domain: str, value: str) -> str:
    """Return the pseudonym of ``value`` in ``domain``: 24 characters (120 bits), a-z and 2-7.

    It depends on the key, the domain and the normalised value alone, so it joins across tables and runs, and
    two domains do not match. Spellings that differ in case, outer blanks or Unicode form are one value; the
    empty string is a value too. HMAC-SHA256, RFC 2104; base32, RFC 4648.

    Raises InvalidValue for a value or domain that is not text, None above all: unknown is not a person.
    Raises KeyringError for a key under 16 bytes.
    """
    if not isinstance(key, bytes) or len(key) < _KEY_BYTES:
        raise KeyringError(
            f"A pseudonym needs a secret key of at least {_KEY_BYTES} bytes.",
            "Without one, every name or number can be recovered by trying them all.",
            "Take the key from the keyring.",
        )
    if not isinstance(value, str) or not isinstance(domain, str) or not domain:
        raise InvalidValue(
            "A pseudonym is made from text, in a named domain.",
            "A token for a missing value would look like a person.",
            "Leave None as None, and give other values as text.",
        )
    message = _prefixed(domain) + _prefixed(normalised(value))
    number = int.from_bytes(hmac.digest(key, message, "sha256")[:15], "big")
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(110, -1, -10)])


def normalised(value: str) -> str:
    """Return the spelling that stands for all caseless, compatible ones. Source: Unicode 3.13, definition D146."""
    if value.isascii():
        return value.lower().strip()  # the same, in a tenth of the time
    folded = normalize("NFKD", normalize("NFD", value).casefold()).casefold()
    return normalize("NFKC", folded).strip()


def _prefixed(text: str) -> bytes:
    # A lone surrogate must not raise: UnicodeEncodeError carries the value.
    data = text.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(8, "big") + data

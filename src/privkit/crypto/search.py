"""Keyed index hashes: how a sealed field is found by equality.

The one place that normalises a searched value, so that writing and querying cannot disagree. The version and the
number of the index key stand first in every hash: stored hashes of an old version or key show themselves, and are
rebuilt. The full width is kept: a shorter hash would give rows that are not meant, which count() and joins keep.
Casing and composition come from Python's Unicode tables, which know more characters from one release to the next.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from typing import Any
from unicodedata import decimal, normalize

from privkit.crypto.aead import require_key
from privkit.crypto.codec import codec_for
from privkit.crypto.envelope import length_prefixed
from privkit.errors import InvalidValue, MappingError

NORMALISER_VERSION = 1
INDEX_SIZE = 16
PREFIX_SIZE = 2
_TEXT = codec_for(str)
_IDN = "xn--"
_LONGEST_LABEL = 63
_UNROUNDED = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)


def key_name(number: int) -> str:
    """Return what a keyring's secret for the index key of this number is called."""
    return "index" if number == 1 else f"index:{number}"


def prefix(number: int) -> bytes:
    """Return how every present hash under the index key of this number begins."""
    return bytes((NORMALISER_VERSION, number))


def index_hash(key: bytes, field_id: str, normaliser: str, value: Any, number: int = 1) -> bytes:
    """Return 16 bytes: ``prefix(number)``, then 14 bytes of HMAC-SHA256 over field, normaliser and value.

    ``key``: ``Keyring.secret(key_name(number))``. A value that is not text takes ``"exact"`` only, and equal values
    (2.0 and 2.00 as Decimal, one instant at two offsets) hash alike. Raises MappingError for an unknown normaliser or
    type, InvalidValue where the two do not fit, KeyringError for a key that is not 32 bytes.
    """
    require_key(key)
    normalise = NORMALISERS.get(normaliser)
    if normalise is None:
        raise MappingError(
            f"There is no normaliser {normaliser!r}.",
            "Values cannot be indexed without one.",
            f"Use one of: {', '.join(NORMALISERS)}.",
            normaliser=normaliser,
        )
    if isinstance(value, str):
        value = normalise(str.__str__(value))  # the text of a str Enum too
    elif normaliser != "exact":
        raise InvalidValue(
            f"The normaliser {normaliser!r} takes text, not {type(value).__name__}.",
            fix='Use search=Equality("exact") on this field.',
        )
    data = length_prefixed(field_id.encode(), normaliser.encode(), _value_bytes(value))
    return prefix(number) + hmac.digest(key, data, "sha256")[: INDEX_SIZE - PREFIX_SIZE]


def _value_bytes(value: Any) -> bytes:
    """The value's sealed form, after bringing values that compare equal to one form."""
    if type(value) is str:
        return _TEXT.encode(value)
    if isinstance(value, float):
        value = float(value) + 0.0  # -0.0 to 0.0
    elif isinstance(value, Decimal) and value.is_finite():
        value = value.normalize(_UNROUNDED) if value else Decimal()
    elif isinstance(value, datetime):
        value = (value.astimezone(UTC) if value.tzinfo else value).replace(fold=0)
    return codec_for(type(value)).encode(value)


def _exact(text: str) -> str:
    return text


def _case(text: str) -> str:
    """Caseless and without surrounding white space, no-break spaces included."""
    return _fold(text).strip()  # last, as NFKC brings out spaces: the diaeresis is one with a mark


def _fold(text: str) -> str:
    return normalize("NFKC", normalize("NFKC", text).casefold())


def _email(text: str) -> str:
    """Caseless, with the domain in its ASCII form (RFC 3490), or as it is where it has none."""
    local, at, domain = _case(text).rpartition("@")
    return f"{local}{at}{_ascii_domain(domain)}" if at else domain


def _ascii_domain(domain: str) -> str:
    domain = ".".join(_unicode_label(label) for label in domain.split("."))
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        return domain


def _unicode_label(label: str) -> str:
    """Undo punycode, so that both spellings of a domain go through the same folding."""
    if not label.startswith(_IDN) or len(label) > _LONGEST_LABEL:
        return label
    try:
        decoded = label.removeprefix(_IDN).encode("ascii").decode("punycode")
    except UnicodeError:
        return label
    folded = _fold(decoded)
    forged = decoded.isascii() or not folded or folded.startswith(_IDN) or "@" in folded or "." in folded
    return label if forged else folded


def _digits(text: str) -> str:
    return "".join(str(decimal(character)) for character in text if character.isdecimal())


def _phone(text: str) -> str:
    digits = _digits(text)
    before = next((text[:at] for at, character in enumerate(text) if character.isdecimal()), text)
    if "+" in before or "\uff0b" in before or digits.startswith("00"):
        return "+" + digits.lstrip("0")  # no country code begins with 0 (ITU-T E.164)
    return digits


NORMALISERS: Mapping[str, Callable[[str], str]] = {
    "exact": _exact,
    "case": _case,
    "email": _email,
    "digits": _digits,
    "phone": _phone,
}

"""Tokens of guardians: short texts for a link, under a key of the keyring's own. Nothing personal is in them.

    kind 1 | id of the request 16 | expires 8 (microseconds since 1970, big endian; 0: never) | HMAC-SHA256 32

in base64 for URLs: 76 characters, without padding or unused bits, so that one token has one spelling. The one that
answers is bound to what was asked, which the database holds; the one that withdraws is bound to its request alone, as
it can only take away.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from privkit.crypto.envelope import length_prefixed
from privkit.errors import TokenRefused

ANSWER, WITHDRAWAL = b"\x01", b"\x02"
ID_SIZE = 16
_HEAD, _SIZE = 1 + ID_SIZE + 8, 1 + ID_SIZE + 8 + 32
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)

_REFUSALS = {
    "unknown": (
        "This token is not one that was given out here.",
        "It was altered or cut off, or it belongs to another service, or to a database or child whose keys changed.",
        "Use the link as it was sent, whole; or ask the guardian anew: privacy.consent.ask(...).",
    ),
    "expired": (
        "This token has expired.",
        "An old message is not to decide about a child.",
        "Ask the guardian anew: privacy.consent.ask(...).",
    ),
    "used": (
        "This token was answered already, or its guardian is one no more.",
        "It answers once; what was said stands.",
        "To take consent away, use the token that the answer gave; to give it, ask anew: privacy.consent.ask(...).",
    ),
    "gone": (
        "The data subject of this token was erased.",
        "There is nothing that consent could be about.",
        "Nothing has to be done.",
    ),
    "of_age": (
        "The data subject of this token is of age.",
        "Consent is the data subject's own now.",
        "Ask the data subject.",
    ),
    "superseded": (
        "The text that this token shows is no longer in force.",
        "Consent on it would not count.",
        "Ask the guardian anew, with the newest notice: privacy.consent.ask(..., notice=...).",
    ),
}


@dataclass(frozen=True, slots=True, repr=False)
class Token:
    """A token as it was parsed: nothing of it is proven yet. Its repr shows none of it, since it is a permission."""

    kind: bytes
    id: bytes
    expires: datetime | None
    tag: bytes

    def verify(self, secret: bytes, *bound: bytes) -> None:
        """Raise TokenRefused unless ``write`` made it with the same secret and the same ``bound``."""
        if not hmac.compare_digest(self.tag, _tag(secret, _head(self.kind, self.id, self.expires), bound)):
            raise refused("unknown")


def write(secret: bytes, kind: bytes, request: bytes, expires: datetime | None, *bound: bytes) -> str:
    """Return a token for the request of an id, bound to whatever ``bound`` is."""
    head = _head(kind, request, expires)
    return urlsafe_b64encode(head + _tag(secret, head, bound)).decode("ascii")


def parse(text: object, *kinds: bytes) -> Token:
    """Return a token of one of ``kinds``. Raises TokenRefused for what cannot be one."""
    try:
        raw = urlsafe_b64decode(text) if isinstance(text, str) else b""
    except ValueError:
        raw = b""
    # Decoding passes over what is no base64; only what is written like this is a token.
    if len(raw) != _SIZE or urlsafe_b64encode(raw).decode("ascii") != text or raw[:1] not in kinds:
        raise refused("unknown")
    expires = int.from_bytes(raw[1 + ID_SIZE : _HEAD], "big")
    try:
        when = _EPOCH + expires * _MICROSECOND if expires else None
    except OverflowError:
        raise refused("unknown") from None
    return Token(raw[:1], raw[1 : 1 + ID_SIZE], when, raw[_HEAD:])


def refused(reason: str, locale: str | None = None) -> TokenRefused:
    """Return the error for why a token cannot be used. ``locale``: in which its guardian was asked, where known."""
    what, why, fix = _REFUSALS[reason]
    return TokenRefused(what, why, fix, reason=reason, locale=locale)


def _head(kind: bytes, request: bytes, expires: datetime | None) -> bytes:
    count = 0 if expires is None else (expires - _EPOCH) // _MICROSECOND
    return kind + request + count.to_bytes(8, "big")


def _tag(secret: bytes, head: bytes, bound: tuple[bytes, ...]) -> bytes:
    return hmac.digest(secret, length_prefixed(head, *bound), "sha256")

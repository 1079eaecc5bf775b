"""Which rows a plan was made for, without their keys: a keyed fingerprint of each, in an order that tells nothing.

A run compares them with what is due when it starts, and so can say how many rows came and how many went. The key
of the fingerprints is derived from the keyring and the plan's salt: whoever has the plan alone cannot try out keys.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from privkit.crypto.envelope import length_prefixed
from privkit.errors import KeyringError
from privkit.sqlalchemy.guard import Guard

LIMIT = 100_000
"""Up to how many rows a step is committed to row by row. Above that its number counts alone."""

_SIZE = 5
"""Bytes of a fingerprint: one of 100,000 rows equals that of a new row once in ten million times."""


def key(guard: Guard, salt: str) -> bytes | None:
    """Return the key of a plan's fingerprints, or None without a keyring: a plan can be made without one."""
    try:
        secret = guard.keyring.secret("plan")
    except KeyringError:
        return None
    return hmac.digest(secret, salt.encode(), "sha256")


def fingerprints(rows: Sequence[Sequence[Any]], under: bytes) -> frozenset[bytes]:
    """Return the fingerprint of each row's key."""
    return frozenset(
        hashlib.blake2b(length_prefixed(*map(_bytes, row)), key=under, digest_size=_SIZE).digest() for row in rows
    )


def _bytes(part: Any) -> bytes:
    return bytes(part) if isinstance(part, bytes | bytearray | memoryview) else str(part).encode()


def write(found: frozenset[bytes]) -> str:
    """Return fingerprints as text, sorted: their order says nothing of the rows'."""
    return base64.b64encode(b"".join(sorted(found))).decode("ascii")


def read(text: str) -> frozenset[bytes]:
    """Return the fingerprints of a text. Raises ValueError for one that ``write`` did not write."""
    whole = base64.b64decode(text, validate=True)
    if len(whole) % _SIZE:
        raise ValueError
    return frozenset(whole[start : start + _SIZE] for start in range(0, len(whole), _SIZE))

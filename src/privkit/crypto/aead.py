"""The one cipher: AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce for each call.

Nothing else in privkit seals or opens a stored value. Random nonces are safe up to 2**32 calls for one key (SP
800-38D, section 8.3); a value's key serves one field of one data subject, so it stays far below. Beside it stands
AES-SIV (RFC 5297), which has no nonce, for tokens that are equal for equal values and can be turned back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import urandom
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

from privkit.errors import KeyringError, SealedError

KEY_SIZE = 32
NONCE_SIZE = 12
TAG_SIZE = 16

Draw = Callable[[], bytes]
"""Returns a nonce that it returned to nobody else."""


class KeyMaterial:
    """Base of everything that holds a key: its repr shows none, and it is neither pickled nor copied."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __reduce__(self) -> NoReturn:
        raise KeyringError(
            f"{type(self).__name__} holds keys and cannot be pickled or copied.",
            "The keys would travel in the pickle, unsealed.",
            "Build it anew where it is needed, for example FileKeyring(PATH) in each process.",
        )


class Aead(KeyMaterial):
    """AES-256-GCM under one key of 32 bytes. Raises KeyringError for a key of another length."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        require_key(key)
        self._cipher = AESGCM(key)

    def encrypt(self, plaintext: bytes, associated: bytes, header: bytes = b"", draw: Draw | None = None) -> bytes:
        """Return header | nonce (12 bytes) | ciphertext | tag (16 bytes), authenticated together with ``associated``.

        ``draw``: what ``nonces`` returned, and nothing else; without it the nonce is drawn here.
        """
        nonce = urandom(NONCE_SIZE) if draw is None else draw()
        return header + nonce + self._cipher.encrypt(nonce, plaintext, associated)

    def decrypt(self, sealed: bytes, associated: bytes, start: int = 0) -> bytes:
        """Return the plaintext of what stands from byte ``start`` on.

        Raises SealedError unless ``sealed`` and ``associated`` are exactly what was made.
        """
        end = start + NONCE_SIZE
        try:
            return self._cipher.decrypt(sealed[start:end], sealed[end:], associated)
        except (InvalidTag, ValueError):
            pass  # raised below instead, so that no context is chained
        raise SealedError(
            "A sealed value did not open.",
            "It was damaged, or moved from another field or data subject, or sealed under another key.",
            "If its table or column was renamed, give the field its former id (formerly=). Else restore the row from\n"
            "a backup, and find what wrote to it outside privkit.",
        )


class Siv(KeyMaterial):
    """AES-256-SIV under one key of 64 bytes: the same plaintext gives the same token, and only the same."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = AESSIV(key)

    def hide(self, plaintext: bytes, associated: bytes) -> bytes:
        """Return synthetic nonce (16 bytes) | ciphertext, authenticated together with ``associated``."""
        return self._cipher.encrypt(plaintext, [associated])

    def turn_back(self, token: bytes, associated: bytes) -> bytes:
        """Return the plaintext. Raises SealedError unless ``token`` was made of it under this key."""
        try:
            return self._cipher.decrypt(token, [associated])
        except (InvalidTag, ValueError):
            pass  # as above
        raise SealedError(
            "A reversible token did not turn back.",
            "It was damaged, or made in another domain or under another key.",
            "Name the domain that it was made in, and take the key from the keyring of that time.",
        )


def nonces(count: int) -> Draw:
    """Return a function that hands out nonces which were drawn together, about ``count`` of them and then more.

    For the values of one statement, by one thread. It is never kept: after a fork a store of nonces would be
    the same in parent and child.
    """
    return _drawn(min(max(count, 1), 4096)).__next__


def _drawn(count: int) -> Iterator[bytes]:
    while True:
        together = urandom(NONCE_SIZE * count)
        for start in range(0, len(together), NONCE_SIZE):
            yield together[start : start + NONCE_SIZE]


def require_key(key: bytes) -> None:
    """Raise KeyringError unless ``key`` has the length of a key."""
    if len(key) != KEY_SIZE:
        raise KeyringError(
            f"A key of {len(key)} bytes was given; a key is {KEY_SIZE} bytes.",
            "A shorter key would protect less than the envelope says.",
            "Draw it with SubjectKey.new() or FileKeyring.create(PATH).",
            size=len(key),
        )

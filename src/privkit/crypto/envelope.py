"""Envelope v1, the bytes of a sealed value on disk.

    version 1 | suite 1 | subject key id 16 | epoch 4 (big endian) | nonce 12 | ciphertext | tag 16

Suite 1 is AES-256-GCM. Version, suite, field id, key id and epoch are authenticated with the value, each after
its length in 4 bytes, so an envelope that is moved to another field, data subject or epoch does not open.
"""

from __future__ import annotations

from binascii import unhexlify
from functools import lru_cache
from typing import NamedTuple, NoReturn

from privkit.crypto.aead import NONCE_SIZE, TAG_SIZE, Aead, Draw
from privkit.errors import InvalidValue, SealedError

VERSION = b"\x01"
SUITE = b"\x01"
DESTROYED = b"\x00"
"""What a NOT NULL sealed column holds once its value was destroyed."""

KEY_ID_SIZE = 16
EPOCH_SIZE = 4
_KEY_ID = slice(2, 2 + KEY_ID_SIZE)
_EPOCH = slice(_KEY_ID.stop, _KEY_ID.stop + EPOCH_SIZE)
HEADER_SIZE: int = _EPOCH.stop
"""How many bytes of an envelope say what opens it: version, suite, key id and epoch."""
_KEY_ID_LENGTH, _EPOCH_LENGTH = KEY_ID_SIZE.to_bytes(4, "big"), EPOCH_SIZE.to_bytes(4, "big")
OVERHEAD = HEADER_SIZE + NONCE_SIZE + TAG_SIZE
"""How many bytes longer than its plaintext an envelope is."""


class Header(NamedTuple):
    """Which key opens an envelope: the subject key's id (16 bytes) and the epoch (0: none)."""

    key_id: bytes
    epoch: int


_encrypt = Aead.encrypt
open_own = Aead.decrypt
"""``open_own(key, envelope, key.associated, HEADER_SIZE)`` opens an envelope in a loop, where ``key`` was found by it.

The whole header has to have been looked up: it is not compared again, and what is authenticated is the key's own.
"""


class ValueKey(Aead):
    """Seals and opens the values of one field of one data subject in one epoch.

    ``secret``: the 32 bytes derived for them. Raises InvalidValue for an epoch outside 0 to 2**32 - 1.
    """

    __slots__ = ("associated", "header")

    def __init__(self, secret: bytes, key_id: bytes, epoch: int, field_id: str) -> None:
        super().__init__(secret)
        self.header = header(key_id, epoch)
        self.associated = _associated(field_id) + _KEY_ID_LENGTH + key_id + _EPOCH_LENGTH + self.header[_EPOCH]

    def seal(self, plaintext: bytes, draw: Draw | None = None) -> bytes:
        """Return an envelope, ``OVERHEAD`` bytes longer than ``plaintext``. ``draw``: what ``aead.nonces`` returned."""
        return _encrypt(self, plaintext, self.associated, self.header, draw)

    def open(self, envelope: bytes) -> bytes:
        """Return the plaintext. Raises SealedError for an envelope of another key or epoch, moved or damaged."""
        if envelope[:HEADER_SIZE] != self.header:
            _refuse(envelope, parse(self.header + bytes(OVERHEAD)))
        return open_own(self, envelope, self.associated, HEADER_SIZE)


def header(key_id: bytes, epoch: int = 0) -> bytes:
    """Return the first ``HEADER_SIZE`` bytes of an envelope under a subject key in an epoch.

    Raises InvalidValue for a key id of another length, or an epoch outside 0 to 2**32 - 1.
    """
    if len(key_id) != KEY_ID_SIZE:
        raise InvalidValue(f"A key id is {KEY_ID_SIZE} bytes, not {len(key_id)}.")
    if not 0 <= epoch < 1 << 8 * EPOCH_SIZE:
        raise InvalidValue("An epoch is a whole number from 0 to 4294967295.")
    return VERSION + SUITE + key_id + epoch.to_bytes(EPOCH_SIZE, "big")


@lru_cache(maxsize=4096)
def _associated(field_id: str) -> bytes:
    return length_prefixed(VERSION, SUITE, field_id.encode())


def as_bytes(stored: object) -> bytes:
    """Return the envelope in whatever form a driver hands it back: bytes, bytearray, memoryview or hex text.

    Text is PostgreSQL's ``\\x...`` or plain hex. Raises SealedError for anything else.
    """
    if type(stored) is bytes:
        return stored
    if isinstance(stored, bytes | bytearray | memoryview):
        return bytes(stored)
    if isinstance(stored, str):
        try:
            return unhexlify(stored.removeprefix("\\x"))
        except ValueError:
            pass  # raised below: the original error may hold the text
    raise SealedError(
        f"A sealed column holds {type(stored).__name__} that is no envelope.",
        "It was written outside privkit, perhaps before the column was sealed.",
        "Seal what is already stored before the column is read.",
        stored_type=type(stored).__name__,
    )


def parse(envelope: bytes) -> Header:
    """Read which key opens ``envelope``. Raises SealedError for another version or suite, or too few bytes."""
    if envelope[:2] != VERSION + SUITE or len(envelope) < OVERHEAD:
        _refuse_format(envelope)
    return Header(envelope[_KEY_ID], int.from_bytes(envelope[_EPOCH], "big"))


def length_prefixed(*parts: bytes) -> bytes:
    """Join ``parts``, each after its length in 4 bytes, so that no two lists give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _refuse(envelope: bytes, expected: Header) -> NoReturn:
    found = parse(envelope)
    other = "data subject" if found.key_id != expected.key_id else "epoch"
    raise SealedError(
        f"A sealed value belongs to another {other}.",
        "It was moved from another row, or its owner was changed without sealing it again.",
        "Write the value through privkit, which seals it for its owner.",
    )


def _refuse_format(envelope: bytes) -> NoReturn:
    if envelope == DESTROYED:
        raise SealedError("A sealed value was destroyed.", "Its lifetime ended, or it was erased.")
    if len(envelope) < OVERHEAD:
        what = f"A sealed value has {len(envelope)} bytes; the shortest envelope has {OVERHEAD}."
        why = "It was cut off, or written outside privkit."
    else:
        what = "A sealed value has another version or suite than the ones this release opens (1 and 1)."
        why = "It was written by another release, or outside privkit."
    raise SealedError(what, why, "Restore the row from a backup, or upgrade privkit.")

"""A passphrase over a whole document: scrypt (RFC 7914) with stored parameters gives the key of one sealed payload.

{"privkit_keyring": 1, "sealed_by": "passphrase",
 "scrypt": {"n": 131072, "r": 8, "p": 1, "salt": BASE64}, "payload": BASE64}
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from privkit.crypto.aead import KEY_SIZE, Aead, KeyMaterial
from privkit.crypto.document import FORMAT, Place, as_json, decoded, encoded
from privkit.crypto.envelope import length_prefixed
from privkit.errors import SealedError

WORK = 1 << 17
"""scrypt's N for a new keyring: 128 MiB and a third of a second, the first choice of OWASP's Password Storage Sheet."""

_SALT_SIZE = 16
_MAX_MEMORY = 1 << 30


class _Costs(NamedTuple):
    n: int
    r: int
    p: int
    salt: bytes


class Passphrase(KeyMaterial):
    """Seals and opens a document under a passphrase, or under what a callable returns when it is first needed.

    The key is derived once for the parameters of a file, which are kept when the file changes. Two ways to type the
    same letters are one passphrase (Unicode NFC).
    """

    __slots__ = ("_derived", "_passphrase")

    def __init__(self, passphrase: str | Callable[[], str]) -> None:
        self._passphrase = passphrase
        self._derived: tuple[_Costs, Aead] | None = None

    def sealed(self, place: Place, content: bytes) -> bytes:
        """Return the sealed document's bytes. Raises KeyringError for an empty passphrase."""
        known = self._derived
        costs = known[0] if known is not None else _Costs(WORK, 8, 1, os.urandom(_SALT_SIZE))
        encrypt = self._cipher(place, costs).encrypt
        return as_json(
            {
                "privkit_keyring": FORMAT,
                "sealed_by": "passphrase",
                "scrypt": {**costs._asdict(), "salt": encoded(costs.salt)},
                "payload": encoded(encrypt(content, _associated(costs))),
            }
        )

    def opened(self, place: Place, members: Mapping[str, Any]) -> bytes:
        """Return the document's bytes. Raises KeyringError where the passphrase is wrong or the file is damaged."""
        costs = _costs(place, members.get("scrypt"))
        payload = decoded(members.get("payload"))
        decrypt = self._cipher(place, costs).decrypt
        try:
            return decrypt(payload, _associated(costs))
        except SealedError:
            self._derived = None
        raise place.unusable(
            "does not open: the passphrase is wrong, or the file was altered",
            "Give the passphrase that it was created with. If that is the one, restore the file from its backup.",
        )

    def _cipher(self, place: Place, costs: _Costs) -> Aead:
        known = self._derived
        if known is None or known[0] != costs:
            kdf = Scrypt(salt=costs.salt, length=KEY_SIZE, n=costs.n, r=costs.r, p=costs.p)
            self._derived = known = (costs, Aead(kdf.derive(self._entered(place))))
        return known[1]

    def _entered(self, place: Place) -> bytes:
        given = self._passphrase if isinstance(self._passphrase, str) else self._passphrase()
        if not isinstance(given, str) or not given:
            raise place.unusable("was given an empty passphrase, or one that is not text", "Give a str of any length.")
        try:
            return unicodedata.normalize("NFC", given).encode()
        except UnicodeEncodeError:
            pass  # raised below instead: the chained error would hold the passphrase
        raise place.unusable("was given a passphrase that is not valid Unicode", "Give text without lone surrogates.")


def _costs(place: Place, found: object) -> _Costs:
    """Return scrypt's parameters, within bounds: a planted file must not take all memory."""
    if isinstance(found, dict):
        n, r, p, salt = found.get("n"), found.get("r"), found.get("p"), decoded(found.get("salt"))
        if type(n) is type(r) is type(p) is int:
            assert isinstance(n, int)
            assert isinstance(r, int)
            assert isinstance(p, int)
            if _bearable(n, r, p) and len(salt) >= _SALT_SIZE:
                return _Costs(n, r, p, salt)
    raise place.damaged("has no usable scrypt parameters")


def _bearable(n: int, r: int, p: int) -> bool:
    return n >= 1 << 14 and n & (n - 1) == 0 and r >= 1 and 1 <= p <= 16 and 128 * n * r <= _MAX_MEMORY


def _associated(costs: _Costs) -> bytes:
    numbers = (number.to_bytes(8, "big") for number in (costs.n, costs.r, costs.p))
    return length_prefixed(b"privkit keyring under a passphrase v1", *numbers, costs.salt)

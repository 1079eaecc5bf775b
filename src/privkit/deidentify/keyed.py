"""What is drawn from a key in place of chance: the same whenever the same is asked, and nobody's guess without it."""

from __future__ import annotations

import hmac
from hashlib import shake_256

from privkit.crypto.aead import Siv, require_key
from privkit.crypto.envelope import length_prefixed
from privkit.crypto.keys import derive

ROUNDS = 10


def drawn(key: bytes, use: str, *parts: str) -> bytes:
    """Return 32 bytes: HMAC-SHA256 (RFC 2104) of the use and the parts. Raises KeyringError for no key of 32 bytes."""
    require_key(key)
    # A lone surrogate must not raise: UnicodeEncodeError carries the value.
    data = [part.encode("utf-8", "surrogatepass") for part in (f"privkit {use} v1", *parts)]
    return hmac.digest(key, length_prefixed(*data), "sha256")


def below(key: bytes, count: int, use: str, *parts: str) -> int:
    """Return a number of 0 to ``count - 1``, each as likely as the others but for one part in 2**128."""
    seed = drawn(key, use, *parts)
    return int.from_bytes(shake_256(seed).digest((count.bit_length() + 7) // 8 + 16)) % count


def permuted(key: bytes, number: int, count: int, *tweak: str) -> int:
    """Return the place of ``number`` in a keyed order of 0 to ``count - 1``: another number has another place.

    A Feistel network of ten rounds over two near-equal parts, walked until it is inside (Black and Rogaway, CT-RSA
    2002; ten rounds as in FF1, NIST SP 800-38G). What has few neighbours can hide among few only.
    """
    if count < 2:
        return number
    wide = int((count - 1).bit_length() + 1) // 2
    left_size = 1 << wide
    right_size = -(-count // left_size)
    while True:
        left, right = divmod(number, right_size)
        for turn in range(ROUNDS):
            if turn % 2:
                right = (right + below(key, right_size, "order", *tweak, hex(count), str(turn), hex(left))) % right_size
            else:
                left = (left + below(key, left_size, "order", *tweak, hex(count), str(turn), hex(right))) % left_size
        number = left * right_size + right
        if number < count:
            return number


def siv(key: bytes, domain: str) -> Siv:
    """Return the cipher of a domain's reversible tokens. Raises KeyringError for a key that is not 32 bytes."""
    require_key(key)
    halves = (derive(key, info=f"privkit reversible v1 {half}\0{domain}".encode()) for half in (1, 2))
    return Siv(b"".join(halves))

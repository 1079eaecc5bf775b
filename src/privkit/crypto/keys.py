"""A data subject's key, the value keys derived from it, and the cache that keeps subject keys for a short while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from datetime import timedelta
from hashlib import sha256
from os import urandom
from threading import RLock
from weakref import WeakValueDictionary

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privkit import clock
from privkit.crypto.aead import KEY_SIZE, KeyMaterial, require_key
from privkit.crypto.envelope import KEY_ID_SIZE, ValueKey
from privkit.errors import KeyringError


def derive(secret: bytes, *, info: bytes, salt: bytes = b"") -> bytes:
    """Derive 32 bytes by HKDF-SHA256 (RFC 5869). An empty ``salt`` is the RFC's default salt."""
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=salt or None, info=info).derive(secret)


class SubjectKey(KeyMaterial):
    """The key of one data subject, or of one epoch. ``id`` (16 bytes) commits to ``secret`` (32 bytes).

    Raises KeyringError for a secret of another length.
    """

    __slots__ = ("__weakref__", "_value_keys", "id", "secret")

    def __init__(self, secret: bytes) -> None:
        require_key(secret)
        self.secret = secret
        self.id = sha256(b"privkit subject key v1\0" + secret).digest()[:KEY_ID_SIZE]
        self._value_keys: dict[tuple[str, int, bytes], ValueKey] = {}

    @classmethod
    def new(cls) -> SubjectKey:
        """Draw a key at random."""
        return cls(urandom(KEY_SIZE))

    def value_key(self, field_id: str, epoch: int = 0, epoch_secret: bytes = b"") -> ValueKey:
        """Return the key of one field in one epoch, derived on first use.

        ``epoch`` 0 may do without a secret. Raises KeyringError for another epoch without one: such a value
        would outlive its epoch.
        """
        cached = self._value_keys.get((field_id, epoch, epoch_secret))
        return cached or self._derive(field_id, epoch, epoch_secret)

    def _derive(self, field_id: str, epoch: int, epoch_secret: bytes) -> ValueKey:
        if epoch and not epoch_secret:
            raise KeyringError(
                f"The key of epoch {epoch} is missing.",
                "A value sealed without it would stay readable after the epoch was destroyed.",
                "Load the epoch's key, or seal in epoch 0 (no epoch).",
                epoch=epoch,
            )
        secret = derive(self.secret, salt=epoch_secret, info=b"privkit value v1\0" + field_id.encode())
        made = ValueKey(secret, self.id, epoch, field_id)
        return self._value_keys.setdefault((field_id, epoch, epoch_secret), made)

    def __repr__(self) -> str:
        return f"<SubjectKey {self.id.hex()[:8]}>"


class KeyCache(KeyMaterial):
    """Subject keys by id, at most ``max_size`` of them, none older than ``max_age``. Thread safe.

    A key that somebody else still refers to (a result page does) is found by ``pinned`` after it left the cache.
    """

    __slots__ = ("_entries", "_lock", "_max_age", "_max_size", "_monotonic", "_pinned")

    def __init__(
        self,
        max_size: int = 20_000,
        max_age: timedelta = timedelta(minutes=5),
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._max_size, self._max_age, self._monotonic = max_size, max_age.total_seconds(), monotonic
        self._entries: OrderedDict[bytes, tuple[SubjectKey, float]] = OrderedDict()
        self._pinned: WeakValueDictionary[bytes, SubjectKey] = WeakValueDictionary()
        self._lock = RLock()

    def get(self, key_id: bytes) -> SubjectKey | None:
        """Return the key, or None when it is absent or older than the maximum age."""
        entry = self._entries.get(key_id)
        if entry is None:
            return None
        if self._monotonic() <= entry[1]:
            return entry[0]
        self._drop_expired()
        return None

    def pinned(self, key_id: bytes) -> SubjectKey | None:
        """Return the key while the cache or anybody else still holds it, else None."""
        self._drop_expired()
        with self._lock:
            return self._pinned.get(key_id)

    def put(self, keys: Iterable[SubjectKey]) -> None:
        """Keep ``keys``, which were just unwrapped, and evict the oldest beyond the maximum size."""
        fresh = list(keys)
        self._drop_expired()
        with self._lock:
            until = self._monotonic() + self._max_age
            for key in fresh:
                # The object that a page holds stays the one object of its id, or eviction would unpin it.
                self._entries[key.id] = (self._pinned.setdefault(key.id, key), until)
                self._entries.move_to_end(key.id)
            while len(self._entries) > self._max_size:
                self._entries.popitem(last=False)

    def forget(self, key_id: bytes) -> None:
        """Drop one key at once, pinned or not: it was destroyed."""
        with self._lock:
            self._entries.pop(key_id, None)
            self._pinned.pop(key_id, None)

    def clear(self) -> None:
        """Drop all keys at once, pinned or not."""
        with self._lock:
            self._entries.clear()
            self._pinned.clear()

    def _drop_expired(self) -> None:
        with self._lock:
            now = self._monotonic()
            while self._entries and next(iter(self._entries.values()))[1] < now:
                self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)

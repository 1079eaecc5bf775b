"""A data subject's key, the value keys derived from it, and the cache that keeps subject keys for a short while."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from hashlib import sha256
from threading import RLock
from typing import Any, NamedTuple
from weakref import WeakSet, WeakValueDictionary

from privkit import clock
from privkit.crypto.aead import KEY_SIZE, KeyMaterial, require_key
from privkit.crypto.envelope import EPOCH_SIZE, KEY_ID_SIZE, SUITE, VERSION, ValueKey, header
from privkit.errors import KeyringError


def derive(secret: bytes, *, info: bytes, salt: bytes = b"") -> bytes:
    """Derive 32 bytes by HKDF-SHA256 (RFC 5869). An empty ``salt`` is the RFC's default salt."""
    return _expand(_keyed(_extract(secret, salt)), info)


# HKDF and HMAC (RFC 2104) from SHA-256 states that already hold the padded key: a subject key is extracted once
# for all of its fields, and a call of a library's HKDF costs more than the four hashes it makes.

_Keyed = tuple[Any, Any]
_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def _keyed(key: bytes) -> _Keyed:
    padded = (key if len(key) <= _BLOCK else sha256(key).digest()).ljust(_BLOCK, b"\0")
    return sha256(padded.translate(_INNER)), sha256(padded.translate(_OUTER))


def _hmac(keyed: _Keyed, message: bytes) -> bytes:
    inner = keyed[0].copy()
    inner.update(message)
    outer = keyed[1].copy()
    outer.update(inner.digest())
    digest: bytes = outer.digest()
    return digest


_UNSALTED = _keyed(b"")


def _extract(secret: bytes, salt: bytes) -> bytes:
    return _hmac(_keyed(salt) if salt else _UNSALTED, secret)


def _expand(extracted: _Keyed, info: bytes) -> bytes:
    return _hmac(extracted, info + b"\x01")  # the first block of the expansion is all that 32 bytes need


class SubjectKey(KeyMaterial):
    """The key of one data subject, or of one epoch. ``id`` (16 bytes) commits to ``secret`` (32 bytes).

    Raises KeyringError for a secret of another length.
    """

    __slots__ = ("__weakref__", "_extracted", "_fields", "header", "id", "secret")

    def __init__(self, secret: bytes) -> None:
        require_key(secret)
        self.secret = secret
        self.id = sha256(b"privkit subject key v1\0" + secret).digest()[:KEY_ID_SIZE]
        self.header = header(self.id)
        """How an envelope begins that is sealed under this key in no epoch."""
        self._fields: dict[str, ValueKey] = {}
        self._extracted: _Keyed | None = None

    @classmethod
    def new(cls) -> SubjectKey:
        """Draw a key at random."""
        return cls(os.urandom(KEY_SIZE))

    def value_key(self, field_id: str, epoch: int = 0, epoch_secret: bytes = b"") -> ValueKey:
        """Return the key of one field in one epoch; without one it is derived on first use and kept.

        ``epoch`` 0 may do without a secret. Raises KeyringError for another epoch without one: such a value
        would outlive its epoch.
        """
        if not epoch and not epoch_secret:
            found = self._fields.get(field_id)
            return found or self._fields.setdefault(field_id, self._derive(field_id))
        return self._derive_in_epoch(field_id, epoch, epoch_secret)

    def seed(self, use: str, name: str) -> bytes:
        """Return 32 bytes that only this key gives, for something that is to end with it and is no sealed value."""
        return derive(self.secret, info=f"privkit {use} v1\0{name}".encode())

    def _derive(self, field_id: str) -> ValueKey:
        if self._extracted is None:
            self._extracted = _keyed(_extract(self.secret, b""))
        return ValueKey(_expand(self._extracted, _value_info(field_id)), self.id, 0, field_id)

    def _derive_in_epoch(self, field_id: str, epoch: int, epoch_secret: bytes) -> ValueKey:
        if epoch and not epoch_secret:
            raise KeyringError(
                f"The key of epoch {epoch} is missing.",
                "A value sealed without it would stay readable after the epoch was destroyed.",
                "Load the epoch's key, or seal in epoch 0 (no epoch).",
                epoch=epoch,
            )
        secret = derive(self.secret, salt=epoch_secret, info=_value_info(field_id))
        return ValueKey(secret, self.id, epoch, field_id)

    def __repr__(self) -> str:
        return f"<SubjectKey {self.id.hex()[:8]}>"


@lru_cache(maxsize=4096)
def _value_info(field_id: str) -> bytes:
    return b"privkit value v1\0" + field_id.encode()


def _header(key_id: bytes) -> bytes:
    return VERSION + SUITE + key_id + bytes(EPOCH_SIZE)


class Epoch(NamedTuple):
    """An epoch of a field in one database. ``database``: whatever tells it from others that have the same epochs."""

    database: Hashable
    field_id: str
    number: int


class KeyCache(KeyMaterial):
    """Subject keys by id and epoch keys, at most ``max_size`` of each, none older than ``max_age``. Thread safe.

    A key that somebody else still refers to (a result page does) is found by ``pinned`` after it left the cache.
    """

    __slots__ = (
        *("__weakref__", "_by_field", "_epochs", "_in_epochs", "_live", "_lock", "_max_size", "_monotonic"),
        *("_pinned", "_pinned_epochs", "_until", "max_age"),
    )

    def __init__(
        self,
        max_size: int = 20_000,
        max_age: timedelta = timedelta(minutes=5),
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._max_size, self.max_age, self._monotonic = max_size, max_age, monotonic
        self._live: dict[bytes, SubjectKey] = {}
        self._by_field: dict[str, dict[bytes, ValueKey]] = {}
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._pinned: WeakValueDictionary[bytes, SubjectKey] = WeakValueDictionary()
        self._epochs: OrderedDict[Epoch, tuple[SubjectKey, float]] = OrderedDict()
        self._pinned_epochs: WeakValueDictionary[Epoch, SubjectKey] = WeakValueDictionary()
        self._in_epochs: dict[bytes, set[tuple[str, bytes]]] = {}
        self.after_fork()
        _ALIVE.add(self)

    def after_fork(self) -> None:
        """Forget the lock: in the child of a fork nobody releases it for a thread that held it."""
        self._lock = RLock()

    @property
    def live(self) -> Mapping[bytes, SubjectKey]:
        """The cached keys by the header of an envelope without an epoch: always the same dict, for loops.

        Their age is not checked here: call ``drop_expired`` before a page of values is looked up.
        """
        return self._live

    def of_field(self, field_id: str) -> Mapping[bytes, ValueKey]:
        """Return the value keys of one field that ``value_key`` derived for cached keys, by the same headers."""
        with self._lock:
            return self._by_field.setdefault(field_id, {})

    def value_key(self, key: SubjectKey, field_id: str) -> ValueKey:
        """Return the key of one field without an epoch, and keep it in ``of_field`` as long as ``key`` is cached."""
        made = key.value_key(field_id)
        with self._lock:
            if self._live.get(key.header) is key:  # else nothing would drop it
                self._by_field.setdefault(field_id, {})[key.header] = made
        return made

    def value_key_in_epoch(self, key: SubjectKey, epoch: Epoch) -> ValueKey | None:
        """Return the key of one field in one epoch, kept in ``of_field`` as long as both keys are cached.

        None where the epoch's key is not at hand.
        """
        held = self.epoch(epoch) or self._pinned_epochs.get(epoch)
        if held is None:
            return None
        made = key.value_key(epoch.field_id, epoch.number, held.secret)
        with self._lock:
            if self._live.get(key.header) is key and epoch in self._epochs:
                self._by_field.setdefault(epoch.field_id, {})[made.header] = made
                self._in_epochs.setdefault(key.id, set()).add((epoch.field_id, made.header))
        return made

    def epoch(self, epoch: Epoch) -> SubjectKey | None:
        """Return the key of an epoch, or None when it is absent or older than the maximum age."""
        found = self._epochs.get(epoch)
        return found[0] if found is not None and self._monotonic() <= found[1] else None

    def put_epoch(self, epoch: Epoch, key: SubjectKey) -> None:
        """Keep the key of an epoch, which was just unwrapped, and evict the oldest beyond the maximum size."""
        self.drop_expired()
        with self._lock:
            self._drop_epoch(epoch)
            held = self._pinned_epochs.get(epoch)
            key = held if held is not None and held.id == key.id else key  # as for subject keys
            self._epochs[epoch] = key, self._monotonic() + self.max_age.total_seconds()
            self._pinned_epochs[epoch] = key
            while len(self._epochs) > self._max_size:
                self._drop_epoch(next(iter(self._epochs)))

    def forget_epoch(self, epoch: Epoch) -> None:
        """Drop the key of an epoch at once, pinned or not, with what was derived of it: it was destroyed."""
        with self._lock:
            self._drop_epoch(epoch)
            self._pinned_epochs.pop(epoch, None)

    def read_epoch_again(self, epoch: Epoch) -> None:
        """Drop the key of an epoch, which may not be the one that is stored; whoever holds it may still use it."""
        with self._lock:
            self._drop_epoch(epoch)

    def _drop_epoch(self, epoch: Epoch) -> None:
        if self._epochs.pop(epoch, None) is not None:
            end = epoch.number.to_bytes(EPOCH_SIZE, "big")
            values = self._by_field.get(epoch.field_id, {})
            for start in [start for start in values if start.endswith(end)]:
                values.pop(start, None)

    def get(self, key_id: bytes) -> SubjectKey | None:
        """Return the key, or None when it is absent or older than the maximum age."""
        found, until = self._live.get(_header(key_id)), self._until.get(key_id)
        if found is None or until is None:
            return None
        if self._monotonic() <= until:
            return found
        self.drop_expired()
        return None

    def pinned(self, key_id: bytes) -> SubjectKey | None:
        """Return the key while the cache or anybody else still holds it, else None."""
        self.drop_expired()
        with self._lock:
            return self._pinned.get(key_id)

    def put(self, keys: Iterable[SubjectKey]) -> None:
        """Keep ``keys``, which were just unwrapped, and evict the oldest beyond the maximum size."""
        fresh = list(keys)
        self.drop_expired()
        with self._lock:
            until = self._monotonic() + self.max_age.total_seconds()
            for key in fresh:
                # The object that a page holds stays the one object of its id, or eviction would unpin it.
                self._live[key.header] = self._pinned.setdefault(key.id, key)
                self._until[key.id] = until
                self._until.move_to_end(key.id)
            while len(self._until) > self._max_size:
                self._drop_oldest()

    def forget(self, key_id: bytes) -> None:
        """Drop one key at once, pinned or not: it was destroyed."""
        with self._lock:
            self._until.pop(key_id, None)
            self._drop(key_id)
            self._pinned.pop(key_id, None)

    def clear(self) -> None:
        """Drop all keys at once, pinned or not."""
        with self._lock:
            self._until.clear()
            self._live.clear()
            for fields in self._by_field.values():
                fields.clear()
            self._in_epochs.clear()
            self._epochs.clear()
            self._pinned_epochs.clear()
            self._pinned.clear()

    def drop_expired(self) -> None:
        """Drop the keys that are older than the maximum age."""
        with self._lock:
            now = self._monotonic()
            while self._until and next(iter(self._until.values())) < now:
                self._drop_oldest()
            while self._epochs and next(iter(self._epochs.values()))[1] < now:
                self._drop_epoch(next(iter(self._epochs)))

    def _drop_oldest(self) -> None:
        key_id, _ = self._until.popitem(last=False)
        self._drop(key_id)

    def _drop(self, key_id: bytes) -> None:
        start = _header(key_id)
        self._live.pop(start, None)
        for fields in self._by_field.values():
            fields.pop(start, None)
        for field_id, start in self._in_epochs.pop(key_id, ()):
            self._by_field[field_id].pop(start, None)

    def __len__(self) -> int:
        return len(self._until)


_ALIVE: WeakSet[KeyCache] = WeakSet()


def _after_fork() -> None:
    for cache in list(_ALIVE):
        cache.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

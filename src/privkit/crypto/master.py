"""The keyring over a store and a provider: reads late, notices changes, asks once, and never blocks an event loop."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from threading import Lock
from typing import TypeVar
from weakref import WeakSet

from privkit import clock
from privkit.crypto.aead import KEY_SIZE, NONCE_SIZE, TAG_SIZE, KeyMaterial
from privkit.crypto.document import GENERATION_SIZE, NEWEST_SUITE, Document, Place
from privkit.crypto.envelope import length_prefixed
from privkit.crypto.keyring import Keyring, Provider, Store
from privkit.crypto.keys import SubjectKey
from privkit.crypto.secret_cache import Secret, SecretCache, Stored
from privkit.errors import KeyringError, SealedError

WRAPPED_SIZE = GENERATION_SIZE + NONCE_SIZE + KEY_SIZE + TAG_SIZE
LOOK_EVERY = 1.0
"""Seconds after which opening a key looks whether the stored document has changed."""
LOOK_EVERY_WRAP = 0.01
"""Seconds after which wrapping a key looks: it must not end up under a generation that is gone."""

_Answer = TypeVar("_Answer")


class MasterKeyring(Keyring):
    """A keyring over a store and, if one is given, a provider whose answers are kept for ``max_age`` seconds.

    The document is read on first use. A change by another process is noticed when an unknown generation is asked for,
    within ``LOOK_EVERY_WRAP`` seconds by what wraps and within ``LOOK_EVERY`` by what opens; what was destroyed is then
    forgotten. So a rotation adds a generation, waits for the longest transaction that may still hold a key wrapped
    under the old one, wraps all keys anew, and only then destroys it. Where the document has gone, nothing wraps or
    opens: whoever serves a vanished keyring would miss its rotation.

    A provider is never called from a thread that runs an asyncio event loop, which includes SQLAlchemy's greenlets:
    there a secret that is not at hand raises KeyringError. Use ``async with keyring.warm()`` around the service's
    life, or ``await keyring.prefetch()`` before each unit of work.
    """

    __slots__ = (
        *("__weakref__", "_calls", "_held", "_lock", "_looked_at", "_max_age"),
        *("_monotonic", "_provider", "_secrets", "_store"),
    )

    def __init__(
        self,
        store: Store,
        provider: Provider | None = None,
        *,
        max_age: float | None = None,
        max_size: int = 1024,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._store, self._provider, self._max_age, self._monotonic = store, provider, max_age, monotonic
        self._secrets = SecretCache(max_age, max_size, monotonic)
        self._held: _Held | None = None
        self._looked_at = 0.0
        self._calls: Counter[str] = Counter()
        self._lock = Lock()
        _ALIVE.add(self)

    def _create(self, copy_of: MasterKeyring | None = None) -> None:
        secrets = (
            copy_of._opened() if copy_of is not None else {"1": os.urandom(KEY_SIZE), "root": os.urandom(KEY_SIZE)}
        )
        wrapped = {label: self._wrapped(label, secret) for label, secret in secrets.items()}
        root = wrapped.pop("root")
        generations = {int(label): secret for label, secret in wrapped.items()}
        current, suite = (copy_of.generation, copy_of._now().suite) if copy_of is not None else (1, NEWEST_SUITE)
        self._store.create(Document(current, generations, root, suite))

    def _opened(self) -> dict[str, bytes]:
        held = self._now()
        return {stored.label: self._secret(stored).value for stored in held.all}

    @property
    def generation(self) -> int:
        """The generation that wraps new keys."""
        return self._now().current

    @property
    def generations(self) -> tuple[int, ...]:
        """All generations that are held, in order."""
        return tuple(sorted(self._now().generations))

    @property
    def calls(self) -> dict[str, int]:
        """How often the provider was asked in this process: ``wrap``, ``unwrap``, and the ``failed`` ones of both."""
        return dict(self._calls)

    def require_writable(self) -> None:
        """Raise KeyringError where the document names a suite that this release does not know."""
        self._require_known_suite(self._recent().suite)

    def _require_known_suite(self, suite: int) -> None:
        if suite > NEWEST_SUITE:
            raise KeyringError(
                f"{self._store.place.name} is in use by a newer release, which seals under suite {suite}.",
                f"This one would write suite {NEWEST_SUITE}, from which values have moved on. It still opens them.",
                "Upgrade privkit here.",
                suite=suite,
            )

    def add_generation(self) -> int:
        """Draw a generation that wraps new keys from now on, and return its number, one above the highest.

        It was wrapped and opened once before it is stored. Raises KeyringError where that fails.
        """
        added = 0

        def edit(document: Document) -> Document:
            nonlocal added
            self._require_known_suite(document.suite)
            added = max(document.generations) + 1
            return document.with_generation(added, self._wrapped(str(added), os.urandom(KEY_SIZE)))

        self._store.change(edit, destroys=False)
        self._now()
        return added

    def destroy_generation(self, generation: int) -> None:
        """Destroy a generation: what it wrapped opens nowhere again, this keyring's own backups aside.

        Wrap every living key anew first. Raises KeyringError for the current generation, and for one not held.
        """

        def edit(document: Document) -> Document:
            self._require_known_suite(document.suite)
            if generation not in document.generations:
                raise self._unknown(generation)
            if generation == document.current:
                raise KeyringError(
                    f"Generation {generation} is the current one and cannot be destroyed.",
                    "It wraps new keys, and every key that was not wrapped anew.",
                    "Call add_generation(), wrap all keys anew, then destroy the old one.",
                    generation=generation,
                )
            return document.without_generation(generation)

        self._store.change(edit, destroys=True)
        self._now()

    def wrap(self, key_id: bytes, secret: bytes) -> bytes:
        """Wrap a key for storage. Raises KeyringError when ``key_id`` is not the id of ``secret``."""
        if SubjectKey(secret).id != key_id:
            raise KeyringError("A key was to be wrapped under an id that is not its own.", "It could not be unwrapped.")
        held = self._recent(LOOK_EVERY_WRAP)
        self._require_known_suite(held.suite)
        encrypt = self._secret(held.generations[held.current]).cipher.encrypt
        prefix = held.current.to_bytes(GENERATION_SIZE, "big")
        return prefix + encrypt(secret, _associated(prefix, key_id))

    def unwrap(self, key_id: bytes, wrapped: bytes) -> SubjectKey:
        """Return the key. Raises SealedError if it does not open, KeyringError if its generation is not held."""
        if len(wrapped) != WRAPPED_SIZE:
            raise SealedError(
                f"A wrapped key has {len(wrapped)} bytes, not {WRAPPED_SIZE}.",
                "It was cut off, or written outside privkit.",
                "Restore the key table from a backup.",
            )
        prefix = wrapped[:GENERATION_SIZE]
        decrypt = self._generation(int.from_bytes(prefix, "big")).cipher.decrypt
        key = SubjectKey(decrypt(wrapped[GENERATION_SIZE:], _associated(prefix, key_id)))
        if key.id != key_id:
            raise SealedError("A wrapped key is not the key that its id commits to.", "It was put there by hand.")
        return key

    def secret(self, name: str) -> bytes:
        """Return 32 bytes for one purpose, such as ``"index"``; they stay the same when generations change."""
        return self._secret(self._recent().root).derived(b"privkit secret v1\0" + name.encode())

    async def prefetch(self) -> None:
        """Have every secret at hand for the next half of ``max_age``, at least, without blocking the event loop.

        Returns at once when they are. Raises KeyringError where the provider, or the store, does not answer.
        """
        if self._due():
            await asyncio.to_thread(self._fetch_due)

    @asynccontextmanager
    async def warm(self) -> AsyncIterator[None]:
        """Prefetch, and keep every secret at hand until the end of the ``async with`` block.

        Raises KeyringError when the first prefetch fails. Later failures are tried again each ``LOOK_EVERY`` seconds;
        if they last for half of ``max_age``, uses raise KeyringError.
        """
        await self.prefetch()
        keeper = asyncio.create_task(self._keep_warm())
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)

    async def _keep_warm(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            with suppress(KeyringError):
                await self.prefetch()

    def _due(self) -> bool:
        held = self._held
        if held is None or self._store.stamp() != held.stamp:
            return True
        return any(self._secrets.is_due(stored) for stored in held.all)

    def _fetch_due(self) -> None:
        for stored in self._now().all:
            self._secrets.fetch(stored, lambda stored=stored: self._ask_for(stored), renew=True)  # type: ignore[misc]

    def _generation(self, number: int) -> Secret:
        stored = self._recent().generations.get(number) or self._now().generations.get(number)
        if stored is None:
            raise self._unknown(number)
        return self._secret(stored)

    def _unknown(self, generation: int) -> KeyringError:
        return KeyringError(
            f"{self._store.place.name} does not hold generation {generation}.",
            "The key was wrapped under another keyring, or that generation was destroyed.",
            "Point the application at the keyring that wrapped the key.",
            generation=generation,
        )

    def _secret(self, stored: Stored) -> Secret:
        return self._secrets.get(stored) or self._secrets.fetch(stored, lambda: self._ask_for(stored))

    def _ask_for(self, stored: Stored) -> Secret:
        provider = self._provider
        if provider is None:
            return Secret(stored.wrapped)
        return Secret(self._ask("unwrap", lambda: provider.unwrap(stored.label, stored.wrapped)))

    def _wrapped(self, label: str, secret: bytes) -> bytes:
        """Wrap a new secret, and open it once: a provider that only wraps would make all that follows unreadable."""
        provider = self._provider
        if provider is None:
            return secret
        stored = Stored(label, self._ask("wrap", lambda: provider.wrap(label, secret)))
        opened = self._ask_for(stored)
        if opened.value != secret:
            raise self._store.place.unusable("got another secret back than it had wrapped", "Check the provider.")
        self._secrets.put(stored, opened)
        return stored.wrapped

    def _ask(self, call: str, provider: Callable[[], _Answer]) -> _Answer:
        _refuse_on_event_loop(self._store.place)
        with self._lock:
            self._calls[call] += 1
        try:
            return provider()
        except KeyringError:
            with self._lock:
                self._calls["failed"] += 1
            raise

    def _recent(self, within: float = LOOK_EVERY) -> _Held:
        """What is stored, as of a look at most ``within`` seconds ago."""
        held = self._held
        return held if held is not None and self._monotonic() < self._looked_at + within else self._now()

    def _now(self) -> _Held:
        """What is stored now: a look at the stamp, and a read when it differs."""
        held = self._held
        if held is None or self._store.stamp() != held.stamp:
            held = self._read()
        self._looked_at = self._monotonic()
        return held

    def _read(self) -> _Held:
        with self._lock:
            if self._held is None or self._store.stamp() != self._held.stamp:
                held = _Held(*self._store.read())
                self._secrets.retain(held.all)
                self._held = held
            return self._held

    def _after_fork(self) -> None:
        self._lock = Lock()
        self._secrets.after_fork()
        if self._provider is not None:
            self._provider.after_fork()


class _Held(KeyMaterial):
    """A document as it was read, ready to be looked up."""

    __slots__ = ("all", "current", "generations", "root", "stamp", "suite")

    def __init__(self, document: Document, stamp: Hashable) -> None:
        self.current, self.stamp, self.suite = document.current, stamp, document.suite
        self.generations = {number: Stored(str(number), secret) for number, secret in document.generations.items()}
        self.root = Stored("root", document.root)
        self.all = (*self.generations.values(), self.root)


def _associated(generation: bytes, key_id: bytes) -> bytes:
    return length_prefixed(b"privkit wrapped key v1", generation, key_id)


def _refuse_on_event_loop(place: Place) -> None:
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        raise KeyringError(
            f"{place.name} has to ask its provider, and this thread runs an event loop.",
            "Every other task would wait for the answer.",
            "Hold `async with keyring.warm():` around the service's life, or `await keyring.prefetch()` before the\n"
            "unit of work. To add a generation: await asyncio.to_thread(keyring.add_generation)",
            **place.data,
        )


_ALIVE: WeakSet[MasterKeyring] = WeakSet()


def _after_fork() -> None:
    for keyring in list(_ALIVE):
        keyring._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

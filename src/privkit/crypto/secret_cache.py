"""What a provider opened, kept for a while: at most so many secrets, none too old, each asked for once at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import Future
from threading import Lock
from typing import NamedTuple

from privkit.crypto.aead import Aead, KeyMaterial
from privkit.crypto.keys import derive
from privkit.errors import InvalidValue, PrivkitError


class Secret(KeyMaterial):
    """32 opened bytes and the cipher under them. Raises KeyringError for another length."""

    __slots__ = ("_derived", "cipher", "value")

    def __init__(self, value: bytes) -> None:
        self.value, self.cipher = value, Aead(value)
        self._derived: dict[bytes, bytes] = {}

    def derived(self, info: bytes) -> bytes:
        """Return 32 bytes derived for ``info``, kept as long as the secret itself is."""
        return self._derived.get(info) or self._derived.setdefault(info, derive(self.value, info=info))


class Stored(NamedTuple):
    """A secret as it is stored: its label in the document, and the bytes that its provider left."""

    label: str
    wrapped: bytes

    def __repr__(self) -> str:
        return f"<Stored {self.label}>"


class SecretCache(KeyMaterial):
    """Opened secrets, at most ``max_size`` of them and none older than ``max_age`` seconds (None: any age).

    Threads that miss the same secret at the same moment make one call together, and share its outcome.
    """

    __slots__ = ("_entries", "_flights", "_lock", "_max_age", "_max_size", "_monotonic")

    def __init__(self, max_age: float | None, max_size: int, monotonic: Callable[[], float]) -> None:
        if max_size < 2 or (max_age is not None and max_age <= 0):
            raise InvalidValue("A keyring's cache holds at least 2 secrets, for an age above 0.")
        self._max_age, self._max_size, self._monotonic = max_age, max_size, monotonic
        self._entries: OrderedDict[Stored, tuple[Secret, float]] = OrderedDict()
        self.after_fork()

    def after_fork(self) -> None:
        """Forget the locks and the calls of threads that the child of a fork does not have."""
        self._lock = Lock()
        self._flights: dict[Stored, Future[Secret]] = {}

    def get(self, stored: Stored) -> Secret | None:
        """Return the secret, or None when it is absent or too old."""
        entry = self._entries.get(stored)
        if entry is None or (self._max_age is not None and self._monotonic() >= entry[1] + self._max_age):
            return None
        return entry[0]

    def is_due(self, stored: Stored) -> bool:
        """Whether a secret is absent, or in the second half of its life."""
        entry = self._entries.get(stored)
        if entry is None:
            return True
        return self._max_age is not None and self._monotonic() >= entry[1] + self._max_age / 2

    def fetch(self, stored: Stored, ask: Callable[[], Secret], *, renew: bool = False) -> Secret:
        """Return the secret, from here or from ``ask``, which one thread calls while the others wait.

        With ``renew`` one that is due counts as absent. Raises what ``ask`` raises.
        """
        while True:
            with self._lock:
                found = None if renew and self.is_due(stored) else self.get(stored)
                if found is not None:
                    return found
                flight = self._flights.get(stored)
                if flight is None:
                    mine = self._flights[stored] = Future()
            if flight is None:
                return self._lead(stored, mine, ask)
            error = flight.exception()
            if error is None:
                return flight.result()
            if isinstance(error, PrivkitError):
                # A copy: one error raised in many threads would mix their tracebacks.
                raise type(error)(error.what, error.why, error.fix, **error.data)

    def _lead(self, stored: Stored, flight: Future[Secret], ask: Callable[[], Secret]) -> Secret:
        try:
            secret = ask()
        except BaseException as error:
            with self._lock:
                self._flights.pop(stored, None)
            flight.set_exception(error)
            raise
        self.put(stored, secret)
        with self._lock:
            self._flights.pop(stored, None)
        flight.set_result(secret)
        return secret

    def put(self, stored: Stored, secret: Secret) -> None:
        """Keep a secret that was just opened, and drop what is too old or too much."""
        with self._lock:
            now = self._monotonic()
            self._entries[stored] = (secret, now)
            self._entries.move_to_end(stored)
            while len(self._entries) > self._max_size or self._oldest_expired(now):
                self._entries.popitem(last=False)

    def _oldest_expired(self, now: float) -> bool:
        return self._max_age is not None and now >= next(iter(self._entries.values()))[1] + self._max_age

    def retain(self, living: Collection[Stored]) -> None:
        """Drop everything that is not among ``living``: it was destroyed or replaced."""
        with self._lock:
            for stored in [stored for stored in self._entries if stored not in living]:
                del self._entries[stored]

    def __len__(self) -> int:
        return len(self._entries)

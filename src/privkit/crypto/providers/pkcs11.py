"""The keyring whose secrets a PKCS#11 token wraps: a hardware module, or SoftHSM2.

Needs the extra: ``pip install privkit[pkcs11]``.

A secret is sealed under a key drawn for it alone, which the token wraps: with AES (RFC 3394), or with RSA-OAEP. So the
label is authenticated whatever the token's mechanism authenticates. Stored: size 2 (big endian) | wrapped key | nonce
12 | ciphertext 32 | tag 16.

Prefer AES. Whoever has an RSA key's public half and may write the file can put secrets of their own in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any

from privkit import clock
from privkit.crypto.aead import KEY_SIZE, NONCE_SIZE, TAG_SIZE, Aead, KeyMaterial
from privkit.crypto.document import Place
from privkit.crypto.envelope import length_prefixed
from privkit.crypto.master import MasterKeyring
from privkit.crypto.providers.storage import KeyringFile
from privkit.errors import KeyringError, SealedError

PIN_VARIABLE = "PRIVKIT_PKCS11_PIN"
_SIZE = 2
_SEALED_SIZE = NONCE_SIZE + KEY_SIZE + TAG_SIZE
_RSA_BITS = 2048
_PROBLEMS = {
    "NoSuchToken": ("holds no token {token!r}", "Attach it, or check its label: pkcs11-tool --module MODULE -L"),
    "MultipleTokensReturned": ("holds several tokens {token!r}", "Give each token a label of its own."),
    "NoSuchKey": (
        "holds no key {key!r} in token {token!r}",
        "Restore the key from the token's backup. If nothing was sealed with it yet, create it:\n"
        "    pkcs11-tool --module MODULE --token-label TOKEN --login --keygen --key-type AES:32 --usage-wrap -a KEY",
    ),
    "MultipleObjectsReturned": ("holds several keys {key!r} in token {token!r}", "Give each key a label of its own."),
    "PinIncorrect": (
        "refused the PIN of token {token!r}",
        "Give the right PIN. The same one is not tried again by this keyring: the token would lock itself.",
    ),
    "PinLocked": ("locked the PIN of token {token!r}", "Have its security officer set the PIN anew."),
    "WrappedKeyInvalid": (
        "did not open what is stored with key {key!r}",
        "Use the token and the key that the keyring was created with, or restore the file from its backup.",
    ),
}
_OTHERWISE = (
    "Check the module's path, its settings and the token's state. If the token serves others, another key may have\n"
    "wrapped what is stored: use the one that the keyring was created with."
)
_ALSO = {
    "PinInvalid": "PinIncorrect",
    "PinLenRange": "PinIncorrect",
    "EncryptedDataInvalid": "WrappedKeyInvalid",
    "EncryptedDataLenRange": "WrappedKeyInvalid",
    "WrappedKeyLenRange": "WrappedKeyInvalid",
    "UnwrappingKeyTypeInconsistent": "WrappedKeyInvalid",
    "TokenNotPresent": "NoSuchToken",
}


class Pkcs11Keyring(MasterKeyring):
    """A keyring in a file whose generations and root secret are each wrapped inside a PKCS#11 token.

    ``module``: the path of the token's PKCS#11 library. ``token`` and ``key``: the labels of the token and of its
    wrapping key, AES-256, or an RSA pair of at least 2048 bits, usable to wrap and unwrap. ``pin``: returns the
    user's PIN, and is called before each use of the token; by default it is read from the environment variable
    PRIVKIT_PKCS11_PIN. An opened secret is kept for ``max_age``; at most ``max_size`` are kept.

    The token has to let a session object be read that it unwrapped, which some modules refuse in their FIPS mode.
    Raises KeyringError for a wrong PIN, a missing token, a removed key and every other refusal. Never called from a
    thread that runs an event loop: see ``MasterKeyring``.
    """

    __slots__ = ("key", "path", "token")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        module: str | os.PathLike[str],
        token: str,
        key: str,
        pin: Callable[[], str] | None = None,
        max_age: timedelta = timedelta(minutes=5),
        max_size: int = 64,
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        store = KeyringFile(path, sealed_by="pkcs11")
        provider = _Token(store.place, os.fspath(module), token, key, pin or _pin_of_the_environment)
        super().__init__(store, provider, max_age=max_age.total_seconds(), max_size=max_size, monotonic=monotonic)
        self.path: Path = store.path
        self.token, self.key = token, key

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        module: str | os.PathLike[str],
        token: str,
        key: str,
        pin: Callable[[], str] | None = None,
        copy_of: MasterKeyring | None = None,
    ) -> Pkcs11Keyring:
        """Write a keyring with one new generation, or with those of ``copy_of``, wrapped by the token's key.

        Each secret is opened once before the file is written. Raises KeyringError when the path exists.
        """
        keyring = cls(path, module=module, token=token, key=key, pin=pin)
        keyring._create(copy_of)
        return keyring

    def __repr__(self) -> str:
        return f"Pkcs11Keyring({str(self.path)!r}, token={self.token!r}, key={self.key!r})"


class _Token(KeyMaterial):
    """The provider: two operations inside the token, each in a session of its own."""

    __slots__ = ("_forked", "_key", "_module", "_pin", "_place", "_refused", "_token")

    def __init__(self, place: Place, module: str, token: str, key: str, pin: Callable[[], str]) -> None:
        self._place, self._module, self._token, self._key, self._pin = place, module, token, key, pin
        self._refused = b""
        self._forked = False

    def after_fork(self) -> None:
        """Initialise the library again before its next use, as PKCS#11 asks of a child."""
        _SESSIONS.after_fork()
        self._forked = True

    def wrap(self, label: str, secret: bytes) -> bytes:
        """Return the secret, sealed under a key that the token wrapped. Raises KeyringError."""
        cover = os.urandom(KEY_SIZE)

        def wrapped_by(session: Any) -> bytes:
            wrapping, _, mechanism = self._wrapping_keys(session)
            made = session.create_object(_session_object(cover))
            return bytes(wrapping.wrap_key(made, mechanism=mechanism))

        wrapped = self._in_session(wrapped_by)
        encrypt = Aead(cover).encrypt
        return len(wrapped).to_bytes(_SIZE, "big") + wrapped + encrypt(secret, _associated(label))

    def unwrap(self, label: str, wrapped: bytes) -> bytes:
        """Return the secret. Raises KeyringError, also for one that was wrapped under another label."""
        size = int.from_bytes(wrapped[:_SIZE], "big")
        if len(wrapped) != _SIZE + size + _SEALED_SIZE:
            raise self._place.damaged("holds a wrapped secret that was cut off")
        cover = self._unwrapped(wrapped[_SIZE : _SIZE + size])
        try:
            decrypt = Aead(cover).decrypt
            return decrypt(wrapped[_SIZE + size :], _associated(label))
        except (SealedError, KeyringError):
            pass  # raised below instead, so that no context is chained
        raise self._failed("WrappedKeyInvalid")

    def _unwrapped(self, wrapped: bytes) -> bytes:
        def opened_by(session: Any) -> bytes:
            from pkcs11 import Attribute, KeyType, ObjectClass

            _, unwrapping, mechanism = self._wrapping_keys(session)
            kind = (ObjectClass.SECRET_KEY, KeyType.GENERIC_SECRET)
            made = unwrapping.unwrap_key(*kind, wrapped, mechanism=mechanism, template=_session_object())
            return bytes(made[Attribute.VALUE])

        return self._in_session(opened_by)

    def _wrapping_keys(self, session: Any) -> tuple[Any, Any, Any]:
        """Return what wraps, what unwraps, and how: an AES key if there is one of the label, else an RSA pair."""
        from pkcs11 import KeyType, Mechanism, ObjectClass

        key = self._found(session, ObjectClass.SECRET_KEY)
        if key is not None:
            self._require(key.key_type == KeyType.AES and key.key_length == 8 * KEY_SIZE)
            return key, key, Mechanism.AES_KEY_WRAP
        public, private = (self._found(session, kind) for kind in (ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY))
        if public is None or private is None:
            raise self._failed("NoSuchKey")
        self._require(public.key_type == KeyType.RSA and public.key_length >= _RSA_BITS)
        return public, private, Mechanism.RSA_PKCS_OAEP

    def _found(self, session: Any, kind: Any) -> Any:
        from pkcs11 import Attribute

        # Not get_key(): where there are two, it leaves its search open in the token.
        found = list(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: self._key}))
        if len(found) > 1:
            raise self._failed("MultipleObjectsReturned")
        return found[0] if found else None

    def _require(self, strong_enough: bool) -> None:
        if not strong_enough:
            raise KeyringError(
                f"The key {self._key!r} of token {self._token!r} is neither AES-256 nor RSA of {_RSA_BITS} bits.",
                "It would protect less than what it wraps.",
                "Create an AES key of 32 bytes that may wrap and unwrap.",
                **self._place.data,
            )

    def _in_session(self, work: Callable[[Any], bytes]) -> bytes:
        pkcs11 = _library()
        pin = self._entered()
        # One at a time in the whole process: a token is logged in to by a process, not by a session.
        with _SESSIONS.lock:
            try:
                token = _token(pkcs11, self._module, self._token, self._take_fork())
                with _logged_in(pkcs11, token, pin) as session:
                    return work(session)
            except pkcs11.PKCS11Error as error:
                problem = type(error).__name__
        if _ALSO.get(problem, problem) == "PinIncorrect":
            self._refused = _fingerprint(pin)
        raise self._failed(problem)

    def _entered(self) -> str:
        pin = self._pin()
        if not isinstance(pin, str) or not pin:
            raise KeyringError(
                f"No PIN was given for token {self._token!r}.",
                f"{self._place.name} cannot be used without it.",
                f"Set {PIN_VARIABLE}, or give pin=CALLABLE.",
                **self._place.data,
            )
        if _fingerprint(pin) == self._refused:
            raise self._failed("PinIncorrect")
        return pin

    def _take_fork(self) -> bool:
        forked, self._forked = self._forked, False
        return forked

    def _failed(self, code: str) -> KeyringError:
        problem, fix = _PROBLEMS.get(_ALSO.get(code, code), (f"failed ({code})", _OTHERWISE))
        return KeyringError(
            f"The PKCS#11 module {self._module} {problem.format(token=self._token, key=self._key)}.",
            f"{self._place.name} cannot be used without it.",
            fix,
            **self._place.data,
            code=code,
        )


class _Sessions:
    """The lock around the one login that a process has."""

    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.after_fork()

    def after_fork(self) -> None:
        self.lock = Lock()


_SESSIONS = _Sessions()


def _token(pkcs11: Any, module: str, label: str, forked: bool) -> Any:
    library = pkcs11.lib(module)
    if forked:
        library.reinitialize()
    return library.get_token(token_label=label)


def _logged_in(pkcs11: Any, token: Any, pin: str) -> Any:
    """Open a session. Where the application has logged in by itself, that login serves, and is not ended here."""
    try:
        return token.open(user_pin=pin)
    except pkcs11.UserAlreadyLoggedIn:
        return token.open()


def _session_object(value: bytes | None = None) -> dict[Any, Any]:
    from pkcs11 import Attribute, KeyType, ObjectClass

    made = {Attribute.TOKEN: False, Attribute.EXTRACTABLE: True, Attribute.SENSITIVE: False}
    if value is not None:
        kind = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.GENERIC_SECRET}
        return {**made, **kind, Attribute.VALUE: value}
    return made


def _associated(label: str) -> bytes:
    return length_prefixed(b"privkit keyring in a token v1", label.encode())


def _fingerprint(pin: str) -> bytes:
    return sha256(pin.encode()).digest()


def _pin_of_the_environment() -> str:
    return os.environ.get(PIN_VARIABLE, "")


def _library() -> Any:
    try:
        import pkcs11
    except ImportError:
        pass
    else:
        return pkcs11
    raise KeyringError(
        "python-pkcs11 is not installed.", "Pkcs11Keyring speaks to the token with it.", "pip install 'privkit[pkcs11]'"
    )

"""Reads, and writes, what other libraries stored in a column before it was sealed; the only other ciphers in privkit.

``scheme_for(marker, python_type)`` gives a ``Scheme`` that turns a stored value into a Python value and back, in the
other library's own format, so that both may work on one column while a service moves. What those formats lack stays
lacking: AES-CBC of sqlalchemy-utils has a fixed IV and no authentication, so a wrong key may go unnoticed, and its
padding ``"naive"`` drops asterisks at the end of a value.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from datetime import date, datetime, time
from hashlib import sha256
from typing import Any, NoReturn

from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privkit.errors import InvalidValue, KeyringError, MappingError, SealedError
from privkit.previous import AdvancedAlchemy, FernetTokens, KeySource, Plain, Previous

_BLOCK, _IV, _TAG = 16, 12, 16
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Scheme:
    """One previous way to store the values of one field."""

    def __init__(self, python_type: Any, read: Callable[[bytes], str], write: Callable[[str], str], binary: bool):
        self._type, self._read, self._write, self._binary = python_type, read, write, binary
        self._from_text = _FROM_TEXT.get(python_type) or _refuse_type(python_type)

    def read(self, stored: str | bytes | memoryview) -> Any:
        """Return the value. Raises SealedError for one that does not open, KeyringError without its key."""
        try:
            return self._from_text(self._read(_as_bytes(stored)))
        except KeyringError:
            raise
        except Exception:
            refusal = SealedError(
                "A value in its previous form did not open.",
                "It was damaged, stored in another form than previous= says, or under another key.",
                "Check the scheme and the key of previous=, and what wrote the row.",
            )
        raise refusal  # out here, so that the original error, which may hold the value, is not chained

    def write(self, value: Any) -> str | bytes:
        """Return ``value`` as the other library would store it. Raises InvalidValue for a value of another type."""
        if type(value) is not self._type:
            raise InvalidValue(f"A value declared {self._type.__name__} was given as {type(value).__name__}.")
        token = self._write(_to_text(value))
        return token.encode() if self._binary else token


class _Verbatim(Scheme):
    """The column's own type has done the work."""

    def __init__(self) -> None:
        pass

    def read(self, stored: Any) -> Any:
        return stored

    def write(self, value: Any) -> Any:
        return value


class _PlainText(_Verbatim):
    """Plain text that a binary column hands back as bytes."""

    def read(self, stored: Any) -> Any:
        return _as_bytes(stored).decode()


def scheme_for(marker: Previous, python_type: Any, *, in_place: bool = False) -> Scheme:
    """Return the scheme of ``marker`` for values of ``python_type``. ``in_place``: envelopes go to the same column.

    Raises MappingError for a type that the other library does not bring back.
    """
    if isinstance(marker, Plain):
        if in_place and python_type is not str:
            _refuse_type(python_type)
        return _PlainText() if in_place else _Verbatim()
    if isinstance(marker, FernetTokens):
        keys = tuple(marker.keys)
        return _fernet(python_type, lambda: [_secret(key) for key in keys], marker.binary)
    if isinstance(marker, AdvancedAlchemy) or marker.engine == "fernet":
        return _fernet(python_type, lambda: [urlsafe_b64encode(_digest(marker.key))], marker.binary)
    if marker.engine == "aes_gcm":
        return _aes_gcm(python_type, marker.key, marker.binary)
    return _aes_cbc(python_type, marker.key, marker.padding, marker.binary)


def from_text(python_type: Any, text: str) -> Any:
    """Return the value that a database or another library wrote as ``text``."""
    return (_FROM_TEXT.get(python_type) or _refuse_type(python_type))(text)


def _fernet(python_type: Any, keys: Callable[[], Iterable[bytes]], binary: bool) -> Scheme:
    def cipher() -> MultiFernet:
        try:
            return MultiFernet([Fernet(key) for key in keys()])
        except ValueError:
            refusal = KeyringError(
                "A key of previous= is no Fernet key, or there is none.",
                "Nothing that was stored under it can be read.",
                "A Fernet key is 32 bytes in URL-safe base64, 44 characters.",
            )
        raise refusal

    return Scheme(
        python_type,
        lambda token: cipher().decrypt(token).decode(),
        lambda text: cipher().encrypt(text.encode()).decode(),
        binary,
    )


def _aes_gcm(python_type: Any, key: KeySource, binary: bool) -> Scheme:
    def read(stored: bytes) -> str:
        data = b64decode(stored, validate=True)
        iv, tag, ciphertext = data[:_IV], data[_IV : _IV + _TAG], data[_IV + _TAG :]
        opener = Cipher(algorithms.AES(_digest(key)), modes.GCM(iv, tag)).decryptor()
        return (opener.update(ciphertext) + opener.finalize()).decode()

    def write(text: str) -> str:
        iv = os.urandom(_IV)
        sealer = Cipher(algorithms.AES(_digest(key)), modes.GCM(iv)).encryptor()
        ciphertext = sealer.update(text.encode()) + sealer.finalize()
        return b64encode(iv + sealer.tag + ciphertext).decode()

    return Scheme(python_type, read, write, binary)


def _aes_cbc(python_type: Any, key: KeySource, padding: str, binary: bool) -> Scheme:
    pad, unpad = _PADDINGS[padding]

    def cipher() -> Cipher[modes.CBC]:
        secret = _digest(key)
        return Cipher(algorithms.AES(secret), modes.CBC(secret[:_BLOCK]))

    def read(stored: bytes) -> str:
        opener = cipher().decryptor()
        return unpad(opener.update(b64decode(stored, validate=True)) + opener.finalize()).decode()

    def write(text: str) -> str:
        sealer = cipher().encryptor()
        data = text.encode()
        padded = data + pad(_BLOCK - len(data) % _BLOCK)
        return b64encode(sealer.update(padded) + sealer.finalize()).decode()

    return Scheme(python_type, read, write, binary)


def _unpad_pkcs5(data: bytes) -> bytes:
    count = data[-1]
    if not 1 <= count <= _BLOCK or data[-count:] != bytes((count,)) * count:
        raise ValueError
    return data[:-count]


def _unpad_zeroes(data: bytes) -> bytes:
    count = data[-1]
    if not 1 <= count <= _BLOCK or data[-count:-1] != bytes(count - 1):
        raise ValueError
    return data[:-count]


_PADDINGS: dict[str, tuple[Callable[[int], bytes], Callable[[bytes], bytes]]] = {
    "naive": (lambda count: b"*" * count, lambda data: data.rstrip(b"*")),
    "pkcs5": (lambda count: bytes((count,)) * count, _unpad_pkcs5),
    "oneandzeroes": (lambda count: b"\x80" + bytes(count - 1), lambda data: data.rstrip(b"\0").removesuffix(b"\x80")),
    "zeroes": (lambda count: bytes(count - 1) + bytes((count,)), _unpad_zeroes),
}


def _secret(source: KeySource) -> bytes:
    """Fetch a key. Neither it nor what was taken for a variable's name is ever repeated."""
    given = source() if callable(source) else _variable(source)
    if not given:
        raise KeyringError(
            "The key of a previous= scheme is not at hand.",
            "What was stored under it cannot be read.",
            "Set the environment variable that previous= names, or give a callable that returns the key.",
        )
    return given.encode() if isinstance(given, str) else given


def _variable(name: str) -> str | None:
    return os.environ.get(name) if _ENVIRONMENT_NAME.fullmatch(name) else None


def _digest(source: KeySource) -> bytes:
    """sqlalchemy-utils and advanced-alchemy take the SHA-256 of what they are given."""
    return sha256(_secret(source)).digest()


def _as_bytes(stored: Any) -> bytes:
    return stored.encode() if isinstance(stored, str) else bytes(stored)


def _to_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _bool(text: str) -> bool:
    return {"true": True, "false": False, "1": True, "0": False}[text]


_FROM_TEXT: dict[Any, Callable[[str], Any]] = {
    str: str,
    bool: _bool,
    int: int,
    float: float,
    date: date.fromisoformat,
    time: time.fromisoformat,
    datetime: datetime.fromisoformat,
}


def _refuse_type(python_type: Any) -> NoReturn:
    known = ", ".join(sorted(each.__name__ for each in _FROM_TEXT))
    raise MappingError(
        f"{getattr(python_type, '__name__', python_type)} has no previous form that can be read back.",
        "Its values would come back as another type, or not at all.",
        f"Declare one of: {known}; a Plain() column beside the sealed one may have any type.",
    )

"""The keyring: the master generations that wrap the key of each data subject and each epoch.

A wrapped key is: generation 4 (big endian) | nonce 12 | ciphertext 32 | tag 16. Its id and generation are
authenticated with it. Separate from the generations, and not replaced with them, a root secret gives the keys of
indexes, pseudonyms and the ledger.

    keys = FileKeyring.create("keys.json")      # once; never overwrites
    keys = FileKeyring("keys.json")             # in each process; read on first use
"""

from __future__ import annotations

import json
import os
import shlex
import stat
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp
from threading import Lock
from typing import Any

from privkit.crypto.aead import KEY_SIZE, NONCE_SIZE, TAG_SIZE, Aead, KeyMaterial
from privkit.crypto.envelope import length_prefixed
from privkit.crypto.keys import SubjectKey, derive
from privkit.errors import KeyringError, SealedError

FORMAT = 1
_GENERATION_SIZE = 4
WRAPPED_SIZE = _GENERATION_SIZE + NONCE_SIZE + KEY_SIZE + TAG_SIZE


class Keyring(KeyMaterial, ABC):
    """What holds the master generations: a file here, a key service elsewhere. Implementations are thread safe."""

    __slots__ = ()

    @property
    @abstractmethod
    def generation(self) -> int:
        """The generation that wraps new keys."""

    @abstractmethod
    def wrap(self, key_id: bytes, secret: bytes) -> bytes:
        """Wrap a key for storage. Raises KeyringError when ``key_id`` is not the id of ``secret``."""

    @abstractmethod
    def unwrap(self, key_id: bytes, wrapped: bytes) -> SubjectKey:
        """Return the key. Raises SealedError if it does not open, KeyringError if its generation is not held."""

    @abstractmethod
    def secret(self, name: str) -> bytes:
        """Return 32 bytes for one purpose, such as ``"index"``; they stay the same when generations change."""


class FileKeyring(Keyring):
    """A keyring in a file that only its owner may read. The file is read on first use, not before.

    Every use raises KeyringError when the file is missing, damaged or too open, until that is put right.
    """

    __slots__ = ("_held", "_lock", "path")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))
        self._held: _Held | None = None
        self._lock = Lock()

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> FileKeyring:
        """Write a keyring with one new generation, readable by its owner alone.

        Raises KeyringError when the path exists, even if another process creates it at the same moment.
        """
        keyring = cls(path)
        document = {
            "privkit_keyring": FORMAT,
            "current": 1,
            "generations": {"1": _draw()},
            "root": _draw(),
        }
        _write_new(keyring.path, json.dumps(document, indent=2).encode() + b"\n")
        return keyring

    @property
    def generation(self) -> int:
        """The generation that wraps new keys."""
        return self._keys().generation

    def wrap(self, key_id: bytes, secret: bytes) -> bytes:
        """Wrap a key for storage. Raises KeyringError when ``key_id`` is not the id of ``secret``."""
        if SubjectKey(secret).id != key_id:
            raise KeyringError("A key was to be wrapped under an id that is not its own.", "It could not be unwrapped.")
        held = self._keys()
        encrypt = held.ciphers[held.generation].encrypt
        prefix = held.generation.to_bytes(_GENERATION_SIZE, "big")
        return prefix + encrypt(secret, _associated(prefix, key_id))

    def unwrap(self, key_id: bytes, wrapped: bytes) -> SubjectKey:
        """Return the key. Raises SealedError if it does not open, KeyringError if its generation is not held."""
        if len(wrapped) != WRAPPED_SIZE:
            raise SealedError(
                f"A wrapped key has {len(wrapped)} bytes, not {WRAPPED_SIZE}.",
                "It was cut off, or written outside privkit.",
                "Restore the key table from a backup.",
            )
        prefix = wrapped[:_GENERATION_SIZE]
        decrypt = self._cipher(int.from_bytes(prefix, "big")).decrypt
        key = SubjectKey(decrypt(wrapped[_GENERATION_SIZE:], _associated(prefix, key_id)))
        if key.id != key_id:
            raise SealedError("A wrapped key is not the key that its id commits to.", "It was put there by hand.")
        return key

    def secret(self, name: str) -> bytes:
        """Return 32 bytes for one purpose, such as ``"index"``; they stay the same when generations change."""
        return derive(self._keys().root, info=b"privkit secret v1\0" + name.encode())

    def _cipher(self, generation: int) -> Aead:
        held = self._keys()
        cipher = held.ciphers.get(generation)
        if cipher is None:
            raise KeyringError(
                f"{self.path} does not hold generation {generation}.",
                "The key was wrapped under another keyring, or that generation was destroyed.",
                "Point the application at the keyring that wrapped the key.",
                generation=generation,
            )
        return cipher

    def _keys(self) -> _Held:
        if self._held is None:
            with self._lock:
                if self._held is None:
                    self._held = _held(self.path, _read(self.path))
        return self._held

    def __repr__(self) -> str:
        return f"FileKeyring({str(self.path)!r})"


class _Held(KeyMaterial):
    """A keyring file's content, checked."""

    __slots__ = ("ciphers", "generation", "root")

    def __init__(self, generation: int, ciphers: Mapping[int, Aead], root: bytes) -> None:
        self.generation, self.ciphers, self.root = generation, ciphers, root


def _associated(generation: bytes, key_id: bytes) -> bytes:
    return length_prefixed(b"privkit wrapped key v1", generation, key_id)


def _draw() -> str:
    return b64encode(os.urandom(KEY_SIZE)).decode()


# The file. No error below is chained: a parser's own error holds the text that it could not parse.


def _read(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        descriptor = -1
    except OSError as error:
        raise _unusable(path, f"cannot be read ({error.strerror})", "Let the service's account read it.") from None
    if descriptor < 0:
        raise KeyringError(
            f"There is no keyring at {path}.",
            "Without it nothing can be sealed or opened.",
            f"Restore it from its backup, or create the first one:\n    privkit keys init {_quoted(path)}",
            path=str(path),
        )
    try:
        _require_private_file(path, os.fstat(descriptor).st_mode)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _require_private_file(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        fix = f"Name a file in it:\n    privkit keys init {_quoted(path / 'keys.json')}"
        raise _unusable(path, "is not a file", fix)
    if mode & 0o077:
        raise _unusable(
            path,
            f"can be read or written by others (mode {stat.S_IMODE(mode):04o})",
            f"Close it to all but its owner:\n    chmod 600 {_quoted(path)}",
        )


def _held(path: Path, content: bytes) -> _Held:
    document = _document(path, content)
    version, current = document.get("privkit_keyring"), document.get("current")
    if type(version) is not int or version != FORMAT:
        raise _damaged(path, f"is not a keyring of version {FORMAT}")
    generations = document.get("generations")
    if not isinstance(generations, dict) or not generations:
        raise _damaged(path, "has no generations")
    ciphers = {_number(path, name): Aead(_key(path, key, "a generation")) for name, key in generations.items()}
    if type(current) is not int or current not in ciphers:
        raise _damaged(path, "has no current generation")
    return _Held(current, ciphers, _key(path, document.get("root"), "the root secret"))


def _document(path: Path, content: bytes) -> dict[str, Any]:
    document = None
    with suppress(ValueError, RecursionError):
        document = json.loads(content)
    if not isinstance(document, dict):
        raise _damaged(path, "is not a JSON object")
    return document


def _number(path: Path, name: str) -> int:
    number = int(name) if name.isascii() and name.isdecimal() and len(name) <= 10 else 0
    if str(number) != name or not 0 < number < 1 << 8 * _GENERATION_SIZE:
        raise _damaged(path, "names a generation that is not a whole number above 0")
    return number


def _key(path: Path, text: object, name: str) -> bytes:
    key = b""
    if isinstance(text, str):
        with suppress(ValueError):
            key = b64decode(text, validate=True)
    if len(key) != KEY_SIZE:
        raise _damaged(path, f"lacks {name}, or holds one that is not {KEY_SIZE} bytes in base64")
    return key


def _damaged(path: Path, problem: str) -> KeyringError:
    fix = "Restore it from its backup. If nothing was sealed with it yet, move it away and create another:"
    return _unusable(path, problem, f"{fix}\n    privkit keys init {_quoted(path)}")


def _unusable(path: Path, problem: str, fix: str) -> KeyringError:
    return KeyringError(f"The keyring {path} {problem}.", "It was not used.", fix, path=str(path))


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _write_new(path: Path, content: bytes) -> None:
    """Write a whole file that did not exist. A link is atomic and, unlike a rename, never replaces."""
    problem, temporary = "", ""
    try:
        descriptor, temporary = mkstemp(dir=path.parent, prefix=".privkit-")
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.link(temporary, path)
        _sync_folder(path.parent)
    except FileExistsError:
        problem = "exists already"
    except OSError as error:
        problem = f"cannot be created ({error.strerror})"
    finally:
        if temporary:
            os.unlink(temporary)
    if problem:
        why = "A keyring is never overwritten: what it sealed would be lost."
        fix = "Use it as it is, or name another path."
        raise KeyringError(f"The keyring {path} {problem}.", why, fix, path=str(path))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

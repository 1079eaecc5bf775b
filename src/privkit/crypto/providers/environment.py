"""The keyring in an environment variable, for a service that is given all of its settings that way."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Callable, Hashable
from contextlib import suppress
from hashlib import sha256

from privkit.crypto.aead import KeyMaterial
from privkit.crypto.document import Document, Place, document_of, members_of, require_sealed_by
from privkit.crypto.master import MasterKeyring
from privkit.crypto.providers.passphrase import Passphrase
from privkit.errors import KeyringError


class EnvironmentKeyring(MasterKeyring):
    """A keyring whose document, as JSON or as its base64, is the value of the environment variable ``prefix``.

    Keep its file apart, and set the variable from it: ``export PRIVKIT_KEY="$(base64 -w0 keys.json)"``. It is read on
    first use. The variable can be seen by whoever may read the process's environment. Generations are added and
    destroyed in the file; here both raise KeyringError.
    """

    __slots__ = ("prefix",)

    def __init__(self, prefix: str = "PRIVKIT_KEY", *, passphrase: str | Callable[[], str] | None = None) -> None:
        super().__init__(_Variable(prefix, None if passphrase is None else Passphrase(passphrase)))
        self.prefix = prefix

    def __repr__(self) -> str:
        return f"EnvironmentKeyring({self.prefix!r})"


class _Variable(KeyMaterial):
    """The store of a document in the process's environment, which no other process sees change."""

    __slots__ = ("_cover", "_name", "place")

    def __init__(self, name: str, cover: Passphrase | None) -> None:
        self._name, self._cover = name, cover
        fix = f'Set it from the keyring\'s file:\n    export {name}="$(base64 -w0 keys.json)"'
        self.place = Place(f"The keyring in the environment variable {name}", fix, variable=name)

    def read(self) -> tuple[Document, Hashable]:
        """Return the document and its stamp. Raises KeyringError where the variable is not set, or damaged."""
        value = self._value()
        members = members_of(self.place, value if value.lstrip().startswith("{") else _unarmoured(value))
        require_sealed_by(self.place, members, "" if self._cover is None else "passphrase")
        if self._cover is not None:
            members = members_of(self.place, self._cover.opened(self.place, members))
        return document_of(self.place, members, bare=True), _stamp(value)

    def stamp(self) -> Hashable:
        """Return the value's hash. Raises KeyringError where the variable is not set."""
        return _stamp(self._value())

    def create(self, document: Document) -> None:
        """Raise KeyringError: a process cannot set what its successors will see."""
        raise self._unchangeable("created")

    def change(self, edit: Callable[[Document], Document], *, destroys: bool) -> None:
        """Raise KeyringError: a process cannot change what its successors will see."""
        raise self._unchangeable("changed")

    def _value(self) -> str:
        value = os.environ.get(self._name)
        if not value:
            raise KeyringError(
                f"The environment variable {self._name} is not set.",
                "Without a keyring nothing can be sealed or opened.",
                self.place.restore,
                **self.place.data,
            )
        return value

    def _unchangeable(self, done: str) -> KeyringError:
        return KeyringError(
            f"{self.place.name} cannot be {done} in place.",
            "The change would end with this process, and with it every key that was wrapped meanwhile.",
            "Change the file that the variable is set from, and start the service again with the new value:\n"
            "    FileKeyring(PATH).add_generation()\n"
            f'    export {self._name}="$(base64 -w0 PATH)"',
            **self.place.data,
        )


def _stamp(value: str) -> bytes:
    return sha256(value.encode("utf-8", "surrogateescape")).digest()


def _unarmoured(text: str) -> bytes:
    with suppress(ValueError):
        return b64decode("".join(text.split()), validate=True)
    return b""

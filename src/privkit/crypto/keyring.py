"""What a keyring is: the master generations that wrap the key of each data subject and each epoch.

A wrapped key is: generation 4 (big endian) | nonce 12 | ciphertext 32 | tag 16. Its id and generation are
authenticated with it. Separate from the generations, and not replaced with them, a root secret gives the keys of
indexes, pseudonyms and the ledger.

    keys = FileKeyring.create("keys.json")      # once; never overwrites
    keys = FileKeyring("keys.json")             # in each process; read on first use

A keyring has a ``Store``, where its document lies, and may have a ``Provider``, which wraps each secret in the
document. A new provider is one file in ``providers``: the three methods of the Protocol, and a ``MasterKeyring``
that names it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Protocol

from privkit.crypto.aead import KeyMaterial
from privkit.crypto.document import Document, Place
from privkit.crypto.keys import SubjectKey


class Keyring(KeyMaterial, ABC):
    """What holds the master generations: a file here, a key service elsewhere. Implementations are thread safe."""

    __slots__ = ()

    @property
    @abstractmethod
    def generation(self) -> int:
        """The generation that wraps new keys."""

    @property
    @abstractmethod
    def generations(self) -> tuple[int, ...]:
        """All generations that are held, in order."""

    @abstractmethod
    def require_writable(self) -> None:
        """Raise KeyringError where values are sealed under a suite that only a newer release knows.

        Old and new releases run side by side until then; whatever writes asks here first.
        """

    @abstractmethod
    def add_generation(self) -> int:
        """Draw a generation that wraps new keys from now on, and return its number."""

    @abstractmethod
    def destroy_generation(self, generation: int) -> None:
        """Destroy a generation, so that what it wrapped never opens again. Raises KeyringError for the current one."""

    @abstractmethod
    def wrap(self, key_id: bytes, secret: bytes) -> bytes:
        """Wrap a key for storage. Raises KeyringError when ``key_id`` is not the id of ``secret``."""

    @abstractmethod
    def unwrap(self, key_id: bytes, wrapped: bytes) -> SubjectKey:
        """Return the key. Raises SealedError if it does not open, KeyringError if its generation is not held."""

    @abstractmethod
    def secret(self, name: str) -> bytes:
        """Return 32 bytes for one purpose, such as ``"index"``; they stay the same when generations change."""


class Store(Protocol):
    """Where a keyring's document lies. Every method raises KeyringError when it cannot do its work."""

    @property
    def place(self) -> Place:
        """The words for errors about it."""

    def read(self) -> tuple[Document, Hashable]:
        """Return the document and its stamp, which another ``stamp`` equals as long as nothing has changed."""

    def stamp(self) -> Hashable:
        """Return the stamp alone, in microseconds."""

    def create(self, document: Document) -> None:
        """Store the first document, and never over another one."""

    def change(self, edit: Callable[[Document], Document], *, destroys: bool) -> None:
        """Replace the document by what ``edit`` makes of it; of two changes at once neither is lost.

        With ``destroys`` the bytes of the old document are overwritten, as far as the storage allows it.
        """


class Provider(Protocol):
    """What wraps the secrets of a document, outside this process. It keeps none, and is asked by many threads.

    ``label`` names the secret (``"1"``: generation 1, ``"root"``): what was wrapped under one label opens under no
    other. Both calls may block, and raise KeyringError.
    """

    def wrap(self, label: str, secret: bytes) -> bytes:
        """Return a secret of 32 bytes as it may be stored."""

    def unwrap(self, label: str, wrapped: bytes) -> bytes:
        """Return the 32 bytes."""

    def after_fork(self) -> None:
        """Forget locks and connections: this is the child of a fork."""

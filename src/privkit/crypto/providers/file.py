"""The keyring in a file, bare or under a passphrase."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from privkit.crypto.master import MasterKeyring
from privkit.crypto.providers.passphrase import Passphrase
from privkit.crypto.providers.storage import KeyringFile


class FileKeyring(MasterKeyring):
    """A keyring in a file that only its owner may read, optionally sealed under a passphrase.

    The file is read on first use, not before, and has to stay where it is: a change is noticed there. Every use
    raises KeyringError when the file is missing, damaged or too open, or the passphrase is wrong, until that is put
    right. A callable is asked for the passphrase on first use.
    """

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str], *, passphrase: str | Callable[[], str] | None = None) -> None:
        store = KeyringFile(path, cover=None if passphrase is None else Passphrase(passphrase))
        super().__init__(store)
        self.path: Path = store.path

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        passphrase: str | Callable[[], str] | None = None,
        copy_of: MasterKeyring | None = None,
    ) -> FileKeyring:
        """Write a keyring with one new generation, or with those of ``copy_of``, readable by its owner alone.

        A copy is how a passphrase is changed, or another provider left; the old keyring is to be destroyed by hand.
        Raises KeyringError when the path exists, even if another process creates it at the same moment.
        """
        keyring = cls(path, passphrase=passphrase)
        keyring._create(copy_of)
        return keyring

    def __repr__(self) -> str:
        return f"FileKeyring({str(self.path)!r})"

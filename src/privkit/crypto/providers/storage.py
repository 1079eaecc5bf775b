"""The file that holds a keyring's document: private, replaced whole, changed by one process at a time."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp

from privkit.crypto.aead import KeyMaterial
from privkit.crypto.document import Document, Place, document_of, members_of, rendered, require_sealed_by
from privkit.crypto.providers.passphrase import Passphrase
from privkit.errors import KeyringError

_OTHERS = 0o077


class KeyringFile(KeyMaterial):
    """The store of a document in a file that only its owner may read.

    ``sealed_by``: the provider's name in the document, empty where there is none. ``cover``: seals the document
    whole. Changes lock the file (``flock``, which a network file system may not offer between machines).
    """

    __slots__ = ("_cover", "_sealed_by", "path", "place")

    def __init__(self, path: str | os.PathLike[str], *, sealed_by: str = "", cover: Passphrase | None = None) -> None:
        self.path = Path(os.path.abspath(path))
        self._sealed_by, self._cover = sealed_by, cover
        fix = "Restore it from its backup. If nothing was sealed with it yet, move it away and create another:"
        self.place = Place(f"The keyring {self.path}", f"{fix}\n    {self._how_to_create()}", path=str(self.path))

    def read(self) -> tuple[Document, Hashable]:
        """Return the document and its stamp. Raises KeyringError where the file is missing, damaged or too open."""
        while True:
            with self._opened() as descriptor:
                stamp = _stamp(os.fstat(descriptor))
                content = _content(descriptor)
                # A file that was replaced meanwhile may have been overwritten while it was read.
                if self._is_still(descriptor):
                    return self._parsed(content), stamp

    def stamp(self) -> Hashable:
        """Return the file's stamp. Raises KeyringError where it is missing."""
        try:
            return _stamp(os.stat(self.path))
        except OSError as error:
            raise_missing = isinstance(error, FileNotFoundError)
            problem = error.strerror
        raise self._missing() if raise_missing else self._unreadable(problem)

    def create(self, document: Document) -> None:
        """Write a file that did not exist. A link is atomic and, unlike a rename, never replaces."""
        problem, temporary = "", ""
        try:
            temporary = _written(self.path.parent, ".privkit-", self._rendered(document), mode=0o600)
            os.link(temporary, self.path)
            _sync_folder(self.path.parent)
        except FileExistsError:
            problem = "exists already"
        except OSError as error:
            problem = f"cannot be created ({error.strerror})"
        finally:
            if temporary:
                os.unlink(temporary)
        if problem:
            why = "A keyring is never overwritten: what it sealed would be lost."
            raise KeyringError(
                f"{self.place.name} {problem}.", why, "Use it as it is, or name another path.", **self.place.data
            )

    def change(self, edit: Callable[[Document], Document], *, destroys: bool) -> None:
        """Replace the document under a lock, with the file's mode and owner; a link's target is what is replaced.

        Overwriting reaches every hard link of the old file, and not what a copy-on-write file system or a flash
        disk's controller kept.
        """
        problem = ""
        with self._locked() as (target, descriptor):
            content = self._rendered(edit(self._parsed(_content(descriptor))))
            try:
                _replace(target, content, os.fstat(descriptor))
            except OSError as error:
                problem = error.strerror or type(error).__name__
            if destroys and not problem:
                _overwrite(descriptor)
        if problem:
            fix = "Let this account write the file's folder (a file that is mounted alone cannot be replaced)."
            raise self.place.unusable(f"cannot be replaced ({problem})", fix)

    def _parsed(self, content: bytes) -> Document:
        members = members_of(self.place, content)
        require_sealed_by(self.place, members, "passphrase" if self._cover is not None else self._sealed_by)
        if self._cover is not None:
            members = members_of(self.place, self._cover.opened(self.place, members))
        return document_of(self.place, members, bare=not self._sealed_by)

    def _rendered(self, document: Document) -> bytes:
        content = rendered(document, sealed_by=self._sealed_by)
        return content if self._cover is None else self._cover.sealed(self.place, content)

    @contextmanager
    def _opened(self, access: int = os.O_RDONLY) -> Iterator[int]:
        problem, missing = "", False
        try:
            descriptor = os.open(self.path, access | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            missing, problem = isinstance(error, FileNotFoundError), error.strerror or "no reason given"
        if missing:
            raise self._missing()
        if problem:
            raise self._unreadable(problem)
        try:
            self._require_private_file(os.fstat(descriptor).st_mode)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self) -> Iterator[tuple[Path, int]]:
        """Give the file's path, its links followed, and its descriptor, to one thread of one process at a time."""
        import fcntl  # not on Windows, where all but this works

        while True:
            target = Path(os.path.realpath(self.path))
            with self._opened(self._access()) as descriptor:
                problem = ""
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                except OSError as error:
                    problem = error.strerror or "no reason given"
                if problem:
                    raise self.place.unusable(f"cannot be locked ({problem})", "Keep it on a local file system.")
                try:
                    if self._is_still(descriptor):
                        yield target, descriptor
                        return
                finally:
                    # Not left to close(): a child that was forked meanwhile would keep the lock.
                    fcntl.flock(descriptor, fcntl.LOCK_UN)

    def _access(self) -> int:
        """Writing is for the overwriting alone; a file of mode 0400 is replaced without."""
        return os.O_RDWR if os.access(self.path, os.W_OK) and self.path.is_file() else os.O_RDONLY

    def _is_still(self, descriptor: int) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        return False

    def _require_private_file(self, mode: int) -> None:
        if not stat.S_ISREG(mode):
            fix = f"Name a file in it:\n    privkit keys init {quoted(self.path / 'keys.json')}"
            raise self.place.unusable("is not a file", fix)
        if mode & _OTHERS:
            fix = f"Close it to all but its owner:\n    chmod 600 {quoted(self.path)}"
            raise self.place.unusable(f"can be read or written by others (mode {stat.S_IMODE(mode):04o})", fix)

    def _how_to_create(self) -> str:
        return "create() of the class that opens it" if self._sealed_by else f"privkit keys init {quoted(self.path)}"

    def _missing(self) -> KeyringError:
        return KeyringError(
            f"There is no keyring at {self.path}.",
            "Without it nothing can be sealed or opened.",
            f"Restore it from its backup, or create the first one:\n    {self._how_to_create()}",
            **self.place.data,
        )

    def _unreadable(self, problem: str | None) -> KeyringError:
        return self.place.unusable(f"cannot be read ({problem})", "Let the service's account read it.")


def quoted(path: Path) -> str:
    """Return a path as a shell reads it."""
    return shlex.quote(str(path))


def _stamp(status: os.stat_result) -> Hashable:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _content(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def _written(folder: Path, prefix: str, content: bytes, *, mode: int, owner: tuple[int, int] | None = None) -> str:
    """Write a temporary file through to the disk, and return its path."""
    descriptor, path = mkstemp(dir=folder, prefix=prefix)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            if owner is not None:
                os.fchown(descriptor, *owner)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        os.unlink(path)
        raise
    return path


def _replace(target: Path, content: bytes, like: os.stat_result) -> None:
    prefix = f".{target.name}.privkit-"
    for left_by_a_crash in target.parent.glob(f"{_literal(prefix)}*"):
        os.unlink(left_by_a_crash)
    owner = (like.st_uid, like.st_gid)
    same = owner == (os.geteuid(), os.getegid())
    mode = stat.S_IMODE(like.st_mode)
    temporary = _written(target.parent, prefix, content, mode=mode, owner=None if same else owner)
    try:
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def _literal(text: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in text)


def _overwrite(descriptor: int) -> None:
    with suppress(OSError):
        os.pwrite(descriptor, os.urandom(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Copies of the evidence ledger outside the database: what a restored backup has forgotten, they remember.

    privacy = Privacy(policy=..., models=..., keys=..., ledger=LedgerFile("/var/lib/rides/ledger.jsonl"))

A copy holds the same lines in the same chain: names, counts, key ids, and no personal data. One copy belongs to
one database; a second database that writes to it is refused, since the chains part.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from itertools import chain, islice
from pathlib import Path

from sqlalchemy import BigInteger, Column, Connection, Engine, LargeBinary, MetaData, String, Table, Text, insert
from sqlalchemy.exc import SQLAlchemyError

from privkit import ledger as chained
from privkit.errors import LedgerError
from privkit.ledger import Entry
from privkit.sqlalchemy import ledger
from privkit.sqlalchemy.registry import guard_of

_BLOCK = 1 << 16


class LedgerFile:
    """A copy in a file of JSON lines, on a disk that is not restored together with the database.

    It is made, mode 0600, when it is not there. Every line is on the disk (``fsync``) before its transaction
    commits. ``refill``: fill an empty file from a database that had one before; give it once, after the file was
    lost, and only if the database has not been restored since.
    """

    def __init__(self, path: str | os.PathLike[str], *, refill: bool = False) -> None:
        self.path, self.refill = Path(os.path.abspath(path)), refill

    def head(self) -> Entry | None:
        """Return the last whole line, or None. Raises LedgerError where the file cannot be read."""
        with self._answering():
            try:
                with FileIO(self.path) as file:
                    _, last = _tail(file)
            except FileNotFoundError:
                return None
        return _entry(last) if last else None

    def lines(self, after: int = 0) -> Iterator[Entry]:
        """Yield the lines numbered above ``after``. Raises LedgerError where the file cannot be read."""
        with self._answering():
            if not self.path.exists():
                return
            with self.path.open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):  # else it was torn by a crash: its transaction did not commit
                        entry = _entry(line)
                        if entry.seq > after:
                            yield entry

    def append(self, entries: Iterable[Entry]) -> None:
        """Add lines and wait until they are on the disk. Raises LedgerError where they are not."""
        lines = iter(entries)
        first = next(lines, None)
        if first is None:
            return
        with self._answering(), self._locked() as file:
            end, last = _tail(file)
            _require_next(first, _entry(last) if last else None)
            try:
                if os.fstat(file.fileno()).st_size > end:  # a line that a crash tore
                    file.truncate(end)
                file.seek(end)
                _write(file, chain([first], lines))
                os.fsync(file.fileno())
            except BaseException:
                with suppress(OSError):
                    file.truncate(end)
                raise
            if not end:
                self._sync_folder()

    @contextmanager
    def _locked(self) -> Iterator[FileIO]:
        """Writers wait for each other in the database already; the lock is for two databases that share one file."""
        with FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            try:
                import fcntl  # not on Windows
            except ImportError:
                yield file
                return
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield file
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)

    def _sync_folder(self) -> None:
        with suppress(PermissionError):  # Windows opens no folder
            descriptor = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _unusable(str(self.path), error.strerror or type(error).__name__) from None


def _tail(file: FileIO) -> tuple[int, bytes]:
    """Return where the last whole line ends, and that line."""
    start = os.fstat(file.fileno()).st_size
    tail = b""
    while start:
        size = min(_BLOCK, start)
        start -= size
        file.seek(start)
        tail = file.read(size) + tail
        end = tail.rfind(b"\n")
        begin = tail.rfind(b"\n", 0, max(end, 0))
        if end >= 0 and (begin >= 0 or not start):
            return start + end + 1, tail[begin + 1 : end]
    return 0, b""


def _write(file: FileIO, entries: Iterator[Entry]) -> None:
    while page := list(islice(entries, ledger.PAGE)):
        data = memoryview("".join(chained.written(entry) + "\n" for entry in page).encode("ascii"))
        while data:
            data = data[file.write(data) or 0 :]


def _entry(line: bytes) -> Entry:
    return chained.read(line.decode("ascii", "replace"))


def _require_next(first: Entry, head: Entry | None) -> None:
    if first.seq != (head.seq + 1 if head else 1):
        raise LedgerError(
            f"Line {first.seq} does not follow the copy's last line, {head.seq if head else 0}.",
            "Somebody else writes to the same copy; nothing was committed.",
            "Give each database a copy of its own.",
        )


def _unusable(where: str, reason: str) -> LedgerError:
    return LedgerError(
        f"The ledger's copy in {where} cannot be used ({reason}).",
        "Without it nothing is committed that a restored backup would have to be told again.",
        "Make room, restore the connection or the account's rights, and try again: nothing was changed.",
    )


_COPY = Table(
    "privkit_ledger_copy",
    MetaData(),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", String(32), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("body", Text, nullable=False),
    Column("link", LargeBinary(32), nullable=False),
)


class LedgerDatabase:
    """A copy in the table ``privkit_ledger_copy`` of another database, which is backed up and restored by itself.

    ``engine``: an Engine that no Privacy protects; it commits while the application's transaction waits. The
    table is made when it is not there. ``refill``: as for ``LedgerFile``.
    """

    def __init__(self, engine: Engine, *, refill: bool = False) -> None:
        self.engine, self.refill = engine, refill

    def head(self) -> Entry | None:
        """Return the last line, or None. Raises LedgerError where the database does not answer."""
        with self._transaction() as connection:
            return ledger.newest(connection, _COPY)

    def lines(self, after: int = 0) -> Iterator[Entry]:
        """Yield the lines numbered above ``after``. Raises LedgerError where the database does not answer."""
        with self._transaction() as connection:
            yield from ledger.pages(connection, _COPY, after)

    def append(self, entries: Iterable[Entry]) -> None:
        """Add lines and commit them. Raises LedgerError where the database does not."""
        lines = iter(entries)
        with self._transaction() as connection:
            page = list(islice(lines, ledger.PAGE))
            if page:
                _require_next(page[0], ledger.newest(connection, _COPY))
            while page:
                connection.execute(insert(_COPY), [ledger.values(entry) for entry in page])
                page = list(islice(lines, ledger.PAGE))

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if guard_of(self.engine.dialect) is not None:
            raise LedgerError(
                "The ledger's copy would lie in a database that a Privacy protects.",
                "It would be restored together with what it is to outlive.",
                "Give LedgerDatabase an engine of its own, for another database.",
            )
        try:
            with self.engine.begin() as connection:
                _COPY.create(connection, checkfirst=True)
                yield connection
        except SQLAlchemyError as error:
            kind = type(getattr(error, "orig", None) or error).__name__
            raise _unusable(f"a {self.engine.dialect.name} database", kind) from None

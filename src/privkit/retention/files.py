"""Deletes the files whose rows are gone: what a run or an erasure wrote down is worked off, as often as it takes.

A name leaves the outbox only after its store said that the file is gone, or while another row still names the file. So
what was killed in between is done again, which harms nothing, and the ledger counts it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Engine, Row

from privkit.errors import PrivkitError
from privkit.purposes import internally
from privkit.retention.retry import Retry
from privkit.sqlalchemy import destroy, ledger, outbox
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import OUTBOX

PAGE = 100
"""How many files are deleted between two transactions."""

_Ended = tuple[str, str, str | None, list[int]]
"""What became of a file, as a kind of line; its store; its name, or None; the ids of its rows in the outbox."""


@dataclass(frozen=True, slots=True)
class Files:
    """What became of files whose rows are gone. ``kept``: another row names them. ``pending`` ones may still be there.

    ``unknown``: rows that came back without the key that opens the name. ``errors``: what kept how many.
    """

    deleted: int = 0
    kept: int = 0
    unknown: int = 0
    pending: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether no file is left to delete."""
        return not self.pending


def finish(guard: Guard, engine: Engine, *, subject: bytes | None = None, retry: Retry | None = None) -> Files:
    """Delete the files that wait, each tried once. ``subject``: only those of one data subject's rows."""
    if not guard.stores:
        return Files()
    table = guard.own_table(OUTBOX)
    return _finish(guard, engine, [] if subject is None else [table.c.subject == subject], retry or Retry())


def finish_new(guard: Guard, engine: Engine, retry: Retry) -> Files:
    """Delete the files that nobody has tried yet: between batches, where a store that is down would stop a run."""
    return _finish(guard, engine, [guard.own_table(OUTBOX).c.attempts == 0], retry)


def _finish(guard: Guard, engine: Engine, chosen: Sequence[ColumnElement[bool]], retry: Retry) -> Files:
    ended, errors, after = Counter[str](), Counter[str](), 0
    counted: set[tuple[str, str]] = set()
    with internally():
        while rows := retry.run(partial(_claim, guard, engine, chosen, after)):
            failures: dict[int, str] = {}
            done = list(_deleted(guard, engine, rows, failures))
            ended += retry.run(partial(_take_off, guard, engine, done, failures, counted))
            errors.update(failures.values())
            counted.update((store, name) for kind, store, name, _ in done if name is not None)
            after = rows[-1].id
        with engine.connect() as connection:
            left = outbox.pending(connection, guard, *chosen)
    return Files(ended["file_deleted"], ended["file_kept"], ended["file_unknown"], left, dict(sorted(errors.items())))


def _claim(guard: Guard, engine: Engine, chosen: Sequence[ColumnElement[bool]], after: int) -> list[Row[Any]]:
    with engine.begin() as connection:
        later = guard.own_table(OUTBOX).c.id > after
        return outbox.claim(connection, guard, [*chosen, later], PAGE)


def _deleted(guard: Guard, engine: Engine, rows: Iterable[Row[Any]], failures: dict[int, str]) -> Iterator[_Ended]:
    """Delete the files of some rows, outside any transaction, and yield what is over. The rest is in ``failures``."""
    files: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        try:
            if row.name is None:
                yield "file_unknown", row.store, None, [row.id]
            else:
                files.setdefault((row.store, outbox.name_of(guard, row)), []).append(row.id)
        except PrivkitError as error:
            failures[row.id] = _kind(error)
    for (store, name), ids in files.items():
        try:
            yield _delete(guard, engine, store, name), store, name, ids
        except Exception as error:  # a store may raise anything, and its words may hold the name
            failures |= dict.fromkeys(ids, _kind(error))


def _delete(guard: Guard, engine: Engine, store: str, name: str) -> str:
    with engine.connect() as connection:
        if outbox.is_named(connection, guard, store, name):
            return "file_kept"
    guard.stores[store].delete(name)
    return "file_deleted"


def _kind(error: Exception) -> str:
    return f"{type(error).__name__} {error.code}" if isinstance(error, PrivkitError) else type(error).__name__


def _take_off(
    guard: Guard,
    engine: Engine,
    done: Sequence[_Ended],
    failures: Mapping[int, str],
    counted: Collection[tuple[str, str | None]],
) -> Counter[str]:
    """Take what is over off the outbox, with a line for each store. Of two workers, one counts a file."""
    ended: Counter[tuple[str, str]] = Counter()
    with engine.begin() as connection:
        if done:
            ledger.lock(connection, guard)
            taken = destroy.take_off(connection, guard, OUTBOX, [number for *_, ids in done for number in ids])
            fresh = (each for each in done if each[1:3] not in counted and not taken.isdisjoint(each[3]))
            ended.update((kind, store) for kind, store, *_ in fresh)
        for (kind, store), count in sorted(ended.items()):
            ledger.append(connection, guard, kind, {"store": store, "count": count})
        outbox.failed(connection, guard, failures)
    found: Counter[str] = Counter()
    for (kind, _), count in ended.items():
        found[kind] += count
    return found

"""The batches of one step: rows chosen, destroyed and told of in the ledger, each batch in a transaction.

On PostgreSQL workers share a step: each takes rows that no other holds (SKIP LOCKED), and all transactions take their
locks in one order: rows, keys, the ledger. A hold that is placed meanwhile comes before the batch in the ledger, and
wins: the batch sees its line, rolls back and begins anew. SQLite has one writer: there the ledger's lock comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, and_, null, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from privkit import clock, purposes
from privkit.consent.age import cautious_today
from privkit.crypto import as_bytes
from privkit.deidentify import leaves_residue, needs_subject, residue, secret_name
from privkit.errors import ConcurrentWrite, PrivkitError, SealedError, ShreddedError
from privkit.retention import files
from privkit.retention.job import UNOPENED, Job, Key, Size, Tally
from privkit.retention.plan import Step
from privkit.retention.planner import count
from privkit.retention.ranges import Ranges, in_one_statement
from privkit.retention.retry import blocker, refuses_row, waited
from privkit.sqlalchemy import destroy, due, epochs, holds, ledger, outbox, receipts, rollups, shred
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.types import as_stored

Residues = list[tuple[Sequence[Any], str | None]]

_PATIENCE = 0.2
"""Seconds for which a range waits for rows that others hold, with all its own in hand."""


@dataclass(slots=True)
class Batches:
    """One worker's batches of one step. ``ranges``: for the fast way; None: each row is looked at."""

    job: Job
    step: Step
    target: Target
    tally: Tally
    size: Size
    ranges: Ranges | None
    taken: ColumnElement[bool] | None = None
    predicate: Any = field(init=False)
    rollup: rollups.Rollup | None = field(init=False)
    gone: receipts.Keys | None = field(default=None, init=False)
    keys: list[Column[Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.predicate = due.due(self.job.guard, self.target, due.At(self.job.as_of))
        assert self.predicate is not None
        self.rollup = rollups.of(self.job.guard, self.target.table) if self.target.column is None else None

    def run(self) -> None:
        """Destroy what is due until nothing is left, a limit is reached, or an error stops the step."""
        try:
            with purposes.internally():
                self._run()
        except (SQLAlchemyError, PrivkitError) as stopped:
            # One step's failure never stops another; its rows stay due and are counted as overdue.
            self.tally.error = stopped.code if isinstance(stopped, PrivkitError) else type(stopped).__name__

    def _run(self) -> None:
        if self._quickly():
            return
        self.tally.one_by_one, self.keys = True, destroy.key_columns(self.target.table)
        after: Key | None = None
        waiting = _Waiting(self.job.limits.lock_timeout)
        while not self.job.watch.halted():
            after = self._next(after)
            if self._naming:
                files.finish_new(self.job.guard, self.job.engine, self.job.retry)
            if after is None and not self._others_hold_some(waiting):
                break

    def _quickly(self) -> bool:
        """Do the step without a look at each row, where that can be done; return whether it was."""
        if self.ranges is None or self.target.divided is not None:
            return False
        if not self.step.due:
            return True
        return in_one_statement(self.job.guard, self.target) and self._in_ranges(self.ranges)

    def _in_ranges(self, ranges: Ranges) -> bool:
        """Go through the ranges. One in which the database refuses a row, or others hold one, is left as it is.

        Returns whether none was.
        """
        size, whole = Size.of_range(self.job.batch), True
        while not self.job.watch.halted():
            self.taken = None
            try:
                whole &= self.job.retry.run(lambda: self._range(ranges, size))
            except DBAPIError as error:
                if not refuses_row(error):
                    raise
                whole = False
                size.shrink()
            if self.taken is None:
                break
        return whole

    def _range(self, ranges: Ranges, size: Size) -> bool:
        """Do one range in one transaction; in every attempt the same one. Returns whether it was done."""
        began, done = clock.monotonic(), 0
        try:
            with self.job.transaction(_PATIENCE) as connection:
                seen = self._begin(connection)
                if self.taken is None:
                    self.taken = ranges.take(connection, self.predicate, size.rows)
                if self.taken is not None:
                    done = destroy.destroy_where(
                        connection, self.job.guard, self.target, and_(self.taken, self.predicate), self.gone
                    )
                    self._commit(connection, done, seen)
        except DBAPIError as error:
            if self.taken is None or not waited(error):
                raise
            size.shrink()
            return False
        if done:
            self.job.tell(self.step, done)
            size.took(clock.monotonic() - began)
        return True

    def _next(self, after: Key | None) -> Key | None:
        """Do one batch, again where it could not be done; return the key to go on after, or None at the end."""
        try:
            return self.job.retry.run(lambda: self._once(after), self.size.shrink)
        except DBAPIError as error:
            if not refuses_row(error):
                raise
        return self.job.retry.run(lambda: self._once(after, careful=True))

    def _once(self, after: Key | None, *, careful: bool = False) -> Key | None:
        """Do one batch in one transaction. ``careful``: find out which rows the database refuses, and leave those."""
        began = clock.monotonic()
        with self.job.transaction() as connection:
            seen = self._begin(connection)
            rows = self._page(connection, after)
            self.tally.failed.update(self._unknown_files(connection, rows))
            todo = [row for row in rows if self._key(row) not in self.tally.failed]
            counted = self._cells(connection, todo)
            done, failed = self._carefully(connection, todo) if careful else self._destroy(connection, todo)
            self._commit(connection, done, seen, counted)
        self.tally.failed.update(failed)
        self.job.tell(self.step, done + len(failed))
        if len(rows) == self.size.rows:
            self.size.took(clock.monotonic() - began)
        return self._key(rows[-1]) if rows else None

    def _begin(self, connection: Connection) -> int:
        """Return the number of the ledger's last line before rows are chosen."""
        named = self.job.guard.policy.receipts and self.target.divided is None
        self.gone = [] if named or self.rollup is not None else None
        if not self.job.shares:
            ledger.lock(connection, self.job.guard)
        return ledger.last_seq(connection, self.job.guard)

    def _cells(self, connection: Connection, rows: Sequence[Any]) -> list[tuple[Key, rollups.Cell]]:
        """As what each row is counted, if it is: made while the keys of its values are still there."""
        if self.rollup is None or not rows:
            return []
        keys = [self._key(row) for row in rows]
        read = [row[len(keys[0]) :] for row in rows]
        return list(
            zip(keys, rollups.cells(connection, self.job.guard, self.rollup, read, self.job.as_of), strict=True)
        )

    def _commit(
        self, connection: Connection, done: int, seen: int, counted: Sequence[tuple[Key, rollups.Cell]] = ()
    ) -> None:
        """Tell the ledger what was done, unless a hold was placed since, and count the rows that went."""
        guard, made = self.job.guard, None
        if done:
            line = self._line(done)
            if self.gone is not None and guard.policy.receipts:
                made = receipts.make(guard, self.target.table, self.step.field, self.gone)
                line["receipts"] = receipts.digest(made)
            written = ledger.append(connection, guard, "batch", line)
            _refuse_overtaken(connection, guard, seen)
            if made is not None:
                receipts.put(connection, guard, written.seq, made)
            if self.rollup is not None:
                gone = set(map(tuple, self.gone or ()))
                rollups.add(connection, guard, self.rollup, (cell for key, cell in counted if key in gone))

    def _others_hold_some(self, waiting: _Waiting) -> bool:
        """At the end of the table: whether rows are left that others held, and may let go without having done them."""
        if not self.job.shares:
            return False
        left = self._left()
        if left > 0 and waiting.goes_on(left):
            self.job.retry.sleep(waiting.pause)
            return True
        self.tally.locked = max(left, 0)
        return False

    def _left(self) -> int:
        """How many rows are due that were not given up."""
        return self.job.retry.run(self._due) - len(self.tally.failed)

    def _due(self) -> int:
        with self.job.transaction() as connection:
            return count(connection, self.target, self.predicate)

    def _line(self, done: int) -> dict[str, Any]:
        return {
            "run": self.job.run_id,
            "table": self.step.table,
            "field": self.step.field,
            "technique": self.step.technique,
            "rule": self.step.rule[:200],
            "count": done,
        }

    def _page(self, connection: Connection, after: Key | None) -> list[Any]:
        """Select the keys of the next due rows, with the stored value where a residue is made of it."""
        keys = self.keys
        columns: list[Any] = list(keys)
        if leaves_residue(self.target.technique) and self.target.column is not None:
            columns.append(as_stored(self.target.column))
            columns.append(self._owner())
        if self.rollup is not None:
            columns += rollups.columns(self.job.guard, self.rollup)
        query = select(*columns).where(self.predicate, *destroy.keyset(keys, after))
        query = query.order_by(*keys).limit(self.size.rows)
        query = query.with_for_update(of=self.target.table, skip_locked=self.job.shares)
        return list(connection.execute(query).all())

    def _key(self, row: Sequence[Any]) -> Key:
        return tuple(row[: len(self.keys)])

    def _owner(self) -> Any:
        table = self.target.table
        asked = self._sealed or needs_subject(self.target.technique)
        return owner_key(self.job.guard, table, table) if asked else null()

    @property
    def _sealed(self) -> bool:
        return self.target.rule is not None and self.target.rule.sealed

    def _unknown_files(self, connection: Connection, rows: Sequence[Any]) -> dict[Key, str]:
        """The rows that name a file and whose name does not open: it would stay for ever."""
        keys = [self._key(row) for row in rows]
        return dict.fromkeys(outbox.unopened(connection, self.job.guard, self._naming, keys), UNOPENED)

    @property
    def _naming(self) -> list[Column[Any]]:
        """The columns that name files and are destroyed here."""
        return outbox.naming(*self.target.destroyed)

    def _destroy(self, connection: Connection, rows: Sequence[Any]) -> tuple[int, dict[Key, str]]:
        """Destroy what is due in some rows. Returns how many were done, and why each other one was left."""
        guard, target = self.job.guard, self.target
        if not rows:
            return 0, {}
        if target.divided is not None:
            return shred.destroy_epochs(connection, guard, [row[:2] for row in rows]), {}
        if target.column is None:
            return destroy.delete_rows(connection, guard, target.table, rows, self.predicate, self.gone), {}
        if not leaves_residue(target.technique):
            return destroy.suppress(connection, guard, target, rows, self.predicate, self.gone), {}
        residues = self._residues(connection, rows)
        unopened: dict[Key, str] = {}
        if len(residues) < len(rows):
            made = {tuple(key) for key, _ in residues}
            unopened = {key: UNOPENED for row in rows if (key := self._key(row)) not in made}
        done = destroy.replace_with_residue(connection, guard, target, residues, self.predicate, self.gone)
        return done, unopened

    def _carefully(self, connection: Connection, rows: Sequence[Any]) -> tuple[int, dict[Key, str]]:
        """Destroy what is due in all rows but those that the database refuses: in halves, down to the row."""
        if self.job.shares:
            connection.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
        done, failed, waiting = 0, dict[Key, str](), [rows]
        while waiting:
            some, before = waiting.pop(), len(self.gone or ())
            try:
                with connection.begin_nested():
                    count, unopened = self._destroy(connection, some)
                done, failed = done + count, failed | unopened
            except DBAPIError as error:
                del (self.gone or [])[before:]
                if not refuses_row(error) or len(failed) + len(self.tally.failed) >= self.job.limits.max_refused:
                    raise
                if len(some) == 1:
                    failed[self._key(some[0])] = blocker(error)
                else:
                    waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
        return done, failed

    def _residues(self, connection: Connection, rows: Sequence[Any]) -> Residues:
        """Make the residue of each value. One that does not open keeps its row as it is; a shredded one leaves none."""
        guard, target = self.job.guard, self.target
        assert target.rule is not None
        field, envelopes = target.rule.field, [as_bytes(stored) for *_, stored, _ in rows] if self._sealed else []
        held = epochs.load_keys(connection, guard, field, envelopes)
        open_value = guard.opener(field, connection.dialect) if self._sealed else lambda value: value
        secret, today = guard.keyring.secret(secret_name(target.technique)), cautious_today(self.job.as_of)
        made: Residues = []
        for *key, stored, owner in rows:
            if self._sealed and as_bytes(stored)[2:18] != owner:
                continue
            try:
                subject = None if owner is None else as_bytes(owner).hex()
                left = residue(target.technique, open_value(stored), key=secret, today=today, subject=subject)
                made.append((key, left))
            except ShreddedError:
                made.append((key, None))
            except SealedError:
                continue
        del held  # until here they were findable
        return made


class _Waiting:
    """For how long a worker waits for rows that others hold: as long as they become fewer, and then a while."""

    def __init__(self, patience: float) -> None:
        self._patience, self._until, self._left = patience, clock.monotonic() + patience, -1
        self.pause = 0.0

    def goes_on(self, left: int) -> bool:
        """Whether to look again, after a pause."""
        fewer = left < self._left or self._left < 0
        self.pause = 0.02 if fewer else min(self.pause * 2, 0.5)
        if fewer:
            self._left, self._until = left, clock.monotonic() + self._patience
        return clock.monotonic() < self._until


def _refuse_overtaken(connection: Connection, guard: Guard, seen: int) -> None:
    """The ledger is ours now: no hold can be placed any more. One that was, while rows were chosen, comes first."""
    if holds.placed_since(connection, guard, seen):
        raise ConcurrentWrite(
            "A hold was placed while a batch was chosen.", "It may cover rows of the batch.", "Choose them anew."
        )

"""The run: executes a plan in committed batches, each with its ledger line in the same transaction.

A run may be killed at any moment and started again: a batch is either committed with its line or not at all,
and what was done no longer meets the predicate. Rows that fail are left as they are and make the run red.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, Engine, LargeBinary, null, select, type_coerce
from sqlalchemy.exc import SQLAlchemyError

from privkit import purposes
from privkit.consent.age import cautious_today
from privkit.crypto import as_bytes
from privkit.deidentify import leaves_residue, residue
from privkit.errors import PlanError, PrivkitError, SealedError, ShreddedError
from privkit.retention.plan import Plan, Step, check, count
from privkit.sqlalchemy import destroy, due, epochs, keystore, ledger
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.finality import Finality, finality
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.ownership import owner_key
from privkit.sqlalchemy.types import Guarded

Progress = Callable[[Step, int], None]
Residues = list[tuple[Sequence[Any], str | None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one step. ``failed`` rows were left as they are; ``error`` names what stopped the step."""

    step: Step
    done: int
    failed: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a plan. ``overdue`` is what is still due at the plan's instant, recounted afterwards.

    ``finality``: from when on what sealed values it destroyed are unreadable, here and in every copy.
    """

    id: str
    outcomes: tuple[Outcome, ...]
    overdue: int
    finality: Finality

    @property
    def done(self) -> int:
        """How many values and rows were destroyed."""
        return sum(outcome.done for outcome in self.outcomes)

    @property
    def ok(self) -> bool:
        """Whether nothing failed and nothing is overdue."""
        return not self.overdue and not any(outcome.failed or outcome.error for outcome in self.outcomes)


def purge(guard: Guard, engine: Engine, plan: Plan, *, batch: int = 1000, progress: Progress | None = None) -> Run:
    """Execute ``plan`` and nothing else. ``batch`` rows go into a transaction; ``progress`` hears of each.

    Raises PlanError when the policy or the models have changed since, or the plan lies in the future; KeyringError
    when the keys are not at hand; InvalidValue for a batch without a row. Either way nothing has been destroyed.
    """
    destroy.require_rows(batch)
    work = _matched(guard, plan)
    run_id = uuid4().hex
    with purposes.internally():
        opening = {"run": run_id, "policy": plan.policy_digest, "as_of": plan.as_of.isoformat(), "due": plan.due}
        with engine.begin() as connection:
            _refuse_autocommit(connection)
            ledger.append(connection, guard, "run_started", opening)
        outcomes = tuple(
            _Work(guard, engine, step, target, plan.as_of, run_id, batch, progress).run() for step, target in work
        )
        with engine.begin() as connection:
            overdue = sum(_remaining(guard, connection, target, plan.as_of) for _, target in work)
            done = sum(outcome.done for outcome in outcomes)
            ledger.append(connection, guard, "run_ended", {"run": run_id, "done": done, "overdue": overdue})
            found = finality(connection, guard)
    return Run(run_id, outcomes, overdue, found)


def _refuse_autocommit(connection: Connection) -> None:
    if ledger.is_autocommit(connection):
        raise PlanError(
            "The engine commits each statement by itself (AUTOCOMMIT).",
            "A batch could be destroyed without its line in the ledger.",
            "Give the run an engine with transactions: create_engine(url) without isolation_level.",
        )


def _matched(guard: Guard, plan: Plan) -> list[tuple[Step, Target]]:
    """Pair each step with its target, or refuse a plan that was made for something else."""
    if plan.policy_digest != guard.policy.digest:
        raise _stale("the policy has changed since it was made")
    if plan.as_of > guard.now():
        raise _stale("its instant lies in the future")
    targets = due.targets(guard)
    check(targets)
    known = {
        (target.table.fullname, target.field): target
        for target in targets
        if due.due(guard, target, lambda: plan.as_of) is not None
    }
    planned = {(step.table, step.field): step for step in plan.steps}
    if planned.keys() != known.keys() or len(planned) != len(plan.steps):
        raise _stale("the models have changed since it was made, or it is not whole")
    return [(step, known[name]) for name, step in planned.items()]


def _stale(why: str) -> PlanError:
    return PlanError(f"The plan was not run: {why}.", "Nothing was destroyed.", "Make a new one: privkit plan")


def _remaining(guard: Guard, connection: Connection, target: Target, as_of: datetime) -> int:
    predicate = due.due(guard, target, lambda: as_of)
    return count(connection, target, predicate) if predicate is not None else 0


@dataclass(slots=True)
class _Work:
    """The batches of one step."""

    guard: Guard
    engine: Engine
    step: Step
    target: Target
    as_of: datetime
    run_id: str
    batch: int
    progress: Progress | None
    done: int = 0
    failed: int = 0

    def run(self) -> Outcome:
        error = None
        try:
            after: Sequence[Any] | None = None
            while True:
                after = self._batch(after)
                if after is None:
                    break
        except (SQLAlchemyError, PrivkitError) as stopped:
            # One step's failure never stops another; its rows stay due and are counted as overdue.
            error = stopped.code if isinstance(stopped, PrivkitError) else type(stopped).__name__
        return Outcome(self.step, self.done, self.failed, error)

    def _batch(self, after: Sequence[Any] | None) -> Sequence[Any] | None:
        """Do one batch in one transaction; return the key to go on after, or None at the end."""
        with self.engine.begin() as connection:
            ledger.lock(connection, self.guard)
            rows = self._page(connection, after)
            if not rows:
                return None
            done, failed = self._destroy(connection, rows)
            if done:
                ledger.append(connection, self.guard, "batch", self._line(done))
        self.done += done
        self.failed += failed
        if self.progress is not None:
            self.progress(self.step, done + failed)
        last: Sequence[Any] = rows[-1][: len(destroy.key_columns(self.target.table))]
        return last

    def _line(self, done: int) -> dict[str, Any]:
        return {
            "run": self.run_id,
            "table": self.step.table,
            "field": self.step.field,
            "technique": self.step.technique,
            "rule": self.step.rule[:200],
            "count": done,
        }

    def _page(self, connection: Connection, after: Sequence[Any] | None) -> list[Any]:
        """Select the keys of the next due rows, with the stored value where a residue is made of it."""
        keys = destroy.key_columns(self.target.table)
        columns: list[Any] = list(keys)
        if leaves_residue(self.target.technique) and self.target.column is not None:
            columns.append(self._stored())
            columns.append(self._owner())
        predicate = due.due(self.guard, self.target, lambda: self.as_of)
        assert predicate is not None
        query = select(*columns).where(predicate, *destroy.keyset(keys, after))
        query = query.order_by(*keys).limit(self.batch).with_for_update(of=self.target.table)
        return list(connection.execute(query).all())

    def _stored(self) -> Any:
        column = self.target.column
        assert column is not None
        assert isinstance(column.type, Guarded)
        return type_coerce(column, LargeBinary() if column.type.sealed else column.type.plain)

    def _owner(self) -> Any:
        table = self.target.table
        return owner_key(self.guard, table, table) if self._sealed else null()

    @property
    def _sealed(self) -> bool:
        return self.target.rule is not None and self.target.rule.sealed

    def _destroy(self, connection: Connection, rows: list[Any]) -> tuple[int, int]:
        if self.target.divided is not None:
            return destroy.destroy_epochs(connection, self.guard, [tuple(row[:2]) for row in rows]), 0
        if self.target.column is None:
            return destroy.delete_rows(connection, self.guard, self.target.table, rows), 0
        if not leaves_residue(self.target.technique):
            return destroy.suppress(connection, self.target, rows), 0
        residues = self._residues(connection, rows)
        return destroy.replace_with_residue(connection, self.target, residues), len(rows) - len(residues)

    def _residues(self, connection: Connection, rows: list[Any]) -> Residues:
        """Make the residue of each value. One that does not open keeps its row as it is; a shredded one leaves none."""
        assert self.target.rule is not None
        held = self._keys(connection, [as_bytes(stored) for *_, stored, _ in rows]) if self._sealed else []
        open_value = (
            self.guard.opener(self.target.rule.field, connection.dialect) if self._sealed else lambda value: value
        )
        secret, today = self.guard.keyring.secret("pseudonym"), cautious_today(self.as_of)
        made: Residues = []
        for *key, stored, owner in rows:
            if self._sealed and as_bytes(stored)[2:18] != owner:
                continue
            try:
                made.append((key, residue(self.target.technique, open_value(stored), key=secret, today=today)))
            except ShreddedError:
                made.append((key, None))
            except SealedError:
                continue
        del held  # until here they were findable
        return made

    def _keys(self, connection: Connection, envelopes: list[bytes]) -> list[Any]:
        assert self.target.rule is not None
        field = self.target.rule.field
        numbers = {int.from_bytes(each[18:22], "big") for each in envelopes} - {0}
        wanted = dict.fromkeys((field.id, *field.marker.formerly), numbers)
        subjects = keystore.load(connection, self.guard, {each[2:18] for each in envelopes})
        return [*subjects, *epochs.load(connection, self.guard, wanted)]

"""The run: executes a plan in committed batches, each with its ledger line in the same transaction.

A run may be killed at any moment and started again: a batch is either committed with its line or not at all,
and what was done no longer meets the predicate. Several may run at once, in one process or in many. Rows that fail
are left as they are and make the run red.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from uuid import uuid4

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import SQLAlchemyError

from privkit import purposes
from privkit.errors import InvalidValue, PlanError, PrivkitError
from privkit.markers import Aggregate
from privkit.retention import files, runs
from privkit.retention.batches import Batches
from privkit.retention.dropping import Dropping
from privkit.retention.job import UNOPENED, Job, Progress, Size, Tally
from privkit.retention.limits import Limits, Watch, refuse_clock, refuse_past
from privkit.retention.plan import Plan, Step
from privkit.retention.planner import Asked, Name, by_table, count_each
from privkit.retention.ranges import Ranges
from privkit.retention.retry import Retry
from privkit.retention.staleness import matched, require_named
from privkit.sqlalchemy import destroy, due, ledger, outbox, rollups, spending
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.finality import Finality, finality
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.physical import Physical, settle
from privkit.sqlalchemy.tables import LEDGER, ROLLUP


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one step. ``done``: as the ledger tells it. ``failed`` rows were left as they are.

    ``blockers``: how many rows each constraint or kind of error kept, and how many values did not open.
    ``locked``: rows that another transaction held to the end. ``error`` names what stopped the step.
    """

    step: Step
    done: int
    failed: int = 0
    error: str | None = None
    blockers: Mapping[str, int] = field(default_factory=dict)
    locked: int = 0

    @property
    def unopened(self) -> int:
        """How many values did not open, so that no residue could be made of them."""
        return self.blockers.get(UNOPENED, 0)


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a plan. ``overdue`` is what is still due at the plan's instant, recounted afterwards.

    ``finality``: from when on what sealed values it destroyed are unreadable, here and in every copy. ``stopped``: the
    name of the limit that ended it before its end (``"max_seconds"``, ``"sentinel"``, ``"max_lag"``, ``"stop"``).
    ``physically``: what may be left on disks of values and rows whose keys live on; None where there were none.
    ``files_pending``: files whose rows are gone and that may still be there; ``finish_files`` tries them again.
    """

    id: str
    outcomes: tuple[Outcome, ...]
    overdue: int
    finality: Finality
    stopped: str | None = None
    physically: Physical | None = None
    files_pending: int = 0

    @property
    def done(self) -> int:
        """How many values and rows were destroyed."""
        return sum(outcome.done for outcome in self.outcomes)

    @property
    def ok(self) -> bool:
        """Whether nothing failed, nothing is overdue and no file is left."""
        failed = any(outcome.failed or outcome.error for outcome in self.outcomes)
        return not (failed or self.overdue or self.files_pending)


def purge(
    guard: Guard,
    engine: Engine,
    plan: Plan,
    *,
    batch: int | None = None,
    workers: int = 1,
    limits: Limits | None = None,
    retry: Retry | None = None,
    progress: Progress | None = None,
    yes_this_many: int | None = None,
    vacuum: bool = False,
) -> Run:
    """Execute ``plan`` and nothing else. Up to ``batch`` rows go into a transaction; ``progress`` hears of each.

    Without ``batch``, as many rows as the database does in a moment: 100 to 10,000. ``workers``: threads that share
    each step on PostgreSQL, each with a connection of its own; another database has one writer, and one works.
    ``vacuum``: run VACUUM afterwards on the tables that it changed.

    Raises PlanError when the policy or the models have changed since, or the plan lies in the future; ClockError
    when this machine's clock is far from the server's; KeyringError when the keys are not at hand; InvalidValue for a
    batch without a row, or no worker. Either way nothing has been destroyed.
    """
    limits, retry = limits or Limits(), retry or Retry()
    destroy.require_rows(1 if batch is None else batch)
    if workers < 1:
        raise InvalidValue("A run has at least one worker.", "Nobody would do anything.", "Give workers=1.")
    with engine.connect() as connection:
        work = matched(guard, connection, plan)
        refuse_clock(connection, guard.now, limits)
        with purposes.internally():
            refuse_past(guard, connection, limits.clock_difference)
            changes = runs.changes(guard, connection, ((step.name, target) for step, target in work))
        if limits.max_lag is not None:
            limits.lag(connection)  # one that cannot be told is refused before anything is done
    require_named(plan, yes_this_many, guard.policy.largest_share, changes.values())
    watch = Watch(limits, engine, sleep=retry.sleep)
    job = Job(guard, engine, uuid4().hex, plan.as_of, batch, limits, retry, watch, progress)
    with purposes.internally():
        files.finish(guard, engine, retry=retry)  # what a run that was killed has left
        while retry.run(partial(_drop_spending, job)):
            continue
        begun = retry.run(lambda: _begin(job, plan, work))
        tallies = [_step(job, step, target, workers) for step, target in work]
        left = _left(job, work)
        if _again(job, work, tallies, left):
            left = _left(job, work)
        run = retry.run(lambda: _end(job, work, tallies, begun, sum(left)))
    changed = _changed(run, work)
    return replace(run, physically=settle(guard, engine, changed, vacuum=vacuum) if changed else None)


def _drop_spending(job: Job) -> int:
    """Destroy notes of noisy places whose period is over; return how many."""
    with job.transaction() as connection:
        return spending.drop_ended(connection, job.guard)


def _changed(run: Run, work: list[tuple[Step, Target]]) -> set[str]:
    """The tables that it destroyed values or rows of, other than by the keys of their epochs."""
    done = zip(run.outcomes, work, strict=True)
    steps = [outcome.step for outcome, (_, target) in done if outcome.done and target.divided is None]
    return {step.table for step in steps} | {each.table for step in steps for each in step.cascades}


def _begin(job: Job, plan: Plan, work: list[tuple[Step, Target]]) -> int:
    """Write that a run started, and by which rules; return the line's number."""
    rules = runs.written(job.guard, ((step.name, target) for step, target in work))
    opening = {"run": job.run_id, "policy": plan.policy_digest, "as_of": plan.as_of.isoformat(), "due": plan.due}
    with job.engine.begin() as connection:
        _refuse_autocommit(connection)
        return ledger.append(connection, job.guard, "run_started", opening | {"rules": rules}).seq


def _refuse_autocommit(connection: Connection) -> None:
    if ledger.is_autocommit(connection):
        raise PlanError(
            "The engine commits each statement by itself (AUTOCOMMIT).",
            "A batch could be destroyed without its line in the ledger.",
            "Give the run an engine with transactions: create_engine(url) without isolation_level.",
        )


def _step(job: Job, step: Step, target: Target, workers: int) -> Tally:
    if step.refused:
        return Tally(error="refused")
    tally, ranges = Tally(), Ranges(step, target, exactly=job.batch is not None)
    _destroy(job, step, target, tally, ranges, workers)
    if isinstance(target.technique, Aggregate) and tally.error is None:
        try:
            job.retry.run(partial(_publish, job, target))
        except (SQLAlchemyError, PrivkitError) as stopped:  # what was counted waits for the next run
            tally.error = stopped.code if isinstance(stopped, PrivkitError) else type(stopped).__name__
    return tally


def _publish(job: Job, target: Target) -> None:
    """Publish what may be of what was counted, and destroy what has waited for too long."""
    guard = job.guard
    with job.transaction() as connection:
        ledger.lock(connection, guard)
        rollup = rollups.of(guard, target.table)
        assert rollup is not None
        going, late = rollups.publish(connection, guard, rollup, job.as_of)
        destroy.take_off(connection, guard, ROLLUP, [*going, *late])
        if going or late:
            rows = sum(cell.rows for cell in going.values())
            body = {"run": job.run_id, "summary": rollup.aggregate.into, "cells": len(going), "rows": rows}
            ledger.append(connection, guard, "aggregated", body | {"destroyed": len(late)})


def _destroy(job: Job, step: Step, target: Target, tally: Tally, ranges: Ranges, workers: int) -> None:
    Dropping(job, step, target, tally, Size.of(job.batch), ranges).drop()
    if workers == 1 or not job.shares:
        Batches(job, step, target, tally, Size.of(job.batch), ranges).run()
        return
    with ThreadPoolExecutor(workers) as pool:
        shares = [Batches(job, step, target, tally, Size.of(job.batch), ranges) for _ in range(workers)]
        try:
            for each in [pool.submit(share.run) for share in shares]:
                each.result()
        except BaseException:
            job.watch.halt("stop")  # the others end after the batch in hand, or a Ctrl-C would wait for all of them
            raise


def _left(job: Job, work: list[tuple[Step, Target]]) -> list[int]:
    """Recount what is due, table by table: a transaction never takes longer than one scan."""
    steps = [target for step, target in work if not step.refused]
    asked = [(target, due.due(job.guard, target, due.At(job.as_of))) for target in steps]
    found: dict[Name, int] = {}
    for some in by_table((target, predicate) for target, predicate in asked if predicate is not None):
        found |= job.retry.run(partial(_remaining, job, some))
    return [step.due if step.refused else found.get((step.table, step.field), 0) for step, _ in work]


def _remaining(job: Job, asked: list[Asked]) -> dict[Name, int]:
    with job.engine.connect() as connection:
        return count_each(connection, asked)


def _again(job: Job, work: list[tuple[Step, Target]], tallies: list[Tally], left: list[int]) -> bool:
    """Look at each row of the steps that were done without, where something is left; return whether there were any."""
    found = False
    for (step, target), tally, rows in zip(work, tallies, left, strict=True):
        if rows and not (step.refused or tally.one_by_one or tally.error or job.watch.halted()):
            Batches(job, step, target, tally, Size.of(job.batch), None).run()
            found = True
    return found


def _end(job: Job, work: list[tuple[Step, Target]], tallies: list[Tally], begun: int, overdue: int) -> Run:
    """Write that the run ended."""
    guard, stopped = job.guard, job.watch.stopped
    with job.engine.begin() as connection:
        told = _told(connection, job, begun)
        outcomes = tuple(
            Outcome(step, told[step.table, step.field], len(tally.failed), tally.error, tally.blockers, tally.locked)
            for (step, _), tally in zip(work, tallies, strict=True)
        )
        body = {"run": job.run_id, "done": told.total(), "overdue": overdue, "stopped": stopped}
        failed = {outcome.step.name[:200]: outcome.failed for outcome in outcomes if outcome.failed}
        pending = outbox.pending(connection, guard)
        left = {"files_pending": pending} if pending else {}
        ledger.append(connection, guard, "run_ended", body | {"failed": failed} | left)
        return Run(job.run_id, outcomes, overdue, finality(connection, guard), stopped, files_pending=pending)


def _told(connection: Connection, job: Job, begun: int) -> Counter[tuple[str, str | None]]:
    """What the ledger says of this run: a batch whose commit was not confirmed may have been committed."""
    line, found = job.guard.own_table(LEDGER), Counter[tuple[str, str | None]]()
    query = select(line.c.body).where(line.c.kind == "batch", line.c.seq > begun)
    for text in connection.execute(query).scalars():
        body = json.loads(text)
        if body.get("run") == job.run_id:
            found[body["table"], body["field"]] += body["count"]
    return found

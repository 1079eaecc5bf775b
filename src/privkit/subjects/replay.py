"""After a backup was restored: doing again what was destroyed, withdrawn and held since it was made."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, select

from privkit import retention
from privkit.errors import LedgerError
from privkit.purposes import internally
from privkit.retention import Run
from privkit.retention.job import Progress
from privkit.sqlalchemy import destroy, erasure, ledger
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import LEDGER


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay did. ``lines``: how many lines came back from the copy since the last replay.

    ``fields`` values and ``rows`` rows of erased data subjects were destroyed; ``run`` is the purge that followed;
    ``left`` values of erased data subjects are still there, under a hold or in a column that must hold one.
    """

    lines: int
    fields: int
    rows: int
    run: Run
    left: int

    @property
    def ok(self) -> bool:
        """Whether nothing is left and nothing is overdue."""
        return not self.left and self.run.ok


def replay(guard: Guard, engine: Engine, *, batch: int = 1000, progress: Progress | None = None) -> Replay:
    """Catch up with the ledger's copy outside, destroy what remains of the erased, and purge what is due now.

    Keys that the ledger says were destroyed are destroyed again, also where key tables were restored without it.
    May be killed and run again; on a database that was not restored it changes nothing but what is due. Raises
    LedgerError where no copy is known, or it tells of another past; PlanError as a plan does.
    """
    if guard.outside is None:
        raise LedgerError(
            "No copy of the ledger outside the database is known.",
            "A restored backup cannot tell who was erased since it was made.",
            'Give one: Privacy(..., ledger=LedgerFile("ledger.jsonl")).',
        )
    destroy.require_rows(batch)
    with internally():
        with engine.connect() as connection:
            ledger.meet(connection, guard)
            lines = _caught_up(connection, guard)
        with engine.begin() as connection:
            ledger.lock(connection, guard)
            erasure.bury_again(connection, guard)
        with engine.connect() as connection:
            todo = list(erasure.pages(connection, guard))
        done = [_destroy(guard, engine, ids) for ids in todo]
        fields, rows = sum(each for each, _ in done), sum(each for _, each in done)
        with engine.connect() as connection:
            plan = retention.make(guard, connection)
        run = retention.purge(guard, engine, plan, batch=batch, progress=progress, yes_this_many=plan.due)
        with engine.begin() as connection:
            ledger.lock(connection, guard)
            left = sum(erasure.left(connection, guard, erasure.destroyed(guard)).values())
            body = {"lines": lines, "fields": fields, "rows": rows, "left": left, "overdue": run.overdue}
            ledger.append(connection, guard, "replayed", body)
    return Replay(lines, fields, rows, run, left)


def _destroy(guard: Guard, engine: Engine, ids: list[bytes]) -> tuple[int, int]:
    """Destroy what remains of some data subjects whose keys are gone, in one transaction with its line."""
    with engine.begin() as connection:
        ledger.lock(connection, guard)
        rows = erasure.delete(connection, guard, ids)
        fields = erasure.suppress(connection, guard, ids)
        if rows or fields:
            ledger.append(connection, guard, "batch", {"replay": len(ids), "fields": fields, "rows": rows})
    return fields, rows


def _caught_up(connection: Connection, guard: Guard) -> int:
    """Count the lines that came back since the last replay."""
    table, count = guard.own_table(LEDGER), 0
    query = select(table.c.kind, table.c.body).where(table.c.kind.in_(["caught_up", "replayed"]))
    for kind, body in connection.execute(query.order_by(table.c.seq.desc())):
        if kind == "replayed":
            break
        count += json.loads(body)["lines"]
    return count

"""A run as a job of a scheduler: one call that makes its own plan and is red when anything is left.

purge_once(privacy, lambda: create_engine(os.environ["PRIVKIT_URL"]), limits=Limits(max_seconds=3000))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from privkit.errors import RunError
from privkit.privacy import Privacy
from privkit.retention import Limits, Run


def purge_once(
    privacy: Privacy,
    make_engine: Callable[[], Engine],
    *,
    batch: int | None = None,
    workers: int = 1,
    limits: Limits | None = None,
    vacuum: bool = False,
) -> dict[str, Any]:
    """Purge what is due now and return its counts: ``run``, ``done``, ``overdue`` and ``stopped``.

    ``make_engine`` is called here, and what it returns is disposed of: a scheduler forks. Two at once do no harm: each
    takes rows that the other does not hold. Raises RunError, with the same counts, where anything that was due is left;
    PlanError, and destroys nothing, where the plan would destroy a large share of a table: somebody has to look.
    """
    engine = make_engine()
    try:
        run = privacy.purge(engine, privacy.plan(engine), batch=batch, workers=workers, limits=limits, vacuum=vacuum)
    finally:
        engine.dispose()
    counts = {"run": run.id, "done": run.done, "overdue": run.overdue, "stopped": run.stopped}
    if not run.ok:
        raise RunError(_what(run), "What was done is done; the next run goes on.", "Look: privkit status", **counts)
    return counts


def _what(run: Run) -> str:
    early = f", and it was ended early ({run.stopped})" if run.stopped else ""
    files = f" and {run.files_pending:,} files" if run.files_pending else ""
    return f"The run {run.id} left {run.overdue:,} values and rows{files} that were due{early}."

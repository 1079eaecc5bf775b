"""Processes that purge a ride service and may be killed: ``python -m tests.retention.worker URL DIR [KILLS]``."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import event

from privkit import retention
from privkit.retention import Plan
from tests.sqlalchemy.rides import Clock, RideService, ride_service


def main(url: str, folder: str, kills: str = "0") -> None:
    service = ride_service(url, Path(folder), Clock())
    with service.engine.connect() as connection:
        plan = retention.make(service.guard, connection)
    if int(kills):
        service.engine.dispose()
        print(*_killed(service, plan, int(kills)))
        return
    print("ready", flush=True)
    run = retention.purge(service.guard, service.engine, plan, batch=7, yes_this_many=plan.due)
    print("done" if run.ok else "red", flush=True)


def _killed(service: RideService, plan: Plan, kills: int) -> list[int]:
    """Start the run so often, kill each around a random statement, and return the numbers of the signals that did.

    Each is a fork of this process: to start Python a hundred times would take minutes.
    """
    chance, ends = random.Random(7), []
    for _ in range(kills):
        when, statements = chance.choice(["before_cursor_execute", "after_cursor_execute"]), chance.randint(1, 60)
        child = os.fork()
        if not child:
            event.listen(service.engine, when, _kill_at(statements))
            try:
                retention.purge(service.guard, service.engine, plan, batch=2, yes_this_many=plan.due)
            finally:
                os._exit(1)
        ends.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
    return ends


def _kill_at(statements: int) -> Callable[..., None]:
    """Return what kills this process at that statement, counted from when the run has looked at its plan."""
    begun = 0

    def listen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        nonlocal begun
        begun += bool(begun) or statement.startswith("INSERT INTO privkit_ledger")
        if begun == statements:
            os.kill(os.getpid(), signal.SIGKILL)

    return listen


if __name__ == "__main__":
    main(*sys.argv[1:])

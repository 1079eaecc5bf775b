"""A process that purges a ride service and may be killed: ``python -m tests.retention.worker URL DIR``."""

from __future__ import annotations

import sys
from pathlib import Path

from privkit import retention
from tests.sqlalchemy.rides import Clock, ride_service


def main(url: str, folder: str) -> None:
    service = ride_service(url, Path(folder), Clock())
    with service.engine.connect() as connection:
        plan = retention.make(service.guard, connection)
    print("ready", flush=True)
    run = retention.purge(service.guard, service.engine, plan, batch=7, yes_this_many=plan.due)
    print("done" if run.ok else "red", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

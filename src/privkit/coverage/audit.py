"""One audit: the findings of the models, the policy and, where one is given, a database."""

from __future__ import annotations

from sqlalchemy import Connection, Engine

from privkit.coverage import checks, enforcement, live_checks
from privkit.coverage.findings import Finding, worst_first
from privkit.coverage.live import Scan, scan
from privkit.sqlalchemy.guard import Guard


def check(guard: Guard, engine: Engine | Connection | None = None) -> list[Finding]:
    """Return what is wrong, worst first; with an engine or a connection, in that database too.

    It counts and fetches no stored value. Raises what the driver raises where the database cannot be read.
    """
    return found_in(guard, scan(guard, engine) if engine is not None else None)


def found_in(guard: Guard, seen: Scan | None) -> list[Finding]:
    """Return the findings, with those of a scan that was already made."""
    found = [finding for each in checks.CHECKS for finding in each(guard)]
    found += enforcement.found_in(guard, seen)
    if seen is not None:
        found += [finding for each in live_checks.CHECKS for finding in each(seen)]
    return worst_first(found)

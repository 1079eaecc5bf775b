"""What the ledger tells of the runs before this one: how each ended, and by which rules it went.

A line of a run that started has its rules: names of purposes and events, and periods.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from privkit.periods import Period
from privkit.policy import Keep
from privkit.sqlalchemy import due
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import LEDGER

MUCH_SHORTER = 10
"""How many times shorter a period may become before a run asks for the plan's number, however few rows it destroys."""

_BEFORE = 50
"""How many runs are looked at for the last one that had a step's rule: several services may share a database."""

Rules = Mapping[str, list[list[str]]]
"""For each step's name its keeps that decide: purpose or duty, period, event, the event that ends it or "", lapses."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run as the ledger tells it. ``ended`` is None while it goes on, and for ever where it was killed."""

    id: str
    started: datetime
    as_of: datetime
    policy_digest: str
    ended: datetime | None = None
    done: int = 0
    overdue: int = 0
    failed: int = 0
    stopped: str | None = None
    files_pending: int = 0

    @property
    def ok(self) -> bool:
        """Whether it ended, nothing failed, and nothing was left that had been due, no file either."""
        return self.ended is not None and not (self.overdue or self.failed or self.files_pending)

    @property
    def duration(self) -> timedelta | None:
        """How long it took, or None where it has not ended."""
        return None if self.ended is None else self.ended - self.started

    @property
    def result(self) -> str:
        """How it ended, in words."""
        if self.ended is None:
            return "has not ended"
        left = [f"{self.overdue:,} left overdue"] * bool(self.overdue) + [f"{self.failed:,} failed"] * bool(self.failed)
        left += [f"{self.files_pending:,} files left"] * bool(self.files_pending)
        return ", ".join([*left, *([f"ended early: {self.stopped}"] if self.stopped else [])]) or "nothing left"


def past(guard: Guard, connection: Connection) -> Iterator[PastRun]:
    """Yield the runs that the ledger tells of, the last one to start first."""
    ended: dict[str, tuple[datetime, dict[str, Any]]] = {}
    for at, kind, body in _lines(guard, connection, "run_started", "run_ended"):
        if kind == "run_ended":
            ended[body["run"]] = (at, body)
            continue
        end, result = ended.pop(body["run"], (None, {}))
        yield PastRun(
            body["run"],
            at,
            datetime.fromisoformat(body["as_of"]),
            body["policy"],
            end,
            result.get("done", 0),
            result.get("overdue", 0),
            sum(result.get("failed", {}).values()),
            result.get("stopped"),
            result.get("files_pending", 0),
        )


def _lines(guard: Guard, connection: Connection, *kinds: str) -> Iterator[tuple[datetime, str, dict[str, Any]]]:
    line = guard.own_table(LEDGER)
    query = select(line.c.at, line.c.kind, line.c.body).where(line.c.kind.in_(kinds)).order_by(line.c.seq.desc())
    with connection.execute(query) as found:
        yield from ((datetime.fromisoformat(at), kind, json.loads(body)) for at, kind, body in found)


def written(guard: Guard, targets: Iterable[tuple[str, Target]]) -> Rules:
    """Return the rules of steps, by their names, as a line of the ledger has them."""
    return {name[:200]: [_text(*each) for each in deciding(guard, target)] for name, target in targets}


def _text(name: str, keep: Keep) -> list[str]:
    return [part[:200] for part in (name, str(keep.period), keep.after, keep.until, *map(str, keep.lapses))]


def deciding(guard: Guard, target: Target) -> list[tuple[str, Keep]]:
    """Return the keeps that decide a target, each with its purpose or duty: for each event the longest one."""
    keeps = target.keeps or due.row_keeps(guard, target.table)
    last: dict[tuple[str, ...], tuple[str, Keep]] = {}
    for name, keep in sorted(keeps.items()):
        if keep is not None:
            same = (*keep.anchor, *(lapse.event for lapse in keep.lapses))
            if same not in last or keep.period.length() > last[same][1].period.length():
                last[same] = (name, keep)
    return [each for _, each in sorted(last.items())]


@dataclass(frozen=True, slots=True)
class Change:
    """A step whose rule is another than in the last run. ``shortened``: far too much to be let through unseen."""

    name: str
    before: str
    now: str
    shortened: bool

    def __str__(self) -> str:
        return f"rule changed since the last run: {self.before!r} -> {self.now!r}"


def changes(guard: Guard, connection: Connection, targets: Iterable[tuple[str, Target]]) -> dict[str, Change]:
    """Return, by its name, each step whose rule is another than when a run last had it."""
    now, last = written(guard, targets), _last_rules(guard, connection)
    return {
        name: Change(name, _shown(last[name]), _shown(rule), _shortened(last[name], rule))
        for name, rule in now.items()
        if name in last and last[name] != rule
    }


def _last_rules(guard: Guard, connection: Connection) -> Rules:
    found: dict[str, list[list[str]]] = {}
    for (_, _, body), _ in zip(_lines(guard, connection, "run_started"), range(_BEFORE), strict=False):
        found = body.get("rules", {}) | found
    return found


def _shortened(before: list[list[str]], now: list[list[str]]) -> bool:
    """Whether a period became so much shorter, or what was waited for before is waited for no longer."""
    periods = {tuple(anchor): Period.parse(period).length() for _, period, *anchor in now}
    return any(
        tuple(anchor) not in periods or Period.parse(period).length() >= MUCH_SHORTER * periods[tuple(anchor)]
        for _, period, *anchor in before
    )


def _shown(rule: list[list[str]]) -> str:
    return ", ".join(
        f"{name}: {period} after {after}"
        + (f", or until {until}" if until else "")
        + "".join(f", or {lapse}" for lapse in lapses)
        for name, period, after, until, *lapses in rule
    )

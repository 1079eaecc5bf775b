"""What another policy would change: for each rule, what it would destroy that is kept now, and what it would keep.

Both are counted by their predicates, over the same models, in the same database and at the same instant. Nothing is
changed, in the database or in what protects it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import copy
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, func, not_, or_

from privkit import purposes
from privkit.policy import Policy, resolve
from privkit.retention import planner
from privkit.retention.planner import count
from privkit.sqlalchemy import due
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.memory import Memory

FOREVER = "kept for ever"


@dataclass(frozen=True, slots=True)
class RuleChange:
    """One rule under two policies. ``sooner``: due now by the new one alone; ``longer``: by the old one alone.

    A value that goes with its row counts with the row. ``sealing``: what has to be done to stored values first.
    """

    table: str
    field: str | None
    technique: str
    before: str
    after: str
    sooner: int
    longer: int
    sealing: str | None = None

    @property
    def name(self) -> str:
        """``table.field``, or the table's name alone for its rows."""
        return f"{self.table}.{self.field}" if self.field else self.table


@dataclass(frozen=True, slots=True)
class PolicyDiff:
    """What differs between two policies for one database, at one instant."""

    at: datetime
    before: str
    after: str
    changes: tuple[RuleChange, ...]

    @property
    def sooner(self) -> int:
        """How many values and rows the new policy would destroy that the old one keeps."""
        return sum(each.sooner for each in self.changes)

    @property
    def longer(self) -> int:
        """How many values and rows the new policy would keep that the old one destroys."""
        return sum(each.longer for each in self.changes)

    @property
    def ok(self) -> bool:
        """Whether the change of policy alone destroys and keeps nothing."""
        return not self.sooner and not self.longer

    def json(self) -> str:
        """Return it as JSON text."""
        return json.dumps({"privkit_diff": 1, **asdict(self)}, indent=2, default=datetime.isoformat)


def compare(guard: Guard, connection: Connection, old: Policy, new: Policy) -> PolicyDiff:
    """Compare two policies over the models of ``guard``, whatever policy it has itself.

    Raises PolicyError, with file and line of each mistake, for one that does not fit the models.
    """
    before, after, now = _under(guard, old), _under(guard, new), guard.now()
    with purposes.internally():
        changes = tuple(_changes(before, after, connection, now))
    return PolicyDiff(now, old.digest, new.digest, changes)


def _under(guard: Guard, policy: Policy) -> Guard:
    """Return a guard that decides by another policy. The models' columns stay bound to the one that protects them."""
    guard.keep_up()
    found = copy(guard)
    found.policy = policy
    found.rules = resolve(policy, [each.model for each in guard.classes.values()], consents=True)
    found.criteria, found.deferrals, found.conditions = Memory(), Memory(), Memory()
    for each in found.classes.values():
        found.check_epochs(each)
    return found


def _changes(before: Guard, after: Guard, connection: Connection, now: datetime) -> Iterator[RuleChange]:
    olds, news = ({(each.table, each.field): each for each in due.targets(guard)} for guard in (before, after))
    for key in [*olds, *(key for key in news if key not in olds)]:
        old, new = olds.get(key), news.get(key)
        target = new or old
        assert target is not None
        rules = _rule(before, old, now), _rule(after, new, now)
        sealing = _sealing(old, new)
        if rules[0] == rules[1] and sealing is None:
            continue
        (old_due, old_gone), (new_due, new_gone) = _due(before, old, now), _due(after, new, now)
        sooner = _only(connection, target, new_due, old_gone)
        longer = _only(connection, target, old_due, new_gone)
        name = target.table.fullname, target.field
        yield RuleChange(*name, planner.technique(target), *rules, sooner, longer, sealing)


def _rule(guard: Guard, target: Target | None, now: datetime) -> str:
    if target is None or due.due(guard, target, lambda: now) is None:
        return FOREVER
    return planner.rule(guard, target)


Condition = ColumnElement[bool] | None


def _due(guard: Guard, target: Target | None, now: datetime) -> tuple[Condition, Condition]:
    """What is due of a target; and what is destroyed of it, by itself or with its row."""
    found = due.parts(guard, target, lambda: now) if target is not None else None
    if target is None or found is None:
        return None, None
    ended, whole = found
    return due.due(guard, target, lambda: now), ended if whole is None else or_(ended, whole)


def _only(connection: Connection, target: Target, chosen: Condition, otherwise: Condition) -> int:
    if chosen is None:
        return 0
    found = chosen if otherwise is None else and_(chosen, not_(func.coalesce(otherwise, False)))
    return count(connection, target, found)


def _sealing(old: Target | None, new: Target | None) -> str | None:
    if old is None or new is None or old.rule is None or new.rule is None or old.rule.sealed == new.rule.sealed:
        return None
    return "is to be sealed: a migration" if new.rule.sealed else "is not to be sealed any more: a migration"

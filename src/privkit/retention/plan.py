"""The plan: what falls due at one instant, per table and field, with the rule that decided and the count."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, select

from privkit import purposes
from privkit.clock import as_utc
from privkit.deidentify import label, leaves_residue
from privkit.errors import PlanError
from privkit.policy import Keep
from privkit.sqlalchemy import destroy, due
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one field of a table, to its rows (``field`` None), or to the keys of a field's epochs.

    ``blocked``: due, with dependants. The last kind has the table privkit_epoch and the field's id.
    """

    table: str
    field: str | None
    technique: str
    rule: str
    due: int
    blocked: int = 0

    @property
    def name(self) -> str:
        """``table.field``, or the table's name alone for its rows."""
        return f"{self.table}.{self.field}" if self.field else self.table


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is due at ``as_of`` under the policy with ``policy_digest``."""

    as_of: datetime
    policy_digest: str
    steps: tuple[Step, ...]

    @property
    def due(self) -> int:
        """How many values and rows are due."""
        return sum(step.due for step in self.steps)

    def json(self) -> str:
        """Return the plan as JSON text, for ``Plan.load``."""
        body = {"privkit_plan": FORMAT, "as_of": self.as_of.isoformat(), "policy_digest": self.policy_digest}
        return json.dumps(body | {"steps": [asdict(step) for step in self.steps]}, indent=2, sort_keys=True)

    @classmethod
    def load(cls, text: str) -> Plan:
        """Read a plan that ``json`` wrote. Raises PlanError for anything else."""
        try:
            body = json.loads(text)
            if body["privkit_plan"] != FORMAT:
                raise ValueError
            steps = tuple(Step(**step) for step in body["steps"])
            return cls(as_utc(datetime.fromisoformat(body["as_of"])), str(body["policy_digest"]), steps)
        except (ValueError, KeyError, TypeError):
            raise PlanError("This is not a privkit plan.", "", "Make one: privkit plan --out plan.json") from None


def make(guard: Guard, connection: Connection, at: datetime | None = None) -> Plan:
    """Count what is due at ``at`` (aware; default: now). Raises PlanError where a technique cannot be carried out."""
    as_of = as_utc(at) if at is not None else guard.now()
    targets = due.targets(guard)
    check(targets)
    with purposes.internally():
        steps = [_step(guard, connection, target, as_of) for target in targets]
    return Plan(as_of, guard.policy.digest, tuple(step for step in steps if step is not None))


def check(targets: list[Target]) -> None:
    """Raise PlanError for the first target whose technique its column cannot hold, before anything is destroyed."""
    for target in targets:
        destroy.key_columns(target.table)
        column, rule = target.column, target.rule
        if column is None or rule is None:
            continue
        in_place = leaves_residue(target.technique) and not column.nullable and not rule.sealed
        if due.unsuppressible(target) or (in_place and rule.field.python_type is not str):
            raise PlanError(
                f"{rule.field} is NOT NULL and unsealed: it cannot be {label(target.technique)} when it ends.",
                "The run would fail, or the value would stay for ever.",
                "Make the column nullable, seal it (seal=True), or for text give then=Pseudonymise(...).",
                field=rule.field.id,
            )


def _step(guard: Guard, connection: Connection, target: Target, as_of: datetime) -> Step | None:
    predicate = due.due(guard, target, lambda: as_of)
    if predicate is None:
        return None
    blocked = due.blocked(guard, target.table, lambda: as_of) if target.field is None else None
    return Step(
        table=target.table.fullname,
        field=target.field,
        technique=label(target.technique) if target.divided is None else "destroy the epoch's key",
        rule=_rule(target.keeps or due.row_keeps(guard, target.table)),
        due=count(connection, target, predicate),
        blocked=count(connection, target, blocked) if blocked is not None else 0,
    )


def count(connection: Connection, target: Target, predicate: ColumnElement[bool]) -> int:
    """Count the rows of a target that a predicate finds."""
    query: Any = select(func.count()).select_from(target.table).where(predicate)
    return int(connection.execute(query).scalar_one())


def _rule(keeps: dict[str, Keep | None]) -> str:
    """The keeps that decide: for each event, the one that lasts longest."""
    last: dict[str, tuple[Keep, str]] = {}
    for name, keep in sorted(keeps.items()):
        if keep is not None and (keep.after not in last or _longer(keep, last[keep.after][0])):
            last[keep.after] = (keep, name)
    return ", ".join(f"{name}: {keep.period} after {event}" for event, (keep, name) in sorted(last.items()))


def _longer(one: Keep, other: Keep) -> bool:
    reference = datetime.fromisoformat("2001-01-01T00:00:00+00:00")
    return one.period.after(reference) > other.period.after(reference)

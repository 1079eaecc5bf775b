"""The plan: what falls due at one instant, per table and field, in the order in which a run destroys it.

It is a file as well (JSON, format 2), to be read by whoever approves it and executed later: names, counts and SQL,
and no value of any row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from privkit.clock import as_utc
from privkit.errors import PlanError

FORMAT = 2
_AGAIN = "Make one: privkit plan --out plan.json"
_COUNTS = ("due", "blocked", "held", "total")


@dataclass(frozen=True, slots=True)
class Cascade:
    """Rows of another table that go with a step's rows, or lose what refers to them."""

    table: str
    rows: int
    effect: Literal["deleted", "set to NULL"]


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of which all rows are due: it is detached and dropped whole. Its rows are among the step's."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one field of a table, to its rows (``field`` None), or to the keys of a field's epochs.

    The last kind has the table privkit_epoch and the field's id. Of ``total`` rows, ``due`` are destroyed;
    ``blocked`` are due and wait for rows that depend on them, ``held`` are due and under a hold.
    """

    table: str
    field: str | None
    technique: str
    rule: str
    due: int
    blocked: int = 0
    held: int = 0
    total: int = 0
    cascades: tuple[Cascade, ...] = ()
    seconds: float = 0
    predicate: str = ""
    """What finds the rows, as SQL to read. A run builds its own, from the same policy."""

    refused: str | None = None
    """Why the run leaves this step alone, and is red for it. The other steps go on."""

    warnings: tuple[str, ...] = ()
    commitment: str | None = None
    """Keyed fingerprints of the due rows' keys (``privkit.retention.commitment``); None: their number alone."""

    partitions: tuple[Partition, ...] = ()

    @property
    def name(self) -> str:
        """``table.field``, or the table's name alone for its rows."""
        return f"{self.table}.{self.field}" if self.field else self.table

    @property
    def share(self) -> float:
        """How much of its table is due, from 0 to 1."""
        return self.due / self.total if self.total else 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is due at ``as_of`` under the policy with ``policy_digest``, in one database.

    ``schema``: for each table, what it is made of in that database. ``salt``: under which the rows' fingerprints are.
    """

    as_of: datetime
    policy_digest: str
    steps: tuple[Step, ...]
    made_at: datetime | None = None
    database: str = ""
    schema: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    salt: str = ""

    @property
    def due(self) -> int:
        """How many values and rows are due."""
        return sum(step.due for step in self.steps)

    @property
    def seconds(self) -> float:
        """How long a run is expected to take."""
        return sum(step.seconds for step in self.steps)

    @property
    def refused(self) -> tuple[Step, ...]:
        """The steps that a run leaves alone."""
        return tuple(step for step in self.steps if step.refused is not None)

    def json(self) -> str:
        """Return the plan as JSON text, for ``Plan.load``."""
        body = {
            "privkit_plan": FORMAT,
            "as_of": self.as_of.isoformat(),
            "made_at": self.made_at and self.made_at.isoformat(),
            "database": self.database,
            "policy_digest": self.policy_digest,
            "steps": [asdict(step) for step in self.steps],
            "schema": dict(self.schema),
            "salt": self.salt,
        }
        return json.dumps(body, indent=2)

    @classmethod
    def load(cls, text: str) -> Plan:
        """Read a plan that ``json`` wrote. Raises PlanError for anything else, and for an earlier format."""
        try:
            body = json.loads(text)
            if body["privkit_plan"] == 1:
                raise PlanError(
                    "This plan is of format 1, which an earlier release of privkit wrote.",
                    "It does not say which database and which rows it is for.",
                    _AGAIN,
                )
            if body["privkit_plan"] != FORMAT:
                raise ValueError
            return cls(
                as_of=_instant(body["as_of"]),
                policy_digest=str(body["policy_digest"]),
                steps=tuple(_step(each) for each in body["steps"]),
                made_at=None if body["made_at"] is None else _instant(body["made_at"]),
                database=str(body["database"]),
                schema={str(name): tuple(map(str, facts)) for name, facts in body["schema"].items()},
                salt=str(body["salt"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise PlanError("This is not a privkit plan, or it is damaged.", "", _AGAIN) from None


def _instant(text: str) -> datetime:
    return as_utc(datetime.fromisoformat(text))


def _step(body: dict[str, Any]) -> Step:
    if any(type(body[name]) is not int or body[name] < 0 for name in _COUNTS):
        raise ValueError
    made = {
        "cascades": tuple(Cascade(**each) for each in body["cascades"]),
        "warnings": tuple(map(str, body["warnings"])),
        "partitions": tuple(Partition(**each) for each in body.get("partitions", ())),
    }
    return Step(**body | made)

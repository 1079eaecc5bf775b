"""From when on what a destroyed key sealed is unreadable: here, and in every copy there is.

A destroyed key may live on in the memory of other processes for as long as keys are cached. Its wrapped bytes may lie
in the heap, the log and the backups of the database until the master generation that wrapped them is destroyed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from privkit.purposes import internally
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.rewrap import last_roll
from privkit.sqlalchemy.tables import KEY


@dataclass(frozen=True, slots=True)
class Finality:
    """What holds for a key that is destroyed at one instant.

    ``unreadable_by``: no process opens anything with it, except what was fetched before and is still being read.
    ``roll_due``: when the policy has the next ``privkit keys
    roll``, which makes it final everywhere; None: the policy does not say (``keys: {roll: P90D}``).
    """

    destroyed: datetime
    unreadable_by: datetime
    roll_due: datetime | None

    @property
    def final_by(self) -> datetime | None:
        """By when it is final everywhere; None where no roll is planned, or the planned one is late."""
        return self.roll_due if self.roll_due is not None and self.roll_due > self.destroyed else None

    def __str__(self) -> str:
        if self.final_by is not None:
            end = f"final everywhere by {self.final_by:%Y-%m-%d %H:%M} UTC (privkit keys roll)"
        elif self.roll_due is not None:
            end = f"final everywhere with privkit keys roll, which was due at {self.roll_due:%Y-%m-%d %H:%M} UTC"
        else:
            end = "final everywhere with privkit keys roll (the policy plans none: keys: {roll: P90D})"
        return f"unreadable here by {self.unreadable_by:%Y-%m-%d %H:%M:%S} UTC, {end}"


def finality(connection: Connection, guard: Guard, destroyed: datetime | None = None) -> Finality:
    """Return what holds for a key that is destroyed at ``destroyed`` (aware; default: now)."""
    moment = destroyed if destroyed is not None else guard.now()
    every = guard.policy.key_roll
    rolled = _rolled(connection, guard) if every is not None else None
    due = every.after(rolled or moment) if every is not None else None
    return Finality(moment, moment + guard.keys.max_age, due)


def _rolled(connection: Connection, guard: Guard) -> datetime | None:
    """The last roll, or the day of the first key, from which the first roll counts."""
    rolled = last_roll(connection, guard)
    if rolled is not None:
        return rolled
    table = guard.own_table(KEY)
    with internally():
        first: datetime | None = connection.execute(select(func.min(table.c.created_at))).scalar()
    return first.replace(tzinfo=UTC) if first is not None and first.tzinfo is None else first

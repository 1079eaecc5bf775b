"""What a ``Privacy`` answers about time and changes nothing for: the status, the forecast, another policy's effect."""

from __future__ import annotations

import os
from datetime import timedelta

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from privkit import policy
from privkit.errors import NotProtectedError
from privkit.policy import Policy
from privkit.retention import diff, forecast, status
from privkit.retention.diff import PolicyDiff
from privkit.retention.forecast import Forecast
from privkit.retention.status import GRACE, Status
from privkit.sqlalchemy import Guard, protect, replicas
from privkit.sqlalchemy.registry import guard_of


class Outlook:
    """The part of ``Privacy`` that looks ahead and back."""

    guard: Guard

    def _ours(self, engine: Engine) -> None:
        """Protect an engine that an administrative call was given, unless it is protected."""
        if isinstance(engine, AsyncEngine):
            raise NotProtectedError(
                "A run works on a plain Engine.", "", "Give it create_engine(url) for the same database."
            )
        if guard_of(engine.dialect) is not self.guard:
            protect(self.guard, engine)

    def _primary(self, engine: Engine) -> None:
        """The same for a call that changes something, or finds out what to change. Raises PlanError on a standby."""
        self._ours(engine)
        with engine.connect() as connection:
            replicas.require_primary(connection)

    def status(self, engine: Engine, *, grace: timedelta = GRACE) -> Status:
        """Return what is due and overdue, since when, and how the last run ended. Nothing is changed or locked.

        ``grace``: for how long something may be due, after a run, before it is overdue. Raises ClockError where the
        clock jumped.
        """
        self._ours(engine)
        with engine.connect() as connection:
            return status.read(self.guard, connection, grace)

    def forecast(self, engine: Engine, *, days: int = 90) -> Forecast:
        """Return what falls due on which of the next ``days`` (1 to 700) of what is stored now."""
        self._ours(engine)
        with engine.connect() as connection:
            return forecast.make(self.guard, connection, days)

    def diff(
        self, engine: Engine, old: str | os.PathLike[str] | Policy, new: str | os.PathLike[str] | Policy
    ) -> PolicyDiff:
        """Return what a change of policy would destroy now, and what it would keep longer. Nothing is changed.

        Raises PolicyError where one of them has mistakes, or does not fit the models.
        """
        self._ours(engine)
        with engine.connect() as connection:
            return diff.compare(self.guard, connection, policy.load(old), policy.load(new))

"""Partitions of which all rows are due are dropped whole, before the batches of their step."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from privkit.errors import PrivkitError
from privkit.retention.batches import Batches
from privkit.retention.limits import limit_waiting
from privkit.retention.partitions import droppable
from privkit.sqlalchemy import destroy, due
from privkit.sqlalchemy.partitions import Leaf, over

PATIENCE = 1.0
"""Seconds for which a run waits for the lock, or less (``lock_timeout``): everybody's statements queue behind it."""


@dataclass
class Dropping(Batches):
    """The drops of one step: each partition in a transaction of its own, with its line in the ledger."""

    name: str = ""

    def drop(self) -> None:
        """Drop what the plan names. What cannot be dropped now is left to the batches, which say why it stays."""
        if not self.step.partitions or not droppable(self.job.guard, self.target):
            return
        with suppress(SQLAlchemyError, PrivkitError):
            for leaf in self._leaves():
                if self.job.watch.halted():
                    return
                with suppress(SQLAlchemyError, PrivkitError):
                    self._drop(leaf)

    def _leaves(self) -> list[Leaf]:
        """In a transaction of their own: it ends without the locks that looking at partitions takes."""
        names = {each.name for each in self.step.partitions}
        with self.job.transaction() as connection:
            found = over(connection, self.target.table, self.job.as_of)
        return [leaf for leaf in found if leaf.name in names]

    def _drop(self, leaf: Leaf) -> None:
        job, self.name = self.job, leaf.name
        with job.transaction() as connection:
            # Whoever wants the table waits while its rows are counted, so for no longer than a lock is waited for.
            limit_waiting(connection, min(PATIENCE, job.limits.lock_timeout), job.limits.lock_timeout)
            seen = self._begin(connection)
            done = destroy.drop_partition(connection, job.guard, self.target.table, leaf, due.At(job.as_of))
            self._commit(connection, done, seen)
        if done:
            job.tell(self.step, done)

    def _line(self, done: int) -> dict[str, Any]:
        return {**super()._line(done), "partition": self.name[:200]}

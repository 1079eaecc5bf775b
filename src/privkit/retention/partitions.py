"""Which partitions a plan will drop whole, where the policy has it do so: ``runs.drop_partitions``."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Connection

from privkit.retention.plan import Partition
from privkit.retention.ranges import in_one_statement
from privkit.sqlalchemy import partitions, references
from privkit.sqlalchemy.due import Now, Target
from privkit.sqlalchemy.guard import Guard


def droppable(guard: Guard, target: Target) -> bool:
    """Whether partitions may be dropped: nothing else goes with a row, no key, and no row that depends on it."""
    rows = target.column is None and in_one_statement(guard, target)
    return guard.policy.drop_partitions and rows and not references.dependants(target.table)


def planned(guard: Guard, connection: Connection, target: Target, now: Now) -> Iterator[Partition]:
    """Yield the partitions of which all rows are due."""
    if connection.dialect.name != "postgresql" or not droppable(guard, target):
        return
    for leaf in partitions.over(connection, target.table, now()):
        if rows := partitions.count(connection, guard, target.table, leaf, now):
            yield Partition(leaf.name, rows)

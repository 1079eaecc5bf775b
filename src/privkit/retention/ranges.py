"""The fast way through a step: one statement destroys what is due in a range of rows, and no row is told apart.

On PostgreSQL, where much of a table is due, a range is some blocks of its heap: rows are met in the order in which
they lie. Elsewhere it lies between two keys. What ranges leave behind is for the batches to find.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, cast, column, literal, not_, select, text
from sqlalchemy.types import UserDefinedType

from privkit.deidentify import leaves_residue
from privkit.markers import Aggregate
from privkit.retention.plan import Step
from privkit.sqlalchemy import destroy, outbox, references
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN

MUCH = 0.2
"""From which share of a table on reading its whole heap costs less than finding rows by their keys."""

_HEAP = text("""
    WITH RECURSIVE part(id) AS (
        SELECT CAST(CAST(:name AS regclass) AS oid)
        UNION ALL SELECT inhrelid FROM pg_inherits JOIN part ON inhparent = id
    )
    SELECT max(pg_relation_size(c.oid)) / CAST(current_setting('block_size') AS bigint) AS longest,
           sum(pg_relation_size(c.oid)) / CAST(current_setting('block_size') AS bigint) AS together,
           bool_and(c.relkind = 'p' OR coalesce(a.amname = 'heap', false)) AS plain
    FROM part JOIN pg_class c ON c.oid = part.id LEFT JOIN pg_am a ON a.oid = c.relam
""")


class Ranges:
    """The ranges of one step, which all its workers share. No two of them overlap.

    ``exactly``: no more is due in one than was asked for.
    """

    def __init__(self, step: Step, target: Target, *, exactly: bool) -> None:
        self._step, self._target, self._exactly = step, target, exactly
        self._chosen: _Blocks | _Keys | None = None
        self._taking = threading.Lock()

    def take(self, connection: Connection, due: ColumnElement[bool], rows: int) -> ColumnElement[bool] | None:
        """Return the condition of the next range, of about so many rows, or None at the end. ``due``: of the step."""
        with self._taking:
            if self._chosen is None:
                much = not self._exactly and self._step.share >= MUCH
                self._chosen = (self._blocks(connection) if much else None) or _Keys(self._target, every=much)
            return self._chosen.take(connection, due, rows)

    def _blocks(self, connection: Connection) -> _Blocks | None:
        """PostgreSQL reads a part of a heap from version 14 on. What is no heap is a view, or lies elsewhere."""
        dialect = connection.dialect
        if dialect.name != "postgresql" or (dialect.server_version_info or (0,)) < (14,):
            return None
        name = dialect.identifier_preparer.format_table(self._target.table)
        heap = connection.execute(_HEAP, {"name": name}).one()
        return _Blocks(heap.longest, self._step.total / float(heap.together)) if heap.plain and heap.longest else None


class _Tid(UserDefinedType[str]):
    """Where a row lies in the heap of its table: block and line."""

    cache_ok = True

    def get_col_spec(self, **options: Any) -> str:
        return "TID"


class _Blocks:
    """Ranges of a heap, by block; of a partitioned table, the same blocks of all its partitions at once."""

    def __init__(self, blocks: int, rows_in_each: float) -> None:
        self._blocks, self._rows_in_each, self._next = blocks, max(rows_in_each, 1.0), 0

    def take(self, connection: Connection, due: ColumnElement[bool], rows: int) -> ColumnElement[bool] | None:
        if self._next >= self._blocks:
            return None
        first, self._next = self._next, self._next + max(1, int(rows / self._rows_in_each))
        place: Any = column("ctid", _Tid())
        return and_(place >= _start_of(first), place < _start_of(self._next))


def _start_of(block: int) -> ColumnElement[Any]:
    return cast(literal(f"({block},0)"), _Tid())


class _Keys:
    """Ranges between two keys, with as many rows in each as were asked for: of ``every`` kind, or that are due."""

    def __init__(self, target: Target, *, every: bool) -> None:
        self._keys: list[Any] = list(destroy.key_columns(target.table))
        self._every = every
        self._after: Sequence[Any] | None = None

    def take(self, connection: Connection, due: ColumnElement[bool], rows: int) -> ColumnElement[bool] | None:
        begin = destroy.keyset(self._keys, self._after)
        found = select(*self._keys).where(*begin, *(() if self._every else (due,)))
        last = connection.execute(found.order_by(*self._keys).offset(rows - 1).limit(1)).first()
        if last is None:  # the rest is shorter
            last = connection.execute(found.order_by(*(key.desc() for key in self._keys)).limit(1)).first()
        if last is None:
            return None
        self._after = tuple(last)
        return and_(*begin, *(not_(each) for each in destroy.keyset(self._keys, self._after)))


def in_one_statement(guard: Guard, target: Target) -> bool:
    """Whether only the rows themselves are touched: no key, residue or file, and no row that depends on them."""
    table = target.table
    opened = leaves_residue(target.technique) or isinstance(target.technique, Aggregate)
    if target.divided is not None or opened or outbox.naming(*target.destroyed):
        return False
    followed = any(foreign.ondelete in ("CASCADE", "SET NULL") for foreign in references.dependants(table))
    return target.column is not None or not (followed or KEY_COLUMN in table.columns or references.circle(guard, table))

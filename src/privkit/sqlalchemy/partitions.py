"""Partitions of a PostgreSQL table that may be dropped whole, where every row of them is due.

Only ranges of a date or an instant, a day after their end: no row is stored in one any more, as a rule, and its absence
fails no INSERT. A partition stays, and its rows go by batches, where dropping it would pass over what deleting a row
does: triggers, rules, row security, references to it, and publications, whose subscribers would keep the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, FromClause, MetaData, Table, case, exists, func, not_, select, text

from privkit.sqlalchemy import due
from privkit.sqlalchemy.guard import Guard


@dataclass(frozen=True, slots=True)
class Leaf:
    """A partition without partitions of its own. ``name`` and ``parent`` are as SQL text writes them."""

    name: str
    parent: str
    table: Table = field(compare=False)
    rows: FromClause = field(compare=False)
    """Its rows, with the columns of the mapped table."""


_OVER = text(r"""
    SELECT c.oid::regclass::text, tree.parentrelid::regclass::text, n.nspname, c.relname
    FROM pg_partition_tree(to_regclass(:name)) tree
    JOIN pg_class c ON c.oid = tree.relid AND c.relkind = 'r'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_partitioned_table p ON p.partrelid = tree.parentrelid AND p.partstrat = 'r' AND p.partnatts = 1
    JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
    WHERE tree.isleaf AND CASE WHEN a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
        THEN substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''([^'']+)''\)$')::timestamptz
            <= CAST(:at AS timestamptz) - interval '1 day' END
    AND NOT EXISTS (
        SELECT FROM pg_partition_ancestors(c.oid) line (oid) JOIN pg_class r ON r.oid = line.oid
        JOIN pg_namespace s ON s.oid = r.relnamespace
        WHERE r.relhasrules OR row_security_active(r.oid)
        OR EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = r.oid AND NOT g.tgisinternal AND g.tgtype & 8 > 0)
        OR EXISTS (SELECT FROM pg_constraint f WHERE f.confrelid = r.oid AND f.contype = 'f')
        OR EXISTS (SELECT FROM pg_publication_tables u WHERE (u.schemaname, u.tablename) = (s.nspname, r.relname))
    )
    ORDER BY c.oid
""")


def over(connection: Connection, table: Table, at: datetime) -> list[Leaf]:
    """Return the partitions of ``table`` whose range ended a day before ``at``, and that may be dropped whole."""
    name = connection.dialect.identifier_preparer.format_table(table)
    mapped = {each.name for each in table.metadata.tables.values()}
    return [
        Leaf(partition, parent, Table(relation, MetaData(), schema=schema), _rows(connection, table, partition))
        for partition, parent, schema, relation in connection.execute(_OVER, {"name": name, "at": at})
        if relation not in mapped
    ]


def _rows(connection: Connection, table: Table, name: str) -> FromClause:
    """The mapped columns as they stand in a partition: what is due is found by them, and by no others."""
    columns = ", ".join(map(connection.dialect.identifier_preparer.format_column, table.columns))
    query = f"SELECT {columns} FROM {name}".replace(":", "\\:")
    return text(query).columns(*table.columns).subquery("privkit_partition")


def count(
    connection: Connection,
    guard: Guard,
    table: Table,
    leaf: Leaf,
    now: due.Now,
    kept: ColumnElement[bool] | None = None,
) -> int:
    """Return how many rows a partition has, or 0 where one is not due at ``now``, or is ``kept``."""
    going = due.deletable(guard, table, now, leaf.rows)
    assert going is not None
    stays = not_(func.coalesce(going if kept is None else going & not_(kept), False))
    rows = select(func.count()).select_from(leaf.rows).scalar_subquery()
    one_stays = exists().select_from(leaf.rows).where(stays)
    return int(connection.execute(select(case((one_stays, 0), else_=rows))).scalar_one())


def lock(
    connection: Connection, guard: Guard, table: Table, leaf: Leaf, now: due.Now, kept: ColumnElement[bool]
) -> int:
    """Keep everybody from a partition, and return what ``count`` does once nobody changes it any more.

    Until the transaction ends nobody else reads or writes the table either.
    """
    for name in (f"ONLY {leaf.parent}", leaf.name):  # as statements do: the parent first, or two would deadlock
        connection.execute(text(f"LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE"))
    return count(connection, guard, table, leaf, now, kept) if leaf in over(connection, table, now()) else 0

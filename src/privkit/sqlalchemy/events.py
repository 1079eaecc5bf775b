"""When a policy event happened for a row, as SQL: its own column, a related row's, or the latest of many."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Date, DateTime, FromClause, Table, func, select
from sqlalchemy.types import TypeEngine

from privkit.errors import MappingError, StatementRefused
from privkit.markers import Latest
from privkit.sqlalchemy.guard import Guard, Protected, own_alias
from privkit.sqlalchemy.ownership import inheritance
from privkit.sqlalchemy.types import plain_type

MINIMUM, MAXIMUM = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def event_time(guard: Guard, table: Table, at: FromClause, event: str) -> ColumnElement[Any]:
    """Return SQL for the instant at which ``event`` happened for a row of ``at``; NULL: it has not happened."""
    each = guard.tables[table]
    source = each.model.events[event]
    path = source.path if isinstance(source, Latest) else source
    head, _, rest = path.partition(".")
    if not rest:
        column = each.mapper.columns.get(head)
        if column is None:
            raise _unknown(each, event, path)
        return _at(at, column, table) if column.table is table else _of_base(guard, each, at, event)
    return _related(each, at, event, head, rest, latest=isinstance(source, Latest))


def _of_base(guard: Guard, each: Protected, at: FromClause, event: str) -> ColumnElement[Any]:
    """Under joined inheritance the event may be a column of the base table."""
    step = inheritance(each)
    remote = own_alias(step.target)
    inner = event_time(guard, step.target, remote, event)
    return select(inner).where(step.joins(at, remote)).correlate_except(remote).scalar_subquery()


def _related(each: Protected, at: FromClause, event: str, head: str, rest: str, *, latest: bool) -> ColumnElement[Any]:
    if head not in each.mapper.relationships:
        raise _unknown(each, event, f"{head}.{rest}")
    relationship = each.mapper.relationships[head]
    target = relationship.mapper
    if relationship.secondary is not None or rest not in target.columns or relationship.uselist is not latest:
        raise _unknown(each, event, f"{head}.{rest}")
    assert isinstance(target.local_table, Table)
    remote = own_alias(target.local_table)
    column = remote.c[target.columns[rest].key]
    pairs = relationship.local_remote_pairs or ()
    kind = plain_type(column)
    chosen = func.max(column, type_=kind) if latest else column
    query = select(chosen)
    for local, theirs in pairs:
        query = query.where(remote.c[str(theirs.key)] == _at(at, local, each.table))
    return query.correlate_except(remote).scalar_subquery()


def _at(at: FromClause, column: Any, table: Table) -> ColumnElement[Any]:
    found: ColumnElement[Any] | None = at.c.get(column.key)
    if found is None or column not in found.base_columns:
        raise StatementRefused(
            f"A subquery over {table.name} left out {column.key}, from which a field's expiry is counted.",
            "An expired value could be read through it.",
            f"Select the whole entity in the subquery, or add {table.name}.{column.key} to it.",
            table=table.name,
        )
    return found


def stored(moment: datetime, kind: TypeEngine[Any]) -> Any:
    """Return an aware UTC instant as a value that compares with an event column of this type.

    A naive column holds UTC, whatever the process's or the database session's zone. A date counts from its
    end, so that a period is never shorter than declared.
    """
    if isinstance(kind, Date):
        return moment.date() - timedelta(days=1) if moment.date() > datetime.min.date() else moment.date()
    if isinstance(kind, DateTime) and not kind.timezone:
        return moment.replace(tzinfo=None)
    return moment


def _unknown(each: Protected, event: str, path: str) -> MappingError:
    return MappingError(
        f"{each.mapper.class_.__name__} maps the event {event!r} to {path!r}, which is no time column it can reach.",
        "Nothing that counts from the event would ever expire.",
        'Name a column, "relationship.column" of a many-to-one, or Latest("relationship.column") of many.',
        event=event,
    )

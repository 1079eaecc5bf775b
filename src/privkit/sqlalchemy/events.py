"""When a policy event happened for a row, as SQL: its own column, a related row's, the latest of many, a withdrawal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, Date, DateTime, FromClause, Table, func, select
from sqlalchemy.orm import Mapper, RelationshipProperty
from sqlalchemy.types import TypeEngine

from privkit.errors import MappingError, StatementRefused
from privkit.markers import Latest
from privkit.policy.rules import withdrawn_purpose
from privkit.sqlalchemy.guard import Guard, Protected, own_alias
from privkit.sqlalchemy.ownership import inheritance, owner_key
from privkit.sqlalchemy.standing import withdrawn_at
from privkit.sqlalchemy.tables import CONSENT
from privkit.sqlalchemy.types import plain_type

MINIMUM, MAXIMUM = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def event_time(guard: Guard, table: Table, at: FromClause, event: str) -> ColumnElement[Any]:
    """Return SQL for the instant at which ``event`` happened for a row of ``at``; NULL: it has not happened."""
    purpose = withdrawn_purpose(event)
    if purpose is not None:
        return _withdrawal(guard, table, at, purpose)
    each = guard.tables[table]
    source = each.model.events.get(event)
    if source is None:
        raise _unmapped(each, event)
    path = source.path if isinstance(source, Latest) else source
    found = way(each.mapper, path)
    if found is None:
        raise _unknown(each, event, path)
    relationships, column = found
    if relationships:
        if any(step.uselist for step in relationships) is not isinstance(source, Latest):
            raise _unknown(each, event, path)
        return _along(at, table, relationships, column)
    return _at(at, column, table) if column.table is table else _of_base(guard, each, at, event)


def way(mapper: Mapper[Any], path: str) -> tuple[list[RelationshipProperty[Any]], Column[Any]] | None:
    """Return the relationships of an event's path and the column at its end; None where it leads nowhere."""
    *steps, name = path.split(".")
    relationships: list[RelationshipProperty[Any]] = []
    for step in steps:
        relationship = mapper.relationships.get(step)
        if relationship is None or relationship.secondary is not None:
            return None
        relationships.append(relationship)
        mapper = relationship.mapper
    column = mapper.columns.get(name)
    if not isinstance(column, Column) or (relationships and column.table is not mapper.local_table):
        return None
    return relationships, column


def _withdrawal(guard: Guard, table: Table, at: FromClause, purpose: str) -> ColumnElement[Any]:
    """When consent of the row's data subject to a purpose was withdrawn, unless it was given again since."""
    found: ColumnElement[Any] = withdrawn_at(guard.own_table(CONSENT), owner_key(guard, table, at), purpose)
    return found


def _of_base(guard: Guard, each: Protected, at: FromClause, event: str) -> ColumnElement[Any]:
    """Under joined inheritance the event may be a column of the base table."""
    step = inheritance(each)
    remote = own_alias(step.target)
    inner = event_time(guard, step.target, remote, event)
    return select(inner).where(step.joins(at, remote)).correlate_except(remote).scalar_subquery()


def _along(
    at: FromClause, table: Table, relationships: Sequence[RelationshipProperty[Any]], column: Column[Any]
) -> ColumnElement[Any]:
    """Follow relationships from a row of ``at`` to a column; of many rows on the way, the latest counts."""
    step, *further = relationships
    target = step.mapper.local_table
    assert isinstance(target, Table)
    remote = own_alias(target, beside=at)
    inner = _along(remote, target, further, column) if further else remote.c[column.key]
    chosen = func.max(inner, type_=plain_type(inner)) if step.uselist else inner
    query = select(chosen)
    for local, theirs in step.local_remote_pairs or ():
        query = query.where(remote.c[str(theirs.key)] == _at(at, local, table))
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
        'Name a column, "relationship.column" (or further away) of many-to-ones, or Latest("relationship.column").',
        event=event,
    )


def _unmapped(each: Protected, event: str) -> MappingError:
    return MappingError(
        f"{each.mapper.class_.__name__} has personal data that counts from the event {event!r}, which it does not map.",
        "Nothing that counts from the event would ever expire.",
        "Map it with @events. A foreign key without a type takes over that of the personal column it refers to, and so"
        " becomes personal data: give it a type, mapped_column(String, ForeignKey(...)).",
        event=event,
    )

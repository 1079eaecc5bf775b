"""The criteria that keep hidden rows out of a statement: added to ORM statements by a session hook, to Core by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, Table, and_, inspect, not_, or_
from sqlalchemy.orm import Mapper, ORMExecuteState, defaultload, defer, with_loader_criteria
from sqlalchemy.orm.util import AliasedInsp
from sqlalchemy.sql.selectable import Alias, CompoundSelect, Join

from privkit import purposes
from privkit.consent.age import cautious_today
from privkit.errors import StatementRefused
from privkit.sqlalchemy import children
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.visibility import row_expired

VISIBLE = "privkit_visible"
"""Execution option of a statement to which the criteria for hidden rows were added; its value is ``ADDED``."""

ADDED = object()

_MAX_JOIN_DEPTH = 3


def row_visible(guard: Guard, table: Table, at: FromClause, scope: purposes.Scope | None) -> ColumnElement[bool] | None:
    """Return SQL that is true for the rows that ``scope`` may select; None: all of them."""
    conditions = []
    if guard.tables[table].model.expire_row is not None:
        dead = row_expired(guard, table, at, guard.now)
        if dead is not None:
            conditions.append(or_(not_(dead), dead.is_(None)))
    if scope is not None and guard.tables[table].model.fields:
        consented = children.with_consent(guard, table, at, scope.names, lambda: cautious_today(guard.now()))
        if consented is not None:
            conditions.append(consented)
    return and_(*conditions) if conditions else None


@dataclass(frozen=True, slots=True)
class Criteria:
    """The loader criteria under one scope, and the tables of which it hides rows."""

    options: tuple[Any, ...]
    tables: frozenset[Table]


def criteria_for(guard: Guard, scope: purposes.Scope | None) -> Criteria:
    """Return the criteria of all protected classes under ``scope``, built once."""
    key = (guard.version, scope)
    found: Criteria | None = guard.criteria.get(key)
    if found is None:
        found = guard.criteria.setdefault(key, _build(guard, scope))
    return found


def _build(guard: Guard, scope: purposes.Scope | None) -> Criteria:
    conditions = {table: row_visible(guard, table, table, scope) for table in guard.tables}
    hiding = {table: condition for table, condition in conditions.items() if condition is not None}
    options = (
        with_loader_criteria(
            guard.tables[table].mapper.class_, condition, include_aliases=True, propagate_to_loaders=False
        )
        for table, condition in hiding.items()
    )
    return Criteria(tuple(options), frozenset(hiding))


def do_orm_execute(guard: Guard, state: ORMExecuteState) -> None:
    """Keep hidden rows out of an ORM statement, and fields that the purpose does not need out of its columns."""
    scope = purposes.current()
    if scope is not None and scope.internal:
        return
    statement = state.statement
    if not (state.is_select or state.is_update or state.is_delete) or not hasattr(statement, "options"):
        return
    path = state.loader_strategy_path
    state.statement = _with_options(guard, scope, statement, tuple(path.path) if path is not None else ())
    if isinstance(statement, Select | CompoundSelect) or not state.is_select:
        state.update_execution_options(**{VISIBLE: ADDED})


def _with_options(guard: Guard, scope: purposes.Scope | None, statement: Any, path: tuple[Any, ...]) -> Any:
    if isinstance(statement, CompoundSelect):
        copy = statement._generate()
        copy.selects = [_with_options(guard, scope, each, path) for each in statement.selects]
        return copy
    added = criteria_for(guard, scope).options
    if isinstance(statement, Select):
        added += tuple(_deferrals(guard, scope, statement, path))
    return statement.options(*added) if added else statement


def _deferrals(
    guard: Guard, scope: purposes.Scope | None, statement: Select[Any], path: tuple[Any, ...]
) -> Iterator[Any]:
    """Defer what ``scope`` does not need. ``path`` leads to the entity when a relationship is being loaded."""
    if path:
        yield from _path_deferrals(guard, scope, path)
    for described in statement.column_descriptions if not path else ():
        entity = described.get("entity")
        if entity is not None and (described["expr"] is entity or isinstance(described["expr"], Mapper)):
            yield from _entity_deferrals(guard, scope, entity)
    for path in _joined_paths(statement):
        yield from _path_deferrals(guard, scope, path)


def _joined_paths(statement: Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the paths that joinedload() and contains_eager() options of a statement fill from its own row."""
    for option in statement._with_options:
        for element in getattr(option, "context", ()):
            strategy = dict(getattr(element, "strategy", None) or ())
            if strategy.get("lazy") == "joined":
                yield tuple(element.path.path)


def _path_deferrals(guard: Guard, scope: purposes.Scope | None, path: tuple[Any, ...]) -> Iterator[Any]:
    """Defer what ``scope`` does not need at the end of a loader path of entities and relationships in turn."""
    load: Any = None
    target = path[0]
    for source, relationship in zip(path[::2], path[1::2], strict=False):
        attribute = getattr(source.entity, relationship.key)
        load = defaultload(attribute) if load is None else load.defaultload(attribute)
        target = relationship.mapper
    inner = tuple(_deferred(guard, scope, target.class_, target, _MAX_JOIN_DEPTH))
    if load is not None and inner:
        yield load.options(*inner)


def _entity_deferrals(guard: Guard, scope: purposes.Scope | None, entity: Any) -> Iterator[Any]:
    inspected = inspect(entity)
    if isinstance(inspected, Mapper):
        key = (guard.version, scope, inspected)
        if key not in guard.deferrals:
            guard.deferrals[key] = tuple(_deferred(guard, scope, entity, inspected, _MAX_JOIN_DEPTH))
        yield from guard.deferrals[key]
    elif isinstance(inspected, AliasedInsp):
        yield from _deferred(guard, scope, entity, inspected.mapper, _MAX_JOIN_DEPTH)


def _deferred(
    guard: Guard, scope: purposes.Scope | None, entity: Any, mapper: Mapper[Any], depth: int
) -> Iterator[Any]:
    """Defer the fields that ``scope`` does not need, here and in entities that are always joined in."""
    each = guard.protected(mapper.class_)
    for name, field in each.model.fields.items() if each else ():
        if scope is None or scope.access(field.id) is None:
            yield defer(getattr(entity, name))
    for relationship in mapper.relationships if depth else ():
        if relationship.lazy in ("joined", False):
            target = relationship.mapper
            inner = tuple(_deferred(guard, scope, target.class_, target, depth - 1))
            if inner:
                yield defaultload(getattr(entity, relationship.key)).options(*inner)


def visible(guard: Guard, statement: Select[Any]) -> Select[Any]:
    """Add the criteria to a Core SELECT whose FROM is made of tables and aliases. Raises StatementRefused otherwise."""
    scope = purposes.current()
    for source in statement.get_final_froms():
        for at in _members(source):
            table = at.element if isinstance(at, Alias) else at
            if isinstance(table, Table) and table in guard.tables:
                condition = row_visible(guard, table, at, scope)
                if condition is not None:
                    statement = statement.where(condition)
    return statement.execution_options(**{VISIBLE: ADDED})


def _members(source: FromClause) -> Iterator[FromClause]:
    if isinstance(source, Join):
        if source.isouter or source.full:
            raise StatementRefused(
                "visible() cannot add criteria to an outer join.",
                "They would turn it into an inner join.",
                "Use ORM entities and session.execute(), which adds them to the join itself.",
            )
        yield from _members(source.left)
        yield from _members(source.right)
    elif isinstance(source, Table | Alias):
        yield source
    else:
        raise StatementRefused(
            "visible() cannot see into a subquery.", "", "Apply it to the inner select() before .subquery()."
        )

"""The criteria that keep hidden rows out of a statement: added to ORM statements by a session hook, to Core by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Boolean, Column, ColumnElement, FromClause, Select, Table, and_, inspect, not_, or_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Mapper, ORMExecuteState, defaultload, defer
from sqlalchemy.orm.util import AliasedInsp, LoaderCriteriaOption
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import Alias, CompoundSelect, Join
from sqlalchemy.sql.visitors import InternalTraversal

from privkit import purposes
from privkit.catalog import Field
from privkit.consent.age import cautious_today
from privkit.errors import StatementRefused
from privkit.sqlalchemy import children, sqltext
from privkit.sqlalchemy.attributes import load_when_touched, not_needed
from privkit.sqlalchemy.facts import CRITERION, HidesRows
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.observations import lacks, refuse
from privkit.sqlalchemy.pickling import StaysBehind
from privkit.sqlalchemy.types import field_of
from privkit.sqlalchemy.visibility import row_expired

_MAX_JOIN_DEPTH = 3


def row_visible(guard: Guard, table: Table, at: FromClause, scope: purposes.Scope | None) -> ColumnElement[bool] | None:
    """Return SQL that is true for the rows that ``scope`` may select; None: all of them."""
    conditions = []
    if guard.tables[table].model.expire_row is not None:
        dead = row_expired(guard, table, at, guard.now, _only_duty(scope))
        if dead is not None:
            conditions.append(or_(not_(dead), dead.is_(None)))
    consented = _consented(guard, table, at, scope)
    if consented is not None:
        conditions.append(consented)
    return and_(Mark(table.name), *conditions) if conditions else None


def _only_duty(scope: purposes.Scope | None) -> str | None:
    """The duty under which rows are read that no purpose shows; none where a purpose, or another duty, narrows it."""
    return scope.names[0] if scope is not None and scope.duty is not None and len(scope.groups) == 1 else None


def _consented(guard: Guard, table: Table, at: FromClause, scope: purposes.Scope | None) -> ColumnElement[bool] | None:
    """Without a purpose nobody consented to anything; only where the policy observes is there anything to see then."""
    if not guard.tables[table].model.fields or (scope is None and table not in guard.observations.tables):
        return None
    names = scope.names if scope is not None else None
    return children.with_consent(guard, table, at, names, lambda: cautious_today(guard.now()))


class Mark(ColumnElement[bool]):
    """Stands in the criteria of a table and is counted when they are compiled; in SQL it is only true."""

    inherit_cache = True
    _is_implicitly_boolean = True
    _traverse_internals = [("name", InternalTraversal.dp_string)]  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self.name = name
        self.type = Boolean()


@compiles(Mark)
def _compile_mark(mark: Mark, compiler: Any, **_: Any) -> str:
    compiler.__dict__.setdefault(_MARKS, Counter())[mark.name] += 1
    return "1 = 1"


class VisibleRows(HidesRows, StaysBehind, LoaderCriteriaOption):
    """What with_loader_criteria() makes, to be told from the application's own.

    Every ORM statement carries the criteria of all tables, so the part of its cache key that they are is kept.
    """

    _traverse_internals = LoaderCriteriaOption._traverse_internals
    _kept: tuple[_Structure, list[Any]] | None = None

    def _gen_cache_key(self, anon_map: Any, bindparams: list[Any]) -> tuple[Any, ...]:
        if self._kept is None:
            own: list[Any] = []
            self._kept = _Structure(super()._gen_cache_key(type(anon_map)(), own)), own
        structure, own = self._kept
        bindparams.extend(own)
        return VisibleRows, structure


class _Structure:
    """A cache key whose hash is computed once. The same one is equal without being walked."""

    __slots__ = ("_hash", "_key")

    def __init__(self, key: Any) -> None:
        self._key, self._hash = key, hash(key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Structure) and self._key == other._key


_MARKS = "privkit_marks"
_bare: WeakKeyDictionary[SQLCompiler, frozenset[str]] = WeakKeyDictionary()


def bare_tables(guard: Guard, compiled: SQLCompiler, statement: str) -> frozenset[Table]:
    """Return the protected tables that stand somewhere in a compiled statement without criteria beside them.

    ``statement`` is its text as it is sent, with every IN list expanded.
    """
    names = _bare.get(compiled)
    if names is None:
        standing = sqltext.read(statement, compiled.dialect.name).sources
        marks = compiled.__dict__.get(_MARKS, {})
        names = _bare[compiled] = frozenset(name for name, count in standing.items() if count > marks.get(name, 0))
    return frozenset(table for table in guard.tables if table.name.lower() in names)


@dataclass(frozen=True, slots=True)
class Criteria:
    """The loader criteria under one scope, what it hides rows of a table by, of which tables, and those of children."""

    options: tuple[Any, ...]
    hiding: Mapping[Table, ColumnElement[bool]]
    tables: frozenset[Table]
    children: frozenset[Table]


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
        VisibleRows(guard.tables[table].mapper.class_, _of_entity(guard, table, condition), include_aliases=True)
        for table, condition in hiding.items()
    )
    of_children = (table for table in hiding if _consented(guard, table, table, scope) is not None)
    return Criteria(tuple(options), hiding, frozenset(hiding), frozenset(of_children))


def may_lack(guard: Guard, scope: purposes.Scope | None, tables: set[Table]) -> bool:
    """Whether rows of these tables may be selected without their criteria: the policy observes, and no child's."""
    return tables <= guard.observations.tables and tables.isdisjoint(criteria_for(guard, scope).children)


def _of_entity(guard: Guard, table: Table, condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Name the columns of ``table`` as the entity's, which is what a joined eager load adapts to its alias."""
    mapper = guard.tables[table].mapper
    entity = {"parententity": mapper, "parentmapper": mapper}

    def replace(element: Any, **_: Any) -> Any:
        return element._annotate(entity) if isinstance(element, Column) and element.table is table else None

    found: ColumnElement[bool] = visitors.replacement_traverse(condition, {}, replace)
    return found


def do_orm_execute(guard: Guard, state: ORMExecuteState) -> None:
    """Keep hidden rows out of an ORM statement, and fields that the purpose does not need out of its columns."""
    scope = purposes.current()
    if scope is not None and scope.internal:
        return
    statement = state.statement
    if not (state.is_select or state.is_update or state.is_delete) or not hasattr(statement, "options"):
        return
    path = state.loader_strategy_path
    statement = _with_options(guard, scope, statement, tuple(path.path) if path is not None else ())
    state.statement = _refreshing(guard, scope, statement, state) if state.is_column_load else statement


def _refreshing(guard: Guard, scope: purposes.Scope | None, statement: Any, state: ORMExecuteState) -> Any:
    """A refresh of a loaded object takes no loader criteria, but a row may have been hidden since."""
    for mapper in state.all_mappers:
        table = mapper.local_table
        hiding = criteria_for(guard, scope).hiding
        if isinstance(table, Table) and table in hiding:
            statement = statement.where(hiding[table]._annotate({CRITERION: HidesRows()}))
    return statement


def _with_options(guard: Guard, scope: purposes.Scope | None, statement: Any, path: tuple[Any, ...]) -> Any:
    statement = _without_earlier_criteria(statement)
    if isinstance(statement, CompoundSelect):
        statement = statement._generate()
        statement.selects = [each.options(*_deferrals(guard, scope, each, path)) for each in statement.selects]
    added = criteria_for(guard, scope).options
    if isinstance(statement, Select):
        added += tuple(_deferrals(guard, scope, statement, path))
    return statement.options(*added) if added else statement


def _without_earlier_criteria(statement: Any) -> Any:
    """A relationship load inherits the criteria under which its parent was loaded, perhaps for another purpose."""
    kept = tuple(option for option in statement._with_options if not isinstance(option, VisibleRows))
    if len(kept) == len(statement._with_options):
        return statement
    copy = statement._generate()
    copy._with_options = kept
    return copy


def _deferrals(
    guard: Guard, scope: purposes.Scope | None, statement: Select[Any], path: tuple[Any, ...]
) -> Iterator[Any]:
    """Defer what ``scope`` does not need. ``path`` leads to the entity when a relationship is being loaded."""
    _refuse_naming(guard, scope, statement)
    given = {tuple(element.path.path) for element in _elements(statement) if "deferred" in _strategy(element)}
    for option in _needed_deferrals(guard, scope, statement, path):
        if not given.isdisjoint(tuple(element.path.path) for element in option.context):
            # SQLAlchemy takes one strategy for an attribute: where the statement has its own, that one stands.
            option = option._generate()
            option.context = tuple(each for each in option.context if tuple(each.path.path) not in given)
        yield option


def _needed_deferrals(
    guard: Guard, scope: purposes.Scope | None, statement: Select[Any], path: tuple[Any, ...]
) -> Iterator[Any]:
    if path:
        yield from _path_deferrals(guard, scope, path)
    for described in _descriptions(statement) if not path else ():
        entity = described.get("entity")
        if entity is not None and (described["expr"] is entity or isinstance(described["expr"], Mapper)):
            yield from _entity_deferrals(guard, scope, entity)
    for path in _joined_paths(statement):
        yield from _path_deferrals(guard, scope, path)


def _descriptions(statement: Select[Any]) -> list[Any]:
    """What a statement selects; a bare star has no description, and is judged as text."""
    try:
        return list(statement.column_descriptions)
    except AttributeError:
        return []


def _refuse_naming(guard: Guard, scope: purposes.Scope | None, statement: Select[Any]) -> None:
    """undefer() and load_only() name a field on purpose, so a field that is not needed is an error there."""
    for element in _elements(statement):
        columns = getattr(element.path.path[-1], "columns", None)
        field = field_of(columns[0]) if columns and _strategy(element).get("deferred") is False else None
        if field is not None and guard.observations.access(field.id, scope) is None:
            refuse(guard, lacks(scope), not_needed(field, scope), scope, field)
        expressions = element._extra_criteria if _strategy(element).get("query_expression") else ()
        named = [field for each in expressions for field in personal_fields(each)]
        if named:
            raise StatementRefused(
                f"with_expression() would put {named[0]} on an attribute that no marker knows.",
                "The object would keep the value when its purpose ends.",
                "Select the expression beside the entity: select(Model, expression).",
                field=named[0].id,
            )


def personal_fields(expression: ColumnElement[Any]) -> list[Field]:
    """Return the fields that an SQL expression is made of."""
    found = map(field_of, visitors.iterate(expression))
    return [field for field in found if field is not None]


def computed(mapper: Mapper[Any]) -> list[str]:
    """Return the names of a class's column_property() attributes that are computed from personal fields."""
    expressions = ((each.key, each.columns[0]) for each in mapper.column_attrs)
    return [key for key, column in expressions if not isinstance(column, Column) and personal_fields(column)]


def _elements(statement: Select[Any]) -> Iterator[Any]:
    for option in statement._with_options:
        yield from getattr(option, "context", ())


def _strategy(element: Any) -> dict[str, Any]:
    return dict(getattr(element, "strategy", None) or ())


def _joined_paths(statement: Select[Any]) -> Iterator[tuple[Any, ...]]:
    """Yield the paths that joinedload() and contains_eager() options of a statement fill from its own row."""
    for element in _elements(statement):
        if _strategy(element).get("lazy") == "joined":
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
        known = guard.deferrals.get(key)
        if known is None:
            known = guard.deferrals[key] = tuple(_deferred(guard, scope, entity, inspected, _MAX_JOIN_DEPTH))
        yield from known
    elif isinstance(inspected, AliasedInsp):
        yield from _deferred(guard, scope, entity, inspected.mapper, _MAX_JOIN_DEPTH)


def _deferred(
    guard: Guard, scope: purposes.Scope | None, entity: Any, mapper: Mapper[Any], depth: int
) -> Iterator[Any]:
    """Defer the fields that ``scope`` does not need, here and in entities that are always joined in."""
    each = guard.protected(mapper.class_)
    for name, field in each.model.fields.items() if each else ():
        if guard.observations.access(field.id, scope) is None:
            load_when_touched(mapper, name)
            yield defer(getattr(entity, name))
    for name in computed(mapper):
        yield defer(getattr(entity, name))  # when it is touched, it is judged as a statement of its own
    for relationship in mapper.relationships if depth else ():
        if relationship.lazy in ("joined", False):
            target = relationship.mapper
            inner = tuple(_deferred(guard, scope, target.class_, target, depth - 1))
            if inner:
                yield defaultload(getattr(entity, relationship.key)).options(*inner)


def visible(guard: Guard, statement: Select[Any]) -> Select[Any]:
    """Add the criteria to a Core SELECT whose FROM is made of tables and aliases. Raises StatementRefused otherwise."""
    scope = purposes.current()
    hiding = criteria_for(guard, scope).hiding
    members = [at for source in statement.get_final_froms() for at in _members(source)]
    if sum(isinstance(element, Select) for element in visitors.iterate(statement)) > 1:
        raise _out_of_reach("a subquery", "Apply it to the inner select() first.")
    for at in members:
        table = at.element if isinstance(at, Alias) else at
        if isinstance(table, Table) and table in hiding:
            condition = hiding[table] if at is table else row_visible(guard, table, at, scope)
            assert condition is not None
            statement = statement.where(condition)
    return statement


def _members(source: FromClause) -> Iterator[FromClause]:
    if isinstance(source, Join):
        if source.isouter or source.full:
            raise _out_of_reach("an outer join", "Use ORM entities and session.execute(), which add them to the join.")
        yield from _members(source.left)
        yield from _members(source.right)
    elif isinstance(source, Table | Alias):
        yield source
    else:
        raise _out_of_reach("a subquery", "Apply it to the inner select() before .subquery().")


def _out_of_reach(where: str, fix: str) -> StatementRefused:
    return StatementRefused(
        f"The criteria for hidden rows cannot be added to {where} of a Core statement.",
        "Expired rows, or those of children without consent, would be selected.",
        fix,
    )

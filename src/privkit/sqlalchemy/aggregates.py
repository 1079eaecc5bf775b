"""Purposes with a minimum group: what they select is counted over so many data subjects, or reads as None.

A statement under one is a plain aggregate, or it is refused. Each of its aggregates is wrapped in a CASE that is NULL
below the minimum, and smaller groups are dropped. Persons are counted, not rows: of each table in FROM by itself, since
the row of one person may be joined to many, and of each owner, since a ride is about its driver too. An aggregate of a
column is over those whose value is not NULL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from sqlalchemy import (
    Boolean,
    Connection,
    Delete,
    FromClause,
    Insert,
    Select,
    Table,
    Update,
    and_,
    case,
    func,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter, ColumnClause, ColumnElement, Label, UnaryExpression

from privkit import purposes
from privkit.errors import MappingError, PurposeError
from privkit.sqlalchemy.aggregate_forms import (
    bare,
    counted,
    follows_keys,
    is_aggregate,
    is_column,
    is_condition,
    is_table,
    joins,
    leaves,
    tables,
)
from privkit.sqlalchemy.children import subject_of
from privkit.sqlalchemy.facts import Facts
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.observations import Lack, refuse_all
from privkit.sqlalchemy.ownership import owner_keys
from privkit.sqlalchemy.types import copied, plain_type

_DIRECTIONS = frozenset({operators.asc_op, operators.desc_op, operators.nulls_first_op, operators.nulls_last_op})
_PLAIN = "Only a plain select() of aggregates, from tables and joins, can be held to a minimum group."
_WEIGHED = "It could weigh one person's rows above all others."
_TOLD = "The answer, or an error, could tell of one person."


class Enough(ColumnElement[bool]):
    """Stands beside the counts of persons, and by it the gate knows the statement again; in SQL it is only true."""

    inherit_cache = True
    _is_implicitly_boolean = True
    _traverse_internals: list[Any] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.type = Boolean()


_KNOWN = "privkit_enough"


@compiles(Enough)
def _compile_enough(enough: Enough, compiler: Any, **_: Any) -> str:
    compiler.__dict__[_KNOWN] = True
    return "1 = 1"


def before_execute(guard: Guard, connection: Connection, statement: Any) -> Any:
    """Return the statement as it may run under the purpose in force. Raises PurposeError where it may not."""
    scope = purposes.current()
    if scope is None or scope.internal or scope.minimum_group is None:
        return statement
    if isinstance(statement, Select):
        return _Aggregate(guard, scope, connection, statement).rewritten()
    if isinstance(statement, Insert | Update | Delete) and about_persons(guard, tables(statement.table)):
        _refuse(guard, scope, tables(statement.table), "A write", "It would collect or change what belongs to one.")
    return statement


def check(guard: Guard, compiled: SQLCompiler, facts: Facts, scope: purposes.Scope | None) -> None:
    """Refuse what reaches the cursor over persons and was not rewritten. Raises PurposeError."""
    if scope is None or scope.minimum_group is None or _KNOWN in compiled.__dict__:
        return
    if about_persons(guard, facts.tables):
        _refuse(guard, scope, facts.tables, "A statement of this form", _PLAIN)


def about_persons(guard: Guard, tables: Iterable[Table]) -> bool:
    """Whether any of these tables has rows about persons."""
    return any(_is_about_persons(guard, table) for table in tables)


def _is_about_persons(guard: Guard, table: Table) -> bool:
    each = guard.tables.get(table)
    return each is not None and (bool(each.model.fields) or subject_of(guard, table) is not None)


def _refuse(guard: Guard, scope: purposes.Scope, tables: Iterable[Table], what: str, why: str) -> NoReturn:
    over = sorted({table.name for table in tables if _is_about_persons(guard, table)})
    error = PurposeError(
        f"{what} over {', '.join(over)}; {scope} may see groups of {scope.minimum_group} persons or more only.",
        why,
        "Select count(), sum() or avg() of columns, and the columns that you group by; join along foreign keys:\n"
        "    select(Model.field, func.count()).where(Model.other == value).group_by(Model.field)",
        purpose=scope.names,
    )
    refuse_all(guard, Lack.NEED, error, scope, [f"{name}.*" for name in over], passes=False)
    raise error


class _Aggregate:
    """One SELECT under a minimum group."""

    def __init__(self, guard: Guard, scope: purposes.Scope, connection: Connection, statement: Select[Any]) -> None:
        self.guard, self.scope, self.statement = guard, scope, statement
        self.resolved, self.sources = _resolved(statement, connection)
        self.leaves = [leaf for source in self.sources for leaf in leaves(source)]
        self.tables = [table for leaf in self.leaves for table in tables(leaf)]
        self.keys = tuple(map(bare, statement._group_by_clauses))

    def rewritten(self) -> Select[Any]:
        if not about_persons(self.guard, self.tables):
            return self.statement  # where they stand elsewhere in it, the gate refuses it
        self._check()
        self.persons = list(self._persons())
        statement = self.statement._generate()
        statement._raw_columns = list(self._listed())
        statement._group_by_clauses = self.keys
        statement._order_by_clauses = tuple(map(self._ordered, statement._order_by_clauses))
        statement._having_criteria = tuple(map(self._replaced, statement._having_criteria))
        if self.keys:
            statement._having_criteria += (self._enough(None),)
        return statement

    def _check(self) -> None:
        statement = self.statement
        limits = (statement._limit_clause, statement._offset_clause, statement._fetch_clause)
        if not all(map(is_table, self.leaves)) or statement._independent_ctes:
            self._refuse("A subquery", _TOLD)
        if len(self.sources) > 1 or not all(follows_keys(join.onclause) for join in joins(self.sources[0])):
            self._refuse("A join on anything else than a foreign key", _WEIGHED)
        if not all(is_condition(each, is_column) for each in self.resolved._where_criteria):
            self._refuse("A condition that does more than compare columns with values", _TOLD)
        if not all(map(is_column, self.keys)):
            self._refuse("Grouping by an expression", _TOLD)
        if not all(is_condition(each, self._is_shown) for each in statement._having_criteria):
            self._refuse("HAVING that does more than compare aggregates and what is grouped by", _TOLD)
        if statement._distinct or not all(each is None or isinstance(each, BindParameter) for each in limits):
            self._refuse("DISTINCT, or a LIMIT that is computed,", _TOLD)

    def _is_shown(self, clause: Any) -> bool:
        return is_aggregate(clause) or self._key(clause) is not None

    def _persons(self) -> Iterator[ColumnElement[Any]]:
        for leaf in self.leaves:
            (table,) = tables(leaf)
            if _is_about_persons(self.guard, table):
                entity = {each: leaf._annotations[each] for each in _ENTITY if each in leaf._annotations}
                for person in self._persons_of(table, leaf):
                    yield copied(person._annotate(entity) if isinstance(person, ColumnClause) else person)

    def _persons_of(self, table: Table, leaf: FromClause) -> list[ColumnElement[Any]]:
        try:
            return owner_keys(self.guard, table, leaf)
        except MappingError:
            if len(table.primary_key.columns) != 1:
                raise
        return [leaf.c[each.key] for each in table.primary_key.columns]  # nobody's: its rows are counted

    def _enough(self, column: ColumnElement[Any] | None) -> ColumnElement[bool]:
        """Whether the rows of a group whose ``column`` is not NULL are about enough persons; None: all its rows."""
        persons = (each if column is None else case((column.is_not(None), each)) for each in self.persons)
        return and_(Enough(), *(func.count(each.distinct()) >= self.scope.minimum_group for each in persons))

    def _guarded(self, aggregate: Any) -> ColumnElement[Any]:
        return type_coerce(case((self._enough(counted(aggregate)), aggregate)), plain_type(aggregate))

    def _replaced(self, clause: ColumnElement[Any]) -> ColumnElement[Any]:
        def replace(element: Any, **_: Any) -> Any:
            return self._guarded(element) if is_aggregate(element) else None

        found: ColumnElement[Any] = visitors.replacement_traverse(clause, {}, replace)
        return found

    def _listed(self) -> Iterator[ColumnElement[Any]]:
        seen: Counter[str] = Counter()
        for column in self.statement._raw_columns:
            shown = self._shown(bare(column))
            name = column.name if isinstance(column, Label) else _name(column, seen)
            yield type_coerce(shown, plain_type(shown)).label(name)

    def _shown(self, clause: Any) -> ColumnElement[Any]:
        if is_aggregate(clause):
            return self._guarded(clause)
        key = self._key(clause)
        if key is None:
            self._refuse("More than count(), sum(), avg() and what is grouped by", _PLAIN)
        return key

    def _key(self, clause: Any) -> ColumnElement[Any] | None:
        """Return the key itself, not what is equal to it: PostgreSQL tells their parameters apart."""
        if not isinstance(clause, ColumnElement):
            return None
        return next((key for key in self.keys if key.compare(clause, compare_keys=False, compare_values=False)), None)

    def _ordered(self, clause: Any) -> ColumnElement[Any]:
        clause = bare(clause)
        if isinstance(clause, UnaryExpression) and clause.modifier in _DIRECTIONS:
            return UnaryExpression(self._ordered(clause.element), modifier=clause.modifier)
        return self._shown(clause)

    def _refuse(self, what: str, why: str) -> NoReturn:
        _refuse(self.guard, self.scope, self.tables, what, why)


_ENTITY = ("parententity", "parentmapper")
"""What the ORM notes on a column of an entity."""


def _resolved(statement: Select[Any], connection: Connection) -> tuple[Select[Any], list[FromClause]]:
    """Return what the ORM makes of a statement, with its joins and criteria spelled out, and what it selects from."""
    compiler: Any = connection.dialect.statement_compiler(connection.dialect, None)
    state: Any = statement._compile_state_factory(statement, compiler)
    if state.statement is not statement:
        return _resolved(state.statement, connection)
    return statement, state._get_display_froms()


def _name(column: Any, seen: Counter[str]) -> str:
    """Return the name that a column without a label has in a row."""
    if isinstance(column, ColumnClause):
        return str(column.key)
    name = getattr(column, "name", "anon")
    seen[name] += 1
    return f"{name}_{seen[name]}"

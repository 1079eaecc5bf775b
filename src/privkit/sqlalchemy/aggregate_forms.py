"""What a statement under a minimum group may be made of, told from the clauses alone.

A condition compares columns with values. In anything else, a subquery, a division, a cast, the whole answer or an error
can depend on one person; and where a join could be on anything, it could repeat one person's row a thousand times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Column, FromClause, Table
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ClauseList,
    ColumnClause,
    Extract,
    False_,
    Grouping,
    Label,
    Null,
    True_,
    TypeCoerce,
    UnaryExpression,
    _label_reference,
)
from sqlalchemy.sql.functions import Function
from sqlalchemy.sql.selectable import Alias, FromGrouping, Join

from privkit.sqlalchemy.facts import keeps_hidden
from privkit.sqlalchemy.types import TRUSTED, original

_AGGREGATES = frozenset({"count", "sum", "avg"})
_COMPARISONS = frozenset({
    operators.eq, operators.ne, operators.lt, operators.le, operators.gt, operators.ge, operators.is_,
    operators.is_not, operators.is_distinct_from, operators.is_not_distinct_from, operators.in_op, operators.not_in_op,
    operators.between_op, operators.not_between_op, operators.startswith_op, operators.not_startswith_op,
    operators.istartswith_op, operators.not_istartswith_op, operators.contains_op, operators.not_contains_op,
    operators.icontains_op, operators.not_icontains_op,
})  # fmt: skip
"""Those that never fail. LIKE does on PostgreSQL, for just the values that reach an escape at the pattern's end."""

_NEGATIONS = frozenset({operators.inv, operators.is_true, operators.is_false})
_PARTS = frozenset({"year", "quarter", "month", "week", "day", "dow", "hour"})


def bare(clause: Any) -> Any:
    """Return what stands under a label or in brackets."""
    while isinstance(clause, Label | Grouping | _label_reference):
        clause = clause.element
    return clause


def is_column(clause: Any) -> bool:
    """Whether it is a column, a part of a date, or what ``privacy.live`` makes of a column."""
    if TRUSTED in getattr(clause, "_annotations", ()):
        return True
    if isinstance(clause, Extract):
        return clause.field in _PARTS and is_column(clause.expr)
    if isinstance(clause, TypeCoerce):
        return is_column(clause.clause)
    return isinstance(clause, ColumnClause) and isinstance(clause.table, Table | Alias)


def is_aggregate(clause: Any) -> bool:
    """Whether it counts rows, or counts, sums or averages a column. What is computed could pick one person out."""
    if not isinstance(clause, Function) or clause.packagenames or clause.name.lower() not in _AGGREGATES:
        return False
    return len(clause.clauses) == 1 and (_is_star(clause) or is_column(counted(clause)))


def counted(aggregate: Any) -> Any | None:
    """Return the column that an aggregate is of, also in ``count(DISTINCT column)``; None: ``count(*)``."""
    (argument,) = aggregate.clauses
    if isinstance(argument, UnaryExpression) and argument.operator is operators.distinct_op:
        return argument.element
    return None if _is_star(aggregate) else argument


def _is_star(aggregate: Any) -> bool:
    (argument,) = aggregate.clauses
    return isinstance(argument, ColumnClause) and argument.table is None and argument.name == "*"


def is_condition(clause: Any, operand: Callable[[Any], bool]) -> bool:
    """Whether it compares an ``operand`` with values or another one, or joins such comparisons."""
    if keeps_hidden(clause) or _is_compared(clause, operand):
        return True
    if isinstance(clause, Grouping) or (isinstance(clause, UnaryExpression) and clause.operator in _NEGATIONS):
        return is_condition(clause.element, operand)
    if isinstance(clause, BooleanClauseList):
        return all(is_condition(each, operand) for each in clause.clauses)
    return (
        isinstance(clause, BinaryExpression)
        and clause.operator in _COMPARISONS
        and clause.modifiers.get("escape") in (None, "/")
        and _is_compared(clause.left, operand)
        and _is_compared(clause.right, operand)
    )


def _is_compared(clause: Any, operand: Callable[[Any], bool]) -> bool:
    if operand(clause) or isinstance(clause, BindParameter | Null | True_ | False_):
        return True
    if isinstance(clause, Grouping):
        return _is_compared(clause.element, operand)
    if isinstance(clause, ClauseList) and not isinstance(clause, BooleanClauseList):
        return all(_is_compared(each, operand) for each in clause.clauses)
    return False


def follows_keys(clause: Any) -> bool:
    """Whether a join's condition equates foreign keys with what they refer to, and nothing else."""
    if keeps_hidden(clause):
        return True
    if isinstance(clause, Grouping):
        return follows_keys(clause.element)
    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        return all(map(follows_keys, clause.clauses))
    if not (isinstance(clause, BinaryExpression) and clause.operator is operators.eq):
        return False
    left, right = clause.left, clause.right
    if not (isinstance(left, Column) and isinstance(right, Column)):
        return False
    return left.references(right) or right.references(left)


def leaves(source: FromClause) -> Iterator[FromClause]:
    """Yield what is joined: tables, aliases, subqueries."""
    if isinstance(source, FromGrouping):
        yield from leaves(source.element)
    elif isinstance(source, Join):
        yield from leaves(source.left)
        yield from leaves(source.right)
    else:
        yield source


def joins(source: FromClause) -> Iterator[Join]:
    """Yield the joins of a FROM."""
    if isinstance(source, FromGrouping):
        yield from joins(source.element)
    elif isinstance(source, Join):
        yield source
        yield from joins(source.left)
        yield from joins(source.right)


def is_table(leaf: Any) -> bool:
    """Whether it is a table or an alias of one."""
    return isinstance(leaf.element if isinstance(leaf, Alias) else leaf, Table)


def tables(leaf: Any) -> list[Table]:
    """Return the tables of a leaf, also those inside a subquery."""
    return [original(each) for each in visitors.iterate(leaf) if isinstance(each, Table)]

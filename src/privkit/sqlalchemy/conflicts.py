"""Reads ON CONFLICT clauses: what an upsert sets, from what, and by which columns it finds a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Alias, BindParameter, Column, ColumnClause, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.sql.elements import ClauseElement

from privkit import purposes
from privkit.errors import StatementRefused
from privkit.markers import Equality
from privkit.sqlalchemy import read_gate
from privkit.sqlalchemy.facts import facts_of_clause
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.index import searches
from privkit.sqlalchemy.types import Guarded


def single(table: Table, clause: Any) -> Any:
    """Return the one ON CONFLICT clause of a statement. Raises StatementRefused for several, and for MySQL's form."""
    if hasattr(clause, "inferred_target_elements"):
        return clause
    raise StatementRefused(
        f"An upsert into {table.name} touches personal fields in a form that names no single conflict target.",
        "Whose row it would change is not known before the database runs it.",
        "Use one on_conflict_do_update(index_elements=[...], set_={...}), or select the row and add or change it.",
        table=table.name,
    )


def values_set(table: Table, clause: Any) -> dict[str, Any]:
    """Return what an upsert sets, by column key: expressions and bound values."""
    values: dict[str, Any] = {}
    for each in getattr(clause, "clauses", None) or [clause]:
        given = getattr(each, "update_values_to_set", None) or getattr(each, "update", None)
        for key, value in dict(given if isinstance(given, dict | list) else ()).items():
            element = value.__clause_element__() if hasattr(value, "__clause_element__") else value
            bound = isinstance(element, ClauseElement)
            values[_column(table, key).key] = element if bound else BindParameter(None, element, unique=True)
    return values


def _column(table: Table, key: Any) -> Column[Any]:
    """Find a column by its key, or by the name that SQLAlchemy would write as it stands."""
    name = key if isinstance(key, str) else getattr(key, "key", None)
    known: dict[Any, Column[Any]] = {each.name: each for each in table.columns} | dict(table.columns.items())
    if name in known:
        return known[name]
    raise StatementRefused(
        f"ON CONFLICT names something that is no column of {table.name}.",
        "What it holds, and whom it is about, cannot be known.",
        f"Name columns: {', '.join(table.columns.keys()[:3])}, ...",
        table=table.name,
    )


def is_excluded(name: str, value: Any) -> bool:
    """Whether a value is ``excluded.<name>`` itself."""
    source = value.table if isinstance(value, ColumnClause) else None
    return isinstance(source, Alias) and source.name == "excluded" and value.key == name


def check_uses(guard: Guard, table: Table, clause: Any, values: Mapping[str, Any]) -> None:
    """Hold what an upsert computes or compares to the rules of reading: SQLAlchemy 2.0 hides it from the read gate."""
    computed = [
        value for name, value in values.items() if not isinstance(value, BindParameter) and not is_excluded(name, value)
    ]
    for each in (*computed, getattr(clause, "update_whereclause", None)):
        facts = facts_of_clause(each) if each is not None else None
        if facts is not None and facts.textual:
            raise StatementRefused(
                f"An upsert into {table.name} holds a fragment of SQL text.",
                "What it would read or set cannot be known.",
                "Write it with columns, functions and bound values.",
                table=table.name,
            )
        if facts is not None and facts.personal:
            read_gate.check(guard, facts, purposes.current())


def seeks_sealed(table: Table, guarded: Mapping[str, Guarded], clause: Any) -> bool:
    """Whether an upsert finds its rows by a sealed field."""
    parts = getattr(clause, "clauses", None) or [clause]
    named = [each for part in parts for each in getattr(part, "inferred_target_elements", None) or ()]
    keys = [_column(table, each).key for each in named if isinstance(each, str | ColumnClause)]
    return any(key in guarded and guarded[key].sealed for key in keys)


def conflict_columns(table: Table, guarded: Mapping[str, Guarded], clause: Any) -> dict[str, Any]:
    """Return the columns by which an upsert finds a row, by the parameter that holds the value.

    A sealed field is found by its search index. Raises StatementRefused where the columns cannot be known.
    """
    elements = clause.inferred_target_elements or _constrained(table, getattr(clause, "constraint_target", None))
    if not elements or not all(isinstance(each, str | ColumnClause) for each in elements):
        raise StatementRefused(
            f"An upsert into {table.name} does not say in columns what it conflicts with.",
            "Whose row it would change is not known before the database runs it.",
            f"Name them: on_conflict_do_update(index_elements=[{table.name}.c....], set_={{...}}).",
            table=table.name,
        )
    return {column.key: _found_by(table, guarded, column) for column in (_column(table, each) for each in elements)}


def _constrained(table: Table, name: str | None) -> list[Any]:
    constraints: list[Any] = [
        each for each in table.constraints if isinstance(each, UniqueConstraint | PrimaryKeyConstraint)
    ]
    named = [list(each.columns) for each in constraints if name is not None and each.name == name]
    named += [
        list(each.expressions) for each in table.indexes if each.unique and name is not None and each.name == name
    ]
    return named[0] if named else []


def _found_by(table: Table, guarded: Mapping[str, Guarded], column: Column[Any]) -> Column[Any]:
    kind = guarded.get(column.key)
    if kind is None or not kind.sealed:
        return column
    if isinstance(kind.field.marker.search, Equality) and len(searches(kind.field)) == 1:
        return table.columns[f"{column.name}_ix"]
    raise StatementRefused(
        f"{kind.field} is sealed, and an upsert would look for equal values of it, which no one index finds.",
        "Equal values have different envelopes, and while its index key changes, different hashes.",
        'Give its marker one search (search=Equality("exact")), or use another unique column.',
        field=kind.field.id,
    )

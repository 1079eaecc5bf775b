"""What SQLAlchemy or the database would fill in is collected, or changed, like any other value.

Where the result is sealed or searched it is filled in here, before it is sealed; elsewhere only the purpose is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Insert, Table, Update

from privkit.errors import StatementRefused
from privkit.sqlalchemy import pairs
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.types import Guarded, guarded_columns, original
from privkit.sqlalchemy.write_forms import Parameters, check_expression, check_purpose, name_of, own_event_columns


def fill_in_defaults(
    guard: Guard, statement: Insert, table: Table, guarded: Mapping[str, Guarded], parameters: Parameters
) -> None:
    """Fill in what new rows leave to a default. Raises PurposeError where the purpose does not need the field."""
    for column in own_event_columns(guard, table):
        if column.default is not None and (column.default.is_scalar or column.default.is_callable):
            for row in parameters:
                if column.key not in row:
                    row[column.key] = _value(statement, table, column, column.default, row)
    given = _given(statement, table)
    for name, kind in guarded.items():
        column = table.columns[name]
        filled = column.default is not None or (column.server_default is not None and not pairs.is_adopted(kind))
        rows = [row for row in parameters if name not in row and name not in given] if filled else []
        if rows and not _is_computed_on(kind):
            check_purpose(guard, kind)
            continue
        for row in rows:
            row[name] = _value(statement, table, column, column.default, row)


def fill_in_changes(
    guard: Guard, statement: Update, table: Table, guarded: Mapping[str, Guarded], parameters: Parameters
) -> None:
    """Fill in what ``onupdate`` says of fields that an UPDATE leaves out. Raises PurposeError as for defaults."""
    for name in _left_out(statement, table, guarded, parameters):
        column, kind = table.columns[name], guarded[name]
        onupdate: Any = column.onupdate
        if not _is_computed_on(kind):
            check_purpose(guard, kind)
        elif onupdate is None or not (onupdate.is_scalar or onupdate.is_callable):
            check_expression(guard, table, name, kind, onupdate)
        else:
            if not parameters:
                parameters.append({})
            for row in parameters:
                row[name] = _value(statement, table, column, onupdate, row)


def kept_as_they_are(statement: Insert | Update, parameters: Sequence[Mapping[str, Any]]) -> Insert | Update:
    """Return privkit's own statement, by which ``onupdate`` changes no field."""
    if not isinstance(statement, Update) or not isinstance(statement.table, Table):
        return statement
    table = original(statement.table)
    names = _left_out(statement, table, guarded_columns(table), parameters)
    fixed = {name: table.columns[name] for name in names if table.columns[name].onupdate}
    return statement.values(fixed) if fixed else statement


def filled_in(table: Table, guarded: Mapping[str, Guarded]) -> list[str]:
    """Return the fields that an UPDATE may fill in here, so that loaded objects do not know."""
    return [name for name, kind in guarded.items() if table.columns[name].onupdate and _is_computed_on(kind)]


def _is_computed_on(kind: Guarded) -> bool:
    return kind.sealed or kind.field.marker.search is not None


def _left_out(
    statement: Update, table: Table, guarded: Mapping[str, Guarded], parameters: Sequence[Mapping[str, Any]]
) -> list[str]:
    watched = [name for name in guarded if table.columns[name].onupdate or table.columns[name].server_onupdate]
    given = _given(statement, table) if watched else set()
    return [name for name in watched if name not in given and not any(name in row for row in parameters)]


def _given(statement: Insert | Update, table: Table) -> set[str]:
    ordered = getattr(statement, "_ordered_values", None) or ()
    return {name_of(table, key) for key in (*(statement._values or ()), *(key for key, _ in ordered))}


def _value(statement: Insert | Update, table: Table, column: Column[Any], default: Any, row: Mapping[str, Any]) -> Any:
    if default is not None and default.is_scalar:
        return default.arg
    if default is not None and default.is_callable:
        fixed = {name_of(table, key): getattr(value, "value", None) for key, value in (statement._values or {}).items()}
        return default.arg(_Row(fixed | dict(row)))
    raise StatementRefused(
        f"{table.name}.{column.name} is left to a default that the database computes.",
        "The database cannot seal or index it.",
        f"Give {table.name}.{column.name} a value, None too, or a default in Python: mapped_column(default=...).",
        table=table.name,
    )


class _Row:
    """What a default that looks at its row is given in place of SQLAlchemy's execution context."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.current_parameters = values

    def get_current_parameters(self, isolate_multiinsert_groups: bool = True) -> dict[str, Any]:
        return self.current_parameters

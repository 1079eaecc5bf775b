"""Brings the forms of INSERT and UPDATE to one: parameters that the write gate can see, check and seal.

What ``.values()`` gives for a watched column moves to the parameters; an expression there, or rows that only
the database will know, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import JSON, BindParameter, Column, Insert, Null, Table, Update
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapper
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.types import NULLTYPE

from privkit import purposes
from privkit.catalog import Field
from privkit.deidentify import refuse_reduced
from privkit.errors import PurposeError, StatementRefused
from privkit.sqlalchemy.attributes import not_needed
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.index import SearchIndex
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.observations import lacks, refuse
from privkit.sqlalchemy.types import Guarded, original

Parameters = list[dict[str, Any]]


def refuse_alias(guard: Guard, target: Any) -> None:
    """Raise StatementRefused for an UPDATE of an alias of a protected table, whose values the gate would not see."""
    for table in visitors.iterate(target):
        if isinstance(table, Table) and original(table) in guard.tables:
            raise StatementRefused(
                f"An UPDATE names {table.name} by an alias.",
                "Its values could be neither sealed nor held to the purpose, nor a row's key kept as it is.",
                f"Update the table itself: update({table.name}); alias what it is compared with.",
                table=table.name,
            )


def as_parameters(
    guard: Guard, statement: Insert | Update, table: Table, guarded: Mapping[str, Guarded], parameters: Parameters
) -> tuple[Any, Parameters]:
    """Return the statement without its watched values, and parameters that hold them."""
    upsert = isinstance(statement, Insert) and statement._post_values_clause is not None
    if isinstance(statement, Insert):
        _refuse_unseen(statement, table, parameters)
        parameters = parameters or [{}]
    watched = watched_columns(guard, table, guarded)
    if isinstance(statement, Insert) and statement._multi_values:
        parameters = _rows_of_values(guard, statement, table, guarded, watched)
    given: dict[Any, Any] = dict(statement._values or {}) | dict(getattr(statement, "_ordered_values", None) or ())
    moved: dict[str, BindParameter[Any]] = {}
    for key, value in given.items():
        name = name_of(table, key)
        if name not in watched and not upsert:
            continue
        if isinstance(value, BindParameter) and value.callable is None:
            moved[name] = value
        elif name not in watched:
            continue
        elif isinstance(value, Null) and name in guarded and guarded[name].sealed:
            moved[name] = BindParameter(None, value, type_=NULLTYPE)
        else:
            check_expression(guard, table, name, guarded.get(name), value, parameters)
    parameters = [_with_values(each, moved) for each in parameters or [{}]] if moved else parameters
    _refuse_own_columns(table, parameters, given)
    return (_without(statement, table, moved) if moved else statement), parameters


def watched_columns(guard: Guard, table: Table, guarded: Mapping[str, Guarded]) -> set[str]:
    """The columns whose values the gate has to know: personal ones, owners, event times, what an age depends on."""
    each = guard.tables[table]
    names = {column.key for column in table.columns if is_owner_column(table, column)} | set(guarded)
    names |= {column.key for column in own_event_columns(guard, table)}
    return names | set(each.age_keys)


def own_event_columns(guard: Guard, table: Table) -> list[Column[Any]]:
    """Return the columns of a table's own mapper that hold the times of events."""
    each = guard.tables[table]
    sources = {source for source in each.model.events.values() if isinstance(source, str)}
    return [each.mapper.columns[source] for source in sorted(sources) if source in each.mapper.columns]


def is_owner_column(table: Table, column: Column[Any]) -> bool:
    """Whether a column may say whom a row is about."""
    return KEY_COLUMN not in table.columns and bool(column.foreign_keys)


def name_of(table: Table, key: Any) -> str:
    return str(table.columns[key if isinstance(key, str) else key.key].key)


def _without(statement: Insert | Update, table: Table, moved: Mapping[str, Any]) -> Any:
    copy: Any = statement._generate()
    if statement._values is not None:
        rest = {key: value for key, value in statement._values.items() if name_of(table, key) not in moved}
        copy._values = type(statement._values)(rest) if rest else None
    ordered = getattr(copy, "_ordered_values", None)
    if ordered:
        copy._ordered_values = [(key, value) for key, value in ordered if name_of(table, key) not in moved] or None
    return copy


def _with_values(row: Mapping[str, Any], moved: Mapping[str, BindParameter[Any]]) -> dict[str, Any]:
    """Take each value from its bind, named among the parameters or written into the statement; a parameter wins."""
    named = {bind.key for bind in moved.values() if bind.key in row}
    values = {name: value_of(bind, row) for name, bind in moved.items()}
    return values | {name: value for name, value in row.items() if name not in named}


def value_of(bind: BindParameter[Any], row: Mapping[str, Any]) -> Any:
    """Return what a bind stands for in one parameter set. Raises StatementRefused where nothing was given for it."""
    if bind.required and bind.key not in row:
        raise StatementRefused(
            f"A parameter set has no value for {bind.key!r}.",
            "The field would be stored as NULL, and what was meant would be lost.",
            "Give every parameter set the same keys.",
        )
    return row.get(bind.key, bind.value)


def _rows_of_values(
    guard: Guard, statement: Insert, table: Table, guarded: Mapping[str, Guarded], watched: set[str]
) -> Parameters:
    """Return the rows of ``.values([...])`` as parameters; SQL expressions stay where nothing depends on them."""
    rows: Parameters = []
    for given in (each for several in statement._multi_values for each in several):
        pairs: Any = given.items() if isinstance(given, Mapping) else zip(table.columns, given, strict=False)
        row: dict[str, Any] = {}
        for key, value in pairs:
            name = name_of(table, key)
            plain = isinstance(value, BindParameter) and value.callable is None
            if name in watched and not plain and isinstance(value, ClauseElement) and not isinstance(value, Null):
                check_expression(guard, table, name, guarded.get(name), value)
            row[name] = value.value if plain else value
        rows.append(row)
    if any(row.keys() != rows[0].keys() for row in rows):
        raise StatementRefused(
            f"The rows in .values() for {table.name} do not have the same columns.",
            "The database takes one list of columns for all of them.",
            "Give every row the same keys, with None where there is no value.",
            table=table.name,
        )
    return rows


def with_rows(statement: Insert, rows: Parameters) -> Any:
    """Return an INSERT of several rows in ``.values()`` with these rows instead."""
    copy: Any = statement._generate()
    copy._multi_values = (rows,)
    return copy


def check_expression(
    guard: Guard, table: Table, name: str, kind: Guarded | None, value: Any, rows: Parameters | None = None
) -> None:
    """Only an unsealed field without a search may be computed by the database, and only for a purpose that needs it.

    Not one that is off for children: whom it is about would not be known.
    """
    marker = kind.field.marker if kind is not None else None
    computable = kind is not None and not kind.sealed and not guard.rule(kind.field).child_off
    if computable and kind and marker and marker.search is None and marker.adopting is None:
        check_purpose(guard, kind)
        for bind in (each for each in visitors.iterate(value) if isinstance(each, BindParameter)):
            for row in rows or [{}]:
                refuse_reduced(kind.field, row.get(bind.key, bind.effective_value))
        return
    raise StatementRefused(
        f"{kind.field if kind else f'{table.name}.{name}'} would be set from an SQL expression.",
        "The database cannot seal the result, nor privkit know whom or when it is about.",
        "Compute the value in Python and set the attribute, or pass it as a parameter.",
        table=table.name,
    )


def check_purpose(guard: Guard, kind: Guarded) -> None:
    """Raise PurposeError unless the purpose in force needs the field, and so may collect or change it."""
    scope, field = purposes.current(), guard.rule(kind.field).field
    if scope is None or not scope.writes(field.id):
        refuse(guard, lacks(scope), not_needed(kind.field, scope), scope, field)
    elif scope.duty is not None:
        refuse(guard, lacks(scope), _read_only(field, scope.duty), scope, field)
    else:
        guard.observations.comply(field.id, scope)


def _read_only(field: Field, duty: str) -> PurposeError:
    return PurposeError(
        f"{field} would be written under the {duty}.",
        "A duty keeps what purposes have collected, to be read; it collects and changes nothing.",
        "Write under a purpose that needs the field, outside of the duty's block.",
        field=field.id,
    )


def _refuse_unseen(statement: Insert, table: Table, parameters: Parameters) -> None:
    """Refuse the forms of INSERT whose rows are not seen here."""
    form = "INSERT ... FROM SELECT" if statement.select is not None else None
    if statement._multi_values and parameters:
        form = "INSERT with rows both in .values() and in parameters"
    if form:
        raise StatementRefused(
            f"{form} into {table.name} cannot be sealed row by row.",
            "Its rows are not known before the database runs it.",
            "Pass a list of dicts: connection.execute(insert(Model), [{...}, {...}]).",
            table=table.name,
        )


def check_names(mapper: Mapper[Any], statement: Any, parameters: Any) -> None:
    """Refuse a list of rows that names a field otherwise than by its column: SQLAlchemy would drop the value.

    A synonym, a proxy and, before SQLAlchemy 2.1, a hybrid are such names.
    """
    if not isinstance(statement, Insert | Update) or statement._values or not parameters:
        return
    by_itself = {each.key for each in mapper.column_attrs} | {each.key for each in mapper.composites}
    others = set(mapper.all_orm_descriptors.keys()) - by_itself
    rows = [parameters] if isinstance(parameters, Mapping) else parameters
    for name in sorted({name for row in rows if not others.isdisjoint(row) for name in others.intersection(row)}):
        if hasattr(hybrid_property, "bulk_dml") and isinstance(mapper.all_orm_descriptors[name], hybrid_property):
            continue  # SQLAlchemy asks the hybrid, or raises
        raise StatementRefused(
            f"{mapper.class_.__name__}.{name} is no column, and a list of rows names it.",
            "SQLAlchemy would drop its value, and the field behind it would stay empty.",
            f"Name the column, or use session.execute(insert({mapper.class_.__name__}).values({name}=...)).",
            name=name,
        )


def is_own(column: Column[Any]) -> bool:
    """Whether a column is privkit's own: a row's key, a search hash or the day of age."""
    return column.name in (KEY_COLUMN, ADULT_COLUMN) or isinstance(column.type, SearchIndex)


def own_column(column: Column[Any]) -> StatementRefused:
    """Build the error for a value for one of privkit's own columns."""
    return StatementRefused(
        f"{column.table.name}.{column.name} is privkit's own and cannot be set.",
        "A row would lose its key, or be found by what it does not hold.",
        "Leave the column out.",
        table=column.table.name,
    )


def _refuse_own_columns(table: Table, parameters: Parameters, given: Mapping[Any, Any]) -> None:
    """Nobody but the gate sets a row's key, its search hashes or the day of age."""
    names = {name_of(table, key) for key in given}
    for column in filter(is_own, table.columns):
        if column.key in names or any(row.get(column.key) is not None for row in parameters):
            raise own_column(column)


def matching(statement: Update, query: Any, row: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return ``query`` over the rows that an UPDATE's WHERE finds for one parameter set, and its parameters."""
    for criterion in statement._where_criteria:
        query = query.where(criterion)
    names = {each.key for each in visitors.iterate(query) if isinstance(each, BindParameter)}
    return query, {name: value for name, value in row.items() if name in names}


def json_nulls(guarded: Mapping[str, Guarded], rows: Parameters) -> None:
    """Tell JSON's null from NULL in sealed columns as the plain type does: None is JSON's, ``null()`` is SQL's."""
    for name, kind in guarded.items():
        for row in rows if kind.sealed else ():
            value = row.get(name)
            if isinstance(value, Null):
                row[name] = None
            elif value is None and name in row and kind.should_evaluate_none:
                row[name] = JSON.NULL

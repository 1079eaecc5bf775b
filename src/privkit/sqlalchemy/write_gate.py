"""The write gate: seals every value for its row's data subject before a statement is compiled.

``before_execute`` sees the parameters of ORM flush, ORM bulk and Core alike, and may add to them. Here the
row is known, so here its data subject is found, its key loaded or created, and its search hashes made.
What cannot be sealed for one known data subject is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import BindParameter, Column, Connection, Insert, Table, Update, false, select, true, tuple_
from sqlalchemy.sql import visitors

from privkit import purposes
from privkit.clock import as_utc
from privkit.consent.age import cautious_today
from privkit.crypto import SubjectKey
from privkit.errors import ConsentRequired, SealedError, StatementRefused
from privkit.location import GeoPoint, cell_int
from privkit.markers import Nearby
from privkit.sqlalchemy import children, keystore
from privkit.sqlalchemy.attributes import not_needed
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.ownership import hop, owner_key
from privkit.sqlalchemy.types import Guarded, IndexHash, Sealed, field_of, guarded_columns, original

Parameters = list[dict[str, Any]]


def before_execute(guard: Guard, connection: Connection, statement: Any, many: Any, one: Any) -> tuple[Any, Any, Any]:
    """Seal what an INSERT or UPDATE writes. Returns the statement and parameters to go on with."""
    if not isinstance(statement, Insert | Update) or not isinstance(statement.table, Table) or _internal():
        return statement, many, one
    table = original(statement.table)
    guarded = guarded_columns(table)
    if table not in guard.tables or not (guarded or KEY_COLUMN in table.columns):
        return statement, many, one
    parameters = [dict(each) for each in many] if many else [dict(one)] if one else []
    statement, parameters = _values_as_parameters(statement, table, guarded, parameters)
    _check_purpose(guard, guarded, parameters)
    _store_event_times(guard, table, parameters)
    if isinstance(statement, Insert):
        _seal_insert(guard, connection, table, guarded, parameters)
    elif any(_touches(each, table, guarded) for each in parameters):
        statement = _seal_update(guard, connection, table, guarded, statement, parameters)
    if len(parameters) > 1:
        return statement, parameters, {}
    return statement, [], parameters[0] if parameters else {}


def _internal() -> bool:
    """privkit's own work writes envelopes, residues and NULLs that need no sealing."""
    scope = purposes.current()
    return scope is not None and scope.internal


def _values_as_parameters(
    statement: Insert | Update, table: Table, guarded: Mapping[str, Guarded], parameters: Parameters
) -> tuple[Any, Parameters]:
    """Move literal values of ``.values()`` for guarded columns into the parameters, and refuse expressions there."""
    if isinstance(statement, Insert):
        _refuse_unseen(statement, table)
    given: dict[Any, Any] = dict(statement._values or {}) | dict(getattr(statement, "_ordered_values", None) or ())
    moved: dict[str, Any] = {}
    for key, value in given.items():
        column = table.columns[key if isinstance(key, str) else key.key]
        kind = guarded.get(column.key)
        if kind is None and not _is_owner_column(table, column):
            continue
        if isinstance(value, BindParameter) and value.callable is None:
            moved[column.key] = value.value
        elif kind is not None and (kind.sealed or kind.field.marker.search):
            raise _expression(kind, "an SQL expression")
    if not moved:
        return statement, parameters
    if any(name in each for each in parameters for name in moved):
        return statement, parameters
    rest = {key: value for key, value in given.items() if (key if isinstance(key, str) else key.key) not in moved}
    copy: Any = statement._generate()
    copy._values = type(statement._values)(rest) if statement._values is not None and rest else None
    if getattr(copy, "_ordered_values", None):
        copy._ordered_values = [(key, value) for key, value in copy._ordered_values if key in rest]
    return copy, [each | moved for each in parameters or [{}]]


def _is_owner_column(table: Table, column: Column[Any]) -> bool:
    return KEY_COLUMN not in table.columns and bool(column.foreign_keys)


def _refuse_unseen(statement: Insert, table: Table) -> None:
    """Refuse the forms of INSERT whose rows are not seen here."""
    form = "INSERT ... FROM SELECT" if statement.select is not None else None
    if statement._multi_values:
        form = "INSERT with several rows in .values()"
    conflict = statement._post_values_clause
    updated = getattr(conflict, "update_values_to_set", None) or ()
    names = {getattr(key, "key", key) for key, *_ in updated}
    if any(field_of(table.columns.get(name)) is not None for name in names if name in table.columns):
        form = "ON CONFLICT DO UPDATE of a personal field"
    if form:
        raise StatementRefused(
            f"{form} into {table.name} cannot be sealed row by row.",
            "Its rows are not known before the database runs it.",
            "Pass a list of dicts: connection.execute(insert(Model), [{...}, {...}]).",
            table=table.name,
        )


def _expression(kind: Guarded, what: str) -> StatementRefused:
    return StatementRefused(
        f"{kind.field} is sealed and would be set from {what}.",
        "The database cannot seal the result, so plain text would be stored.",
        "Compute the value in Python and set the attribute, or pass it as a parameter.",
        field=kind.field.id,
    )


def _check_purpose(guard: Guard, guarded: Mapping[str, Guarded], parameters: Parameters) -> None:
    """A field may be collected or changed only under a purpose that needs it; None collects nothing."""
    scope = purposes.current()
    for name, kind in guarded.items():
        allowed = scope is not None and scope.access(guard.rule(kind.field).field.id) is not None
        if not allowed and any(each.get(name) is not None for each in parameters):
            raise not_needed(kind.field, scope)


def _store_event_times(guard: Guard, table: Table, parameters: Parameters) -> None:
    """Event columns hold UTC: an aware time in another zone would shift every period by its offset."""
    each = guard.tables[table]
    for source in each.model.events.values():
        if isinstance(source, str) and source in each.mapper.columns:
            column = each.mapper.columns[source]
            for row in parameters:
                value = row.get(column.key)
                if isinstance(value, datetime) and value.tzinfo is not None:
                    zoned = getattr(column.type, "timezone", False)
                    row[column.key] = as_utc(value) if zoned else as_utc(value).replace(tzinfo=None)


def _touches(row: Mapping[str, Any], table: Table, guarded: Mapping[str, Guarded]) -> bool:
    sealed = any(name in row for name, kind in guarded.items() if kind.sealed)
    return sealed or any(_is_owner_column(table, column) and column.key in row for column in table.columns)


def _seal_insert(
    guard: Guard, connection: Connection, table: Table, guarded: Mapping[str, Guarded], parameters: Parameters
) -> None:
    if KEY_COLUMN in table.columns:
        owners: list[SubjectKey | None] = list(keystore.create(connection, guard, len(parameters)))
        for row, key in zip(parameters, owners, strict=True):
            assert key is not None
            row[KEY_COLUMN] = key.id
        children.store_ages(guard, table, parameters)
    elif any(kind.sealed for kind in guarded.values()):
        owners = _owners_of_new_rows(guard, connection, table, parameters)
    else:
        owners = [None] * len(parameters)
    for row, key in zip(parameters, owners, strict=True):
        _seal_row(guard, guarded, row, key)


def _seal_row(guard: Guard, guarded: Mapping[str, Guarded], row: dict[str, Any], key: SubjectKey | None) -> None:
    for name, kind in guarded.items():
        if name not in row:
            continue
        value = row[name]
        if kind.field.marker.search is not None:
            row[f"{name}_ix"] = None if value is None else IndexHash(_search_hash(guard, kind, value))
        if kind.sealed and value is not None and type(value) is not Sealed:
            if key is None:
                raise _ownerless(kind)
            row[name] = Sealed(guard.seal(kind.field, key, value))


def _search_hash(guard: Guard, kind: Guarded, value: Any) -> bytes:
    search = kind.field.marker.search
    if isinstance(search, Nearby) and isinstance(value, GeoPoint):
        value = cell_int(value, search.resolution)
    return guard.index_hash(kind.field, value)


def _ownerless(kind: Guarded) -> StatementRefused:
    return StatementRefused(
        f"{kind.field} is sealed, and its row names no data subject.",
        "There is no key to seal it with.",
        "Set the owner (its relationship or foreign key) before the row is written.",
        field=kind.field.id,
    )


def _owners_of_new_rows(
    guard: Guard, connection: Connection, table: Table, parameters: Parameters
) -> list[SubjectKey | None]:
    """Find the keys of the data subjects that new rows belong to: one query for each ``CHUNK`` of owners."""
    step = hop(guard, table)
    assert step is not None
    local = [ours for ours, _ in step.pairs]
    wanted = [tuple(row.get(name) for name in local) for row in parameters]
    known = {owner for owner in wanted if None not in owner}
    remote = own_alias(step.target)
    columns = [remote.c[theirs] for _, theirs in step.pairs]
    key_ids: dict[tuple[Any, ...], bytes] = {}
    for chunk in _chunks(sorted(known, key=repr)):
        key_of = owner_key(guard, step.target, remote)
        query = select(key_of, _consented(guard, step.target, remote), *columns).where(_among(columns, chunk))
        for key_id, consented, *owner in _read(connection, query):
            if not consented:
                raise _no_consent(table)
            if key_id is not None:
                key_ids[tuple(owner)] = bytes(key_id)
    keys = keystore.for_sealing(connection, guard, key_ids.values())
    return [keys.get(key_ids.get(owner, b"")) for owner in wanted]


def _read(connection: Connection, query: Any, parameters: Mapping[str, Any] | None = None) -> list[Any]:
    """Look up whom a row is about: privkit's own question, which no purpose narrows."""
    with purposes.internally():
        return list(connection.execute(query, parameters or {}).all())


def _consented(guard: Guard, table: Table, at: Any) -> Any:
    """Return SQL that is true when the data subject is of age, or a guardian consented to the purpose in force."""
    scope = purposes.current()
    today = cautious_today(guard.now())
    condition = children.with_consent(guard, table, at, scope.names, lambda: today) if scope is not None else None
    return true() if condition is None else condition


def _no_consent(table: Table) -> ConsentRequired:
    return ConsentRequired(
        f"A row of {table.name} is about a child, or somebody who may be one, without consent for this purpose.",
        "Nothing of a child is stored without a parent's consent.",
        "Record it first: privacy.consent.grant(session, subject=..., purposes={...}, guardian=..., method=...).",
        table=table.name,
    )


def _among(columns: list[Any], values: list[tuple[Any, ...]]) -> Any:
    return columns[0].in_([value for (value,) in values]) if len(columns) == 1 else tuple_(*columns).in_(values)


def _chunks(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), keystore.CHUNK):
        yield items[start : start + keystore.CHUNK]


def _seal_update(
    guard: Guard,
    connection: Connection,
    table: Table,
    guarded: Mapping[str, Guarded],
    statement: Update,
    parameters: Parameters,
) -> Any:
    """Seal an UPDATE's values for the one data subject that each parameter set reaches."""
    sealed = [name for name, kind in guarded.items() if kind.sealed]
    found = [_subjects_reached(guard, connection, table, statement, row) for row in parameters]
    keys = keystore.for_sealing(connection, guard, {key_id for ids in found for key_id in ids if key_id})
    if all(not ids for ids in found):
        return _matching_nothing(statement, parameters, guarded)
    for row, ids in zip(parameters, found, strict=True):
        _refuse_new_owner(guard, connection, table, row, ids, sealed)
        if len(ids) > 1 and any(row.get(name) is not None for name in sealed):
            raise StatementRefused(
                f"One UPDATE of {table.name} would set a sealed field for {len(ids)} or more data subjects.",
                "A value is sealed for one data subject; for the others it would not open.",
                "Update by primary key: session.execute(update(Model), [{'id': 1, ...}, {'id': 2, ...}]).",
                table=table.name,
            )
        _seal_row(guard, guarded, row, keys.get(next(iter(ids), b"")))
        if KEY_COLUMN in table.columns:
            children.store_ages(guard, table, [row])
    return statement


def _matching_nothing(statement: Update, parameters: Parameters, guarded: Mapping[str, Guarded]) -> Any:
    """No row matches, so there is nobody to seal for: run the statement so that it cannot match any."""
    for row in parameters:
        for name in guarded:
            if name in row:
                row[name] = None
    return statement.where(false())


def _subjects_reached(
    guard: Guard, connection: Connection, table: Table, statement: Update, row: Mapping[str, Any]
) -> set[bytes]:
    """Return the key ids of up to two data subjects whose rows the statement's WHERE matches."""
    query = select(owner_key(guard, table, table), _consented(guard, table, table)).distinct().limit(3)
    for criterion in statement._where_criteria:
        query = query.where(criterion)
    names = {each.key for each in _binds(query)}
    rows = _read(connection, query, {name: value for name, value in row.items() if name in names})
    if any(key_id is None for key_id, _ in rows):
        raise SealedError(
            f"A row of {table.name} has no data subject's key.",
            "It was written before privkit protected the table, or its owner is gone.",
            "Give the row an owner first.",
            table=table.name,
        )
    if not all(consented for _, consented in rows):
        raise _no_consent(table)
    return {bytes(key_id) for key_id, _ in rows}


def _binds(query: Any) -> Iterable[BindParameter[Any]]:
    return [each for each in visitors.iterate(query) if isinstance(each, BindParameter)]


def _refuse_new_owner(
    guard: Guard, connection: Connection, table: Table, row: Mapping[str, Any], ids: set[bytes], sealed: list[str]
) -> None:
    """A row may change its owner only together with all its sealed fields, which then are sealed anew."""
    if KEY_COLUMN in table.columns or not sealed:
        return
    step = hop(guard, table)
    assert step is not None
    if not any(ours in row for ours, _ in step.pairs):
        return
    (key,) = _owners_of_new_rows(guard, connection, table, [dict(row)])
    if key is None or ids != {key.id}:
        raise StatementRefused(
            f"A row of {table.name} would change its data subject while its sealed fields stay.",
            "They are sealed for the old data subject and would not open.",
            "Write a new row for the new data subject and delete this one.",
            table=table.name,
        )

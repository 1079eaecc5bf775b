"""The write gate: seals every value for its row's data subject before a statement is compiled.

``before_execute`` sees the parameters of ORM flush, ORM bulk and Core alike, and may add to them. Here the
row is known, so here its data subject is found, its key loaded or created, and its search hashes made.
What cannot be sealed for one known data subject is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    Insert,
    LargeBinary,
    Table,
    Update,
    bindparam,
    false,
    func,
    select,
)

from privkit import purposes
from privkit.clock import as_utc
from privkit.crypto import SubjectKey
from privkit.crypto.aead import nonces
from privkit.deidentify import leaves_residue, refuse_reduced
from privkit.errors import StatementRefused
from privkit.sqlalchemy import children, defaults, double, epochs, keystore, pairs, switches, twins, upserts
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.index import hash_for
from privkit.sqlalchemy.lookups import among, chunks, footing_at, hold_consent, no_consent, read
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.ownership import hop, owner_key
from privkit.sqlalchemy.types import Guarded, Sealed, guarded_columns, original
from privkit.sqlalchemy.upserts import Upsert
from privkit.sqlalchemy.write_forms import (
    Parameters,
    as_parameters,
    check_purpose,
    is_owner_column,
    json_nulls,
    matching,
    own_event_columns,
    refuse_alias,
    with_rows,
)


def before_execute(guard: Guard, connection: Connection, statement: Any, many: Any, one: Any) -> tuple[Any, Any, Any]:
    """Seal what an INSERT or UPDATE writes. Returns the statement and parameters to go on with."""
    if not isinstance(statement, Insert | Update):
        return statement, many, one
    if _internal():
        return defaults.kept_as_they_are(statement, many or [one or {}]), many, one
    if not isinstance(statement.table, Table):
        refuse_alias(guard, statement.table)
        return statement, many, one
    table = original(statement.table)
    guarded = guarded_columns(table)
    if table not in guard.tables or not (guarded or KEY_COLUMN in table.columns):
        return statement, many, one
    parameters: Parameters = [{**each} for each in many] if many else [{**one}] if one else []
    several = isinstance(statement, Insert) and bool(statement._multi_values)
    statement, parameters = as_parameters(guard, statement, table, guarded, parameters)
    upsert = None
    if isinstance(statement, Insert):
        defaults.fill_in_defaults(guard, statement, table, guarded, parameters)
        if statement._post_values_clause is not None:
            statement, upsert = upserts.prepare(guard, connection, statement, table, guarded, parameters)
    else:
        defaults.fill_in_changes(guard, statement, table, guarded, parameters)
    pairs.fill(table, guarded, parameters, new=isinstance(statement, Insert))
    double.refuse(connection, guard, guarded, parameters)
    _check_purpose(guard, guarded, parameters, changes=isinstance(statement, Update))
    _refuse_reduced(guarded, parameters)
    _store_event_times(guard, table, parameters)
    twins.refuse(guard, connection, table, guarded, statement, parameters)
    if isinstance(statement, Insert):
        owners = _seal_insert(guard, connection, table, guarded, parameters, upsert)
        statement = statement if upsert is None else upsert.expecting(statement, owners)
    else:
        for row in parameters:
            _forget_residues(guarded, table, row)
        known = children.subject_of(guard, table) is not None
        if known and any(_touches(guard, each, table, guarded) for each in parameters):
            statement = _seal_update(guard, connection, table, guarded, statement, parameters)
    if several:
        return with_rows(statement, parameters), [], {}
    if len(parameters) > 1:
        return statement, parameters, {}
    return statement, [], parameters[0] if parameters else {}


def _internal() -> bool:
    """privkit's own work writes envelopes, residues and NULLs that need no sealing."""
    scope = purposes.current()
    return scope is not None and scope.internal


def _check_purpose(guard: Guard, guarded: Mapping[str, Guarded], parameters: Parameters, *, changes: bool) -> None:
    """A field may be collected or changed only for a purpose that needs it. On a new row None collects nothing."""
    for name, kind in guarded.items():
        if any(name in row and (changes or row[name] is not None) for row in parameters):
            check_purpose(guard, kind)


def _refuse_reduced(guarded: Mapping[str, Guarded], parameters: Parameters) -> None:
    """What a purpose saw at a lower precision never takes the exact value's place."""
    for name, kind in guarded.items():
        for row in parameters:
            if row.get(name) is not None:
                refuse_reduced(kind.field, row[name])


def _store_event_times(guard: Guard, table: Table, parameters: Parameters) -> None:
    """Event columns hold UTC: an aware time in another zone would shift every period by its offset."""
    for column in own_event_columns(guard, table):
        for row in parameters:
            value = row.get(column.key)
            if isinstance(value, datetime) and value.tzinfo is not None:
                zoned = getattr(column.type, "timezone", False)
                row[column.key] = as_utc(value) if zoned else as_utc(value).replace(tzinfo=None)


def _touches(guard: Guard, row: Mapping[str, Any], table: Table, guarded: Mapping[str, Guarded]) -> bool:
    """Whether an UPDATE has to know whose row it changes."""
    moved = any(key in row for key in guard.tables[table].age_keys)
    moved = moved or any(column.key in row for _, column in epochs.divided(guard, table, guarded))
    personal = any(name in row for name in guarded)
    return moved or personal or any(is_owner_column(table, each) and each.key in row for each in table.columns)


def _seal_insert(
    guard: Guard,
    connection: Connection,
    table: Table,
    guarded: Mapping[str, Guarded],
    parameters: Parameters,
    upsert: Upsert | None,
) -> list[SubjectKey | None]:
    """Seal new rows, and those that an upsert found, each for its data subject, whose keys are returned."""
    if KEY_COLUMN in table.columns:
        create = keystore.create(connection, guard, len(parameters)) if upsert is None else upsert.keys(connection)
        owners: list[SubjectKey | None] = list(create)
        for row, key in zip(parameters, owners, strict=True):
            row[KEY_COLUMN] = key.id if key is not None else None
        children.store_ages(guard, table, parameters if upsert is None else upsert.new(parameters))
    elif children.subject_of(guard, table) is not None:
        owners = _owners_of_new_rows(guard, connection, table, parameters)
    else:
        owners = [None] * len(parameters)
    whose = [{key.id} if key is not None else () for key in owners]
    switches.refuse(guard, connection, table, guarded, parameters, whose)
    _seal_rows(guard, connection, table, guarded, parameters, owners, {})
    return owners


def _forget_residues(guarded: Mapping[str, Guarded], table: Table, row: dict[str, Any]) -> None:
    """A field that is written anew has not been de-identified: its next end of life has to be seen."""
    for name, kind in guarded.items():
        residue = f"{table.columns[name].name}_residue"
        if name in row and leaves_residue(kind.field.marker.then) and residue in table.columns:
            row[residue] = None


def _seal_rows(
    guard: Guard,
    connection: Connection,
    table: Table,
    guarded: Mapping[str, Guarded],
    rows: Parameters,
    keys: Sequence[SubjectKey | None],
    known: Mapping[str, int],
) -> None:
    """Seal the values of each row under the key beside it, and make their search hashes.

    ``known``: the epochs of fields whose event time is stored and not among the values.
    """
    draw = nonces(len(rows) * len(guarded))
    json_nulls(guarded, rows)
    numbers, held = epochs.of_rows(guard, connection, table, guarded, rows, known)
    for name, kind in guarded.items():
        if pairs.indexed(kind):
            _index_rows(guard, kind, name, f"{table.columns[name].name}_ix", rows)
        if not kind.sealed:
            continue
        seal = guard.sealer(kind.field, connection.dialect, draw)
        for row, key, number in zip(rows, keys, numbers.get(name) or repeat(0), strict=False):
            value = row.get(name)
            if value is None or type(value) is Sealed:
                continue
            if key is None and pairs.waits(kind):
                row[name] = pairs.WAITING
                continue
            if key is None and value is not JSON.NULL:
                raise _ownerless(kind)
            row[name] = None if key is None else Sealed(seal(key, number, None if value is JSON.NULL else value))
    del held  # until here the keys of the epochs were findable


def _index_rows(guard: Guard, kind: Guarded, name: str, index: str, rows: Parameters) -> None:
    for row in rows:
        if name in row:
            row[index] = hash_for(guard, kind.field, row[name])


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
    for chunk in chunks(sorted(known, key=repr)):
        key_of = owner_key(guard, step.target, remote)
        query = select(key_of, footing_at(guard, step.target, remote), *columns).where(among(columns, chunk))
        resting = set()
        for key_id, footing, *owner in read(connection, query):
            if footing == children.NEITHER:
                raise no_consent(table)
            if key_id is not None:
                key_ids[tuple(owner)] = bytes(key_id)
                if footing == children.CONSENTED:
                    resting.add(bytes(key_id))
        hold_consent(connection, guard, step.target, resting)
    keys = keystore.for_sealing(connection, guard, key_ids.values())
    return [keys.get(key_ids.get(owner, b"")) for owner in wanted]


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
    single = [name for name, kind in guarded.items() if kind.sealed or switches.subject_off(guard, kind.field, table)]
    found = [_subjects_reached(guard, connection, table, statement, row) for row in parameters]
    if all(not ids for ids in found):
        return _matching_nothing(statement, parameters, guarded)
    keys = keystore.for_sealing(connection, guard, {key_id for ids in found for key_id in ids if key_id})
    if KEY_COLUMN in table.columns:
        children.store_changed_ages(guard, connection, table, statement, parameters)
    for row, ids in zip(parameters, found, strict=True):
        if len(ids) > 1 and any(row.get(name) is not None for name in single):
            raise StatementRefused(
                f"One UPDATE of {table.name} would set a field for {len(ids)} or more data subjects that is sealed, or "
                "off for children.",
                "A value is sealed for one data subject, and switched on for one.",
                "Update by primary key: session.execute(update(Model), [{'id': 1, ...}, {'id': 2, ...}]).",
                table=table.name,
            )
        key = keys.get(next(iter(ids), None) or b"")
        owner = (_new_owner(guard, connection, table, row, ids, sealed) if single else None) or key
        whose = {each for each in ids if each is not None} | ({owner.id} if owner is not None else set())
        switches.refuse(guard, connection, table, guarded, [row], [whose])
        known = epochs.of_stored_rows(guard, connection, table, guarded, statement, row)
        _seal_rows(guard, connection, table, guarded, [row], [owner], known)
    return _while_theirs(guard, table, statement, parameters, found, sealed)


def _while_theirs(
    guard: Guard,
    table: Table,
    statement: Update,
    parameters: Parameters,
    found: Sequence[set[bytes | None]],
    sealed: Sequence[str],
) -> Any:
    """Have an UPDATE pass by rows that another writer gave to somebody else, or let it match, since the look-up."""
    if any(len(ids) > 1 for ids in found) or not any(
        row.get(name) is not None for row in parameters for name in sealed
    ):
        return statement
    for row, ids in zip(parameters, found, strict=True):
        row[_OWNER] = next(iter(ids), None)
    owner = owner_key(guard, table, table)  # of a row that had none nothing was sealed, and it may get one meanwhile
    expected = func.coalesce(bindparam(_OWNER, type_=LargeBinary()), owner)
    return statement.where(owner.is_not_distinct_from(expected))


_OWNER = "privkit_owner"
"""The parameter that holds the key id of the data subject for whom a parameter set was sealed."""


def _matching_nothing(statement: Update, parameters: Parameters, guarded: Mapping[str, Guarded]) -> Any:
    """No row matches, so there is nobody to seal for: run the statement so that it cannot match any."""
    for row in parameters:
        for name in guarded:
            if name in row:
                row[name] = None
    return statement.where(false())


def _subjects_reached(
    guard: Guard, connection: Connection, table: Table, statement: Update, row: Mapping[str, Any]
) -> set[bytes | None]:
    """Return the key ids of up to three data subjects whose rows the WHERE matches; None: a row without an owner."""
    footing, owner = footing_at(guard, table, table).label("footing"), owner_key(guard, table, table)
    query = select(owner, footing).distinct().order_by(footing)
    rows = read(connection, *matching(statement, query.limit(3), row))
    if any(on == children.NEITHER for key_id, on in rows if key_id is not None):
        raise no_consent(table)
    if any(on == children.CONSENTED for _, on in rows):
        resting = rows if len(rows) < 3 else read(connection, *matching(statement, query, row))
        ids = {bytes(key_id) for key_id, on in resting if key_id is not None and on == children.CONSENTED}
        hold_consent(connection, guard, table, ids)
    return {bytes(key_id) if key_id is not None else None for key_id, _ in rows}


def _new_owner(
    guard: Guard,
    connection: Connection,
    table: Table,
    row: Mapping[str, Any],
    ids: set[bytes | None],
    sealed: list[str],
) -> SubjectKey | None:
    """Return the key of the data subject that a row is given to, if it is.

    A row that had no owner holds nothing sealed; another changes its owner only together with all sealed fields.
    """
    if KEY_COLUMN in table.columns:
        return None
    step = hop(guard, table)
    assert step is not None
    if not any(ours in row for ours, _ in step.pairs):
        return None
    (key,) = _owners_of_new_rows(guard, connection, table, [dict(row)])
    if ids == {None} or (key is not None and ids == {key.id}) or all(name in row for name in sealed):
        return key
    raise StatementRefused(
        f"A row of {table.name} would change its data subject while its sealed fields stay.",
        "They are sealed for the old data subject and would not open.",
        f"Set them in the same UPDATE ({', '.join(sealed)}), or write a new row and delete this one.",
        table=table.name,
    )

"""Moves the stored values of an adopted field: seals what is not sealed yet, checks all of it, and goes back.

Each batch is one transaction with its ledger line. A row is changed only while both of its columns hold what was read,
so a concurrent write wins and the row is looked at again by the next scan. Whatever was killed is run again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from sqlalchemy import ColumnElement, Connection, Engine, LargeBinary, func, inspect, select, text, type_coerce

from privkit.crypto import DESTROYED
from privkit.crypto.envelope import VERSION
from privkit.errors import MappingError, MigrationError
from privkit.purposes import internally
from privkit.sqlalchemy import pair_sql, pairs
from privkit.sqlalchemy.adopted_rows import Move, Moved, Progress, Work
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.types import Guarded

__all__ = ["Adoption", "Moved", "Progress", "finish", "migration", "seal", "status", "undo"]


@dataclass(frozen=True, slots=True)
class Adoption:
    """How far one field is: counts of rows by what the sealed column holds.

    ``waiting`` rows are not sealed yet, or not any more. ``read_before``: how many values this process has read
    from where they were before. ``watched``: whether the trigger that notices other programs is in the database.
    """

    field: str
    phase: str
    until: date | None
    rows: int
    empty: int
    sealed: int
    waiting: int
    read_before: int
    watched: bool


def status(guard: Guard, engine: Engine) -> list[Adoption]:
    """Return how far every adopted field is in one database."""
    with internally(), engine.connect() as connection:
        return [_status(guard, connection, each) for each in _moves(guard)]


def seal(guard: Guard, engine: Engine, name: str, *, batch: int = 1000, progress: Progress | None = None) -> Moved:
    """Seal what is not sealed yet of ``table.field``, and compare all of it.

    Raises MappingError where nothing of that name is adopted, MigrationError without the trigger.
    """
    work = Work(guard, engine, _named(guard, name), batch, progress)
    if work.move.adopting.phase == "finished":
        raise _out_of_phase(work.move, "is finished: its old column is out of date", 'phase="sealed"')
    if work.move.pair:
        _require_trigger(engine, work.move)
    work.give_keys()
    work.scan(work.seal_rows)
    return work.compared()


def undo(guard: Guard, engine: Engine, name: str, *, batch: int = 1000, progress: Progress | None = None) -> Moved:
    """Write the old form of ``table.field`` back from the sealed one, where it differs, and compare all of it.

    Raises MappingError where nothing of that name is adopted, or the old form is what is read now.
    """
    work = Work(guard, engine, _named(guard, name), batch, progress, undoing=True)
    if work.move.adopting.phase == "dual":
        raise _out_of_phase(work.move, "is read from its old column", 'phase="sealed"')
    work.scan(work.unseal_rows)
    return work.compared()


def finish(guard: Guard, engine: Engine, name: str, *, batch: int = 1000, progress: Progress | None = None) -> Moved:
    """Empty the old column of ``table.field`` after checking that everything is sealed; nothing is if that fails.

    A value that a program which does not know the sealed column adds meanwhile stays, and is counted as not sealed.
    Raises MappingError in another phase than ``"finished"``, MigrationError where the old column takes no NULL.
    """
    work = Work(guard, engine, _named(guard, name), batch, progress)
    if work.move.adopting.phase != "finished":
        raise _out_of_phase(work.move, "is still written to its old column", 'phase="finished"')
    found = work.compared()
    if not found.ok:
        return found
    _require_nullable(engine, work.move)
    with engine.begin() as connection:
        for statement in pair_sql.drop_sql(work.move.sealed, engine.dialect):
            connection.execute(pair_sql.as_ddl(statement))
    work.scan(work.empty_rows)
    return found


def migration(guard: Guard, engine: Engine, name: str) -> list[str]:
    """Return the statements that add the sealed column of ``table.field`` to its table, with what belongs to it.

    Raises MappingError where nothing of that name is adopted, or it stays in its one column.
    """
    move = _named(guard, name)
    if not move.pair:
        raise _out_of_phase(move, "stays in its one column, which needs no trigger", "beside=...")
    return pair_sql.column_sql(move.sealed, engine.dialect) + pair_sql.create_sql(move.sealed, move.old, engine.dialect)


def _moves(guard: Guard) -> list[Move]:
    guard.keep_up()
    found: dict[str, Move] = {}
    for each in guard.classes.values():
        for name, marked in each.model.fields.items():
            column = each.mapper.columns[name]
            if marked.marker.adopting is not None and isinstance(column.type, Guarded):
                old, sealed = pairs.pair(column) or (column, column)
                found[marked.id] = Move(column.type.field, old, sealed)
    return [found[each] for each in sorted(found)]


def _named(guard: Guard, name: str) -> Move:
    for each in _moves(guard):
        if name in (str(each.field), each.field.id):
            return each
    raise MappingError(
        "No field of that name is being adopted.",
        "Nothing was changed.",
        f"Name one of: {', '.join(str(each.field) for each in _moves(guard)) or 'none has adopting=... yet'}.",
    )


def _out_of_phase(move: Move, what: str, fix: str) -> MappingError:
    return MappingError(f"{move.field} {what}.", "Nothing was changed.", f"Deploy {fix} first.", field=move.field.id)


def _status(guard: Guard, connection: Connection, move: Move) -> Adoption:
    stored = type_coerce(move.sealed, LargeBinary())
    first = func.substr(stored, 1, 1, type_=LargeBinary())
    sealed: ColumnElement[bool] = first.in_([VERSION, DESTROYED])  # SQLite: text is never equal to bytes
    query = select(func.count(), func.count(stored), func.count().filter(sealed)).select_from(move.table)
    rows, present, envelopes = connection.execute(query).one()
    return Adoption(
        field=str(move.field),
        phase=move.adopting.phase if move.pair else "in place",
        until=move.adopting.until,
        rows=rows,
        empty=rows - present,
        sealed=envelopes,
        waiting=present - envelopes,
        read_before=guard.fallbacks[move.field.id],
        watched=not move.pair or _is_watched(connection, move),
    )


def _is_watched(connection: Connection, move: Move) -> bool:
    lite = "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = :name"
    other = "SELECT 1 FROM pg_trigger WHERE tgname = :name AND tgrelid = to_regclass(:table) AND tgenabled <> 'D'"
    given = {"name": pair_sql.trigger_name(move.sealed)}
    if connection.dialect.name == "sqlite":
        return connection.execute(text(lite), given).first() is not None
    given["table"] = connection.dialect.identifier_preparer.format_table(move.table)
    return connection.execute(text(other), given).first() is not None


def _require_trigger(engine: Engine, move: Move) -> None:
    with internally(), engine.connect() as connection:
        if _is_watched(connection, move):
            return
    raise MigrationError(
        f"The database does not notice when another program changes {move.old.table.name}.{move.old.name} alone.",
        "A sealed value that is out of date would be read as the current one.",
        "Run in a migration:\n" + ";\n".join(pair_sql.create_sql(move.sealed, move.old, engine.dialect)),
        field=move.field.id,
    )


def _require_nullable(engine: Engine, move: Move) -> None:
    with internally(), engine.connect() as connection:
        columns = inspect(connection).get_columns(move.table.name, schema=move.table.schema)
    if not next(each["nullable"] for each in columns if each["name"] == move.old.name):
        name = f"{move.table.fullname} ALTER COLUMN {move.old.name}"
        raise MigrationError(
            f"{move.table.name}.{move.old.name} is NOT NULL and cannot be emptied.",
            "Nothing was changed.",
            f"Run in a migration: ALTER TABLE {name} DROP NOT NULL; or drop the column at once.",
            field=move.field.id,
        )

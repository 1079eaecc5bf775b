"""A trial: a step is carried out on a few of its rows and rolled back, so that the database says what it refuses.

It finds NOT NULL, UNIQUE, CHECK, enums, foreign keys, triggers and missing rights, on either database. Only when none
of the rows goes is the step refused: one bad row must not keep the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from secrets import token_bytes
from typing import Any

from sqlalchemy import Connection, select, type_coerce
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from privkit.consent.age import cautious_today
from privkit.deidentify import leaves_residue, residue
from privkit.errors import InvalidValue, PrivkitError
from privkit.sqlalchemy import destroy, due, ledger
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.types import Guarded

ROWS = 5
"""How many rows are tried; of more, those that lie evenly among what is due."""

_AMONG = 200
_KINDS = {
    "23502": "NOT NULL",
    "23503": "foreign key",
    "23505": "unique key",
    "23514": "CHECK",
    "23P01": "exclusion constraint",
    "42501": "missing right",
    "P0001": "trigger",
    "SQLITE_CONSTRAINT_NOTNULL": "NOT NULL",
    "SQLITE_CONSTRAINT_FOREIGNKEY": "foreign key",
    "SQLITE_CONSTRAINT_UNIQUE": "unique key",
    "SQLITE_CONSTRAINT_PRIMARYKEY": "unique key",
    "SQLITE_CONSTRAINT_CHECK": "CHECK",
    "SQLITE_CONSTRAINT_TRIGGER": "trigger",
}
_READ_ONLY = "25006"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a trial found: why none of the rows goes, or what a reader should know."""

    refused: str | None = None
    warning: str | None = None


def run(guard: Guard, connection: Connection, target: Target, keys: Sequence[Sequence[Any]]) -> Verdict:
    """Try some of the rows with these keys. Raises OperationalError where the database is too busy to try."""
    rows = [] if ledger.is_autocommit(connection) else _rows(guard, connection, target, keys)
    if not rows or (together := _tried(guard, connection, target, rows)) is None:
        return Verdict()
    alone = [_tried(guard, connection, target, [row]) for row in rows] if len(rows) > 1 else [together]
    pairs = (_tried(guard, connection, target, [one, other]) for one, other in pairwise(rows))
    if None in alone and not (set(alone) == {None} and None not in list(pairs)):  # else: no two of them go
        return Verdict(warning=f"the database refuses some rows: {together}")
    return Verdict(refused=f"the database refuses it: {together}")


def _tried(
    guard: Guard, connection: Connection, target: Target, rows: list[tuple[Sequence[Any], str | None]]
) -> str | None:
    """Carry a target out on some rows, and say what the database refuses."""
    try:
        destroy.attempt(connection, guard, target, rows)
    except OperationalError:
        raise
    except SQLAlchemyError as error:
        return refusal(error)
    except PrivkitError:
        return None  # a file's name does not open: the run leaves such a row as it is, and says so
    return None


def refusal(error: SQLAlchemyError) -> str | None:
    """Return what refused a statement, by kind and name: what the driver says may hold a value. None: read-only."""
    original = error.orig if isinstance(error, DBAPIError) else None
    code = getattr(original, "sqlstate", None) or getattr(original, "sqlite_errorname", None)
    if code == _READ_ONLY:
        return None
    kind = _KINDS.get(str(code), type(original or error).__name__)
    diagnosis = getattr(original, "diag", None)
    name = getattr(diagnosis, "constraint_name", None) or getattr(diagnosis, "column_name", None)
    if name is None and str(code).startswith("SQLITE_CONSTRAINT_") and kind != "trigger":
        name = str(original).partition("failed: ")[2]  # of the schema: a constraint, a column, or a CHECK's text
        if name.startswith("index"):  # what stands in quotes is taken out of a driver's messages
            name = "over an expression"
    return f"{kind} {name}".rstrip() if name else kind


def _rows(
    guard: Guard, connection: Connection, target: Target, keys: Sequence[Sequence[Any]]
) -> list[tuple[Sequence[Any], str | None]]:
    columns = destroy.key_columns(target.table)
    if target.column is None:  # what refers to a row goes before it, in a step of its own
        alone = destroy.among(columns, _spread(keys, _AMONG)) & due.unreferenced(guard, target.table)
        keys = [tuple(row) for row in connection.execute(select(*columns).where(alone))]
        return [(key, None) for key in _spread(keys, ROWS)]
    chosen = _spread(keys, ROWS)
    if not leaves_residue(target.technique):
        return [(key, None) for key in chosen]
    if target.column.nullable or due.is_sealed(target.column):
        return [(key, "residue") for key in chosen]
    return _in_place(guard, connection, target, chosen)


def _in_place(
    guard: Guard, connection: Connection, target: Target, keys: Sequence[Sequence[Any]]
) -> list[tuple[Sequence[Any], str | None]]:
    """Make residues as a run does, under a key that nobody keeps: they take the place of values that have a form."""
    column, columns = target.column, destroy.key_columns(target.table)
    assert column is not None
    assert isinstance(column.type, Guarded)
    query = select(*columns, type_coerce(column, column.type.plain)).where(destroy.among(columns, keys))
    secret, today = token_bytes(32), cautious_today(guard.now())
    try:
        return [
            (key, residue(target.technique, value, key=secret, today=today))
            for *key, value in connection.execute(query)
        ]
    except InvalidValue:
        return []  # the run leaves such a row as it is, and says so


def _spread(keys: Sequence[Sequence[Any]], count: int) -> list[Sequence[Any]]:
    """Return up to ``count`` of the keys, evenly."""
    if len(keys) <= count:
        return list(keys)
    return [keys[number * (len(keys) - 1) // (count - 1)] for number in range(count)]

"""The CHECK that stands on a sealed column, so that SQL from other programs cannot store plain text in it.

The models' tables carry one for each database that privkit knows; a database is given its own. Migrations
write the same name and text, which is why both are made here.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

from sqlalchemy import CheckConstraint, Column, Table
from sqlalchemy.sql.elements import conv

from privkit.crypto.envelope import OVERHEAD
from privkit.sqlalchemy.types import Guarded

_INFO = "privkit_sealed"
_LONGEST = 63
"""How many bytes of a name PostgreSQL keeps."""


def check_name(table: str, column: str) -> conv:
    """Return the name of a sealed column's CHECK, which no naming convention changes."""
    name = f"privkit_{table}_{column}_sealed"
    if len(name.encode()) > _LONGEST:
        name = f"privkit_{sha256(name.encode()).hexdigest()[:32]}_sealed"
    return conv(name)


def check_texts(column: str, *, pending: bool = False) -> dict[str, str]:
    """Return the condition of a sealed column's CHECK, by the name of the SQLAlchemy dialect that understands it.

    ``pending``: the column may also hold the sign of a value that is not sealed yet.
    """
    quoted = '"' + column.replace('"', '""') + '"'
    lite, postgresql = (f"{quoted} = x'02' OR ", f"{quoted} = CAST('\\x02' AS bytea) OR ") if pending else ("", "")
    return {
        "sqlite": f"{quoted} IS NULL OR (typeof({quoted}) = 'blob' AND ({lite}{quoted} = x'00' OR "
        f"(hex(substr({quoted}, 1, 1)) = '01' AND length({quoted}) >= {OVERHEAD})))",
        "postgresql": f"{quoted} IS NULL OR {postgresql}{quoted} = CAST('\\x00' AS bytea) OR "
        f"(substring({quoted} from 1 for 1) = CAST('\\x01' AS bytea) AND length({quoted}) >= {OVERHEAD})",
    }


def lets_wait(text: str) -> bool:
    """Whether the condition of a CHECK, as a database gives it back, is one with ``pending``."""
    return re.search(r"x'?02'", text, re.IGNORECASE) is not None


def add(table: Table, column: Column[Any]) -> None:
    """Add the CHECKs of a column to its table; each is made only where the column turns out to be sealed."""
    assert isinstance(column.type, Guarded)
    pending = column.type.field.marker.adopting is not None
    for dialect, text in check_texts(column.name, pending=pending).items():
        check = CheckConstraint(text, name=check_name(table.name, column.name), info={_INFO: (column.name, dialect)})
        table.append_constraint(check.ddl_if(dialect=dialect, callable_=_while_sealed(column)))


def _while_sealed(column: Column[Any]) -> Any:
    def callable_(ddl: Any, target: Any, bind: Any, dialect: Any, state: Any = None, **context: Any) -> bool:
        return is_wanted(column)

    return callable_


def is_wanted(column: Any) -> bool:
    """Whether a column is to have its CHECK now: the policy may decide after the model was mapped."""
    if not isinstance(column.type, Guarded) or not column.type.sealed:
        return False
    adopting = column.type.field.marker.adopting
    return adopting is None or adopting.beside is not None  # a column in place still holds what it held before


def checked_column(constraint: CheckConstraint) -> tuple[str, str] | None:
    """Return the column and the dialect that a constraint was made for by ``add``; a copy remembers them too."""
    found: tuple[str, str] | None = constraint.info.get(_INFO)
    return found

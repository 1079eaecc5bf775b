"""Tells a value that is an envelope already, so that nothing is sealed twice while a field is adopted."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from binascii import Error, unhexlify
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select

from privkit.crypto import OVERHEAD, parse
from privkit.errors import SealedError, StatementRefused
from privkit.purposes import internally
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import KEY
from privkit.sqlalchemy.types import Guarded, Sealed


def refuse(
    connection: Connection, guard: Guard, guarded: Mapping[str, Guarded], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Raise StatementRefused for a value of an adopted field that is an envelope of this database."""
    for name, kind in guarded.items():
        if kind.field.marker.adopting is not None and are_envelopes(connection, guard, [row.get(name) for row in rows]):
            raise StatementRefused(
                f"A value given for {kind.field} is an envelope already.",
                "It would be sealed twice, and read as ciphertext.",
                "Give the value itself: read it through privkit, and find what copies stored bytes.",
                field=kind.field.id,
            )


def are_envelopes(connection: Connection, guard: Guard, values: Iterable[Any]) -> bool:
    """Whether one of ``values`` names a key of this database, as bytes or as their hexadecimal or base64 text."""
    ids = {key_id for value in values if (key_id := _key_id(value)) is not None}
    if not ids:
        return False
    table = guard.own_table(KEY)
    with internally():
        return connection.execute(select(table.c.id).where(table.c.id.in_(sorted(ids))).limit(1)).first() is not None


def _key_id(value: Any) -> bytes | None:
    if type(value) is Sealed or not isinstance(value, str | bytes) or len(value) < OVERHEAD:
        return None
    try:
        return parse(value if isinstance(value, bytes) else _from_text(value)).key_id
    except (SealedError, ValueError, Error):
        return None


def _from_text(value: str) -> bytes:
    if value.startswith(("0101", "\\x0101")):
        return unhexlify(value.removeprefix("\\x"))
    return urlsafe_b64decode(value.replace("+", "-").replace("/", "_")) if value.startswith("AQ") else b""

"""Looks for envelopes in the columns of a database, declared or not, and for the keys that they name.

Only whole values count: an envelope's bytes, or their hexadecimal or base64 text. One that stands inside JSON, an
array or a compressed value is not seen. Of random binary values one in 16 million looks like an envelope.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from binascii import unhexlify
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Engine,
    FromClause,
    LargeBinary,
    String,
    and_,
    column,
    func,
    inspect,
    or_,
    select,
    table,
    true,
    type_coerce,
)

from privkit.crypto import OVERHEAD
from privkit.crypto.envelope import KEY_ID_SIZE, SUITE, VERSION
from privkit.errors import KeyringError
from privkit.purposes import internally
from privkit.sqlalchemy.guard import Guard, own_alias
from privkit.sqlalchemy.tables import KEY
from privkit.sqlalchemy.types import Guarded

_START = VERSION + SUITE
_TEXTS = ("0101", "\\x0101", "AQE", "AQF", "AQG", "AQH")
"""How an envelope begins in hexadecimal, as PostgreSQL writes bytea, and in base64 of either alphabet."""
_SHORTEST_TEXT = OVERHEAD * 4 // 3


class _Place(NamedTuple):
    """A column, and whether it can hold bytes and text."""

    schema: str | None
    table: str
    column: str
    binary: bool = True
    text: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The envelopes of one column: how many there are, and under living and under destroyed keys of the database."""

    column: str
    declared: bool
    envelopes: int
    living: int
    destroyed: int

    @property
    def unknown(self) -> int:
        """How many name a key that is not in the database's key table: nobody can rewrap or find it."""
        return self.envelopes - self.living - self.destroyed


def sealed_columns(guard: Guard) -> list[Column[Any]]:
    """Return every sealed column of every MetaData, base and registry that the Privacy was given."""
    guard.keep_up()
    return [
        each
        for owner in sorted(guard.tables, key=lambda owner: owner.fullname)
        for each in owner.columns
        if isinstance(each.type, Guarded) and each.type.sealed
    ]


def require_sealed_columns(guard: Guard) -> list[Column[Any]]:
    """Return the sealed columns. Raises KeyringError where there is none: whoever finds nothing missed something."""
    found = sealed_columns(guard)
    if not found:
        raise KeyringError(
            "No sealed field was found.",
            "A rotation that finds nothing has missed what it was meant for.",
            "Give the Privacy all bases and registries: Privacy(models=[Base, OtherBase]).",
        )
    return found


def declared_envelopes(guard: Guard, engine: Engine) -> list[Found]:
    """Return what the sealed columns hold."""
    with internally(), engine.connect() as connection:
        return [_found(guard, connection, each, declared=True) for each in _declared(guard)]


def scan_envelopes(guard: Guard, engine: Engine) -> list[Found]:
    """Return what all text and binary columns of all schemas hold: the sealed ones, and others with an envelope.

    Raises what the database raises where the account may not read a table: a scan with a gap would prove nothing.
    """
    with internally(), engine.connect() as connection:
        default = connection.dialect.default_schema_name
        declared = {(each.schema or default, *each[1:3]) for each in _declared(guard)}
        places = list(_text_and_binary(connection))
        found = [
            _found(guard, connection, each, declared=(each.schema or default, *each[1:3]) in declared)
            for each in places
        ]
    return [each for each in found if each.envelopes or each.declared]


def _declared(guard: Guard) -> list[_Place]:
    return [_Place(each.table.schema, each.table.name, each.name) for each in sealed_columns(guard)]


def _text_and_binary(connection: Connection) -> Iterator[_Place]:
    inspector, lite = inspect(connection), connection.dialect.name == "sqlite"
    names = [name for name in inspector.get_schema_names() if name != "information_schema"]
    for schema in [None] if lite else names:
        for (_, owner), columns in sorted(inspector.get_multi_columns(schema=schema).items()):
            for each in columns:
                kind: Any = getattr(each["type"], "data_type", each["type"])  # of a domain, what it is made of
                binary = lite or isinstance(kind, LargeBinary)  # SQLite stores anything anywhere
                text = lite or isinstance(kind, String)
                if binary or text:
                    yield _Place(schema, owner, each["name"], binary, text)


def _found(guard: Guard, connection: Connection, place: _Place, *, declared: bool) -> Found:
    source = table(place.table, column(place.column), schema=place.schema)
    stored = source.c[place.column]
    envelopes = known = living = 0
    if place.binary:
        envelopes, known, living = _in_bytes(guard, connection, source, type_coerce(stored, LargeBinary()))
    for key_id, count in (_in_texts(connection, type_coerce(stored, String())) if place.text else {}).items():
        states = _states(guard, connection, key_id)
        envelopes += count
        known += count * bool(states)
        living += count * any(states)
    default = connection.dialect.default_schema_name
    shown = place.table if place.schema in (None, default) else f"{place.schema}.{place.table}"
    return Found(f"{shown}.{place.column}", declared, envelopes, living, known - living)


def _in_bytes(
    guard: Guard, connection: Connection, source: FromClause, stored: ColumnElement[Any]
) -> tuple[int, int, int]:
    """Count envelopes, those whose key is in the key table, and those whose key lives, in one statement."""
    key = own_alias(guard.own_table(KEY))
    named = func.substr(stored, 3, KEY_ID_SIZE, type_=LargeBinary())
    shape = and_(
        func.substr(stored, 1, 2, type_=LargeBinary()) == _START,
        func.substr(stored, 19, 1, type_=LargeBinary()) == b"\0",  # no epoch is numbered above 2**24
        func.length(stored) >= OVERHEAD,
    )
    counts = select(func.count(), func.count(key.c.id), func.count(key.c.wrapped))
    row = connection.execute(counts.select_from(source.outerjoin(key, key.c.id == named)).where(shape)).one()
    return row[0], row[1], row[2]


def _in_texts(connection: Connection, stored: ColumnElement[Any]) -> Counter[bytes]:
    """Count the envelopes that are stored as text, by the key that they name."""
    begins = or_(*(stored.startswith(start, autoescape=True) for start in _TEXTS))
    is_text = func.typeof(stored) == "text" if connection.dialect.name == "sqlite" else true()
    shape = and_(is_text, func.length(stored) >= _SHORTEST_TEXT, begins)
    found: Counter[bytes] = Counter()
    for text in connection.execute(select(stored).where(shape)).scalars():
        envelope = _decoded(text)
        if envelope.startswith(_START) and len(envelope) >= OVERHEAD and not envelope[18]:
            found[envelope[2 : 2 + KEY_ID_SIZE]] += 1
    return found


def _states(guard: Guard, connection: Connection, key_id: bytes) -> list[bool]:
    """Return whether a key lives, or nothing where the key table does not know it."""
    key = guard.own_table(KEY)
    return list(connection.execute(select(key.c.wrapped.is_not(None)).where(key.c.id == key_id)).scalars())


def _decoded(text: str) -> bytes:
    with suppress(ValueError):
        return unhexlify(text.removeprefix("\\x"))
    with suppress(ValueError):
        return urlsafe_b64decode(text.strip().rstrip("=").replace("+", "-").replace("/", "_") + "==")
    return b""

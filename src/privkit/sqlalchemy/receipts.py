"""Receipts: for each row and value that a run destroys, some bytes that say so, under the ledger's line of its batch.

Where the policy says ``runs: {receipts: true}``. With the keyring one can show that a certain row was destroyed, when
and by which rule; without it nobody learns which rows there were. Those of one batch lie in one row, and the line has
their SHA-256. Where the primary key is one integer, they are the list of the keys, sealed: 8 bytes each. Whoever has
the keyring could try all integers, so hashes would hide no more, and take ten times as long. Any other key may be a
name or an address, which has to be gone: of those a receipt is a keyed hash of 16 bytes, and they are sorted.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Delete, Integer, Select, Table, Update, func, insert, select

from privkit.crypto import HEADER_SIZE, SubjectKey
from privkit.crypto.envelope import ValueKey, length_prefixed
from privkit.errors import LedgerError, SealedError
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.references import key_columns
from privkit.sqlalchemy.tables import LEDGER, RECEIPT

Keys = list[Sequence[Any]]
"""The primary keys of rows that were destroyed, as a statement returned them."""

_SIZE = 16
"""Of a hash. The length of a sealed list is never a multiple of it: 12 and 16 bytes beside its numbers, of 8 each."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """That one row, or the value of one ``field`` of it, was destroyed. ``line``: the number of the ledger's line.

    ``at``: as the ledger has it, ISO 8601 in UTC.
    """

    table: str
    field: str | None
    run: str
    rule: str
    technique: str
    at: str
    line: int

    def __str__(self) -> str:
        what = f"{self.table}.{self.field}" if self.field else f"the row of {self.table}"
        return f"{self.at}: {what} was {self.technique}; {self.rule}; run {self.run}, line {self.line} of the ledger"


def executed(connection: Connection, statement: Delete | Update, table: Table, gone: Keys | None) -> int:
    """Execute a statement that destroys; return how many rows it met, and add their keys to ``gone`` where asked."""
    if gone is None:
        return connection.execute(statement).rowcount
    keys = key_columns(table)
    if _numbered(table) and connection.dialect.name == "postgresql":  # in one value: rows would be read one by one
        going = statement.returning(*keys).cte("privkit_gone")
        numbers = connection.execute(select(func.array_agg(going.c[0]))).scalar_one() or []
        gone += zip(numbers)
        return len(numbers)
    found = connection.execute(statement.returning(*keys)).all()
    gone += found
    return len(found)


def _numbered(table: Table) -> bool:
    """Whether the primary key is one integer."""
    keys = key_columns(table)
    return len(keys) == 1 and isinstance(keys[0].type, Integer)


def make(guard: Guard, table: Table, field: str | None, keys: Sequence[Sequence[Any]]) -> bytes:
    """Return the receipts of some rows of ``table``, or of their values of ``field``."""
    if _numbered(table):
        with suppress(struct.error):  # a database may have another type than the model says
            numbers = struct.pack(f"<{len(keys)}q", *(number for (number,) in keys))
            return _key(guard, table, field).seal(numbers)[HEADER_SIZE:]
    return _hashes(guard, table, field, keys)


def _hashes(guard: Guard, table: Table, field: str | None, keys: Sequence[Sequence[Any]]) -> bytes:
    keyed = hashlib.blake2b(_place(table, field), key=guard.keyring.secret("receipts"), digest_size=_SIZE)
    return b"".join(sorted(_of_key(keyed, key) for key in keys))


def _key(guard: Guard, table: Table, field: str | None) -> ValueKey:
    """Return the key that seals lists of one table's rows; no envelope's header is stored with them."""
    return SubjectKey(guard.keyring.secret("receipt lists")).value_key(f"{RECEIPT}.{table.fullname}.{field or ''}")


def _place(table: Table, field: str | None) -> bytes:
    return length_prefixed(table.fullname.encode(), (field or "").encode())


def _of_key(keyed: Any, key: Sequence[Any]) -> bytes:
    found = keyed.copy()
    for part in key:
        text = str(part).encode("utf-8", "surrogatepass")
        found.update(len(text).to_bytes(8, "big") + text)
    digest: bytes = found.digest()
    return digest


def put(connection: Connection, guard: Guard, line: int, receipts: bytes) -> None:
    """Keep the receipts of one batch under the number of its line."""
    connection.execute(insert(guard.own_table(RECEIPT)), {"line": line, "receipts": receipts})


def digest(receipts: bytes) -> str:
    """Return what the batch's line says of its receipts: their SHA-256, in hexadecimal."""
    return hashlib.sha256(receipts).hexdigest()


def find(connection: Connection, guard: Guard, table: Table, key: Sequence[Any]) -> list[Receipt]:
    """Return what is known to have been destroyed of the row of ``table`` with this primary key, the oldest first.

    Raises LedgerError where receipts are not those of which the ledger tells, or a list was sealed under other keys.
    """
    found = []
    for line, body, receipts in _batches(connection, guard, table):
        if digest(receipts) != body["receipts"]:
            raise _altered(line.seq)
        field = body["field"]
        if _among(guard, table, field, key, receipts, line.seq):
            run, rule, technique = body["run"], body["rule"], body["technique"]
            found.append(Receipt(table.fullname, field, run, rule, technique, line.at, line.seq))
    return found


def _among(guard: Guard, table: Table, field: str | None, key: Sequence[Any], receipts: bytes, line: int) -> bool:
    """Whether the receipts of a batch have one of this row. Integers too had hashes once."""
    if len(receipts) % _SIZE == 0:
        wanted = _hashes(guard, table, field, [key])
        return any(receipts.startswith(wanted, at) for at in range(0, len(receipts), _SIZE))
    key_of_list = _key(guard, table, field)
    try:
        numbers = key_of_list.open(key_of_list.header + receipts)
    except SealedError:
        pass  # raised below instead, so that no context is chained
    else:
        asked = str(key[0])
        return any(str(number) == asked for (number,) in struct.iter_unpack("<q", numbers))
    raise LedgerError(
        f"The receipts of line {line} do not open.",
        "They are what the run left, and were sealed under another keyring.",
        "Open them with the keyring of the service.",
    )


def _batches(connection: Connection, guard: Guard, table: Table) -> Iterator[tuple[Any, dict[str, Any], bytes]]:
    """The lines of this table's batches that have receipts, each with its body and with them."""
    ledger, kept = guard.own_table(LEDGER), guard.own_table(RECEIPT)
    query: Select[Any] = select(ledger.c.seq, ledger.c.at, ledger.c.body, kept.c.receipts)
    query = query.outerjoin(kept, kept.c.line == ledger.c.seq).where(ledger.c.kind == "batch").order_by(ledger.c.seq)
    with connection.execution_options(yield_per=20).execute(query) as lines:
        for line in lines:
            body = json.loads(line.body)
            if body["table"] == table.fullname and "receipts" in body:
                yield line, body, bytes(line.receipts or b"")


def _altered(line: int) -> LedgerError:
    return LedgerError(
        f"The receipts of line {line} are not those of which the ledger tells.",
        "They were changed or lost outside privkit, so they prove nothing.",
        "Restore privkit_receipt from a backup, and see who can write to it.",
    )

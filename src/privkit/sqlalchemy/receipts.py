"""Receipts: for each row and value that a run destroys, 16 bytes that say so, under the ledger's line of its batch.

Where the policy says ``runs: {receipts: true}``. A receipt is a keyed hash of the table, the field and the primary key:
with the keyring one can show that a certain row was destroyed, when and by which rule; without it nobody learns which
rows there were. Those of one batch lie in one row, sorted, and the line has their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Delete, Select, Table, Update, insert, select

from privkit.crypto.envelope import length_prefixed
from privkit.errors import LedgerError
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.references import key_columns
from privkit.sqlalchemy.tables import LEDGER, RECEIPT

Keys = list[Sequence[Any]]
"""The primary keys of rows that were destroyed, as a statement returned them."""

_SIZE = 16


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
    found = connection.execute(statement.returning(*key_columns(table))).all()
    gone += found
    return len(found)


def make(guard: Guard, table: Table, field: str | None, keys: Sequence[Sequence[Any]]) -> bytes:
    """Return the receipts of some rows of ``table``, or of their values of ``field``, sorted: 16 bytes each."""
    keyed = hashlib.blake2b(
        length_prefixed(table.fullname.encode(), (field or "").encode()),
        key=guard.keyring.secret("receipts"),
        digest_size=_SIZE,
    )
    return b"".join(sorted(_of_key(keyed, key) for key in keys))


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

    Raises LedgerError where receipts are not those of which the ledger tells.
    """
    ours, found = dict[str | None, bytes](), []
    for line, body, receipts in _batches(connection, guard, table):
        if digest(receipts) != body["receipts"]:
            raise _altered(line.seq)
        field = body["field"]
        wanted = ours.setdefault(field, make(guard, table, field, [key]))
        if any(receipts.startswith(wanted, at) for at in range(0, len(receipts), _SIZE)):
            run, rule, technique = body["run"], body["rule"], body["technique"]
            found.append(Receipt(table.fullname, field, run, rule, technique, line.at, line.seq))
    return found


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

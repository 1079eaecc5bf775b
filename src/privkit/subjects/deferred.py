"""Erasures that wait for a hold to end: the ledger has a line for each, so they outlive a restore as well."""

from __future__ import annotations

import json

from sqlalchemy import Connection, select

from privkit.sqlalchemy import ledger
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.tables import LEDGER

_KINDS = ("erasure_deferred", "erased", "resealed")


def waiting(connection: Connection, guard: Guard) -> dict[bytes, str]:
    """Return the key ids of the data subjects whose erasure waits, each with the token of who asked for it."""
    line, found = guard.own_table(LEDGER), dict[str, str]()
    query = select(line.c.kind, line.c.body).where(line.c.kind.in_(_KINDS)).order_by(line.c.seq)
    for kind, text in connection.execute(query):
        body = json.loads(text)
        if kind == "erasure_deferred":
            found.setdefault(body["subject"], body["by"])
        elif kind == "erased":
            found.pop(body["subject"], None)
        elif "key" in body and body["subject"] in found:  # it lives on under a fresh key
            found[body["key"]] = found.pop(body["subject"])
    return {bytes.fromhex(subject): who for subject, who in found.items()}


def defer(connection: Connection, guard: Guard, key_id: bytes, who: str) -> None:
    """Note that an erasure waits. Once is enough."""
    if key_id not in waiting(connection, guard):
        ledger.append(connection, guard, "erasure_deferred", {"subject": key_id.hex(), "by": who})

"""What the gates ask the database before a write: whose a row is, and whether a guardian consented."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Table, true, tuple_

from privkit import purposes
from privkit.consent.age import cautious_today
from privkit.errors import ConsentRequired
from privkit.sqlalchemy import children, keystore
from privkit.sqlalchemy.guard import Guard


def read(connection: Connection, query: Any, parameters: Mapping[str, Any] | None = None) -> list[Any]:
    """Look up whom a row is about: privkit's own question, which no purpose narrows."""
    with purposes.internally():
        return list(connection.execute(query, parameters or {}).all())


def consented_at(guard: Guard, table: Table, at: Any) -> Any:
    """Return SQL that is true when the data subject is of age, or a guardian consented to the purpose in force.

    Without a purpose a personal field is written only where the policy observes, and there is no consent to that.
    """
    scope = purposes.current()
    today = cautious_today(guard.now())
    names = scope.names if scope is not None else None
    if names is None and not guard.observations.tables:
        return true()
    condition = children.with_consent(guard, table, at, names, lambda: today)
    return true() if condition is None else condition


def no_consent(table: Table) -> ConsentRequired:
    """Build the error for a child's row without consent."""
    return ConsentRequired(
        f"A row of {table.name} is about a child, or somebody who may be one, without consent for this purpose.",
        "Nothing of a child is stored without a parent's consent.",
        "Record it first: privacy.consent.grant(session, subject=..., purposes={...}, guardian=..., method=...).",
        table=table.name,
    )


def among(columns: list[Any], values: list[tuple[Any, ...]]) -> Any:
    """Return SQL that is true where these columns together hold one of ``values``."""
    return columns[0].in_([value for (value,) in values]) if len(columns) == 1 else tuple_(*columns).in_(values)


def chunks(items: list[Any]) -> Iterator[list[Any]]:
    """Yield ``items`` in lists that fit into one IN."""
    for start in range(0, len(items), keystore.CHUNK):
        yield items[start : start + keystore.CHUNK]

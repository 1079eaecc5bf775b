"""What the gates ask the database before a write: whose a row is, and whether a guardian consented."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Table, false, literal_column, select, tuple_, update

from privkit import purposes
from privkit.consent.age import cautious_today
from privkit.errors import ConsentRequired
from privkit.sqlalchemy import children, keystore
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.ownership import hop
from privkit.sqlalchemy.tables import KEY


def read(connection: Connection, query: Any, parameters: Mapping[str, Any] | None = None) -> list[Any]:
    """Look up whom a row is about: privkit's own question, which no purpose narrows."""
    with purposes.internally():
        return list(connection.execute(query, parameters or {}).all())


def footing_at(guard: Guard, table: Table, at: Any) -> Any:
    """Return SQL for what the purpose in force may write a row on, as ``children.footing`` says it.

    Without a purpose a personal field is written only where the policy observes, and there is no consent to that.
    """
    scope = purposes.current()
    today = cautious_today(guard.now())
    names = scope.names if scope is not None else None
    nobody_asks: Any = literal_column(str(children.OF_AGE))
    if names is None and not guard.observations.tables:
        return nobody_asks
    found = children.footing(guard, table, at, names, lambda: today)
    return nobody_asks if found is None else found


def hold_consent(connection: Connection, guard: Guard, table: Table, ids: Collection[bytes]) -> None:
    """Have consent that a write rests on stand until its transaction ends; ``ids`` of the keys of data subjects.

    Since it was looked up somebody may have withdrawn it. Whoever does so changes the key's row: that is locked first,
    and consent is looked up again. A transaction whose snapshot is older than the withdrawal fails at the lock.
    """
    if not ids:
        return
    asked, keys = table, guard.own_table(KEY)
    while (step := hop(guard, table)) is not None:
        table = step.target
    if connection.dialect.name == "sqlite":  # it has one writer at a time, and this makes it this one
        with purposes.internally():
            connection.execute(update(keys).where(false()).values(created_at=keys.c.created_at))
    subject = table.c[KEY_COLUMN]
    neither = footing_at(guard, table, table) == children.NEITHER
    for chunk in chunks(sorted(ids)):
        read(connection, select(keys.c.id).where(keys.c.id.in_(chunk)).order_by(keys.c.id).with_for_update(read=True))
        if read(connection, select(subject).where(subject.in_(chunk), neither).limit(1)):
            raise no_consent(asked)


def no_consent(table: Table) -> ConsentRequired:
    """Build the error for a child's row without consent."""
    return ConsentRequired(
        f"A row of {table.name} is about a child, or somebody who may be one, without consent for this purpose.",
        "Nothing of a child is stored without a parent's consent, nor on one that ended when the child came of age.",
        "Record it first: privacy.consent.grant(session, subject=..., purposes={...}, guardian=..., method=...).\n"
        "Somebody who has come of age is the own guardian: guardian=subject.",
        table=table.name,
    )


def among(columns: list[Any], values: list[tuple[Any, ...]]) -> Any:
    """Return SQL that is true where these columns together hold one of ``values``."""
    return columns[0].in_([value for (value,) in values]) if len(columns) == 1 else tuple_(*columns).in_(values)


def chunks(items: list[Any]) -> Iterator[list[Any]]:
    """Yield ``items`` in lists that fit into one IN."""
    for start in range(0, len(items), keystore.CHUNK):
        yield items[start : start + keystore.CHUNK]

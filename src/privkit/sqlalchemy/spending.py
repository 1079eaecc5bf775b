"""A budget of noisy places that all processes of a service share: what was spent stands in ``privkit_spending``.

A row is a keyed token of a data subject, another of what was shown, what that cost and until when it counts: no place
and no name. Rows are gone when their period is over, at the data subject's next report or with the next run, and when
the data subject is erased, if its key id was the ``subject``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Protocol

from sqlalchemy import BigInteger, Connection, Engine, and_, false, func, insert, literal, or_, select, update

from privkit.clock import as_utc
from privkit.deidentify.keyed import drawn
from privkit.location.budget import Budget
from privkit.purposes import internally
from privkit.sqlalchemy import destroy
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.keystore import CHUNK
from privkit.sqlalchemy.tables import SPENDING


class Guarding(Protocol):
    """What has a guard: a ``Privacy``."""

    @property
    def guard(self) -> Guard:
        """Its rules, keys and tables."""


class SpendingInDatabase:
    """A ``privkit.location.Spending`` in the database of a protected engine.

    ``name``: of the budget; two budgets of one data subject are two. Give as ``subject`` the data subject's key id in
    hexadecimal, and an erasure forgets what was spent; for another text, call ``forget``.
    """

    def __init__(self, privacy: Guarding, engine: Engine, name: str) -> None:
        self._guard, self._engine, self._name = privacy.guard, engine, name

    def spend(self, subject: str, report: bytes, cost: float, budget: Budget, now: datetime) -> bool:
        """Return whether ``report`` may be made at ``now``, and remember it if so, both in one transaction.

        Transactions of one data subject wait for each other. Raises what the database raises, and then nothing may be
        shown.
        """
        now, guard = as_utc(now), self._guard
        table, who = guard.own_table(SPENDING), _token(guard, subject)
        this = _token(guard, self._name, subject, report.hex())
        with internally(), self._engine.connect() as connection:
            _wait(connection, guard, who)
            theirs, ours = table.c.subject == who, table.c.budget == self._name
            past = or_(table.c.until <= now, and_(ours, table.c.made_at <= now - budget.period))
            ended = connection.execute(select(table.c.id).where(theirs, past)).scalars().all()
            destroy.take_off(connection, guard, SPENDING, ended)
            rows = connection.execute(select(table.c.id, table.c.cost).where(theirs, ours)).all()
            made = {bytes(found): spent for found, spent in rows}
            allowed = this in made or budget.allows(made.values(), cost)
            if allowed and this not in made:
                until = now + budget.period
                row = {"id": this, "subject": who, "budget": self._name, "cost": cost, "made_at": now, "until": until}
                connection.execute(insert(table), row)
            connection.commit()
        return allowed

    def forget(self, subject: str) -> None:
        """Destroy what is remembered of a data subject."""
        with internally(), self._engine.begin() as connection:
            forget(connection, self._guard, [subject])

    def __repr__(self) -> str:
        return f"SpendingInDatabase({self._name!r})"


def forget(connection: Connection, guard: Guard, subjects: Iterable[str]) -> None:
    """Destroy what is remembered of data subjects."""
    table, whose = guard.own_table(SPENDING), [_token(guard, subject) for subject in subjects]
    found = connection.execute(select(table.c.id).where(table.c.subject.in_(whose))).scalars().all()
    destroy.take_off(connection, guard, SPENDING, found)


def drop_ended(connection: Connection, guard: Guard) -> int:
    """Destroy some of the rows that count no more. Returns how many: until it is 0, there may be others."""
    table = guard.own_table(SPENDING)
    query = select(table.c.id).where(table.c.until <= guard.now()).limit(CHUNK)
    ended = connection.execute(query).scalars().all()
    return len(destroy.take_off(connection, guard, SPENDING, ended))


def _token(guard: Guard, *names: str) -> bytes:
    return drawn(guard.keyring.secret("spending"), "spending", *names)[:16]


def _wait(connection: Connection, guard: Guard, who: bytes) -> None:
    """Wait for other transactions of the data subject, and see what they have written."""
    if connection.dialect.name == "postgresql":
        connection.execution_options(isolation_level="READ COMMITTED")  # a snapshot would be from before the wait
        number = int.from_bytes(who[:8], "big", signed=True)
        connection.execute(select(func.pg_advisory_xact_lock(literal(number, BigInteger()))))
    else:  # SQLite has one writer: an UPDATE makes this transaction the one
        table = guard.own_table(SPENDING)
        connection.execute(update(table).where(false()).values(cost=table.c.cost))

"""Counts what purposes let through and what they do not, and lets the latter through where the policy observes.

``enforcement: observe`` is how a running service takes the library up. What a statement may lack there is in ``Lack``,
and nothing else: sealing, keys, owners, consent, expiry and prohibited purposes hold as they do under ``enforce``. The
counts are kept in memory and written to ``privkit_observation`` when a connection is opened and the last time is
``INTERVAL`` ago, at the end of the process (not under asyncio), and by ``privacy.flush_observations(engine)``. A
process that is killed loses what it had not written.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from enum import Enum
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, Engine, StaticPool, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from privkit import clock
from privkit.catalog import Field
from privkit.errors import PrivkitError
from privkit.markers import Exact
from privkit.purposes import Access, Scope, internally
from privkit.sqlalchemy.places import place
from privkit.sqlalchemy.tables import OBSERVATION, OBSERVED_NAMES

if TYPE_CHECKING:
    from privkit.sqlalchemy.facts import Facts
    from privkit.sqlalchemy.guard import Guard

INTERVAL = 60.0
"""Seconds between two times that an engine's counts are written."""

WAIT, WAIT_AT_EXIT = 50, 5000
"""Milliseconds that the application waits for another's lock on the counts, before they are left for later."""

LIMIT = 2000
"""How many different counts are kept in memory; what comes after them is counted without its place."""

COMPLIANT, VIOLATION, GAP, REFUSED = "compliant", "violation", "gap", "refused"


class Lack(Enum):
    """What a use may lack where the policy observes: the error it would be, how it counts, and what it means."""

    PURPOSE = ("PurposeError", GAP, "no purpose is in force")
    NEED = ("PurposeError", VIOLATION, "the purpose does not need the field")
    EXACTNESS = ("PurposeError", VIOLATION, "the field is compared, and the purpose may see it only less exactly")
    LIFETIME = ("StatementRefused", GAP, "an unsealed field is sorted or computed with, whether or not it has expired")
    PLACE = ("StatementRefused", GAP, "a union returns an unsealed field and something else in one place")
    CRITERIA = ("StatementRefused", GAP, "the criteria that hide expired rows are missing, and no child's row is there")
    TEXT = ("StatementRefused", GAP, "SQL text cannot be checked, and nothing sealed or of children is named in it")

    @property
    def outcome(self) -> str:
        """``violation`` where the purpose says no, ``gap`` where nobody can say."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Observation:
    """One line of what was counted. ``field`` is a field's id, ``table.*``, or ``*`` where it is not known.

    ``outcome``: compliant, violation, gap, or refused (under ``enforce``). ``place`` is the application's
    ``module:function:line``; empty for what is compliant.
    """

    outcome: str
    field: str
    purpose: str
    place: str
    count: int
    first: date
    last: date


_Key = tuple[date | None, str, str, str, str]


class Observations:
    """What one process has counted and not written yet, and what the policy observes.

    ``fields``: how each field of a table in ``observe`` is seen where the purpose does not need it.
    """

    def __init__(self) -> None:
        self.tables: frozenset[Table] = frozenset()
        self.fields: Mapping[str, Access] = {}
        self.interval = INTERVAL
        self._begun = clock.monotonic()
        self._due: WeakKeyDictionary[Dialect, float] = WeakKeyDictionary()
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a process does that was forked: its parent writes what was counted before."""
        self._lock = Lock()
        self._compliant: dict[tuple[Facts | str, Scope | None], int] = {}
        self._counts: dict[_Key, int] = {}

    def decide(self, guard: Guard) -> None:
        """Take over what the policy says of the guard's tables."""
        said = {each: guard.policy.enforcement_of(each.fullname) for each in guard.tables}
        self.tables = frozenset(each for each, mode in said.items() if mode == "observe")
        fields = {}
        for each in guard.classes.values():
            for name, field in each.model.fields.items():
                if each.mapper.columns[name].table in self.tables:
                    keeps = tuple(term.purpose.keep for term in guard.rules[field.id].terms)
                    fields[field.id] = Access(Exact(), (keeps,))
        self.fields = fields

    def access(self, field_id: str, scope: Scope | None) -> Access | None:
        """Return how a field's values are to be handled: as ``scope`` says, or as observed; None: not at all."""
        return (scope.access(field_id) if scope is not None else None) or self.fields.get(field_id)

    def stays(self, field_id: str, ended: Scope) -> bool:
        """Whether a loaded value stays when a purpose ends: it is observed, and was not reduced."""
        access = ended.access(field_id)
        return field_id in self.fields and (access is None or access.exact)

    def comply(self, touched: Facts | str, scope: Scope | None) -> None:
        """Count a statement, or one field's id, that the purpose allows. Only where something is observed."""
        if not self.fields:
            return
        key = (touched, scope)
        with self._lock:
            self._compliant[key] = self._compliant.get(key, 0) + 1
            if len(self._compliant) > LIMIT:
                self._settle()

    def count(self, day: date, outcome: str, field_id: str, scope: Scope | None) -> None:
        """Count what is not compliant, with the place in the application."""
        key = (day, outcome, field_id, _purpose(scope), place())
        with self._lock:
            self._add(key, 1)

    def __bool__(self) -> bool:
        """Whether anything was counted that is not written yet."""
        return bool(self._counts or self._compliant)

    def take(self) -> dict[_Key, int]:
        """Hand out all counts, and begin anew. A day that is None is the one on which they are written."""
        with self._lock:
            self._settle()
            taken, self._counts = self._counts, {}
        return taken

    def put_back(self, taken: Mapping[_Key, int]) -> None:
        """Count again what could not be written."""
        with self._lock:
            for key, count in taken.items():
                self._add(key, count)

    def due(self, dialect: Dialect) -> bool:
        """Whether an engine's turn to write has come; the next one is ``interval`` later."""
        now = clock.monotonic()
        if not self or now - self._due.get(dialect, self._begun) < self.interval:
            return False
        self._due[dialect] = now
        return True

    def _settle(self) -> None:
        counted, self._compliant = self._compliant, {}
        for (touched, scope), count in counted.items():
            ids = [touched] if isinstance(touched, str) else {**touched.selected, **touched.used}
            for field_id in self.fields.keys() & ids:
                self._add((None, COMPLIANT, field_id, _purpose(scope), ""), count)

    def _add(self, key: _Key, count: int) -> None:
        if key not in self._counts and len(self._counts) >= LIMIT:
            key = (*key[:4], "")
        self._counts[key] = self._counts.get(key, 0) + count


def _purpose(scope: Scope | None) -> str:
    return " and ".join(scope.names) if scope is not None else ""


def refuse(guard: Guard, lack: Lack, error: PrivkitError, scope: Scope | None, field: Field) -> None:
    """Raise ``error`` and count the refusal; or, where the field's table is in ``observe``, count and return."""
    refuse_all(guard, lack, error, scope, [field.id], passes=field.id in guard.observations.fields)


def refuse_all(
    guard: Guard, lack: Lack, error: PrivkitError, scope: Scope | None, names: Iterable[str], *, passes: bool
) -> None:
    """Do so for several fields' ids, or tables as ``table.*``; ``passes``: all of them are in ``observe``."""
    today = guard.now().date()
    for name in names:
        guard.observations.count(today, lack.outcome if passes else REFUSED, name, scope)
    if not passes:
        raise error


def lacks(scope: Scope | None) -> Lack:
    """Return what is lacking where a field is not needed."""
    return Lack.PURPOSE if scope is None else Lack.NEED


# Writing and reading.


def flush(guard: Guard, connection: Connection, *, wait: int | None = None) -> int:
    """Add this process's counts to ``privkit_observation``, in a transaction of its own; return how many lines.

    ``wait``: for another's lock, in milliseconds; None: as long as the connection does. Raises what the driver raises
    where they cannot be written; they are kept then.
    """
    taken = guard.observations.take()
    if not taken:
        return 0
    try:
        rows = _rows(taken, guard.now().date())
        with internally(), connection.begin(), _waiting(connection, wait):
            connection.execute(_adding(guard.own_table(OBSERVATION), connection.dialect), rows)
    except BaseException:
        guard.observations.put_back(taken)
        raise
    return len(rows)


def _rows(taken: Mapping[_Key, int], today: date) -> list[dict[str, Any]]:
    """The rows in one order in every process, so that two of them never wait for each other."""
    found: dict[tuple[Any, ...], int] = {}
    lengths = OBSERVED_NAMES.values()
    for (day, *names), count in taken.items():
        key = (day or today, *(name[:length] for name, length in zip(names, lengths, strict=True)))
        found[key] = found.get(key, 0) + count
    columns = ("day", *OBSERVED_NAMES, "count")
    return [dict(zip(columns, (*key, count), strict=True)) for key, count in sorted(found.items())]


def _adding(table: Table, dialect: Dialect) -> Any:
    made = (postgresql if dialect.name == "postgresql" else sqlite).insert(table)
    more = {"count": table.c.count + made.excluded.count}
    return made.on_conflict_do_update(index_elements=list(table.primary_key), set_=more)


@contextmanager
def _waiting(connection: Connection, wait: int | None) -> Iterator[None]:
    if wait is None:
        yield
    elif connection.dialect.name == "sqlite":
        before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one()
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {wait}")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")
    else:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{wait}ms'")
        yield


def engine_connect(connection: Connection, guard: Guard) -> None:
    """Write the counts where it is time, before the application begins to use the connection."""
    if guard.observations.due(connection.dialect) and _idle(connection):
        with suppress(SQLAlchemyError):  # no table yet, a replica, a lock: the counts are kept
            flush(guard, connection, wait=WAIT)


def _idle(connection: Connection) -> bool:
    """Whether no transaction is open that a commit here would end: some pools hand one connection out twice."""
    if connection.dialect.name == "sqlite":
        return not connection.connection.driver_connection.in_transaction  # type: ignore[union-attr]
    return not isinstance(connection.engine.pool, StaticPool)


def read(connection: Connection, guard: Guard, since: date = date.min) -> list[Observation]:
    """Return what all processes have written of a day and those after it, by outcome, field, purpose and place."""
    table = guard.own_table(OBSERVATION)
    names = [table.c[name] for name in OBSERVED_NAMES]
    days = (func.min(table.c.day).label("first"), func.max(table.c.day).label("last"))
    totals = (func.sum(table.c.count).label("count"), *days)
    with internally():
        rows = connection.execute(
            select(*names, *totals).where(table.c.day >= since).group_by(*names).order_by(*names)
        ).all()
    return [Observation(**{**row._mapping, "count": int(row._mapping["count"])}) for row in rows]


_engines: WeakKeyDictionary[Engine, Guard] = WeakKeyDictionary()


def remember(guard: Guard, engine: Engine) -> None:
    """Write the last counts of an engine at the end of the process."""
    _engines[engine] = guard


def _at_exit() -> None:
    for engine, guard in list(_engines.items()):
        if engine.dialect.is_async or not guard.observations:  # there is no event loop any more
            continue
        with suppress(Exception), engine.connect() as connection:
            connection.detach()  # nobody would close it in the pool
            flush(guard, connection, wait=WAIT_AT_EXIT)


def _after_fork() -> None:
    for guard in list(_engines.values()):
        guard.observations.forget()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

"""The read gate: every statement's fields against the purpose, every result page's keys in one query."""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import DDL, Connection
from sqlalchemy.engine import cursor as cursors
from sqlalchemy.sql.compiler import SQLCompiler

from privkit import purposes
from privkit.crypto import HEADER_SIZE
from privkit.crypto.envelope import EPOCH_SIZE, KEY_ID_SIZE
from privkit.errors import StatementRefused
from privkit.sqlalchemy import aggregates, criteria, epochs, keystore, observations, sqltext, tables, textual, views
from privkit.sqlalchemy.attributes import not_exact, not_needed
from privkit.sqlalchemy.facts import Facts, facts_of, sealed_at
from privkit.sqlalchemy.guard import OWN_ALIAS, Guard
from privkit.sqlalchemy.observations import Lack
from privkit.sqlalchemy.search import search_refused


def before_cursor_execute(guard: Guard, connection: Connection, statement: str, context: Any) -> None:
    """Hold a statement to the current purpose. Raises PurposeError or StatementRefused before it is sent."""
    scope = purposes.current()
    if scope is not None and scope.internal:
        return
    if context is not None and context.isddl:
        views.changing(connection)
        if _touches_rows(statement, context.compiled):
            textual.check(guard, connection, statement, scope)
        return
    compiled = context.compiled if context is not None else None
    if not isinstance(compiled, SQLCompiler):
        textual.check(guard, connection, statement, scope)
        return
    facts = facts_of(compiled)
    aggregates.check(guard, compiled, facts, scope)
    if facts.disguised:
        raise _disguised()
    strangers = [each for each in facts.tables if each not in guard.tables and not tables.is_own(each)]
    if facts.textual or any(guard.resembles(table) for table in strangers):
        textual.check(guard, connection, statement, scope)
    elif strangers or facts.functions:
        names = facts.functions.union(table.name for table in strangers)
        writes = compiled.isinsert or compiled.isupdate
        textual.check_names(guard, connection, statement, scope, names, writes=writes)
    if facts.personal:
        check(guard, facts, scope)
    if facts.searches:
        keystore.verify_keyring(connection, guard)
    returns = bool(facts.selected) if compiled.isupdate or compiled.isdelete else not compiled.isinsert
    if returns and not facts.textual:
        _check_rows(guard, compiled, statement, scope)


def _disguised() -> StatementRefused:
    return StatementRefused(
        f"An alias begins with {OWN_ALIAS!r}.",
        "Aliases of that name are privkit's own, and its criteria for hidden rows do not count them.",
        "Give the alias another name.",
    )


_STRUCTURE = re.compile(r"\s*(?:create|alter|drop|comment|grant|revoke)\b", re.IGNORECASE)
_ABOUT_ROWS = re.compile(
    r"[\s\ufeff]*(?:--[^\r\n]*[\r\n]\s*|/\*.*?\*/\s*|\*/\s*|\()*"
    r"(?:select|with|values|table|insert|update|delete|replace|merge|copy|explain|call|do|execute|refresh|declare"
    r"|fetch|prepare)\b",
    re.IGNORECASE | re.DOTALL,
)
_RENAMES = re.compile(r"\balter\b.*\b(?:table|index)\b.*\brename\s+to\b", re.IGNORECASE | re.DOTALL)


def _touches_rows(statement: str, compiled: Any) -> bool:
    """Whether DDL reads, changes or copies rows, or takes a table's name away: DDL("...") takes any text."""
    first, *others = statement.split(";")
    if not _STRUCTURE.match(first) or any(map(_ABOUT_ROWS.match, others)):
        return True
    if isinstance(compiled.statement, DDL) and _RENAMES.search(statement):
        return True
    return sqltext.copies(statement, compiled.dialect.name)


def check(guard: Guard, facts: Facts, scope: purposes.Scope | None) -> None:
    """Raise PurposeError for the first field of a statement that ``scope`` does not allow as it is touched."""
    _check_fields(guard, facts, scope)
    if facts.mixed is not None:
        error = StatementRefused(
            f"A union returns {facts.mixed} in one arm and something else in another, in the same place.",
            "Its values would be returned unopened, or more exactly than the purpose may see them.",
            "Return the same fields in the same places of every arm, or run two statements.",
            field=facts.mixed.id,
        )
        if any(guard.rule(field).sealed for field in (facts.mixed, *facts.selected.values())):
            raise error
        observations.refuse(guard, Lack.PLACE, error, scope, facts.mixed)
    for field in facts.uncovered.values():
        if guard.rule(field).sealed:
            raise search_refused(field, "sorting or computing")
        if any(guard.rule(field).keeps) or guard.rule(field).child_off:
            error = StatementRefused(
                f"{field} is sorted or computed with, where its expiry cannot be applied.",
                "A value whose lifetime has ended would still decide the result.",
                f"Wrap it: privacy.live(Model.{field.name}) is NULL once the field has expired.",
                field=field.id,
            )
            observations.refuse(guard, Lack.LIFETIME, error, scope, field)


def _check_fields(guard: Guard, facts: Facts, scope: purposes.Scope | None) -> None:
    lacking = set()
    for field in (*facts.selected.values(), *facts.used.values()):
        access = scope.access(field.id) if scope is not None else None
        if field.id in lacking:
            continue
        if scope is None or access is None:
            observations.refuse(guard, observations.lacks(scope), not_needed(field, scope), scope, field)
        elif field.id in facts.used and not access.exact:
            observations.refuse(guard, Lack.EXACTNESS, not_exact(field, scope), scope, field)
        else:
            continue
        lacking.add(field.id)
    if not lacking:
        guard.observations.comply(facts, scope)
        return
    for field_id in {**facts.selected, **facts.used}.keys() - lacking:
        guard.observations.comply(field_id, scope)


def _check_rows(guard: Guard, compiled: SQLCompiler, statement: str, scope: purposes.Scope | None) -> None:
    """Every place where a table with hidden rows stands in the statement must have its criteria beside it."""
    for table in criteria.criteria_for(guard, scope).tables & criteria.bare_tables(guard, compiled, statement):
        error = StatementRefused(
            f"{table.name} has rows that this statement must not see, and it arrived without the criteria.",
            "Expired rows, or those of children without consent, would be selected.",
            "Run it with session.execute(select(Model)); replace any()/has() by a join or in_(select(...)).",
            table=table.name,
        )
        passes = criteria.may_lack(guard, scope, {table})
        observations.refuse_all(guard, Lack.CRITERIA, error, scope, [f"{table.name}.*"], passes=passes)


def after_cursor_execute(guard: Guard, connection: Connection, cursor: Any, context: Any, executemany: bool) -> None:
    """Load, in one query, all keys that a page of sealed values needs, before any of them is opened."""
    compiled = context.compiled if context is not None else None
    if executemany or cursor.description is None or not isinstance(compiled, SQLCompiler):
        return
    places = sealed_at(compiled)
    if not places:
        return
    keys = _Keys(guard, connection, places)
    context.privkit_keys = keys  # as long as the result lives, its keys stay findable
    if context.execution_options.get("stream_results"):
        inner = cursors.BufferedRowCursorFetchStrategy(cursor, context.execution_options)
        context.cursor_fetch_strategy = StreamedRows(inner, keys)
        return
    rows = cursor.fetchall()
    keys.load(rows)
    context.cursor_fetch_strategy = cursors.FullyBufferedCursorFetchStrategy(cursor, initial_buffer=rows)


_NO_EPOCH = bytes(EPOCH_SIZE)


class _Keys:
    """The keys of a result's pages."""

    def __init__(self, guard: Guard, connection: Connection, places: tuple[tuple[int, str], ...]) -> None:
        self._guard, self._connection = guard, connection
        self._columns = [(itemgetter(position), field_id) for position, field_id in places]
        self._held: list[Any] = []

    def load(self, rows: Sequence[Sequence[Any]]) -> None:
        """Load what a page needs and let go of the page before it."""
        self._guard.keys.drop_expired()
        headers: set[bytes] = set()
        held: list[Any] = []
        for column, field_id in self._columns:
            found = _headers(list(map(column, rows)))
            in_epochs = {header for header in found if not header.endswith(_NO_EPOCH)}
            if in_epochs:
                held += self._load_epochs(field_id, in_epochs)
                found = {header[:-EPOCH_SIZE] + _NO_EPOCH for header in found}
            headers |= found
        held += self._load_keys(headers)
        self._held = [self._held[-1:], held]

    def _load_keys(self, headers: set[bytes]) -> list[Any]:
        held: list[Any] = list(map(self._guard.keys.live.get, headers))
        if None in held:
            unknown = {header[2:18] for header, key in zip(headers, held, strict=True) if key is None}
            wanted = {key_id for key_id in unknown if len(key_id) == KEY_ID_SIZE}
            held += keystore.load(self._connection, self._guard, wanted)
        return held

    def _load_epochs(self, field_id: str, headers: set[bytes]) -> list[Any]:
        ends = {header[-EPOCH_SIZE:] for header in headers if len(header) == HEADER_SIZE}
        numbers = {int.from_bytes(end, "big") for end in ends}
        ids = (field_id, *self._guard.rules[field_id].field.marker.formerly)
        return list(epochs.load(self._connection, self._guard, dict.fromkeys(ids, numbers)))


def _headers(values: list[Any]) -> set[bytes]:
    """Return the distinct headers of a column's envelopes, in whatever form the driver gave them."""
    kinds = set(map(type, values))
    if kinds == {bytes}:
        return {value[:HEADER_SIZE] for value in values}
    return {bytes(value[:HEADER_SIZE]) for value in values if value is not None and not isinstance(value, str)}


class StreamedRows(cursors.CursorFetchStrategy):
    """Fetches as another strategy does, and loads each page's keys on the way."""

    __slots__ = ("_inner", "_keys")

    def __init__(self, inner: cursors.CursorFetchStrategy, keys: _Keys) -> None:
        self._inner, self._keys = inner, keys

    def soft_close(self, result: Any, dbapi_cursor: Any) -> None:
        self._inner.soft_close(result, dbapi_cursor)

    def hard_close(self, result: Any, dbapi_cursor: Any) -> None:
        self._inner.hard_close(result, dbapi_cursor)

    def yield_per(self, result: Any, dbapi_cursor: Any, num: int) -> None:
        self._inner.yield_per(result, dbapi_cursor, num)

    def fetchone(self, result: Any, dbapi_cursor: Any, hard_close: bool = False) -> Any:
        row = self._inner.fetchone(result, dbapi_cursor, hard_close)
        self._keys.load([row] if row is not None else [])
        return row

    def fetchmany(self, result: Any, dbapi_cursor: Any, size: int | None = None) -> Any:
        rows = self._inner.fetchmany(result, dbapi_cursor, size)
        self._keys.load(rows)
        return rows

    def fetchall(self, result: Any, dbapi_cursor: Any) -> Any:
        rows = self._inner.fetchall(result, dbapi_cursor)
        self._keys.load(rows)
        return rows

    def handle_exception(self, result: Any, dbapi_cursor: Any, err: BaseException) -> Any:
        self._inner.handle_exception(result, dbapi_cursor, err)

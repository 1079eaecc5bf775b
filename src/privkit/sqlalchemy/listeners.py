"""Puts the gates on an engine, and the session hook on all sessions; each listener is named after its event."""

from __future__ import annotations

import weakref
from typing import Any

from sqlalchemy import Connection, Engine, Select, Table, event, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.sql import visitors
from sqlalchemy.sql.lambdas import LambdaElement

from privkit import purposes
from privkit.errors import NotProtectedError, PrivkitError, StatementRefused
from privkit.sqlalchemy import (
    aggregates,
    attributes,
    criteria,
    defaults,
    epochs,
    ledger,
    observations,
    physical,
    read_gate,
    replicas,
    silence,
    upserts,
    views,
    write_forms,
    write_gate,
)
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.registry import executing, guard_of, register
from privkit.sqlalchemy.types import guarded_columns


def protect(guard: Guard, engine: Engine | AsyncEngine, max_lag: float | None = replicas.BOUND) -> None:
    """Hold every statement of ``engine`` to the rules of ``guard``. Doing it twice changes nothing but ``max_lag``."""
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    known = guard_of(sync.dialect)
    if known is not None and known is not guard:
        raise NotProtectedError(
            "The engine is protected by another Privacy.",
            "Its models would be left without protection.",
            "Make one Privacy for all models of an engine: Privacy(models=[Base, OtherBase]).",
        )
    replicas.bound(sync, max_lag)
    if known is guard:
        return
    register(sync.dialect, guard)
    sync.clear_compiled_cache()
    silence.quieten(sync)
    if sync.dialect.name == "postgresql":
        event.listen(sync, "connect", replicas.connect)
    event.listen(sync, "engine_connect", engine_connect)
    event.listen(sync, "before_execute", before_execute, retval=True)
    event.listen(sync, "after_execute", after_execute)
    event.listen(sync, "before_cursor_execute", before_cursor_execute)
    event.listen(sync, "after_cursor_execute", after_cursor_execute)
    event.listen(sync, "handle_error", handle_error)
    for end in ("commit", "commit_twophase", "rollback", "rollback_savepoint", "rollback_twophase"):
        event.listen(sync, end, epochs.forget_created)
        event.listen(sync, end, views.settled)
    if guard.outside is not None:
        event.listen(sync, "engine_connect", meet_outside)
        event.listen(sync, "commit", before_commit)
        event.listen(sync, "commit_twophase", before_commit)
        event.listen(sync, "rollback", ledger.forget)
        event.listen(sync, "rollback_twophase", after_rollback)
    event.listen(sync, "engine_connect", write_observations)
    observations.remember(guard, sync)


def engine_connect(connection: Connection) -> None:
    """An engine that ``execution_options`` made of this one logs for itself."""
    silence.quieten(connection.engine)
    physical.overwrite(connection)


def meet_outside(connection: Connection) -> None:
    """Compare the database with the copy of its ledger outside it, before anything is done there."""
    guard = guard_of(connection.dialect)
    assert guard is not None
    try:
        if not replicas.is_standby(connection):  # one follows its primary, which is compared
            ledger.engine_connect(connection, guard)
    except BaseException:
        connection.close()  # nobody else holds it
        raise


def write_observations(connection: Connection) -> None:
    """Write what was counted, from time to time."""
    guard = guard_of(connection.dialect)
    assert guard is not None
    observations.engine_connect(connection, guard)


def before_commit(connection: Connection, *transaction: Any) -> None:
    """Write the transaction's lines outside; where that fails, nothing is committed."""
    guard = guard_of(connection.dialect)
    assert guard is not None
    ledger.before_commit(connection, guard)


def after_rollback(connection: Connection, *transaction: Any) -> None:
    """Lines of a prepared transaction that is rolled back go nowhere."""
    ledger.forget(connection)


def before_execute(
    connection: Any, statement: Any, many: Any, one: Any, execution_options: Any
) -> tuple[Any, Any, Any]:
    """Seal what is written; add criteria to a Core SELECT that arrived without them."""
    try:
        return _prepared(connection, statement, many, one)
    except BaseException as error:
        statement = many = one = None
        silence.clean(error)
        raise


def _prepared(connection: Any, statement: Any, many: Any, one: Any) -> tuple[Any, Any, Any]:
    guard = guard_of(connection.dialect)
    assert guard is not None
    executing.set(guard)
    guard.keep_up()
    if isinstance(statement, LambdaElement):
        statement = statement._resolved
    statement = aggregates.before_execute(guard, connection, statement)
    if isinstance(statement, Select):
        return _core_select(guard, statement), many, one
    return write_gate.before_execute(guard, connection, statement, many, one)


def after_execute(connection: Any, statement: Any, many: Any, one: Any, execution_options: Any, result: Any) -> None:
    """See that an upsert met the rows that it was sealed for."""
    upserts.after_execute(connection, statement, result)


def _core_select(guard: Guard, statement: Select[Any]) -> Select[Any]:
    scope = purposes.current()
    if scope is not None and scope.internal:
        return statement
    if statement._propagate_attrs.get("compile_state_plugin") == "orm":
        return statement  # the gate refuses it, if rows are to be hidden: no session hook has seen it
    hidden = criteria.criteria_for(guard, scope).tables
    elements = list(visitors.iterate(statement)) if hidden else []
    if any(isinstance(each, criteria.Mark) for each in elements):
        return statement
    standing = {each for each in elements if isinstance(each, Table) and each in hidden}
    try:
        return criteria.visible(guard, statement) if standing else statement
    except StatementRefused:
        if not criteria.may_lack(guard, scope, standing):
            raise
        return statement  # the read gate counts it


def before_cursor_execute(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    """Hold the statement to the current purpose."""
    guard = guard_of(connection.dialect)
    assert guard is not None
    try:
        replicas.before_cursor_execute(guard, connection, context)
        read_gate.before_cursor_execute(guard, connection, statement, context)
    except BaseException as error:
        cursor.close()  # SQLAlchemy closes it only where the database refuses
        del parameters
        silence.clean(error)
        raise


def after_cursor_execute(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> None:
    """Load the keys of the page."""
    guard = guard_of(connection.dialect)
    assert guard is not None
    read_gate.after_cursor_execute(guard, connection, cursor, context, executemany)


def handle_error(context: Any) -> None:
    """Let privkit's errors through as they are, and take parameters and rows out of the others."""
    original, wrapped = context.original_exception, context.sqlalchemy_exception
    silence.clean(original)
    if isinstance(original, PrivkitError):
        raise original
    if isinstance(wrapped, DBAPIError) and context.connection is not None:
        silence.clean_driver_error(wrapped)
    elif wrapped is not None:
        wrapped.params = None


@event.listens_for(Session, "do_orm_execute")
def do_orm_execute(state: ORMExecuteState) -> None:
    """Keep hidden rows and fields out, and remember the session until the purpose ends."""
    guard = guard_of(state.session.get_bind(**state.bind_arguments).dialect)
    if guard is None:
        return
    if state.bind_mapper is not None and guard.protected(state.bind_mapper.class_) is not None:
        write_forms.check_names(state.bind_mapper, state.statement, state.parameters)
    criteria.do_orm_execute(guard, state)
    entry = purposes.active()
    if entry is not None:
        _remember(guard, entry, state.session)


@event.listens_for(Session, "after_flush")
def after_flush(session: Session, flush_context: Any) -> None:
    """What was stored in a purpose leaves with it, as what was loaded does; but new rows may yet be rolled back."""
    session.info.setdefault(_NEW, weakref.WeakSet()).update(map(inspect, session.new))
    guard = _guard_of_flushed(session)
    if guard is None:
        return
    for instance in session.new:
        each = guard.protected(type(instance))
        if each is not None:
            attributes.store_as_null(instance, each.model.fields)
    entry = purposes.active()
    if entry is not None:
        _remember(guard, entry, session)
        _expire_filled_in(guard, session)


def _guard_of_flushed(session: Session) -> Guard | None:
    """A session may take its engine from the class (``binds=``), so it is asked for what was flushed."""
    found = (guard_of(session.get_bind(inspect(each).mapper).dialect) for each in (*session.new, *session.dirty))
    return next((guard for guard in found if guard is not None), None)


def _expire_filled_in(guard: Guard, session: Session) -> None:
    """A field that ``onupdate`` changed is loaded again when it is touched."""
    for instance in session.dirty:
        each, mapper = guard.protected(type(instance)), inspect(type(instance))
        for table in mapper.tables if each is not None else ():
            for name in defaults.filled_in(table, guarded_columns(table)):
                attribute = inspect(instance).attrs[mapper.get_property_by_column(table.columns[name]).key]
                if not attribute.history.has_changes():
                    session.expire(instance, [attribute.key])


@event.listens_for(Session, "after_commit")
def after_commit(session: Session) -> None:
    """What new objects hold of a purpose that has ended leaves them, now that it is stored for good."""
    if not session.in_nested_transaction():
        session.info.pop(_NEW, None)
        for leave in session.info.pop(_LATER, ()):
            leave()


@event.listens_for(Session, "after_soft_rollback")
def after_soft_rollback(session: Session, previous: Any) -> None:
    """New objects are the application's again, with all their values."""
    if not session.in_nested_transaction():
        session.info.pop(_LATER, None)
        session.info.pop(_NEW, None)


_NEW, _LATER = "privkit_new", "privkit_later"
"""Where a session keeps the states of objects that it has stored and not committed, and what to do once it has."""


def _remember(guard: Guard, entry: purposes.Active, session: Session) -> None:
    held = weakref.ref(session)
    entry.at_exit(held, lambda: _forget(guard, entry.scope, held()))


def _forget(guard: Guard, ended: purposes.Scope, session: Session | None) -> None:
    """When a purpose ends, its personal attributes leave the objects it loaded; unsaved changes stay.

    What the block around it sees in the same way may stay too.
    """
    left = purposes.current()
    if left is not None and left.groups == ended.groups:
        return
    if session is None:
        return
    new = session.info.get(_NEW, ())
    if new:
        session.info.setdefault(_LATER, []).append(lambda: _forget(guard, ended, session))
    for instance in (each for each in list(session.identity_map.values()) if inspect(each) not in new):
        each = guard.protected(type(instance))
        state = inspect(instance)
        fields = each.model.fields if each is not None else {}
        leaving = [name for name, field in fields.items() if not guard.observations.stays(field.id, ended)]
        names = (*leaving, *criteria.computed(state.mapper)) if each is not None else ()
        loaded = [name for name in names if name in state.dict and not state.attrs[name].history.has_changes()]
        if loaded:
            session.expire(instance, loaded)

"""``Privacy``: the one object an application holds. Each method is one call of the room that does the work."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, TypeVar, cast

from sqlalchemy import ColumnElement, Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapper, registry

from privkit import catalog, coverage, policy, purposes, retention
from privkit.clock import Clock, system_clock
from privkit.coverage import Finding, Report
from privkit.crypto import Keyring
from privkit.errors import MappingError, NotProtectedError
from privkit.ledger import Verified
from privkit.markers import NotPersonal, Personal
from privkit.policy import Policy
from privkit.retention import Plan, Run
from privkit.retention.run import Progress
from privkit.sqlalchemy import Guard, holds, ledger, mapping, protect
from privkit.sqlalchemy.consents import ConsentLedger
from privkit.sqlalchemy.registry import guard_of
from privkit.sqlalchemy.states import FieldState, field_state
from privkit.sqlalchemy.visibility import live

_Callable = TypeVar("_Callable", bound=Callable[..., Any])


class Privacy:
    """A policy, the models it governs and the keys that seal them.

    ``policy``: a path or a ``Policy``. ``models``: a declarative base, a mapped class, a registry, or several.
    ``keys``: a keyring, read on first use. ``clock``: returns the current instant, aware.

    Raises PolicyError where the policy or the models have mistakes, all of them at once.
    """

    def __init__(
        self,
        policy: str | os.PathLike[str] | Policy,
        models: Any,
        keys: Keyring,
        clock: Clock = system_clock,
    ) -> None:
        self._models = list(models) if isinstance(models, list | tuple | set | frozenset) else [models]
        self._scopes: dict[tuple[int, tuple[str, ...]], purposes.Scope] = {}
        self.guard = Guard(_load(policy), lambda: _mappers(self._models), keys, clock)
        self.consent = ConsentLedger(self.guard)

    @property
    def policy(self) -> Policy:
        """The resolved policy."""
        return self.guard.policy

    def protect(self, engine: Engine | AsyncEngine) -> None:
        """Hold every statement of ``engine`` to the policy from now on.

        Raises NotProtectedError where another Privacy protects it already: two could not both be obeyed.
        """
        protect(self.guard, engine)

    def _ours(self, engine: Engine) -> None:
        """Protect an engine that an administrative call was given, unless it is protected."""
        if isinstance(engine, AsyncEngine):
            raise NotProtectedError(
                "A run works on a plain Engine.", "", "Give it create_engine(url) for the same database."
            )
        if guard_of(engine.dialect) is not self.guard:
            protect(self.guard, engine)

    def purpose(self, *names: str) -> PurposeBlock:
        """Work for a purpose: ``with privacy.purpose("pickup"):``, or as a decorator of a function or coroutine.

        With several names, a field needs to be needed by one of them, as in a sign-up form. Nested blocks
        never widen each other. Raises PolicyError for an unknown name, PurposeError for a prohibited one.
        """
        self._scope(names)
        return PurposeBlock(lambda: self._scope(names))

    def live(self, attribute: Any) -> ColumnElement[Any]:
        """Return an unsealed field as an expression that is NULL once it has expired, to sort or compute with.

        ``select(Rider).order_by(privacy.live(Rider.name))``. Raises SearchError for a sealed field.
        """
        return live(attribute)

    def annotate(self, model: type, **markers: Personal | NotPersonal) -> None:
        """Mark the fields of a model that cannot be edited. Raises MappingError for an unmapped class."""
        mapper = next((each for each in _mappers([model])), None)
        if mapper is None:
            raise MappingError(f"{model.__name__} is not a mapped class.", "", "Annotate a class that is mapped.")
        catalog.annotate(model, markers)
        mapping.install(mapper)
        if mapper not in set(_mappers(self._models)):
            self._models.append(model)
        self.guard.refresh()

    def state(self, row: Any, field: str) -> FieldState:
        """Say why a field of a loaded row reads as it does (set, never set, restricted, expired) and by which rule."""
        return field_state(self.guard, row, field)

    def plan(self, engine: Engine, *, at: datetime | None = None) -> Plan:
        """Return what is due at ``at`` (aware; default: now). Nothing is changed. Raises PlanError."""
        self._ours(engine)
        with engine.connect() as connection:
            return retention.make(self.guard, connection, at)

    def purge(self, engine: Engine, plan: Plan, *, batch: int = 1000, progress: Progress | None = None) -> Run:
        """Execute exactly ``plan``, ``batch`` rows a transaction. May be killed and run again. Raises PlanError."""
        self._ours(engine)
        return retention.purge(self.guard, engine, plan, batch=batch, progress=progress)

    def hold(
        self,
        engine: Engine,
        *,
        reason: str,
        by: str,
        subject: bytes | None = None,
        table: str | None = None,
        until: datetime | None = None,
    ) -> int:
        """Keep a data subject's rows, or a table's, from every run until released or ``until``. Returns its id."""
        self._ours(engine)
        with engine.begin() as connection:
            return holds.place(connection, self.guard, reason=reason, by=by, subject=subject, table=table, until=until)

    def release(self, engine: Engine, hold: int, *, by: str) -> None:
        """End a hold; what it deferred is due again at once."""
        self._ours(engine)
        with engine.begin() as connection:
            holds.release(connection, self.guard, hold, by=by)

    def verify_ledger(self, engine: Engine, *, expected: str | None = None) -> Verified:
        """Recompute the ledger's chain. ``expected``: a count and head noted earlier. Raises LedgerError."""
        self._ours(engine)
        with engine.connect() as connection:
            return ledger.verify(connection, self.guard, expected)

    def check(self, engine: Engine | None = None) -> list[Finding]:
        """Return the findings of the models, and of a live database when one is given, worst first."""
        return coverage.check(self.guard, engine)

    def report(self, engine: Engine | None = None) -> Report:
        """Return the coverage report: every table and column, the findings, the guide's questions."""
        return coverage.report(self.guard, engine)

    def _scope(self, names: tuple[str, ...]) -> purposes.Scope:
        self.guard.keep_up()
        key = (self.guard.version, names)
        if key not in self._scopes:
            self._scopes[key] = self.guard.scope(names)
        return self._scopes[key]


class PurposeBlock:
    """What ``privacy.purpose`` returns: a context manager that can be entered again, and a decorator."""

    def __init__(self, scope: Callable[[], purposes.Scope]) -> None:
        self._scope = scope

    def __enter__(self) -> purposes.Scope:
        frame = sys._getframe(1)
        suspendable = frame.f_code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR)
        return purposes.enter(self._scope(), self, frame if suspendable else None).scope

    def __exit__(self, *exc_info: object) -> None:
        purposes.leave(purposes.entered(self))

    def __call__(self, function: _Callable) -> _Callable:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise MappingError(
                f"{function.__qualname__} is a generator; a decorator could not close its purpose while it waits.",
                "Its caller would run under a purpose it never asked for.",
                "Open the purpose inside it: with privacy.purpose(...). While it is suspended none is in force.",
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                with PurposeBlock(self._scope):
                    return await function(*args, **kwargs)

            return cast(_Callable, call_async)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with PurposeBlock(self._scope):
                return function(*args, **kwargs)

        return cast(_Callable, call)


def _load(source: str | os.PathLike[str] | Policy) -> Policy:
    return policy.load(source)


def _mappers(models: Iterable[Any]) -> Iterator[Mapper[Any]]:
    """Yield the mappers of bases, registries and classes, as they are now."""
    seen: set[Mapper[Any]] = set()
    for model in models:
        held = model if isinstance(model, registry) else getattr(model, "registry", None)
        found = [model.__mapper__] if "__mapper__" in vars(model) else list(held.mappers) if held is not None else []
        for mapper in found:
            for each in mapper.self_and_descendants:
                if each not in seen:
                    seen.add(each)
                    yield each

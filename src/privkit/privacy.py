"""``Privacy``: the one object an application holds. Each method is one call of the room that does the work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from sqlalchemy import ColumnElement, Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapper, registry

from privkit import catalog, coverage, policy, purposes, retention, subjects
from privkit.clock import Clock, system_clock
from privkit.coverage import Finding, Report, RetentionText
from privkit.crypto import Keyring
from privkit.errors import MappingError, NotProtectedError
from privkit.ledger import OutsideLedger, Verified
from privkit.policy import Policy
from privkit.purpose_block import PurposeBlock
from privkit.retention import Limits, Plan, Run
from privkit.retention.files import Files, finish
from privkit.retention.job import Progress
from privkit.sqlalchemy import (
    Guard,
    adoption,
    ledger,
    mapping,
    observations,
    protect,
    receipts,
    replicas,
    reseal,
    rewrap,
    scan,
)
from privkit.sqlalchemy.adoption import Adoption, Moved
from privkit.sqlalchemy.adoption import Progress as Sealing
from privkit.sqlalchemy.ages import Ages, count_ages
from privkit.sqlalchemy.consents import ConsentLedger
from privkit.sqlalchemy.documents import TableKeys
from privkit.sqlalchemy.explain import Explanation, explain, table_named
from privkit.sqlalchemy.observations import Observation
from privkit.sqlalchemy.receipts import Receipt
from privkit.sqlalchemy.reseal import Resealed
from privkit.sqlalchemy.rewrap import KeyStatus, Rotation
from privkit.sqlalchemy.states import FieldState, field_state
from privkit.sqlalchemy.stores import FileStore
from privkit.sqlalchemy.visibility import live
from privkit.subjects import Replay
from privkit.subjects.holding import Holding
from privkit.unchecked import UncheckedBlock

if TYPE_CHECKING:  # whoever seals no documents need not import pydantic
    from privkit.pydantic import Document, DocumentKeys, PersonalModel

_Model = TypeVar("_Model", bound="PersonalModel")


class Privacy(Holding):
    """A policy, the models it governs and the keys that seal them.

    ``policy``: a path or a ``Policy``. ``models``: a declarative base, a mapped class, a registry, or several.
    ``keys``: a keyring, read on first use. ``clock``: returns the current instant, aware. ``ledger``: a copy of
    the evidence ledger outside the database, a ``LedgerFile`` or a ``LedgerDatabase``, which outlives a restore.
    ``stores``: where the files lie that fields name with ``file=``, by name.

    Raises PolicyError where the policy or the models have mistakes, all of them at once.
    """

    def __init__(
        self,
        policy: str | os.PathLike[str] | Policy,
        models: Any,
        keys: Keyring,
        clock: Clock = system_clock,
        ledger: OutsideLedger | None = None,
        stores: Mapping[str, FileStore] | None = None,
    ) -> None:
        self._models = list(models) if isinstance(models, list | tuple | set | frozenset) else [models]
        self._scopes: dict[tuple[int, tuple[str, ...]], purposes.Scope] = {}
        self.guard = Guard(_load(policy), lambda: _mappers(self._models), keys, clock, ledger, stores)
        self.consent = ConsentLedger(self.guard)
        self._engines: WeakSet[Engine] = WeakSet()

    @property
    def policy(self) -> Policy:
        """The resolved policy."""
        return self.guard.policy

    def protect(self, engine: Engine | AsyncEngine, *, max_lag: float | None = replicas.BOUND) -> None:
        """Hold every statement of ``engine`` to the policy from now on.

        ``max_lag``: by how many seconds a PostgreSQL standby may be behind before it is read no more; None: by any.
        Raises NotProtectedError where another Privacy protects it already: two could not both be obeyed.
        """
        protect(self.guard, engine, max_lag)
        if isinstance(engine, Engine):
            self._engines.add(engine)

    def document(
        self, model: type[_Model], keys: Engine | DocumentKeys | None = None, *, name: str | None = None
    ) -> Document[_Model]:
        """Return what seals and opens a pydantic model's documents for other stores.

        ``keys``: the engine in whose database the data subjects are, where more than one is protected; or another
        place of keys. ``name``: what the documents are bound to, where the model's own name may change. The
        ``subject`` of ``dumps`` and ``loads`` is a mapped object, or a data subject's key id (16 bytes).

        Raises MappingError or PolicyError where the model does not fit, NotProtectedError without one engine.
        """
        from privkit.pydantic import Document

        if keys is None:
            keys = self._only_engine()
        if isinstance(keys, Engine | AsyncEngine):
            self._ours(keys)
            keys = TableKeys(self.guard, keys)
        return Document(model, self.policy, keys, self.guard.now, name)

    def _only_engine(self) -> Engine:
        if len(self._engines) == 1:
            return next(iter(self._engines))
        raise NotProtectedError(
            f"{len(self._engines)} plain engines are protected, so nobody knows which has the keys of documents.",
            "They are sealed under the keys of data subjects, which are in one database.",
            "Name it: privacy.document(Model, keys=create_engine(url)).",
        )

    def purpose(self, *names: str) -> PurposeBlock:
        """Work for a purpose: ``with privacy.purpose("pickup"):``, or as a decorator of a function or coroutine.

        With several names, a field needs to be needed by one of them, as in a sign-up form. Nested blocks
        never widen each other. Raises PolicyError for an unknown name, PurposeError for a prohibited one.
        """
        self._scope(names)
        return PurposeBlock(lambda: self._scope(names))

    def duty(self, name: str) -> PurposeBlock:
        """Read for a legal duty: what it keeps, while it lasts, after all purposes have ended too; and nothing else.

        ``with privacy.duty("tax"):``. No field is written under it, and a purpose inside it, or around it, narrows it.
        Raises PolicyError for an unknown name.
        """
        return self.purpose(self.policy.duty(name).entered_as)

    carry = staticmethod(purposes.carry)

    def unchecked(self, why: str) -> UncheckedBlock:
        """Let SQL text through that cannot be checked: ``with privacy.unchecked("the vendor's procedure"):``.

        It opens text whose effect is not known, what text cannot open, expire or hide, and views and functions over
        protected tables. A purpose still has to need every field that is known to be touched, and sealed fields stay
        sealed. The ledger gets a line for each different statement. Raises InvalidValue without a reason.
        """
        return UncheckedBlock(why)

    def live(self, attribute: Any) -> ColumnElement[Any]:
        """Return an unsealed field as an expression that is NULL once it has expired, to sort or compute with.

        ``select(Rider).order_by(privacy.live(Rider.name))``. Raises SearchError for a sealed field.
        """
        return live(attribute)

    def annotate(self, model: type, **markers: Any) -> None:
        """Mark the fields of a model that cannot be edited, reflected tables' too. Raises MappingError.

        ``email=Personal(...)``; or ``email=Annotated[str, Personal(...)]`` where the column does not tell the type, as
        when a sealed column was reflected from the database.
        """
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

    def explain(self, engine: Engine, model: Any, key: Any, *, at: datetime | None = None) -> Explanation:
        """Say why a row is still there: rules, instants and holds, per field, and what a run does with it and when.

        ``model``: a mapped class, a table or its name. ``key``: the row's primary key, a tuple where it is composite.
        ``at``: judge at another instant (aware). Raises MappingError for a table without personal fields, InvalidValue
        where there is no such row.
        """
        self._ours(engine)
        with engine.connect() as connection:
            return explain(self.guard, connection, model, key, at)

    def receipts(self, engine: Engine, model: Any, key: Any) -> list[Receipt]:
        """Say when and by which rule runs destroyed a row or values of it, where the policy has ``runs.receipts``.

        Arguments as of ``explain``. The oldest first. Raises MappingError, and LedgerError for altered receipts.
        """
        self._ours(engine)
        table = table_named(self.guard, model)
        with engine.connect() as connection:
            return receipts.find(connection, self.guard, table, key if isinstance(key, tuple) else (key,))

    def plan(self, engine: Engine, *, at: datetime | None = None) -> Plan:
        """Return what is due at ``at`` (aware; default: now). Nothing is changed. Raises PlanError."""
        self._primary(engine)
        with engine.connect() as connection:
            return retention.make(self.guard, connection, at)

    def purge(
        self,
        engine: Engine,
        plan: Plan,
        *,
        batch: int | None = None,
        workers: int = 1,
        limits: Limits | None = None,
        progress: Progress | None = None,
        yes_this_many: int | None = None,
        vacuum: bool = False,
    ) -> Run:
        """Execute exactly ``plan``, up to ``batch`` rows a transaction. May be killed and run again, and in parallel.

        ``workers``: threads that share it, on PostgreSQL. ``limits``: what it keeps to, and what ends it early.
        ``vacuum``: run VACUUM afterwards, on SQLite of the whole file. Raises PlanError, with what differs, for a plan
        that is out of date; and for one that destroys a large share of a table (the policy's ``runs.largest_share``),
        unless ``yes_this_many`` is its number of values and rows.
        """
        self._primary(engine)
        return retention.purge(
            self.guard,
            engine,
            plan,
            batch=batch,
            workers=workers,
            limits=limits,
            progress=progress,
            yes_this_many=yes_this_many,
            vacuum=vacuum,
        )

    def finish_files(self, engine: Engine) -> Files:
        """Try to delete every file whose row is gone and that may still be there, once. Returns what became of them.

        A run does so when it begins, and after each batch with those of the batch.
        """
        self._primary(engine)
        return finish(self.guard, engine)

    def rotate_keys(self, *engines: Engine, batch: int = 1000, progress: rewrap.Progress | None = None) -> Rotation:
        """Wrap every living key of the databases under a new master generation. Raises KeyringError."""
        return rewrap.rotate(self.guard, self._all_ours(engines), batch=batch, progress=progress)

    def roll_keys(self, *engines: Engine, batch: int = 1000, progress: rewrap.Progress | None = None) -> Rotation:
        """Rotate, then destroy the older generations: destroyed keys are final, in every backup too.

        ``engines``: all databases that use the keyring; the keys of one that is left out are lost. An older backup
        opens only together with the key tables of a later one. Raises KeyringError.
        """
        return rewrap.roll(self.guard, self._all_ours(engines), batch=batch, progress=progress)

    def key_status(self, engine: Engine) -> KeyStatus:
        """Return the keyring's generations, how many keys of a database stand under an older one, and the last roll."""
        self._ours(engine)
        return rewrap.key_status(self.guard, engine)

    def scan_envelopes(self, engine: Engine) -> list[scan.Found]:
        """Return which text and binary columns of a database, declared or not, hold envelopes, and under what keys."""
        self._ours(engine)
        return scan.scan_envelopes(self.guard, engine)

    def reseal(
        self,
        engine: Engine,
        *,
        fields: Iterable[str] | None = None,
        subject: bytes | None = None,
        batch: int = 1000,
        progress: reseal.Progress | None = None,
    ) -> Resealed:
        """Seal values anew whose envelope or search hash is not as it would be made now. May be killed and run again.

        ``fields``: only these, each as ``"table.column"``. ``subject``: a data subject's key id (16 bytes); all values
        of its rows are sealed under a fresh key instead, and the old one is destroyed. Raises KeyringError where
        there is nothing sealed, MappingError for an unknown field.
        """
        self._primary(engine)
        if subject is not None:
            return reseal.renew(self.guard, engine, subject)
        return reseal.reseal(self.guard, engine, fields=fields, batch=batch, progress=progress)

    def _all_ours(self, engines: tuple[Engine, ...]) -> tuple[Engine, ...]:
        for engine in engines:
            self._primary(engine)
        return engines

    def adoption(self, engine: Engine) -> list[Adoption]:
        """Return how far every field with ``adopting=`` is in a database, in counts."""
        self._ours(engine)
        return adoption.status(self.guard, engine)

    def seal(self, engine: Engine, field: str, *, batch: int = 1000, progress: Sealing | None = None) -> Moved:
        """Seal what is not sealed yet of ``"table.field"``, and compare all of it. May be killed and run again."""
        self._primary(engine)
        return adoption.seal(self.guard, engine, field, batch=batch, progress=progress)

    def unseal(self, engine: Engine, field: str, *, batch: int = 1000, progress: Sealing | None = None) -> Moved:
        """Write the old form of an adopted ``"table.field"`` back from the sealed one, and compare all of it."""
        self._primary(engine)
        return adoption.undo(self.guard, engine, field, batch=batch, progress=progress)

    def finish_sealing(
        self, engine: Engine, field: str, *, batch: int = 1000, progress: Sealing | None = None
    ) -> Moved:
        """Empty the old column of an adopted ``"table.field"`` once all of it is sealed."""
        self._primary(engine)
        return adoption.finish(self.guard, engine, field, batch=batch, progress=progress)

    def ages(self, engine: Engine, *, store: bool = False, batch: int = 1000) -> list[Ages]:
        """Count the rows whose day of age is not what the policy gives now; with ``store``, set it."""
        self._primary(engine)
        return count_ages(self.guard, engine, store=store, batch=batch)

    def replay(self, engine: Engine, *, batch: int = 1000, progress: Progress | None = None) -> Replay:
        """After a restore: do again what was erased, withdrawn and held since the backup, and purge. May be killed.

        Raises LedgerError where no copy of the ledger is known or it tells of another past.
        """
        self._primary(engine)
        return subjects.replay(self.guard, engine, batch=batch, progress=progress)

    def verify_ledger(self, engine: Engine, *, expected: str | None = None) -> Verified:
        """Recompute the ledger's chain. ``expected``: a count and head noted earlier. Raises LedgerError."""
        self._ours(engine)
        with engine.connect() as connection:
            return ledger.verify(connection, self.guard, expected)

    def flush_observations(self, engine: Engine) -> int:
        """Write what this process has counted of allowed and other uses; return how many lines it added to.

        It happens by itself from time to time. Raises what the driver raises; the counts are kept then.
        """
        self._ours(engine)
        with engine.connect() as connection:
            return observations.flush(self.guard, connection)

    def observed(self, engine: Engine, *, since: date = date.min) -> list[Observation]:
        """Return what was counted of uses: violations and gaps under ``observe``, and what ``enforce`` refused.

        ``since``: the first day, in UTC.
        """
        self.flush_observations(engine)
        with engine.connect() as connection:
            return observations.read(connection, self.guard, since)

    def check(self, engine: Engine | None = None) -> list[Finding]:
        """Return the findings of the models, and of a live database when one is given, worst first."""
        return coverage.check(self.guard, engine)

    def report(self, engine: Engine | None = None) -> Report:
        """Return the coverage report: every table and column, the findings, the guide's questions."""
        return coverage.report(self.guard, engine)

    def retention_text(self) -> RetentionText:
        """Return the retention policy for children's data, as a text to publish: ``markdown()`` or ``html()``."""
        return coverage.retention_text(self.guard)

    def _scope(self, names: tuple[str, ...]) -> purposes.Scope:
        self.guard.keep_up()
        key = (self.guard.version, names)
        if key not in self._scopes:
            self._scopes[key] = self.guard.scope(names)
        return self._scopes[key]


def _load(source: str | os.PathLike[str] | Policy) -> Policy:
    return policy.load(source)


def _mappers(models: Iterable[Any]) -> Iterator[Mapper[Any]]:
    """Yield the mappers of bases, registries and classes, as they are now."""
    seen: set[Mapper[Any]] = set()
    for model in models:
        held = model if isinstance(model, registry) else getattr(model, "registry", None)
        if "__mapper__" not in vars(model) and held is None:
            name = getattr(model, "__name__", type(model).__name__)
            raise MappingError(
                f"{name} is neither a mapped class nor a declarative base or registry.",
                "Nothing of it would be protected.",
                "Give the base of the models, a mapped class or a registry: Privacy(models=Base).",
            )
        found = [model.__mapper__] if held is None or "__mapper__" in vars(model) else list(held.mappers)
        for mapper in found:
            for each in mapper.self_and_descendants:
                if each not in seen:
                    seen.add(each)
                    yield each

"""What one ``Privacy`` knows about its models: the rules of each field, the keys, the clock.

The gates, the types and the runs all ask this object; it never reads the database itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import DateTime, Dialect, FromClause, Table
from sqlalchemy.orm import Mapper
from sqlalchemy.sql.selectable import NamedFromClause

from privkit import purposes
from privkit.catalog import Field, Model
from privkit.clock import Clock, instant
from privkit.consent.age import cautious_today
from privkit.crypto import (
    DESTROYED,
    HEADER_SIZE,
    Codec,
    Epoch,
    KeyCache,
    Keyring,
    SubjectKey,
    as_bytes,
    codec_for,
    index_hash,
    parse,
)
from privkit.crypto.aead import Draw
from privkit.crypto.envelope import ValueKey, open_own
from privkit.crypto.search import key_name
from privkit.deidentify import reduce, stand_in
from privkit.duties import duty_scope, is_duty
from privkit.errors import MappingError, NotProtectedError, PrivkitError, SealedError
from privkit.ledger import OutsideLedger
from privkit.location import GeoPoint, cell_int
from privkit.markers import Equality, Nearby, Precision, StandIn
from privkit.policy import Policy
from privkit.policy.resolve import FieldRule, resolve
from privkit.purposes import Access, Scope
from privkit.sqlalchemy import mapping, pairs, tables, unique
from privkit.sqlalchemy.attributes import not_needed, one_value
from privkit.sqlalchemy.memory import Memory
from privkit.sqlalchemy.observations import Observations
from privkit.sqlalchemy.silence import unconverted
from privkit.sqlalchemy.stores import FileStore, require
from privkit.sqlalchemy.types import Guarded, Processor, plain_type
from privkit.sqlalchemy.unopened import in_field, not_theirs, shredded, unknown_key


@dataclass(frozen=True, slots=True)
class Protected:
    """A mapped class that declares something, with its table."""

    mapper: Mapper[Any]
    model: Model

    @property
    def table(self) -> Table:
        """The table that the class itself is mapped to."""
        assert isinstance(self.mapper.local_table, Table)
        return self.mapper.local_table

    @property
    def age_keys(self) -> tuple[str, ...]:
        """The keys of the columns that the day of age depends on."""
        child = self.model.child
        return tuple(self.mapper.columns[name].key for name in child.fields) if child is not None else ()


OWN_ALIAS = "privkit_"
"""How the aliases of tables begin that privkit itself joins to a statement, to look up owners, events and consent."""


def own_alias(table: Table, beside: FromClause | None = None) -> NamedFromClause:
    """Return an alias of ``table`` for a subquery of privkit's own, named otherwise than ``beside``, if that is one."""
    name = f"{OWN_ALIAS}{table.name}"
    found = table.alias(f"{name}_" if name == getattr(beside, "name", None) else name)
    vars(found)["privkit_own"] = True  # copies of it keep this, and an application's alias of that name lacks it
    return found


def is_own_alias(at: FromClause) -> bool:
    """Whether ``own_alias`` made this alias, or what it was copied from."""
    return "privkit_own" in vars(at)


class Guard:
    """The rules, keys and clock of one ``Privacy``."""

    def __init__(
        self,
        policy: Policy,
        mappers: Callable[[], Iterable[Mapper[Any]]],
        keyring: Keyring,
        clock: Clock,
        outside: OutsideLedger | None = None,
        stores: Mapping[str, FileStore] | None = None,
    ) -> None:
        self.outside = outside
        """The copy of the ledger outside the database."""
        self.stores = dict(stores or {})
        """The stores of files that fields name."""
        self.policy, self.keyring, self.mappers, self._clock = policy, keyring, mappers, clock
        self.keys = KeyCache()
        self.shredded: set[bytes | Epoch] = set()
        self.fallbacks: Counter[str] = Counter()
        """How many values of each adopted field were read by this process from where they were before."""
        self.rules: dict[str, FieldRule] = {}
        self.classes: dict[type, Protected] = {}
        self.tables: dict[Table, Protected] = {}
        self.proven: WeakKeyDictionary[Dialect, bytes] = WeakKeyDictionary()
        self.alone: WeakSet[Dialect] = WeakSet()
        """The engines whose databases were seen to have no copy outside."""
        self.observations = Observations()
        """What is let through and counted where the policy observes."""
        self.version = 0
        self._declarations = -1
        self.criteria = Memory()
        self.deferrals = Memory()
        self.conditions = Memory()
        self.refresh()

    def refresh(self) -> None:
        """Read the declarations of all mapped classes again. Raises PolicyError where they do not fit the policy."""
        mappers = sorted(self.mappers(), key=lambda mapper: mapper.class_.__qualname__)
        classes = {}
        for mapper in mappers:
            model = mapping.install(mapper)
            if model.marked:
                classes[mapper.class_] = Protected(mapper, model)
        self.classes = classes
        self.rules = resolve(self.policy, [each.model for each in classes.values()], consents=True)
        for each in classes.values():
            for name, field in each.model.fields.items():
                kind = each.mapper.columns[name].type
                assert isinstance(kind, Guarded)
                kind.decide(self, sealed=self.rules[field.id].sealed)
                for other in pairs.pair(each.mapper.columns[name]) or ():
                    assert isinstance(other.type, Guarded)
                    other.type.decide(self, sealed=self.rules[field.id].sealed)
            self.check_epochs(each)
        require(self.stores, (rule.field for rule in self.rules.values()))
        self.tables = {}
        for each in sorted(classes.values(), key=lambda each: len(each.mapper.class_.__mro__)):
            self.tables.setdefault(each.table, each)
        for table in self.tables:
            unique.settle(table)
        self.observations.decide(self)
        self.version += 1
        self._declarations = mapping.declarations

    def check_epochs(self, each: Protected) -> None:
        """An epoch is decided when a row is written, so its event has to be a time in the same row."""
        for name, field in each.model.fields.items():
            found = self.rules[field.id].epochs
            column = each.mapper.columns.get(str(each.model.events[found.event])) if found is not None else None
            if found is None or (
                column is not None
                and column.table is each.mapper.columns[name].table
                and isinstance(plain_type(column), DateTime)
            ):
                continue
            raise MappingError(
                f"{field} is sealed in epochs of {found.event!r}, which is no time column of its own table.",
                "The epoch of a value is decided when its row is written.",
                "Map the event to a DateTime column of the same table, or take the epoch out of the policy.",
                field=field.id,
            )

    def resembles(self, table: Table) -> bool:
        """Whether a table has a protected table's name without being it, as one reflected elsewhere does."""
        return table not in self.tables and any(table.name.lower() == each.name.lower() for each in self.tables)

    def own_table(self, name: str) -> Table:
        """Return one of privkit's own tables in the models' MetaData. Raises NotProtectedError where there is none."""
        for table in self.tables:
            found = tables.find(table.metadata, name)
            if found is not None:
                return found
        raise NotProtectedError(
            "No model of this Privacy declares anything, so privkit's tables are not in its MetaData.",
            "There is nowhere to keep keys or evidence.",
            "Annotate a model, or pass the base whose models are annotated: Privacy(models=Base).",
            table=name,
        )

    def keep_up(self) -> None:
        """Read the declarations again when classes were mapped since. Called before every statement and purpose."""
        if self._declarations != mapping.declarations:
            self.refresh()

    def now(self) -> datetime:
        """Return the current instant of this guard's clock, in UTC."""
        return instant(self._clock)

    def rule(self, field: Field) -> FieldRule:
        """Return the rules of ``field``; classes that were mapped later are read on first use."""
        if field.id not in self.rules:
            self.refresh()
        rule = self.rules.get(field.id)
        if rule is None:
            raise NotProtectedError(
                f"{field} belongs to models that this Privacy was not given.",
                "Its policy says nothing about them.",
                "Pass their base too: Privacy(models=[Base, OtherBase]).",
                field=field.id,
            )
        return rule

    def scope(self, names: tuple[str, ...]) -> Scope:
        """Return the scope of working for ``names``."""
        build = duty_scope if any(map(is_duty, names)) else purposes.scope_for
        return build(self.policy, self.rules.values(), names, clock=self.now)

    def protected(self, cls: type) -> Protected | None:
        """Return what is known of a mapped class, or of the nearest base that declares something."""
        return next((self.classes[base] for base in cls.__mro__ if base in self.classes), None)

    def opener(self, field: Field, dialect: Dialect) -> Processor:
        """Build the function that opens one field's values, stored in one database, under the current purpose."""
        codec, field_id = codec_for(field.python_type), field.id
        keys, latest, quick = self.keys.of_field(field_id), purposes.latest, codec.quick_decode

        def process(value: Any) -> Any:
            try:
                access = latest().allows[field_id]
                if value is None:
                    return None
                key = keys[value[:HEADER_SIZE]]
                opened = quick(open_own(key, value, key.associated, HEADER_SIZE))
                if access.exact:
                    return opened
                return self.reduced(access.precision, opened, value)
            except Exception:
                opened = None  # no purpose, a key's first use, what does not open: told apart step by step
            return self._open(field, codec, value, dialect)

        return process

    def _open(self, field: Field, codec: Codec, value: Any, dialect: Dialect) -> Any:
        """Open one value. Raises PurposeError where it may not be seen, SealedError where it does not open."""
        access = self._access(field)
        if value is None:
            return None
        if field.marker.adopting is not None and pairs.is_previous(field, value):
            opened = pairs.read(field, value, lambda: self.now().date())
            self.fallbacks[field.id] += 1
            return opened if access.exact else self.reduced(access.precision, opened)
        envelope = as_bytes(value)
        if envelope == DESTROYED:
            return None
        try:
            opened = codec.decode(self._plaintext(field, envelope, dialect))
            return opened if access.exact else self.reduced(access.precision, opened, envelope)
        except PrivkitError as error:
            opened, refusal = None, error if "field" in error.data else in_field(error, field)
        raise refusal  # out here, so that no frame is chained that holds the value

    def reduced(self, precision: Precision, value: Any, envelope: Any = None) -> Any:
        """Return a value at a lower precision. A stand-in is made from the subject's key, which the envelope names."""
        if isinstance(precision, StandIn) and value is not None and envelope is not None:
            key_id, _ = parse(as_bytes(envelope))
            key = self.keys.get(key_id) or self.keys.pinned(key_id)
            if key is not None:
                return stand_in(key.seed("stand-in", precision.audience), precision)
        return reduce(precision, value, cautious_today(self.now()))

    def _plaintext(self, field: Field, envelope: bytes, dialect: Dialect) -> bytes:
        """Open an envelope under the field's id, or under one that it had before: such a value is to be resealed."""
        try:
            return self._value_key(field, envelope, dialect).open(envelope)
        except SealedError as error:
            refusal = error
        for former in field.marker.formerly:
            with suppress(SealedError):
                return self._value_key(replace(field, id=former), envelope, dialect).open(envelope)
        raise refusal

    def _value_key(self, field: Field, envelope: bytes, dialect: Dialect) -> ValueKey:
        """Return the key that an envelope names. Raises SealedError or ShreddedError where it is not at hand."""
        if len(envelope) == 1:
            # What a query returns in place of an envelope whose key is not the row's data subject's.
            raise not_theirs(field)
        try:
            key_id, number = parse(envelope)
        except SealedError as error:
            raise in_field(error, field) from None
        key = self.keys.get(key_id) or self.keys.pinned(key_id)
        if key is None:
            raise shredded(field) if key_id in self.shredded else unknown_key(field)
        if not number:
            return self.keys.value_key(key, field.id)
        epoch = Epoch(dialect, field.id, number)
        found = self.keys.value_key_in_epoch(key, epoch)
        if found is None:
            raise shredded(field) if epoch in self.shredded else unknown_key(field)
        return found

    def reader(self, field: Field, plain: Processor | None) -> Processor:
        """Build the function that hands out one unsealed field's values under the current purpose."""
        latest, field_id = purposes.latest, field.id

        def process(value: Any) -> Any:
            try:
                access = latest().allows[field_id]
            except (AttributeError, KeyError):
                access = None
            if access is None:
                access = self._access(field)
            try:
                if plain is not None:
                    value = plain(value)
                return value if access.exact else self.reduced(access.precision, value)
            except PrivkitError as error:
                refusal = in_field(error, field)
            except Exception:
                refusal = unconverted(field, "read as")
            value = None
            raise refusal  # out here, so that nothing is chained that holds the value

        return process

    def sealer(self, field: Field, dialect: Dialect, draw: Draw) -> Callable[[SubjectKey, int, Any], bytes]:
        """Build the function that seals one field's values for a data subject in an epoch, with nonces from ``draw``.

        The keys of epochs have to be loaded. It raises InvalidValue for a value of another type.
        """
        codec, field_id = codec_for(field.python_type), field.id
        quick, declared = codec.quick_encode, codec.declared
        keys, derive, derive_in = self.keys.of_field(field_id), self.keys.value_key, self.keys.value_key_in_epoch

        def seal(key: SubjectKey, epoch: int, value: Any) -> bytes:
            try:
                plaintext = quick(value) if type(value) is declared else None
            except Exception:  # told apart below, where nothing is chained that may hold the value
                plaintext = None
            if plaintext is None:
                plaintext = self._encoded(field, codec, value)
            if not epoch:
                return (keys.get(key.header) or derive(key, field_id)).seal(plaintext, draw)
            value_key = derive_in(key, Epoch(dialect, field_id, epoch))
            if value_key is None:
                raise unknown_key(field)
            return value_key.seal(plaintext, draw)

        return seal

    def _access(self, field: Field) -> Access:
        scope = purposes.current()
        access = self.observations.access(field.id, scope)
        if access is None:
            raise not_needed(field, scope)
        if scope is not None and scope.minimum_group is not None:
            raise one_value(field, scope)
        return access

    def _encoded(self, field: Field, codec: Codec, value: Any) -> bytes:
        try:
            return codec.encode(value)
        except PrivkitError as error:
            raise in_field(error, field) from None

    def index_hash(self, field: Field, value: Any, search: Equality | Nearby | None = None) -> bytes:
        """Return the search hash of one value; for Nearby of a location, or of an H3 cell as an int.

        ``search``: another than the marker's own, of those that it names in ``also``.
        """
        search = search or field.marker.search
        assert search is not None
        try:
            if isinstance(search, Nearby):
                normaliser = "exact"
                value = cell_int(value, search.resolution) if isinstance(value, GeoPoint) else value
            else:
                normaliser = search.normaliser
                if type(value) is not field.python_type:
                    codec_for(field.python_type).encode(value)  # only a value of the declared type can be found
            secret = self.keyring.secret(key_name(search.key))
            return index_hash(secret, field.id, normaliser, value, search.key)
        except PrivkitError as error:
            raise in_field(error, field) from None

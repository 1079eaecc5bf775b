"""Attribute access on a loaded object is checked too: a row may outlive the purpose that loaded it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.orm import CompositeProperty, InstrumentedAttribute, Mapper

from privkit import purposes
from privkit.catalog import Field
from privkit.clock import instant
from privkit.consent.age import cautious_today
from privkit.deidentify import coarser, precision_of, reduce
from privkit.errors import PurposeError
from privkit.markers import Precision, StandIn
from privkit.sqlalchemy.observations import lacks, refuse


class GuardedAttribute(InstrumentedAttribute[Any]):
    """An attribute that a persistent object shows only under a purpose that needs the field."""

    __slots__ = ()
    field: Field

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return super().__get__(instance, owner)
        scope = purposes.current()
        access = scope.access(self.field.id) if scope is not None else None
        if scope is None or access is None:
            if inspect(instance).key is not None:
                self._refuse(instance, scope)
            return super().__get__(instance, owner)
        if scope.minimum_group is not None and inspect(instance).key is not None:
            raise one_value(self.field, scope)
        value = super().__get__(instance, owner)
        return value if access.exact else self._reduced(instance, value, access.precision, scope)

    def _reduced(self, instance: Any, value: Any, precision: Precision, scope: purposes.Scope) -> Any:
        """Reduce what was loaded more exactly, by a block around this one or before the object left its session."""
        known = precision_of(self.field, value)
        wanted = coarser(precision, known) if known is not None else precision
        if known is not None and wanted == known:
            return value
        if wanted is None or (isinstance(wanted, StandIn) and value is not None):
            if inspect(instance).key is None:
                return value
            raise loaded_otherwise(self.field, scope)
        return reduce(precision, value, cautious_today(instant(scope.clock)))

    def _refuse(self, instance: Any, scope: purposes.Scope | None) -> None:
        """Raise, or count where the policy observes; what is not loaded is counted as the statement that loads it."""
        guard, error = _guard(inspect(instance).mapper, self.key), not_needed(self.field, scope)
        if guard is None:
            raise error
        if self.key in instance.__dict__ or self.field.id not in guard.observations.fields:
            refuse(guard, lacks(scope), error, scope, self.field)


def _guard(mapper: Mapper[Any], name: str) -> Any:
    """Return the guard of a field's column, or None where no ``Privacy`` was given its class."""
    return mapper.columns[name].type.guard  # type: ignore[attr-defined]


def guard(cls: type, name: str, field: Field) -> None:
    """Put the check on an instrumented attribute of ``cls``."""
    attribute = cls.__dict__.get(name)
    if isinstance(attribute, InstrumentedAttribute) and not isinstance(attribute, GuardedAttribute):
        # The instance is already known to the mapper and to comparators; only its class changes.
        attribute.__class__ = _class_for(field, attribute.key)


def _class_for(field: Field, key: str) -> type[GuardedAttribute]:
    """Make the class of one field's attribute: what is allowed and loaded is returned without another call."""
    latest, field_id = purposes.latest, field.id

    def __get__(self: GuardedAttribute, instance: Any, owner: Any) -> Any:  # noqa: N807
        try:
            if latest().allows[field_id].exact:
                return instance.__dict__[key]
        except (AttributeError, KeyError):
            pass  # no purpose, a closed one, not needed, not loaded, or the class itself: decided one by one
        return GuardedAttribute.__get__(self, instance, owner)

    return type("GuardedAttribute", (GuardedAttribute,), {"__slots__": (), "field": field, "__get__": __get__})


def guard_composites(cls: type) -> None:
    """Have the composites of ``cls`` ask for each of their fields, whatever value they keep."""
    for attribute in list(vars(cls).values()):
        composite = getattr(attribute, "original_property", None)
        if isinstance(composite, CompositeProperty) and not isinstance(attribute.descriptor, _Composed):
            held = attribute.descriptor
            attribute.descriptor = _Composed(_composed(composite, held), held.fset, held.fdel)


class _Composed(property):
    """A composite's own descriptor, with the check in front."""


def _composed(composite: CompositeProperty[Any], held: Any) -> Any:
    def fget(instance: Any) -> Any:
        values = tuple(getattr(instance, each.key) for each in composite.props)
        found = held.fget(instance)
        if found is None or values == tuple(composite._composite_values_from_instance(found)):
            return found
        return composite.composite_class(*values)  # it was made under a purpose that sees more of it, or less

    return fget


def show_key_only(cls: type) -> None:
    """Have a repr that a dataclass or a pydantic model generated name the class and its key; another's is its author's.

    Error trackers call repr on every local variable.
    """
    generated = getattr(cls.__repr__, "__wrapped__", None)
    if generated is not None and generated.__code__.co_filename == "<string>":
        cls.__repr__ = _key_only  # type: ignore[method-assign, assignment]
    if hasattr(cls, "__repr_args__"):  # pydantic's protocol, as in SQLModel
        cls.__repr_args__ = _key


def _key_only(instance: Any) -> str:
    return f"{type(instance).__name__}({', '.join(f'{name}={value!r}' for name, value in _key(instance))})"


def _key(instance: Any) -> list[tuple[str, Any]]:
    mapper, loaded = inspect(type(instance)), vars(instance)
    names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
    open_ = [name for name in names if not isinstance(getattr(type(instance), name), GuardedAttribute)]
    return [(name, loaded[name]) for name in open_ if name in loaded]


def load_when_touched(mapper: Mapper[Any], name: str) -> None:
    """Have a column that a statement defers cost nothing for each row: its loader belongs to the class instead.

    SQLAlchemy puts a loader on every object for a column that only a statement defers, and none for one that its
    mapping defers. With that loader on the attribute both are alike.
    """
    strategy: Any = mapper.column_attrs[name]._get_strategy(_DEFERRED)
    for each in mapper.self_and_descendants:
        attribute = each.class_manager.get(name)
        if attribute is not None and attribute.impl.callable_ is None:
            attribute.impl.callable_ = strategy._load_for_state
    strategy.is_class_level = True


_DEFERRED = (("deferred", True), ("instrument", True))


def store_as_null(instance: Any, names: Iterable[str]) -> None:
    """Say of a row just inserted that what it was not given is NULL, so that nothing is loaded when it is touched."""
    state = inspect(instance)
    for name in names:
        if name not in state.dict and name not in state.expired_attributes and name in state.manager:
            state.manager[name].impl.set_committed_value(state, state.dict, None)


def load_within_purpose(mapper: Mapper[Any], fields: Mapping[str, Field]) -> None:
    """Keep the refresh of expired attributes within the purpose: touching one must not load all the others."""
    manager = mapper.class_manager
    if isinstance(manager.expired_attribute_loader, _PurposeLoader):
        manager.expired_attribute_loader.fields = fields
    else:
        loader: Any = _PurposeLoader(manager.expired_attribute_loader, fields)
        manager.expired_attribute_loader = loader


class _PurposeLoader:
    """Loads expired attributes as SQLAlchemy does, less those that the purpose does not need."""

    def __init__(self, load: Any, fields: Mapping[str, Field]) -> None:
        self.load, self.fields = load, fields

    def __call__(self, state: Any, names: Any, passive: Any) -> Any:
        scope = purposes.current()
        denied = {name for name in names if name in self.fields and self._denied(state.mapper, name, scope)}
        return self.load(state, set(names) - denied, passive)

    def _denied(self, mapper: Mapper[Any], name: str, scope: purposes.Scope | None) -> bool:
        guard, field_id = _guard(mapper, name), self.fields[name].id
        if guard is None:
            return scope is None or scope.access(field_id) is None
        return guard.observations.access(field_id, scope) is None


def not_needed(field: Field, scope: purposes.Scope | None) -> PurposeError:
    """Build the error for a field that the current purpose does not need."""
    allowed = sorted(field.purposes)
    if scope is None:
        return PurposeError(
            f"{field} is personal data and no purpose is set.",
            "Every read and write of personal data has a purpose.",
            purposes.how_to_open(allowed),
            field=field.id,
            allowed=allowed,
        )
    return PurposeError(
        f"{field} is not needed for {scope}.",
        purposes.why_not(field, scope),
        "Leave the field out of the statement, work under one of them, or add the purpose to its marker.",
        field=field.id,
        purpose=scope.names,
        allowed=allowed,
    )


def loaded_otherwise(field: Field, scope: purposes.Scope) -> PurposeError:
    """Build the error for a loaded value from which the one that the purpose may see cannot be made."""
    return PurposeError(
        f"{field} was loaded at another precision than {scope} may see.",
        "What is loaded would tell more, or the answer to another question.",
        f"Load it again in this purpose: session.refresh(row, [{field.name!r}])",
        field=field.id,
        purpose=scope.names,
    )


def one_value(field: Field, scope: purposes.Scope) -> PurposeError:
    """Build the error for a single value under a purpose that may see aggregates only."""
    return PurposeError(
        f"{field} is read one value at a time, and {scope} may see it only in groups of {scope.minimum_group} or more.",
        "The policy gives the purpose a minimum group: nobody is to be told apart.",
        "Count, sum or average it: select(func.count()).select_from(Model).where(...). It is None for a smaller group.",
        field=field.id,
        purpose=scope.names,
    )


def not_exact(field: Field, scope: purposes.Scope) -> PurposeError:
    """Build the error for a comparison on a field that the purpose may see only coarsely."""
    return PurposeError(
        f"{field} is compared, sorted or computed with, and {scope} may see it only at a lower precision.",
        "An exact comparison would tell more than the precision allows.",
        "Select the field as a plain column and compare the coarse value, or use a purpose that needs it exactly.",
        field=field.id,
        purpose=scope.names,
    )

"""What one model class declares, read once: its gates, its names in the input, and how its instances are reduced."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import cast

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo

from privkit import catalog
from privkit.markers import Exact
from privkit.purposes import Scope
from privkit.pydantic.gates import FACTORY, Gate

_CACHE = 256


class Plan:
    """The personal fields of ``cls`` and what each scope denies of them. Raises MappingError for clashing markers."""

    def __init__(self, cls: type[BaseModel], refuse: bool) -> None:
        self.cls, self.declared = cls, catalog.read(cls)
        self.infos = cls.model_fields
        self.gates = {
            name: Gate(field, FACTORY if self.infos[name].default_factory else self.infos[name].default, refuse)
            for name, field in self.declared.fields.items()
            if name in self.infos
        }
        self._limits: dict[tuple[tuple[str, ...], ...], tuple[tuple[Gate, ...], tuple[Gate, ...]]] = {}
        self._hidden: dict[tuple[Gate, ...], Mapping[str, tuple[Gate, ...]]] = {}

    def denied(self, scope: Scope | None) -> tuple[Gate, ...]:
        """Return the gates that ``scope`` keeps shut."""
        return self._limited(scope)[0]

    def coarse(self, scope: Scope | None) -> tuple[Gate, ...]:
        """Return the gates that let less than the value through."""
        return self._limited(scope)[1]

    def _limited(self, scope: Scope | None) -> tuple[tuple[Gate, ...], tuple[Gate, ...]]:
        if scope is not None and scope.internal:
            return (), ()
        key = scope.groups if scope is not None else ()
        if key not in self._limits:
            if len(self._limits) >= _CACHE:
                self._limits.clear()
            found = [(gate, gate.precision(scope)) for gate in self.gates.values()]
            self._limits[key] = (
                tuple(gate for gate, precision in found if precision is None),
                tuple(gate for gate, precision in found if not isinstance(precision, Exact | None)),
            )
        return self._limits[key]

    def hidden(self, scope: Scope | None) -> Mapping[str, tuple[Gate, ...]]:
        """Return the attributes of an object that are read for denied fields alone, with their gates."""
        denied = self.denied(scope)
        if denied not in self._hidden:
            if len(self._hidden) >= _CACHE:
                self._hidden.clear()
            self._hidden[denied] = self._hide({gate.field.name for gate in denied})
        return self._hidden[denied]

    def _hide(self, denied: set[str]) -> Mapping[str, tuple[Gate, ...]]:
        wanted = {key for name, info in self.infos.items() if name not in denied for key in lookups(name, info)}
        found: dict[str, tuple[Gate, ...]] = {}
        for name in denied:
            for key in lookups(name, self.infos[name]) - wanted:
                found[key] = (*found.get(key, ()), self.gates[name])
        return found

    def held(self, instance: BaseModel, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        """Return those of ``gates`` whose field holds more than its default in ``instance``."""
        values = vars(instance)
        return tuple(gate for gate in gates if gate.field.name in values and gate.holds(values[gate.field.name]))

    def minimised(self, instance: BaseModel, scope: Scope | None) -> BaseModel:
        """Return ``instance``, or a copy with defaults in place of what ``scope`` does not need.

        Raises PurposeError for a value that may not be dropped.
        """
        held = self.held(instance, self.denied(scope))
        for gate in held:
            refusal = gate.refusal(scope)
            if refusal is not None:
                raise refusal
        if not held:
            return instance
        names = {gate.field.name for gate in held}
        reduced = self.without(instance, names)
        for name in names:
            values = vars(reduced)
            values[name] = self.infos[name].get_default(call_default_factory=True, validated_data=values)
        return reduced

    def without(self, instance: BaseModel, names: set[str]) -> BaseModel:
        """Return a copy that lacks ``names``, and whatever was cached on the instance from them."""
        reduced = copy.copy(instance)
        values = vars(reduced)
        for name in [name for name in values if name in names or name not in self._names(instance)]:
            del values[name]
        reduced.model_fields_set.difference_update(names)
        return reduced

    def _names(self, instance: BaseModel) -> Mapping[str, FieldInfo]:
        return self.infos if type(instance) is self.cls else type(instance).model_fields


def plan_of(cls: type[BaseModel]) -> Plan:
    """Return the plan of a PersonalModel, made on first use: the class decorators have run by then."""
    plan = cls.__dict__.get("__privkit_plan__")
    if plan is None:
        plan = Plan(cls, getattr(cls, "__unneeded__", "refuse") == "refuse")
        if cls.__pydantic_complete__:
            cls.__privkit_plan__ = plan  # type: ignore[attr-defined]
    return plan


def lookups(name: str, info: FieldInfo) -> set[str]:
    """The attributes that pydantic may read a field from: its name, and the start of each alias."""
    return {name, *first_keys(info.validation_alias), *first_keys(info.alias)}


def first_keys(alias: str | AliasPath | AliasChoices | None) -> Iterator[str]:
    """Yield the key at which each choice of an alias starts."""
    if isinstance(alias, AliasChoices):
        for choice in alias.choices:
            yield from first_keys(choice)
    elif isinstance(alias, AliasPath):
        yield cast(str, alias.path[0])
    elif alias is not None:
        yield alias

"""What one model class declares, read once: its gates, its names in the input, and how its instances are reduced."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, cast

from pydantic import AliasChoices, AliasPath, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from privkit import catalog
from privkit.errors import PurposeError
from privkit.purposes import Scope
from privkit.pydantic.gates import Gate

_CACHE = 256


class Plan:
    """The personal fields of ``cls`` and what each scope denies of them. Raises MappingError for clashing markers."""

    def __init__(self, cls: type[BaseModel], refuse: bool) -> None:
        self.cls, self.declared = cls, catalog.read(cls)
        self.infos = cls.model_fields
        self.gates = {
            name: Gate(field, self.infos[name].is_required(), refuse)
            for name, field in self.declared.fields.items()
            if name in self.infos
        }
        self._denied: dict[tuple[tuple[str, ...], ...], tuple[Gate, ...]] = {}
        self._hidden: dict[tuple[Gate, ...], Mapping[str, tuple[Gate, ...]]] = {}

    def denied(self, scope: Scope | None) -> tuple[Gate, ...]:
        """Return the gates that ``scope`` keeps shut."""
        if scope is not None and scope.internal:
            return ()
        key = scope.groups if scope is not None else ()
        if key not in self._denied:
            if len(self._denied) >= _CACHE:
                self._denied.clear()
            self._denied[key] = tuple(gate for gate in self.gates.values() if gate.precision(scope) is None)
        return self._denied[key]

    def hidden(self, scope: Scope | None) -> Mapping[str, tuple[Gate, ...]]:
        """Return the attributes of an object that are read for denied fields alone, with their gates."""
        denied = self.denied(scope)
        if denied not in self._hidden:
            if len(self._hidden) >= _CACHE:
                self._hidden.clear()
            self._hidden[denied] = self._hide({gate.field.name for gate in denied})
        return self._hidden[denied]

    def _hide(self, denied: set[str]) -> Mapping[str, tuple[Gate, ...]]:
        wanted = {key for name, info in self.infos.items() if name not in denied for key in _lookups(name, info)}
        found: dict[str, tuple[Gate, ...]] = {}
        for name in denied:
            for key in _lookups(name, self.infos[name]) - wanted:
                found[key] = (*found.get(key, ()), self.gates[name])
        return found

    def held(self, instance: BaseModel, gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
        """Return those of ``gates`` whose field holds more than its default in ``instance``."""
        values, fields_set = vars(instance), instance.model_fields_set
        return tuple(gate for gate in gates if gate.held(values, fields_set, self.infos[gate.field.name].default))

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

    @cached_property
    def x_privacy(self) -> Mapping[str, Mapping[str, Any]]:
        """What the JSON schema says about each field that carries a decision."""
        personal = {name: _facts(gate.field) for name, gate in self.gates.items()}
        return personal | {name: {"not_personal": reason} for name, reason in self.declared.not_personal.items()}

    def describe(self, properties: dict[str, dict[str, Any]], mode: str) -> None:
        """Add ``x-privacy`` to the properties of a JSON schema, which has aliases for keys, or names."""
        aliases = {name: _key(name, info, mode) for name, info in self.infos.items()}
        by_alias = set(properties) <= {*aliases.values(), *self.cls.model_computed_fields} or not (
            set(properties) <= {*self.infos, *self.cls.model_computed_fields}
        )
        for name, facts in self.x_privacy.items():
            key = aliases.get(name, name) if by_alias else name
            if key in properties:
                properties[key]["x-privacy"] = dict(facts)


def not_readable(cls: type, name: str, scope: Scope | None) -> PurposeError:
    """Build the error for a computed field, or a serializer, that asks for a field the purpose does not need."""
    return PurposeError(
        f"A computed field or serializer of {cls.__name__} reads {name}, which "
        + (f"is not needed for {scope}." if scope is not None else "is personal data, and no purpose is set."),
        "What it returns would tell about a value that the purpose may not see.",
        "Exclude it from the dump, or work under a purpose that needs what it reads.",
        field=name,
        purpose=scope.names if scope is not None else (),
    )


def _facts(field: catalog.Field) -> dict[str, Any]:
    from privkit.deidentify import label
    from privkit.markers import BirthDate, Location
    from privkit.pydantic.coarse import described

    marker = field.marker
    by_marker = isinstance(marker, Location | BirthDate) or marker.search is not None
    facts: dict[str, Any] = {
        "category": marker.category,
        "purposes": {name: described(precision) for name, precision in field.purposes.items()},
        "sealed": marker.seal if marker.seal is not None else by_marker or "by policy",
        "then": label(marker.then),
    }
    return facts | ({"duties": sorted(marker.duties)} if marker.duties else {})


def _lookups(name: str, info: FieldInfo) -> set[str]:
    """The attributes that pydantic may read a field from: its name, and the start of each alias."""
    return {name, *_first(info.validation_alias), *_first(info.alias)}


def _first(alias: str | AliasPath | AliasChoices | None) -> Iterator[str]:
    if isinstance(alias, AliasChoices):
        for choice in alias.choices:
            yield from _first(choice)
    elif isinstance(alias, AliasPath):
        yield cast(str, alias.path[0])
    elif alias is not None:
        yield alias


def _key(name: str, info: FieldInfo, mode: str) -> str:
    alias = info.serialization_alias if mode == "serialization" else info.validation_alias
    return next(_first(alias), None) or (info.alias if alias is None else None) or name


__all__ = ["Plan", "PydanticUndefined", "not_readable"]

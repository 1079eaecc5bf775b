"""``x-privacy`` in JSON schemas, and so in OpenAPI documents: what each field is, and who needs it for what."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from privkit.catalog import Field
from privkit.deidentify import in_words, label
from privkit.markers import BirthDate, Location
from privkit.pydantic.plan import Plan, first_keys

KEY = "x-privacy"


def describe(plan: Plan, properties: dict[str, dict[str, Any]], mode: str) -> None:
    """Add ``x-privacy`` to the properties of a model's JSON schema: facts of a marker, or why it is not personal."""
    facts = {name: _facts(gate.field) for name, gate in plan.gates.items()}
    facts |= {name: {"not_personal": reason} for name, reason in plan.declared.not_personal.items()}
    keys = _keys(plan, set(properties), mode)
    for name, fact in facts.items():
        key = keys.get(name, name)
        if key in properties:
            properties[key][KEY] = fact


def _keys(plan: Plan, properties: set[str], mode: str) -> dict[str, str]:
    """The property of each field: its alias, or its name where the schema was asked for by name."""
    aliases = {name: _alias(name, info, mode) for name, info in plan.infos.items()}
    computed = set(plan.cls.model_computed_fields)
    by_name = not properties <= {*aliases.values(), *computed} and properties <= {*aliases, *computed}
    return {} if by_name else aliases


def _alias(name: str, info: FieldInfo, mode: str) -> str:
    alias = info.serialization_alias if mode == "serialization" else info.validation_alias
    return next(first_keys(alias), info.alias or name)


def _facts(field: Field) -> dict[str, Any]:
    marker = field.marker
    by_marker = isinstance(marker, Location | BirthDate) or marker.search is not None
    facts: dict[str, Any] = {
        "category": marker.category,
        "purposes": {name: in_words(precision) for name, precision in field.purposes.items()},
        "sealed": marker.seal if marker.seal is not None else by_marker or "by policy",
        "then": label(marker.then),
    }
    return facts | ({"duties": sorted(marker.duties)} if marker.duties else {})

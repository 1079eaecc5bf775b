"""Where the gates stand: inside the core schema that pydantic makes of a model, so that no caller goes round them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from privkit.catalog import Field
from privkit.errors import MappingError
from privkit.pydantic.gates import FACTORY, REQUIRED, Gate

_OURS = "privkit"


def gated(
    cls: type[BaseModel],
    schema: CoreSchema,
    handler: GetCoreSchemaHandler,
    fields: Mapping[str, Field],
    refuse: bool,
    validate: Callable[[Any, Any], Any],
    serialize: Callable[[Any, Any], Any],
) -> CoreSchema:
    """Put gates round the personal ``fields`` of a model's schema, and ``validate`` and ``serialize`` round it all.

    The reference moves to the outside, so that a recursive model meets the gates at every level.
    """
    model: Any = handler.resolve_ref_schema(schema)
    if _is_ours(model):
        return schema
    model = dict(model)
    if fields:
        _gate_fields(cls, model, handler, fields, refuse)
    ref = model.pop("ref", None)
    serialization = core_schema.wrap_serializer_function_ser_schema(serialize) if fields else None
    return core_schema.no_info_wrap_validator_function(
        validate, model, ref=ref, serialization=serialization, metadata={_OURS: True}
    )


def _is_ours(schema: Any) -> bool:
    return bool(schema.get("metadata", {}).get(_OURS))


def _gate_fields(
    cls: type[BaseModel], schema: Any, handler: GetCoreSchemaHandler, fields: Mapping[str, Field], refuse: bool
) -> None:
    inner = _model_fields(cls, schema, handler)
    for name, field in fields.items():
        if name not in inner["fields"]:
            raise _unknown(cls, f"{field} is not a field of the model's schema.")
        slot = inner["fields"][name]
        if not _is_ours(slot):
            inner["fields"][name] = {
                **slot,
                "schema": _gate(field, slot["schema"], refuse),
                "metadata": _metadata(slot),
            }


def _metadata(slot: Any) -> dict[str, Any]:
    return {**slot.get("metadata", {}), _OURS: True}


def _gate(field: Field, schema: Any, refuse: bool) -> Any:
    """Wrap one field: pydantic looks for a default on the outside, so the gate stands inside of it."""
    has_default = schema["type"] == "default"
    inner = schema["schema"] if has_default else schema
    if has_default and "serialization" in schema:
        # a serializer of the developer's own, which must not go round the gate
        inner = {**inner, "serialization": schema["serialization"]}
    gate = Gate(field, schema.get("default", FACTORY) if has_default else REQUIRED, refuse)
    serialization = core_schema.wrap_serializer_function_ser_schema(gate.serialize)
    outer = core_schema.no_info_wrap_validator_function(gate.validate, inner, serialization=serialization)
    if not has_default:
        return outer
    return {key: value for key, value in schema.items() if key != "serialization"} | {"schema": outer}


def _model_fields(cls: type[BaseModel], schema: Any, handler: GetCoreSchemaHandler) -> Any:
    """Walk in through the validators round a model to where its fields are."""
    while schema["type"] != "model-fields":
        if schema.get("root_model"):
            raise MappingError(
                f"{cls.__name__} is a RootModel with a privkit marker on its root.",
                "What a purpose does not need could not be left out of it.",
                "Make it a field of a PersonalModel, or mark the fields of the models that it holds.",
            )
        if "schema" not in schema:
            raise _unknown(cls, "its schema has no fields.")
        schema = handler.resolve_ref_schema(schema["schema"])
    return schema


def _unknown(cls: type[BaseModel], what: str) -> MappingError:
    return MappingError(
        f"{cls.__name__} cannot be protected: {what}",
        "Its personal fields would be collected and dumped for any purpose.",
        "Declare marked fields as plain pydantic fields, not as class variables or private attributes.",
    )

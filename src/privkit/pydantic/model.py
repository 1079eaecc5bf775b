"""``PersonalModel``: a pydantic model whose markers run.

    class RiderIn(PersonalModel, unneeded="drop"):
        email: Annotated[str | None, Personal("user.contact.email", purposes={"account"})] = None
        country: Annotated[str, NotPersonal("two-letter code")]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticSerializationError, PydanticSerializationUnexpectedValue, ValidationError

from privkit import catalog, purposes
from privkit.errors import MappingError, PurposeError
from privkit.policy import Policy
from privkit.policy.resolve import resolve
from privkit.pydantic.gates import refusal_of, stop, unserialisable
from privkit.pydantic.plan import Plan, not_readable
from privkit.pydantic.redaction import redacted
from privkit.pydantic.schema import gated
from privkit.pydantic.screen import refusal_on, screened


class PersonalModel(BaseModel):
    """A model that holds personal data: collected and dumped for a purpose, and silent in every text form.

    The class keyword ``unneeded`` says what validation does with a value that the purpose does not need:
    ``"drop"`` (the default) puts the field's default in its place, ``"refuse"`` raises PurposeError. A required
    field cannot be dropped and is refused. Without a purpose every personal value in the input is refused. A
    value already at the precision of the purpose (an H3 id, a year, an age band) is taken as it is.

    A dump has the fields that the purpose needs, at its precision, nested models included, and raises
    PurposeError without a purpose when a personal field is set and not excluded. Inside a TypeAdapter or a plain
    model pydantic turns that into its own PydanticSerializationError, with the same message.

    Errors and ``repr`` show names alone; a value shows in ``repr`` only where it is decided as NotPersonal.

    Limits. The instance itself holds what it was given: attributes, ``dict(model)``, ``vars``, ``copy`` and pickle
    are memory, and ``model_construct``, ``model_copy(update=...)`` and assignment put values in without a
    purpose (``validate_assignment=True`` makes the last one ask); all dumps still obey. pydantic itself reports
    what is wrong *around* a PersonalModel: hand errors of plain models and TypeAdapters to ``redacted``. A
    validator with JSON input sees it parsed, so ``strict=True`` refuses a date written as JSON text.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    __unneeded__: ClassVar[Literal["drop", "refuse"]] = "drop"
    __plan__: ClassVar[Plan | None] = None

    def __init_subclass__(cls, *, unneeded: Literal["drop", "refuse"] | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if unneeded not in (None, "drop", "refuse"):
            raise MappingError(
                f"{cls.__name__} has an unknown way with unneeded values.", "", 'Give unneeded="drop" or "refuse".'
            )
        if unneeded is not None:
            cls.__unneeded__ = unneeded

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        fields = {name: field for name, field in catalog.read(cls).fields.items() if not name.startswith("_")}
        return gated(
            cls, handler(source), handler, fields, cls.__unneeded__ == "refuse", cls._validated, cls._serialised
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        cls._plan().describe(handler.resolve_ref_schema(schema).get("properties", {}), handler.mode)
        return schema

    @classmethod
    def _plan(cls) -> Plan:
        plan = cls.__dict__.get("__plan__")
        if plan is None:
            plan = cls.__plan__ = Plan(cls, cls.__unneeded__ == "refuse")
        return plan

    @classmethod
    def _validated(cls, value: Any, handler: Any) -> Any:
        plan, scope, screen = cls._plan(), purposes.current(), None
        assignment = type(handler).__name__ == "AssignmentValidatorCallable"
        if plan.gates and not assignment:
            if isinstance(value, cls):
                value = plan.minimised(value, scope)
            else:
                value, screen = screened(value, plan.hidden(scope), scope)
        try:
            result = handler(value)
        except ValidationError as error:
            failure: Exception = redacted(error, cls)
        else:
            refusal = refusal_on(screen)
            if refusal is None:
                return result if assignment else cls._forgetting(result, plan, scope)
            failure = refusal
        raise refusal_on(screen) or failure

    @classmethod
    def _forgetting(cls, result: Any, plan: Plan, scope: purposes.Scope | None) -> Any:
        """A field that was dropped was not set."""
        denied = plan.denied(scope)
        if denied and isinstance(result, cls):
            result.model_fields_set.difference_update(gate.field.name for gate in denied)
        return result

    @classmethod
    def _serialised(cls, value: Any, handler: Any) -> Any:
        if not isinstance(value, cls):
            handler(value)  # which answers for a union that is still looking for the right model
            stop(_not_validated(cls))
        plan, scope = cls._plan(), purposes.current()
        denied = plan.denied(scope)
        if denied:
            # without a purpose a value stays, for its gate to refuse unless it is excluded
            kept = plan.held(value, denied) if scope is None else ()
            value = plan.without(value, {gate.field.name for gate in denied if gate not in kept})
        unexpected: str | None = None
        try:
            return handler(value)
        except PydanticSerializationUnexpectedValue:
            unexpected = f"{cls.__name__} does not hold values of its declared types."
        except AttributeError as error:
            missing = next((gate.field.name for gate in denied if gate.field.name == error.name), None)
            failure = not_readable(cls, missing, scope) if missing else unserialisable(cls.__name__)
        except Exception as error:
            failure = refusal_of(error) or unserialisable(cls.__name__)
        if unexpected:
            raise PydanticSerializationUnexpectedValue(unexpected)
        stop(failure)

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        shown = type(self)._plan().declared.not_personal
        for name, info in type(self).model_fields.items():
            if info.repr and name in vars(self):
                value = vars(self)[name]
                yield name, value if name in shown or _silent(value) else _HIDDEN

    if not TYPE_CHECKING:  # pydantic's own signatures are better than a repetition of them

        def __setattr__(self, name: str, value: Any) -> None:
            gate = type(self)._plan().gates.get(name) if self.model_config.get("validate_assignment") else None
            scope = purposes.current()
            if gate is not None and gate.precision(scope) is None:
                raise gate.refusal(scope) or not_needed(gate.field, scope)
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                failure = redacted(error, type(self))
            else:
                return
            raise failure

        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Any:
            """Validate JSON text; what is wrong with the text itself is told without showing it."""
            try:
                return super().model_validate_json(json_data, **options)
            except ValidationError as error:
                failure = redacted(error, cls)
            raise failure

        def model_dump(self, **options: Any) -> dict[str, Any]:
            """Dump what the current purpose needs. pydantic's warnings are off: they print values."""
            return _dumped(type(self), super().model_dump, options)

        def model_dump_json(self, **options: Any) -> str:
            """Dump what the current purpose needs, as JSON. pydantic's warnings are off: they print values."""
            return _dumped(type(self), super().model_dump_json, options)

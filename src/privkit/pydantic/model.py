"""``PersonalModel``: a pydantic model whose markers run.

class RiderIn(PersonalModel, unneeded="drop"):
    email: Annotated[str | None, Personal("user.contact.email", purposes={"account"})] = None
    country: Annotated[str, NotPersonal("two-letter code")]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from privkit import catalog
from privkit.errors import MappingError
from privkit.policy import Policy
from privkit.policy.resolve import resolve
from privkit.pydantic.json_schema import describe
from privkit.pydantic.plan import plan_of
from privkit.pydantic.schema import gated
from privkit.pydantic.wall import assigning, cleanly, dumping, serializer, validator


class _Hidden:
    def __repr__(self) -> str:
        return "..."


_HIDDEN = _Hidden()


class PersonalModel(BaseModel):
    """A model that holds personal data: collected and dumped for a purpose, and silent in every text form.

    The class keyword ``unneeded`` says what validation does with a value that the purpose does not need:
    ``"drop"`` (the default) puts the field's default in its place, ``"refuse"`` raises PurposeError. A required
    field cannot be dropped, so it is refused. Without a purpose every personal value in the input is refused;
    one that equals the field's default tells nothing and is none. Objects (``from_attributes``) are not even
    asked for what is not needed. A value already at the purpose's precision (an H3 id, a year, an age band), as
    the storage room hands it out, is taken as it is; where the purpose sees the field exactly it is refused. A StandIn
    comes from storage alone: text is not known to be one.

    A dump has the fields that the purpose needs, at its precision, nested models included; computed fields and
    serializers of the model see no more of its fields. Without a purpose it raises PurposeError when a personal field
    is set and not excluded. Inside a TypeAdapter or a plain model,
    pydantic turns that into its PydanticSerializationError, with the same message.

    Errors and ``repr`` show names alone; a value shows in ``repr`` only where it is declared NotPersonal.

    Limits:

    - What is not marked, and what ``extra="allow"`` lets in, is not held back; nor is what is marked in a plain
      model, a dataclass or a TypedDict: they have no gates.
    - The instance holds what it was given: attributes, ``dict(model)``, ``vars``, copies and pickle are memory.
      ``model_construct``, ``model_copy(update=...)`` and assignment put values in without a purpose (with
      ``validate_assignment=True`` assignment asks for one). All dumps still obey; a dict put in place of a nested
      model is refused, but not one in place of a list or a union of models.
    - What is wrong *around* a PersonalModel is told by pydantic itself, and broken JSON by a TypeAdapter: hand
      errors of plain models and TypeAdapters to ``redacted``. A validator's error that is neither a ValueError nor
      an AssertionError passes as it is, and local variables of other frames are beyond us.
    - pydantic hands JSON to a wrapped model parsed, so ``strict=True`` refuses a date that is JSON text.
    - A model's own ``before`` validator sees a screen in place of an object that something is hidden of, and all of a
      dict. What a model keeps in private attributes, and other models that its computed fields read, it sees whole.
    """

    model_config = ConfigDict(hide_input_in_errors=True)

    __unneeded__: ClassVar[Literal["drop", "refuse"]] = "drop"

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
        refuse = cls.__unneeded__ == "refuse"
        return gated(cls, handler(source), handler, fields, refuse, validator(cls, bool(fields)), serializer(cls))

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        describe(plan_of(cls), handler.resolve_ref_schema(schema).get("properties", {}), handler.mode)
        return schema

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        shown = plan_of(type(self)).declared.not_personal
        for name, info in type(self).model_fields.items():
            if info.repr and name in vars(self):
                value = vars(self)[name]
                yield name, value if name in shown or _is_silent(value, self) else _HIDDEN

    if not TYPE_CHECKING:  # pydantic's own signatures are better than a repetition of them

        def __setattr__(self, name: str, value: Any) -> None:
            assign = super().__setattr__
            assigning(self, name, lambda: assign(name, value))

        @classmethod
        def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> PersonalModel:
            """Validate JSON text. What is wrong with the text itself is told without showing it."""
            return cleanly(cls, super().model_validate_json, json_data, **options)

        @classmethod
        def parse_raw(cls, b: str | bytes, **options: Any) -> PersonalModel:
            """Do what pydantic deprecates, without showing the text."""
            return cleanly(cls, super().parse_raw, b, **options)

        def model_dump(self, **options: Any) -> dict[str, Any]:
            """Dump what the current purpose needs. pydantic's warnings are off: they print values."""
            return dumping(type(self), super().model_dump, options)

        def model_dump_json(self, **options: Any) -> str:
            """Dump what the current purpose needs, as JSON. pydantic's warnings are off: they print values."""
            return dumping(type(self), super().model_dump_json, options)


def check(policy: Policy, *models: type[PersonalModel]) -> None:
    """Check that ``policy`` knows every name that the models' markers use. Raises PolicyError with all mistakes."""
    resolve(policy, [catalog.read(model) for model in models], stored=False)


def _is_silent(value: Any, owner: PersonalModel) -> bool:
    """Whether a value's own repr shows no personal value."""
    if isinstance(value, list | tuple):
        return all(_is_silent(each, owner) for each in value)
    return isinstance(value, PersonalModel) and value is not owner

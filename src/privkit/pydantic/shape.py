"""Which models a document is made of, and that every field of them has a decision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Discriminator, RootModel
from pydantic.fields import FieldInfo

from privkit import catalog
from privkit.catalog import Model
from privkit.errors import MappingError
from privkit.pydantic.model import PersonalModel


@dataclass(frozen=True, slots=True)
class Shape:
    """The models of a document with their events, and the fields of each that hold other models."""

    models: Mapping[type, Model]
    holders: Mapping[type, tuple[str, ...]]


def shape_of(model: type[PersonalModel]) -> Shape:
    """Find what ``model`` is made of. Raises MappingError where a value would be stored without a decision."""
    todo, models, holders = [model], {}, {}
    while todo:
        cls = todo.pop()
        if cls not in models:
            models[cls] = _declared(cls)
            found = {name: _nested(cls, name, info, models[cls]) for name, info in cls.model_fields.items()}
            holders[cls] = tuple(name for name, nested in found.items() if nested)
            todo += [nested for each in found.values() for nested in each]
    own = models[model].events
    return Shape({cls: replace(each, events={**own, **each.events}) for cls, each in models.items()}, holders)


def _declared(cls: type[PersonalModel]) -> Model:
    cls.model_rebuild(raise_errors=False)
    declared = catalog.read(cls)
    for problem, fix in _problems(cls, declared):
        raise MappingError(
            f"{cls.__name__} cannot be stored as a document: {problem}.", "A personal value could be stored plain.", fix
        )
    return declared


def _problems(cls: type[PersonalModel], declared: Model) -> Iterator[tuple[str, str]]:
    if not cls.__pydantic_complete__:
        yield "it names types that are not defined", f"Define them, or call {cls.__name__}.model_rebuild()."
    if cls.model_config.get("extra") == "allow":
        yield 'extra="allow" lets in what nobody decided on', "Declare the fields that it is to hold."
    if cls.__pydantic_decorators__.model_serializers:
        yield "a model_serializer writes it", "Serialise its fields one by one: @field_serializer."
    for event, source in declared.events.items():
        if source not in cls.model_fields or source in declared.fields:
            yield f"the event {event!r} is no field of it that is not personal", "@events(" + event + '="..."): a time'


def _nested(cls: type[PersonalModel], name: str, info: FieldInfo, declared: Model) -> list[type[PersonalModel]]:
    """Return the models that a field holds. A field that holds anything else needs a decision of its own."""
    parts = list(_parts_of(info, f"{cls.__name__}.{name}", ()))
    nested = [part for part in parts if _is_personal(part)]
    if len(nested) < len(parts) and name not in declared.fields and name not in declared.not_personal:
        raise MappingError(
            f"{cls.__name__}.{name} has no decision: nobody said whether it is personal data.",
            "A document would store it plain.",
            'Say so: Annotated[..., Personal("...", purposes={"..."})], or Annotated[..., NotPersonal("why")].',
        )
    return nested


def _parts_of(info: FieldInfo, where: str, inside: tuple[type, ...]) -> Iterator[Any]:
    yield from _parts(info.annotation, _chosen((info, *info.metadata)), where, inside)


def _parts(annotation: Any, chosen: bool, where: str, inside: tuple[type, ...]) -> Iterator[Any]:
    """Yield the types that values are made of, without None. ``chosen``: a discriminator says which of a union."""
    if type(annotation).__name__ == "TypeAliasType":
        annotation = annotation.__value__
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is NoneType or annotation is Ellipsis:
        return
    if origin is Annotated:
        yield from _parts(arguments[0], chosen or _chosen(arguments[1:]), where, inside)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel) and not _is_personal(annotation):
        yield from _plain_parts(annotation, where, inside)
    elif not arguments or origin is Literal:
        yield annotation
    else:
        found = [list(_parts(each, False, where, inside)) for each in arguments]
        if origin in (Union, UnionType) and not chosen:
            _require_one([each for each in found if any(map(_is_personal, each))], where)
        for each in found:
            yield from each


def _plain_parts(model: type[BaseModel], where: str, inside: tuple[type, ...]) -> Iterator[Any]:
    """Look into a model that has no gates: a RootModel may hold models that have."""
    if model in inside:
        return
    fields = model.model_fields.items()
    parts = [part for name, info in fields for part in _parts_of(info, f"{where}.{name}", (*inside, model))]
    is_root = issubclass(model, RootModel)
    if catalog.read(model).fields or (not is_root and any(map(_is_personal, parts))):
        raise MappingError(
            f"{where} holds a {model.__name__}, which is no PersonalModel and holds personal data.",
            "Its values would be stored plain.",
            f"Make it one: class {model.__name__}(PersonalModel).",
        )
    yield from parts if is_root else (model,)


def _require_one(alternatives: list[list[Any]], where: str) -> None:
    if len(alternatives) > 1:
        raise MappingError(
            f"{where} is a union of several models without a discriminator.",
            "While values are sealed nobody could tell which of them a document holds.",
            'Give each a NotPersonal kind: Literal["..."], and the union Field(discriminator="kind").',
        )


def _chosen(metadata: Any) -> bool:
    return any(isinstance(each, Discriminator) or getattr(each, "discriminator", None) for each in metadata)


def _is_personal(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, PersonalModel)

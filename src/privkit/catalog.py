"""The only walker of annotations: reads what a class declares, whatever library the class comes from.

``read(Rider)`` gives a ``Model``: its fields with their markers, its decisions, its owners and events. It
sees through ``Mapped[...]``, ``Optional``, ``list[...]``, string annotations, inheritance and mixins. It
knows neither SQLAlchemy nor pydantic: which attributes *should* carry a decision is for their rooms to say.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, ForwardRef, Union, get_args, get_origin

from privkit.errors import MappingError
from privkit.markers import (
    ATTRIBUTE,
    Aggregate,
    ChildProtection,
    ClassMarker,
    DataSubject,
    Delete,
    Events,
    ExpireRow,
    Latest,
    NotPersonal,
    NotPersonalColumns,
    OwnedBy,
    Personal,
    Precision,
    Together,
)

_MARKER_NAMES = ("Personal", "Location", "BirthDate", "NotPersonal")
_MANY = (list, set, frozenset, tuple)


@dataclass(frozen=True, slots=True)
class Field:
    """One annotated attribute. ``id`` is the stable name that its sealed values are bound to."""

    owner: str
    name: str
    id: str
    marker: Personal
    python_type: Any
    many: bool

    @property
    def purposes(self) -> Mapping[str, Precision]:
        """The purposes that need the field, each with the precision it may see."""
        return dict(self.marker.purposes)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


@dataclass(frozen=True, slots=True)
class Model:
    """What a class declares. ``not_personal`` maps a field's name to the reason."""

    cls: type
    fields: Mapping[str, Field]
    not_personal: Mapping[str, str]
    data_subject: bool
    owners: tuple[str, ...]
    events: Mapping[str, str | Latest]
    expire_row: Delete | Aggregate | None
    child: ChildProtection | None
    together: tuple[tuple[str, ...], ...] = ()
    """Groups of fields and columns that are emptied at once."""

    @property
    def marked(self) -> bool:
        """Whether anything at all was declared."""
        return bool(self.fields or self.not_personal or self.data_subject or self.owners or self.events)


_Found = tuple[Personal | NotPersonal, Any, bool]
_outside: dict[type, dict[str, _Found]] = {}


def annotate(cls: type, markers: Mapping[str, Any]) -> None:
    """Declare fields of a class that cannot be edited: each by a marker, or by an ``Annotated`` type that holds one.

    Raises MappingError for what holds none.
    """
    for name, given in markers.items():
        found = (given, None, False) if isinstance(given, Personal | NotPersonal) else _search(given, cls, name)
        if found is None:
            raise MappingError(
                f"{cls.__name__}.{name} is annotated with no marker.",
                "",
                f"Give one: privacy.annotate({cls.__name__}, {name}=Personal(...)), or Annotated[str, Personal(...)].",
                name=name,
            )
        _outside.setdefault(cls, {})[name] = found


def read(cls: type) -> Model:
    """Read the declarations of ``cls`` and its bases. Raises MappingError where two of them disagree."""
    fields: dict[str, Field] = {}
    not_personal: dict[str, str] = {}
    for definer in reversed(cls.__mro__):
        for name, (marker, python_type, many) in _declared(definer):
            fields.pop(name, None)
            not_personal.pop(name, None)
            if isinstance(marker, NotPersonal):
                not_personal[name] = marker.because
            else:
                fields[name] = _field(cls, definer, name, marker, python_type, many)
    facts = list(_class_markers(cls))
    for columns in (fact for fact in facts if isinstance(fact, NotPersonalColumns)):
        for name in columns.names:
            if name in fields:
                raise MappingError(f"{cls.__name__}.{name} is declared personal and not personal.", name=name)
            not_personal[name] = columns.because
    return Model(
        cls=cls,
        fields=fields,
        not_personal=not_personal,
        data_subject=any(isinstance(fact, DataSubject) for fact in facts),
        owners=next((fact.paths for fact in facts if isinstance(fact, OwnedBy)), ()),
        events={
            event: source for fact in reversed(facts) if isinstance(fact, Events) for event, source in fact.sources
        },
        expire_row=next((fact.technique for fact in facts if isinstance(fact, ExpireRow)), None),
        child=next((fact for fact in facts if isinstance(fact, ChildProtection)), None),
        together=tuple(fact.names for fact in facts if isinstance(fact, Together)),
    )


def with_type(field: Field, python_type: Any) -> Field:
    """Return ``field`` with the type that its storage declares, where no annotation told it."""
    return replace(field, python_type=python_type)


def _declared(definer: type) -> Iterator[tuple[str, _Found]]:
    """What a class itself declares: in its annotations, then from outside."""
    for name, annotation in _annotations(definer):
        found = _search(annotation, definer, name)
        if found is not None:
            yield name, found
    yield from _outside.get(definer, {}).items()


def _class_markers(cls: type) -> Iterator[ClassMarker]:
    """The class's own markers first, then its bases'."""
    for definer in cls.__mro__:
        yield from definer.__dict__.get(ATTRIBUTE, ())


def _field(cls: type, definer: type, name: str, marker: Personal, python_type: Any, many: bool) -> Field:
    home = _home(cls, definer)
    return Field(home, name, marker.id or f"{home}.{name}", marker, python_type, many)


def _home(cls: type, definer: type) -> str:
    """The name of the table that the base-most mapped class below ``definer`` gave, or the class's own name.

    A class without a table of its own, as in single-table inheritance, has that of its base.
    """
    for candidate in reversed(cls.__mro__):
        if issubclass(candidate, definer):
            table = candidate.__dict__.get("__table__")
            name = getattr(table, "name", None) or candidate.__dict__.get("__tablename__")
            if isinstance(name, str):
                return name
    inherited = getattr(getattr(cls, "__table__", None), "name", None)
    return inherited if isinstance(inherited, str) else cls.__name__


def _annotations(definer: type) -> Iterator[tuple[str, Any]]:
    if definer is object or definer.__module__.partition(".")[0] in {"sqlalchemy", "pydantic", "sqlmodel"}:
        return
    if sys.version_info >= (3, 14):
        import annotationlib

        found = annotationlib.get_annotations(definer, format=annotationlib.Format.FORWARDREF)
    else:
        found = inspect.get_annotations(definer)
    yield from found.items()


def _search(annotation: Any, definer: type, name: str) -> _Found | None:
    """Find the one marker in an annotation, at any depth."""
    found = list(_markers(annotation, definer, many=False))
    if len({marker for marker, _, _ in found}) > 1:
        raise MappingError(
            f"{definer.__name__}.{name} carries two privkit markers.",
            "Only one decision can hold.",
            "Keep one of them.",
            name=name,
        )
    return found[0] if found else None


def _markers(annotation: Any, definer: type, *, many: bool) -> Iterator[_Found]:
    if isinstance(annotation, str | ForwardRef):
        annotation = _evaluate(annotation, definer)
    for alias in (annotation, get_origin(annotation)):
        if type(alias).__name__ == "TypeAliasType":  # type Email = Annotated[...], from Python 3.12 on
            yield from _markers(alias.__value__, definer, many=many)
    if get_origin(annotation) is Annotated:
        base, *metadata = get_args(annotation)
        own = [item for item in metadata if isinstance(item, Personal | NotPersonal)]
        for marker in own:
            yield marker, _bare(base), many or get_origin(_bare(base)) in _MANY
        yield from _markers(base, definer, many=many)
        return
    origin = get_origin(annotation)
    for argument in get_args(annotation):
        yield from _markers(argument, definer, many=many or origin in _MANY)


def _bare(annotation: Any) -> Any:
    """Strip ``| None`` and nested ``Annotated``."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            rest = [argument for argument in get_args(annotation) if argument is not NoneType]
            if len(rest) != 1:
                return annotation
            annotation = rest[0]
        else:
            return annotation


def _evaluate(annotation: str | ForwardRef, definer: type) -> Any:
    """Evaluate a string annotation where its class was written.

    What does not resolve is a name that its own library will resolve later (a relationship's target). A
    marker's name in it means that a decision would be lost, so that is an error.
    """
    text = annotation if isinstance(annotation, str) else annotation.__forward_arg__
    module = sys.modules.get(definer.__module__)
    try:
        return eval(text, dict(vars(module)) if module else {}, dict(vars(definer)))  # noqa: S307
    except (NameError, AttributeError, SyntaxError, TypeError) as error:
        if any(f"{name}(" in text for name in _MARKER_NAMES):
            raise MappingError(
                f"An annotation of {definer.__name__} holds a privkit marker but cannot be read ({error}).",
                "Its field would be left unprotected.",
                "Import every name it uses at the top of the module, not under TYPE_CHECKING.",
                cls=definer.__name__,
            ) from None
        return None

"""One gate for each personal field of a model: what comes in, what goes out, and at which precision."""

from __future__ import annotations

from contextvars import ContextVar
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NoReturn, get_args, get_origin
from uuid import UUID

from pydantic_core import (
    PydanticSerializationError,
    PydanticSerializationUnexpectedValue,
    PydanticUndefined,
    PydanticUseDefault,
    SchemaSerializer,
    core_schema,
)

from privkit import purposes
from privkit.catalog import Field
from privkit.clock import instant
from privkit.consent.age import cautious_today
from privkit.deidentify import refuse_reduced
from privkit.errors import InvalidValue, PrivkitError, PurposeError
from privkit.location import GeoPoint, GeoTrack
from privkit.markers import Exact, Precision
from privkit.purposes import Scope
from privkit.pydantic.coarse import coarsened, is_coarse
from privkit.pydantic.covering import Cover

_PLAIN = (str, bytes, bool, int, float, Decimal, UUID, date, datetime, time, timedelta, GeoPoint, GeoTrack)
_UNMARKED = frozenset((type(None), *_PLAIN)) - {int, bool}
"""Types whose values were never read at a lower precision; a subclass of them may have been."""
_CACHE = 256

REQUIRED = PydanticUndefined
FACTORY = object()
"""In place of a field's default: there is none, or it is made by a function."""


def current() -> Scope | None:
    """Return ``purposes.current()``, in a third of the time where the innermost block is no generator's."""
    entry = purposes.latest()
    return entry.scope if entry is not None and entry.open and entry.frame is None else purposes.current()


_refusal: ContextVar[PrivkitError | None] = ContextVar("privkit_pydantic_refusal", default=None)


class Gate:
    """The gate of one field. ``refuse``: a value that is not needed is an error, even where it could be dropped."""

    __slots__ = ("_precisions", "default", "field", "refuse")

    def __init__(self, field: Field, default: Any, refuse: bool) -> None:
        self.field, self.default, self.refuse = field, default, refuse
        self._precisions: dict[Scope, Precision | None] = {}

    def holds(self, value: Any) -> bool:
        """Return whether ``value`` is more than the field's default, which says nothing about anybody."""
        if self.default is REQUIRED or self.default is FACTORY:
            return self.default is REQUIRED or bool(value)
        return not (value is self.default or value == self.default)

    def precision(self, scope: Scope | None) -> Precision | None:
        """Return how exact a value ``scope`` may see, or None: not at all."""
        if scope is None:
            return None
        try:
            return self._precisions[scope]
        except KeyError:
            pass
        if len(self._precisions) >= _CACHE:
            self._precisions.clear()
        found = self._precisions[scope] = scope.precision(self.field.purposes)
        return found

    def refusal(self, scope: Scope | None) -> PurposeError | None:
        """Return the error for a value that ``scope`` does not need, or None where it may be dropped."""
        droppable = scope is not None and not self.refuse and self.default is not REQUIRED
        return None if droppable else not_needed(self.field, scope)

    def validate(self, value: Any, handler: Any) -> Any:
        """Let a value in, or drop or refuse it before any validator of the field sees it."""
        scope = current()
        precision = self.precision(scope)
        if precision is None and self.holds(value):
            raise self.refusal(scope) or PydanticUseDefault()
        if isinstance(precision, Exact):
            if type(value) not in _UNMARKED:
                refuse_reduced(self.field, value)
        elif precision is not None and is_coarse(precision, value):
            return value
        return handler(value)

    def serialize(self, value: Any, handler: Any) -> Any:
        """Let a value out at the precision of the purpose."""
        if type(value) is Cover:
            return self._covered(value, handler)
        precision = self.precision(current())
        if not isinstance(precision, Exact):
            seen = value if type(value) is Withheld else self.shown(value)
            if type(seen) is Withheld:
                raise stopped(seen.refusal)
            return seen
        if type(value) is not self.field.python_type and not _fits(self.field, value):
            return value  # the handler would warn, and print it
        return self._handled(value, handler)

    def _covered(self, cover: Cover, handler: Any) -> Any:
        """Write a value that a document will hold, and return the mark that stands in its place; None is None."""
        value, sealing = cover.value, cover.sealing
        if value is None:
            return None
        try:
            refuse_reduced(self.field, value)
            refused = None
        except PurposeError as error:
            refused = error
        if refused is not None:
            raise stopped(refused)
        if sealing.inside:
            return self._handled(value, handler)
        sealing.inside = True
        try:
            return sealing.hold(self.field, self._handled(value, handler))
        finally:
            sealing.inside = False

    def _handled(self, value: Any, handler: Any) -> Any:
        try:
            return handler(value)
        except PydanticSerializationUnexpectedValue:
            unexpected = True
        except Exception as error:
            unexpected, refused = False, refusal_of(error)
        if unexpected:
            raise PydanticSerializationUnexpectedValue(f"{self.field} does not hold a value of its declared type.")
        raise stopped(refused or unserialisable(str(self.field)))

    def shown(self, value: Any) -> Any:
        """Return what a dump, and code of the model in it, may see of a value: its precision of it, or Withheld."""
        scope = current()
        precision = self.precision(scope)
        if scope is None or precision is None:
            return Withheld(self.field.name, not_needed(self.field, scope))
        try:
            return coarsened(precision, value, lambda: cautious_today(instant(scope.clock)))
        except PrivkitError as error:
            refused = type(error)(f"{self.field}: {error.what}", error.why, error.fix, field=self.field.id)
        return Withheld(self.field.name, refused)


def not_needed(field: Field, scope: Scope | None) -> PurposeError:
    """Build the error for a field that the current purpose, or its absence, does not let through."""
    allowed = sorted(field.purposes)
    if scope is None:
        return PurposeError(
            f"{field} is personal data and no purpose is set.",
            "Personal data is collected and handed out for a purpose only.",
            purposes.how_to_open(allowed),
            field=field.id,
            allowed=allowed,
        )
    return PurposeError(
        f"{field} is not needed for {scope}.",
        purposes.why_not(field, scope),
        'Leave it out, work under one of them, or give the field a default and its model unneeded="drop".',
        field=field.id,
        purpose=scope.names,
        allowed=allowed,
    )


def _refuse(withheld: Any) -> NoReturn:
    raise stopped(withheld.refusal)


class Withheld:
    """Stands in place of a value that may not go out. Its field is refused, unless excluded; so is who reads it."""

    __slots__ = ("_field", "refusal")

    # what pydantic asks of an object that it meets anywhere in a dump
    __pydantic_serializer__ = SchemaSerializer(
        core_schema.any_schema(serialization=core_schema.plain_serializer_function_ser_schema(_refuse))
    )

    def __init__(self, field: str, refusal: PrivkitError) -> None:
        self._field, self.refusal = field, refusal

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(name=self._field)

    def _read(self, *_: Any) -> NoReturn:
        raise stopped(self.refusal)

    __repr__ = __format__ = __eq__ = __hash__ = __bool__ = __iter__ = __len__ = __getitem__ = _read


def unserialisable(name: str) -> InvalidValue:
    """Build the error for a serializer that failed."""
    return InvalidValue(
        f"{name} could not be serialised.",
        "The message of its serializer is not shown: it may quote a value.",
        "Serialise a made-up value for the same purpose: code of the model sees a field at the purpose's precision.",
    )


def stopped(error: PrivkitError) -> PydanticSerializationError:
    """Return ``error`` in the one form that pydantic hands on as it is, and keep it for ``refusal_of``."""
    _refusal.set(error)
    return PydanticSerializationError(str(error))


def refusal_of(error: Exception) -> PrivkitError | None:
    """Return the error that ``stopped`` was given, where ``error`` is what pydantic made of it."""
    kept = _refusal.get()
    return kept if kept is not None and str(kept) in str(error) else None


def handed_out(error: Exception) -> PrivkitError | None:
    """Return ``refusal_of`` and forget it: once raised, it would keep what its traceback keeps."""
    found = refusal_of(error)
    _refusal.set(None)
    return found


def _fits(field: Field, value: Any) -> bool:
    """Whether a value, or each of several, has the type that was declared. True where that is not for us to say."""
    kind = field.python_type
    if field.many and get_origin(kind) is None and isinstance(value, list | tuple | set | frozenset):
        return all(_is_a(kind, each) for each in value)
    return _is_a(kind, value)


def _is_a(kind: Any, value: Any) -> bool:
    if value is None or kind in _PLAIN:
        return value is None or isinstance(value, kind)
    if get_origin(kind) is list and get_args(kind):
        return isinstance(value, list) and all(_is_a(get_args(kind)[0], each) for each in value)
    return True

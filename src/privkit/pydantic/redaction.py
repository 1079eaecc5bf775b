"""Validation errors without a trace of their input.

pydantic keeps the input in ``errors()`` and ``json()`` even when told to hide it, a validator's message may quote
it, and a path names the keys of a dict. So an error is built anew, from what the *schema* says alone.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakKeyDictionary

from pydantic import BaseModel, TypeAdapter
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError, ValidationError

from privkit.errors import PrivkitError

HIDDEN = "..."

# What pydantic puts in an error's context from the schema, never from the input.
_FROM_SCHEMA = frozenset(
    {
        *("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "expected"),
        *("class", "class_name", "method_name", "field_type", "encoding", "expected_schemes", "discriminator"),
        *("max_digits", "decimal_places", "whole_digits", "expected_tags", "tz_expected", "expected_version"),
    }
)
_CHECKS = ("value_error", "assertion_error")


@dataclass(frozen=True, slots=True)
class _Words:
    """The strings a schema is made of, and whether a key of a dict may be a number."""

    known: frozenset[str]
    numbers: bool

    def shown(self, part: int | str) -> int | str:
        if isinstance(part, int):
            return HIDDEN if self.numbers else part
        step = _step(part)
        described = part in self.known if step is None else step in self.known or not step
        return part if described else HIDDEN


def _step(part: str) -> str | None:
    """The kind of schema in pydantic's names for a step into one: "[key]", "list[int]", "constrained-str"."""
    if part.startswith("constrained-"):
        return ""
    kind, bracket, _ = part.partition("[")
    return kind if bracket and part.endswith("]") else None


def redacted(error: ValidationError, model: Any = None) -> ValidationError:
    """Return a ValidationError with the types and places of ``error`` and nothing of its input.

    For handlers of plain models. ``model`` is the model or TypeAdapter that raised it: the path then names only
    what its schema names. Without it, a path keeps its numbers and everything that looks like an identifier, so a
    dict keyed by names would show them. Every ``input`` is None; the message of a validator is replaced, except
    for a PrivkitError's, which holds no value by rule.

    Raise the result outside the ``except`` block, or its ``__context__`` is the error with the values.
    """
    words = _words(model) if model is not None else None
    lines = [_line(line, words) for line in error.errors(include_url=False, include_input=False)]
    return ValidationError.from_exception_data(error.title, lines, hide_input=True)


def redacted_lines(lines: Iterable[Any], names: Collection[str]) -> list[dict[str, Any]]:
    """Return lines of ``errors()``, as web frameworks collect them, as type, place and message without input.

    A place shows the numbers and ``names`` in it.
    """
    words = _Words(frozenset(names), False)
    found = []
    for line in lines:
        error = ValidationError.from_exception_data("request", [_line(line, words)], hide_input=True)
        found += error.errors(include_url=False, include_input=False, include_context=False)
    return cast(list[dict[str, Any]], found)


def _line(line: Any, words: _Words | None) -> InitErrorDetails:
    kind, context = line["type"], dict(line.get("ctx") or {})
    loc = tuple(words.shown(part) if words else _guessed(part) for part in line.get("loc", ()))
    found: InitErrorDetails = {"type": kind, "loc": loc, "input": None}
    raised = context.get("error")
    if isinstance(raised, PrivkitError) and kind in _CHECKS:
        # a copy has neither the traceback nor the chain of the original
        return {**found, "ctx": {"error": copy.copy(raised)}}
    safe = {key: value for key, value in context.items() if key in _FROM_SCHEMA}
    if safe.keys() == context.keys() and _is_known(kind, safe):
        return {**found, "ctx": safe} if safe else found
    what = "A check of the model refused the value" if kind in _CHECKS else "The value is not valid"
    return {**found, "type": PydanticCustomError(kind, cast(Any, what), safe or None)}


def _is_known(kind: str, context: dict[str, Any]) -> bool:
    try:
        PydanticKnownError(cast(Any, kind), context or None)
    except (KeyError, TypeError, ValueError):
        return False
    return True


def _guessed(part: int | str) -> int | str:
    if isinstance(part, int):
        return part
    step = _step(part)
    name = part if step is None else step.replace("-", "_") or "key"
    return part if name.isidentifier() else HIDDEN


_read: WeakKeyDictionary[Any, _Words] = WeakKeyDictionary()


def _words(model: Any) -> _Words:
    words = _read.get(model)
    if words is None:
        is_model = isinstance(model, type) and issubclass(model, BaseModel)
        if is_model and not model.__pydantic_complete__:
            return _Words(frozenset(), True)
        schema = model.__pydantic_core_schema__ if is_model else cast(TypeAdapter[Any], model).core_schema
        found = list(_strings(schema))
        words = _Words(frozenset(word for word in found if word is not None), None in found)
        _read[model] = words
    return words


def _strings(schema: Any) -> Iterator[str | None]:
    """Yield every string of a core schema, and None for a dict whose keys may be numbers."""
    if isinstance(schema, str):
        yield schema
    elif isinstance(schema, type):
        yield schema.__name__
    elif isinstance(schema, Mapping):
        if schema.get("type") == "dict" and schema.get("keys_schema", {}).get("type") != "str":
            yield None
        for key, value in schema.items():
            yield from _strings(key)
            yield from _strings(value)
    elif isinstance(schema, list | tuple):
        for each in schema:
            yield from _strings(each)

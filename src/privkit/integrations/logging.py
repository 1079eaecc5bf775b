"""A logging filter that keeps personal data out of records, whatever was handed to the logger.

handler = logging.StreamHandler()
handler.addFilter(PersonalFilter())
"""

from __future__ import annotations

import logging
from collections import UserList, deque
from collections.abc import ItemsView, Iterable, KeysView, Mapping, ValuesView
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from pydantic_core import ValidationError
from sqlalchemy import Row, RowMapping

from privkit import catalog
from privkit.location import Fix, GeoPoint, GeoTrack
from privkit.pydantic import PersonalModel, redacted

_DEEPEST = 8
_CONTAINERS = (list, tuple, set, frozenset, deque, UserList, KeysView, ValuesView, ItemsView)
_SIMPLE = (str, bytes, int, float, bool, type(None))
_not_personal: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


class PersonalFilter(logging.Filter):
    """Puts ``<Rider: personal data>`` in the place of each personal object of a record, and never asks it for a text.

    Personal are: PersonalModels, and objects of every class with markers; GeoPoints and GeoTracks; SQLAlchemy rows,
    whose text shows what was selected. They are found in the message, its arguments, ``extra`` and in exceptions; in
    whatever shows them in its own text too: containers, dataclasses, models, exception groups, bound methods. A
    pydantic ValidationError keeps types and places and loses its input.

    Add it to handlers, not to loggers: a logger's filter does not see what its children log. It lets every record
    pass. What was put into a string before it was logged cannot be told from other text; a handler that records the
    local variables of frames finds what stands in them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Take personal data out of ``record``."""
        found = record.exc_info
        for name, value in vars(record).items():
            if name != "exc_info" and type(value) not in _SIMPLE:
                setattr(record, name, without_personal(value))
        if isinstance(found, tuple) and found[1] is not None:
            record.exc_info = clean_exc_info(found)
            if record.exc_info is not found:
                record.exc_text = None  # a handler without this filter made it
        return True


def is_personal(value: Any) -> bool:
    """Return whether ``value`` is an object that holds personal data by its class."""
    cls = type(value)
    if cls.__module__ == "builtins" or cls in _not_personal:
        return False
    if isinstance(value, PersonalModel | GeoPoint | GeoTrack | Fix | Row | RowMapping):
        return True
    try:
        found = bool(catalog.read(cls).fields)
    except Exception:
        return True  # a class whose annotations cannot be read tells nothing about its objects
    if not found and not hasattr(cls, "__mapper__"):  # a mapped class may yet be annotated from outside
        _not_personal[cls] = True
    return found


def holds_personal(value: Any) -> bool:
    """Return whether ``value`` is personal, or holds what is, however deep. What cannot be read is taken for it."""
    seen, todo = {}, [value]
    while todo:
        each = todo.pop()
        if type(each) in _SIMPLE or id(each) in seen:
            continue
        seen[id(each)] = each  # kept alive, so that no other object gets its id
        if is_personal(each) or (isinstance(each, BaseException) and _quotes_input(each)):
            return True
        try:
            todo += _members(each)
        except Exception:
            return True
    return False


def _members(value: Any) -> Iterable[Any]:
    """Return what an object of a common kind shows in its text."""
    if isinstance(value, Mapping):
        return [each for pair in value.items() for each in pair]
    if isinstance(value, _CONTAINERS):
        return list(value)
    if isinstance(value, BaseException):
        members = value.exceptions if isinstance(value, BaseExceptionGroup) else ()
        return [*value.args, *vars(value).values(), *members, value.__cause__, value.__context__]
    if isinstance(value, SimpleNamespace) or hasattr(type(value), "__pydantic_fields__"):
        return [*vars(value).values(), getattr(value, "__pydantic_extra__", None)]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__self__]
    if is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name, None) for field in fields(value)]
    return ()


def without_personal(value: Any, depth: int = 0) -> Any:
    """Return ``value`` with a text in place of every personal object in it. What holds none is returned as it is."""
    if not holds_personal(value):
        return value
    if isinstance(value, BaseException):
        return clean_exception(value)
    if depth < _DEEPEST and not is_personal(value) and isinstance(value, (Mapping, *_CONTAINERS)):
        with suppress(Exception):  # it cannot be read, or was changed meanwhile
            return _inside(value, depth + 1)
    return _text(value)


def _inside(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        return {
            _text(key) if holds_personal(key) else key: without_personal(each, depth) for key, each in value.items()
        }
    clean = [without_personal(each, depth) for each in value]
    return tuple(clean) if isinstance(value, tuple) else clean


def _text(value: Any) -> str:
    return f"<{type(value).__name__}: personal data>"


def clean_exc_info(found: Any) -> Any:
    """Return an ``exc_info`` without personal data; the same one where it has none."""
    error = clean_exception(found[1])
    return found if error is found[1] else (type(error), error, found[2])


def clean_exception(error: BaseException, seen: frozenset[int] = frozenset()) -> BaseException:
    """Return ``error``, or a stand-in without personal data where it, or one it is chained to, holds some.

    The stand-in of a class that is not pydantic's has its name, not its type.
    """
    seen |= {id(error)}
    chain = [each if each is None or id(each) not in seen else None for each in (error.__cause__, error.__context__)]
    links = [each and clean_exception(each, seen) for each in chain]
    made = _stand_in(error, seen)
    if made is error and all(new is old for new, old in zip(links, chain, strict=True)):
        return error
    made = made if made is not error else _renamed(error, str(error))
    made.__cause__, made.__context__ = links
    made.__suppress_context__ = error.__suppress_context__
    return made.with_traceback(error.__traceback__)


def _stand_in(error: BaseException, seen: frozenset[int]) -> BaseException:
    if isinstance(error, ValidationError):
        return redacted(error)
    if isinstance(error, BaseExceptionGroup):
        members = [clean_exception(each, seen) for each in error.exceptions]
        same = all(new is old for new, old in zip(members, error.exceptions, strict=True))
        return error if same else BaseExceptionGroup(error.message, members)
    if _quotes_input(error) or holds_personal((error.args, vars(error))):
        return _renamed(error, "(personal data, not shown)")
    return error


def _quotes_input(error: BaseException) -> bool:
    return isinstance(error, ValidationError) or (
        type(error).__module__ == "fastapi.exceptions" and hasattr(error, "errors")
    )


def _renamed(error: BaseException, text: str) -> BaseException:
    cls = type(error)
    made: BaseException = type(cls.__name__, (Exception,), {"__module__": cls.__module__})(text)
    return made

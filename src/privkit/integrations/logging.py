"""A logging filter that keeps personal data out of records, whatever was handed to the logger.

handler = logging.StreamHandler()
handler.addFilter(PersonalFilter())
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from pydantic_core import ValidationError
from sqlalchemy import Row, RowMapping

from privkit import catalog
from privkit.location import GeoPoint
from privkit.pydantic import PersonalModel, redacted

_DEEPEST = 8
_CONTAINERS = (Mapping, list, tuple, set, frozenset, deque)
_SIMPLE = (str, bytes, int, float, bool, type(None))
_not_personal: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


class PersonalFilter(logging.Filter):
    """Puts ``<Rider: personal data>`` in the place of each personal object of a record, and never asks it for a text.

    Personal are: PersonalModels, and objects of every class with markers; GeoPoints; SQLAlchemy rows, whose text shows
    what was selected. They are found in the message, its arguments, ``extra`` and in exceptions; inside lists, tuples,
    sets, dicts and exception groups too. A pydantic ValidationError keeps types and places and loses its input.

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
    if isinstance(value, PersonalModel | GeoPoint | Row | RowMapping):
        return True
    try:
        found = bool(catalog.read(cls).fields)
    except Exception:
        return True  # a class whose annotations cannot be read tells nothing about its objects
    if not found and not hasattr(cls, "__mapper__"):  # a mapped class may yet be annotated from outside
        _not_personal[cls] = True
    return found


def without_personal(value: Any, depth: int = 0) -> Any:
    """Return ``value`` with a text in place of every personal object in it. What holds none is returned as it is."""
    if type(value) in _SIMPLE:
        return value
    if is_personal(value):
        return f"<{type(value).__name__}: personal data>"
    if isinstance(value, BaseException):
        return clean_exception(value)
    if isinstance(value, _CONTAINERS):
        return _inside(value, depth + 1) if depth < _DEEPEST else "<...>"
    return value


def _inside(value: Any, depth: int) -> Any:
    flat = [each for pair in value.items() for each in pair] if isinstance(value, Mapping) else list(value)
    clean = [without_personal(each, depth) for each in flat]
    if all(new is old for new, old in zip(clean, flat, strict=True)):
        return value
    if isinstance(value, Mapping):
        return dict(zip(clean[::2], clean[1::2], strict=True))
    return tuple(clean) if isinstance(value, tuple) else clean


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
    quotes_input = type(error).__module__ == "fastapi.exceptions" and hasattr(error, "errors")
    if quotes_input or without_personal(error.args) is not error.args:
        return _renamed(error, "(personal data, not shown)")
    return error


def _renamed(error: BaseException, text: str) -> BaseException:
    cls = type(error)
    made: BaseException = type(cls.__name__, (Exception,), {"__module__": cls.__module__})(text)
    return made

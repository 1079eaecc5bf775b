"""Takes row data out of what SQLAlchemy and the drivers leave behind: errors, frames of tracebacks, logs.

A driver's first line may name a constraint, a table or a column. Its DETAIL and CONTEXT quote the row, and so does
the first line where the database could not take a value. What names objects of the schema alone stays, so that an
application can still tell which constraint was broken.
"""

from __future__ import annotations

import functools
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import ArgumentError, DBAPIError

from privkit.catalog import Field
from privkit.errors import InvalidValue, PrivkitError, SearchError

Processor = Callable[[Any], Any]

_ROW_LINES = re.compile(r"\n(?:DETAIL|CONTEXT|HINT|QUERY|WHERE|LINE \d+):")
_CLASS = re.compile(r"<class '[\w.]+'>: |")
_QUOTED = re.compile(r"([\"'`]).*\1", re.DOTALL)
_SCHEMA_ONLY = {"08", "0A", "23", "25", "26", "28", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "XX"}
"""Classes of SQLSTATE (PostgreSQL 17, appendix A) whose first line names objects of the schema, and no value."""
_RAISED = ("P0", "38", "39", "SQLITE_CONSTRAINT_TRIGGER")
"""Errors in words that the application's own functions and triggers chose."""
_ABOUT_ROWS = ("detail", "hint", "context", "where", "internal_query")
_ABOUT_SCHEMA = b"SVCstcdn"
"""PostgreSQL's codes (manual, 53.8) of severity, SQLSTATE, schema, table, column, type and constraint."""


def quieten(engine: Engine) -> None:
    """Keep parameters and result rows out of an engine's log, whatever its ``echo`` says, and out of its driver's."""
    engine.hide_parameters = True
    engine._should_log_debug = _never  # type: ignore[method-assign]
    if engine.driver == "aiosqlite":
        logging.getLogger("aiosqlite").addFilter(_without_arguments)


def _never() -> bool:
    return False


def _without_arguments(record: logging.LogRecord) -> bool:
    """aiosqlite logs each call that it makes; statements and parameters are its arguments."""
    if isinstance(record.args, tuple):
        record.args = tuple(getattr(each, "func", each) for each in record.args)
    return True


def clean(error: BaseException) -> None:
    """Clear the variables of the frames that an error and those it is chained to have left: values stand in them."""
    for each in _chain(error):
        traceback.clear_frames(each.__traceback__)
        if isinstance(each, UnicodeEncodeError):
            each.object = ""
            each.args = (each.encoding, "", each.start, each.end, each.reason)
        elif isinstance(each, AttributeError):
            each.obj = None


def clean_driver_error(wrapped: DBAPIError) -> None:
    """Take the row out of a driver's error, out of those behind it, and out of what SQLAlchemy made of it."""
    original = wrapped.orig
    assert original is not None
    for each in _chain(original):
        if not isinstance(each, PrivkitError | UnicodeError):
            each.args = tuple(_without_row(each, part) for part in each.args)
            _clean_attributes(each)
    wrapped.params = None
    wrapped.args = (f"({type(original).__module__}.{type(original).__name__}) {original}",)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: dict[int, BaseException] = {}
    waiting: list[Any] = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen[id(each)] = each
            waiting += [each.__cause__, each.__context__, *vars(each).values(), *each.args]
            yield each


def _without_row(error: BaseException, part: Any) -> Any:
    if not isinstance(part, str):
        return part
    state = str(getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None) or "")
    start = _CLASS.match(part)
    assert start is not None
    line = _ROW_LINES.split(part[start.end() :])[0]
    if state.startswith(_RAISED):
        line = "A function or trigger of the database refused the statement"
    elif state[:2] not in _SCHEMA_ONLY:
        line = _QUOTED.sub('"..."', line)
    if state.startswith("22") or "DataError" in type(error).__name__:
        line = line.partition(": ")[0]
    return start[0] + line


def _clean_attributes(error: Any) -> None:
    """asyncpg has what the database said as attributes, psycopg as a result that it reads them from."""
    for name in _ABOUT_ROWS:
        if getattr(error, name, None) is not None:
            setattr(error, name, None)
    if isinstance(getattr(error, "message", None), str):
        error.message = error.args[0]
    if getattr(error, "_info", None) is not None:
        said = error.__reduce__()[2]["_info"]  # as psycopg pickles it
        error._info = {code: text for code, text in said.items() if code in _ABOUT_SCHEMA}
        error._pgconn = None


def converting(field: Field, convert: Processor | None) -> Processor | None:
    """Return a column type's own conversion of values to be stored, whose errors show none."""
    if convert is None:
        return None

    def process(value: Any) -> Any:
        try:
            return convert(value)
        except PrivkitError:
            raise
        except Exception:
            refusal = unconverted(field, "written as")
        value = None
        raise refusal  # out here, so that the original error, which may hold the value, is not chained

    return process


def comparing(operate: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a comparator's method: what it raises shows none of the values that were to be compared."""

    @functools.wraps(operate)
    def quiet(comparator: Any, op: Any, *other: Any, **kwargs: Any) -> Any:
        refusal: Exception
        try:
            return operate(comparator, op, *other, **kwargs)
        except ArgumentError as error:
            refusal = _uncompared(comparator.type, op)
            clean(error)
        except Exception as error:
            refusal = error
            clean(error)
        other, kwargs = (), {}
        raise refusal

    return quiet


def _uncompared(kind: Any, op: Any) -> SearchError:
    return SearchError(
        f"{getattr(kind, 'field', kind)} cannot be compared by {getattr(op, '__name__', op)!r} with what it was given.",
        "SQLAlchemy's own error would quote it.",
        "Give in_() a list of values, and the others one value.",
    )


def unconverted(field: Field, what: str) -> InvalidValue:
    """Build the error for a value that a column's type could not convert."""
    return InvalidValue(
        f"A value of {field} could not be {what} its column's type.",
        "The type's own error may quote the value, so it is not shown.",
        "Give the value as the model declares it; to see the original error, convert a made-up value.",
        field=field.id,
    )

"""Finds the application's ``Privacy`` object and its database, from options, the environment or pyproject.toml.

A URL holds a password and an exception's text may hold a value, so neither is ever repeated: an error names where
the URL was given, and what kind of exception it was.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import URL, Engine, create_engine, inspect, make_url
from sqlalchemy.exc import SQLAlchemyError

from privkit import purposes
from privkit.errors import ApplicationError, PrivkitError
from privkit.privacy import Privacy

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class _Named:
    """A setting, where it was given, and the folder from which it is meant."""

    value: str
    source: str
    folder: Path


def load_privacy(app: str | None) -> Privacy:
    """Import ``module:name``. Raises ApplicationError where there is none, or it is no ``Privacy``."""
    named = _named(app, "app")
    if named is None:
        raise ApplicationError(
            "No application was named.",
            "The models, the policy and the keys are found through its Privacy object.",
            'Give --app rides.models:privacy, or in pyproject.toml: [tool.privkit] app = "rides.models:privacy"',
        )
    if not _TARGET.fullmatch(named.value):
        raise ApplicationError(
            f"{named.source} is not of the form module:name.", "", "Example: --app rides.models:privacy"
        )
    module, _, name = named.value.partition(":")
    sys.path[:0] = dict.fromkeys([str(Path.cwd()), str(named.folder)])
    try:
        found = getattr(_imported(module), name)
    except AttributeError:
        raise ApplicationError(f"{module} has no {name!r}.", "", f"Check {named.source}.") from None
    if not isinstance(found, Privacy):
        raise ApplicationError(
            f"{named.value} is of type {type(found).__name__}, not Privacy.", "", f"Check {named.source}."
        )
    return found


def load_named(target: str, option: str) -> Any:
    """Import ``module:name``, whatever it is. Raises ApplicationError where there is none."""
    if not _TARGET.fullmatch(target):
        raise ApplicationError(f"{option} is not of the form module:name.", "", f"Example: {option} rides.models:Rider")
    module, _, name = target.partition(":")
    sys.path[:0] = [str(Path.cwd())]
    try:
        return getattr(_imported(module), name)
    except AttributeError:
        raise ApplicationError(f"{module} has no {name!r}.", "", f"Check {option}.") from None


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except PrivkitError:
        raise
    except (Exception, SystemExit) as error:  # a module that calls sys.exit() must not pass for a green run
        raise ApplicationError(
            f"{module} cannot be imported: {_reason(error)}.",
            "What the exception says is not shown: it may hold a value or a password.",
            f"See it with: python -c 'import {module}'",
        ) from None


def _reason(error: BaseException) -> str:
    kind = type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"there is no module {error.name!r}"
    if isinstance(error, SyntaxError):
        return f"{kind} in {error.filename}, line {error.lineno}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{kind} in {last.filename}, line {last.lineno}"


@contextmanager
def database(privacy: Privacy, url: str | None) -> Iterator[Engine]:
    """Hand out an engine for the named database, and say of its errors what can be said without their text.

    Raises ApplicationError where no URL is given, it cannot be used, or the database fails.
    """
    named = _named(url, "url")
    if named is None:
        raise ApplicationError(
            "No database was named.",
            "",
            'Give --url sqlite:///rides.sqlite, set PRIVKIT_URL, or in pyproject.toml: [tool.privkit] url = "..."',
        )
    engine = _engine(named)
    try:
        yield engine
    except SQLAlchemyError as error:
        raise _explained(error, privacy, engine, named.source) from None
    finally:
        engine.dispose()


@contextmanager
def database_if_named(privacy: Privacy, url: str | None) -> Iterator[Engine | None]:
    """Hand out the same engine, or None where no database is named anywhere. One that is named has to work."""
    if _named(url, "url") is None:
        yield None
        return
    with database(privacy, url) as engine:
        yield engine


def _engine(named: _Named) -> Engine:
    try:
        url = make_url(named.value)
        engine = create_engine(url)
    except (SQLAlchemyError, ImportError, ValueError, TypeError) as error:
        raise ApplicationError(
            f"The database URL of {named.source} cannot be used ({type(error).__name__}).",
            "It is not shown: it may hold a password.",
            "Its form is dialect+driver://name:password@host:port/database; special characters are percent-encoded,\n"
            "and the driver has to be installed: pip install 'privkit[postgresql]'",
        ) from None
    if engine.dialect.is_async:
        raise ApplicationError(
            f"The database URL of {named.source} names an asynchronous driver ({engine.dialect.driver}).",
            "The commands work on one connection, one statement at a time.",
            "Name a synchronous one, such as postgresql+psycopg or sqlite.",
        )
    _require_file(url, named.source)
    return engine


def _require_file(url: URL, source: str) -> None:
    """SQLite would make an empty database of a mistyped name, in which nothing is overdue."""
    name = url.database or ""
    if url.get_backend_name() == "sqlite" and not name.startswith("file:") and not Path(name).is_file():
        raise ApplicationError(
            f"There is no database file at {name or 'the empty path'}.",
            "A command never creates a database.",
            f"Check {source}; a relative path starts at the current folder.",
        )


def _explained(error: SQLAlchemyError, privacy: Privacy, engine: Engine, source: str) -> ApplicationError:
    kind = type(getattr(error, "orig", None) or error).__name__
    try:
        missing = _missing_tables(privacy, engine)
    except SQLAlchemyError:
        return ApplicationError(
            f"The database of {source} does not answer ({engine.dialect.name}, {kind}).",
            "What the driver says is not shown: it may hold a value or a password.",
            "Check that it runs, and the host, port, name and account in the URL.",
        )
    if missing:
        return ApplicationError(
            f"The database of {source} lacks tables: {', '.join(missing)}.",
            "Nothing was changed.",
            "Create them with a migration or Base.metadata.create_all(engine), or check the URL.",
            tables=missing,
        )
    return ApplicationError(
        f"The database refused a statement ({engine.dialect.name}, {kind}).",
        "What the driver says is not shown: it may hold a value.",
        "privkit check compares the models with the database; its own log says more.",
    )


def _missing_tables(privacy: Privacy, engine: Engine) -> list[str]:
    metadatas = {id(table.metadata): table.metadata for table in privacy.guard.tables}.values()
    with purposes.internally(), engine.connect() as connection:
        inspector = inspect(connection)
        return sorted(
            table.fullname
            for metadata in metadatas
            for table in metadata.tables.values()
            if not inspector.has_table(table.name, schema=table.schema)
        )


def _named(given: str | None, key: str) -> _Named | None:
    variable = f"PRIVKIT_{key.upper()}"
    if given:
        return _Named(given, f"--{key}", Path.cwd())
    if os.environ.get(variable):
        return _Named(os.environ[variable], variable, Path.cwd())
    path, table = _settings()
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ApplicationError(
            f"{key} of [tool.privkit] in {path} is not a text.", "", 'Example: app = "rides:privacy"'
        )
    return _Named(value, f"[tool.privkit] in {path}", path.parent)


def _settings() -> tuple[Path, dict[str, Any]]:
    """Return ``[tool.privkit]`` of the pyproject.toml in this folder or the nearest one above, and where that is."""
    path = next((path for path in _candidates() if path.is_file()), None)
    if path is None:
        return Path("pyproject.toml"), {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("privkit", {})
    except (OSError, ValueError) as error:
        raise ApplicationError(f"{path} cannot be read as TOML ({type(error).__name__}).", "", "Mend it.") from None
    if not isinstance(table, dict):
        raise ApplicationError(f"privkit under [tool] in {path} is not a table.", "", "Write it as [tool.privkit].")
    return path, table


def _candidates() -> Iterator[Path]:
    for folder in (Path.cwd(), *Path.cwd().parents):
        yield folder / "pyproject.toml"

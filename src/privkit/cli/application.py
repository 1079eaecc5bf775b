"""Finds the application's ``Privacy`` object and its database, from options, the environment or pyproject.toml."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import ArgumentError

from privkit.errors import ApplicationError
from privkit.privacy import Privacy


def settings() -> dict[str, Any]:
    """Return ``[tool.privkit]`` of the pyproject.toml in this folder or the nearest one above."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        path = folder / "pyproject.toml"
        if path.is_file():
            try:
                found: dict[str, Any] = (
                    tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("privkit", {})
                )
            except tomllib.TOMLDecodeError as error:
                raise ApplicationError(f"{path} is not valid TOML: {error}.") from None
            return found
    return {}


def load_privacy(app: str | None) -> Privacy:
    """Import ``module:name``. Raises ApplicationError where there is none, or it is no ``Privacy``."""
    target = app or os.environ.get("PRIVKIT_APP") or settings().get("app")
    if not target or ":" not in target:
        raise ApplicationError(
            "No application was named.",
            "The models, the policy and the keys are found through its Privacy object.",
            'Give --app rides.models:privacy, or in pyproject.toml: [tool.privkit] app = "rides.models:privacy"',
        )
    module, _, name = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ApplicationError(f"{target} cannot be imported: {error}.", "", "Check --app.") from None
    if not isinstance(found, Privacy):
        raise ApplicationError(f"{target} is a {type(found).__name__}, not a Privacy.", "", "Check --app.")
    return found


def load_engine(url: str | None) -> Engine:
    """Make an engine for the database. Raises ApplicationError where no URL is given or it is malformed."""
    target = url or os.environ.get("PRIVKIT_URL") or settings().get("url")
    if not target:
        raise ApplicationError(
            "No database was named.",
            "",
            "Give --url sqlite:///rides.sqlite, set PRIVKIT_URL, or in pyproject.toml: [tool.privkit] url = ...",
        )
    try:
        return create_engine(target)
    except (ArgumentError, ImportError) as error:
        kind = type(error).__name__
        raise ApplicationError(
            f"The database URL cannot be used ({kind}).", "", "Check --url and its driver."
        ) from None

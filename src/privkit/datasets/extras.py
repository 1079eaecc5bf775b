"""Libraries that only data sets need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from privkit.errors import ApplicationError


def needed(module: str, package: str = "privkit[datasets]") -> Any:
    """Import a module. Raises ApplicationError, with what to install, where it is not there."""
    try:
        return import_module(module)
    except ImportError:
        raise ApplicationError(
            f"{module.partition('.')[0]} is not installed.",
            "Data sets are handled with it.",
            f"pip install '{package}'",
        ) from None

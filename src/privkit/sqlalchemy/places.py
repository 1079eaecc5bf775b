"""Where in the application a statement came from: ``module:function:line`` of the nearest frame that is its own."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import FrameType

import sqlalchemy

_PACKAGES = ("site-packages", "dist-packages")
_UNDERNEATH = tuple(f"{Path(each).parent}{os.sep}" for each in (Path(__file__).parent, sqlalchemy.__file__))
_STANDARD = sysconfig.get_paths()["stdlib"] + os.sep


def place() -> str:
    """Return the place of the application's frame, or of the nearest library's where none is; empty: nobody's.

    An application is what is not installed as a package, and not of Python's own library.
    """
    nearest = None
    for frame in _frames():
        kind = _kind(frame.f_code.co_filename)
        if kind == "application":
            return _named(frame)
        if kind == "package":
            nearest = nearest or frame
    return _named(nearest) if nearest is not None else ""


def _frames() -> Iterator[FrameType]:
    """Yield the frames outwards. Under asyncio SQLAlchemy works in a greenlet, and who awaits it stands in another."""
    frame = sys._getframe(2)
    greenlet = sys.modules.get("greenlet")
    current = greenlet.getcurrent() if greenlet is not None else None
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]
        while frame is None and current is not None:
            current = current.parent
            frame = current.gr_frame if current is not None else None


@lru_cache(maxsize=4096)
def _kind(path: str) -> str:
    if path.startswith((*_UNDERNEATH, "<frozen", "<string>")):
        return "underneath"
    if any(name in path for name in _PACKAGES):
        return "package"
    return "underneath" if path.startswith(_STANDARD) else "application"


def _named(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}:{frame.f_lineno}"

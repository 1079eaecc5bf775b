"""One mistake, where it stands, the names that were probably meant, and what to paste instead."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from privkit.errors import PolicyError

_PLAIN_KEY = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_LONGEST_NAME = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. ``line`` counts from 1; 0 means that the file, or the class, is wrong as a whole."""

    file: str
    line: int
    message: str
    nearest: tuple[str, ...] = ()
    fix: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        near = f" Nearest: {', '.join(self.nearest)}." if self.nearest else ""
        fix = "".join(f"\n    {line}" for line in self.fix.splitlines())
        return f"{place}: {self.message}{near}{fix}"


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return the up to three names of ``known`` that look most like ``name``, the likeliest first."""
    short = name.lower()[:_LONGEST_NAME]
    scored = [(SequenceMatcher(None, short, candidate.lower()).ratio(), candidate) for candidate in sorted(known)]
    close = [pair for pair in scored if pair[0] >= 0.6] or scored
    return tuple(candidate for _, candidate in sorted(close, key=lambda pair: -pair[0])[:3])


def quoted(name: str) -> str:
    """Return a name from a file or a model as a message shows it: quoted, on one line, never long."""
    shown = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "..."
    return repr(shown)


def paste(path: Sequence[str], value: str) -> str:
    """Return the YAML that puts ``value`` at ``path``, in one line."""
    if not path:
        return value
    head, *rest = (key if _PLAIN_KEY.fullmatch(key) else json.dumps(key[:_LONGEST_NAME]) for key in path)
    for key in reversed(rest):
        value = f"{{{key}: {value}}}"
    return f"{head}: {value}"


def refusal(what: str, why: str, problems: Sequence[Problem], **data: Any) -> PolicyError:
    """Return the one error that lists all ``problems``; they are its ``data["problems"]``."""
    return PolicyError(what, why, "\n".join(map(str, problems)), problems=list(problems), **data)


def counted(problems: Sequence[Problem]) -> str:
    """Return ``1 mistake``, ``2 mistakes`` and so on."""
    return f"{len(problems)} mistake" + ("s" if len(problems) != 1 else "")

"""Personal values of a document on their way out: covered while pydantic writes the rest, sealed after that."""

from __future__ import annotations

from contextvars import ContextVar
from secrets import token_hex
from typing import Any

from privkit.catalog import Field
from privkit.purposes import Scope


class Sealing:
    """One dump: what is to be sealed, and the marks that stand in its place meanwhile."""

    __slots__ = ("_held", "_mark", "inside", "scope")

    def __init__(self, scope: Scope | None) -> None:
        self.scope, self.inside = scope, False
        """``inside``: a value is being written that will be sealed as a whole."""
        self._mark = token_hex(16)  # nobody knows it, so no value can look like a mark
        self._held: list[tuple[Field, Any]] = []

    def hold(self, field: Field, written: Any) -> str:
        """Keep what a value was written as, and return its mark."""
        self._held.append((field, written))
        return f"{self._mark}{len(self._held) - 1}"

    def held(self, text: str) -> tuple[Field, Any] | None:
        """Return what a mark stands for, or None for any other text."""
        return self._held[int(text.removeprefix(self._mark))] if text.startswith(self._mark) else None


class Cover:
    """Stands in place of a personal value, so that no serializer but its own field's can read it."""

    __slots__ = ("sealing", "value")

    def __init__(self, value: Any, sealing: Sealing) -> None:
        self.value, self.sealing = value, sealing

    def __repr__(self) -> str:
        return "..."


sealing: ContextVar[Sealing | None] = ContextVar("privkit_sealing", default=None)
"""The dump of a document that this context is in."""

"""What a validator sees of an object that it reads attributes from: nothing that the purpose does not need."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import getattr_static
from typing import Any

from privkit.errors import PurposeError
from privkit.purposes import Scope
from privkit.pydantic.gates import Gate

_MISSING = object()


class Screen:
    """Stands before an object. A hidden attribute is absent, and its value is never asked for."""

    __slots__ = ("_privkit_hidden", "_privkit_refusal", "_privkit_scope", "_privkit_source")

    def __init__(self, source: Any, hidden: Mapping[str, tuple[Gate, ...]], scope: Scope | None) -> None:
        self._privkit_source, self._privkit_hidden, self._privkit_scope = source, hidden, scope
        self._privkit_refusal: PurposeError | None = None

    def __getattr__(self, name: str) -> Any:
        gates = self._privkit_hidden.get(name)
        if gates is None:
            return getattr(self._privkit_source, name)
        # pydantic turns what an attribute raises into a validation error, so a refusal has to wait
        found = getattr_static(self._privkit_source, name, _MISSING)
        if found is not _MISSING:
            for gate in gates:
                if hasattr(type(found), "__get__") or gate.holds(found):
                    self._privkit_refusal = self._privkit_refusal or gate.refusal(self._privkit_scope)
        raise AttributeError(name)


def screened(value: Any, hidden: Mapping[str, tuple[Gate, ...]], scope: Scope | None) -> tuple[Any, Screen | None]:
    """Return what a validator may see of ``value``, and the screen before it if there is one."""
    if type(value) is tuple and len(value) == 2 and isinstance(value[1], dict):
        # pydantic's form of an object with keyword arguments
        seen, screen = screened(value[0], hidden, scope)
        return (seen, value[1]), screen
    if not hidden or isinstance(value, Mapping | type) or type(value).__module__ == "builtins":
        return value, None
    screen = Screen(value, hidden, scope)
    return screen, screen


def refusal_on(screen: Screen | None) -> PurposeError | None:
    """Return the refusal that a screen kept while it was read."""
    return screen._privkit_refusal if screen is not None else None

"""The current purpose: what it lets through, and the context that carries it.

A ``Scope`` is the decision, computed once per set of purposes: for each field, the precision it may be seen
at and the keeps that still have to run. An ``Active`` is one entry into a scope. It is held in a context
variable; a task that outlives the block it was created in finds the entry closed, and so has no purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from types import FrameType, MappingProxyType
from typing import Any

from privkit.clock import Clock, system_clock
from privkit.errors import PurposeError
from privkit.markers import Cell, Exact, Precision
from privkit.policy import Keep, Policy
from privkit.policy.resolve import FieldRule


@dataclass(frozen=True, slots=True)
class Access:
    """How a scope may see one field: the precision, and the keeps (None: for ever) of the purposes that allow it.

    ``keeps`` has one group for each nested block: of every group, at least one keep still has to run.
    """

    precision: Precision
    keeps: tuple[tuple[Keep | None, ...], ...]
    exact: bool = field(init=False)
    """Whether the value itself may be seen, and so compared, sorted and counted by."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "exact", isinstance(self.precision, Exact))


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """What one set of purposes lets through. ``internal`` is privkit's own work on its stored values.

    ``groups`` has the names of each nested block: of every group, at least one has to need a field.
    """

    names: tuple[str, ...]
    fields: Mapping[str, Access]
    internal: bool = False
    groups: tuple[tuple[str, ...], ...] = ()
    clock: Clock = system_clock

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", (self.names,))

    def access(self, field_id: str) -> Access | None:
        """Return how ``field_id`` may be seen, or None when these purposes do not need it."""
        return _EVERYTHING if self.internal else self.fields.get(field_id)

    def precision(self, needed: Mapping[str, Precision]) -> Precision | None:
        """Return how exact a value that the purposes ``needed`` name may be seen, or None: not at all.

        For fields outside the storage models, which ``fields`` does not list.
        """
        found: Precision | None = Exact()
        for group in () if self.internal else self.groups:
            named = [needed[name] for name in group if name in needed]
            found = _coarser(found, min(named, key=_coarseness)) if named and found else None
        return found

    def __str__(self) -> str:
        return " and ".join(repr(name) for name in self.names)


_EVERYTHING = Access(Exact(), ((None,),))
_NOTHING: Mapping[str, Access] = MappingProxyType({})


class _AllFields(dict[str, Access]):
    """What privkit's own work may see."""

    def __missing__(self, field_id: str) -> Access:
        return _EVERYTHING


INTERNAL = Scope(("privkit",), {}, internal=True)


def scope_for(policy: Policy, rules: Iterable[FieldRule], names: tuple[str, ...], clock: Clock = system_clock) -> Scope:
    """Compute the scope of processing for all of ``names`` together: each field is needed by at least one.

    Raises PolicyError for a name the policy does not have, PurposeError for a prohibited one.
    """
    if not names:
        raise PurposeError("A purpose was entered without a name.", "", 'Name one: privacy.purpose("pickup").')
    for name in names:
        if policy.purpose(name).prohibited:
            raise PurposeError(
                f"The purpose {name!r} is prohibited by the policy.",
                "A prohibited purpose beats an allowed one.",
                f"See purposes.{name} in {policy.path}.",
                purpose=name,
            )
    fields = {}
    for rule in rules:
        terms = [term for term in rule.terms if term.purpose.name in names]
        if terms:
            fields[rule.field.id] = Access(
                min((term.precision for term in terms), key=_coarseness),
                (tuple(term.purpose.keep for term in terms),),
            )
    return Scope(names, fields, clock=clock)


@lru_cache(maxsize=1024)
def narrowed(outer: Scope | None, inner: Scope) -> Scope:
    """Return what both scopes allow: nested purposes never widen each other."""
    if outer is None or outer.internal or outer.groups == inner.groups:
        return inner
    fields = {}
    for field_id, access in inner.fields.items():
        other = outer.fields.get(field_id)
        precision = other and _coarser(access.precision, other.precision)
        if other and precision:
            fields[field_id] = Access(precision, tuple(dict.fromkeys((*other.keeps, *access.keeps))))
    names = (*outer.names, *(name for name in inner.names if name not in outer.names))
    groups = (*outer.groups, *(group for group in inner.groups if group not in outer.groups))
    return Scope(names, fields, groups=groups, clock=inner.clock)


def _coarseness(precision: Precision) -> int:
    if isinstance(precision, Exact):
        return 0
    return 16 - precision.resolution if isinstance(precision, Cell) else 20


def _coarser(one: Precision, other: Precision) -> Precision | None:
    """The coarser of two precisions, or None when neither contains the other."""
    if type(one) is not type(other) and not isinstance(one, Exact) and not isinstance(other, Exact):
        return None
    return max(one, other, key=_coarseness)


class Active:
    """One entry into a scope, open until its block ends.

    ``allows[field_id]`` is how a field may be seen, as ``scope.access`` says it; a closed entry allows nothing.
    """

    __slots__ = ("_callbacks", "allows", "block", "frame", "open", "parent", "scope")

    def __init__(
        self, scope: Scope, parent: Active | None, block: object = None, frame: FrameType | None = None
    ) -> None:
        self.scope, self.parent, self.block, self.frame, self.open = scope, parent, block, frame, True
        self.allows: Mapping[str, Access] = _AllFields() if scope.internal else scope.fields
        if frame is not None:
            self.allows = _NOTHING  # each time it is asked whether the generator is running
        self._callbacks: dict[Hashable, Callable[[], None]] = {}

    @property
    def in_force(self) -> bool:
        """Whether the block is open, and not that of a generator that is suspended now."""
        return self.open and (self.frame is None or self.frame.f_back is not None)

    def at_exit(self, key: Hashable, callback: Callable[[], None]) -> None:
        """Run ``callback`` when the block ends; at most one for each ``key``."""
        self._callbacks.setdefault(key, callback)

    def close(self) -> None:
        """End the entry and run its callbacks."""
        self.open, self.allows, self.frame = False, _NOTHING, None
        for callback in self._callbacks.values():
            callback()
        self._callbacks.clear()


_active: ContextVar[Active | None] = ContextVar("privkit_purpose", default=None)


latest: Callable[[], Any] = _active.get
"""The entry of this context that was opened last, or None. It may be closed, and then allows nothing: where
``latest().allows[field_id]`` raises, ask ``current``. For loops over values."""


def active() -> Active | None:
    """Return the innermost entry that is still open."""
    entry = _active.get()
    while entry is not None and not entry.in_force:
        entry = entry.parent
    return entry


def current() -> Scope | None:
    """Return the scope in force, or None when no purpose is set."""
    entry = active()
    return entry.scope if entry is not None else None


def enter(scope: Scope, block: object = None, frame: FrameType | None = None) -> Active:
    """Open ``scope`` in this context, narrowed by the one already open. Give the result to ``leave``.

    ``block`` is whose entry it is, for ``entered``; ``frame`` is the generator's that the block stands in, if it does.
    """
    around, parent = active(), _active.get()
    while parent is not None and not parent.open:
        parent = parent.parent
    entry = Active(scope if scope.internal else narrowed(around.scope if around else None, scope), parent, block, frame)
    _active.set(entry)
    return entry


def entered(block: object) -> Active:
    """Return this context's innermost open entry of ``block``; another task's entry is another one."""
    entry = _active.get()
    while entry is not None and not (entry.open and entry.block is block):
        entry = entry.parent
    if entry is None:
        raise PurposeError("A purpose was left in another context than it was entered in.", "", "Use one with block.")
    return entry


def leave(entry: Active) -> None:
    """Close ``entry``. Setting, not resetting a token: an async generator may be closed from another context."""
    if _active.get() is entry:
        _active.set(entry.parent)
    entry.close()


@contextmanager
def internally() -> Iterator[None]:
    """Work on stored values as privkit itself: for runs, searches and checks, never for an application."""
    entry = enter(INTERNAL)
    try:
        yield
    finally:
        leave(entry)

"""The current purpose: what it lets through, and the context that carries it.

A ``Scope`` is the decision, computed once per set of purposes: for each field, the precision it may be seen
at and the keeps that still have to run. An ``Active`` is one entry into a scope. It is held in a context
variable; a task that outlives the block it was created in finds the entry closed, and so has no purpose.
Threads and executors get one by ``carry``; other processes open their own.
"""

from __future__ import annotations

import functools
import inspect
import multiprocessing.util
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from types import FrameType, MappingProxyType
from typing import Any, NoReturn, ParamSpec, TypeVar, cast

from privkit.catalog import Field
from privkit.clock import Clock, system_clock
from privkit.deidentify import coarser, finest
from privkit.errors import MappingError, PurposeError
from privkit.markers import Exact, Precision
from privkit.policy import Keep, Policy
from privkit.policy.resolve import FieldRule
from privkit.policy.rules import DUTY

_P = ParamSpec("_P")
_R = TypeVar("_R")


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
    ``minimum_group``: the fields are seen only as aggregates over so many data subjects, the strictest that is in
    force. ``aggregate``: the purposes that have one. ``collected``: the fields that are written for them and not seen,
    where another purpose stands beside them.
    """

    names: tuple[str, ...]
    fields: Mapping[str, Access]
    internal: bool = False
    groups: tuple[tuple[str, ...], ...] = ()
    clock: Clock = system_clock
    minimum_group: int | None = None
    aggregate: frozenset[str] = frozenset()
    collected: frozenset[str] = frozenset()

    @property
    def duty(self) -> str | None:
        """The name of a duty that is entered, here or in a block around: nothing is written then."""
        return next((name for name in self.names if name.startswith(DUTY)), None)

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", (self.names,))

    def access(self, field_id: str) -> Access | None:
        """Return how ``field_id`` may be seen, or None when these purposes do not need it."""
        return _EVERYTHING if self.internal else self.fields.get(field_id)

    def writes(self, field_id: str) -> bool:
        """Return whether ``field_id`` may be collected and changed, as far as the purposes need it."""
        return self.internal or (self.minimum_group is None and (field_id in self.fields or field_id in self.collected))

    def precision(self, needed: Mapping[str, Precision]) -> Precision | None:
        """Return how exact a value that the purposes ``needed`` name may be seen, or None: not at all.

        For fields outside the storage models, which ``fields`` does not list.
        """
        found: Precision | None = Exact()
        for group in () if self.internal else self.groups:
            named = [needed[name] for name in group if name in needed and name not in self.aggregate]
            found = coarser(found, finest(named)) if named and found else None
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

    Of purposes with a minimum group the strictest counts. Beside a purpose without one they show nothing: what only
    they need is collected, as in a sign-up form.

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
    minimums = {name: minimum for name in names if (minimum := policy.purposes[name].minimum_group) is not None}
    seen = [name for name in names if name not in minimums] or names
    fields, collected = {}, set()
    for rule in rules:
        terms = [term for term in rule.terms if term.purpose.name in seen]
        if not terms and any(term.purpose.name in minimums for term in rule.terms):
            collected.add(rule.field.id)
        needed = {term.purpose.name: term.precision for term in terms}
        if terms:
            fields[rule.field.id] = Access(
                finest(needed[name] for name in names if name in needed),
                (tuple(term.purpose.keep for term in terms),),
            )
    return Scope(
        names,
        fields,
        clock=clock,
        minimum_group=max(minimums.values()) if minimums.keys() >= set(names) else None,
        aggregate=frozenset(minimums),
        collected=frozenset(collected),
    )


@lru_cache(maxsize=1024)
def narrowed(outer: Scope | None, inner: Scope) -> Scope:
    """Return what both scopes allow: nested purposes never widen each other."""
    if outer is None or outer.internal or outer.groups == inner.groups:
        return inner
    fields = {}
    for field_id, access in inner.fields.items():
        other = outer.fields.get(field_id)
        precision = other and coarser(access.precision, other.precision)
        if other and precision:
            fields[field_id] = Access(precision, tuple(dict.fromkeys((*other.keeps, *access.keeps))))
    collected = {field_id for field_id in inner.fields.keys() | inner.collected if outer.writes(field_id)}
    names = (*outer.names, *(name for name in inner.names if name not in outer.names))
    groups = (*outer.groups, *(group for group in inner.groups if group not in outer.groups))
    return Scope(
        names,
        fields,
        groups=groups,
        clock=inner.clock,
        minimum_group=max((each for each in (outer.minimum_group, inner.minimum_group) if each), default=None),
        aggregate=outer.aggregate | inner.aggregate,
        collected=frozenset(collected - fields.keys()),
    )


class Active:
    """One entry into a scope, open until its block ends.

    ``allows[field_id]`` is how a field may be seen, as ``scope.access`` says it; a closed entry allows nothing.
    """

    __slots__ = ("_callbacks", "_handed", "allows", "block", "frame", "open", "parent", "scope")

    def __init__(
        self, scope: Scope, parent: Active | None, block: object = None, frame: FrameType | None = None
    ) -> None:
        self.scope, self.parent, self.block, self.frame, self.open = scope, parent, block, frame, True
        self.allows: Mapping[str, Access] = _AllFields() if scope.internal else scope.fields
        if frame is not None or scope.minimum_group is not None:
            self.allows = _NOTHING  # asked each time: whether the generator is running, and no value alone
        self._callbacks: dict[Hashable, Callable[[], None]] = {}
        self._handed: set[Active] = set()

    def __reduce__(self) -> NoReturn:
        raise _another_process()

    @property
    def in_force(self) -> bool:
        """Whether the block is open, and not that of a generator that is suspended now."""
        return self.open and (self.frame is None or self.frame.f_back is not None)

    def at_exit(self, key: Hashable, callback: Callable[[], None]) -> None:
        """Run ``callback`` when the block ends; at most one for each ``key``."""
        self._callbacks.setdefault(key, callback)

    def hand_to(self, entry: Active) -> bool:
        """Let ``entry`` end with this one, at the latest. Return whether this one is open."""
        self._handed.add(entry)
        return self.open

    def take_back(self, entry: Active) -> None:
        """Forget an entry that ``hand_to`` was given."""
        self._handed.discard(entry)

    def close(self) -> None:
        """End the entry and run its callbacks."""
        self._revoke()
        for callback in list(self._callbacks.values()):
            callback()
        self._callbacks.clear()

    def _revoke(self) -> None:
        """Allow nothing any more. The callbacks wait for ``close``: other threads' entries run theirs in their own."""
        self.open, self.allows, self.frame = False, _NOTHING, None
        for entry in tuple(self._handed):
            entry._revoke()


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


def carry(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Return ``function`` to be called elsewhere, in a thread or an executor, under the purposes in force here.

    It may be called often, and by many threads at once, until the block round carry() ends. After that it raises
    PurposeError, and a call that is still running goes on without the purpose: nothing keeps one alive. Where a
    purpose is in force already, both have to allow a field. A coroutine function stays one.

    Raises PurposeError where no purpose is in force, or on the way to another process: open the purpose there.
    Raises MappingError for a generator function.
    """
    entry = active()
    if entry is None or entry.scope.internal:
        raise PurposeError(
            "carry() was called where no purpose is in force.",
            "There is nothing to hand over.",
            'Call it inside the block:  with privacy.purpose("pickup"): pool.submit(carry(work))',
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise MappingError(
            "carry() was given a generator function.",
            "What it returns would wait, with the purpose or without, for whoever asks for the next value.",
            "Carry a function that runs to its end, for example one that returns a list.",
        )
    carried = _Carried(entry, function)
    if not inspect.iscoroutinefunction(function):
        return carried

    @functools.wraps(function)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        with carried.handed_over():
            return await function(*args, **kwargs)

    return cast(Callable[_P, _R], call)


class _Carried:
    """A function with the entry that it runs under."""

    __slots__ = ("_entry", "_function", "_process")

    def __init__(self, entry: Active, function: Callable[..., Any]) -> None:
        self._entry, self._function, self._process = entry, function, os.getpid()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self.handed_over():
            return self._function(*args, **kwargs)

    def __reduce__(self) -> NoReturn:
        raise _another_process()

    @contextmanager
    def handed_over(self) -> Iterator[None]:
        """Work under the entry's purposes, for as long as it is open."""
        if os.getpid() != self._process:
            raise _another_process()
        entry = enter(self._entry.scope)
        try:
            if not self._entry.hand_to(entry):
                raise PurposeError(
                    "A carried function was called after its block had ended.",
                    "A purpose is in force in its own block only, and nothing keeps it alive.",
                    "Wait for the result inside the block, or open a purpose in the function itself.",
                    purpose=self._entry.scope.names,
                )
            yield
        finally:
            self._entry.take_back(entry)
            leave(entry)


def _another_process() -> PurposeError:
    return PurposeError(
        "A purpose cannot be carried to another process.",
        "Its block could end here without the other side knowing.",
        'Pass keys, and open the purpose there:  def work(key): with privacy.purpose("pickup"): ...',
    )


def why_not(field: Field, scope: Scope) -> str:
    """Return why a field is not seen in a scope."""
    if all(any(name in field.purposes for name in group) for group in scope.groups):
        return "All of them need it, at precisions of which no value tells both: an age band and a year, for example."
    return f"Its marker names these purposes: {', '.join(sorted(field.purposes))}."


def how_to_open(allowed: Iterable[str]) -> str:
    """Return what to do where a field is used and no purpose is in force."""
    names = sorted(allowed)
    example = names[0] if names else "..."
    wrap = f"Wrap it:  with privacy.purpose({example!r}): ...   (allowed: {', '.join(names)})"
    at_home = _active.get() is None and threading.current_thread() is threading.main_thread()
    return wrap if at_home and multiprocessing.parent_process() is None else f"{wrap}\n{_ELSEWHERE}"


_ELSEWHERE = (
    "Threads, executors and other processes start without a purpose, and a task loses the one it began with when that "
    "block ends.\nHand it over inside the block:  pool.submit(privkit.carry(work), key)   "
    "Another process opens its own: pass the name."
)

# A child that multiprocessing forked inside a block never leaves it, and a pool's child serves others afterwards.
multiprocessing.util.register_after_fork(Active, lambda _: _active.set(None))

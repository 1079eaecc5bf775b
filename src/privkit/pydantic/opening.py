"""Personal values of a document on their way in: opened where they stand, as far as the purpose needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, TypeVar

from pydantic import BaseModel

from privkit.catalog import Field
from privkit.consent.age import cautious_today
from privkit.errors import ClockError, InvalidValue, PurposeError
from privkit.lifetime import Clause, EventTimes, expired
from privkit.markers import Exact, Precision
from privkit.policy import Policy
from privkit.purposes import Scope
from privkit.pydantic.coarse import coarsened
from privkit.pydantic.gates import REQUIRED
from privkit.pydantic.plan import Plan, lookups

_Result = TypeVar("_Result")

Path = tuple[str, ...]
"""The keys that lead to a value. A number in a list is none: what stands in a list may move in it."""


class Opening:
    """One load. ``holders``: the fields of each model that hold models. ``open`` returns what a value was sealed as."""

    __slots__ = ("_events", "_policy", "holders", "now", "open")

    def __init__(
        self,
        policy: Policy,
        holders: Mapping[type, tuple[str, ...]],
        open_value: Callable[[Field, Path, Any], Any],
        now: datetime,
    ) -> None:
        self._policy, self.holders, self.open, self.now = policy, holders, open_value, now
        self._events: EventTimes | None = None

    def events(self, plan: Plan, node: Mapping[str, Any]) -> EventTimes:
        """Return when the events of a model happened, its own before those of the document's model."""
        own = {event: self._time(plan, node, str(name)) for event, name in plan.declared.events.items()}
        if self._events is None:
            self._events = own
        return {**self._events, **own}

    def _time(self, plan: Plan, node: Mapping[str, Any], name: str) -> datetime | None:
        found = (node[key] for key in lookups(name, plan.infos[name]) if key in node)
        return _instant(next(found, None), name, naive=self._policy.naive_datetimes is not None)

    def precision(self, field: Field, scope: Scope, events: EventTimes) -> Precision | None:
        """Return how exact a value ``scope`` may see now; None where its purposes have ended."""
        return scope.precision({name: each for name, each in field.purposes.items() if not self._over(name, events)})

    def _over(self, name: str, events: EventTimes) -> bool:
        keep = self._policy.purpose(name).keep
        return keep is not None and expired(Clause(name, keep.period, keep.after, keep.until), events, self.now)


class Node(dict[str, Any]):
    """An object of a document, which its model reads; ``tree`` is what the document has there.

    ``inside``: it is part of a value that was sealed as a whole.
    """

    __slots__ = ("_precisions", "inside", "opening", "path", "tree")

    def __init__(self, tree: Mapping[str, Any], opening: Opening, path: Path, inside: bool) -> None:
        super().__init__({key: placed(each, opening, (*path, key), inside) for key, each in tree.items()})
        self.tree, self.opening, self.path, self.inside = tree, opening, path, inside
        self._precisions: dict[str, Precision] = {}

    def read(self, plan: Plan, scope: Scope | None) -> dict[str, Any]:
        """Return the object with what the purpose needs opened, and without what has expired.

        What is not needed stays sealed, for its gate to drop or refuse. Raises SealedError for what does not open,
        PurposeError where a required field has expired.
        """
        found, events = dict(self.tree), self.opening.events(plan, self.tree)
        holders = self.opening.holders.get(plan.cls, ())
        for name in holders:
            if name not in plan.gates:
                found |= {key: self[key] for key in self._keys(plan, name)}
        for name, gate in plan.gates.items():
            if scope is None or gate.precision(scope) is None:
                continue
            precision = self.opening.precision(gate.field, scope, events)
            for key in self._keys(plan, name):
                if found[key] is None:
                    continue
                if precision is not None:
                    self._precisions[name] = precision
                    opened, path = self._opened(gate.field, key), (*self.path, key)
                    found[key] = placed(opened, self.opening, path, True) if name in holders else opened
                elif gate.default is REQUIRED:
                    raise _expired(gate.field, scope)
                else:
                    del found[key]
        return found

    def _keys(self, plan: Plan, name: str) -> set[str]:
        return lookups(name, plan.infos[name]) & self.keys()

    def _opened(self, field: Field, key: str) -> Any:
        return self.tree[key] if self.inside else self.opening.open(field, (*self.path, key), self.tree[key])

    def reduced(self, plan: Plan, result: _Result) -> _Result:
        """Reduce the fields of a model that was made of this to the precision of the purpose. Returns the model."""
        if isinstance(result, plan.cls):
            for name, precision in self._precisions.items():
                if not isinstance(precision, Exact):
                    _reduce(result, name, precision, self.opening.now)
        return result


def placed(tree: Any, opening: Opening, path: Path, inside: bool) -> Any:
    """Return JSON values with ``Node`` in place of every object."""
    if isinstance(tree, list):
        return [placed(each, opening, path, inside) for each in tree]
    if isinstance(tree, dict):
        return Node(tree, opening, path, inside)
    return tree


def _reduce(model: BaseModel, name: str, precision: Precision, now: datetime) -> None:
    vars(model)[name] = coarsened(precision, vars(model)[name], lambda: cautious_today(now))


def _instant(written: Any, name: str, *, naive: bool) -> datetime | None:
    """Read the time of an event as pydantic writes it. A date counts from its end."""
    if written is None:
        return None
    try:
        day = date.fromisoformat(written) if len(written) == len("2026-01-01") else None
        moment = datetime.fromisoformat(written) if day is None else None
        moment = moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else moment
    except (TypeError, ValueError, OverflowError):
        day = moment = None
    if day is not None:
        return (
            datetime.combine(day + timedelta(days=1), time(), UTC)
            if day < date.max
            else datetime.max.replace(tzinfo=UTC)
        )
    if moment is None:
        raise InvalidValue(
            f"{name} is the time of an event, and is no ISO 8601 time.", "", "Write it as pydantic does."
        )
    if moment.tzinfo is None and not naive:
        raise ClockError(
            f"{name} is the time of an event, and has no time zone.",
            "Retention would shift by the machine's UTC offset.",
            "Give an aware datetime, or say in the policy that such times are UTC: naive_datetimes: UTC",
        )
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _expired(field: Field, scope: Scope) -> PurposeError:
    return PurposeError(
        f"{field} has expired for {scope}, and its model cannot do without it.",
        "Its time has ended, whether or not the document has been destroyed.",
        "Give the field a default, such as None; and delete documents whose time has ended.",
        field=field.id,
        purpose=scope.names,
    )

"""What the policy says about each field of the models, and every mistake that the models make against it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from privkit.catalog import Field, Model
from privkit.markers import (
    BirthDate,
    Delete,
    Is,
    Latest,
    Location,
    Nearby,
    Precision,
    Suppress,
)
from privkit.policy.epochs import Epochs, divided
from privkit.policy.precisions import misfits, place_like, unfit
from privkit.policy.problems import Problem, counted, nearest, paste, quoted, refusal
from privkit.policy.rules import CONSENT_WITHDRAWN, Duty, Keep, Policy, Purpose, withdrawn_purpose

_NEW_PURPOSE = '{description: "...", legal_basis: contract, keep: {for: P30D, after: account_closed}}'
_NEW_DUTY = '{citation: "...", keep: {for: P7Y, after: account_closed}}'


@dataclass(frozen=True, slots=True)
class Term:
    """One purpose that needs a field, and how exact a value it may see."""

    purpose: Purpose
    precision: Precision


@dataclass(frozen=True, slots=True)
class FieldRule:
    """All that the policy says about one field. ``child_off``: it may be a child's, and is off until switched on."""

    field: Field
    terms: tuple[Term, ...]
    duties: tuple[Duty, ...]
    sealed: bool
    sensitive: bool
    epochs: Epochs | None = None
    child_off: bool = False

    @property
    def keeps(self) -> tuple[Keep | None, ...]:
        """The keeps of its purposes and duties; None is for ever."""
        return (*(term.purpose.keep for term in self.terms), *(duty.keep for duty in self.duties))


def resolve(
    policy: Policy, models: Iterable[Model], *, stored: bool = True, consents: bool = False
) -> dict[str, FieldRule]:
    """Return the rule of every field of ``models``, by ``field.id``.

    ``stored`` is False for models that live in memory only: they map no events, and need none. ``consents``: the
    consent ledger lies beside them. Raises one PolicyError that lists every mistake; its ``data["problems"]`` are
    ``Problem`` objects.
    """
    # a base before its subclasses: a field belongs to the class that declared it
    ordered = sorted(models, key=lambda model: len(model.cls.__mro__))
    run = _Run(policy, stored, consents, any(model.child for model in ordered))
    for model in ordered:
        run.take(model)
    run.check_former_ids(ordered)
    if run.problems:
        why = "No rule is in force: a field without one would be unprotected."
        what = f"The models do not fit {policy.path}: {counted(run.problems)}."
        raise refusal(what, why, run.problems, path=policy.path)
    return run.rules


@dataclass(slots=True)
class _Run:
    policy: Policy
    stored: bool
    consents: bool
    children: bool
    problems: list[Problem] = field(default_factory=list)
    rules: dict[str, FieldRule] = field(default_factory=dict)
    homes: dict[str, tuple[type, str, Any]] = field(default_factory=dict)

    def take(self, model: Model) -> None:
        counted: dict[str, list[str]] = {}
        for item in model.fields.values():
            home = (_home(model.cls, item.owner), item.name, item.marker)
            if item.id not in self.homes:
                self.homes[item.id] = home
                self._field(model, item, counted)
            elif self.homes[item.id] != home:
                self._same_id(model, item)
        for event, users in counted.items():
            if withdrawn_purpose(event) is not None:
                self._consent(model, users)
            elif event not in model.events:
                self._unmapped(model, event, users)
        for names in model.together:
            self._together(model, names)
        if CONSENT_WITHDRAWN in model.events:
            message = f"{model.cls.__name__} maps {CONSENT_WITHDRAWN}, which the consent ledger tells."
            self.report(model, message, "# another name for an event of your own, here and in the policy")

    def report(self, model: Model, message: str, fix: str = "", near: tuple[str, ...] = ()) -> None:
        self.problems.append(Problem(*_place(model.cls), message, near, fix))

    def _field(self, model: Model, item: Field, counted: dict[str, list[str]]) -> None:
        name = f"{model.cls.__name__}.{item.name}"
        terms = tuple(self._terms(model, item, name))
        duties = tuple(self._duties(model, item, name))
        if not item.purposes:
            self.report(model, f"{name} is personal data without a purpose: nobody could read it.", 'purposes={"..."}')
        keeps: list[tuple[str, Keep | None]] = [(term.purpose.name, term.purpose.keep) for term in terms]
        keeps += [(duty.name, duty.keep) for duty in duties]
        for user, keep in keeps:
            if self.stored and keep is not None:
                for event in keep.events:
                    counted.setdefault(event, []).append(f"{item.name} for {user}")
        self._periods(model, name, terms)
        rule = self.policy.category(item.marker.category)
        if item.marker.seal is False and rule is not None and rule.seal:
            message = f"{name} says seal=False, but {rule.where} requires {rule.key} to be sealed."
            self.report(model, message, "seal=None")
        sealed, sensitive = self._sealed(item), self.policy.sensitive(item.marker.category)
        for misfit, fix in _misfits(item, sealed and not _dual(item)):
            self.report(model, f"{name}: {misfit}", fix)
        adopting = item.marker.adopting
        if adopting is not None and not sealed:
            self.report(model, f"{name} says adopting=..., and nothing says that it is to be sealed.", "seal=True")
        epochs = self._epochs(model, name, [keep for _, keep in keeps]) if sealed and self.stored else None
        off = rule is not None and rule.child_off and self._of_children(model)
        self.rules[item.id] = FieldRule(item, terms, duties, sealed and not _dual(item), sensitive, epochs, off)

    def _consent(self, model: Model, users: list[str]) -> None:
        """Whose consent was withdrawn is known of a row in a table with the ledger, and a data subject."""
        if not (self.consents and (model.data_subject or model.owners)):
            name = model.cls.__name__
            message = f"{name} has no data subject in the consent ledger, from which {', '.join(users)} counts."
            self.report(model, message, f'@owned_by("...")\nclass {name}')

    def _epochs(self, model: Model, name: str, keeps: list[Keep | None]) -> Epochs | None:
        try:
            epochs = divided(keeps)
        except ValueError as error:
            message = f"{name} cannot be divided into epochs: {error}."
            self.report(model, message, "# one event and one epoch in every keep of the field, or no epoch in any")
            return None
        own = epochs is None or _own_column(model.events.get(epochs.event))
        if epochs is not None and (not own or withdrawn_purpose(epochs.event) is not None):
            message = f"{name} is divided into epochs of {quoted(epochs.event)}, which is not a column of its own row."
            self.report(model, message, "# an event that is stored with the row, or no epoch in the keep")
        return epochs

    def _terms(self, model: Model, item: Field, name: str) -> Iterator[Term]:
        for purpose, precision in item.purposes.items():
            if purpose in self.policy.purposes:
                yield Term(self.policy.purposes[purpose], precision)
            else:
                message = f"{name} names purpose {quoted(purpose)}, which {self.policy.path} does not declare."
                fix = paste(("purposes", purpose), _NEW_PURPOSE)
                self.report(model, message, fix, nearest(purpose, self.policy.purposes))

    def _duties(self, model: Model, item: Field, name: str) -> Iterator[Duty]:
        for duty in sorted(item.marker.duties):
            if duty in self.policy.duties:
                yield self.policy.duties[duty]
            else:
                message = f"{name} names duty {quoted(duty)}, which {self.policy.path} does not declare."
                fix = paste(("duties", duty), _NEW_DUTY)
                self.report(model, message, fix, nearest(duty, self.policy.duties))

    def _periods(self, model: Model, name: str, terms: tuple[Term, ...]) -> None:
        """A child's data needs a period that ends, where a rule pack says so (16 CFR 312.10)."""
        if not self.policy.finite_child_periods or not self._of_children(model):
            return
        for purpose in (term.purpose for term in terms):
            if purpose.keep is None and purpose.children != "never":
                message = f"{name} may be a child's, and purpose {quoted(purpose.name)} keeps it for ever."
                self.report(model, message, paste(("purposes", purpose.name, "children"), "never"))

    def _of_children(self, model: Model) -> bool:
        return model.child is not None or (self.children and bool(model.owners))

    def _sealed(self, item: Field) -> bool:
        marker = item.marker
        if marker.seal is not None:
            return marker.seal
        by_marker = isinstance(marker, Location | BirthDate) or marker.search is not None
        return by_marker or self.policy.must_seal(marker.category)

    def _same_id(self, model: Model, item: Field) -> None:
        other = self.homes[item.id]
        message = (
            f"{model.cls.__name__}.{item.name} and {other[0].__name__}.{other[1]} both have the id {quoted(item.id)}: "
            "a value sealed for one would open as the other."
        )
        self.report(model, message, f'id="{model.cls.__module__}.{model.cls.__qualname__}.{item.name}"')

    def check_former_ids(self, models: Iterable[Model]) -> None:
        """A former id belongs to one field: under another's, a value that was moved between them would open."""
        owners = {each: each for each in self.homes}
        for model in models:
            for item in model.fields.values():
                for former in item.marker.formerly:
                    if owners.setdefault(former, item.id) != item.id:
                        message = (
                            f"{model.cls.__name__}.{item.name} was formerly {quoted(former)}, as another field is."
                        )
                        self.report(model, message, "Name only ids that no other field has or had.")

    def _together(self, model: Model, names: tuple[str, ...]) -> None:
        """What is emptied at once has one lifetime, and leaves nothing that is made row by row."""
        fields = [model.fields[name] for name in names if name in model.fields]
        group = f"@together({', '.join(map(quoted, names))}) of {model.cls.__name__}"
        if not fields:
            self.report(model, f"{group} names no personal field: nothing would end it.", "# one field, or no group")
        if len({(frozenset(item.purposes), item.marker.duties) for item in fields}) > 1:
            fix = "# the same purposes and duties on each, or a group for each lifetime"
            self.report(model, f"{group} holds fields that end at different times.", fix)
        for item in fields:
            if not isinstance(item.marker.then, Suppress):
                self.report(model, f"{group}: {item.name} leaves something behind, and is not emptied.", "Suppress()")
            if sum(item.name in other for other in model.together) > 1:
                self.report(model, f"{model.cls.__name__}.{item.name} stands in two groups.", "# one group with all")

    def _unmapped(self, model: Model, event: str, users: list[str]) -> None:
        name = model.cls.__name__
        message = f"{name} maps no event {quoted(event)}, from which {', '.join(users)} counts."
        mapped = [f"{known}={_source(source)}" for known, source in sorted(model.events.items())]
        fix = "@events({})\nclass {}".format(", ".join([*mapped, f'{event}="..."']), name)
        self.report(model, message, fix, nearest(event, model.events))


def _misfits(item: Field, sealed: bool) -> Iterator[tuple[str, str]]:
    """Say what its marker asks of a value that a value of its type cannot give, each with a fix."""
    marker = item.marker
    wanted = [(f"precision for {quoted(name)}", precision) for name, precision in item.purposes.items()]
    for use, precision in wanted:
        yield from ((f"the {use} {misfit}", fix) for misfit, fix in misfits(item, precision, sealed=sealed))
    if len({precision for precision in item.purposes.values() if isinstance(precision, Is)}) > 1:
        yield "two of its purposes ask different questions, and an answer does not say which.", "AgeBand((16, 18))"
    if isinstance(marker.then, Delete):
        yield "Delete() is for a whole row.", "@expire_row(Delete())"
    yield from unfit(item, marker.then)
    if isinstance(marker.search, Nearby):
        if not place_like(item):
            yield "search=Nearby(...) is only for a location.", "search=Equality()"
        if not 0 <= marker.search.resolution <= 15:
            yield "search=Nearby(...) has a resolution that is not 0 to 15.", "search=Nearby(8)"


def _home(cls: type, owner: str) -> type:
    """The base-most class of the table ``owner``, else ``cls``: one field inherited twice has one home."""
    for base in reversed(cls.__mro__):
        table = base.__dict__.get("__table__")
        if owner in (getattr(table, "name", None), base.__dict__.get("__tablename__")):
            return base
    return cls


def _place(cls: type) -> tuple[str, int]:
    try:
        file, line = inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError, SyntaxError, IndexError):
        file, line = None, 0
    if file is None:
        return f"{cls.__module__}.{cls.__qualname__}", 0
    here = os.getcwd() + os.sep
    return file.removeprefix(here), line


def _dual(item: Field) -> bool:
    """Whether a field is still read from the column in which it was before it is sealed."""
    return item.marker.adopting is not None and item.marker.adopting.phase == "dual"


def _own_column(source: str | Latest | None) -> bool:
    """Whether an event is a column of the row; one that is not mapped at all is reported elsewhere."""
    return source is None or (isinstance(source, str) and "." not in source)


def _source(source: str | Latest) -> str:
    return f'Latest("{source.path}")' if isinstance(source, Latest) else f'"{source}"'

"""The resolved rules: frozen, checked, and answerable without the files that they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any

from privkit.periods import Period
from privkit.policy.problems import Problem, nearest, paste, quoted, refusal

LEGAL_BASES = (
    "consent",
    "contract",
    "legal_obligation",
    "vital_interests",
    "public_task",
    "legitimate_interests",
)
"""The six bases of GDPR Art. 6(1), in its order."""

CHILDREN = ("allowed", "consent", "never")
ENFORCEMENT = ("enforce", "observe")
"""What becomes of a use that a purpose does not allow: it is refused, or let through and counted."""

EPOCH_STEP = timedelta(hours=1)
"""An epoch is a multiple of this wide: narrower ones would need a key for nearly every value."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep for ``period`` after the event ``after``. ``epoch``: the width of the buckets that have their own key."""

    period: Period
    after: str
    epoch: Period | None = None


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why data is processed. ``keep`` is None for ever, and then ``because`` says why."""

    name: str
    description: str
    legal_basis: str
    keep: Keep | None
    because: str
    prohibited: bool
    children: str
    where: str


@dataclass(frozen=True, slots=True)
class Duty:
    """A legal floor: keep at least so long, readable for the duty alone."""

    name: str
    citation: str
    keep: Keep
    where: str


@dataclass(frozen=True, slots=True)
class Category:
    """The rule for a category and all below it. ``severity`` is (scale, scope, irremediable), 1 to 3 each.

    ``seal`` is None where no rule says. ``child_off``: switched off for a child until someone switches it on.
    """

    key: str
    seal: bool | None
    severity: tuple[int, int, int] | None
    child_off: bool
    where: str


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who may be sent what. ``contract`` is its ISO 8601 day, or None where there is none."""

    name: str
    contract: str | None
    regions: tuple[str, ...]
    purposes: tuple[str, ...]
    safeguards: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class AgeRule:
    """The age, in years, from which a young person alone can consent. ``country`` is None for the default rule.

    ``status``: ``A`` statute read or two sources, ``B`` one reliable source, ``U`` uncertain.
    ``joint_below``: under the age, child and parent consent together.
    """

    country: str | None
    age: int
    status: str
    source: str
    valid_from: date | None = None
    joint_below: bool = False


@dataclass(frozen=True, slots=True)
class VerificationMethod:
    """A way to verify a parent. ``disclosure``: good enough where a child's data is disclosed to others.

    ``evidence`` is ``delete_promptly`` or None; ``countries`` limits the method, and is empty where nothing does.
    """

    name: str
    disclosure: bool
    evidence: str | None
    countries: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True, eq=False, repr=False, weakref_slot=True)
class Policy:
    """One organisation's rules with those of its packs; build it with ``load``.

    ``digest`` is the SHA-256 of the resolved rules, in hexadecimal: comments and layout do not change it.
    ``packs`` are the rule packs used, each with the day its facts were gathered. ``finite_child_periods``:
    a purpose that may touch a child's data needs a period that ends. ``key_roll``: how often ``privkit keys roll``
    is to run, which makes destroyed keys final; None: nobody said. ``enforced_otherwise``: the tables that are not
    as ``enforcement`` says, each with what holds for it.
    """

    path: str
    controller: Mapping[str, str | tuple[str, ...]]
    purposes: Mapping[str, Purpose]
    duties: Mapping[str, Duty]
    categories: Mapping[str, Category]
    sensitive_categories: Mapping[str, str]
    recipients: Mapping[str, Recipient]
    default_age: AgeRule
    ages: Mapping[str, AgeRule]
    verification_methods: Mapping[str, VerificationMethod]
    finite_child_periods: bool
    enforcement: str
    naive_datetimes: str | None
    packs: tuple[tuple[str, date], ...]
    key_roll: Period | None = None
    enforced_otherwise: Mapping[str, str] = field(default_factory=dict)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name, None)
            if isinstance(value, Mapping):
                object.__setattr__(self, item.name, MappingProxyType(dict(value)))
        object.__setattr__(self, "digest", _digest(self))

    def __repr__(self) -> str:
        return f"Policy({self.path!r}, {self.digest[:12]})"

    def purpose(self, name: str) -> Purpose:
        """Return the purpose called ``name``. Raises PolicyError, with the nearest names, where there is none."""
        if name in self.purposes:
            return self.purposes[name]
        example = '{description: "...", legal_basis: contract, keep: {for: P30D, after: account_closed}}'
        problem = Problem(
            self.path,
            0,
            f"There is no purpose {quoted(name)}.",
            nearest(name, self.purposes),
            paste(("purposes", name), example),
        )
        what = f"There is no purpose {quoted(name)} in {self.path}."
        why = "Nothing may be read or written for a purpose that nobody declared."
        raise refusal(what, why, [problem], nearest=problem.nearest)

    def enforcement_of(self, table: str) -> str:
        """Return ``enforce`` or ``observe``: what holds for a table."""
        return self.enforced_otherwise.get(table, self.enforcement)

    def category(self, key: str) -> Category | None:
        """Return the rule of the longest prefix of ``key`` that has one; it holds what shorter ones add to it."""
        return next((self.categories[prefix] for prefix in _prefixes(key) if prefix in self.categories), None)

    def sensitive(self, key: str) -> bool:
        """Return whether ``key`` lies at or below a category that the law, or the organisation, calls sensitive."""
        return any(prefix in self.sensitive_categories for prefix in _prefixes(key))

    def must_seal(self, key: str) -> bool:
        """Return what the category's rule says on sealing; where it says nothing, sensitive data is sealed."""
        rule = self.category(key)
        return self.sensitive(key) if rule is None or rule.seal is None else rule.seal

    def age_of_consent(self, country: str | None) -> AgeRule:
        """Return the age of digital consent in ``country``, a two-letter ISO 3166 code in either case.

        None and a country without a row give the default rule; a row of status ``U`` gives the stricter of
        its age and the default.
        """
        row = self.ages.get((country or "").strip().upper())
        if row is None:
            return self.default_age
        if row.status == "U" and row.age < self.default_age.age:
            return replace(row, age=self.default_age.age)
        return row


def inherit(categories: Mapping[str, Mapping[str, Any]]) -> dict[str, Category]:
    """Resolve category rules: what a rule leaves open it takes from the nearest shorter prefix that says it.

    So a severity given for ``user.location.precise`` does not undo ``user.location: {seal: required}``.
    """
    resolved: dict[str, Category] = {}
    for key, own in categories.items():
        said: dict[str, Any] = {}
        for prefix in _prefixes(key):
            said = {**categories.get(prefix, {}), **said}
        resolved[key] = Category(
            key, said.get("seal"), said.get("severity"), said.get("child") is False, str(own["where"])
        )
    return resolved


def _prefixes(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.rpartition(".")[0]


def _digest(policy: Policy) -> str:
    rules = {item.name: getattr(policy, item.name) for item in fields(policy) if item.name not in ("path", "digest")}
    rules["packs"] = tuple(sorted(policy.packs))
    text = json.dumps(_canonical(rules), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, Period):
        return value.text
    if isinstance(value, date):
        return value.isoformat()
    if is_dataclass(value):
        return {item.name: _canonical(getattr(value, item.name)) for item in fields(value) if item.name != "where"}
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_canonical(item) for item in value]
    return value

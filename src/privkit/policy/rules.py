"""The resolved rules: frozen, checked, and answerable without the files that they came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, timedelta
from types import MappingProxyType
from typing import Any

from privkit.periods import Period
from privkit.policy.ages import OUTCOMES, AgeRule, ChildRule, places_of, rows_of, rule_on
from privkit.policy.lapses import CHILD, GUARDIAN, IN_PERSON, Lapse
from privkit.policy.notices import ConsentTerms, Notice, renewals
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

CHILDREN = ("allowed", "consent", "never", "by_law")
"""What a purpose says of children. ``by_law``: what the packs' rules ask for its legal basis and uses."""

ENFORCEMENT = ("enforce", "observe")
"""What becomes of a use that a purpose does not allow: it is refused, or let through and counted."""

LARGEST_SHARE = 20
"""How many per cent of a table a run destroys without its number being named, where the policy says nothing."""

CONSENT_WITHDRAWN = "consent_withdrawn"
"""The event that no column holds: consent to the purpose itself was withdrawn, and not given again since."""

DUTY = "duty "
"""How the name begins under which a duty is entered."""

EPOCH_STEP = timedelta(hours=1)
"""An epoch is a multiple of this wide: narrower ones would need a key for nearly every value."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep for ``period`` after the event ``after``. ``epoch``: the width of the buckets that have their own key.

    ``until``: the event that ends it instead, earlier or later, in rows where that is known; "" for none.
    ``lapses``: what ends it before, in rows about somebody whose consent is missing, or about a child.
    """

    period: Period
    after: str
    epoch: Period | None = None
    until: str = ""
    lapses: tuple[Lapse, ...] = ()

    @property
    def anchor(self) -> tuple[str, str]:
        """What it counts from: keeps with the same one are compared by their periods alone."""
        return self.after, self.until

    @property
    def events(self) -> tuple[str, ...]:
        """The events whose times decide."""
        return (self.after, self.until) if self.until else (self.after,)

    def __str__(self) -> str:
        until = f", or until {self.until}" if self.until else ""
        return f"{self.period} after {self.after}{until}" + "".join(f", or {lapse}" for lapse in self.lapses)


@dataclass(frozen=True, slots=True)
class Purpose:
    """Why data is processed. ``keep`` is None for ever, and then ``because`` says why.

    ``minimum_group``: it sees personal data only as aggregates over at least so many data subjects; None: no limit.
    ``uses``: what it does, as rule packs call it (``profiling``), so that their rules about children find it.
    ``consent_valid``: how long a consent to it counts; None: as long as it stands. ``disclosure``: whether it gives
    data to others; None: where the policy lists a recipient for it.
    """

    name: str
    description: str
    legal_basis: str
    keep: Keep | None
    because: str
    prohibited: bool
    children: str
    where: str
    minimum_group: int | None = None
    uses: tuple[str, ...] = ()
    consent_valid: Period | None = None
    disclosure: bool | None = None


@dataclass(frozen=True, slots=True)
class Duty:
    """A legal floor: keep at least so long, readable for the duty alone."""

    name: str
    citation: str
    keep: Keep
    where: str

    @property
    def entered_as(self) -> str:
        """The name under which it is entered, as purposes are: ``duty tax``. No purpose has such a name."""
        return f"{DUTY}{self.name}"


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
class HoldRules:
    """The roles that may place and release holds, and how long one lasts at most (None: as long as it says)."""

    place: tuple[str, ...]
    release: tuple[str, ...]
    longest: Period | None
    where: str


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
    as ``enforcement`` says, each with what holds for it. ``ages``: by place, each from its day on. ``offered_in``: the
    countries that a data subject of unknown country may be of; empty: any. ``largest_share``: how many per cent of a
    table one run may destroy without its number being named. ``drop_partitions``: whether a run drops partitions of
    which all rows are due, instead of their rows. ``receipts``: whether a run leaves one for each row and value that it
    destroys. ``backups``: how long backups, snapshots and archived logs
    of the database are kept; None: nobody said. ``holds``: who may place and release holds; None: whoever can.
    ``notices``: the versions of the text that guardians see, the oldest first. ``without_consent``: how long data is
    kept on a consent that is missing, by whose it is; without an entry as long as it would be with it. ``child_keep``:
    for how long at most a purpose keeps what is about somebody who was a child when its period began.
    """

    path: str
    controller: Mapping[str, str | tuple[str, ...]]
    purposes: Mapping[str, Purpose]
    duties: Mapping[str, Duty]
    categories: Mapping[str, Category]
    sensitive_categories: Mapping[str, str]
    recipients: Mapping[str, Recipient]
    default_age: AgeRule
    ages: Mapping[str, tuple[AgeRule, ...]]
    verification_methods: Mapping[str, VerificationMethod]
    finite_child_periods: bool
    enforcement: str
    naive_datetimes: str | None
    packs: tuple[tuple[str, date], ...]
    key_roll: Period | None = None
    enforced_otherwise: Mapping[str, str] = field(default_factory=dict)
    child_rules: Mapping[str, ChildRule] = field(default_factory=dict)
    offered_in: tuple[str, ...] = ()
    largest_share: int = LARGEST_SHARE
    drop_partitions: bool = False
    receipts: bool = False
    backups: Period | None = None
    holds: HoldRules | None = None
    notices: Mapping[str, Notice] = field(default_factory=dict)
    without_consent: Mapping[str, Period] = field(default_factory=dict)
    child_keep: Period | None = None
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

    def duty(self, name: str) -> Duty:
        """Return the duty called ``name``. Raises PolicyError, with the nearest names, where there is none."""
        if name in self.duties:
            return self.duties[name]
        example = '{citation: "...", keep: {for: P7Y, after: account_closed}}'
        what = f"There is no duty {quoted(name)}"
        problem = Problem(self.path, 0, f"{what}.", nearest(name, self.duties), paste(("duties", name), example))
        why = "Nothing is readable for a duty that nobody declared."
        raise refusal(f"{what} in {self.path}.", why, [problem], nearest=problem.nearest)

    def children_under(self, name: str) -> str:
        """Return ``allowed``, ``consent`` or ``never``: what a child's rows need under a purpose, in every country.

        A duty rests on no consent. What a pack prohibits for the purpose's uses, no purpose allows.
        """
        if name.startswith(DUTY):
            return "allowed"
        purpose = self.purposes[name]
        asked = self.strictest_rule(purpose)
        if asked == "prohibited" or purpose.children == "never":
            return "never"
        if purpose.children != "by_law":
            return purpose.children
        return "consent" if purpose.legal_basis == "consent" or asked == "consent" else "allowed"

    def rests_on_consent(self, name: str) -> bool:
        """Return whether a purpose needs a guardian's consent, and of somebody who comes of age the own one."""
        return self.children_under(name) == "consent" and self.purposes[name].legal_basis == "consent"

    def lapses(self, name: str) -> tuple[Lapse, ...]:
        """Return what ends a purpose where consent to it is missing, and for a child."""
        shorter = self.child_keep if self.purposes[name].keep is not None else None
        of_child = () if shorter is None else (Lapse(name, CHILD, shorter),)
        asked = {GUARDIAN: self.children_under(name) == "consent", IN_PERSON: self.rests_on_consent(name)}
        missing = (Lapse(name, each, period) for each, period in self.without_consent.items() if asked[each])
        return *missing, *of_child

    def consent_terms(self, name: str, *, disclosure: bool = False) -> ConsentTerms:
        """Return what consent to a purpose has to be like to count. Raises PolicyError for an unknown purpose.

        Where data is disclosed, by the purpose or now (``disclosure``), the method has to be good enough for that; now,
        it takes the separate yes too.
        """
        purpose = self.purpose(name)
        listed = any(name in each.purposes for each in self.recipients.values())
        discloses = disclosure or (listed if purpose.disclosure is None else purpose.disclosure)
        strong = tuple(each.name for each in self.verification_methods.values() if each.disclosure)
        methods = strong if discloses else None
        return ConsentTerms(purpose.consent_valid, methods, renewals(self.notices, name), disclosure)

    def strictest_rule(self, purpose: Purpose) -> str | None:
        """Return the strictest that any pack's rule asks for such a purpose: of any place, age and day."""
        asked = [rule.then for rule in self.child_rules.values() if rule.concerns(purpose.legal_basis, purpose.uses)]
        return max((each for each in asked if each != "allowed"), key=OUTCOMES.index, default=None)

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

    def ages_of_consent(self, country: object, region: object, day: date) -> tuple[AgeRule, ...]:
        """Return the rule on the age of digital consent that holds in a place on ``day``, and those that follow it.

        ``country``: a code of ISO 3166-1 in either case; ``region``: one of 3166-2. An unknown one takes the strictest
        of all rows, or of those in ``offered_in``; a row of status ``U`` the stricter of its age and the default.
        """
        rows = rows_of(self.ages, self.default_age, self.offered_in, places_of(country, region))
        later = (rule for rule in rows if rule.valid_from is not None and rule.valid_from > day)
        return (rule_on(rows, self.default_age, day), *later)

    def age_of_consent(self, country: object, region: object = None, day: date | None = None) -> AgeRule:
        """Return the rule that holds in a place on ``day``; None: the last one that is known."""
        return self.ages_of_consent(country, region, day or date.max)[0]


def withdrawal_of(purpose: str) -> str:
    """Return the name of the event that consent to ``purpose`` was withdrawn."""
    return f"{CONSENT_WITHDRAWN}:{purpose}"


def withdrawn_purpose(event: str) -> str | None:
    """Return the purpose of whose consent an event is the withdrawal; None for an event that models map."""
    name, _, purpose = event.partition(":")
    return purpose if purpose and name == CONSENT_WITHDRAWN else None


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

"""What a purpose needs before it may use somebody's data, by the packs that the policy extends: one pure decision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from privkit.policy import OUTCOMES, Policy, Purpose, places_of


@dataclass(frozen=True, slots=True)
class ChildDecision:
    """``outcome``: ``allowed``, ``own_consent``, ``consent`` (a guardian's) or ``prohibited``.

    ``rule``: the rule that decided, by its name in a pack, ``age_of_digital_consent.DE`` or ``purposes.pickup``; empty
    where nothing asks for more. ``jointly``: the child consents together with the guardian. ``uncertain``: the facts
    are, or nobody knows the country or the age, and the stricter was taken.
    """

    outcome: str
    rule: str
    source: str
    uncertain: bool = False
    jointly: bool = False


def decide(
    policy: Policy, purpose: str, *, age: int | None, country: str | None, region: str | None = None, day: date
) -> ChildDecision:
    """Return what ``purpose`` needs on ``day`` for somebody of ``age`` in a place: the strictest of all that is asked.

    ``age``: whole years; None where nobody knows: then the youngest. ``country`` and ``region`` as in
    ``Policy.age_of_consent``. Raises PolicyError for an unknown purpose.
    """
    asked = _asked(policy, policy.purpose(purpose), age or 0, country, region, day)
    found = max(asked, key=lambda each: OUTCOMES.index(each.outcome), default=ChildDecision("allowed", "", ""))
    unsure = found.outcome != "allowed" and (age is None or not places_of(country, region))
    return ChildDecision(found.outcome, found.rule, found.source, found.uncertain or unsure, found.jointly)


def _asked(
    policy: Policy, purpose: Purpose, age: int, country: str | None, region: str | None, day: date
) -> Iterator[ChildDecision]:
    """Yield what the packs' rules ask, then the age of digital consent, then the policy itself: the law comes first."""
    threshold, places = policy.age_of_consent(country, region, day), places_of(country, region)
    concerned = [rule for rule in policy.child_rules.values() if rule.concerns(purpose.legal_basis, purpose.uses)]
    holding = [rule for rule in concerned if rule.holds(places or rule.places, day, age)]
    guarded = purpose.children != "allowed"
    for rule in holding:
        if guarded or rule.then != "consent":
            yield ChildDecision(rule.then, rule.name, rule.source, rule.status == "U")
    if age >= threshold.age or not guarded:
        return
    uncertain, exempt = threshold.status == "U", places and any(rule.then == "allowed" for rule in holding)
    if purpose.legal_basis == "consent" and not exempt:
        name = f"age_of_digital_consent.{threshold.country or 'unknown'}"
        yield ChildDecision("consent", name, threshold.source, uncertain, threshold.joint_below)
    if purpose.children != "by_law":
        outcome = "prohibited" if purpose.children == "never" else "consent"
        yield ChildDecision(outcome, f"purposes.{purpose.name}", purpose.where, uncertain, threshold.joint_below)

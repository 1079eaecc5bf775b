"""The retention policy for children's data as a text to publish: what is kept, for what, how long, and what then.

16 CFR 312.10 asks for it in writing: the purposes, the business need, and the timeframe of deletion. It is made from
the policy and the markers, so it says what runs do.
"""

from __future__ import annotations

from dataclasses import dataclass

from privkit.consent.asked import in_words
from privkit.coverage.html import environment
from privkit.coverage.inventory import personal
from privkit.deidentify import label
from privkit.markers import Delete, Pseudonymise, Suppress, Technique
from privkit.periods import Period
from privkit.policy import Keep
from privkit.policy.lapses import CHILD
from privkit.policy.resolve import FieldRule
from privkit.sqlalchemy import children
from privkit.sqlalchemy.guard import Guard


@dataclass(frozen=True, slots=True)
class Need:
    """Why a category is kept and how long: a purpose, or a duty, whose ``basis`` is then its citation."""

    description: str
    basis: str
    period: str


@dataclass(frozen=True, slots=True)
class Kept:
    """A category of children's data. ``ends``: what becomes of it; ``off``: whether it is off until switched on."""

    category: str
    needs: tuple[Need, ...]
    ends: tuple[str, ...]
    off: bool


@dataclass(frozen=True, slots=True)
class RetentionText:
    """The text of one controller, as Markdown or HTML."""

    controller: str
    contact: str
    kept: tuple[Kept, ...]

    def markdown(self) -> str:
        """Return it as Markdown, which reads as plain text too."""
        return _render("retention_text.md.j2", self)

    def html(self) -> str:
        """Return it as one HTML file; every text in it is escaped."""
        return _render("retention_text.html.j2", self)


def retention_text(guard: Guard) -> RetentionText:
    """Return what is kept of data subjects who may be children, by category. English; no stored value is read."""
    found: dict[str, list[FieldRule]] = {}
    for entry, rule in personal(guard):
        subject = children.subject_of(guard, entry.each.table)
        if subject is not None and subject.model.child is not None:
            found.setdefault(rule.field.marker.category, []).append(rule)
    kept = tuple(_kept(category, rules) for category, rules in sorted(found.items()))
    name, contact = (str(guard.policy.controller.get(key) or "") for key in ("name", "contact"))
    return RetentionText(name, contact, kept)


def _kept(category: str, rules: list[FieldRule]) -> Kept:
    purposes = {term.purpose.name: term.purpose for rule in rules for term in rule.terms}
    duties = {duty.name: duty for rule in rules for duty in rule.duties}
    usable = [each for _, each in sorted(purposes.items()) if each.children != "never" and not each.prohibited]
    needs = [Need(each.description, each.legal_basis.replace("_", " "), _period(each.keep)) for each in usable]
    needs += [Need("Kept for the law alone", each.citation, _period(each.keep)) for _, each in sorted(duties.items())]
    ends = dict.fromkeys(_becomes(rule.field.marker.then) for rule in rules)
    return Kept(category, tuple(needs), tuple(ends), any(rule.child_off for rule in rules))


def _becomes(technique: Technique) -> str:
    """Say it to a parent: what is suppressed is gone."""
    if isinstance(technique, Suppress | Delete):
        return "deleted"
    return "replaced by a token" if isinstance(technique, Pseudonymise) else label(technique)


def _period(keep: Keep | None) -> str:
    if keep is None:
        return "without an end"
    after, _, _ = keep.after.partition(":")
    until = f", or until {keep.until.replace('_', ' ')}" if keep.until else ""
    shorter = next((each.period for each in keep.lapses if each.whose == CHILD), keep.period)
    period = min(shorter, keep.period, key=Period.length)
    return f"{in_words(period)} after {after.replace('_', ' ')}{until}"


def _render(template: str, text: RetentionText) -> str:
    return environment().get_template(template).render(text=text)

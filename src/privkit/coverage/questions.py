"""What the ICT Sector Guide asks a company about personal information, answered from the model or with a gap.

Source: European Commission, ICT Sector Guide on Implementing the UN Guiding Principles on Business and Human
Rights (2013), section III. The questions are in our words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from privkit.coverage import findings as kinds
from privkit.coverage.findings import Finding, Kind
from privkit.coverage.inventory import Decision, all_entries, covered, personal
from privkit.coverage.live import Scan
from privkit.deidentify import in_words, label
from privkit.markers import ChildProtection, Initials, Location, StandIn
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.observations import REFUSED

_NOT_YET = "not yet covered by privkit: "


@dataclass(frozen=True, slots=True)
class Answer:
    """One question with what the model shows for it, and what stays open."""

    question: str
    evidence: tuple[str, ...]
    gaps: tuple[str, ...]

    @property
    def state(self) -> str:
        """``evidence``, ``gap``, or ``partly`` where there is some of both."""
        return "partly" if self.evidence and self.gaps else "evidence" if self.evidence else "gap"


@dataclass(frozen=True, slots=True)
class _Case:
    guard: Guard
    findings: tuple[Finding, ...]
    scan: Scan | None

    def gaps(self, *wanted: Kind) -> list[str]:
        """Say how many findings there are of each of these kinds."""
        codes = [finding.code for finding in self.findings]
        return [f"{count} x {kind.code} {kind.title}" for kind in wanted if (count := codes.count(kind.code))]


def answers(guard: Guard, findings: Iterable[Finding], scan: Scan | None) -> tuple[Answer, ...]:
    """Answer every question from the models, the policy and what a scan found."""
    case = _Case(guard, tuple(findings), scan)
    found = []
    for question, answer in QUESTIONS:
        evidence, gaps = answer(case)
        found.append(Answer(question, tuple(evidence), tuple(gaps)))
    return tuple(found)


_Parts = tuple[list[str], list[str]]


def _needed(case: _Case) -> _Parts:
    decisions = [entry.decision for entry in all_entries(case.guard)]
    count, rest = decisions.count(Decision.PERSONAL), decisions.count(Decision.NOT_PERSONAL)
    evidence = [f"{count} personal columns, each with the purposes that need it; {rest} declared not personal."]
    wanted = (
        kinds.UNDECIDED_COLUMN,
        kinds.UNDECIDED_LINKED_TABLE,
        kinds.UNDECIDED_TABLE,
        kinds.UNKNOWN_TABLE,
        kinds.UNKNOWN_COLUMN,
        kinds.UNUSED_PURPOSE,
        kinds.OBSERVED_TABLE,
        kinds.UNKNOWN_ENFORCED_TABLE,
    )
    refused = [each for each in case.scan.observed if each.outcome == REFUSED] if case.scan else []
    if refused:
        times, since = sum(each.count for each in refused), min(each.first for each in refused)
        evidence.append(f"{times} uses that no purpose allows were refused since {since}: privkit observed lists them.")
    return evidence if count else [], case.gaps(*wanted)


def _stated(case: _Case) -> _Parts:
    used = {term.purpose.name: term.purpose for rule in case.guard.rules.values() for term in rule.terms}
    evidence = [
        f"{name}: {purpose.description} ({purpose.legal_basis}), "
        + (str(purpose.keep) if purpose.keep else "for ever")
        + (f"; only in groups of {purpose.minimum_group} persons or more" if purpose.minimum_group else "")
        for name, purpose in sorted(used.items())
    ]
    return evidence, case.gaps(kinds.KEPT_FOR_EVER)


def _afterwards(case: _Case) -> _Parts:
    ends: dict[str, list[str]] = {}
    for entry, rule in personal(case.guard):
        ends.setdefault(label(rule.field.marker.then), []).append(entry.where)
    evidence = [f"{technique}: {', '.join(fields)}" for technique, fields in sorted(ends.items())]
    rows = [each.table.fullname for each in covered(case.guard) if each.model.expire_row]
    evidence += [f"rows deleted once all their fields ended: {', '.join(rows)}"] if rows else []
    wanted = (kinds.UNSUPPRESSIBLE, kinds.EMPTY_ROW, kinds.FUTURE_EVENT, kinds.NAIVE_EVENT, kinds.NOBODYS_DATA)
    gaps = case.gaps(*wanted)
    return evidence, [*gaps, "whether anything is overdue is not in this report: see privkit plan"]


def _places(case: _Case) -> _Parts:
    evidence, gaps = [], []
    for entry, rule in personal(case.guard):
        marker = rule.field.marker
        if not (isinstance(marker, Location) or marker.category.startswith("user.location")):
            continue
        if not rule.sealed:
            gaps.append(f"{entry.where} is not sealed")
            continue
        stored = case.scan.stored.get(entry.column) if case.scan else None
        counted = f", {stored.envelopes} of {stored.values} stored values are envelopes" if stored else ""
        evidence.append(f"{entry.where} is sealed{counted}")
    if not evidence and not gaps:
        return ["no field is a location"], gaps
    return evidence, gaps + case.gaps(kinds.NOT_AN_ENVELOPE, kinds.MISSING_CHECK)


def _children(case: _Case) -> _Parts:
    policy = case.guard.policy
    subjects = [each for each in covered(case.guard) if each.model.child is not None]
    evidence = [
        f"{each.table.fullname}: age by {' or '.join(_ages(each.model.child))}, "
        f"country by {each.model.child.country or 'none'}"
        for each in subjects
        if each.model.child is not None
    ]
    if subjects:
        uncertain = sorted(place for place, rules in policy.ages.items() if any(each.status == "U" for each in rules))
        evidence.append(
            f"unknown age is a child's; unknown country takes {policy.age_of_consent(None).age} years; "
            f"{len(policy.ages)} places have an age of their own"
        )
        if uncertain:
            evidence.append(f"uncertain ages, resolved to the stricter one: {', '.join(uncertain)}")
        never = sorted(name for name, purpose in policy.purposes.items() if purpose.children == "never")
        evidence.append(f"purposes closed to children: {', '.join(never) or 'none'}")
    gaps = case.gaps(kinds.NO_CHILD_PROTECTION)
    return evidence, gaps if evidence or gaps else ["no model says how old its data subjects are"]


def _ages(child: ChildProtection) -> list[str]:
    return [*child.births, *(name for name in (child.reached_on, child.age_band) if name is not None)]


def _recipients(case: _Case) -> _Parts:
    evidence, gaps = [], []
    for name, recipient in sorted(case.guard.policy.recipients.items()):
        where = f"{name}: {', '.join(recipient.purposes)}; regions {', '.join(recipient.regions)}"
        if recipient.contract is None:
            gaps.append(f"{name} has no contract")
        evidence.append(where + (f"; contract of {recipient.contract}" if recipient.contract else ""))
    return evidence, [*gaps, f"{_NOT_YET}that every disclosure to a recipient is checked and recorded"]


def _names(case: _Case) -> _Parts:
    evidence, gaps = [], []
    for entry, rule in personal(case.guard):
        if rule.field.marker.category.startswith("user.name"):
            needed = "may be left empty" if entry.column.nullable else "has to be given"
            evidence.append(f"{entry.where} {needed}; it ends {label(rule.field.marker.then)}")
            other = [term for term in rule.terms if isinstance(term.precision, StandIn | Initials)]
            evidence += [f"{entry.where}: {term.purpose.name} sees {in_words(term.precision)} only" for term in other]
            gaps += [] if other else [f"{entry.where} is shown as it is, or not at all: no purpose sees a StandIn"]
    return evidence or ["no field is a name"], gaps


def _governments(case: _Case) -> _Parts:
    sealed = sum(rule.sealed for _, rule in personal(case.guard))
    evidence = [f"{sealed} columns are sealed: a copy of the database alone opens none of them"] if sealed else []
    return evidence, [f"{_NOT_YET}a register of requests, with their legal basis, scope and answer"]


QUESTIONS: tuple[tuple[str, Callable[[_Case], _Parts]], ...] = (
    ("Is only collected what is needed?", _needed),
    ("Does every piece of information have a stated purpose and an end?", _stated),
    ("What happens to it afterwards: is it deleted or de-identified?", _afterwards),
    ("Is the location of people protected?", _places),
    ("Are children protected, and their parents asked?", _children),
    ("To whom is information disclosed, and what binds them?", _recipients),
    ("Do people have to use their real names?", _names),
    ("How are requests from governments handled?", _governments),
)

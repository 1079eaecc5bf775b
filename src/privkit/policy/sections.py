"""The sections that the organisation's file and a rule pack have in common, and how one is laid over another."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from privkit.periods import Period
from privkit.policy.ages import OUTCOMES, USES, AgeRule, ChildRule
from privkit.policy.lapses import WHOSE
from privkit.policy.nodes import Items, Node, Table
from privkit.policy.problems import paste, quoted
from privkit.policy.reading import Path, Reading, Section, dotted
from privkit.policy.rules import CONSENT_WITHDRAWN, EPOCH_STEP, LEGAL_BASES, Duty, Keep, VerificationMethod

SECTIONS = ("categories", "sensitive", "duties", "child")
KEEP = {"for": "P30D", "after": "account_closed"}
_DUTY = {"citation": '"..."', "keep": "{for: P7Y, after: account_closed}"}
_SEVERITY = {"scale": "2", "scope": "2", "irremediable": "2"}
_CHILD = (
    *("ages", "default_age", "offered_in", "age_of_digital_consent"),
    *("rules", "verification_methods", "finite_periods", "without_consent", "keep"),
)
_AGE = {"age": "16", "status": "B", "source": '"..."'}
_STATUS = ("A", "B", "U")
_OLDEST = 21

_RULE = {"then": "consent", "below": "13", "status": "B", "source": '"..."'}
_PLACE = re.compile(r"[A-Z]{2}(-[A-Z0-9]{1,3})?")
_CATEGORY = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)*")


@dataclass(slots=True)
class Layer:
    """What one file says in the common sections. ``ages_from``: the pack whose ages lie beneath, and the line."""

    categories: dict[str, dict[str, Any]] = field(default_factory=dict)
    sensitive: dict[str, str] = field(default_factory=dict)
    duties: dict[str, Duty] = field(default_factory=dict)
    default_age: AgeRule | None = None
    ages: dict[str, tuple[AgeRule, ...]] = field(default_factory=dict)
    offered_in: tuple[str, ...] = ()
    child_rules: dict[str, ChildRule] = field(default_factory=dict)
    methods: dict[str, VerificationMethod] = field(default_factory=dict)
    finite_periods: bool = False
    without_consent: dict[str, Period] = field(default_factory=dict)
    child_keep: Period | None = None
    ages_from: tuple[str, int] | None = None


def merge(layers: Iterable[Layer]) -> Layer:
    """Lay each layer over the ones before it. Categories merge key by key; the strictest default age holds."""
    merged = Layer()
    for layer in layers:
        for key, rule in layer.categories.items():
            merged.categories[key] = {**merged.categories.get(key, {}), **rule}
        merged.sensitive.update(layer.sensitive)
        merged.duties.update(layer.duties)
        merged.ages.update(layer.ages)
        merged.offered_in = layer.offered_in or merged.offered_in
        merged.child_rules.update(layer.child_rules)
        merged.methods.update(layer.methods)
        merged.without_consent.update(layer.without_consent)
        merged.finite_periods = merged.finite_periods or layer.finite_periods
        periods = [each for each in (merged.child_keep, layer.child_keep) if each is not None]
        merged.child_keep = min(periods, key=Period.length, default=None)
        defaults = [rule for rule in (merged.default_age, layer.default_age) if rule is not None]
        merged.default_age = max(defaults, key=lambda rule: rule.age, default=None)
    return merged


def read_sections(found: Section, as_of: date | None = None) -> Layer:
    """Read the common sections of a file. ``as_of``: a rule pack's own day, after which no fact in it may begin."""
    layer = Layer()
    for key, node in found.named("categories"):
        rule = _category(found.reading, key, node)
        if rule is not None:
            layer.categories[key] = rule
    _sensitive(found, layer)
    for name, node in found.named("duties"):
        duty = _duty(found.reading, name, node)
        if duty is not None:
            layer.duties[name] = duty
    child = found.table("child", {}, _CHILD)
    if child is not None:
        _child(child, layer, as_of)
    return layer


def read_keep(found: Section, optional: tuple[str, ...] = ()) -> Keep | None:
    """Read ``keep: {for: P30D, after: account_closed}``; a purpose's may add ``epoch: P1D`` and ``until: expires``."""
    keep = found.table("keep", KEEP, optional)
    if keep is None:
        return None
    period, after, epoch = keep.period("for"), keep.event("after"), keep.period("epoch")
    until = keep.event("until") or ""
    if until == CONSENT_WITHDRAWN or (after == CONSENT_WITHDRAWN and not optional):
        path = (*keep.path, "after" if after == CONSENT_WITHDRAWN else "until")
        message = f"{dotted(path)} is {CONSENT_WITHDRAWN}, from which only a purpose's period counts."
        keep.reading.report(keep.line_of(path[-1]), message, paste(path, "account_closed"))
    if until and epoch is not None:
        path = (*keep.path, "until")
        message = f"{dotted(path)} stands beside an epoch, whose end is not one row's own."
        keep.reading.report(keep.line_of("until"), message, paste((*keep.path, "epoch"), "P1D"))
    if epoch is not None and (epoch.months or epoch.rest % EPOCH_STEP):
        path, line = (*keep.path, "epoch"), keep.line_of("epoch")
        message = f"{dotted(path)} is {quoted(epoch.text)}; an epoch has a fixed length of whole hours."
        keep.reading.report(line, message, paste(path, "P1D"))
    return None if period is None or after is None else Keep(period, after, epoch, until)


def _category(reading: Reading, key: str, node: Node) -> dict[str, Any] | None:
    if not _is_category(reading, key, node.line, ("categories",)):
        return None
    found = reading.table(node, ("categories", key), {}, ("seal", "severity", "child"))
    if found is None:
        return None
    rule: dict[str, Any] = {"where": found.where}
    seal = found.choice("seal", ("required", "optional"))
    severity = _severity(found)
    child = found.switch("child")
    if seal is not None:
        rule["seal"] = seal == "required"
    if severity is not None:
        rule["severity"] = severity
    if child is not None:
        rule["child"] = child
    return rule


def _severity(found: Section) -> tuple[int, int, int] | None:
    severity = found.table("severity", _SEVERITY)
    if severity is None:
        return None
    scale, scope, irremediable = (severity.integer(name, 1, 3) for name in _SEVERITY)
    return None if scale is None or scope is None or irremediable is None else (scale, scope, irremediable)


def _sensitive(found: Section, layer: Layer) -> None:
    """Read ``[user.criminal_history]``, or ``{user.criminal_history: "GDPR Art. 10"}`` with citations."""
    node, path = found.nodes.get("sensitive"), ("sensitive",)
    if not isinstance(node, Table):
        for key, line in found.lines("sensitive"):
            if _is_category(found.reading, key, line, path):
                layer.sensitive[key] = ""
        return
    cited = Section(found.reading, path, node.line, dict(node.entries))
    for key, value in node.entries:
        citation = cited.text(key)
        if _is_category(found.reading, key, value.line, path) and citation is not None:
            layer.sensitive[key] = citation


def _is_category(reading: Reading, key: str, line: int, path: Path) -> bool:
    if _CATEGORY.fullmatch(key):
        return True
    example = "[user.location.precise]" if path == ("sensitive",) else "{user.location.precise: {seal: required}}"
    message = f"{dotted(path)} names {quoted(key)}, which is not a dotted Fideslang key."
    reading.report(line, message, paste(path, example))
    return False


def _duty(reading: Reading, name: str, node: Node) -> Duty | None:
    found = reading.table(node, ("duties", name), _DUTY)
    if found is None:
        return None
    citation, keep = found.text("citation"), read_keep(found)
    return None if citation is None or keep is None else Duty(name, citation, keep, found.where)


def _child(found: Section, layer: Layer, as_of: date | None) -> None:
    pack = found.text("ages")
    if pack is not None:
        layer.ages_from = pack, found.line_of("ages")
    table = found.table("age_of_digital_consent", {}, ("default", "rows"))
    if table is not None:
        _ages(table, layer, as_of)
    age = found.integer("default_age", 1, _OLDEST)
    if age is not None:
        layer.default_age = AgeRule(None, age, "U", "the policy's child.default_age")
    layer.offered_in = _places(found, "offered_in")
    for name, node in found.named("rules"):
        rule = _rule(found.reading, name, node)
        if rule is not None:
            layer.child_rules[name] = rule
    for name, node in found.named("verification_methods"):
        method = _method(found.reading, name, node)
        if method is not None:
            layer.methods[name] = method
    layer.finite_periods = found.flag("finite_periods") is True
    layer.child_keep = found.period("keep") if "keep" in found else None
    _without_consent(found, layer)


def _without_consent(found: Section, layer: Layer) -> None:
    """Read ``{guardian: P14D, in_person: P30D}``, or one of the two."""
    section = found.table("without_consent", {}, WHOSE)
    if section is None:
        return
    if not section.nodes:
        message = f"{dotted(section.path)} says for nobody how long data is kept without consent."
        found.reading.report(section.line, message, paste((*section.path, WHOSE[0]), "P14D"))
    given = {each: section.period(each) for each in WHOSE if each in section}
    layer.without_consent = {each: period for each, period in given.items() if period is not None}


def _ages(table: Section, layer: Layer, as_of: date | None) -> None:
    if "default" in table:
        layer.default_age = _age(table, None, table.nodes["default"], as_of)
    for place, node in table.named("rows"):
        if not _PLACE.fullmatch(place):
            message = f"{dotted(table.path)} has a row that is not a code of a country or its part, in capitals."
            table.reading.report(node.line, message, paste((*table.path, "rows", "GB"), "{...}"))
            continue
        given = [_age(table, place, each, None) for each in (node.items if isinstance(node, Items) else (node,))]
        rules = tuple(rule for rule in given if rule is not None)
        days = [rule.valid_from or date.min for rule in rules]
        if days != sorted(set(days)):
            message = f"{dotted(table.path)}.rows.{place} lists ages whose days do not follow one another."
            table.reading.report(node.line, message, paste((*table.path, "rows", place), "[{...}, {from: ..., ...}]"))
        if rules:
            layer.ages[place] = rules


def _places(found: Section, key: str) -> tuple[str, ...]:
    given = tuple(found.lines(key)) if key in found else ()
    for code, line in given:
        if not _PLACE.fullmatch(code):
            message = f"{dotted((*found.path, key))} has {quoted(code)}, which is no code of a country or its part."
            found.reading.report(line, message, paste((*found.path, key), "[GB, US-CA]"))
    return tuple(code for code, _ in given)


def _rule(reading: Reading, name: str, node: Node) -> ChildRule | None:
    path = ("child", "rules", name)
    found = reading.table(node, path, _RULE, ("from_age", "places", "bases", "uses", "from", "until"))
    if found is None:
        return None
    then, below = found.choice("then", OUTCOMES), found.integer("below", 1, _OLDEST)
    status, source = found.choice("status", _STATUS), found.text("source")
    if then is None or below is None or status is None or source is None:
        return None
    return ChildRule(
        name=name,
        then=then,
        below=below,
        from_age=found.integer("from_age", 1, below - 1) or 0,
        places=_places(found, "places"),
        bases=found.choices("bases", LEGAL_BASES),
        uses=found.choices("uses", USES),
        status=status,
        source=source,
        valid_from=found.day("from"),
        valid_until=found.day("until"),
        where=found.where,
    )


def _age(table: Section, country: str | None, node: Node, as_of: date | None) -> AgeRule | None:
    path = (*table.path, "default") if country is None else (*table.path, "rows", country)
    found = table.reading.table(node, path, _AGE, ("from", "joint_below"))
    if found is None:
        return None
    age, status, source = (
        found.integer("age", 1, _OLDEST),
        found.choice("status", _STATUS),
        found.text("source"),
    )
    since, joint = found.day("from"), found.flag("joint_below")
    if since is not None and as_of is not None and since > as_of:
        message = f"{dotted(path)}.from is later than as_of: a fact that is not yet in force."
        table.reading.report(found.line_of("from"), message, paste((*path, "from"), as_of.isoformat()))
    if age is None or status is None or source is None:
        return None
    return AgeRule(country, age, status, source, since, joint is True)


def _method(reading: Reading, name: str, node: Node) -> VerificationMethod | None:
    path = ("child", "verification_methods", name)
    found = reading.table(node, path, {"disclosure": "false"}, ("evidence", "countries"))
    if found is None:
        return None
    disclosure = found.flag("disclosure")
    evidence, countries = found.choice("evidence", ("delete_promptly",)), found.texts("countries")
    return None if disclosure is None else VerificationMethod(name, disclosure, evidence, countries or (), found.where)

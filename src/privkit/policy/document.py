"""The organisation's file. ``load`` reads it with its packs and returns a Policy, or one error with every mistake."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from privkit.policy.ages import USES, AgeRule
from privkit.policy.nodes import Node, Table, Text, read_file
from privkit.policy.notices import read_notices
from privkit.policy.packs import BASELINE_AGES, Packs, packs_folder
from privkit.policy.problems import Problem, counted, nearest, paste, quoted, refusal
from privkit.policy.reading import Reading, Section, dotted
from privkit.policy.rules import (
    CHILDREN,
    CONSENT_WITHDRAWN,
    DUTY,
    ENFORCEMENT,
    LARGEST_SHARE,
    LEGAL_BASES,
    HoldRules,
    Keep,
    Policy,
    Purpose,
    Recipient,
    inherit,
    withdrawal_of,
)
from privkit.policy.sections import SECTIONS, Layer, merge, read_keep, read_sections

PURPOSE = {"description": '"..."', "legal_basis": "contract", "keep": "{for: P30D, after: account_closed}"}
_NEW_PURPOSE = f"{{account: {{{', '.join(f'{key}: {value}' for key, value in PURPOSE.items())}}}}}"
_TOP = {"privkit": "1", "purposes": _NEW_PURPOSE}
_TOP_OPTIONAL = (
    *(
        "extends",
        "controller",
        "enforcement",
        "holds",
        "keys",
        "notices",
        "backups",
        "naive_datetimes",
        "recipients",
        "runs",
    ),
    *SECTIONS,
)
_FURTHER = ("minimum_group", "uses")
_CONTROLLER = ("contact", "representative", "data_protection_officer", "address")
_HOLDS = {"place": "[legal]", "release": "[legal]"}
_LARGEST_MINIMUM = 1000
_RECIPIENT = {"regions": "[eu-west-1]", "purposes": "[...]"}


def load(source: str | os.PathLike[str] | Policy, *, packs: str | os.PathLike[str] | None = None) -> Policy:
    """Return the policy in the YAML file ``source``; a Policy is returned as it is.

    ``packs`` is a folder of rule packs to use instead of those that ship with privkit. Raises one PolicyError
    that lists every mistake of the file and its packs; its ``data["problems"]`` are ``Problem`` objects.
    """
    if isinstance(source, Policy):
        return source
    problems: list[Problem] = []
    path = Path(source)
    node = read_file(path, problems)
    policy = None if node is None else _read(path, node, Path(packs) if packs else packs_folder(), problems)
    if policy is None:
        problems.sort(key=lambda problem: (problem.file != str(path), problem.file, problem.line))
        why = "No part of it is in force: half a policy protects by half."
        raise refusal(f"The policy {path} has {counted(problems)}.", why, problems, path=str(path))
    return policy


def _read(path: Path, node: Node, folder: Path, problems: list[Problem]) -> Policy | None:
    reading = Reading(str(path), problems)
    if isinstance(node, Text) and node.empty:
        reading.report(1, "The file is empty.", "\n".join(f"{key}: {value}" for key, value in _TOP.items()))
        return None
    found = reading.table(node, (), _TOP, _TOP_OPTIONAL)
    if found is None:
        return None
    found.integer("privkit", 1, 1)
    own = read_sections(found)
    used = _packs(found, own, folder)
    rules = merge((*used.layers.values(), own))
    purposes, recipients, controller = _purposes(found), _recipients(found), _controller(found)
    enforcement, enforced_otherwise = _enforcement(found)
    naive_datetimes = found.choice("naive_datetimes", ("UTC",))
    keys = found.table("keys", {"roll": "P90D"})
    key_roll = keys.period("roll") if keys is not None else None
    backups = found.period("backups")
    share, drop_partitions, receipts = _runs(found)
    holds = _holds(found)
    notices = read_notices(found, list(purposes))
    default_age = rules.default_age or _no_default(reading)
    if problems or default_age is None:
        return None
    policy = Policy(
        path=str(path),
        controller=controller,
        purposes=purposes,
        duties=rules.duties,
        categories=inherit(rules.categories),
        sensitive_categories=rules.sensitive,
        recipients=recipients,
        default_age=default_age,
        ages=rules.ages,
        verification_methods=rules.methods,
        finite_child_periods=rules.finite_periods,
        enforcement=enforcement,
        naive_datetimes=naive_datetimes,
        packs=tuple(used.dates.items()),
        key_roll=key_roll,
        enforced_otherwise=enforced_otherwise,
        child_rules=rules.child_rules,
        offered_in=rules.offered_in,
        largest_share=share,
        drop_partitions=drop_partitions,
        receipts=receipts,
        backups=backups,
        holds=holds,
        notices=notices,
        without_consent=rules.without_consent,
        child_keep=rules.child_keep,
    )
    return _lapsing(reading, policy)


def _lapsing(reading: Reading, policy: Policy) -> Policy | None:
    """Have each purpose end where consent to it is missing for as long as the policy says."""
    purposes = dict(policy.purposes)
    for name, purpose in policy.purposes.items():
        lapses = policy.lapses(name)
        if lapses and purpose.keep is None:
            line = int(purpose.where.rpartition(":")[2])
            message = f"purposes.{name} needs consent and keeps for ever, and child.without_consent ends it."
            reading.report(line, message, paste(("purposes", name, "keep"), PURPOSE["keep"]))
        elif lapses and purpose.keep is not None:
            purposes[name] = replace(purpose, keep=replace(purpose.keep, lapses=lapses))
    return None if reading.problems else replace(policy, purposes=purposes)


def _enforcement(found: Section) -> tuple[str, dict[str, str]]:
    """Read ``enforce``, ``observe``, or ``{default: enforce, tables: {notes: observe}}``."""
    if not isinstance(found.nodes.get("enforcement"), Table):
        return found.choice("enforcement", ENFORCEMENT) or ENFORCEMENT[0], {}
    section = found.table("enforcement", {"default": ENFORCEMENT[0]}, ("tables",))
    assert section is not None
    default, tables = section.choice("default", ENFORCEMENT), {}
    for name, node in section.named("tables"):
        each = Section(found.reading, ("enforcement", "tables"), node.line, {name: node})
        tables[name] = each.choice(name, ENFORCEMENT) or ENFORCEMENT[0]
    return default or ENFORCEMENT[0], tables


def _runs(found: Section) -> tuple[int, bool, bool]:
    """Read the largest share of a table, whether partitions are dropped whole, and whether rows leave receipts."""
    flags = ("drop_partitions", "receipts")
    runs = found.table("runs", {}, ("largest_share", *flags))
    if runs is None:
        return LARGEST_SHARE, False, False
    share = runs.integer("largest_share", 1, 100) if "largest_share" in runs else None
    drop_partitions, receipts = (name in runs and bool(runs.flag(name)) for name in flags)
    if drop_partitions and receipts:
        message = "runs.receipts needs each row, and runs.drop_partitions drops rows unseen."
        found.reading.report(runs.line_of("receipts"), message, "Leave one of them out.")
    return share or LARGEST_SHARE, drop_partitions, receipts


def _holds(found: Section) -> HoldRules | None:
    section = found.table("holds", _HOLDS, ("longest",))
    if section is None:
        return None
    roles = {key: section.texts(key) for key in _HOLDS if key in section}
    for key, named in roles.items():
        if named == ():
            path = (*section.path, key)
            found.reading.report(section.line_of(key), f"{dotted(path)} names nobody.", paste(path, _HOLDS[key]))
    longest = section.period("longest") if "longest" in section else None
    return HoldRules(roles.get("place") or (), roles.get("release") or (), longest, section.where)


def _packs(found: Section, own: Layer, folder: Path) -> Packs:
    """Read the packs. Where none of them, nor the file, gives a default age, the baseline's ages lie beneath."""
    used = Packs(folder, found.reading.problems)
    if "extends" in found:
        for name, line in found.lines("extends"):
            used.extend(name, found.reading, line, ("extends",))
    if own.ages_from is not None:
        name, line = own.ages_from
        used.extend(name, found.reading, line, ("child", "ages"))
    if not any(layer.default_age for layer in (*used.layers.values(), own)) and not found.reading.problems:
        used.extend(BASELINE_AGES, found.reading, found.line, ("extends",))
        used.layers = {BASELINE_AGES: used.layers.pop(BASELINE_AGES, Layer()), **used.layers}
    return used


def _no_default(reading: Reading) -> AgeRule | None:
    if not reading.problems:
        reading.report(1, "Neither the file nor a pack gives a default age of consent.", "child: {default_age: 16}")
    return None


def _purposes(found: Section) -> dict[str, Purpose]:
    node = found.nodes.get("purposes")
    if (isinstance(node, Text) and node.empty) or (isinstance(node, Table) and not node.entries):
        message = "purposes is empty: nothing could be read or written."
        found.reading.report(node.line, message, paste(("purposes",), _NEW_PURPOSE))
    read = (_purpose(found.reading, name, node) for name, node in found.named("purposes"))
    return {purpose.name: purpose for purpose in read if purpose is not None}


def _purpose(reading: Reading, name: str, node: Node) -> Purpose | None:
    found = reading.table(
        node, ("purposes", name), PURPOSE, ("because", "prohibited", "children", "consent", "disclosure", *_FURTHER)
    )
    if found is None:
        return None
    if name.startswith(DUTY):
        message = f"The purpose {quoted(name)} has the name under which a duty is entered."
        reading.report(found.line, message, paste(("purposes", name.removeprefix(DUTY) or "..."), "{...}"))
    description, basis = found.text("description"), found.choice("legal_basis", LEGAL_BASES)
    prohibited, children = found.flag("prohibited") is True, found.choice("children", CHILDREN) or "consent"
    keep, because = _keep(found)
    minimum = found.integer("minimum_group", 2, _LARGEST_MINIMUM)
    uses = found.choices("uses", USES)
    consent, disclosure = found.table("consent", {"valid": "P1Y"}), found.flag("disclosure")
    valid = consent.period("valid") if consent is not None else None
    if description is None or basis is None:
        return None
    return Purpose(
        name, description, basis, keep, because, prohibited, children, found.where, minimum, uses, valid, disclosure
    )


def _keep(found: Section) -> tuple[Keep | None, str]:
    """Read a purpose's keep and its reason. None is for ever, which needs a reason.

    The forms: ``{for: P1D, after: trip_ended}``; ``forever`` with ``because: "..."`` beside it; and
    ``{forever: true, because: "..."}``.
    """
    because = found.text("because") or ""
    node, path = found.nodes.get("keep"), (*found.path, "keep")
    if isinstance(node, Text) and node.value == "forever":
        if "because" not in found:
            fix = paste(found.path, '{keep: forever, because: "..."}')
            found.reading.report(node.line, f"{dotted(path)} is forever without a reason.", fix)
        return None, because
    if isinstance(node, Table) and any(key == "forever" for key, _ in node.entries):
        keep = found.table("keep", {"forever": "true", "because": '"..."'})
        if keep is not None and keep.flag("forever") is False:
            message = f"{dotted(path)} is not forever and has no period."
            found.reading.report(node.line, message, paste(path, PURPOSE["keep"]))
        return None, (keep.text("because") if keep is not None else None) or because
    read = read_keep(found, ("epoch", "until"))
    if read is not None and read.after == CONSENT_WITHDRAWN:
        read = replace(read, after=withdrawal_of(found.path[-1]))
    return read, because


def _recipients(found: Section) -> dict[str, Recipient]:
    section = found.nodes.get("purposes")
    declared = [name for name, _ in section.entries] if isinstance(section, Table) else []
    read = (_recipient(found.reading, name, node, declared) for name, node in found.named("recipients"))
    return {recipient.name: recipient for recipient in read if recipient is not None}


def _recipient(reading: Reading, name: str, node: Node, declared: list[str]) -> Recipient | None:
    found = reading.table(node, ("recipients", name), _RECIPIENT, ("contract", "safeguards"))
    if found is None:
        return None
    contract = found.day("contract")
    regions, purposes, safeguards = (found.texts(key) or () for key in ("regions", "purposes", "safeguards"))
    for purpose in purposes:
        if purpose not in declared:
            near = nearest(purpose, declared)
            message = f"{dotted(found.path)} names purpose {quoted(purpose)}, which is not declared."
            fix = paste((*found.path, "purposes"), f"[{', '.join(near[:1])}]")
            reading.report(found.line_of("purposes"), message, fix, near)
    day = None if contract is None else contract.isoformat()
    return Recipient(name, day, regions, purposes, safeguards, found.where)


def _controller(found: Section) -> dict[str, str | tuple[str, ...]]:
    section = found.table("controller", {"name": '"..."'}, (*_CONTROLLER, "regions"))
    if section is None:
        return {}
    texts = {key: section.text(key) for key in ("name", *_CONTROLLER)}
    controller: dict[str, str | tuple[str, ...]] = {key: text for key, text in texts.items() if text is not None}
    regions = section.texts("regions")
    return controller if regions is None else {**controller, "regions": regions}

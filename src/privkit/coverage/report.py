"""The coverage report: what an auditor reads, as text, JSON and one HTML file.

It is made of names, decisions and counts; nothing in it comes from a stored value.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from privkit.clock import as_utc
from privkit.coverage import inventory, proof, questions
from privkit.coverage.audit import found_in
from privkit.coverage.findings import Finding, Severity
from privkit.coverage.inventory import Decision, Entry
from privkit.coverage.live import Scan, scan
from privkit.coverage.live_search import Histogram
from privkit.coverage.owners import Owner, owner_of
from privkit.coverage.proof import Evidence
from privkit.coverage.questions import Answer
from privkit.deidentify import in_words, label
from privkit.policy import Keep
from privkit.policy.resolve import FieldRule
from privkit.sqlalchemy.guard import Guard, Protected

SCHEMA = 1
"""The version of the JSON form: keys are added under one version, never renamed."""


@dataclass(frozen=True, slots=True)
class Use:
    """One purpose that needs a column: its legal basis, how long, how exact, and in groups of how many or more."""

    purpose: str
    legal_basis: str
    keep: str
    precision: str
    prohibited: bool
    minimum_group: int | None = None

    @property
    def seen_as(self) -> str:
        """How exact, and in what groups, in words."""
        grouped = f", only in groups of {self.minimum_group} persons or more" if self.minimum_group else ""
        return self.precision + grouped


@dataclass(frozen=True, slots=True)
class ColumnRow:
    """One column of the report. What only personal columns have is empty for the others."""

    name: str
    decision: str
    because: str = ""
    category: str = ""
    uses: tuple[Use, ...] = ()
    duties: tuple[str, ...] = ()
    sealing: str = ""
    technique: str = ""
    evidence: Evidence | None = None
    index: Histogram | None = None


@dataclass(frozen=True, slots=True)
class TableRow:
    """One table of the report."""

    name: str
    model: str
    owner: Owner
    row_ends: str
    columns: tuple[ColumnRow, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """Where the report comes from. ``on_disks``: what is left in files and backups of what was destroyed last."""

    policy: str
    digest: str
    enforcement: str
    packs: tuple[tuple[str, str], ...]
    controller: tuple[tuple[str, str], ...]
    generated_at: str
    database: str | None
    on_disks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One report. ``findings`` are worst first."""

    header: Header
    tables: tuple[TableRow, ...]
    undecided_tables: tuple[str, ...]
    findings: tuple[Finding, ...]
    answers: tuple[Answer, ...]

    def at_least(self, threshold: Severity = Severity.MEDIUM) -> tuple[Finding, ...]:
        """Return the findings that are as bad as ``threshold`` or worse."""
        return tuple(finding for finding in self.findings if finding.severity >= threshold)

    @property
    def covered(self) -> bool:
        """Whether no finding is worse than ``LOW``: what a command's exit code 0 means."""
        return not self.at_least()

    def counts(self) -> dict[str, int]:
        """Return how many columns there are, by decision, in a fixed order."""
        columns = [column.decision for table in self.tables for column in table.columns]
        return {decision.value: columns.count(decision.value) for decision in Decision}

    def text(self, width: int = 100) -> str:
        """Return the report as plain text in lines of up to ``width`` characters (at least 60)."""
        from privkit.coverage.text import render

        return render(self, max(60, width))

    def json(self) -> str:
        """Return the report as JSON: sorted keys, a schema version, the same bytes for the same state."""
        return json.dumps(as_data(self), sort_keys=True, indent=2, ensure_ascii=False) + "\n"

    def html(self) -> str:
        """Return the report as one HTML file without scripts and without a request to anywhere."""
        from privkit.coverage.html import render

        return render(self)


def report(guard: Guard, engine: Engine | Connection | None = None, at: datetime | None = None) -> Report:
    """Report on the models and the policy, and with an engine or a connection on that database.

    ``at`` is the instant that stands on the report; the guard's clock where none is given. Raises ClockError for
    an instant without a zone, and what the driver raises where the database cannot be read.
    """
    seen = scan(guard, engine) if engine is not None else None
    tables = tuple(_table(guard, each, seen) for each in inventory.covered(guard))
    findings = tuple(found_in(guard, seen))
    return Report(
        header=_header(guard, guard.now() if at is None else as_utc(at), seen),
        tables=tables,
        undecided_tables=tuple(table.fullname for table in inventory.uncovered(guard)),
        findings=findings,
        answers=questions.answers(guard, findings, seen),
    )


def _header(guard: Guard, at: datetime, seen: Scan | None) -> Header:
    policy = guard.policy
    controller = {
        key: value if isinstance(value, str) else ", ".join(value) for key, value in policy.controller.items()
    }
    return Header(
        policy=policy.path,
        digest=policy.digest,
        enforcement=policy.enforcement,
        packs=tuple((name, day.isoformat()) for name, day in sorted(policy.packs)),
        controller=tuple(controller.items()),
        generated_at=at.isoformat(timespec="seconds"),
        database=seen.dialect if seen is not None else None,
        on_disks=(str(left), *left.notes) if (left := seen and seen.physically) else (),
    )


def _table(guard: Guard, each: Protected, seen: Scan | None) -> TableRow:
    owner = owner_of(guard, each)
    classes = sorted(other.mapper.class_.__name__ for other in guard.classes.values() if other.table is each.table)
    ends = each.model.expire_row
    return TableRow(
        name=each.table.fullname,
        model=", ".join(classes),
        owner=owner,
        row_ends=label(ends).replace("deleted with its row", "deleted once all its fields ended") if ends else "stays",
        columns=tuple(_column(entry, owner, seen) for entry in inventory.entries(guard, each.table)),
    )


def _column(entry: Entry, owner: Owner, seen: Scan | None) -> ColumnRow:
    rule = entry.rule
    if rule is None:
        return ColumnRow(entry.column.name, entry.decision.value, entry.because)
    search = rule.field.marker.search
    return ColumnRow(
        name=entry.column.name,
        decision=entry.decision.value,
        category=rule.field.marker.category + (" (sensitive)" if rule.sensitive else ""),
        uses=tuple(_uses(rule)),
        duties=tuple(f"{duty.name}: {keep_in_words(duty.keep)} ({duty.citation})" for duty in rule.duties),
        sealing=("sealed" if rule.sealed else "not sealed") + (f", found by {_words(search)}" if search else ""),
        technique=label(rule.field.marker.then),
        evidence=proof.evidence(entry.column, owner, sealed=rule.sealed, scan=seen),
        index=seen.searched.get(entry.column) if seen is not None else None,
    )


def _uses(rule: FieldRule) -> list[Use]:
    return [
        Use(
            purpose=term.purpose.name,
            legal_basis=term.purpose.legal_basis,
            keep=keep_in_words(term.purpose.keep),
            precision=in_words(term.precision),
            prohibited=term.purpose.prohibited,
            minimum_group=term.purpose.minimum_group,
        )
        for term in rule.terms
    ]


def keep_in_words(keep: Keep | None) -> str:
    """Return a keep as ``P1D after account_closed``."""
    return "for ever" if keep is None else str(keep)


def _words(search: object) -> str:
    reason = getattr(search, "guessable", None)
    return type(search).__name__.lower() + (f' (declared guessable: "{reason}")' if reason else "")


def as_data(report: Report) -> dict[str, Any]:
    """Return the report as plain lists and dicts, the shape of its JSON."""
    header = report.header
    return {
        "schema": SCHEMA,
        "generated_at": header.generated_at,
        "database": header.database,
        "on_disks": list(header.on_disks),
        "policy": {"path": header.policy, "digest": header.digest, "enforcement": header.enforcement},
        "packs": dict(header.packs),
        "controller": dict(header.controller),
        "covered": report.covered,
        "columns": report.counts(),
        "undecided_tables": list(report.undecided_tables),
        "tables": [_table_data(table) for table in report.tables],
        "findings": [
            dataclasses.asdict(finding) | {"severity": finding.severity.word, "title": finding.title}
            for finding in report.findings
        ],
        "questions": [dataclasses.asdict(answer) for answer in report.answers],
    }


def _table_data(table: TableRow) -> dict[str, Any]:
    paths = [dataclasses.asdict(path) for path in table.owner.paths]
    owner = {"how": table.owner.how, "nullable": table.owner.nullable, "paths": paths}
    columns = [_column_data(column) for column in table.columns]
    return {"name": table.name, "model": table.model, "owner": owner, "row_ends": table.row_ends, "columns": columns}


def _column_data(column: ColumnRow) -> dict[str, Any]:
    data = dataclasses.asdict(column)
    if column.evidence is not None:
        data["evidence"] = data["evidence"] | {"level": column.evidence.level, "in_words": str(column.evidence)}
    if column.index is not None:
        data["index"] = data["index"] | {"min_entropy": column.index.min_entropy, "in_words": str(column.index)}
    return data

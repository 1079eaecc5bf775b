"""The report as plain text: aligned, wrapped, readable in a terminal, a log and a mail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from privkit.coverage.findings import counted
from privkit.coverage.report import ColumnRow, Report, TableRow


def render(report: Report, width: int) -> str:
    """Return the report in lines of up to ``width`` characters."""
    lines = [*_header(report, width), *_findings(report, width), *_tables(report, width), *_answers(report, width)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _header(report: Report, width: int) -> Iterator[str]:
    header = report.header
    yield from _title("Coverage report", "=")
    state = "covered" if report.covered else f"not covered: {counted(len(report.at_least()), 'finding')} to mend"
    counts = ", ".join(f"{count} {decision}" for decision, count in report.counts().items() if count)
    facts = [
        ("state", state),
        ("policy", f"{header.policy} ({header.enforcement})"),
        ("digest", header.digest),
        ("packs", ", ".join(f"{name} of {day}" for name, day in header.packs) or "none"),
        *header.controller,
        ("generated at", header.generated_at),
        ("database", header.database or "none was looked at"),
        *(("destroyed last" if not number else "", line) for number, line in enumerate(header.on_disks)),
        ("columns", counts or "none"),
    ]
    yield from aligned([(key.replace("_", " "), value) for key, value in facts], width)


def _findings(report: Report, width: int) -> Iterator[str]:
    yield from _title(f"Findings, worst first ({len(report.findings)})")
    for found in report.findings:
        yield from _wrapped(f"{found.severity.word.upper()} {found.code} {found.what}", width, "", "    ")
        yield from _wrapped(found.why, width, "    ", "    ")
        for line in found.fix.splitlines():
            yield from _wrapped(line.strip(), width, "    > ", "      ")
    if not report.findings:
        yield "None."


def _tables(report: Report, width: int) -> Iterator[str]:
    for table in report.tables:
        yield from _table(table, width)
    if report.undecided_tables:
        yield from _title("Tables without a decision")
        yield from _wrapped(", ".join(report.undecided_tables), width, "", "")


def _table(table: TableRow, width: int) -> Iterator[str]:
    yield from _title(f"Table {table.name} ({table.model})")
    yield from aligned([("owner", str(table.owner)), ("row", table.row_ends)], width)
    yield ""
    names = max((len(column.name) for column in table.columns), default=0)
    for column in table.columns:
        first, *rest = _cells(column)
        yield from _wrapped(first, width, f"  {column.name:<{names}}  ", " " * (names + 4))
        for line in rest:
            yield from _wrapped(line, width, " " * (names + 4), " " * (names + 6))


def _cells(column: ColumnRow) -> list[str]:
    if column.evidence is None:
        return [column.decision + (f': "{column.because}"' if column.because else "")]
    uses = [
        f"{use.purpose} ({use.legal_basis}), {use.seen_as}, {use.keep}" + (" PROHIBITED" if use.prohibited else "")
        for use in column.uses
    ]
    duties = [f"duty {duty}" for duty in column.duties]
    end = f"{column.sealing}; at the end {column.technique}"
    index = [f"index: {column.index}"] if column.index is not None else []
    return [column.category, *uses, *duties, end, *index, f"evidence: {column.evidence}"]


def _answers(report: Report, width: int) -> Iterator[str]:
    yield from _title("Questions of the ICT Sector Guide, section III")
    for number, answer in enumerate(report.answers, 1):
        yield from _wrapped(f"{number}. {answer.question} [{answer.state}]", width, "", "   ")
        for line in answer.evidence:
            yield from _wrapped(line, width, "   + ", "     ")
        for line in answer.gaps:
            yield from _wrapped(line, width, "   - gap: ", "     ")


def aligned(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield two columns, the second wrapped under its own beginning."""
    first = max((len(key) for key, _ in rows), default=0)
    for key, value in rows:
        yield from _wrapped(value, width, f"{key:<{first}}  ", " " * (first + 2))


def _title(text: str, under: str = "-") -> Iterator[str]:
    yield from ("", text, under * len(text))


def _wrapped(text: str, width: int, first: str, rest: str) -> list[str]:
    return wrap(text, width, initial_indent=first, subsequent_indent=rest) or [first]

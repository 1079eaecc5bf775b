"""What the commands show: tables, findings and a progress bar. Names and counts only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from math import ceil
from textwrap import wrap
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sqlalchemy import Engine

from privkit.coverage import Finding
from privkit.privacy import Privacy
from privkit.retention import Limits, Plan, Run, Step
from privkit.retention.job import UNOPENED
from privkit.sqlalchemy.adoption import Adoption
from privkit.sqlalchemy.ages import Ages
from privkit.sqlalchemy.observations import COMPLIANT, Observation
from privkit.sqlalchemy.reseal import Resealed
from privkit.sqlalchemy.rewrap import KeyCounts
from privkit.sqlalchemy.scan import Found


def plan_view(plan: Plan) -> Group:
    """Lay a plan out: one line for each table and field with its count, and what becomes of it by which rule."""
    known = any(step.total for step in plan.steps)
    table = counted_table(f"Due at {plan.as_of:%Y-%m-%d %H:%M:%S} UTC", "due", *(["share"] if known else []))
    table.add_column("becomes (rule)", overflow="fold")
    for step in plan.steps:
        share = [f"{step.share:.0%}" if step.due else ""] if known else []
        table.add_row(step.name, f"{step.due:,}", *share, f"{step.technique} ({step.rule})")
    table.add_section()
    table.add_row("total", f"{plan.due:,}")
    notes = [f"{step.name}: {note}" for step in plan.steps for note in _plan_notes(step)]
    if plan.database:
        notes.append(f"in {plan.database}; expected to take {timedelta(seconds=ceil(plan.seconds))}")
    return Group(table, *notes)


def _plan_notes(step: Step) -> Iterator[str]:
    if step.refused:
        yield f"refused, the run will leave it alone: {step.refused}"
    if step.blocked:
        yield f"{step.blocked:,} more wait for rows that depend on them"
    if step.held:
        yield f"{step.held:,} more are under a hold"
    for each in step.cascades:
        yield f"{each.rows:,} rows of {each.table} are {each.effect} with it"
    for dropped in step.partitions:
        yield f"the partition {dropped.name} is dropped whole, with {dropped.rows:,} of them"
    yield from step.warnings


_ENDED = {
    "max_seconds": "its time was over",
    "sentinel": "the sentinel file exists",
    "max_lag": "the replicas stayed too far behind",
    "stop": "it was asked to end",
}


def run_view(run: Run) -> Group:
    """Lay a run out: what was done of each step, what failed, and what is left."""
    table = counted_table(f"Run {run.id}", "due", "done")
    notes = []
    for outcome in run.outcomes:
        name = outcome.step.name
        table.add_row(name, f"{outcome.step.due:,}", f"{outcome.done:,}")
        if outcome.unopened:
            notes.append(f"{name}: {outcome.unopened:,} left as they are, because they do not open")
        refused = {why: number for why, number in outcome.blockers.items() if why != UNOPENED}
        notes += [f"{name}: {number:,} left as they are, refused by {why}" for why, number in refused.items()]
        if outcome.locked:
            notes.append(f"{name}: {outcome.locked:,} left, because another transaction holds them")
        if outcome.error:
            notes.append(f"{name}: stopped by {outcome.error}")
    if run.done:
        notes.append(f"values under destroyed keys: {run.finality}")
    if run.physically is not None:
        notes += [f"other values and rows: {run.physically}", *run.physically.notes]
    if run.stopped:
        notes.append(f"ended early: {_ENDED[run.stopped]}; run it again to go on")
    if run.files_pending:
        notes.append(f"files whose rows are gone: {run.files_pending:,} left to delete; try again: privkit files")
    return Group(table, *notes, f"overdue: {run.overdue:,}")


def keys_view(title: str, counts: Iterable[KeyCounts]) -> Table:
    """Lay out the keys of each key table, and how many are still under an older generation."""
    table = counted_table(title, "living", "destroyed", "wrapped anew", "left", "failed")
    for each in counts:
        numbers = (each.living, each.destroyed, each.rewrapped, each.left, each.failed)
        table.add_row(each.table, *(f"{number:,}" for number in numbers))
    return table


def envelopes_view(title: str, found: Iterable[Found]) -> Table:
    """Lay out the envelopes of each column, and how many are under a living, a destroyed and an unknown key."""
    table = counted_table(title, "envelopes", "living key", "destroyed", "unknown")
    for each in found:
        name = each.column if each.declared else f"{each.column} (not declared as sealed)"
        table.add_row(name, *(f"{number:,}" for number in (each.envelopes, each.living, each.destroyed, each.unknown)))
    return table


def resealed_view(made: Resealed) -> Table:
    """Lay out what became of the values of each sealed field."""
    table = counted_table("Resealed", "scanned", "resealed", "left", "failed")
    for name, each in made.fields.items():
        numbers = (each.scanned, each.resealed, each.left, each.failed)
        table.add_row(name, *(f"{number:,}" for number in numbers))
    return table


def adoption_view(states: Iterable[Adoption]) -> Group:
    """Lay out how far each adopted field is, and what is missing."""
    table = counted_table("Adoption", "rows", "sealed", "waiting", "no value")
    notes = []
    for each in states:
        phase = f"{each.field} ({each.phase}{f', until {each.until}' if each.until else ''})"
        table.add_row(phase, *(f"{number:,}" for number in (each.rows, each.sealed, each.waiting, each.empty)))
        if not each.watched:
            notes.append(f"{each.field}: its trigger is not in the database: privkit seal {each.field} --sql")
    return Group(table, *notes)


def ages_view(found: Iterable[Ages]) -> Table:
    """Lay out the rows of each table of data subjects, by what is known of their age."""
    table = counted_table("Ages", "rows", "unknown age", "kept as of age", "differ", "stored")
    for each in found:
        numbers = (each.rows, each.unknown, each.kept, each.differ, each.stored)
        table.add_row(each.table, *(f"{number:,}" for number in numbers))
    return table


def observed_view(found: Iterable[Observation]) -> Group:
    """Lay out what was counted, the most frequent first, and how much was compliant."""
    table, compliant = counted_table("Observed", "count", "last"), 0
    for each in sorted(found, key=lambda each: -each.count):
        if each.outcome == COMPLIANT:
            compliant += each.count
            continue
        purpose = f"for {each.purpose}" if each.purpose else "without a purpose"
        at = f" at {each.place}" if each.place else ""
        table.add_row(f"{each.outcome}: {each.field} {purpose}{at}", f"{each.count:,}", each.last.isoformat())
    return Group(table, f"compliant: {compliant:,} (counted where the policy observes)")


def counted_table(title: str, *numbers: str) -> Table:
    """Begin a table whose numbers never break: on a narrow terminal the other columns give way."""
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE, pad_edge=False)
    table.add_column("what", overflow="fold")
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def finding_lines(finding: Finding, width: int) -> Iterator[str]:
    """Yield one finding in lines of up to ``width`` characters: what is wrong, why it matters, what to do."""
    yield from wrap(f"{finding.severity.word.upper()} {finding.code}: {finding.what}", width, subsequent_indent="  ")
    for line in "\n".join(part for part in (finding.why, finding.fix) if part).splitlines():
        margin = " " * (4 + len(line) - len(line.lstrip()))
        yield from wrap(
            line.strip(), width, initial_indent=margin, subsequent_indent=f"{margin}  ", break_long_words=False
        ) or [""]


def purge_with_bar(
    console: Console,
    privacy: Privacy,
    engine: Engine,
    plan: Plan,
    *,
    batch: int | None = None,
    workers: int = 1,
    limits: Limits | None = None,
    yes_this_many: int | None = None,
    vacuum: bool = False,
) -> Run:
    """Execute a plan behind a progress bar, where ``console`` is a terminal; elsewhere show nothing."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("purge", total=plan.due)

        def advance(step: Step, count: int) -> None:
            bar.update(task, advance=count, description=step.name)

        how: dict[str, Any] = {"batch": batch, "workers": workers, "limits": limits, "yes_this_many": yes_this_many}
        run = privacy.purge(engine, plan, progress=advance, vacuum=vacuum, **how)
        bar.update(task, description="purge")
    return run

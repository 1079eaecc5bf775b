"""What the commands show: tables, findings and a progress bar. Names and counts only."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine

from privkit.coverage import Finding
from privkit.privacy import Privacy
from privkit.retention import Plan, Run, Step


def plan_table(plan: Plan) -> Table:
    """Lay a plan out: one line for each table and field, with its rule and count."""
    anything_blocked = any(step.blocked for step in plan.steps)
    table = _table(f"Due at {plan.as_of:%Y-%m-%d %H:%M:%S} UTC", ("due", *(["blocked"] if anything_blocked else ())))
    table.add_column("becomes", overflow="fold")
    table.add_column("rule", overflow="fold")
    for step in plan.steps:
        numbers = (step.due, *([step.blocked] if anything_blocked else ()))
        table.add_row(step.name, *map(_count, numbers), Text(step.technique), Text(step.rule))
    table.add_section()
    table.add_row("total", _count(plan.due))
    return table


def run_table(run: Run) -> Table:
    """Lay a run out: what was done of each step, and what failed."""
    anything_stopped = any(outcome.error for outcome in run.outcomes)
    table = _table(f"Run {run.id}", ("due", "done", "failed"))
    if anything_stopped:
        table.add_column("stopped by", overflow="fold")
    for outcome in run.outcomes:
        numbers = (outcome.step.due, outcome.done, outcome.failed)
        table.add_row(
            outcome.step.name, *map(_count, numbers), *([Text(outcome.error or "")] if anything_stopped else ())
        )
    return table


def _table(title: str, numbers: tuple[str, ...]) -> Table:
    """Begin a table whose names and numbers never break; the columns of prose that follow them give way."""
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE, pad_edge=False)
    table.add_column("what", no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _count(number: int) -> str:
    return f"{number:,}"


def print_findings(console: Console, findings: list[Finding]) -> None:
    """Print findings one below the other: what is wrong, why it matters, what to do."""
    for finding in findings:
        console.print(Text(f"{finding.severity.word.upper()} {finding.code}: {finding.what}"))
        for part in (finding.why, finding.fix):
            if part:
                console.print(Padding(Text(part), (0, 0, 0, 4)))
        console.print()


def purge_with_bar(console: Console, privacy: Privacy, engine: Engine, plan: Plan, *, batch: int = 1000) -> Run:
    """Execute a plan behind a progress bar, where ``console`` is a terminal; elsewhere show nothing."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("purge", total=plan.due)

        def advance(step: Step, count: int) -> None:
            bar.update(task, advance=count, description=step.name)

        run = privacy.purge(engine, plan, batch=batch, progress=advance)
        bar.update(task, description="purge")
    return run

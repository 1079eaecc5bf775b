"""What the commands show: tables and a progress bar. Names and counts only."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from sqlalchemy import Engine

from privkit.privacy import Privacy
from privkit.retention import Plan, Run, Step


def plan_table(plan: Plan) -> Table:
    """Lay a plan out: one line for each table and field, with its rule and count."""
    table = Table(title=f"Due at {plan.as_of:%Y-%m-%d %H:%M:%S} UTC", title_justify="left")
    for heading in ("what", "becomes", "rule"):
        table.add_column(heading)
    table.add_column("due", justify="right")
    table.add_column("blocked", justify="right")
    for step in plan.steps:
        table.add_row(
            step.name, step.technique, step.rule, f"{step.due:,}", f"{step.blocked:,}" if step.blocked else ""
        )
    table.add_section()
    table.add_row("total", "", "", f"{plan.due:,}", "")
    return table


def run_table(run: Run) -> Table:
    """Lay a run out: what was done of each step, and what failed."""
    table = Table(title=f"Run {run.id}", title_justify="left")
    table.add_column("what")
    for heading in ("due", "done", "failed"):
        table.add_column(heading, justify="right")
    table.add_column("stopped by")
    for outcome in run.outcomes:
        numbers = (outcome.step.due, outcome.done, outcome.failed)
        table.add_row(outcome.step.name, *(f"{number:,}" for number in numbers), outcome.error or "")
    return table


def purge_with_bar(console: Console, privacy: Privacy, engine: Engine, plan: Plan, *, batch: int = 1000) -> Run:
    """Execute a plan behind a progress bar."""
    columns = (TextColumn("   {task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("purge", total=plan.due)

        def advance(step: Step, count: int) -> None:
            bar.update(task, advance=count, description=step.name)

        run = privacy.purge(engine, plan, batch=batch, progress=advance)
        bar.update(task, description="purge")
    return run

"""What ``status``, ``forecast`` and ``diff`` show. Names and counts only."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from math import ceil

from rich.console import Group
from rich.table import Table

from privkit.cli.screen import counted_table
from privkit.retention import Forecast, PolicyDiff, Status

_DAYS_DRAWN = 31
"""Up to how many days are drawn one by one; more of them by the week."""

_WEEK = 7
_BAR = 30


def status_view(status: Status) -> Group:
    """Lay out how each rule stands, how the last run ended, and the number to be alarmed by."""
    table = counted_table(f"Status at {status.at:%Y-%m-%d %H:%M:%S} UTC", "due", "overdue", "oldest")
    table.add_column("rule", overflow="fold")
    notes = []
    for each in status.standings:
        oldest = _age(status.age(each)) if each.due else ""
        table.add_row(each.name, f"{each.due:,}", f"{each.overdue:,}", oldest, each.rule)
        waiting = {"under a hold": each.held, "wait for rows that depend on them": each.blocked}
        notes += [f"{each.name}: {number:,} {what}" for what, number in waiting.items() if number]
        if each.future:
            notes.append(f"{each.name}: {each.future:,} have an event that is still to come, and end after it")
    if status.files_pending:
        notes.append(f"files whose rows are gone: {status.files_pending:,} left to delete (privkit files)")
    return Group(table, *notes, *_runs(status), f"overdue: {status.overdue:,}")


def _runs(status: Status) -> Iterator[str]:
    last = status.last
    if last is None:
        yield "no run yet"
        return
    took = f", took {timedelta(seconds=ceil(last.duration.total_seconds()))}" if last.duration is not None else ""
    yield (
        f"last run: {last.started:%Y-%m-%d %H:%M:%S} UTC{took}, {last.done:,} destroyed: {last.result}"
        f" (policy {last.policy_digest[:12]})"
    )
    proven = f"{status.proven:%Y-%m-%d %H:%M:%S} UTC" if status.proven is not None else "never"
    yield f"last proven run, with nothing left: {proven}"


def _age(age: timedelta) -> str:
    hours = int(age.total_seconds()) // 3600
    return f"{hours // 24:,} d" if hours >= 48 else f"{hours} h"


def forecast_view(forecast: Forecast) -> Group:
    """Lay out what falls due by each rule, and draw all of it by the day or the week."""
    days = (forecast.instants[-1] - forecast.instants[0]).days
    table = counted_table(
        f"Falls due within {days} days of {forecast.instants[0]:%Y-%m-%d %H:%M:%S} UTC", "now", "later"
    )
    table.add_column("becomes (rule)", overflow="fold")
    for each in forecast.expected:
        now, *later = each.falling
        table.add_row(each.name, f"{now:,}", f"{sum(later):,}", f"{each.technique} ({each.rule})")
    now, *later = forecast.falling
    table.add_section()
    table.add_row("total", f"{now:,}", f"{sum(later):,}")
    return Group(table, _drawn(forecast))


def _drawn(forecast: Forecast) -> Table:
    """A bar for each day, or each week. What is due already is no part of it."""
    falling, instants = forecast.falling[1:], forecast.instants[1:]
    weekly = (forecast.instants[-1] - forecast.instants[0]).days > _DAYS_DRAWN
    daily = instants[0] - forecast.instants[0] == timedelta(days=1)
    step = _WEEK if weekly and daily else 1
    table = counted_table("", "falls due")
    table.columns[0].header = "in the week to" if weekly else "in the day to"
    table.add_column("", no_wrap=True)
    groups = [
        (instants[start : start + step][-1], sum(falling[start : start + step]))
        for start in range(0, len(falling), step)
    ]
    most = max(count for _, count in groups)
    for until, count in groups:
        table.add_row(f"{until:%Y-%m-%d}", f"{count:,}", "█" * ceil(_BAR * count / most) if count else "")
    return table


def diff_view(diff: PolicyDiff) -> Group:
    """Lay out each rule that differs, with what its change destroys and keeps."""
    table = counted_table(f"Policy {diff.before[:12]} -> {diff.after[:12]}", "destroyed", "kept longer")
    table.add_column("rule", overflow="fold")
    for each in diff.changes:
        same = each.before == each.after
        rule = each.after if same else f"{each.before} -> {each.after}"
        said = f"{rule} ({each.technique})" + (f"; {each.sealing}" if each.sealing else "")
        table.add_row(each.name, f"{each.sooner:,}", f"{each.longer:,}", said)
    table.add_section()
    table.add_row("total", f"{diff.sooner:,}", f"{diff.longer:,}")
    return Group(table, f"counted at {diff.at:%Y-%m-%d %H:%M:%S} UTC; nothing was changed")

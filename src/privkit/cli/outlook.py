"""The verbs that look back and ahead and change nothing: ``status``, ``forecast`` and ``diff``."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, console, say
from privkit.cli.prospects import diff_view, forecast_view, status_view
from privkit.errors import ApplicationError
from privkit.integrations.metrics import write_textfile
from privkit.periods import Period

JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


@app.command()
def status(
    app: AppOption = None,
    url: UrlOption = None,
    grace: Annotated[
        str, typer.Option(metavar="PERIOD", help="How long something may be due after a run, ISO 8601; default: P1D.")
    ] = "P1D",
    json: JsonOption = False,
    textfile: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write it for Prometheus' node_exporter.")
    ] = None,
) -> None:
    """Print what is due, held and overdue by each rule, and how the last run ended; exit 1 when something is overdue.

    Overdue is what was due at the instant of the last run that ended, or has been due for longer than the grace;
    where no run has ended yet, all that is due.
    """
    privacy, longest = load_privacy(app), _grace(grace)
    with database(privacy, url) as engine:
        found, (waiting, _) = privacy.status(engine, grace=longest), privacy.deferred(engine)
    if json:
        say(found.json())
    else:
        console.print(status_view(found))
        if waiting:
            say(f"erasures that wait for no hold any more: {len(waiting):,} (privkit erase --deferred)")
    if textfile is not None:
        try:
            write_textfile(found, textfile)
        except OSError as error:
            raise ApplicationError(f"{textfile} cannot be written ({error.strerror}).", "", "Name another.") from None
    raise typer.Exit(0 if found.ok and not waiting else FOUND)


def _grace(text: str) -> timedelta:
    """Read a period of days or less; months would not be the same each time."""
    try:
        period = Period.parse(text)
        if not period.months:
            return period.rest
    except ValueError:
        pass
    raise ApplicationError(
        "--grace is not an ISO 8601 period of weeks, days or less.", "", "Example: --grace P1D, or --grace PT6H"
    )


@app.command()
def forecast(
    app: AppOption = None,
    url: UrlOption = None,
    days: Annotated[int, typer.Option(min=1, max=700, metavar="DAYS", help="How far to look ahead.")] = 90,
    json: JsonOption = False,
) -> None:
    """Print and draw what falls due when in the days to come, of what is stored now. Changes nothing."""
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        found = privacy.forecast(engine, days=days)
    if json:
        say(found.json())
    else:
        console.print(forecast_view(found))


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD_POLICY", help="A policy file.")],
    new: Annotated[Path, typer.Argument(metavar="NEW_POLICY", help="Another one, for the same models.")],
    app: AppOption = None,
    url: UrlOption = None,
    json: JsonOption = False,
) -> None:
    """Print which rules differ between two policies, and how many values and rows each change destroys or keeps.

    Exit 1 when there are any. Changes nothing. A policy that does not fit the models is refused, with its lines.
    """
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        found = privacy.diff(engine, old, new)
    if json:
        say(found.json())
    else:
        console.print(diff_view(found))
    raise typer.Exit(0 if found.ok else FOUND)

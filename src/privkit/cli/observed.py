"""The verb that lists what was counted of uses: what would have been refused, and what was."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, console
from privkit.cli.screen import observed_view
from privkit.sqlalchemy.observations import GAP, VIOLATION


@app.command()
def observed(
    app: AppOption = None,
    url: UrlOption = None,
    since: Annotated[
        datetime, typer.Option(formats=["%Y-%m-%d"], metavar="DAY", help="The first day, in UTC.", show_default=False)
    ] = datetime.min,
) -> None:
    """List uses that enforce would refuse (violations, gaps), and those it refused; exit 1 for violations and gaps."""
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        found = privacy.observed(engine, since=since.date())
    console.print(observed_view(found))
    raise typer.Exit(FOUND if any(each.outcome in (VIOLATION, GAP) for each in found) else 0)

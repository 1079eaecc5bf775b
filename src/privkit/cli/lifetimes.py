"""The verbs that say why a row is still there, and when it was destroyed."""

from __future__ import annotations

from typing import Annotated

import typer

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, read_instant, say
from privkit.sqlalchemy.explain import read_key


@app.command()
def explain(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table with personal fields.")],
    key: Annotated[str, typer.Argument(metavar="PK", help="Its primary key: a value for each column, with commas.")],
    app: AppOption = None,
    url: UrlOption = None,
    at: Annotated[str | None, typer.Option(metavar="INSTANT", help="ISO 8601 with a zone; default: now.")] = None,
) -> None:
    """Say of one row what each field may still be used for, by which rule, and when a run comes. Shows no value."""
    privacy, instant = load_privacy(app), read_instant(at)
    with database(privacy, url) as engine:
        say(privacy.explain(engine, table, read_key(privacy.guard, table, key), at=instant).text())


@app.command()
def receipts(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table with personal fields.")],
    key: Annotated[str, typer.Argument(metavar="PK", help="Its primary key: a value for each column, with commas.")],
    app: AppOption = None,
    url: UrlOption = None,
) -> None:
    """Say when and by which rule runs destroyed a row or values of it. Exit code 1: there is no receipt."""
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        found = privacy.receipts(engine, table, read_key(privacy.guard, table, key))
    for each in found:
        say(str(each))
    if not found:
        say("no receipt: no run destroyed it, or the policy had no runs.receipts then")
        raise typer.Exit(FOUND)

"""The verbs about children: which rule packs there are, what is kept how long, and whether days of age are right."""

from __future__ import annotations

from typing import Annotated

import typer

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, console, say
from privkit.cli.screen import ages_view
from privkit.policy import read_packs


@app.command()
def packs() -> None:
    """List the rule packs that a policy can extend: their date, their sources, and what in them is uncertain."""
    for pack in read_packs():
        states = {"ages": pack.ages, "rules on children": pack.rules, "sensitive categories": pack.categories}
        stated = (f"{what}: {count}" for what, count in states.items() if count)
        say("; ".join((f"{pack.name} as of {pack.as_of}", *stated)))
        for source in pack.sources:
            say(f"    {source}")
        if pack.uncertain:
            say(f"    uncertain, the stricter holds: {', '.join(pack.uncertain)}")


@app.command("retention-text")
def retention_text(
    app: AppOption = None,
    html: Annotated[bool, typer.Option("--html", help="As one HTML file, instead of Markdown.")] = False,
) -> None:
    """Print the retention policy for children's data, as a text to publish, made from the policy and the models."""
    made = load_privacy(app).retention_text()
    typer.echo((made.html() if html else made.markdown()).rstrip("\n"))


@app.command()
def ages(
    app: AppOption = None,
    url: UrlOption = None,
    store: Annotated[bool, typer.Option("--store", help="Set them.")] = False,
) -> None:
    """Count the rows whose stored day of age is not what the policy and its packs give now; exit 1 for any.

    They are older than the protection of their table, or an age was changed since.
    """
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        found = privacy.ages(engine, store=store)
    console.print(ages_view(found))
    raise typer.Exit(0 if all(each.ok for each in found) else FOUND)

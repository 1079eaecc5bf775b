"""The verb that moves a live field to sealed storage, and back."""

from __future__ import annotations

from typing import Annotated

import typer

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, console, say
from privkit.cli.screen import adoption_view
from privkit.errors import ApplicationError
from privkit.sqlalchemy import adoption
from privkit.sqlalchemy.adoption import Moved


@app.command()
def seal(
    field: Annotated[str | None, typer.Argument(metavar="TABLE.FIELD", help="A field with adopting=.")] = None,
    app: AppOption = None,
    url: UrlOption = None,
    status: Annotated[bool, typer.Option("--status", help="Only count, for every field with adopting=.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Only print the statements of the migration.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Write the old form back from the sealed one.")] = False,
    finish: Annotated[bool, typer.Option("--finish", help="Empty the old column, once all is sealed.")] = False,
    batch: Annotated[int, typer.Option(min=1, metavar="ROWS", help="Rows in a transaction.")] = 1000,
) -> None:
    """Seal what is not sealed yet of a live field, and compare all of it; exit 1 when rows need a look.

    May be stopped at any moment and run again.
    """
    if sum((status, sql, undo, finish)) > 1 or (field is None) != status:
        raise ApplicationError(
            "seal takes a field and at most one of --sql, --undo and --finish, or --status alone.",
            "",
            "Example: privkit seal riders.email",
        )
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        if field is None:
            states = privacy.adoption(engine)
            console.print(adoption_view(states))
            raise typer.Exit(FOUND if any(each.waiting or not each.watched for each in states) else 0)
        if sql:
            say(";\n".join(adoption.migration(privacy.guard, engine, field)) + ";")
            return
        step = privacy.unseal if undo else privacy.finish_sealing if finish else privacy.seal
        moved = step(engine, field, batch=batch)
    _end(moved, "written back" if undo else "emptied" if finish else "sealed")


def _end(moved: Moved, word: str) -> None:
    say(f"{moved.field}: {moved.done:,} {word}; {moved.rows:,} rows compared")
    wrong = {
        "not sealed": moved.waiting,
        "with columns that differ": moved.differing,
        "that do not open or have no living data subject": moved.unopened,
        "with an envelope in place of the value": moved.double,
    }
    for what, count in wrong.items():
        if count:
            say(f"{count:,} {what}")
    if moved.keys:
        say(f"primary keys: {', '.join('/'.join(map(str, key)) for key in moved.keys)}")
    raise typer.Exit(0 if moved.ok else FOUND)

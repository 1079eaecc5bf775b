"""The verb about files that lie outside the database: ``privkit files``."""

from __future__ import annotations

import typer

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, say


@app.command()
def files(app: AppOption = None, url: UrlOption = None) -> None:
    """Try again to delete the files whose rows are gone; exit 1 when some are left. A run does so as well."""
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        done = privacy.finish_files(engine)
    say(f"files whose rows are gone: {done.deleted:,} deleted, {done.pending:,} left")
    if done.kept:
        say(f"named by another row, and kept: {done.kept:,}")
    if done.unknown:
        say(f"named under a key that was destroyed before, in rows that came back: {done.unknown:,}")
    for kind, count in done.errors.items():
        say(f"kept by {kind}: {count:,}")
    raise typer.Exit(0 if done.ok else FOUND)

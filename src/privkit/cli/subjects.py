"""The verbs about data subjects: erase one, and erase again after a backup was restored whom it brought back."""

from __future__ import annotations

from typing import Annotated

import typer

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, confirmed, console, say
from privkit.cli.screen import run_view
from privkit.errors import ApplicationError
from privkit.subjects import Erasure


@app.command()
def erase(
    key_id: Annotated[
        str, typer.Argument(metavar="KEY_ID", help="What privkit_key of the data subject's row holds, in hexadecimal.")
    ],
    by: Annotated[str, typer.Option("--by", metavar="NAME", help="Who asked; the ledger keeps a keyed token of it.")],
    app: AppOption = None,
    url: UrlOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Erase one data subject: the key first, then all rows. What a duty keeps stays, and is named."""
    privacy, subject = load_privacy(app), _key(key_id)
    with database(privacy, url) as engine:
        if not yes and not confirmed("Erase this data subject?", "privkit erase KEY_ID --by NAME --yes"):
            say("Nothing was erased.")
            raise typer.Exit(FOUND)
        done = privacy.erase(engine, subject, by=by)
    say(f"erased: {done.rows:,} rows deleted, {done.fields:,} values destroyed")
    say(_ending(done))


@app.command()
def replay(
    app: AppOption = None,
    url: UrlOption = None,
    batch: Annotated[int, typer.Option(min=1, metavar="ROWS", help="Rows in a transaction.")] = 1000,
) -> None:
    """After a backup was restored: erase, withdraw, hold and purge again what was since; exit 1 when anything is left.

    May be stopped at any moment and run again.
    """
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        done = privacy.replay(engine, batch=batch)
    say(f"lines that came back from the ledger's copy: {done.lines:,}")
    say(f"of erased data subjects: {done.rows:,} rows deleted, {done.fields:,} values destroyed, {done.left:,} left")
    console.print(run_view(done.run))
    raise typer.Exit(0 if done.ok else FOUND)


def _key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ApplicationError(
            "KEY_ID is not hexadecimal.",
            "It is not shown: it may be a name.",
            "Take what privkit_key of the data subject's row holds: 32 digits. In SQL: SELECT hex(privkit_key) on "
            "SQLite, encode(privkit_key, 'hex') on PostgreSQL.",
        ) from None


def _ending(done: Erasure) -> str:
    if done.finality is not None:
        return f"sealed values: {done.finality}"
    rules = "\n".join(f"  {field}: kept by {duties}" for field, duties in sorted(done.kept.items()))
    return f"The key stays, and backups open with it, while a duty keeps:\n{rules}"

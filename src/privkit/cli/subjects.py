"""The verbs about data subjects: erase one, and erase again after a backup was restored whom it brought back."""

from __future__ import annotations

from typing import Annotated

import typer

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, confirmed, console, say
from privkit.cli.screen import run_view
from privkit.errors import ApplicationError
from privkit.privacy import Privacy
from privkit.subjects import Erasure


@app.command()
def erase(
    key_id: Annotated[
        str | None,
        typer.Argument(metavar="KEY_ID", help="What privkit_key of the data subject's row holds, in hexadecimal."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who asked; the ledger keeps a keyed token of it.")
    ] = None,
    app: AppOption = None,
    url: UrlOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    defer: Annotated[
        bool, typer.Option("--defer", help="Under a hold, note that it waits, instead of refusing.")
    ] = False,
    deferred: Annotated[
        bool,
        typer.Option("--deferred", help="Erase those whose erasure waited for a hold that has ended; takes no KEY_ID."),
    ] = False,
) -> None:
    """Erase one data subject: key and rows, then files. What a duty keeps stays, and is named."""
    privacy = load_privacy(app)
    if deferred:
        _erase_deferred(privacy, url, key_id, by)
        return
    if key_id is None or by is None:
        raise ApplicationError("An erasure needs KEY_ID and --by.", "", "Example: privkit erase KEY_ID --by NAME")
    subject = read_key_id(key_id)
    with database(privacy, url) as engine:
        if not yes and not confirmed("Erase this data subject?", "privkit erase KEY_ID --by NAME --yes"):
            say("Nothing was erased.")
            raise typer.Exit(FOUND)
        done = privacy.erase(engine, subject, by=by, defer=defer)
    if done.deferred:
        say("A hold keeps rows of this data subject. The erasure waits: privkit erase --deferred once it ends.")
        return
    say(f"erased: {done.rows:,} rows deleted, {done.fields:,} values destroyed")
    say(_ending(done))
    _say_pending(done.files_pending)


def _erase_deferred(privacy: Privacy, url: str | None, key_id: str | None, by: str | None) -> None:
    if key_id is not None or by is not None:
        raise ApplicationError("--deferred takes neither KEY_ID nor --by.", "The ledger knows both.", "Leave them out.")
    with database(privacy, url) as engine:
        done, (_, held) = privacy.erase_deferred(engine), privacy.deferred(engine)
    rows, fields = sum(each.rows for each in done), sum(each.fields for each in done)
    say(f"erased: {len(done):,} data subjects, {rows:,} rows deleted, {fields:,} values destroyed")
    say(f"still waiting for a hold: {len(held):,}")
    _say_pending(sum(each.files_pending for each in done))


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


def read_key_id(text: str, what: str = "KEY_ID") -> bytes:
    """Read a key id. Raises ApplicationError, which does not repeat it, for what is not hexadecimal."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ApplicationError(
            f"{what} is not hexadecimal.",
            "It is not shown: it may be a name.",
            "Take what privkit_key of the data subject's row holds: 32 digits. In SQL: SELECT hex(privkit_key) on "
            "SQLite, encode(privkit_key, 'hex') on PostgreSQL.",
        ) from None


def _say_pending(files: int) -> None:
    """Say how many files may still be there, and exit 1 where there are any."""
    if files:
        say(f"files whose rows are gone: {files:,} left to delete; try again: privkit files")
        raise typer.Exit(FOUND)


def _ending(done: Erasure) -> str:
    if done.finality is not None and done.physically is not None:
        lines = [f"sealed values: {done.finality}", f"other values: {done.physically}", *done.physically.notes]
        return "\n".join(lines)
    rules = "\n".join(f"  {field}: kept by {duties}" for field, duties in sorted(done.kept.items()))
    return f"The key stays, and backups open with it, while a duty keeps:\n{rules}"

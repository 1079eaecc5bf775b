"""The verbs about holds: ``privkit hold place``, ``list`` and ``release``."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, console, read_instant, say
from privkit.cli.screen import counted_table
from privkit.cli.subjects import read_key_id
from privkit.sqlalchemy.explain import read_key
from privkit.sqlalchemy.holds import Hold

hold = typer.Typer(help="Holds: recorded reasons not to destroy yet.", no_args_is_help=True)
app.add_typer(hold, name="hold")

ByOption = Annotated[str, typer.Option("--by", metavar="NAME", help="Who does it; the ledger keeps a keyed token.")]
RoleOption = Annotated[str | None, typer.Option("--role", metavar="ROLE", help="As which of the policy's roles.")]


@hold.command("place")
def hold_place(
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it stays in the database.")],
    by: ByOption,
    role: RoleOption = None,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="KEY_ID", help="A data subject's privkit_key, in hexadecimal.")
    ] = None,
    table: Annotated[str | None, typer.Option("--table", metavar="TABLE", help="A table, or where --row is.")] = None,
    row: Annotated[
        list[str] | None, typer.Option("--row", metavar="PK", help="A row's primary key; may be repeated.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="INSTANT", help="When it ends, ISO 8601 with a zone.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="TEXT", help="Of the case; twice is the same hold.")
    ] = None,
    app: AppOption = None,
    url: UrlOption = None,
) -> None:
    """Keep a data subject's rows, a table, or rows of it from every run and erasure. Prints the hold's number."""
    privacy, ends = load_privacy(app), read_instant(until, "--until")
    keys = [read_key(privacy.guard, table or "", each) for each in row] if row else None
    with database(privacy, url) as engine:
        number = privacy.hold(
            engine,
            reason=reason,
            by=by,
            role=role,
            subject=read_key_id(subject, "--subject") if subject is not None else None,
            table=table,
            rows=keys,
            until=ends,
            reference=reference,
        )
    say(f"hold {number} is placed")


@hold.command("list")
def hold_list(
    app: AppOption = None,
    url: UrlOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that have ended.")] = False,
) -> None:
    """List the holds in force, what each keeps and until when, without its reason; and the erasures that wait.

    Exit 1 when an erasure waits for no hold any more: privkit erase --deferred.
    """
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        found, (free, held) = privacy.holds(engine), privacy.deferred(engine)
    view = counted_table("Holds", "rows")
    for name in ("role", "placed", "ends"):
        view.add_column(name)
    for each in found:
        if every or each.active:
            rows = f"{each.rows:,}" if each.rows is not None else "all"
            view.add_row(_reach(each), rows, each.role or "", _day(each.placed_at), _end(each))
    console.print(view)
    say(f"erasures that wait: {len(held):,} for a hold, {len(free):,} for privkit erase --deferred")
    raise typer.Exit(FOUND if free else 0)


@hold.command("release")
def hold_release(
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="The hold's number.")],
    by: ByOption,
    role: RoleOption = None,
    app: AppOption = None,
    url: UrlOption = None,
) -> None:
    """End a hold now: what it deferred is due at once."""
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        free = privacy.release(engine, number, by=by, role=role)
    say(f"hold {number} is released; erasures that wait for privkit erase --deferred: {len(free):,}")


def _reach(each: Hold) -> str:
    subject = f"data subject {each.subject.hex()}" if each.subject is not None else ""
    return f"{each.id}: {' in '.join(part for part in (subject, each.table) if part)}"


def _end(each: Hold) -> str:
    if each.released_at is not None:
        return f"released {_day(each.released_at)}"
    return f"{_day(each.until)}{'' if each.active else ' (ended)'}" if each.until is not None else "when released"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"

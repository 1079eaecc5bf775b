"""The verbs that put keys under a new master generation, and values under a new envelope."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer
from sqlalchemy import Engine

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, console, errors, keys, say
from privkit.cli.screen import envelopes_view, keys_view, resealed_view
from privkit.errors import ApplicationError
from privkit.privacy import Privacy
from privkit.sqlalchemy.rewrap import Rotation

UrlsOption = Annotated[
    list[str] | None,
    typer.Option("--url", metavar="URL", help="A database that uses the keyring; give it once for each of them."),
]


@contextmanager
def _databases(privacy: Privacy, urls: list[str] | None) -> Iterator[list[Engine]]:
    with ExitStack() as stack:
        yield [stack.enter_context(database(privacy, url)) for url in _each(urls)]


def _each(urls: list[str] | None) -> Sequence[str | None]:
    """The databases that were named; none: the one of the settings."""
    return urls or [None]


@keys.command("rotate")
def keys_rotate(app: AppOption = None, url: UrlsOption = None) -> None:
    """Wrap every living key under a new master generation. May be stopped at any moment and run again."""
    privacy = load_privacy(app)
    with _databases(privacy, url) as engines:
        made = privacy.rotate_keys(*engines)
    _end(made, f"generation {made.generation} wraps all keys; the older ones are still held")


@keys.command("roll")
def keys_roll(
    app: AppOption = None,
    url: UrlsOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Rotate, then destroy the older generations: keys that were destroyed are final, in every backup too."""
    privacy = load_privacy(app)
    if not yes and not _confirmed(privacy, len(_each(url))):
        say("Nothing was destroyed.")
        raise typer.Exit(FOUND)
    with _databases(privacy, url) as engines:
        made = privacy.roll_keys(*engines)
    numbers = ", ".join(map(str, made.destroyed)) or "none"
    _end(made, f"generation {made.generation} wraps all keys; destroyed: {numbers}. Back up the key tables now.")


@keys.command("status")
def keys_status(
    app: AppOption = None,
    url: UrlsOption = None,
    scan: Annotated[
        bool, typer.Option("--scan", help="Look for envelopes in all text and binary columns, declared or not.")
    ] = False,
) -> None:
    """Print generations, keys and the last roll; exit 1 when a key is under an older generation, or nowhere."""
    privacy, found = load_privacy(app), 0
    with _databases(privacy, url) as engines:
        for engine in engines:
            state = privacy.key_status(engine)
            console.print(keys_view("Keys", state.keys))
            say(f"generations: {', '.join(map(str, state.generations))}; wraps: {state.generations[-1]}")
            say(f"last roll: {state.last_roll.isoformat(timespec='seconds') if state.last_roll else 'never'}")
            found += sum(each.left for each in state.keys)
            if scan:
                columns = privacy.scan_envelopes(engine)
                console.print(envelopes_view("Envelopes", columns))
                found += sum(each.unknown for each in columns)
    raise typer.Exit(FOUND if found else 0)


@app.command()
def reseal(
    app: AppOption = None,
    url: UrlOption = None,
    field: Annotated[
        list[str] | None, typer.Option("--field", metavar="TABLE.COLUMN", help="Only this one; may be repeated.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, metavar="ROWS", help="Rows in a transaction.")] = 1000,
) -> None:
    """Seal values anew whose envelope or search hash is not of the present kind. May be stopped and run again."""
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        made = privacy.reseal(engine, fields=field, batch=batch)
    console.print(resealed_view(made))
    raise typer.Exit(0 if made.ok else FOUND)


def _end(made: Rotation, words: str) -> None:
    for number, each in enumerate(made.databases, 1):
        console.print(keys_view(f"Keys of database {number}", each.keys))
        console.print(envelopes_view("Values before", each.before))
        console.print(envelopes_view("Values after", each.after))
    say(words if made.ok else f"not done: a key is left under a generation older than {made.generation}")
    raise typer.Exit(0 if made.ok else FOUND)


def _confirmed(privacy: Privacy, databases: int) -> bool:
    older = ", ".join(map(str, privacy.guard.keyring.generations))
    errors.print(
        f"Destroy generation {older}? Keys of a database that is not among the {databases} given are lost, and so are\n"
        "those of older backups, unless later key tables go with them. [y/N] ",
        end="",
        soft_wrap=True,
    )
    answer = sys.stdin.readline()
    if not answer:
        errors.print()
        raise ApplicationError("There is nobody to ask.", "Nothing was destroyed.", "privkit keys roll --yes")
    return answer.strip().lower() in ("y", "yes")

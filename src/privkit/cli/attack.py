"""``privkit dataset attack``."""

from __future__ import annotations

import csv
import json as jsons
from contextlib import ExitStack
from datetime import timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from privkit.cli.commands import FOUND, console, errors, say
from privkit.cli.datasets import dataset
from privkit.datasets.attack import linkage, tracks, uniqueness
from privkit.datasets.relations import files
from privkit.deidentify.attacks import Recognised
from privkit.errors import ApplicationError


@dataset.command()
def attack(
    path: Annotated[Path, typer.Argument(metavar="IN", help="A Parquet or CSV file, or a folder of them.")],
    quasi: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="Who is alone with their values of these columns?")
    ] = None,
    other: Annotated[
        Path | None, typer.Option("--with", metavar="OTHER", help="Look everybody up in these files, by --on.")
    ] = None,
    on: Annotated[str | None, typer.Option(metavar="COLUMNS", help="Columns that both have.")] = None,
    truth: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Tells in both who somebody is, to count right answers.")
    ] = None,
    track: Annotated[
        str | None, typer.Option(metavar="COLUMNS", help="lat,lon,time or place,time: who is told by their places?")
    ] = None,
    person: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What tells persons apart; without it rows are counted.")
    ] = None,
    offset: Annotated[
        float, typer.Option(min=-14, max=14, metavar="HOURS", help="Local time less UTC, where the tracks are.")
    ] = 0,
    resolution: Annotated[int, typer.Option(min=0, max=15, help="The H3 cells that count as one place.")] = 9,
    max_share: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="SHARE", help="Exit 1 where an attack finds more of them.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Attack files before somebody else does: how many can be told from the others? Shows no value, changes nothing."""
    if (other is None) != (on is None) or (truth and not on) or (track and not person) or not (quasi or on or track):
        raise ApplicationError(
            "The options name no attack, or half of one.", "", "Give --quasi, --with and --on, or --track and --person."
        )
    found: dict[str, Recognised] = {}
    with ExitStack() as opened:
        table = opened.enter_context(files(path))
        if quasi:
            found["uniqueness"] = uniqueness(table, _names(quasi), person)
        if other and on:
            known = opened.enter_context(files(other))
            found["linkage"] = linkage(table, known, _names(on), person=person, truth=truth)
        if track and person:
            zone = timezone(timedelta(hours=offset))
            found |= tracks(table, _names(track), person, zone=zone, resolution=resolution)
    if json:
        say(jsons.dumps({name: _figures(each, person) for name, each in found.items()}))
    else:
        console.print(_view(found, person))
    missed = [] if max_share is None else [name for name, each in found.items() if _missed(each, max_share)]
    if missed:
        shares = "; ".join(f"{name}: {found[name].share:.4g} of {found[name].persons:,}" for name in missed)
        errors.print(f"Above {max_share:g}, or nobody was there: {shares}.", soft_wrap=True)
        raise typer.Exit(FOUND)


def _missed(each: Recognised, max_share: float) -> bool:
    """A file without anybody proves nothing."""
    return not each.persons or each.share > max_share


def _names(columns: str) -> list[str]:
    return next(csv.reader([columns]))


def _figures(each: Recognised, person: str | None) -> dict[str, Any]:
    counts = {"persons" if person else "rows": each.persons, "found": each.found, "right": each.right}
    return {**counts, "share": each.share}


def _view(found: dict[str, Recognised], person: str | None) -> Table:
    table = Table()
    for heading in ("attack", "persons" if person else "rows", "found", "of these right", "share"):
        table.add_column(heading, justify="left" if heading == "attack" else "right")
    for name, each in found.items():
        right = "" if each.right is None else f"{each.right:,}"
        table.add_row(name, f"{each.persons:,}", f"{each.found:,}", right, f"{each.share:.1%}")
    return table

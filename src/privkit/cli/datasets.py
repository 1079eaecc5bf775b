"""The verbs about files of rows: ``privkit dataset measure`` and ``compare``."""

from __future__ import annotations

import csv
import json as jsons
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from privkit.cli.commands import FOUND, app, console, errors, say
from privkit.datasets.relations import files, tables
from privkit.deidentify.gate import Bounds, release
from privkit.deidentify.measures import Measures
from privkit.deidentify.measures import measure as measure_relation
from privkit.deidentify.releases import check_difference
from privkit.deidentify.releases import compare as compare_relations
from privkit.errors import ReleaseRefused

dataset = typer.Typer(help="Files of rows about data subjects.", no_args_is_help=True)
app.add_typer(dataset, name="dataset")


@dataset.command()
def measure(
    path: Annotated[Path, typer.Argument(metavar="IN", help="A Parquet or CSV file, or a folder of them.")],
    quasi: Annotated[
        str, typer.Option(metavar="COLUMNS", help="What somebody could be recognised by, separated by commas.")
    ],
    sensitive: Annotated[str | None, typer.Option(metavar="COLUMN", help="What nobody should learn.")] = None,
    person: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What tells persons apart: they are counted, not rows.")
    ] = None,
    min_k: Annotated[int | None, typer.Option(metavar="K", help="Exit 1 where a class is smaller.")] = None,
    min_l: Annotated[
        int | None, typer.Option(metavar="L", help="Exit 1 where a class has fewer sensitive values.")
    ] = None,
    max_t: Annotated[
        float | None, typer.Option(metavar="T", help="Exit 1 where a class is further from the whole.")
    ] = None,
    max_unique: Annotated[
        int | None, typer.Option(metavar="N", help="Exit 1 where more are alone in their class.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Measure how well the rows hide in each other; exit 1 when a bound is missed. Shows no value, changes nothing."""
    given = (min_k, min_l, max_t, max_unique)
    bounds = (
        Bounds(k=min_k, distinct_l=min_l, t=max_t, unique=max_unique)
        if any(bound is not None for bound in given)
        else None
    )
    with files(path, sensitive=sensitive) as table:
        found = measure_relation(table, quasi=next(csv.reader([quasi])), sensitive=sensitive, person=person)
        if json:
            say(jsons.dumps(_six(found)))
        else:
            console.print(_view(found))
        if bounds is not None:
            try:
                release(found, bounds, table)
            except ReleaseRefused as refused:
                errors.print(str(refused), soft_wrap=True)
                raise typer.Exit(FOUND) from None


@dataset.command()
def compare(
    earlier: Annotated[Path, typer.Argument(help="What was handed out before: Parquet or CSV, one file or a folder.")],
    later: Annotated[Path, typer.Argument(help="What is to be handed out now.")],
    by: Annotated[str, typer.Option(metavar="COLUMNS", help="What names a cell, separated by commas.")],
    count: Annotated[str | None, typer.Option(metavar="COLUMN", help="The number a summary has of a cell.")] = None,
    person: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="In tables of rows: what tells persons apart.")
    ] = None,
    at_least: Annotated[int, typer.Option(metavar="K", help="Exit 1 where a cell differs by fewer.")] = 10,
) -> None:
    """Subtract two releases of one table; exit 1 where that tells of a few. Shows no value, changes nothing."""
    with tables([earlier, later], numbers=count) as [before, now]:
        found = compare_relations(before, now, by=next(csv.reader([by])), count=count, person=person)
        try:
            check_difference(found, at_least=at_least)
        except ReleaseRefused as refused:
            errors.print(str(refused), soft_wrap=True)
            raise typer.Exit(FOUND) from None
    say(f"{sum(cells for _, cells in found.sizes):,} differences, the smallest of {found.smallest:,}")


def _six(found: Measures) -> dict[str, float | None]:
    names = {"rows": found.rows, "classes": found.classes, "unique": found.unique, "k": found.k}
    return {**names, "l": found.distinct_l, "t": found.t}


def _view(found: Measures) -> Table:
    table = Table(title=found.label, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _six(found).items():
        if value is not None:
            table.add_row(name, f"{value:.4g}" if isinstance(value, float) else f"{value:,}")
    if found.entropy_l is not None:
        table.add_row("entropy l", f"{found.entropy_l:.4g}")
    if found.person is not None:
        table.add_row("persons in classes", f"{found.members:,}")
    table.add_row("expected re-identifications", f"{found.classes:,} ({found.share:.1%})")
    return table

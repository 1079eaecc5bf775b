"""``privkit dataset deidentify``."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from privkit.cli.application import load_named, load_privacy
from privkit.cli.commands import AppOption, errors, say
from privkit.cli.datasets import dataset
from privkit.consent.age import cautious_today
from privkit.datasets.deidentify import deidentify as deidentify_files
from privkit.datasets.deidentify import here, recorded_date
from privkit.datasets.plan import DatasetPlan
from privkit.datasets.spark import spark
from privkit.errors import ApplicationError
from privkit.privacy import Privacy


class EngineName(StrEnum):
    """Who does the work."""

    duckdb = "duckdb"
    spark = "spark"


@dataset.command()
def deidentify(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A Parquet or CSV file, or a folder of them.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write. Nothing may be there but a result.")],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What decides each column: a class of the application, or MODULE:NAME of a model or plan.",
        ),
    ],
    at: Annotated[
        str | None, typer.Option(metavar="DATE", help="The day that ages are counted to; today where it is left out.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What tells data subjects apart, where a technique needs it.")
    ] = None,
    engine: Annotated[EngineName, typer.Option(help="Who does the work.")] = EngineName.duckdb,
    master: Annotated[str, typer.Option(metavar="URL", help="The master of --engine spark.")] = "local[*]",
    app: AppOption = None,
) -> None:
    """Write each column as its technique leaves it. After a stop, start it again: the bytes will be the same."""
    privacy = load_privacy(app)
    day = _day(at) or recorded_date(source, target) or cautious_today(privacy.guard.now())
    plan = _plan(privacy, model, day, at, subject)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
    with (
        spark(master) if engine is EngineName.spark else nullcontext(here) as work,
        Progress(*columns, console=errors, disable=not errors.is_terminal) as bar,
    ):
        task = bar.add_task("files", total=None)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        found = deidentify_files(
            source, target, plan, privacy.guard.keyring, policy=privacy.policy.digest, engine=work, progress=advance
        )
    say(f"{found.label}: {found.rows:,} rows in {len(found.files):,} files, {found.made:,} of them written now")


def _plan(privacy: Privacy, name: str, day: date, at: str | None, subject: str | None) -> DatasetPlan:
    found = load_named(name, "--model") if ":" in name else _class(privacy, name)
    if isinstance(found, DatasetPlan):
        if at is not None or subject is not None:
            raise ApplicationError(
                "A plan has its day and its data subject's column.", "", "Leave out --at and --subject."
            )
        return found
    if not isinstance(found, type):
        raise ApplicationError(f"{name} is neither a class nor a DatasetPlan.", "", "Check --model.")
    return DatasetPlan.of(found, at=day, subject=subject)


def _class(privacy: Privacy, name: str) -> type:
    classes = {each.model.cls.__name__: each.model.cls for each in privacy.guard.tables.values()}
    if name not in classes:
        raise ApplicationError(
            f"The application has no model {name!r}.", "", f"Give one of {', '.join(sorted(classes))}, or MODULE:NAME."
        )
    return classes[name]


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ApplicationError("--at is no date.", "", "Write it as --at 2026-01-31.") from None

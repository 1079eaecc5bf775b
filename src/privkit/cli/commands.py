"""The verbs. Each parses its options, calls one function below and turns the answer into an exit code.

Exit codes: 0 all is well, 1 there are findings or overdue rows, 2 the command could not run.
"""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from privkit.cli.application import load_engine, load_privacy
from privkit.cli.screen import plan_table, purge_with_bar, run_table
from privkit.clock import as_utc
from privkit.crypto import FileKeyring
from privkit.errors import ApplicationError, PrivkitError
from privkit.retention import Plan

app = typer.Typer(
    help="Keep a service's promises about personal data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
keys = typer.Typer(help="The keyring.", no_args_is_help=True)
ledger = typer.Typer(help="The evidence ledger.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(ledger, name="ledger")
console = Console(highlight=False, soft_wrap=False)

AppOption = Annotated[str | None, typer.Option("--app", help="The Privacy object, as module:name.")]
UrlOption = Annotated[str | None, typer.Option("--url", help="The database's SQLAlchemy URL.")]


class Format(StrEnum):
    """How a report is written."""

    text = "text"
    json = "json"
    html = "html"


@keys.command("init")
def keys_init(path: Annotated[Path, typer.Argument(help="Where to write the keyring.")] = Path("keys.json")) -> None:
    """Create a keyring: mode 0600, and never over an existing one."""
    FileKeyring.create(path)
    console.print(f"Created {path} (mode 0600). Back it up apart from the database; without it nothing opens.")


@app.command()
def plan(
    app: AppOption = None,
    url: UrlOption = None,
    at: Annotated[str | None, typer.Option(help="The instant, ISO 8601 with a zone; default: now.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the plan to this file, for purge --plan.")] = None,
) -> None:
    """Show what is due: counts per table, field and rule, at one instant. Changes nothing."""
    made = load_privacy(app).plan(load_engine(url), at=_instant(at))
    console.print(plan_table(made))
    if out is not None:
        out.write_text(made.json(), encoding="utf-8")


@app.command()
def purge(
    app: AppOption = None,
    url: UrlOption = None,
    plan: Annotated[Path | None, typer.Option(help="A plan written by plan --out; default: what is due now.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows in a transaction.")] = 1000,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Execute exactly the plan that is shown. May be stopped at any moment and run again."""
    privacy, engine = load_privacy(app), load_engine(url)
    chosen = Plan.load(_read(plan)) if plan is not None else privacy.plan(engine)
    console.print(plan_table(chosen))
    if chosen.due and not yes:
        typer.confirm(f"Destroy {chosen.due:,} values and rows?", abort=True)
    run = purge_with_bar(console, privacy, engine, chosen, batch=batch)
    console.print(run_table(run))
    console.print(f"overdue: {run.overdue:,}")
    raise typer.Exit(0 if run.ok else 1)


@app.command()
def status(app: AppOption = None, url: UrlOption = None) -> None:
    """Print the number of overdue values and rows; exit 1 when there are any."""
    due = load_privacy(app).plan(load_engine(url)).due
    console.print(f"overdue: {due:,}")
    raise typer.Exit(1 if due else 0)


@app.command()
def check(app: AppOption = None, url: UrlOption = None) -> None:
    """Print the findings, worst first. With a database, what is stored is checked too."""
    found = load_privacy(app).check(load_engine(url) if _has(url) else None)
    for finding in found:
        console.print(str(finding), soft_wrap=True, markup=False)
    console.print("covered: no findings" if not found else f"{len(found)} findings")
    raise typer.Exit(1 if found else 0)


@app.command()
def report(
    app: AppOption = None,
    url: UrlOption = None,
    format: Annotated[Format, typer.Option(help="How to write it.")] = Format.text,
    out: Annotated[Path | None, typer.Option(help="Write it to a file instead.")] = None,
) -> None:
    """Write the coverage report: every table and column, the findings, the guide's questions."""
    made = load_privacy(app).report(load_engine(url) if _has(url) else None)
    text = {Format.text: made.text, Format.json: made.json, Format.html: made.html}[format]()
    if out is not None:
        out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


@ledger.command("verify")
def ledger_verify(
    app: AppOption = None,
    url: UrlOption = None,
    expected: Annotated[str | None, typer.Option(help="A checkpoint noted earlier, count:hex.")] = None,
) -> None:
    """Recompute the chain. Prints a checkpoint to note elsewhere, which makes a cut-off tail visible later."""
    verified = load_privacy(app).verify_ledger(load_engine(url), expected=expected)
    head = verified.head.hex() if verified.head else ""
    console.print(f"intact: {verified.count:,} lines; checkpoint {verified.count}:{head}", soft_wrap=True)


def _has(url: str | None) -> bool:
    """A check of the models alone needs no database."""
    try:
        load_engine(url).dispose()
    except ApplicationError:
        if url is not None:
            raise
        return False
    return True


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        return as_utc(datetime.fromisoformat(text))
    except ValueError:
        raise ApplicationError("--at is not an ISO 8601 instant.", "", "Example: 2026-01-31T00:00:00Z") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ApplicationError(f"{path} cannot be read.", "", "Write a plan first: privkit plan --out FILE") from None


def main() -> None:
    """Run the command line; print privkit's errors, and a database's by their kind alone: its text may hold values."""
    try:
        app()
    except PrivkitError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    except SQLAlchemyError as error:
        console.print(f"The database refused: {type(error).__name__}.", style="red", markup=False)
        sys.exit(2)

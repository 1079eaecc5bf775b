"""The verbs. Each parses its options, calls one function below and turns the answer into an exit code.

Exit codes: 0 all is well, 1 there are findings or overdue rows, 2 the command could not run, 130 it was stopped by
Ctrl-C. Answers go to stdout; questions, progress and errors to stderr.
"""

from __future__ import annotations

import os
import sys
import traceback
from datetime import datetime
from enum import StrEnum
from getpass import getpass
from importlib import metadata
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console

from privkit.cli.application import database, database_if_named, load_privacy
from privkit.cli.screen import finding_lines, plan_view, purge_with_bar, run_view
from privkit.cli.signals import asked_to_end
from privkit.clock import as_utc
from privkit.coverage import Severity
from privkit.crypto import FileKeyring
from privkit.errors import ApplicationError, LedgerError, PrivkitError
from privkit.retention import Limits, Plan

FOUND, CANNOT, STOPPED = 1, 2, 130

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
console = Console(highlight=False, markup=False)
errors = Console(highlight=False, markup=False, stderr=True)

AppOption = Annotated[
    str | None, typer.Option("--app", metavar="MODULE:NAME", help="The application's Privacy object.")
]
UrlOption = Annotated[str | None, typer.Option("--url", metavar="URL", help="The database, as SQLAlchemy writes it.")]


class Format(StrEnum):
    """How a report is written."""

    text = "text"
    json = "json"
    html = "html"


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"privkit {_version()}")
        raise typer.Exit


def _version() -> str:
    try:
        return metadata.version("privkit")
    except metadata.PackageNotFoundError:
        return "(not installed: run from its source)"


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Keep a service's promises about personal data."""


@keys.command("init")
def keys_init(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the keyring.")] = Path("keys.json"),
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Seal it under a passphrase: PRIVKIT_PASSPHRASE, or what is typed.")
    ] = False,
) -> None:
    """Create a keyring: mode 0600, and never over an existing one."""
    given = os.environ.get("PRIVKIT_PASSPHRASE")
    FileKeyring.create(path, passphrase=_entered_twice if passphrase and not given else given or None)
    say(f"Created {path} (mode 0600). Back it up apart from the database; without it nothing opens.")


def _entered_twice() -> str:
    """Ask for a passphrase on the terminal, twice, and without showing it."""
    if not sys.stdin.isatty():
        raise ApplicationError(
            "There is nobody to ask for the passphrase.", "No keyring was made.", "Set PRIVKIT_PASSPHRASE."
        )
    entered = getpass("Passphrase: ")
    if getpass("Once more: ") != entered:
        raise ApplicationError("The two passphrases differ.", "No keyring was made.", "Try again.")
    return entered


@app.command()
def plan(
    app: AppOption = None,
    url: UrlOption = None,
    at: Annotated[str | None, typer.Option(metavar="INSTANT", help="ISO 8601 with a zone; default: now.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write the plan to a file, for purge --plan.")
    ] = None,
) -> None:
    """Show what is due at one instant, and what the database would refuse (exit 1). Changes nothing."""
    privacy, instant = load_privacy(app), read_instant(at)
    with database(privacy, url) as engine:
        made = privacy.plan(engine, at=instant)
    console.print(plan_view(made))
    if out is not None:
        _write(out, made.json(), private=True)
    raise typer.Exit(FOUND if made.refused else 0)


@app.command()
def purge(
    app: AppOption = None,
    url: UrlOption = None,
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A plan written by plan --out; default: what is due now.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, metavar="ROWS", help="Rows in a transaction; default: 100 to 10,000, by time.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Threads that share the work, on PostgreSQL.")] = 1,
    max_seconds: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Begin no batch after as many seconds.")
    ] = None,
    max_lag: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Pause while a replica is further behind.")
    ] = None,
    sentinel: Annotated[Path | None, typer.Option(metavar="FILE", help="Begin no batch while this exists.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    yes_this_many: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="The plan's number: for a large share of a table or a far shorter rule."),
    ] = None,
    vacuum: Annotated[
        bool, typer.Option("--vacuum", help="Then run VACUUM (never FULL): of what changed; on SQLite, of the file.")
    ] = False,
) -> None:
    """Execute exactly the plan that is shown. May be stopped at any moment and run again."""
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        chosen = Plan.load(_read(plan)) if plan is not None else privacy.plan(engine)
        console.print(plan_view(chosen))
        if (
            chosen.due
            and not yes
            and yes_this_many is None
            and not confirmed(f"Destroy {chosen.due:,} values and rows?", "Read the plan, then: privkit purge --yes")
        ):
            say("Nothing was destroyed.")
            raise typer.Exit(FOUND)
        with asked_to_end() as stop:
            limits = Limits(max_seconds=max_seconds, max_lag=max_lag, sentinel=sentinel, stop=stop)
            how: dict[str, Any] = {"batch": batch, "workers": workers, "limits": limits, "vacuum": vacuum}
            run = purge_with_bar(errors, privacy, engine, chosen, yes_this_many=yes_this_many, **how)
    console.print(run_view(run))
    raise typer.Exit(0 if run.ok else FOUND)


@app.command()
def check(app: AppOption = None, url: UrlOption = None) -> None:
    """Print the findings, worst first; exit 1 when one is to be mended. With a database, what is stored is checked."""
    privacy = load_privacy(app)
    with database_if_named(privacy, url) as engine:
        found = privacy.check(engine)
    for finding in found:
        say("\n".join(finding_lines(finding, console.width)) + "\n")
    to_mend = sum(finding.severity >= Severity.MEDIUM for finding in found)
    say(f"{'not covered' if to_mend else 'covered'}: {to_mend} to mend, {len(found) - to_mend} to know")
    raise typer.Exit(FOUND if to_mend else 0)


@app.command()
def report(
    app: AppOption = None,
    url: UrlOption = None,
    format: Annotated[Format, typer.Option(metavar="text|json|html", help="How to write it.")] = Format.text,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it to a file instead.")] = None,
) -> None:
    """Write the coverage report: every table and column, the findings, the guide's questions."""
    privacy = load_privacy(app)
    with database_if_named(privacy, url) as engine:
        made = privacy.report(engine)
    if format is Format.text:
        text = made.text() if out is not None else made.text(console.width)
    else:
        text = made.json() if format is Format.json else made.html()
    if out is not None:
        _write(out, text)
    else:
        _encode(sys.stdout, sys.stdout.encoding if format is Format.text else "utf-8")
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


@ledger.command("verify")
def ledger_verify(
    app: AppOption = None,
    url: UrlOption = None,
    expected: Annotated[str | None, typer.Option(metavar="COUNT:HEX", help="A checkpoint noted earlier.")] = None,
) -> None:
    """Recompute the chain; exit 1 when it is broken. Note the checkpoint elsewhere: a cut-off tail shows against it."""
    privacy = load_privacy(app)
    with database(privacy, url) as engine:
        try:
            verified = privacy.verify_ledger(engine, expected=expected)
        except LedgerError as broken:
            say(str(broken))
            raise typer.Exit(FOUND) from None
    say(f"intact: {verified.count:,} lines; checkpoint {verified.checkpoint}")


def say(line: str) -> None:
    """Print a line as it is: a terminal may wrap it, a pipe gets it whole."""
    console.print(line, soft_wrap=True)


def confirmed(question: str, otherwise: str) -> bool:
    """Ask on stderr. Raises ApplicationError, which says how to do without, where nobody can answer."""
    errors.print(f"{question} [y/N] ", end="", soft_wrap=True)
    answer = sys.stdin.readline()
    if not answer:
        errors.print()
        raise ApplicationError("There is nobody to ask.", "Nothing was destroyed.", otherwise)
    return answer.strip().lower() in ("y", "yes")


def read_instant(text: str | None, option: str = "--at") -> datetime | None:
    """Read an option. Raises ApplicationError for what is no instant with a zone."""
    if text is None:
        return None
    try:
        return as_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError, PrivkitError):
        raise ApplicationError(
            f"{option} is not an ISO 8601 instant with a time zone.",
            "Without a zone, what is due would depend on the machine's.",
            f"Example: {option} 2026-01-31T00:00:00Z",
        ) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ApplicationError(f"{path} cannot be read.", "", "Write a plan first: privkit plan --out FILE") from None


def _write(path: Path, text: str, *, private: bool = False) -> None:
    """Write a file; a ``private`` one is the owner's alone to read, whoever could read it before."""
    try:
        if private:
            path.touch(mode=0o600)
            path.chmod(0o600)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ApplicationError(f"{path} cannot be written ({error.strerror}).", "", "Name another --out.") from None
    say(f"written: {path}")


def main() -> None:
    """Run the command line. Of an error that is not privkit's own, only its kind and place are shown."""
    for stream in (sys.stdout, sys.stderr):
        _encode(stream, stream.encoding)
    try:
        _refuse_stray_urls(sys.argv[1:])
        app(prog_name="privkit")
    except PrivkitError as error:
        _end(str(error))
    except SystemExit as end:
        if end.code == STOPPED:
            errors.print()
            errors.print(
                "Stopped. What was committed stays, the rest was rolled back; run it again to go on.", soft_wrap=True
            )
        raise
    except Exception as error:
        where = "".join(traceback.format_tb(error.__traceback__)[-3:])
        _end(f"Unexpected {type(error).__name__}; what it says is not shown: it may hold a value.\n{where}")


def _encode(stream: TextIO, encoding: str) -> None:
    """What a terminal's encoding lacks is escaped: a name in the policy must not end a command."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding=encoding, errors="backslashreplace")


def _end(message: str) -> None:
    errors.print(message, style="red", soft_wrap=True)
    sys.exit(CANNOT)


def _refuse_stray_urls(arguments: list[str]) -> None:
    """A mistake in an argument is repeated by the parser's message, and a URL holds a password."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if "://" in argument and before != "--url" and not argument.startswith("--url="):
            raise ApplicationError(
                "There is a URL that does not follow --url.",
                "It is not shown: it may hold a password.",
                "Example: privkit status --url sqlite:///rides.sqlite",
            )

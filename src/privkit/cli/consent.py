"""The verbs of the ledger of consent: ``privkit consent status``, ``history``, ``grant``, ``withdraw`` and ``due``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.table import Table
from sqlalchemy.orm import Session

from privkit.cli.application import database, load_privacy
from privkit.cli.commands import FOUND, AppOption, UrlOption, app, console, read_instant, say
from privkit.cli.subjects import read_key_id
from privkit.errors import ApplicationError

consent = typer.Typer(help="The ledger of consent.", no_args_is_help=True)
app.add_typer(consent, name="consent")

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY_ID", help="What privkit_key of the data subject's row holds, in hexadecimal.")
]
PurposeOption = Annotated[list[str], typer.Option("--purpose", metavar="NAME", help="May be repeated.")]


@consent.command("status")
def consent_status(key_id: KeyArgument, app: AppOption = None, url: UrlOption = None) -> None:
    """Print what consent amounts to now, for each purpose of which there is a word."""
    privacy, subject = load_privacy(app), read_key_id(key_id)
    with database(privacy, url) as engine, Session(engine) as session:
        found = privacy.consent.status(session, subject=subject)
    for purpose, state in sorted(found.items()):
        say(f"{purpose}: {state}")
    if not found:
        say("no word of consent")


@consent.command("history")
def consent_history(
    key_id: KeyArgument,
    purpose: Annotated[str | None, typer.Option("--purpose", metavar="NAME", help="Of this one alone.")] = None,
    app: AppOption = None,
    url: UrlOption = None,
) -> None:
    """Print what was recorded, in its order; guardians by the tokens that stand for them."""
    privacy, subject = load_privacy(app), read_key_id(key_id)
    with database(privacy, url) as engine, Session(engine) as session:
        found = privacy.consent.history(session, subject=subject, purpose=purpose)
    view = Table(title="Consent", title_justify="left")
    for name in ("recorded", "purpose", "word", "guardian", "method", "notice", "others", "ends"):
        view.add_column(name, overflow="fold")
    for each in found:
        who = "in person" if each.in_person else each.guardian or "for all"
        others = {True: "yes", False: "no", None: ""}[each.disclosure]
        ends = f"{each.expires:%Y-%m-%d}" if each.expires else ""
        recorded = f"{each.at:%Y-%m-%d %H:%M}"
        view.add_row(recorded, each.purpose, each.event, who, each.method or "", each.notice or "", others, ends)
    console.print(view)


@consent.command("grant")
def consent_grant(
    key_id: KeyArgument,
    purpose: PurposeOption,
    method: Annotated[str, typer.Option("--method", metavar="NAME", help="How whoever consents was verified.")],
    guardian: Annotated[
        str | None, typer.Option("--guardian", metavar="REF", help="Whose consent it is; kept as a token.")
    ] = None,
    in_person: Annotated[
        bool, typer.Option("--in-person", help="It is the data subject's own, who came of age; instead of --guardian.")
    ] = False,
    disclosure: Annotated[
        list[str] | None,
        typer.Option("--disclosure", metavar="NAME", help="A purpose with a second yes, to giving data to others."),
    ] = None,
    notice: Annotated[
        str | None, typer.Option("--notice", metavar="VERSION", help="Of the text that was seen.")
    ] = None,
    locale: Annotated[str | None, typer.Option("--locale", metavar="NAME", help="Of that text.")] = None,
    verifier: Annotated[
        str | None, typer.Option("--verifier", metavar="REF", help="Who verified the guardian.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="INSTANT", help="When it ends, ISO 8601 with a zone.")
    ] = None,
    app: AppOption = None,
    url: UrlOption = None,
) -> None:
    """Record consent to purposes: a guardian's, or the data subject's own."""
    if in_person is (guardian is not None):
        raise ApplicationError("Whose consent is it?", "", "Give --guardian REF or --in-person, one of the two.")
    privacy, subject, ends = load_privacy(app), read_key_id(key_id), read_instant(until, "--until")
    said: dict[str, Any] = {
        "guardian": subject if in_person else guardian,
        "method": method,
        "disclosure": disclosure or (),
        "until": ends,
    }
    said |= {"notice": notice, "locale": locale, "verifier": verifier}
    with database(privacy, url) as engine, Session(engine) as session:
        privacy.consent.grant(session, subject=subject, purposes=purpose, **said)
        session.commit()
    say(f"consent is recorded: {', '.join(sorted(set(purpose)))}")


@consent.command("withdraw")
def consent_withdraw(
    key_id: KeyArgument,
    purpose: PurposeOption,
    guardian: Annotated[
        str | None, typer.Option("--guardian", metavar="REF", help="Who withdraws; without, it is withdrawn for all.")
    ] = None,
    app: AppOption = None,
    url: UrlOption = None,
) -> None:
    """Record that consent to purposes is withdrawn: nothing reads or writes on it from then on."""
    privacy, subject = load_privacy(app), read_key_id(key_id)
    with database(privacy, url) as engine, Session(engine) as session:
        privacy.consent.withdraw(session, subject=subject, purposes=purpose, guardian=guardian)
        session.commit()
    say(f"withdrawal is recorded: {', '.join(sorted(set(purpose)))}")


@consent.command("due")
def consent_due(
    days: Annotated[int, typer.Option("--days", metavar="DAYS", min=0, help="How far to look ahead.")] = 30,
    app: AppOption = None,
    url: UrlOption = None,
) -> None:
    """List who is to be asked, the soonest day first, by key id. Exit 1 when consent is missing already."""
    privacy = load_privacy(app)
    with database(privacy, url) as engine, Session(engine) as session:
        found = privacy.consent.due(session, within=timedelta(days=days))
        today = privacy.guard.now().date()
    missing = [each for each in found if each.day is None or each.day <= today]
    for each in found:
        when = "is missing" if each.day is None else f"from {each.day}"
        say(f"{each.subject}  {each.table}  {each.whose}  {when}  {', '.join(each.purposes)}")
    say(f"to ask: {len(found):,}; consent is missing already: {len(missing):,}")
    raise typer.Exit(FOUND if missing else 0)

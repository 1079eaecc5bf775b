"""The main job, shown step by step on a SQLite file: seal, read for a purpose, search, plan, purge, report."""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import NoReturn

from rich.console import Console
from sqlalchemy import func, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from privkit import GeoPoint, PrivkitError
from privkit.cli.screen import plan_view, purge_with_bar
from privkit.demo.models import Rider, Trip
from privkit.demo.service import CHILD, CITY, Planted, RideService, fill, found_in_files, open_service
from privkit.location import nearby

console = Console(highlight=False)


def main() -> None:
    """Run the demonstration and print where its report is. Exit code 1: it did not show what it promises."""
    chosen = _options()
    try:
        shown = _demonstrate(chosen)
    except PrivkitError as error:
        _end(str(error), 2)
    except (OSError, SQLAlchemyError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        _end(f"The demonstration cannot use the folder {chosen.folder} ({reason}). Name another one: --folder", 2)
    except KeyboardInterrupt:
        _end("Stopped.", 130)
    sys.exit(0 if shown else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="privkit.demo", description=__doc__)
    parser.add_argument("--riders", type=_at_least(CHILD), default=20_000, help=f"at least {CHILD}, for one child")
    parser.add_argument("--trips", type=_at_least(1), default=200_000)
    parser.add_argument("--folder", type=Path, default=Path("out/demo"), help="where its files go (out/demo)")
    return parser.parse_args()


def _at_least(lowest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"a whole number from {lowest} on is needed")
        return int(text)

    return number


def _demonstrate(chosen: argparse.Namespace) -> bool:
    started = time.perf_counter()
    service = open_service(chosen.folder)
    try:
        planted = _build(service, chosen.riders, chosen.trips)
        for show in (_bytes_on_disk, _purposes, _children, _neighbourhood):
            show(service)
        shown = [_purge(service), _evidence(service, planted, chosen.folder)]
    finally:
        service.engine.dispose()
    console.print(f"\nDone in {time.perf_counter() - started:.0f} s.")
    return all(shown)


def _end(message: str, code: int) -> NoReturn:
    Console(stderr=True, highlight=False, markup=False).print(message, soft_wrap=True)
    sys.exit(code)


def _title(words: str) -> None:
    console.print(f"\n[bold]{words}[/bold]")


def _build(service: RideService, riders: int, trips: int) -> Planted:
    _title(f"1. A ride service: {riders:,} riders, some of them children, and {trips:,} trips")
    started = time.perf_counter()
    with console.status("storing and sealing ..."):
        planted = fill(service, riders, trips)
    console.print(
        f"   stored in {time.perf_counter() - started:.0f} s: {service.database}", markup=False, soft_wrap=True
    )
    return planted


def _bytes_on_disk(service: RideService) -> None:
    _title("2. The bytes on disk, as any other program sees them")
    with closing(sqlite3.connect(service.database)) as connection:
        row = connection.execute("SELECT email, name, home, country FROM riders WHERE id = 1").fetchone()
    for field, stored in zip(("email", "name", "home", "country"), row, strict=True):
        shown = f"{stored[:20].hex()}... ({len(stored)} bytes)" if isinstance(stored, bytes) else repr(stored)
        console.print(f"   riders.{field:<8} {shown}")


def _purposes(service: RideService) -> None:
    _title("3. One row, read for different purposes")
    with Session(service.engine) as session:
        for purpose, field in (("pickup", "home"), ("demand_map", "home"), ("age_check", "born"), ("pickup", "email")):
            with service.privacy.purpose(purpose):
                _show(f"{purpose}: rider.{field}", partial(_read, session, field))
        _show("no purpose: select(Rider.email)", lambda: session.scalars(select(Rider.email)).first())
        with service.privacy.purpose("account"):
            _show("account: SQL text", lambda: session.execute(text("SELECT email FROM riders")).first())


def _read(session: Session, field: str) -> object:
    return getattr(session.get(Rider, 1), field)


def _show(question: str, answer: Callable[[], object]) -> None:
    try:
        shown = repr(answer())
    except PrivkitError as refused:
        shown = f"{type(refused).__name__}: {refused.what}"
    margin = f"   {question:<36} "
    for line in wrap(shown, console.width, initial_indent=margin, subsequent_indent=" " * len(margin)):
        console.print(line, markup=False, soft_wrap=True)


def _children(service: RideService) -> None:
    _title("4. Children's rows are not selected without a parent's consent")
    child = CHILD
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        trip = Trip(rider_id=child, start=GeoPoint(*CITY), finish=GeoPoint(*CITY))
        session.add(trip)
        _show(f"navigation: store a trip of {child}", session.flush)
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        everybody = session.scalar(select(func.count()).select_from(Rider.__table__))
        console.print(f"   pickup sees {everybody:,} riders; rider {child}, a child: {session.get(Rider, child)}")
    with Session(service.engine) as session:
        rider = session.get(Rider, child)
        service.privacy.consent.grant(
            session, subject=rider, purposes={"pickup"}, guardian="guardian-17", method="signed_form"
        )
        session.commit()
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        seen = session.get(Rider, child)
        console.print(f"   after a guardian's consent for pickup: {'selected' if seen else 'hidden'}")


def _neighbourhood(service: RideService) -> None:
    _title("5. A neighbourhood search on sealed coordinates")
    centre = GeoPoint(*CITY)
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        started = time.perf_counter()
        found = nearby(session, select(Rider.id), Rider.home, centre, metres=400)
        spent = time.perf_counter() - started
    console.print(f"   {len(found)} riders live within 400 m of the centre; found in {spent * 1000:.0f} ms")


def _purge(service: RideService) -> bool:
    _title("6. What is due, and the purge that executes exactly this plan")
    plan = service.privacy.plan(service.engine)
    console.print(plan_view(plan))
    console.print(f"   overdue before: {plan.due:,}")
    run = purge_with_bar(console, service.privacy, service.engine, plan, yes_this_many=plan.due)
    after = service.privacy.plan(service.engine)
    console.print(f"   destroyed {run.done:,}; overdue after: {after.due:,}")
    return run.ok and after.due == 0


def _evidence(service: RideService, planted: Planted, folder: Path) -> bool:
    _title("7. Evidence")
    verified = service.privacy.verify_ledger(service.engine)
    console.print(f"   ledger: {verified.count:,} lines, chain intact")
    with service.engine.connect() as connection:
        trips = connection.execute(select(func.count()).select_from(Trip.__table__)).scalar_one()
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    console.print(f"   trips that remain: {trips:,}")
    needles, plain = planted.needles(), [text.encode() for text in planted.plain]
    found, compared = found_in_files(service, needles), found_in_files(service, plain)
    console.print(f"   planted values found in the files: {found} of {len(needles)} looked for")
    console.print(f"   for comparison, what is not personal: {compared} of {len(plain)} found")
    report = folder / "report.html"
    report.write_text(service.privacy.report(service.engine).html(), encoding="utf-8")
    console.print(f"   the auditor's report: {report}", markup=False, soft_wrap=True)
    return found == 0 and compared == len(plain)


if __name__ == "__main__":
    main()

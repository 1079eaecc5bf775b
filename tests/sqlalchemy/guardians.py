"""The ride service with notices for guardians: a child of ten, another data subject of age who is a guardian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path

from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from privkit import FileKeyring, Privacy
from privkit.ledger import OutsideLedger
from privkit.policy import Notice, Policy, load
from tests.sqlalchemy.rides import POLICY, Base, Rider, RideService, rider

CHILD, PARENT = 1, 2
ASKED = ("account", "pickup", "receipts")
"""``pickup`` and ``receipts`` disclose: recipients are listed for them."""
TEXTS = {
    ("v3", "en"): "We use <your child's> data to find the rider.\n\nWe send receipts.",
    ("v3", "de"): "Wir benutzen die Daten Ihres Kindes, um es abzuholen.",
    ("v4", "en"): "We use your child's data to find the rider, and keep it for longer.",
}


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def policy() -> Policy:
    """The policy of the rides with two versions of a notice, of which the second is material from 1 February on."""
    texts = {
        name: {locale: digest(text) for (of, locale), text in TEXTS.items() if of == name} for name in ("v3", "v4")
    }
    notices = [Notice("v3", texts["v3"], False, None, (), "here")]
    notices += [Notice("v4", texts["v4"], True, date(2026, 2, 1), (), "here")]
    return replace(load(POLICY), notices={each.name: each for each in notices})


def privacy(folder: Path, clock: Callable[[], datetime], outside: OutsideLedger | None = None) -> Privacy:
    path = folder / "keys.json"
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    return Privacy(policy(), Base, keys, clock, outside)


def guardian_service(
    url: str, folder: Path, clock: Callable[[], datetime], outside: OutsideLedger | None = None
) -> RideService:
    """Return a protected engine on ``url``, empty or as another process left it."""
    made, engine = privacy(folder, clock, outside), create_engine(url)
    made.protect(engine)
    Base.metadata.create_all(engine)
    service = RideService(made, engine, clock)
    with made.purpose("age_check"), Session(engine) as session:
        empty = session.scalars(select(Rider.id)).first() is None
    if empty:
        service.sign_up(rider(CHILD), rider(PARENT))
        set_born(service, date(2015, 5, 5))
    return service


def set_born(service: RideService, born: date) -> None:
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        session.get_one(Rider, CHILD).born = born
        session.commit()


def ask(service: RideService, *names: str, guardian: object = "Augusta Byron, g-17", **options: object) -> str:
    """Ask a guardian of the child, and commit."""
    given = {"notice": "v3", "locale": "en"} | options
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        child = session.get_one(Rider, CHILD)
        token = service.privacy.consent.ask(
            session,
            subject=child,
            purposes=names or ASKED,
            guardian=guardian,
            **given,  # type: ignore[arg-type]
        )
        session.commit()
    return token


def status(service: RideService) -> dict[str, str]:
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        return service.privacy.consent.status(session, subject=session.get_one(Rider, CHILD))

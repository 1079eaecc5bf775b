"""Purposes without a database: scopes of the ride policy, and the models that several test files use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Annotated, Any

from privkit import AgeBand, BirthDate, Cell, Exact, GeoPoint, Location, NotPersonal, Personal, policy, purposes
from privkit.pydantic import PersonalModel
from tests.meta import ROOT

POLICY = policy.load(ROOT / "policies" / "rides.yaml")
NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)

EMAIL = "ada.lovelace@x.example"
NAME = "Ada Lovelace"
BORN = date(2012, 12, 10)
HOME = GeoPoint(51.5074, -0.1278)


@contextmanager
def purpose(*names: str, now: datetime = NOW) -> Iterator[purposes.Scope]:
    entry = purposes.enter(purposes.scope_for(POLICY, (), names, clock=lambda: now))
    try:
        yield entry.scope
    finally:
        purposes.leave(entry)


class Rider(PersonalModel):
    """Every personal field may be left out."""

    id: Annotated[int, NotPersonal("row id")] = 0
    email: Annotated[str, Personal("user.contact.email", purposes={"account", "receipts"})] | None = None
    name: Annotated[str | None, Personal("user.name", purposes={"account"})] = None
    born: Annotated[date | None, BirthDate(purposes={"age_check": AgeBand()})] = None
    home: Annotated[GeoPoint | None, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})] = None


class Contact(PersonalModel):
    """The e-mail address is required."""

    email: Annotated[str, Personal("user.contact.email", purposes={"account"})]
    country: Annotated[str, NotPersonal("two-letter code")] = "GB"


def everything() -> dict[str, Any]:
    return {"id": 7, "email": EMAIL, "name": NAME, "born": BORN, "home": HOME}


def full(cls: type[Rider] = Rider) -> Rider:
    return cls.model_construct(**everything())

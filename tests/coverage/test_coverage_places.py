"""Places that stand for an unknown one are counted without being opened, on SQLite and on PostgreSQL."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import GeoPoint, Location, Nearby, Privacy, data_subject, events, not_personal
from privkit.coverage import Finding, Severity, check
from privkit.coverage.live_places import PLACEHOLDERS
from tests.coverage.small import privacy_of

POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  account: {description: "Run the account", legal_basis: contract, keep: {for: P30D, after: account_closed}}
"""


class Base(DeclarativeBase):
    pass


@data_subject
@events(account_closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Finder(Base):
    __tablename__ = "finders"
    id: Mapped[int] = mapped_column(primary_key=True)
    home: Mapped[Annotated[GeoPoint | None, Location(purposes={"account"}, search=Nearby(8))]]
    shop: Mapped[Annotated[GeoPoint | None, Location("user.location", purposes={"account"}, seal=False)]]
    dark: Mapped[Annotated[GeoPoint | None, Location(purposes={"account"})]]
    closed_at: Mapped[datetime | None]


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[tuple[Privacy, Engine]]:
    privacy, engine = privacy_of(tmp_path, POLICY, Base), create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    yield privacy, engine
    engine.dispose()


def found(place: tuple[Privacy, Engine], *rows: dict[str, Any]) -> list[Finding]:
    privacy, engine = place
    with privacy.purpose("account"), Session(engine) as session:
        session.add_all(Finder(**row) for row in rows)
        session.commit()
    return [each for each in check(privacy.guard, engine) if each.code == "PK839"]


def test_c27_the_place_zero_zero_is_stored_and_flagged(place: tuple[Privacy, Engine]) -> None:
    zero = GeoPoint(0, 0)
    home, shop = found(place, {"home": zero, "shop": zero, "dark": zero}, {"home": zero}, {"home": None})
    assert ("finders.home", Severity.LOW) == (home.where, home.severity)
    assert "finders.home holds 2 places at a placeholder such as (0, 0), or in its cell." == home.what
    assert "finders.shop holds 1 place at a placeholder such as (0, 0), or in its cell." == shop.what


def test_every_placeholder_counts_and_another_place_does_not(place: tuple[Privacy, Engine]) -> None:
    real = [GeoPoint(0, 36.8), GeoPoint(51.5, 0), GeoPoint(0.5, 0.5)]
    assert [] == found(place, *({"home": each, "shop": each} for each in real))
    home, shop = found(place, *({"home": each, "shop": each} for each in PLACEHOLDERS))
    assert f"{len(PLACEHOLDERS)} places" in home.what
    assert f"{len(PLACEHOLDERS)} places" in shop.what

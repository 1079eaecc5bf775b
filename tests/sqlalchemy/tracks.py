"""Positions that are sealed in epochs of a day: of carriers, with a spot that goes and a place that leaves its cell."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from sqlalchemy import DateTime, ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import (
    Cell,
    FileKeyring,
    Generalise,
    GeoPoint,
    Location,
    Personal,
    Privacy,
    data_subject,
    events,
    not_personal,
    owned_by,
)
from privkit.ledger import OutsideLedger
from tests.sqlalchemy.rides import RideService

POLICY = """
privkit: 1
naive_datetimes: UTC
keys: {roll: P90D}
purposes:
  contact: {description: "Reach the carrier", legal_basis: contract, keep: {for: P1Y, after: left}}
  dispatch: {description: "Send the nearest", legal_basis: contract, keep: {for: P30D, after: recorded, epoch: P1D}}
  planning: {description: "Plan depots", legal_basis: contract, keep: {for: P60D, after: noted, epoch: P7D}}
"""
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SPOT, PLACE = GeoPoint(51.5012345, 0.1012345), GeoPoint(52.5012345, 13.4012345)


class Base(DeclarativeBase):
    pass


@data_subject
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Carrier(Base):
    __tablename__ = "carriers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str, Personal("user.name", purposes={"contact"}, seal=True)]]
    left_at: Mapped[datetime | None]


@owned_by("carrier_id")
@events(recorded="recorded_at", noted="noted_at")
@not_personal("id", "carrier_id", "recorded_at", "noted_at", because="row ids and event times")
class Position(Base):
    __tablename__ = "positions"
    id: Mapped[int] = mapped_column(primary_key=True)
    carrier_id: Mapped[int] = mapped_column(ForeignKey("carriers.id"))
    spot: Mapped[Annotated[GeoPoint | None, Location(purposes={"dispatch"})]]
    place: Mapped[Annotated[GeoPoint | None, Location(purposes={"planning"}, then=Generalise(Cell(5)))]]
    recorded_at: Mapped[datetime | None] = mapped_column(default=lambda: START.replace(tzinfo=None))
    noted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


def track_service(
    url: str,
    folder: Path,
    clock: Callable[[], datetime],
    policy: str = POLICY,
    outside: OutsideLedger | None = None,
) -> RideService:
    """Return a protected engine with the tables made and one carrier stored; dispose of it after the test."""
    path, file = folder / "track-keys.json", folder / "tracks.yaml"
    file.write_text(policy)
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    privacy = Privacy(policy=file, models=Base, keys=keys, clock=clock, ledger=outside)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("contact"), Session(engine) as session:
        if session.get(Carrier, 1) is None:
            session.add_all([Carrier(id=1, name="One"), Carrier(id=2, name="Two")])
            session.commit()
    return RideService(privacy, engine, clock)

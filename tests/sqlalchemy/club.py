"""A club with a field for each precision: what each purpose sees of a member, stored sealed and in the clear."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import (
    AgeBand,
    AtLeastAge,
    BirthDate,
    Cell,
    Exact,
    FileKeyring,
    GeoPoint,
    InCountry,
    Initials,
    Is,
    Location,
    Month,
    Personal,
    Privacy,
    Quarter,
    StandIn,
    TruncatedIp,
    Year,
    data_subject,
    events,
    not_personal,
)
from tests.sqlalchemy.rides import Clock, RideService

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)
PURPOSES = ("account", "gate", "rating", "drivers", "shops", "map", "wide_map", "abuse", "stats", "trends", "decades")
POLICY = """privkit: 1
controller: {{name: Club, contact: privacy@club.example, regions: [eu-west-1]}}
purposes:
{}
"""
PURPOSE = "  {}: {{description: a purpose, legal_basis: contract, keep: {{for: P30D, after: closed}}}}"


class Base(DeclarativeBase):
    pass


@data_subject
@events(closed="closed_at")
@not_personal("id", "closed_at", because="row id and event time")
class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[
        Annotated[
            str | None,
            Personal(
                "user.name",
                purposes={
                    "account": Exact(),
                    "rating": Initials(),
                    "drivers": StandIn("drivers"),
                    "shops": StandIn("shops"),
                },
                seal=True,
            ),
        ]
    ]
    nick: Mapped[Annotated[str | None, Personal("user.name", purposes={"account": Exact(), "rating": Initials()})]]
    ip: Mapped[Annotated[str | None, Personal("user.device", purposes={"account": Exact(), "abuse": TruncatedIp()})]]
    country: Mapped[
        Annotated[
            str | None, Personal("user.country", purposes={"account": Exact(), "shops": Is(InCountry({"DE", "FR"}))})
        ]
    ]
    born: Mapped[
        Annotated[
            date | None,
            BirthDate(
                purposes={
                    "account": Exact(),
                    "gate": Is(AtLeastAge(16)),
                    "rating": AgeBand(),
                    "stats": Month(),
                    "trends": Quarter(),
                    "decades": Year(),
                }
            ),
        ]
    ]
    joined: Mapped[
        Annotated[
            date | None,
            Personal("user.behavior", purposes={"account": Exact(), "stats": Month(), "decades": Year()}),
        ]
    ]
    home: Mapped[
        Annotated[GeoPoint | None, Location(purposes={"account": Exact(), "map": Cell(7), "wide_map": Cell(5)})]
    ]
    closed_at: Mapped[datetime | None]


ADA: dict[str, Any] = {
    "name": "Ada Lovelace",
    "nick": "ada king",
    "ip": "203.0.113.77",
    "country": "DE",
    "born": date(2010, 6, 16),
    "joined": date(2024, 12, 31),
    "home": GeoPoint(51.5, -0.12),
}
BOB: dict[str, Any] = {
    "name": "Bob Ross",
    "nick": "bob",
    "ip": "2001:db8:1:2::7",
    "country": "GB",
    "born": date(1990, 1, 15),
    "joined": date(2020, 1, 1),
    "home": GeoPoint(48.1, 11.5),
}


def club(url: str, folder: Path, clock: Clock | None = None) -> RideService:
    """Return a protected engine on ``url``; a second call is a second process, on what the first one stored."""
    keys, policy = folder / "club.json", folder / "club.yaml"
    policy.write_text(POLICY.format("\n".join(PURPOSE.format(name) for name in PURPOSES)))
    keyring = FileKeyring(keys) if keys.exists() else FileKeyring.create(keys)
    found = clock or Clock(NOW)
    privacy = Privacy(policy=policy, models=Base, keys=keyring, clock=found)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return RideService(privacy, engine, found)


def join(service: RideService, *members: dict[str, Any]) -> None:
    """Store members, whose ids count from 1."""
    with service.privacy.purpose("account"), Session(service.engine) as session:
        session.add_all(Member(id=number, **fields) for number, fields in enumerate(members, 1))
        session.commit()


def stored(service: RideService, number: int = 1) -> dict[str, Any]:
    """Return all that the account purpose sees of a member."""
    with service.privacy.purpose("account"), Session(service.engine) as session:
        found = session.get_one(Member, number)
        return {name: getattr(found, name) for name in ADA}

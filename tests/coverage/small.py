"""A small service without a finding, and the same with one gap of each kind, chosen by its code."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar

from sqlalchemy import Engine, ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    AgeBand,
    BirthDate,
    Delete,
    Equality,
    FileKeyring,
    GeoPoint,
    Location,
    NotPersonal,
    Personal,
    Privacy,
    Pseudonymise,
    child_protection,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)

POLICY = """\
privkit: 1
extends: [{packs}]
{naive}
controller: {{name: Rides Ltd, contact: privacy@rides.example}}
purposes:
  account: {{description: "Run the account", legal_basis: contract, keep: {{for: P30D, after: account_closed}}}}
  navigation: {{description: "Guide the driver", legal_basis: contract, keep: {{for: P1D, after: trip_ended}}}}
{purposes}
recipients:
  maps_inc: {{contract: "2026-03-01", regions: [eu-west-1], purposes: [navigation], safeguards: [no-resale]}}
"""

_ENFORCEMENT = {
    "PK815": "enforcement: {default: enforce, tables: {trips: observe}}\n",
    "PK816": "enforcement: {default: enforce, tables: {trip: observe}}\n",
}
_PURPOSES = {
    "PK809": '  archive: {description: "Remember", legal_basis: consent, keep: forever, because: "a museum"}',
    "PK810": '  surveys: {description: "Ask", legal_basis: consent, keep: {for: P1D, after: account_closed}}',
}


def models(gap: str = "") -> Mapping[str, Any]:
    """Return the classes of the service by name."""

    sealed = True if gap == "PK837" else None

    class Base(DeclarativeBase):
        kept: ClassVar[list[type]] = []  # a registry holds its classes weakly

    @data_subject
    @events(account_closed="closed_at")
    @not_personal("id", "closed_at", because="row id and event time")
    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str, Personal("user.contact.email", purposes={"account"}, search=Equality("email"))]]
        name: Mapped[
            Annotated[str, Personal("user.name", purposes={"account"}, then=Pseudonymise("name"), seal=sealed)]
        ]
        closed_at: Mapped[datetime | None]
        if gap == "PK801":
            shoe_size: Mapped[int | None]
        if gap == "PK807":
            diet: Mapped[Annotated[str | None, Personal("user.health", purposes={"account"}, seal=False)]]
        if gap == "PK808":
            phone: Mapped[Annotated[str, Personal("user.contact.phone_number", purposes={"account"})]]
        if gap == "PK837":
            born: Mapped[Annotated[date | None, BirthDate(purposes={"account": AgeBand()})]]
        if gap == "PK809":
            photo: Mapped[Annotated[str | None, Personal("user.content", purposes={"archive"})]]

        if gap == "PK838":
            born: Mapped[Annotated[date | None, BirthDate(purposes={"account"})]]

    if gap in ("PK837", "PK838"):
        child_protection(birth_date="born")(Rider)

    @owned_by("rider")
    @events(trip_ended="ended_at")
    @not_personal("id", "ended_at", because="row id and event time")
    class Trip(Base):
        __tablename__ = "trips"
        id: Mapped[int] = mapped_column(primary_key=True)
        rider_id: Mapped[int] = mapped_column(ForeignKey("riders.id"), nullable=gap == "PK812")
        rider: Mapped[Rider] = relationship()
        start: Mapped[Annotated[GeoPoint, Location(purposes={"navigation"})]]
        fare: Mapped[Annotated[int | None, NotPersonal("a price of many trips")]]
        ended_at: Mapped[datetime | None]
        if gap == "PK814":
            rider_ref: Mapped[int | None]

    if gap != "PK811":
        expire_row(Delete())(Trip)

    if gap == "PK802":

        class Photo(Base):
            __tablename__ = "photos"
            id: Mapped[int] = mapped_column(primary_key=True)
            trip_id: Mapped[int] = mapped_column(ForeignKey("trips.id"))

    if gap == "PK803":

        class Tariff(Base):
            __tablename__ = "tariffs"
            id: Mapped[int] = mapped_column(primary_key=True)

    if gap == "PK804":

        @events(account_closed="closed_at")
        @not_personal("id", "closed_at", because="row id and event time")
        class Lead(Base):
            __tablename__ = "leads"
            id: Mapped[int] = mapped_column(primary_key=True)
            email: Mapped[Annotated[str | None, Personal("user.contact.email", purposes={"account"})]]
            closed_at: Mapped[datetime | None]

    Base.kept.extend(mapper.class_ for mapper in Base.registry.mappers)
    return {"Base": Base, "Rider": Rider, "Trip": Trip}


def privacy(folder: Path, gap: str = "", classes: Mapping[str, Any] | None = None) -> Privacy:
    """Return the service's Privacy, with the gap that ``gap`` names, or without any."""
    if gap == "PK805":
        return _without_data_subjects(folder)
    text = POLICY.format(
        packs="gdpr, coppa" if gap == "PK813" else "gdpr",
        naive="" if gap == "PK806" else "naive_datetimes: UTC",
        purposes=_PURPOSES.get(gap, ""),
    )
    text += _ENFORCEMENT.get(gap, "")
    return privacy_of(folder, text, (classes or models(gap))["Base"])


def _without_data_subjects(folder: Path) -> Privacy:
    class Base(DeclarativeBase):
        kept: ClassVar[list[type]]

    @not_personal("id", because="row id")
    class Tariff(Base):
        __tablename__ = "tariffs"
        id: Mapped[int] = mapped_column(primary_key=True)

    Base.kept = [Tariff]
    prohibited = "{description: Sell, legal_basis: consent, keep: {for: P1D, after: sold}, prohibited: true}"
    return privacy_of(folder, f"privkit: 1\npurposes: {{sale: {prohibited}}}\n", Base)


def privacy_of(folder: Path, text: str, models: Any) -> Privacy:
    """Return a Privacy of these models under the policy in ``text``, at the instant NOW."""
    policy, keys = folder / "policy.yaml", folder / "keys.json"
    policy.write_text(text, encoding="utf-8")
    if not keys.exists():
        FileKeyring.create(str(keys))
    return Privacy(policy=policy, models=models, keys=FileKeyring(str(keys)), clock=lambda: NOW)


EMAILS = [f"planted.{number}@mail.example" for number in range(3)]
NAMES = [f"Plantagenet Nr{number}" for number in range(3)]
POINTS = [GeoPoint(48.123456 + number, 11.654321) for number in range(3)]


def fill(service: Privacy, classes: Mapping[str, Any], engine: Engine) -> None:
    """Protect ``engine`` and store three riders with a trip each."""
    service.protect(engine)
    classes["Base"].metadata.create_all(engine)
    with service.purpose("account", "navigation"), Session(engine) as session:
        for email, name, point in zip(EMAILS, NAMES, POINTS, strict=True):
            rider = classes["Rider"](email=email, name=name)
            session.add(classes["Trip"](rider=rider, start=point, ended_at=datetime(2026, 5, 31)))
        session.commit()

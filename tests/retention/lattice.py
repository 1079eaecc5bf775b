"""A club whose rows count from every kind of event, with what each row's lifetime is by the one function in Python."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Annotated, Any

from sqlalchemy import DateTime, Engine, ForeignKey, create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    Delete,
    FileKeyring,
    Latest,
    NotPersonal,
    Personal,
    Privacy,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.lifetime import Clause, expired
from privkit.policy.rules import Keep
from privkit.sqlalchemy.row_facts import as_instant
from tests.sqlalchemy.rides import Clock

POLICY = """
privkit: 1
naive_datetimes: UTC
controller: {name: Club Ltd, contact: privacy@club.example}
child: {default_age: 16}
purposes:
  account: {description: Run the account, legal_basis: contract, keep: {for: P1M, after: left}}
  archive: {description: The club's history, legal_basis: contract, keep: {for: P1Y, after: club_closed}}
  news: {description: Send news, legal_basis: consent, keep: {for: P1D, after: consent_withdrawn}}
  visit: {description: Receive a guest, legal_basis: contract, keep: {for: P1M, after: ended, until: expires}}
duties:
  tax: {citation: Tax Code s.12, keep: {for: P1Y, after: paid}}
  safety: {citation: Safety Act s.3, keep: {for: P3M, after: ended}}
"""
PURPOSES = ("account", "archive", "news", "visit")


class Base(DeclarativeBase):
    pass


class Club(Base):
    __tablename__ = "clubs"
    id: Mapped[int] = mapped_column(primary_key=True)
    closed_at: Mapped[datetime | None]


@data_subject
@events(left="left_at", club_closed="club.closed_at")
@not_personal("id", "club_id", "left_at", because="row ids and event time")
class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    club_id: Mapped[int] = mapped_column(ForeignKey("clubs.id"))
    club: Mapped[Club] = relationship()
    left_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    name: Mapped[Annotated[str | None, Personal("user.name", purposes={"account", "archive"})]]
    email: Mapped[Annotated[str | None, Personal("user.contact.email", purposes={"account", "news"}, seal=True)]]
    bookings: Mapped[list["Booking"]] = relationship(back_populates="member")


@owned_by("member")
@events(ended="ended_on", expires="expires_at", club_closed="member.club.closed_at", paid=Latest("payments.paid_at"))
@expire_row(Delete())
@not_personal("id", "member_id", "ended_on", "expires_at", "hidden", because="row ids, event times and a flag")
class Booking(Base):
    __tablename__ = "bookings"
    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(ForeignKey("members.id"))
    member: Mapped[Member] = relationship(back_populates="bookings")
    payments: Mapped[list["Payment"]] = relationship()
    ended_on: Mapped[date | None]
    expires_at: Mapped[datetime | None]
    hidden: Mapped[bool] = mapped_column(default=False)
    note: Mapped[Annotated[str | None, Personal("user.content", purposes={"visit"}, duties={"tax"})]]
    place: Mapped[
        Annotated[str | None, Personal("user.location", purposes={"visit", "archive"}, duties={"safety"}, seal=True)]
    ]


class Payment(Base):
    __tablename__ = "payments"
    id: Mapped[int] = mapped_column(primary_key=True)
    booking_id: Mapped[int] = mapped_column(ForeignKey("bookings.id", ondelete="CASCADE"))
    paid_at: Mapped[Annotated[datetime | None, NotPersonal("event time")]]


Events = Mapping[str, datetime | None]


@dataclass(frozen=True)
class FilledClub:
    """A protected club, and the events of each of its rows as Python knows them."""

    privacy: Privacy
    engine: Engine
    clock: Clock
    members: dict[int, Events]
    bookings: dict[int, Events]
    owners: dict[int, int]

    def readable(self, field: str, scope: str, now: datetime) -> set[int]:
        """The rows whose ``table.field`` a purpose, or ``duty tax``, may read, by Python alone."""
        table = field.partition(".")[0]
        rows = self.members if table == "members" else self.bookings
        rule = self.privacy.guard.rules[field]
        keeps: dict[str, Keep | None] = {term.purpose.name: term.purpose.keep for term in rule.terms}
        keeps |= {duty.entered_as: duty.keep for duty in rule.duties}
        return {key for key, known in rows.items() if not over(keeps[scope], known, now)}

    def seen(self, scope: str, now: datetime) -> set[int]:
        """The bookings that a purpose or a duty selects: what no purpose needs any more is there for its duty alone."""
        rules = [self.privacy.guard.rules[f"bookings.{name}"] for name in ("note", "place")]
        keeps = [term.purpose.keep for rule in rules for term in rule.terms]
        keeps += [duty.keep for rule in rules for duty in rule.duties if duty.entered_as == scope]
        return {key for key, known in self.bookings.items() if not all(over(keep, known, now) for keep in keeps)}


def over(keep: Keep | None, known: Events, now: datetime) -> bool:
    return keep is not None and expired(Clause("", keep.period, keep.after, keep.until), known, now)


@contextmanager
def club(url: str, tmp_path: Path, clock: Clock, zone: str = "UTC") -> Iterator[FilledClub]:
    """Make an empty club; sessions of PostgreSQL are in ``zone``."""
    policy = tmp_path / "club.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    keys = FileKeyring.create(tmp_path / "club.json")
    privacy = Privacy(policy=policy, models=Base, keys=keys, clock=clock)
    arguments = {"options": f"-c timezone={zone}"} if url.startswith("postgresql") else {}
    engine = create_engine(url, connect_args=arguments)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    try:
        yield FilledClub(privacy, engine, clock, {}, {}, {})
    finally:
        engine.dispose()


def fill(made: FilledClub, chance: Random, rows: int, edges: Iterable[datetime]) -> None:
    """Store ``rows`` members and twice as many bookings, with event times among ``edges`` or near them, or none."""
    near = list(edges)

    def moment() -> datetime | None:
        ticks = timedelta(microseconds=chance.choice([-1, 0, 1]))
        return None if chance.random() < 0.2 else chance.choice(near) + ticks

    clubs = {number: moment() for number in range(1, 8)}
    members = {number: (chance.choice(list(clubs)), moment()) for number in range(1, rows + 1)}
    with made.privacy.purpose(*PURPOSES), Session(made.engine) as session:
        session.execute(insert(Club), [{"id": key, "closed_at": naive(at)} for key, at in clubs.items()])
        people = [
            Member(id=key, club_id=club_id, left_at=left, name=f"n{key}", email=f"e{key}")
            for key, (club_id, left) in members.items()
        ]
        session.add_all(people)
        session.flush()
        withdrawn = {person.id: _consent(made, chance, session, person, near) for person in people}
        for key, (club_id, left) in members.items():
            made.members[key] = {
                "left": left,
                "club_closed": clubs[club_id],
                "consent_withdrawn:news": withdrawn[key],
            }
        for key in range(1, 2 * rows + 1):
            owner, ended, expires = chance.choice(list(members)), moment(), moment() if key % 3 == 0 else None
            paid = [moment() for _ in range(chance.randrange(3))]
            session.add(
                Booking(
                    id=key,
                    member_id=owner,
                    ended_on=ended.date() if ended else None,
                    expires_at=naive(expires),
                    note=f"b{key}",
                    place=f"p{key}",
                    payments=[Payment(paid_at=naive(each)) for each in paid],
                )
            )
            made.owners[key] = owner
            made.bookings[key] = {
                "ended": as_instant(ended.date()) if ended else None,
                "expires": expires,
                "club_closed": clubs[members[owner][0]],
                "paid": max((each for each in paid if each), default=None),
            }
        session.commit()


def _consent(
    made: FilledClub, chance: Random, session: Session, person: Member, near: list[datetime]
) -> datetime | None:
    """Withdraw consent at some moment, for some; and of these let some give it again."""
    if chance.random() < 0.3:
        return None
    at = made.clock.now = chance.choice(near)
    made.privacy.consent.withdraw(session, subject=person, purposes={"news"})
    if chance.random() < 0.3:
        made.clock.now += timedelta(microseconds=1)  # of one instant the withdrawal counts
        made.privacy.consent.grant(session, subject=person, purposes={"news"}, guardian="g", method="signed_form")
        return None
    return at


def naive(moment: datetime | None) -> Any:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment is not None else None

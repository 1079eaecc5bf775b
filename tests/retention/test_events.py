"""Events that are further away than a column: rows two joins off, rows of the same table, withdrawn consent."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, event, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    mapped_column,
    relationship,
    with_loader_criteria,
)

from privkit import (
    Delete,
    FileKeyring,
    Latest,
    Personal,
    Privacy,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
)
from privkit.errors import MappingError
from privkit.sqlalchemy.events import event_time
from tests.databases import raw_rows
from tests.retention.lattice import PURPOSES, Booking, Club, Member, Payment, club
from tests.sqlalchemy.rides import Clock

POLICY = """
privkit: 1
naive_datetimes: UTC
controller: {name: Guild Ltd, contact: privacy@guild.example}
child: {default_age: 16}
purposes:
  mentoring: {description: Mentor, legal_basis: contract, keep: {for: P1D, after: mentor_left}}
  billing: {description: Bill, legal_basis: contract, keep: {for: P30D, after: billed_last}}
  invoicing: {description: Invoice, legal_basis: contract, keep: {for: P1D, after: billed}}
"""
DAY = datetime(2026, 1, 1, tzinfo=UTC)


class Base(DeclarativeBase):
    pass


@data_subject
@events(mentor_left="mentor.mentor.left_at", billed_last=Latest("orders.invoices.billed_at"))
@not_personal("id", "mentor_id", "left_at", because="row ids and event time")
class Person(Base):
    __tablename__ = "persons"
    id: Mapped[int] = mapped_column(primary_key=True)
    mentor_id: Mapped[int | None] = mapped_column(ForeignKey("persons.id"))
    mentor: Mapped["Person | None"] = relationship(remote_side="Person.id")
    left_at: Mapped[datetime | None]
    nick: Mapped[Annotated[str | None, Personal("user.name", purposes={"mentoring"})]]
    card: Mapped[Annotated[str | None, Personal("user.payment", purposes={"billing"}, seal=True)]]
    orders: Mapped[list["Order"]] = relationship(back_populates="person")


@owned_by("person")
@not_personal("id", "person_id", because="row ids")
class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("persons.id"))
    person: Mapped[Person] = relationship(back_populates="orders")
    invoices: Mapped[list["Invoice"]] = relationship(back_populates="order")


@owned_by("order")
@events(billed="billed_at")
@expire_row(Delete())
@not_personal("id", "order_id", "billed_at", because="row ids and event time")
class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    order: Mapped[Order] = relationship(back_populates="invoices")
    billed_at: Mapped[datetime | None]
    text: Mapped[Annotated[str | None, Personal("user.content", purposes={"invoicing"})]]


@pytest.fixture
def guild(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[tuple[Privacy, Engine]]:
    """Three persons, each the mentor of the one before; the first has invoices in two orders."""
    (tmp_path / "guild.yaml").write_text(POLICY, encoding="utf-8")
    keys = FileKeyring.create(tmp_path / "guild.json")
    privacy = Privacy(policy=tmp_path / "guild.yaml", models=Base, keys=keys, clock=clock)
    engine = create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    clock.now = DAY
    with privacy.purpose("mentoring", "billing", "invoicing"), Session(engine) as session:
        session.add(Person(id=3, nick="c", card="3", left_at=DAY.replace(tzinfo=None)))
        session.flush()
        session.add(Person(id=2, nick="b", card="2", mentor_id=3))
        session.flush()
        orders = [
            Order(id=number, invoices=[Invoice(id=number, billed_at=datetime(2026, 1, number), text="t")])
            for number in (1, 2)
        ]
        session.add(Person(id=1, nick="a", card="1", mentor_id=2, orders=orders))
        session.commit()
    yield privacy, engine
    engine.dispose()


def test_b32_an_event_may_be_two_joins_away_even_in_the_same_table(guild: tuple[Privacy, Engine], clock: Clock) -> None:
    privacy, engine = guild
    clock.now = DAY + timedelta(days=1)
    with privacy.purpose("mentoring"), Session(engine) as session:
        nicks = {row.id: row.nick for row in session.execute(select(Person.id, Person.nick))}
    assert {1: None, 2: "b", 3: "c"} == nicks
    assert {"nick": 1} == {step.field: step.due for step in privacy.plan(engine).steps if step.field == "nick"}
    part = privacy.explain(engine, Person, 1).fields[0]
    assert ("persons.nick", "mentoring", DAY + timedelta(days=1)) == (part.name, part.rule, part.goes)


def test_rows_stay_while_a_field_two_joins_away_counts_from_the_latest_of_them(
    guild: tuple[Privacy, Engine], clock: Clock
) -> None:
    privacy, engine = guild
    last = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(days=30)
    clock.now = last - timedelta(microseconds=1)
    assert {"invoices": 0} == _due(privacy, engine, "invoices")
    assert privacy.explain(engine, Invoice, 1).waits
    assert privacy.purge(engine, privacy.plan(engine)).ok
    with privacy.purpose("billing"), Session(engine) as session:
        assert "1" == session.get_one(Person, 1).card
    clock.now = last
    with privacy.purpose("billing"), Session(engine) as session:
        assert session.get_one(Person, 1).card is None
    assert privacy.purge(engine, privacy.plan(engine)).ok
    assert [(0,)] == raw_rows(engine.url.render_as_string(False), "SELECT count(*) FROM invoices")
    assert [] == raw_rows(
        engine.url.render_as_string(False), "SELECT id FROM persons WHERE id = 1 AND card IS NOT NULL"
    )


def _due(privacy: Privacy, engine: Engine, name: str) -> dict[str, int]:
    return {step.name: step.due for step in privacy.plan(engine).steps if step.name == name}


@pytest.mark.parametrize("path", ["mentor.mentor.nobody", "mentor.nobody.left_at", "orders.invoices.billed_at"])
def test_a_path_that_leads_to_no_time_is_refused_before_anything_is_read(
    guild: tuple[Privacy, Engine], path: str
) -> None:
    privacy, _ = guild
    each = privacy.guard.classes[Person]
    table = each.table
    object.__setattr__(each.model, "events", {"mentor_left": path})
    with pytest.raises(MappingError, match="no time column it can reach"):
        event_time(privacy.guard, table, table, "mentor_left")


def test_withdrawn_consent_is_an_event_that_no_column_holds(database_url: str, tmp_path: Path, clock: Clock) -> None:
    with club(database_url, tmp_path, clock) as made:
        privacy, engine, clock.now = made.privacy, made.engine, DAY
        with privacy.purpose(*PURPOSES), Session(engine) as session:
            member = Member(id=1, club=Club(id=1), left_at=datetime(2020, 1, 1, tzinfo=UTC), name="Ada", email="a@b.c")
            session.add(member)
            session.commit()
            assert "a@b.c" == session.get_one(Member, 1).email
            assert {"members.email": 0} == _due(privacy, engine, "members.email")
            privacy.consent.withdraw(session, subject=member, purposes={"news"})
            session.commit()
        clock.now = DAY + timedelta(days=1)
        assert {"members.email": 1} == _due(privacy, engine, "members.email")
        part = next(each for each in privacy.explain(engine, "members", 1).fields if each.name == "members.email")
        assert ("delete", "news", clock.now) == (part.status.value, part.rule, part.since)
        with privacy.purpose("news"), Session(engine) as session:
            assert session.get_one(Member, 1).email is None
            privacy.consent.grant(
                session, subject=session.get_one(Member, 1), purposes={"news"}, guardian="g", method="signed_form"
            )
            session.commit()
            session.expire_all()
            assert "a@b.c" == session.get_one(Member, 1).email


def test_b07_the_period_applies_where_a_row_has_no_end_of_its_own(
    database_url: str, tmp_path: Path, clock: Clock
) -> None:
    ended = datetime(2026, 1, 1)
    ends = {1: None, 2: datetime(2026, 1, 5), 3: datetime(2027, 1, 1)}
    with club(database_url, tmp_path, clock) as made:
        clock.now = DAY
        with made.privacy.purpose(*PURPOSES), Session(made.engine) as session:
            member = Member(id=1, club=Club(id=1, closed_at=datetime(2020, 1, 1)))
            member.bookings = [
                Booking(id=key, ended_on=ended.date(), expires_at=end, place="x") for key, end in ends.items()
            ]
            session.add(member)
            session.commit()
        seen = {}
        for day in (
            datetime(2026, 1, 4, tzinfo=UTC),
            datetime(2026, 1, 6, tzinfo=UTC),
            datetime(2026, 3, 1, tzinfo=UTC),
        ):
            clock.now = day
            with made.privacy.purpose("visit"), Session(made.engine) as session:
                seen[day.month, day.day] = list(session.scalars(select(Booking.id).order_by(Booking.id)))
        assert {(1, 4): [1, 2, 3], (1, 6): [1, 3], (3, 1): [3]} == seen


def test_b08_rows_without_a_date_survive_a_purge_of_all_others(database_url: str, tmp_path: Path, clock: Clock) -> None:
    with club(database_url, tmp_path, clock) as made:
        _store(made.privacy, made.engine, clock, {1: None, 2: datetime(2020, 1, 1), 3: None})
        clock.now = datetime(2040, 1, 1, tzinfo=UTC)
        assert made.privacy.purge(made.engine, made.privacy.plan(made.engine)).ok
        assert [(1,), (3,)] == raw_rows(database_url, "SELECT id FROM bookings WHERE note IS NOT NULL ORDER BY id")


def test_b25_a_row_that_look_ups_hide_is_purged_when_its_time_has_come_and_no_later(
    database_url: str, tmp_path: Path, clock: Clock
) -> None:
    def hide(state: ORMExecuteState) -> None:
        criterion = with_loader_criteria(Booking, Booking.hidden.is_(False), include_aliases=True)
        state.statement = state.statement.options(criterion)

    with club(database_url, tmp_path, clock) as made:
        _store(made.privacy, made.engine, clock, {1: datetime(2026, 1, 1)})
        clock.now = datetime(2026, 1, 30, tzinfo=UTC)
        event.listen(Session, "do_orm_execute", hide)
        try:
            with made.privacy.purpose("visit"), Session(made.engine) as session:
                session.get_one(Booking, 1).hidden = True
                session.commit()
                assert [] == list(session.scalars(select(Booking)))
            clock.now = datetime(2026, 4, 2, tzinfo=UTC)  # the last duty counts from the visit, not from the hiding
            assert 1 == _due(made.privacy, made.engine, "bookings")["bookings"]
            assert made.privacy.purge(made.engine, made.privacy.plan(made.engine)).ok
        finally:
            event.remove(Session, "do_orm_execute", hide)
        assert [(0,)] == raw_rows(database_url, "SELECT count(*) FROM bookings")


def _store(privacy: Privacy, engine: Engine, clock: Clock, ends: dict[int, datetime | None]) -> None:
    """Store bookings that ended then, each paid long ago, of a club that closed long ago."""
    clock.now = DAY
    with privacy.purpose(*PURPOSES), Session(engine) as session:
        member = Member(id=1, club=Club(id=1, closed_at=datetime(2020, 1, 1)))
        for key, end in ends.items():
            paid = [Payment(paid_at=datetime(2020, 1, 1))]
            member.bookings.append(Booking(id=key, ended_on=end and end.date(), note="n", place="p", payments=paid))
        session.add(member)
        session.commit()

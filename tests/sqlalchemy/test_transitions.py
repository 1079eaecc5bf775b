"""What becomes of data that rests on consent when a child comes of age, or when consent ends or never comes."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from privkit import (
    BirthDate,
    Delete,
    FileKeyring,
    NotPersonal,
    Personal,
    Privacy,
    child_protection,
    data_subject,
    events,
    expire_row,
    not_personal,
    owned_by,
    purposes,
)
from privkit.consent.state import ENDED, EVENTS, GIVEN, IN_PERSON, LAPSED, NO, ConsentEvent
from privkit.errors import ConsentRequired, InvalidValue, PlanError
from privkit.lifetime import Status
from privkit.policy import ConsentTerms
from privkit.sqlalchemy import consent_rows, due
from privkit.sqlalchemy.states import lifetime_of
from privkit.sqlalchemy.tables import CONSENT
from privkit.sqlalchemy.types import Sealed
from tests.databases import raw_rows
from tests.sqlalchemy.rides import UNTIL, Clock

POLICY = """\
privkit: 1
extends: [gdpr]
naive_datetimes: UTC
controller: {name: Club, contact: privacy@club.example, regions: [eu-west-1]}
purposes:
  check: {description: Know who is a child, legal_basis: contract, keep: {for: P30D, after: left}, children: allowed}
  news: {description: Send news, legal_basis: consent, keep: {for: P30D, after: left}, consent: {valid: P5Y}}
  play: {description: Play, legal_basis: contract, keep: {for: P30D, after: left}}
  age: {description: Tell it, legal_basis: contract, keep: {for: P1D, after: checked}, children: allowed}
  help: {description: Counsel, legal_basis: consent, keep: {for: P30D, after: left}, children: allowed}
duties:
  tax: {citation: Tax Code s.12, keep: {for: P7Y, after: left}}
child:
  without_consent: {guardian: P14D, in_person: P30D}
  age_of_digital_consent: {rows: {GB: {age: 13, status: A, source: s}, DE: {age: 16, status: A, source: s}}}
"""
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
BIRTHDAY = datetime(2026, 6, 1, 12, tzinfo=UTC)
"""When the birthday of somebody born on 1 June 2013 is everywhere."""

TICK, DAY = timedelta(microseconds=1), timedelta(days=1)
GONE = (Status.DELETE, Status.DEIDENTIFY)


class Base(DeclarativeBase):
    pass


@data_subject
@child_protection(birth_date="born", country="country")
@events(left="left_at", checked="checked_at")
@not_personal("id", "left_at", "checked_at", because="row id and event times")
class Member(Base):
    __tablename__ = "members"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Annotated[str | None, Personal("user.name", purposes={"check", "help"})]]
    email: Mapped[Annotated[str | None, Personal("user.contact.email", purposes={"news"}, seal=True)]]
    paid: Mapped[Annotated[str | None, Personal("user.payment", purposes={"news"}, duties={"tax"})]]
    nick: Mapped[Annotated[str | None, Personal("user.name", purposes={"news", "play"})]]
    born: Mapped[Annotated[date | None, BirthDate(purposes={"age"})]]
    country: Mapped[Annotated[str | None, NotPersonal("a code of millions")]]
    left_at: Mapped[datetime | None]
    checked_at: Mapped[datetime | None]
    posts: Mapped[list["Post"]] = relationship(back_populates="member")


@owned_by("member")
@events(left="member.left_at")
@expire_row(Delete())
@not_personal("id", because="row id")
class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(ForeignKey("members.id"))
    member: Mapped[Member] = relationship(back_populates="posts")
    text: Mapped[Annotated[str | None, Personal("user.content", purposes={"news"})]]


@dataclass
class Club:
    url: str
    privacy: Privacy
    engine: Engine
    clock: Clock

    def join(self, number: int, born: date | None = date(2013, 6, 1), country: str = "GB") -> None:
        """A member of whom only what needs no consent is stored."""
        with self.privacy.purpose("check", "age"), Session(self.engine) as session:
            session.add(Member(id=number, name="Ada", born=born, country=country))
            session.commit()

    def write(self, number: int, paid: str | None = None) -> None:
        with self.privacy.purpose("news"), Session(self.engine) as session:
            member = session.get_one(Member, number)
            member.email, member.nick, member.paid = "ada@club.example", "ada", paid
            session.add(Post(id=number, member=member, text="hello"))
            session.commit()

    def child(self, number: int, *names: str, paid: str | None = None) -> None:
        """A child with its guardian's consent, and what is stored on it."""
        self.join(number)
        self.say("grant", number, *(names or ("news", "play")))
        self.write(number, paid)

    def say(self, word: str, number: int, *names: str, guardian: object = "g-17", **said: Any) -> Any:
        with self.privacy.purpose("check", "age"), Session(self.engine) as session:
            member = session.get_one(Member, number)
            given = {"subject": member, "purposes": set(names), "guardian": member if guardian == "self" else guardian}
            given |= {"method": "signed_form"} if word == "grant" else {}
            found = getattr(self.privacy.consent, word)(session, **given | said)
            session.commit()
        return found

    def sees(self, *names: str) -> set[int]:
        """Whom a purpose sees: by count, by entity and over the posts it has to be the same."""
        with self.privacy.purpose(*names), Session(self.engine) as session:
            found = set(session.scalars(select(Member.id)))
            assert len(found) == session.scalar(select(func.count()).select_from(Member))
            assert found >= set(session.scalars(select(Post.member_id)))
            assert found == {number for number in range(9) if session.get(Member, number) is not None}
        return found

    def status(self, number: int) -> dict[str, str]:
        with self.privacy.purpose("check", "age"), Session(self.engine) as session:
            return self.privacy.consent.status(session, subject=session.get_one(Member, number))

    def to_ask(self, **within: timedelta) -> list[tuple[str, str | None, tuple[str, ...]]]:
        with Session(self.engine) as session:
            found = self.privacy.consent.due(session, **within)
        return [(each.whose, each.day and each.day.isoformat(), each.purposes) for each in found]

    def due(self) -> dict[str, int]:
        return {step.name: step.due for step in self.privacy.plan(self.engine).steps if step.due}

    def purge(self) -> None:
        assert self.privacy.purge(self.engine, self.privacy.plan(self.engine)).ok

    def left(self, column: str, table: str = "members") -> set[int]:
        return {key for (key,) in raw_rows(self.url, f"SELECT id FROM {table} WHERE {column} IS NOT NULL")}

    def part(self, name: str, number: int = 1) -> Any:
        found = self.privacy.explain(self.engine, name.partition(".")[0], number)
        return next(each for each in (*found.fields, found.row) if each is not None and each.name == name)


def open_club(url: str, folder: Path, clock: Clock, policy: str = POLICY) -> Club:
    (folder / "club.yaml").write_text(policy, encoding="utf-8")
    path = folder / "club.json"
    keys = FileKeyring(path) if path.exists() else FileKeyring.create(path)
    privacy = Privacy(policy=folder / "club.yaml", models=Base, keys=keys, clock=clock)
    engine = create_engine(url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    return Club(url, privacy, engine, clock)


@pytest.fixture
def club(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[Club]:
    clock.now = START
    made = open_club(database_url, tmp_path, clock)
    yield made
    made.engine.dispose()


# On the day a child comes of age.


def test_d19_a_guardian_s_consent_lapses_on_the_day_and_the_row_is_frozen_until_the_answer(club: Club) -> None:
    club.child(1)
    club.clock.now = BIRTHDAY - TICK
    assert ({1}, {1}, {1}) == (club.sees("news"), club.sees("play"), club.sees("help"))
    assert {"news": "given", "play": "given"} == club.status(1)
    club.clock.now = BIRTHDAY
    assert (set(), {1}, {1}) == (club.sees("news"), club.sees("play"), club.sees("help"))
    assert set() == club.sees("news", "play")
    assert {"news": "lapsed", "play": "given"} == club.status(1)
    with club.privacy.purpose("news"), Session(club.engine) as session:
        session.add(Post(id=2, member_id=1, text="again"))
        with pytest.raises(ConsentRequired, match="guardian=subject"):
            session.flush()
    club.say("grant", 1, "news")  # a guardian's word says nothing any more
    assert set() == club.sees("news")
    club.say("grant", 1, "news", guardian="self", method="click")
    club.clock.now += DAY
    assert {1} == club.sees("news", "play")
    assert "given" == club.status(1)["news"]
    club.say("withdraw", 1, "news", guardian=None)
    assert (set(), "withdrawn") == (club.sees("news"), club.status(1)["news"])


def test_d04_who_is_born_on_a_leap_day_is_frozen_on_1_march(club: Club) -> None:
    club.join(1, date(2012, 2, 29))
    club.clock.now = datetime(2025, 1, 1, tzinfo=UTC)
    club.join(2, date(2012, 2, 29))
    club.say("grant", 2, "news")
    seen = []
    for day in (datetime(2025, 2, 28, 12, tzinfo=UTC), datetime(2025, 3, 1, 11, 59, 59, 999999, tzinfo=UTC)):
        club.clock.now = day
        seen.append(club.sees("news"))
    club.clock.now += TICK
    assert [{1, 2}, {1, 2}, {1}] == [*seen, club.sees("news")]


def test_who_joined_as_an_adult_is_not_touched(club: Club) -> None:
    club.join(1, date(1990, 1, 1))
    club.say("grant", 1, "news")
    club.say("withdraw", 1, "play")
    club.clock.now += 365 * DAY
    assert ({1}, {1}) == (club.sees("news"), club.sees("play"))
    assert ([], {}) == (club.to_ask(), club.due())


def test_who_grew_up_without_a_word_of_anybody_is_not_touched(club: Club) -> None:
    club.join(1)
    club.clock.now = BIRTHDAY + 365 * DAY
    assert {1} == club.sees("news")
    assert {} == club.due()


def test_who_turns_out_to_be_of_age_answers_in_person_from_that_day_on(club: Club) -> None:
    club.join(1, None)
    club.say("grant", 1, "news")
    club.write(1)
    club.clock.now = START + 100 * DAY
    with club.privacy.purpose("check", "age"), Session(club.engine) as session:
        session.get_one(Member, 1).born = date(1990, 1, 1)
        session.commit()
    assert set() == club.sees("news")
    club.clock.now += 30 * DAY
    assert {} == club.due()
    club.clock.now += DAY
    assert {"members.email": 1, "posts": 1} == club.due()


def test_a_child_does_not_consent_in_person_and_what_it_said_of_age_counts_no_more_below(club: Club) -> None:
    club.join(1)
    club.join(2, None)
    for number in (1, 2):
        with pytest.raises(InvalidValue, match="A child would consent in person"):
            club.say("grant", number, "news", guardian="self")
    club.clock.now = BIRTHDAY
    club.say("grant", 1, "news", guardian="self")
    assert {1} == club.sees("news")
    _move(club, 1, "DE")
    assert set() == club.sees("news")
    assert {"news": "lapsed"} == club.status(1)
    club.say("grant", 1, "news")
    assert {1} == club.sees("news")


def _move(club: Club, number: int, country: str) -> None:
    with club.privacy.purpose("check", "age"), Session(club.engine) as session:
        session.get_one(Member, number).country = country
        session.commit()


def test_the_answer_in_person_needs_no_method_of_the_policy_s_list_and_is_told_without_a_name(club: Club) -> None:
    club.child(1)
    club.clock.now = BIRTHDAY
    club.say("grant", 1, "news", guardian="self", method="a click in the app")
    rows = raw_rows(club.url, "SELECT purpose, event, guardian, method FROM privkit_consent ORDER BY seq DESC LIMIT 1")
    assert [("news", "given", IN_PERSON, "a click in the app")] == [(*row[:2], bytes(row[2]), row[3]) for row in rows]
    with pytest.raises(InvalidValue, match="no such method"):
        club.say("grant", 1, "news", method="a click in the app")


def test_the_own_answer_of_somebody_of_age_is_what_the_status_says_whatever_a_guardian_said(club: Club) -> None:
    club.join(1, date(1990, 1, 1))
    club.say("grant", 1, "news", guardian="self", method="click")
    assert {"news": "given"} == club.status(1)
    club.say("withdraw", 1, "news", guardian="self")
    club.say("grant", 1, "news")
    assert {"news": "withdrawn"} == club.status(1)


def test_no_later_write_makes_one_who_joined_as_an_adult_of_who_came_of_age(club: Club) -> None:
    club.child(1)
    club.clock.now = BIRTHDAY + DAY
    _move(club, 1, "UK")
    assert set() == club.sees("news")
    make = postgresql.insert if club.engine.dialect.name == "postgresql" else sqlite.insert
    with club.privacy.purpose("check", "age"), Session(club.engine) as session:
        new = make(Member).values(id=1, country="GB", born=date(2013, 6, 1))
        session.execute(
            new.on_conflict_do_update(index_elements=["id"], set_={"country": "GB", "born": new.excluded.born})
        )
        session.commit()
    assert set() == club.sees("news")
    club.privacy.ages(club.engine, store=True)
    assert set() == club.sees("news")
    assert [("2026-06-01",)] == [(str(day),) for (day,) in raw_rows(club.url, "SELECT privkit_adult_on FROM members")]


def test_who_came_of_age_stays_so_when_the_birth_date_is_destroyed_and_the_birthday_is_forgotten(club: Club) -> None:
    club.child(1)
    with club.privacy.purpose("check", "age"), Session(club.engine) as session:
        session.get_one(Member, 1).checked_at = datetime(2026, 6, 3, tzinfo=UTC).replace(tzinfo=None)
        session.commit()
    club.clock.now = datetime(2026, 6, 10, 12, tzinfo=UTC)
    assert {"members.born": 1} == club.due()
    club.purge()
    assert set() == club.sees("news")
    assert [("2026-06-10",)] == [(str(day),) for (day,) in raw_rows(club.url, "SELECT privkit_adult_on FROM members")]
    club.privacy.ages(club.engine, store=True)
    assert set() == club.sees("news")
    club.say("grant", 1, "news", guardian="self")
    assert {1} == club.sees("news")


# After the policy's days.


def test_what_is_not_answered_is_due_after_the_policy_s_days_and_no_sooner(club: Club) -> None:
    club.child(1)
    club.child(2)
    club.clock.now = BIRTHDAY
    club.say("grant", 2, "news", guardian="self")
    due_from = datetime(2026, 7, 2, tzinfo=UTC)  # thirty days after the end of the day
    club.clock.now = due_from - TICK
    assert {} == club.due()
    assert (Status.RESTRICT, "consent", due_from) == _told(club, "members.email")
    club.clock.now = due_from
    assert {"members.email": 1, "posts": 1} == club.due()
    assert (Status.DELETE, "news", None) == _told(club, "members.email")
    assert (Status.KEEP, "play", None) == _told(club, "members.nick")
    club.purge()
    assert ({2}, {1, 2}, {2}) == (club.left("email"), club.left("nick"), club.left("text", "posts"))
    assert {1, 2} == club.left("name")
    kinds = [kind for (kind,) in raw_rows(club.url, "SELECT kind FROM privkit_ledger ORDER BY seq")]
    assert {"run_started", "run_ended"} <= set(kinds)


def _told(club: Club, name: str, number: int = 1) -> tuple[Status, str, datetime | None]:
    part = club.part(name, number)
    return part.status, part.rule, part.until


def test_an_explanation_says_since_when_consent_is_missing_and_what_follows(club: Club) -> None:
    club.child(1)
    club.clock.now = BIRTHDAY + DAY
    (reason,) = club.part("members.email").reasons
    assert (True, datetime(2026, 6, 2, tzinfo=UTC), datetime(2026, 7, 2, tzinfo=UTC)) == (
        reason.withheld,
        reason.missing,
        reason.ends,
    )
    assert "without consent from 2026-06-02 00:00:00 UTC, ends 2026-07-02 00:00:00 UTC" in str(reason)
    assert club.part("posts").goes == datetime(2026, 7, 2, tzinfo=UTC)
    with club.privacy.purpose("check", "age"), Session(club.engine) as session:
        state = club.privacy.state(session.get_one(Member, 1), "email")
    assert ("restricted", "consent", True) == (state.word, state.rule, state.stored)


def test_a_hold_and_a_duty_outlast_the_policy_s_days(club: Club) -> None:
    for number in (1, 2):
        club.child(number, paid="5 EUR")
    club.child(3)
    club.clock.now = BIRTHDAY + 60 * DAY
    key = raw_rows(club.url, "SELECT privkit_key FROM members WHERE id = 2")[0][0]
    club.privacy.hold(club.engine, reason="claim", by="legal", subject=bytes(key), until=UNTIL)
    assert (Status.RESTRICT, "duty tax") == _told(club, "members.paid")[:2]
    assert (Status.RESTRICT, "hold") == _told(club, "members.email", 2)[:2]
    club.purge()
    assert ({2}, {2}, {1, 2}) == (club.left("email"), club.left("text", "posts"), club.left("paid"))
    with club.privacy.duty("tax"), Session(club.engine) as session:
        assert {1: "5 EUR", 2: "5 EUR", 3: None} == dict(session.execute(select(Member.id, Member.paid)).all())


def test_a_forecast_lists_what_falls_due_and_of_whom_nobody_knows_an_answer_yet(club: Club) -> None:
    club.child(1)
    club.clock.now = BIRTHDAY - 5 * DAY
    forecast = club.privacy.forecast(club.engine, days=40)
    fall = {each.name: [n for n, many in enumerate(each.falling) if many] for each in forecast.expected}
    assert {"members.email": [36], "posts": [36]} == {name: days for name, days in fall.items() if days}


def test_a_no_in_person_starts_the_days_anew_and_a_late_yes_stops_them(club: Club) -> None:
    club.child(1)
    club.clock.now = BIRTHDAY
    club.say("grant", 1, "news", guardian="self")
    club.clock.now = BIRTHDAY + 100 * DAY
    club.say("withdraw", 1, "news", guardian="self")
    club.clock.now += 30 * DAY - TICK
    assert (set(), {}) == (club.sees("news"), club.due())
    club.clock.now += TICK
    assert {"members.email": 1, "posts": 1} == club.due()
    club.say("grant", 1, "news", guardian="self")
    assert ({1}, {}) == (club.sees("news"), club.due())


def test_without_the_policy_s_days_a_row_is_frozen_and_stays(database_url: str, tmp_path: Path, clock: Clock) -> None:
    clock.now = START
    club = open_club(database_url, tmp_path, clock, POLICY.replace("without_consent", "#"))
    club.child(1)
    clock.now = BIRTHDAY + 1000 * DAY
    assert (set(), {}) == (club.sees("news"), club.due())
    assert (Status.RESTRICT, "consent", None) == _told(club, "members.email")
    club.engine.dispose()


def test_a_policy_that_begins_to_count_needs_the_plan_s_number(database_url: str, tmp_path: Path, clock: Clock) -> None:
    clock.now = START
    before = open_club(database_url, tmp_path, clock, POLICY.replace("without_consent", "#"))
    before.child(1)
    before.purge()
    before.engine.dispose()
    after = open_club(database_url, tmp_path, clock)
    clock.now = BIRTHDAY + 40 * DAY
    plan = after.privacy.plan(after.engine)
    with pytest.raises(PlanError, match="P30D without the data subject's own consent"):
        after.privacy.purge(after.engine, plan)
    assert {1} == after.left("email")
    assert after.privacy.purge(after.engine, plan, yes_this_many=plan.due).ok
    after.engine.dispose()


# Children without consent.


def test_what_was_collected_to_ask_goes_when_no_guardian_answers(club: Club) -> None:
    """16 CFR 312.5(c)(1). Nothing counts from a sign-up alone: rows may be older than their protection."""
    club.join(1, None)
    club.join(2, None)
    club.say("ask", 1, "news", "play")
    club.clock.now = START + DAY
    club.say("ask", 1, "news")  # asked again: the days are those of the first time
    with club.engine.begin() as connection, purposes.internally():
        connection.execute(Member.__table__.update().values(nick="ada"))  # as if imported
    club.clock.now = START + 14 * DAY - TICK
    assert {} == club.due()
    assert Status.RESTRICT is club.part("members.nick").status
    club.clock.now += TICK
    assert {"members.nick": 1} == club.due()
    club.purge()
    assert {2} == club.left("nick")


def test_a_withdrawal_a_lapse_an_expiry_and_a_refusal_start_the_days(club: Club) -> None:
    ways = {
        1: lambda: club.say("withdraw", 1, "news"),
        2: lambda: _lapse(club, 2),
        3: lambda: club.say("refuse", 3, "news", guardian="g-18"),
        4: lambda: club.say("withdraw", 4, "news", guardian=None),
        5: lambda: _note(club),
        6: lambda: None,
    }
    for number in ways:
        club.join(number)
        club.say("grant", number, "news", **({"until": START + 10 * DAY} if number == 5 else {}))
        club.write(number)
    club.clock.now = START + 10 * DAY
    for end in ways.values():
        end()
    assert {6} == club.sees("news")
    club.clock.now = START + 24 * DAY - TICK
    assert {} == club.due()
    club.clock.now += TICK
    assert {"members.email": 5, "posts": 5} == club.due()
    club.say("grant", 2, "news", guardian="g-18")  # the new guardian, in time
    club.say("grant", 1, "news")
    club.purge()
    assert {1, 2, 6} == club.left("email")


def _lapse(club: Club, number: int, guardian: object = "g-17") -> None:
    with club.privacy.purpose("check", "age"), Session(club.engine) as session:
        club.privacy.consent.lapse(session, subject=session.get_one(Member, number), guardian=guardian)
        session.commit()


def _note(club: Club) -> None:
    with Session(club.engine) as session:
        assert 1 == club.privacy.consent.note_ended(session)
        session.commit()


def test_when_custody_changes_the_old_guardian_s_no_goes_with_that_guardian(club: Club) -> None:
    club.child(1, "news")
    club.say("refuse", 1, "news", guardian="g-18")
    assert set() == club.sees("news")
    _lapse(club, 1, "g-18")
    assert {1} == club.sees("news")
    club.say("withdraw", 1, "news")
    _lapse(club, 1)
    club.say("grant", 1, "news", guardian="g-19")
    assert {1} == club.sees("news")
    club.clock.now += 30 * DAY
    assert {} == club.due()


def test_d18_in_a_stricter_country_a_guardian_s_words_count_again_and_nothing_is_due(club: Club) -> None:
    club.child(1)
    club.child(2)
    club.clock.now = BIRTHDAY
    assert set() == club.sees("news")
    club.say("withdraw", 2, "news", guardian="self")
    club.say("grant", 2, "news", guardian="self", claimed_at=None)
    for number in (1, 2):
        _move(club, number, "DE")
    assert {1} == club.sees("news")  # what the second took back, nobody gives in that one's place
    club.clock.now += 13 * DAY
    assert {} == club.due()
    _move(club, 1, "GB")
    assert set() == club.sees("news")
    club.clock.now += 30 * DAY
    assert "members.email" not in {name for name, many in club.due().items() if many > 1}


# Who is to be asked.


def test_the_list_of_whom_to_ask_names_keys_days_and_purposes(club: Club) -> None:
    club.child(1)
    club.join(2, None)
    club.say("grant", 2, "play", "news", until=START + 20 * DAY)
    club.join(3, None)
    club.say("ask", 3, "play")
    club.join(4, None)
    club.say("refuse", 4, "play")
    club.join(5, date(1990, 1, 1))
    ends, asked = ("guardian", "2026-01-21", ("news", "play")), ("guardian", None, ("play",))
    assert [ends, asked] == club.to_ask()
    assert [asked] == club.to_ask(within=19 * DAY)
    of_age = ("in_person", "2026-06-01", ("news",))
    assert [ends, of_age, asked] == club.to_ask(within=200 * DAY)
    club.clock.now = BIRTHDAY + DAY
    assert [of_age, ("guardian", None, ("news", "play")), asked] == [*club.to_ask()[:1], *sorted(club.to_ask()[1:])]
    with Session(club.engine) as session:
        (first, *_) = club.privacy.consent.due(session)
    key = raw_rows(club.url, "SELECT privkit_key FROM members WHERE id = 1")[0][0]
    assert (bytes(key).hex(), "members") == (first.subject, first.table)
    club.say("grant", 1, "news", guardian="self")
    assert of_age not in club.to_ask()
    assert ("in_person", "2031-06-02", ("news",)) in club.to_ask(within=1830 * DAY)


# What is used by a job that runs.


def test_d21_a_stream_that_runs_ends_with_the_statement_and_the_next_one_meets_the_withdrawal(club: Club) -> None:
    for number in (1, 2, 3):
        club.child(number, "news")
    with club.privacy.purpose("news"), Session(club.engine) as job:
        first = next(iter(job.scalars(select(Member).order_by(Member.id))))
        loaded = first.email
        job.commit()
        club.say("withdraw", 1, "news")
        with Session(club.engine) as fresh:
            assert [2, 3] == list(fresh.scalars(select(Member.id).order_by(Member.id).execution_options(yield_per=1)))
        assert job.get(Member, 1) is None
        assert "ada@club.example" == loaded


# The same by the one function, for words of every kind.


def test_what_is_due_is_what_the_function_says_of_the_same_words(club: Club) -> None:
    chance, instants = (
        Random(5),
        [START + timedelta(days=days, microseconds=tick) for days in range(5) for tick in (0, 1)],
    )
    born = [date(2013, 6, 1), date(2012, 12, 31), date(2013, 1, 3), date(2013, 1, 20), date(1990, 1, 1), None]
    club.clock.now = START - DAY
    count = 60
    with club.privacy.purpose("check", "age"), Session(club.engine) as session:
        session.add_all(Member(id=n, born=chance.choice(born), country="GB") for n in range(1, count + 1))
        session.commit()
        keys = dict(session.connection().execute(select(Member.id, Member.__table__.c.privkit_key)).all())
        rows = [
            {
                "subject": keys[number],
                "purpose": chance.choice(["news", "play"]),
                "event": kind,
                "guardian": chance.choice([b"a", b"b", IN_PERSON] if kind == GIVEN else [b"a", b"b", IN_PERSON, None]),
                "at": chance.choice(instants),
                "method": "signed_form",
            }
            for number in keys
            for _ in range(chance.randrange(6))
            for kind in [chance.choice([*EVENTS, GIVEN])]
        ]
        session.execute(insert(club.privacy.guard.own_table(CONSENT)), rows)
        session.commit()
    with club.engine.begin() as connection, purposes.internally():
        connection.execute(Member.__table__.update().values(nick="ada", email=Sealed(b"\x01" + bytes(80))))
    days = dict(raw_rows(club.url, "SELECT id, privkit_adult_on FROM members"))
    either = set()
    for now in (START + 18 * DAY, START + 33 * DAY, START + 33 * DAY + 12 * timedelta(hours=1), START + 200 * DAY):
        with club.engine.connect() as connection, purposes.internally():
            words = {
                number: consent_rows.events(connection, club.privacy.guard, bytes(keys[number])) for number in keys
            }
            for target in due.field_targets(club.privacy.guard):
                if target.field not in ("nick", "email"):
                    continue
                assert target.rule is not None
                predicate = due.due(club.privacy.guard, target, lambda now=now: now)
                assert predicate is not None
                found = set(connection.scalars(select(target.table.c.id).where(predicate)))
                expected = set()
                for number in keys:
                    day = days[number] if days[number] is None else date.fromisoformat(str(days[number]))
                    happened = {
                        f"consent_missing:{whose}:{name}": _missing(words[number], name, whose, day, now)
                        for name in ("news", "play")
                        for whose in ("guardian", "in_person")
                    }
                    if lifetime_of(target.rule, happened, held=False, now=now).status in GONE:
                        expected.add(number)
                assert expected == found, (now, target.field)
                either |= {number in found for number in keys}
    assert {True, False} == either


def _missing(words: list[ConsentEvent], name: str, whose: str, day: date | None, now: datetime) -> datetime | None:
    """The same from a list: the words on one purpose in their order."""
    theirs = [each for each in words if each.purpose == name]
    said = [each for each in theirs if each.event != "asked"]
    child = day is None or day > (now - timedelta(hours=12)).date()
    over = []
    for place, each in enumerate(said):
        later = said[place + 1 :]
        own_yes = any(word.event == GIVEN and word.in_person for word in later)
        stands = each.event in NO and not any(
            (word.event == LAPSED and word.guardian == each.guardian and each.guardian is not None)
            or (word.event == GIVEN and each.guardian in (None, word.guardian) and word.at != each.at)
            for word in later
        )
        if not own_yes and (stands or (each.event in ENDED and not _standing_yes(said))):
            over.append(each.at)
    if whose == "guardian":
        if not child:
            return None
        last = said[-1].seq if said else 0
        asked = [each.at for each in theirs if each.event == "asked" and each.seq > last and not _standing_yes(said)]
        return max(over) if over else min(asked, default=None)
    if day is None or day == date(1, 1, 1) or not theirs:
        return None
    if any(each.in_person for each in said):
        return max(over, default=None)
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + DAY


def _standing_yes(said: list[ConsentEvent]) -> bool:
    return any(
        each.event == GIVEN and not any(word.guardian in (each.guardian, None) for word in said[place + 1 :])
        for place, each in enumerate(said)
    )


def test_terms_say_when_time_ends_a_consent() -> None:
    terms = ConsentTerms(renewals=((date(2026, 3, 1), ("v2",)),))
    assert datetime(2026, 3, 1, tzinfo=UTC) == terms.end(START, UNTIL, "v1")
    assert (UNTIL, None) == (terms.end(START, UNTIL, "v2"), terms.end(START, None, "v2"))

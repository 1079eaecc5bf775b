"""``enforcement: observe``: what a purpose would refuse goes through and is counted; nothing else goes through."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, func, insert, literal, select, text, union_all, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, aliased, undefer
from sqlalchemy.pool import StaticPool

from privkit import FileKeyring, GeoPoint, Privacy
from privkit.errors import ConsentRequired, PurposeError, SealedError, SearchError, StatementRefused
from privkit.sqlalchemy import observations
from privkit.sqlalchemy.observations import Lack, Observation
from tests.databases import raw_rows
from tests.sqlalchemy import rides
from tests.sqlalchemy.members import JOIN, Base, Member, Note, club, member
from tests.sqlalchemy.rides import START, Clock, RideService

NOTES_ONLY = "{default: enforce, tables: {notes: observe}}"
MEMBERS_ENFORCED = "{default: observe, tables: {members: enforce}}"
Work = Callable[[Session], Any]


@pytest.fixture
def observing(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[RideService]:
    found = club(database_url, tmp_path, clock, "observe")
    with found.privacy.purpose(*JOIN), Session(found.engine) as session:
        session.add_all([member(1), member(2)])
        session.commit()
    found.guard.observations.take()
    yield found
    found.engine.dispose()


def counted(service: RideService) -> set[tuple[str, str, str, int]]:
    return {(each.outcome, each.field, each.purpose, each.count) for each in service.privacy.observed(service.engine)}


def kinds(service: RideService) -> set[tuple[str, str]]:
    return {(each.outcome, each.field) for each in service.privacy.observed(service.engine)}


def gaps(*names: str) -> set[tuple[str, str]]:
    return {("gap", name) for name in names}


def entity(session: Session) -> Any:
    return session.get_one(Member, 1).email


def core(session: Session) -> Any:
    return session.connection().execute(select(Member.name).where(Member.id == 1)).scalar_one()


def sealed(session: Session) -> Any:
    return session.scalars(select(Member.home).where(Member.id == 1)).one()


def searched(session: Session) -> Any:
    return session.scalars(select(Member.id).where(Member.email == "member1@club.example")).one()


def sorted_by(session: Session) -> Any:
    return session.scalars(select(Member.id).order_by(Member.name)).first()


def computed(session: Session) -> Any:
    return session.scalars(select(func.max(Member.name))).one()


def in_union(session: Session) -> Any:
    arms = select(Member.name).where(Member.id == 1), select(literal("x")).where(Member.id == 99)
    return session.connection().execute(union_all(*arms)).scalars().all()


def undeferred(session: Session) -> Any:
    return session.scalars(select(Member).options(undefer(Member.name)).where(Member.id == 1)).one().name


def related(session: Session) -> Any:
    return [note.said for note in session.get_one(Member, 1).notes]


def changed(session: Session) -> Any:
    session.execute(update(Member).where(Member.id == 1).values(name="Another Name"))
    return stored(session, "SELECT name FROM members WHERE id = 1")


def inserted(session: Session) -> Any:
    session.connection().execute(insert(Note), [{"member_id": 1, "said": "More"}])
    return stored(session, "SELECT count(*) FROM notes")


def as_text(session: Session) -> Any:
    return session.execute(text("SELECT name FROM members WHERE id = 1")).scalar_one()


def text_that_writes(session: Session) -> Any:
    session.execute(text("UPDATE members SET name = 'Another Name' WHERE id = 1"))
    return stored(session, "SELECT name FROM members WHERE id = 1")


def text_not_understood(session: Session) -> Any:
    return session.execute(text("SELECT m.name FROM members m, (VALUES (1)) AS t WHERE m.id = 1")).scalar_one()


def outer_join(session: Session) -> Any:
    joined = Member.__table__.outerjoin(Note.__table__)
    return (
        session.connection()
        .execute(select(Note.__table__.c.said).select_from(joined).where(Note.__table__.c.id == 1))
        .scalars()
        .first()
    )


def stored(session: Session, sql: str) -> Any:
    return session.connection().connection.cursor().execute(sql).fetchall()


ALL = ("members.name", "members.email", "members.home")
FORMS: dict[str, tuple[Work, Any, set[tuple[str, str]]]] = {
    "entity": (entity, "member1@club.example", gaps(*ALL)),
    "core": (core, "Member 1", gaps("members.name")),
    "sealed": (sealed, GeoPoint(51.5, 0.1), gaps("members.home")),
    "searched": (searched, 1, gaps("members.email")),
    "sorted": (sorted_by, 1, gaps("members.name")),
    "computed": (computed, "Member 2", gaps("members.name")),
    "union": (in_union, ["Member 1"], gaps("members.name")),
    "undeferred": (undeferred, "Member 1", gaps(*ALL)),
    "related": (related, ["Said 1"], gaps(*ALL, "notes.said")),
    "changed": (changed, [("Another Name",)], gaps("members.name")),
    "inserted": (inserted, [(3,)], gaps("notes.said")),
    "text": (as_text, "Member 1", gaps("members.name", "members.*")),
    "text that writes": (text_that_writes, [("Another Name",)], gaps("members.name", "members.*")),
    "outer join": (outer_join, "Said 1", gaps("notes.said", "notes.*")),
}


@pytest.mark.parametrize("form", FORMS)
def test_without_a_purpose_a_statement_goes_through_and_each_field_is_a_gap(form: str, observing: RideService) -> None:
    work, expected, found = FORMS[form]
    with Session(observing.engine) as session:
        assert expected == work(session)
    assert found == kinds(observing)


@pytest.mark.parametrize("form", FORMS)
def test_under_enforce_the_same_is_refused_and_the_refusal_counted(
    form: str, observing: RideService, database_url: str, tmp_path: Path, clock: Clock
) -> None:
    enforcing = club(database_url, tmp_path, clock, "enforce")
    with Session(enforcing.engine) as session, pytest.raises((PurposeError, StatementRefused)):
        FORMS[form][0](session)
    early = form in ("computed", "outer join")  # refused while the statement is built, before the gate
    assert (set() if early else {"refused"}) == {outcome for outcome, _ in kinds(enforcing)}
    enforcing.engine.dispose()
    club(database_url, tmp_path, clock, "observe").engine.dispose()


def test_what_the_purpose_does_not_need_is_a_violation_and_the_rest_is_compliant(observing: RideService) -> None:
    with observing.privacy.purpose("account"), Session(observing.engine) as session:
        for _ in range(3):
            session.execute(select(Member.email, Member.home)).all()
    expected = {("compliant", "members.email", "account", 3), ("violation", "members.home", "account", 3)}
    assert expected == counted(observing)


def test_every_compliant_statement_is_counted_without_its_place(observing: RideService) -> None:
    with observing.privacy.purpose("account"), Session(observing.engine) as session:
        for number in (1, 2, 1):
            session.execute(select(Member.name).where(Member.id == number)).one()
    (found,) = observing.privacy.observed(observing.engine)
    assert Observation("compliant", "members.name", "account", "", 3, date(2026, 1, 1), date(2026, 1, 1)) == found


def test_a_compliant_write_is_counted(observing: RideService) -> None:
    with observing.privacy.purpose("account"), Session(observing.engine) as session:
        session.execute(update(Member).where(Member.id == 1).values(name="Another Name"))
    assert {("compliant", "members.name", "account", 1)} == counted(observing)


def test_a_comparison_at_a_lower_precision_is_a_violation_and_the_value_stays_reduced(observing: RideService) -> None:
    with observing.privacy.purpose("map"), Session(observing.engine) as session:
        seen = session.scalars(select(Member.home).where(Member.home.is_not(None))).first()
    assert isinstance(seen, str)
    assert ("violation", "members.home", "map", 1) in counted(observing)


def test_a_value_loaded_for_one_purpose_and_read_under_another_is_a_violation(observing: RideService) -> None:
    with Session(observing.engine) as session:
        with observing.privacy.purpose("account"):
            found = session.scalars(select(Member).where(Member.id == 1)).one()
        observing.guard.observations.take()
        with observing.privacy.purpose("visits"):
            assert "Member 1" == found.name
    assert {("violation", "members.name", "visits", 1)} == counted(observing)


def test_nested_purposes_that_do_not_both_need_a_field_are_a_violation(observing: RideService) -> None:
    with observing.privacy.purpose("account"), observing.privacy.purpose("visits"), Session(observing.engine) as each:
        assert "Member 1" == core(each)
    assert {("violation", "members.name", "account and visits", 1)} == counted(observing)


def test_loaded_values_stay_when_their_purpose_ends_for_code_that_reads_them_later(observing: RideService) -> None:
    with Session(observing.engine) as session, observing.privacy.purpose("account"):
        found = session.get_one(Member, 1)
    assert "Member 1" == found.name  # detached: nothing could be loaded any more


def test_a_value_that_was_reduced_does_not_stay(observing: RideService) -> None:
    with Session(observing.engine) as session:
        with observing.privacy.purpose("map"):
            found = session.get_one(Member, 1)
            assert isinstance(found.home, str)
        assert GeoPoint(51.5, 0.1) == found.home


# What observe never lets through.


def test_sealing_keys_and_owners_are_as_under_enforce(observing: RideService, database_url: str) -> None:
    with Session(observing.engine) as session:
        with pytest.raises(StatementRefused):  # one value for two data subjects
            session.execute(update(Member).values(email="everybody@club.example"))
        with pytest.raises(StatementRefused):  # computed by the database
            session.execute(update(Member).where(Member.id == 1).values(email=func.lower("A@club.example")))
        with pytest.raises(SearchError):
            session.execute(select(Member.id).where(Member.email.like("%a%")))
        with pytest.raises(SearchError):
            session.execute(select(Member.id).order_by(Member.email))
        with pytest.raises(StatementRefused):
            session.execute(text("SELECT email FROM members"))
        with pytest.raises(StatementRefused):
            session.execute(text("UPDATE members SET email = 'plain@club.example'"))
        with pytest.raises(StatementRefused):
            session.execute(text("DELETE FROM privkit_key"))
        session.add(member(3))
        session.commit()
    assert all(bytes(row[0]).startswith(b"\x01") for row in raw_rows(database_url, "SELECT email FROM members"))


def test_a_copied_envelope_opens_no_more_than_under_enforce(observing: RideService, database_url: str) -> None:
    raw_rows(database_url, "UPDATE members SET home = (SELECT home FROM members WHERE id = 1) WHERE id = 2")
    with Session(observing.engine) as session, pytest.raises(SealedError):
        session.scalars(select(Member.home).where(Member.id == 2)).one()


def test_what_all_purposes_have_done_with_stays_expired(observing: RideService, clock: Clock) -> None:
    with Session(observing.engine) as session:
        session.execute(update(Member).where(Member.id == 1).values(left_at=START))
        session.execute(update(Note).where(Note.id == 1).values(archived_at=START))
        session.commit()
    clock.now += timedelta(days=2)
    with Session(observing.engine) as session:
        seen = session.execute(select(Member.name, Member.home).where(Member.id == 1)).one()
        assert ("Member 1", None) == tuple(seen)  # 30 days for the account; one for visits and the map
        assert [2] == session.scalars(select(Note.id)).all()
    clock.now += timedelta(days=30)
    with Session(observing.engine) as session:
        assert session.scalars(select(Member.name).where(Member.id == 1)).one() is None


def test_a_prohibited_or_unknown_purpose_is_refused(observing: RideService) -> None:
    with pytest.raises(PurposeError):
        observing.privacy.purpose("letters").__enter__()


def test_an_engine_without_a_privacy_is_refused(observing: RideService, database_url: str) -> None:
    bare = create_engine(database_url)
    with pytest.raises(Exception, match="not protected"), Session(bare) as session:
        core(session)
    bare.dispose()


def test_children_stay_hidden_without_a_purpose_because_nobody_consented_to_none(
    database_url: str, tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(rides.POLICY.read_text().replace("enforcement: enforce", "enforcement: observe"))
    privacy = Privacy(path, rides.Base, FileKeyring.create(tmp_path / "keys.json"), clock)
    service = RideService(privacy, create_engine(database_url), clock)
    privacy.protect(service.engine)
    rides.Base.metadata.create_all(service.engine)
    service.sign_up(rides.rider(1), rides.rider(2, born=date(2020, 1, 1), home=None, trips=[]))
    with Session(service.engine) as session:
        assert ["Rider 1"] == session.scalars(select(rides.Rider.name)).all()
        with pytest.raises(ConsentRequired):
            session.execute(insert(rides.Trip), [{"rider_id": 2, "start": GeoPoint(51.5, 0.1)}])
        for unseen in (text("SELECT name FROM riders"), select(func.count(aliased(rides.Rider).name))):
            with pytest.raises(StatementRefused):
                session.connection().execute(unseen)
    service.engine.dispose()


# Some tables only.


def test_one_table_may_be_observed_while_the_others_are_enforced(
    observing: RideService, database_url: str, tmp_path: Path, clock: Clock
) -> None:
    service = club(database_url, tmp_path, clock, NOTES_ONLY)
    with Session(service.engine) as session:
        assert ["Said 1", "Said 2"] == session.scalars(select(Note.said)).all()
        for refused in (core, text_not_understood):
            with pytest.raises((PurposeError, StatementRefused)):
                refused(session)
        with pytest.raises(PurposeError):
            session.execute(select(Note.said, Member.name).join(Member)).all()
    assert ("gap", "notes.said") in kinds(service)
    assert ("refused", "members.name") in kinds(service)
    service.engine.dispose()


def test_text_that_is_not_understood_may_touch_any_table(
    observing: RideService, database_url: str, tmp_path: Path, clock: Clock
) -> None:
    statement = text("SELECT count(*) FROM notes NATURAL JOIN (SELECT 1 AS one) AS x TABLESAMPLE SYSTEM ((1")
    service = club(database_url, tmp_path, clock, MEMBERS_ENFORCED)
    with Session(service.engine) as session, pytest.raises(StatementRefused):
        session.execute(statement)
    with Session(observing.engine) as session, pytest.raises(DBAPIError):  # it reached the database
        session.execute(statement)
    assert {("gap", "notes.*")} <= kinds(observing)
    service.engine.dispose()


# Where, and how it is written.


def test_the_place_is_the_applications_line(observing: RideService) -> None:
    with Session(observing.engine) as session:
        core(session)
    (found,) = observing.privacy.observed(observing.engine)
    assert f"{__name__}:core:{core.__code__.co_firstlineno + 1}" == found.place


async def asked(session: AsyncSession) -> None:
    await session.execute(select(Member.name))


async def test_the_place_is_found_across_asyncio(observing: RideService, async_database_url: str) -> None:
    engine = create_async_engine(async_database_url)
    observing.privacy.protect(engine)
    async with AsyncSession(engine) as session:
        await asyncio.create_task(asked(session))
    found = await asyncio.to_thread(observing.privacy.observed, observing.engine)
    assert [f"{__name__}:asked:{asked.__code__.co_firstlineno + 1}"] == [each.place for each in found]
    await engine.dispose()


async def test_an_asyncio_engine_writes_its_counts_when_a_connection_is_opened(
    observing: RideService, async_database_url: str, database_url: str
) -> None:
    engine = create_async_engine(async_database_url)
    observing.privacy.protect(engine)
    observing.guard.observations.interval = 0.0
    for _ in range(2):
        async with AsyncSession(engine) as session:
            await asked(session)
    assert [(1,)] == raw_rows(database_url, "SELECT count FROM privkit_observation")
    await engine.dispose()


def test_counts_are_written_from_time_to_time_before_the_application_begins(
    observing: RideService, database_url: str
) -> None:
    observing.guard.observations.interval = 0.0
    with Session(observing.engine) as session:
        core(session)
        assert [] == raw_rows(database_url, "SELECT * FROM privkit_observation")
    with Session(observing.engine) as session:
        core(session)
        session.rollback()
    assert [("gap", "members.name", "", 1)] == raw_rows(
        database_url, "SELECT outcome, field, purpose, count FROM privkit_observation"
    )


def test_counts_that_cannot_be_written_are_kept_and_the_application_goes_on(
    observing: RideService, database_url: str
) -> None:
    observing.guard.observations.interval = 0.0
    raw_rows(database_url, "ALTER TABLE privkit_observation RENAME TO elsewhere")
    for _ in range(3):
        with Session(observing.engine) as session:
            assert "Member 1" == core(session)
    with pytest.raises(DBAPIError):
        observing.privacy.flush_observations(observing.engine)
    raw_rows(database_url, "ALTER TABLE elsewhere RENAME TO privkit_observation")
    assert {("gap", "members.name", "", 3)} == counted(observing)


def test_while_another_holds_the_lock_the_application_does_not_wait(observing: RideService, database_url: str) -> None:
    with Session(observing.engine) as session:
        core(session)
    observing.privacy.flush_observations(observing.engine)
    observing.guard.observations.interval = 0.0
    with observing.engine.connect() as other, Session(observing.engine) as session:
        other.connection.cursor().execute("UPDATE privkit_observation SET count = count")
        core(session)
        assert observing.guard.observations.take()
        if observing.engine.dialect.name == "sqlite":
            assert 5000 == session.connection().exec_driver_sql("PRAGMA busy_timeout").scalar_one()


def test_a_connection_that_is_handed_out_twice_is_not_committed_by_the_counts(tmp_path: Path, clock: Clock) -> None:
    service = club("sqlite://", tmp_path, clock, "observe")
    service.engine.dispose()
    privacy = service.privacy
    engine = create_engine("sqlite://", poolclass=StaticPool)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    privacy.guard.observations.interval = 0.0
    with Session(engine) as session:
        session.add(member(1))
        session.flush()
        with engine.connect() as second:
            assert second.connection.driver_connection.in_transaction
        session.rollback()
    with engine.connect() as connection:
        assert 0 == connection.exec_driver_sql("SELECT count(*) FROM members").scalar_one()
    engine.dispose()


def test_two_processes_add_to_the_same_rows(
    observing: RideService, database_url: str, tmp_path: Path, clock: Clock
) -> None:
    other = club(database_url, tmp_path, clock, "observe")
    for service in (observing, other, observing):
        with Session(service.engine) as session:
            core(session)
        service.privacy.flush_observations(service.engine)
    assert [(3,)] == raw_rows(database_url, "SELECT count FROM privkit_observation")
    other.engine.dispose()


PROCESS = """
import sys
from pathlib import Path
from sqlalchemy.orm import Session
from tests.sqlalchemy.members import club
from tests.sqlalchemy.rides import Clock
from tests.sqlalchemy.test_observe import core
url, folder = sys.argv[1:]
service = club(url, Path(folder), Clock(), "observe")
with Session(service.engine) as session:
    for _ in range(20):
        core(session)
"""


def test_many_processes_write_their_counts_when_they_end(
    observing: RideService, database_url: str, tmp_path: Path
) -> None:
    arguments = [sys.executable, "-c", PROCESS, database_url, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen(arguments, env=environment, cwd=Path(__file__).parents[2]) for _ in range(3)]
    assert [0, 0, 0] == [each.wait(60) for each in running]
    assert 60 == sum(row[0] for row in raw_rows(database_url, "SELECT count FROM privkit_observation"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_does_not_write_its_parents_counts_again(observing: RideService) -> None:
    with Session(observing.engine) as session:
        core(session)
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(len(observing.guard.observations.take())).encode())
        os._exit(0)
    os.wait()
    assert b"0" == os.read(read, 10)
    assert {("gap", "members.name", "", 1)} == counted(observing)


def test_memory_is_bounded_and_no_count_is_lost(observing: RideService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observations, "LIMIT", 3)
    with Session(observing.engine) as session:
        for number in range(10):
            exec(f"def f{number}(session): core(session)", globals())  # noqa: S102
        for name in ALL:
            for line in range(5):
                observing.guard.observations.count(date(2026, 1, 1 + line), "gap", name, None)
        core(session)
    assert 16 == sum(observing.guard.observations.take().values())


def test_nothing_that_is_stored_says_what_was_read(observing: RideService, database_url: str) -> None:
    with Session(observing.engine) as session:
        searched(session), as_text(session), changed(session)
    observing.privacy.flush_observations(observing.engine)
    written = repr(raw_rows(database_url, "SELECT * FROM privkit_observation"))
    assert not any(value in written for value in ("club.example", "Member 1", "Another Name", "SELECT"))


def test_the_report_says_which_tables_observe_since_when_and_what_was_counted(
    observing: RideService, database_url: str, clock: Clock
) -> None:
    with Session(observing.engine) as session:
        session.scalars(select(Note.said)).all()
    observing.privacy.flush_observations(observing.engine)
    clock.now += timedelta(days=10)
    members, notes = [each.what for each in observing.privacy.check(observing.engine) if each.code == "PK815"]
    assert "members is in observe (nothing was counted there yet)." == members
    expected = "notes is in observe since 2026-01-01 (10 days); uses of its fields: 0 violation, 1 gap, 0 compliant."
    assert expected == notes


def test_the_report_counts_what_enforce_refused(
    observing: RideService, database_url: str, tmp_path: Path, clock: Clock
) -> None:
    enforcing = club(database_url, tmp_path, clock, "enforce")
    with Session(enforcing.engine) as session, pytest.raises(PurposeError):
        core(session)
    enforcing.privacy.flush_observations(enforcing.engine)
    needed = enforcing.privacy.report(enforcing.engine).answers[0]
    assert (
        "1 uses that no purpose allows were refused since 2026-01-01: privkit observed lists them." in needed.evidence
    )
    enforcing.engine.dispose()
    club(database_url, tmp_path, clock, "observe").engine.dispose()


def test_everything_that_observe_lets_through_is_in_the_document() -> None:
    document = (Path(__file__).parents[2] / "docs" / "adopting.md").read_text(encoding="utf-8")
    rows = [f"| {lack.value[2]} | `{lack.value[0]}` | {lack.outcome} |" for lack in Lack]
    assert [] == [row for row in rows if row not in document]

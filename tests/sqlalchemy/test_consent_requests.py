"""A guardian's link answers once, for what was asked, while it may; and its answer can be taken back at any time."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import ObjectDeletedError

from privkit import FileKeyring, LedgerFile, Privacy
from privkit.errors import InvalidValue, KeyringError, PurposeError, TokenRefused
from tests.databases import raw_rows
from tests.sqlalchemy.guardians import ASKED, CHILD, PARENT, ask, guardian_service, policy, set_born, status
from tests.sqlalchemy.restored import backup
from tests.sqlalchemy.rides import START, Base, Clock, Rider, RideService

METHOD = {"method": "signed_form"}
YES = {"account", "pickup"}


@pytest.fixture
def service(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[RideService]:
    """On both databases."""
    made = guardian_service(database_url, tmp_path, clock)
    yield made
    made.engine.dispose()


@pytest.fixture
def on_sqlite(sqlite_url: str, tmp_path: Path, clock: Clock) -> Iterator[RideService]:
    """For what is decided outside the database."""
    made = guardian_service(sqlite_url, tmp_path, clock)
    yield made
    made.engine.dispose()


def answer(service: RideService, token: str, yes: Any = YES, **options: Any) -> str:
    with Session(service.engine) as session:
        withdrawal = service.privacy.consent.answer(session, token, yes=yes, **{"disclosure": yes} | METHOD | options)
        session.commit()
    return withdrawal


def withdraw(service: RideService, token: str, **options: Any) -> tuple[str, ...]:
    with Session(service.engine) as session:
        names = service.privacy.consent.withdraw_by(session, token, **options)
        session.commit()
    return names


def refused(call: Callable[[], Any]) -> str:
    """Why a token is refused; its error shows nothing of anybody."""
    with pytest.raises(TokenRefused) as refusal:
        call()
    assert "PK203" == refusal.value.code
    assert "Augusta" not in repr(refusal.value.__reduce__())
    return str(refusal.value.data["reason"])


def words(database_url: str) -> list[Any]:
    return raw_rows(database_url, "SELECT event, purpose, method, notice FROM privkit_consent ORDER BY seq")


# Answers.


def test_an_answer_consents_to_what_it_names_and_refuses_the_rest(service: RideService, database_url: str) -> None:
    token = ask(service)
    answer(service, token, verifier="Clara Clerk")
    assert {"account": "given", "pickup": "given", "receipts": "refused"} == status(service)
    assert [
        *(("asked", name, None, "v3") for name in ASKED),
        ("refused", "receipts", None, None),
        *(("given", name, "signed_form", "v3") for name in ("account", "pickup")),
    ] == words(database_url)
    rows = raw_rows(database_url, "SELECT DISTINCT guardian FROM privkit_consent")
    assert [service.privacy.consent.token("augusta byron, g-17")] == [bytes(row[0]).hex() for row in rows]


def test_an_answer_may_refuse_everything(on_sqlite: RideService) -> None:
    answer(on_sqlite, ask(on_sqlite), yes=())
    assert dict.fromkeys(ASKED, "refused") == status(on_sqlite)


def test_a_purpose_that_discloses_needs_a_yes_of_its_own(on_sqlite: RideService) -> None:
    answer(on_sqlite, ask(on_sqlite), yes=ASKED, disclosure={"receipts"})
    assert {"account": "given", "pickup": "refused", "receipts": "given"} == status(on_sqlite)


def test_a_disclosure_alone_is_no_yes(on_sqlite: RideService) -> None:
    answer(on_sqlite, ask(on_sqlite), yes=(), disclosure=ASKED)
    assert dict.fromkeys(ASKED, "refused") == status(on_sqlite)


@pytest.mark.parametrize("wrong", [{"yes": {"navigation"}}, {"disclosure": {"navigation"}}, {"method": "email_plus"}])
def test_an_answer_that_cannot_be_recorded_leaves_the_token_as_it_was(
    on_sqlite: RideService, wrong: dict[str, Any]
) -> None:
    token = ask(on_sqlite)
    with pytest.raises(InvalidValue):
        answer(on_sqlite, token, **wrong)
    assert dict.fromkeys(ASKED, "asked") == status(on_sqlite)
    answer(on_sqlite, token)


def test_objects_that_were_loaded_forget_what_is_refused(on_sqlite: RideService) -> None:
    answer(on_sqlite, ask(on_sqlite))
    again = ask(on_sqlite)
    with on_sqlite.privacy.purpose("account"), Session(on_sqlite.engine) as session:
        child = session.get_one(Rider, CHILD)
        assert "rider1@rides.example" == child.email
        on_sqlite.privacy.consent.answer(session, again, yes=(), **METHOD)
        with pytest.raises((PurposeError, ObjectDeletedError)):
            _ = child.email


async def test_it_works_from_asyncio(service: RideService, async_database_url: str, database_url: str) -> None:
    token, consent = ask(service), service.privacy.consent
    service.engine.dispose()
    engine = create_async_engine(async_database_url)
    service.privacy.protect(engine)
    async with AsyncSession(engine) as session:
        shown = await session.run_sync(lambda sync: consent.asked(sync, token))
        assert list(ASKED) == [each.name for each in shown.purposes]
        await session.run_sync(lambda sync: consent.answer(sync, token, yes={"account"}, **METHOD))
        await session.commit()
    await engine.dispose()
    assert "given" == status(service)["account"]


# What the page shows.


def test_the_page_is_told_names_and_words_and_no_value(service: RideService, database_url: str) -> None:
    token = ask(service)
    before = raw_rows(database_url, "SELECT count(*) FROM privkit_ledger")
    with Session(service.engine) as session:
        shown = service.privacy.consent.asked(session, token)
    account, pickup, receipts = shown.purposes
    assert ("v3", "en", START + timedelta(days=7)) == (shown.notice, shown.locale, shown.expires)
    assert "Run the rider's account" == account.description
    assert ("user.contact.email", "user.name") == account.categories
    assert ("user.location.precise",) == pickup.categories
    assert ([], ["maps_inc"], ["mail_gmbh"]) == tuple(
        [each.name for each in purpose.recipients] for purpose in shown.purposes
    )
    assert [False, True, True] == [each.discloses for each in shown.purposes]
    assert ("30 days after account closed", "2 years after account closed") == (account.period, receipts.period)
    assert "rider1" not in repr(shown)
    assert before == raw_rows(database_url, "SELECT count(*) FROM privkit_ledger")
    answer(service, token)


def test_the_page_of_a_withdrawal_says_what_was_said(on_sqlite: RideService) -> None:
    withdrawal = answer(on_sqlite, ask(on_sqlite))
    with Session(on_sqlite.engine) as session:
        shown = on_sqlite.privacy.consent.asked(session, withdrawal)
    assert ["given", "given", "refused"] == [each.said for each in shown.purposes]
    assert shown.expires is None


# Tokens that are refused.


def test_a_token_answers_once(service: RideService, database_url: str) -> None:
    token = ask(service)
    answer(service, token)
    before = words(database_url)
    assert "used" == refused(lambda: answer(service, token, yes=ASKED))
    assert "used" == refused(lambda: shown(service, token))
    assert before == words(database_url)


def shown(service: RideService, token: str) -> Any:
    with Session(service.engine) as session:
        return service.privacy.consent.asked(session, token)


def test_an_answer_that_is_rolled_back_was_none(service: RideService) -> None:
    token = ask(service)
    with Session(service.engine) as session:
        service.privacy.consent.answer(session, token, yes=ASKED, disclosure=ASKED, **METHOD)
        session.rollback()
    answer(service, token, yes={"account"})
    assert {"account": "given", "pickup": "refused", "receipts": "refused"} == status(service)


@pytest.mark.parametrize("commits", [True, False])
def test_of_two_answers_at_once_one_counts(service: RideService, database_url: str, commits: bool) -> None:
    token = ask(service)
    with ThreadPoolExecutor(1) as pool:
        with Session(service.engine) as session:
            service.privacy.consent.answer(session, token, yes={"account"}, **METHOD)
            second = pool.submit(answer, service, token, ASKED)
            assert not wait([second], timeout=0.3).done
            if commits:
                session.commit()
        if commits:
            assert "used" == refused(second.result)
        else:
            second.result()
    given = [name for event, name, *_ in words(database_url) if event == "given"]
    assert (["account"] if commits else list(ASKED)) == given


def test_a_crowd_of_browsers_gets_one_answer_in(service: RideService, database_url: str) -> None:
    token = ask(service)

    def press(number: int) -> str:
        try:
            return answer(service, token, {ASKED[number % 3]}, disclosure={ASKED[number % 3]})
        except TokenRefused as refusal:
            return str(refusal.data["reason"])

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(press, range(8)))
    assert 7 == found.count("used")
    assert ["given", "refused", "refused"] == sorted(event for event, *_ in words(database_url) if event != "asked")


def test_a_token_expires_at_its_instant(on_sqlite: RideService, clock: Clock) -> None:
    token, other = ask(on_sqlite, valid=timedelta(hours=1)), ask(on_sqlite, valid=timedelta(hours=1))
    clock.now = START + timedelta(hours=1, microseconds=-1)
    answer(on_sqlite, token)
    clock.now = START + timedelta(hours=1)
    assert "expired" == refused(lambda: answer(on_sqlite, other))
    assert "used" == refused(lambda: answer(on_sqlite, token))


@pytest.mark.parametrize("valid", [timedelta(0), timedelta(days=-1), timedelta(days=367)])
def test_a_token_is_valid_for_a_time_that_can_be(on_sqlite: RideService, sqlite_url: str, valid: timedelta) -> None:
    with pytest.raises(InvalidValue):
        ask(on_sqlite, valid=valid)
    assert [] == words(sqlite_url)


def test_a_token_outlives_a_restart(service: RideService, database_url: str, tmp_path: Path, clock: Clock) -> None:
    token = ask(service)
    service.engine.dispose()
    again = guardian_service(database_url, tmp_path, clock)
    withdrawal = answer(again, token)
    again.engine.dispose()
    once_more = guardian_service(database_url, tmp_path, clock)
    assert ("account", "pickup") == withdraw(once_more, withdrawal)
    once_more.engine.dispose()


def test_a_token_of_another_keyring_is_refused(on_sqlite: RideService, tmp_path: Path, clock: Clock) -> None:
    token = ask(on_sqlite)
    other = Privacy(policy(), Base, FileKeyring.create(tmp_path / "other.json"), clock)
    with on_sqlite.engine.connect() as connection, pytest.raises((TokenRefused, KeyringError)) as refusal:
        other.consent.answer(Session(connection), token, yes=ASKED, disclosure=ASKED, **METHOD)
    assert "unknown" == refusal.value.data.get("reason", "unknown")
    answer(on_sqlite, token)


@pytest.mark.parametrize("column", ["subject", "guardian", "purposes", "notice", "locale"])
def test_a_token_is_bound_to_what_was_asked(on_sqlite: RideService, sqlite_url: str, column: str) -> None:
    token, other = ask(on_sqlite, "account", "receipts"), ask(on_sqlite, "pickup", guardian="g-18", notice="v4")
    values = {"purposes": """'["account", "navigation"]'""", "locale": "'de'", "notice": "'v4'"}
    other_key = "(SELECT privkit_key FROM riders WHERE id = 2)"
    values |= {"subject": other_key, "guardian": "(SELECT max(guardian) FROM privkit_consent WHERE purpose = 'pickup')"}
    raw_rows(sqlite_url, f"UPDATE privkit_consent_request SET {column} = {values[column]} WHERE notice = 'v3'")
    assert "unknown" == refused(lambda: answer(on_sqlite, token, yes={"account"}))
    assert "unknown" == refused(lambda: shown(on_sqlite, token))
    answer(on_sqlite, other, yes={"pickup"})


def test_a_token_for_a_data_subject_who_was_erased_is_refused(service: RideService) -> None:
    token, withdrawal = ask(service), answer(service, ask(service))
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        child = session.get_one(Rider, CHILD)
        session.rollback()
        service.privacy.erase(service.engine, child, by="the parent")
    for each in (lambda: answer(service, token), lambda: shown(service, token), lambda: withdraw(service, withdrawal)):
        assert "gone" == refused(each)


def test_a_token_for_a_data_subject_who_came_of_age_is_refused(service: RideService, clock: Clock) -> None:
    set_born(service, date(2013, 1, 5))
    token, withdrawal = ask(service), answer(service, ask(service))
    clock.now = START.replace(day=5, hour=11, minute=59)
    assert shown(service, token)
    clock.now = START.replace(day=5)
    for each in (lambda: answer(service, token), lambda: shown(service, token), lambda: withdraw(service, withdrawal)):
        assert "of_age" == refused(each)


def test_d15_a_page_of_a_text_that_is_no_longer_in_force_is_asked_anew(on_sqlite: RideService, clock: Clock) -> None:
    clock.now = START.replace(day=31)
    early, late, newer = ask(on_sqlite), ask(on_sqlite), ask(on_sqlite, notice="v4")
    answer(on_sqlite, early)
    clock.now = START.replace(month=2, day=1, hour=0)
    assert "superseded" == refused(lambda: shown(on_sqlite, late))
    assert "superseded" == refused(lambda: answer(on_sqlite, late))
    answer(on_sqlite, newer)


def test_a_guardian_who_is_one_no_more_has_nothing_to_answer(service: RideService, database_url: str) -> None:
    token, other = ask(service), ask(service, guardian="g-18")
    with Session(service.engine) as session:
        assert 0 == service.privacy.consent.lapse(session, guardian="Augusta Byron, g-17")
        session.commit()
    assert "used" == refused(lambda: answer(service, token))
    answer(service, other)
    lines = raw_rows(database_url, "SELECT kind FROM privkit_ledger WHERE kind LIKE 'consent_%' ORDER BY seq")
    assert [("consent_asked",), ("consent_asked",), ("consent_lapsed",)] == lines[:3]


def test_d09_a_guardian_who_is_erased_has_nothing_to_answer(service: RideService) -> None:
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        parent = session.get_one(Rider, PARENT)
        token = ask(service, guardian=parent)
        session.rollback()
        service.privacy.erase(service.engine, parent, by="the parent")
    assert "used" == refused(lambda: answer(service, token))


def test_an_answer_that_is_on_its_way_lapses_with_its_guardian(service: RideService) -> None:
    token = ask(service)
    with ThreadPoolExecutor(1) as pool, Session(service.engine) as session:
        service.privacy.consent.answer(session, token, yes={"account"}, **METHOD)
        lapsing = pool.submit(lapse, service)
        assert not wait([lapsing], timeout=0.3).done
        session.commit()
        assert 1 == lapsing.result()
    assert "lapsed" == status(service)["account"]


def lapse(service: RideService) -> int:
    with Session(service.engine) as session:
        count = service.privacy.consent.lapse(session, guardian="Augusta Byron, g-17")
        session.commit()
    return count


# Withdrawing.


def test_a_withdrawal_takes_away_any_number_of_times_and_gives_nothing(service: RideService, database_url: str) -> None:
    withdrawal = answer(service, ask(service))
    assert ("pickup",) == withdraw(service, withdrawal, purposes={"pickup"})
    assert {"account": "given", "pickup": "withdrawn", "receipts": "refused"} == status(service)
    assert ("account",) == withdraw(service, withdrawal)
    before = words(database_url)
    assert () == withdraw(service, withdrawal)
    assert before == words(database_url)
    answer(service, ask(service), yes=ASKED)
    assert ASKED == withdraw(service, withdrawal)
    with pytest.raises(InvalidValue):
        withdraw(service, withdrawal, purposes={"navigation"})


def test_a_withdrawal_never_expires(on_sqlite: RideService, clock: Clock) -> None:
    withdrawal = answer(on_sqlite, ask(on_sqlite))
    clock.now += timedelta(days=700)
    assert ("account", "pickup") == withdraw(on_sqlite, withdrawal)


def test_neither_token_does_what_the_other_is_for(on_sqlite: RideService) -> None:
    token, other = ask(on_sqlite), ask(on_sqlite)
    assert "unknown" == refused(lambda: withdraw(on_sqlite, token))
    withdrawal = answer(on_sqlite, token)
    assert "unknown" == refused(lambda: answer(on_sqlite, withdrawal))
    assert "unknown" == refused(lambda: withdraw(on_sqlite, token))
    answer(on_sqlite, other, yes=())


def test_the_link_in_the_old_message_leads_to_the_withdrawal_once_it_was_answered(on_sqlite: RideService) -> None:
    token = ask(on_sqlite)

    def leads_to() -> str:
        with Session(on_sqlite.engine) as session:
            return on_sqlite.privacy.consent.withdrawal(session, token)

    assert "unknown" == refused(leads_to)
    assert answer(on_sqlite, token) == leads_to()


def test_a_withdrawal_touches_this_guardian_alone(on_sqlite: RideService, clock: Clock) -> None:
    withdrawal = answer(on_sqlite, ask(on_sqlite, "account"), yes={"account"})
    answer(on_sqlite, ask(on_sqlite, "account", guardian="g-18"), yes={"account"})
    withdraw(on_sqlite, withdrawal)
    assert {"account": "withdrawn"} == status(on_sqlite)
    clock.now += timedelta(microseconds=1)
    answer(on_sqlite, ask(on_sqlite, "account"), yes={"account"})
    assert {"account": "given"} == status(on_sqlite)


# What is stored, and what a restore brings back.


def test_no_token_and_no_name_is_stored_or_logged(
    service: RideService, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "privkit")
    token = ask(service)
    withdrawal = answer(service, token, verifier="Clara Clerk")
    withdraw(service, withdrawal)
    refused(lambda: answer(service, token))
    tables = ("privkit_consent_request", "privkit_consent", "privkit_ledger")
    found = str([raw_rows(database_url, f"SELECT * FROM {name}") for name in tables]) + caplog.text
    assert [] == [each for each in (token, withdrawal, token[30:], "Augusta", "Byron", "Clerk") if each in found]


def test_a_key_that_was_renewed_leaves_the_withdrawal_and_the_request_is_asked_anew(service: RideService) -> None:
    token, withdrawal = ask(service), answer(service, ask(service))
    with service.engine.connect() as connection:
        key = connection.scalar(select(Rider.__table__.c.privkit_key).where(Rider.__table__.c.id == CHILD))
    service.privacy.reseal(service.engine, subject=bytes(key))
    assert "unknown" == refused(lambda: answer(service, token))
    assert ("account", "pickup") == withdraw(service, withdrawal)


@pytest.mark.parametrize("outside", [True, False])
def test_a_restore_brings_no_answered_token_back_where_the_ledger_has_a_copy(
    database_url: str, tmp_path: Path, clock: Clock, outside: bool
) -> None:
    copy = LedgerFile(tmp_path / "ledger.jsonl") if outside else None
    service = guardian_service(database_url, tmp_path, clock, copy)
    token, called_back = ask(service), ask(service, "account", guardian="g-18")
    service.engine.dispose()
    with backup(database_url) as restore:
        answer(service, token)
        with Session(service.engine) as session:
            service.privacy.consent.lapse(session, guardian="g-18")
            session.commit()
        later = ask(service)
        service.engine.dispose()
        restore()
    again = guardian_service(database_url, tmp_path, clock, copy)
    assert "unknown" == refused(lambda: answer(again, later))  # its request is not in the backup
    if outside:
        assert "used" == refused(lambda: answer(again, token))
        assert "used" == refused(lambda: answer(again, called_back))
        assert {"account": "asked", "pickup": "asked", "receipts": "refused"} == status(again)
    else:  # nothing is left of what was said since: the link can be answered until it expires
        answer(again, token)
    again.engine.dispose()

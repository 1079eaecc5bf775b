"""The ledger of consent: what is recorded, what it amounts to in SQL and outside it, and what leaves the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import create_engine, func, insert, literal, select
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import ObjectDeletedError

from privkit import FileKeyring, GeoPoint, Privacy
from privkit.consent.state import ENDED, EVENTS, GIVEN, IN_PERSON, NO, ConsentEvent, state
from privkit.consent.state import standing as standing_consents
from privkit.errors import ConsentRequired, InvalidValue, PurposeError
from privkit.periods import Period
from privkit.policy import ConsentTerms, Notice, Policy, load
from privkit.sqlalchemy import consent_rows, standing
from privkit.sqlalchemy.tables import CONSENT
from tests.databases import raw_rows
from tests.sqlalchemy.rides import POLICY, SIGN_UP, START, Base, Clock, Rider, RideService, Trip, rider

CHILD, ADULT, PARENT = 1, 2, 3
DIGESTS = {"en": "ab" * 32, "de": "cd" * 32}


def versions(policy: Policy) -> Policy:
    """The policy of the rides, with three versions of a notice, of which the second is material from 1 February on."""
    named = [Notice("v3", {"en": "ef" * 32}, False, None, ("pickup",), "here")]
    named += [Notice("v4", DIGESTS, True, date(2026, 2, 1), ("pickup",), "here")]
    named += [Notice("v4.1", DIGESTS, False, None, ("pickup",), "here")]
    purposes = dict(policy.purposes)
    purposes["account"] = replace(purposes["account"], consent_valid=Period.parse("P1Y"))
    return replace(policy, notices={each.name: each for each in named}, purposes=purposes)


@pytest.fixture
def service(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[RideService]:
    """A child of ten and two adults, one of them a parent."""
    keys = FileKeyring.create(tmp_path / "keys.json")
    privacy, engine = Privacy(versions(load(POLICY)), Base, keys, clock), create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    made = RideService(privacy, engine, clock)
    made.sign_up(rider(CHILD), rider(ADULT), rider(PARENT))
    with privacy.purpose("age_check"), Session(engine) as session:
        session.get_one(Rider, CHILD).born = date(2015, 5, 5)
        session.commit()
    yield made
    engine.dispose()


def say(service: RideService, word: str, *names: str, session: Session | None = None, **said: Any) -> None:
    """Have a word recorded on the child."""
    given: dict[str, Any] = {"guardian": "mother"}
    if word == "grant":
        given |= {"method": "signed_form"} | ({"notice": "v4", "locale": "en"} if "pickup" in names else {})
    with Session(service.engine) as own:
        use = session or own
        with service.privacy.purpose("age_check"):
            child = use.get_one(Rider, CHILD)
        getattr(service.privacy.consent, word)(use, subject=child, purposes=set(names), **given | said)
        own.commit()


def ask(service: RideService, method: str, **asked: Any) -> Any:
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        return getattr(service.privacy.consent, method)(session, subject=session.get_one(Rider, CHILD), **asked)


def sees_child(service: RideService, *names: str) -> bool:
    with service.privacy.purpose(*names), Session(service.engine) as session:
        return CHILD in set(session.scalars(select(Rider.id)))


# SQL and the pure function.


def test_sql_is_the_same_function(service: RideService) -> None:
    """Some 250 ledgers of up to seven words by two guardians and in person, under all terms, at three instants."""
    chance, known = Random(7), {}
    every = [START + timedelta(hours=hour) for hour in range(6)]
    consent = service.guard.own_table(CONSENT)
    rows = []
    for number in range(250):
        subject = number.to_bytes(16, "big")
        known[subject] = []
        for _ in range(chance.randrange(1, 8)):
            kind = chance.choice([*EVENTS, GIVEN, GIVEN])
            guardian = chance.choice([b"a", b"b", IN_PERSON, *([None] if kind != GIVEN else [])])
            said = {
                "event": kind,
                "guardian": guardian,
                "at": chance.choice(every),
                "claimed_at": chance.choice([None, None, *every]),
                "expires": chance.choice([None, None, *every]) if kind == GIVEN else None,
                "method": chance.choice(["signed_form", "email_plus"]) if kind == GIVEN else None,
                "notice": chance.choice([None, "v3", "v4", "v5"]) if kind == GIVEN else None,
            }
            rows.append(said | {"subject": subject, "purpose": "pickup"})
            seq = len(rows)
            told = said | {"guardian": guardian and guardian.hex()}
            known[subject].append(ConsentEvent(seq, subject.hex(), "pickup", **told))
    many = [
        ConsentTerms(),
        ConsentTerms(valid=Period.parse("PT3H")),
        ConsentTerms(methods=("signed_form",)),
        ConsentTerms(renewals=((date(2026, 1, 1), ("v4", "v5")), (date(2026, 1, 2), ("v5",)))),
    ]
    with service.engine.begin() as connection:
        connection.execute(insert(consent), rows)
    either: set[bool] = set()
    with service.engine.connect() as connection:
        for terms in many:
            for now in (every[2], every[4], START + timedelta(days=1)):
                for own in (False, True):
                    at = consent.alias("at")
                    counts = standing.given(consent, at.c.subject, "pickup", terms, lambda: now, in_person=own)  # noqa: B023
                    told = connection.execute(select(at.c.subject, counts).distinct())
                    found = {bytes(key): bool(on) for key, on in told}
                    expected = {key: state(words, now, terms, in_person=own) for key, words in known.items()}
                    assert {key: each == GIVEN for key, each in expected.items()} == found
                    either |= set(found.values())
        at = consent.alias("at")
        ended = select(at.c.subject, standing.withdrawn_at(consent, at.c.subject, "pickup").is_not(None)).distinct()
        assert {True, False} == either
        assert {key: _over(words) for key, words in known.items()} == {
            bytes(key): bool(no) for key, no in connection.execute(ended)
        }


def _over(words: list[ConsentEvent]) -> bool:
    """Whether somebody's no stands, or a consent has ended and none is left; unless the data subject consents since."""
    own = max((each.seq for each in words if each.event == GIVEN and each.in_person), default=0)
    said_no = [each for each in words if each.event in NO and each.seq > own]
    stands = any(state([each, *words[each.seq - words[0].seq + 1 :]], START, ConsentTerms()) in NO for each in said_no)
    ended = any(each.event in ENDED and each.seq > own for each in words)
    return stands or (ended and not standing_consents(words, START, ConsentTerms()))


# What is recorded.


def test_an_event_says_who_how_when_and_on_what_text_and_holds_no_name(
    service: RideService, database_url: str, clock: Clock
) -> None:
    late, until = START - timedelta(days=2), START + timedelta(days=30)
    say(service, "ask", "pickup", notice="v4", locale="de")
    say(service, "grant", "pickup", locale="de", verifier="Clara Clerk", claimed_at=late, until=until)
    say(service, "refuse", "account", guardian="father")
    asked, given, refused = ask(service, "history")
    assert ("asked", "given", "refused") == (asked.event, given.event, refused.event)
    assert ("v4", "de", DIGESTS["de"], True) == (given.notice, given.locale, given.notice_sha256, given.material)
    assert (START, late, until) == (given.at, given.claimed_at, given.expires)
    assert service.privacy.consent.token("Mother ") == given.guardian == asked.guardian
    assert given.verifier not in (None, given.guardian, service.privacy.consent.token("Clara Clerk"))
    assert {"pickup": "given", "account": "refused"} == ask(service, "status")
    found = [raw_rows(database_url, f"SELECT * FROM {name}") for name in ("privkit_consent", "privkit_ledger")]
    assert [] == [planted for planted in ("other", "ather", "Clara", "Clerk") if planted in str(found)]


def test_d16_no_row_of_the_ledger_is_ever_changed(service: RideService, database_url: str) -> None:
    before: list[Any] = []
    for word in ("grant", "withdraw", "ask", "grant", "refuse"):
        say(service, word, "account")
        rows = raw_rows(database_url, "SELECT * FROM privkit_consent ORDER BY seq")
        assert before == rows[: len(before)]
        assert len(before) + 1 == len(rows)
        before = rows


@pytest.mark.parametrize(
    "said",
    [
        {"notice": "v2"},
        {"notice": None},
        {"notice": "v4", "locale": None},
        {"notice": "v4", "locale": "fr"},
        {"claimed_at": START + timedelta(seconds=1)},
        {"verifier": " "},
        {"method": "email_plus"},
    ],
)
def test_a_consent_that_proves_nothing_is_refused(service: RideService, said: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue):
        say(service, "grant", "pickup", **said)
    assert [] == ask(service, "history")


def test_where_no_notice_is_listed_it_is_a_name_and_no_text(service: RideService) -> None:
    say(service, "grant", "account", notice="2026-01", locale="en-GB")
    for wrong in ({"notice": "Ada Byron, 1 High Street"}, {"locale": "what she said"}):
        with pytest.raises(InvalidValue) as refusal:
            say(service, "grant", "account", **wrong)
        assert "Byron" not in str(refusal.value)


# What counts.


def test_two_guardians_who_disagree_hide_the_child_and_a_late_consent_does_not_help(
    service: RideService, clock: Clock
) -> None:
    say(service, "grant", "account")
    assert sees_child(service, "account")
    clock.now += timedelta(days=2)
    say(service, "refuse", "account", guardian="father")
    assert not sees_child(service, "account")
    clock.now += timedelta(days=1)
    say(service, "grant", "account")
    say(service, "grant", "account", guardian="father", claimed_at=START)
    assert not sees_child(service, "account")
    say(service, "grant", "account", guardian="father")
    assert sees_child(service, "account")


def test_consent_that_expired_is_none_in_sql_and_in_status(service: RideService, clock: Clock) -> None:
    say(service, "grant", "account")
    clock.now = START + timedelta(days=365, microseconds=-1)
    assert sees_child(service, "account")
    clock.now = START + timedelta(days=365)
    assert not sees_child(service, "account")
    assert {"account": "expired"} == ask(service, "status")
    assert {"account": "given"} == ask(service, "status", at=START)


def test_what_time_has_ended_is_noted_once_and_given_anew_it_counts(service: RideService, clock: Clock) -> None:
    say(service, "grant", "account", "pickup", notice="v3", locale="en")
    for moment, expected in [(START, 0), (START + timedelta(days=365), 2), (START + timedelta(days=366), 0)]:
        clock.now = moment
        with Session(service.engine) as session:
            assert expected == service.privacy.consent.note_ended(session)
            session.commit()
    assert ["given", "given", "expired", "superseded"] == [each.event for each in ask(service, "history")]
    assert {"account": "expired", "pickup": "superseded"} == ask(service, "status")
    say(service, "grant", "account", "pickup")
    assert {"account": "given", "pickup": "given"} == ask(service, "status")
    assert sees_child(service, "account", "pickup")


def test_d15_a_consent_is_stored_against_the_notice_that_was_shown(service: RideService, clock: Clock) -> None:
    """The form showed v3; v4, a material change, is published; then the form is sent."""
    clock.now = START + timedelta(days=30)
    say(service, "grant", "pickup", notice="v3")
    assert sees_child(service, "pickup")
    clock.now = START + timedelta(days=31)
    say(service, "grant", "pickup", notice="v3")
    assert ["v3", "v3"] == [each.notice for each in ask(service, "history")]
    assert ("superseded", False) == (ask(service, "status")["pickup"], sees_child(service, "pickup"))
    say(service, "grant", "pickup", notice="v4.1", locale="en")
    assert ("given", True) == (ask(service, "status")["pickup"], sees_child(service, "pickup"))


def test_a_consent_by_a_weak_method_allows_no_disclosure(service: RideService) -> None:
    say(service, "grant", "account", method="email_plus")
    assert ask(service, "allows", purpose="account")
    assert not ask(service, "allows", purpose="account", disclosure=True)
    with pytest.raises(InvalidValue, match="does not verify a guardian well enough"):
        say(service, "grant", "account", method="email_plus", disclosure={"account"})
    say(service, "grant", "account", disclosure={"account"})
    assert ask(service, "allows", purpose="account", disclosure=True)
    assert not ask(service, "allows", purpose="pickup")
    assert ask(service, "allows", purpose="age_check", disclosure=True)


def test_a_yes_to_use_is_none_to_giving_data_to_others(service: RideService) -> None:
    say(service, "grant", "account")
    assert ask(service, "allows", purpose="account")
    assert not ask(service, "allows", purpose="account", disclosure=True)
    say(service, "grant", "account", disclosure="account")
    assert ask(service, "allows", purpose="account", disclosure=True)
    say(service, "grant", "account")  # the newest word counts, and this one is to its use alone
    assert not ask(service, "allows", purpose="account", disclosure=True)
    with pytest.raises(InvalidValue, match="not consented to itself"):
        say(service, "grant", "account", disclosure={"pickup"})
    records = ask(service, "receipt")
    assert [False, True, False] == [event["disclosure"] for event in records[0]["events"]]


def test_d12_the_decision_is_taken_from_the_ledger_at_use(service: RideService) -> None:
    say(service, "grant", "account")
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        child = session.get_one(Rider, CHILD)
        assert service.privacy.consent.allows(session, subject=child, purpose="account")
        session.rollback()
        say(service, "withdraw", "account")
        assert not service.privacy.consent.allows(session, subject=child, purpose="account")


def test_d13_a_purpose_that_is_dropped_is_denied_at_once_in_both_sessions(service: RideService) -> None:
    say(service, "grant", "account", "navigation")
    with service.privacy.purpose("account"), Session(service.engine, expire_on_commit=False) as session:
        child = session.get_one(Rider, CHILD)
        assert "rider1@rides.example" == child.email
        say(service, "withdraw", "account", session=session)
        with pytest.raises((PurposeError, ObjectDeletedError)):
            _ = child.email
        session.commit()
        assert [] == list(session.scalars(select(Rider.email).where(Rider.id == CHILD)))
    assert not sees_child(service, "account")
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        assert CHILD in set(session.scalars(select(Trip.rider_id)))


# Guardians who are so no more.


def test_d09_a_guardian_who_is_erased_leaves_no_child_in_use(service: RideService) -> None:
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        parent, child = session.get_one(Rider, PARENT), session.get_one(Rider, CHILD)
        service.privacy.consent.grant(
            session, subject=child, purposes={"account"}, guardian=parent, method="signed_form"
        )
        session.commit()
        assert sees_child(service, "account")
        session.rollback()
        service.privacy.erase(service.engine, parent, by="the parent")
    assert not sees_child(service, "account")
    assert {"account": "lapsed"} == ask(service, "status")


def test_d10_the_history_outlives_the_link_to_the_guardian_and_the_child(service: RideService, clock: Clock) -> None:
    say(service, "grant", "pickup")
    key = bytes.fromhex(ask(service, "history")[0].subject)
    clock.now += timedelta(days=1)
    with Session(service.engine) as session:
        assert 1 == service.privacy.consent.lapse(session, guardian="mother")
        assert 0 == service.privacy.consent.lapse(session, guardian="mother")
        session.commit()
    assert not sees_child(service, "pickup")
    assert {"pickup": "given"} == ask(service, "status", at=START)
    service.privacy.erase(service.engine, key, by="the parent")
    with Session(service.engine) as session:
        given, lapsed = service.privacy.consent.history(session, subject=key, purpose="pickup")
    assert service.privacy.consent.token("mother") == given.guardian == lapsed.guardian
    assert ("v4", DIGESTS["en"], START) == (given.notice, given.notice_sha256, given.at)


def test_one_guardian_of_two_may_go(service: RideService) -> None:
    say(service, "grant", "account")
    say(service, "refuse", "account", guardian="father")
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        service.privacy.consent.lapse(session, guardian="father", subject=session.get_one(Rider, CHILD))
        session.commit()
    assert sees_child(service, "account")


# Writes.


def stored(service: RideService, database_url: str) -> tuple[int, int]:
    ((riders,),), ((trips,),) = (raw_rows(database_url, f"SELECT count(*) FROM {name}") for name in ("riders", "trips"))
    return riders, trips


def test_a_flush_with_a_child_s_row_stores_nothing_in_any_table(service: RideService, database_url: str) -> None:
    before = stored(service, database_url)
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        session.add_all(
            [rider(9), Trip(rider_id=ADULT, start=GeoPoint(1, 1)), Trip(rider_id=CHILD, start=GeoPoint(1, 1))]
        )
        with pytest.raises(ConsentRequired):
            session.execute(select(func.count()).select_from(Rider))  # autoflush
        session.rollback()
        session.commit()
    assert before == stored(service, database_url)


def test_a_savepoint_with_a_child_s_row_stores_nothing_of_its_own(service: RideService, database_url: str) -> None:
    riders, trips = stored(service, database_url)
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        session.add(rider(9, trips=[]))
        session.flush()
        with pytest.raises(ConsentRequired), session.begin_nested():
            session.add_all([Trip(rider_id=ADULT, start=GeoPoint(1, 1)), Trip(rider_id=CHILD, start=GeoPoint(1, 1))])
        session.commit()
    assert (riders + 1, trips) == stored(service, database_url)


def test_one_child_among_a_thousand_rows_is_enough(service: RideService, database_url: str) -> None:
    before = stored(service, database_url)
    rows = [{"rider_id": CHILD if number == 700 else ADULT, "start": GeoPoint(1, 1)} for number in range(1000)]
    with service.privacy.purpose("navigation"), pytest.raises(ConsentRequired), service.engine.begin() as connection:
        connection.execute(insert(Trip), rows)
    assert before == stored(service, database_url)


def test_d21_a_job_that_loaded_before_the_withdrawal_is_refused_at_the_write(
    service: RideService, database_url: str
) -> None:
    say(service, "grant", "navigation")
    stored = raw_rows(database_url, "SELECT start FROM trips ORDER BY id")
    with service.privacy.purpose("navigation"), Session(service.engine, expire_on_commit=False) as session:
        trip = session.scalars(select(Trip).where(Trip.rider_id == CHILD)).one()
        session.commit()
        say(service, "withdraw", "navigation")
        trip.start = GeoPoint(2, 2)
        with pytest.raises(ConsentRequired):
            session.commit()
    assert stored == raw_rows(database_url, "SELECT start FROM trips ORDER BY id")


# Records and receipts.


def test_an_export_gives_an_empty_database_the_same_states(service: RideService, clock: Clock) -> None:
    say(service, "grant", "account", "pickup", verifier="clerk", claimed_at=START - timedelta(days=1))
    clock.now += timedelta(hours=1)
    say(service, "refuse", "account", guardian="father")
    before, states = ask(service, "history"), ask(service, "status")
    with Session(service.engine) as session:
        exported = json.loads(json.dumps(service.privacy.consent.export(session)))
        with pytest.raises(InvalidValue, match="already"):
            service.privacy.consent.import_(session, exported)
        session.rollback()
        session.execute(service.guard.own_table(CONSENT).delete())
        session.commit()
        assert {} == ask(service, "status")
        assert 3 == service.privacy.consent.import_(session, exported)
        session.commit()
    assert states == ask(service, "status") == {"account": "refused", "pickup": "given"}
    unnumbered = [
        sorted((replace(each, seq=0) for each in found), key=repr) for found in (before, ask(service, "history"))
    ]
    assert unnumbered[0] == unnumbered[1]


def test_a_receipt_has_the_standard_s_field_names_and_a_pseudonym(service: RideService) -> None:
    say(service, "grant", "pickup")
    (receipt,) = ask(service, "receipt", purpose="pickup")
    key = bytes.fromhex(ask(service, "history")[0].subject)
    expected = ("v4", "en", "pickup", "contract", key.hex(), "privacy@rides.example")
    names = ("privacy_notice", "language", "purpose", "lawful_basis", "pii_principal_id", "withdrawal_method")
    assert expected == tuple(receipt[name] for name in names)
    assert [{"party_id": "maps_inc", "party_role": "recipient"}] == receipt["recipient_third_parties"]
    (event,) = receipt["events"]
    assert ("given", START.isoformat(), "signed_form") == tuple(
        event[name] for name in ("event_state", "event_time", "verification_method")
    )
    assert "mother" not in json.dumps(receipt)


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.update(schema_version="other"),
        lambda record: record.update(pii_principal_id="planted"),
        lambda record: record["events"][0].update(event_state="planted"),
        lambda record: record["events"][0].update(event_time="2026-01-01T00:00:00"),
        lambda record: record["events"][0].update(event_time=None),
        lambda record: record["events"][0].update(entity_id=None),
        lambda record: record["events"][0].update(entity_id="planted"),
        lambda record: record["events"][0].update(image="planted"),
        lambda record: record["events"][0].update(privacy_notice="planted " * 20),
        lambda record: record.update(events="planted"),
    ],
)
def test_what_is_no_export_is_not_imported_and_not_shown(service: RideService, change: Any) -> None:
    say(service, "grant", "account")
    with Session(service.engine) as session:
        exported = service.privacy.consent.export(session)
        session.execute(service.guard.own_table(CONSENT).delete())
        change(exported[0])
        with pytest.raises(InvalidValue) as refusal:
            service.privacy.consent.import_(session, exported)
        assert "planted" not in f"{refusal.value} {refusal.value.data}"
        assert [] == consent_rows.events(session.connection(), service.guard)
        assert 1 == session.scalar(select(literal(1)))

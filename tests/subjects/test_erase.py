"""Erasing a data subject leaves nothing that opens, keeps what a duty keeps, and never does it by halves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from privkit import purposes
from privkit.errors import InvalidValue, LedgerError, MappingError, PlanError, ShreddedError
from tests.databases import raw_rows
from tests.sqlalchemy.rides import UNTIL, Clock
from tests.subjects.clinic import START, Clinic, Inpatient, Patient, Visit, clinic, patient

BY = "Ada Lovelace, by e-mail"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def place(database_url: str, tmp_path: Path, clock: Clock) -> Iterator[Clinic]:
    found = clinic(database_url, tmp_path, clock)
    yield found
    found.engine.dispose()


def count(url: str, table: str) -> int:
    return int(raw_rows(url, f"SELECT count(*) FROM {table}")[0][0])


def lines(url: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (kind, json.loads(body)) for kind, body in raw_rows(url, "SELECT kind, body FROM privkit_ledger ORDER BY seq")
    ]


def test_the_key_goes_first_and_then_the_rows(place: Clinic, database_url: str) -> None:
    place.admit(patient(1), patient(2))
    key = place.key_of(1)
    done = place.privacy.erase(place.engine, key, by=BY)
    assert (key.hex(), 3, {}) == (done.subject, done.rows, done.kept)
    assert [(2,)] == raw_rows(database_url, "SELECT id FROM patients")
    assert 2 == count(database_url, "visits")
    assert place.email(2) is not None
    (_, first), (last, body) = lines(database_url)[1:]
    assert {"keys": [key.hex()]} == first
    assert ("erased", key.hex(), 3, []) == (last, body["subject"], body["rows"], body["kept"])


def test_both_instants_are_told(place: Clinic) -> None:
    """Other processes may hold the key until the first; copies of the database open until the keys are rolled."""
    place.admit(patient(1))
    done = place.privacy.erase(place.engine, place.key_of(1), by=BY)
    assert START + timedelta(minutes=5) == done.unreadable_by
    assert done.final_by is None
    assert "final everywhere with privkit keys roll" in str(done.finality)


def test_a_mapped_object_is_as_good_as_its_key(place: Clinic, database_url: str) -> None:
    place.admit(patient(1), patient(2))
    with place.privacy.purpose("care"), Session(place.engine) as session:
        loaded = session.get_one(Patient, 1)
    place.privacy.erase(place.engine, loaded, by=BY)
    assert [(2,)] == raw_rows(database_url, "SELECT id FROM patients")


def test_a_row_in_two_tables_goes_from_both(place: Clinic, database_url: str) -> None:
    place.admit(
        Inpatient(id=5, email="planted@clinic.example", name="Planted", bed="7", visits=[Visit(notes="planted")])
    )
    done = place.privacy.erase(place.engine, place.key_of(5), by=BY)
    assert 3 == done.rows
    assert [0, 0, 0] == [count(database_url, table) for table in ("patients", "inpatients", "visits")]


def test_what_cannot_be_deleted_is_emptied_with_its_residues_and_hashes(place: Clinic, database_url: str) -> None:
    place.admit(patient(1, letters=1), patient(2, letters=1))
    place.privacy.erase(place.engine, place.key_of(1), by=BY)
    rows = raw_rows(
        database_url,
        "SELECT length(email), email_ix, name, name_residue, alias, alias_residue, bill FROM patients ORDER BY id",
    )
    assert (None, "", "", None, None, None) == rows[0][1:]
    assert 40 > rows[0][0] < rows[1][0]
    assert [(None,), ("planted letter 2",)] == raw_rows(database_url, "SELECT text FROM letters ORDER BY id")
    assert 2 == count(database_url, "visits")
    assert None is place.email(1)


def test_what_a_duty_keeps_stays_readable_for_it_and_all_else_goes(place: Clinic, database_url: str) -> None:
    place.admit(patient(1, bill="planted bill"), patient(2))
    done = place.privacy.erase(place.engine, place.key_of(1), by=BY)
    assert ({"patients.bill": "tax"}, 0) == (done.kept, done.rows)
    assert (START, None, None) == (done.unreadable_by, done.final_by, done.finality)
    assert "planted bill" == place.bill(1)
    assert None is place.email(1)
    assert 2 == count(database_url, "privkit_key WHERE wrapped IS NOT NULL")
    with purposes.internally(), place.engine.connect() as connection:
        left = connection.execute(select(Visit.__table__.c.id).join(Patient.__table__)).all()
    assert 4 == len(left)
    assert ["patients.bill"] == lines(database_url)[-1][1]["kept"]


def test_once_the_duty_is_over_the_rest_can_be_erased(place: Clinic, database_url: str, clock: Clock) -> None:
    place.admit(patient(1, bill="planted bill"))
    key = place.key_of(1)
    assert place.privacy.erase(place.engine, key, by=BY).kept
    clock.now = START + timedelta(days=365 * 8)
    assert {} == place.privacy.erase(place.engine, key, by=BY).kept
    assert 0 == count(database_url, "patients")
    assert 0 == count(database_url, "privkit_key WHERE wrapped IS NOT NULL")


def test_a_duty_whose_event_has_not_happened_keeps(place: Clinic, database_url: str) -> None:
    unpaid = patient(1, bill="planted bill")
    unpaid.paid_at = None
    place.admit(unpaid)
    assert {"patients.bill": "tax"} == place.privacy.erase(place.engine, place.key_of(1), by=BY).kept


@pytest.mark.parametrize("where", ["subject", "table", "both"])
def test_e18_a_hold_refuses_an_erasure_aloud_and_nothing_is_done(place: Clinic, database_url: str, where: str) -> None:
    place.admit(patient(1), patient(2))
    key = place.key_of(1)
    what: dict[str, Any] = {"subject": {"subject": key}, "table": {"table": "visits"}}.get(
        where, {"subject": key, "table": "visits"}
    )
    hold = place.privacy.hold(place.engine, reason="a court", by="counsel", until=UNTIL, **what)
    before = lines(database_url)
    with pytest.raises(PlanError, match="A hold keeps"):
        place.privacy.erase(place.engine, key, by=BY)
    assert before == lines(database_url)
    assert place.email(1) is not None
    place.privacy.release(place.engine, hold, by="counsel")
    assert 3 == place.privacy.erase(place.engine, key, by=BY).rows


def test_erasing_twice_is_erasing_once(place: Clinic, database_url: str) -> None:
    place.admit(patient(1, letters=1))
    key = place.key_of(1)
    first = place.privacy.erase(place.engine, key, by=BY)
    again = place.privacy.erase(place.engine, key, by=BY)
    assert (True, 0, 0) == (first.fields > 0, again.fields, again.rows)
    assert 1 == [kind for kind, _ in lines(database_url)].count("key_destroyed")


def test_nothing_personal_is_in_the_ledger(place: Clinic, database_url: str, tmp_path: Path) -> None:
    place.admit(patient(1, bill="planted bill", letters=2))
    place.privacy.erase(place.engine, place.key_of(1), by=BY)
    seen = (tmp_path / "ledger.jsonl").read_text() + str(lines(database_url))
    assert [] == [word for word in ("lanted", "clinic.example", "Ada", "Lovelace") if word in seen]


@pytest.mark.parametrize("stranger", [bytes(16), b"short", bytes(17)])
def test_somebody_unknown_is_an_error(place: Clinic, stranger: bytes) -> None:
    with pytest.raises(InvalidValue, match="no data subject with this key id"):
        place.privacy.erase(place.engine, stranger, by=BY)


def test_what_is_no_data_subject_is_an_error(place: Clinic) -> None:
    for nobody in (Visit(), "ada", None, 7, Patient()):
        with pytest.raises((MappingError, InvalidValue)):
            place.privacy.erase(place.engine, nobody, by=BY)
    place.admit(patient(1))
    with pytest.raises(InvalidValue, match="who asked"):
        place.privacy.erase(place.engine, place.key_of(1), by=" ")


def test_an_erasure_whose_line_cannot_be_written_outside_did_not_happen(
    place: Clinic, tmp_path: Path, database_url: str
) -> None:
    place.admit(patient(1))
    key = place.key_of(1)
    ledger = tmp_path / "ledger.jsonl"
    ledger.rename(tmp_path / "away")
    ledger.mkdir()
    with pytest.raises(LedgerError):
        place.privacy.erase(place.engine, key, by=BY)
    ledger.rmdir()
    (tmp_path / "away").rename(ledger)
    assert place.email(1) is not None
    assert 2 == count(database_url, "visits")
    assert 3 == place.privacy.erase(place.engine, key, by=BY).rows


def test_the_erased_are_not_opened_by_a_process_that_has_the_row_in_memory(place: Clinic) -> None:
    place.admit(patient(1, letters=1))
    key = place.key_of(1)
    sealed = raw_rows(str(place.engine.url.render_as_string(hide_password=False)), "SELECT email FROM patients")[0][0]
    assert place.email(1) is not None
    place.privacy.erase(place.engine, key, by=BY)
    opener = place.privacy.guard.opener(place.privacy.guard.rules["patients.email"].field, place.engine.dialect)
    with place.privacy.purpose("care"), pytest.raises(ShreddedError):
        opener(bytes(sealed))


def test_it_is_the_clock_of_the_privacy_that_counts(place: Clinic, clock: Clock) -> None:
    place.admit(patient(1))
    clock.now = datetime.fromisoformat("2030-01-01T00:00:00+00:00")
    assert clock.now < place.privacy.erase(place.engine, place.key_of(1), by=BY).unreadable_by

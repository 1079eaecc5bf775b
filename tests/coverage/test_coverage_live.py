"""A scan counts what a database holds beside the models, on SQLite and on PostgreSQL."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Engine, MetaData, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import Personal, data_subject, events, not_personal
from privkit.coverage import KINDS, Finding, Severity, check, report
from privkit.coverage.live import TOLERANCE, Stored
from privkit.coverage.proof import Evidence
from privkit.coverage.report import ColumnRow, Report
from privkit.privacy import Privacy
from tests.coverage.small import NOW, POLICY, fill, models, privacy, privacy_of
from tests.databases import raw_rows

BARE_TRIPS = "CREATE TABLE trips (id INTEGER PRIMARY KEY, rider_id INTEGER NOT NULL, fare INTEGER, ended_at TIMESTAMP, "


class Place:
    """A filled database with the service that filled it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.url, self.classes = url, models()
        self.privacy: Privacy = privacy(folder, classes=self.classes)
        self.engine: Engine = create_engine(url)
        fill(self.privacy, self.classes, self.engine)

    def sql(self, *statements: str) -> None:
        for statement in statements:
            raw_rows(self.url, statement)

    def found(self, bind: Any = None) -> list[Finding]:
        return check(self.privacy.guard, bind or self.engine)

    def codes(self) -> list[str]:
        return [finding.code for finding in self.found()]

    def report(self) -> Report:
        return report(self.privacy.guard, self.engine)

    @property
    def binary(self) -> str:
        return "BLOB" if self.url.startswith("sqlite") else "BYTEA"


@pytest.fixture
def there(tmp_path: Path, database_url: str) -> Iterator[Place]:
    found = Place(tmp_path, database_url)
    yield found
    found.engine.dispose()


def test_a_database_that_is_as_the_models_say_has_no_finding(there: Place) -> None:
    assert [] == there.found()


def drop_check(there: Place) -> None:
    """SQLite drops no constraint, so on both the table is made anew without it."""
    columns = f"{BARE_TRIPS} start {there.binary} NOT NULL)"
    there.sql("ALTER TABLE trips RENAME TO old", columns)
    there.sql("INSERT INTO trips SELECT id, rider_id, fare, ended_at, start FROM old", "DROP TABLE old")


def store_plain_text(there: Place) -> None:
    drop_check(there)
    value = "x'414243'" if there.binary == "BLOB" else "'ABC'::bytea"
    there.sql(f"UPDATE trips SET start = {value} WHERE id = 2")


def share_an_address(there: Place) -> None:
    riders = [there.classes["Rider"](email="everybody@mail.example", name="Some Body") for _ in range(100)]
    with there.privacy.purpose("account"), Session(there.engine) as session:
        session.add_all(riders)
        session.commit()


def run_unchecked(there: Place) -> None:
    with there.privacy.purpose("account"), there.privacy.unchecked("a report"), there.engine.connect() as connection:
        connection.exec_driver_sql("SELECT name FROM riders").all()


def leave_an_epoch(there: Place) -> None:
    some = "x'00'" if there.binary == "BLOB" else "'\\x00'::bytea"
    time = "'2026-01-01 00:00:00.000000'"
    there.sql(
        "INSERT INTO privkit_epoch (field, number, event, starts, ends, key_id, wrapped, created_at) "
        f"VALUES ('trips.start', 1, 'trip_ended', {time}, {time}, {some}, {some}, {time})"
    )


GAPS: dict[str, Callable[[Place], None]] = {
    "PK821": lambda there: there.sql("CREATE TABLE guestbook (id INTEGER)"),
    "PK822": lambda there: there.sql("ALTER TABLE trips ADD COLUMN weather VARCHAR(20)"),
    "PK823": lambda there: there.sql("DROP TABLE privkit_hold"),
    "PK824": lambda there: there.sql("ALTER TABLE riders DROP COLUMN name_residue"),
    "PK825": drop_check,
    "PK826": store_plain_text,
    "PK827": lambda there: there.sql("UPDATE trips SET ended_at = '2036-01-01 00:00:00.000000' WHERE id = 1"),
    "PK828": lambda there: there.sql("CREATE VIEW figures AS SELECT 1 AS one"),
    "PK829": lambda there: there.sql("UPDATE riders SET email = (SELECT email FROM riders WHERE id = 1) WHERE id = 2"),
    "PK830": lambda there: there.sql("UPDATE riders SET email_ix = NULL WHERE id = 2"),
    "PK831": share_an_address,
    "PK832": run_unchecked,
    "PK834": leave_an_epoch,
}


@pytest.mark.parametrize("code", sorted(GAPS))
def test_every_kind_of_live_gap_is_found_and_nothing_else_with_it(code: str, there: Place) -> None:
    GAPS[code](there)
    assert ["PK826", "PK825"] if code == "PK826" else [code] == there.codes()


def test_f14_every_live_kind_has_its_gap_here() -> None:
    # only a type of another library has a width: test_adoption.py; these riders are no children: test_ages.py; and
    # their places are not searched: test_coverage_places.py
    elsewhere = {"PK833", "PK835", "PK836", "PK839"}
    assert {code for code, kind in KINDS.items() if kind.live} == set(GAPS) | elsewhere


def test_f05_a_table_whose_model_is_not_imported_is_found_with_what_it_refers_to(there: Place) -> None:
    there.sql("CREATE TABLE tips (id INTEGER, phone VARCHAR(20), rider_id INTEGER REFERENCES riders (id))")
    (finding,) = there.found()
    assert ("tips", Severity.CRITICAL) == (finding.where, finding.severity)
    assert "it refers to riders; columns that look personal: phone (user.contact.phone_number)." in finding.what


def test_f05_a_column_added_by_hand_that_looks_personal_is_worse(there: Place) -> None:
    there.sql("ALTER TABLE trips ADD COLUMN gps VARCHAR(20)")
    (finding,) = there.found()
    assert ("trips.gps", Severity.CRITICAL) == (finding.where, finding.severity)


def test_a_migration_tools_own_table_is_no_finding(there: Place) -> None:
    there.sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
    assert [] == there.found()


def test_a_view_over_a_protected_table_is_worse_than_another(there: Place) -> None:
    there.sql("CREATE VIEW names AS SELECT name FROM riders")
    (finding,) = there.found()
    assert ("PK828", Severity.HIGH) == (finding.code, finding.severity)
    assert "it may show riders" in finding.what


@pytest.mark.parametrize(
    ("ahead", "expected"),
    [(TOLERANCE - timedelta(seconds=1), []), (TOLERANCE + timedelta(seconds=1), ["PK827"])],
    ids=["within the tolerance", "beyond it"],
)
def test_b26_an_event_counts_as_future_only_beyond_the_tolerance(
    ahead: timedelta, expected: list[str], there: Place
) -> None:
    moment = (NOW + ahead).strftime("%Y-%m-%d %H:%M:%S.000000")
    there.sql(f"UPDATE trips SET ended_at = '{moment}' WHERE id = 1")
    assert expected == there.codes()


def test_b26_future_events_are_counted_and_not_shown(there: Place) -> None:
    there.sql("UPDATE riders SET closed_at = '9999-12-31 00:00:00.000000'")
    (finding,) = there.found()
    assert "riders.closed_at lies in the future in 3 rows." == finding.what


def test_an_empty_database_lacks_every_table(tmp_path: Path, database_url: str) -> None:
    service = privacy(tmp_path, classes=(classes := models()))
    engine = create_engine(database_url)
    missing = {finding.where for finding in check(service.guard, engine)}
    engine.dispose()
    assert set(classes["Base"].metadata.tables) == missing


def test_an_engine_that_nobody_protected_can_be_looked_at(there: Place) -> None:
    plain = create_engine(there.url)
    assert [] == there.found(plain)
    plain.dispose()


def test_a_connection_can_be_looked_at_and_stays_usable(there: Place) -> None:
    with there.engine.connect() as connection:
        assert [] == there.found(connection)
        assert 3 == connection.exec_driver_sql("SELECT count(id) FROM trips").scalar_one()


def test_a_sealed_column_that_is_text_in_the_database_holds_no_envelope(tmp_path: Path, pg_url: str) -> None:
    there = Place(tmp_path, pg_url)
    there.sql("DROP TABLE trips", f"{BARE_TRIPS} start VARCHAR(80))", "INSERT INTO trips VALUES (1, 1, 5, NULL, 'x')")
    assert ["PK826", "PK825"] == there.codes()
    assert "live; 0 of 1 values are envelopes" == str(evidence(there.report(), "trips", "start"))
    there.engine.dispose()


def test_a_check_is_recognised_by_its_text_where_its_name_was_changed(tmp_path: Path, pg_url: str) -> None:
    there = Place(tmp_path, pg_url)
    there.sql("ALTER TABLE trips RENAME CONSTRAINT privkit_trips_start_sealed TO ck_17")
    assert [] == there.found()
    there.engine.dispose()


def column(found: Report, table: str, name: str) -> ColumnRow:
    (row,) = [each for rows in found.tables if rows.name == table for each in rows.columns if each.name == name]
    return row


def evidence(found: Report, table: str, name: str) -> Evidence:
    known = column(found, table, name).evidence
    assert known is not None
    return known


def test_a_sealed_field_is_proven_by_counting_its_envelopes(there: Place) -> None:
    known = evidence(there.report(), "trips", "start")
    assert ("proven", Stored(rows=3, empty=0, envelopes=3, destroyed=0, own=3)) == (known.level, known.stored)
    assert "proven; 3 of 3 values are envelopes under the owner's key" == str(known)


def test_a_field_left_unsealed_is_live_by_decision(there: Place) -> None:
    known = evidence(there.report(), "riders", "name")
    assert ("live", "live; not sealed by decision") == (known.level, str(known))


def test_a_plain_value_undoes_the_proof(there: Place) -> None:
    store_plain_text(there)
    known = evidence(there.report(), "trips", "start")
    assert (False, "live", 1) == (known.proven, known.level, known.stored.other if known.stored else None)


def test_an_envelope_of_another_data_subject_undoes_the_proof(there: Place) -> None:
    GAPS["PK829"](there)
    known = evidence(there.report(), "riders", "email")
    assert (False, 1) == (known.proven, known.stored.foreign if known.stored else None)


def test_a_destroyed_value_is_neither_an_envelope_nor_a_plain_value(there: Place) -> None:
    there.sql("UPDATE trips SET start = " + ("x'00'" if there.binary == "BLOB" else r"'\x00'::bytea"))
    assert [] == there.found()
    assert "live; nothing stored in 3 rows, 3 destroyed" == str(evidence(there.report(), "trips", "start"))


def test_a_column_that_is_missing_is_reachable_and_not_live(there: Place) -> None:
    there.sql("DROP TABLE trips")
    known = evidence(there.report(), "trips", "start")
    assert ("reachable", "reachable; not in the database") == (known.level, str(known))


def test_without_the_owners_table_envelopes_are_counted_and_nothing_is_proven(there: Place) -> None:
    if there.binary == "BYTEA":
        there.sql("ALTER TABLE trips DROP CONSTRAINT trips_rider_id_fkey")
    there.sql("DROP TABLE riders")
    known = evidence(there.report(), "trips", "start")
    assert ("live", "live; 3 of 3 values are envelopes") == (known.level, str(known))


def test_a_schema_and_a_naming_convention_are_followed(tmp_path: Path, pg_url: str) -> None:
    class Base(DeclarativeBase):
        metadata = MetaData(naming_convention={"ck": "ck_%(table_name)s_%(constraint_name)s"})

    @data_subject
    @events(account_closed="closed_at", trip_ended="closed_at")
    @not_personal("id", "closed_at", because="row id and event time")
    class Sailor(Base):
        __tablename__ = "sailors"
        __table_args__ = {"schema": "rides"}
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[
            Annotated[str | None, Personal("user.contact.email", purposes={"account", "navigation"}, seal=True)]
        ]
        closed_at: Mapped[datetime | None]

    text = POLICY.format(packs="gdpr", naive="naive_datetimes: UTC", purposes="")
    service, engine = privacy_of(tmp_path, text, Sailor), create_engine(pg_url)
    raw_rows(pg_url, "CREATE SCHEMA rides")
    Base.metadata.create_all(engine)
    assert [] == check(service.guard, engine)
    raw_rows(pg_url, "CREATE TABLE rides.crew (id INTEGER)")
    assert ["rides.crew"] == [finding.where for finding in check(service.guard, engine)]
    engine.dispose()

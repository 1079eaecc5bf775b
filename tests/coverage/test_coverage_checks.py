"""Each kind of finding shows in a service that has its gap, alone; a service without gaps has none."""

from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import Column as SqlColumn
from sqlalchemy import ForeignKey, MetaData, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from privkit import Delete, NotPersonal, Personal, data_subject, events, expire_row, not_personal, owned_by
from privkit.coverage import KINDS, Finding, Severity, check, report
from privkit.coverage.findings import worst_first
from tests.coverage.small import POLICY, models, privacy, privacy_of

DECLARED = sorted(code for code, kind in KINDS.items() if not kind.live)


def codes(found: list[Finding]) -> list[str]:
    return [finding.code for finding in found]


def test_a_service_without_gaps_has_no_finding(tmp_path: Path) -> None:
    assert [] == check(privacy(tmp_path).guard)


@pytest.mark.parametrize("code", DECLARED)
def test_f14_every_kind_of_gap_is_found_and_nothing_else_with_it(code: str, tmp_path: Path) -> None:
    found = check(privacy(tmp_path, gap=code).guard)
    assert {code} == set(codes(found))


@pytest.mark.parametrize("code", DECLARED)
def test_a_finding_says_where_what_why_and_how_to_mend_it(code: str, tmp_path: Path) -> None:
    finding, *_ = check(privacy(tmp_path, gap=code).guard)
    assert all([finding.where, finding.what.endswith("."), finding.why.endswith("."), finding.fix])
    assert str(finding).startswith(f"{code}: ")


def test_an_undecided_column_comes_with_a_guess_and_a_marker_to_paste(tmp_path: Path) -> None:
    finding = undecided(tmp_path, "dob")
    assert Severity.HIGH is finding.severity
    assert "probably user.demographic.date_of_birth (0.95: the word 'dob')" in finding.what
    assert 'dob: Mapped[Annotated[str, BirthDate(purposes={"..."})]]' in finding.fix
    assert '@not_personal("dob", because="...") on Rider' in finding.fix


def test_an_undecided_place_is_suggested_as_a_location(tmp_path: Path) -> None:
    assert 'geohash: Mapped[Annotated[str, Location(purposes={"..."})]]' in undecided(tmp_path, "geohash").fix


def test_an_undecided_column_that_nothing_speaks_for_is_asked_about_all_the_same(tmp_path: Path) -> None:
    finding = undecided(tmp_path, "shoe_size")
    assert ("riders.shoe_size has no decision.", Severity.MEDIUM) == (finding.what, finding.severity)


def undecided(folder: Path, name: str) -> Finding:
    classes = models()
    rider: Any = classes["Rider"]
    setattr(rider, name, mapped_column(name, nullable=False, type_=String(20)))
    (finding,) = check(privacy(folder, classes=classes).guard)
    assert f"riders.{name}" == finding.where
    return finding


def test_e14_a_table_that_refers_to_data_subjects_is_found_through_other_tables(tmp_path: Path) -> None:
    (finding,) = check(privacy(tmp_path, gap="PK802").guard)
    assert "photos has no decision and leads to data subjects (photos -> trips -> riders)." == finding.what
    assert "Mark Photo:" in finding.fix


def test_e14_a_table_without_a_class_is_found_too(tmp_path: Path) -> None:
    classes = models()
    metadata: MetaData = classes["Base"].metadata
    Table("friends", metadata, SqlColumn("a", ForeignKey("riders.id")), SqlColumn("b", ForeignKey("riders.id")))
    (finding,) = check(privacy(tmp_path, classes=classes).guard)
    assert ("PK802", "friends") == (finding.code, finding.where)


def test_a_foreign_key_into_a_table_that_was_not_imported_does_not_stop_the_check(tmp_path: Path) -> None:
    classes = models()
    Table("audit", classes["Base"].metadata, SqlColumn("who", ForeignKey("elsewhere.id")))
    assert ["PK803"] == codes(check(privacy(tmp_path, classes=classes).guard))


def test_an_undecided_table_with_a_personal_looking_column_is_worse(tmp_path: Path) -> None:
    classes = models()
    Table("newsletter", classes["Base"].metadata, SqlColumn("email", String(20)))
    (finding,) = check(privacy(tmp_path, classes=classes).guard)
    assert ("PK803", Severity.HIGH) == (finding.code, finding.severity)
    assert "columns that look personal: email (user.contact.email)." in finding.what


def test_e15_a_column_that_names_a_data_subject_without_a_foreign_key_is_found(tmp_path: Path) -> None:
    (finding,) = check(privacy(tmp_path, gap="PK814").guard)
    assert "trips.rider_ref seems to name a row of riders, without a foreign key." == finding.what


@pytest.mark.parametrize("name", ["user_id", "author_ref", "riderId", "attendee_user_ids"])
def test_e15_the_words_for_persons_are_known(name: str, tmp_path: Path) -> None:
    classes = models()
    Table("comments", classes["Base"].metadata, SqlColumn(name, String(20)))
    assert "PK814" in codes(check(privacy(tmp_path, classes=classes).guard))


@pytest.mark.parametrize("name", ["product_id", "id", "fare_key", "grid"])
def test_e15_other_references_raise_no_alarm(name: str, tmp_path: Path) -> None:
    classes = models()
    Table("comments", classes["Base"].metadata, SqlColumn(name, String(20)))
    assert "PK814" not in codes(check(privacy(tmp_path, classes=classes).guard))


def test_e15_a_reference_that_was_decided_about_stays_as_a_note_with_its_reason(tmp_path: Path) -> None:
    classes = models(gap="PK814")
    not_personal("rider_ref", because="a seat number")(classes["Trip"])
    (finding,) = check(privacy(tmp_path, classes=classes).guard)
    assert Severity.NOTE is finding.severity
    assert 'its decision says: "a seat number".' in finding.what


def test_b01_a_naive_event_column_is_said_to_be_read_as_utc(tmp_path: Path) -> None:
    finding, *_ = check(privacy(tmp_path, gap="PK806").guard)
    assert finding.what.endswith("without a zone; it is read as UTC.")
    assert "naive_datetimes: UTC" in finding.fix


def test_b22_a_not_null_column_that_always_ends_with_its_row_needs_no_suppression(tmp_path: Path) -> None:
    classes = models()
    base: Any = classes["Base"]

    class Note(base):
        __tablename__ = "notes"
        id: Mapped[Annotated[int, NotPersonal("row id")]] = mapped_column(primary_key=True)
        rider_id: Mapped[int] = mapped_column(ForeignKey("riders.id"))
        rider = relationship(classes["Rider"])
        text: Mapped[Annotated[str, Personal("user.content", purposes={"account"})]]

    owned_by("rider")(Note)
    events(account_closed="rider.closed_at")(Note)
    assert ["PK808", "PK811"] == codes(check(privacy(tmp_path, classes=classes).guard))
    expire_row(Delete())(Note)
    assert [] == check(privacy(tmp_path, classes=classes).guard)


def test_a_purpose_kept_for_ever_is_reported_with_the_policys_reason(tmp_path: Path) -> None:
    (finding,) = check(privacy(tmp_path, gap="PK809").guard)
    assert Severity.LOW is finding.severity
    assert "Purpose 'archive' keeps riders.photo for ever, because: \"a museum\"." == finding.what


def test_children_allowed_everywhere_need_no_question_for_the_age(tmp_path: Path) -> None:
    text = POLICY.format(packs="coppa", naive="naive_datetimes: UTC", purposes="")
    text = text.replace("legal_basis: contract,", "legal_basis: contract, children: allowed,")
    assert [] == check(privacy_of(tmp_path, text, models()["Base"]).guard)


def test_a_second_owner_that_is_never_empty_settles_a_nullable_one(tmp_path: Path) -> None:
    class Base(DeclarativeBase):
        pass

    @data_subject
    @events(account_closed="closed_at", trip_ended="closed_at")
    @not_personal("id", "closed_at", because="row id and event time")
    class Rider(Base):
        __tablename__ = "riders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[Annotated[str | None, Personal("user.contact.email", purposes={"account", "navigation"})]]
        closed_at: Mapped[str | None]

    @owned_by("payer_id", "sender_id")
    @not_personal("id", because="row id")
    class Gift(Base):
        __tablename__ = "gifts"
        id: Mapped[int] = mapped_column(primary_key=True)
        payer_id: Mapped[int | None] = mapped_column(ForeignKey("riders.id"))
        sender_id: Mapped[int] = mapped_column(ForeignKey("riders.id"))

    text = POLICY.format(packs="gdpr", naive="naive_datetimes: UTC", purposes="")
    assert [] == check(privacy_of(tmp_path, text, Base).guard)


def test_findings_come_worst_first_and_always_in_one_order(tmp_path: Path) -> None:
    classes = models(gap="PK801")
    for name in ("newsletter", "audit"):
        Table(name, classes["Base"].metadata, SqlColumn("email", String(20)))
    found = check(privacy(tmp_path, classes=classes).guard)
    assert ["audit", "newsletter", "riders.shoe_size"] == [finding.where for finding in found]
    assert found == worst_first(reversed(found))


def test_codes_are_of_one_form_and_of_one_kind_each() -> None:
    assert all(code == kind.code and code.startswith("PK8") and len(code) == 5 for code, kind in KINDS.items())


def test_inherited_tables_are_covered_through_their_base(tmp_path: Path) -> None:
    classes = models()
    rider: Any = classes["Rider"]

    @not_personal("rank", because="a level that many have")
    class Courier(rider):
        __tablename__ = "couriers"
        id: Mapped[int] = mapped_column(ForeignKey("riders.id"), primary_key=True)
        rank: Mapped[int | None]
        plate: Mapped[Annotated[str | None, Personal("user.unique_id", purposes={"account"})]]

    @not_personal("shift", because="one of three")
    class Walker(rider):
        shift: Mapped[int | None]

    guard = privacy(tmp_path, classes=classes).guard
    assert [] == check(guard)
    couriers = next(table for table in report(guard).tables if table.name == "couriers")
    assert "deduced: couriers -> riders by inheritance" == str(couriers.owner)
    assert Walker.__table__ is rider.__table__

"""Columns of one row that are emptied in one UPDATE: what a CHECK ties together, and one track in many columns."""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import JSON, CheckConstraint, Engine, create_engine, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from privkit import (
    BirthDate,
    DirectoryStore,
    FileKeyring,
    GeoPoint,
    GeoTrack,
    KeepLast,
    Location,
    NotPersonal,
    Personal,
    Privacy,
    Substitute,
    data_subject,
    events,
    together,
)
from privkit.coverage.checks import undecided_columns
from privkit.crypto import DESTROYED
from privkit.errors import MappingError, PolicyError
from tests.databases import raw_rows

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1)
POLICY = """
privkit: 1
naive_datetimes: UTC
runs: {receipts: true}
purposes:
  account: {description: "Run the account", legal_basis: contract, keep: {for: P2Y, after: left}}
  mail: {description: "Send letters", legal_basis: contract, keep: {for: P1Y, after: left}}
"""
TRACK = GeoTrack([GeoPoint(51.5074, -0.1278), GeoPoint(51.5080, -0.1290)])


class Base(DeclarativeBase): ...


def text(**more: Any) -> Any:
    return Personal("user.contact", purposes={"account"}, **({"seal": False} | more))


# Every state of a phone and every change of address is one or nothing, and an address is an address.
TIES = (
    CheckConstraint("(phone IS NULL) = (phone_token IS NULL) AND (phone IS NULL) = (phone_verified_at IS NULL)"),
    CheckConstraint("(new_email IS NULL) = (new_email_token IS NULL)", name="new_email_whole"),
    CheckConstraint("email LIKE '%_@_%.__%'", name="email_is_one"),
)


@data_subject
@events(left="left_at")
@together("phone", "phone_token", "phone_verified_at", "phone_pin")
@together("new_email", "new_email_token")
class User(Base):
    __tablename__ = "users"
    __table_args__ = TIES
    id: Mapped[Annotated[int, NotPersonal("row id")]] = mapped_column(primary_key=True)
    email: Mapped[Annotated[str, text(then=Substitute("mail", "email"))]]
    phone: Mapped[Annotated[str | None, text()]]
    phone_pin: Mapped[Annotated[str, text(seal=True)]]
    phone_token: Mapped[Annotated[str | None, NotPersonal("drawn at random")]]
    phone_verified_at: Mapped[Annotated[datetime | None, NotPersonal("time of a click")]]
    new_email: Mapped[Annotated[str | None, text(seal=True)]]
    new_email_token: Mapped[Annotated[str | None, NotPersonal("drawn at random")]]
    left_at: Mapped[Annotated[datetime | None, NotPersonal("event time")]]


@data_subject
@events(left="left_at")
@together("start_point", "track", "points", "bounds", "file", "born", "distance")
class Workout(Base):
    __tablename__ = "workouts"
    id: Mapped[Annotated[int, NotPersonal("row id")]] = mapped_column(primary_key=True)
    start_point: Mapped[Annotated[GeoPoint | None, Location(purposes={"account"})]]
    track: Mapped[Annotated[GeoTrack | None, Location(purposes={"account"})]]
    points: Mapped[Annotated[Any | None, Location(purposes={"account"}, seal=False)]] = mapped_column(JSON)
    bounds: Mapped[Annotated[Any | None, Location(purposes={"account"}, seal=True)]] = mapped_column(JSON)
    file: Mapped[Annotated[str | None, Location(purposes={"account"}, seal=False, file="tracks")]]
    born: Mapped[Annotated[date | None, BirthDate(purposes={"account"})]]
    distance: Mapped[Annotated[float | None, NotPersonal("a length")]]
    left_at: Mapped[Annotated[datetime | None, NotPersonal("event time")]]


USER = {
    "email": "ada@mail.example",
    "phone": "+44 20 7946 0000",
    "phone_pin": "4711",
    "phone_token": "t",
    "phone_verified_at": LONG_AGO,
    "new_email": "ada@other.example",
    "new_email_token": "t",
}
WORKOUT = {
    "start_point": TRACK.points[0],
    "track": TRACK,
    "points": [[51.5074, -0.1278]],
    "bounds": [51.5, -0.13, 51.6, -0.12],
    "born": date(1990, 1, 1),
    "distance": 12.5,
}
Place = tuple[Privacy, Engine]


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "tracks").mkdir()
    keys, stores = FileKeyring.create(tmp_path / "keys.json"), {"tracks": DirectoryStore(tmp_path / "tracks")}
    privacy = Privacy(tmp_path / "policy.yaml", Base, keys, clock=lambda: NOW, stores=stores)
    engine = create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    yield privacy, engine
    engine.dispose()


def purged(place: Place) -> dict[str, int]:
    """Purge, and return how many values went by each step."""
    privacy, engine = place
    plan = privacy.plan(engine)
    assert [step.name for step in plan.steps if step.refused] == []
    run = privacy.purge(engine, plan)
    assert run.ok
    return {outcome.step.name: outcome.done for outcome in run.outcomes if outcome.done}


def test_c12_columns_that_checks_tie_together_end_in_one_update(place: Place, database_url: str) -> None:
    privacy, engine = place
    with privacy.purpose("account"), engine.begin() as connection:
        left = [USER | {"id": number, "left_at": LONG_AGO} for number in (1, 2)]
        connection.execute(insert(User), [*left, USER | {"id": 3, "left_at": None}])
    done = purged(place)
    assert done == {"users.email": 2, "users.phone": 2, "users.new_email": 2}
    emptied = "SELECT phone, phone_token, phone_verified_at, phone_pin, new_email, new_email_token FROM users"
    for row in raw_rows(database_url, f"{emptied} WHERE id < 3"):
        assert (None, None, None, DESTROYED, None, None) == (*row[:3], bytes(row[3]), *row[4:])
    assert [(1,)] == raw_rows(database_url, "SELECT count(*) FROM users WHERE phone_token = 't'")
    assert [(3,)] == raw_rows(database_url, "SELECT count(*) FROM users WHERE email LIKE '%_@_%.__%'")
    found = {receipt.field: receipt.technique for receipt in privacy.receipts(engine, User, 1)}
    assert "suppressed, with phone_token, phone_verified_at, phone_pin" == found["phone"]
    assert purged(place) == {}


def test_c30_one_track_in_many_columns_ends_at_once_with_its_file(
    place: Place, database_url: str, tmp_path: Path
) -> None:
    privacy, engine = place
    (tmp_path / "tracks" / "one.gpx").write_text("51.5074")
    with privacy.purpose("account"), engine.begin() as connection:
        row = WORKOUT | {"id": 1, "file": "one.gpx", "left_at": LONG_AGO}
        connection.execute(insert(Workout), [row, WORKOUT | {"id": 2, "file": None, "left_at": None}])
    assert purged(place) == {"workouts.start_point": 1}
    columns = "start_point, track, points, bounds, file, born, distance"
    assert [(None,) * 7] == raw_rows(database_url, f"SELECT {columns} FROM workouts WHERE id = 1")
    assert [] == list((tmp_path / "tracks").iterdir())


def test_a_group_does_not_wait_where_a_field_of_it_is_empty_already(place: Place, database_url: str) -> None:
    privacy, engine = place
    with privacy.purpose("account"), engine.begin() as connection:
        rest = {"phone": None, "phone_token": None, "phone_verified_at": None}
        connection.execute(insert(User), [USER | rest | {"id": 1, "left_at": LONG_AGO}])
    assert purged(place) == {"users.email": 1, "users.phone_pin": 1, "users.new_email": 1}


def test_erasing_a_data_subject_keeps_to_the_groups(place: Place, database_url: str) -> None:
    privacy, engine = place
    with privacy.purpose("account"), engine.begin() as connection:
        connection.execute(insert(User), [USER | {"id": number, "left_at": None} for number in (1, 2)])
    key = bytes(raw_rows(database_url, "SELECT privkit_key FROM users WHERE id = 1")[0][0])
    privacy.erase(engine, key, by="dpo")
    assert raw_rows(database_url, "SELECT id FROM users WHERE phone_token IS NOT NULL") == [(2,)]


class Daily(DeclarativeBase): ...


@data_subject
@events(seen="seen_at")
@together("spot", "photo", "label")
class Sighting(Daily):
    __tablename__ = "sightings"
    id: Mapped[Annotated[int, NotPersonal("row id")]] = mapped_column(primary_key=True)
    spot: Mapped[Annotated[GeoPoint | None, Location(purposes={"watch"})]]
    photo: Mapped[Annotated[str | None, Personal("user.content", purposes={"watch"}, seal=True, file="tracks")]]
    label: Mapped[Annotated[str | None, NotPersonal("printed on a ring")]]
    seen_at: Mapped[Annotated[datetime | None, NotPersonal("event time")]]


def test_a_group_in_epochs_is_emptied_with_its_file_before_the_day_s_key_goes(
    database_url: str, tmp_path: Path
) -> None:
    policy = POLICY.partition("  account")[0] + (
        "  watch: {description: Watch birds, legal_basis: contract, keep: {for: P30D, after: seen, epoch: P1D}}\n"
    )
    (tmp_path / "policy.yaml").write_text(policy)
    (tmp_path / "tracks").mkdir()
    for name in ("old.jpg", "new.jpg"):
        (tmp_path / "tracks" / name).write_text("a bird")
    keys, stores = FileKeyring.create(tmp_path / "keys.json"), {"tracks": DirectoryStore(tmp_path / "tracks")}
    privacy = Privacy(tmp_path / "policy.yaml", Daily, keys, clock=lambda: NOW, stores=stores)
    engine = create_engine(database_url)
    privacy.protect(engine)
    Daily.metadata.create_all(engine)
    row = {"spot": TRACK.points[0], "label": "t"}
    rows = [
        row | {"id": 1, "photo": "old.jpg", "seen_at": LONG_AGO},
        row | {"id": 2, "photo": "new.jpg", "seen_at": datetime(2025, 12, 30)},
    ]
    with privacy.purpose("watch"), engine.begin() as connection:
        connection.execute(insert(Sighting), rows)
    done = purged((privacy, engine))
    assert done.pop("sightings.spot") == 1
    assert done == {"privkit_epoch.sightings.spot": 1, "privkit_epoch.sightings.photo": 1}
    left = "SELECT id FROM sightings WHERE spot IS NOT NULL AND photo IS NOT NULL AND label IS NOT NULL"
    assert [(2,)] == raw_rows(database_url, left)
    assert ["new.jpg"] == [each.name for each in (tmp_path / "tracks").iterdir()]
    assert [(2,)] == raw_rows(database_url, "SELECT count(*) FROM privkit_epoch WHERE wrapped IS NULL")
    assert purged((privacy, engine)) == {}
    engine.dispose()


def test_c30_what_is_annotated_alone_has_its_siblings_named(tmp_path: Path) -> None:
    class Other(DeclarativeBase): ...

    @data_subject
    @events(left="left_at")
    class Walk(Other):
        __tablename__ = "walks"
        id: Mapped[Annotated[int, NotPersonal("row id")]] = mapped_column(primary_key=True)
        left_at: Mapped[Annotated[datetime | None, NotPersonal("event time")]]
        start_point_geom: Mapped[Annotated[GeoPoint | None, Location(purposes={"account"})]]
        geom: Mapped[bytes | None]
        points: Mapped[Any | None] = mapped_column(JSON)
        bounds: Mapped[Any | None] = mapped_column(JSON)
        original_file: Mapped[str | None]

    (tmp_path / "policy.yaml").write_text(POLICY)
    privacy = Privacy(tmp_path / "policy.yaml", Other, FileKeyring.create(tmp_path / "keys.json"))
    said = "\n".join(str(finding) for finding in undecided_columns(privacy.guard))
    assert [] == [name for name in ("geom", "points", "bounds", "original_file") if f"walks.{name}" not in said]


def model_with(group: Any, **fields: Any) -> type[DeclarativeBase]:
    class Other(DeclarativeBase): ...

    annotations = {
        "id": Mapped[Annotated[int, NotPersonal("row id")]],
        "left_at": Mapped[Annotated[datetime | None, NotPersonal("event time")]],
        "code": Mapped[Annotated[str, NotPersonal("a code")]],
        "phone": Mapped[Annotated[str | None, text()]],
        **{name: Mapped[Annotated[str | None, marker]] for name, marker in fields.items()},
    }
    body = {"__tablename__": "people", "__annotations__": annotations, "id": mapped_column(primary_key=True)}
    return group(events(left="left_at")(data_subject(type("Person", (Other,), body)))) and Other  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["code", "nowhere"])
def test_a_group_of_what_cannot_be_emptied_is_an_error(name: str) -> None:
    with pytest.raises(MappingError, match=f"@together of Person names '{name}'"):
        model_with(together("phone", name))


@pytest.mark.parametrize(
    ("group", "fields", "said"),
    [
        (together("phone", "other"), {"other": Personal("user", purposes={"mail"}, seal=False)}, "at different times"),
        (together("phone", "card"), {"card": text(then=KeepLast(4))}, "card leaves something behind"),
        (together("left_at"), {}, "names no personal field"),
        (lambda cls: together("phone", "left_at")(together("phone")(cls)), {}, "stands in two groups"),
    ],
)
def test_a_group_that_cannot_end_at_once_is_a_mistake_of_the_models(
    tmp_path: Path, group: Any, fields: dict[str, Any], said: str
) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    with pytest.raises(PolicyError, match=said):
        Privacy(tmp_path / "policy.yaml", model_with(group, **fields), FileKeyring.create(tmp_path / "keys.json"))


def test_a_column_that_is_not_null_in_the_database_alone_is_refused_by_the_plan(
    place: Place, database_url: str
) -> None:
    privacy, engine = place
    if engine.dialect.name == "postgresql":
        raw_rows(database_url, "ALTER TABLE workouts ALTER distance SET NOT NULL")
    else:
        [(made,)] = raw_rows(database_url, "SELECT sql FROM sqlite_master WHERE name = 'workouts'")
        raw_rows(database_url, "DROP TABLE workouts")
        raw_rows(database_url, re.sub(r"(distance \w+)", r"\1 NOT NULL", made))
    refused = {step.name: step.refused for step in privacy.plan(engine).steps}
    assert refused["workouts.track"] == "distance is NOT NULL in the database, so it cannot be emptied with track"

import copy
import math
import pickle
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import (
    Cell,
    FileKeyring,
    Generalise,
    GeoPoint,
    GeoTrack,
    Location,
    Nearby,
    Privacy,
    data_subject,
    events,
    not_personal,
)
from privkit.errors import ClockError, InvalidValue, PolicyError, PurposeError, SealedError
from privkit.integrations.logging import is_personal
from privkit.location import Fix
from privkit.location.track import BLOCK
from tests.databases import raw_rows

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOME, AWAY = GeoPoint(51.5012345, -0.1012345), GeoPoint(52.5012345, 13.4012345)
WAY = GeoTrack([Fix(HOME, NOW, 12.5, 4.0), Fix(GeoPoint(0, 0), NOW + timedelta(microseconds=1)), Fix(AWAY, None, -3.0)])

points = st.builds(GeoPoint, st.floats(-90, 90), st.floats(-180, 180))
metres = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
fixes = st.builds(
    Fix,
    points,
    st.one_of(st.none(), st.datetimes(timezones=st.just(UTC))),
    metres,
    st.one_of(st.none(), st.floats(0, allow_infinity=False)),
)
tracks = st.builds(GeoTrack, st.lists(fixes, max_size=2 * BLOCK + 1))


class Ride(BaseModel):
    way: GeoTrack
    other: Annotated[GeoTrack | None, "marker"] = None


@given(tracks)
def test_a_track_survives_packing_pickling_copying_and_json(track: GeoTrack) -> None:
    assert track == GeoTrack.unpack(track.pack())
    assert track == pickle.loads(pickle.dumps(track))  # noqa: S301
    assert track == copy.deepcopy(track)
    assert hash(track) == hash(GeoTrack.unpack(track.pack()))
    assert track == Ride.model_validate_json(Ride(way=track).model_dump_json()).way
    assert track == Ride(way=Ride(way=track).model_dump()["way"]).way


@given(tracks)
def test_the_length_of_a_stored_track_tells_its_blocks_only(track: GeoTrack) -> None:
    assert 5 + 40 * BLOCK * max(1, math.ceil(len(track) / BLOCK)) == len(track.pack())


@given(tracks.filter(len), st.data())
def test_a_track_with_a_changed_byte_is_another_or_refused(track: GeoTrack, data: st.DataObject) -> None:
    packed = bytearray(track.pack())
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with suppress(SealedError):
        assert track != GeoTrack.unpack(bytes(packed))


@pytest.mark.parametrize(
    "data", [b"", bytes(16), WAY.pack()[:-1], WAY.pack() + b"\0", b"\2" + WAY.pack()[1:], HOME.pack()]
)
def test_bytes_that_are_no_track_are_refused(data: bytes) -> None:
    with pytest.raises(SealedError, match="blocks of fixes"):
        GeoTrack.unpack(data)


def test_a_refused_track_carries_no_error_that_holds_its_bytes() -> None:
    with pytest.raises(SealedError) as caught:
        GeoTrack.unpack(WAY.pack().replace(HOME.pack(), bytes.fromhex("7ff8") + HOME.pack()[2:]))
    assert caught.value.__context__ is None


@pytest.mark.parametrize("text", [repr, str, "{}".format, "%s".__mod__])
def test_no_text_form_shows_a_place_or_a_time(text: Any) -> None:
    assert ("GeoTrack(...)", "Fix(...)") == (text(WAY), text(WAY.fixes[0]))


def test_a_log_record_shows_no_track() -> None:
    assert is_personal(WAY)
    assert is_personal(WAY.fixes[0])


def test_a_track_keeps_its_order_and_takes_bare_points() -> None:
    assert (HOME, AWAY, HOME) == GeoTrack([HOME, Fix(AWAY, NOW), HOME]).points
    assert GeoTrack([HOME]) == GeoTrack([Fix(HOME)]) != GeoTrack([Fix(HOME, NOW)])
    assert 3 == len(WAY) == len(list(WAY))


def test_one_instant_at_two_offsets_is_one_fix() -> None:
    assert Fix(HOME, NOW) == Fix(HOME, NOW.astimezone(timezone(timedelta(hours=5))))
    with pytest.raises(ClockError):
        Fix(HOME, datetime(2026, 3, 1))


def test_c27_altitude_zero_and_accuracy_zero_are_known() -> None:
    (fix,) = GeoTrack.unpack(GeoTrack([Fix(HOME, None, -0.0, 0)]).pack())
    assert (0.0, 0.0) == (fix.altitude, fix.accuracy)
    assert "0.0" == str(fix.altitude)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, True, "1", 10**400])
def test_what_is_no_finite_length_is_refused(wrong: Any) -> None:
    for parts in ({"altitude": wrong}, {"accuracy": wrong}):
        with pytest.raises(InvalidValue):
            Fix(HOME, **parts)
    with pytest.raises(InvalidValue):
        Fix(HOME, accuracy=-1)


@pytest.mark.parametrize("wrong", [(51.5, -0.1), None, "51.5,-0.1"])
def test_a_fix_of_what_is_no_point_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidValue, match="GeoPoint"):
        GeoTrack([wrong])


@pytest.mark.parametrize(
    "wrong",
    [
        "51.5,-0.1",
        [[51.5, -0.1]],
        [{"lat": 51.5}],
        [{"lat": 51.5, "lon": 0, "planted": 1}],
        [{"lat": 91, "lon": 0}],
        [{"lat": 51.5, "lon": 0, "at": "planted"}],
        [{"lat": 51.5, "lon": 0, "at": 7}],
    ],
)
def test_pydantic_takes_no_track_whose_axes_or_times_are_not_named(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        Ride(way=wrong)


def test_the_json_schema_describes_what_is_dumped() -> None:
    item = Ride.model_json_schema()["properties"]["way"]["items"]
    dumped = Ride(way=WAY).model_dump(mode="json")["way"]
    assert {
        "lat": HOME.lat,
        "lon": HOME.lon,
        "at": "2026-03-01T12:00:00Z",
        "altitude": 12.5,
        "accuracy": 4.0,
    } == dumped[0]
    assert {"lat": 0.0, "lon": 0.0, "at": "2026-03-01T12:00:00.000001Z"} == dumped[1]
    assert set(dumped[0]) == set(item["properties"])


# Stored


class Base(DeclarativeBase):
    pass


@data_subject
@events(left="left_at")
@not_personal("id", "left_at", because="row id and event time")
class Walker(Base):
    __tablename__ = "walkers"
    id: Mapped[int] = mapped_column(primary_key=True)
    way: Mapped[Annotated[GeoTrack | None, Location(purposes={"guide"})]]
    plain: Mapped[Annotated[GeoTrack | None, Location("user.location", purposes={"guide"}, seal=False)]]
    left_at: Mapped[datetime | None]


POLICY = """
privkit: 1
naive_datetimes: UTC
purposes:
  guide: {description: "Guide the walker", legal_basis: contract, keep: {for: P30D, after: left}}
"""


@pytest.fixture
def privacy(tmp_path: Path) -> Privacy:
    file = tmp_path / "walks.yaml"
    file.write_text(POLICY)
    return Privacy(policy=file, models=Base, keys=FileKeyring.create(tmp_path / "keys.json"), clock=lambda: NOW)


def test_a_track_is_sealed_read_and_purged_as_one_value(privacy: Privacy, database_url: str) -> None:
    engine = create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("guide"), Session(engine) as session:
        session.add(Walker(id=1, way=WAY, plain=WAY))
        session.add(Walker(id=2, way=GeoTrack(), left_at=datetime(2026, 1, 1)))
        session.add(Walker(id=3))
        session.commit()
        session.expire_all()
        assert (WAY, WAY) == (session.get(Walker, 1).way, session.get(Walker, 1).plain)  # type: ignore[union-attr]
        assert session.get(Walker, 3).way is None  # type: ignore[union-attr]
    with privacy.purpose("guide"), Session(engine) as session:
        session.add(Walker(id=4, way=HOME))
        with pytest.raises(InvalidValue, match="GeoTrack"):
            session.flush()

    sealed, empty = (
        bytes(way) for (way,) in raw_rows(database_url, "SELECT way FROM walkers WHERE id < 3 ORDER BY id")
    )
    assert len(sealed) == len(empty)
    assert HOME.pack() not in sealed
    assert [(WAY.pack(),)] == [
        (bytes(way),) for (way,) in raw_rows(database_url, "SELECT plain FROM walkers WHERE id = 1")
    ]

    privacy.purge(engine, privacy.plan(engine))
    assert [(1,)] == raw_rows(database_url, "SELECT id FROM walkers WHERE way IS NOT NULL")
    engine.dispose()


def test_a_track_is_not_read_without_its_purpose(privacy: Privacy, sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("guide"), Session(engine) as session:
        session.add(Walker(id=1, way=WAY))
        session.commit()
    with Session(engine) as session, pytest.raises(PurposeError):
        _ = session.query(Walker.way).all()
    engine.dispose()


@pytest.mark.parametrize(
    "marker",
    [
        lambda: Location(purposes={"guide": Cell(7)}),
        lambda: Location(purposes={"guide"}, then=Generalise(Cell(5))),
        lambda: Location(purposes={"guide"}, search=Nearby(8)),
    ],
)
def test_a_track_has_no_cell(marker: Callable[[], Location], tmp_path: Path) -> None:
    class Other(DeclarativeBase):
        pass

    class Runner(Other):
        __tablename__ = "runners"
        id: Mapped[int] = mapped_column(primary_key=True)
        way: Mapped[Annotated[GeoTrack | None, marker()]]
        left_at: Mapped[datetime | None]

    events(left="left_at")(not_personal("id", "left_at", because="row id and event time")(data_subject(Runner)))
    file = tmp_path / "walks.yaml"
    file.write_text(POLICY)
    with pytest.raises(PolicyError, match=r"only a location has|only for a location"):
        Privacy(policy=file, models=Other, keys=FileKeyring.create(tmp_path / "keys.json"), clock=lambda: NOW)

"""What is on disk, and what a read gives when the keys, the bytes, the engine or the purpose are wrong."""

import json
import sqlite3
import struct
import subprocess
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest
from sqlalchemy import JSON, create_engine, delete, func, insert, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from privkit import FileKeyring, GeoPoint, Personal, Privacy, PrivkitError, data_subject, events, not_personal
from privkit.errors import (
    KeyringError,
    NotProtectedError,
    PurposeError,
    SealedError,
    SearchError,
    ShreddedError,
)
from privkit.sqlalchemy.shred import destroy_keys
from tests.databases import Server, libpq, raw_rows
from tests.sqlalchemy.rides import SIGN_UP, Clock, Rider, RideService, Trip, ride_service, rider

PLACE = GeoPoint(48.137154, 11.576124)
EMAIL, NAME = "planted.person@rides.example", "Planted Person"


def needles() -> list[bytes]:
    """The planted values as text, as float bytes of either order, and as JSON."""
    found = [EMAIL.encode(), b"planted.person"]
    for degrees in (PLACE.lat, PLACE.lon):
        found += [repr(degrees).encode(), struct.pack("<d", degrees), struct.pack(">d", degrees)]
    return [*found, json.dumps([PLACE.lat, PLACE.lon]).encode(), b"1990-01-15"]


def plant(service: RideService) -> None:
    service.sign_up(rider(1, email=EMAIL, name=NAME, home=PLACE, trips=[Trip(start=PLACE)]))


def test_a_sqlite_file_and_its_wal_hold_no_planted_value(sqlite_url: str, tmp_path: Path) -> None:
    service = ride_service(sqlite_url, tmp_path, Clock())
    raw_rows(sqlite_url, "PRAGMA journal_mode=WAL")
    plant(service)
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    before = path.read_bytes() + Path(f"{path}-wal").read_bytes()
    raw_rows(sqlite_url, "PRAGMA wal_checkpoint(TRUNCATE)")
    assert [] == [needle for needle in needles() if needle in before or needle in path.read_bytes()]
    assert NAME.encode() in before  # an unsealed field stands there: the search does find what is stored plainly
    service.engine.dispose()


def test_a_dump_and_a_superuser_s_select_hold_no_planted_value(pg_url: str, pg_server: Server, tmp_path: Path) -> None:
    service = ride_service(pg_url, tmp_path, Clock())
    plant(service)
    command = [str(pg_server.program("pg_dump")), "--inserts", libpq(service.engine.url)]
    dump = subprocess.run(command, capture_output=True, check=True).stdout
    hexed = [needle.hex().encode() for needle in needles()]
    assert [] == [needle for needle in (*needles(), *hexed) if needle in dump]
    rows = b"".join(repr([*map(bytes_or_self, row)]).encode() for row in raw_rows(pg_url, "SELECT * FROM riders"))
    assert [] == [needle for needle in needles() if needle in rows]
    assert NAME.encode() in dump
    service.engine.dispose()


def bytes_or_self(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


@pytest.mark.parametrize("purpose", ["account", "receipts", "age_check", "navigation"])
def test_a_wrong_purpose_is_an_error_and_gives_nothing(service: RideService, purpose: str) -> None:
    plant(service)
    with service.privacy.purpose(purpose), Session(service.engine) as session:
        refuses(PurposeError, lambda: session.scalars(select(Rider.home)).all())
        refuses(PurposeError, lambda: session.get_one(Rider, 1).home)


def test_without_a_purpose_there_is_no_personal_data(service: RideService) -> None:
    plant(service)
    with Session(service.engine) as session:
        for field in (Rider.email, Rider.name, Rider.born, Rider.home):
            refuses(PurposeError, lambda field=field: session.scalars(select(field)).all())
            refuses(PurposeError, lambda field=field: getattr(session.get_one(Rider, 1), field.key))


def test_an_unprotected_engine_reads_and_writes_no_personal_data(service: RideService, database_url: str) -> None:
    plant(service)
    bare = create_engine(database_url)
    with service.privacy.purpose(*SIGN_UP), Session(bare) as session:
        refuses(NotProtectedError, lambda: session.scalars(select(Rider.home)).all())
        refuses(NotProtectedError, lambda: session.scalars(select(Rider.name)).all())
        refuses(NotProtectedError, lambda: session.execute(insert(Rider), [{"name": NAME, "country": "GB"}]))
    bare.dispose()


def test_another_keyring_opens_nothing(database_url: str, tmp_path: Path) -> None:
    service = ride_service(database_url, tmp_path, Clock())
    plant(service)
    (tmp_path / "other").mkdir()
    other = ride_service(database_url, tmp_path / "other", Clock())
    with other.privacy.purpose("pickup"), Session(other.engine) as session:
        refuses(SealedError, lambda: session.scalars(select(Rider.home)).all())
    with other.privacy.purpose(*SIGN_UP), Session(other.engine) as session:
        refuses(SealedError, lambda: session.scalars(select(Rider.id).where(Rider.email == EMAIL)).all())
        refuses(SealedError, lambda: session.execute(insert(Rider), [{"name": "N", "email": "e", "country": "GB"}]))
    service.engine.dispose()
    other.engine.dispose()


def test_a_missing_keyring_says_how_to_make_one(service: RideService, tmp_path: Path) -> None:
    plant(service)
    service.guard.keyring = FileKeyring(tmp_path / "gone.json")
    service.guard.keys.clear()
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        refusal = refuses(KeyringError, lambda: session.scalars(select(Rider.home)).all())
    assert "privkit keys init" in str(refusal)


@pytest.mark.parametrize("cut", [1, 17, 60])
def test_a14_a_truncated_value_is_an_error_and_never_returned(service: RideService, cut: int) -> None:
    plant(service)
    tamper(service, f"UPDATE riders SET home = substr(home, 1, length(home) - {cut}) WHERE id = 1")
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        refuses(SealedError, lambda: session.scalars(select(Rider.home)).all())
        refuses(SealedError, lambda: session.scalars(select(Rider)).one().home)


def test_a20_a_value_of_another_data_subject_does_not_open(service: RideService) -> None:
    plant(service)
    service.sign_up(rider(2))
    tamper(service, "UPDATE riders SET home = (SELECT home FROM riders WHERE id = 2) WHERE id = 1")
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        refusal = refuses(SealedError, lambda: session.scalars(select(Rider.home).where(Rider.id == 1)).all())
        assert "data subject" in str(refusal)
        assert session.get_one(Rider, 2).home == GeoPoint(51.5, 0.1)


def test_a20_a_value_of_another_data_subject_does_not_open_in_an_owned_row_either(service: RideService) -> None:
    plant(service)
    service.sign_up(rider(2))
    tamper(service, "UPDATE trips SET start = (SELECT start FROM trips WHERE rider_id = 2) WHERE rider_id = 1")
    with service.privacy.purpose("navigation"), Session(service.engine) as session:
        refuses(SealedError, lambda: session.scalars(select(Trip.start).where(Trip.rider_id == 1)).all())


def test_a20_two_swapped_columns_of_one_row_do_not_open(service: RideService) -> None:
    plant(service)
    tamper(service, "UPDATE riders SET home = email, email = home WHERE id = 1")
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        refuses(SealedError, lambda: session.scalars(select(Rider.home)).all())
    with service.privacy.purpose("account"), Session(service.engine) as session:
        refuses(SealedError, lambda: session.scalars(select(Rider.email)).all())


def test_a20_server_assigned_keys_key_changes_and_merge_still_work(service: RideService) -> None:
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        first = rider(1, trips=[])
        session.add(first)
        session.flush()
        assert first.id is not None
        first.id = 400  # the row's key id, not its primary key, binds its values
        session.commit()
        merged = session.merge(Rider(id=400, email="merged@rides.example", name="M", country="GB"))
        session.commit()
        assert merged.email == "merged@rides.example"


def test_a_shredded_value_says_so(service: RideService) -> None:
    plant(service)
    with service.engine.begin() as connection:
        key = connection.execute(select(Rider.__table__.c.privkit_key)).scalar_one()
        assert destroy_keys(connection, service.guard, [bytes(key)]) == 1
        assert destroy_keys(connection, service.guard, [bytes(key)]) == 0
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        refuses(ShreddedError, lambda: session.scalars(select(Rider.home)).all())
        session.rollback()
        refuses(ShreddedError, lambda: session.execute(update(Rider).where(Rider.id == 1).values(home=PLACE)))


def test_plain_text_of_another_program_does_not_get_into_a_sealed_column(
    service: RideService, database_url: str
) -> None:
    plant(service)
    plain = "'plain'" if service.engine.dialect.name == "sqlite" else "'plain'::bytea"
    with pytest.raises(Exception, match=r"(?i)check constraint"):
        raw_rows(database_url, f"UPDATE riders SET home = {plain}")


def test_a01_an_empty_text_comes_back_empty_and_null_stays_null(service: RideService, database_url: str) -> None:
    service.sign_up(rider(1, email="", home=None), rider(2, email=" "))
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        assert session.scalars(select(Rider.email).order_by(Rider.id)).all() == ["", " "]
        assert session.scalars(select(Rider.id).where(Rider.home.is_(None))).all() == [1]
        assert session.scalars(select(Rider.id).where(Rider.home.is_not(None))).all() == [2]
    stored = raw_rows(database_url, "SELECT email, home FROM riders ORDER BY id")
    assert stored[0][1] is None
    assert bytes(stored[0][0]) != bytes(stored[1][0])
    assert len(stored[0][0]) == 50


class Base(DeclarativeBase):
    pass


@data_subject
@events(gone="gone_at")
@not_personal("id", "gone_at", because="row id and event time")
class Diary(Base):
    __tablename__ = "diaries"
    id: Mapped[int] = mapped_column(primary_key=True)
    page: Mapped[Annotated[dict[str, Any] | None, Personal("user.content", purposes={"write"}, seal=True)]] = (
        mapped_column(JSON)
    )
    gone_at: Mapped[datetime | None]


@pytest.mark.parametrize("value", [{"a": 1}, {}, {"ключ": [1, 2.5, None, True, "x"]}, None])
def test_a05_a_sealed_json_value_has_its_own_type_on_every_load_path(
    database_url: str, tmp_path: Path, value: Any
) -> None:
    policy = tmp_path / "diary.yaml"
    policy.write_text(
        "privkit: 1\nnaive_datetimes: UTC\npurposes:\n"
        "  write: {description: Keep a diary, legal_basis: contract, keep: {for: P1D, after: gone}}\n"
    )
    privacy = Privacy(policy, Base, FileKeyring.create(tmp_path / "diary-keys.json"))
    engine = create_engine(database_url)
    privacy.protect(engine)
    Base.metadata.create_all(engine)
    with privacy.purpose("write"), Session(engine) as session:
        diary = Diary(id=1, page=value)
        session.add(diary)
        session.commit()
        assert diary.page == value
        session.expunge_all()
        loaded = session.get_one(Diary, 1)
        session.refresh(loaded)
        merged = session.merge(Diary(id=1, page=value))
        returned = session.scalars(insert(Diary).values(id=2, page=value).returning(Diary.page)).one()
        for found in (loaded.page, merged.page, returned, session.scalars(select(Diary.page)).first()):
            assert found == value
            assert type(found) is type(value)
    engine.dispose()


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, lambda stored: "\\x" + stored.hex()])
def test_a07_whatever_form_a_driver_hands_a_value_back_in_it_opens(service: RideService, form: Any) -> None:
    plant(service)
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        assert session.scalars(select(Rider.home)).one() == PLACE  # the key is in the cache now
        (stored,) = raw_rows(service.engine.url.render_as_string(hide_password=False), "SELECT home FROM riders")
        process = Rider.__table__.c.home.type.result_processor(service.engine.dialect, None)
        assert process(form(bytes(stored[0]))) == PLACE
        refuses(SealedError, lambda: process(17))
        refuses(SealedError, lambda: process("neither hex nor bytes"))


def test_a08_a_comparison_that_ciphertext_cannot_serve_is_an_error_when_it_is_built(service: RideService) -> None:
    for build in (
        lambda: Rider.home == PLACE,
        lambda: Rider.home != PLACE,
        lambda: Rider.home.in_([PLACE]),
        lambda: Rider.email.like("a%"),
        lambda: Rider.email > "a",
        lambda: Rider.email.desc(),
        lambda: select(Rider).filter_by(home=PLACE),
        lambda: Rider.email + "x",
    ):
        refusal = refuses(SearchError, build)
        assert "riders." in str(refusal)


def test_a08_equality_is_served_by_the_search_index(service: RideService) -> None:
    service.sign_up(rider(1, email="Straße@rides.example"), rider(2))
    with service.privacy.purpose("account"), Session(service.engine) as session:
        assert session.scalars(select(Rider.id).where(Rider.email == " STRASSE@RIDES.EXAMPLE")).all() == [1]
        assert session.scalars(select(Rider.id).filter_by(email="strasse@rides.example")).all() == [1]
        assert session.scalars(select(Rider.id).where(Rider.email != "strasse@rides.example")).all() == [2]
        assert session.scalars(select(Rider.id).where(Rider.email.in_(["strasse@rides.example", "x"]))).all() == [1]
        session.execute(update(Rider).where(Rider.id == 2).values(email="moved@rides.example"))
        assert session.scalars(select(Rider.id).where(Rider.email == "MOVED@rides.example")).all() == [2]


@pytest.mark.parametrize("born", [None, date(1970, 1, 1), date(1900, 1, 1)])
def test_d01_an_unknown_or_placeholder_birth_date_is_a_child_s(service: RideService, born: date | None) -> None:
    service.sign_up(rider(1, born=born, home=None, trips=[]), rider(2))
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        assert session.scalars(select(Rider.id)).all() == [2]
        assert session.scalar(select(func.count(Rider.id))) == 1


def test_d01_a_birth_date_in_the_future_is_refused(service: RideService) -> None:
    with pytest.raises(PrivkitError, match="future"):
        service.sign_up(rider(1, born=date(2031, 1, 1), trips=[]))


def test_a_child_who_moves_to_a_stricter_country_is_a_child_again(service: RideService) -> None:
    service.sign_up(rider(1, born=date(2012, 6, 1), trips=[]))  # 13 in the United Kingdom is old enough
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        assert session.scalars(select(Rider.id)).all() == [1]
    with Session(service.engine) as session:
        session.get_one(Rider, 1).country = "DE"
        session.commit()
    with service.privacy.purpose("pickup"), Session(service.engine) as session:
        assert session.scalars(select(Rider.id)).all() == []


def test_g08_core_engine_and_text_are_enforced_or_refused(service: RideService) -> None:
    pandas = pytest.importorskip("pandas")
    plant(service)
    columns = Rider.__table__.c
    with service.engine.connect() as connection:
        for statement in (select(Rider), select(columns.home), select(Rider.__table__), select(func.max(columns.name))):
            refuses(PrivkitError, lambda statement=statement: connection.execute(statement).all())
            refuses(PrivkitError, lambda statement=statement: pandas.read_sql(statement, connection))
        for words in ("SELECT home FROM riders", "SELECT * FROM riders", "SELECT upper(name) FROM riders r"):
            refuses(PrivkitError, lambda words=words: connection.execute(text(words)).all())
            refuses(PrivkitError, lambda words=words: connection.exec_driver_sql(words).all())
        refuses(PurposeError, lambda: connection.execute(delete(Rider).where(Rider.name == NAME)))
    with service.privacy.purpose("pickup"), service.engine.connect() as connection:
        assert pandas.read_sql(select(columns.home), connection)["home"].tolist() == [PLACE]


def refuses(kind: type[PrivkitError], act: Any) -> PrivkitError:
    """Assert that ``act`` raises a coded error of this kind that shows no planted value, and return it."""
    with pytest.raises(kind) as caught:
        act()
    shown = f"{caught.value!s} {caught.value!r} {caught.value.data!r}"
    assert caught.value.code.startswith("PK")
    assert [] == [value for value in (EMAIL, NAME, str(PLACE.lat), "1990") if value in shown]
    return caught.value


def tamper(service: RideService, statement: str) -> None:
    """Change stored bytes as another program with rights on the tables would, past the CHECK."""
    url = service.engine.url.render_as_string(hide_password=False)
    if service.engine.dialect.name == "sqlite":
        _tamper_sqlite(url, statement)
    else:
        for table, column in (("riders", "home"), ("riders", "email"), ("trips", "start")):
            raw_rows(url, f"ALTER TABLE {table} DROP CONSTRAINT IF EXISTS privkit_{table}_{column}_sealed")
        raw_rows(url, statement)


def _tamper_sqlite(url: str, statement: str) -> None:
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("PRAGMA ignore_check_constraints=1")
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize("rolled_back", [True, False])
def test_a_new_object_keeps_its_values_until_its_row_is_committed(service: RideService, rolled_back: bool) -> None:
    new = rider(1)
    with Session(service.engine, expire_on_commit=False) as session:
        with service.privacy.purpose(*SIGN_UP):
            session.add(new)
            session.flush()
        if rolled_back:
            session.rollback()
            with service.privacy.purpose(*SIGN_UP):
                session.add(new)
                session.flush()
        session.commit()
        assert not {"name", "email", "home", "born"} & vars(new).keys()

    with service.privacy.purpose("account"), Session(service.engine) as session:
        assert [("Rider 1", "rider1@rides.example")] == session.execute(select(Rider.name, Rider.email)).all()

"""Documents whose keys are in a database: erasing the data subject makes them unreadable wherever they lie."""

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import pytest
from sqlalchemy import Engine, create_engine, delete, event, select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from privkit import FileKeyring, NotPersonal, Personal, Privacy, events
from privkit.errors import (
    ConsentRequired,
    InvalidValue,
    MappingError,
    NotProtectedError,
    SealedError,
    ShreddedError,
)
from privkit.purposes import internally
from privkit.pydantic import PersonalModel
from tests.sqlalchemy.rides import POLICY, Base, Clock, Rider, RideService, ride_service, rider
from tests.sqlalchemy.tracks import Carrier, track_service

EMAIL = "ada.lovelace@x.example"


@events(account_closed="closed_at")
class Settings(PersonalModel):
    closed_at: Annotated[datetime | None, NotPersonal("event time")] = None
    email: Annotated[str | None, Personal("user.contact.email", purposes={"account", "receipts"})] = None


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[RideService]:
    found = ride_service(database_url, tmp_path, Clock())
    yield found
    found.engine.dispose()


def key_id(service: RideService, number: int) -> bytes:
    with internally(), service.engine.connect() as connection:
        return bytes(connection.execute(select(Rider.__table__.c.privkit_key).where(Rider.id == number)).scalar_one())


def stored(service: RideService, subject: object, engine: Engine | None = None) -> bytes:
    with service.privacy.purpose("account"):
        return service.privacy.document(Settings, keys=engine).dumps(Settings(email=EMAIL), subject=subject)


def read(service: RideService, data: bytes, subject: object, *names: str) -> str | None:
    with service.privacy.purpose(*(names or ("account",))):
        return service.privacy.document(Settings).loads(data, subject=subject).email


def test_a_document_is_sealed_under_the_key_of_its_data_subject(service: RideService) -> None:
    service.sign_up(rider(1), rider(2))
    data = stored(service, key_id(service, 1))
    assert key_id(service, 1).hex().encode() in data
    assert EMAIL == read(service, data, key_id(service, 1))
    with pytest.raises(SealedError, match="another data subject"):
        read(service, data, key_id(service, 2))


def test_a_mapped_object_is_a_data_subject_too(service: RideService) -> None:
    service.sign_up(rider(1))
    with service.privacy.purpose("account"), Session(service.engine) as session:
        ada = session.get(Rider, 1)
        assert EMAIL == read(service, stored(service, ada), key_id(service, 1))
    with pytest.raises(MappingError, match="not a data subject"):
        stored(service, "ada")
    with pytest.raises(InvalidValue, match="row"):
        stored(service, rider(9))


def test_erasing_the_data_subject_shreds_its_documents(service: RideService) -> None:
    service.sign_up(rider(1), rider(2))
    one, two = key_id(service, 1), key_id(service, 2)
    mine, theirs = stored(service, one), stored(service, two)
    service.privacy.erase(service.engine, one, by="ada")
    for attempt in (lambda: read(service, mine, one), lambda: stored(service, one)):
        with pytest.raises(ShreddedError):
            attempt()
    assert EMAIL == read(service, theirs, two)


def test_another_process_finds_it_shredded_too(service: RideService, database_url: str, tmp_path: Path) -> None:
    service.sign_up(rider(1))
    one = key_id(service, 1)
    data = stored(service, one)
    service.privacy.erase(service.engine, one, by="ada")
    other = ride_service(database_url, tmp_path, Clock())
    with pytest.raises(ShreddedError, match="key of this data subject was destroyed"):
        read(other, data, one)
    other.engine.dispose()


def test_a_key_that_the_database_does_not_know_is_no_destroyed_one(service: RideService) -> None:
    service.sign_up(rider(1))
    data = stored(service, key_id(service, 1))
    with pytest.raises(SealedError, match="has no key of this data subject") as info:
        read(service, data, bytes(16))
    assert not isinstance(info.value, ShreddedError)


def test_another_database_of_the_same_keyring_does_not_open_it(service: RideService, tmp_path: Path) -> None:
    service.sign_up(rider(1))
    data = stored(service, key_id(service, 1))
    other = ride_service(f"sqlite:///{tmp_path / 'other.sqlite'}", tmp_path, Clock())
    other.sign_up(rider(1))
    with pytest.raises(SealedError):
        read(other, data, key_id(other, 1))
    other.engine.dispose()


def test_rotated_and_rolled_keys_still_open_documents(service: RideService) -> None:
    service.sign_up(rider(1))
    one = key_id(service, 1)
    data = stored(service, one)
    service.privacy.roll_keys(service.engine)
    service.guard.keys.clear()
    assert EMAIL == read(service, data, one)


def test_a_childs_document_needs_consent_like_its_row(service: RideService) -> None:
    service.sign_up(rider(1, born=date(2015, 5, 5), home=None, trips=[]))
    one = key_id(service, 1)
    with pytest.raises(ConsentRequired, match="document is about a child"):
        stored(service, one)
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        given = {"guardian": "g-17", "method": "signed_form"}
        service.privacy.consent.grant(session, subject=session.get(Rider, 1), purposes={"account"}, **given)
        session.commit()
    data = stored(service, one)
    assert EMAIL == read(service, data, one)
    with pytest.raises(ConsentRequired):
        read(service, data, one, "receipts")


def test_somebody_who_left_no_row_may_be_a_child(service: RideService) -> None:
    service.sign_up(rider(1, trips=[]))
    one = key_id(service, 1)
    data = stored(service, one)
    with internally(), service.engine.begin() as connection:
        connection.execute(delete(Rider))
    with pytest.raises(ConsentRequired):
        read(service, data, one)


@events(left="left_at")
class Badge(PersonalModel):
    left_at: Annotated[datetime | None, NotPersonal("event time")] = None
    name: Annotated[str, Personal("user.name", purposes={"contact"})] = ""


def test_a_cached_key_opens_without_a_query_where_nobody_is_a_child(tmp_path: Path) -> None:
    carriers = track_service(f"sqlite:///{tmp_path / 'tracks.sqlite'}", tmp_path, Clock())
    with internally(), carriers.engine.connect() as connection:
        subject = bytes(connection.execute(select(Carrier.__table__.c.privkit_key).limit(1)).scalar_one())
    badges, statements = carriers.privacy.document(Badge), []
    event.listen(carriers.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    with carriers.privacy.purpose("contact"):
        stored = badges.dumps(Badge(name="Ada"), subject=subject)
        assert all("privkit_key" in statement for statement in statements)  # a destroyed key is not sealed with
        statements.clear()
        for _ in range(3):
            assert "Ada" == badges.loads(stored, subject=subject).name
    assert [] == statements
    carriers.engine.dispose()


def test_the_engine_has_to_be_named_where_several_are_protected(service: RideService, tmp_path: Path) -> None:
    service.sign_up(rider(1))
    other = create_engine(f"sqlite:///{tmp_path / 'second.sqlite'}")
    service.privacy.protect(other)
    with pytest.raises(NotProtectedError, match="2 plain engines are protected"):
        service.privacy.document(Settings)
    assert stored(service, key_id(service, 1), service.engine)
    other.dispose()


def test_without_a_plain_engine_there_is_no_place_of_keys(tmp_path: Path) -> None:
    keys = FileKeyring.create(tmp_path / "keys.json")
    privacy = Privacy(policy=POLICY, models=Base, keys=keys)
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'test.sqlite'}")
    privacy.protect(engine)
    for keys_of in (None, engine):
        with pytest.raises(NotProtectedError):
            privacy.document(Settings, keys=keys_of)  # type: ignore[arg-type]

"""What is looked up once and used for many values: it never outlives the purpose, the key or the row it was for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session, aliased

from privkit import GeoPoint
from privkit.errors import PurposeError, SealedError, ShreddedError
from privkit.sqlalchemy.shred import destroy_keys
from tests.databases import raw_rows
from tests.sqlalchemy.rides import SIGN_UP, Rider, RideService, rider

HOME = GeoPoint(48.137154, 11.576124)


@pytest.fixture
def warm(service: RideService) -> RideService:
    """A service whose keys and statements were all used before."""
    service.sign_up(*(rider(number, home=HOME) for number in range(1, 4)))
    with service.privacy.purpose(*SIGN_UP), Session(service.engine) as session:
        for each in session.scalars(select(Rider)):
            assert each.email.endswith("@rides.example")
    return service


def test_a_result_that_outlives_its_purpose_gives_no_more_values(warm: RideService) -> None:
    with warm.engine.connect() as connection:
        with warm.privacy.purpose("pickup"):
            result = connection.execute(select(Rider.__table__.c.home))
            assert HOME == next(result)[0]
        with pytest.raises(PurposeError):
            result.all()


def test_a_result_that_moves_to_another_purpose_is_held_to_that_one(warm: RideService) -> None:
    with warm.engine.connect() as connection:
        with warm.privacy.purpose("pickup"):
            result = connection.execute(select(Rider.__table__.c.home))
            exact = result.fetchone()
        with warm.privacy.purpose("demand_map"):
            coarse = result.fetchone()
        with warm.privacy.purpose("account"), pytest.raises(PurposeError):
            result.fetchone()
    assert exact is not None
    assert coarse is not None
    assert HOME == exact[0]
    assert HOME != coarse[0]


def test_a_nested_purpose_narrows_what_the_outer_one_showed_a_moment_ago(warm: RideService) -> None:
    with warm.privacy.purpose("pickup"), Session(warm.engine) as session:
        found = session.get_one(Rider, 1)
        assert HOME == found.home
        with warm.privacy.purpose("account"), pytest.raises(PurposeError):
            found.home  # noqa: B018
        assert HOME == found.home


def test_an_object_shows_nothing_in_a_thread_without_a_purpose(warm: RideService) -> None:
    seen: list[Any] = []

    def look(found: Rider) -> None:
        try:
            seen.append(found.home)
        except PurposeError:
            seen.append("refused")

    with warm.privacy.purpose("pickup"), Session(warm.engine) as session:
        found = session.get_one(Rider, 1)
        assert HOME == found.home
        thread = threading.Thread(target=look, args=(found,))
        thread.start()
        thread.join()

    assert ["refused"] == seen


async def test_a_task_that_outlives_the_block_it_was_made_in_sees_nothing(warm: RideService) -> None:
    ended = asyncio.Event()

    async def later(found: Rider) -> Any:
        before = found.home
        await ended.wait()
        try:
            return before, found.home
        except PurposeError:
            return before, "refused"

    with Session(warm.engine) as session:
        with warm.privacy.purpose("pickup"):
            found = session.get_one(Rider, 1)
            task = asyncio.create_task(later(found))
            await asyncio.sleep(0)
        ended.set()
        assert (HOME, "refused") == await task


@pytest.mark.parametrize("place", [2, 19, 22])  # suite, and the first and last byte of the epoch; counted from 1
def test_a_header_that_was_changed_does_not_open_although_its_key_is_at_hand(warm: RideService, place: int) -> None:
    ((stored,),) = raw_rows(str_url(warm), "SELECT home FROM riders WHERE id = 2")
    changed = bytearray(bytes(stored))
    changed[place - 1] ^= 1
    literal = literal_of(warm, bytes(changed))
    raw_rows(str_url(warm), f"UPDATE riders SET home = {literal} WHERE id = 2")

    with warm.privacy.purpose("pickup"), Session(warm.engine) as session:
        assert HOME == session.scalars(select(Rider.home).where(Rider.id == 1)).one()
        with pytest.raises(SealedError):
            session.scalars(select(Rider.home).where(Rider.id == 2)).one()


def test_a_key_that_another_process_destroyed_opens_nothing_once_it_is_too_old(warm: RideService) -> None:
    ((key_id,),) = raw_rows(str_url(warm), "SELECT privkit_key FROM riders WHERE id = 1")
    raw_rows(str_url(warm), f"UPDATE privkit_key SET wrapped = NULL WHERE id = {literal_of(warm, bytes(key_id))}")

    with later(warm, 301), warm.privacy.purpose("pickup"), Session(warm.engine) as session:
        with pytest.raises(ShreddedError):
            session.scalars(select(Rider.home).where(Rider.id == 1)).one()
        assert HOME == session.scalars(select(Rider.home).where(Rider.id == 2)).one()


def test_a_page_that_was_read_in_time_is_opened_to_its_end_although_its_keys_grow_old(warm: RideService) -> None:
    with warm.privacy.purpose("pickup"), Session(warm.engine) as session:
        result = session.execute(select(Rider.home))
        with later(warm, 301):
            warm.guard.keys.drop_expired()
            assert [HOME] * 3 == result.scalars().all()


def test_a_key_destroyed_here_opens_nothing_in_a_page_that_was_already_read(warm: RideService) -> None:
    with warm.privacy.purpose("pickup"), Session(warm.engine) as session:
        result = session.execute(select(Rider.home))
        with warm.engine.begin() as other:
            ((key_id,),) = raw_rows(str_url(warm), "SELECT privkit_key FROM riders WHERE id = 3")
            destroy_keys(other, warm.guard, [bytes(key_id)])
        with pytest.raises(SealedError):
            result.all()


def test_a_remembered_condition_is_the_alias_s_own(warm: RideService) -> None:
    other = aliased(Rider)
    both = select(func.count()).select_from(Rider).join(other, other.id == Rider.id)
    with warm.privacy.purpose("account", "receipts"), Session(warm.engine) as session:
        for _ in range(2):
            statement = both.where(Rider.email == "rider1@rides.example", other.email == "rider1@rides.example")
            assert 1 == session.scalar(statement)
            compiled = str(statement.compile(warm.engine))
            assert "riders.email_ix" in compiled
            assert "riders_1.email_ix" in compiled
            assert compiled.count("riders.closed_at >") == compiled.count("riders_1.closed_at >") == 1


def test_an_update_seals_each_row_under_a_nonce_of_its_own(warm: RideService) -> None:
    with warm.privacy.purpose("pickup"), Session(warm.engine) as session:
        session.execute(update(Rider), [{"id": number, "home": HOME} for number in (1, 2, 3)])
        session.commit()
    stored = [bytes(value) for (value,) in raw_rows(str_url(warm), "SELECT home FROM riders")]

    assert 3 == len({value[22:34] for value in stored})


def str_url(service: RideService) -> str:
    return service.engine.url.render_as_string(hide_password=False)


def literal_of(service: RideService, value: bytes) -> str:
    return f"x'{value.hex()}'" if service.engine.dialect.name == "sqlite" else f"'\\x{value.hex()}'"


@contextmanager
def later(service: RideService, seconds: float) -> Iterator[None]:
    """Let the key cache believe that time has passed."""
    cache = service.guard.keys
    before = cache._monotonic
    cache._monotonic = lambda: before() + seconds
    try:
        yield
    finally:
        cache._monotonic = before

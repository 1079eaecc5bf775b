"""A purpose is in force in its own block only: no task that outlives it, and no waiting generator, keeps it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from privkit import FileKeyring, Privacy, purposes
from privkit.errors import MappingError
from tests.sqlalchemy.rides import POLICY, Base


@pytest.fixture
def privacy(tmp_path: Path) -> Privacy:
    return Privacy(POLICY, Base, FileKeyring(tmp_path / "keys.json"))


def names() -> tuple[str, ...]:
    scope = purposes.current()
    return scope.names if scope is not None else ()


def test_a_suspended_generator_does_not_leave_its_purpose_to_its_caller(privacy: Privacy) -> None:
    seen = []

    def rides() -> Iterator[int]:
        with privacy.purpose("pickup"):
            seen.append(names())
            yield 1
            seen.append(names())
            yield 2

    generator = rides()
    assert next(generator) == 1
    assert names() == ()
    with privacy.purpose("account"):
        assert names() == ("account",)
        assert next(generator) == 2
        assert names() == ("account",)
    generator.close()
    assert names() == ()
    assert seen == [("pickup",), ("account",)]  # resumed inside a block, it works under that block


def test_nor_does_a_generator_that_opens_it_through_an_exit_stack(privacy: Privacy) -> None:
    def rides() -> Iterator[tuple[str, ...]]:
        with ExitStack() as stack:
            stack.enter_context(privacy.purpose("pickup"))
            yield names()

    for inside in rides():
        assert (("pickup",), ()) == (inside, names())


async def test_a_suspended_async_generator_does_not_either(privacy: Privacy) -> None:
    async def rides() -> AsyncIterator[tuple[str, ...]]:
        with privacy.purpose("pickup"):
            yield names()

    async for inside in rides():
        assert inside == ("pickup",)
        assert names() == ()
    assert names() == ()


async def test_a_task_that_outlives_the_block_has_no_purpose(privacy: Privacy) -> None:
    leave = asyncio.Event()

    async def later() -> tuple[str, ...]:
        await leave.wait()
        return names()

    with privacy.purpose("pickup"):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    leave.set()
    assert await task == ()


async def test_one_block_object_serves_two_tasks_at_once(privacy: Privacy) -> None:
    block = privacy.purpose("pickup")
    inside, gone = asyncio.Event(), asyncio.Event()

    async def first() -> tuple[tuple[str, ...], tuple[str, ...]]:
        with block:
            await inside.wait()
            before = names()
        gone.set()
        return before, names()

    async def second() -> tuple[str, ...]:
        with block:
            inside.set()
            await gone.wait()
            return names()

    assert await asyncio.gather(first(), second()) == [(("pickup",), ()), ("pickup",)]


def test_a_generator_cannot_be_decorated(privacy: Privacy) -> None:
    def rides() -> Iterator[int]:
        yield 1

    with pytest.raises(MappingError):
        privacy.purpose("pickup")(rides)


async def test_a_cancelled_task_leaves_no_purpose(privacy: Privacy) -> None:
    seen: list[tuple[str, ...]] = []

    async def waits() -> None:
        try:
            with privacy.purpose("pickup"):
                await asyncio.sleep(60)
        finally:
            seen.append(names())

    task = asyncio.create_task(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [()] == seen
    assert () == names()


async def test_a_task_that_outlives_the_block_is_told_why(privacy: Privacy) -> None:
    async def later() -> str:
        await asyncio.sleep(0)
        return purposes.how_to_open({"pickup"})

    with privacy.purpose("pickup"):
        task = asyncio.create_task(later())
    assert "a task loses the one it began with when that block ends" in await task
    assert "Wrap it:  with privacy.purpose('pickup'): ...   (allowed: pickup)" == purposes.how_to_open({"pickup"})

"""A provider is never asked from a thread that runs an event loop, SQLAlchemy's greenlets included."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.util import greenlet_spawn

from privkit.crypto import KmsKeyring, SubjectKey
from privkit.errors import KeyringError
from tests.crypto.services import Aws


class Elapsed:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def key(aws: Aws, path: Path) -> str:
    """The KMS key of a keyring that exists."""
    key = aws.new_key()
    KmsKeyring.create(path, key, client=aws.client)
    aws.seen.clear()
    return key


async def test_a_cold_secret_on_the_loop_is_refused_and_nothing_is_asked(aws: Aws, path: Path, key: str) -> None:
    keyring = KmsKeyring(path, key, client=aws.client)

    for attempt in (lambda: keyring.secret("index"), keyring.add_generation):
        with pytest.raises(KeyringError, match=r"runs an event loop[\s\S]*await keyring.prefetch\(\)") as caught:
            attempt()

    assert (None, None) == (caught.value.__cause__, caught.value.__context__)
    assert 0 == aws.seen.total()
    assert {} == keyring.calls


async def test_a_greenlet_runs_on_the_loop_too_so_it_is_refused_there_until_prefetched(
    aws: Aws, path: Path, key: str
) -> None:
    keyring = KmsKeyring(path, key, client=aws.client)
    with pytest.raises(KeyringError, match="runs an event loop"):
        await greenlet_spawn(keyring.secret, "index")

    await keyring.prefetch()

    assert 32 == len(await greenlet_spawn(keyring.secret, "index"))


async def test_prefetching_asks_once_for_each_secret_and_not_on_the_loop(aws: Aws, path: Path, key: str) -> None:
    keyring, subject, ticks = KmsKeyring(path, key, client=aws.client), SubjectKey.new(), 0
    aws.gate.clear()
    prefetching = [asyncio.create_task(keyring.prefetch()) for _ in range(5)]
    while ticks < 50 or not aws.seen["Decrypt"]:
        await asyncio.sleep(0.001)
        ticks += 1
    aws.gate.set()
    await asyncio.gather(*prefetching)

    assert subject.secret == keyring.unwrap(subject.id, keyring.wrap(subject.id, subject.secret)).secret
    await keyring.prefetch()
    assert 2 == aws.seen["Decrypt"]


async def test_prefetching_renews_in_the_second_half_of_a_secrets_life(aws: Aws, path: Path, key: str) -> None:
    elapsed = Elapsed()
    keyring = KmsKeyring(path, key, client=aws.client, max_age=timedelta(seconds=100), monotonic=elapsed)
    await keyring.prefetch()
    elapsed.seconds = 49
    await keyring.prefetch()
    assert 2 == aws.seen["Decrypt"]

    elapsed.seconds = 50
    await keyring.prefetch()
    assert 4 == aws.seen["Decrypt"]

    elapsed.seconds = 149
    assert 32 == len(keyring.secret("index"))
    elapsed.seconds = 150
    with pytest.raises(KeyringError, match="runs an event loop"):
        keyring.secret("index")


async def test_what_prefetching_cannot_get_is_an_error(aws: Aws, path: Path, key: str) -> None:
    keyring = KmsKeyring(path, key, client=aws.client)
    aws.fault = lambda _: "ThrottlingException"

    with pytest.raises(KeyringError, match="throttled"):
        await keyring.prefetch()
    with pytest.raises(KeyringError, match="throttled"):
        async with keyring.warm():
            pytest.fail("the block was entered")


async def test_a_warm_keyring_follows_a_rotation_elsewhere(aws: Aws, path: Path, key: str) -> None:
    keyring = KmsKeyring(path, key, client=aws.client)
    elsewhere, subject = KmsKeyring(path, key, client=aws.client), SubjectKey.new()
    async with keyring.warm():
        await asyncio.to_thread(elsewhere.add_generation)
        wrapped = elsewhere.wrap(subject.id, subject.secret)
        for _ in range(200):
            if keyring.calls["unwrap"] > 2:
                break
            await asyncio.sleep(0.05)

        assert 2 == keyring.generation
        assert subject.secret == keyring.unwrap(subject.id, wrapped).secret


async def test_a_warm_keyring_outlives_a_failure_and_stops_asking_at_its_end(aws: Aws, path: Path, key: str) -> None:
    elapsed = Elapsed()
    keyring = KmsKeyring(path, key, client=aws.client, max_age=timedelta(seconds=100), monotonic=elapsed)
    answers = iter(["ThrottlingException"])
    async with keyring.warm():
        elapsed.seconds = 60
        aws.fault = lambda _: next(answers, None)
        for _ in range(400):
            if keyring.calls["unwrap"] >= 5:
                break
            await asyncio.sleep(0.05)
        elapsed.seconds = 159
        assert 32 == len(keyring.secret("index"))

    assert 1 == keyring.calls["failed"]
    assert 1 == len([task for task in asyncio.all_tasks() if not task.done()])


async def test_a_worker_thread_of_the_loop_may_ask(aws: Aws, path: Path, key: str) -> None:
    keyring = KmsKeyring(path, key, client=aws.client)

    assert 32 == len(await asyncio.to_thread(keyring.secret, "index"))
    assert 2 == await asyncio.to_thread(keyring.add_generation)
    assert threading.main_thread() is threading.current_thread()

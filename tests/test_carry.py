"""``carry`` hands a purpose to threads and executors while its block is open, and to nobody else."""

import asyncio
import multiprocessing
import pickle
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from privkit import FileKeyring, Privacy, carry, purposes
from privkit.errors import MappingError, PurposeError
from tests.sqlalchemy.rides import POLICY, Base, Clock, Rider, RideService, ride_service, rider


@pytest.fixture
def privacy(tmp_path: Path) -> Privacy:
    return Privacy(POLICY, Base, FileKeyring(tmp_path / "keys.json"))


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[RideService]:
    found = ride_service(database_url, tmp_path, Clock())
    found.sign_up(rider(1))
    yield found
    found.engine.dispose()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def names() -> tuple[str, ...]:
    scope = purposes.current()
    return scope.names if scope is not None else ()


def test_g09_work_in_an_executor_is_denied_and_told_about_carry(service: RideService, pool: ThreadPoolExecutor) -> None:
    def email() -> str | None:
        with Session(service.engine) as session:
            return session.scalars(select(Rider.email)).one()

    with service.privacy.purpose("account"):
        with pytest.raises(PurposeError, match=r"pool\.submit\(privkit\.carry\(work\)"):
            pool.submit(email).result()
        assert "rider1@rides.example" == pool.submit(carry(email)).result()
        assert "rider1@rides.example" == pool.submit(service.privacy.carry(email)).result()
    with pytest.raises(PurposeError):
        pool.submit(email).result()


async def test_g09_run_in_executor_gets_nothing_and_to_thread_gets_the_purpose(privacy: Privacy) -> None:
    loop = asyncio.get_running_loop()
    with privacy.purpose("pickup"):
        assert () == await loop.run_in_executor(None, names)
        assert ("pickup",) == await loop.run_in_executor(None, carry(names))
        assert ("pickup",) == await asyncio.to_thread(names)
    assert () == await loop.run_in_executor(None, names)


def test_g09_a_thread_gets_the_purpose_only_by_carry(privacy: Privacy) -> None:
    seen: list[tuple[str, ...]] = []
    with privacy.purpose("pickup"):
        for target in (lambda: seen.append(names()), carry(lambda: seen.append(names()))):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert [(), ("pickup",)] == seen


def test_one_carried_function_serves_many_threads_at_once_and_leaves_none_with_a_purpose(
    privacy: Privacy, pool: ThreadPoolExecutor
) -> None:
    both = threading.Barrier(2)

    def meet(_: int) -> tuple[str, ...]:
        both.wait()
        return names()

    with privacy.purpose("pickup"):
        assert [("pickup",)] * 8 == list(pool.map(carry(meet), range(8)))
        assert [(), ()] == list(pool.map(meet, range(2)))


def test_a_call_after_the_block_is_refused(privacy: Privacy, pool: ThreadPoolExecutor) -> None:
    with privacy.purpose("pickup"):
        carried = carry(names)
    with pytest.raises(PurposeError, match="after its block had ended"):
        pool.submit(carried).result()
    with privacy.purpose("pickup"), pytest.raises(PurposeError, match="after its block had ended"):
        carried()


def test_a_call_that_outlives_the_block_goes_on_without_the_purpose(privacy: Privacy, pool: ThreadPoolExecutor) -> None:
    began, gone = threading.Event(), threading.Event()

    def work() -> tuple[tuple[str, ...], tuple[str, ...]]:
        before = names()
        inner = carry(names)
        began.set()
        gone.wait()
        with pytest.raises(PurposeError):
            inner()
        return before, names()

    with privacy.purpose("pickup"):
        waiting = pool.submit(carry(work))
        began.wait()
    gone.set()
    assert (("pickup",), ()) == waiting.result()


def test_a_failing_call_leaves_the_thread_without_a_purpose(privacy: Privacy) -> None:
    with ThreadPoolExecutor(1) as one, privacy.purpose("pickup"):
        with pytest.raises(ZeroDivisionError):
            one.submit(carry(lambda: 1 / 0)).result()
        assert () == one.submit(names).result()


def test_nested_purposes_are_carried_together_and_narrow_the_workers_own(
    privacy: Privacy, pool: ThreadPoolExecutor
) -> None:
    def groups() -> tuple[tuple[str, ...], ...]:
        scope = purposes.current()
        return scope.groups if scope is not None else ()

    def under_another() -> tuple[tuple[str, ...], ...]:
        with privacy.purpose("receipts"):
            return carried()

    with privacy.purpose("account"), privacy.purpose("pickup", "navigation"):
        carried = carry(groups)
        assert (("account",), ("pickup", "navigation")) == pool.submit(carried).result()
        assert (("receipts",), ("account",), ("pickup", "navigation")) == pool.submit(under_another).result()


def test_what_a_generator_carried_runs_while_the_generator_waits(privacy: Privacy, pool: ThreadPoolExecutor) -> None:
    def batches() -> Iterator[tuple[str, ...]]:
        with privacy.purpose("pickup"):
            waiting = pool.submit(carry(names))
            yield ()
            yield waiting.result()

    assert [(), ("pickup",)] == list(batches())


async def test_a_coroutine_function_is_carried_to_the_loop_of_another_thread(privacy: Privacy) -> None:
    async def later() -> tuple[str, ...]:
        await asyncio.sleep(0)
        return names()

    with privacy.purpose("pickup"):
        carried = carry(later)
        assert ("pickup",) == await asyncio.to_thread(lambda: threading_loop(carried))
    with pytest.raises(PurposeError):
        await carried()


def threading_loop(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(function())))
    thread.start()
    thread.join()
    return found[0]


def test_without_a_purpose_there_is_nothing_to_carry(privacy: Privacy) -> None:
    with pytest.raises(PurposeError, match="nothing to hand over"):
        carry(names)
    with purposes.internally(), pytest.raises(PurposeError):
        carry(names)


def test_a_generator_function_cannot_be_carried(privacy: Privacy) -> None:
    def rides() -> Iterator[int]:
        yield 1

    with privacy.purpose("pickup"), pytest.raises(MappingError):
        carry(rides)


def test_g09_a_purpose_does_not_go_into_a_pickle_or_a_process_pool(privacy: Privacy) -> None:
    with privacy.purpose("pickup"), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        with pytest.raises(PurposeError, match="open the purpose there"):
            pickle.dumps(carry(names))
        with pytest.raises(PurposeError, match="open the purpose there"):
            pickle.dumps(purposes.active())
        with pytest.raises(PurposeError, match="open the purpose there"):
            processes.submit(carry(names)).result()
        assert () == processes.submit(names).result()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_g09_a_forked_child_starts_without_the_purpose_and_cannot_be_handed_one(privacy: Privacy) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(carried())
        except PurposeError as error:
            answers.put(error.what)

    with privacy.purpose("pickup"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads of other tests
        carried = carry(names)
        for work in (lambda: answers.put(names()), ask):
            child = context.Process(target=work)
            child.start()
            child.join()
        assert [(), "A purpose cannot be carried to another process."] == [answers.get(), answers.get()]
        assert ("pickup",) == names()


def test_g11_a_thread_of_a_service_has_no_purpose_unless_it_opens_one(service: RideService) -> None:
    refused: list[str] = []

    def work() -> None:
        try:
            with Session(service.engine) as session:
                session.scalars(select(Rider.email)).all()
        except PurposeError as error:
            refused.append(error.what)

    with service.privacy.purpose("account"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert ["riders.email is personal data and no purpose is set."] == refused


def test_g12_a_block_that_is_left_in_another_thread_is_an_error_and_leaks_nothing(
    privacy: Privacy, pool: ThreadPoolExecutor
) -> None:
    block = privacy.purpose("pickup")
    block.__enter__()
    with pytest.raises(PurposeError, match="another context"):
        pool.submit(block.__exit__, None, None, None).result()
    assert () == pool.submit(names).result()
    block.__exit__(None, None, None)
    assert () == names()

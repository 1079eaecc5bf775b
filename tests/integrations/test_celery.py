"""Celery with a broker in memory and a worker in a thread: purposes travel by name, personal objects not at all."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest
from celery import Celery, chain
from celery.contrib.testing.worker import start_worker
from sqlalchemy import select
from sqlalchemy.orm import Session

from privkit import FileKeyring, GeoPoint, Personal, Privacy, purposes
from privkit.errors import InvalidValue, MappingError, PolicyError, PurposeError
from privkit.integrations.celery import HEADER, PurposeTask, install, with_purpose
from privkit.pydantic import PersonalModel
from tests.sqlalchemy.rides import POLICY, Base, Clock, Rider, ride_service, rider

EMAIL = "rider1@rides.example"
SECONDS = 30


class Form(PersonalModel):
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})]


def names() -> list[list[str]]:
    scope = purposes.current()
    return [list(group) for group in scope.groups] if scope is not None else []


class Tasks:
    """The application, its tasks, and what its broker was given."""

    def __init__(self, privacy: Privacy, engine: Any, serializer: str = "json") -> None:
        self.privacy = privacy
        self.app = app = Celery("rides", broker="memory://", backend="cache+memory://", set_as_current=False)
        app.conf.update(
            accept_content=["json", "pickle"],
            task_serializer=serializer,
            result_serializer=serializer,
            broker_connection_retry_on_startup=True,
            broker_transport_options={"polling_interval": 0.01},
            worker_hijack_root_logger=False,
        )
        app.conf.task_default_queue = f"rides-{uuid4()}"
        install(app, privacy)
        self.runs: list[list[list[str]]] = []

        @app.task(shared=False)
        def seen(*_: Any, rider: Any = None) -> Any:
            return names()

        @app.task(shared=False)
        def email(key: int) -> Any:
            with Session(engine) as session:
                return session.scalars(select(Rider.email).where(Rider.id == key)).one()

        @app.task(shared=False, bind=True, max_retries=3)
        def tries(task: Any, times: int) -> Any:
            self.runs.append(names())
            if task.request.retries < times:
                raise task.retry(countdown=0)
            return names()

        @app.task(shared=False, autoretry_for=(ZeroDivisionError,), retry_kwargs={"max_retries": 1, "countdown": 0})
        def fails() -> Any:
            self.runs.append(names())
            return 1 / 0

        @app.task(shared=False, bind=True, max_retries=1)
        def grows(task: Any, key: int, model: Any = None) -> Any:
            raise task.retry(args=(key,), kwargs={"model": Form.model_construct(email=EMAIL)}, countdown=0)

        @app.task(shared=False)
        def returns_a_rider() -> Any:
            return [Rider(id=1, email=EMAIL)]

        @app.task(shared=False)
        @privacy.purpose("receipts")
        def decorated() -> Any:
            return names()

        self.seen, self.email, self.tries, self.fails = seen, email, tries, fails
        self.grows, self.returns_a_rider, self.decorated = grows, returns_a_rider, decorated


@contextmanager
def worker(tasks: Tasks) -> Iterator[Tasks]:
    with start_worker(tasks.app, perform_ping_check=False, shutdown_timeout=SECONDS, pool="solo"):
        yield tasks


@pytest.fixture
def privacy(tmp_path: Path) -> Privacy:
    return Privacy(POLICY, Base, FileKeyring(tmp_path / "keys.json"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    privacy = Privacy(POLICY, Base, FileKeyring(tmp_path_factory.mktemp("keys") / "keys.json"))
    with worker(Tasks(privacy, None)) as started:
        yield started


@pytest.fixture
def tasks(running: Tasks) -> Tasks:
    running.runs.clear()
    return running


def test_g09_a_task_reads_what_it_was_sent_for_and_nothing_without_a_purpose(database_url: str, tmp_path: Path) -> None:
    service = ride_service(database_url, tmp_path, Clock())
    service.sign_up(rider(1))
    with worker(Tasks(service.privacy, service.engine)) as tasks:
        with service.privacy.purpose("account"):
            assert EMAIL == tasks.email.delay(1).get(SECONDS, interval=0.01)
        with service.privacy.purpose("pickup"), pytest.raises(PurposeError):
            tasks.email.delay(1).get(SECONDS, interval=0.01)
        with pytest.raises(PurposeError):
            tasks.email.delay(1).get(SECONDS, interval=0.01)
    service.engine.dispose()


def test_nested_purposes_travel_whole_and_none_is_left_for_the_next_task(tasks: Tasks) -> None:
    with tasks.privacy.purpose("account", "receipts"), tasks.privacy.purpose("pickup"):
        assert [["account", "receipts"], ["pickup"]] == tasks.seen.delay().get(SECONDS, interval=0.01)
    assert [] == tasks.seen.delay().get(SECONDS, interval=0.01)


def test_a_task_that_is_sent_by_name_carries_its_purpose_too(tasks: Tasks) -> None:
    with tasks.privacy.purpose("pickup"):
        assert [["pickup"]] == tasks.app.send_task(tasks.seen.name).get(SECONDS, interval=0.01)


def test_a_purpose_of_the_task_itself_narrows_that_of_the_message(tasks: Tasks) -> None:
    with tasks.privacy.purpose("account"):
        assert [["account"], ["receipts"]] == tasks.decorated.delay().get(SECONDS, interval=0.01)
    assert [["receipts"]] == tasks.decorated.delay().get(SECONDS, interval=0.01)


def test_a_retry_runs_under_the_purpose_again(tasks: Tasks) -> None:
    with tasks.privacy.purpose("pickup"):
        waiting = tasks.tries.delay(2)
    assert [["pickup"]] == waiting.get(SECONDS, interval=0.01)
    assert [[["pickup"]]] * 3 == tasks.runs


def test_a_retry_after_a_failure_does_too(tasks: Tasks) -> None:
    with tasks.privacy.purpose("pickup"):
        waiting = tasks.fails.delay()
    with pytest.raises(ZeroDivisionError):
        waiting.get(SECONDS, interval=0.01)
    assert [[["pickup"]]] * 2 == tasks.runs
    assert [] == tasks.seen.delay().get(SECONDS, interval=0.01)


def test_a_part_of_a_chain_has_the_purpose_that_it_was_given(tasks: Tasks) -> None:
    with tasks.privacy.purpose("pickup"):
        bare = chain(tasks.seen.s(), tasks.seen.s()).apply_async()
        given = chain(tasks.seen.s(), with_purpose(tasks.seen.s())).apply_async()
    assert [] == bare.get(SECONDS, interval=0.01)
    assert [["pickup"]] == given.get(SECONDS, interval=0.01)


def test_there_has_to_be_a_purpose_to_give(privacy: Privacy) -> None:
    with pytest.raises(PurposeError):
        with_purpose(Tasks(privacy, None).seen.s())


def test_a_name_that_the_policy_does_not_have_fails_the_task(tasks: Tasks) -> None:
    with pytest.raises(PolicyError):
        tasks.seen.apply_async(headers={HEADER: [["pickups"]]}).get(SECONDS, interval=0.01)


def test_a_task_that_is_called_as_a_function_or_eagerly_runs_where_it_is_called(privacy: Privacy) -> None:
    tasks = Tasks(privacy, None)
    with privacy.purpose("pickup"):
        assert [["pickup"]] == tasks.seen() == tasks.seen.apply().get()
    assert [] == tasks.seen() == tasks.seen.apply().get()


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize(
    "value",
    [Rider(id=1, email=EMAIL), Form.model_construct(email=EMAIL), GeoPoint(51.5, 0.1)],
    ids=lambda each: type(each).__name__,
)
def test_e08_a_personal_object_is_refused_wherever_it_stands_in_a_message(
    privacy: Privacy, serializer: str, value: Any
) -> None:
    tasks = Tasks(privacy, None, serializer)
    sends = [
        lambda: tasks.seen.delay(value),
        lambda: tasks.seen.apply_async(kwargs={"rider": [{"deep": (value,)}]}),
        lambda: tasks.app.send_task("elsewhere.task", (value,)),
        lambda: tasks.seen.apply_async(link=tasks.seen.s(value)),
        lambda: chain(tasks.seen.s(), tasks.seen.s(value)).apply_async(),
        lambda: tasks.seen.s(value).apply_async(),
    ]
    for send in sends:
        with privacy.purpose("account"), pytest.raises(InvalidValue, match="Give keys instead") as raised:
            send()
        assert EMAIL not in str(raised.value)
    with tasks.app.connection_for_read() as connection:
        assert 0 == connection.default_channel.queue_declare(tasks.app.conf.task_default_queue).message_count


def test_e08_a_retry_with_a_personal_object_is_refused_and_shown_nowhere(
    tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with tasks.privacy.purpose("account"), pytest.raises(InvalidValue, match="Give keys instead"):
        tasks.grows.delay(1).get(SECONDS, interval=0.01)
    assert EMAIL not in caplog.text


def test_a_result_that_is_a_personal_object_is_refused(tasks: Tasks) -> None:
    with tasks.privacy.purpose("account"), pytest.raises(InvalidValue, match="returns"):
        tasks.returns_a_rider.delay().get(SECONDS, interval=0.01)


def test_the_message_holds_names_of_purposes_and_no_more(privacy: Privacy) -> None:
    tasks = Tasks(privacy, None)
    with privacy.purpose("pickup"):
        tasks.seen.delay(7)
    with tasks.app.connection_for_read() as connection:
        message = connection.default_channel.basic_get(tasks.app.conf.task_default_queue)
        assert message is not None
        assert [["pickup"]] == message.headers[HEADER]
        assert [[7], {}] == json.loads(message.body)[:2]


def test_it_has_to_be_installed_before_the_tasks_are_made(privacy: Privacy) -> None:
    app = Celery("late", broker="memory://", set_as_current=False)
    app.finalize()
    with pytest.raises(MappingError):
        install(app, privacy)


def test_a_base_of_ones_own_derives_from_ours(privacy: Privacy) -> None:
    class Audited(PurposeTask):
        abstract = True

    tasks = Tasks(privacy, None)
    audited = tasks.app.task(shared=False, base=Audited, name="audited")(names)
    with worker(tasks), privacy.purpose("pickup"):
        assert [["pickup"]] == audited.delay().get(SECONDS, interval=0.01)

"""What reaches a broker, a result backend and a worker's log when tasks fail, are linked, or were forged."""

import logging
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from celery import chain, chord, group
from pydantic import BaseModel

from privkit import FileKeyring, Privacy
from privkit.errors import InvalidValue, PolicyError, PurposeError
from privkit.integrations.celery import HEADER
from tests.integrations.test_celery import EMAIL, SECONDS, Tasks, worker
from tests.sqlalchemy.rides import POLICY, Base, Rider


class Plain(BaseModel):
    born: date


class Loud(Exception):
    pass


class Unseen(Exception):
    """Keeps its rider out of its arguments."""

    def __init__(self, rider: Any) -> None:
        super().__init__()
        self.rider = rider

    def __str__(self) -> str:
        return f"no {vars(self.rider)['email']}"


def ada() -> Rider:
    return Rider(id=1, email=EMAIL)


class Failing(Tasks):
    """Tasks that fail with a person in their hands."""

    def __init__(self, privacy: Privacy, serializer: str) -> None:
        super().__init__(privacy, None, serializer)

        def loud() -> Any:
            raise Loud({"rider": [Unseen(ada())]})

        def unseen() -> Any:
            raise Unseen(ada())

        def invalid() -> Any:
            return Plain.model_validate({"born": EMAIL})

        def chained() -> Any:
            try:
                invalid()
            except ValueError as error:
                raise Loud("outer") from error

        def grouped() -> Any:
            raise ExceptionGroup("many", [Loud("one"), Unseen(ada())])

        def retried(task: Any) -> Any:
            try:
                invalid()
            except ValueError as error:
                raise task.retry(exc=error, countdown=0) from error

        def retried_at_once(task: Any) -> Any:
            try:
                unseen()
            except Unseen:
                task.retry(countdown=0)

        def state(task: Any) -> Any:
            task.update_state(state="PROGRESS", meta={"seen": [ada()]})

        def passes_on() -> Any:
            with privacy.purpose("receipts"):
                return self.app.send_task(self.seen.name).id

        plain = (loud, unseen, invalid, chained, grouped, passes_on)
        bound = (retried, retried_at_once, state)
        self.failing = {each.__name__: self.app.task(shared=False, name=each.__name__)(each) for each in plain} | {
            each.__name__: self.app.task(shared=False, name=each.__name__, bind=True, max_retries=1)(each)
            for each in bound
        }


@pytest.fixture(scope="module", params=["json", "pickle"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Failing]:
    privacy = Privacy(POLICY, Base, FileKeyring(tmp_path_factory.mktemp("keys") / "keys.json"))
    with worker(Failing(privacy, request.param)) as started:
        yield started  # type: ignore[misc]


NAMES = ["loud", "unseen", "invalid", "chained", "grouped", "retried", "retried_at_once", "state"]


@pytest.mark.parametrize("name", NAMES)
def test_e08_an_error_of_a_task_leaves_no_value_in_the_backend_or_the_log(
    running: Failing, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = str(uuid4())
    with running.privacy.purpose("account"):
        waiting = running.failing[name].apply_async(task_id=key)
    with pytest.raises(Exception, match=r".") as raised:
        waiting.get(SECONDS, interval=0.01)
    backend = running.app.backend
    stored = backend.get(backend.get_key_for_task(key))
    texts = (repr(raised.value), str(raised.value), str(stored), repr(backend.get_task_meta(key)), caplog.text)
    assert [] == [text for text in texts if EMAIL in text]
    assert "FAILURE" == backend.get_task_meta(key)["status"]


def test_an_error_keeps_its_name_and_one_without_personal_data_is_left_alone(running: Failing) -> None:
    with pytest.raises(Exception, match="personal data, not shown") as raised:
        running.failing["loud"].delay().get(SECONDS, interval=0.01)
    assert "Loud" in f"{type(raised.value).__name__} {raised.value!r}"
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        running.fails.delay().get(SECONDS, interval=0.01)


FORGED = {
    "a number": 7,
    "a word": "pickup",
    "a list of words": ["pickup"],
    "a mapping": {"pickup": 1},
    "nothing": None,
    "lists in lists": [[["pickup"]]],
    "numbers": [[7]],
    "many groups": [["pickup"], ["account"]] * 51,
    "one long group": [["pickup"] * 101],
    "empty groups": [[]] * 1000,
}


@pytest.mark.parametrize("what", FORGED)
def test_g09_a_header_that_nobody_here_wrote_fails_the_task_before_it_runs(running: Failing, what: str) -> None:
    running.runs.clear()
    with pytest.raises(InvalidValue, match="no list of lists of names"):
        running.fails.apply_async(headers={HEADER: FORGED[what]}).get(SECONDS, interval=0.01)
    assert [] == running.runs


@pytest.mark.parametrize("names", [["privkit"], ["pickups"], ["pickup", "pickups"]])
def test_a_forged_name_opens_nothing(running: Failing, names: list[str]) -> None:
    with pytest.raises(PolicyError):
        running.seen.apply_async(headers={HEADER: [names]}).get(SECONDS, interval=0.01)


def test_an_empty_header_is_no_purpose(running: Failing) -> None:
    with running.privacy.purpose("pickup"):
        assert [] == running.seen.apply_async(headers={HEADER: []}).get(SECONDS, interval=0.01)


def test_deep_arguments_and_workflows_are_sent(running: Failing) -> None:
    seen, deep = running.seen, 1
    for _ in range(40):
        deep = [deep]  # type: ignore[assignment]
    assert [] == seen.delay(deep).get(SECONDS, interval=0.01)
    linked = seen.si()
    for _ in range(6):
        outer = seen.si()
        outer.link(linked)
        linked = outer
    assert [] == linked.apply_async().get(SECONDS, interval=0.01)


def test_a_workflow_in_a_workflow_is_sent(tmp_path: Path) -> None:
    seen = Tasks(Privacy(POLICY, Base, FileKeyring(tmp_path / "keys.json")), None).seen
    chain(seen.s(), chord([chain(seen.s(), group(seen.s(), seen.s()))], seen.s()), seen.s()).apply_async()
    with seen.app.connection_for_read() as connection:
        assert 1 == connection.default_channel.queue_declare(seen.app.conf.task_default_queue).message_count


def test_e08_a_person_deep_in_a_workflow_is_refused(running: Failing) -> None:
    seen, deep = running.seen, ada()
    for _ in range(40):
        deep = [deep]  # type: ignore[assignment]
    deeply = chain(seen.s(), chord([chain(seen.s(), group(seen.s(), seen.s(deep)))], seen.s()), seen.s())
    with pytest.raises(InvalidValue, match="Give keys instead"):
        deeply.apply_async()
    itself: list[Any] = [ada()]
    itself.append(itself)
    with pytest.raises(InvalidValue, match="Give keys instead"):
        seen.delay(itself)


def test_g09_a_purpose_inside_a_task_is_sent_on_and_ends_with_it(running: Failing) -> None:
    with running.privacy.purpose("account"):
        key = running.failing["passes_on"].delay().get(SECONDS, interval=0.01)
    assert [["account"], ["receipts"]] == running.app.AsyncResult(key).get(SECONDS, interval=0.01)
    assert [] == running.seen.delay().get(SECONDS, interval=0.01)


def test_a_prohibited_purpose_in_a_message_is_refused(running: Failing) -> None:
    with pytest.raises(PurposeError):
        running.seen.apply_async(headers={HEADER: [["marketing"]]}).get(SECONDS, interval=0.01)

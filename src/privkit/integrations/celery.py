"""Celery: a message carries the names of the purposes it was sent under, and its task runs under them.

app = Celery("rides")
install(app, privacy)

with privacy.purpose("receipts"):
    send_receipt.delay(trip.id)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery, Task
from celery.canvas import Signature

from privkit import purposes
from privkit.errors import InvalidValue, MappingError, PurposeError
from privkit.integrations.logging import without_personal
from privkit.privacy import Privacy

HEADER = "privkit_purposes"

_installed: WeakKeyDictionary[Celery, Privacy] = WeakKeyDictionary()


class PurposeTask(Task):  # type: ignore[misc]
    """The base of an application's tasks after ``install``; bases of your own derive from it.

    A task runs in the worker under the purposes that its message names, as in blocks round it, and without any where
    it names none. Called as a function it runs where it is called, as a function does. Raises PolicyError for a name
    that the policy does not have, PurposeError for a prohibited one.
    """

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task, and refuse a result that is personal."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        with _under(self.app, (self.request.headers or {}).get(HEADER, ())):
            result = self.run(*args, **kwargs)
            _check(self.name, "returns", result)
            return result

    def retry(self, args: Any = None, kwargs: Any = None, *others: Any, **options: Any) -> Any:
        """Retry as Celery does. What may not be sent fails the task here, where Celery would only drop the message."""
        _check(self.name, "is sent", (args, kwargs, options))
        return super().retry(args, kwargs, *others, **options)


def install(app: Celery, privacy: Privacy) -> None:
    """Have an application's messages carry purposes, and refuse personal objects in them.

    Call it right after the application is made. Arguments, results and linked tasks are looked through in lists,
    dicts and tuples for what ``privkit.integrations.logging.is_personal`` says; sending one raises InvalidValue,
    whatever the serialiser, a retry too. Who can write to the broker can name purposes, within the policy.

    Raises MappingError where tasks were made of it already.
    """
    if app.finalized:
        raise MappingError(
            "The Celery application has made its tasks already.",
            "They would run without the purposes that their messages carry.",
            "Call install(app, privacy) right after app = Celery(...).",
        )
    app.task_cls = PurposeTask
    vars(app).pop("Task", None)
    send = app.send_task

    @functools.wraps(send)
    def send_task(name: str, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        _check(name, "is sent", (args, kwargs, options))
        options["headers"] = _stamped(options.get("headers"))
        return send(name, args, kwargs, **options)

    app.send_task = send_task
    _installed[app] = privacy


def with_purpose(signature: Signature) -> Signature:
    """Return a task of a chain, a chord or a link that will run under the purposes in force here.

    ``chain(load.s(key), with_purpose(send.s()))``: the worker that sends ``send`` has no purpose any more. Raises
    PurposeError where none is in force.
    """
    if not _groups():
        raise PurposeError(
            "with_purpose() was called where no purpose is in force.", "", "Call it inside a block of privacy.purpose."
        )
    made: Signature = signature.clone()
    made.set(headers=_stamped(made.options.get("headers")))
    return made


def _groups() -> list[list[str]]:
    scope = purposes.current()
    return [list(group) for group in scope.groups] if scope is not None and not scope.internal else []


def _stamped(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was stamped earlier stays: a retry, and a part of a chain, keep the purposes they were given."""
    groups = _groups()
    return ({HEADER: groups} if groups else {}) | dict(headers or {})


@contextmanager
def _under(app: Celery, groups: Any) -> Iterator[None]:
    if groups and app not in _installed:
        raise MappingError(
            "A message carries purposes, and this Celery application does not know how to enter them.",
            "",
            "Call privkit.integrations.celery.install(app, privacy) right after app = Celery(...).",
        )
    with ExitStack() as blocks:
        for group in groups:
            blocks.enter_context(_installed[app].purpose(*group))
        yield


def _check(task: str, verb: str, value: Any) -> None:
    if without_personal(value) is not value:
        raise InvalidValue(
            f"What the task {task!r} {verb} holds a personal object.",
            "A message lies in the broker, in logs and in retries, beyond purposes, lifetimes and keys.",
            "Give keys instead, and load the object in the task:  send_receipt.delay(trip.id)",
            task=task,
        )

"""Celery: a message carries the names of the purposes it was sent under, and its task runs under them.

app = Celery("rides")
install(app, privacy)

with privacy.purpose("receipts"):
    send_receipt.delay(trip.id)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery, Task
from celery.canvas import Signature
from celery.exceptions import TaskPredicate
from sqlalchemy import Engine

from privkit import purposes
from privkit.errors import InvalidValue, MappingError, PurposeError
from privkit.integrations.logging import clean_exception, holds_personal
from privkit.integrations.scheduling import purge_once
from privkit.privacy import Privacy
from privkit.retention import Limits

HEADER = "privkit_purposes"
_MOST_NAMES = 100
"""More names than this no message carries: each of them costs the worker."""

_installed: WeakKeyDictionary[Celery, Privacy] = WeakKeyDictionary()


class PurposeTask(Task):  # type: ignore[misc]
    """The base of an application's tasks after ``install``; bases of your own derive from it.

    A task runs in the worker under the purposes that its message names, as in blocks round it, and without any where
    it names none. Called as a function it runs where it is called, as a function does. Raises PolicyError for a name
    that the policy does not have, PurposeError for a prohibited one.
    """

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task, and let no result or error out that is personal."""
        if self.request.called_directly:
            return super().__call__(*args, **kwargs)
        try:
            with _under(self.app, (self.request.headers or {}).get(HEADER, [])):
                result = self.run(*args, **kwargs)
                _check(self.name, "returns", result)
                return result
        except TaskPredicate as signal:  # Retry, Ignore, Reject: Celery knows them by their type
            for name in ("exc", "__cause__", "__context__"):
                setattr(signal, name, _clean(getattr(signal, name, None)))
            raise
        except Exception as error:
            failure = _clean(error)
            if failure is error:
                raise
        raise failure  # out here, so that the error itself is not its context

    def retry(self, args: Any = None, kwargs: Any = None, exc: Any = None, *others: Any, **options: Any) -> Any:
        """Retry as Celery does. What may not be sent fails the task here, where Celery would only drop the message."""
        _check(self.name, "is sent", (args, kwargs, others, options))
        return super().retry(args, kwargs, _clean(exc), *others, **options)

    def update_state(self, task_id: Any = None, state: Any = None, meta: Any = None, **options: Any) -> Any:
        """Store a state as Celery does, unless it is personal."""
        _check(self.name, "stores", meta)
        return super().update_state(task_id, state, meta, **options)


def install(app: Celery, privacy: Privacy) -> None:
    """Have an application's messages carry purposes, and refuse personal objects in them.

    Call it right after the application is made. Arguments, results, states and linked tasks are looked through for
    what ``privkit.integrations.logging.holds_personal`` says; sending one raises InvalidValue, whatever the serialiser,
    a retry too. An error that a task raises is stored and logged without what is personal in it. Who can write to the
    broker can name purposes, within the policy.

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


def purge_task(
    app: Celery,
    privacy: Privacy,
    make_engine: Callable[[], Engine],
    *,
    name: str = "privkit.purge",
    batch: int | None = None,
    workers: int = 1,
    limits: Limits | None = None,
    vacuum: bool = False,
) -> Task:
    """Return a task that calls ``purge_once``, for Celery beat: it returns counts, and fails where anything is left.

    ``app.conf.beat_schedule = {"purge": {"task": "privkit.purge", "schedule": crontab(hour=3, minute=0)}}``. Give it
    ``limits=Limits(max_seconds=...)`` below the worker's time limits, and beat's entry ``"options": {"expires": 60}``.
    """

    def purge() -> dict[str, Any]:
        return purge_once(privacy, make_engine, batch=batch, workers=workers, limits=limits, vacuum=vacuum)

    return app.task(purge, name=name, shared=False)


def _groups() -> list[list[str]]:
    scope = purposes.current()
    return [list(group) for group in scope.groups] if scope is not None and not scope.internal else []


def _stamped(headers: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was stamped earlier stays: a retry, and a part of a chain, keep the purposes they were given."""
    groups = _groups()
    return ({HEADER: groups} if groups else {}) | dict(headers or {})


def _under(app: Celery, groups: Any) -> ExitStack:
    """Enter the purposes of a message. No generator: a block that one opens is not in force while it waits."""
    _require_names(groups)
    if groups and app not in _installed:
        raise MappingError(
            "A message carries purposes, and this Celery application does not know how to enter them.",
            "",
            "Call privkit.integrations.celery.install(app, privacy) right after app = Celery(...).",
        )
    with ExitStack() as blocks:
        for group in groups:
            blocks.enter_context(_installed[app].purpose(*group))
        return blocks.pop_all()


def _require_names(groups: Any) -> None:
    are_lists = isinstance(groups, list) and all(isinstance(each, list) and each for each in groups)
    names = [name for each in groups for name in each] if are_lists else []
    if not are_lists or len(names) > _MOST_NAMES or not all(isinstance(name, str) for name in names):
        raise InvalidValue(
            f"A message's header {HEADER!r} is no list of lists of names, or has more than {_MOST_NAMES}.",
            "It was not sent by privkit, or changed on the way; the task did not run.",
            "Look who can write to the broker.",
        )


def _clean(error: Any) -> Any:
    return clean_exception(error) if isinstance(error, BaseException) else error


def _check(task: str, verb: str, value: Any) -> None:
    if holds_personal(value):
        raise InvalidValue(
            f"What the task {task!r} {verb} holds a personal object.",
            "A message lies in the broker, in logs and in retries, beyond purposes, lifetimes and keys.",
            "Give keys instead, and load the object in the task:  send_receipt.delay(trip.id)",
            task=task,
        )

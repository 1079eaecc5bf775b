"""Objects that show a person in their own text, though none of their own class holds personal data."""

import collections
import functools
import io
import logging
import logging.handlers
import queue
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import structlog
from pydantic import BaseModel, ConfigDict

from privkit.integrations.logging import PersonalFilter, holds_personal, without_personal
from privkit.integrations.structlog import without_personal_data
from tests.integrations.test_logging import EMAIL, Loud, Rider, row


@dataclass(frozen=True)
class Page:
    rows: list[Any]


class Holder(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")
    rider: Any = None


class Pair(NamedTuple):
    one: Any
    other: Any


class Unseen(Exception):
    """Keeps its rider out of its arguments."""

    def __init__(self, rider: Any) -> None:
        super().__init__()
        self.rider = rider

    def __str__(self) -> str:
        return f"no {self.rider}"


class Riding(Rider):
    def ride(self) -> None:
        return None


class Changing(dict[Any, Any]):
    """A dict that another thread changes."""

    def items(self) -> Any:
        raise RuntimeError("dictionary changed size during iteration")


def ada() -> Rider:
    return Rider(id=1, email=EMAIL)


def deep() -> Any:
    found: Any = ada()
    for _ in range(30):
        found = [found]
    return found


HOLDING: dict[str, Callable[[], Any]] = {
    "values of a dict": lambda: {1: ada()}.values(),
    "items of a dict": lambda: {1: ada()}.items(),
    "keys of a dict": lambda: {ada(): 1}.keys(),
    "a user list": lambda: collections.UserList([ada()]),
    "a chain of dicts": lambda: collections.ChainMap({1: ada()}),
    "a counter": lambda: collections.Counter([ada()]),
    "a namespace": lambda: types.SimpleNamespace(rider=ada()),
    "a partial": lambda: functools.partial(print, ada()),
    "a bound method": lambda: Riding(id=1, email=EMAIL).ride,
    "a dataclass": lambda: Page([row()]),
    "dataclasses in dataclasses": lambda: [Page([Page([ada()])])],
    "a plain model": lambda: Holder(rider=ada()),
    "an extra of a plain model": lambda: Holder(another=[ada()]),
    "a named tuple": lambda: Pair(1, ada()),
    "a key that is a frozen set": lambda: {frozenset([ada()]): 1},
    "a dict that changes": lambda: Changing(rider=ada()),
    "an attribute of an exception": lambda: Unseen(ada()),
    "an exception in groups": lambda: ExceptionGroup("x", [ExceptionGroup("y", [Loud(ada()), Unseen(ada())])]),
    "deep lists": deep,
}


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    text, logger = io.StringIO(), logging.getLogger("rides.attacks")
    handler = logging.StreamHandler(text)
    handler.addFilter(PersonalFilter())
    logger.addHandler(handler)
    logger.propagate = False
    yield text
    logger.removeHandler(handler)
    logger.propagate = True


@pytest.mark.parametrize("name", HOLDING)
def test_what_shows_a_person_in_its_own_text_is_replaced(name: str, written: io.StringIO) -> None:
    value, logger = HOLDING[name](), logging.getLogger("rides.attacks")
    assert EMAIL in f"{value} {value!r}", "the test would show nothing"
    logger.error("%s %r", value, value)
    logger.error(value)
    logger.error("%(who)s", {"who": value})
    try:
        raise value if isinstance(value, Exception) else Loud(value)
    except Exception:
        logger.exception("failed")
    assert EMAIL not in written.getvalue()
    assert "personal data" in written.getvalue()


@pytest.mark.parametrize("name", HOLDING)
def test_structlog_replaces_it_too_with_context_variables_merged_before(name: str) -> None:
    value, text = HOLDING[name](), io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(text),
        processors=[
            structlog.contextvars.merge_contextvars,
            without_personal_data,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=repr),
        ],
    )
    with structlog.contextvars.bound_contextvars(bound=value):
        log.info("seen", rider=value, exc_info=value if isinstance(value, Exception) else None)
    assert EMAIL not in text.getvalue()
    assert '"bound"' in text.getvalue()


def test_what_is_deep_or_holds_itself_and_is_not_personal_stays_as_it_is() -> None:
    itself: list[Any] = [1]
    itself.append(itself)
    deeply: Any = 1
    for _ in range(2000):
        deeply = [deeply]
    for value in (itself, deeply, Page([1]), Holder(rider=1), functools.partial(print, 1), {1: 2}.values()):
        assert not holds_personal(value)
        assert value is without_personal(value)


def test_the_other_parts_of_a_container_stay() -> None:
    cleaned = without_personal({"a": [1, ada()], "b": Pair(2, ada()), ada(): 3})
    hidden = "<Rider: personal data>"
    assert {"a": [1, hidden], "b": (2, hidden), hidden: 3} == cleaned


def test_a_queue_is_given_no_value_when_the_filter_is_on_its_handler() -> None:

    waiting: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(waiting)
    handler.addFilter(PersonalFilter())
    try:
        raise Unseen(ada())
    except Unseen as error:
        handler.handle(logging.makeLogRecord({"msg": "%s", "args": (ada(),), "exc_info": (Unseen, error, None)}))
    assert EMAIL not in repr(vars(waiting.get_nowait()))

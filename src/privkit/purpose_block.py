"""The block that opens a purpose: ``with privacy.purpose("pickup"):``, or a decorator."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar, cast

from privkit.errors import MappingError
from privkit.purposes import Active, Scope, enter, entered, leave

_Callable = TypeVar("_Callable", bound=Callable[..., Any])


class PurposeBlock:
    """What ``privacy.purpose`` returns: a context manager that can be entered again, and a decorator."""

    def __init__(self, scope: Callable[[], Scope]) -> None:
        self._scope = scope

    def __enter__(self) -> Scope:
        return enter(self._scope(), self, generator_around(sys._getframe(1))).scope

    def __exit__(self, *exc_info: object) -> None:
        leave(entered(self))

    def open(self) -> Active:
        """Open the purpose where no block can stand round the work, as in a framework's callbacks.

        Give the result to ``purposes.leave``, whatever happens in between.
        """
        return enter(self._scope(), self)

    def __call__(self, function: _Callable) -> _Callable:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise MappingError(
                f"{function.__qualname__} is a generator; a decorator could not close its purpose while it waits.",
                "Its caller would run under a purpose it never asked for.",
                "Open the purpose inside it: with privacy.purpose(...). While it is suspended none is in force.",
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                with PurposeBlock(self._scope):
                    return await function(*args, **kwargs)

            return cast(_Callable, call_async)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with PurposeBlock(self._scope):
                return function(*args, **kwargs)

        return cast(_Callable, call)


def generator_around(frame: FrameType | None) -> FrameType | None:
    """Return the generator that a block stands in, at once or by an ExitStack of its own; None: it stands in none."""
    while frame is not None and frame.f_code.co_filename == contextlib.__file__:
        frame = frame.f_back
    suspendable = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
    return frame if frame is not None and frame.f_code.co_flags & suspendable else None

"""A structlog processor that keeps personal data out of events.

Put it after ``merge_contextvars``, which adds objects, and before all that make text.

structlog.configure(processors=[merge_contextvars, without_personal_data, format_exc_info, ...])
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any

from privkit.integrations.logging import clean_exc_info, clean_exception, without_personal


def without_personal_data(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put a text in place of every personal object of an event, as ``PersonalFilter`` does for the standard library.

    A renderer of tracebacks with ``show_locals`` prints what stands in the frames: switch that off.
    """
    found = event.get("exc_info")
    for name, value in event.items():
        if name != "exc_info":
            event[name] = without_personal(value)
    if isinstance(found, BaseException):
        event["exc_info"] = clean_exception(found)
    elif found:
        found = found if isinstance(found, tuple) else sys.exc_info()
        event["exc_info"] = clean_exc_info(found) if found[1] is not None else found
    return event

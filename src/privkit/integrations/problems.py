"""privkit's errors as problem responses (RFC 9457): what a web framework answers in their place, without a value."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from privkit.errors import (
    ConcurrentWrite,
    ConsentRequired,
    InvalidValue,
    PrivkitError,
    PurposeError,
    ShreddedError,
    TokenRefused,
)

MEDIA_TYPE = "application/problem+json"
_STATUS: dict[type[PrivkitError], HTTPStatus] = {
    ConsentRequired: HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS,
    PurposeError: HTTPStatus.FORBIDDEN,
    ShreddedError: HTTPStatus.GONE,
    TokenRefused: HTTPStatus.GONE,
    InvalidValue: HTTPStatus.UNPROCESSABLE_ENTITY,
    ConcurrentWrite: HTTPStatus.CONFLICT,
}
"""Everything else is the service's own mistake: 500."""

log = logging.getLogger("privkit")


def problem(error: PrivkitError) -> dict[str, Any]:
    """Return the body of the response to an error, and log the error itself.

    The body has the error's code and what its class says, never its message: that names fields and tables, and tells
    a developer what to do.
    """
    status = next((_STATUS[cls] for cls in type(error).__mro__ if cls in _STATUS), HTTPStatus.INTERNAL_SERVER_ERROR)
    known = next(cls for cls in type(error).__mro__ if cls.__module__ == PrivkitError.__module__)
    log.log(logging.ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else logging.WARNING, "%s", error)
    return {"title": status.phrase, "status": status.value, "detail": known.__doc__, "code": error.code}


def failure(what: str) -> dict[str, Any]:
    """Return the body of the response to an error that is not privkit's and may quote values; log ``what``."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    log.error("%s", what)
    return {"title": status.phrase, "status": status.value}

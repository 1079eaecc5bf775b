"""Flask: requests of an application or a blueprint that run under a purpose, and errors that show no value.

install(app)
for_purpose(blueprint, privacy, "pickup")

A view of its own purpose is decorated: ``@app.get("/pickups") @privacy.purpose("pickup") def pickups(): ...``
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from flask import Blueprint, Flask, Response, jsonify, request
from pydantic_core import PydanticSerializationError, ValidationError

from privkit import purposes
from privkit.errors import PrivkitError
from privkit.integrations.problems import MEDIA_TYPE, failure, problem
from privkit.privacy import Privacy
from privkit.pydantic import handed_out, redacted

_ENTRIES = "privkit.purposes"


def for_purpose(target: Flask | Blueprint, privacy: Privacy, *names: str) -> None:
    """Run every request of ``target`` for a purpose, as in ``with privacy.purpose(*names):``.

    It is in force from its ``before_request`` on, until the response is made: not in a stream, which opens its own.
    That of an application, of its blueprints and of a decorated view narrow each other.

    Raises PolicyError for an unknown name, PurposeError for a prohibited one.
    """
    block = privacy.purpose(*names)

    def open_purpose() -> None:
        request.environ.setdefault(_ENTRIES, []).append(block.open())

    target.before_request(open_purpose)
    if isinstance(target, Flask):
        _close_at_end(target)
    else:
        target.record(lambda state: _close_at_end(cast(Flask, state.app)))


def _close_at_end(app: Flask) -> None:
    """End purposes round everything that Flask does: a teardown function that fails keeps others from running."""
    if getattr(app.wsgi_app, "closes_purposes", False):
        return
    respond = app.wsgi_app

    def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        try:
            return respond(environ, start_response)
        finally:
            for entry in reversed(environ.pop(_ENTRIES, ())):
                purposes.leave(entry)

    wsgi_app.closes_purposes = True  # type: ignore[attr-defined]
    app.wsgi_app = wsgi_app  # type: ignore[method-assign]


def install(app: Flask) -> None:
    """Have an application answer privkit's errors, and pydantic's, without values.

    ConsentRequired 451, other PurposeErrors 403, ShreddedError and TokenRefused 410, InvalidValue 422, ConcurrentWrite
    409, others 500; a ValidationError is a 422 with types and places.
    """
    app.register_error_handler(PrivkitError, lambda error: _answer(problem(error)))
    app.register_error_handler(PydanticSerializationError, _unserialised)
    app.register_error_handler(ValidationError, _invalid)


def _unserialised(error: PydanticSerializationError) -> Response:
    found = handed_out(error)
    return _answer(problem(found) if found is not None else failure("A response could not be serialised."))


def _invalid(error: ValidationError) -> tuple[Response, int]:
    lines = redacted(error).errors(include_url=False, include_input=False, include_context=False)
    return jsonify({"detail": lines}), 422


def _answer(body: dict[str, Any]) -> Response:
    response = jsonify(body)
    response.status_code, response.mimetype = body["status"], MEDIA_TYPE
    return response

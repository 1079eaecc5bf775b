"""FastAPI: requests that run under a purpose, responses that carry what it needs, errors that show no value.

app = FastAPI()
install(app)

@app.get("/pickups/{key}", response_model=Rider, dependencies=[Depends(for_purpose(privacy, "pickup"))])
def pickup(key: int): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError, ResponseValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic_core import PydanticSerializationError
from starlette.websockets import WebSocketState

from privkit import purposes
from privkit.errors import PrivkitError
from privkit.integrations.problems import MEDIA_TYPE, failure, problem
from privkit.privacy import Privacy
from privkit.purposes import Scope
from privkit.pydantic import handed_out, redacted_lines

KEY = "x-privacy-purpose"
_INVALID, _FAILED = 1008, 1011
"""WebSocket's codes for a message that breaks the rules, and for a failure of the server (RFC 6455, section 7.4.1)."""


_PARTS = frozenset({"body", "cookie", "header", "path", "query", "response"})
"""What FastAPI begins a place with."""


@dataclass(frozen=True, slots=True)
class ForPurpose:
    """What ``for_purpose`` returns."""

    privacy: Privacy
    names: tuple[str, ...]

    async def __call__(self) -> AsyncIterator[Scope]:
        entry = self.privacy.purpose(*self.names).open()
        try:
            yield entry.scope
        finally:
            purposes.leave(entry)


def for_purpose(privacy: Privacy, *names: str) -> ForPurpose:
    """Return a dependency under which a request runs for a purpose, as in ``with privacy.purpose(*names):``.

    ``Depends(for_purpose(privacy, "pickup"))`` on an application, a router, an endpoint or another dependency. It is in
    force from there on: for the body's validation, later dependencies, the endpoint, ``async`` or not, and the
    response. Several of them narrow each other. It ends with the request, after streams and background tasks; with
    ``Depends(..., scope="function")`` it ends when the endpoint returns.

    Raises PolicyError for an unknown name, PurposeError for a prohibited one.
    """
    privacy.purpose(*names)
    return ForPurpose(privacy, names)


def install(app: FastAPI) -> None:
    """Have an application answer errors without values, and show purposes in its OpenAPI document.

    An operation has ``x-privacy-purpose``, a list with the names of each of its ``for_purpose``; the schema of a
    PersonalModel has ``x-privacy``. Status of privkit's errors: ConsentRequired 451, other PurposeErrors 403,
    ShreddedError and TokenRefused 410, InvalidValue 422, ConcurrentWrite 409, all others 500. A request that does not
    validate is answered as by FastAPI, with types and places and without input; places name what the document names. A
    WebSocket is closed: with 1011 for an error that is a 500, with 1008 for all others. An application that is mounted
    on another needs its own ``install``, and purposes of its own.
    """
    document = _Document(app)
    app.openapi = document.openapi  # type: ignore[method-assign]

    async def invalid(request: Request, error: Any) -> JSONResponse:
        return JSONResponse({"detail": redacted_lines(error.errors(), document.words())}, 422)

    async def invalid_message(websocket: WebSocket, error: Any) -> None:
        await websocket.close(_INVALID, "The request is not valid.")

    async def invalid_response(request: Request, error: Any) -> JSONResponse | None:
        return await _answer(
            request, failure(f"A response is not valid: {redacted_lines(error.errors(), document.words())}")
        )

    handlers: dict[type[Exception], Any] = {
        PrivkitError: _refused,
        PydanticSerializationError: _unserialised,
        RequestValidationError: invalid,
        ResponseValidationError: invalid_response,
        WebSocketRequestValidationError: invalid_message,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _refused(connection: Request | WebSocket, error: Any) -> JSONResponse | None:
    return await _answer(connection, problem(error))


async def _unserialised(connection: Request | WebSocket, error: Any) -> JSONResponse | None:
    found = handed_out(error)
    body = problem(found) if found is not None else failure("A response could not be serialised.")
    return await _answer(connection, body)


async def _answer(connection: Request | WebSocket, body: dict[str, Any]) -> JSONResponse | None:
    if isinstance(connection, Request):
        return JSONResponse(body, body["status"], media_type=MEDIA_TYPE)
    if WebSocketState.DISCONNECTED not in (connection.client_state, connection.application_state):
        await connection.close(_FAILED if body["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR else _INVALID)
    return None


class _Document:
    """An application's OpenAPI document, and the names in it."""

    def __init__(self, app: FastAPI) -> None:
        self._app, self._original = app, app.openapi
        self._schema: dict[str, Any] | None = None
        self._words = _PARTS

    def openapi(self) -> dict[str, Any]:
        """Return the document; FastAPI makes it anew when a route was added."""
        schema = self._original()
        if schema is not self._schema:
            for path, method, groups in _operations(self._app):
                operation = schema["paths"].get(path, {}).get(method)
                if operation is not None and groups:
                    operation[KEY] = groups
            models = schema.get("components", {}).get("schemas", {})
            self._schema, self._words = schema, frozenset((*_PARTS, *models, *_words(schema)))
        return schema

    def words(self) -> frozenset[str]:
        """Return every name of a parameter, a model or a property: what a place may show."""
        try:
            self.openapi()
        except Exception:
            return _PARTS  # no document can be made of the application; its own request for one says why
        return self._words


def _operations(app: FastAPI) -> Iterator[tuple[str, str, list[list[str]]]]:
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        if dependant is not None and route.path_format is not None:
            groups = [list(names) for names in dict.fromkeys(_groups(dependant))]
            for method in route.methods or ():
                yield route.path_format, method.lower(), groups


def _groups(dependant: Dependant) -> Iterator[tuple[str, ...]]:
    if isinstance(dependant.call, ForPurpose):
        yield dependant.call.names
    for each in dependant.dependencies:
        yield from _groups(each)


def _words(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", ())
        if isinstance(schema.get("in"), str):
            yield from (schema["in"], schema["name"])
        for each in schema.values():
            yield from _words(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _words(each)

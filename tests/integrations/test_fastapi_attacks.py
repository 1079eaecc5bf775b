"""What a client of a FastAPI application sees where errors are made by hand, in WebSockets and in nested responses."""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import httpx
import pytest
from fastapi import Cookie, Depends, FastAPI, Header, Query, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, RootModel, ValidationError

from privkit import FileKeyring, Privacy, purposes
from privkit.errors import KeyringError, PurposeError
from privkit.integrations.fastapi import for_purpose, install
from tests.integrations.test_fastapi import SECRET, RiderIn, RiderOut, names
from tests.sqlalchemy.rides import POLICY, Base

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    items: list[T]
    first: T | None = None


class Other(BaseModel):
    x: int = 1


class Counts(RootModel[dict[str, int]]):
    pass


def ada() -> RiderOut:
    return RiderOut.model_construct(id=1, email=SECRET, name="Ada")


RESPONSES: dict[str, tuple[Any, Any]] = {
    "a model": (RiderOut, ada),
    "a union": (RiderOut | Other, ada),
    "an optional": (RiderOut | None, ada),
    "a list": (list[RiderOut], lambda: [ada()]),
    "a dict": (dict[str, RiderOut], lambda: {"first": ada()}),
    "a generic": (Page[RiderOut], lambda: {"items": [ada()], "first": ada()}),
    "a root model": (RootModel[list[RiderOut]], lambda: [ada()]),
    "anything": (None, ada),
    "a list of anything": (None, lambda: [{"rider": ada()}]),
}


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    privacy = Privacy(POLICY, Base, FileKeyring(tmp_path / "keys.json"))
    app = FastAPI()
    install(app)
    pickup, account = (Depends(for_purpose(privacy, name)) for name in ("pickup", "account"))

    for number, (model, make) in enumerate(RESPONSES.values()):
        app.get(f"/pickup/{number}", response_model=model, dependencies=[pickup])(make)
        app.get(f"/none/{number}", response_model=model)(make)

    @app.post("/by-hand")
    def by_hand(body: dict[str, Any]) -> None:
        try:
            Counts.model_validate(body)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error

    @app.post("/bare")
    def bare() -> None:
        raise RequestValidationError([{"type": SECRET, "msg": SECRET}])

    @app.post("/parts", dependencies=[account])
    def parts(
        query: Annotated[RiderIn, Query()], number: Annotated[int, Header()], c: Annotated[int, Cookie()]
    ) -> None:
        return None

    for method in ("GET", "HEAD", "OPTIONS"):
        app.api_route("/many", methods=[method], dependencies=[pickup])(names)

    mounted = FastAPI()
    install(mounted)
    mounted.post("/plain")(by_hand)
    mounted.get("/names")(names)
    app.mount("/mounted", mounted)

    @app.websocket("/socket", dependencies=[account])
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json([names(), ada().model_dump()])
        await websocket.receive_text()
        await websocket.send_json(RiderIn.model_construct(born=SECRET).model_dump())
        raise PurposeError(SECRET)

    @app.websocket("/socket/none")
    async def socket_without(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(ada().model_dump())

    @app.websocket("/socket/early")
    async def socket_early(websocket: WebSocket) -> None:
        raise PurposeError(SECRET)

    @app.websocket("/socket/fails")
    async def socket_fails(websocket: WebSocket) -> None:
        await websocket.accept()
        raise KeyringError(SECRET)

    @app.websocket("/socket/closed")
    async def socket_closed(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4000)
        raise PurposeError(SECRET)

    @app.websocket("/socket/number")
    async def socket_number(websocket: WebSocket, number: int) -> None:
        await websocket.accept()

    return app


def asked(app: FastAPI, method: str, path: str, **options: Any) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rides") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


def talked(app: FastAPI, path: str, *texts: str, query: str = "") -> list[Any]:
    """Return what a WebSocket's client is sent: each JSON message, and the code of the close."""
    waiting = [{"type": "websocket.connect"}, *({"type": "websocket.receive", "text": text} for text in texts)]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else {"type": "websocket.disconnect", "code": 1005}

    async def send(message: Any) -> None:
        kind = message["type"].removeprefix("websocket.")
        sent.append(
            {"send": lambda: json.loads(message["text"]), "close": lambda: message["code"]}.get(kind, lambda: kind)()
        )

    scope = {"type": "websocket", "path": path, "query_string": query.encode(), "headers": [], "subprotocols": []}
    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of unions that miss what was left out
@pytest.mark.parametrize("number", range(len(RESPONSES)), ids=list(RESPONSES))
def test_a_response_of_any_shape_has_what_the_purpose_needs(app: FastAPI, number: int) -> None:
    answer = asked(app, "GET", f"/pickup/{number}")
    assert (200, True) == (answer.status_code, '"id":1' in answer.text)
    assert "Ada" not in answer.text
    assert SECRET not in answer.text
    refused = asked(app, "GET", f"/none/{number}")
    assert (403, "PK201") == (refused.status_code, refused.json()["code"])
    assert SECRET not in refused.text


def test_e03_a_validation_error_made_by_hand_shows_no_key_of_its_input(app: FastAPI) -> None:
    for path in ("/by-hand", "/mounted/plain"):
        answer = asked(app, "POST", path, json={SECRET: "x"})
        assert (422, [["..."]]) == (answer.status_code, [line["loc"] for line in answer.json()["detail"]])
    bare = asked(app, "POST", "/bare")
    assert (422, [[]]) == (bare.status_code, [line["loc"] for line in bare.json()["detail"]])


def test_e03_places_still_say_which_part_of_a_request_it_was(app: FastAPI) -> None:
    answer = asked(app, "POST", "/parts", params={"born": SECRET}, headers={"number": SECRET, "cookie": f"c={SECRET}"})
    found = [line["loc"] for line in answer.json()["detail"]]
    assert [["query", "email"], ["header", "number"], ["cookie", "c"]] == found
    assert SECRET not in answer.text


def test_a_websocket_is_closed_where_a_request_would_be_refused(app: FastAPI) -> None:
    ada_out = {"id": 1, "email": SECRET, "name": "Ada"}
    assert ["accept", [["account"], ada_out], {}, 1008] == talked(app, "/socket", "more")
    assert ["accept", 1008] == talked(app, "/socket/none")
    assert [1008] == talked(app, "/socket/early")
    assert ["accept", 1011] == talked(app, "/socket/fails")
    assert ["accept", 4000] == talked(app, "/socket/closed")
    assert [1008] == talked(app, "/socket/number", query=f"number={SECRET}")


def test_g12_no_purpose_is_left_after_a_websocket_or_in_a_mounted_application(app: FastAPI) -> None:
    talked(app, "/socket/none")
    assert [] == asked(app, "GET", "/mounted/names").json()
    assert ["pickup"] == asked(app, "GET", "/many").json() == asked(app, "OPTIONS", "/many").json()
    assert purposes.current() is None


def test_the_openapi_document_is_made_with_websockets_mounts_and_many_methods(app: FastAPI) -> None:
    paths = asked(app, "GET", "/openapi.json").json()["paths"]
    assert [[["pickup"]]] * 3 == [each["x-privacy-purpose"] for each in paths["/many"].values()]


def test_requests_that_are_cancelled_leave_no_purpose(app: FastAPI, tmp_path: Path) -> None:

    privacy = Privacy(POLICY, Base, FileKeyring(tmp_path / "keys.json"))
    begun: list[purposes.Active | None] = []

    @app.get("/waits", dependencies=[Depends(for_purpose(privacy, "pickup"))])
    async def waits() -> None:
        begun.append(purposes.active())
        await asyncio.sleep(30)

    async def main() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://rides") as client:
            asking = asyncio.create_task(client.get("/waits"))
            while not begun:
                await asyncio.sleep(0.001)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            assert [] == (await client.get("/mounted/names")).json()

    asyncio.run(main())
    assert [False] == [entry.open for entry in begun if entry is not None]

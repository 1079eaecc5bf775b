"""What a client of a FastAPI application sees where errors are made by hand, in WebSockets and in nested responses."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import httpx
import pytest
from fastapi import Cookie, Depends, FastAPI, Header, Query, WebSocket
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, RootModel, ValidationError
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

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

    app.api_route("/many", methods=["GET", "HEAD", "OPTIONS"], dependencies=[pickup])(names)

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


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as opened:
        yield opened


@pytest.mark.parametrize("number", range(len(RESPONSES)), ids=list(RESPONSES))
def test_a_response_of_any_shape_has_what_the_purpose_needs(client: TestClient, number: int) -> None:
    answer = client.get(f"/pickup/{number}")
    assert (200, True) == (answer.status_code, '"id":1' in answer.text)
    assert "Ada" not in answer.text
    assert SECRET not in answer.text
    refused = client.get(f"/none/{number}")
    assert (403, "PK201") == (refused.status_code, refused.json()["code"])
    assert SECRET not in refused.text


def test_e03_a_validation_error_made_by_hand_shows_no_key_of_its_input(client: TestClient) -> None:
    for path in ("/by-hand", "/mounted/plain"):
        answer = client.post(path, json={SECRET: "x"})
        assert (422, [["..."]]) == (answer.status_code, [line["loc"] for line in answer.json()["detail"]])
    bare = client.post("/bare")
    assert (422, [[]]) == (bare.status_code, [line["loc"] for line in bare.json()["detail"]])


def test_e03_places_still_say_which_part_of_a_request_it_was(client: TestClient) -> None:
    client.cookies.set("c", SECRET)
    answer = client.post("/parts", params={"born": SECRET}, headers={"number": SECRET})
    found = [line["loc"] for line in answer.json()["detail"]]
    assert [["query", "email"], ["header", "number"], ["cookie", "c"]] == found
    assert SECRET not in answer.text


def close_of(client: TestClient, path: str) -> int:
    with pytest.raises(WebSocketDisconnect) as raised, client.websocket_connect(path) as socket:
        socket.receive_text()
    assert SECRET not in f"{raised.value!r}"
    return raised.value.code


def test_a_websocket_is_closed_where_a_request_would_be_refused(client: TestClient) -> None:
    with client.websocket_connect("/socket") as socket:
        assert [["account"], {"id": 1, "email": SECRET, "name": "Ada"}] == socket.receive_json()
        socket.send_text("more")
        with pytest.raises(WebSocketDisconnect) as raised:
            while True:
                socket.receive_json()
    assert 1008 == raised.value.code
    paths = ("none", "early", "fails", "closed", f"number?number={SECRET}")
    assert [1008, 1008, 1011, 4000, 1008] == [close_of(client, f"/socket/{path}") for path in paths]


def test_g12_no_purpose_is_left_after_a_websocket_or_in_a_mounted_application(client: TestClient) -> None:
    close_of(client, "/socket/none")
    assert [] == client.get("/mounted/names").json()
    assert ["pickup"] == client.get("/many").json() == client.options("/many").json()
    assert purposes.current() is None


def test_the_openapi_document_is_made_with_websockets_mounts_and_many_methods(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
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

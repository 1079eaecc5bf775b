"""FastAPI on a real server: each request runs under its own purpose, and what it answers shows nothing else."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from privkit import AgeBand, BirthDate, Cell, Exact, GeoPoint, Location, NotPersonal, Personal, Privacy, purposes
from privkit.errors import ConsentRequired, InvalidValue, KeyringError, PolicyError, PrivkitError, ShreddedError
from privkit.integrations.fastapi import for_purpose, install
from privkit.pydantic import PersonalModel
from tests.integrations.servers import uvicorn_server
from tests.sqlalchemy.rides import Clock, Rider, RideService, ride_service, rider

EMAIL = "rider1@rides.example"
SECRET = "ada.lovelace@x.example"


class RiderOut(PersonalModel):
    id: Annotated[int, NotPersonal("row id")]
    email: Annotated[str | None, Personal("user.contact.email", purposes={"account", "receipts"})] = None
    name: Annotated[str | None, Personal("user.name", purposes={"account"})] = None
    born: Annotated[date | None, BirthDate(purposes={"age_check": AgeBand()})] = None
    home: Annotated[GeoPoint | None, Location(purposes={"pickup": Exact(), "demand_map": Cell(7)})] = None


class RiderIn(PersonalModel):
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})]
    born: Annotated[date | None, BirthDate(purposes={"age_check"})] = None


class Plain(BaseModel):
    born: date
    notes: dict[str, int] = {}


def names() -> list[str]:
    scope = purposes.current()
    return list(scope.names) if scope is not None else []


def application(privacy: Privacy, engine: Any) -> FastAPI:
    app = FastAPI()
    install(app)

    def needed(name: str) -> Any:
        return Depends(for_purpose(privacy, name))

    def session() -> Iterator[Session]:
        with Session(engine) as opened:
            yield opened

    stored_session = Annotated[Session, Depends(session)]

    for name in ("account", "receipts", "age_check", "pickup", "demand_map", "navigation"):

        @app.get(f"/{name}/sync/{{key}}", response_model=RiderOut, dependencies=[needed(name)])
        def read(key: int, stored: stored_session) -> Any:
            return stored.get_one(Rider, key)

        @app.get(f"/{name}/async/{{key}}", response_model=RiderOut, dependencies=[needed(name)])
        async def read_async(key: int, stored: stored_session) -> Any:
            return stored.get_one(Rider, key)

        @app.get(f"/{name}/waits", dependencies=[needed(name)])
        async def waits() -> list[list[str]]:
            before = names()
            await asyncio.sleep(0.01)
            return [before, await asyncio.to_thread(names), names()]

    @app.get("/none")
    def none(stored: stored_session) -> Any:
        return stored.scalars(select(Rider.email)).all()

    @app.get("/none/unloaded", response_model=RiderOut)
    async def unloaded() -> Any:
        return RiderOut.model_construct(id=1, email=SECRET)

    @app.get("/names")
    async def of_none() -> list[str]:
        return names()

    async def in_async_dependency(_: Annotated[Any, needed("account")]) -> AsyncIterator[list[str]]:
        yield names()

    def in_dependency(_: Annotated[Any, needed("account")]) -> Iterator[list[str]]:
        yield names()

    @app.get("/dependencies")
    def dependencies(
        one: Annotated[Any, Depends(in_async_dependency)], two: Annotated[Any, Depends(in_dependency)]
    ) -> Any:
        return [one, two, names()]

    router = APIRouter(prefix="/nested", dependencies=[needed("receipts")])

    @router.get("/both", response_model=RiderOut, dependencies=[needed("account")])
    def both(stored: stored_session) -> Any:
        return stored.get_one(Rider, 1)

    app.include_router(router)

    @app.get("/stream", dependencies=[needed("account")])
    async def stream() -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            yield " ".join(names())

        return StreamingResponse(lines())

    app.state.later = []

    @app.get("/later", dependencies=[needed("account")])
    async def later(tasks: BackgroundTasks) -> None:
        tasks.add_task(lambda: app.state.later.append(names()))

    @app.get("/later/short", dependencies=[Depends(for_purpose(privacy, "account"), scope="function")])
    async def later_short(tasks: BackgroundTasks) -> None:
        tasks.add_task(lambda: app.state.later.append(names()))

    @app.get("/fails", dependencies=[needed("account")])
    async def fails() -> None:
        raise ShreddedError(SECRET)

    @app.post("/riders", dependencies=[needed("account")])
    def sign_up(form: RiderIn) -> str:
        return form.email

    @app.post("/plain")
    def plain(form: Plain, number: int = 0) -> None:
        return None

    @app.get("/invalid", response_model=Plain)
    def invalid() -> Any:
        return {"born": SECRET}

    def failing(error: type[PrivkitError]) -> Any:
        def fail() -> None:
            raise error(SECRET)

        return fail

    for code, error in (("consent", ConsentRequired), ("value", InvalidValue), ("keys", KeyringError)):
        app.get(f"/errors/{code}")(failing(error))

    return app


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[RideService]:
    found = ride_service(database_url, tmp_path, Clock())
    found.sign_up(rider(1))
    yield found
    found.engine.dispose()


@pytest.fixture
def client(service: RideService) -> Iterator[httpx.Client]:
    with uvicorn_server(application(service.privacy, service.engine)) as url, httpx.Client(base_url=url) as opened:
        yield opened


EXPECTED: dict[str, dict[str, Any]] = {
    "account": {"email": EMAIL, "name": "Rider 1"},
    "receipts": {"email": EMAIL},
    "age_check": {"born": "35-44"},
    "pickup": {"home": {"lat": 51.5, "lon": 0.1}},
    "demand_map": {"home": "87194e6d4ffffff"},
    "navigation": {},
}


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_response_has_what_the_purpose_needs_and_nothing_else(client: httpx.Client, kind: str) -> None:
    for name, fields in EXPECTED.items():
        answer = client.get(f"/{name}/{kind}/1")
        assert 200 == answer.status_code, (name, answer.text)
        assert {"id": 1} | fields == answer.json(), name


def test_an_endpoint_without_a_purpose_is_refused_and_says_nothing_about_the_service(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="privkit")  # another library's worker may have raised the root's
    answer = client.get("/none")
    assert (403, "application/problem+json") == (answer.status_code, answer.headers["content-type"])
    assert {
        "title": "Forbidden",
        "status": 403,
        "detail": "The current purpose, or its absence, does not allow this use of a field.",
        "code": "PK201",
    } == answer.json()
    assert "riders.email is personal data and no purpose is set." in caplog.text


def test_a_response_that_needs_a_purpose_is_refused_without_one(client: httpx.Client) -> None:
    answer = client.get("/none/unloaded")
    assert (403, "PK201") == (answer.status_code, answer.json()["code"])


def test_g12_no_purpose_is_left_after_a_request(client: httpx.Client) -> None:
    for path in ("/account/sync/1", "/account/async/1", "/fails", "/dependencies", "/stream", "/riders"):
        client.get(path)
        assert [] == client.get("/names").json()


def test_g12_dependencies_with_yield_work_under_the_purpose(client: httpx.Client) -> None:
    assert [["account"]] * 3 == client.get("/dependencies").json()


def test_purposes_of_a_router_and_its_endpoint_narrow_each_other(client: httpx.Client) -> None:
    assert {"id": 1, "email": EMAIL} == client.get("/nested/both").json()


def test_a_stream_and_background_tasks_end_with_the_request(service: RideService) -> None:
    app = application(service.privacy, service.engine)
    with uvicorn_server(app) as url:
        assert "account" == httpx.get(f"{url}/stream").text
        httpx.get(f"{url}/later")
        httpx.get(f"{url}/later/short")
    assert [["account"], []] == app.state.later


async def test_fifty_requests_at_once_keep_to_their_own_purpose(service: RideService) -> None:
    chosen = [list(EXPECTED)[number % len(EXPECTED)] for number in range(50)]
    kinds = ("sync", "async")
    engine = create_engine(service.engine.url, pool_size=60)  # nobody waits for a connection while holding a thread
    service.privacy.protect(engine)
    with uvicorn_server(application(service.privacy, engine)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as many:
            waits = await asyncio.gather(*(many.get(f"/{name}/waits") for name in chosen))
            reads = await asyncio.gather(*(many.get(f"/{name}/{kinds[n // 6 % 2]}/1") for n, name in enumerate(chosen)))
    engine.dispose()
    assert [[[name]] * 3 for name in chosen] == [answer.json() for answer in waits]
    assert [{"id": 1} | EXPECTED[name] for name in chosen] == [answer.json() for answer in reads]


def test_e03_a_request_that_is_not_valid_is_answered_without_its_input(client: httpx.Client) -> None:
    bad = [
        client.post("/riders", json={"email": 7, "born": SECRET}),
        client.post("/plain?number=" + SECRET, json={"born": SECRET, "notes": {SECRET: "x", "ada": "y"}}),
        client.post("/plain", content='{"born": "' + SECRET, headers={"content-type": "application/json"}),
        client.post("/plain", json=[SECRET]),
    ]
    assert [422] * 4 == [answer.status_code for answer in bad]
    assert [] == [answer.text for answer in bad if SECRET in answer.text or "ada" in answer.text]
    places = [[line["loc"] for line in answer.json()["detail"]] for answer in bad]
    assert [["body", "email"]] == [place for place in places[0] if "email" in place]
    assert ["query", "number"] in places[1]
    assert ["body", "born"] in places[1]
    assert ["body", "notes", "..."] in places[1]
    assert {"type", "loc", "msg"} == set(bad[1].json()["detail"][0])


def test_a_body_is_collected_under_the_purpose(client: httpx.Client) -> None:
    assert SECRET == client.post("/riders", json={"email": SECRET, "born": "2001-02-03"}).json()


def test_a_response_that_is_not_valid_shows_no_value_to_anybody(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="privkit")
    answer = client.get("/invalid")
    assert {"title": "Internal Server Error", "status": 500} == answer.json()
    assert SECRET not in caplog.text
    assert "('response', 'born')" in caplog.text


@pytest.mark.parametrize(("path", "status"), [("consent", 451), ("value", 422), ("keys", 500)])
def test_every_error_has_a_status_and_a_code(client: httpx.Client, path: str, status: int) -> None:
    answer = client.get(f"/errors/{path}")
    assert status == answer.status_code == answer.json()["status"]
    assert SECRET not in answer.text
    assert 410 == client.get("/fails").status_code


def test_the_openapi_document_shows_purposes_of_operations_and_fields(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert [["pickup"]] == document["paths"]["/pickup/sync/{key}"]["get"]["x-privacy-purpose"]
    assert [["account"]] == document["paths"]["/dependencies"]["get"]["x-privacy-purpose"]
    nested = document["paths"]["/nested/both"]["get"]["x-privacy-purpose"]
    assert [["account"], ["receipts"]] == sorted(nested)
    assert "x-privacy-purpose" not in document["paths"]["/none"]["get"]
    fields = document["components"]["schemas"]["RiderOut"]["properties"]
    assert "user.name" == fields["name"]["x-privacy"]["category"]
    assert SECRET not in json.dumps(document)


def test_a_route_that_is_added_later_is_in_the_document(service: RideService) -> None:
    app = application(service.privacy, service.engine)
    app.openapi()
    app.get("/late", dependencies=[Depends(for_purpose(service.privacy, "pickup"))])(lambda: None)
    assert [["pickup"]] == app.openapi()["paths"]["/late"]["get"]["x-privacy-purpose"]


def test_an_unknown_purpose_is_an_error_where_it_is_declared(service: RideService) -> None:
    with pytest.raises(PolicyError):
        for_purpose(service.privacy, "pickups")


def test_the_log_of_the_server_shows_no_value(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    client.post("/riders", json={"email": 7, "born": SECRET})
    client.get("/none/unloaded")
    assert SECRET not in caplog.text

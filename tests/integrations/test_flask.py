"""Flask on a real server with threads: each request runs under its own purpose and leaves none behind."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from flask import Blueprint, Flask, request
from pydantic import BaseModel, TypeAdapter
from sqlalchemy import select
from sqlalchemy.orm import Session

from privkit import FileKeyring, Personal, Privacy, purposes
from privkit.errors import ConsentRequired, PolicyError
from privkit.integrations.flask import for_purpose, install
from privkit.pydantic import PersonalModel
from tests.integrations.servers import werkzeug_server
from tests.sqlalchemy.rides import POLICY, Base, Clock, Rider, RideService, ride_service, rider

EMAIL = "rider1@rides.example"
SECRET = "ada.lovelace@x.example"


class Contact(PersonalModel):
    email: Annotated[str, Personal("user.contact.email", purposes={"account"})]


class Plain(BaseModel):
    born: date


def names() -> list[list[str]]:
    scope = purposes.current()
    return [list(group) for group in scope.groups] if scope is not None else []


def application(privacy: Privacy, engine: Any = None) -> Flask:
    app = Flask("rides")
    install(app)
    app.get("/names")(names)

    for name in ("account", "receipts", "pickup"):
        blueprint = Blueprint(name, name, url_prefix=f"/{name}")
        for_purpose(blueprint, privacy, name)

        def email() -> Any:
            with Session(engine) as session:
                return session.scalars(select(Rider.email)).one()

        blueprint.get("/names", endpoint="names")(names)
        blueprint.get("/email", endpoint="email")(email)
        blueprint.get("/narrowed", endpoint="narrowed")(privacy.purpose("receipts")(names))
        app.register_blueprint(blueprint)

    @app.get("/decorated")
    @privacy.purpose("pickup")
    def decorated() -> Any:
        return names()

    @app.get("/account/stream")
    def stream() -> Any:
        return (" ".join(map(str, names())) or "none" for _ in range(2))

    @app.post("/contact")
    @privacy.purpose("account")
    def contact() -> Any:
        return Contact.model_validate(request.json).model_dump()

    @app.post("/plain")
    def plain() -> Any:
        return Plain.model_validate(request.json).model_dump()

    @app.get("/dumped")
    def dumped() -> Any:
        return TypeAdapter(list[Contact]).dump_python([Contact.model_construct(email=SECRET)])

    @app.get("/consent")
    def consent() -> Any:
        raise ConsentRequired(SECRET)

    return app


@pytest.fixture
def privacy(tmp_path: Path) -> Privacy:
    return Privacy(POLICY, Base, FileKeyring(tmp_path / "keys.json"))


@pytest.fixture
def client(privacy: Privacy) -> Iterator[httpx.Client]:
    with werkzeug_server(application(privacy)) as url, httpx.Client(base_url=url) as opened:
        yield opened


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[RideService]:
    found = ride_service(database_url, tmp_path, Clock())
    found.sign_up(rider(1))
    yield found
    found.engine.dispose()


def test_a_request_reads_what_the_purpose_of_its_blueprint_needs(service: RideService) -> None:
    with werkzeug_server(application(service.privacy, service.engine)) as url:
        assert EMAIL == httpx.get(f"{url}/account/email").text
        refused = httpx.get(f"{url}/pickup/email")
    assert (403, "application/problem+json") == (refused.status_code, refused.headers["content-type"])
    assert "PK201" == refused.json()["code"]
    assert "email" not in refused.text


def test_a_purpose_is_in_force_in_its_blueprint_alone(client: httpx.Client) -> None:
    assert [["pickup"]] == client.get("/pickup/names").json()
    assert [] == client.get("/names").json()
    assert [["pickup"]] == client.get("/decorated").json()


def test_purposes_of_application_blueprint_and_view_narrow_each_other(privacy: Privacy) -> None:
    app = application(privacy)
    for_purpose(app, privacy, "account", "receipts")
    with werkzeug_server(app) as url:
        assert [["account", "receipts"], ["pickup"], ["receipts"]] == httpx.get(f"{url}/pickup/narrowed").json()
        assert [["account", "receipts"]] == httpx.get(f"{url}/names").json()


def test_many_requests_at_once_keep_to_their_own_purpose(client: httpx.Client) -> None:
    chosen = [("account", "receipts", "pickup")[number % 3] for number in range(60)]
    with ThreadPoolExecutor(12) as threads:
        answers = list(threads.map(lambda name: client.get(f"/{name}/names").json(), chosen))
    assert [[[name]] for name in chosen] == answers


def test_g12_a_thread_that_serves_again_has_no_purpose_even_after_a_failing_teardown(privacy: Privacy) -> None:
    app = application(privacy)

    @app.teardown_request
    def fail(error: BaseException | None) -> None:
        if request.path != "/names":
            raise ZeroDivisionError

    caller = app.test_client()
    with pytest.raises(ZeroDivisionError):
        caller.get("/pickup/names")
    assert [] == names()
    app.teardown_request_funcs.clear()
    assert [] == caller.get("/names").json


def test_a_stream_has_no_purpose_unless_it_opens_one(privacy: Privacy) -> None:
    app = application(privacy)
    for_purpose(app, privacy, "account")
    with werkzeug_server(app) as url:
        assert "nonenone" == httpx.get(f"{url}/account/stream").text


def test_e03_errors_are_answered_without_values(client: httpx.Client) -> None:
    answers = {
        "/contact": client.post("/contact", json={"email": [SECRET]}),
        "/plain": client.post("/plain", json={"born": SECRET}),
        "/dumped": client.get("/dumped"),
        "/consent": client.get("/consent"),
    }
    assert {"/contact": 422, "/plain": 422, "/dumped": 403, "/consent": 451} == {
        path: answer.status_code for path, answer in answers.items()
    }
    assert [] == [path for path, answer in answers.items() if SECRET in answer.text]
    assert ["born"] == answers["/plain"].json()["detail"][0]["loc"]


def test_an_unknown_purpose_is_an_error_where_it_is_declared(privacy: Privacy) -> None:
    with pytest.raises(PolicyError):
        for_purpose(Flask("rides"), privacy, "pickups")

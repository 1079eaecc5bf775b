"""The guardians' pages on a real server: reading changes nothing, an answer is recorded, and no page shows a value."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from privkit.errors import InvalidValue
from privkit.integrations.guardian_pages import guardian_pages
from privkit.integrations.guardian_words import ENGLISH
from tests.databases import raw_rows
from tests.integrations.guardian_service import application, notice_text
from tests.integrations.servers import uvicorn_server
from tests.sqlalchemy.guardians import ASKED, CHILD, TEXTS, ask, guardian_service, set_born, status
from tests.sqlalchemy.rides import START, Clock, Rider, RideService

GIVE: dict[str, Any] = {"answer": "give", "yes": ["account", "pickup"], "disclosure": ["pickup"]}
VALUES = ("rider1@rides.example", "Rider 1", "2015-05-05", "Augusta", "51.5")
GERMAN = {"de": {key: f"[de] {text}" for key, text in ENGLISH.items()} | {"purpose.account": "Konto führen"}}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path, clock: Clock) -> Iterator[RideService]:
    made = guardian_service(sqlite_url, tmp_path, clock)
    yield made
    made.engine.dispose()


@pytest.fixture
def client(service: RideService) -> Iterator[httpx.Client]:
    with browsing(application(service, texts=GERMAN)) as found:
        yield found


@contextmanager
def browsing(app: Any) -> Iterator[httpx.Client]:
    """A client of a server of its own, which follows no redirect."""
    with uvicorn_server(app) as url, httpx.Client(base_url=f"{url}/consent/", timeout=30) as client:
        yield client


def answered(client: httpx.Client, token: str, **form: Any) -> str:
    """The token that withdraws, after an answer."""
    response = client.post(f"answer/{token}", data=GIVE | form)
    assert 303 == response.status_code
    return response.headers["location"].removeprefix("../done/")


def heading(response: httpx.Response) -> str:
    (found,) = re.findall(r"<h1>(.*)</h1>", response.text)
    return str(found)


def test_the_page_shows_what_is_asked_and_nothing_of_the_child(service: RideService, client: httpx.Client) -> None:
    page = client.get(f"answer/{ask(service)}")
    assert 200 == page.status_code
    assert "May Rides Ltd use your child&#39;s data?" == heading(page)
    assert "We use &lt;your child&#39;s&gt; data" in page.text
    for part in ("exact location", "maps inc (eu-west-1)", "2 years after account closed", "2026-01-08 12:00 UTC"):
        assert part in page.text
    assert "checked" not in page.text.partition("</style>")[2]
    assert [] == [value for value in VALUES if value in page.text]


def test_every_response_is_kept_by_nobody_and_loads_and_tells_nothing(
    service: RideService, client: httpx.Client
) -> None:
    token = ask(service)
    pages = [client.get(f"answer/{token}"), client.get("answer/nothing"), client.post(f"answer/{token}", data=GIVE)]
    pages.append(client.get(f"answer/{token}"))
    for each in pages:
        assert "no-store" == each.headers["cache-control"]
        assert "no-referrer" == each.headers["referrer-policy"]
        assert "DENY" == each.headers["x-frame-options"]
        assert each.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert [200, 404, 303, 409] == [each.status_code for each in pages]


def test_opening_every_page_changes_nothing(service: RideService, client: httpx.Client, sqlite_url: str) -> None:
    token = ask(service)
    before = stored(sqlite_url)
    for _ in range(2):
        client.get(f"answer/{token}")
        client.head(f"answer/{token}")
        client.get(f"answer/{token}", params=GIVE)
    assert before == stored(sqlite_url)
    withdrawal = answered(client, token)
    before = stored(sqlite_url)
    for path in ("done", "withdraw"):
        assert 200 == client.get(f"{path}/{withdrawal}", params={"withdraw": "all"}).status_code
    assert before == stored(sqlite_url)


def stored(url: str) -> list[Any]:
    names = ("privkit_consent", "privkit_consent_request", "privkit_ledger", "privkit_key")
    return [raw_rows(url, f"SELECT * FROM {name}") for name in names]


def test_all_can_be_given_and_the_page_says_so(service: RideService, client: httpx.Client, sqlite_url: str) -> None:
    withdrawal = answered(client, ask(service), yes=list(ASKED), disclosure=["pickup", "receipts"])
    assert dict.fromkeys(ASKED, "given") == status(service)
    page = client.get(f"done/{withdrawal}")
    assert "Your answer is recorded" == heading(page)
    assert "You did not agree to" not in page.text
    query = "SELECT DISTINCT method, notice, locale FROM privkit_consent WHERE event = 'given'"
    assert [("signed_form", "v3", "en")] == raw_rows(sqlite_url, query)


def test_some_can_be_given(service: RideService, client: httpx.Client) -> None:
    page = client.get(f"done/{answered(client, ask(service))}")
    assert {"account": "given", "pickup": "given", "receipts": "refused"} == status(service)
    assert page.text.index("You agreed to") < page.text.index("Find the rider") < page.text.index("You did not agree")


def test_refusing_refuses_whatever_is_ticked(service: RideService, client: httpx.Client) -> None:
    page = client.get(f"done/{answered(client, ask(service), answer='refuse')}")
    assert dict.fromkeys(ASKED, "refused") == status(service)
    assert "Withdraw your consent" not in page.text


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"answer": "give"}, "Nothing is ticked"),
        ({"answer": "give", "yes": ["account", "pickup"]}, "“Find the rider” has one tick of two"),
        ({"answer": "give", "yes": ["account"], "disclosure": ["receipts"]}, "has one tick of two"),
    ],
)
def test_a_form_that_is_half_ticked_is_shown_again_with_its_ticks(
    service: RideService, client: httpx.Client, form: dict[str, Any], says: str
) -> None:
    token = ask(service)
    page = client.post(f"answer/{token}", data=form)
    assert 400 == page.status_code
    assert says in page.text
    assert "<title>There is a problem: " in page.text
    ticked = sorted(re.findall(r'id="(\S+)" checked', page.text))
    assert ticked == sorted(f"{kind}-{name}" for kind in ("yes", "disclosure") for name in form.get(kind, ()))
    assert dict.fromkeys(ASKED, "asked") == status(service)
    answered(client, token)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"answer": "perhaps"},
        {"answer": ["give", "refuse"]},
        GIVE | {"yes": "marketing"},
        GIVE | {"x": "y" * 70_000},
    ],
)
def test_a_form_that_is_none_of_ours_records_nothing(
    service: RideService, client: httpx.Client, form: dict[str, Any]
) -> None:
    page = client.post(f"answer/{ask(service)}", data=form)
    assert (400, "This form could not be read") == (page.status_code, heading(page))
    assert dict.fromkeys(ASKED, "asked") == status(service)


def test_bytes_that_are_no_form_record_nothing(service: RideService, client: httpx.Client) -> None:
    for content in (b"\xff\x00=\xfe", b"&&&", b'{"answer": "give"}'):
        assert 400 == client.post(f"answer/{ask(service)}", content=content).status_code
    assert dict.fromkeys(ASKED, "asked") == status(service)


def test_what_was_given_is_withdrawn_in_part_and_whole(service: RideService, client: httpx.Client) -> None:
    withdrawal = answered(client, ask(service))
    page = client.post(f"withdraw/{withdrawal}", data={"withdraw": "some"})
    assert (400, True) == (page.status_code, "Nothing is ticked" in page.text)
    assert 303 == client.post(f"withdraw/{withdrawal}", data={"withdraw": "some", "purpose": "pickup"}).status_code
    assert {"account": "given", "pickup": "withdrawn", "receipts": "refused"} == status(service)
    for _ in range(2):
        done = client.post(f"withdraw/{withdrawal}", data={"withdraw": "all"}, follow_redirects=True)
        assert (200, False) == (done.status_code, "You agreed to" in done.text)
    assert "withdrawn" == status(service)["account"]
    assert "There is nothing to withdraw" in client.get(f"withdraw/{withdrawal}").text
    assert 400 == client.post(f"withdraw/{withdrawal}", data={"withdraw": "some", "purpose": "other"}).status_code
    assert 400 == client.post(f"withdraw/{withdrawal}", data={}).status_code


def test_the_old_link_leads_on_to_the_withdrawal(service: RideService, client: httpx.Client) -> None:
    token = ask(service)
    withdrawal = answered(client, token)
    for page in (client.get(f"answer/{token}"), client.post(f"answer/{token}", data=GIVE)):
        assert (409, "This was answered already") == (page.status_code, heading(page))
        assert f'href="../done/{withdrawal}"' in page.text


def test_a_token_on_a_page_that_is_not_its_own_does_nothing(service: RideService, client: httpx.Client) -> None:
    token, other = ask(service), ask(service)
    withdrawal = answered(client, token)
    assert 400 == client.get(f"answer/{withdrawal}").status_code
    assert 400 == client.get(f"done/{other}").status_code
    assert 400 == client.get(f"withdraw/{other}").status_code
    assert 404 == client.post(f"withdraw/{other}", data={"withdraw": "all"}).status_code
    assert 404 == client.post(f"answer/{withdrawal}", data=GIVE).status_code
    assert "given" == status(service)["account"]


def test_a_link_that_is_not_one_of_ours_any_more_says_what_to_do(
    service: RideService, client: httpx.Client, clock: Clock
) -> None:
    set_born(service, date(2013, 1, 5))
    grown, token, short = ask(service), ask(service), ask(service, valid=timedelta(hours=1))
    found = {"cut off": client.get(f"answer/{token[:-1]}"), "altered": client.get(f"answer/{token[:40]}{token[41:]}A")}
    clock.now = START + timedelta(hours=1)
    found["expired"] = client.get(f"answer/{short}")
    clock.now = START.replace(day=5)
    found["of age"] = client.post(f"answer/{grown}", data=GIVE)
    with service.privacy.purpose("age_check"), Session(service.engine) as session:
        child = session.get_one(Rider, CHILD)
        session.rollback()
        service.privacy.erase(service.engine, child, by="the parent")
    found["erased"] = client.get(f"answer/{token}")
    assert {
        "cut off": (404, ENGLISH["unknown_title"]),
        "altered": (404, ENGLISH["unknown_title"]),
        "expired": (410, ENGLISH["expired_title"]),
        "of age": (410, ENGLISH["of_age_title"]),
        "erased": (410, ENGLISH["gone_title"]),
    } == {name: (page.status_code, heading(page)) for name, page in found.items()}
    assert [] == [each for page in found.values() for each in (*VALUES, token, "PK203") if each in page.text]


def test_a_page_whose_text_is_not_the_policys_is_not_shown(
    service: RideService, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, logger="privkit")  # another test's set-up of logging may have changed both
    monkeypatch.setattr(logging.getLogger("privkit"), "disabled", False)
    token = ask(service)
    with browsing(application(service, text=lambda version, locale: TEXTS[version, locale] + " ")) as client:
        page = client.get(f"answer/{token}")
    assert (500, ENGLISH["failed_title"]) == (page.status_code, heading(page))
    assert "not the one that the policy lists" in caplog.text
    assert token not in caplog.text


def test_a_purpose_that_takes_a_stronger_method_is_not_offered_and_counts_as_refused(service: RideService) -> None:
    token = ask(service)
    with browsing(application(service, method="email_plus")) as client:
        page = client.get(f"answer/{token}")
        assert ['"account"'] == re.findall(r'name="yes" value=(\S+)', page.text)
        assert 2 == page.text.count(ENGLISH["too_weak"])
        assert 400 == client.post(f"answer/{token}", data=GIVE).status_code
        answered(client, token, yes=["account"], disclosure=[])
    assert {"account": "given", "pickup": "refused", "receipts": "refused"} == status(service)


def test_a_page_is_in_the_language_that_the_guardian_was_asked_in(service: RideService, client: httpx.Client) -> None:
    token = ask(service, locale="de")
    page = client.get(f"answer/{token}")
    assert '<html lang="de">' in page.text
    assert "Konto führen" in page.text
    assert f"<p>{TEXTS['v3', 'de']}</p>" in page.text
    answered(client, token)
    assert heading(client.get(f"answer/{token}")).startswith("[de]")
    with browsing(application(service)) as english:
        page = english.get(f"answer/{ask(service, locale='de')}")
        assert '<html lang="en">' in page.text
        assert '<div class="notice" lang="de">' in page.text


@pytest.mark.parametrize("texts", [{"de": {"yes": "Ja"}}, {"en-GB": {"yes": "{nobody}"}}, {"en": {"yes": "{"}}])
def test_texts_that_are_not_complete_are_refused(service: RideService, texts: Any) -> None:
    with pytest.raises(InvalidValue, match="lack texts"):
        guardian_pages(service.privacy, lambda: Session(), notice_text, method="signed_form", texts=texts)


def test_two_browsers_that_press_at_once_give_one_answer(database_url: str, tmp_path: Path, clock: Clock) -> None:
    service = guardian_service(database_url, tmp_path, clock)
    token = ask(service)
    with browsing(application(service)) as client, ThreadPoolExecutor(4) as pool:
        forms = [GIVE, {"answer": "refuse"}] * 3
        found = list(pool.map(lambda form: client.post(f"answer/{token}", data=form).status_code, forms))
    service.engine.dispose()
    assert [303, 409, 409, 409, 409, 409] == sorted(found)
    words = raw_rows(database_url, "SELECT event FROM privkit_consent WHERE event <> 'asked'")
    assert len(ASKED) == len(words)


def test_the_pages_work_with_sessions_of_asyncio(
    database_url: str, async_database_url: str, tmp_path: Path, clock: Clock
) -> None:
    service = guardian_service(database_url, tmp_path, clock)
    token = ask(service)
    engine = create_async_engine(
        async_database_url, poolclass=NullPool
    )  # the server's event loop ends before this test
    service.privacy.protect(engine)
    with browsing(application(service, async_sessionmaker(engine))) as client:
        assert 200 == client.get(f"answer/{token}").status_code
        withdrawal = answered(client, token)
        assert 409 == client.post(f"answer/{token}", data=GIVE).status_code
        assert 303 == client.post(f"withdraw/{withdrawal}", data={"withdraw": "all"}).status_code
    assert {"account": "withdrawn", "pickup": "withdrawn", "receipts": "refused"} == status(service)
    service.engine.dispose()


def test_no_token_is_logged_and_none_is_in_the_document(
    service: RideService, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "privkit")
    token = ask(service)
    withdrawal = answered(client, token)
    client.get(f"answer/{token}")
    client.post(f"withdraw/{withdrawal}", data={"withdraw": "all"})
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("privkit")]
    assert [] == [line for line in ours if token in line or withdrawal in line]
    assert {} == client.get(str(client.base_url.join("/openapi.json"))).json()["paths"]

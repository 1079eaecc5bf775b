"""The guardians' pages in a browser: by keyboard alone, on a narrow screen, readable, and without a script."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.databases import unavailable
from tests.integrations.guardian_service import application
from tests.integrations.servers import uvicorn_server
from tests.sqlalchemy.guardians import ASKED, ask, guardian_service, status
from tests.sqlalchemy.rides import Clock, RideService

NARROW, WIDE = {"width": 320, "height": 640}, {"width": 1280, "height": 900}

CONTRAST = """() => {
    const luminance = colour => {
        const parts = colour.map(part => part / 255).map(
            part => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
    };
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const ground = element => {
        for (; element; element = element.parentElement) {
            const colour = numbers(getComputedStyle(element).backgroundColor);
            if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
        }
        return [255, 255, 255];
    };
    const texts = [...document.querySelectorAll("body *")].filter(
        each => [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()));
    return texts.map(each => {
        const [ink, paper] = [numbers(getComputedStyle(each).color).slice(0, 3), ground(each)].map(luminance);
        return [each.tagName, (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)];
    });
}"""
"""Of each element with text: its contrast, by the formula of WCAG 2.2."""

FIT = "() => document.documentElement.scrollWidth <= window.innerWidth"
OUTLINE = "() => parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
FOCUSED = "() => document.activeElement.id || document.activeElement.value || document.activeElement.tagName"


def chromium_path() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or unavailable("Chromium is not installed: apt-get install chromium (.ci/run does it)")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = chromium_path()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("the browser's driver comes with: pip install playwright (make test installs it)")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def service(sqlite_url: str, tmp_path: Path) -> Iterator[RideService]:
    made = guardian_service(sqlite_url, tmp_path, Clock())
    yield made
    made.engine.dispose()


@pytest.fixture
def site(service: RideService) -> Iterator[str]:
    with uvicorn_server(application(service)) as url:
        yield f"{url}/consent"


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page of a browser that runs no script of a site."""
    context = chromium.new_context(viewport=NARROW, java_script_enabled=False)
    yield context.new_page()
    context.close()


def require_readable(page: Any) -> None:
    """What has to hold on every page, at 320 px and with the text twice as large."""
    assert [] == [(name, ratio) for name, ratio in page.evaluate(CONTRAST) if ratio < 4.5]
    assert 1 == page.locator("h1").count()
    assert page.title()
    assert "en" == page.locator("html").get_attribute("lang")
    for box in page.locator("input").all():
        assert 1 == page.locator(f"label[for={box.get_attribute('id')}]").count()
        assert 1 == page.locator("fieldset", has=page.locator(f"#{box.get_attribute('id')}")).locator("legend").count()
    assert page.evaluate(FIT)
    page.set_viewport_size({"width": 640, "height": 640})
    page.evaluate("() => { document.documentElement.style.zoom = 2 }")
    assert page.evaluate(FIT)
    page.set_viewport_size(NARROW)
    page.evaluate("() => { document.documentElement.style.zoom = 1 }")


def test_consent_is_given_and_withdrawn_by_keyboard_alone(service: RideService, site: str, page: Any) -> None:
    page.goto(f"{site}/answer/{ask(service, 'account', 'pickup')}")
    reached = []
    for _ in range(5):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(FOCUSED))
        assert page.evaluate(OUTLINE) >= 2
        if reached[-1].startswith(("yes", "disclosure")):
            page.keyboard.press("Space")
    assert ["yes-account", "yes-pickup", "disclosure-pickup", "give", "refuse"] == reached
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/done/*")
    assert {"account": "given", "pickup": "given"} == status(service)
    for tabs, leads_to in ((1, "withdraw"), (4, "done")):
        for key in ["Tab"] * tabs + ["Enter"]:
            page.keyboard.press(key)
        page.wait_for_url(f"**/{leads_to}/*")
    assert {"account": "withdrawn", "pickup": "withdrawn"} == status(service)


def test_every_page_is_readable_on_a_narrow_screen_and_twice_as_large(
    service: RideService, site: str, page: Any
) -> None:
    token, other = ask(service), ask(service)
    page.goto(f"{site}/answer/{token}")
    require_readable(page)
    page.get_by_role("button", name="I agree to what is ticked").click()
    assert "Nothing is ticked" in page.get_by_role("alert").inner_text()
    require_readable(page)
    for name in ASKED:
        page.locator(f"#yes-{name}").check()
    page.get_by_label("Yes, it may be given to others for this").first.check()
    page.get_by_label("Yes, it may be given to others for this").last.check()
    page.get_by_role("button", name="I agree to what is ticked").click()
    assert "Your answer is recorded" == page.locator("h1").inner_text()
    require_readable(page)
    page.get_by_role("link", name="Withdraw your consent").click()
    require_readable(page)
    page.get_by_role("button", name="Withdraw what is ticked").click()
    require_readable(page)
    for address in (f"answer/{token}", "answer/nothing", f"done/{other}"):
        page.goto(f"{site}/{address}")
        require_readable(page)


def test_giving_and_refusing_look_alike_and_the_style_is_the_one_that_is_allowed(
    service: RideService, site: str, chromium: Any
) -> None:
    for size in (NARROW, WIDE):
        context = chromium.new_context(viewport=size)
        page, complaints = context.new_page(), []
        page.on("console", lambda message, found=complaints: found.append(message.text))
        page.goto(f"{site}/answer/{ask(service)}")
        give, refuse = (page.locator(f"button[value={value}]") for value in ("give", "refuse"))
        style = "each => { const s = getComputedStyle(each); return [s.color, s.backgroundColor, s.font, s.border] }"
        assert give.evaluate(style) == refuse.evaluate(style)
        boxes = [each.bounding_box() for each in (give, refuse)]
        assert boxes[0]["width"] == boxes[1]["width"]
        assert boxes[0]["height"] == boxes[1]["height"] >= 44
        assert "700" == give.evaluate("each => getComputedStyle(each).fontWeight")
        assert 0 == page.locator("input:checked").count()
        assert [] == [text for text in complaints if "favicon" not in text]
        context.close()

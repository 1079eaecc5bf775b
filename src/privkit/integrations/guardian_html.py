"""The guardians' pages as HTML: no script, no request, nothing kept by a browser or told to another site."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from privkit.integrations.guardian_words import Words

_FOLDER = "templates/guardian"
_STYLE = files("privkit.integrations").joinpath(_FOLDER, "guardian.css").read_text(encoding="utf-8").strip()
_ALLOWED = b64encode(sha256(_STYLE.encode()).digest()).decode("ascii")
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_ALLOWED}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
"""Of every response: its address is a permission, and what it says is between a guardian and the service."""


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("privkit.integrations", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def page(name: str, words: Words, status: HTTPStatus = HTTPStatus.OK, **values: Any) -> HTMLResponse:
    """Return a page; every text in it is escaped."""
    template = _environment().get_template(f"{name}.html.j2")
    text = template.render(words=words, style=Markup(_STYLE), **values)  # noqa: S704 - the file is our own
    return HTMLResponse(text, status, HEADERS)

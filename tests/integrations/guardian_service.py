"""An application with the guardians' pages, on a database whose child a guardian is asked about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from sqlalchemy.orm import sessionmaker

from privkit.integrations.guardian_pages import guardian_pages
from tests.sqlalchemy.guardians import TEXTS
from tests.sqlalchemy.rides import RideService


def notice_text(version: str, locale: str) -> str:
    return TEXTS[version, locale]


def application(
    service: RideService, sessions: Callable[[], Any] | None = None, text: Any = notice_text, **options: Any
) -> FastAPI:
    app = FastAPI()
    given = {"method": "signed_form"} | options
    pages = guardian_pages(service.privacy, sessions or sessionmaker(service.engine), text, **given)
    app.include_router(pages, prefix="/consent")
    return app

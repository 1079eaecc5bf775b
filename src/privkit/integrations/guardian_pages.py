"""Pages on which a guardian reads what is asked, gives or refuses consent, and withdraws it. FastAPI; no JavaScript.

sessions = sessionmaker(engine)                       # or async_sessionmaker(engine)
pages = guardian_pages(privacy, sessions, notice_text, method="signed_form")
app.include_router(pages, prefix="/consent")

token = privacy.consent.ask(session, subject=child, purposes={"pickup"}, guardian="g-17", notice="v4", locale="en")
link = f"https://rides.example/consent/answer/{token}"

A GET changes nothing, since mail scanners open links; a POST does. Whoever has the link can answer: it is for the
guardian's own address, and for no log. What is recorded is recorded by ``privacy.consent``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from privkit.consent.asked import Asked, AskedPurpose
from privkit.consent.state import GIVEN
from privkit.errors import InvalidValue, PrivkitError, TokenRefused
from privkit.integrations.guardian_html import HEADERS, page
from privkit.integrations.guardian_words import Dictionary
from privkit.integrations.problems import problem
from privkit.privacy import Privacy

_LONGEST_FORM = 65_536
_STATUS = {
    "unknown": HTTPStatus.NOT_FOUND,
    "used": HTTPStatus.CONFLICT,
    "malformed": HTTPStatus.BAD_REQUEST,
    "failed": HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""Every other reason is a 410: it was, and is no more."""


def guardian_pages(
    privacy: Privacy,
    sessions: Callable[[], Session | AsyncSession],
    notice_text: Callable[[str, str], str],
    *,
    method: str,
    verifier: str | None = None,
    texts: Mapping[str, Mapping[str, str]] | None = None,
    locale: str = "en",
) -> APIRouter:
    """Return the pages ``answer/{token}``, ``done/{token}`` and ``withdraw/{token}``.

    ``sessions`` opens a session of a protected engine: a ``sessionmaker`` or an ``async_sessionmaker``.
    ``notice_text`` returns the text of a notice by version and locale; it has to be the one whose SHA-256 the policy
    lists. ``method``: how whoever gets the link was verified as a guardian, and ``verifier`` by whom.
    ``texts``: the pages in other languages than English, by locale, each with the keys of ``guardian_words.ENGLISH``;
    ``purpose.NAME``, ``category.KEY``, ``recipient.NAME`` and ``keep.NAME`` stand for what the policy says.
    ``locale``: the language where a token tells none.

    Raises InvalidValue for texts that are not complete.
    """
    pages = _Pages(privacy, sessions, notice_text, method, verifier, Dictionary(privacy.policy, texts or {}, locale))
    router = APIRouter(include_in_schema=False)
    router.add_api_route("/answer/{token}", pages.review, methods=["GET"])
    router.add_api_route("/answer/{token}", pages.answer, methods=["POST"])
    router.add_api_route("/done/{token}", pages.done, methods=["GET"])
    router.add_api_route("/withdraw/{token}", pages.review_withdrawal, methods=["GET"])
    router.add_api_route("/withdraw/{token}", pages.withdraw, methods=["POST"])
    return router


class _Malformed(Exception):
    """A form, or an address, that no page of ours leads to."""


@dataclass(frozen=True, slots=True)
class _Pages:
    privacy: Privacy
    sessions: Callable[[], Session | AsyncSession]
    notice_text: Callable[[str, str], str]
    method: str
    verifier: str | None
    words: Dictionary

    async def review(self, token: str) -> Response:
        """Show what is asked."""
        return await self._respond(token, lambda session: self._review(self._asked(session, token)))

    async def answer(self, request: Request, token: str) -> Response:
        """Record the answer, or show the page again where the form says none."""
        form = await _form(request)
        return await self._respond(token, lambda session: self._answer(session, token, form))

    async def done(self, token: str) -> Response:
        """Show what was answered."""
        return await self._respond(token, lambda session: self._done(session, token))

    async def review_withdrawal(self, token: str) -> Response:
        """Show what can be withdrawn."""
        return await self._respond(token, lambda session: self._withdrawal(self._asked(session, token)))

    async def withdraw(self, request: Request, token: str) -> Response:
        """Record a withdrawal, or show the page again where the form names nothing."""
        form = await _form(request)
        return await self._respond(token, lambda session: self._withdraw(session, token, form))

    def _asked(self, session: Session, token: str) -> Asked:
        return self.privacy.consent.asked(session, token)

    def _answer(self, session: Session, token: str, form: Mapping[str, list[str]]) -> Response:
        asked, pressed = self._asked(session, token), form.get("answer")
        yes, disclosure = (set(form.get(name, ())) for name in ("yes", "disclosure"))
        offered = {each.name for each in asked.purposes if not self._too_weak(each)}
        if pressed not in (["give"], ["refuse"]) or not yes | disclosure <= offered:
            raise _Malformed
        if pressed == ["refuse"]:
            yes = disclosure = set()
        else:
            half = [each.name for each in asked.purposes if each.discloses and each.name in yes ^ disclosure]
            if half or not yes:
                return self._review(asked, yes, disclosure, half or [""])
        said: dict[str, Any] = {"method": self.method, "verifier": self.verifier}
        return _to(f"../done/{self.privacy.consent.answer(session, token, yes=yes, disclosure=disclosure, **said)}")

    def _review(
        self, asked: Asked, yes: Collection[str] = (), disclosure: Collection[str] = (), wrong: Collection[str] = ()
    ) -> Response:
        """``wrong``: the purposes of which one tick of two is there, or an empty name where nothing is ticked."""
        if asked.expires is None:
            raise _Malformed  # it is one that withdraws
        return page(
            "review",
            self.words.of(asked.locale),
            HTTPStatus.BAD_REQUEST if wrong else HTTPStatus.OK,
            asked=asked,
            purposes={each.name: each for each in asked.purposes},
            paragraphs=self._notice(asked).replace("\r\n", "\n").split("\n\n"),
            too_weak={each.name for each in asked.purposes if self._too_weak(each)},
            yes=yes,
            disclosure=disclosure,
            wrong=wrong,
        )

    def _done(self, session: Session, token: str) -> Response:
        asked = self._asked(session, token)
        if asked.expires is not None:
            raise _Malformed  # it is not answered yet
        given = _given(asked)
        refused = [each for each in asked.purposes if each not in given]
        return page("done", self.words.of(asked.locale), token=token, given=given, refused=refused)

    def _withdraw(self, session: Session, token: str, form: Mapping[str, list[str]]) -> Response:
        asked, pressed = self._asked(session, token), form.get("withdraw")
        names = set(form.get("purpose", ()))
        if pressed not in (["some"], ["all"]) or not names <= {each.name for each in asked.purposes}:
            raise _Malformed
        if pressed == ["some"] and not names:
            return self._withdrawal(asked, wrong=True)
        self.privacy.consent.withdraw_by(session, token, purposes=names if pressed == ["some"] else None)
        return _to(f"../done/{token}")

    def _withdrawal(self, asked: Asked, *, wrong: bool = False) -> Response:
        if asked.expires is not None:
            raise _Malformed  # it is one that answers
        status = HTTPStatus.BAD_REQUEST if wrong else HTTPStatus.OK
        return page("withdraw", self.words.of(asked.locale), status, given=_given(asked), wrong=wrong)

    def _notice(self, asked: Asked) -> str:
        """Return the text that is asked about. Raises InvalidValue where it is not the one that the policy lists."""
        notice = self.privacy.policy.notices.get(asked.notice or "")
        if notice is None or asked.locale is None or asked.locale not in notice.texts:
            raise InvalidValue(
                "A guardian was asked without a notice that the policy lists.",
                "Nobody could show what the guardian agreed to.",
                f"List its versions under notices in {self.privacy.policy.path}; ask(..., notice=..., locale=...).",
            )
        text = self.notice_text(notice.name, asked.locale)
        if sha256(text.encode()).hexdigest() != notice.texts[asked.locale]:
            raise InvalidValue(
                f"The text of the notice {notice.name} in {asked.locale} is not the one that the policy lists.",
                "What a guardian reads has to be what is recorded as read.",
                f"Show that text, or list the SHA-256 of this one as a new version in {self.privacy.policy.path}.",
            )
        return text

    def _too_weak(self, purpose: AskedPurpose) -> bool:
        """Whether a purpose takes a stronger method than the one by which whoever gets the link was verified."""
        strong = self.privacy.policy.consent_terms(purpose.name).methods
        return strong is not None and self.method not in strong

    async def _respond(self, token: str, work: Callable[[Session], Response]) -> Response:
        """Do the work in a session of its own. What it recorded is committed where it leads on to another page."""
        try:
            opened = self.sessions()
            if isinstance(opened, AsyncSession):
                async with opened as session:
                    response = await session.run_sync(self._refusing, token, work)
                    if isinstance(response, RedirectResponse):
                        await session.commit()
                    return response
            return await run_in_threadpool(self._within, opened, token, work)
        except PrivkitError as error:
            problem(error)
            return self._refused("failed")

    def _within(self, opened: Session, token: str, work: Callable[[Session], Response]) -> Response:
        with opened as session:
            response = self._refusing(session, token, work)
            if isinstance(response, RedirectResponse):
                session.commit()
            return response

    def _refusing(self, session: Session, token: str, work: Callable[[Session], Response]) -> Response:
        try:
            return work(session)
        except _Malformed:
            return self._refused("malformed")
        except TokenRefused as refusal:
            reason, locale, leads_to = refusal.data["reason"], refusal.data["locale"], ""
            if reason == "used":
                leads_to = f"../done/{self.privacy.consent.withdrawal(session, token)}"
            return self._refused(reason, locale, leads_to)

    def _refused(self, reason: str, locale: str | None = None, leads_to: str = "") -> Response:
        status = _STATUS.get(reason, HTTPStatus.GONE)
        return page("refused", self.words.of(locale), status, reason=reason, leads_to=leads_to)


def _given(asked: Asked) -> list[AskedPurpose]:
    return [each for each in asked.purposes if each.said == GIVEN]


def _to(address: str) -> Response:
    """A page that is loaded again sends no form again. The address is relative, wherever the pages are mounted."""
    return RedirectResponse(address, HTTPStatus.SEE_OTHER, HEADERS)


async def _form(request: Request) -> dict[str, list[str]]:
    """Return the fields of a form; none where it is too long to be one of ours."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_FORM:
            return {}
    return parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)

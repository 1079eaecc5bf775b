"""Requests to guardians: a link that answers once, and one that withdraws as often as wanted.

    token = privacy.consent.ask(session, subject=child, purposes={"pickup"}, guardian="g-17", notice="v4", locale="en")
    ...                                                         # sent to the guardian, who opens the page
    privacy.consent.asked(session, token)                       # what the page shows
    withdrawal = privacy.consent.answer(session, token, yes={"pickup"}, method="signed_form")
    privacy.consent.withdraw_by(session, withdrawal)

A request is a row of ``privkit_consent_request``. Whoever closes it, by one conditional UPDATE, records the answer in
the same transaction: of two answers at once one finds it closed. That it was closed is a line of the evidence ledger,
and done again after a restore. A request that an older backup does not know has no words there either.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Table, insert, null, select
from sqlalchemy.orm import Session, scoped_session

from privkit.consent import tokens
from privkit.consent.age import cautious_today
from privkit.consent.asked import Asked, AskedPurpose
from privkit.consent.state import ASKED, IN_PERSON, LAPSED, NO, REFUSED, WITHDRAWN
from privkit.consent.tokens import ANSWER, WITHDRAWAL, Token
from privkit.errors import InvalidValue
from privkit.purposes import internally
from privkit.sqlalchemy import children, consent_rows, consent_words, ledger
from privkit.sqlalchemy.consent_recording import close_request, record
from privkit.sqlalchemy.consent_subjects import connection_of, forget, guardian_token, subject_of
from privkit.sqlalchemy.consent_words import Word, known
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.tables import KEY, REQUEST

VALID, LONGEST = timedelta(days=7), timedelta(days=366)


@dataclass(frozen=True, slots=True)
class _Request:
    """A row of ``privkit_consent_request``, as it stands now."""

    id: bytes
    subject: bytes
    guardian: bytes
    purposes: tuple[str, ...]
    notice: str | None
    locale: str | None
    closed: bool

    def bound(self) -> tuple[bytes, ...]:
        """What the token that answers is bound to."""
        texts = (self.notice or "", self.locale or "", *self.purposes)
        return self.subject, self.guardian, *(each.encode() for each in texts)


class Requests:
    """The part of ``ConsentLedger`` that asks guardians over a link, and takes their answers."""

    _guard: Guard

    def ask(
        self,
        session: Session | scoped_session[Any],
        *,
        subject: object,
        purposes: Iterable[str],
        guardian: object,
        notice: str | None = None,
        locale: str | None = None,
        valid: timedelta = VALID,
    ) -> str:
        """Record that a guardian is asked, and with which notice. Returns the token of the link to send, 76 characters.

        It changes no state. The token answers once, within ``valid``; whoever has it can answer, so that it goes to the
        guardian alone. Raises InvalidValue for a notice that the policy does not list, or a period that cannot be.
        """
        guard = self._guard
        if not timedelta(0) < valid <= LONGEST:
            raise InvalidValue(
                "A guardian's token is valid for no time, or for more than a year.",
                "An old message is not to decide about a child.",
                "Give the days that a guardian needs: valid=timedelta(days=7).",
            )
        connection, key_id = subject_of(session, subject)
        names, who = known(guard, purposes), guardian_token(connection, guard, guardian, key_id)
        if who == IN_PERSON:
            raise InvalidValue(
                "A data subject was named as the own guardian.",
                "The link is for somebody who answers for a child.",
                "Ask in the application, and record the answer: privacy.consent.grant(..., guardian=subject).",
            )
        seen = consent_words.seen(guard, names, notice, locale)
        record(connection, guard, key_id, Word(event=ASKED, purposes=names, guardian=who, **seen))
        request = _Request(secrets.token_bytes(tokens.ID_SIZE), key_id, who, names, notice, seen["locale"], False)
        _insert(connection, guard, request)
        return tokens.write(_secret(guard), ANSWER, request.id, guard.now() + valid, *request.bound())

    def asked(self, session: Session | scoped_session[Any], token: str) -> Asked:
        """Return what a token of either kind is about, for a page to show. It changes nothing.

        Raises TokenRefused for a token that cannot be used any more.
        """
        connection = connection_of(session)
        found, request, table = _open(connection, self._guard, token, ANSWER, WITHDRAWAL)
        said = _said(connection, self._guard, request)
        purposes = (_shown(self._guard, table, name, said.get(name)) for name in request.purposes)
        return Asked(tuple(purposes), request.notice, request.locale, found.expires)

    def answer(
        self,
        session: Session | scoped_session[Any],
        token: str,
        *,
        yes: Iterable[str],
        disclosure: Iterable[str] = (),
        method: str,
        verifier: str | None = None,
    ) -> str:
        """Record the answer to a token: consent to the purposes in ``yes``, refusal of all others that were asked.

        A purpose that discloses data is consented to where ``disclosure`` names it as well: its yes is a separate one.
        Returns the token with which the guardian can withdraw, at any time and any number of times.

        Raises TokenRefused for a token that cannot be used; InvalidValue for a purpose that was not asked, and for a
        method that the policy does not list or that is too weak for a purpose that discloses. Then nothing is recorded.
        """
        guard, connection = self._guard, connection_of(session)
        _, request, _ = _open(connection, guard, token, ANSWER)
        given = _asked_for(request, yes) & (
            _asked_for(request, disclosure) | {name for name in request.purposes if not _discloses(guard, name)}
        )
        consent = None
        if given:
            seen: dict[str, Any] = {"notice": request.notice, "locale": request.locale, "verifier": verifier}
            seen["disclosure"] = given & _asked_for(request, disclosure)
            consent = consent_words.consent(guard, given, request.guardian, method, **seen)
        if not close_request(connection, guard, request.id):
            raise tokens.refused("used", request.locale)
        if refused := tuple(name for name in request.purposes if name not in given):
            word = Word(event=REFUSED, purposes=refused, guardian=request.guardian)
            record(connection, guard, request.subject, word)
            forget(session, guard)
        if consent is not None:
            record(connection, guard, request.subject, consent)
        ledger.append(connection, guard, "consent_answered", {"request": request.id.hex()})
        return tokens.write(_secret(guard), WITHDRAWAL, request.id, None)

    def withdrawal(self, session: Session | scoped_session[Any], token: str) -> str:
        """Return the token that withdraws, for one that was answered: the link in an old message leads on to it."""
        found, request = _verified(connection_of(session), self._guard, token, ANSWER, WITHDRAWAL)
        if not request.closed:
            raise tokens.refused("unknown")
        return tokens.write(_secret(self._guard), WITHDRAWAL, found.id, None)

    def withdraw_by(
        self, session: Session | scoped_session[Any], token: str, *, purposes: Iterable[str] | None = None
    ) -> tuple[str, ...]:
        """Record that the guardian withdraws, from ``purposes`` or from all that were asked. Returns from which.

        The token is the one that ``answer`` returned. Of what is withdrawn or refused already nothing is recorded.
        Raises TokenRefused for a token that cannot be used, InvalidValue for a purpose that was not asked.
        """
        guard, connection = self._guard, connection_of(session)
        _, request, _ = _open(connection, guard, token, WITHDRAWAL)
        chosen = set(request.purposes) if purposes is None else _asked_for(request, purposes)
        said = _said(connection, guard, request)
        names = tuple(sorted(name for name in chosen if said.get(name) not in (*NO, LAPSED)))
        if names:
            record(connection, guard, request.subject, Word(event=WITHDRAWN, purposes=names, guardian=request.guardian))
            forget(session, guard)
        return names


def _secret(guard: Guard) -> bytes:
    return guard.keyring.secret("consent-request")


def _insert(connection: Connection, guard: Guard, request: _Request) -> None:
    row = {"id": request.id, "subject": request.subject, "guardian": request.guardian, "asked_at": guard.now()}
    row |= {"purposes": json.dumps(request.purposes), "notice": request.notice, "locale": request.locale}
    connection.execute(insert(guard.own_table(REQUEST)).values(row))


def _verified(connection: Connection, guard: Guard, text: str, *kinds: bytes) -> tuple[Token, _Request]:
    """Return a token that was given out here, and its request. Raises TokenRefused."""
    token = tokens.parse(text, *kinds)
    table = guard.own_table(REQUEST)
    with internally():
        row = connection.execute(select(table).where(table.c.id == token.id)).first()
    if row is None:
        raise tokens.refused("unknown")
    purposes = tuple(json.loads(row.purposes))
    closed = row.closed_at is not None
    request = _Request(token.id, bytes(row.subject), bytes(row.guardian), purposes, row.notice, row.locale, closed)
    token.verify(_secret(guard), *(request.bound() if token.kind == ANSWER else ()))
    return token, request


def _open(connection: Connection, guard: Guard, text: str, *kinds: bytes) -> tuple[Token, _Request, Table]:
    """Return a token that can be used now, its request, and the table of the data subject. Raises TokenRefused."""
    token, request = _verified(connection, guard, text, *kinds)
    if token.kind == ANSWER and request.closed:
        raise tokens.refused("used", request.locale)
    if token.expires is not None and token.expires <= guard.now():
        raise tokens.refused("expired", request.locale)
    table = _child_table(connection, guard, request)
    if token.kind == ANSWER and _superseded(guard, request):
        raise tokens.refused("superseded", request.locale)
    return token, request, table


def _child_table(connection: Connection, guard: Guard, request: _Request) -> Table:
    """Return where the data subject's row is. Raises TokenRefused for one who was erased, or is of age."""
    keys, subject = guard.own_table(KEY), request.subject
    living = select(keys.c.id).where(keys.c.id == subject, keys.c.wrapped.is_not(None)).exists()
    for table in guard.tables:
        if KEY_COLUMN in table.columns:
            query = select(table.columns.get(ADULT_COLUMN, null())).where(table.c[KEY_COLUMN] == subject, living)
            with internally():
                row = connection.execute(query).first()
            if row is not None:
                if row[0] is not None and row[0] <= cautious_today(guard.now()):
                    raise tokens.refused("of_age", request.locale)
                return table
    raise tokens.refused("gone", request.locale)


def _superseded(guard: Guard, request: _Request) -> bool:
    today = guard.now().date()
    return any(
        since <= today and request.notice not in names
        for purpose in request.purposes
        for since, names in guard.policy.consent_terms(purpose).renewals
    )


def _said(connection: Connection, guard: Guard, request: _Request) -> dict[str, str]:
    """Return the newest word of the request's guardian, or for all guardians, on each purpose."""
    theirs = (request.guardian.hex(), None)
    events = consent_rows.events(connection, guard, request.subject)
    return {each.purpose: each.event for each in events if each.event != ASKED and each.guardian in theirs}


def _shown(guard: Guard, table: Table, name: str, said: str | None) -> AskedPurpose:
    purpose = guard.policy.purpose(name)
    recipients = tuple(each for each in guard.policy.recipients.values() if name in each.purposes)
    return AskedPurpose(
        name=name,
        description=purpose.description,
        legal_basis=purpose.legal_basis,
        keep=purpose.keep,
        categories=_categories(guard, table, name),
        recipients=recipients,
        discloses=_discloses(guard, name),
        said=said,
    )


def _categories(guard: Guard, table: Table, purpose: str) -> tuple[str, ...]:
    """Return the categories of the fields about such a data subject that a purpose needs, sorted."""
    found = set()
    for each in guard.classes.values():
        whose = children.subject_of(guard, each.table)
        if whose is not None and any(table is base.local_table for base in whose.mapper.iterate_to_root()):
            rules = (guard.rules[field.id] for field in each.model.fields.values())
            found |= {
                rule.field.marker.category for rule in rules if any(term.purpose.name == purpose for term in rule.terms)
            }
    return tuple(sorted(found))


def _discloses(guard: Guard, purpose: str) -> bool:
    return guard.policy.consent_terms(purpose).methods is not None


def _asked_for(request: _Request, names: Iterable[str]) -> set[str]:
    chosen = {names} if isinstance(names, str) else set(names)
    if not chosen <= set(request.purposes):
        raise InvalidValue(
            "An answer names a purpose that the guardian was not asked about.",
            "Consent is to what was shown.",
            f"Name purposes of the request: {', '.join(request.purposes)}.",
            allowed=list(request.purposes),
        )
    return chosen

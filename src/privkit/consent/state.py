"""What guardians' words amount to, for one data subject and one purpose: a pure decision over the ledger's events.

The sequence number orders events, not the clock. A date that is claimed for a consent can only weaken it: it does not
overcome a refusal or a withdrawal of that date or a later one, and of the same instant the withdrawal counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

from privkit.policy.notices import ConsentTerms

ASKED, GIVEN, REFUSED, WITHDRAWN = "asked", "given", "refused", "withdrawn"
EXPIRED, LAPSED, SUPERSEDED = "expired", "lapsed", "superseded"
UNDISCLOSED = "undisclosed"
ENDED = (EXPIRED, LAPSED, SUPERSEDED)
EVENTS = (ASKED, GIVEN, REFUSED, WITHDRAWN, EXPIRED, LAPSED, SUPERSEDED)
NO = (REFUSED, WITHDRAWN)

IN_PERSON = bytes(16)
"""What stands in a guardian's place where the data subject answers in person. No keyed token is that."""

_OWN = IN_PERSON.hex()


@dataclass(frozen=True, slots=True)
class ConsentEvent:
    """One row of the consent ledger. Tokens and digests are hexadecimal.

    ``subject``: the key id of the data subject. ``guardian``, ``verifier``: keyed tokens; a guardian of None stands for
    all, and ``IN_PERSON`` for the data subject. ``claimed_at``: when it is said to have happened, where that is not
    ``at``, when it was recorded. ``material``: whether its notice was a material change of the one before.
    ``disclosure``: of a consent, whether there was a separate yes to giving data to others.
    """

    seq: int
    subject: str
    purpose: str
    event: str
    at: datetime
    guardian: str | None = None
    method: str | None = None
    verifier: str | None = None
    notice: str | None = None
    notice_sha256: str | None = None
    locale: str | None = None
    material: bool | None = None
    claimed_at: datetime | None = None
    expires: datetime | None = None
    disclosure: bool | None = None

    @property
    def since(self) -> datetime:
        """From when on it is said to hold."""
        return self.claimed_at or self.at

    @property
    def in_person(self) -> bool:
        """Whether it is the data subject's own word."""
        return self.guardian == _OWN


def state(events: Iterable[ConsentEvent], now: datetime, terms: ConsentTerms, *, in_person: bool = False) -> str | None:
    """Return ``given`` where consent counts at ``now``, otherwise why not; None where nobody was asked.

    Of each guardian the newest word counts, and one who says no is enough. ``in_person``: the data subject came of age,
    and the own word alone counts. ``undisclosed``: to its use, not to giving it to others. ``unverified``: by a method
    that is not good enough. ``lapsed``: whoever gave it is a guardian no more, or the child has come of age.
    """
    known = sorted(events, key=lambda each: each.seq)
    said = [each for each in known if each.event != ASKED]
    heard = [each for each in said if each.in_person or each.guardian is None] if in_person else said
    standing_no = [each for each in heard if each.event in NO and not any(_overcomes(word, each) for word in heard)]
    if standing_no:
        return standing_no[-1].event
    faults = [fault for each, fault in standing(heard, now, terms) if each.in_person is in_person]
    if faults:
        return GIVEN if None in faults else faults[-1]
    last = heard[-1].event if heard else (GIVEN if said else None)
    if last is not None:
        return LAPSED if last == GIVEN else last  # by who has no say in it now
    return ASKED if known else None


def standing(
    events: Iterable[ConsentEvent], now: datetime, terms: ConsentTerms
) -> list[tuple[ConsentEvent, str | None]]:
    """Return the consents that no later word replaces, each with why it does not count; None: it does.

    A method is one to verify a guardian, so none is too weak for the data subject's own word.
    """
    said = [each for each in events if each.event != ASKED]
    found = [each for each in said if each.event == GIVEN and not any(_replaces(word, each) for word in said)]
    own = replace(terms, methods=None, separate=False)
    return [(each, _fault(each, own if each.in_person else terms, now)) for each in found]


def _fault(given: ConsentEvent, terms: ConsentTerms, now: datetime) -> str | None:
    fault = terms.fault(given.since, given.expires, given.method, given.notice, now)
    return UNDISCLOSED if fault is None and terms.separate and not given.disclosure else fault


def _replaces(word: ConsentEvent, given: ConsentEvent) -> bool:
    """Whether a later word takes the place of a consent: the same guardian's, or one for all."""
    return word.seq > given.seq and word.guardian in (given.guardian, None)


def _overcomes(word: ConsentEvent, no: ConsentEvent) -> bool:
    """Whether a later word ends a no: its guardian's consent, or that its guardian is none any more."""
    if word.seq < no.seq or (no.guardian is not None and word.guardian != no.guardian):
        return False
    if word.event == LAPSED:
        return no.guardian is not None
    return word.event == GIVEN and word.at != no.at and (word.claimed_at is None or word.claimed_at > no.since)

"""What guardians' words amount to, for one data subject and one purpose: a pure decision over the ledger's events.

The sequence number orders events, not the clock. A date that is claimed for a consent can only weaken it: it does not
overcome a refusal or a withdrawal of that date or a later one, and of the same instant the withdrawal counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from privkit.policy.notices import ConsentTerms

ASKED, GIVEN, REFUSED, WITHDRAWN = "asked", "given", "refused", "withdrawn"
EXPIRED, LAPSED, SUPERSEDED = "expired", "lapsed", "superseded"
EVENTS = (ASKED, GIVEN, REFUSED, WITHDRAWN, EXPIRED, LAPSED, SUPERSEDED)
NO = (REFUSED, WITHDRAWN)


@dataclass(frozen=True, slots=True)
class ConsentEvent:
    """One row of the consent ledger. Tokens and digests are hexadecimal.

    ``subject``: the key id of the data subject. ``guardian``, ``verifier``: keyed tokens; a guardian of None stands for
    all. ``claimed_at``: when it is said to have happened, where that is not ``at``, when it was recorded. ``material``:
    whether its notice was a material change of the one before.
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

    @property
    def since(self) -> datetime:
        """From when on it is said to hold."""
        return self.claimed_at or self.at


def state(events: Iterable[ConsentEvent], now: datetime, terms: ConsentTerms) -> str | None:
    """Return ``given`` where consent counts at ``now``, otherwise why not; None where nobody was asked.

    Of each guardian the newest word counts, and one who says no is enough. ``unverified``: by a method that is not
    good enough. ``lapsed``: whoever gave it is a guardian no more, or the child has come of age.
    """
    known = sorted(events, key=lambda each: each.seq)
    said = [each for each in known if each.event != ASKED]
    standing_no = [each for each in said if each.event in NO and not any(_overcomes(word, each) for word in said)]
    if standing_no:
        return standing_no[-1].event
    faults = [fault for _, fault in standing(said, now, terms)]
    if faults:
        return GIVEN if None in faults else faults[-1]
    if said:
        return said[-1].event
    return ASKED if known else None


def standing(
    events: Iterable[ConsentEvent], now: datetime, terms: ConsentTerms
) -> list[tuple[ConsentEvent, str | None]]:
    """Return the consents that no later word replaces, each with why it does not count; None: it does."""
    said = [each for each in events if each.event != ASKED]
    found = [each for each in said if each.event == GIVEN and not any(_replaces(word, each) for word in said)]
    return [(each, terms.fault(each.since, each.expires, each.method, each.notice, now)) for each in found]


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

"""One function decides what a field's age means: keep, restrict, de-identify or delete, and by which rule.

Pure: facts in, decision out. Expired means ``event + period <= now`` in UTC calendar arithmetic; the same
decision in SQL is ``event <= period.cutoff(now)``. An event that is NULL, or not yet reached, has not
happened, and nothing counted from it expires.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from privkit.clock import as_utc
from privkit.deidentify.techniques import leaves_residue
from privkit.errors import MappingError
from privkit.markers import Technique
from privkit.periods import Period

EventTimes = Mapping[str, datetime | None]
"""When each policy event happened to one row; None where it has not."""


MISSING = "consent"
"""The rule that restricts what is needed for purposes alone to which consent is missing."""


@dataclass(frozen=True, slots=True)
class Clause:
    """A purpose's or a duty's keep: for ``period`` after ``event``. No period means for ever.

    ``until``: the event that ends it instead, earlier or later, where its time is known; "" for none. ``lapses``:
    events, each with the period after which they end it before.
    """

    name: str
    period: Period | None
    event: str
    until: str = ""
    lapses: tuple[tuple[str, Period], ...] = ()


class Status(Enum):
    """What the library does with a field: RESTRICT keeps it for duties alone, unreadable for purposes."""

    KEEP = "keep"
    RESTRICT = "restrict"
    DEIDENTIFY = "de-identify"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A decision: the ``rule`` that made it, and ``until`` when it holds on these facts (None: no known end)."""

    status: Status
    rule: str
    until: datetime | None


def field_lifetime(
    *,
    purposes: Sequence[Clause],
    duties: Sequence[Clause],
    events: EventTimes,
    technique: Technique,
    held: bool,
    now: datetime,
    withheld: Collection[str] = (),
) -> Lifetime:
    """Decide the lifetime of one field at ``now``. ``withheld``: the purposes to which consent is missing.

    A field is kept while any purpose needs it; it is restricted where each of those lacks consent. Afterwards a duty
    restricts it, then a hold; then it goes, or leaves a residue where the technique has one. The deciding rule is the
    clause that lives longest, the first of equals. Raises MappingError for a field without purposes, ClockError for an
    instant without zone.
    """
    now = as_utc(now)
    if not purposes:
        raise MappingError(
            "A field has personal data and no purpose.",
            "Nothing says how long it may be kept.",
            'Name what needs it: Personal("...", purposes={"..."}).',
        )
    if usable := [clause for clause in purposes if clause.name not in withheld]:
        purpose, end = _longest(usable, events)
        if end is None or end > now:
            return Lifetime(Status.KEEP, purpose.name, end)
    purpose, end = _longest(purposes, events)
    if end is None or end > now:
        return Lifetime(Status.RESTRICT, MISSING, end)
    if duties:
        duty, duty_end = _longest(duties, events)
        if duty_end is None or duty_end > now:
            return Lifetime(Status.RESTRICT, duty.name, None if held else duty_end)
    if held:
        return Lifetime(Status.RESTRICT, "hold", None)
    return Lifetime(Status.DEIDENTIFY if leaves_residue(technique) else Status.DELETE, purpose.name, None)


def expired(clause: Clause, events: EventTimes, now: datetime) -> bool:
    """Return whether the clause has ended at ``now``. Raises ClockError for an instant without a zone."""
    now, end = as_utc(now), ends(clause, events)
    return end is not None and end <= now


def last_end(clauses: Sequence[Clause], events: EventTimes) -> datetime | None:
    """Return when the last of ``clauses`` ends; None where one is for ever, or its event has not happened."""
    found = [ends(clause, events) for clause in clauses]
    known = [end for end in found if end is not None]
    return max(known) if known and len(known) == len(found) else None


def _longest(clauses: Sequence[Clause], events: EventTimes) -> tuple[Clause, datetime | None]:
    """Return the clause that ends last and its end; for ever outlives an event that has not happened."""
    first, *rest = ((clause, ends(clause, events)) for clause in clauses)
    for candidate in rest:
        if _outlives(candidate, first):
            first = candidate
    return first


def _outlives(a: tuple[Clause, datetime | None], b: tuple[Clause, datetime | None]) -> bool:
    (a_clause, a_end), (b_clause, b_end) = a, b
    if a_end is None:
        return b_end is not None or (a_clause.period is None and b_clause.period is not None)
    return b_end is not None and a_end > b_end


def ends(clause: Clause, events: EventTimes) -> datetime | None:
    """Return when the clause ends, or None where nothing says so. An event in the future ends later still."""
    began = ((events.get(event), period) for event, period in clause.lapses)
    found = [period.after(moment) for moment, period in began if moment is not None]
    own, moment = events.get(clause.until), events.get(clause.event)
    if moment is not None:
        moment = as_utc(moment)
    if clause.period is not None and own is not None:
        found.append(as_utc(own))
    elif clause.period is not None and moment is not None:
        found.append(clause.period.after(moment))
    return min(found, default=None)

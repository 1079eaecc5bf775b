"""Whether a data subject is a child: a pure decision on calendar dates, cautious wherever it cannot know.

A birth date is a day and not an instant: a datetime counts as the date that is written in it. The ages come
from policy packs, never from here.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from privkit.clock import as_utc, system_clock
from privkit.deidentify.precision import written_date
from privkit.errors import InvalidValue
from privkit.policy import AgeRule, Policy

PLACEHOLDERS = frozenset(
    {
        date(1, 1, 1),  # .NET, Go and Python's own minimum
        date(1601, 1, 1),  # Windows file time zero
        date(1753, 1, 1),  # SQL Server datetime minimum
        date(1800, 1, 1),
        date(1899, 12, 30),  # spreadsheet and OLE day zero
        date(1900, 1, 1),  # SQL Server default
        date(1970, 1, 1),  # Unix time zero
        date(9999, 12, 31),  # "no end"
    }
)
"""Dates that programs write where none was given. Whoever was truly born on one proves it another way."""


OF_AGE = date(1500, 1, 1)
"""What a column that holds the day of age says of somebody who was of age already. No program writes it by default."""

_UNIX = 1970
"""As a year alone it is believed: too many were born in it."""

_AHEAD = timedelta(days=2)
"""How far the day where it begins first may be ahead of the cautious one."""

_WRITTEN = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ].*)?)?)?")
_BAND = re.compile(r"(\d{1,3})(?:(?:-|\u2013| to )\d{1,3}|\+| (?:and|or) (?:above|older|over))")


@dataclass(frozen=True, slots=True)
class AgeFacts:
    """What is stored about somebody's age. Each part may be missing, and the first that tells something counts.

    ``births``: a verified birth date, then declared ones; a year, or ``"2013-05"``, is known to the latest day in it.
    The first counts where it is known, otherwise the latest of the others. ``reached_on``: the day on which the age
    of digital consent is reached. ``band``: text such as ``"13-15"`` or ``"18+"``, whose lowest age counts.
    """

    births: tuple[object, ...] = ()
    reached_on: object = None
    band: object = None


def of_age_on(facts: AgeFacts, rules: Sequence[AgeRule], today: date) -> date | None:
    """Return the day from which somebody is of age for good; None: nobody knows, and that is a child.

    ``rules``: the one that holds today and those that follow, each from its day on. Where an age is going to be
    raised, whoever would be a child again is one now. Raises InvalidValue for a birth date in the future.
    """
    births = [latest_birth(value, today) for value in facts.births]
    born = births[0] if births else None
    born = born or max((each for each in births if each is not None), default=None)
    if born is not None:
        return _of_age_for_good(born, rules)
    reached = facts.reached_on
    if isinstance(reached, date) and (day := written_date(reached)) not in PLACEHOLDERS:
        return day
    band = _BAND.fullmatch(facts.band.strip().lower()) if isinstance(facts.band, str) else None
    return OF_AGE if band and all(int(band[1]) >= rule.age for rule in rules) else None


def _of_age_for_good(born: date, rules: Sequence[AgeRule]) -> date | None:
    following: date | None = None
    reached: date | None = None
    for rule in reversed(rules):
        reached, begins = reached_on(born, rule.age), rule.valid_from or date.min
        if reached is None:
            return None
        if following is not None and reached >= following:
            return following
        if reached > begins:
            return reached
        following = begins
    return reached


def latest_birth(value: object, today: date) -> date | None:
    """Return the latest day on which somebody may have been born; None for what tells nothing, or is a placeholder.

    ``value``: a date, a year as int, or text that begins with ``YYYY``, ``YYYY-MM`` or ``YYYY-MM-DD``. Raises
    InvalidValue where all of it lies in the future.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = f"{value:04}"
    if isinstance(value, date):
        value = written_date(value).isoformat()
    written = _WRITTEN.fullmatch(value.strip()) if isinstance(value, str) else None
    if written is None:
        return None
    year, month, day = (int(part) if part else None for part in written.groups())
    assert year is not None
    try:
        earliest = date(year, month or 1, day or 1)
    except ValueError:
        return None
    given = tuple(part for part in (year, month, day) if part is not None)
    if given != (_UNIX,) and any((each.year, each.month, each.day)[: len(given)] == given for each in PLACEHOLDERS):
        return None
    if earliest > written_date(today) + _AHEAD:
        raise InvalidValue("A birth date lies in the future.", "", "Ask for it again; leave it empty if unknown.")
    return date(year, month or 12, day or monthrange(year, month or 12)[1])


def consent_age_reached_on(
    policy: Policy, birth_date: object, country: str | None, region: str | None = None, *, now: datetime | None = None
) -> date | None:
    """Return what to store instead of a birth date: the day of the age of digital consent, by the policy's packs.

    ``OF_AGE`` for somebody who has reached it, which tells nothing of the birthday; None where nobody can tell.
    ``now``: an aware instant; default: the system's. Raises InvalidValue for a birth date in the future.
    """
    today = cautious_today(now or system_clock())
    reached = of_age_on(AgeFacts((birth_date,)), policy.ages_of_consent(country, region, today), today)
    return OF_AGE if reached is not None and reached <= today else reached


def known(birth_date: date | None, today: date) -> bool:
    """Return whether the birth date tells an age: present, not a placeholder, not after ``today``."""
    if birth_date is None:
        return False
    born = written_date(birth_date)
    return born not in PLACEHOLDERS and born <= written_date(today)


def reached_on(birth_date: date | None, age: int) -> date | None:
    """Return the day on which ``age`` (whole years) is reached, or None for an unknown birth date.

    Who was born on 29 February reaches an age on 1 March of a year without one, the later of the days that
    laws use. Raises InvalidValue for an age below 0 or beyond the calendar.
    """
    if birth_date is None or (born := written_date(birth_date)) in PLACEHOLDERS:
        return None
    year = born.year + age
    if age < 0 or year > date.max.year:
        raise InvalidValue("An age limit is a number of years, 0 or more, within the calendar.")
    try:
        return born.replace(year=year)
    except ValueError:
        return date(year, 3, 1)


def is_child(birth_date: date | None, age: int, today: date) -> bool:
    """Return whether the data subject is below ``age`` on ``today``; an unknown age is a child's.

    Raises InvalidValue for a birth date after ``today`` that is no placeholder.
    """
    today, reached = written_date(today), reached_on(birth_date, age)
    if reached is None:
        return True
    if not known(birth_date, today):
        raise InvalidValue(
            "A birth date lies in the future.",
            "Whether its subject is a child cannot be told.",
            "Correct the birth date, or store None where it is unknown.",
        )
    return today < reached


def cautious_today(now: datetime) -> date:
    """Return the date where the day begins last, at UTC-12: a child stays one until the birthday is everywhere.

    Raises ClockError for an instant without a zone.
    """
    now = as_utc(now)
    return (now - timedelta(hours=12)).date() if now.date() > date.min else date.min

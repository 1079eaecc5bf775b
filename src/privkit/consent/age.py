"""Whether a data subject is a child: a pure decision on calendar dates, cautious wherever it cannot know.

A birth date is a day and not an instant: a datetime counts as the date that is written in it. The ages come
from policy packs, never from here.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from privkit.clock import as_utc
from privkit.deidentify.precision import written_date
from privkit.errors import InvalidValue

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
    return (as_utc(now) - timedelta(hours=12)).date()

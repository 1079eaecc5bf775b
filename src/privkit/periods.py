"""ISO 8601 durations in calendar arithmetic, and the exact inverse of adding one.

A month or a year added to a day that the target month lacks ends when that month ends: 31 January plus
one month is 1 March, 00:00. Source: Regulation (EEC, Euratom) 1182/71, article 3(2)(c). So a period is
never shorter than declared. All arithmetic is in UTC, where there is no daylight saving time.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from privkit.clock import as_utc

_ISO = re.compile(
    r"P(?=.)(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?", re.ASCII
)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

_REFERENCE = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Period:
    """A calendar period: ``months`` of varying length, then a fixed ``rest``. Build one with ``Period.parse``."""

    months: int
    rest: timedelta
    text: str

    @classmethod
    def parse(cls, text: str) -> Period:
        """Read an ISO 8601 duration such as ``P1D``, ``P2Y6M`` or ``PT12H``. Raises ValueError for anything else."""
        match = _ISO.fullmatch(text)
        if match is None:
            raise ValueError("not an ISO 8601 duration such as P30D, P6M or P2Y")
        years, months, weeks, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        try:
            rest = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        except OverflowError:
            raise ValueError("longer than the calendar") from None
        period = cls(years * 12 + months, rest, text)
        if not period.months and not period.rest:
            raise ValueError("a period of zero length")
        if period.months > 12 * 1000 or period.rest > timedelta(days=366_000):
            raise ValueError("longer than a thousand years")
        return period

    def length(self) -> timedelta:
        """Return how long it is from 1 January 2001, to compare periods by."""
        return self.after(_REFERENCE) - _REFERENCE

    def after(self, moment: datetime) -> datetime:
        """Return the instant at which a period that starts at ``moment`` has passed (UTC; capped at year 9999)."""
        moment = as_utc(moment)
        year, month = divmod(moment.year * 12 + moment.month - 1 + self.months, 12)
        if year > 9999:
            return _LAST
        if moment.day <= monthrange(year, month + 1)[1]:
            moved = moment.replace(year=year, month=month + 1)
        else:
            year, month = divmod(year * 12 + month + 1, 12)
            if year > 9999:
                return _LAST
            moved = datetime(year, month + 1, 1, tzinfo=UTC)
        return _LAST if _LAST - moved < self.rest else moved + self.rest

    def cutoff(self, now: datetime) -> datetime:
        """Return the latest start whose period has passed at ``now``: ``after(cutoff) <= now < after(cutoff + 1us)``.

        Where the day does not exist so many months earlier, that is the last microsecond of the shorter month.
        Before year 1 it is the first instant there is.
        """
        now = as_utc(now)
        if now - _FIRST < self.rest:
            return _FIRST
        now -= self.rest
        year, month = divmod(now.year * 12 + now.month - 1 - self.months, 12)
        if year < 1:
            return _FIRST
        last = monthrange(year, month + 1)[1]
        if now.day <= last:
            return now.replace(year=year, month=month + 1)
        return datetime(year, month + 1, last, 23, 59, 59, 999999, tzinfo=UTC)

    def __str__(self) -> str:
        return self.text

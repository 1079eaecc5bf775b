"""How a field's values are divided into epochs: buckets of the event that its purposes count from.

Each bucket has a key of its own, and destroying it makes every copy of the bucket unreadable at once. Number 0 is
no epoch; others are the hour in which the bucket begins, counted from 1 at 1970 in UTC, so that a number keeps its
beginning when the policy changes the width. It lies in four bytes of the envelope.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from privkit.errors import InvalidValue
from privkit.policy.rules import Keep

_START = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)
_TICK = timedelta(microseconds=1)
_HIGHEST = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class Epochs:
    """A field's values are divided by the time of ``event``, in buckets of ``width``."""

    event: str
    width: timedelta

    def number(self, moment: datetime) -> int:
        """Return the number of the bucket that an instant (aware, UTC) falls into. Raises InvalidValue before 1970."""
        hours = (moment - _START) // self.width * self.width // _HOUR
        if not 0 <= hours < _HIGHEST:
            raise InvalidValue(
                f"The event {self.event!r} lies before 1970, where no epoch is.",
                "A value would be sealed without the key that its end destroys.",
                "Check the event's time.",
                event=self.event,
            )
        return 1 + hours

    def starts(self, number: int) -> datetime:
        """Return the instant at which a bucket begins."""
        return _START + (number - 1) * _HOUR

    def ends(self, number: int) -> datetime:
        """Return the instant at which a bucket is over."""
        return self.starts(number) + self.width


def ended_before(keeps: Collection[Keep | None], now: datetime) -> datetime | None:
    """Return the instant such that whatever happened before it, and nothing else, has ended under every keep."""
    if not keeps or any(keep is None for keep in keeps):
        return None
    return min(keep.period.cutoff(now) for keep in keeps if keep is not None) + _TICK


def divided(keeps: Collection[Keep | None]) -> Epochs | None:
    """Return how the values that ``keeps`` decide on are divided; None where no keep names an epoch.

    Raises ValueError, with what is wrong, where they disagree: one key cannot serve two buckets.
    """
    widths = {keep.epoch.rest for keep in keeps if keep is not None and keep.epoch is not None}
    if not widths:
        return None
    events = {keep.after if keep is not None else "no event (forever)" for keep in keeps}
    if len(widths) > 1:
        raise ValueError("its purposes name epochs of different widths")
    if len(events) > 1:
        raise ValueError(f"its values end after {', '.join(sorted(events))}, and an epoch belongs to one event")
    return Epochs(events.pop(), widths.pop())

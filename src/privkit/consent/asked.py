"""What a guardian is asked, in names and words that a page can show: no personal value is among them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from privkit.periods import Period
from privkit.policy import Keep, Recipient


@dataclass(frozen=True, slots=True)
class AskedPurpose:
    """One purpose of a request.

    ``categories``: of the fields about the child that it needs. ``recipients``: to whom the policy says that it gives
    them. ``discloses``: whether it needs the separate yes. ``said``: this guardian's newest word on it, if any.
    """

    name: str
    description: str
    legal_basis: str
    keep: Keep | None
    categories: tuple[str, ...]
    recipients: tuple[Recipient, ...]
    discloses: bool
    said: str | None

    @property
    def period(self) -> str:
        """How long data is kept, as ``30 days after account closed``."""
        if self.keep is None:
            return "for ever"
        until = f", or until {_event(self.keep.until)}" if self.keep.until else ""
        return f"{in_words(self.keep.period)} after {_event(self.keep.after)}{until}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to a guardian. ``expires``: when its token answers no more; None: it is one that withdraws."""

    purposes: tuple[AskedPurpose, ...]
    notice: str | None
    locale: str | None
    expires: datetime | None


def in_words(period: Period) -> str:
    """Return a period as ``2 years and 6 months``."""
    minutes, seconds = divmod(int(period.rest / timedelta(seconds=1)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    years, months = divmod(period.months, 12)
    units = {"year": years, "month": months, "day": days, "hour": hours, "minute": minutes, "second": seconds}
    parts = [f"{count} {unit}{'' if count == 1 else 's'}" for unit, count in units.items() if count]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def _event(name: str) -> str:
    """Return an event's name as words; that of a withdrawal holds the purpose too."""
    return name.partition(":")[0].replace("_", " ")

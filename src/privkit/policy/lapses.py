"""How long data is kept on a consent that is missing: a guardian's, or that of somebody who came of age here."""

from __future__ import annotations

from dataclasses import dataclass

from privkit.periods import Period

GUARDIAN, IN_PERSON = "guardian", "in_person"
WHOSE = (GUARDIAN, IN_PERSON)
"""Whose consent is missing: a guardian's to the use of a child's data, or the data subject's own."""


@dataclass(frozen=True, slots=True)
class Lapse:
    """A purpose ends once consent to it has been missing for ``period``. ``whose``: one of ``WHOSE``."""

    purpose: str
    whose: str
    period: Period

    @property
    def event(self) -> str:
        """The name of the event that it began to be missing, which no column holds."""
        return f"consent_missing:{self.whose}:{self.purpose}"

    def __str__(self) -> str:
        own = "the data subject's own consent" if self.whose == IN_PERSON else "a guardian's consent"
        return f"{self.period} without {own}"

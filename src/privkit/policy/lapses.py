"""What ends a purpose before its period: consent that is missing for too long, and the shorter period of a child."""

from __future__ import annotations

from dataclasses import dataclass

from privkit.periods import Period

GUARDIAN, IN_PERSON = "guardian", "in_person"
WHOSE = (GUARDIAN, IN_PERSON)
"""Whose consent is missing: a guardian's to the use of a child's data, or the data subject's own."""

CHILD = "child"
"""In place of those: nothing is missing, but the period began to run for a child."""


_OF_CHILD = "of_a_child:"


def is_childs(event: str) -> bool:
    """Whether an event is that a period began to run for a child, and not that consent was missing."""
    return event.startswith(_OF_CHILD)


@dataclass(frozen=True, slots=True)
class Lapse:
    """A purpose ends once consent to it has been missing for ``period``. ``whose``: one of ``WHOSE``.

    With ``CHILD`` it ends ``period`` after the event from which it counts, in rows about somebody who was a child then.
    """

    purpose: str
    whose: str
    period: Period

    @property
    def event(self) -> str:
        """The name of the event that it began to be missing, or that it began to run, which no column holds."""
        if self.whose == CHILD:
            return f"{_OF_CHILD}{self.purpose}"
        return f"consent_missing:{self.whose}:{self.purpose}"

    def __str__(self) -> str:
        if self.whose == CHILD:
            return f"{self.period} of a child"
        own = "the data subject's own consent" if self.whose == IN_PERSON else "a guardian's consent"
        return f"{self.period} without {own}"

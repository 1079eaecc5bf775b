"""Duties, entered as purposes are: what one lets through. Everything else about the block is a purpose's."""

from __future__ import annotations

from collections.abc import Iterable

from privkit.clock import Clock, system_clock
from privkit.errors import PurposeError
from privkit.markers import Exact
from privkit.policy import Policy
from privkit.policy.resolve import FieldRule
from privkit.policy.rules import DUTY
from privkit.purposes import Access, Scope


def is_duty(name: str) -> bool:
    """Whether a name that is entered is a duty's and no purpose's: ``duty tax``."""
    return name.startswith(DUTY)


def duty_scope(
    policy: Policy, rules: Iterable[FieldRule], names: tuple[str, ...], clock: Clock = system_clock
) -> Scope:
    """Compute what a duty lets through: what it keeps, while it lasts, whatever purposes have ended; nothing else.

    Raises PolicyError for a duty that the policy does not have, PurposeError for one that is not entered alone.
    """
    if len(names) > 1:
        raise PurposeError(
            "A duty was entered together with something else.",
            "What it keeps is readable for the duty alone.",
            'Enter it alone: with privacy.duty("tax"): ...',
        )
    duty = policy.duty(names[0].removeprefix(DUTY))
    access = Access(Exact(), ((duty.keep,),))
    return Scope(names, {rule.field.id: access for rule in rules if duty in rule.duties}, clock=clock)

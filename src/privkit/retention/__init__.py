"""Purging what is due: a readable plan, a run that executes exactly that plan, a number that says what is left."""

from privkit.retention.limits import Limits
from privkit.retention.plan import Cascade, Plan, Step
from privkit.retention.planner import make
from privkit.retention.run import Outcome, Run, purge

__all__ = ["Cascade", "Limits", "Outcome", "Plan", "Run", "Step", "make", "purge"]

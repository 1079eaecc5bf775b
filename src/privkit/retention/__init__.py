"""Purging what is due: a readable plan, a run that executes exactly that plan, a number that says what is left."""

from privkit.retention.plan import Plan, Step, make
from privkit.retention.run import Outcome, Run, purge

__all__ = ["Outcome", "Plan", "Run", "Step", "make", "purge"]

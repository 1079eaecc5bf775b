"""Purging what is due: a readable plan, a run that executes exactly that plan, a number that says what is left."""

from privkit.retention.diff import PolicyDiff, RuleChange
from privkit.retention.files import Files
from privkit.retention.forecast import Expected, Forecast
from privkit.retention.limits import Limits
from privkit.retention.plan import Cascade, Plan, Step
from privkit.retention.planner import make
from privkit.retention.run import Outcome, Run, purge
from privkit.retention.runs import PastRun
from privkit.retention.status import Standing, Status

__all__ = [
    "Cascade",
    "Expected",
    "Files",
    "Forecast",
    "Limits",
    "Outcome",
    "PastRun",
    "Plan",
    "PolicyDiff",
    "RuleChange",
    "Run",
    "Standing",
    "Status",
    "Step",
    "make",
    "purge",
]

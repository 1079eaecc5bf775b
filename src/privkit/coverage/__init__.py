"""Coverage: what is declared, reachable, live and proven, and what is wrong, worst first.

``check`` gives the findings, ``report`` the whole report. ``checks`` look at models and policy, ``live`` and
``live_checks`` at a database, ``names`` guesses what an undecided column holds.
"""

from privkit.coverage.audit import check
from privkit.coverage.children_text import RetentionText, retention_text
from privkit.coverage.findings import KINDS, Finding, Kind, Severity
from privkit.coverage.names import Suggestion, suggest
from privkit.coverage.report import Report, report

__all__ = [
    "KINDS",
    "Finding",
    "Kind",
    "Report",
    "RetentionText",
    "Severity",
    "Suggestion",
    "check",
    "report",
    "retention_text",
    "suggest",
]

"""The report as one HTML file: no script, no request, readable on paper and by keyboard."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from privkit.coverage.report import Report


@cache
def environment() -> Environment:
    """Return where the templates of this room are found; those of HTML escape every text."""
    return Environment(
        loader=PackageLoader("privkit.coverage"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(report: Report) -> str:
    """Return the report as HTML; every text in it is escaped."""
    return environment().get_template("report.html.j2").render(report=report)

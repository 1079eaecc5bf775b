"""The report as one HTML file: no script, no request, readable on paper and by keyboard."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from privkit.coverage.report import Report


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("privkit.coverage"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def render(report: Report) -> str:
    """Return the report as HTML; every text in it is escaped."""
    return _template().render(report=report)

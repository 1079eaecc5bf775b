"""Which tables only observe, since when and what was counted there; and tables that the policy names and nobody has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date

from privkit.coverage import findings as kinds
from privkit.coverage.findings import Finding, counted
from privkit.coverage.inventory import covered
from privkit.coverage.live import Scan
from privkit.policy.problems import nearest
from privkit.sqlalchemy.guard import Guard, Protected
from privkit.sqlalchemy.observations import COMPLIANT, GAP, REFUSED, VIOLATION, Observation


def found_in(guard: Guard, seen: Scan | None) -> Iterator[Finding]:
    """Return the findings about enforcement, with what a scan found counted."""
    for each in covered(guard):
        if each.table in guard.observations.tables:
            name = each.table.fullname
            yield kinds.OBSERVED_TABLE.at(
                name,
                f"{name} is in observe {_since(each, guard.now().date(), seen)}.",
                f"Mend what privkit observed lists, then: enforcement: {{tables: {{{name}: enforce}}}}",
            )
    names = [each.table.fullname for each in covered(guard)]
    for name in sorted(guard.policy.enforced_otherwise.keys() - set(names)):
        near = nearest(name, names)
        yield kinds.UNKNOWN_ENFORCED_TABLE.at(
            f"enforcement.tables.{name}",
            f"The policy says how {name!r} is enforced, and no model with personal data has such a table.",
            f"Correct the name{f' ({near[0]}?)' if near else ''}, or import the model before the report is made.",
        )


def _since(each: Protected, today: date, seen: Scan | None) -> str:
    if seen is None:
        return "(since when is only known with its database)"
    ids = {field.id for field in each.model.fields.values()} | {f"{each.table.name}.*"}
    found = [one for one in seen.observed if one.field in ids and one.outcome != REFUSED]
    if not found:
        return "(nothing was counted there yet)"
    first, totals = min(one.first for one in found), totals_of(found)
    uses = ", ".join(f"{totals[outcome]:,} {outcome}" for outcome in (VIOLATION, GAP, COMPLIANT))
    return f"since {first} ({counted((today - first).days, 'day')}); uses of its fields: {uses}"


def totals_of(found: list[Observation]) -> Counter[str]:
    """Return how often each outcome was counted."""
    totals: Counter[str] = Counter()
    for one in found:
        totals[one.outcome] += one.count
    return totals

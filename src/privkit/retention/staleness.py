"""Whether a plan may still be run: for the same policy, models, database and rows, or refused with the difference.

Rows that are no longer due are no reason to refuse: an event was corrected, or another run was there before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlalchemy import ColumnElement, Connection

from privkit import purposes
from privkit.errors import PlanError
from privkit.retention import commitment, planner, schema
from privkit.retention.plan import Plan, Step
from privkit.retention.runs import Change
from privkit.sqlalchemy import due
from privkit.sqlalchemy.due import Target
from privkit.sqlalchemy.guard import Guard

FEW = 100
"""Up to how many rows of a table go without their number being named, whatever share of it they are."""

_SHOWN = 12


def matched(guard: Guard, connection: Connection, plan: Plan) -> list[tuple[Step, Target]]:
    """Pair each step with its target. Raises PlanError, with what differs, for a plan of something else."""
    with purposes.internally():
        live, known = schema.read(guard, connection), _known(guard, plan)
        differences = [
            *_elsewhere(guard, live, plan),
            *_policy(guard, plan, known),
            *_models(plan, known),
            *_schema(guard, live, plan, known),
        ] or list(_rows(guard, connection, plan, known))
    if differences:
        raise _stale(differences)
    return [(step, known[step.table, step.field]) for step in plan.steps]


def require_named(plan: Plan, number: int | None, percent: int, changes: Iterable[Change] = ()) -> None:
    """Raise PlanError where a step destroys more than ``percent`` of its table, unless ``number`` is the plan's own.

    The usual reason for so many is a period or a clock that is wrong. Steps of up to 100 rows are let through. Where a
    period is ten times shorter than in the last run, the number is asked for however few there are.
    """
    large = [step for step in plan.steps if not step.refused and step.due > FEW and step.share * 100 > percent]
    shortened = [change for change in changes if change.shortened]
    if number == plan.due or (number is None and not large and not shortened):
        return
    if number is not None:
        what = f"{number:,} values and rows were agreed to, and the plan destroys {plan.due:,}."
    elif shortened:
        shown = ", ".join(f"{each.name} ({each.before} -> {each.now})" for each in shortened[:_SHOWN])
        what = f"A rule is far shorter than in the last run, or waits for less: {shown}."
    else:
        shown = ", ".join(f"{step.name} ({step.due:,} of {step.total:,}: {step.rule})" for step in large[:_SHOWN])
        what = f"The plan destroys more than {percent} % of a table: {shown}."
    raise PlanError(
        what,
        "Nothing was destroyed. A period that is too short, or a wrong clock, looks like this.",
        f"Read the plan. If it is right: privkit purge --plan FILE --yes-this-many {plan.due}",
        number=plan.due,
    )


def _known(guard: Guard, plan: Plan) -> dict[tuple[str, str | None], Target]:
    """What the models have now and does not live for ever, by the names that steps have."""
    refused = {(step.table, step.field) for step in plan.refused}
    found = {(target.table.fullname, target.field): target for target in due.targets(guard)}
    return {
        name: target
        for name, target in found.items()
        if name in refused or due.due(guard, target, due.At(plan.as_of)) is not None
    }


def _elsewhere(guard: Guard, live: schema.Live, plan: Plan) -> Iterator[str]:
    if plan.as_of > guard.now():
        yield "its instant lies in the future"
    if plan.database != live.identity:
        yield f"it was made for another database: {plan.database or 'unknown'}, and this is {live.identity}"


def _policy(guard: Guard, plan: Plan, known: dict[tuple[str, str | None], Target]) -> Iterator[str]:
    if plan.policy_digest == guard.policy.digest:
        return
    changed = []
    for step in plan.steps:
        target = known.get((step.table, step.field))
        now = planner.rule(guard, target) if target is not None else "kept for ever"
        if now != step.rule:
            changed.append(f"{step.name} was due by {step.rule}, and is by {now}")
    yield f"the policy has changed since it was made ({'; '.join(changed) or 'in nothing that decides its steps'})"


def _models(plan: Plan, known: dict[tuple[str, str | None], Target]) -> Iterator[str]:
    planned = {(step.table, step.field): step for step in plan.steps}
    changed = [f"{'.'.join(filter(None, name))} is new" for name in known.keys() - planned.keys()]
    changed += [f"{planned[name].name} is gone" for name in planned.keys() - known.keys()]
    for name in planned.keys() & known.keys():
        now = planner.technique(known[name])
        if now != planned[name].technique:
            changed.append(f"{planned[name].name} was to be {planned[name].technique}, and is to be {now}")
    if changed or len(planned) != len(plan.steps):
        said = "; ".join(sorted(changed)) or "a step stands in it twice"
        yield f"the models have changed since it was made, or it is not whole ({said})"


def _schema(guard: Guard, live: schema.Live, plan: Plan, known: dict[tuple[str, str | None], Target]) -> Iterator[str]:
    for where, name in {schema.place(target.table): target.table.fullname for target in known.values()}.items():
        now, then = set(live.facts(where)), set(plan.schema.get(name, ()))
        changed = [f"new: {fact}" for fact in sorted(now - then)] + [f"gone: {fact}" for fact in sorted(then - now)]
        if changed:
            yield f"the schema of {name} has changed ({'; '.join(changed[:_SHOWN])})"
    for step in plan.steps:
        target = known.get((step.table, step.field))
        fault = schema.fault(guard, live, target) if target is not None and not step.refused else None
        if fault is not None:
            yield f"{step.name} cannot be carried out: {fault}"


def _rows(
    guard: Guard, connection: Connection, plan: Plan, known: dict[tuple[str, str | None], Target]
) -> Iterator[str]:
    under = commitment.key(guard, plan.salt)
    # Keys of epochs fall due while a run makes residues of their values: they are no other rows than it planned.
    steps = [(step, known[step.table, step.field]) for step in plan.steps if not step.refused]
    steps = [(step, target) for step, target in steps if target.divided is None]
    found: dict[planner.Name, int] = {}
    for asked in planner.by_table((target, _due(guard, target, plan)) for _, target in steps):
        found |= planner.count_each(connection, asked)
    for step, target in steps:
        predicate, now = _due(guard, target, plan), found[step.table, step.field]
        more, fewer = _difference(connection, step, target, predicate, now, under)
        if more:
            yield f"{step.name}: {more:,} more {'is' if more == 1 else 'are'} due than planned, {fewer:,} fewer"


def _due(guard: Guard, target: Target, plan: Plan) -> ColumnElement[bool]:
    predicate = due.due(guard, target, due.At(plan.as_of))
    assert predicate is not None
    return predicate


def _difference(
    connection: Connection, step: Step, target: Target, predicate: ColumnElement[bool], now: int, under: bytes | None
) -> tuple[int, int]:
    """How many of what is due ``now`` were not planned, and how many of what was planned are due no longer."""
    if now <= commitment.LIMIT and step.commitment is not None and under is not None:
        found = commitment.fingerprints(planner.keys_of(connection, target, predicate) if now else (), under)
        planned = _planned(step)
        return len(found - planned), len(planned - found)
    return max(0, now - step.due), max(0, step.due - now)


def _planned(step: Step) -> frozenset[bytes]:
    assert step.commitment is not None
    try:
        return commitment.read(step.commitment)
    except ValueError:
        raise _stale([f"what it says of the rows of {step.name} is damaged"]) from None


def _stale(differences: list[str]) -> PlanError:
    said = differences[0] if len(differences) == 1 else "".join(f"\n  - {each}" for each in differences[:_SHOWN])
    return PlanError(
        f"The plan was not run: {said}.",
        "Nothing was destroyed.",
        "Make a new one and read it: privkit plan --out plan.json",
        differences=tuple(differences),
    )

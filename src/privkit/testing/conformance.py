"""A kit that proves on your own models and your own database that every personal field is protected.

    from privkit.testing import conformance

    MAKE = {Rider: lambda: Rider(email=f"{uuid4()}@example.org", ...)}

    def test_every_field_is_protected() -> None:
        conformance.check(privacy, engine, MAKE)

Each law is tried on each field in a transaction that is rolled back. A factory returns a new object with all that its
row needs, its owner too, and a value in every personal field; called twice it gives rows of two data subjects. For one
test per law and field, run ``case.check(engine)`` for each of ``conformance.cases(privacy, MAKE)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, func, select

from privkit import purposes
from privkit.errors import ConformanceError, MappingError, NotProtectedError, PrivkitError
from privkit.privacy import Privacy
from privkit.sqlalchemy.registry import guard_of
from privkit.testing.laws import LAWS, Law, Trial

Factories = Mapping[type, Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one law on one field. ``why`` says why it failed, or why it does not apply; never a value."""

    law: str
    field: str
    holds: bool
    why: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.law}: {'holds' if self.holds else 'FAILS'}{f' ({self.why})' if self.why else ''}"


@dataclass(frozen=True, slots=True)
class Report:
    """Every outcome, in the order of the fields."""

    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The laws that do not hold."""
        return tuple(each for each in self.outcomes if not each.holds)

    def __str__(self) -> str:
        return "\n".join(map(str, self.outcomes))


@dataclass(frozen=True, slots=True)
class Case:
    """One law on one field, as a test of its own; ``str(case)`` is its name."""

    privacy: Privacy
    cls: type
    make: Callable[[], Any] | None
    name: str
    law: Law

    def __str__(self) -> str:
        return f"{self.cls.__name__}.{self.name}-{self.law.name}"

    def outcome(self, engine: Engine) -> Outcome:
        """Try the law in a transaction of its own, and roll it back. Raises NotProtectedError for another engine."""
        _require_protection(self.privacy, engine)
        found = f"{self.cls.__name__}.{self.name}"
        try:
            return Outcome(self.law.name, found, True, self._try(engine) or "")
        except PrivkitError as error:
            return Outcome(self.law.name, found, False, str(error))
        except Exception as error:  # whatever it is, its text may hold a value
            return Outcome(self.law.name, found, False, f"raised {type(error).__name__}")

    def check(self, engine: Engine) -> None:
        """Raise ConformanceError unless the law holds."""
        _require((self.outcome(engine),))

    def _try(self, engine: Engine) -> str | None:
        if self.make is None:
            raise ConformanceError(
                f"No factory makes a {self.cls.__name__}, so nothing is shown about it.",
                "",
                f"Add it: {{{self.cls.__name__}: lambda: {self.cls.__name__}(...)}}.",
            )
        with engine.connect() as connection:
            transaction = connection.begin()
            try:
                return self.law.holds(Trial(self.privacy, engine, connection, self.cls, self.make, self.name))
            finally:
                transaction.rollback()


def laws() -> tuple[Law, ...]:
    """Return the laws by name, each with the sentence that must be true of every personal field."""
    return LAWS


def cases(privacy: Privacy, make: Factories) -> tuple[Case, ...]:
    """Return every law for every personal field of every class of ``privacy``.

    A class without a factory is shown by those that inherit from it. Raises MappingError where nothing could be shown.
    """
    privacy.guard.keep_up()
    classes = privacy.guard.classes
    strangers = sorted(cls.__name__ for cls in make if cls not in classes or not classes[cls].model.fields)
    if strangers or not classes:
        raise MappingError(
            f"Of {', '.join(strangers) or 'its models'} this Privacy knows no personal field.",
            "Nothing would be shown about them.",
            "Mark their fields, and pass their base: Privacy(models=Base).",
        )
    return tuple(
        Case(privacy, cls, make.get(cls), name, law)
        for cls, each in classes.items()
        if cls in make or not any(child.class_ in make for child in each.mapper.self_and_descendants)
        for name in each.model.fields
        for law in LAWS
    )


def examine(privacy: Privacy, engine: Engine, make: Factories) -> Report:
    """Try every law on every personal field, and count all rows before and after. Raises NotProtectedError."""
    _require_protection(privacy, engine)
    before = _counts(privacy, engine)
    found = [case.outcome(engine) for case in cases(privacy, make)]
    after = _counts(privacy, engine)
    changed = sorted(table for table in before if before[table] != after[table])
    kept = Outcome("undone", "every table", not changed, f"rows remain in {', '.join(changed)}" if changed else "")
    return Report((*found, kept))


def check(privacy: Privacy, engine: Engine, make: Factories) -> Report:
    """Return the report of ``examine``. Raises ConformanceError, with the failures, where a law does not hold."""
    report = examine(privacy, engine, make)
    _require(report.outcomes)
    return report


def _require(outcomes: tuple[Outcome, ...]) -> None:
    failures = tuple(each for each in outcomes if not each.holds)
    if failures:
        raise ConformanceError(
            f"{len(failures)} of {len(outcomes)} laws do not hold:",
            "\n".join(map(str, failures)),
            "Each law's sentence is in privkit.testing.conformance.laws().",
            failures=failures,
        )


def _require_protection(privacy: Privacy, engine: Engine) -> None:
    if guard_of(engine.dialect) is not privacy.guard:
        raise NotProtectedError(
            "The engine to be examined is not protected by this Privacy.",
            "Nothing would be shown about the engine that the service uses.",
            "Give the service's own engine, after privacy.protect(engine).",
        )


def _counts(privacy: Privacy, engine: Engine) -> dict[str, int]:
    with purposes.internally(), engine.connect() as connection:
        return {table.fullname: _count(connection, table) for table in _tables(privacy)}


def _tables(privacy: Privacy) -> list[Any]:
    collections = {id(table.metadata): table.metadata for table in privacy.guard.tables}
    return [table for metadata in collections.values() for table in metadata.sorted_tables]


def _count(connection: Connection, table: Any) -> int:
    return connection.execute(select(func.count()).select_from(table)).scalar_one()

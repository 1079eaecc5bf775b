"""Every error privkit raises, as one tree.

    PrivkitError
    ├── PolicyError            the organisation's file, or a marker that does not fit it
    ├── MappingError           a model that cannot be protected as it is declared
    ├── PurposeError           no purpose, or a purpose that does not need the field
    │   └── ConsentRequired    a child's data without a parent's consent
    ├── TokenRefused           a guardian's link that cannot be used, or not any more
    ├── NotProtectedError      guarded columns on an engine that nobody protected
    ├── StatementRefused       a statement whose fields cannot be known, sealed or searched
    │   └── SearchError        an operator that a sealed field cannot serve
    ├── ConcurrentWrite        a write that another transaction overtook
    ├── SealedError            a sealed value that does not open
    │   └── ShreddedError      ... because its key was destroyed
    ├── KeyringError           a keyring that is missing, unreadable or too open
    ├── InvalidValue           a value outside its domain (a latitude of 91)
    ├── BudgetSpent            a noisy place more than a data subject's budget allows
    ├── PlanError              a plan that no longer describes the database
    ├── RunError               a run that left something which was due
    ├── MigrationError         a migration step that would lose or expose personal data
    ├── ClockError             a clock that cannot be trusted
    ├── LedgerError            a broken chain
    ├── ReleaseRefused         a table that misses a bound it has to reach before it is handed on
    ├── ApplicationError       a command line that finds no application or database
    └── ConformanceError       models, or a database, that break a law of the conformance kit

A message has three parts: what happened, why it matters, what to do (code to paste). It never holds a
personal value: the classes take names and counts only.
"""

from __future__ import annotations

from typing import Any


class PrivkitError(Exception):
    """Base of every privkit error. ``code`` is stable; ``what``, ``why``, ``fix`` and ``data`` are its parts."""

    code = "PK000"

    def __init__(self, what: str, why: str = "", fix: str = "", **data: Any) -> None:
        self.what, self.why, self.fix, self.data = what, why, fix, data
        super().__init__("\n".join(part for part in (f"{self.code}: {what}", why, fix) if part))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.why, self.fix, self.data)


def _rebuild(cls: type[PrivkitError], what: str, why: str, fix: str, data: dict[str, Any]) -> PrivkitError:
    return cls(what, why, fix, **data)


class PolicyError(PrivkitError, ValueError):
    """A policy file, or the models that use it, has mistakes. ``data["problems"]`` lists them all."""

    code = "PK101"


class MappingError(PrivkitError, TypeError):
    """A model cannot be protected as it is declared."""

    code = "PK104"


class PurposeError(PrivkitError):
    """The current purpose, or its absence, does not allow this use of a field."""

    code = "PK201"


class ConsentRequired(PurposeError):
    """The data subject is, or may be, a child, and no parent's consent covers this purpose."""

    code = "PK202"


class TokenRefused(PrivkitError):
    """A guardian's token is not one of ours, or cannot be used any more. ``data["reason"]`` says which."""

    code = "PK203"


class NotProtectedError(PrivkitError):
    """Guarded columns were used through an engine that no ``Privacy`` protects."""

    code = "PK301"


class StatementRefused(PrivkitError):
    """A statement cannot be held to the rules, so it was not sent."""

    code = "PK302"


class SearchError(StatementRefused):
    """A sealed field cannot serve this operator; raised while the expression is built."""

    code = "PK303"


class ConcurrentWrite(PrivkitError):
    """Another transaction wrote the same rows first. Nothing of them was changed; run the transaction again."""

    code = "PK304"


class SealedError(PrivkitError):
    """A sealed value did not open: damaged, moved, or sealed under another key."""

    code = "PK401"


class ShreddedError(SealedError):
    """The key of a sealed value was destroyed; no copy of the value can be read again."""

    code = "PK402"


class KeyringError(PrivkitError):
    """The keyring is missing, unreadable, too open, or does not hold the key that is needed."""

    code = "PK403"


class InvalidValue(PrivkitError, ValueError):
    """A value is outside its domain. The message names the domain, never the value."""

    code = "PK501"


class BudgetSpent(PrivkitError):
    """One more noisy place of a data subject would tell more than their budget allows in its period."""

    code = "PK502"


class PlanError(PrivkitError):
    """A plan cannot be made, or no longer describes this policy and database."""

    code = "PK601"


class RunError(PrivkitError):
    """A scheduled run left values or rows that were due: they failed, or it ended early."""

    code = "PK604"


class MigrationError(PrivkitError):
    """A step of a migration would lose or expose personal data, so it was not taken."""

    code = "PK603"


class ClockError(PrivkitError):
    """An instant without a time zone was given where one with it is needed."""

    code = "PK602"


class LedgerError(PrivkitError):
    """The evidence ledger's chain is broken."""

    code = "PK701"


class ReleaseRefused(PrivkitError):
    """A table misses a bound that it has to reach before it is handed on. ``data["missed"]`` lists them."""

    code = "PK801"


class ApplicationError(PrivkitError):
    """The command line cannot find the application, its database or a file it was given."""

    code = "PK901"


class ConformanceError(PrivkitError, AssertionError):
    """Models, or the database they stand in, break a law of ``privkit.testing.conformance``."""

    code = "PK902"


__all__ = sorted(
    name for name, item in list(globals().items()) if isinstance(item, type) and issubclass(item, PrivkitError)
)

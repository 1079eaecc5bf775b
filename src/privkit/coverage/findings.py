"""What can be found, in one catalogue, and one finding of it.

Each kind has a stable code, a severity and the reason why it matters. A check says only where it is, what is
there and what to do. Names and counts alone: a finding never holds a stored value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType


class Severity(IntEnum):
    """How bad a finding is. ``LOW`` and ``NOTE`` are to be known; the others are to be mended."""

    NOTE = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5

    @property
    def word(self) -> str:
        """The severity in one word, for a reader."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of an audit. ``where`` is a table, ``table.column``, or a place in the policy."""

    code: str
    severity: Severity
    where: str
    what: str
    why: str
    fix: str

    @property
    def title(self) -> str:
        """The name of the kind, in a few words."""
        return KINDS[self.code].title

    def __str__(self) -> str:
        return "\n".join(part for part in (f"{self.code}: {self.what}", self.why, self.fix) if part)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding. ``live`` kinds need a database to be seen."""

    code: str
    severity: Severity
    title: str
    why: str
    live: bool = False

    def at(self, where: str, what: str, fix: str, severity: Severity | None = None) -> Finding:
        """Return a finding of this kind; ``severity`` where this one is worse, or milder, than the kind."""
        return Finding(self.code, severity or self.severity, where, what, self.why, fix)


UNDECIDED_COLUMN = Kind(
    "PK801", Severity.MEDIUM, "column without a decision",
    "Nobody has said whether it holds personal data, so nothing protects it and nothing ends its life.",
)  # fmt: skip
UNDECIDED_LINKED_TABLE = Kind(
    "PK802", Severity.HIGH, "table about data subjects without a decision",
    "Its rows are about data subjects, and a purge, an erasure or an export would pass them by.",
)  # fmt: skip
UNDECIDED_TABLE = Kind(
    "PK803", Severity.MEDIUM, "table without a decision",
    "Nobody can tell a deliberate omission from a forgotten table.",
)  # fmt: skip
NOBODYS_DATA = Kind(
    "PK804", Severity.CRITICAL, "personal data of nobody",
    "Without a way to a data subject there is no key to seal with and nobody to erase it for.",
)  # fmt: skip
NO_DATA_SUBJECT = Kind(
    "PK805", Severity.CRITICAL, "no data subject",
    "No row has a key, an owner or an end; nothing can be erased.",
)  # fmt: skip
NAIVE_EVENT = Kind(
    "PK806", Severity.MEDIUM, "event time without a zone",
    "It is read as UTC; times written in another zone would move every period by their offset.",
)  # fmt: skip
UNSEALED_SENSITIVE = Kind(
    "PK807", Severity.HIGH, "sensitive field not sealed",
    "Whoever reads the disk, a dump or a backup reads it.",
)  # fmt: skip
UNSUPPRESSIBLE = Kind(
    "PK808", Severity.HIGH, "field that cannot be suppressed",
    "Every purge would fail on it, and the value would stay.",
)  # fmt: skip
KEPT_FOR_EVER = Kind(
    "PK809", Severity.LOW, "kept for ever",
    "Nothing ever ends the life of what this purpose needs.",
)  # fmt: skip
UNUSED_PURPOSE = Kind(
    "PK810", Severity.LOW, "purpose that no field uses",
    "It is either out of date, or its fields have lost it.",
)  # fmt: skip
EMPTY_ROW = Kind(
    "PK811", Severity.LOW, "row that outlives its fields",
    "Once all its fields have ended an empty row stays, and tells that something was there.",
)  # fmt: skip
NULLABLE_OWNER = Kind(
    "PK812", Severity.MEDIUM, "owner that may be missing",
    "A row without an owner has no key, and no erasure reaches it.",
)  # fmt: skip
NO_CHILD_PROTECTION = Kind(
    "PK813", Severity.MEDIUM, "data subjects whose age is not asked",
    "A child's data would be used without a parent's consent.",
)  # fmt: skip
SOFT_REFERENCE = Kind(
    "PK814", Severity.MEDIUM, "reference without a foreign key",
    "It probably names a data subject, and an erasure cannot follow it.",
)  # fmt: skip
OBSERVED_TABLE = Kind(
    "PK815", Severity.MEDIUM, "table in observe",
    "What no purpose allows is counted there, and goes through.",
)  # fmt: skip
UNKNOWN_ENFORCED_TABLE = Kind(
    "PK816", Severity.HIGH, "enforcement of a table that is not there",
    "What was meant for a table of another name is not in force for it.",
)  # fmt: skip
UNKNOWN_TABLE = Kind(
    "PK821", Severity.HIGH, "table that the models do not know",
    "No rule reaches it. Its model may simply not be imported.", live=True,
)  # fmt: skip
UNKNOWN_COLUMN = Kind(
    "PK822", Severity.HIGH, "column that the models do not know",
    "No rule reaches it: it was added by hand, or dropped from the model alone.", live=True,
)  # fmt: skip
MISSING_TABLE = Kind(
    "PK823", Severity.MEDIUM, "table missing from the database",
    "What was declared for it is not in force there.", live=True,
)  # fmt: skip
MISSING_COLUMN = Kind(
    "PK824", Severity.HIGH, "column missing from the database",
    "What was declared for it is not in force there, and statements that need it fail.", live=True,
)  # fmt: skip
MISSING_CHECK = Kind(
    "PK825", Severity.MEDIUM, "sealed column without its CHECK",
    "SQL from another program could store plain text in it.", live=True,
)  # fmt: skip
NOT_AN_ENVELOPE = Kind(
    "PK826", Severity.CRITICAL, "plain values in a sealed column",
    "They were stored before the field was sealed, or by another program, and anybody can read them.", live=True,
)  # fmt: skip
FUTURE_EVENT = Kind(
    "PK827", Severity.MEDIUM, "event in the future",
    "A period that counts from it ends later than it should, or never.", live=True,
)  # fmt: skip
UNKNOWN_VIEW = Kind(
    "PK828", Severity.LOW, "view that the models do not know",
    "It is a second way to its tables; unsealed fields leave through it outside every rule.", live=True,
)  # fmt: skip
FOREIGN_ENVELOPE = Kind(
    "PK829", Severity.HIGH, "envelopes of another data subject",
    "They were copied between rows, or a row changed its owner; they do not open.", live=True,
)  # fmt: skip
UNFOUND_VALUE = Kind(
    "PK830", Severity.HIGH, "values that no search finds",
    "They have no hash, or one under an index key that the marker does not name, so look-ups quietly miss them.",
    live=True,
)  # fmt: skip
GUESSABLE_INDEX = Kind(
    "PK831", Severity.MEDIUM, "search index that gives its values away",
    "Equal values have equal hashes: who holds the table and knows how often values occur matches the two.", live=True,
)  # fmt: skip
NARROW_COLUMN = Kind(
    "PK833", Severity.HIGH, "sealed column that is too narrow",
    "An envelope is longer than its value; one that is cut off never opens again.", live=True,
)  # fmt: skip
UNCHECKED_TEXT = Kind(
    "PK832", Severity.MEDIUM, "SQL text that ran unchecked",
    "What it read and stored was held to no rule but its purpose; the ledger has a line for each statement.", live=True,
)  # fmt: skip

ENDLESS_EPOCHS = Kind(
    "PK834", Severity.MEDIUM, "epoch keys that nothing ends",
    "Backups of what they sealed stay readable past its period.", live=True,
)  # fmt: skip

UNKNOWN_AGE = Kind(
    "PK835", Severity.MEDIUM, "data subjects of unknown age",
    "They are children until shown otherwise, and hidden from every purpose that needs consent.", live=True,
)  # fmt: skip
UNKNOWN_COUNTRY = Kind(
    "PK836", Severity.LOW, "data subjects of unknown country",
    "Nobody can tell which age of digital consent holds, so the strictest does.", live=True,
)  # fmt: skip
KEPT_BIRTH_DATE = Kind(
    "PK837", Severity.NOTE, "birth date where the day of age would do",
    "No purpose sees the date itself, and a birth date helps to single people out.",
)  # fmt: skip
UNSEALED_CHILD = Kind(
    "PK838", Severity.MEDIUM, "child's field not sealed",
    "Whoever reads the disk, a dump or a backup reads it of children.",
)  # fmt: skip
PLACEHOLDER_PLACE = Kind(
    "PK839", Severity.LOW, "places that stand for an unknown one",
    "They are taken for where somebody was, in searches, groups and answers to the data subject.", live=True,
)  # fmt: skip

KINDS = MappingProxyType({kind.code: kind for kind in list(globals().values()) if isinstance(kind, Kind)})


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by severity, then by code and place, so that two reports of one state are the same."""
    return sorted(findings, key=lambda found: (-found.severity, found.code, found.where, found.what))


def counted(number: int, thing: str) -> str:
    """Return ``1 row``, ``2 rows`` and so on."""
    return f"{number} {thing}" + ("" if number == 1 else "s")

"""What becomes of each column of a data set: decided by a model's markers, or one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from hashlib import sha256

from privkit.catalog import read
from privkit.deidentify import label, needs_subject, secret_name
from privkit.errors import MappingError
from privkit.markers import Delete, NotPersonal
from privkit.policy.precisions import mistakes
from privkit.precisions import AgeBand, Generalise, Suppress, Technique, Zip3

Decision = Technique | NotPersonal

PSEUDONYMISED, SAFE_HARBOR = "pseudonymised", "Safe Harbor fields met"


@dataclass(frozen=True, slots=True)
class DatasetPlan:
    """A decision for each column: a technique, or ``NotPersonal("why")`` for one that stays as it is.

    ``at``: the day that ages are counted to. ``subject``: the column that tells data subjects apart, where a
    technique needs it. Raises MappingError for a plan that cannot be carried out, all its mistakes at once.
    """

    columns: Mapping[str, Decision]
    at: date = field(kw_only=True)
    subject: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", dict(self.columns))
        wrong = [f"{name}: {problem}" for name, decision in self.columns.items() for problem in self._wrong(decision)]
        if self.subject is not None and self.subject not in self.columns:
            wrong.append(f"{self.subject}: it is the data subject's column, and has no decision")
        if wrong:
            raise MappingError(
                f"The plan of a data set has {len(wrong)} mistakes: {'; '.join(wrong)}.",
                "Nothing was written.",
                'Mend them, for example DatasetPlan({"email": Pseudonymise("email")}, at=date(2026, 1, 1)).',
                columns=wrong,
            )

    @classmethod
    def of(
        cls, model: type, *, at: date, subject: str | None = None, columns: Mapping[str, Decision] | None = None
    ) -> DatasetPlan:
        """Return what the markers of a pydantic or mapped class say: each field's ``then``, by the attribute's name.

        ``columns`` decides what the file has beside the attributes, or decides it otherwise.
        """
        found = read(model)
        decided: dict[str, Decision] = {name: NotPersonal(why) for name, why in found.not_personal.items()}
        for name, each in found.fields.items():
            then = each.marker.then
            decided[name] = Suppress() if isinstance(then, Delete) else then
        return cls(decided | dict(columns or {}), at=at, subject=subject)

    @property
    def techniques(self) -> dict[str, Technique]:
        """The columns that change."""
        return {name: each for name, each in self.columns.items() if not isinstance(each, NotPersonal)}

    @property
    def secrets(self) -> set[str]:
        """The names of the keyring's secrets that it takes."""
        return {secret_name(each) for each in self.techniques.values()}

    @property
    def labels(self) -> dict[str, str]:
        """What becomes of each column, in words."""
        return {
            name: f"kept: {each.because}" if isinstance(each, NotPersonal) else label(each)
            for name, each in sorted(self.columns.items())
        }

    @property
    def label(self) -> str:
        """What may be said of the result: it is about nobody less than before unless every field met Safe Harbor.

        Source: 45 CFR 164.514(b)(2). Dates other than birth dates cannot be told from them, so a year does not count.
        """
        return SAFE_HARBOR if all(map(_safe_harbor, self.techniques.values())) else PSEUDONYMISED

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all decisions, the day and the data subject's column."""
        decided = repr((sorted(self.columns.items(), key=lambda pair: pair[0]), self.subject, self.at.isoformat()))
        return sha256(decided.encode("utf-8", "surrogatepass")).hexdigest()

    def require(self, names: Iterable[str]) -> None:
        """Raise MappingError unless the plan decides exactly the columns of a file."""
        present = list(names)
        undecided = [name for name in present if name not in self.columns]
        if undecided:
            pasted = ", ".join(f'"{name}": Suppress()' for name in undecided)
            raise MappingError(
                f"{len(undecided)} columns are undecided: {', '.join(undecided)}.",
                "They would be handed on as they are, or lost.",
                f'Decide each, by a technique or NotPersonal("why"): {{{pasted}}}',
                columns=undecided,
            )
        missing = [f"{name}{_nearest(name, present)}" for name in self.columns if name not in present]
        if missing:
            raise MappingError(
                f"The plan decides columns that the file does not have: {', '.join(missing)}.",
                "A column under another name would be another column.",
                "Correct the names, or take them out of the plan.",
                columns=missing,
            )

    def _wrong(self, decision: object) -> Iterable[str]:
        if isinstance(decision, NotPersonal):
            return
        if not isinstance(decision, Technique):
            yield f"{type(decision).__name__} is neither a technique nor NotPersonal"
            return
        yield from (f"{type(decision).__name__} {mistake.rstrip('.')}" for mistake, _ in mistakes(decision))
        if needs_subject(decision) and self.subject is None:
            yield f"{type(decision).__name__} depends on whose value it is: give subject="


def _safe_harbor(technique: Technique) -> bool:
    match technique:
        case Suppress() | Zip3():
            return True
        case Generalise(AgeBand(bounds)):
            return bool(bounds) and bounds[-1] <= 90
    return False


def _nearest(name: str, names: list[str]) -> str:
    found = get_close_matches(name, names, 1)
    return f" (did you mean {found[0]}?)" if found else ""

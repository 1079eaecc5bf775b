"""Telling a value that was read at a lower precision from the value itself, so that it is never stored in its place."""

from __future__ import annotations

from typing import Any

from privkit.catalog import Field
from privkit.deidentify.order import in_words
from privkit.deidentify.precision import Reduced
from privkit.errors import PurposeError
from privkit.precisions import Exact, Is, Precision, Year

_UNMARKED: dict[type, type[Year | Is]] = {int: Year, bool: Is}
_MANY = (list, tuple, set, frozenset)


def precision_of(field: Field, value: Any) -> Precision | None:
    """Return the lower precision that a value of ``field`` was read at, or None for one that may be the value itself.

    A year and an answer carry no mark, and no field that has them holds an int or a bool.
    """
    if isinstance(value, Reduced):
        return value.precision
    kind = _UNMARKED.get(type(value))
    return None if kind is None else next((each for each in field.purposes.values() if isinstance(each, kind)), None)


def refuse_reduced(field: Field, value: Any) -> None:
    """Raise PurposeError for a value, or one of several, that was read at a lower precision and would be stored."""
    found = precision_of(field, value)
    if found is None and isinstance(value, _MANY):
        found = next((kind for each in value if (kind := precision_of(field, each)) is not None), None)
    if found is not None:
        raise _not_the_value(field, found)


def _not_the_value(field: Field, found: Precision) -> PurposeError:
    exact = sorted(name for name, precision in field.purposes.items() if isinstance(precision, Exact))
    example = f"with privacy.purpose({exact[0]!r}): session.refresh(row, [{field.name!r}])" if exact else ""
    return PurposeError(
        f"{field} was given a value that was read at a lower precision ({in_words(found)}).",
        "It would take the place of the exact value, which nobody could get back.",
        f"Load it in a purpose that sees it exactly ({', '.join(exact) or 'none does'}), or leave it out.  {example}",
        field=field.id,
    )

"""One batch of a table, as its plan has it: the function of one value, called on the distinct values of a column."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from privkit.datasets.extras import needed
from privkit.datasets.plan import DatasetPlan, Decision
from privkit.deidentify import changed, needs_subject, secret_name
from privkit.errors import InvalidValue
from privkit.location.formats import from_ewkb, from_geojson, from_wkt
from privkit.location.point import GeoPoint
from privkit.markers import NotPersonal
from privkit.precisions import (
    AddNoise,
    AgeBand,
    Bins,
    Cell,
    Clamp,
    Displace,
    Generalise,
    Microaggregate,
    Month,
    Quarter,
    ShiftDates,
    Substitute,
    Suppress,
    Technique,
    Year,
)

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A plan with what it takes to carry it out. It holds keys, and is sent only to those who do the work."""

    plan: DatasetPlan
    secrets: Mapping[str, bytes] = field(repr=False)
    means: Mapping[str, Mapping[float, float]] = field(default_factory=dict, repr=False)
    """The numbers of each microaggregated column, with the mean of their group."""

    def schema(self, schema: Any) -> Any:
        """Return the Arrow schema of the result; of what a file says about itself nothing is kept but the label."""
        pyarrow = needed("pyarrow")
        fields = [pyarrow.field(each.name, _type_of(self.plan.columns[each.name], each.type)) for each in schema]
        return pyarrow.schema(fields, metadata={LABEL: self.plan.label})

    def batch(self, batch: Any, schema: Any) -> Any:
        """Return one record batch as the plan has it, in the ``schema`` of the result."""
        columns = [self._column(batch, each.name, each.type) for each in schema]
        return needed("pyarrow").record_batch(columns, schema=schema)

    def _column(self, batch: Any, name: str, kind: Any) -> Any:
        pyarrow = needed("pyarrow")
        column, technique = batch.column(name), self.plan.techniques.get(name)
        if technique is None:
            return column
        if isinstance(technique, Suppress):
            return pyarrow.nulls(len(column), kind)
        if isinstance(technique, Microaggregate):
            return _each_distinct(column, lambda value: self._mean(name, value), kind)
        if needs_subject(technique):
            assert self.plan.subject is not None
            subjects = batch.column(self.plan.subject).to_pylist()
            values = zip(column.to_pylist(), subjects, strict=True)
            return pyarrow.array([self._changed(technique, value, subject) for value, subject in values], kind)
        return _each_distinct(column, lambda value: self._changed(technique, value, None), kind)

    def _changed(self, technique: Technique, value: Any, subject: Any) -> Any:
        known = None if subject is None else str(subject)
        key = self.secrets[secret_name(technique)]
        found = changed(technique, understood(technique, value), key=key, today=self.plan.at, subject=known)
        return _as_given(found, value)

    def _mean(self, name: str, value: Any) -> Any:
        found = understood(Microaggregate(), value)
        return None if found is None else _as_given(self.means[name][float(found)], value)


LABEL = b"privkit"
"""The key under which a Parquet file says that it is a result."""


def understood(technique: Technique, value: Any) -> Any:
    """Return what text stands for, where a technique takes no text: a date, a number or a place; '' for None.

    A CSV file has nothing but text. Dates as in ISO 8601, numbers as in Python, places as WKT, GeoJSON or EWKB, or as a
    struct of ``lat`` and ``lon``. Raises InvalidValue.
    """
    match technique:
        case Generalise(Cell()) | Displace():
            return _place(value)
        case ShiftDates() | Generalise(Year() | Quarter() | Month() | AgeBand()) if isinstance(value, str):
            return _date(value.strip()) if value.strip() else None
        case Bins() | Clamp() | AddNoise() | Microaggregate() if isinstance(value, str):
            return _number(value.strip()) if value.strip() else None
    return value


def _as_given(found: Any, given: Any) -> Any:
    """Text for text; a subclass of str that knows its precision means nothing in a file."""
    if found is None:
        return None
    return str(found) if isinstance(given, str) or isinstance(found, str) else found


def _each_distinct(column: Any, change: Callable[[Any], Any], kind: Any) -> Any:
    pyarrow = needed("pyarrow")
    if pyarrow.types.is_nested(column.type):
        return pyarrow.array([change(value) for value in column.to_pylist()], kind)
    encoded = column.dictionary_encode()
    return pyarrow.array([change(value) for value in encoded.dictionary.to_pylist()], kind).take(encoded.indices)


def _type_of(decision: Decision, kind: Any) -> Any:
    pyarrow = needed("pyarrow")
    text = pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)
    if text or isinstance(decision, NotPersonal | Suppress | ShiftDates | Clamp | AddNoise | Substitute):
        return kind
    if isinstance(decision, Microaggregate):
        return pyarrow.float64()
    if isinstance(decision, Generalise) and isinstance(decision.to, Year):
        return pyarrow.int32()
    return pyarrow.string()


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text) if len(text) == 10 else datetime.fromisoformat(text)
    except ValueError:
        pass  # raised below instead: the context would carry the value
    raise InvalidValue("Text is no date of ISO 8601.", "", "Write dates as 2026-01-31, or Suppress() the column.")


def _number(text: str) -> int | Decimal:
    if _NUMBER.fullmatch(text) is None:
        raise InvalidValue("Text is no number.", "", "Write numbers as 12 or 12.5, or Suppress() the column.")
    return Decimal(text) if not text.lstrip("+-").isdigit() else int(text)


def _place(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {"lat", "lon"}:
        return None if None in value.values() else GeoPoint(value["lat"], value["lon"])
    if isinstance(value, bytes):
        return from_ewkb(value)
    if isinstance(value, str):
        text = value.strip()
        return (from_geojson(text) if text.startswith("{") else from_wkt(text)) if text else None
    return value

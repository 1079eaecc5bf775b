"""Stored places that stand for "not known", as counts. None is opened: plain ones are compared, sealed ones by hash."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Connection, LargeBinary, func, literal, select, type_coerce

from privkit.location import GeoPoint
from privkit.markers import Nearby
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.index import searches
from privkit.sqlalchemy.types import Guarded, Point, Track

PLACEHOLDERS = (GeoPoint(0, 0), GeoPoint(90, 0), GeoPoint(-90, 0), GeoPoint(38, -97), GeoPoint(37.751, -97.822))
"""What programs write for an unknown place: zeros, a pole, and the middle of the United States, which MaxMind's GeoIP
gave for addresses of which it knew the country only, the first until 2016."""


def placeholders(guard: Guard, connection: Connection, column: Column[Any], index: Column[Any] | None) -> int | None:
    """Count the values of ``column`` at a placeholder, or in its cell; None where that cannot be told without opening.

    ``index`` is the column of its search hashes, where it has one.
    """
    kind = column.type
    assert isinstance(kind, Guarded)
    if not kind.sealed and isinstance(kind.plain, Point) and not isinstance(kind.plain, Track):
        wanted, stored = {place.pack() for place in PLACEHOLDERS}, column
    elif index is not None and isinstance(kind.field.marker.search, Nearby):
        known = [each for each in searches(kind.field) if isinstance(each, Nearby)]
        wanted = {guard.index_hash(kind.field, place, each) for place in PLACEHOLDERS for each in known}
        stored = index
    else:
        return None
    value = type_coerce(stored, LargeBinary())
    query = select(func.count()).where(value.in_([literal(each, LargeBinary()) for each in sorted(wanted)]))
    found: int = connection.execute(query).scalar_one()
    return found

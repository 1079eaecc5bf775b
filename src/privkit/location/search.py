"""Search on sealed locations by circle, box and polygon: a cover of cells narrows the rows, the exact place decides.

It asks the storage room for two things only, so it needs to know no database: a field that turns cells into
a condition, and a session that runs a statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from privkit.location.cells import cover, metres_between
from privkit.location.point import GeoPoint
from privkit.location.regions import Box, Polygon, cover_box, cover_polygon


class SearchableField(Protocol):
    """A location field with a ``Nearby`` search, such as ``Rider.home``."""

    @property
    def cell_resolutions(self) -> Iterable[int]: ...

    def in_cells(self, cells: Iterable[int]) -> Any: ...


class Searches(Protocol):
    """What runs a statement and returns rows: a SQLAlchemy session or connection."""

    def execute(self, statement: Any, /) -> Any: ...


def nearby(session: Searches, statement: Any, field: Any, centre: GeoPoint, *, metres: float) -> list[Any]:
    """Return what ``statement`` selects within ``metres`` (great circle) of ``centre``, nearest first.

    ``statement`` selects one entity or column; ``field`` is its location, for example ``Rider.home``. Needs a
    purpose that sees the location exactly, and raises PurposeError under any other; SearchError where the
    field has no ``Nearby`` search; InvalidValue for a radius whose cover would be too large.
    """
    found = [
        (metres_between(centre, place), item)
        for item, place in _in_cells(session, statement, field, lambda each: cover(centre, metres, each))
    ]
    return [item for distance, item in sorted(found, key=lambda pair: pair[0]) if distance <= metres]


def within_box(session: Searches, statement: Any, field: Any, box: Box) -> list[Any]:
    """Return what ``statement`` selects inside ``box``, in the statement's order; otherwise like ``nearby``."""
    found = _in_cells(session, statement, field, lambda each: cover_box(box, each))
    return [item for item, place in found if box.holds(place)]


def within_polygon(session: Searches, statement: Any, field: Any, polygon: Polygon) -> list[Any]:
    """Return what ``statement`` selects inside ``polygon``, in the statement's order; otherwise like ``nearby``."""
    found = _in_cells(session, statement, field, lambda each: cover_polygon(polygon, each))
    return [item for item, place in found if polygon.holds(place)]


def _in_cells(
    session: Searches, statement: Any, field: Any, covering: Callable[[int], Iterable[int]]
) -> list[tuple[Any, GeoPoint]]:
    """Return what ``statement`` selects in the cells that cover a region, each with its opened place."""
    searchable: SearchableField = field
    cells = {cell for each in searchable.cell_resolutions for cell in covering(each)}
    rows = session.execute(statement.where(searchable.in_cells(cells)).add_columns(field)).all()
    return [(row[0], place) for *row, place in rows if place is not None]

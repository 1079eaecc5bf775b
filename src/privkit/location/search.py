"""Neighbourhood search on sealed locations: a cover of cells narrows the rows, the exact distance decides.

It asks the storage room for two things only, so it needs to know no database: a field that turns cells into
a condition, and a session that runs a statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from privkit.location.cells import cover, metres_between
from privkit.location.point import GeoPoint


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
    searchable: SearchableField = field
    cells = {cell for each in searchable.cell_resolutions for cell in cover(centre, metres, each)}
    rows = session.execute(statement.where(searchable.in_cells(cells)).add_columns(field)).all()
    found = [(metres_between(centre, place), row[0]) for *row, place in rows if place is not None]
    return [item for distance, item in sorted(found, key=lambda pair: pair[0]) if distance <= metres]

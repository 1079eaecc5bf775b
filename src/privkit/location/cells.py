"""H3 cells of points, great-circle distance, and the set of cells that covers a circle.

Source of the grid: H3, https://h3geo.org. Source of the radius: Moritz, Geodetic Reference System 1980,
Journal of Geodesy 74 (2000): R1 = (2a + b) / 3 = 6 371 008.8 m.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import h3.api.basic_int as h3

from privkit.errors import InvalidValue
from privkit.location.point import GeoPoint

MAX_COVER = 4096
"""The most cells that one cover may have: each becomes a bind parameter of a query."""

EARTH_RADIUS = 6_371_008.8
"""Mean radius of the earth, R1, in metres."""

# H3 draws a plane grid of hexagons on each face of an icosahedron, with this distance between centres at
# resolution 0 (RES0_U_GNOMONIC in its source), and projects it gnomonically. The projection only ever
# shortens, and unfolding a cell over an edge of the icosahedron changes no length in the plane, so no point
# of a cell is farther from its centre than the plane hexagon's corner.
_SPACING = 0.38196601125010500003
_CORNER = tuple(_SPACING / math.sqrt(3) / math.sqrt(7) ** resolution for resolution in range(16))

# Radians (0.25 m). H3's projection takes acos(1 - x), which near a face's centre is good to 1.1e-8 only, and
# the haversine of nearly opposite points loses as much.
_SLACK = 4e-8


def cell(point: GeoPoint, resolution: int) -> str:
    """Return the hexadecimal id of the H3 cell of ``point``; ``resolution`` 0 to 15. Raises InvalidValue."""
    return str(h3.int_to_str(cell_int(point, resolution)))


def cell_int(point: GeoPoint, resolution: int) -> int:
    """Return the 64-bit id of the H3 cell of ``point``; ``resolution`` 0 to 15. Raises InvalidValue."""
    return int(h3.latlng_to_cell(point.lat, point.lon, _checked(resolution)))


def metres_between(a: GeoPoint, b: GeoPoint) -> float:
    """Return the great-circle distance in metres, by the haversine formula on a sphere of ``EARTH_RADIUS``."""
    return 2 * EARTH_RADIUS * math.asin(math.sqrt(min(1.0, haversine_from(a.lat, a.lon)(b.lat, b.lon))))


def destination(start: GeoPoint, metres: float, bearing: float) -> GeoPoint:
    """Return the place ``metres`` along the great circle that leaves ``start`` at ``bearing``, in radians from north.

    It turns the vector of ``start``, so it is right at the poles, where north is along the meridian of longitude 0,
    and across the antimeridian.
    """
    lat, angle = math.radians(start.lat), metres / EARTH_RADIUS
    ahead, aside = math.sin(angle) * math.cos(bearing), math.sin(angle) * math.sin(bearing)
    up = math.sin(lat) * math.cos(angle) + math.cos(lat) * ahead
    out = math.cos(lat) * math.cos(angle) - math.sin(lat) * ahead
    lon = math.remainder(start.lon + math.degrees(math.atan2(aside, out)), 360)
    return GeoPoint(math.degrees(math.atan2(up, math.hypot(out, aside))), lon)


def corner_metres(resolution: int) -> float:
    """Return how far a point of a cell is from the cell's centre at most, in metres, wherever on earth."""
    return EARTH_RADIUS * (_CORNER[_checked(resolution)] + _SLACK)


def cover(centre: GeoPoint, metres: float, resolution: int) -> frozenset[int]:
    """Return cells that together hold every point within ``metres`` (great circle) of ``centre``.

    Some lie just outside the circle, so check the exact distance afterwards. Raises InvalidValue for a
    radius that is not a finite number of at least 0, or that needs more than ``MAX_COVER`` cells.
    """
    start = cell_int(centre, resolution)
    found = touching(start, haversine_from(centre.lat, centre.lon), _checked_radius(metres))
    if found is None:
        raise _too_wide(metres, resolution)
    return found


def touching(start: int, haversine: Callable[[float, float], float], metres: float = 0.0) -> frozenset[int] | None:
    """Return the cells that are near enough to touch what lies within ``metres`` of a region; None for too many.

    ``haversine``: sin^2 of half the angle from a place in degrees to the region. ``start`` is a cell that touches it.
    The cells that touch a connected region are connected. So the walk starts at one and goes on from every cell that
    is near enough to touch; it needs no ring count, at a pentagon or anywhere else.
    """
    angle = metres / EARTH_RADIUS + _CORNER[h3.get_resolution(start)] + _SLACK
    limit = math.sin(min(angle, math.pi) / 2) ** 2
    found, seen, frontier = {start}, {start}, [start]
    while frontier:
        around = {near for origin in frontier for near in h3.grid_disk(origin, 1)} - seen
        seen |= around
        frontier = [near for near in around if haversine(*h3.cell_to_latlng(near)) <= limit]
        found.update(frontier)
        if len(found) > MAX_COVER:
            return None
    return frozenset(found)


def haversine_from(lat: float, lon: float) -> Callable[[float, float], float]:
    """Return a function from a place to sin^2 of half its angle to (lat, lon), all in degrees."""
    sin, radians = math.sin, math.radians
    cos_lat = math.cos(radians(lat))

    def haversine(other_lat: float, other_lon: float) -> float:
        across = cos_lat * math.cos(radians(other_lat)) * sin(radians(other_lon - lon) / 2) ** 2
        return float(sin(radians(other_lat - lat) / 2) ** 2 + across)

    return haversine


def _checked(resolution: int) -> int:
    if type(resolution) is not int or not 0 <= resolution <= 15:
        raise InvalidValue(
            "An H3 resolution is a whole number from 0 (continents) to 15 (a square metre).",
            "",
            "Give for example Cell(7), about 5 square kilometres.",
        )
    return resolution


def _checked_radius(metres: float) -> float:
    if isinstance(metres, bool) or not isinstance(metres, int | float) or not 0 <= metres < math.inf:
        raise InvalidValue("A radius is a finite number of metres, 0 or more.", "", "Give for example metres=500.")
    return min(metres, math.pi * EARTH_RADIUS)


def _too_wide(metres: float, resolution: int) -> InvalidValue:
    limit = _reach(resolution)
    coarser = next(other for other in range(resolution - 1, -1, -1) if _reach(other) >= metres)
    return InvalidValue(
        f"The radius needs more than {MAX_COVER} cells of resolution {resolution}.",
        f"A search at this resolution reaches about {limit:.0f} m.",
        f"Ask for a smaller radius, or search at a coarser resolution: {coarser} would do.",
        resolution=resolution,
        limit=limit,
        coarser=coarser,
    )


def _reach(resolution: int) -> float:
    """Return a radius in metres whose cover fits ``MAX_COVER`` wherever on earth it lies."""
    if h3.get_num_cells(resolution) <= MAX_COVER:
        return math.inf
    # Cells are smallest beside a corner of the icosahedron, 37.4 degrees from a face's centre, where the
    # projection leaves cos(37.4 degrees)^3, a little over a half, of the area of the plane. A pentagon lacks
    # a sixth of that again: twelve of them, two cells.
    smallest = 0.5 * math.sqrt(3) / 2 * (_SPACING / math.sqrt(7) ** resolution) ** 2
    outer = math.sqrt((MAX_COVER - 2) * smallest / math.pi)
    return EARTH_RADIUS * (outer - 2 * _CORNER[resolution] - _SLACK)

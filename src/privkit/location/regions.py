"""Boxes and polygons on the sphere, the cells that cover them, and what such a cover costs.

A box lies between two parallels and two meridians. A polygon's sides are great circles, so nothing is special about
the poles or the antimeridian: seen from its middle in the gnomonic projection they are straight lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import h3.api.basic_int as h3

from privkit.errors import InvalidValue
from privkit.location.cells import EARTH_RADIUS, MAX_COVER, cell_int, haversine_from, touching
from privkit.location.point import GeoPoint

Vector = tuple[float, float, float]
Gap = Callable[[float, float], float]
"""From a place in degrees to sin^2 of half its angle to a region; 0 within."""

_WIDEST = math.cos(math.radians(80))


@dataclass(frozen=True, slots=True, repr=False)
class Box:
    """The places from ``south`` to ``north`` and from ``west`` eastward to ``east``, in degrees, edges included.

    ``west`` above ``east`` crosses the antimeridian (RFC 7946 section 5.2). -180 to 180 is all round; a box up to
    latitude 90 holds the pole. Raises InvalidValue for edges outside the earth or a south above the north.
    """

    south: float
    west: float
    north: float
    east: float
    width: float = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not (-90 <= self.south <= self.north <= 90 and -180 <= self.west <= 180 and -180 <= self.east <= 180):
            raise InvalidValue(
                "A box needs a south up to its north within -90 to 90, and a west and east within -180 to 180.",
                "",
                "Give Box(south=..., west=..., north=..., east=...); across the antimeridian the west is the larger.",
            )
        width = 360.0 if self.east - self.west == 360 else (_one_spelling(self.east) - _one_spelling(self.west)) % 360
        object.__setattr__(self, "width", width)

    def __repr__(self) -> str:
        return "Box(...)"

    def holds(self, point: GeoPoint) -> bool:
        """Return whether ``point`` lies in the box."""
        if not self.south <= point.lat <= self.north:
            return False
        return abs(point.lat) == 90 or self.spans(point.lon)

    def spans(self, lon: float) -> bool:
        """Return whether a meridian passes through the box."""
        return (_one_spelling(lon) - _one_spelling(self.west)) % 360 <= self.width

    @property
    def middle(self) -> GeoPoint:
        """A place inside."""
        return GeoPoint((self.south + self.north) / 2, math.remainder(self.west + self.width / 2, 360))

    @property
    def area(self) -> float:
        """Square metres."""
        height = math.sin(math.radians(self.north)) - math.sin(math.radians(self.south))
        return EARTH_RADIUS**2 * math.radians(self.width) * height

    def gap(self) -> Gap:
        """Return the distance function of the box."""

        def gap(lat: float, lon: float) -> float:
            if self.spans(lon):
                return float(math.sin(math.radians(max(self.south - lat, lat - self.north, 0)) / 2) ** 2)
            # On one parallel, places are the farther the more their longitudes differ: a corner or a side is nearest.
            return min(_to_meridian(self, lat, lon, side) for side in (self.west, self.east))

        return gap


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Polygon:
    """The places inside a ring of corners, each joined to the next by a great circle; the last is joined to the first.

    Inside is what the ring runs round an odd number of times, on the side of its middle; the direction does not
    matter. It may hold a pole and cross the antimeridian. Raises InvalidValue for fewer than three different corners,
    and where one is more than 80 degrees from their middle.
    """

    corners: tuple[GeoPoint, ...]
    _axes: tuple[Vector, Vector, Vector]
    _flat: tuple[tuple[float, float], ...]

    def __init__(self, corners: Iterable[GeoPoint]) -> None:
        ring = tuple(corners)
        ring = ring[:-1] if len(ring) > 1 and ring[0] == ring[-1] else ring
        vectors = [_vector(each) for each in ring]
        middle = _unit(_sum(vectors)) if vectors else None
        if len(set(ring)) < 3 or middle is None or min(_dot(middle, each) for each in vectors) < _WIDEST:
            raise InvalidValue(
                "A polygon needs three corners or more, none of them over 80 degrees from their middle.",
                "Of a wider ring nobody can tell which side is meant.",
                "Split it, or search a Box.",
            )
        # Two directions across the middle; the pole that is farther from it gives the first.
        aside = _unit(_cross(middle, (0.0, 0.0, 1.0) if abs(middle[2]) < 0.7 else (1.0, 0.0, 0.0)))
        assert aside is not None
        axes = (middle, aside, _cross(middle, aside))
        object.__setattr__(self, "corners", ring)
        object.__setattr__(self, "_axes", axes)
        object.__setattr__(self, "_flat", tuple(_projected(axes, each) for each in vectors))

    def __repr__(self) -> str:
        return "Polygon(...)"

    def holds(self, point: GeoPoint) -> bool:
        """Return whether ``point`` lies in the polygon; on a side it may be told either way."""
        return self._holds(_vector(point))

    def _holds(self, place: Vector) -> bool:
        if _dot(self._axes[0], place) <= 0:
            return False
        x, y = _projected(self._axes, place)
        inside = False
        for (ax, ay), (bx, by) in pairwise((*self._flat, self._flat[0])):
            if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
                inside = not inside
        return inside

    @property
    def area(self) -> float:
        """Square metres, for a ring that does not cross itself: the sum of its triangles round the middle.

        Source of a triangle's: Eriksson, Mathematics Magazine 63 (1990), tan(E / 2) = a.(b x c) / (1 + ab + bc + ca).
        """
        middle, ring = self._axes[0], [_vector(each) for each in self.corners]
        excess = sum(
            2 * math.atan2(_dot(middle, _cross(a, b)), 1 + _dot(middle, a) + _dot(a, b) + _dot(b, middle))
            for a, b in pairwise((*ring, ring[0]))
        )
        return EARTH_RADIUS**2 * abs(excess)

    def gap(self) -> Gap:
        """Return the distance function of the polygon."""
        ring = [_vector(each) for each in self.corners]
        sides = [_side(a, b) for a, b in pairwise((*ring, ring[0]))]

        def gap(lat: float, lon: float) -> float:
            place = _at(lat, lon)
            return 0.0 if self._holds(place) else min(to_side(place) for to_side in sides)

        return gap


@dataclass(frozen=True, slots=True)
class CoverCost:
    """What searching by a cover costs: ``cells`` in the statement, ``excess`` and ``bits``.

    ``excess``: the cover's area over the region's; were places spread evenly, so many would be opened for each that is
    meant. ``bits``: what the cells tell of the region to who can tell them from their hashes, log2 of all cells over
    these. Who cannot still sees how many there are, and which rows share one.
    """

    cells: int
    excess: float
    bits: float


def cover_cost(cells: Collection[int], area: float) -> CoverCost:
    """Return what a cover costs. ``area``: the region's, in square metres; ``Box.area``, ``circle_area(metres)``."""
    resolution = h3.get_resolution(next(iter(cells)))
    covered = sum(h3.cell_area(each, unit="m^2") for each in cells)
    bits = math.log2(h3.get_num_cells(resolution) / len(cells))
    return CoverCost(len(cells), covered / area if area else math.inf, bits)


def circle_area(metres: float) -> float:
    """Return the square metres within ``metres`` of a place on the sphere."""
    return 4 * math.pi * EARTH_RADIUS**2 * math.sin(min(metres / EARTH_RADIUS, math.pi) / 2) ** 2


def cover_box(box: Box, resolution: int) -> frozenset[int]:
    """Return cells that together hold every point of ``box``; some lie just outside, so check each point afterwards.

    Raises InvalidValue for more than ``MAX_COVER`` cells.
    """
    return _cover(box.middle, box.gap(), resolution)


def cover_polygon(polygon: Polygon, resolution: int) -> frozenset[int]:
    """Return cells that together hold every point of ``polygon``, as ``cover_box`` does.

    It takes time in proportion to cells and corners: simplify a coastline first.
    """
    return _cover(polygon.corners[0], polygon.gap(), resolution)


def _cover(start: GeoPoint, gap: Gap, resolution: int) -> frozenset[int]:
    found = touching(cell_int(start, resolution), gap)
    if found is not None:
        return found
    fits = (each for each in range(resolution - 1, -1, -1) if touching(cell_int(start, each), gap) is not None)
    coarser = next(fits)
    raise InvalidValue(
        f"The region needs more than {MAX_COVER} cells of resolution {resolution}.",
        "Each would be a parameter of the statement.",
        f"Ask for a smaller region, or search at a coarser resolution: {coarser} would do.",
        resolution=resolution,
        coarser=coarser,
    )


def _one_spelling(lon: float) -> float:
    return 180.0 if lon == -180 else lon


def _to_meridian(box: Box, lat: float, lon: float, meridian: float) -> float:
    """Return sin^2 of half the angle from a place to a side of the box."""
    apart, up = math.radians(lon - meridian), math.radians(lat)
    nearest = math.degrees(math.atan2(math.sin(up), math.cos(up) * math.cos(apart)))
    haversine = haversine_from(lat, lon)
    ends = [box.south, box.north, *([nearest] if box.south < nearest < box.north else [])]
    return min(haversine(each, meridian) for each in ends)


def _side(a: Vector, b: Vector) -> Callable[[Vector], float]:
    """Return the function from a place to sin^2 of half its angle to the great circle's arc from ``a`` to ``b``."""
    normal = _unit(_cross(a, b), least=1e-8)  # of a shorter side, 6 cm, the direction is lost in rounding
    if normal is None:
        return lambda place: _half_chord(place, a)
    onward, back = _cross(normal, a), _cross(b, normal)

    def to_side(place: Vector) -> float:
        if _dot(onward, place) > 0 and _dot(back, place) > 0:
            sine = min(1.0, _dot(normal, place) ** 2)
            return float(sine / (2 * (1 + math.sqrt(1 - sine))))
        return min(_half_chord(place, a), _half_chord(place, b))

    return to_side


def _half_chord(a: Vector, b: Vector) -> float:
    return ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2 + (a[2] - b[2]) ** 2) / 4


def _vector(point: GeoPoint) -> Vector:
    return _at(point.lat, point.lon)


def _at(lat: float, lon: float) -> Vector:
    """Return the place on the unit sphere."""
    lat, lon = math.radians(lat), math.radians(lon)
    return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)


def middle_of(points: Iterable[GeoPoint]) -> GeoPoint | None:
    """Return the place in the direction of the sum of all, right at the antimeridian; None where they cancel out."""
    found = _unit(_sum(map(_vector, points)))
    if found is None:
        return None
    x, y, z = found
    return GeoPoint(math.degrees(math.atan2(z, math.hypot(x, y))), math.degrees(math.atan2(y, x)))


def _projected(axes: tuple[Vector, Vector, Vector], place: Vector) -> tuple[float, float]:
    depth = _dot(axes[0], place)
    return _dot(axes[1], place) / depth, _dot(axes[2], place) / depth


def _sum(vectors: Iterable[Vector]) -> Vector:
    x, y, z = zip(*vectors, strict=True)
    return math.fsum(x), math.fsum(y), math.fsum(z)


def _unit(a: Vector, least: float = 1e-12) -> Vector | None:
    length = math.hypot(*a)
    return (a[0] / length, a[1] / length, a[2] / length) if length > least else None


def _dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]

"""Places on the sphere: points and tracks that never show themselves, H3 cells and covers, noise, groups, formats."""

from privkit.location.budget import Budget, Spending, SpendingInMemory
from privkit.location.cells import MAX_COVER, cell, cell_int, cover, metres_between
from privkit.location.noise import PlanarLaplace, add_budgeted_noise, add_noise
from privkit.location.point import GeoPoint
from privkit.location.regions import Box, CoverCost, Polygon, circle_area, cover_box, cover_cost, cover_polygon
from privkit.location.search import nearby, within_box, within_polygon
from privkit.location.track import Fix, GeoTrack

__all__ = [
    "MAX_COVER",
    "Box",
    "Budget",
    "CoverCost",
    "Fix",
    "GeoPoint",
    "GeoTrack",
    "PlanarLaplace",
    "Polygon",
    "Spending",
    "SpendingInMemory",
    "add_budgeted_noise",
    "add_noise",
    "cell",
    "cell_int",
    "circle_area",
    "cover",
    "cover_box",
    "cover_cost",
    "cover_polygon",
    "metres_between",
    "nearby",
    "within_box",
    "within_polygon",
]

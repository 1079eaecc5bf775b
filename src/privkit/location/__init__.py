"""Places on the sphere: a point that never shows itself, its H3 cells, and the cells that cover a circle."""

from privkit.location.cells import MAX_COVER, cell, cell_int, cover, metres_between
from privkit.location.point import GeoPoint
from privkit.location.search import nearby

__all__ = ["MAX_COVER", "GeoPoint", "cell", "cell_int", "cover", "metres_between", "nearby"]

"""Noisy places: planar Laplace noise, drawn once per data subject and place, and never drawn again.

Source: Andres, Bordenabe, Chatzikokolakis and Palamidessi, "Geo-indistinguishability: Differential Privacy for
Location-Based Systems", CCS 2013. Two places that are d metres apart give any report with probabilities that differ by
a factor of at most exp(eps * d). Fresh noise at every read would average away, so the random numbers come from
HMAC-SHA256 under a key: the same data subject at the same place is always shown at the same spot, in every process,
without a table, and nobody can work the spot out again once the key is destroyed. Whoever holds the key can take the
noise off, so keep it like any other key.

The place is an H3 cell, and the noise moves its centre: where in the cell somebody stood changes nothing.
"""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass
from datetime import datetime

import h3.api.basic_int as h3

from privkit.crypto.aead import require_key
from privkit.crypto.envelope import length_prefixed
from privkit.errors import BudgetSpent, InvalidValue
from privkit.location.budget import Budget, Spending
from privkit.location.cells import cell_int, corner_metres, destination
from privkit.location.point import GeoPoint

_LABEL = b"privkit planar laplace 1"
_DECIMALS = 5
_ROUNDING = 1.0
"""Metres. A coordinate rounded to 5 decimals moves by 0.79 m at most.

The last bits of an unrounded one would tell which place it was computed from (Mironov, CCS 2012)."""


@dataclass(frozen=True, slots=True)
class PlanarLaplace:
    """Noise that makes places within ``metres`` of each other alike up to a factor of exp(``level``).

    ``within``: the bound in metres that a report never exceeds, measured from the true point; None for no bound. A
    bound costs something: a place farther away than it is ruled out for certain. ``resolution``: the H3 cell that
    counts as one place; coordinates within it are not told apart. Raises InvalidValue for numbers that are not
    positive, and for a bound that the cell alone already exceeds.
    """

    level: float = math.log(2)
    metres: float = 500.0
    within: float | None = None
    resolution: int = 9

    def __post_init__(self) -> None:
        if not all(
            _positive(each) for each in (self.level, self.metres, self.metres if self.within is None else self.within)
        ):
            raise InvalidValue(
                "The level, metres and bound of a PlanarLaplace are finite numbers above 0.",
                "",
                "Give for example PlanarLaplace(level=math.log(2), metres=500, within=2000).",
            )
        corner = corner_metres(self.resolution) + _ROUNDING
        if self.within is not None and self.within <= corner:
            raise InvalidValue(
                f"A place of resolution {self.resolution} reaches {corner:.0f} m, so a report within {self.within:g} m "
                "has no room for noise.",
                "",
                f"Give a wider bound, or a finer place: PlanarLaplace(..., resolution={min(15, self.resolution + 1)}).",
            )

    @property
    def eps(self) -> float:
        """The privacy loss per metre: ``level / metres``."""
        return self.level / self.metres

    @property
    def furthest(self) -> float:
        """The greatest distance in metres between a report and the centre of its cell."""
        if self.within is None:
            return math.inf
        return self.within - corner_metres(self.resolution) - _ROUNDING

    def radius(self, share: float) -> float:
        """Return the distance in metres that a ``share`` of reports, 0 to 1, stays below.

        The radius is Gamma(2, 1/eps) distributed. With a bound it is that distribution on condition of being within,
        which is what drawing again until it fits would give.
        """
        if not 0 <= share < 1:
            raise InvalidValue("A share of reports is at least 0 and below 1.", "", "Give for example 0.95.")
        bound = self.eps * self.furthest
        inside = 1.0 if bound == math.inf else -math.expm1(math.log1p(bound) - bound)
        return min(_quantile(share * inside) / self.eps, self.furthest)


def add_noise(noise: PlanarLaplace, point: GeoPoint, *, key: bytes, domain: str, subject: str) -> GeoPoint:
    """Return the one place where ``subject`` is shown in ``domain`` when they are at ``point``.

    ``key``: 32 bytes of the application's own. Another domain, noise or key draws another spot, and two spots tell
    more than one: give each audience one domain, and change the key seldom. Raises KeyringError for another length.
    """
    place = cell_int(point, noise.resolution)
    drawn = _prf(key, b"draw", noise, domain, subject, place)
    share, turn = (_fraction(drawn[start : start + 8]) for start in (0, 8))
    shown = destination(GeoPoint(*h3.cell_to_latlng(place)), noise.radius(share), 2 * math.pi * turn)
    return GeoPoint(round(shown.lat, _DECIMALS), round(shown.lon, _DECIMALS))


def add_budgeted_noise(
    noise: PlanarLaplace,
    point: GeoPoint,
    *,
    key: bytes,
    domain: str,
    subject: str,
    budget: Budget,
    spending: Spending,
    now: datetime,
) -> GeoPoint:
    """Return ``add_noise(...)`` where the budget of ``subject`` has room for it.

    A place that was reported in this period costs nothing more; a new one costs ``noise.eps`` once. Raises
    BudgetSpent, and then nothing was shown or remembered.
    """
    token = _prf(key, b"spent", noise, domain, subject, cell_int(point, noise.resolution))[:16]
    if not spending.spend(subject, token, noise.eps, budget, now):
        raise BudgetSpent(
            f"The budget of {budget.eps:g} per metre in {budget.period} has no room for one more place.",
            "Reports of many places add up to where somebody lives and works.",
            "Show an earlier report, wait for the period to end, or give coarser noise: a smaller level, more metres.",
            eps=budget.eps,
        )
    return add_noise(noise, point, key=key, domain=domain, subject=subject)


def _prf(key: bytes, use: bytes, noise: PlanarLaplace, domain: str, subject: str, place: int) -> bytes:
    """Return 32 bytes. The noise is in it: the same draw at two levels could be solved for the place."""
    require_key(key)
    kind = repr((noise.eps, noise.furthest)).encode()
    names = (each.encode("utf-8", "surrogatepass") for each in (domain, subject))
    return hmac.digest(key, length_prefixed(_LABEL, use, kind, *names, place.to_bytes(8, "big")), "sha256")


def _fraction(data: bytes) -> float:
    """Return the middle of one of 2^52 equal parts between 0 and 1, which a float holds exactly."""
    return ((int.from_bytes(data, "big") >> 12) + 0.5) / 2**52


def _quantile(share: float) -> float:
    """Return x where 1 - (1 + x) exp(-x) is ``share``: -W(-1, (share - 1) / e) - 1, the paper's inverse.

    Newton's method for x - log(1 + x) = loss. The function is convex and the start lies above the root
    (Chatzigeorgiou, IEEE Communications Letters 17 (2013), theorem 1), so it only comes down.
    """
    loss = -math.log1p(-share)
    x = loss + math.sqrt(2 * loss)
    while x > 0:
        closer = x - (x - math.log1p(x) - loss) * (1 + x) / x
        if closer >= x:
            break
        x = closer
    return x


def _positive(number: float) -> bool:
    return not isinstance(number, bool) and isinstance(number, int | float) and 0 < number < math.inf

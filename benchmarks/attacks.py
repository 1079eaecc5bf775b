"""Tracks as several techniques leave them, each attacked: what an attacker finds, and what honest use loses.

    python benchmarks/attacks.py [FIXES.csv.gz] [OFFSET]

First a simulated town, in which everybody's home is known: 200 persons, four weeks, a fix an hour. Then, where it is
given, a file with the columns lat, lng, datetime (UTC) and uid, whose people live OFFSET hours ahead of UTC (8). The
attacker has the exact fixes of the first half of the days, with names, and links to them the second half as it was
de-identified. Their guess of a home is the median of the night's reports; a home in a file is that of the exact fixes.
"""

import csv
import gzip
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from statistics import fmean, median

import h3.api.basic_str as h3

from privkit.deidentify.attacks import (
    Recognised,
    average,
    is_night,
    is_working_time,
    link_nearest,
    most_visited,
)
from privkit.location import GeoPoint, metres_between
from privkit.location.cells import cell, destination
from privkit.location.grouping import group_cells, persons_of
from privkit.location.noise import PlanarLaplace, add_noise

CENTRE, PERSONS, WORKPLACES, DAYS = GeoPoint(48.1, 11.6), 200, 30, 28
KEY = bytes(32)
Fix = tuple[str, GeoPoint, datetime]
Pair = tuple[GeoPoint, ...]
Change = Callable[[str, GeoPoint], GeoPoint | None]


def town(seed: int = 7) -> tuple[list[Fix], dict[str, GeoPoint]]:
    """Return the fixes of a simulated town in local time, 15 m off as GPS is, and everybody's home."""
    rng = random.Random(seed)

    def within(metres: float) -> GeoPoint:
        return destination(CENTRE, metres * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi))

    homes = {f"p{number}": within(8_000) for number in range(PERSONS)}
    works = [within(4_000) for _ in range(WORKPLACES)]
    fixes = []
    for person, home in homes.items():
        work, haunts = rng.choice(works), [within(8_000) for _ in range(3)]
        for hour in range(24 * DAYS):
            at = datetime(2026, 3, 2) + timedelta(hours=hour)
            place = (
                work if is_working_time(at) else home if is_night(at) else rng.choices([home, *haunts], (8, 4, 2, 1))[0]
            )
            fixes.append((person, destination(place, abs(rng.gauss(0, 15)), rng.uniform(0, 2 * math.pi)), at))
    return fixes, homes


def read(path: Path, offset: float) -> list[Fix]:
    """Read the fixes of a file in local time, the first of each person and minute."""
    found: dict[tuple[str, datetime], GeoPoint] = {}
    with gzip.open(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            at = datetime.fromisoformat(row["datetime"]) + timedelta(hours=offset)
            place = GeoPoint(float(row["lat"]), float(row["lng"]))
            found.setdefault((row["uid"], at.replace(second=0)), place)
    return [(person, place, at) for (person, at), place in found.items()]


def techniques(fixes: list[Fix], k: int) -> Iterator[tuple[str, Change]]:
    """Name each technique and hand out what it makes of one fix: a place, or None where it is suppressed."""
    yield "none", lambda person, place: place
    for decimals in (3, 2):
        yield f"{decimals} decimals", lambda person, place, n=decimals: truncated(place, n)  # type: ignore[misc]
    for resolution in (9, 8, 7):
        yield f"Cell({resolution})", lambda person, place, n=resolution: centre(cell(place, n))  # type: ignore[misc]
    reports = count()
    for metres in (200, 500):
        noise = PlanarLaplace(metres=metres)
        yield f"noise {metres} m, each time", lambda person, place, n=noise: noisy(n, person, place, next(reports))  # type: ignore[misc]
        yield f"noise {metres} m, once", lambda person, place, n=noise: noisy(n, person, place)  # type: ignore[misc]
    groups = group_cells(persons_of(((person, place) for person, place, _ in fixes), 9), k=k, finest=9, coarsest=7)
    published = groups.published
    yield (
        f"cells of {k} persons",
        lambda person, place: centre(group) if (group := published[cell(place, 9)]) is not None else None,
    )
    yield "Suppress()", lambda person, place: None


def noisy(noise: PlanarLaplace, person: str, place: GeoPoint, report: int = 0) -> GeoPoint:
    """Return where somebody is shown; in a domain of its own, a report is drawn anew."""
    return add_noise(noise, place, key=KEY, domain=str(report), subject=person)


def averaging() -> None:
    """Print what the mean of many reports of one place gives away, over 200 places."""
    _, homes = town()
    print("\nThe mean of n reports of a home\n")
    print("| noise of 500 m | one report | 10 reports | 100 reports | 1,000 reports |")
    print("|---|---:|---:|---:|---:|")
    noise = PlanarLaplace(metres=500, resolution=13)
    for name, fresh in (("each time", True), ("once", False)):
        found = [
            average(
                (
                    (person, noisy(noise, person, home, n * fresh))
                    for person, home in homes.items()
                    for n in range(many)
                ),
                homes,
            )
            for many in (1, 10, 100, 1000)
        ]
        print(f"| {name} | {' | '.join(f'{each.mean:,.0f} m' for each in found)} |")


def truncated(place: GeoPoint, decimals: int) -> GeoPoint:
    """Return the place with the other decimals cut off."""
    return GeoPoint(*(math.trunc(each * 10**decimals) / 10**decimals for each in (place.lat, place.lon)))


@cache
def centre(name: str) -> GeoPoint:
    """Return the centre of an H3 cell."""
    return GeoPoint(*h3.cell_to_latlng(name))


def home_work(fixes: list[Fix]) -> dict[str, Pair]:
    """Guess where each person sleeps and works."""
    nights, works = defaultdict(list), defaultdict(list)
    for person, place, at in fixes:
        if is_night(at):
            nights[person].append(place)
        elif is_working_time(at):
            works[person].append(place)
    return {person: (middle(nights[person]), middle(works[person])) for person in nights.keys() & works.keys()}


def middle(places: list[GeoPoint]) -> GeoPoint:
    """Return the median latitude and longitude, which a few nights elsewhere do not move."""
    return GeoPoint(median(each.lat for each in places), median(each.lon for each in places))


def pairs_apart(a: Pair, b: Pair) -> float:
    """Return how far two homes and two works are from each other, in metres."""
    return sum(map(metres_between, a, b))


def sets_apart(a: Pair, b: Pair) -> float:
    """Return the sum of the metres from each place to the nearest of the other's, both ways."""
    return sum(min(metres_between(x, y) for y in there) for here, there in ((a, b), (b, a)) for x in here)


def top(fixes: list[Fix]) -> dict[str, Pair]:
    """Return the centres of each person's three most visited cells."""
    named = most_visited([(person, cell(place, 9), at) for person, place, at in fixes], 3)
    return {str(person): tuple(map(centre, places)) for person, places in named.items()}


def attack(title: str, fixes: list[Fix], homes: dict[str, GeoPoint] | None, k: int) -> None:
    """Print what each technique leaves to an attacker."""
    days = sorted({at.date() for _, _, at in fixes})
    half = days[len(days) // 2]
    known, later = [each for each in fixes if each[2].date() < half], [each for each in fixes if each[2].date() >= half]
    names, tops = home_work(known), top(known)
    persons = len({person for person, _, _ in later})
    truth = homes or {person: pair[0] for person, pair in home_work(later).items()}
    print(f"\n{title}: {len(fixes):,} fixes of {persons} persons in {len(days)} days\n")
    print("| technique | home found within (mean) | by home and work | by 3 places | moved (mean) | left out |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, change in techniques(later, k):
        changed = [(person, place, change(person, place), at) for person, place, at in later]
        released = [(person, shown, at) for person, _, shown, at in changed if shown is not None]
        guesses = home_work(released)
        error = [metres_between(pair[0], truth[person]) for person, pair in guesses.items() if person in truth]
        moved = [metres_between(place, shown) for _, place, shown, _ in changed if shown is not None]
        by_pair = link_nearest(guesses, names, pairs_apart)
        by_top = link_nearest(top(released), tops, sets_apart)
        print(
            f"| {name} | {metres(error)} | {share(by_pair, persons)} | {share(by_top, persons)} | {metres(moved)} "
            f"| {1 - len(released) / len(later):.0%} |"
        )


def metres(distances: list[float]) -> str:
    """Return a mean as it is printed."""
    return f"{fmean(distances):,.0f} m" if distances else "never"


def share(found: Recognised, persons: int) -> str:
    """Return the share of all persons who were rightly found."""
    return f"{(found.right or 0) / persons:.0%}"


if __name__ == "__main__":
    if len(sys.argv) > 3:
        raise SystemExit(__doc__)
    averaging()
    attack("A simulated town", *town(), k=5)
    if len(sys.argv) > 1:
        hours = float(sys.argv[2]) if len(sys.argv) > 2 else 8.0
        attack("The file", read(Path(sys.argv[1]), hours), None, k=2)

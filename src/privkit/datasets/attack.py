"""The attacks of ``privkit.deidentify.attacks`` on files: DuckDB reads, and makes it as few records as it can.

with files(Path("trips.parquet")) as trips:
    figures = tracks(trips, ["lat", "lon", "time"], "person", zone=timezone(timedelta(hours=8)))
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, tzinfo
from typing import Any

from privkit.datasets.relations import EngineTable
from privkit.deidentify.attacks import Recognised, Visit, alone, home_and_work, link, most_visited
from privkit.deidentify.measures import ask, check_columns, expression, measure, source
from privkit.errors import InvalidValue
from privkit.location.cells import cell
from privkit.location.point import GeoPoint

TOP = (1, 2, 3)
"""Of how many most visited places an attacker is taken to know."""


def uniqueness(table: EngineTable, quasi: Sequence[str], person: str | None = None) -> Recognised:
    """Count the rows that are alone in their class, or the persons who are it with any of their rows."""
    if person is None:
        found = measure(table, quasi=quasi)
        return Recognised(found.rows, found.unique)
    keys = ", ".join(expression(table, name) for name in check_columns(table, quasi, person=person))
    who = expression(table, person)
    singles = f"SELECT MIN({who}) AS who FROM {source(table)} GROUP BY {keys} HAVING COUNT(DISTINCT {who}) = 1"
    [(persons,)] = ask(table, f"SELECT COUNT(DISTINCT {who}) FROM {source(table)}")
    [(unique,)] = ask(table, f"SELECT COUNT(DISTINCT who) FROM ({singles}) AS singles")
    return Recognised(int(persons), int(unique))


def linkage(
    table: EngineTable, other: EngineTable, on: Sequence[str], *, person: str | None = None, truth: str | None = None
) -> Recognised:
    """Look up every row, or person, of a table in another one by columns that both have, compared as text.

    ``truth``: the column that tells in both who somebody is; without it each row of the other table is a person of
    its own. Of both tables these columns are read into memory. Raises InvalidValue for a column that is not there.
    """
    for each in (table, other):
        check_columns(each, on, truth)
    if person is not None and person != truth:
        check_columns(table, on, person)
    released = (
        (number if person is None else row[1], row[0], row[2])
        for number, row in enumerate(_traits(table, on, (person, truth)))
        if person is None or row[1] is not None
    )
    known = ((number if row[1] is None else row[1], row[0]) for number, row in enumerate(_traits(other, on, (truth,))))
    return link(released, known, truth=truth is not None)


def tracks(
    table: EngineTable, columns: Sequence[str], person: str, *, zone: tzinfo = UTC, resolution: int = 9
) -> dict[str, Recognised]:
    """Count who is told from all others by home and work, and by their most visited places.

    ``columns``: latitude, longitude and time, of which places are made by H3 cells of ``resolution``; or one column
    that holds the place, and time. A time without a zone is UTC, and ``zone`` is where people live. Rows in which
    something is missing are left out. Raises InvalidValue for other columns and for what is no place on earth.
    """
    if len(columns) not in (2, 3):
        raise InvalidValue(
            "A track has the columns latitude, longitude and time, or place and time.", "", "Example: lat,lon,time"
        )
    visits = _visits(table, check_columns(table, columns, person=person), person, zone, resolution)
    [(persons,)] = ask(table, f"SELECT COUNT(DISTINCT {expression(table, person)}) FROM {source(table)}")
    found = {"home and work": alone(home_and_work(visits), int(persons))}
    places = most_visited(visits, max(TOP))
    for k in TOP:
        sets = {who: frozenset(most[:k]) for who, most in places.items()}
        found[f"{k} most visited"] = alone(sets, int(persons))
    return found


def _visits(table: EngineTable, columns: Sequence[str], person: str, zone: tzinfo, resolution: int) -> list[Visit]:
    *place, time, who = (expression(table, name) for name in (*columns, person))
    table.rows("SET TimeZone = 'UTC'")
    kinds = "TEXT" if len(place) == 1 else "DOUBLE"
    moment = f"DATE_TRUNC('minute', CAST(CAST({time} AS TIMESTAMPTZ) AS TIMESTAMP))"
    chosen = [who, *(f"CAST({each} AS {kinds})" for each in place), moment]
    present = " AND ".join(f"{each} IS NOT NULL" for each in (who, time, *place))
    rows = ask(table, f"SELECT DISTINCT {', '.join(chosen)} FROM {source(table)} WHERE {present}")
    return [(row[0], _place(row[1:-1], resolution), row[-1].replace(tzinfo=UTC).astimezone(zone)) for row in rows]


def _place(parts: tuple[Any, ...], resolution: int) -> str:
    return parts[0] if len(parts) == 1 else cell(GeoPoint(*parts), resolution)


def _traits(table: EngineTable, on: Sequence[str], others: Sequence[str | None]) -> list[tuple[Any, ...]]:
    """Return for each row the values of ``on``, None where one is missing, and what the other columns hold as text."""
    keys = [f"CAST({expression(table, name)} AS TEXT)" for name in on]
    rest = ["NULL" if name is None else f"CAST({expression(table, name)} AS TEXT)" for name in others]
    rows = ask(table, f"SELECT {', '.join([*keys, *rest])} FROM {source(table)}")
    return [(None if None in row[: len(on)] else row[: len(on)], *row[len(on) :]) for row in rows]

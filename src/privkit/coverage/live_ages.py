"""How many rows of a database tell nobody's age or country. It counts; no stored value is ever fetched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, String, and_, case, func, not_, or_, select, type_coerce

from privkit.policy import codes_of
from privkit.sqlalchemy.guard import Guard, Protected
from privkit.sqlalchemy.mapping import ADULT_COLUMN
from privkit.sqlalchemy.types import Guarded, plain_type


@dataclass(frozen=True, slots=True)
class Untold:
    """Counts of rows. ``ages``: without a day of age; ``ignored``: of these, with something stored that tells none.

    ``countries``: whose country is missing or leads to no row of the policy; None where the column is sealed.
    """

    rows: int
    ages: int
    ignored: int
    countries: int | None


def untold(guard: Guard, connection: Connection, each: Protected) -> Untold:
    """Count the rows of a table of data subjects that may be children, in one statement."""
    child, table = each.model.child, each.table
    assert child is not None
    ageless = table.c[ADULT_COLUMN].is_(None)
    told = [name for name in child.fields if name not in (child.country, child.region)]
    something = or_(*(each.mapper.columns[name].is_not(None) for name in told))
    wanted: list[Any] = [func.count(), func.count(case((ageless, 1))), func.count(case((and_(ageless, something), 1)))]
    country = each.mapper.columns[child.country] if child.country is not None else None
    if country is not None and not _sealed(country):
        code = func.upper(func.trim(type_coerce(country, String())))
        known = and_(country.is_not(None), func.substr(code, 1, 2).in_(codes_of(guard.policy.ages)))
        wanted.append(func.count(case((not_(known), 1))))
    rows, ages, ignored, *countries = connection.execute(select(*wanted).select_from(table)).one()
    return Untold(rows, ages, ignored, countries[0] if countries else None)


def _sealed(column: Column[Any]) -> bool:
    return (isinstance(column.type, Guarded) and column.type.sealed) or not isinstance(plain_type(column), String)

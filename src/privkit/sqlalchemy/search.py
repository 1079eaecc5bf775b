"""How a sealed field is found: the operators of its column, and what its marker may ask of them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from sqlalchemy import ColumnElement
from sqlalchemy.sql import operators
from sqlalchemy.types import TypeDecorator

from privkit.catalog import Field
from privkit.crypto import NORMALISERS
from privkit.errors import MappingError, SearchError
from privkit.markers import Equality, Nearby
from privkit.sqlalchemy.index import EQUALITY, Search, SearchIndex, hashed, plain_values, searches
from privkit.sqlalchemy.pairs import or_previous
from privkit.sqlalchemy.silence import comparing
from privkit.sqlalchemy.types import Guarded, covered, reading_null, while_readable

_NULLITY = {operators.is_, operators.is_not}


class SealedComparator(TypeDecorator.Comparator[Any]):
    """Operators of a sealed column: NULL tests, and what its search index can serve. Others raise at once."""

    @comparing
    def operate(self, op: Any, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
        operand = other[0] if other else None
        kind = self.type
        assert isinstance(kind, Guarded)
        if op in _NULLITY or (op in (operators.eq, operators.ne) and operand is None):
            return reading_null(op, other, kwargs, self.expr, kind)
        field = kind.field
        if op in EQUALITY and isinstance(field.marker.search, Equality) and plain_values(operand):
            index = index_column(self.expr, field)
            found: ColumnElement[Any] = op(index, hashed(operand, index.type), *other[1:], **kwargs)
            if field.marker.adopting is not None:
                found = or_previous(found, op, other, self.expr, kind)
            return while_readable(found, self.expr, kind)
        if op in (operators.eq, operators.ne) and isinstance(operand, ColumnElement):
            # SQLAlchemy compares columns so when it looks one up in a list; in a statement the read gate refuses it.
            return super().operate(op, *other, **kwargs)
        raise search_refused(field, getattr(op, "__name__", str(op)))

    @comparing
    def reverse_operate(self, op: Any, other: Any, **kwargs: Any) -> ColumnElement[Any]:
        found: ColumnElement[Any] = self.operate(op, other, **kwargs)
        return found

    @property
    def cell_resolutions(self) -> tuple[int, ...]:
        """The H3 resolutions of the cells whose hashes may be stored: one, unless the search is changing."""
        self._nearby()
        assert isinstance(self.type, Guarded)
        return tuple({each.resolution for each in searches(self.type.field) if isinstance(each, Nearby)})

    def in_cells(self, cells: Iterable[int]) -> ColumnElement[bool]:
        """Return the condition that a sealed location lies in one of these H3 cells, of each ``cell_resolutions``."""
        self._nearby()
        kind = self.type
        assert isinstance(kind, Guarded)
        return while_readable(index_column(self.expr, kind.field).in_(sorted(cells)), self.expr, kind)

    def _nearby(self) -> Nearby:
        kind = self.type
        assert isinstance(kind, Guarded)
        if not isinstance(kind.field.marker.search, Nearby):
            raise search_refused(kind.field, "nearby")
        return kind.field.marker.search


def index_column(expression: ColumnElement[Any], field: Field) -> ColumnElement[Any]:
    """Return the search index column beside a sealed column, in the same table or alias."""
    table = getattr(expression, "table", None)
    name = f"{getattr(expression, 'name', field.name)}_ix"
    column: ColumnElement[Any] | None = table.c.get(name) if table is not None else None
    if column is None or not isinstance(column.type, SearchIndex) or column.type.field != field:
        raise SearchError(
            f"{field} is compared where its search index is not at hand.",
            "A comparison of ciphertext would find nothing.",
            f"Compare it on the model or on aliased(), not on a subquery that left {name} out.",
            field=field.id,
        )
    kind = expression.type
    return covered(column) if isinstance(kind, Guarded) and kind.guard is not None else column


def search_refused(field: Field, operator: str) -> SearchError:
    """Build the error for an operator that a sealed field cannot serve."""
    search = field.marker.search
    able = "== and in_" if isinstance(search, Equality) else "nearby()" if search else "nothing but is_(None)"
    return SearchError(
        f"{field} is sealed and cannot serve {operator!r}; it serves {able}.",
        "On ciphertext the comparison would quietly match nothing, or everything.",
        f"Give its marker a search (search=Equality(...)) or filter {field.name} in Python after reading.",
        field=field.id,
        operator=operator,
    )


FEW_VALUES = 256
"""A type with fewer values than this is guessable: whoever has the table learns a value from how often it occurs."""


def check(field: Field) -> None:
    """Raise MappingError where a field's search cannot work, or would give away what is sealed."""
    search = field.marker.search
    if search is None:
        return
    _check_keys(field, searches(field))
    for each in searches(field):
        if isinstance(each, Equality) and each.normaliser not in NORMALISERS:
            raise MappingError(
                f"{field}: there is no normaliser {each.normaliser!r}.",
                "Values cannot be indexed without one.",
                f"Use one of: {', '.join(NORMALISERS)}.",
                field=field.id,
            )
    count = _number_of_values(field.python_type)
    if isinstance(search, Equality) and count < FEW_VALUES and not search.guessable and field.marker.seal is not False:
        raise MappingError(
            f"{field} has {count} possible values and would be searched by Equality.",
            "Equal values have equal hashes, so whoever has the table guesses them by how often each occurs.",
            f"Leave out the search and filter {field.name} in Python, or say why guesses do no harm:\n"
            f'    search=Equality({search.normaliser!r}, guessable="...")',
            field=field.id,
        )


def _check_keys(field: Field, every: tuple[Search, ...]) -> None:
    """Each search has a key number of its own, by which its hashes are told from the others'."""
    numbers = [each.key for each in every]
    kinds = {type(each) for each in every}
    nested = any(each.also for each in every[1:])
    if len(set(numbers)) == len(numbers) and len(kinds) == 1 and not nested and all(0 < each < 256 for each in numbers):
        return
    raise MappingError(
        f"{field} has a search whose index keys cannot be told apart.",
        "Its stored hashes could not be counted, found or made anew one key at a time.",
        'Give each search of one kind a key number of its own, 1 to 255: Equality("email", key=2, also=(1,)).',
        field=field.id,
    )


def _number_of_values(python_type: Any) -> float:
    if python_type is bool:
        return 2
    if get_origin(python_type) is Literal:
        return len(get_args(python_type))
    if isinstance(python_type, type) and issubclass(python_type, Enum):
        return len(python_type.__members__)
    return float("inf")

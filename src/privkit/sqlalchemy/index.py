"""The hidden column beside a searched field: the keyed hashes by which it is found.

While the index key, the normaliser or the resolution of a search changes, hashes of several searches are stored: the
marker's own and those that it names in ``also``. A compared value is then sent as the hashes of all, joined to one
parameter, and each comparison takes its own part of it; so a named parameter works as it does otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Dialect,
    LargeBinary,
    func,
    literal,
    literal_column,
    type_coerce,
)
from sqlalchemy.sql import operators
from sqlalchemy.types import TypeDecorator, TypeEngine

from privkit.catalog import Field
from privkit.crypto.search import INDEX_SIZE, PREFIX_SIZE
from privkit.errors import PrivkitError, SearchError
from privkit.markers import Equality, Nearby
from privkit.sqlalchemy.registry import protecting, unwrapped

if TYPE_CHECKING:
    from privkit.sqlalchemy.guard import Guard

Search = Equality | Nearby

EQUALITY = {operators.eq, operators.ne, operators.in_op, operators.not_in_op}


class IndexHash(bytes):
    """A search hash made for storing."""

    __slots__ = ()


def searches(field: Field) -> tuple[Search, ...]:
    """Return the searches whose hashes may be stored, the one that new hashes are made by first."""
    search = field.marker.search
    return () if search is None else (search, *(each for each in search.also if not isinstance(each, int)))


def hash_for(guard: Guard, field: Field, value: Any) -> IndexHash | None:
    """Return the hash that is stored beside ``value`` when it is written now; of no value there is none."""
    return None if value is None else IndexHash(guard.index_hash(field, value))


def stored_prefix(column: Any) -> ColumnElement[Any]:
    """Return the SQL of what tells under which key and normaliser version a hash was made."""
    return _part(type_coerce(column, LargeBinary()), 0, PREFIX_SIZE)


def _part(value: Any, start: int, size: int) -> ColumnElement[Any]:
    return func.substr(value, literal_column(str(start + 1)), literal_column(str(size)), type_=LargeBinary())


class IndexComparator(TypeDecorator.Comparator[Any]):
    """Comparisons with a value hold for the hash of any search of the field."""

    def operate(self, op: Any, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
        kind = self.type
        assert isinstance(kind, SearchIndex)
        if op not in EQUALITY or not kind.several or not plain_values(other[0]):
            return super().operate(op, *other, **kwargs)
        among = op in (operators.in_op, operators.not_in_op)
        if among and not isinstance(other[0], list | tuple | set | frozenset):
            raise _unserved(kind.field)
        hashes = [each for value in (other[0] if among else other) for each in self._hashes_of(value)]
        return self.expr.in_(hashes) if op in (operators.eq, operators.in_op) else self.expr.not_in(hashes)

    def _hashes_of(self, value: Any) -> list[ColumnElement[Any]]:
        kind = JoinedHashes(self.type.field)  # type: ignore[attr-defined]
        if value is None:
            sent: Any = literal(None, kind)
        else:
            # Through a comparison, as a lambda's parameter is known by the first that it stands in.
            compared: Any = type_coerce(self.expr, kind) == hashed(value, kind)
            sent = compared.right
        return [_part(sent, number * INDEX_SIZE, INDEX_SIZE) for number in range(len(searches(kind.field)))]


class SearchIndex(TypeDecorator[Any]):
    """The type of an index column. Values are hashed here, for writes and queries alike."""

    impl = LargeBinary
    cache_ok = True
    comparator_factory = IndexComparator

    def __init__(self, field: Field) -> None:
        super().__init__(INDEX_SIZE)
        self.field = field
        self.several = len(searches(field)) > 1
        """Whether hashes of several searches may be stored."""

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return self

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        guard = protecting(dialect, self.field)
        field, several = self.field, self.several

        def process(value: Any) -> Any:
            if value is None or type(value) is IndexHash:
                return value if value is None else bytes(value)
            if several:
                raise unwrapped(_unserved(field))
            return _hash(guard, field, value, None)

        return process

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.field})"


class JoinedHashes(SearchIndex):
    """The type of a compared value: its hashes of all searches of the field, one after the other."""

    cache_ok = True
    comparator_factory = TypeDecorator.Comparator  # type: ignore[assignment]

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        guard = protecting(dialect, self.field)
        field, every = self.field, searches(self.field)

        def process(value: Any) -> Any:
            return None if value is None else b"".join(_hash(guard, field, value, each) for each in every)

        return process


def _hash(guard: Guard, field: Field, value: Any, search: Search | None) -> bytes:
    try:
        return guard.index_hash(field, value, search)
    except PrivkitError as error:
        raise unwrapped(error) from None


def _unserved(field: Field) -> SearchError:
    return SearchError(
        f"{field} is compared in a form that cannot look for the hashes of several index keys.",
        "Rows whose hash is under another key would be missed.",
        f"Compare it by {field.name} == value or {field.name}.in_([...]), the list itself, until the key has changed.",
        field=field.id,
    )


def plain_values(operand: Any) -> bool:
    """Index hashes are made from values; a column or expression has none yet."""
    values = operand if isinstance(operand, list | tuple | set | frozenset) else (operand,)
    return not any(
        isinstance(value, ColumnElement) or hasattr(value, "__clause_element__")
        for value in values
        if not isinstance(value, BindParameter)
    )


def hashed(operand: Any, kind: TypeEngine[Any]) -> Any:
    """A named parameter is hashed as other values are, whatever type it was made with."""
    if isinstance(operand, BindParameter):
        return operand._with_binary_element_type(kind)
    return [hashed(each, kind) for each in operand] if isinstance(operand, list | tuple | set | frozenset) else operand

"""The types that stand on protected columns.

``Guarded`` wraps the type of every personal column. On an engine that nobody protected it raises when its
processor is built. On a protected one it checks the purpose of each value it hands out and reduces it to
that purpose's precision; where the field is sealed it stores envelopes and serves no operator but those its
search can. ``SearchIndex`` is the type of the hidden ``<field>_ix`` column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, Boolean, ColumnElement, Dialect, LargeBinary, Table, and_, not_, or_, type_coerce
from sqlalchemy.exc import DontWrapMixin
from sqlalchemy.sql import operators, sqltypes
from sqlalchemy.sql.elements import False_, True_
from sqlalchemy.types import TypeDecorator, TypeEngine

from privkit.catalog import Field
from privkit.errors import MappingError, NotProtectedError, PrivkitError, SearchError, StatementRefused
from privkit.location import GeoPoint
from privkit.markers import BirthDate, Equality, Location, Nearby, Personal
from privkit.sqlalchemy.registry import guard_of

if TYPE_CHECKING:
    from privkit.sqlalchemy.guard import Guard

Processor = Callable[[Any], Any]


class Sealed(bytes):
    """An envelope made by the write gate: the only thing a sealed column accepts."""

    __slots__ = ()


class IndexHash(bytes):
    """A search hash made by the write gate."""

    __slots__ = ()


def unwrapped(error: PrivkitError) -> PrivkitError:
    """Return ``error`` as a subclass that SQLAlchemy raises as it is, not inside a StatementError with parameters."""
    kind = type(error)
    bare: Any = type(kind.__name__, (kind, DontWrapMixin), {"__module__": kind.__module__, "__doc__": kind.__doc__})
    made: PrivkitError = bare(error.what, error.why, error.fix, **error.data)
    return made


def protecting(dialect: Dialect, field: Field) -> Guard:
    """Return the guard of an engine's dialect. Raises NotProtectedError when there is none."""
    guard = guard_of(dialect)
    if guard is None:
        raise unwrapped(
            NotProtectedError(
                f"{field} is personal data, and this engine is not protected.",
                "It would be written or read outside the policy.",
                "Call privacy.protect(engine) once, where the engine is made.",
                field=field.id,
            )
        )
    return guard


class Guarded(TypeDecorator[Any]):
    """The type of a personal column: ``plain`` is what the model declared, ``field`` what the catalog read."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, field: Field, plain: TypeEngine[Any]) -> None:
        super().__init__()
        self.field = field
        self.plain = plain
        self.guard: Guard | None = None
        self.sealed = False
        self.decide(None, sealed=sealed_by_default(field.marker))

    def decide(self, guard: Guard | None, *, sealed: bool) -> None:
        """Store the field as envelopes, or as the model declared it, under the rules of ``guard``."""
        if self.guard is not None and guard is not None and self.guard is not guard and self.sealed != sealed:
            raise MappingError(
                f"{self.field} is sealed under one Privacy and not under another of this process.",
                "Each would read what the other wrote as damaged.",
                "Make one Privacy for the models, or give both policies the same seal for the category.",
                field=self.field.id,
            )
        self.guard, self.sealed = guard, sealed
        self.impl = LargeBinary() if sealed else self.plain  # type: ignore[assignment]
        for memo in ("impl_instance", "comparator_factory"):
            self.__dict__.pop(memo, None)

    @property
    def comparator_factory(self) -> Any:  # type: ignore[override]
        """Sealed columns serve only what their search can; others keep their own operators, until they expire."""
        if self.sealed:
            return SealedComparator
        return expiring(self.plain.comparator_factory)

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        if self.sealed:
            return self
        coerced = self.plain.coerce_compared_value(op, value)
        return self if coerced is self.plain else coerced

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any] | None:
        from privkit.sqlalchemy.visibility import readable

        return readable(column, self)

    def bind_processor(self, dialect: Dialect) -> Processor | None:
        protecting(dialect, self.field)
        if not self.sealed:
            return self._plain(dialect).bind_processor(dialect)
        return self._refuse_unsealed(dialect)

    def _refuse_unsealed(self, dialect: Dialect) -> Processor:
        # Their drivers take bytes; the wrapper that the DBAPI has for others costs more than the seal.
        direct = dialect.name in ("sqlite", "postgresql")
        store = None if direct else self.impl_instance.dialect_impl(dialect).bind_processor(dialect)
        field = self.field

        def process(value: Any) -> Any:
            if value is None:
                return None
            if type(value) is not Sealed:
                raise unwrapped(
                    StatementRefused(
                        f"A value for {field} reached the database unsealed, by a path that cannot seal it.",
                        "It would have been stored, or compared, as plain text.",
                        "Set the attribute on an object, or pass values as parameters of insert() and update().",
                        field=field.id,
                    )
                )
            return store(value) if store else bytes(value)

        return process

    def literal_processor(self, dialect: Dialect) -> Processor | None:
        protecting(dialect, self.field)
        if self.sealed:
            raise unwrapped(
                StatementRefused(
                    f"{self.field} is sealed and cannot be written as a literal.", "", "Use a bound parameter."
                )
            )
        return self._plain(dialect).literal_processor(dialect)

    def result_processor(self, dialect: Dialect, coltype: Any) -> Processor | None:
        guard = protecting(dialect, self.field)
        if self.sealed:
            return guard.opener(self.field)
        return guard.reader(self.field, self._plain(dialect).result_processor(dialect, coltype))

    def _plain(self, dialect: Dialect) -> TypeEngine[Any]:
        return self.plain.dialect_impl(dialect)

    def __repr__(self) -> str:
        return f"Guarded({self.field}, {self.plain!r})"


class SearchIndex(TypeDecorator[Any]):
    """The keyed hash by which a sealed field is found. Values are hashed here, for writes and queries alike."""

    impl = LargeBinary
    cache_ok = True

    def __init__(self, field: Field) -> None:
        super().__init__(16)
        self.field = field

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        return self

    def bind_processor(self, dialect: Dialect) -> Processor | None:
        guard = protecting(dialect, self.field)
        field = self.field

        def process(value: Any) -> Any:
            if value is None or type(value) is IndexHash:
                return value if value is None else bytes(value)
            try:
                return bytes(guard.index_hash(field, value))
            except PrivkitError as error:
                raise unwrapped(error) from None

        return process

    def __repr__(self) -> str:
        return f"SearchIndex({self.field})"


class Point(TypeDecorator[GeoPoint]):
    """A GeoPoint as 16 bytes: what a location is stored as where a marker says ``seal=False``."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: GeoPoint | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.pack()

    def process_result_value(self, value: Any, dialect: Dialect) -> GeoPoint | None:
        return None if value is None else GeoPoint.unpack(bytes(value))


# A listener for this, ``resolve_type_annotation``, exists only from SQLAlchemy 2.1 on.
sqltypes._type_map[GeoPoint] = Point()

_EQUALITY = {operators.eq, operators.ne, operators.in_op, operators.not_in_op}
_BETWEEN = {operators.between_op, operators.not_between_op}
_NULLITY = {operators.is_, operators.is_not}


class SealedComparator(TypeDecorator.Comparator[Any]):
    """Operators of a sealed column: NULL tests, and what its search index can serve. Others raise at once."""

    def operate(self, op: Any, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
        operand = other[0] if other else None
        kind = self.type
        assert isinstance(kind, Guarded)
        if op in _NULLITY or (op in (operators.eq, operators.ne) and operand is None):
            return reading_null(op, other, kwargs, self.expr, kind)
        field = kind.field
        if op in _EQUALITY and isinstance(field.marker.search, Equality) and _plain_values(operand):
            index = index_column(self.expr, field)
            return while_readable(op(index, _hashed(operand, index.type), *other[1:], **kwargs), self.expr, kind)
        if op in (operators.eq, operators.ne) and isinstance(operand, ColumnElement):
            # SQLAlchemy compares columns so when it looks one up in a list; in a statement the read gate refuses it.
            return super().operate(op, *other, **kwargs)
        raise search_refused(field, getattr(op, "__name__", str(op)))

    def reverse_operate(self, op: Any, other: Any, **kwargs: Any) -> ColumnElement[Any]:
        return self.operate(op, other, **kwargs)

    @property
    def cell_resolution(self) -> int:
        """The H3 resolution of a location's search."""
        return self._nearby().resolution

    def in_cells(self, cells: Iterable[int]) -> ColumnElement[bool]:
        """Return the condition that a sealed location lies in one of these H3 cells."""
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


def expiring(factory: Any) -> Any:
    """Return a comparator factory that adds the expiry condition to what ``factory``'s comparators build."""
    if isinstance(factory, type):
        return _expiring_class(factory)
    return lambda expression: _expiring_class(type(factory(expression)))(expression)


_expiring: dict[type, type] = {}


def _expiring_class(plain: type) -> type:
    if plain not in _expiring:
        _expiring[plain] = type("ExpiringComparator", (ExpiringOperators, plain), {})
    return _expiring[plain]


class ExpiringOperators:
    """Comparisons of an unsealed personal column hold only while the field may be read."""

    expr: ColumnElement[Any]
    type: TypeEngine[Any]

    def operate(self, op: Any, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
        found: ColumnElement[Any] = super().operate(op, *other, **kwargs)  # type: ignore[misc]
        compares = isinstance(found.type, Boolean) or op in _BETWEEN
        if not compares or COVERED in self.expr._annotations:
            return found
        if op in (operators.eq, operators.ne) and _may_be_listed(other[0]):
            return found  # so SQLAlchemy looks a column up in a list
        return while_readable(op(covered(self.expr), *other, **kwargs), self.expr, self.type)


def _may_be_listed(operand: Any) -> bool:
    return isinstance(operand, ColumnElement) and not isinstance(operand, BindParameter | True_ | False_)


COVERED = "privkit_covered"
"""Annotation of a column that stands beside its own expiry condition."""


def covered(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column that the read gate knows to stand beside its expiry condition."""
    return column._annotate({COVERED: True})


def while_readable(found: ColumnElement[Any], column: ColumnElement[Any], kind: Any) -> ColumnElement[Any]:
    """Return ``found``, made false for rows whose field has expired."""
    from privkit.sqlalchemy.visibility import unexpired

    live = unexpired(column, kind)
    return found if live is None else and_(found, live)


def reading_null(op: Any, other: Any, kwargs: Any, column: ColumnElement[Any], kind: Any) -> ColumnElement[Any]:
    """Compare a sealed column with NULL, which it reads as once it has expired."""
    from privkit.sqlalchemy.visibility import unexpired

    live = unexpired(column, kind)
    plain = type_coerce(covered(column), LargeBinary())
    found: ColumnElement[Any] = op(plain, *other, **kwargs)
    if live is None:
        return found
    return or_(found, not_(live)) if op in (operators.is_, operators.eq) else and_(found, live)


def sealed_by_default(marker: Personal) -> bool:
    """Whether a field is sealed when no policy has spoken yet: as the marker says, or by its kind."""
    if marker.seal is not None:
        return marker.seal
    return isinstance(marker, Location | BirthDate) or marker.search is not None


def _plain_values(operand: Any) -> bool:
    """Index hashes are made from values; a column or expression has none yet."""
    values = operand if isinstance(operand, list | tuple | set | frozenset) else (operand,)
    return not any(
        isinstance(value, ColumnElement) or hasattr(value, "__clause_element__")
        for value in values
        if not isinstance(value, BindParameter)
    )


def _hashed(operand: Any, kind: TypeEngine[Any]) -> Any:
    """A named parameter is hashed as other values are, whatever type it was made with."""
    if isinstance(operand, BindParameter):
        return operand._with_binary_element_type(kind)
    return [_hashed(each, kind) for each in operand] if isinstance(operand, list | tuple | set | frozenset) else operand


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


def plain_type(column: Any) -> TypeEngine[Any]:
    """Return the type a column was declared with, guarded or not."""
    kind: TypeEngine[Any] = column.type
    return kind.plain if isinstance(kind, Guarded) else kind


def field_of(column: Any) -> Field | None:
    """Return the field behind a column or its search index, or None when it holds no personal data."""
    kind = getattr(column, "type", None)
    return kind.field if isinstance(kind, Guarded | SearchIndex) else None


def original(table: Table) -> Table:
    """Return the table that an annotated copy, such as the ORM hands over, was made of."""
    return table.metadata.tables.get(table.key, table)


def guarded_columns(table: Table) -> dict[str, Guarded]:
    """Return the guarded columns of a table by column key."""
    return {column.key: column.type for column in table.columns if isinstance(column.type, Guarded)}

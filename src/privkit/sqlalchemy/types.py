"""The types that stand on protected columns.

``Guarded`` wraps the type of every personal column. On an engine that nobody protected it raises when its
processor is built. On a protected one it checks the purpose of each value it hands out and reduces it to
that purpose's precision; where the field is sealed it stores envelopes and serves no operator but those its
search can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, Boolean, ColumnElement, Dialect, LargeBinary, Table, and_, not_, or_, type_coerce
from sqlalchemy.sql import operators, sqltypes
from sqlalchemy.sql.elements import False_, True_
from sqlalchemy.types import TypeDecorator, TypeEngine

from privkit.catalog import Field
from privkit.errors import MappingError, StatementRefused
from privkit.location import GeoPoint, GeoTrack
from privkit.markers import BirthDate, Location, Personal
from privkit.sqlalchemy import stored
from privkit.sqlalchemy.index import SearchIndex
from privkit.sqlalchemy.registry import protecting, unwrapped
from privkit.sqlalchemy.silence import comparing, converting

if TYPE_CHECKING:
    from privkit.sqlalchemy.guard import Guard

Processor = Callable[[Any], Any]


class Sealed(bytes):
    """An envelope made by the write gate: the only thing a sealed column accepts."""

    __slots__ = ()


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
        if sealed:
            stored.codec_of(self.field)
        self.guard, self.sealed = guard, sealed
        self.impl = LargeBinary() if sealed else self.plain  # type: ignore[assignment]
        for memo in ("impl_instance", "comparator_factory"):
            self.__dict__.pop(memo, None)

    @property
    def should_evaluate_none(self) -> bool:  # type: ignore[override]
        """Whether None, where it is given, is JSON's null and no NULL, as with the declared type."""
        return self.plain.should_evaluate_none

    @property
    def comparator_factory(self) -> Any:  # type: ignore[override]
        """Sealed columns serve only what their search can; others keep their own operators, until they expire."""
        if self.sealed:
            from privkit.sqlalchemy.search import SealedComparator

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
            return converting(self.field, self._plain(dialect).bind_processor(dialect))
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
                        "Set the attribute on an object, pass values as parameters of insert() and update(), "
                        "or compare the field by itself: Model.field == value, not within tuple_().",
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
            return guard.opener(self.field, dialect)
        return guard.reader(self.field, self._plain(dialect).result_processor(dialect, coltype))

    def _plain(self, dialect: Dialect) -> TypeEngine[Any]:
        return self.plain.dialect_impl(dialect)

    def __repr__(self) -> str:
        return f"Guarded({self.field}, {self.plain!r})"


class Point(TypeDecorator[Any]):
    """A GeoPoint as 16 bytes: what a location is stored as where a marker says ``seal=False``."""

    impl = LargeBinary
    cache_ok = True

    packed: type[GeoPoint] | type[GeoTrack] = GeoPoint

    def process_bind_param(self, value: GeoPoint | GeoTrack | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.pack()

    def process_result_value(self, value: Any, dialect: Dialect) -> GeoPoint | GeoTrack | None:
        return None if value is None else self.packed.unpack(bytes(value))


class Track(Point):
    """A GeoTrack as the whole blocks that it packs itself in, likewise."""

    cache_ok = True
    packed = GeoTrack


# A listener for this, ``resolve_type_annotation``, exists only from SQLAlchemy 2.1 on.
sqltypes._type_map[GeoPoint] = Point()
sqltypes._type_map[GeoTrack] = Track()

_BETWEEN = {operators.between_op, operators.not_between_op}


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

    @comparing
    def operate(self, op: Any, *other: Any, **kwargs: Any) -> ColumnElement[Any]:
        found: ColumnElement[Any] = super().operate(op, *other, **kwargs)  # type: ignore[misc]
        compares = isinstance(found.type, Boolean) or op in _BETWEEN
        if not compares or COVERED in self.expr._annotations or isinstance(self.expr, BindParameter):
            return found  # a parameter has no row; SQLAlchemy compares two to look one up
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


COPIED = "privkit_copied"
"""Annotation of what is no use of its value: an upsert writes it back or knows its row by it; persons are counted."""


def copied(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return a column that the read gate does not count as used."""
    return column._annotate({COPIED: True})


TRUSTED = "privkit_trusted"
"""Annotation of an expression that privkit itself wrote round a field: that it lives, or its value while it does."""


def trusted(expression: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return an expression that the rule of minimum groups takes as it is."""
    return expression._annotate({TRUSTED: True})


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
    if marker.adopting is not None:
        return marker.adopting.phase != "dual"
    if marker.seal is not None:
        return marker.seal
    return isinstance(marker, Location | BirthDate) or marker.search is not None


def plain_type(column: Any) -> TypeEngine[Any]:
    """Return the type a column was declared with, guarded or not."""
    kind: TypeEngine[Any] = column.type
    return kind.plain if isinstance(kind, Guarded) else kind


def as_stored(column: Any) -> ColumnElement[Any]:
    """Return a column as the database holds it: an envelope's bytes, or the plain value; nothing is opened."""
    kind = column.type
    if not isinstance(kind, Guarded):
        return column  # type: ignore[no-any-return]
    return type_coerce(column, LargeBinary() if kind.sealed else kind.plain)


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

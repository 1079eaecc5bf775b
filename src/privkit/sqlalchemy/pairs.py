"""The two columns of a field that is being adopted: the old one, and the sealed one beside it.

Until a row's value is sealed, its sealed column holds one byte, ``PENDING``, never NULL: NULL means that there is no
value. The byte is the sealed column's default, so rows that were there before have it, and so have rows that an old
build inserts. A trigger puts it there again when a program that does not know the sealed column changes the old one.
So a value that is missing or out of date always shows, in every form of statement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from typing import Any

from sqlalchemy import (
    BindParameter,
    Column,
    ColumnElement,
    Dialect,
    FromClause,
    LargeBinary,
    String,
    Table,
    and_,
    literal,
    or_,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.sqltypes import _Binary
from sqlalchemy.types import TypeDecorator, TypeEngine

from privkit.catalog import Field
from privkit.crypto import DESTROYED
from privkit.crypto.envelope import VERSION
from privkit.crypto.previous import Scheme, from_text, scheme_for
from privkit.deidentify import leaves_residue
from privkit.errors import MappingError, SealedError, SearchError, StatementRefused
from privkit.previous import Adopting, Plain
from privkit.sqlalchemy import pair_sql
from privkit.sqlalchemy.registry import protecting
from privkit.sqlalchemy.types import Guarded, Processor, Sealed, covered

PENDING = b"\x02"
"""What a sealed column holds while the row's value is only in the column it was in before."""

_TEXT_TYPES = (str, bool, int, date, time, datetime)
"""Types whose plain values a database writes as text without loss."""


class Beside(Guarded):
    """The column that a field is not mapped to while it is adopted: the sealed one at first, the old one later."""

    cache_ok = True

    def decide(self, guard: Any, *, sealed: bool) -> None:
        super().decide(guard, sealed=_adopting(self.field).phase == "dual")

    @property
    def comparator_factory(self) -> Any:  # type: ignore[override]
        """Another library's ciphertext serves no more operators than an envelope."""
        if not self._foreign:
            return super().comparator_factory
        from privkit.sqlalchemy.search import SealedComparator

        return SealedComparator

    @property
    def _foreign(self) -> bool:
        return not self.sealed and not isinstance(_adopting(self.field).previous, Plain)

    def result_processor(self, dialect: Dialect, coltype: Any) -> Processor | None:
        if not self._foreign:
            return super().result_processor(dialect, coltype)
        plain, read = self._plain(dialect).result_processor(dialect, coltype), scheme_of(self.field).read

        def opened(value: Any) -> Any:
            if value is None:
                return None
            return converted(self.field, read, plain(value) if plain else value)

        return protecting(dialect, self.field).reader(self.field, opened)


def _adopting(field: Field) -> Adopting:
    assert field.marker.adopting is not None
    return field.marker.adopting


def scheme_of(field: Field) -> Scheme:
    """Return the scheme of values that are not sealed yet. Raises MappingError for a type it does not bring back."""
    adopting = _adopting(field)
    return scheme_for(adopting.previous, field.python_type, in_place=adopting.beside is None)


def install(table: Table, column: Column[Any], field: Field, plain: TypeEngine[Any]) -> Column[Any]:
    """Prepare the columns of an adopted field, and return the sealed one. Raises MappingError where it cannot be."""
    adopting = _adopting(field)
    _check(field, adopting, plain)
    if adopting.beside is None:
        return column
    if adopting.beside in table.columns:
        raise _unfit(field, f"{table.name} maps {adopting.beside!r} already", "Leave the column beside it unmapped.")
    dual = adopting.phase == "dual"
    nullable = column.nullable or adopting.phase == "finished"
    kind = plain if dual or isinstance(adopting.previous, Plain) else _foreign_type(adopting)
    other: Column[Any] = Column(adopting.beside, Beside(field, kind), nullable=nullable)
    table.append_column(other)
    sealed, old = (other, column) if dual else (column, other)
    if adopting.phase != "finished":
        pair_sql.watch(sealed, old)
    return sealed


def _foreign_type(adopting: Adopting) -> TypeEngine[Any]:
    return LargeBinary() if getattr(adopting.previous, "binary", False) else String()


def _check(field: Field, adopting: Adopting, plain: TypeEngine[Any]) -> None:
    scheme_of(field)
    foreign = not isinstance(adopting.previous, Plain)
    if leaves_residue(field.marker.then):
        raise _unfit(field, "its technique leaves a residue", "Adopt it with then=Suppress(), and change that after.")
    if adopting.beside is None and (adopting.phase != "sealed" or adopting.until is None):
        raise _unfit(field, "a column in place has no other phase, and needs its last day", "until=date(2026, 12, 31)")
    if foreign and adopting.phase == "dual":
        raise _unfit(field, "reads are not served from another library's ciphertext", 'phase="sealed", until=date(...)')
    legible = field.python_type in _TEXT_TYPES and not _converts(plain)
    if isinstance(adopting.previous, Plain) and adopting.until is not None and not legible:
        raise _unfit(field, "its plain values cannot be read where its sealed ones are", "Leave until= out.")


def _converts(plain: TypeEngine[Any]) -> bool:
    """Whether what the database holds is another text than the value, as with a type that encodes or encrypts."""
    if not isinstance(plain, TypeDecorator):
        return False
    hooks = ("process_bind_param", "process_result_value", "bind_processor", "result_processor", "column_expression")
    return any(getattr(type(plain), name) is not getattr(TypeDecorator, name) for name in hooks)


def _unfit(field: Field, why: str, fix: str) -> MappingError:
    return MappingError(f"{field} cannot be adopted so: {why}.", "", fix, field=field.id)


def pair(column: Column[Any]) -> tuple[Column[Any], Column[Any]] | None:
    """Return the old and the sealed column of the field that ``column`` holds, or None where it has no two."""
    kind = column.type
    adopting = kind.field.marker.adopting if isinstance(kind, Guarded) else None
    if adopting is None or adopting.beside is None:
        return None
    assert isinstance(kind, Guarded)
    both = [each for each in column.table.columns if isinstance(each.type, Guarded) and each.type.field == kind.field]
    main, other = sorted(both, key=lambda each: isinstance(each.type, Beside))
    return (main, other) if adopting.phase == "dual" else (other, main)


# Writing.


def own(guarded: Mapping[str, Guarded]) -> dict[str, Guarded]:
    """Return the columns that attributes are mapped to, whose values a statement gives."""
    return {name: kind for name, kind in guarded.items() if not isinstance(kind, Beside)}


def fill(table: Table, guarded: Mapping[str, Guarded], rows: list[dict[str, Any]], *, new: bool) -> None:
    """Write each value of an adopted field to both of its columns; a new row's missing value is NULL in both."""
    for name, kind in own(guarded).items():
        adopting = kind.field.marker.adopting
        if adopting is None or adopting.beside is None:
            continue
        _refuse_beside(table, kind.field, adopting.beside, rows)
        write = scheme_of(kind.field).write
        for row in rows:
            if new:
                row.setdefault(name, None)
            if name in row and adopting.phase != "finished":
                value = row[name]
                empty = value is None or adopting.phase == "dual"
                row[adopting.beside] = value if empty else converted(kind.field, write, value)


def _refuse_beside(table: Table, field: Field, beside: str, rows: list[dict[str, Any]]) -> None:
    if any(beside in row for row in rows):
        raise StatementRefused(
            f"{table.name}.{beside} is written together with {field}, and not by itself.",
            "Its two columns would differ.",
            f"Set {field.name}.",
            field=field.id,
        )


def waits(kind: Guarded) -> bool:
    """Whether a value may go unsealed for now: its row has no key yet, and reads come from the old column."""
    adopting = kind.field.marker.adopting
    return adopting is not None and adopting.phase == "dual"


def indexed(kind: Guarded) -> bool:
    """Whether a column has a search index beside it: of a pair, the sealed one."""
    return kind.field.marker.search is not None and (kind.field.marker.adopting is None or kind.sealed)


def is_adopted(kind: Guarded) -> bool:
    """Whether a column holds a field that is being adopted."""
    return kind.field.marker.adopting is not None


def refuse_upsert(guarded: Mapping[str, Guarded], names: Iterable[str]) -> None:
    """Raise StatementRefused where ON CONFLICT would set one of the two columns of a field alone."""
    for name in names:
        if name in guarded and is_adopted(guarded[name]):
            raise StatementRefused(
                f"ON CONFLICT DO UPDATE would set {guarded[name].field} while it is adopted.",
                "Its two columns would differ.",
                "Look the row up, and insert or update it, until the marker has no adopting=.",
                field=guarded[name].field.id,
            )


WAITING = Sealed(PENDING)


# Reading.


def arms(column: ColumnElement[Any], kind: Guarded, at: FromClause, first_byte: Any) -> list[tuple[Any, Any]]:
    """Return the arms of a sealed column's CASE that let a value through which is not sealed yet."""
    adopting = kind.field.marker.adopting
    if adopting is None or adopting.until is None or isinstance(kind, Beside):
        return []
    if adopting.beside is None:
        return [(first_byte != literal(VERSION, LargeBinary()), type_coerce(column, LargeBinary()))]
    old = at.c.get(adopting.beside)
    if old is None or not isinstance(old.type, Beside):
        return []  # a subquery left it out: the byte comes through, and is refused
    return [(first_byte == literal(PENDING, LargeBinary()), Previously(type_coerce(old, old.type.plain)))]


def is_previous(field: Field, value: Any) -> bool:
    """Whether what a query returned for a sealed column is a value, or the sign of one, that is not sealed yet."""
    start = value[:1].encode() if isinstance(value, str) else bytes(value[:1])
    beside = _adopting(field).beside is not None
    return start == PENDING if beside else start not in (VERSION, DESTROYED) or isinstance(value, str)


def read(field: Field, value: Any, today: Callable[[], date]) -> Any:
    """Return a value that is not sealed yet. Raises SealedError where it may not be read any more, or is not there."""
    adopting = _adopting(field)
    text = value if isinstance(value, str) else bytes(value)
    if adopting.beside is not None:
        text = text[2:]
    if adopting.until is None or today() > adopting.until or (adopting.beside is not None and len(value) == 1):
        raise not_sealed(field)
    if isinstance(adopting.previous, Plain) and adopting.beside is not None:
        text = text if isinstance(text, str) else text.decode()
        return converted(field, lambda found: from_text(field.python_type, found), text)
    return converted(field, scheme_of(field).read, text)


def not_sealed(field: Field) -> SealedError:
    """Build the error for a value that is still, or again, only in the form it had before."""
    return SealedError(
        f"A value of {field} is not sealed, or another program changed it since.",
        "What its sealed column holds is missing or out of date, and reading the old form is not allowed (until=).",
        f"Seal it: privkit seal {field}. Then find what still writes the old form.",
        field=field.id,
    )


def converted(field: Field, convert: Callable[[Any], Any], value: Any) -> Any:
    """Return ``convert(value)``. Raises SealedError, in the name of the field, where that fails."""
    try:
        return convert(value)
    except SealedError as error:
        refusal: Any = SealedError(f"{field}: {error.what}", error.why, error.fix, field=field.id)
    except (ValueError, KeyError):
        refusal = SealedError(
            f"{field}: a value in its previous form is no {field.python_type.__name__}.",
            "It was stored when the field had another type, or by other code.",
            "Mend the row with the program that wrote it.",
            field=field.id,
        )
    raise refusal  # out here, so that the original error, which may hold the value, is not chained


def or_previous(found: ColumnElement[Any], op: Any, other: Any, column: ColumnElement[Any], kind: Any) -> Any:
    """Have a search by ``==`` or ``in_`` find plain values that are not sealed yet too.

    Raises SearchError where they are another library's ciphertext, which no comparison finds.
    """
    adopting = _adopting(kind.field)
    if adopting.phase == "finished":
        return found
    old = getattr(column, "table", None)
    old = old.c.get(adopting.beside) if old is not None and adopting.beside is not None else None
    if not isinstance(adopting.previous, Plain) or old is None:
        if adopting.until is None:
            return found
        raise SearchError(
            f"{kind.field} cannot be searched while values that are not sealed yet are read too.",
            "The search would quietly miss them.",
            f"Seal them (privkit seal {kind.field}), then take until= out of its marker.",
            field=kind.field.id,
        )
    pending = type_coerce(covered(column), LargeBinary()) == literal(PENDING, LargeBinary())
    operands = [each._clone() if isinstance(each, BindParameter) else each for each in other]
    return or_(found, and_(pending, op(type_coerce(covered(old), old.type.plain), *operands)))


class Previously(FunctionElement[Any]):
    """An old column's value as bytes or text, after ``PENDING`` twice: once alone it is no value."""

    inherit_cache = True
    type = LargeBinary()


@compiles(Previously, "sqlite")
def _previously_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"char(2, 2) || CAST({compiler.process(element.clauses, **kwargs)} AS TEXT)"


@compiles(Previously, "postgresql")
def _previously_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    (old,) = element.clauses
    text = compiler.process(old, **kwargs)
    text = text if isinstance(old.type, _Binary) else f"convert_to(CAST({text} AS text), 'UTF8')"
    return f"CAST('\\x0202' AS bytea) || {text}"

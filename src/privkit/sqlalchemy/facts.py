"""Which personal fields a statement touches, anywhere; computed once for each compiled statement.

A field is *selected* where it stands as a plain column of a SELECT list or RETURNING, and *used* anywhere
else: WHERE, ORDER BY, functions, joins, subqueries. Selected values pass through the types, which reduce
them to the purpose's precision; a use tells about the exact value, so it needs an exact purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Label, Select, Table, TextClause
from sqlalchemy.orm import FromStatement
from sqlalchemy.sql import visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import (
    BinaryExpression,
    ClauseList,
    ColumnClause,
    Extract,
    TableValuedColumn,
    UnaryExpression,
    _textual_label_reference,
    quoted_name,
)
from sqlalchemy.sql.functions import FunctionElement, _registry
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.sql.selectable import AliasedReturnsRows, CompoundSelect, TableClause, TableSample, TextualSelect
from sqlalchemy.sql.visitors import ExternallyTraversible

from privkit.catalog import Field
from privkit.sqlalchemy import tables
from privkit.sqlalchemy.guard import OWN_ALIAS, is_own_alias
from privkit.sqlalchemy.index import SearchIndex
from privkit.sqlalchemy.types import COPIED, COVERED, Guarded, field_of, original

CRITERION = "for_loader_criteria"
"""SQLAlchemy's annotation of criteria that with_loader_criteria() added, which it keeps when it adapts them."""


class HidesRows:
    """What the annotation holds where the criterion is privkit's own, to be told from the application's."""

    __slots__ = ()


def keeps_hidden(clause: Any) -> bool:
    """Whether it is privkit's criterion of hidden rows; what the application's own names, it uses."""
    return isinstance(getattr(clause, "_annotations", {}).get(CRITERION), HidesRows)


_ORDINARY = frozenset(_registry["_default"]) | {"abs", "avg", "length", "lower", "round", "substr", "trim", "upper"}
_RETURNED = ("_returning", "_supplemental_returning", "_return_defaults_columns")
_LISTED = ("_raw_columns", "_from_obj", "_correlate", "_correlate_except")


@dataclass(slots=True, eq=False)
class Facts:
    """What the gates need to know of a statement.

    ``uncovered``: used without their expiry condition. ``functions``: but those that SQLAlchemy and SQL themselves
    know. ``searches``: by a search index. ``disguised``: an alias is named as privkit's own are. ``mixed``: a field
    that one arm of a union returns where another returns something else.
    """

    selected: dict[str, Field] = field(default_factory=dict)
    used: dict[str, Field] = field(default_factory=dict)
    uncovered: dict[str, Field] = field(default_factory=dict)
    tables: set[Table] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    textual: bool = False
    searches: bool = False
    disguised: bool = False
    mixed: Field | None = None

    @property
    def personal(self) -> bool:
        """Whether any personal field is touched."""
        return bool(self.selected or self.used)


_known: WeakKeyDictionary[SQLCompiler, Facts] = WeakKeyDictionary()


def facts_of(compiled: SQLCompiler) -> Facts:
    """Return the facts of a compiled statement."""
    found = _known.get(compiled)
    if found is None:
        found = _known[compiled] = _gather(compiled)
    return found


def _gather(compiled: SQLCompiler) -> Facts:
    facts = Facts()
    state = compiled.compile_state
    resolved = getattr(state, "statement", None)
    if resolved is not None and resolved is not compiled.statement:
        # The ORM's own statement still holds entities, which the resolved one spells out as columns.
        _walk(resolved, facts, spell_out=True)
        _walk(compiled.statement, facts, spell_out=False)
    else:
        _walk(compiled.statement, facts, spell_out=True)
    return facts


_sealed: WeakKeyDictionary[SQLCompiler, tuple[tuple[int, str], ...]] = WeakKeyDictionary()


def sealed_at(compiled: SQLCompiler) -> tuple[tuple[int, str], ...]:
    """Return where a compiled statement returns sealed values: each place, with the field's id."""
    found = _sealed.get(compiled)
    if found is None:
        places = ((place, entry.type) for place, entry in enumerate(compiled._result_columns))
        sealed = ((place, kind) for place, kind in places if isinstance(kind, Guarded) and kind.sealed)
        found = _sealed[compiled] = tuple((place, kind.field.id) for place, kind in sealed)
    return found


def facts_of_clause(clause: Any) -> Facts:
    """Return the facts of one clause: all that it names is used."""
    facts = Facts()
    _walk(clause, facts, spell_out=False)
    return facts


class _Place(Enum):
    """Where in a statement an element stands."""

    TOP = "the SELECT list's own statement"
    LISTED = "a plain column that the statement returns"
    INNER = "below FROM: what it lists is a touch only where the outer statement takes it up"
    PASSED = "a plain column that an inner statement lists"
    NAMED = "a name in ORDER BY or GROUP BY that only the compiler resolves"
    USED = "anywhere else"


def _walk(statement: Any, facts: Facts, *, spell_out: bool) -> None:
    stack: list[tuple[Any, _Place]] = [(statement, _Place.TOP)]
    seen: set[tuple[int, _Place]] = set()
    while stack:
        node, place = stack.pop()
        if COPIED in getattr(node, "_annotations", ()) or keeps_hidden(node):
            continue
        if isinstance(node, ColumnClause) and node.table is not None:
            _note_column(node, facts, place)
            facts.textual = facts.textual or _is_raw(node)
            node, place = node.table, _Place.INNER
        if (id(node), place) in seen:
            continue
        seen.add((id(node), place))
        if _is_text(node, place) or _is_raw(node):
            facts.textual = True
        if isinstance(node, FunctionElement) and (
            getattr(node, "name", "").lower() not in _ORDINARY or getattr(node, "packagenames", None)
        ):
            facts.functions.add(node.name.lower())
        if isinstance(node, Table):
            facts.tables.add(original(node))
        elif isinstance(node, Select):
            facts.textual = facts.textual or any(map(_is_raw, _unbundled(node)))  # labels, too
            stack.extend(_select(node, place, spell_out=spell_out))
        elif isinstance(node, FromStatement):
            stack.append((node.element, place))
        elif isinstance(node, AliasedReturnsRows):
            facts.disguised = facts.disguised or _is_disguised(node)
            stack.append((node.element, _Place.INNER))
            if isinstance(node, TableSample):
                stack.extend((each, _Place.USED) for each in (node.sampling, node.seed) if each is not None)
        elif isinstance(node, CompoundSelect):
            facts.mixed = facts.mixed or _mixed(node)
            stack.extend(_compound(node, place))
        elif isinstance(node, ExternallyTraversible):
            stack.extend((child, _Place.USED) for child in node.get_children(omit_attrs=_RETURNED))
            stack.extend(_returned(node))


def _is_disguised(at: AliasedReturnsRows) -> bool:
    """Whether an alias of something else than a table of privkit's own is named as privkit's own are."""
    own = is_own_alias(at) or (isinstance(at.element, Table) and tables.is_own(at.element))
    return str(at.name).startswith(OWN_ALIAS) and not own


def _select(select: Select[Any], place: _Place, *, spell_out: bool) -> Iterator[tuple[Any, _Place]]:
    """A plain column of the list is returned by the statement, or passed on by an inner one, or else used."""
    plain = {_Place.TOP: _Place.LISTED, _Place.INNER: _Place.PASSED}.get(place, _Place.USED)
    if select._distinct and plain is _Place.PASSED:
        plain = _Place.USED
    for column in _unbundled(select):
        if isinstance(column, Table) or not isinstance(column, ColumnElement):
            yield column, _Place.INNER
            if spell_out:
                yield from ((each, plain) for each in getattr(column, "c", ()))
            continue
        bare = column.element if isinstance(column, Label) else column
        yield bare, plain if _is_plain(bare) else _Place.USED
    computed = {each.name for each in select._raw_columns if isinstance(each, Label) and not _is_plain(each.element)}
    for child in super(Select, select).get_children(omit_attrs=_LISTED):
        yield child, _Place.USED
        references = (each for each in visitors.iterate(child) if isinstance(each, _textual_label_reference))
        yield from ((each, _Place.NAMED) for each in references if each.element not in computed)
    yield from ((source, _Place.INNER) for source in select._iterate_from_elements())


def _unbundled(select: Select[Any]) -> Iterator[Any]:
    """The listed columns, those inside a Bundle one by one."""
    for column in select._raw_columns:
        yield from column.clauses if "bundle" in column._annotations and isinstance(column, ClauseList) else (column,)


def _is_plain(column: Any) -> bool:
    return isinstance(column, ColumnClause)


def _compound(compound: CompoundSelect[Any], place: _Place) -> Iterator[tuple[Any, _Place]]:
    """Only UNION ALL passes values on as they are; the others compare them."""
    inner = _Place.USED if _compares(compound) and place is _Place.INNER else place
    arms = set(map(id, compound.selects))
    for arm in compound.selects:
        yield arm, inner
    for child in compound.get_children():
        if id(child) not in arms:
            yield child, _Place.USED
            references = (each for each in visitors.iterate(child) if isinstance(each, _textual_label_reference))
            yield from ((each, _Place.NAMED) for each in references)


def _mixed(compound: CompoundSelect[Any]) -> Field | None:
    """A result has one type for each position: another arm's values would pass it unopened or unreduced."""
    for columns in zip(*(arm.exported_columns for arm in compound.selects), strict=False):
        fields = [field_of(column) if isinstance(column.type, Guarded) else None for column in columns]
        if len(set(fields)) > 1:
            return next(each for each in fields if each is not None)
    return None


def _compares(compound: CompoundSelect[Any]) -> bool:
    return compound.keyword.name != "UNION_ALL"


def _returned(node: Any) -> Iterator[tuple[Any, _Place]]:
    for column in (column for attribute in _RETURNED for column in getattr(node, attribute, None) or ()):
        entity = "parententity" in getattr(column, "_annotations", ())  # it returns what is mapped, and no search hash
        for each in column.c if isinstance(column, Table) else (column,):
            if not (entity and isinstance(each.type, SearchIndex)):
                yield each, _Place.LISTED if isinstance(each, ColumnClause) else _Place.USED


def _note_column(column: Any, facts: Facts, place: _Place) -> None:
    if place is _Place.PASSED:
        return
    for base in column.base_columns:
        found = field_of(base)
        if found is None:
            continue
        if isinstance(getattr(base, "table", None), Table):  # a CAST may have a field's type
            facts.tables.add(original(base.table))
        if place is _Place.LISTED and isinstance(column.type, Guarded):
            facts.selected[found.id] = found
        else:
            facts.used[found.id] = found
            facts.searches = facts.searches or isinstance(base.type, SearchIndex)
            if COVERED not in column._annotations:
                facts.uncovered[found.id] = found


def _is_text(node: Any, place: _Place) -> bool:
    """Whether a node is SQL text of the developer's own, or only names a table or column without being mapped to it."""
    if isinstance(node, TextClause | TextualSelect):
        return True
    if isinstance(node, _textual_label_reference):
        return place is _Place.NAMED
    if isinstance(node, TableClause):
        return not isinstance(node, Table)
    if isinstance(node, TableValuedColumn):
        return True  # a whole row as one value
    if isinstance(node, BinaryExpression | UnaryExpression):
        return isinstance(node.operator, custom_op) or isinstance(getattr(node, "modifier", None), custom_op)
    if isinstance(node, ColumnClause):
        if node.name == "*" and place is _Place.USED:
            return False  # as in count(*)
        return not node.name.isdigit()
    return False


def _is_raw(node: Any) -> bool:
    """Whether the compiler writes a string of the developer's beside the node as it is, or in place of a name."""
    names = (getattr(node, each, None) for each in ("name", "schema", "collation"))
    if any(isinstance(name, quoted_name) and name.quote is False for name in names):
        return True
    if isinstance(node, Extract) and not node.field.isidentifier():
        return True
    return any(getattr(node, text, None) for text in ("_prefixes", "_suffixes", "_hints", "_statement_hints"))

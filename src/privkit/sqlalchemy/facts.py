"""Which personal fields a statement touches, anywhere; computed once for each compiled statement.

A field is *selected* where it stands as a plain column of a SELECT list or RETURNING, and *used* anywhere
else: WHERE, ORDER BY, functions, joins, subqueries. Selected values pass through the types, which reduce
them to the purpose's precision; a use tells about the exact value, so it needs an exact purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Column, ColumnElement, Label, Select, Table, TextClause
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnClause
from sqlalchemy.sql.selectable import CompoundSelect, TextualSelect
from sqlalchemy.sql.visitors import ExternallyTraversible

from privkit.catalog import Field
from privkit.sqlalchemy.types import COVERED, Guarded, field_of

_LISTED = ("_raw_columns", "_from_obj", "_correlate", "_correlate_except")


@dataclass(slots=True)
class Facts:
    """What the gates need to know of a statement. ``sealed_at`` are positions of sealed values in its rows."""

    selected: dict[str, Field] = field(default_factory=dict)
    used: dict[str, Field] = field(default_factory=dict)
    uncovered: dict[str, Field] = field(default_factory=dict)
    tables: set[Table] = field(default_factory=set)
    sealed_at: tuple[int, ...] = ()
    textual: bool = False

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
    for statement in {id(each): each for each in (resolved, compiled.statement) if each is not None}.values():
        # The ORM's own statement still holds entities, which the resolved one spells out.
        if statement is compiled.statement and resolved is not None and resolved is not statement:
            _walk(statement, facts, entities=True)
        else:
            _walk(statement, facts, entities=False)
    facts.sealed_at = tuple(
        position
        for position, entry in enumerate(compiled._result_columns)
        if isinstance(entry.type, Guarded) and entry.type.sealed
    )
    return facts


def _walk(statement: Any, facts: Facts, *, entities: bool) -> None:
    stack: list[tuple[Any, bool]] = [(statement, False)]
    seen: set[int] = set()
    while stack:
        node, listed = stack.pop()
        if isinstance(node, Column | ColumnClause) and getattr(node, "table", None) is not None:
            _note_column(node, facts, listed=listed)
            stack.append((node.table, False))
            continue
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, TextClause | TextualSelect) or _is_literal(node):
            facts.textual = True
        if isinstance(node, Table):
            facts.tables.add(node)
            continue
        if isinstance(node, Select):
            stack.extend(_listed(node, entities=entities))
            rest = super(Select, node).get_children(omit_attrs=_LISTED)
            stack.extend((child, False) for child in (*rest, *node._iterate_from_elements()))
        elif isinstance(node, CompoundSelect):
            stack.extend((child, False) for child in node.get_children())
        else:
            stack.extend((child, False) for child in _children(node))
            stack.extend((column, True) for column in getattr(node, "_returning", ()) or ())


def _listed(select: Select[Any], *, entities: bool) -> Iterator[tuple[Any, bool]]:
    for column in select._raw_columns:
        if isinstance(column, Table) or not isinstance(column, ColumnElement):
            if not entities:
                for each in getattr(column, "c", ()):
                    yield each, True
            yield column, False
        elif isinstance(column, Label):
            yield column.element, _plain(column.element)
        else:
            yield column, _plain(column)


def _plain(column: Any) -> bool:
    return isinstance(column, ColumnClause)


def _children(node: Any) -> Iterator[Any]:
    if isinstance(node, ExternallyTraversible):
        yield from node.get_children(omit_attrs=("_returning",))


def _note_column(column: Any, facts: Facts, *, listed: bool) -> None:
    for base in getattr(column, "base_columns", (column,)):
        found = field_of(base)
        if found is None:
            continue
        if isinstance(getattr(base, "table", None), Table):
            facts.tables.add(base.table)
        if listed and isinstance(column.type, Guarded):
            facts.selected[found.id] = found
        else:
            facts.used[found.id] = found
            if isinstance(base.type, Guarded) and COVERED not in column._annotations:
                facts.uncovered[found.id] = found


def _is_literal(node: Any) -> bool:
    """Whether a node is SQL text of the developer's own; ``*`` and numbers name no column."""
    if not (isinstance(node, ColumnClause) and node.is_literal):
        return False
    return not (node.name == "*" or node.name.isdigit())

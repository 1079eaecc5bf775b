"""Holds SQL text to the same rule: text has no types, so no value it returns could be opened, reduced or expired.

Text that names a protected table may touch only columns without personal data. What does not parse is
refused when it names such a table at all.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any

import sqlglot
from sqlalchemy import Dialect
from sqlglot import expressions as exp
from sqlglot.errors import SqlglotError

from privkit.errors import StatementRefused
from privkit.sqlalchemy.guard import OWN_ALIAS, Guard
from privkit.sqlalchemy.mapping import ADULT_COLUMN, KEY_COLUMN
from privkit.sqlalchemy.types import field_of

_OWN = (KEY_COLUMN, ADULT_COLUMN)
_WRITES = re.compile(r"\b(insert|update|delete|truncate|merge|drop|alter|replace)\b", re.IGNORECASE)
_DIALECTS = {"postgresql": "postgres"}


def check(guard: Guard, dialect: Dialect, statement: str) -> None:
    """Raise StatementRefused when SQL text may touch a personal field."""
    protected = {table.name.lower(): table for table in guard.tables}
    named = [name for name in protected if re.search(rf"(?<![\w]){re.escape(name)}(?![\w])", statement, re.IGNORECASE)]
    if re.search(rf"(?<![\w]){OWN_ALIAS}\w+", statement) and _WRITES.search(statement):
        raise _refused("privkit's own tables", "keys, consent or evidence")
    if not named:
        return
    columns = _columns(statement, _DIALECTS.get(dialect.name, dialect.name))
    for name in named:
        for column in protected[name].columns:
            field = field_of(column)
            if column.name in _OWN and (columns is None or column.name in columns):
                raise _refused(name, f"{name}.{column.name}")
            if field is not None and (columns is None or "*" in columns or column.name.lower() in columns):
                raise _refused(name, str(field) if columns is not None else None)


def sources(statement: str, dialect: Dialect) -> Counter[str]:
    """Count how often each table stands in a statement's FROM, at any depth, but for aliases that are privkit's own.

    A statement that does not parse counts every name in it as often as it occurs, so that a gate errs on the safe side.
    """
    try:
        trees = sqlglot.parse(statement, read=_DIALECTS.get(dialect.name, dialect.name))
    except SqlglotError:
        return Counter(re.findall(r"\w+", statement.lower()))
    found: Counter[str] = Counter()
    for tree in trees:
        for table in tree.find_all(exp.Table) if tree is not None else ():
            if not table.alias.startswith(OWN_ALIAS):
                found[table.name.lower()] += 1
    return found


@lru_cache(maxsize=1024)
def _columns(statement: str, dialect: str) -> frozenset[str] | None:
    """Return the column names that a statement mentions, ``*`` for all, or None when it does not parse."""
    try:
        trees = sqlglot.parse(statement, read=dialect)
    except SqlglotError:
        return None
    names: set[str] = set()
    for tree in trees:
        if tree is None:
            continue
        if isinstance(tree, exp.Command):
            return None
        names.update(_mentioned(tree))
    return frozenset(names)


def _mentioned(tree: Any) -> set[str]:
    names = {node.name.lower() for node in tree.find_all(exp.Identifier)}
    for star in tree.find_all(exp.Star):
        if not isinstance(star.parent, exp.Count):
            names.add("*")
    tables = {table.alias_or_name.lower() for table in tree.find_all(exp.Table)}
    if any(column.name.lower() in tables for column in tree.find_all(exp.Column)):
        names.add("*")  # a whole row, as in row_to_json(r)
    if any(alias.columns for alias in tree.find_all(exp.TableAlias)):
        names.add("*")  # the columns go by other names
    for insert in tree.find_all(exp.Insert):
        if not isinstance(insert.this, exp.Schema):
            names.add("*")
    return names


def _refused(table: str, field: str | None) -> StatementRefused:
    what = f"SQL text touches {field}" if field else f"SQL text over {table} could not be understood"
    return StatementRefused(
        f"{what}; privkit cannot open, reduce or expire what text returns, nor seal what it stores.",
        "Its values would pass outside every rule.",
        "Write it with select(), insert() or update() on the model; text may name columns without personal data.",
        table=table,
    )

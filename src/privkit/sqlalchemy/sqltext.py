"""What SQL text says: the tables it names, the columns it may mean, and whether that can be known at all.

Text is parsed in its database's dialect. What is unsure counts as said: a name without its table may be any table's,
a star is every column. Text whose effect cannot be read from it, such as a procedure's call, is *unresolved*.
"""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import expressions as exp
from sqlglot.errors import SqlglotError

from privkit.sqlalchemy.guard import OWN_ALIAS

_DIALECTS = {"postgresql": "postgres", "mariadb": "mysql", "mssql": "tsql"}
WRITES = re.compile(r"\b(insert|update|delete|truncate|merge|drop|alter|replace|copy)\b", re.IGNORECASE)
_EXPLAIN = re.compile(
    r"\s*explain\s+(\([^()]*\)\s*|(analyze|verbose|query\s+plan)\s+)*(?=select|with|insert|update|delete)", re.I
)
_HARMLESS = re.compile(
    r"\s*(set|reset|show|discard|listen|unlisten|notify|begin|start|commit|rollback|end|abort|savepoint|release|pragma"
    r"|vacuum|analyze|reindex|checkpoint|lock|deallocate|close|grant|revoke|comment|use"
    r"|(create|alter|drop)\s+(role|user|extension|database|type|domain|sequence))\b",
    re.IGNORECASE,
)
_FURTHER = re.compile(r";\s*\S|\b(select|with|values|into|execute)\b|\(\s*table\b", re.IGNORECASE)
_RESOLVED = frozenset({"Insert", "Update", "Delete", "Merge", "Values", "Create", "Alter", "Drop", "TruncateTable",
                       "Copy", "Attach", "Detach", "Pragma", "Analyze", "Grant", "Revoke", "Comment", "Transaction",
                       "Commit", "Rollback", "Set", "Use", "Semicolon"})  # fmt: skip
_PROGRAMS = frozenset({"FUNCTION", "PROCEDURE", "TRIGGER", "RULE", "EVENT", "PACKAGE"})
_MYSQL_HINT = re.compile(r"/\*M?!", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Text:
    """What one text says; all names in small letters.

    ``sources``: how often each table stands in it, but for aliases that are privkit's own. ``bare``: names that may
    be a column of any table. ``qualified``: pairs of a table's alias and a column, or ``*``. ``aliases``: the tables
    that each alias stands for. ``whole``: every column of every table. ``unresolved``: why its effect is not known.
    """

    sources: Counter[str] = field(default_factory=Counter)
    names: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    qualified: frozenset[tuple[str, str]] = frozenset()
    aliases: Mapping[str, frozenset[str]] = field(default_factory=dict)
    functions: frozenset[str] = frozenset()
    whole: bool = False
    writes: bool = False
    unresolved: str | None = None

    def may_mean(self, table: str, column: str) -> bool:
        """Whether a column of a table that the text names may be meant in it."""
        if (
            self.whole
            or column in self.bare
            or any(table in self.aliases[each] for each in self.bare & set(self.aliases))
        ):
            return True
        return any(
            name in (column, "*") and (alias not in self.aliases or table in self.aliases[alias])
            for alias, name in self.qualified
        )


@lru_cache(maxsize=1024)
def read(statement: str, dialect: str) -> Text:
    """Read a text in the dialect of a database, by SQLAlchemy's name of it."""
    explained = _EXPLAIN.match(statement)
    if explained:
        return read(statement[explained.end() :], dialect)
    if _HARMLESS.match(statement) and not _FURTHER.search(statement):
        return Text()
    trees = _parsed(statement, _DIALECTS.get(dialect, dialect))
    if trees is None or (dialect in ("mysql", "mariadb") and _MYSQL_HINT.search(statement)):
        return opaque(statement, "it does not parse")
    for tree in trees:
        reason = _unknown_effect(tree)
        if reason:
            return opaque(statement, reason)
    return _resolved(trees, literals=dialect == "sqlite")


def _parsed(statement: str, dialect: str) -> list[Any] | None:
    token = _parsing.set(True)
    try:
        return [tree for tree in sqlglot.parse(statement, read=dialect) if tree is not None]
    except (SqlglotError, ValueError, RecursionError):
        return None
    finally:
        _parsing.reset(token)


_parsing: ContextVar[bool] = ContextVar("privkit_parsing", default=False)


def _silent(record: logging.LogRecord) -> bool:
    """sqlglot logs a statement that it does not know, with the values in it."""
    return not _parsing.get()


logging.getLogger("sqlglot").addFilter(_silent)


def opaque(statement: str, reason: str) -> Text:
    """Every word may be a table, as often as it occurs, so that a gate errs on the safe side."""
    words = re.findall(r"\w+", statement.lower())
    return Text(Counter(words), frozenset(words), writes=bool(WRITES.search(statement)), unresolved=reason)


def _unknown_effect(tree: Any) -> str | None:
    kind = type(tree).__name__
    if isinstance(tree, exp.Command):
        return f"{str(tree.this).upper()} is not a statement whose effect can be read from it"
    if not isinstance(tree, exp.Query) and kind not in _RESOLVED:
        return "it is not a statement whose effect can be read from it"
    if isinstance(tree, exp.Create) and str(tree.args.get("kind")).upper() in _PROGRAMS:
        return "it stores a program"
    if isinstance(tree, exp.Alter) and tree.find(exp.AlterRename) is not None:
        return "it gives a table another name"
    if tree.find(exp.Command) is not None:
        return "a part of it does not parse"
    return None


def _resolved(trees: list[Any], *, literals: bool) -> Text:
    sources: Counter[str] = Counter()
    aliases: defaultdict[str, set[str]] = defaultdict(set)
    bare: set[str] = set()
    qualified: set[tuple[str, str]] = set()
    nodes = [node for tree in trees for node in tree.walk()]
    for node in nodes:
        if isinstance(node, exp.Table):
            aliases[node.alias_or_name.lower()].add(node.name.lower())
            if not node.alias.startswith(OWN_ALIAS):
                sources[node.name.lower()] += 1
        elif isinstance(node, exp.TableAlias) and not isinstance(node.parent, exp.Table):
            aliases[node.name.lower()].add("")
        elif isinstance(node, exp.Column) and node.table and not node.args.get("db"):
            qualified.add((node.table.lower(), "*" if isinstance(node.this, exp.Star) else node.name.lower()))
        bare.update(_bare(node, literals=literals))
    return Text(
        sources,
        frozenset(node.name.lower() for node in nodes if isinstance(node, exp.Identifier | exp.Table)),
        frozenset(bare),
        frozenset(qualified),
        {alias: frozenset(tables) for alias, tables in aliases.items()},
        frozenset(_functions(nodes)),
        whole=any(map(_is_whole, nodes)),
        writes=any(isinstance(node, exp.Insert | exp.Update | exp.Merge | exp.Copy) for node in nodes),
    )


def _bare(node: Any, *, literals: bool) -> Iterator[str]:
    """A name that is no table's and no alias's, nor a column's whose table is named. SQLite takes ``'x'`` as a name."""
    if literals and isinstance(node, exp.Literal) and node.is_string:
        yield node.name.lower()
    parent = node.parent
    if not isinstance(node, exp.Identifier) or isinstance(parent, exp.Placeholder):
        return
    if isinstance(parent, exp.Table) or (isinstance(parent, exp.Alias | exp.TableAlias) and node.arg_key == "alias"):
        return
    if isinstance(parent, exp.TableAlias) and (node.arg_key == "this" or not isinstance(parent.parent, exp.Table)):
        return
    if not (isinstance(parent, exp.Column) and parent.table and not parent.args.get("db")):
        yield node.name.lower()


def _is_whole(node: Any) -> bool:
    if isinstance(node, exp.Star):
        return not isinstance(node.parent, exp.Count) and not (
            isinstance(node.parent, exp.Column) and node.parent.table and not node.parent.args.get("db")
        )
    if isinstance(node, exp.Join):
        return "NATURAL" in str(node.args.get("method") or "").upper()
    if isinstance(node, exp.TableAlias):
        return isinstance(node.parent, exp.Table) and bool(node.columns)  # the columns go by other names
    if isinstance(node, exp.Insert):
        return not isinstance(node.this, exp.Schema)
    return isinstance(node, exp.Copy)


def _functions(nodes: list[Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, exp.Anonymous):
            yield node.name.lower()
        elif isinstance(node, exp.Func):
            yield node.sql_name().lower()

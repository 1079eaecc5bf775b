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
_REFRESH = re.compile(
    r"\s*refresh\s+materialized\s+view\s+(?:concurrently\s+)?(?P<name>[\w.\"]+)\s*(?:with\s+(?:no\s+)?data\s*)?;?\s*$",
    re.IGNORECASE,
)
_HARMLESS = re.compile(
    r"\s*(set|reset|show|discard|listen|unlisten|notify|begin|start|commit|rollback|end|abort|savepoint|release|pragma"
    r"|vacuum|analyze|reindex|checkpoint|lock|deallocate|close|grant|revoke|comment|use|prepare\s+transaction"
    r"|(create|alter|drop)\s+(role|user|extension|database|type|sequence)"
    r"|alter\s+table\s+(if\s+exists\s+)?(only\s+)?[\w.\"]+\s+(validate\s+constraint|owner\s+to"
    r"|(enable|disable|force|no\s+force)\s+row\s+level\s+security)(?!.*,))\b",
    re.IGNORECASE,
)
_FURTHER = re.compile(
    r";\s*\S|\b(select|values|into|execute)\b|\bwith\b.*\bas\b|\(\s*table\b", re.IGNORECASE | re.DOTALL
)
_STRING = re.compile(r"'(?:[^']|'')*'")
_OTHER_QUOTES = re.compile(r"[$\"\\]|--|/\*")
_SWITCHES = re.compile(r"standard_conforming_strings|writable_schema", re.IGNORECASE)
"""Settings after which a database reads text otherwise, or lets its own catalog be written."""

_CATALOG = re.compile(r"pg_|sqlite_(temp_)?(master|schema)", re.IGNORECASE)
_UNREADABLE = re.compile(
    r"""[^\S \t\r\n]|\r(?!\n)|[\x00-\x08\x0e-\x1f\ufeff]  # what ends a comment or a word here and not there
    | \bu&["']                                          # names in Unicode escapes
    | (?<=\w)\$\w*\$                                    # a name with a dollar, or a quote
    | \#--|\|/\*|-\|--                                  # an operator that a comment cuts short
    | %\([^)]*(?:['"`$]|--|/\*)                         # a placeholder that looks like a quote
    """,
    re.IGNORECASE | re.VERBOSE,
)
"""Where a database and the parser may part ways on what is a name, a string or a comment."""

_VARIABLE = re.compile(r"[$@:#]\w+(?:::|\()")
"""SQLite takes what stands in these parentheses as part of a variable's name."""

_FILLED = re.compile(r"\btable\b.*\bas\b.*\b(select|values|table|execute)\b", re.IGNORECASE | re.DOTALL)
_CALLED = re.compile(r"(\w+)\"?\s*(?:/\*.*?\*/\s*|--[^\n]*\n\s*)*\(", re.DOTALL)
"""The parser gives some functions another name than the text does."""

_DOUBLED = re.compile(r"%%(\(?)")
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
    that each alias stands for. ``whole``: every column of every table. ``renames``: a table gets another
    name. ``functional``: ``alias.name`` may call a function of the row. ``unresolved``: why its effect is not known.
    """

    sources: Counter[str] = field(default_factory=Counter)
    names: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    qualified: frozenset[tuple[str, str]] = frozenset()
    aliases: Mapping[str, frozenset[str]] = field(default_factory=dict)
    functions: frozenset[str] = frozenset()
    whole: bool = False
    writes: bool = False
    renames: bool = False
    functional: bool = False
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

    def calls(self, table: str, columns: set[str]) -> bool:
        """Whether a function of a table's row may be called, as in ``r.to_json``: its columns are these."""
        known = columns | _SYSTEM
        return self.functional and any(
            name not in known and name != "*" and table in self.aliases.get(alias, ()) for alias, name in self.qualified
        )


_SYSTEM = frozenset({"ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"})


@lru_cache(maxsize=1024)
def read(statement: str, dialect: str) -> Text:
    """Read a text in the dialect of a database, by SQLAlchemy's name of it."""
    if _UNREADABLE.search(statement) or (dialect == "sqlite" and _VARIABLE.search(statement)):
        return opaque(statement, "the database may divide it otherwise into words")
    explained = _EXPLAIN.match(statement)
    if explained:
        return read(statement[explained.end() :], dialect)
    refreshed = _REFRESH.match(statement)
    if refreshed:
        return read(f"SELECT * FROM {refreshed['name']}", dialect)
    if _HARMLESS.match(statement) and not _FURTHER.search(_without_strings(statement)):
        return opaque(statement, _SWITCHED) if _SWITCHES.search(statement) else Text()
    trees = _parsed(statement, _DIALECTS.get(dialect, dialect))
    if trees is None or (dialect in ("mysql", "mariadb") and _MYSQL_HINT.search(statement)):
        return opaque(statement, "it does not parse")
    for tree in trees:
        reason = _unknown_effect(tree)
        if reason:
            return opaque(statement, reason)
    return _resolved(trees, dialect, frozenset(_CALLED.findall(statement.lower())))


def copies(statement: str, dialect: str) -> bool:
    """Whether a statement that makes a table fills it with rows of others."""
    if not _FILLED.search(statement):
        return False
    trees = _parsed(statement, _DIALECTS.get(dialect, dialect))
    return trees is None or any(_fills(tree) for tree in trees)


def _fills(tree: Any) -> bool:
    if isinstance(tree, exp.Create):
        return str(tree.args.get("kind")).upper() == "TABLE" and tree.args.get("expression") is not None
    return isinstance(tree, exp.Command)


def _without_strings(statement: str) -> str:
    """The statement without what stands in plain quotes, where there is nothing else that quotes."""
    return statement if _OTHER_QUOTES.search(statement) else _STRING.sub("''", statement)


def _parsed(statement: str, dialect: str) -> list[Any] | None:
    if dialect != "sqlite":  # a driver with named placeholders is sent two for one; what follows is no placeholder
        statement = _DOUBLED.sub(lambda found: "%+(" if found[1] else "%", statement)
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
    if tree.find(exp.Command) is not None:
        return "a part of it does not parse"
    for node in tree.find_all(exp.Anonymous, *_CHANGES):
        if isinstance(node, exp.Anonymous) and node.name.lower() == "set_config":
            setting = node.expressions[0] if node.expressions else None
            if not (isinstance(setting, exp.Literal) and setting.is_string) or _SWITCHES.search(setting.name):
                return _SWITCHED
        elif isinstance(node, _CHANGES) and any(map(_CATALOG.match, _targets(node))):
            return "it writes to the database's own catalog"
    return None


_SWITCHED = "it may change how the database reads text"
_CHANGES = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.TruncateTable)


def _targets(change: Any) -> Iterator[str]:
    for part in (change.this, *change.expressions, *(change.args.get("tables") or ())):
        table = part.find(exp.Table) if isinstance(part, exp.Table | exp.Schema) else None
        if table is not None:
            yield table.name


def _resolved(trees: list[Any], dialect: str, called: frozenset[str]) -> Text:
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
            aliases[node.name.lower()] |= {"", *_over(node)}
        elif isinstance(node, exp.Column) and node.table and not node.args.get("db"):
            qualified.add((node.table.lower(), "*" if isinstance(node.this, exp.Star) else node.name.lower()))
        bare.update(_bare(node, literals=dialect == "sqlite"))
    return Text(
        sources,
        frozenset(node.name.lower() for node in nodes if isinstance(node, exp.Identifier | exp.Table)),
        frozenset(bare),
        frozenset(qualified),
        {alias: frozenset(tables) for alias, tables in aliases.items()},
        called.union(_functions(nodes)),
        whole=any(map(_is_whole, nodes)),
        writes=any(map(_stores, nodes)),
        renames=any(isinstance(node, exp.AlterRename) for node in nodes),
        functional=dialect == "postgresql",
    )


def _over(alias: Any) -> set[str]:
    """The tables that an alias of parentheses stands for, as in ``(a JOIN b ON ...) AS x``; none for a subquery's."""
    parent = alias.parent
    if not isinstance(parent, exp.Subquery) or isinstance(parent.unnest(), exp.Query):
        return set()
    inside = parent.walk(prune=lambda node: isinstance(node, exp.Select | exp.SetOperation | exp.Values))
    return {node.name.lower() for node in inside if isinstance(node, exp.Table)}


def _stores(node: Any) -> bool:
    """Whether what it touches may come to stand elsewhere, or under another name."""
    if isinstance(node, exp.Create):
        return str(node.args.get("kind")).upper() == "TABLE"
    return isinstance(node, exp.Insert | exp.Update | exp.Merge | exp.Copy | exp.Into | exp.Alter)


_UNBRACKETED: defaultdict[type, set[str]] = defaultdict(set, {exp.Fetch: {"fetch"}})
"""Words that stand for a function or a clause in some databases, and may be a column in others."""
for _dialect in ("", "sqlite", "postgres", "mysql"):
    for _token, _function in sqlglot.Dialect.get_or_raise(_dialect).parser_class.NO_PAREN_FUNCTIONS.items():
        _UNBRACKETED[_function].add(_token.name.lower())


def _bare(node: Any, *, literals: bool) -> Iterator[str]:
    """A name that is no table's and no alias's, nor a column's whose table is named. SQLite takes ``'x'`` as a name."""
    if literals and isinstance(node, exp.Literal) and node.is_string:
        yield node.name.lower()
    if isinstance(node, exp.Fetch) or not any(node.args.values()):
        yield from _UNBRACKETED.get(type(node), ())
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
        selects = node.parent
        if isinstance(selects, exp.Select) and isinstance(selects.parent, exp.Exists):
            return False
        return not isinstance(node.parent, exp.Count) and not (
            isinstance(node.parent, exp.Column) and node.parent.table and not node.parent.args.get("db")
        )
    if isinstance(node, exp.Join):
        return "NATURAL" in str(node.args.get("method") or "").upper()
    if isinstance(node, exp.TableAlias):
        over = isinstance(node.parent, exp.Table) or bool(_over(node))
        return over and bool(node.columns)  # the columns go by other names
    if isinstance(node, exp.Insert):
        return not isinstance(node.this, exp.Schema)
    return isinstance(node, exp.Copy)


def _functions(nodes: list[Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, exp.Anonymous):
            yield node.name.lower()
        elif isinstance(node, exp.Func):
            yield node.sql_name().lower()

"""YAML 1.2 as a tree of texts with their line numbers, and nothing more.

The tree is built from parser events, so nothing is ever constructed: a tag cannot make an object, an alias
cannot multiply, ``NO`` is the country and not a falsehood, and a second key of the same name is still seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from privkit.policy.problems import Problem, quoted

LARGEST_FILE = 1_000_000
DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar. ``plain`` tells ``1`` from ``"1"``."""

    line: int
    value: str
    plain: bool

    @property
    def empty(self) -> bool:
        """Whether YAML reads the scalar as null."""
        return self.plain and self.value in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    line: int
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping. A value's line is that of its key, where a reader looks for it."""

    line: int
    entries: tuple[tuple[str, Node], ...]


@dataclass(frozen=True, slots=True)
class Broken:
    """What stood here has been reported already."""

    line: int


Node = Text | Items | Table | Broken


@dataclass(slots=True)
class _Open:
    line: int
    mapping: bool
    children: list[Node] = field(default_factory=list)


class _Refused(Exception):
    """The rest of the file cannot be read."""


def read_file(path: Path, problems: list[Problem]) -> Node | None:
    """Read ``path`` as one YAML document; what is wrong with it is added to ``problems``."""
    file = str(path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        problems.append(Problem(file, 0, f"The file cannot be read ({reason})."))
        return None
    if len(content) > LARGEST_FILE:
        problems.append(Problem(file, 0, f"The file is larger than {LARGEST_FILE} bytes."))
        return None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problems.append(Problem(file, line, "The file is not UTF-8 text."))
        return None
    return parse(text, file, problems)


def parse(text: str, file: str, problems: list[Problem]) -> Node | None:
    """Read ``text`` as one YAML document; ``file`` is its name in problems."""
    node, found = _parsed(text, file)
    problems += found
    return node


@lru_cache(maxsize=32)
def _parsed(text: str, file: str) -> tuple[Node | None, tuple[Problem, ...]]:
    """Parse a text once: a rule pack is read for every policy that extends it, and the reader is slow."""
    problems: list[Problem] = []
    return _tree(text, file, problems), tuple(problems)


def _tree(text: str, file: str, problems: list[Problem]) -> Node | None:
    tree = _Tree(file, problems)
    try:
        tree.take(YAML(typ="safe", pure=True).parse(text))
    except _Refused:
        return None
    except MarkedYAMLError as error:
        tree.report(_line(error.problem_mark or error.context_mark), f"This is not YAML: {error.problem}.")
        return None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        tree.report(line, "The file holds a character that YAML does not allow.")
        return None
    except Exception:  # the scanner lets OverflowError, ValueError and others escape on malformed escapes
        tree.report(tree.line, "This is not YAML.")
        return None
    return tree.root or Text(1, "", plain=True)


class _Tree:
    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file, self.problems = file, problems
        self.root: Node | None = None
        self.line = 1
        self._open: list[_Open] = []
        self._documents = 0

    def report(self, line: int, message: str, fix: str = "") -> None:
        self.problems.append(Problem(self.file, line, message, fix=fix))

    def take(self, events: Iterable[Any]) -> None:
        for event in events:
            self.line = _line(event.start_mark)
            if isinstance(event, DocumentStartEvent):
                self._start_document(event)
            elif isinstance(event, MappingStartEvent | SequenceStartEvent):
                self._descend(event)
            elif isinstance(event, MappingEndEvent | SequenceEndEvent):
                done = self._open.pop()
                self._add(self._table(done) if done.mapping else Items(done.line, tuple(done.children)))
            elif isinstance(event, ScalarEvent):
                self._refuse_tag(event)
                self._add(Text(self.line, event.value, event.style is None))
            elif isinstance(event, AliasEvent):
                self.report(self.line, "An alias (*name) is not allowed here.", "Write the value out.")
                self._add(Broken(self.line))

    def _start_document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            self.report(self.line, "A second document starts here (---).", "Keep one document in a file.")
            raise _Refused
        if event.version is not None and tuple(event.version) != (1, 2):
            self.report(self.line, "A policy is YAML 1.2.", "%YAML 1.2")

    def _descend(self, event: Any) -> None:
        self._refuse_tag(event)
        if len(self._open) >= DEEPEST:
            self.report(self.line, f"The file is nested deeper than {DEEPEST} levels.")
            raise _Refused
        self._open.append(_Open(self.line, isinstance(event, MappingStartEvent)))

    def _refuse_tag(self, event: Any) -> None:
        if event.ctag is not None:
            self.report(self.line, "A tag (!name) is not allowed here.", "Write the plain value.")

    def _add(self, node: Node) -> None:
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node

    def _table(self, done: _Open) -> Table:
        entries: dict[str, Node] = {}
        for key, value in zip(done.children[::2], done.children[1::2], strict=True):
            if not isinstance(key, Text) or key.empty:
                if not isinstance(key, Broken):
                    self.report(key.line, "A key must be a name.")
            elif key.value in entries:
                first = entries[key.value].line
                self.report(
                    key.line,
                    f"The key {quoted(key.value)} stands twice; the first is on line {first}.",
                    "Keep one of the two.",
                )
            else:
                entries[key.value] = replace(value, line=key.line)
        return Table(done.line, tuple(entries.items()))


def _line(mark: Any) -> int:
    return int(mark.line) + 1 if mark is not None else 1

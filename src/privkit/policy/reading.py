"""Typed values out of YAML nodes. Whatever does not fit becomes a problem with its line, and the reading goes on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from privkit.periods import Period
from privkit.policy.nodes import Broken, Items, Node, Table, Text
from privkit.policy.problems import Problem, nearest, paste, quoted

Path = tuple[str, ...]

_INTEGER = re.compile(r"[-+]?[0-9]{1,9}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")


class Reading:
    """One file under examination; ``problems`` grows as its parts are read."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file, self.problems = file, problems

    def report(self, line: int, message: str, fix: str = "", near: tuple[str, ...] = ()) -> None:
        """Note a problem of this file."""
        self.problems.append(Problem(self.file, line, message, near, fix))

    def table(
        self, node: Node, path: Path, required: Mapping[str, str], optional: Collection[str] = ()
    ) -> Section | None:
        """Read a mapping of known keys. ``required`` maps a key to an example of its value."""
        if not isinstance(node, Table):
            example = ", ".join(f"{key}: {value}" for key, value in required.items()) or "..."
            self.wrong(node, path, "a mapping", f"{{{example}}}")
            return None
        found = dict(node.entries)
        for key, value in node.entries:
            if key not in required and key not in optional:
                self._unknown(value.line, path, key, (*required, *optional))
        for key, example in required.items():
            if key not in found:
                self._missing(node.line, path, key, example)
        return Section(self, path, node.line, found)

    def wrong(self, node: Node, path: Path, wanted: str, example: str) -> None:
        """Note that ``node`` is not what is ``wanted``."""
        if not isinstance(node, Broken):
            found = f" is {kind}; it" if (kind := _kind(node)) else ""
            self.report(node.line, f"{dotted(path) or 'The file'}{found} must be {wanted}.", paste(path, example))

    def _unknown(self, line: int, path: Path, key: str, known: Collection[str]) -> None:
        near = nearest(key, known)
        place = f"{dotted(path)} has" if path else "There is"
        self.report(line, f"{place} an unknown key {quoted(key)}.", paste((*path, near[0]), "..."), near)

    def _missing(self, line: int, path: Path, key: str, example: str) -> None:
        fix = paste((*path, key), example)
        if key != "keep":
            self.report(line, f"{dotted(path) or 'The file'} has no {quoted(key)}.", fix)
        elif path[0] == "purposes":
            because = paste(path, '{keep: forever, because: "..."}')
            what = f"{dotted(path)} has no retention period. Data held for it would be kept for ever."
            self.report(line, f"{what} Give it a period, or say why not:", f"{fix}\n# or: {because}")
        else:
            self.report(line, f"{dotted(path)} has no period.", fix)


@dataclass(frozen=True, slots=True)
class Section:
    """A mapping of known keys. Each method reads one key, and returns None where it is absent or wrong."""

    reading: Reading
    path: Path
    line: int
    nodes: Mapping[str, Node]

    @property
    def where(self) -> str:
        """``file:line`` of the section."""
        return f"{self.reading.file}:{self.line}"

    def __contains__(self, key: str) -> bool:
        return key in self.nodes

    def line_of(self, key: str) -> int:
        """Return the line of a key that is there."""
        return self.nodes[key].line

    def table(self, key: str, required: Mapping[str, str], optional: Collection[str] = ()) -> Section | None:
        """Read a mapping of known keys."""
        node = self.nodes.get(key)
        return None if node is None else self.reading.table(node, (*self.path, key), required, optional)

    def named(self, key: str) -> Iterator[tuple[str, Node]]:
        """Read a mapping whose keys are the organisation's own names."""
        node = self.nodes.get(key)
        if isinstance(node, Table):
            yield from node.entries
        elif node is not None and not _empty(node):
            self._wrong(key, "a mapping", "{...}")

    def text(self, key: str) -> str | None:
        """Read a text that is not empty."""
        node = self.nodes.get(key)
        if isinstance(node, Text) and not _empty(node):
            return node.value
        self._wrong(key, "a text", '"..."')
        return None

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Read a list of texts."""
        node = self.nodes.get(key)
        if isinstance(node, Items):
            return tuple(text for text, _ in self.lines(key))
        self._wrong(key, "a list", "[...]")
        return None

    def lines(self, key: str) -> Iterator[tuple[str, int]]:
        """Read a list of texts, each with its line."""
        node = self.nodes.get(key)
        if not isinstance(node, Items):
            self._wrong(key, "a list", "[...]")
            return
        for item in node.items:
            if isinstance(item, Text) and not _empty(item):
                yield item.value, item.line
            else:
                self.reading.wrong(item, (*self.path, key), "a list of texts", "[...]")

    def choice(self, key: str, options: Sequence[str]) -> str | None:
        """Read one of ``options``."""
        node = self.nodes.get(key)
        wanted = f"one of {', '.join(options)}" if len(options) > 1 else options[0]
        if not isinstance(node, Text) or _empty(node):
            self._wrong(key, wanted, options[0])
            return None
        if node.value in options:
            return node.value
        near, path = nearest(node.value, options), (*self.path, key)
        message = f"{dotted(path)} is {quoted(node.value)}; it must be {wanted}."
        self.reading.report(node.line, message, paste(path, near[0]), near)
        return None

    def choices(self, key: str, options: Sequence[str]) -> tuple[str, ...]:
        """Read a list, empty where there is none, of texts that are among ``options``."""
        given = tuple(self.lines(key)) if key in self.nodes else ()
        for text, line in given:
            if text not in options:
                near, path = nearest(text, options), (*self.path, key)
                message = f"{dotted(path)} has {quoted(text)}; it must be of {', '.join(options)}."
                self.reading.report(line, message, paste(path, f"[{near[0]}]"), near)
        return tuple(text for text, _ in given if text in options)

    def flag(self, key: str) -> bool | None:
        """Read ``true`` or ``false``."""
        node = self.nodes.get(key)
        if isinstance(node, Text) and node.plain and node.value in _TRUE + _FALSE:
            return node.value in _TRUE
        self._wrong(key, "true or false", "true")
        return None

    def switch(self, key: str) -> bool | None:
        """Read ``on`` or ``off`` (texts in YAML 1.2), or ``true`` or ``false``."""
        node = self.nodes.get(key)
        if isinstance(node, Text) and node.value.lower() in ("on", "off", "true", "false"):
            return node.value.lower() in ("on", "true")
        self._wrong(key, "on or off", "off")
        return None

    def integer(self, key: str, low: int, high: int) -> int | None:
        """Read a whole number from ``low`` to ``high``."""
        node = self.nodes.get(key)
        if isinstance(node, Text) and node.plain and _INTEGER.fullmatch(node.value) and low <= int(node.value) <= high:
            return int(node.value)
        self._wrong(key, f"a whole number from {low} to {high}" if low < high else str(low), str(high))
        return None

    def day(self, key: str) -> date | None:
        """Read a calendar day, YYYY-MM-DD."""
        node = self.nodes.get(key)
        if isinstance(node, Text) and _DAY.fullmatch(node.value):
            try:
                return date.fromisoformat(node.value)
            except ValueError:
                pass
        self._wrong(key, "a day such as 2026-03-01", '"2026-03-01"')
        return None

    def period(self, key: str) -> Period | None:
        """Read an ISO 8601 duration."""
        node = self.nodes.get(key)
        if not isinstance(node, Text) or _empty(node):
            self._wrong(key, "a period such as P30D, P6M or P2Y", "P30D")
            return None
        try:
            return Period.parse(node.value)
        except ValueError as error:
            path = (*self.path, key)
            self.reading.report(node.line, f"{dotted(path)} is {quoted(node.value)}: {error}.", paste(path, "P30D"))
            return None

    def event(self, key: str) -> str | None:
        """Read an event's name: a Python identifier, since ``@events(name=...)`` will use it."""
        node = self.nodes.get(key)
        if isinstance(node, Text) and not _empty(node) and node.value.isidentifier():
            return node.value
        self._wrong(key, "an event's name such as account_closed", "account_closed")
        return None

    def _wrong(self, key: str, wanted: str, example: str) -> None:
        if key in self.nodes:
            self.reading.wrong(self.nodes[key], (*self.path, key), wanted, example)


def dotted(path: Path) -> str:
    """Return a path as a message shows it."""
    return ".".join(quoted(key)[1:-1] for key in path)


def _empty(node: Node) -> bool:
    return isinstance(node, Text) and (node.empty or not node.value.strip())


def _kind(node: Node) -> str:
    if isinstance(node, Table):
        return "a mapping"
    if isinstance(node, Items):
        return "a list"
    return "empty" if _empty(node) else ""

"""Budgets, and the single call sites that make grep an audit."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.meta import ROOT, SOURCE, sources, texts

CLOCK_READS = {
    "datetime.now",
    "datetime.utcnow",
    "datetime.today",
    "date.today",
    "time.time",
    "time.time_ns",
    "time.monotonic",
    "time.monotonic_ns",
}
FOREIGN = "crypto/previous.py"
"""Reads and writes what other libraries stored, in their formats; nothing of privkit's own."""

ANNOTATION_WALKS = {"get_annotations", "get_type_hints", "__annotations__"}


def test_a_module_has_at_most_400_lines() -> None:
    long = {here(path): count for path in sources() if (count := len(path.read_text().splitlines())) > 400}
    assert {} == long


def test_of_all_functions_95_percent_have_at_most_40_lines() -> None:
    lengths = sorted(
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[int(len(lengths) * 0.95)] <= 40


def test_one_place_constructs_the_cipher() -> None:
    assert ["crypto/aead.py"] == places_of(calls_named("AESGCM"))
    assert ["crypto/aead.py"] == places_of(calls_named("AESSIV"))


def test_one_place_imports_ciphers() -> None:
    importers = {
        here(path)
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom | ast.Import)
        and any(".ciphers" in name for name in (getattr(node, "module", "") or "", *(a.name for a in node.names)))
    }
    assert {"crypto/aead.py", FOREIGN} == importers


@pytest.mark.parametrize("method", ["encrypt", "decrypt"])
def test_one_call_seals_and_one_opens(method: str) -> None:
    """Others hold a bound method of the one cipher and call that. The second call is that of reversible tokens."""
    on_an_object = [
        path
        for path in sources()
        for call in calls(path)
        if isinstance(call.func, ast.Attribute) and call.func.attr == method and here(path) != FOREIGN
    ]
    assert ["crypto/aead.py", "crypto/aead.py"] == places_of(on_an_object)


def test_the_system_clock_is_read_in_clock_alone() -> None:
    reads = [
        path
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and ".".join(dotted(node)[-2:]) in CLOCK_READS
    ]
    assert {"clock.py"} == set(places_of(reads))


def test_no_clock_is_imported_under_a_name_that_hides_it() -> None:
    hidden = [
        here(path)
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
        if f"time.{alias.name}" in CLOCK_READS
    ]
    assert [] == hidden


def test_annotations_are_walked_in_catalog_alone() -> None:
    walks = [
        path
        for path in sources()
        for node in nodes(path)
        if (isinstance(node, ast.Name) and node.id in ANNOTATION_WALKS)
        or (isinstance(node, ast.Attribute) and node.attr in ANNOTATION_WALKS)
    ]
    assert {"catalog.py"} == set(places_of(walks))


def test_nothing_is_left_undone() -> None:
    undone = re.compile(r"raise NotImplementedError|\b(TODO|FIXME|XXX)\b")
    assert [] == [here(path) for path in sources() if undone.search(path.read_text())]


def test_no_file_names_a_path_of_a_machine() -> None:
    path_of_a_machine = re.compile(r"(?<![\w.<{}~])/(home|root|tmp|work|Users)/\w")
    places = ("src", "tests", "docs", "policies", "benchmarks", ".ci", "Makefile", "pyproject.toml", "README.md")
    notes = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
    assert [] == [
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in texts(*places, *notes)
        if (match := path_of_a_machine.search(path.read_text(encoding="utf-8")))
    ]


def here(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def places_of(paths: list[Path]) -> list[str]:
    return [here(path) for path in paths]


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in nodes(path) if isinstance(node, ast.Call))


def calls_named(name: str) -> list[Path]:
    """The file of each call of a function or method of that name, once per call."""
    return [path for path in sources() for call in calls(path) if dotted(call.func)[-1:] == [name]]


def dotted(function: ast.expr) -> list[str]:
    """``a.b.c`` as ``["a", "b", "c"]``; what is not a name counts as an empty one."""
    if isinstance(function, ast.Attribute):
        return [*dotted(function.value), function.attr]
    return [function.id if isinstance(function, ast.Name) else ""]

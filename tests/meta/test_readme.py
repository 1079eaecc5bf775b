"""What the documents show runs, and what they point at exists."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.meta import ROOT, texts

BLOCK = re.compile(r"^<!-- test: (?P<name>[\w-]+) -->\n```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
SIGNPOST = re.compile(r"`([\w./-]+\.py)::([A-Za-z_][\w.]*)`")
DOCUMENTS = [path for path in texts("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs") if path.suffix == ".md"]
BLOCKS = {
    f"{document.relative_to(ROOT)}:{match['name']}": match["code"]
    for document in DOCUMENTS
    for match in BLOCK.finditer(document.read_text(encoding="utf-8"))
}
SIGNPOSTS = [
    (document.relative_to(ROOT).as_posix(), path, symbol)
    for document in DOCUMENTS
    for path, symbol in SIGNPOST.findall(document.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_runs_as_it_is_printed(name: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(BLOCKS[name], encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error"}
    command = [sys.executable, str(script)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert 0 == run.returncode, run.stderr


def test_every_marked_block_is_found_under_a_name_of_its_own() -> None:
    marks = [re.findall(r"^<!-- test:", path.read_text(encoding="utf-8"), re.MULTILINE) for path in DOCUMENTS]
    assert sum(map(len, marks)) == len(BLOCKS)


@pytest.mark.parametrize(("document", "path", "symbol"), SIGNPOSTS)
def test_a_signpost_leads_somewhere(document: str, path: str, symbol: str) -> None:
    assert (ROOT / path).is_file(), f"{document} points at {path}"
    body: list[ast.stmt] = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for name in symbol.split("."):
        found = [statement for statement in body if name in _names(statement)]
        assert found, f"{document} points at {path}::{symbol}, and {name} is not there"
        body = getattr(found[0], "body", [])


def _names(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {statement.name}
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return {target.id for target in targets if isinstance(target, ast.Name)}

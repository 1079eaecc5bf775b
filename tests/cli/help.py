"""The help texts in docs/cli.md, made from the program: ``python -m tests.cli.help`` writes them anew.

They are made from the commands' declarations and not from what ``--help`` draws, whose frames and hints differ from
one release of typer to the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from textwrap import wrap
from typing import Any

import typer

from privkit.cli.commands import app
from tests.cli.program import ROOT

DOCUMENT = ROOT / "docs" / "cli.md"
BLOCK = re.compile(r"(?<=<!-- help: )(?P<name>[a-z -]+)( -->\n```text\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
WIDTH = 96


def commands() -> dict[str, Any]:
    """Every command by the words that call it, the program itself first."""
    return dict(_below("privkit", typer.main.get_command(app)))


def _below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    below = getattr(command, "commands", {})
    if command.params or not below:
        yield name, command
    for word in below:
        yield from _below(f"{name} {word}", below[word])


def help_text(name: str, command: Any) -> str:
    """Return the help text of one command."""
    arguments = "".join(f" [{each.metavar}]" for each in command.params if each.param_type_name == "argument")
    words = " COMMAND [ARGS]..." if getattr(command, "commands", {}) else arguments
    rows = [(_spelled(each), _described(each)) for each in command.params]
    lines = [f"{name} [OPTIONS]{words}", *_indented(command.help), *(["", *_aligned(rows)] if rows else [])]
    below = [(each, inner.help) for each, inner in commands().items() if each not in ("privkit", name)]
    if words.startswith(" COMMAND"):
        lines += ["", *_aligned(below)]
    return "\n".join(lines) + "\n"


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    return ", ".join(parameter.opts) + (f" {parameter.metavar}" if parameter.metavar else "")


def _described(parameter: Any) -> str:
    default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    return str(parameter.help) + (f" [default: {default}]" if default not in (None, False) else "")


def _indented(text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _aligned(rows: list[tuple[str, str]]) -> Iterator[str]:
    margin = max((len(first) for first, _ in rows), default=0) + 4
    for first, second in rows:
        yield from wrap(second, WIDTH, initial_indent=f"  {first}".ljust(margin), subsequent_indent=" " * margin)


def written(document: str) -> str:
    """Return the document with the help texts as they are now."""
    known = commands()
    return BLOCK.sub(lambda block: block["name"] + block[2] + help_text(block["name"], known[block["name"]]), document)


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")

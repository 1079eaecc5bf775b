"""docs/cli.md says what the program says of itself."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from privkit.cli.commands import CANNOT, FOUND, STOPPED, app
from tests.cli.help import BLOCK, DOCUMENT, commands, written

TEXT = DOCUMENT.read_text(encoding="utf-8")
NAMES = list(commands())


def test_every_command_is_documented_once() -> None:
    assert sorted(NAMES) == sorted(block["name"] for block in BLOCK.finditer(TEXT))


def test_the_help_texts_in_the_document_are_the_program_s() -> None:
    assert written(TEXT) == TEXT, "write them anew: python -m tests.cli.help"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_documented_is_what_help_draws(name: str) -> None:
    result = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "300", "NO_COLOR": "1"})
    drawn = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())
    command = commands()[name]
    assert 0 == result.exit_code
    for text in (command.help, *(each.help for each in command.params)):
        assert " ".join(text.split()) in drawn
    for parameter in command.params:
        assert all(option in drawn for option in parameter.opts if option.startswith("-"))


def test_every_exit_code_is_documented() -> None:
    rows = re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)
    assert [0, FOUND, CANNOT, STOPPED] == [int(row) for row in rows]

"""The error tree is complete, drawn, and survives a process boundary."""

from __future__ import annotations

import ast
import pickle
import re

import pytest

from privkit import errors
from privkit.errors import PrivkitError
from tests.meta import sources

CLASSES = [getattr(errors, name) for name in errors.__all__]


def drawn() -> list[tuple[str, str]]:
    """Each class of the module docstring's drawing with the class that it hangs from."""
    pairs: list[tuple[str, str]] = []
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ((?:│   |    |├── |└── )*)(\w+)(  .*)?", line)
        if match:
            depth = len(match.group(1)) // 4
            path = [*path[:depth], match.group(2)]
            pairs.append((path[-1], path[-2] if depth else ""))
    return pairs


def test_the_module_draws_the_tree_that_it_defines() -> None:
    defined = {
        (cls.__name__, next((base.__name__ for base in cls.__bases__ if issubclass(base, PrivkitError)), ""))
        for cls in CLASSES
    }
    assert defined == set(drawn())
    assert len(defined) == len(drawn())


def test_every_error_is_exported_in_order() -> None:
    assert sorted(errors.__all__) == errors.__all__
    assert {PrivkitError, *descendants(PrivkitError)} >= set(CLASSES)
    assert {cls.__name__ for cls in descendants(PrivkitError) if cls.__module__ == errors.__name__} < set(
        errors.__all__
    )


def descendants(cls: type[PrivkitError]) -> set[type[PrivkitError]]:
    return {found for child in cls.__subclasses__() for found in (child, *descendants(child))}


def test_every_public_error_is_defined_in_the_one_tree() -> None:
    elsewhere = [
        f"{path.name}: {node.name}"
        for path in sources()
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        for base in node.bases
        if ast.unparse(base).rpartition(".")[2] in {*errors.__all__, "Exception"}
    ]
    assert [] == elsewhere


def test_every_code_is_used_once() -> None:
    codes = [cls.code for cls in CLASSES]
    assert sorted(set(codes)) == sorted(codes)
    assert [] == [code for code in codes if not re.fullmatch(r"PK\d{3}", code)]


@pytest.mark.parametrize("cls", CLASSES)
def test_its_docstring_is_a_line_that_starts_with_a_capital_and_ends_with_a_full_stop(cls: type[PrivkitError]) -> None:
    own = cls.__dict__["__doc__"]
    assert re.fullmatch(r"[A-Z].*\.", own), own


@pytest.mark.parametrize("cls", CLASSES)
def test_it_survives_pickle_with_its_parts_and_data(cls: type[PrivkitError]) -> None:
    error = cls("what", "why", "fix", field="riders.email", count=3)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(error) is type(again)
    assert (str(error), error.what, error.why, error.fix, error.data) == (
        str(again),
        again.what,
        again.why,
        again.fix,
        again.data,
    )


def test_a_message_has_the_code_what_happened_why_it_matters_and_what_to_do() -> None:
    error = errors.MappingError("Trip.pickup has no period.", "It would be kept for ever.", "Give it one.")
    assert "PK104: Trip.pickup has no period.\nIt would be kept for ever.\nGive it one." == str(error)


def test_a_message_without_why_or_fix_has_no_empty_lines() -> None:
    assert "PK701: The chain is broken." == str(errors.LedgerError("The chain is broken."))

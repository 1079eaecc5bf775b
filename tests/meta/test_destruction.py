"""What destroys stands in two files, asks for holds there, and is called from places that are written down."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.meta import SOURCE
from tests.meta.test_budgets import dotted, here, nodes, sources

HOME, TOMBSTONES = "sqlalchemy/destroy.py", "sqlalchemy/shred.py"

ASKS = {
    "delete_rows": "spared",
    "suppress": "free",
    "replace_with_residue": "free",
    "destroy_where": "free",
    "drop_partition": "spared",
    "destroy_keys": "_refuse_held",
}
"""The functions of both files that others may call, each with what asks for holds in it."""

EXEMPT = {
    "attempt": "is rolled back, whatever happens",
    "empty": "the same value is sealed in the column beside it",
    "destroy_epochs": "is given epochs by a predicate that asked",
    "take_off": "its rows are notes of what is gone, or is another row's",
}
"""Those that do not ask, with the reason."""

CALLERS = {
    ("retention/batches.py", "destroy_epochs"): "due.due leaves out epochs with a held value",
    ("sqlalchemy/reseal.py", "destroy_epochs"): "no value is sealed under the field's former id any more",
    ("retention/trial.py", "attempt"): "a trial",
    ("sqlalchemy/adopted_rows.py", "empty"): "the sealed column was compared with it",
    ("retention/files.py", "take_off"): "after the store said that the file is gone",
    ("sqlalchemy/spending.py", "take_off"): "notes whose period is over, or of somebody who is erased",
    ("retention/run.py", "take_off"): "counts that were published, or waited for too long, are nobody's rows",
}

AGAIN = {"_destroy_keys_again", "_destroy_epochs_again"}
"""After a restore, what was destroyed stays so: a hold that came later cannot have kept it."""

STATEMENT = re.compile(r"^\s*(DELETE\s+FROM|TRUNCATE|DROP\s+TABLE)\b", re.IGNORECASE)


def test_one_file_issues_delete_and_drops_tables() -> None:
    found = {
        here(path)
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy"
        for alias in node.names
        if alias.name in ("delete", "DropTable")
    }
    assert {HOME} == found


def test_no_text_is_a_destructive_statement() -> None:
    found = {
        here(path)
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.search(node.value)
    }
    assert set() == found


def test_one_file_leaves_tombstones() -> None:
    found = {
        here(path)
        for path in sources()
        for node in nodes(path)
        if isinstance(node, ast.Call)
        and dotted(node.func)[-1:] == ["values"]
        and any(isinstance(each.value, ast.Constant) and each.value.value is None for each in named(node, "wrapped"))
    }
    assert {TOMBSTONES} == found


def named(call: ast.Call, name: str) -> Iterator[ast.keyword]:
    return (each for each in call.keywords if each.arg == name)


def functions() -> dict[str, ast.FunctionDef]:
    found = [*nodes(SOURCE / HOME), *nodes(SOURCE / TOMBSTONES)]
    return {node.name: node for node in found if isinstance(node, ast.FunctionDef)}


def called(function: ast.AST) -> set[str]:
    return {dotted(node.func)[-1] for node in ast.walk(function) if isinstance(node, ast.Call)}


def destroys(function: ast.FunctionDef) -> bool:
    """Whether it issues a statement itself, or calls a private function of the file that does."""
    calls = called(function)
    inner = (functions()[name] for name in calls if name.startswith("_") and name in functions())
    return bool(calls & {"delete", "update", "DropTable"}) or any(
        destroys(each) for each in inner if each is not function
    )


def test_every_function_that_destroys_asks_for_holds_or_says_why_not() -> None:
    open_to_all = {name for name, each in functions().items() if not name.startswith("_") and destroys(each)}
    assert open_to_all == set(ASKS) | set(EXEMPT)
    assert AGAIN == {name for name in functions() if name.endswith("_again")}
    for name, asking in ASKS.items():
        assert asking in called(functions()[name]), f"{name} does not ask"


@pytest.mark.parametrize("name", sorted(EXEMPT))
def test_a_function_that_does_not_ask_is_called_only_where_it_need_not(name: str) -> None:
    callers = {
        here(path)
        for path in sources()
        if here(path) not in (HOME, TOMBSTONES)
        for node in nodes(path)
        if isinstance(node, ast.Call) and dotted(node.func) in (["destroy", name], ["shred", name], [name])
    }
    assert callers == {path for path, each in CALLERS if each == name}

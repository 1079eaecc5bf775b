"""Views over protected tables: a statement that reads one is refused where the view shows a personal field.

The database is asked for its views the first time that an unknown name stands in a statement; the answer is kept
for each engine and name.
"""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Dialect, inspect

from privkit import purposes
from privkit.errors import StatementRefused
from privkit.sqlalchemy import textual
from privkit.sqlalchemy.guard import Guard

_covering: WeakKeyDictionary[Dialect, dict[str, bool]] = WeakKeyDictionary()


def check(guard: Guard, connection: Connection, names: Iterable[str]) -> None:
    """Raise StatementRefused when one of ``names`` is a view that shows a personal field, at any depth."""
    known = _covering.setdefault(connection.dialect, {})
    tables = {table.name.lower() for table in guard.tables}
    asked = {name.lower() for name in names} - tables
    if not asked <= known.keys():
        known.update(dict.fromkeys(asked, False) | _views_over(guard, connection))
    for name in sorted(asked):
        if known[name]:
            raise StatementRefused(
                f"{name} is a view that shows personal fields.",
                "What it returns would be neither opened, reduced, expired nor held to a purpose.",
                "Select from the models, or let the view leave the personal columns out and query it elsewhere.",
                view=name,
            )


def _views_over(guard: Guard, connection: Connection) -> dict[str, bool]:
    """Return each view, and whether it shows a personal field, itself or through another view."""
    with purposes.internally():
        inspector = inspect(connection)
        texts = {name.lower(): inspector.get_view_definition(name) or "" for name in inspector.get_view_names()}
    showing = {name for name, text in texts.items() if _shows(guard, connection.dialect, text)}
    grown = True
    while grown:
        found = {name for name, text in texts.items() if showing & textual.sources(text, connection.dialect).keys()}
        grown = not found <= showing
        showing |= found
    return {name: name in showing for name in texts}


def _shows(guard: Guard, dialect: Dialect, text: str) -> bool:
    try:
        textual.check(guard, dialect, text)
    except StatementRefused:
        return True
    return False

"""Stores of files that lie outside the database and are named in it.

    avatar: Mapped[Annotated[str | None, Personal("user.image", purposes={"account"}, file="avatars")]]

    privacy = Privacy(policy=..., models=..., keys=..., stores={"avatars": DirectoryStore("/var/lib/rides/avatars")})

A store for another service is one class with one method.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from privkit.catalog import Field
from privkit.errors import InvalidValue, MappingError
from privkit.markers import Equality
from privkit.policy.problems import nearest, quoted


class FileStore(Protocol):
    """Where files lie that a field names, in this process or behind a service."""

    def delete(self, name: str) -> None:
        """Delete a file. One that is not there is no error, as the same file may be deleted twice.

        Raises anything where the file may still be there: of the error only its class is kept.
        """


class DirectoryStore:
    """The files in a directory and the directories below it. A name is a path from there.

    What is deleted is the entry itself, never what a symbolic link leads to.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def delete(self, name: str) -> None:
        """Delete a file. Raises InvalidValue for a name that leaves the directory, OSError as the system does."""
        root, entry = self.path.resolve(strict=True), self.path / name
        folder = entry.parent.resolve()
        if Path(name).name in ("", "..") or not folder.is_relative_to(root):
            raise InvalidValue(
                "A file's name leads out of its directory.",
                "Another file than the row's own would be deleted.",
                "Store names as they are below the directory, without a leading slash and without '..'.",
            )
        (folder / entry.name).unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self.path)!r})"


def check(field: Field) -> None:
    """Raise MappingError where a field cannot name files. It has been given the type that its column holds."""
    search, wrong = field.marker.search, ""
    searches = (search, *search.also) if isinstance(search, Equality) else ()
    if field.python_type is not str:
        wrong = "is no text"
    elif field.marker.adopting is not None:
        wrong = "is being adopted"
    elif any(not isinstance(each, Equality) or each.normaliser != "exact" for each in searches):
        wrong = "is found by something else than its exact text"
    if field.marker.file is not None and wrong:
        raise MappingError(
            f"{field} names files and {wrong}.",
            "Which file goes with a row, and whether another row has it too, could not be told.",
            'Use a str field, with search=Equality() or without, and take adopting= out first, or file="...".',
            field=field.id,
        )


def require(stores: Mapping[str, FileStore], fields: Iterable[Field]) -> None:
    """Raise MappingError where a field names a store that is not there."""
    for field in fields:
        store = field.marker.file
        if store is not None and store not in stores:
            near = f" Nearest: {', '.join(nearest(store, stores))}." if stores else ""
            raise MappingError(
                f"{field} names files in {quoted(store)}, a store that this Privacy was not given.{near}",
                "They would stay when their rows go.",
                f"Give it: Privacy(..., stores={{{quoted(store)}: DirectoryStore(PATH)}}).",
                field=field.id,
            )

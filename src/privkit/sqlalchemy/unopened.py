"""The errors for a value that does not open: they name its field, and never what was stored."""

from __future__ import annotations

from typing import Any

from privkit.catalog import Field
from privkit.errors import PrivkitError, SealedError, ShreddedError


def in_field(error: PrivkitError, field: Field) -> Any:
    """Return an error of the same kind that names the field."""
    return type(error)(f"{field}: {error.what}", error.why, error.fix, **{**error.data, "field": field.id})


def not_theirs(field: Field) -> SealedError:
    """Build the error for an envelope under another data subject's key."""
    return SealedError(
        f"A sealed value of {field} is not its row's data subject's.",
        "It was copied from another row, or the row's owner was changed without sealing it again.",
        "Restore the row, or write the field anew for its owner.",
        field=field.id,
    )


def shredded(field: Field) -> ShreddedError:
    """Build the error for a value whose key was destroyed."""
    return ShreddedError(
        f"The key of a sealed value of {field} was destroyed.",
        "Its data subject was erased, or its time has ended; no copy of the value can be read again.",
        field=field.id,
    )


def unknown_key(field: Field) -> SealedError:
    """Build the error for a value whose key is nowhere in the database."""
    return SealedError(
        f"The key of a sealed value of {field} is not in this database's key tables.",
        "The row was copied from another database, or the key tables were not restored with it.",
        "Restore privkit_key and privkit_epoch together with the tables they belong to.",
        field=field.id,
    )

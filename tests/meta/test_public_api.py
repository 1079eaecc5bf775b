"""The package root reads like a table of contents."""

from __future__ import annotations

import types

import privkit

PROMISED = {
    *("AgeBand", "BirthDate", "Cell", "Delete", "Equality", "Exact", "Generalise", "Latest", "Location", "Nearby"),
    *("NotPersonal", "Personal", "Pseudonymise", "Suppress", "Year"),
    *("child_protection", "data_subject", "events", "expire_row", "not_personal", "owned_by"),
    *("AtLeastAge", "InCountry", "Initials", "Is", "Month", "Quarter", "StandIn", "TruncatedIp"),
    *("Adopting", "AdvancedAlchemy", "FernetTokens", "Plain", "SqlalchemyUtils"),
    "consent_age_reached_on",
    *("DirectoryStore", "FileStore"),
    *("FileKeyring", "GeoPoint", "LedgerDatabase", "LedgerFile", "Privacy", "carry"),
}


def test_all_is_sorted_and_without_repetition() -> None:
    assert sorted(set(privkit.__all__)) == list(privkit.__all__)


def test_all_names_everything_public_and_nothing_else() -> None:
    public = {
        name
        for name, value in vars(privkit).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, types.ModuleType)
    }
    assert public <= set(privkit.__all__)
    assert [] == [name for name in privkit.__all__ if not hasattr(privkit, name)]


def test_every_promised_name_is_importable_from_the_root() -> None:
    assert set() == PROMISED - set(privkit.__all__)

"""How much is known about a field: declared, reachable, live, proven. Each is stated apart from the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column

from privkit.coverage.live import Scan, Stored
from privkit.coverage.owners import Owner


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one field.

    ``declared``: it has a marker that fits the policy. ``reachable``: its row leads to a data subject.
    ``live``: the column is in the database that was looked at; None where none was. ``proven``: every stored
    value is an envelope under its own data subject's key; None where nothing was looked at, nothing is stored, or
    the field is not sealed by decision.
    """

    declared: bool
    reachable: bool
    live: bool | None
    proven: bool | None
    sealed: bool
    stored: Stored | None = None

    @property
    def level(self) -> str:
        """The highest level that, with all below it, holds."""
        levels = [("declared", self.declared), ("reachable", self.reachable), ("live", self.live)]
        levels.append(("proven", self.proven))
        reached = "nothing"
        for name, holds in levels:
            if not holds:
                break
            reached = name
        return reached

    def __str__(self) -> str:
        if not self.reachable:
            return "declared; leads to nobody"
        if self.live is None:
            return "reachable; no database was looked at"
        if not self.live:
            return "reachable; not in the database"
        if not self.sealed:
            return "live; not sealed by decision"
        return f"{'proven' if self.proven else 'live'}; {_counted(self.stored)}"


def _counted(stored: Stored | None) -> str:
    if stored is None:
        return "not counted"
    gone = f", {stored.destroyed} destroyed" if stored.destroyed else ""
    if not stored.values:
        return f"nothing stored in {stored.rows} rows{gone}"
    good = stored.envelopes if stored.own is None else stored.own
    whose = "" if stored.own is None else " under the owner's key"
    return f"{good} of {stored.values} values are envelopes{whose}{gone}"


def evidence(column: Column[Any], owner: Owner, *, sealed: bool, scan: Scan | None) -> Evidence:
    """Return what is known of one personal column."""
    live = None if scan is None else scan.has(column)
    stored = scan.stored.get(column) if scan is not None else None
    proven = None
    if stored is not None and stored.values:
        proven = stored.own == stored.values
    return Evidence(True, owner.reachable, live, proven, sealed, stored)

"""What a ``Privacy`` does about holds, and about the erasures that wait for one."""

from __future__ import annotations

from typing import Unpack

from sqlalchemy import Engine

from privkit.purposes import internally
from privkit.retention.outlook import Outlook
from privkit.sqlalchemy import holds
from privkit.sqlalchemy.holds import Hold, Placing
from privkit.subjects.deferred import waiting
from privkit.subjects.erase import Erasure, erase, erase_deferred


class Holding(Outlook):
    """The part of ``Privacy`` that keeps rows from destruction, and lets them go."""

    def hold(self, engine: Engine, **what: Unpack[Placing]) -> int:
        """Keep rows from every run and erasure until they are released, or ``until``. Returns the hold's id.

        ``reason`` and ``by`` say why and by whom. ``subject``: a key id; ``table``: a table's name; both: somebody's
        rows in one. ``table`` with ``rows``, primary keys, or ``where``, a condition: the rows that are chosen now.
        ``role``: one of the policy's ``holds.place``. ``reference``: of the case; a second time it is the same hold.
        ``until`` may be left out where the policy has ``holds.longest``. Raises InvalidValue.
        """
        self._primary(engine)
        with engine.begin() as connection:
            return holds.place(connection, self.guard, **what)

    def release(self, engine: Engine, hold: int, *, by: str, role: str | None = None) -> list[bytes]:
        """End a hold; what it deferred is due again at once. Returns whose erasure waited and waits no longer."""
        self._primary(engine)
        with engine.begin() as connection:
            holds.release(connection, self.guard, hold, by=by, role=role)
        return self.deferred(engine)[0]

    def holds(self, engine: Engine) -> list[Hold]:
        """Return all holds, those that have ended as well."""
        self._ours(engine)
        with internally(), engine.connect() as connection:
            return holds.listing(connection, self.guard)

    def erase(self, engine: Engine, subject: object, *, by: str, defer: bool = False) -> Erasure:
        """Erase a data subject: a mapped object, or a 16-byte key id. ``by``: who asked for it.

        Under a hold: raises PlanError, and erases nothing; with ``defer``, notes that it waits for the hold to end.
        """
        self._primary(engine)
        return erase(self.guard, engine, subject, by=by, defer=defer)

    def erase_deferred(self, engine: Engine) -> list[Erasure]:
        """Erase those whose erasure waited for a hold that has ended, each in a transaction. May be killed."""
        self._primary(engine)
        return erase_deferred(self.guard, engine)

    def deferred(self, engine: Engine) -> tuple[list[bytes], list[bytes]]:
        """Return the key ids of those whose erasure waits: for ``erase_deferred``, and for a hold to end."""
        self._ours(engine)
        with internally(), engine.connect() as connection:
            found = {
                key_id: holds.keeps_subject(connection, self.guard, key_id)
                for key_id in waiting(connection, self.guard)
            }
        return [each for each, held in found.items() if not held], [each for each, held in found.items() if held]

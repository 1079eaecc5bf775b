"""Switches on for a while what the policy switches off for children: with a guardian's consent, and told in the ledger.

One row for each data subject and purpose says until when. It is no standing permission: what is left of it in a
restarted process, or a restored backup, ends at the same instant.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.orm import Session, scoped_session

from privkit.clock import as_utc
from privkit.errors import ConsentRequired, InvalidValue
from privkit.ledger import Entry
from privkit.purposes import internally
from privkit.sqlalchemy import ledger, switches
from privkit.sqlalchemy.consent_subjects import forget, mapped, subject_of
from privkit.sqlalchemy.consent_words import known
from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.mapping import KEY_COLUMN
from privkit.sqlalchemy.tables import KEY, SWITCH

LONGEST = timedelta(hours=12)
"""How long something may be switched on for a child at a time."""


class Switching:
    """What ``ConsentLedger`` can do about fields that a category switches off for children (``child: off``)."""

    _guard: Guard

    def switch_on(
        self,
        session: Session | scoped_session[Any],
        *,
        subject: object,
        purposes: Iterable[str],
        lasting: timedelta = timedelta(hours=1),
    ) -> datetime:
        """Switch on for a child what is off for children, under ``purposes``, as long as a session of theirs lasts.

        Returns when it ends by itself, at most 12 hours from now; ``switch_off`` ends it earlier, and a guardian's
        withdrawal at once. Said again, it lasts from then on. For who is of age it does nothing, and needs nothing.

        Raises ConsentRequired where no guardian consents to one of ``purposes``, InvalidValue for a purpose under
        which nothing is off, or for another length of time.
        """
        guard, (connection, key_id) = self._guard, subject_of(session, subject)
        names, now = _switchable(guard, purposes), guard.now()
        if not timedelta() < lasting <= LONGEST:
            raise InvalidValue(
                "Something is switched on for a child for no time, or for more than 12 hours.",
                "It is to be off again when the child's session ends.",
                "Give lasting=timedelta(hours=1), and switch it on again in the next session.",
            )
        until = as_utc(now + lasting)
        if not switches.young(guard, connection, mapped(subject).mapper.columns[KEY_COLUMN].table, {key_id}):
            return until
        _lock_key(connection, guard, key_id, ending=False)
        if missing := set(names) - set(switches.consented(guard, connection, key_id, names)):
            raise _no_consent(sorted(missing))
        ledger.lock(connection, guard)
        _set(connection, guard, key_id, names, until)
        body = {"subject": key_id.hex(), "purposes": names, "until": until.isoformat()}
        ledger.append(connection, guard, "switched_on", body)
        return until

    def switch_off(
        self, session: Session | scoped_session[Any], *, subject: object, purposes: Iterable[str] | None = None
    ) -> None:
        """Switch off again, before its end, what was switched on for a child; without ``purposes``, all of it."""
        guard, (connection, key_id) = self._guard, subject_of(session, subject)
        names = _all_switchable(guard) if purposes is None else _switchable(guard, purposes)
        _lock_key(connection, guard, key_id, ending=True)
        ledger.lock(connection, guard)
        _end(connection, guard, key_id, names, guard.now())
        ledger.append(connection, guard, "switched_off", {"subject": key_id.hex(), "purposes": names})
        forget(session, guard)


def _all_switchable(guard: Guard) -> list[str]:
    return sorted({name for rule in guard.rules.values() if rule.child_off for name in rule.field.purposes})


def _switchable(guard: Guard, purposes: Iterable[str]) -> list[str]:
    names, able = known(guard, purposes), _all_switchable(guard)
    if wrong := sorted(set(names).difference(able)):
        raise InvalidValue(
            f"Under {', '.join(map(repr, wrong))} nothing is switched off for children.",
            "A switch that does nothing would pass for a permission.",
            f"Name the purposes of fields whose category says child: off: {', '.join(able) or '(there are none)'}.",
            allowed=able,
        )
    return list(names)


def _lock_key(connection: Connection, guard: Guard, key_id: bytes, *, ending: bool) -> None:
    """Wait for who takes consent away; when something ends, also for those who write on it."""
    keys = guard.own_table(KEY)
    with internally():
        if ending or connection.dialect.name == "sqlite":
            connection.execute(update(keys).where(keys.c.id == key_id).values(created_at=keys.c.created_at))
        else:
            connection.execute(select(keys.c.id).where(keys.c.id == key_id).with_for_update(read=True))


def _set(connection: Connection, guard: Guard, key_id: bytes, names: Iterable[str], until: datetime) -> None:
    switch = guard.own_table(SWITCH)
    with internally():
        for name in names:
            row = switch.c.subject == key_id, switch.c.purpose == name
            if not connection.execute(update(switch).where(*row).values(on_until=until)).rowcount:
                connection.execute(insert(switch).values(subject=key_id, purpose=name, on_until=until))


def _end(connection: Connection, guard: Guard, key_id: bytes, names: Iterable[str], now: datetime) -> None:
    switch = guard.own_table(SWITCH)
    theirs = switch.c.subject == key_id, switch.c.purpose.in_(names), switch.c.on_until > now
    with internally():
        connection.execute(update(switch).where(*theirs).values(on_until=now))


@ledger.redoes("switched_off")
def _end_again(connection: Connection, guard: Guard, entry: Entry, body: dict[str, Any]) -> None:
    _end(connection, guard, bytes.fromhex(body["subject"]), body["purposes"], datetime.fromisoformat(entry.at))


def _no_consent(names: list[str]) -> ConsentRequired:
    return ConsentRequired(
        f"Nothing is switched on for a child under {', '.join(map(repr, names))} without a guardian's consent.",
        "A child switches on what a guardian has agreed to, and nothing else.",
        "Record it first: privacy.consent.grant(session, subject=..., purposes={...}, guardian=..., method=...).",
        purposes=names,
    )

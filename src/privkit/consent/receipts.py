"""Consent records and receipts as JSON, under the field names of ISO/IEC TS 27560:2023.

What the standard names is called so (``record_id``, ``privacy_notice``, ``event_state``); the fields that it has no
name for are ``verification_method``, ``verifier``, ``notice_sha256``, ``material``, ``claimed_time``,
``expires`` and ``disclosure``.
A record is about one data subject, by a pseudonym, and one purpose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import groupby
from typing import Any

from privkit.clock import as_utc
from privkit.consent.state import EVENTS, GIVEN, ConsentEvent
from privkit.errors import ClockError, InvalidValue
from privkit.policy import Policy

SCHEMA = "privkit consent 1, ISO/IEC TS 27560:2023"

_NAMES = {
    "event_state": "event",
    "event_time": "at",
    "entity_id": "guardian",
    "verification_method": "method",
    "verifier": "verifier",
    "privacy_notice": "notice",
    "notice_sha256": "notice_sha256",
    "language": "locale",
    "material": "material",
    "claimed_time": "claimed_at",
    "expires": "expires",
    "disclosure": "disclosure",
}
"""The fields of an event, each with what it is called here."""

_TIMES = ("at", "claimed_at", "expires")
_TOKENS = {"guardian": 30, "verifier": 30, "notice_sha256": 64}


def records(policy: Policy, events: Iterable[ConsentEvent]) -> list[dict[str, Any]]:
    """Return one record for each data subject and purpose, with its events in the order in which they were recorded."""
    ordered = sorted(events, key=lambda each: (each.subject, each.purpose, each.seq))
    grouped = groupby(ordered, key=lambda each: (each.subject, each.purpose))
    return [_record(policy, subject, purpose, list(theirs)) for (subject, purpose), theirs in grouped]


def _record(policy: Policy, subject: str, purpose: str, events: list[ConsentEvent]) -> dict[str, Any]:
    known = policy.purposes.get(purpose)
    recipients = [each for each in policy.recipients.values() if purpose in each.purposes]
    contact, terms = policy.controller.get("contact"), policy.consent_terms(purpose) if known else None
    shown = next((each for each in reversed(events) if each.event == GIVEN), events[-1])
    identity = hashlib.sha256(f"{subject} {purpose}".encode()).hexdigest()[:32]
    return {
        "schema_version": SCHEMA,
        "record_id": identity,
        "pii_principal_id": subject,
        "privacy_notice": shown.notice,
        "language": shown.locale,
        "purpose": purpose,
        "lawful_basis": known.legal_basis if known else None,
        "pii_controllers": [{"party_name": policy.controller.get("name"), "party_contact": contact}],
        "recipient_third_parties": [{"party_id": each.name, "party_role": "recipient"} for each in recipients],
        "retention_period": str(known.keep or known.because) if known else None,
        "withdrawal_method": contact,
        "validity_duration": str(terms.valid) if terms and terms.valid else None,
        "events": [_event(each) for each in events],
    }


def _event(event: ConsentEvent) -> dict[str, Any]:
    values = {name: getattr(event, ours) for name, ours in _NAMES.items()}
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in values.items()}


def read_records(policy: Policy, found: object) -> list[ConsentEvent]:
    """Return the events of exported records, numbered in the order of their times within a record.

    Raises InvalidValue, which shows none of the values, for what is no such record; PolicyError for an unknown purpose.
    """
    if not isinstance(found, list | tuple):
        raise _unfit("a list of records")
    return [event for record in found for event in _read(policy, record)]


def _read(policy: Policy, record: object) -> Iterator[ConsentEvent]:
    if not isinstance(record, Mapping) or record.get("schema_version") != SCHEMA:
        raise _unfit(f"a record whose schema_version is {SCHEMA!r}")
    subject, events = _hexadecimal(record.get("pii_principal_id"), 32), record.get("events")
    purpose = record.get("purpose")
    if subject is None or not isinstance(events, list) or not isinstance(purpose, str):
        raise _unfit("a record with pii_principal_id, purpose and events")
    policy.purpose(purpose)
    for seq, event in enumerate(events, 1):
        if not isinstance(event, Mapping) or not event.keys() <= _NAMES.keys():
            raise _unfit(f"an event of these fields: {', '.join(_NAMES)}")
        values = {ours: _value(ours, event.get(name)) for name, ours in _NAMES.items()}
        said = ConsentEvent(seq=seq, subject=subject, purpose=purpose, **values)
        if said.event == GIVEN and (said.guardian is None or said.method is None):
            raise _unfit("a consent with its entity_id and verification_method")
        yield said


def _value(name: str, value: Any) -> Any:
    """Return one value of an event, or raise without it."""
    if name == "event":
        if value not in EVENTS:
            raise _unfit(f"an event_state of: {', '.join(EVENTS)}")
    elif name == "at" and value is None:
        raise _unfit("an event with its event_time")
    elif name in _TIMES and value is not None:
        return _instant(value)
    elif name in _TOKENS:
        return _hexadecimal(value, _TOKENS[name])
    elif name in ("material", "disclosure"):
        if value not in (None, True, False):
            raise _unfit(f"{name} as true, false or null")
    elif value is not None and (not isinstance(value, str) or not 0 < len(value) <= 60):
        raise _unfit("names of at most 60 characters")
    return value


def _instant(value: object) -> datetime:
    try:
        return as_utc(datetime.fromisoformat(str(value)))
    except (ValueError, ClockError):
        raise _unfit("times in ISO 8601, with their zone") from None


def _hexadecimal(value: object, digits: int) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) != digits or not set(value) <= set("0123456789abcdef"):
        raise _unfit(f"{digits} hexadecimal digits")
    return value


def _unfit(wanted: str) -> InvalidValue:
    return InvalidValue(
        "This is no export of a consent ledger.",
        f"It has to have {wanted}. Nothing was imported.",
        "Give what privacy.consent.export(session) returned, unchanged.",
    )

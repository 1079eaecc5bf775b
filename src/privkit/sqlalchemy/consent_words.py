"""One word of a guardian, checked against the policy before it is recorded: who, how and when, and no evidence more."""

from __future__ import annotations

from base64 import b32decode
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from privkit.clock import as_utc
from privkit.consent.state import GIVEN, IN_PERSON
from privkit.deidentify import token
from privkit.errors import InvalidValue
from privkit.policy.notices import is_name
from privkit.sqlalchemy.guard import Guard

LONGEST_METHOD = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What is recorded for each of its purposes. ``guardian`` None: it stands for all guardians."""

    event: str
    purposes: tuple[str, ...]
    guardian: bytes | None = None
    method: str | None = None
    verifier: bytes | None = None
    notice: str | None = None
    notice_sha256: bytes | None = None
    locale: str | None = None
    material: bool | None = None
    claimed_at: datetime | None = None
    expires: datetime | None = None
    disclosure: frozenset[str] = frozenset()
    """The purposes with a separate yes to giving data to others."""

    def rows(self, subject: bytes, at: datetime) -> list[dict[str, Any]]:
        """Return the rows of the consent ledger for one data subject."""
        said = {name: getattr(self, name) for name in self.__slots__ if name not in ("purposes", "disclosure")}
        said |= {"subject": subject, "at": at}
        given = self.event == GIVEN
        return [
            said | {"purpose": name, "disclosure": name in self.disclosure if given else None} for name in self.purposes
        ]


def consent(
    guard: Guard,
    purposes: Iterable[str],
    guardian: bytes,
    method: str,
    *,
    notice: str | None = None,
    locale: str | None = None,
    verifier: str | None = None,
    claimed_at: datetime | None = None,
    until: datetime | None = None,
    disclosure: Iterable[str] = (),
) -> Word:
    """Return a consent. Raises PolicyError for an unknown purpose, InvalidValue for what the policy does not list."""
    names, disclosed = known(guard, purposes), frozenset({disclosure} if isinstance(disclosure, str) else disclosure)
    if not disclosed <= set(names):
        raise InvalidValue(
            "Disclosure is consented to for a purpose that is not consented to itself.",
            "The yes to giving data to others comes on top of the yes to its use.",
            f"Name it in purposes too; named there: {', '.join(names)}.",
        )
    _check_method(guard, method, listed=guardian != IN_PERSON)
    if guardian != IN_PERSON:
        _check_strength(guard, names, disclosed, method)
    now = guard.now()
    if claimed_at is not None and as_utc(claimed_at) > now:
        raise InvalidValue("A consent is said to be of the future.", "Nobody gave it yet.", "Give claimed_at its day.")
    return Word(
        event=GIVEN,
        purposes=names,
        guardian=guardian,
        method=method,
        verifier=None if verifier is None else reference(guard, "verifier", verifier),
        claimed_at=None if claimed_at is None else as_utc(claimed_at),
        expires=None if until is None else as_utc(until),
        disclosure=disclosed,
        **seen(guard, names, notice, locale),
    )


def known(guard: Guard, purposes: Iterable[str]) -> tuple[str, ...]:
    """Return the names of purposes, sorted. Raises PolicyError for an unknown one, InvalidValue where none is named."""
    names = sorted({purposes} if isinstance(purposes, str) else set(purposes))
    if not names:
        raise InvalidValue(
            "Consent is given or withdrawn for a purpose, and none is named.",
            "A consent for everything is none.",
            'Name one or more: purposes={"pickup"}.',
        )
    return tuple(guard.policy.purpose(name).name for name in names)


def reference(guard: Guard, kind: str, name: object) -> bytes:
    """Return the keyed token of somebody's reference. Raises InvalidValue where it is empty or no text."""
    if not isinstance(name, str) or not name.strip():
        raise InvalidValue(
            f"A consent needs its {kind}'s reference.", "Consent that nobody gave is none.", f'Give {kind}="...".'
        )
    return b32decode(token(guard.keyring.secret("guardian"), kind, name).upper())


def seen(guard: Guard, names: Iterable[str], notice: str | None, locale: str | None) -> dict[str, Any]:
    """Return what is recorded of the notice that a guardian saw: its version, and the digest of the text."""
    notices, names = guard.policy.notices, tuple(names)
    listed = [name for name in names if any(each.concerns(name) for each in notices.values())]
    if not listed:
        _check_names(notice=notice, locale=locale)
        return {"notice": notice, "locale": locale}
    found = notices.get(notice or "")
    if found is None or not all(found.concerns(name) for name in listed):
        fitting = [each.name for each in notices.values() if all(each.concerns(name) for name in listed)]
        raise InvalidValue(
            "The policy lists no such notice for these purposes.",
            "Nobody could show what the guardian agreed to.",
            f"Give the version that was shown ({', '.join(fitting)}), or add it to notices in {guard.policy.path}.",
            allowed=fitting,
        )
    locale = next(iter(found.texts)) if locale is None and len(found.texts) == 1 else locale
    if locale is None or locale not in found.texts:
        raise InvalidValue(
            f"The notice {found.name} has no text in this locale.",
            "Nobody could show what the guardian agreed to.",
            f"Give one of: {', '.join(found.texts)}.",
            allowed=list(found.texts),
        )
    digest = bytes.fromhex(found.texts[locale])
    return {"notice": found.name, "notice_sha256": digest, "locale": locale, "material": found.material}


def _check_names(**given: str | None) -> None:
    for kind, name in given.items():
        if name is not None and not is_name(name):
            raise InvalidValue(
                f"A {kind} is a name of letters, digits and . _ + -, 60 at most.",
                "A text could hold anything, and stays for ever.",
                'Name the version: notice="privacy-v4", locale="en-GB".',
            )


def _check_method(guard: Guard, method: str, *, listed: bool) -> None:
    """The policy lists ways to verify a guardian, not somebody who answers in person."""
    allowed = guard.policy.verification_methods if listed else {}
    if allowed and method not in allowed:
        raise InvalidValue(
            "The policy lists no such method to verify a guardian.",
            "Consent of somebody unverified may not be a parent's.",
            f"Use one of: {', '.join(allowed)}; or add it to child.verification_methods in {guard.policy.path}.",
            allowed=list(allowed),
        )
    if not isinstance(method, str) or not 0 < len(method.strip()) <= LONGEST_METHOD:
        raise InvalidValue(
            f"A method to verify a guardian is a name of up to {LONGEST_METHOD} characters.",
            "Without one nobody can say how the guardian was verified.",
            'Name it: method="signed_form".',
        )


def _check_strength(guard: Guard, names: Iterable[str], disclosed: Collection[str], method: str) -> None:
    for name in names:
        strong = guard.policy.consent_terms(name, disclosure=name in disclosed).methods
        if strong is not None and method not in strong:
            raise InvalidValue(
                f"Data is disclosed for {name!r}; this method does not verify a guardian well enough for that.",
                "Data that has been given to others does not come back.",
                f"Use one of: {', '.join(strong) or '(the policy lists none)'}; or say\n"
                f"purposes.{name}.disclosure: false in {guard.policy.path}, if no recipient uses it for its own ends.",
                allowed=list(strong),
            )

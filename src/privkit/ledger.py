"""The evidence ledger: lines about what was done, each chained by a keyed link to the one before it.

A line's link is HMAC-SHA256 over the previous link, its number, instant, kind and body, each after its length.
Whoever has the database but not the keyring can neither change a line nor add one. Cutting off the tail, or
putting back an older state, leaves a chain that verifies; ``Verified.checkpoint``, written down elsewhere, tells,
and so does a copy of the lines outside the database.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from privkit.clock import as_utc
from privkit.crypto.envelope import length_prefixed
from privkit.errors import InvalidValue, LedgerError

KINDS = frozenset(
    {
        "adopted",
        "ages_stored",
        "aggregated",
        "batch",
        "caught_up",
        "consent_answered",
        "consent_asked",
        "consent_expired",
        "consent_given",
        "consent_imported",
        "consent_lapsed",
        "consent_refused",
        "consent_superseded",
        "consent_withdrawn",
        "epoch_destroyed",
        "erased",
        "erasure_deferred",
        "file_deleted",
        "file_kept",
        "file_unknown",
        "generation_added",
        "hold_placed",
        "hold_released",
        "hold_rows",
        "key_destroyed",
        "key_renewed",
        "keys_rolled",
        "keys_rotated",
        "outside_attached",
        "replayed",
        "resealed",
        "run_ended",
        "run_started",
        "switched_off",
        "switched_on",
        "unchecked",
        "vacuumed",
    }
)
"""What a line can be about."""

LONGEST_TEXT = 200
"""How many characters a text in a body may have: enough for a name or a digest, too few for a document."""

LINK_SIZE = 32
GENESIS = bytes(LINK_SIZE)
"""The link before the first line."""

_INTEGERS = range(-(1 << 63), 1 << 63)
_CHECKPOINT = re.compile(r"(\d{1,19}):([0-9a-f]{64})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: its number from 1 on, the instant (ISO 8601, UTC, microseconds), kind, canonical body and link."""

    seq: int
    at: str
    kind: str
    body: str
    link: bytes


@dataclass(frozen=True, slots=True)
class Verified:
    """A chain that holds: how many lines, the last one's link and instant (None: there is no line)."""

    count: int
    head: bytes | None
    at: str | None

    @property
    def checkpoint(self) -> str:
        """The text to write down outside the database: ``verify`` takes it as ``expected`` for ever after."""
        return f"{self.count}:{(self.head or GENESIS).hex()}"


class OutsideLedger(Protocol):
    """A copy of the lines that is kept outside the database, so that restoring a backup does not restore it.

    Its methods raise LedgerError where it cannot be read or written. ``refill``: a copy that is empty although
    the database once had one is filled from the database, instead of refused.
    """

    @property
    def refill(self) -> bool: ...

    def head(self) -> Entry | None:
        """Return the last whole line, or None."""

    def lines(self, after: int = 0) -> Iterator[Entry]:
        """Yield the lines numbered above ``after``, in order, as they stand: nothing is verified."""

    def append(self, entries: Iterable[Entry]) -> None:
        """Add lines after the last one. Once it returns they survive a crash; when it raises, none should be there."""


def canonical(body: Mapping[str, object]) -> str:
    """Return the one JSON text of ``body``: keys sorted, no blanks, ASCII.

    Texts of up to 200 characters, whole numbers of 64 bits, booleans, None, lists and mappings. Raises
    InvalidValue for anything else: a float has no one text, and a long text may hold anything.
    """
    if not isinstance(body, Mapping):
        raise _unfit("A ledger line's body is a mapping of names to values.")
    return json.dumps(_plain(body), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            raise _unfit(f"A text in a ledger line has at most {LONGEST_TEXT} characters.")
        return str(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if value not in _INTEGERS:
            raise _unfit("A number in a ledger line has at most 64 bits.")
        return int(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise _unfit("A name in a ledger line is a text.")
        return {_plain(key): _plain(each) for key, each in value.items()}
    raise _unfit(f"A ledger line cannot hold a value of type {type(value).__name__}.")


def _unfit(what: str) -> InvalidValue:
    return InvalidValue(
        what,
        "The ledger holds names, counts and digests that everybody reads alike, never personal values.",
        "Give a count, a name, a digest or an id; a float as a text or in smaller units.",
    )


def next_entry(key: bytes, previous: Entry | None, at: datetime, kind: str, body: Mapping[str, object]) -> Entry:
    """Return the line that follows ``previous`` (None: the first one).

    Raises LedgerError for an unknown kind, InvalidValue for a body that ``canonical`` refuses, ClockError for
    an instant without a zone.
    """
    if kind not in KINDS:
        raise LedgerError(
            "The ledger has no such kind of line.",
            "An auditor could not tell what it is evidence of.",
            f"Use one of: {', '.join(sorted(KINDS))}.",
        )
    seq = previous.seq + 1 if previous else 1
    moment, text = as_utc(at).isoformat(timespec="microseconds"), canonical(body)
    return Entry(seq, moment, kind, text, _link(key, previous.link if previous else GENESIS, seq, moment, kind, text))


def _link(key: bytes, previous: bytes, seq: int, at: str, kind: str, body: str) -> bytes:
    # A stored text may have been changed to one with lone surrogates, whose encoding error would carry it.
    texts = (text.encode("utf-8", "surrogatepass") for text in (at, kind, body))
    return hmac.digest(key, length_prefixed(previous, seq.to_bytes(8, "big"), *texts), "sha256")


def verify(key: bytes, entries: Iterable[Entry], expected: str | None = None) -> Verified:
    """Follow the chain from its first line. ``expected``: a checkpoint that was written down earlier.

    Lines after the checkpoint are fine; its own must be there, unchanged. Raises LedgerError for the first
    line at which the chain breaks: ``data["seq"]`` is its number and ``data["how"]`` is ``"changed"``,
    ``"missing"``, ``"reordered"`` or ``"duplicated"``. Raises InvalidValue for a malformed checkpoint.
    """
    due, known = _checkpoint(expected)
    last: Entry | None = None
    for last in follow(key, entries):
        if last.seq == due and last.link != known:
            raise _broken(last.seq, "changed", "The chain was written anew since the checkpoint was noted.")
    count = last.seq if last else 0
    if count < due:
        raise _broken(count + 1, "missing", f"The ledger once had {due} lines and ends after {count}.")
    return Verified(count, last.link if last else None, last.at if last else None)


def follow(key: bytes, entries: Iterable[Entry], after: Entry | None = None) -> Iterator[Entry]:
    """Yield each line that continues the chain ``after`` one that is known to stand (None: from the first).

    Raises LedgerError as ``verify`` does, before a line that breaks the chain is handed out.
    """
    last, lines = after, iter(entries)
    for entry in lines:
        _check_position(entry, last.seq + 1 if last else 1, lines)
        link = _link(key, last.link if last else GENESIS, entry.seq, entry.at, entry.kind, entry.body)
        if not hmac.compare_digest(link, entry.link):
            raise _broken(entry.seq, "changed", "Its content does not fit its link.")
        yield entry
        last = entry


def _check_position(entry: Entry, due: int, rest: Iterator[Entry]) -> None:
    if entry.seq == due:
        return
    if entry.seq < 1:
        raise _broken(entry.seq, "changed", "Lines are numbered from 1.")
    if entry.seq < due:
        raise _broken(entry.seq, "duplicated", "A line of this number came before.")
    if any(later.seq == due for later in rest):
        raise _broken(due, "reordered", f"Line {entry.seq} stands before it.")
    raise _broken(due, "missing", f"The next line is {entry.seq}.")


def _broken(seq: int, how: str, why: str) -> LedgerError:
    return LedgerError(
        f"The ledger's chain breaks at line {seq}: {how}.",
        why,
        "Lines before it stand. Compare with a backup or another copy, and find out who can write to it.",
        seq=seq,
        how=how,
    )


def _checkpoint(expected: str | None) -> tuple[int, bytes]:
    if expected is None:
        return 0, GENESIS
    match = _CHECKPOINT.fullmatch(expected.strip().lower())
    if match is None or (match[1].lstrip("0") == "" and bytes.fromhex(match[2]) != GENESIS):
        raise InvalidValue(
            "A ledger checkpoint is a count and 64 hexadecimal digits, such as 12:9f86...0f00.",
            "Nothing was verified.",
            "Give it as an earlier verification printed it.",
        )
    return int(match[1]), bytes.fromhex(match[2])


def written(entry: Entry) -> str:
    """Return a line as one line of JSON text, without its end."""
    return json.dumps(
        {"seq": entry.seq, "at": entry.at, "kind": entry.kind, "body": entry.body, "link": entry.link.hex()}
    )


def read(text: str) -> Entry:
    """Read what ``written`` wrote. Raises LedgerError for anything else."""
    try:
        found = json.loads(text)
        seq, at, kind, body = found["seq"], found["at"], found["kind"], found["body"]
        if type(seq) is int and all(isinstance(each, str) for each in (at, kind, body)):
            return Entry(seq, at, kind, body, bytes.fromhex(found["link"]))
    except (ValueError, KeyError, TypeError):
        pass
    raise LedgerError(
        "A line of the ledger's copy is no line of a ledger.",
        "What stands there, and after it, is not known.",
        "Restore the copy from a backup of it, and find out who can write to it.",
    )

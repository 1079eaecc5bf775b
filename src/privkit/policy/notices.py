"""What a consent has to be like to count: how it was verified, its age, and which version of the notice was seen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from privkit.periods import Period
from privkit.policy.nodes import Node, Text
from privkit.policy.problems import nearest, paste, quoted
from privkit.policy.reading import Reading, Section, dotted

NOTICE = {"texts": '{en: "<sha256>"}'}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}")


@dataclass(frozen=True, slots=True)
class Notice:
    """A version of the text that a guardian sees. ``texts``: the SHA-256 of each translation, by its locale.

    ``material``: from ``valid_from`` on, consent that was given on an earlier version no longer counts. ``purposes``:
    for which it is; empty for all.
    """

    name: str
    texts: Mapping[str, str]
    material: bool
    valid_from: date | None
    purposes: tuple[str, ...]
    where: str

    def concerns(self, purpose: str) -> bool:
        """Whether it is a version of the notice for a purpose."""
        return not self.purposes or purpose in self.purposes


@dataclass(frozen=True, slots=True)
class ConsentTerms:
    """What consent to one purpose has to be like to count.

    ``valid``: how long after it was given; None: as long as it stands. ``methods``: the ways to verify a guardian that
    are good enough; None: any. ``renewals``: from each day on, the notices that count. ``separate``: whether it takes a
    separate yes, to giving data to others.
    """

    valid: Period | None = None
    methods: tuple[str, ...] | None = None
    renewals: tuple[tuple[date, tuple[str, ...]], ...] = ()
    separate: bool = False

    def fault(
        self, given: datetime, expires: datetime | None, method: str | None, notice: str | None, now: datetime
    ) -> str | None:
        """Return why a consent does not count at ``now`` (expired, superseded, unverified); None: it does."""
        ended = expires is not None and expires <= now
        if ended or (self.valid is not None and self.valid.after(given) <= now):
            return "expired"
        if any(since <= now.date() and notice not in names for since, names in self.renewals):
            return "superseded"
        return "unverified" if self.methods is not None and method not in self.methods else None

    def end(self, given: datetime, expires: datetime | None, notice: str | None) -> datetime | None:
        """Return when time ends a consent: it expires, or a notice supersedes the one that was seen. None: never."""
        found = [] if expires is None else [expires]
        if self.valid is not None:
            found.append(self.valid.after(given))
        superseding = (since for since, names in self.renewals if notice not in names)
        found += [datetime.combine(since, time.min, UTC) for since in superseding]
        return min(found, default=None)


def renewals(notices: Mapping[str, Notice], purpose: str) -> tuple[tuple[date, tuple[str, ...]], ...]:
    """Return for each material notice for a purpose its day, and the names of it and of those that follow it."""
    theirs = [notice for notice in notices.values() if notice.concerns(purpose)]
    return tuple(
        (notice.valid_from or date.min, tuple(each.name for each in theirs[place:]))
        for place, notice in enumerate(theirs)
        if notice.material
    )


def read_notices(found: Section, declared: list[str]) -> dict[str, Notice]:
    """Read ``notices``, the oldest first: ``{v4: {texts: {en: <sha256>}, material: true, from: 2026-02-01}}``."""
    read = (_notice(found.reading, name, node, declared) for name, node in found.named("notices"))
    return {notice.name: notice for notice in read if notice is not None}


def is_name(text: object) -> bool:
    """Whether a text is a name such as ``privacy-v4`` or ``en-GB``, and no sentence about anybody."""
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def _notice(reading: Reading, name: str, node: Node, declared: list[str]) -> Notice | None:
    path = ("notices", name)
    found = reading.table(node, path, NOTICE, ("material", "from", "purposes"))
    if found is None:
        return None
    if not is_name(name):
        message = f"The notice {quoted(name)} needs a name of letters, digits and . _ + -, 60 at most."
        reading.report(found.line, message, paste(("notices", "privacy-v4"), "{...}"))
    texts = _texts(reading, (*path, "texts"), dict(found.named("texts")))
    purposes = tuple(found.lines("purposes")) if "purposes" in found else ()
    for purpose, line in purposes:
        if purpose not in declared:
            near = nearest(purpose, declared)
            message = f"{dotted(path)} names purpose {quoted(purpose)}, which is not declared."
            reading.report(line, message, paste((*path, "purposes"), f"[{', '.join(near[:1])}]"), near)
    if not texts and "texts" in found:
        reading.report(found.line_of("texts"), f"{dotted(path)}.texts is empty.", paste(path, NOTICE["texts"]))
    return Notice(
        name, texts, found.flag("material") is True, found.day("from"), tuple(each for each, _ in purposes), found.where
    )


def _texts(reading: Reading, path: tuple[str, ...], nodes: Mapping[str, Node]) -> dict[str, str]:
    """Read the digests. Who has the texts themselves elsewhere can show which of them was seen."""
    texts = {}
    for locale, node in nodes.items():
        if isinstance(node, Text) and _SHA256.fullmatch(node.value.lower()) and is_name(locale):
            texts[locale] = node.value.lower()
        else:
            wanted = "the SHA-256 of a text (64 hexadecimal digits) under its locale"
            reading.wrong(node, (*path, locale), wanted, '"<sha256>"')
    return texts

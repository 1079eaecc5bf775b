"""A guess from a column's name at what it may hold. A guess starts a conversation and decides nothing.

Names are split into whole words, so ``acid_level`` holds no ``cid`` and ``tooltip`` no ``ip``. Words that say
what *about* the thing is stored (``email_sent_at``, ``is_email_verified``, ``longitude_unit``) undo a match, and
words that mean a person only in company (``name``, ``address``) count only where the table is about persons.
To teach it a language or a trade, add rows to ``WORDS``.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from privkit.coverage.words import DESCRIBING, NOT_A_PERSONS, PERSONS, PREFIXES, WORDS

_SPLIT = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Context(Enum):
    """What is known of the table: its rows are persons, belong to persons, or neither."""

    PERSON = "its table is about persons"
    LINKED = "its table belongs to data subjects"
    OTHER = "nothing is known of its table"


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a column may hold. ``confidence`` runs from 0 to 1; below ``SURE`` it is a question."""

    category: str
    confidence: float
    reason: str


SURE = 0.6
_STEP_DOWN = {Context.PERSON: 1.0, Context.LINKED: 0.5, Context.OTHER: 0.0}


def tokens(name: str) -> tuple[str, ...]:
    """Split a snake_case, camelCase or accented name into lower-case words without accents."""
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss").replace("ñ", "n"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return tuple(part.lower() for part in _SPLIT.findall(plain))


def singular(word: str) -> str:
    """Return a table's word in its singular, roughly: ``people`` and ``stories`` too."""
    if word == "people":
        return "person"
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def context_of(table: str, *, data_subject: bool = False, linked: bool = False) -> Context:
    """Return what a table's name, or what is known of it, says about its rows."""
    words = tokens(table)
    if data_subject or (words and singular(words[-1]) in PERSONS):
        return Context.PERSON
    return Context.LINKED if linked or any(singular(word) in PERSONS for word in words) else Context.OTHER


def suggest(column: str, context: Context = Context.OTHER) -> Suggestion | None:
    """Return the likeliest personal content of a column of that name, or None where nothing speaks for any."""
    words = tokens(column)
    if not words or _is_about(words):
        return None
    found = [suggestion for suggestion in _matches(words, context) if suggestion.confidence > 0]
    return max(found, key=lambda each: each.confidence, default=None)


def _is_about(words: tuple[str, ...]) -> bool:
    """Whether the name is of something that is said about a value: a flag, a time, a count, a unit."""
    ends_known = any(words[-length:] in WORDS for length in (1, 2, 3))
    return words[0] in PREFIXES or (len(words) > 1 and words[-1] in DESCRIBING and not ends_known)


def _matches(words: tuple[str, ...], context: Context) -> Iterator[Suggestion]:
    for length in range(min(len(words), 3), 0, -1):
        for start in range(len(words) - length + 1):
            phrase = words[start : start + length]
            known = WORDS.get(phrase)
            if known is None:
                continue
            category, confidence, company = known
            if any(word in NOT_A_PERSONS for word in (*words[:start], *words[start + length :])):
                continue
            if company:
                confidence = round(confidence * _in_company(words[:start], context), 2)
            shown = " ".join(phrase)
            reason = f"the word {shown!r}" + (f", and {context.value}" if company else "")
            yield Suggestion(category, confidence, reason)


def _in_company(before: tuple[str, ...], context: Context) -> float:
    """How far a word that needs company can be trusted: ``guardian_name`` brings its own."""
    return 1.0 if any(singular(word) in PERSONS for word in before) else _STEP_DOWN[context]

"""Stand-ins of the same kind as the value: for columns that have a form, are unique, and are read by programs."""

from __future__ import annotations

from functools import lru_cache
from string import ascii_lowercase
from typing import Any
from unicodedata import ucd_3_2_0

from privkit.deidentify.keyed import below, drawn, permuted
from privkit.deidentify.pseudonyms import normalised, token
from privkit.deidentify.stand_ins import FIRST, SECOND
from privkit.errors import InvalidValue
from privkit.precisions import Substitute

_WIDTHS = tuple(1 << bits for bits in (7, 8, 15, 16, 31, 32, 63, 64))
_KEPT = "PSZ"  # punctuation, symbols and separators show the form and no more
_BLOCK = 128  # within it every character takes as many bytes in UTF-8
_UNIQUE = 12


def substituted(technique: Substitute, value: Any, key: bytes) -> Any:
    """Return the stand-in of ``value``: an int for an int, text for text. The empty text stays empty.

    Raises InvalidValue for a value of another type, and for an int that is to become a name.
    """
    if technique.kind == "shape":
        if type(value) is int:
            return _number(value, key, technique.domain)
        if isinstance(value, str):
            return _shape(str.__str__(value), key, technique.domain)
    elif isinstance(value, str):
        return _name(str.__str__(value), key, technique) if value else ""
    raise InvalidValue(
        f"Substitute(kind={technique.kind!r}) does not fit a value of type {type(value).__name__}.",
        "",
        "Use it for text, and for whole numbers kind='shape'; ShiftDates for a date; AddNoise for a measure.",
    )


def _name(value: str, key: bytes, technique: Substitute) -> str:
    same = normalised(value)
    first = FIRST[below(key, len(FIRST), "first", technique.domain, same)]
    second = SECOND[below(key, len(SECOND), "second", technique.domain, same)]
    unique = token(drawn(key, "substitute"), technique.domain, same)[:_UNIQUE]
    if technique.kind == "name":
        return f"{first} {second} {unique}"
    return f"{first}.{second}.{unique}@example.invalid".lower()  # RFC 2606: nobody ever gets mail there


def _number(value: int, key: bytes, domain: str) -> int:
    """Keep the sign, the count of digits, and the width of the integer type that just holds it."""
    size = abs(value)
    lowest, highest = (10 ** (len(str(size)) - 1), 10 ** len(str(size)) - 1) if size else (0, 0)
    lowest = max([lowest, *(width for width in _WIDTHS if width <= size)])
    highest = min([highest, *(width - 1 for width in _WIDTHS if width > size)])
    place = permuted(key, size - lowest, highest - lowest + 1, "number", domain, str(lowest))
    return (lowest + place) * (-1 if value < 0 else 1)


def _shape(value: str, key: bytes, domain: str) -> str:
    alphabets = [_alphabet(character) for character in value]
    number, count = 0, 1
    for character, alphabet in zip(value, alphabets, strict=True):
        spelt = character.lower() if character.isascii() else character
        number, count = number * len(alphabet) + alphabet.index(spelt), count * len(alphabet)
    number = permuted(key, number, count, "shape", domain, "".join(alphabet[0] for alphabet in alphabets))
    found = []
    for character, alphabet in zip(reversed(value), reversed(alphabets), strict=True):
        number, place = divmod(number, len(alphabet))
        upper = character.isascii() and character.isupper()
        found.append(alphabet[place].upper() if upper else alphabet[place])
    return "".join(reversed(found))


def _alphabet(character: str) -> str:
    """Return what a character may become: those of its block and category in Unicode 3.2, which does not change.

    ASCII letters are one alphabet, and keep their case: what differs in case alone would collide where case counts not.
    """
    category = ucd_3_2_0.category(character)
    if category[0] in _KEPT or category == "Cc":
        return character
    if character.isascii() and character.isalpha():
        return ascii_lowercase
    return _members(ord(character) // _BLOCK, category)


@lru_cache(maxsize=512)
def _members(block: int, category: str) -> str:
    characters = (chr(block * _BLOCK + place) for place in range(_BLOCK))
    return "".join(each for each in characters if ucd_3_2_0.category(each) == category)

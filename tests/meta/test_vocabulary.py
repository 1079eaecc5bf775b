"""Each thing has one name (CONTRIBUTING.md, "Words"). Only words without an honest second meaning are banned."""

from __future__ import annotations

import re

import pytest

from tests.meta import ROOT, texts

PLACES = ("src", "docs", "policies", "README.md", "CONTRIBUTING.md", "SECURITY.md")

INSTEAD = {
    r"pii(?!_principal_id|_controllers)": "personal data; but the fields of ISO/IEC TS 27560 have their own names",
    r"ttl": "keep",
    r"scrub(s|bed|bing|ber)?": "suppress, generalise or pseudonymise",
    r"saniti[sz]\w*": "suppress, generalise or pseudonymise",
    r"(?<!')(?<!as )blobs?": "envelope; in quotes, or after AS, it is SQLite's name of a type",
    r"anonymi[sz]e[rsd]?(?=\()": "the technique's name: being anonymous is a claim about a result",
    r"opt[- ](in|out)": "consent",
    r"tickets?": "request",
    r"customers?": "data subject",
    r"(minimi|generali|pseudonymi|anonymi)z\w*": "the British spelling",
}
BANNED = {re.compile(rf"(?<![a-z])({word})(?![a-z])", re.IGNORECASE): instead for word, instead in INSTEAD.items()}


def test_a_banned_word_appears_nowhere() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {word!r}, say {instead}"
        for path in texts(*PLACES)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for word, instead in banned(line)
    ]
    assert [] == found


def banned(line: str) -> list[tuple[str, str]]:
    return [(match.group(), instead) for pattern, instead in BANNED.items() for match in pattern.finditer(line)]


@pytest.mark.parametrize(
    "line", ["has_pii = 1", "PII", "ttl=3", "Scrubbed", "sanitise", "anonymise(row)", "a_blob", "generalized", "opt-in"]
)
def test_the_search_sees_a_banned_word_inside_an_identifier(line: str) -> None:
    assert 1 == len(banned(line))


@pytest.mark.parametrize(
    "line", ["compiiled", "battle", "little", "generalised", "anonymous", "is anonymised", "= 'blob'"]
)
def test_the_search_leaves_honest_words_alone(line: str) -> None:
    assert [] == banned(line)

"""A keyring's document: the generations and the root secret, as their provider left them, in JSON.

    {"privkit_keyring": 1, "sealed_by": "kms", "current": 2, "generations": {"1": BASE64, "2": BASE64}, "root": BASE64}

Without ``sealed_by`` the secrets are the keys themselves. ``suite`` (1 where it is missing) is what values are sealed
under: a newer release raises it once all releases that write know it, and older ones then refuse to write.
No error here is chained or quotes the document: a parser's own error holds the text that it could not parse.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from privkit.crypto.aead import KEY_SIZE, KeyMaterial
from privkit.crypto.envelope import SUITE
from privkit.errors import KeyringError

FORMAT = 1
GENERATION_SIZE = 4
NEWEST_SUITE = SUITE[0]
"""The newest suite that this release seals under."""
_MAX_SECRET_SIZE = 16_384


class Place:
    """Where a document lies, in the words of an error: ``name`` begins a sentence, ``restore`` says how to mend it."""

    __slots__ = ("data", "name", "restore")

    def __init__(self, name: str, restore: str, **data: Any) -> None:
        self.name, self.restore, self.data = name, restore, data

    def unusable(self, problem: str, fix: str) -> KeyringError:
        """Return the error for a document that is there and cannot be used."""
        return KeyringError(f"{self.name} {problem}.", "It was not used.", fix, **self.data)

    def damaged(self, problem: str) -> KeyringError:
        """Return the error for a document that has to come from its backup."""
        return self.unusable(problem, self.restore)


class Document(KeyMaterial):
    """The current generation, all generations by number, and the root secret: wrapped by a provider, or bare.

    ``suite``: what values are sealed under; a release that does not know it opens and never writes.
    """

    __slots__ = ("current", "generations", "root", "suite")

    def __init__(self, current: int, generations: Mapping[int, bytes], root: bytes, suite: int = NEWEST_SUITE) -> None:
        self.current, self.generations, self.root, self.suite = current, dict(generations), root, suite

    def secrets(self) -> dict[str, bytes]:
        """Return every stored secret by its label: the generation's number, or ``root``."""
        return {**{str(number): secret for number, secret in self.generations.items()}, "root": self.root}

    def with_generation(self, number: int, secret: bytes) -> Document:
        """Return the document with one more generation, which is the current one."""
        return Document(number, {**self.generations, number: secret}, self.root, self.suite)

    def without_generation(self, number: int) -> Document:
        """Return the document without one generation."""
        left = {n: s for n, s in self.generations.items() if n != number}
        return Document(self.current, left, self.root, self.suite)


def members_of(place: Place, content: bytes | str) -> dict[str, Any]:
    """Return the members of a JSON document of this version. Raises KeyringError for anything else."""
    members = None
    with suppress(ValueError, RecursionError):
        members = json.loads(content)
    if not isinstance(members, dict):
        raise place.damaged("is not a JSON object")
    version = members.get("privkit_keyring")
    if type(version) is int and version > FORMAT:
        raise place.unusable(f"is of version {version}, which a newer release wrote", "Upgrade privkit here.")
    if type(version) is not int or version != FORMAT:
        raise place.damaged(f"is not a keyring of version {FORMAT}")
    return members


def require_sealed_by(place: Place, members: Mapping[str, Any], wanted: str) -> None:
    """Raise KeyringError unless a document is sealed by what was named: a bare one may have replaced a sealed one."""
    found = members.get("sealed_by", "")
    if found == wanted:
        return
    if found == "passphrase" and not wanted:
        raise place.unusable("is sealed under a passphrase, and none was given", "Give passphrase=..., or a callable.")
    if wanted == "passphrase" and not found:
        fix = "Make a sealed copy: FileKeyring.create(NEW, passphrase=..., copy_of=FileKeyring(PATH))"
        raise place.unusable("is not under a passphrase, though one was given", fix)
    wanted = wanted or "nothing"
    raise place.unusable(f"is sealed by something else than {wanted}", "Open it with the class that created it.")


def document_of(place: Place, members: Mapping[str, Any], *, bare: bool) -> Document:
    """Return a checked document; the secrets of a bare one are keys. Raises KeyringError for a damaged one."""
    generations, current = members.get("generations"), members.get("current")
    if not isinstance(generations, dict) or not generations:
        raise place.damaged("has no generations")
    held = {_number(place, name): _secret(place, text, "a generation", bare) for name, text in generations.items()}
    if type(current) is not int or current not in held:
        raise place.damaged("has no current generation")
    suite = members.get("suite", 1)
    if type(suite) is not int or suite < 1:
        raise place.damaged("names a suite that is not a whole number above 0")
    return Document(current, held, _secret(place, members.get("root"), "the root secret", bare), suite)


def rendered(document: Document, *, sealed_by: str = "") -> bytes:
    """Return the JSON of a document, ready to be stored."""
    return as_json(
        {
            "privkit_keyring": FORMAT,
            **({"sealed_by": sealed_by} if sealed_by else {}),
            **({"suite": document.suite} if document.suite > 1 else {}),
            "current": document.current,
            "generations": {str(number): encoded(secret) for number, secret in sorted(document.generations.items())},
            "root": encoded(document.root),
        }
    )


def as_json(members: Mapping[str, Any]) -> bytes:
    """Return the bytes of a document's members."""
    return json.dumps(members, indent=2).encode() + b"\n"


def encoded(secret: bytes) -> str:
    """Return bytes in base64."""
    return b64encode(secret).decode()


def decoded(text: object) -> bytes:
    """Return the bytes of strict base64, or none for anything else."""
    if isinstance(text, str):
        with suppress(ValueError):
            return b64decode(text, validate=True)
    return b""


def _number(place: Place, name: str) -> int:
    number = int(name) if name.isascii() and name.isdecimal() and len(name) <= 10 else 0
    if str(number) != name or not 0 < number < 1 << 8 * GENERATION_SIZE:
        raise place.damaged("names a generation that is not a whole number above 0")
    return number


def _secret(place: Place, text: object, name: str, bare: bool) -> bytes:
    secret = decoded(text)
    if bare and len(secret) != KEY_SIZE:
        raise place.damaged(f"lacks {name}, or holds one that is not {KEY_SIZE} bytes in base64")
    if not 0 < len(secret) <= _MAX_SECRET_SIZE:
        raise place.damaged(f"lacks {name}, or holds one that is not wrapped bytes in base64")
    return secret

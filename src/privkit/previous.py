"""How a field was stored before privkit, and how far its move to sealed storage has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date
from typing import ClassVar, Literal

KeySource = str | Callable[[], str | bytes]
"""Where a key comes from when it is needed: a callable, or the name of an environment variable. Never the key."""


@dataclass(frozen=True, slots=True)
class Plain:
    """The value itself, as its column's type stores it."""


@dataclass(frozen=True, slots=True)
class FernetTokens:
    """Fernet tokens (github.com/fernet/spec), as django-fernet-fields and MultiFernet write them.

    ``keys``: one or more, each 32 bytes in URL-safe base64; the first one writes. ``binary``: stored as bytes.
    """

    keys: Iterable[KeySource] = field(repr=False)
    binary: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(self.keys))


@dataclass(frozen=True, slots=True)
class SqlalchemyUtils:
    """``StringEncryptedType`` and ``EncryptedType`` (``binary=True``) of sqlalchemy-utils.

    ``engine`` is ``"aes"``, ``"aes_gcm"`` or ``"fernet"``; ``padding``, for ``"aes"`` alone, ``"naive"``,
    ``"pkcs5"``, ``"oneandzeroes"`` or ``"zeroes"``.
    """

    key: KeySource = field(repr=False)
    engine: Literal["aes", "aes_gcm", "fernet"] = "aes"
    padding: Literal["naive", "pkcs5", "oneandzeroes", "zeroes"] = "naive"
    binary: bool = False


@dataclass(frozen=True, slots=True)
class AdvancedAlchemy:
    """``EncryptedString`` and ``EncryptedText`` of advanced-alchemy, with their ``FernetBackend``."""

    key: KeySource = field(repr=False)
    binary: ClassVar[bool] = False


Previous = Plain | FernetTokens | SqlalchemyUtils | AdvancedAlchemy


@dataclass(frozen=True, slots=True)
class Adopting:
    """A field that moves from a ``previous`` way of storage to sealed storage, while the service runs.

    ``beside`` names the other of its two columns. In phase ``"dual"`` the attribute is mapped to the old column
    and reads come from there; in ``"sealed"`` it is mapped to the sealed one and reads come from there; in both
    every write goes to both. In ``"finished"`` only the sealed column is written, and the old one can be emptied.
    Without ``beside`` the field stays in its one binary column, and old values are replaced there.

    ``until``: the last day (UTC) on which a value that is not sealed yet is read from where it was; None: it is an
    error. A column in place needs the day.
    """

    previous: Previous
    beside: str | None = field(default=None, kw_only=True)
    phase: Literal["dual", "sealed", "finished"] = field(default="sealed", kw_only=True)
    until: date | None = field(default=None, kw_only=True)

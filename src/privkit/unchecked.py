"""Blocks in which SQL text that cannot be checked is let through, each for a reason that the ledger records.

A block holds as a purpose does: in this context alone and until it ends. A task that outlives it, a thread, an
executor, and whoever called a generator that waits inside one, are not in it.
"""

from __future__ import annotations

import secrets
import sys
import threading
from contextvars import ContextVar
from types import FrameType
from typing import Any

from privkit.errors import InvalidValue
from privkit.ledger import LONGEST_TEXT
from privkit.purpose_block import generator_around


class Unchecked:
    """One entry into a block, open until the block ends. ``number`` tells it from others; ``seen`` is for whoever
    records what it let through.
    """

    __slots__ = ("block", "frame", "number", "open", "parent", "seen", "thread")

    def __init__(self, block: UncheckedBlock, parent: Unchecked | None, frame: FrameType | None) -> None:
        self.block, self.parent, self.frame, self.open = block, parent, frame, True
        self.thread = threading.get_ident()
        self.number = secrets.token_hex(8)
        self.seen: set[Any] = set()

    @property
    def reason(self) -> str:
        """Why the block was opened."""
        return self.block.reason

    @property
    def in_force(self) -> bool:
        """Whether the block is open, of this thread, and not that of a generator that is suspended now."""
        running = self.frame is None or self.frame.f_back is not None
        return self.open and running and self.thread == threading.get_ident()


_entered: ContextVar[Unchecked | None] = ContextVar("privkit_unchecked", default=None)


def current() -> Unchecked | None:
    """Return the innermost entry in force in this context, or None."""
    entry = _entered.get()
    while entry is not None and not entry.in_force:
        entry = entry.parent
    return entry


class UncheckedBlock:
    """What ``privacy.unchecked`` returns: a context manager that can be entered again."""

    def __init__(self, reason: str) -> None:
        if not isinstance(reason, str) or not reason.strip() or len(reason) > LONGEST_TEXT:
            raise InvalidValue(
                f"SQL text goes unchecked for a reason of 1 to {LONGEST_TEXT} characters.",
                "The ledger records it for the auditor.",
                'Say why: with privacy.unchecked("the search index of the vendor reads it"): ...',
            )
        self.reason = reason.strip()
        self._entries: list[Unchecked] = []

    def __enter__(self) -> None:
        entry = Unchecked(self, _entered.get(), generator_around(sys._getframe(1)))
        self._entries.append(entry)
        _entered.set(entry)

    def __exit__(self, *exc_info: object) -> None:
        entry = self._ours() or self._entries[-1]
        self._entries.remove(entry)
        if _entered.get() is entry:
            _entered.set(entry.parent)
        entry.open, entry.frame = False, None

    def _ours(self) -> Unchecked | None:
        """This context's own entry: tasks may share the block."""
        entry = _entered.get()
        while entry is not None and not (entry.open and entry.block is self):
            entry = entry.parent
        return entry

"""What is built once and kept, up to a size."""

from __future__ import annotations

from typing import Any


class Memory(dict[Any, Any]):
    """What was built once for a scope; forgotten all at once when it has grown large."""

    LIMIT = 1024

    def __setitem__(self, key: Any, value: Any) -> None:
        if len(self) >= self.LIMIT:
            self.clear()
        super().__setitem__(key, value)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        self[key] = default
        return default

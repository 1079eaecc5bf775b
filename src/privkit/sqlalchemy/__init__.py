"""The storage room: every statement of a protected engine passes a write gate and a read gate here.

``types`` stand on the columns, ``mapping`` puts them there, ``guard`` holds the rules and keys, ``write_gate``
and ``read_gate`` are the gates, ``criteria`` and ``visibility`` say what may be seen now.
"""

from privkit.sqlalchemy.guard import Guard
from privkit.sqlalchemy.listeners import protect

__all__ = ["Guard", "protect"]

"""The command line: each verb is one function call of the same name. ``privkit --help`` lists them."""

from privkit.cli import adoption as _adoption  # noqa: F401 - registers its verb
from privkit.cli import attack as _attack  # noqa: F401
from privkit.cli import consent as _consent  # noqa: F401
from privkit.cli import datasets as _datasets  # noqa: F401
from privkit.cli import deidentify as _deidentify  # noqa: F401
from privkit.cli import files as _files  # noqa: F401
from privkit.cli import holds as _holds  # noqa: F401
from privkit.cli import lifetimes as _lifetimes  # noqa: F401
from privkit.cli import observed as _observed  # noqa: F401
from privkit.cli import outlook as _outlook  # noqa: F401
from privkit.cli import packs as _packs  # noqa: F401
from privkit.cli import rotation as _rotation  # noqa: F401
from privkit.cli import subjects as _subjects  # noqa: F401
from privkit.cli.commands import main

__all__ = ["main"]

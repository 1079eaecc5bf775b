"""Runs over a data set that are killed: ``python -m tests.datasets.killed IN OUT KEYS COUNT``.

Each is a fork of this process, writes to a folder of its own (OUT-1, OUT-2 ...), and is killed when it touches a file
for the n-th time, n at random. Prints the number of the signal that ended each.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from privkit import FileKeyring
from privkit.datasets.deidentify import deidentify
from tests.datasets.test_deidentify import PARTITIONED

TOUCHES = {"open", "os.rename", "os.mkdir", "os.remove", "os.truncate"}


def main(source: str, out: str, keys: str, count: str) -> None:
    read, write = os.pipe()
    if not os.fork():
        _run(source, f"{out}-0", keys, 0, write)
    os.wait()
    touches, chance, ends = int(os.read(read, 16)), random.Random(7), []
    for number in range(1, int(count) + 1):
        at = chance.randint(1, touches)
        pid = os.fork()
        if not pid:
            _run(source, f"{out}-{number}", keys, at, write)
        ends.append(-os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(*ends)


def _run(source: str, out: str, keys: str, at: int, write: int) -> NoReturn:
    """Run to the ``at``-th touch, or to the end, and then tell how many there were."""
    touched = 0

    def hook(event: str, given: Any) -> None:
        nonlocal touched
        if event in TOUCHES:
            touched += 1
            if touched == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    deidentify(Path(source), Path(out), PARTITIONED, FileKeyring(keys))
    os.write(write, str(touched).encode())
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

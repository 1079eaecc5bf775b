"""Runs Python in a process of its own that need not import privkit first: forks of one process that did.

To start Python and import privkit takes seconds, and the tests of the command line do so hundreds of times. A fork has
its own arguments, folder, environment and standard streams, and ends as any process does, also by a signal. Nothing of
``privkit.cli`` is imported beforehand. What happens before a program's first line is not tested this way.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
_server: socket.socket | None = None


class Forked:
    """A process that was started. What it writes goes to files: its streams are no terminal."""

    def __init__(self, arguments: Sequence[str], cwd: Path, env: Mapping[str, str], stdin: str) -> None:
        self.arguments, self._files = list(arguments), [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115
        given, *_ = self._files
        given.write(stdin.encode())
        given.seek(0)
        self._status, theirs = os.pipe()
        request = json.dumps({"arguments": self.arguments, "cwd": str(cwd), "env": dict(env)}).encode()
        server = _started()
        descriptors = [*(each.fileno() for each in self._files), theirs]
        socket.send_fds(server, [len(request).to_bytes(8, "big")], descriptors)
        server.sendall(request)
        os.close(theirs)

    def ended(self, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Wait for its end. Raises TimeoutError."""
        ready, _, _ = select.select([self._status], [], [], timeout)
        if not ready:
            raise TimeoutError
        code = int(os.read(self._status, 16) or b"255")
        os.close(self._status)
        _, *written = self._files
        for each in written:
            each.seek(0)
        out, err = (each.read().decode("utf-8").replace("\r\n", "\n") for each in written)
        for each in self._files:
            each.close()
        return subprocess.CompletedProcess(self.arguments, code, out, err)


def run(
    arguments: Sequence[str], *, cwd: Path = ROOT, env: Mapping[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m MODULE ...`` or ``python -c CODE ...`` to its end."""
    return Forked(arguments, cwd, env, stdin).ended()


def _started() -> socket.socket:
    """The process that forks, started when first needed; it ends when this one does."""
    global _server
    if _server is None:
        _server, theirs = socket.socketpair()
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONWARNINGS": "error", "PYTHONUTF8": "1"}
        command = [sys.executable, str(Path(__file__)), str(theirs.fileno())]
        process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        theirs.close()
        atexit.register(process.wait)
        atexit.register(_server.close)
    return _server


def _serve(server: socket.socket) -> NoReturn:
    while True:
        header, descriptors, _, _ = socket.recv_fds(server, 8, 4)
        if not header:
            sys.exit()
        size, request = int.from_bytes(header, "big"), b""
        while len(request) < size:
            request += server.recv(size - len(request))
        if not os.fork():
            server.close()
            _watch(json.loads(request), descriptors)
        for each in descriptors:
            os.close(each)
        _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _watch(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Fork the program and tell how it ended."""
    *streams, status = descriptors
    child = os.fork()
    if not child:
        os.close(status)
        _become(request, streams)
    for each in streams:
        os.close(each)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(status, str(ended).encode())
    os._exit(0)


def _become(request: dict[str, Any], streams: list[int]) -> NoReturn:
    """Be the program, as if Python had just been started for it."""
    for number, each in enumerate(streams):
        os.dup2(each, number)
        os.close(each)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    encoding = request["env"].get("PYTHONIOENCODING", "utf-8")
    sys.stdin = sys.__stdin__ = open(0, encoding=encoding)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding=encoding)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding, "backslashreplace")  # type: ignore[misc]  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["env"].get("PYTHONWARNINGS") != "error":
        warnings.resetwarnings()
    paths = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [os.getcwd(), *filter(None, paths), *sys.path[2:]]
    how, what, *rest = request["arguments"]
    sys.argv = [what if how == "-m" else "-c", *rest]
    code: object = 0
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.modules["__main__"] = main = ModuleType("__main__")
            exec(compile(what, "<string>", "exec"), vars(main))  # noqa: S102
    except SystemExit as ended:
        code = ended.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        _die_of(signal.SIGINT)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    _end(int(code or 0))  # type: ignore[call-overload]


def _end(code: int) -> NoReturn:
    """End as Python does, with what was registered for it, but not into the loop that was forked."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _die_of(number: signal.Signals) -> NoReturn:
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(255)


if __name__ == "__main__":
    with contextlib.suppress(ImportError):
        import boto3  # noqa: F401
    import jinja2
    import psycopg
    import rich.console
    import rich.progress
    import rich.table
    import sqlglot
    import typer
    from sqlalchemy.dialects.postgresql import psycopg as _dialect
    from sqlalchemy.dialects.sqlite import pysqlite as _sqlite

    import privkit
    import privkit.datasets.relations

    gc.freeze()
    _ = (jinja2, psycopg, rich, sqlglot, typer, _dialect, _sqlite, privkit)
    _serve(socket.socket(fileno=int(sys.argv[1])))

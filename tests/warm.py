"""`invoke`, started once: a process that has imported it, and forks for each command of a test.

Most of a command is Python's start and its imports, and a test runs several. What is forked is the
program itself, in a process of its own, with its own folder, environment and streams; the project's
package is imported anew. A test that is about the interpreter (PYTHON…, LANG, …), or that kills or
interrupts, starts a program of its own.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

_OF_THE_INTERPRETER = ("PYTHON", "LANG", "LC_", "LD_", "TZ")


def suits(environment: Mapping[str, str]) -> bool:
    """Return whether a command with this environment can be forked."""
    ours, theirs = (
        {n: v for n, v in env.items() if n.startswith(_OF_THE_INTERPRETER)}
        for env in (interpreter(), environment)
    )
    return ours == theirs


def interpreter() -> dict[str, str]:
    """Return the environment that the process which forks was started with."""
    return {"LANG": "C.UTF-8", "PYTHONWARNINGS": "error::ResourceWarning"}


def run(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    typed: str,
    limit_s: float,
) -> tuple[int, str, str]:
    """Run `invoke`; return its exit code, stdout and stderr. Raise `TimeoutExpired` as `run()`."""
    request = json.dumps([list(arguments), str(folder), dict(environment)]).encode()
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        socket.socket(socket.AF_UNIX) as link,
    ):
        given.write(typed.encode())
        given.seek(0)
        link.settimeout(limit_s)
        link.connect(_server())
        socket.send_fds(link, [b"%10d" % len(request)], [f.fileno() for f in (given, out, err)])
        link.sendall(request)
        pid = 0
        try:
            pid = int(link.recv(10))
            status = int(link.recv(10))
        except BaseException as error:  # the limit of the test itself raises here as well
            if pid:
                os.kill(pid, signal.SIGKILL)
            if isinstance(error, TimeoutError):
                raise subprocess.TimeoutExpired(["invoke", *arguments], limit_s) from None
            raise
        return status, _read(out), _read(err)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")


@cache
def _server() -> str:
    """Start the process that forks; it ends with this one, which holds its stdin."""
    path = tempfile.mktemp(prefix="invoke-")  # a socket's
    process = subprocess.Popen(
        [sys.executable, __file__, path],
        env={"PATH": os.environ.get("PATH", os.defpath), **interpreter()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    process.stdout.close()
    atexit.register(process.wait)
    atexit.register(process.stdin.close)
    return path


def serve(path: str) -> None:
    """Fork for each request, until stdin is closed."""
    import invoke.main  # noqa: F401
    import psycopg  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        while True:
            ready, _, _ = select.select([listener.fileno(), 0], [], [])
            if 0 in ready:
                break
            link, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _attend(link)
            link.close()
    os.unlink(path)  # noqa: PTH108


def _attend(link: socket.socket) -> None:
    """Fork the program, and tell its number and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(link, 10, 3)
    request = b""
    while len(request) < int(size):
        request += link.recv(1 << 16)
    pid = os.fork()
    if pid == 0:
        link.close()
        _become(streams, *json.loads(request))
    link.sendall(b"%10d" % pid)
    _, status = os.waitpid(pid, 0)
    link.sendall(b"%10d" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(
    streams: Sequence[int], arguments: list[str], folder: str, environment: dict[str, str]
) -> None:
    """Be `invoke`, with these streams."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        open(n, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        for n, mode, errors in (
            (0, "r", "surrogateescape"),
            (1, "w", "surrogateescape"),
            (2, "w", "backslashreplace"),
        )
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    random.seed()  # or each would be called what its siblings are
    program = str(Path(sys.executable).parent / "invoke")
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(program).parent)
    code = 0
    try:
        from invoke.main import program as invoke

        invoke.run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    _end(code)


def _end(code: int) -> None:
    """End as an interpreter does: threads, what is registered, what nobody has closed."""
    shut_down: Any = getattr(threading, "_shutdown")  # noqa: B009  # has no public name
    shut_down()
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1])

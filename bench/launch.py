"""Run one command and print its seconds, peak memory and exit code as JSON.

A small process of its own, because a child's ru_maxrss begins with that of the process that forked
it. Usage: launch.py LOG TIMEOUT COMMAND …
"""

import json
import os
import signal
import sys
import time


def main(log: str, timeout: str, *command: str) -> None:
    started = time.perf_counter()
    pid = os.fork()
    if not pid:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        try:
            os.execvp(command[0], command)
        finally:
            os._exit(127)
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.killpg(pid, signal.SIGKILL))
    signal.alarm(int(timeout))
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - started
    code = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e6 / 1024)
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "code": code}))  # noqa: T201


main(*sys.argv[1:])

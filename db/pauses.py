"""Pauses that can be ended: a signal wakes the main thread, and a run may be in another."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """What tells the threads of a program to stop, once."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.number = int(signal.SIGINT)

    def tell(self, number: int) -> None:
        """Tell them, as if each had got that signal."""
        self.number = number
        self.told.set()


class _Heard(threading.local):
    stop: Stop | None = None


_heard = _Heard()


@contextmanager
def heeding(stop: Stop) -> Iterator[None]:
    """Let the pauses of this thread end when it is told to stop."""
    before, _heard.stop = _heard.stop, stop
    try:
        yield
    finally:
        _heard.stop = before


def heeds() -> bool:
    """Return whether this thread is one that can be told to stop."""
    return _heard.stop is not None


def check() -> None:
    """Raise `KeyboardInterrupt`, with the signal's number, if this thread is told to stop."""
    stop = _heard.stop
    if stop is not None and stop.told.is_set():
        raise KeyboardInterrupt(stop.number)


def pause(seconds: float) -> None:
    """Let that time pass. Raise as `check()` does, at once."""
    stop = _heard.stop
    if stop is None:
        time.sleep(seconds)
    else:
        stop.told.wait(seconds)
        check()

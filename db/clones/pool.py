"""Clones of a template: the next is made while a test runs, and used ones go behind its back."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from shutil import disk_usage

import psycopg

from ..server.ours import Connection
from . import leftovers
from .leftovers import CLONE
from .server import Place
from .template import create, drop, note_day, rename

_AHEAD = 2  # a test that takes one does not wait for it, nor does the next, if both are short
# So many used ones may wait for as long as tests want new ones: to drop one takes half the time of
# making one, and is better done when nobody waits.
_BEHIND, _BEHIND_OWN = 8, 32
_ROOM = 1 << 29  # bytes: with less than that they go at once


class Pool:
    """The clones of one process. All its SQL runs in one thread, on a connection of its own."""

    def __init__(self, conn: Connection, place: Place, template: str, word: str) -> None:
        self._conn, self._place, self._template, self._word = conn, place, template, word
        self._changed = threading.Condition()
        self._ready: deque[str] = deque()
        self._wanted = _AHEAD
        self._used: deque[Callable[[], None]] = deque()
        self._made = 0
        self._failure: psycopg.Error | None = None
        self._closing = False
        self._swept = False
        self._thread = threading.Thread(target=self._work, name="migrations-clones", daemon=True)
        self._thread.start()

    def take(self) -> str:
        """Return the name of a clone that nobody has used; wait if none is ready.

        Raise psycopg's error if none can be made.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._failure)
            if not self._ready:
                assert self._failure is not None
                raise self._failure
            name = self._ready.popleft()
            self._changed.notify_all()
            return name

    def give_back(self, name: str) -> None:
        """Have a clone dropped, soon."""
        self._later(lambda: drop(self._conn, name))

    def keep(self, name: str, kept: str) -> None:
        """Have a clone renamed, soon, so that it stays when this process ends."""

        def keep() -> None:
            rename(self._conn, name, kept)
            note_day(self._conn, kept)

        self._later(keep)

    def close(self) -> None:
        """Remove every clone that is there, and what others have left; wait for that."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _later(self, work: Callable[[], None]) -> None:
        with self._changed:
            self._used.append(work)
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(self._has_work)
                closing = self._closing and not self._used
                lacks = self._lacks() and not self._crowded()
                work = None if lacks or not self._used else self._used.popleft()
            if closing:
                break
            if lacks:
                self._make()
            elif work is not None:
                with suppress(psycopg.Error):  # it is a leftover, and goes as such
                    work()
            else:
                self._sweep()
        with suppress(psycopg.Error):  # whatever was taken and not given back, too
            leftovers.remove_own(self._conn, self._word)
        self._sweep()

    def _has_work(self) -> bool:
        return bool(self._closing or self._lacks() or self._used or not self._swept)

    def _lacks(self) -> bool:
        return not self._closing and not self._failure and len(self._ready) < self._wanted

    def _crowded(self) -> bool:
        """Return whether used ones have to go before more are made."""
        data, waiting = self._place.data, len(self._used)
        if data is None:
            return waiting >= _BEHIND
        return waiting >= _BEHIND_OWN or bool(waiting and disk_usage(data).free < _ROOM)

    def _make(self) -> None:
        self._made += 1
        name = f"{CLONE}{self._word}_{self._made}"
        failure: psycopg.Error | None = None
        try:
            create(self._conn, name, self._template, self._place)
        except psycopg.Error as error:
            failure = error
        with self._changed:
            if failure is None:
                self._ready.append(name)
            else:
                self._failure = failure
            self._changed.notify_all()

    def _sweep(self) -> None:
        self._swept = True
        with suppress(psycopg.Error):
            leftovers.remove(self._conn, self._word, self._template)

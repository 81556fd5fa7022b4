"""A statement outside a transaction, looked at by a second connection while it runs.

On an empty copy it would be over before anybody could look. So the second connection holds a lock
on every table that one as strong as SHARE UPDATE EXCLUSIVE has to wait for, until it has seen what
is waited for. All such statements ask for their table's lock first.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from ..server import ours
from . import seen
from .seen import Seen

if TYPE_CHECKING:
    from ..server.connection import Target

_PAUSE_S = 0.002
# How often it reads a table that it does not write anew, as its page says:
# https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY
# https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY
# https://www.postgresql.org/docs/current/routine-vacuuming.html
READS = {
    "CREATE INDEX CONCURRENTLY": 2,
    "REINDEX CONCURRENTLY": 2,
    "REINDEX DATABASE": 1,
    "REINDEX SCHEMA": 1,
    "VACUUM": 1,
}
_LOCK = "LOCK TABLE ONLY {} IN SHARE UPDATE EXCLUSIVE MODE"


class Gate:
    """What keeps a session's next statement from being over before it was seen.

    `without`: tables that are not locked: the runner's own.
    """

    def __init__(self, target: Target, pid: int, without: Collection[int]) -> None:
        self._conn = target.once("migrations rehearsal")
        self._watched = seen.question(pid, everything=False)
        self._stop = threading.Event()
        self._locks: set[tuple[int, str]] = set()
        try:
            self.before = self._look()
            self._lock(without)
        except BaseException:
            self._conn.close()
            raise
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _lock(self, without: Collection[int]) -> None:
        self._conn.execute("BEGIN")
        for relation in self.before.relations.values():
            if relation.kind in ("r", "p") and relation.oid not in without:
                name = sql.Identifier(relation.schema, relation.name)
                self._conn.execute(sql.SQL(_LOCK).format(name))

    def end(self) -> Seen:
        """Return what is there now that it is over, with every lock that it was seen to ask for."""
        self._stop.set()
        self._thread.join()
        try:
            return self._look()._replace(held=frozenset(self._locks))
        finally:
            self._conn.close()

    def close(self) -> None:
        """Look no more, and be in nobody's way."""
        self._stop.set()
        self._thread.join()
        self._conn.close()

    def _watch(self) -> None:
        with suppress(psycopg.Error):
            while not self._stop.is_set():
                found = seen.answer(self._ask(self._watched))
                self._locks |= found.held | found.waits
                if found.waits:
                    self._conn.rollback()
                self._stop.wait(_PAUSE_S)
        with suppress(psycopg.Error):
            self._conn.rollback()

    def _look(self) -> Seen:
        return seen.answer(self._ask(seen.question(everything=True)))

    def _ask(self, query: bytes) -> str:
        return str(ours.ask(self._conn, query)[0][0])

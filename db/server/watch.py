"""Beside the connection that works: one that holds the lock of turns, and one that looks on.

The lock is an advisory one of an open transaction, so it cannot leak through a transaction pooler
nor survive kill -9. It is polled: a blocked pg_advisory_lock() would keep a snapshot that CREATE
INDEX CONCURRENTLY waits for, while an idle transaction has none. So what looks on is another
connection: an index build that met a query of the lock's transaction would wait for its end.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import select
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import psycopg

from ..events import Blocker
from . import ours
from .ahead import Ahead
from .connection import PREFIX, Target
from .ours import Connection

# A machine that goes down says nothing; its lock must not stay for the two hours of the default.
_LOCK = """
BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {ours};
SET LOCAL idle_in_transaction_session_timeout = 0; {no_limit}
SELECT pg_catalog.set_config(name, value, true)
FROM (VALUES ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'),
             ('tcp_keepalives_count', '4')) AS kept (name, value)
WHERE pg_catalog.current_setting(name, true) IS NOT NULL;
{taking}"""
_TAKING = """
SELECT pg_catalog.bool_and(pg_catalog.pg_try_advisory_xact_lock(key))
FROM (VALUES {keys}) AS wanted (key)"""
_HOLDER = """
SELECT a.application_name, a.usename,
       CASE WHEN a.state IS NOT NULL
            THEN coalesce(pg_catalog.host(a.client_addr), 'the local socket') END,
       extract(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) a.xact_start)
FROM pg_catalog.pg_locks AS l
JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid
JOIN (VALUES {keys}) AS wanted (classid, objid)
  ON l.classid::pg_catalog.int8 OPERATOR(pg_catalog.=) wanted.classid
 AND l.objid::pg_catalog.int8 OPERATOR(pg_catalog.=) wanted.objid
WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted
  AND l.objsubid OPERATOR(pg_catalog.=) 1
  AND a.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"""
# A session is known by its name. Behind a pooler it has lost that by the time that it executes a
# statement outside a transaction, which therefore begins with the name, in a comment.
_IS_OURS = """
(pg_catalog.starts_with({0}.application_name, %s)
 OR {0}.state OPERATOR(pg_catalog.=) 'active' AND pg_catalog.starts_with({0}.query, %s))"""
_BLOCKERS = f"""
SELECT DISTINCT b.pid, coalesce(b.usename, ''), coalesce(b.application_name, ''),
       coalesce(b.state, b.backend_type, 'hidden (pg_read_all_stats shows it)'),
       coalesce(extract(epoch FROM pg_catalog.clock_timestamp()
                OPERATOR(pg_catalog.-) coalesce(b.xact_start, b.query_start)), 0),
       coalesce(b.query, '')
FROM pg_catalog.pg_stat_activity AS w
CROSS JOIN pg_catalog.unnest(pg_catalog.pg_blocking_pids(w.pid)) AS blocking (pid)
JOIN pg_catalog.pg_stat_activity AS b ON b.pid OPERATOR(pg_catalog.=) blocking.pid
WHERE {_IS_OURS.format("w")}
  AND w.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
LIMIT 5"""
_REPLICATION = """
SELECT pg_catalog.concat('waiting for a synchronous standby to confirm the commit (',
       pg_catalog.current_setting('synchronous_standby_names'), ')')
FROM pg_catalog.pg_stat_activity WHERE pg_catalog.starts_with(application_name, %s)
AND wait_event OPERATOR(pg_catalog.=) 'SyncRep' LIMIT 1"""
_KNOWN = """
SELECT n, pg_catalog.to_regclass(n) IS NOT NULL
FROM pg_catalog.unnest(%s::pg_catalog.text[]) AS n"""
_PROGRESS = f"""
SELECT p.phase, p.done, p.total FROM ({{views}}) AS p
JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) p.pid
WHERE {_IS_OURS.format("a")} LIMIT 1"""
# What each progress view counts; https://www.postgresql.org/docs/current/progress-reporting.html
_VIEWS = {
    "create_index": (
        "phase",
        "greatest(blocks_done, tuples_done)",
        "greatest(blocks_total, tuples_total)",
    ),
    "copy": (
        "pg_catalog.concat('copying, ', tuples_processed, ' rows')",
        "bytes_processed",
        "bytes_total",
    ),
    "vacuum": ("phase", "heap_blks_scanned", "heap_blks_total"),
    "analyze": ("phase", "sample_blks_scanned", "sample_blks_total"),
    "cluster": ("phase", "heap_blks_scanned", "heap_blks_total"),
    "repack": ("phase", "heap_blks_scanned", "heap_blks_total"),
}


@functools.cache
def author() -> str:
    """Return who runs this, as user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def guard_of(session: str) -> str:
    """Return how the application_name of that session's guard begins, and of no other's."""
    return f"{PREFIX}guard {session.removeprefix(PREFIX)} of "


def mark(name: str) -> str:
    """Return how the comment begins by which a session's statement is known."""
    return f"/* {name} "


def _named(name: str) -> list[str]:
    return [name, mark(name)]


def taking(keys: Sequence[str]) -> str:
    """Return the query that takes these locks, if all are free, until its transaction ends.

    Its one value is whether they were. It may stand in a file's session.
    """
    # In quotes: -1 is an operator, of whoever has made one that the search_path finds first.
    return _TAKING.format(keys=", ".join(f"('{_number(key)}'::pg_catalog.int8)" for key in keys))


def _number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)


Look = tuple[str, "float | None", "tuple[Blocker, ...]"]
_ANSWER_S = 0.1


class Guard:
    """The locks of one ledger, and a look at what another connection waits for.

    `session` is the name of whose guard it is, if it is one's. Raise psycopg's error if it cannot
    be connected.
    """

    def __init__(self, target: Target, keys: tuple[str, ...], session: str = "") -> None:
        self._target = target
        begins = guard_of(session or target.session_name())
        self._name = f"{begins}{author()}:{os.getpid()}"[:63]  # by which other runs know who it is
        self._conn = target.once(self._name)
        self._conn.add_notice_handler(self._noticed)
        self._crashed = False
        self._watching: Connection | None = None  # opened by the first look
        self._locked = self._closed = False
        self.keys = keys
        self._numbers = [_number(key) for key in keys]
        self._progress: str | None = None
        self._thread: threading.Thread | None = None
        self._seen: Look | psycopg.Error = ("", None, ())

    def lock(self) -> bool:
        """Take the locks if all are free, and keep them until the connection closes; never wait.

        Raise `psycopg.errors.UndefinedFunction` or `FeatureNotSupported` on engines without
        advisory locks.
        """
        if self._locked:
            return True
        # A transaction_timeout (PostgreSQL 17) would end the session, and the lock with it.
        new = self._conn.info.server_version >= 170000
        no_limit = "SET LOCAL transaction_timeout = 0;" if new else ""
        query = _LOCK.format(
            ours=ours.SETTINGS.decode(),
            no_limit=no_limit,
            taking=taking(self.keys),
        )
        try:
            cursor = self._conn.execute(query.encode())
            while cursor.nextset():
                pass
            row = cursor.fetchone()
        except psycopg.Error:
            with suppress(psycopg.Error):  # of a lost connection, which would hide the reason
                self._conn.rollback()
            raise
        self._locked = row is not None and bool(row[0])
        if not self._locked:
            self._conn.rollback()
        return self._locked

    @property
    def lost(self) -> bool:
        """Whether its connection is of no more use."""
        return self._conn.closed

    def holder(self) -> str:
        """Return who has the lock, in words."""
        halves = (divmod(number % (1 << 64), 1 << 32) for number in self._numbers)
        pairs = ", ".join(
            f"({high}::pg_catalog.int8, {low}::pg_catalog.int8)" for high, low in halves
        )
        row = next(iter(ours.ask(self._conn, _HOLDER.format(keys=pairs))), None)
        if row is None:
            return "another run"
        application, user, address, age = cast("tuple[str, str, str | None, float | None]", row)
        # In a fleet it is the session of a file, whose name says no more than that.
        name = str(application).partition(" of ")[2] or application
        # Of another role's session the server hides the rest.
        more = f" from {address}, for {float(age or 0):.0f} s" if address else ""
        return f"another run, {name} (as {user}{more})"

    def told(self, wait_s: float) -> bool:
        """Return whether the server says that another session's process has crashed."""
        pg = self._conn.pgconn
        with suppress(psycopg.Error):
            select.select([pg.socket], [], [], wait_s)
            pg.consume_input()
        with suppress(psycopg.Error):
            pg.is_busy()  # which reads what has come, also before the end
        return self._crashed

    def look(self, application: str, *, progress: bool) -> Look | None:
        """Return what the session of that application_name does: phase, percentage, blockers.

        None if the server has not answered yet. Whoever calls this may hold the connection of a
        pool that the answer waits for, and must get on with its own work. Raise psycopg's error if
        there is no answer to be had; the lock is kept.
        """
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._look, args=(application, progress), daemon=True
            )
            self._thread.start()
        self._thread.join(_ANSWER_S)
        if self._thread.is_alive():
            return None
        self._thread = None
        if isinstance(self._seen, psycopg.Error):
            raise self._seen
        return self._seen

    def _look(self, application: str, progress: bool) -> None:
        try:
            if self._watching is None:
                self._watching = self._target.once(self._name)
            phase, percent = self.progress(application) if progress else ("", None)
            self._seen = phase, percent, self.blockers(application)
        except psycopg.Error as error:
            self._seen = error
        if self._closed and self._watching:
            self._watching.close()

    def blockers(self, application: str) -> tuple[Blocker, ...]:
        """Return up to five sessions that the session of that application_name waits for."""
        return tuple(
            Blocker(int(p), u, a, s, float(age), " ".join(q.split())[:200])
            for p, u, a, s, age, q in self._rows(_BLOCKERS, _named(application))
        )

    def progress(self, application: str) -> tuple[str, float | None]:
        """Return the phase and the percentage of what that session does, where the server knows."""
        if self._progress is None:
            names = [f"pg_catalog.pg_stat_progress_{view}" for view in _VIEWS]
            there = dict(self._rows(_KNOWN, [names]))
            self._progress = " UNION ALL ".join(
                f"SELECT pid, {phase} AS phase, {done} AS done, {total} AS total FROM {name}"
                for name, (phase, done, total) in zip(names, _VIEWS.values(), strict=True)
                if there[name]
            )
        rows = self._rows(_PROGRESS.format(views=self._progress), _named(application))
        if not rows:
            waits = self._rows(_REPLICATION, [application])
            return str(waits[0][0]) if waits else "", None
        phase, done, total = rows[0]
        return str(phase), min(100.0, 100.0 * int(done) / int(total)) if total else None

    def close(self) -> None:
        """Release the lock, and look no more."""
        self._closed = True
        self._conn.close()
        if self._thread is not None:
            if self._watching:
                with suppress(psycopg.Error):
                    self._watching.cancel_safe(timeout=1)
            self._thread.join(1)
        if self._watching and not (self._thread and self._thread.is_alive()):
            self._watching.close()

    def _noticed(self, said: psycopg.errors.Diagnostic) -> None:
        self._crashed |= said.sqlstate == "57P02"

    def _rows(self, query: str, parameters: Sequence[Any]) -> list[Any]:
        assert self._watching is not None
        return ours.ask(self._watching, query, parameters)


def opened(target: Target, keys: tuple[str, ...], session: str, *, lock: bool) -> Ahead[Guard]:
    """Return a session's guard, which is being connected, and takes its locks if they are free."""

    def make() -> Guard:
        guard = Guard(target, keys, session)
        try:
            if lock:
                guard.lock()
        except psycopg.Error:  # whoever needs the lock tries again, and is told
            if guard.lost:
                raise
        return guard

    return Ahead(guard_of(session), make)

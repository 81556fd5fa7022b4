"""The connection that does the work, and the one that watches it."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from ..errors import ConnectionFailed, Diagnostic, one_line
from ..events import Blocker, Event, Note, Noticed, Progress, Waiting
from ..pauses import pause
from ..server import ours, pooler
from ..server.ahead import Ahead
from ..server.connection import PREFIX, Target
from ..server.described import Server, StandbyFound, describe_and_ask
from ..server.ours import Connection
from ..server.pipeline import TICK_S, Arrival, Command, LinkLost, Pipeline, diagnostic
from ..server.watch import Guard, author, guard_of, opened
from ..settings import Settings
from ..sql.traces import KEPT, Traces
from . import place
from .running import Running

_SHOW_S = 2.0  # a statement that runs longer than this is worth a live line
_SHOW_AGAIN_S = 0.9
_NOTICES = 20  # of one file, the latest
_PROMOTION_S = 0.5  # between two looks at a standby
_TRIES = 3  # to connect, where each breaks at once

_USABLE = """
SELECT pg_catalog.has_schema_privilege(n.oid, 'USAGE') FROM pg_catalog.pg_namespace AS n
WHERE n.nspname OPERATOR(pg_catalog.=) %s"""
# A server may take hours to notice that a client is gone, and keeps its locks for so long.
_END = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
  AND (pg_catalog.starts_with(application_name, %s)
       OR pg_catalog.starts_with(application_name, %s))"""
# Whether a function of the database leaves something in a session, as a file's text would show.
_KEEPERS = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_proc AS p
    JOIN pg_catalog.pg_language AS l ON l.oid OPERATOR(pg_catalog.=) p.prolang
    WHERE p.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
      AND NOT l.lanname OPERATOR(pg_catalog.=) ANY ('{c,internal}'::pg_catalog.name[])
      AND pg_catalog.concat(
          'set ', pg_catalog.array_to_string(p.proconfig, ' set '), ' ',
          CASE WHEN p.prosrc OPERATOR(pg_catalog.=) ''
               THEN pg_catalog.pg_get_functiondef(p.oid) ELSE p.prosrc END)
          OPERATOR(pg_catalog.~*) ANY (%s::pg_catalog.text[]))"""


class Session:
    """One working connection. Every one has a name of its own, so that others can tell it."""

    def __init__(self, target: Target, settings: Settings, conn: Connection, name: str) -> None:
        self.target = target
        self.settings = settings
        self.name = name
        self._tables: list[ours.Row] | None
        self._keepers: bool | None = None  # functions that leave something in a session; not known
        self._use(conn)
        self.created = False  # the database, just now
        self.guard: Guard | None = None
        self._opening: Ahead[Guard] | None = None
        self.unguarded: tuple[str, ...] = ()  # the lock of turns, where a file takes that itself
        self.alone = False  # a pool has no second connection for this run
        self.notices: list[Diagnostic] = []
        self._earlier = 0  # notices that are not kept
        self.blockers: tuple[Blocker, ...] = ()
        self.shown = 0.0
        # What its rows of the ledger are signed with: no other run's are.
        self.author = f"{author()} ({name.removeprefix(PREFIX)})"
        self.may_reach_out = False  # to another server, by what a file may have installed
        self.exposed = False  # others may have attached something to the ledger since the survey
        self.suspect = ""  # a file that may have ended the last session: each answer is asked for
        self._blind = False
        self.said: set[str] = set()  # what is said once

    def _use(self, conn: Connection) -> None:
        self.conn = conn
        asked = place.finding(*place.parted(self.settings.ledger))
        self.server, (self._tables,) = describe_and_ask(conn, [asked])
        wanted = self.target.schema
        if wanted and (self.server.pooled or conn.schemas[:1] != (wanted,)):
            raise _not_first(conn, wanted, self.server)
        self.pipe = Pipeline(conn)
        self._since = time.monotonic()
        self._met: list[Traces] = []  # of the files that were sent through it
        conn.add_notice_handler(self._noticed)

    def tables(self) -> list[ours.Row] | None:
        """Return what `place.FIND` found as the connection began; None from the second time on."""
        tables, self._tables = self._tables, None
        return tables

    def meet(self, running: Running) -> None:
        """Note that a file is being sent, whatever becomes of it.

        Not behind a pooler: what it would give for a new session, others have used.
        """
        if not self.server.pooled:
            self._met.append(running.traces)

    def may_keep(self) -> bool:
        """Return whether the file that was sent last may have left something in the session."""
        return any(t.kept or (t.calls and self._keepers is not False) for t in self._met[-1:])

    def fresh(self) -> Generator[Event, None, None]:
        """Go on in a new session if something may be left in this one that is not discarded.

        So one run of several files leaves what several runs do. Raise `LinkLost` if there is none.
        """
        if any(traces.kept for traces in self._met):
            self._keepers = None  # it may have made one
            yield from self._renew()
        elif any(traces.calls for traces in self._met) and self._has_keepers():
            yield from self._renew()

    def _has_keepers(self) -> bool:
        if self._keepers is None:
            try:
                ((self._keepers,),) = ours.ask(self.conn, _KEEPERS, [list(KEPT)])
            except psycopg.Error:  # who may not look cannot tell
                if self.conn.closed:
                    raise
                self._keepers = True
        return bool(self._keepers)

    def _renew(self) -> Generator[Event, None, None]:
        self.conn.close()
        try:
            self._use((yield from self.target.connect(self.name)))
        except ConnectionFailed as error:
            raise LinkLost(error.message) from None

    @classmethod
    def open(
        cls, target: Target, settings: Settings, *, create: bool, again: bool = False
    ) -> Generator[Event, None, Session]:
        """Return a session, yielding what is waited for; `create` a database that is missing.

        `again`: the primary went away, so a standby that is found there may be about to follow it.
        """
        started, tries = time.monotonic(), _TRIES
        while True:
            try:
                return (yield from cls._open(target, settings, create=create))
            except StandbyFound:
                waited = time.monotonic() - started
                if not again or waited >= target.timeout_s:
                    raise
                yield Waiting("the standby to be promoted", waited)
                pause(_PROMOTION_S)
            except psycopg.Error as error:  # gone again, before it had answered anything
                gone, tries = error, tries - 1
                if not tries:
                    break
        raise target.failed(gone)

    @classmethod
    def _open(
        cls, target: Target, settings: Settings, *, create: bool
    ) -> Generator[Event, None, Session]:
        name, created = target.session_name(), False
        try:
            conn = yield from target.connect(name)
        except ConnectionFailed:
            if not (create and target.create_database()):
                raise
            conn = yield from target.connect(name)
            created = True
        try:
            if created:
                place.make_schema(conn, settings.ledger)
            session = cls(target, settings, conn, name)
        except BaseException:
            conn.close()
            raise
        session.created = created
        return session

    def close(self) -> None:
        """Close both connections; a statement that still runs is cancelled first."""
        if not self.conn.closed and self.conn.info.transaction_status == TransactionStatus.ACTIVE:
            with suppress(psycopg.Error):
                self.pipe.abort()
        self.conn.close()
        self.unwatch()

    @property
    def age_s(self) -> float:
        """Return how long ago it was opened."""
        return time.monotonic() - self._since

    @property
    def lock_timeout_ms(self) -> int | None:
        """Return how long one attempt may wait for a lock; None for engines that cannot tell."""
        return self.settings.lock_timeout_ms if "lock_timeout" in self.server.settings else None

    @property
    def may_not_flush(self) -> bool:
        """Return whether a commit can be told not to wait for the disk."""
        return "synchronous_commit" in self.server.settings

    def end(self, lost: Session) -> None:
        """End what the server may still hold of a session whose link was lost."""
        with suppress(psycopg.Error):  # an engine that cannot, or this one is lost as well
            ours.ask(self.conn, _END, [lost.name, guard_of(lost.name)])

    def open_guard(self, keys: tuple[str, ...]) -> Ahead[Guard]:
        """Begin to open the second connection, while there is other work to do."""
        if self._opening is None:
            if self.server.pooled:
                pooler.check(self.conn)  # before the pool's only connection may be taken
            self._opening = opened(self.target, keys, self.name, lock=self.settings.guard)
        return self._opening

    def watched(self, keys: tuple[str, ...]) -> Guard:
        """Return the guard, opened on first use."""
        if self.guard is None:
            self.guard = self.open_guard(keys).get()
        return self.guard

    @property
    def is_watched(self) -> bool:
        """Return whether the second connection is there, or is known not to come."""
        return bool(self.guard or (self._opening and self._opening.comes(0)))

    def unwatch(self) -> None:
        """Give up the guard, and its lock."""
        if self.guard:
            self.guard.close()
        elif self._opening:
            self._opening.close()
        self.guard = self._opening = None

    def send(self, commands: Iterable[Command]) -> Iterator[Arrival | None]:
        """Send commands through the pipeline; yield results of these and earlier ones.

        COPY data cannot go through a pipeline: its transaction stays open around it.
        """
        for command in commands:
            if command.copy is None:
                self.pipe.send(command)
                suspect = self.suspect and command.about and self.suspect == command.about.filename
                if self.pipe.full or suspect:
                    yield from self.pipe.push()
            else:
                yield from self.pipe.copy(command)
        yield from self.pipe.push()

    def watch(self, running: Running, elapsed_s: float) -> Iterator[Event]:
        """Look at what a statement waits for that has not answered for `elapsed_s` seconds."""
        phase, percent = "", None
        if self.unguarded and self.guard is None:
            self._look_on()
        if self.guard and not self._blind:
            try:
                seen = self.guard.look(self.name, progress=elapsed_s > _SHOW_S)
                phase, percent, found = seen or ("", None, ())
                # The look after a lock timeout finds nobody any more; who it was is still wanted.
                self.blockers = found or (self.blockers if elapsed_s > 2 * TICK_S else ())
            except psycopg.Error as error:
                self._blind = True
                reason = one_line(str(error))
                yield Note(f"what the statements wait for cannot be watched: {reason}")
        if elapsed_s > _SHOW_S and time.monotonic() - self.shown > _SHOW_AGAIN_S:
            self.shown = time.monotonic()
            yield Progress(running.filename, elapsed_s, phase, percent, self.blockers)

    def _look_on(self) -> None:
        """Have a guard all the same, when it is there: a statement takes long."""
        if not self.open_guard(self.unguarded).is_alive():
            with suppress(psycopg.Error):
                self.watched(self.unguarded)

    def rollback(self) -> None:
        """Leave a failed transaction, and what would outlive it (session advisory locks do)."""
        if self.conn.info.transaction_status != TransactionStatus.IDLE:
            self.conn.execute("ROLLBACK")
        self.conn.execute("DISCARD ALL")

    def heard(self, filename: str) -> Iterator[Event]:
        """Yield what the server has said while a file ran, and forget it."""
        if self._earlier:
            count = f"{self._earlier:,} earlier messages of the server are not shown"
            yield Note(count, filename=filename)
        yield from (Noticed(filename, said) for said in self.notices)
        self.forget()

    def forget(self) -> None:
        """Forget what the server has said."""
        self.notices, self._earlier = [], 0

    def _noticed(self, said: psycopg.errors.Diagnostic) -> None:
        self._earlier += len(self.notices) == _NOTICES
        self.notices = [*self.notices, diagnostic(said)][-_NOTICES:]


def _not_first(conn: Connection, schema: str, server: Server) -> ConnectionFailed:
    """Return why a schema is not where unqualified names of a file would lead to."""
    where, shown = server.connected, sql.Identifier(schema).as_string(None)
    usable = ours.ask(conn, _USABLE, [schema])
    if not usable:
        return ConnectionFailed(
            f"{where}: there is no schema {schema} any more. Nothing was executed.",
            "It was dropped, or has another name. Which there are: invoke db.fleet looks again.",
        )
    if not usable[0][0]:
        return ConnectionFailed(
            f"{where}: this role may not use the schema {schema}. Nothing was executed.",
            f'Let its owner run: GRANT USAGE, CREATE ON SCHEMA {shown} TO "{where.user}";',
        )
    if schema == "$user":
        return ConnectionFailed(
            f"{where}: no search_path leads to a schema named $user, which is a word for the "
            "role's own there. Nothing was executed.",
            f"Let its owner rename it: ALTER SCHEMA {shown} RENAME TO …;",
        )
    return ConnectionFailed(
        f"{where}: the search_path of {schema} does not reach the server, or a pooler gives its "
        "sessions to others. Nothing was executed.",
        "Connect to the server directly: a schema each needs a session each.",
    )

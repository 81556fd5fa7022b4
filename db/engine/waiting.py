"""What a run waits for: its turn among other runs, the ledger, and the locks of its files."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Generator, Iterator
from typing import TypeVar

import psycopg

from ..errors import one_line
from ..events import Blocker, Event, Note, Retrying, Waiting
from ..pauses import pause
from ..server import ours, pooler
from ..server.connection import PREFIX
from ..server.pipeline import GIVEN_UP, CommandFailed
from . import ledger, place
from .place import Ledger
from .running import Running
from .session import Session
from .survey import Survey

T = TypeVar("T")

_POLL_S = 0.5
_SAY_AGAIN_S = 30.0
_POOL_S = 5.0  # for a connection of the pool
_TRIPS = 10  # to the server and back, at most, until a second connection has the lock
_TRIES = 3  # of a second connection
_LOCKED = {"55P03", "40P01", "40001"}  # lock not available, deadlock, serialization failure
_TAKEN = "23505"
# Said of a row of a catalog, by words that the server never translates.
_AT_ONCE = ("tuple concurrently updated", "tuple concurrently deleted")
_ID = re.compile(r"\(id\)=\(")  # in the detail, whatever its language
# What CREATE TABLE IF NOT EXISTS fails with if another session creates it at the same moment.
_CREATED = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
)
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 10.0


def nap() -> None:
    """Pause between two looks, for a time that keeps many runs out of step."""
    pause(_POLL_S * random.uniform(0.5, 1.5))


def take_turn(
    session: Session, keys: tuple[str, ...], *, guarded: bool, needless: Callable[[], bool]
) -> Generator[Event, None, None]:
    """Wait until no other run is under way, or this one has become `needless`."""
    started, said, failures = time.monotonic(), 0.0, 0
    while True:
        yield from _await_second(session, keys)
        if session.alone:
            return
        try:
            guard = session.watched(keys)
            free = not guarded or guard.lock()
            holder = "" if free else guard.holder()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.FeatureNotSupported):
            yield Note("this server has no advisory locks: runs do not take turns here")
            return
        except psycopg.OperationalError as error:
            if pooler.had_none(error):
                yield from _leave_alone(session)
                return
            session.unwatch()
            failures += 1
            if failures < _TRIES:
                continue
            reason = one_line(str(error))
            yield Note(f"there is no second connection to watch the first: {reason}", "warning")
            return
        if free:
            if guarded:
                yield from _share_pool(session)
            return
        now = time.monotonic()
        if now - said >= _SAY_AGAIN_S:
            yield Waiting(holder, now - started)
            said = now
        nap()
        if needless():
            return


def _await_second(session: Session, keys: tuple[str, ...]) -> Iterator[Event]:
    """Wait until the second connection is there, unless the pool gives this run only the first."""
    if session.alone or session.guard is not None:
        return
    opening = session.open_guard(keys)
    if not session.server.pooled or opening.comes(_POOL_S):
        return
    asked = time.monotonic()
    yield from _share_pool(session)
    # The first has what it needs, so no other client is in the way; the network may be slow.
    trips_s = _TRIPS * (time.monotonic() - asked)
    if not (session.alone or opening.comes(min(trips_s, _POOL_S))):
        yield from _leave_alone(session)


def _share_pool(session: Session) -> Iterator[Event]:
    """Give the lock up again if it has taken the only connection that the pool has for us."""
    if not session.server.pooled:
        return
    started, shared = time.monotonic(), True
    pooler.ask(session.conn)
    try:
        while not pooler.answered(session.conn, _POOL_S):
            if session.is_watched:
                shared = False
                session.unwatch()
                continue
            yield Waiting("a connection of the pool", time.monotonic() - started)
    except psycopg.OperationalError as error:
        if session.is_watched and pooler.had_none(error):
            yield from _leave_alone(session)  # and so is the session that comes after this one
        raise
    if not shared:
        yield from _leave_alone(session)


def _leave_alone(session: Session) -> Iterator[Event]:
    """Do without a second connection from here on, and say so."""
    session.unwatch()
    session.alone = True
    yield Note(pooler.TOO_SMALL, "warning")


def patiently(session: Session, act: Callable[[], T]) -> Generator[Event, None, T]:
    """Return what `act` does with the ledger; a lock on it is waited for, and said."""
    started = time.monotonic()
    while True:
        try:
            return act()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if time.monotonic() - started > session.settings.lock_wait_s:
                raise
        yield Waiting("the ledger, which another session has locked", time.monotonic() - started)
        nap()


def prepare(session: Session, found: Survey, *, unfinished: bool) -> Generator[Event, None, Ledger]:
    """Create or adopt the ledger, and return it; a lock on it is waited for like any other."""
    book = found.ledger

    def act() -> Ledger:
        made = ledger.prepare(session.conn, book, session.lock_timeout_ms, unfinished=unfinished)
        if found.unchecked:
            ledger.fill_in(session.conn, made, found.unchecked, session.lock_timeout_ms)
        return made

    while True:
        try:
            return (yield from patiently(session, act))
        except _CREATED as error:
            now = place.find(session.conn, session.settings.ledger)
            if now == book:  # not by another run: something else has the name
                raise error from None
            book = now


def mend(session: Session, book: Ledger, failed: CommandFailed) -> Generator[Event, None, bool]:
    """Return whether a claim failed because its row's id is taken, and it has been seen to that."""
    said = failed.diagnostic
    if failed.command.role != "claim" or said.sqlstate != _TAKEN or not _ID.search(said.detail):
        return False

    def look() -> bool:
        limit = session.lock_timeout_ms
        with ours.transaction(session.conn, lock_timeout_ms=limit):
            ours.execute(session.conn, ledger.locally(limit))
            ledger.hold(session.conn, book)
            return ledger.mend(session.conn, book)

    mended = yield from patiently(session, look)
    if mended:
        yield Note("the ids of the ledger had been behind its rows, and were set right")
    return mended


def _at_once(failed: CommandFailed) -> bool:
    """Return whether another session has changed the same of a catalog at the same moment.

    Such as an extension that both create, IF NOT EXISTS, or a GRANT on the same schema.
    """
    if failed.diagnostic.sqlstate == _TAKEN:
        return failed.schema == "pg_catalog"
    return failed.diagnostic.message in _AT_ONCE


class Patience:
    """How long the locks of one file have been waited for, and how often."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.filename = ""
        self.since = 0.0
        self.attempt = 0

    def retry(
        self, failed: CommandFailed, running: Running, blockers: tuple[Blocker, ...]
    ) -> Event | None:
        """Return what is waited for before the next try, or None if there should be none."""
        if self.filename != running.filename or running.progressed:
            self.filename, self.since, self.attempt = running.filename, time.monotonic(), 0
        self.attempt += 1
        elapsed, said = time.monotonic() - self.since, failed.diagnostic
        claimed = failed.command.role == "claim"
        if claimed and any(blocker.application.startswith(PREFIX) for blocker in blockers):
            # However long it takes: it is being executed, only not by this run.
            return Waiting(f"another run, which executes {running.filename}", elapsed)
        taken = claimed and said.sqlstate == _TAKEN
        locked = said.sqlstate in _LOCKED or GIVEN_UP in said.message
        if not (locked or taken or _at_once(failed)):
            return None
        if running.once:
            return None
        longest = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (self.attempt - 1))
        pause = longest * random.uniform(0.5, 1.0)
        if elapsed + pause > self.limit_s:
            return None
        return Retrying(
            running.filename, said.sqlstate, said.message, self.attempt, pause, blockers
        )

    @staticmethod
    def pause(waited_for: Event) -> None:
        """Let that time pass."""
        if isinstance(waited_for, Retrying):
            pause(waited_for.pause_s)
        else:
            nap()

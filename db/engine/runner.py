"""A goal -> the database, as a stream of events.

The story is `Run.events`: connect, survey, take turns with other runs, execute. Whatever happens on
the way, the ledger is read again before anything is said or repeated. That a file runs exactly once
rests on the ledger's unique key, whose row is written in the transaction of the file; the advisory
lock only keeps runs from getting in each other's way.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import cast

import psycopg

from ..errors import (
    FileChanged,
    FilesError,
    Interrupted,
    LedgerError,
    MigrationsError,
    counted,
    refuse,
)
from ..events import Blocker, Event, Finished, Note, Planned
from ..files.folder import Migration, discover
from ..files.plan import Goal, batched
from ..server.connection import Target
from ..server.pipeline import CommandFailed
from ..settings import Settings
from . import ledger, place, remedy
from .account import Account
from .recovery import Recovery, interrupted, lost, nothing_known, replicated, stopped
from .running import Running
from .sender import Sender
from .session import Session
from .survey import survey
from .waiting import Patience, mend, patiently, prepare, take_turn


class _NotFree(Exception):
    """Another run is under way, or has changed what stands."""


class Run(Sender):
    """One run. `events()` does it."""

    _accounts = Account
    _sessions = Session

    def __init__(
        self,
        target: Target,
        settings: Settings,
        goal: Goal,
        files: tuple[Migration, ...] | None = None,
        *,
        sparing: bool = False,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._target = target
        self._sparing = sparing  # with one connection, where that will do
        self._begin = begin  # asked when there is something to execute: it may wait, or raise
        self._files = files  # those of the folder, where they were read for many runs
        self._goal = goal
        recovery = Recovery()
        super().__init__(settings, recovery, self._accounts(recovery))

    @property
    def executed(self) -> list[str]:
        """Return the files that it has executed so far."""
        return self._account.executed

    def events(self) -> Generator[Event, None, None]:
        """Do it, and yield what happens. Raise an error of `db.errors` if it cannot be done.

        KeyboardInterrupt, raised in here or thrown in, cancels the running statement and ends in
        `Interrupted`, which says what stands.
        """
        started = time.monotonic()
        folder = self._settings.folder
        if self._files is None:  # before a database is made that would stay empty
            self._files = discover(folder, self._settings.shown(folder))
        try:
            self._session = yield from self._sessions.open(
                self._target, self._settings, create=self._goal.schema
            )
        except KeyboardInterrupt as stop:
            raise Interrupted(
                "Interrupted. Nothing was executed.", signal_number=_signal(stop)
            ) from None
        try:
            yield self._session.server.connected
            if self._session.created:
                yield Note("the database was created")
            yield from self._until_done()
            yield Finished(tuple(self.executed), round(1000 * (time.monotonic() - started)))
        except KeyboardInterrupt as stop:
            raise self._interrupted(_signal(stop)) from None
        except MigrationsError as error:
            error.__context__ = None  # what libpq or the server said may quote the password
            raise
        finally:
            with suppress(psycopg.Error):
                self._flush()
            self._session.close()

    def _until_done(self) -> Iterator[Event]:
        """Tell the story from its beginning each time that the connection was lost."""
        first, gone = True, None
        while True:
            try:
                if gone is not None:  # in here: it may be lost again
                    yield from self._reconnect(gone)
                yield from self._story(first=first)
                self._flush()
                return
            except psycopg.OperationalError as error:
                if not lost(self._session, error):
                    raise remedy.unusable(self._session, error, self._goal.command) from None
                gone = error
            except psycopg.Error as error:
                raise remedy.unusable(self._session, error, self._goal.command) from None
            first = False

    def _story(self, *, first: bool) -> Iterator[Event]:
        yield from self._look()
        if first:
            yield from self._survey.notes
        if self._survey.idle:
            if first:
                yield Planned((), len(self._survey.executed))
            return
        if self._begin is not None:
            self._begin()
        if not (self._sparing or self._session.alone):
            self._session.open_guard(self._ledger.keys)
        unfinished = self._check()
        if first and self._is_alone(unfinished=unfinished) and (yield from self._in_its_turn()):
            return
        checked = self._survey
        yield from self._take_turn(unfinished=unfinished)
        if self._survey.idle:
            if first:
                yield Planned((), len(self._survey.executed))
            return
        if (self._survey.todo, self._survey.progress) != (checked.todo, checked.progress):
            unfinished = self._check()
        self._ledger = yield from prepare(self._session, self._survey, unfinished=unfinished)
        if first:
            yield Planned(tuple(m.filename for m in self._survey.todo), len(self._survey.executed))
        yield from self._execute(self._survey.todo)

    def _is_alone(self, *, unfinished: bool) -> bool:
        """Return whether a transaction is all that is to be done: it takes the turn itself."""
        return (
            self._sparing
            and self._settings.guard
            and self._ledger.complete
            and len(self._survey.todo) == 1
            and not (unfinished or self._survey.unchecked or self._session.server.pooled)
        )

    def _in_its_turn(self) -> Generator[Event, None, bool]:
        """Execute the only file; return False, with nothing done, if the turn was not free."""
        session = self._session
        session.unguarded = self._ledger.keys
        try:
            yield from self._execute(self._survey.todo)
        except _NotFree:
            return False
        finally:
            session.unguarded = ()
        return True

    def _take_turn(self, *, unfinished: bool) -> Iterator[Event]:
        """Wait for this run's turn, and survey again: what stood before may be out of date.

        A ledger that is nowhere still is made instead.
        """
        while True:
            keys = self._ledger.keys
            yield from take_turn(
                self._session, keys, guarded=self._settings.guard, needless=self._needless
            )
            if self._make_first(unfinished=unfinished):
                return
            yield from self._look(again=True)
            if self._ledger.keys == keys:
                return
            self._session.unwatch()  # another run has made the ledger elsewhere

    def _make_first(self, *, unfinished: bool) -> bool:
        """Return whether the ledger was nowhere still, and has been made."""
        session, book = self._session, self._survey.ledger
        if book.exists or self._goal.schema:  # which is for an empty database
            return False
        made = ledger.prepare_first(
            session.conn, book, session.lock_timeout_ms, unfinished=unfinished
        )
        if made is None:
            return False
        self._ledger, self._survey = made, self._survey._replace(ledger=made)
        return True

    def _look(self, *, again: bool = False) -> Iterator[Event]:
        """Survey, and see what became of the files that were under way when a link was lost.

        `again`: only the database; the files are those that were checked.
        """
        session, before = self._session, self._survey if again else None
        self._survey = yield from patiently(
            session,
            lambda: survey(
                session.conn,
                self._settings,
                self._goal,
                session.lock_timeout_ms,
                before=before,
                files=self._files,
                tables=session.tables(),
            ),
        )
        self._ledger = self._survey.ledger
        self._account.late = frozenset(self._survey.plan.named("out of order"))
        yield from self._account.confirm(self._survey.executed)

    def _check(self) -> bool:
        """Refuse what cannot be run as it is written; return whether a file is no-transaction."""
        from . import check

        session = self._session
        refused, outside = check.refusals(
            self._survey, session.conn, session.server, self._settings
        )
        refuse(refused, "Nothing was executed.", self._goal.preview)
        return outside

    def _execute(self, todo: Sequence[Migration]) -> Iterator[Event]:
        """Execute the files; after a failure, whatever the ledger does not have."""
        patience = Patience(self._settings.lock_wait_s)
        self._session.forget()  # what it said about the ledger
        while todo:
            try:
                yield from self._attempt(todo)
                break
            except FileChanged as changed:
                raise self._changed(changed, todo) from None
            except CommandFailed as failed:
                running = cast("Running | None", failed.command.about)
                self._session.rollback()
                if failed.command.role == "turn":
                    self._account.clear()
                    raise _NotFree from None
                if running is None:  # cancelled before the first file began
                    continue
                distrusted = failed.command.role == "trusted"
                if distrusted and (wrong := self._distrusted(todo)):
                    raise wrong from None
                before, todo = todo, self._still(todo)
                self._account.clear()
                if distrusted:  # a file has given it to another owner, who is trusted
                    continue
                if running.migration not in todo:
                    names = {m.filename for m in before} - {m.filename for m in todo}
                    yield self._account.elsewhere(running.filename, names)
                    continue
                if (yield from mend(self._session, self._ledger, failed)):
                    continue
                blockers, self._session.blockers = self._session.blockers, ()
                again = patience.retry(failed, running, blockers)
                if again is None:
                    raise self._failed(failed, running, todo, blockers) from None
                self._session.forget()
                yield again
                patience.pause(again)

    def _remaining(self, todo: Sequence[Migration]) -> list[Migration]:
        """Return what the ledger does not have."""
        session = self._session
        self._ledger, rows, _ = ledger.look(
            session.conn,
            lambda: place.find(session.conn, self._settings.ledger),
            session.lock_timeout_ms,
        )
        return [m for m in todo if not self._account.is_done(m.filename, rows)]

    def _needless(self) -> bool:
        return not self._still(self._survey.todo)

    def _still(self, todo: Sequence[Migration]) -> Sequence[Migration]:
        """Return what the ledger does not have; all, if it is locked: a claim will tell."""
        try:
            return self._remaining(todo)
        except psycopg.errors.LockNotAvailable:
            return todo

    def _failed(
        self,
        failed: CommandFailed,
        running: Running,
        todo: Sequence[Migration],
        blockers: tuple[Blocker, ...],
    ) -> MigrationsError:
        """Return the error of a file, with what stands now as the ledger tells it."""
        from . import failure, outside

        self._flush()
        outcome, doubt = self._standing(todo), list[str]()
        if running.script.directives.transaction:
            outcome = f"Rolled back. {outcome}"
        else:
            progress = ledger.read_progress(self._session.conn, self._ledger)
            units = progress.get(running.filename, ())
            done = sum(unit.finished for unit in units)
            outcome = f"{outcome} What precedes this statement stays: {done} executed in this file."
            if batches := batched(units):
                outcome = f"{outcome} So do {batches} of it."
            outcome = f"{outcome} {running.left}".rstrip()
            doubt = outside.doubt(self._ledger, running.script, running.filename, units)
        return failure.explain(
            failed,
            running,
            outcome=outcome,
            notices=tuple(self._session.notices),
            blockers=blockers,
            doubt=doubt,
            command=self._goal.command,
            unloaded=self._unloaded(),
        )

    def _distrusted(self, todo: Sequence[Migration]) -> LedgerError | None:
        self._flush()
        stands = self._standing([m for m in todo if m.filename not in self.executed])
        return remedy.distrusted(self._session, self._ledger, stands, self._goal.command)

    def _changed(self, changed: FileChanged, todo: Sequence[Migration]) -> FilesError:
        """Return the error of a file that became another one while it was sent."""
        self._session.rollback()
        todo = self._still(todo)
        name = next((m.filename for m in todo if m.shown == changed.shown), "")
        units = ledger.read_progress(self._session.conn, self._ledger).get(name, ())
        done = sum(unit.finished for unit in units)
        left = f"{done} of its statements stay executed" if done else "It was not executed"
        return FilesError(
            f"{changed.message} {left if name else 'Another run has executed it'}. "
            f"{self._standing(todo)}",
            f"Leave the file as it is while it runs, then: invoke {self._goal.command}",
        )

    def _unloaded(self) -> remedy.Unloaded | None:
        """Return the base schema's file, if there is one that this database never got."""
        file, executed = self._settings.schema, {*self._survey.executed, *self.executed}
        # It is for a database, and not for a schema of one.
        if executed or self._target.schema or not file.is_file():
            return None
        empty = place.is_empty(self._session.conn, self._ledger)
        return remedy.Unloaded(self._settings.shown(file), empty)

    def _standing(self, todo: Sequence[Migration]) -> str:
        rows = list(self._survey.executed) + self.executed
        last = f"{rows[-1]} is the last executed file" if rows else "No file was executed"
        return f"{last}, {counted(len(todo), 'file')} still pending."

    def _reconnect(self, error: psycopg.Error) -> Iterator[Event]:
        """Come back to a server that went away, to go on from what its ledger says.

        Raise the failure of a statement that would end this connection as well.
        """
        self._session, failed = yield from self._recovery.reconnect(
            self._session, error, self._account.under_way, self._goal.command
        )
        if failed is not None:
            yield from self._look()
            if failed.command.about.migration in self._survey.todo:
                raise self._failed(failed, failed.command.about, self._survey.todo, ())

    def _interrupted(self, signal_number: int) -> Interrupted:
        """Cancel what runs, and return what stands."""
        again = f"Go on with: invoke {self._goal.command}"
        under_way = self._account.under_way
        try:
            current = self._session.pipe.current
            self._session.pipe.abort()
            self._session.rollback()
            left = self._remaining(self._survey.todo)
            progress = ledger.read_progress(self._session.conn, self._ledger)
            confirmed = replicated(self._session)
        except (psycopg.Error, AttributeError):  # no server to ask, or not yet asked
            return nothing_known(
                under_way=bool(under_way), signal_number=signal_number, again=again
            )
        cancelled, waited = stopped(self._session, current, progress)
        stands = interrupted(
            self._survey.todo,
            left,
            under_way,
            cancelled=cancelled,
            waited=waited,
            replicated=confirmed,
        )
        for name in under_way:
            if batches := batched(progress.get(name, ())):
                stands = f"{stands} {name} has come to {batches}, which stay."
        return Interrupted(stands, again, signal_number=signal_number)


def _signal(stop: KeyboardInterrupt) -> int:
    """Return the signal's number; a handler of ours puts it into the exception."""
    return int(stop.args[0]) if stop.args else int(signal.SIGINT)

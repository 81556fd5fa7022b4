"""Files through one session: what is sent for them, and what the answers come to."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import groupby

from .. import pauses
from ..errors import FileChanged, FilesError
from ..events import Event
from ..files.folder import Migration
from ..server.pipeline import Arrival, Command
from ..settings import Settings
from . import transaction
from .account import Account
from .place import Ledger
from .recovery import Recovery
from .running import Running
from .session import Session
from .survey import Survey


class Sender:
    """What sends files. How each is claimed and recorded, a subclass may say."""

    _session: Session
    _survey: Survey
    _ledger: Ledger

    def __init__(self, settings: Settings, recovery: Recovery, account: Account) -> None:
        self._settings = settings
        self._recovery = recovery
        self._account = account
        self._unflushed = False

    def _attempt(self, todo: Sequence[Migration]) -> Iterator[Event]:
        """Execute the files until one fails: those with a transaction through one pipeline."""
        from . import units

        running = map(self._running, todo)
        for transactional, group in groupby(running, lambda r: r.script.directives.transaction):
            files, more = iter(group), True
            while transactional and more:
                yield from self._session.fresh()
                more = yield from self._pipelined(files, todo[-1])
            for file in files:  # without a transaction
                yield from self._session.fresh()
                self._sent(file)
                session, book = self._session, self._ledger
                yield from units.execute(session, book, file, self._rows, self._settle)

    def _pipelined(self, files: Iterable[Running], last: Migration) -> Generator[Event, None, bool]:
        """Execute files through one pipeline, up to one that may leave something in its session.

        Return whether there was one, and it was not the last of all.
        """
        session, more = self._session, False
        with session.pipe.opened():
            session.pipe.send(Command(b"DISCARD ALL"))  # what a pooled connection may hold
            try:
                for file in files:
                    self._sent(file)
                    flush = self._settings.sync_each or file.migration is last
                    # A suspect may take it along; some engines always wait.
                    flush |= session.server.reaches_out
                    flush |= bool(session.suspect) or not session.may_not_flush
                    yield from self._settle(session.send(self._transaction(file, flush=flush)))
                    more = session.may_keep() and file.migration is not last
                    if more:
                        break
            except FilesError:  # of a later file: what was sent before it is executed
                yield from self._settle(session.pipe.sync())
                raise
            yield from self._settle(session.pipe.sync())
        return more

    def _sent(self, file: Running) -> None:
        self._account.sent(file.filename, self._session.author)
        self._session.meet(file)

    def _running(self, migration: Migration) -> Running:
        script = migration.script()
        if script.checksum != migration.checksum:
            raise FileChanged(migration.shown, "was changed while the run went on")
        return Running(migration, script, self._ledger.table)

    def _transaction(self, running: Running, *, flush: bool) -> Iterator[Command]:
        """Yield everything that is sent for one file."""
        claim, record = self._claim(running), self._record(running)
        alone = bool(self._session.unguarded)
        turn = transaction.turn(self._ledger, self._survey.executed, running) if alone else ()
        return transaction.commands(
            self._session,
            running,
            self._ledger,
            claim,
            record,
            rows=self._rows,  # asked for by few files, and reckoned from all
            flush=flush,
            turn=turn,
        )

    def _rows(self) -> int:
        """Return how many rows the ledger has when the file that was sent last is recorded."""
        account = self._account
        return len({*self._survey.executed, *account.executed, *account.under_way})

    def _claim(self, running: Running) -> Command:
        return transaction.claim(self._ledger, running, self._session.author)

    def _record(self, running: Running) -> Command:
        return transaction.record(self._ledger, running)

    def _settle(self, arrivals: Iterable[Arrival | None]) -> Iterator[Event]:
        """Turn results into events, and look what is going on while there are none."""
        session = self._session
        since = time.monotonic()
        for arrival in arrivals:
            pauses.check()
            if arrival is None:
                current = session.pipe.current
                if current is not None:
                    yield from session.watch(current.about, time.monotonic() - since)
                continue
            since = time.monotonic()
            command, result = arrival
            if command.role == "unit":
                self._recovery.progress()
            elif command.role == "record":
                command.about.duration_ms = int(result.get_value(0, 0) or 0)
            elif command.role.startswith("commit"):
                self._unflushed = command.role != "commit"
                running = command.about
                yield from session.heard(running.filename)
                running.script.close()
                yield from self._account.done(running.filename, running.duration_ms)

    def _flush(self) -> None:
        """Make the disk have what was committed without waiting for it."""
        if self._unflushed:
            transaction.flush(self._session, self._ledger)
            self._unflushed = False

"""Statements on their way to the server, and results on their way back.

libpq's pipeline mode without its locks: nothing here blocks for longer than a tick, so that the
caller can look what a long statement waits for. psycopg's own pipeline needs a cursor a statement
and waits for all results at once; this is the level below it.
https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
"""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.errors import Diagnostic as ServerFields
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus

from .. import pauses
from ..errors import Diagnostic, MigrationsError
from .ours import Connection

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

TICK_S = 0.25
_GATHER_S = 0.01  # a packet a file is a wake-up a file, on both sides and for all between them
_WINDOW = 8 << 20  # bytes of SQL that are sent ahead of their results
_OVERHEAD = 200  # bytes that libpq keeps for a statement, besides its text
_ABORT_S = 10.0
_SILENCE_S = 1.0  # of a server that has answered a COPY before its end, and not by a notice

_ROWS = 100  # of a result, at once: what a file selects is read by nobody, and must not pile up


# What a COPY is ended with when the server seems to have refused it. If these words come back, it
# had not, and all of the data is sent the next time.
GIVEN_UP = "the server has answered before"


class Command(NamedTuple):
    """One statement to send. `role` says what it is for; `about`, `statement` are the caller's.

    `copy`: the data of a COPY … FROM stdin, which cannot go through a pipeline.
    """

    sql: bytes
    role: str = "setting"
    about: Any = None
    params: Sequence[bytes | None] | None = None
    statement: Any = None
    copy: Iterable[bytes] | None = None


class CommandFailed(Exception):
    """The server refused a command; everything sent after it was skipped.

    `schema`: that of the table or constraint that it is about, as the server says.
    """

    def __init__(self, command: Command, diagnostic: Diagnostic, schema: str = "") -> None:
        super().__init__(diagnostic.message)
        self.command = command
        self.diagnostic = diagnostic
        self.schema = schema


class LinkLost(psycopg.OperationalError):
    """The connection is of no more use: the server ended it, or it broke.

    `command` is the one of a file whose result was next. `said`: the server's last words, None if
    it had none, as after a crash and on a cut link.
    """

    def __init__(
        self, message: str, command: Command | None = None, said: Diagnostic | None = None
    ) -> None:
        super().__init__(message)
        self.command = command
        self.said = said
        self.sqlstate = said.sqlstate if said else None


_SYNC = Command(b"", "sync")
_NO_ARRIVAL = (ExecStatus.PIPELINE_ABORTED, ExecStatus.SINGLE_TUPLE, ExecStatus.TUPLES_CHUNK)
_IN_CHUNKS = psycopg.capabilities.has_stream_chunked()
_LAST = ("FATAL", "PANIC")
_ENDED = {"57P01", "57P02"}  # as warnings: a server that stops at once, or another one's crash
Arrival = tuple[Command, "PGresult"]


def diagnostic(said: ServerFields) -> Diagnostic:
    """Return the fields of an error or notice that people are shown."""
    return Diagnostic(
        severity=said.severity_nonlocalized or said.severity or "ERROR",
        sqlstate=said.sqlstate or "",
        message=said.message_primary or "",
        detail=said.message_detail or "",
        hint=said.message_hint or "",
        context=said.context or "",
        position=int(said.statement_position) if said.statement_position else None,
        internal_query=said.internal_query or "",
        internal_position=int(said.internal_position) if said.internal_position else None,
    )


class Pipeline:
    """One connection's way to the server.

    Methods that wait are iterators: they yield `(command, result)` as results arrive, in the order
    of the commands, and None for every tick (0.25 s) in which nothing did. They raise
    `CommandFailed` for the first command that fails, after the server has skipped the rest, and
    `LinkLost` when the connection is lost.

    The rows of a file's own statements are dropped as they come.
    """

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self._pg = conn.pgconn
        self._sent: deque[Command] = deque()
        self._ahead = 0
        self._moved = 0.0
        self._syncs = 0
        self._failed: CommandFailed | None = None
        self._lost: LinkLost | None = None
        self._last_words: Diagnostic | None = None
        self._dropping: Command | None = None  # whose rows come in pieces
        self.dropped = 0  # of these, in pieces: their count may be in none of the results
        self._copying = False
        self._sends_all = False  # of a COPY, whatever the server seems to have answered
        self._heard = False  # something came in, during a COPY
        self._notices = 0
        self._poll = select.poll()
        conn.add_notice_handler(self._noticed)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Enter pipeline mode, and leave it again once all results have been read."""
        self._pg.enter_pipeline_mode()
        try:
            yield
        except (CommandFailed, MigrationsError):
            self._pg.exit_pipeline_mode()
            raise
        self._pg.exit_pipeline_mode()

    def send(self, command: Command) -> None:
        """Queue a command; what the socket takes goes out now."""
        # A list: psycopg before 3.3 takes no tuple.
        params = command.params and list(command.params)
        with self._sending():
            self._pg.send_query_params(command.sql, params)
        self._sent.append(command)
        self._ahead += len(command.sql) + _OVERHEAD

    @property
    def current(self) -> Command | None:
        """Return a command of what is being executed, as far as the results tell."""
        return next((command for command in self._sent if command.about is not None), None)

    @property
    def full(self) -> bool:
        """Return whether more is under way than should be: `push` waits until it is less."""
        return self._ahead > _WINDOW

    def push(self) -> Iterator[Arrival | None]:
        """Send what is queued and yield what has arrived, without waiting unless it is `full`.

        What is pushed within 10 ms goes out together, with the next push or sync.
        """
        # Otherwise the server keeps finished results in its buffer until the next sync.
        with self._sending():
            self._pg.send_flush_request()
        if time.monotonic() < self._moved + _GATHER_S and not self.full:
            return
        self._moved = time.monotonic()
        self._move(0)
        yield from self._arrived()
        if self._failed or self.full:
            yield from self._until(lambda: self._ahead <= _WINDOW // 2)

    def sync(self) -> Iterator[Arrival | None]:
        """Yield all results that are still to come. An open transaction stays open."""
        self._send_sync()
        yield from self._until(lambda: not self._sent)

    def copy(self, command: Command) -> Iterator[Arrival | None]:
        """Run a COPY … FROM stdin, streaming its data; leaves pipeline mode for it."""
        yield from self.sync()
        self._pg.exit_pipeline_mode()
        self._send_query(command)
        yield from self._until(lambda: self._copying or not self._sent)
        unread: MigrationsError | None = None
        if self._copying:
            try:
                self._heard = False
                done = yield from self._copy_data(command.copy or ())
                self._pg.put_copy_end(None if done else GIVEN_UP.encode())
            except MigrationsError as error:  # of the file that the data are in
                unread = error
                self._pg.put_copy_end(b"the data cannot be read")
            self._copying = False
        try:
            yield from self._until(lambda: not self._sent)
        except CommandFailed as failed:
            self._sends_all |= GIVEN_UP in failed.diagnostic.message
            if unread is None:
                raise
            self._pg.enter_pipeline_mode()
            raise unread from None
        self._pg.enter_pipeline_mode()

    def _copy_data(self, data: Iterable[bytes]) -> Generator[None, None, bool]:
        """Send the data of a COPY; return whether all: not if the server has refused them.

        libpq keeps an error to itself until the end of the data. But what comes before then is a
        notice, which it hands on, or an error, and after an error comes nothing more.
        """
        answered: float | None = None
        for chunk in data:
            pauses.check()
            self._move(0)  # before libpq reads it, unseen by us, because it cannot send
            self._pg.put_copy_data(chunk)
            while self._pg.flush():
                if not self._move(TICK_S):
                    yield None
            self._move(0)
            if self._heard:
                self._heard, before = False, self._notices
                self._pg.is_busy()  # hands notices on
                answered = time.monotonic() if before == self._notices else None
            waited = time.monotonic() - (answered or time.monotonic())
            if waited > _SILENCE_S and not self._sends_all:
                return False
        return True

    def abort(self) -> None:
        """Cancel what runs, and return when the server has stopped executing what was sent.

        A cancel request that arrives between two statements is ignored, so it is repeated. Raise
        `psycopg.OperationalError` if the server does not stop within 10 s.
        """
        pipelined = self._pg.pipeline_status != PipelineStatus.OFF
        if pipelined:
            self._send_sync()
        give_up = time.monotonic() + _ABORT_S
        while not self._drained(pipelined):
            if time.monotonic() > give_up:
                raise psycopg.OperationalError("the server does not answer a cancel request")
            self.conn.cancel_safe(timeout=2)
            self._move(TICK_S)
        self._sent.clear()
        if pipelined:
            self._pg.exit_pipeline_mode()

    def _drained(self, pipelined: bool) -> bool:
        """Drop what has arrived; return whether nothing more is to come.

        Does not rely on the queue: an interrupt may have come between the two lines of `send`.
        """
        nothing = 0
        while nothing < 2 and not self._pg.is_busy():
            result = self._pg.get_result()
            nothing = nothing + 1 if result is None else 0
            if result is not None and result.status == ExecStatus.PIPELINE_SYNC:
                self._syncs -= 1
            elif result is not None and result.status == ExecStatus.COPY_IN:
                self._pg.put_copy_end(b"interrupted")
        if pipelined:
            return self._syncs <= 0
        return self._pg.transaction_status != TransactionStatus.ACTIVE

    def _send_query(self, command: Command) -> None:
        with self._sending():
            self._pg.send_query(command.sql)
        self._sent.append(command)
        self._ahead += len(command.sql) + _OVERHEAD

    def _send_sync(self) -> None:
        with self._sending():
            self._pg.pipeline_sync()
        self._sent.append(_SYNC)
        self._syncs += 1

    def _until(self, settled: Callable[[], bool]) -> Iterator[Arrival | None]:
        """Yield arrivals until it is settled; after a failure, until the server is ready again."""
        while True:
            yield from self._arrived()
            if self._pg.pipeline_status == PipelineStatus.ABORTED and not self._syncs:
                self._send_sync()
            if not self._sent if self._failed else settled():
                break
            if not self._move(TICK_S):
                yield None
        if self._failed:
            failed, self._failed = self._failed, None
            raise failed

    def _arrived(self) -> Iterator[Arrival]:
        """Yield what has arrived; only when all of it is read, raise what broke the connection.

        libpq keeps what came before the end of the connection, the server's last words too.
        """
        while self._sent and not self._copying:
            command = self._sent[0]
            # After a COPY libpq would keep the mode for the next command, whose rows are wanted.
            has_rows = command.statement is not None and command.copy is None
            if has_rows and command is not self._dropping:
                self._drop_rows(command)
            if self._pg.is_busy():
                break
            result = self._pg.get_result()
            if result is None:
                self._sent.popleft()
                self._ahead -= len(command.sql) + _OVERHEAD
            elif result.status == ExecStatus.PIPELINE_SYNC:
                self._sent.popleft()
                self._syncs -= 1
            elif result.status == ExecStatus.FATAL_ERROR:
                self._fail(command, result)
            elif result.status == ExecStatus.COPY_IN:
                self._copying = True
            elif result.status not in _NO_ARRIVAL:
                yield command, result
            else:
                self.dropped += result.ntuples
        if self._lost:
            raise self._lost

    def _drop_rows(self, command: Command) -> None:
        """Have the rows of this command in pieces; libpq has none of its results yet.

        https://www.postgresql.org/docs/current/libpq-single-row-mode.html
        """
        self._dropping, self.dropped = command, 0
        with suppress(psycopg.OperationalError):  # its result is here already
            if _IN_CHUNKS:
                self._pg.set_chunked_rows_mode(_ROWS)
            else:
                self._pg.set_single_row_mode()

    def _fail(self, command: Command, result: PGresult) -> None:
        fields = ServerFields(result)
        said = diagnostic(fields)
        if said.severity in _LAST or not said.sqlstate or self._pg.status == ConnStatus.BAD:
            raise self._gone(said.message or result.error_message.decode(errors="replace"), said)
        self._failed = self._failed or CommandFailed(command, said, fields.schema_name or "")

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Keep why libpq sends no more, until what it has read before is read here as well.

        It reads while it cannot send, and may so be the first to see the end of the connection.
        """
        try:
            yield
        except psycopg.OperationalError:
            if self._pg.status != ConnStatus.BAD:
                raise
            self._lost = self._lost or self._gone(self._pg.get_error_message())

    def _gone(self, message: str, said: Diagnostic | None = None) -> LinkLost:
        """Return the error of a connection that ended; the server may have said why before."""
        if said is None or said.severity not in _LAST:
            said = self._last_words
        command = self.current or (self._sent[0] if self._sent else None)
        return LinkLost(said.message if said else message, command, said)

    def _noticed(self, said: ServerFields) -> None:
        """Keep what the server says at its end: libpq calls it a notice while no result is due."""
        words = diagnostic(said)
        self._notices += 1
        if words.severity in _LAST or words.sqlstate in _ENDED:
            self._last_words = words

    def _move(self, timeout_s: float) -> bool:
        """Move bytes both ways, waiting at most so long for the socket; return whether any did."""
        if self._lost:
            raise self._lost
        unsent = False
        with self._sending():
            unsent = bool(self._pg.flush())
        if self._lost:
            return True
        self._poll.register(self._pg.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
        ready = self._poll.poll(timeout_s * 1000)
        if any(event & ~select.POLLOUT for _, event in ready):
            self._heard = True
            try:
                self._pg.consume_input()
            except psycopg.OperationalError as error:
                self._lost = self._gone(str(error))
        return bool(ready)

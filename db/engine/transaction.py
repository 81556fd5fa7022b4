"""What is sent for one file: its statements in a transaction, between its claim and its record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import psycopg

from ..server import ours
from ..server.pipeline import Command
from ..server.watch import taking
from . import frame, ledger, place
from .place import Ledger
from .running import Running, statement
from .session import Session

_CLAIM = "INSERT INTO {table} (filename, checksum, executed_by) VALUES ($1, $2, $3)"
# Where the row is not there any more, one without a checksum is made, and the division fails: then
# nothing of the file must be committed. (An UPDATE that counts its rows costs half as much again.)
_RECORD = """
INSERT INTO {table} (id, filename) OVERRIDING SYSTEM VALUE VALUES (0, $1)
ON CONFLICT (filename) DO UPDATE SET duration_ms = 1000 OPERATOR(pg_catalog.*) extract(
    epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) pg_catalog.now())
RETURNING duration_ms, 1 OPERATOR(pg_catalog./) (checksum IS NOT NULL)::integer"""
# The division fails where rows are gone.
_ALL = """
SELECT 1 OPERATOR(pg_catalog./)
    (pg_catalog.count(*) OPERATOR(pg_catalog.>=) $1::pg_catalog.int8)::integer
FROM {table}"""
# A file that is alone takes the lock of turns itself; what stood at the survey must stand still. Or
# else the divisions fail, and nothing has happened.
_LOCK = "SELECT 1 OPERATOR(pg_catalog./) ({taking})::integer"
_STILL = """
SELECT 1 OPERATOR(pg_catalog./) (coalesce(pg_catalog.string_agg(
    filename::pg_catalog.text, '/'::pg_catalog.text ORDER BY id), '')
    OPERATOR(pg_catalog.=) $1::pg_catalog.text)::integer
FROM {table}"""
# Commits that did not wait for the disk are covered by any later one that does: WAL is in order.
# No standby is waited for: there may be none, and this is said or interrupted by nobody.
_FLUSH = """
UPDATE {table} SET checksum = checksum
WHERE id OPERATOR(pg_catalog.=) (SELECT pg_catalog.max(id) FROM {table})
AND pg_catalog.set_config('synchronous_commit', 'local', true) IS NOT NULL"""
# pg_dump begins each of its files so. What runs for hours may wait for hours; a migration may not.
_DUMP_HEADER = (b"SET statement_timeout = 0", b"SET lock_timeout = 0")
# For the ledger's sake, which a SET ROLE ends with as well; all the rest goes with the DISCARD ALL
# behind the COMMIT.
_OURSELVES = b"SET SESSION AUTHORIZATION DEFAULT"


def commands(
    session: Session,
    running: Running,
    book: Ledger,
    claim: Command,
    record: Command,
    *,
    rows: Callable[[], int],
    flush: bool,
    turn: Iterable[Command] = (),
) -> Iterator[Command]:
    """Yield them in order. `flush`: the commit waits for the disk. `turn`: what takes its turn.

    `rows` returns how many the ledger has at least in the end.
    """
    script, traces, before = running.script, running.traces, b""
    yield from frame.opening(session, running, script.modes, flush=flush)
    for found in script.leading:
        yield statement(running, found)
    yield from turn
    # Before anything else of the file: a second run waits here, and not in the middle of it.
    yield from trusted(session, book, running)
    yield claim
    yield from frame.role(session, running)
    for found in script.body():
        command = statement(running, found)
        yield command
        if (before, command.sql) == _DUMP_HEADER:
            yield from frame.lock_timeout(session, running)
        before = command.sql
    session.may_reach_out |= traces.connects
    yield Command(_OURSELVES, about=running)
    if not running.filename.isascii():  # in which the file may have set another encoding
        yield Command(b"SET LOCAL client_encoding = 'UTF8'", about=running)
    if flush:
        yield from frame.durable(session, running)
    elif session.may_reach_out:
        yield from frame.waiting_commit(session, running)
    if traces.touches:
        session.exposed = True
        yield from untouched(book, running, rows=rows())
    yield record
    yield Command(b"COMMIT", "commit" if flush else "commit unflushed", running)
    yield Command(b"DISCARD ALL", about=running)


def trusted(
    session: Session, book: Ledger, running: Running, *, unfinished: bool = False
) -> Iterator[Command]:
    """Yield what keeps the tables as they were found, where somebody may have changed them since.

    What is attached to a table runs with the rights of whoever writes to it.
    """
    if session.exposed or not book.closed:
        yield Command(book.compose(place.HELD[unfinished]), "claim", running)
        for text, params in place.untouched(book, unfinished=unfinished):
            values = tuple(value.encode() for value in params)
            yield Command(text.encode(), "trusted", running, values)


def untouched(
    book: Ledger, running: Running, *, rows: int, unfinished: bool = False
) -> Iterator[Command]:
    """Yield what fails if a file has changed the ledger: its rows, or what is attached to it.

    To give it to another owner is not refused: whether that one is trusted, the next claim asks.
    """
    for text, (_, table) in place.untouched(book, unfinished=unfinished):
        yield Command(text.encode(), "untouched", running, (b"", table.encode()))
    yield Command(book.compose(_ALL), "untouched", running, (b"%d" % rows,))


def turn(book: Ledger, executed: Iterable[str], running: Running) -> Iterator[Command]:
    """Yield what takes the turn of a run in the file's transaction, if it is free."""
    yield Command(_LOCK.format(taking=taking(book.keys)).encode(), "turn", running)
    stands = "/".join(executed).encode()
    yield Command(book.compose(_STILL), "turn", running, (stands,))


def claim(book: Ledger, running: Running, author: str) -> Command:
    """Return what no second run can do for the same file."""
    row = (running.filename, running.script.checksum, author)
    params = tuple(value.encode() for value in row)
    return Command(book.compose(_CLAIM), "claim", running, params)


def record(book: Ledger, running: Running) -> Command:
    """Return what completes the file's row, with how long it took."""
    return Command(book.compose(_RECORD), "record", running, (running.filename.encode(),))


def flush(session: Session, book: Ledger) -> None:
    """Make the disk have the commits that did not wait for it."""
    queries = [*ledger.still(book, exposed=session.exposed), (book.compose(_FLUSH), ())]
    # Where the ledger is locked, or is not what it was, the server's WAL writer does it a moment
    # later.
    with suppress(psycopg.errors.LockNotAvailable, psycopg.errors.DivisionByZero):
        ours.execute(session.conn, queries, lock_timeout_ms=session.lock_timeout_ms)

"""A no-transaction file -> the database, one unit at a time, resumable at the unit that failed.

A unit that may run in a transaction has its progress row in that transaction, so it is never in
doubt. One that may not is announced first, in a row without finished_at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from psycopg import sql

from ..errors import LedgerError, counted
from ..events import Event
from ..server.described import VANISHED
from ..server.pipeline import Command, CommandFailed
from ..sql.script import Unit
from . import batches, frame, outside
from .place import Ledger
from .progress import CLEAR, FINISHED, KEEP, MODES, RECORD, STILL, Settle, Work
from .running import Running, statement
from .session import Session


def execute(
    session: Session, ledger: Ledger, running: Running, rows: Callable[[], int], settle: Settle
) -> Iterator[Event]:
    """Execute what is not finished of the file, and record it.

    `rows` returns how many the ledger has when it is recorded.

    Raise `CommandFailed` as the pipeline does, and `LedgerError` if nobody but a person can tell
    whether a statement took effect.
    """
    work = Work(session, ledger, running, rows, settle)
    started, units = time.monotonic(), list(running.script.units())
    work.names(units)
    yield from _begin(work)
    for number, unit in enumerate(units):
        row = work.rows.get(number)
        if row is not None and row.finished:
            continue
        running.unit = number
        if row is not None and row.batches is not None:
            yield from batches.drop_other(work, number, unit)
        if unit.repeat:
            yield from batches.execute(work, number, unit)
        elif unit.transactional:
            yield from _inside(work, number, unit)
        else:
            yield from outside.execute(work, number, unit)
    yield from work.read()
    for number, unit in enumerate(units):
        if not unit.transactional and (yield from outside.unfinish(work, number, unit)):
            yield from outside.execute(work, number, unit)
    running.duration_ms = round(1000 * (time.monotonic() - started))
    yield from _record(work, len(units))


def _begin(work: Work) -> Iterator[Event]:
    """Give the file a session as if it were new, with what its finished part has set in it."""
    yield from work.send([Command(b"DISCARD ALL", about=work.running)])
    work.state.given = yield from work.look()
    if not work.clean:
        yield from _set_up(work)
    yield from work.read()
    yield from work.restore()


def _set_up(work: Work) -> Iterator[Event]:
    """Set what holds for the whole file."""
    timeout = work.running.script.directives.statement_timeout_ms
    wanted = {n: v for n, v in VANISHED.items() if n in work.session.server.settings}
    if timeout is not None:
        wanted["statement_timeout"] = work.state.given["statement_timeout"] = str(timeout)
    yield from work.send([work.set(name, value) for name, value in wanted.items()])
    if role := work.session.settings.role:
        work.state.given["role"] = role
        text = b"SET ROLE " + sql.Identifier(role).as_bytes(None)
        yield from work.send([Command(text, "role", work.running)])


def _inside(work: Work, number: int, unit: Unit) -> Iterator[Event]:
    """Execute a unit in a transaction, together with its progress row."""
    leading = [s for s in unit.statements if s.kind == "SET TRANSACTION"]
    rest = [s for s in unit.statements if s.kind != "SET TRANSACTION"]
    modes = [work.state.modes, unit.modes, *map(work.running.script.sql, leading)]
    said = b" ".join(modes).upper()
    read_only = said.rfind(b"READ ONLY") > said.rfind(b"READ WRITE")
    try:
        answers = yield from work.send(
            [
                *work.clean,
                *frame.opening(work.session, work.running, unit.modes, flush=True),
                *(statement(work.running, s) for s in leading),
                work.command(b"SET TRANSACTION READ WRITE"),
                *work.state.ours(waiting=True),
                *work.claim(FINISHED, number, unit),
                *work.state.theirs(),
                *(frame.role(work.session, work.running) if work.clean else ()),
                *([work.command(b"SET TRANSACTION READ ONLY")] if read_only else ()),
                *(statement(work.running, s) for s in rest),
                *work.state.ours(waiting=True),
                *work.untouched(),
                work.of(STILL, number, "still"),
                Command(b"COMMIT", "unit", work.running),
                *work.kept(KEEP, number),
                *work.clean,
            ]
        )
    except CommandFailed as failed:
        raise work.gone(failed, unit.statements[-1]) from None
    work.seen(answers, number)


def _record(work: Work, units: int) -> Iterator[Event]:
    """Record the file as executed; its progress rows go in the same transaction."""
    running = work.running
    values = (running.script.checksum, work.session.author, str(running.duration_ms))
    row = (work.name, *(value.encode() for value in values))
    answers = yield from work.send(
        [
            *work.clean,
            *frame.opening(work.session, running, MODES, flush=True),
            *work.state.ours(waiting=True),
            *work.trusted(),
            Command(work.ledger.compose(RECORD), "claim", running, row),
            Command(work.ledger.compose(CLEAR), "cleared", running, (work.name,)),
        ]
    )
    if (there := len(answers["cleared"])) != units:
        work.session.rollback()
        are = "is" if units == 1 else "are"
        raise LedgerError(
            f"{running.script.path}: its {counted(units, 'statement')} {are} executed, but the "
            f"progress table has rows of {there}. The file is not recorded as executed.",
            "Somebody else has changed that table. Look, then: invoke db.status",
        )
    yield from work.send(
        [Command(b"COMMIT", "commit", running), Command(b"DISCARD ALL", about=running)]
    )

"""A statement that is repeated until it gives no row: each batch a transaction with its progress.

The rows and batches so far stand in the unit's row, which the batch's transaction locks before the
statement and adds to behind it. So no batch is in doubt, and none is counted that is not there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator

from ..errors import LedgerError, MigrationsError
from ..events import Event, Note
from ..files.plan import repeated
from ..server.pipeline import Command, CommandFailed
from ..sql import kinds
from ..sql.lexer import Statement
from ..sql.script import Unit
from . import frame, outside, resume
from .pace import Pace
from .progress import KEEP, NOT_ONE, STILL, THIS, UNFINISH, Answers, Work
from .running import statement

_BEGUN = """
INSERT INTO {unfinished} (filename, unit, checksum, run_by, target, pid, rows, batches)
VALUES ($1, $2, $3, $4, $5::pg_catalog.jsonb, pg_catalog.pg_backend_pid(), 0, 0)"""
_TAKEN_OVER = (
    """
UPDATE {unfinished} SET run_by = $4, target = $5::pg_catalog.jsonb,
    pid = pg_catalog.pg_backend_pid()"""
    + THIS
    + " AND finished_at IS NULL RETURNING unit"
)
# Another run that has come to this unit waits here. The division fails if it has taken it over.
_MINE = (
    """
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 1)::integer
FROM (SELECT FROM {unfinished}"""
    + THIS
    + " AND finished_at IS NULL FOR UPDATE) AS mine"
)
_COUNTED = (
    """
UPDATE {unfinished} SET rows = rows OPERATOR(pg_catalog.+) $4::pg_catalog.int8,
    batches = batches OPERATOR(pg_catalog.+) ($4::pg_catalog.int8
                      OPERATOR(pg_catalog.>) 0::pg_catalog.int8)::pg_catalog.int4,
    finished_at = CASE WHEN $4::pg_catalog.int8 OPERATOR(pg_catalog.=) 0::pg_catalog.int8
                       THEN pg_catalog.now() END"""
    + THIS
    + " RETURNING rows, batches"
)
# Also what the session has written before and not yet reported, which is once a second.
_WROTE = """
SELECT pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'off'
    OR EXISTS (
        SELECT FROM pg_catalog.pg_class AS c
        WHERE c.oid OPERATOR(pg_catalog.<>) pg_catalog.to_regclass($1)::pg_catalog.oid
          AND pg_catalog.pg_stat_get_xact_tuples_inserted(c.oid)
              OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_updated(c.oid)
              OPERATOR(pg_catalog.+) pg_catalog.pg_stat_get_xact_tuples_deleted(c.oid)
              OPERATOR(pg_catalog.>) 0::pg_catalog.int8)"""


class _NotSaid(MigrationsError):
    """A statement gave 0 rows, and has written some."""


def execute(work: Work, number: int, unit: Unit) -> Iterator[Event]:
    """Repeat the unit's statement until it gives no row, from where it stands.

    Raise `LedgerError` if it does not come nearer to its end.
    """
    (found,), options = unit.statements, unit.repeat
    assert options is not None
    pace = Pace(work, found, options)
    yield from pace.begin()
    if work.rows.get(number) is None and kinds.sets_blindly(work.running.script.sql(found)):
        message = "nothing behind its SET names what it sets. It does not end if it finds again "
        yield Note(f"{message}what it has updated", "warning", work.running.filename)
    idle, answers = 0, None  # batches in a row that gave rows and wrote none
    while True:
        while answers is None and not (yield from _take(work, number, unit, pace)):
            pass
        if work.rows[number].finished:
            yield from work.restore()
            return
        began = time.monotonic()
        answers = yield from _batch(work, number, found, pace)
        took_s = time.monotonic() - began
        if answers is None:
            continue
        if answers["statement"][-1] == (b"0",):
            break
        work.running.progressed = True
        pace.add(int(answers["statement"][-1][0] or 0), answers)
        ((total, batches),) = answers["counted"]
        pace.rows, pace.batches = int(total or 0), int(batches or 0)
        idle = idle + 1 if answers.get("wrote") == [(b"f",)] else 0
        yield from _refuse_endless(work, found, pace, idle)
        yield from pace.pause(took_s)
    work.seen(answers, number)
    yield Note(pace.done, filename=work.running.filename)


def drop_other(work: Work, number: int, unit: Unit) -> Iterator[Event]:
    """Forget the progress of another text than the unit has now: what that has done stays."""
    row = work.rows[number]
    if row.finished or row.checksum == resume.checksum(work.running.script, unit):
        return
    yield from outside.wait_for(work, number)
    if (yield from work.write(UNFINISH, number, row.run_by)):
        done = repeated(row.rows, row.batches)
        what = f"statement {number + 1} was edited. What it did stays, but counts no more"
        yield Note(f"{what}: {done}", filename=work.running.filename)
    yield from work.read()


def _take(work: Work, number: int, unit: Unit, pace: Pace) -> Generator[Event, None, bool]:
    """Make the unit's row this run's, once no other run is seen that works on it."""
    row, me = work.rows.get(number), work.session.name
    if row is not None and row.run_by != me:
        yield from outside.wait_for(work, number)
        row = work.rows.get(number)
    of = (row.target or {}).get("of") if row is not None and row.batches else pace.of
    target = json.dumps({"pooled": bool(work.clean), "of": of})
    if row is None:
        yield from work.asked(work.claim(_BEGUN, number, unit, target))
    elif not row.finished and row.run_by != me:
        more = (me.encode(), target.encode())
        command = work.of(_TAKEN_OVER, number, "written", row.run_by, more)
        yield from work.asked([*work.unlimited(), *work.trusted(), command])
    yield from work.read()
    row = work.rows.get(number)
    if row is not None:
        pace.resume(row.rows or 0, row.batches or 0, (row.target or {}).get("of"))
    return row is not None and (row.finished or row.run_by == me)


def _batch(
    work: Work, number: int, found: Statement, pace: Pace
) -> Generator[Event, None, Answers | None]:
    """Execute the statement once, with its progress; return None if another run has the unit."""
    kept, session, running = Answers(), work.session, work.running
    opening = [
        *work.clean,
        *frame.opening(session, running, b"", flush=True),
        work.command(b"SET TRANSACTION READ WRITE"),
        *work.state.ours(waiting=True),
        *work.trusted(),
        work.of(_MINE, number, "claim"),
        *pace.writes("before"),
        *work.state.theirs(),
        *(frame.role(session, running) if work.clean else ()),
        statement(running, found),
    ]
    try:
        with session.pipe.opened():
            yield from work.settled(opening, kept)
            rows = kept["statement"][-1]
            if rows == (b"0",):
                after = [*work.state.ours(waiting=True), *pace.writes("after")]
                yield from work.settled(after, kept)
                if any(map(any, pace.wrote(kept))):
                    raise _NotSaid("")
            yield from work.settled(_closing(work, number, pace, rows), kept)
    except _NotSaid:
        session.rollback()
        raise _unsaid(work, found, pace) from None
    except CommandFailed as failed:
        if failed.command.role == "claim" and failed.diagnostic.sqlstate == NOT_ONE:
            session.conn.execute("ROLLBACK")
            yield from work.read()
            return None
        raise work.gone(failed, found) from None
    return kept


def _closing(
    work: Work, number: int, pace: Pace, rows: tuple[bytes | None, ...]
) -> Iterator[Command]:
    """Yield what ends a batch of so many rows."""
    reaches_out = work.session.server.reaches_out or work.session.may_reach_out
    yield from work.state.ours(waiting=True)
    if pace.verb == "SELECT" and not reaches_out:
        beside = work.ledger.compose("{unfinished}")
        yield Command(_WROTE.encode(), "wrote", work.running, (beside,))
    yield from work.untouched()
    if rows != (b"0",):
        yield from pace.writes("after")
    yield work.of(STILL, number, "still")
    yield work.of(_COUNTED, number, "counted", more=rows)
    yield Command(b"COMMIT", "unit", work.running)
    if rows == (b"0",):
        yield from work.kept(KEEP, number)
    yield from work.clean


def _refuse_endless(work: Work, found: Statement, pace: Pace, idle: int) -> Iterator[Event]:
    """Raise `LedgerError` if the statement finds again and again what it has found before."""
    there = yield from pace.endless()
    if there is not None:
        raise _endless(
            work,
            found,
            f"{pace.done}, and {pace.table} had {there:,}: it finds "
            "again what it has changed, without end. It was stopped; what it did stays.",
            "Let its WHERE leave out what is done, such as: WHERE region IS NULL",
        )
    if idle > 1:
        raise _endless(
            work,
            found,
            "the last two batches gave rows and changed none, so it would not end. It was stopped; "
            f"what it did stays: {pace.done}.",
            "Let it give no row when nothing is left to do, such as: "
            "SELECT FROM fill_next() AS rows WHERE rows > 0",
        )


def _unsaid(work: Work, found: Statement, pace: Pace) -> LedgerError:
    return work.wrong(
        found,
        "this gave 0 rows, and has written some all the same: by a trigger that returns NULL, or "
        "in its WITH. So 0 rows does not mean that nothing is left. That batch was rolled back; "
        f"what was done before stays: {pace.done}.",
        "Repeat what a trigger does instead, such as: UPDATE … SET gone = true WHERE NOT gone",
        "Let it give what its WITH changes: WITH gone AS (DELETE …), moved AS (INSERT …) "
        "SELECT FROM gone",
        "Then run it again: a statement that was edited is counted from its beginning.",
    )


def _endless(work: Work, found: Statement, message: str, advice: str) -> LedgerError:
    then = "Then run it again: a statement that was edited is counted from its beginning."
    return work.wrong(found, message, advice, then)

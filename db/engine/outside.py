"""A unit that cannot be in a transaction: announced, executed, and reconciled after a kill.

Announcement, statement and the end of its row are one pipeline: between them there is nothing to
wait for, so whoever finds an announcement whose statement no server executes finds a run that is
gone. Behind a pooler the three have one server connection.
"""

from __future__ import annotations

import random
import re
from collections.abc import Generator, Iterator, Sequence

from psycopg import sql
from psycopg.pq import TransactionStatus

from ..errors import LedgerError, listed
from ..events import Event, Note, Waiting
from ..files.plan import Progress
from ..pauses import pause
from ..server.pipeline import Command, CommandFailed
from ..sql import kinds
from ..sql.lexer import Statement
from ..sql.script import Script, Unit
from . import frame, resume, targets
from .place import Ledger
from .progress import FINISH, FORGET, INTENT, MODES, TAKEN, UNFINISH, Answers, Work
from .resume import CREATE, Facts, Left, Row, Step
from .running import statement
from .state import told
from .targets import Target

_POLL_S = 0.5
_LOOKS = 5
# It may go on in the last transaction of the statement itself, whose isolation is settled by then.
_BEHIND = b"BEGIN READ WRITE"


def execute(work: Work, number: int, unit: Unit) -> Iterator[Event]:
    """Execute a unit that cannot be in a transaction: announced first, then reconciled."""
    (found,) = unit.statements
    while True:
        yield from wait_for(work, number)
        row = work.rows.get(number)
        target, facts = yield from look(work, found, row)
        step = resume.next_step(found.kind, row, facts)
        if step is Step.SKIP:
            yield from work.restore()
            return
        if step is Step.WAIT:
            yield Waiting("another session, which builds this index", 0.0)
            pause(_POLL_S * random.uniform(1, 2))
        elif step is Step.ASK:
            raise _in_doubt(work, number, found)
        elif row is not None:
            # Whoever comes first with this takes it over; the other one looks again.
            text = TAKEN if step is Step.FINISH else FORGET
            yield from work.write(text, number, row.run_by)
        elif step is Step.CLEAN:
            yield from _clean(work, number, unit, target, facts)
        else:
            yield from _note(work, found, facts)
            yield from _run(work, number, unit, target, facts)
            return


def wait_for(work: Work, number: int) -> Iterator[Event]:
    """Wait until the run that announced a unit has finished it, or is gone.

    Behind a pooler it is seen only while it does something, so one look is not enough.
    """
    missed, before = 0, ""
    while True:
        yield from work.read()
        row = work.rows.get(number)
        if row is None or row.finished:
            return
        missed, before = missed if row.run_by == before else 0, row.run_by
        pooled = bool(work.clean or (row.target or {}).get("pooled"))
        question = targets.alive(row.run_by, row.pid, work.running, pooled=pooled)
        answers = yield from work.asked([question])
        missed = 0 if answers["alive"] == [(b"t",)] else missed + 1
        if missed >= (_LOOKS if pooled else 1):
            return
        if not missed:
            yield Waiting(f"another run, which executes {work.running.filename}", 0.0)
        pause(_POLL_S * random.uniform(0.5, 1))


def unfinish(work: Work, number: int, unit: Unit) -> Generator[Event, None, bool]:
    """Return whether an index that the unit has built is INVALID: then it is not finished.

    Not if another run has recorded the file: a later one may be dropping that index by now.
    """
    (found,), row = unit.statements, work.rows.get(number)
    if found.kind != CREATE or row is None:
        return False
    _, facts = yield from look(work, found, row)
    if all(index.valid or not index.ours for index in facts.indexes):
        return False
    return (yield from work.write(UNFINISH, number, row.run_by))


def doubt(ledger: Ledger, script: Script, filename: str, rows: Sequence[Progress]) -> list[str]:
    """Return what to do about a statement that failed, and may stand in part; [] if none does."""
    units = list(script.units())
    for row in rows:
        intent = not row.finished and row.batches is None and row.unit < len(units)
        if intent and not resume.settles(units[row.unit].statements[0].kind):
            did, did_not = _answers(ledger, filename, row.unit)
            return [
                "Executed again, it begins at its beginning, on top of what it may have committed. "
                "Look, and say so:",
                f"To run it again, edited or not: {did_not}",
                f"To leave it as it is:           {did}",
            ]
    return []


def look(
    work: Work, found: Statement, row: Row | None
) -> Generator[Event, None, tuple[Target, Facts]]:
    """Return what the statement is about, as it was announced or as it is read now."""
    named = kinds.concurrent_index(work.running.script.sql(found))
    if named is None:
        return Target(), Facts()
    if row is not None and row.target is not None:
        kept = row.target
        target = Target(kept.get("relation"), kept.get("name"), schema=kept.get("schema"))
    elif named.database:
        target = Target()
    else:
        question = targets.resolve(found.kind, named, work.running)
        try:
            answers = yield from work.asked([question], theirs=True)
        except CommandFailed as failed:  # as the statement itself would have
            failed.diagnostic = failed.diagnostic._replace(position=None)
            failed.command = failed.command._replace(statement=found)
            raise
        target = targets.resolved(answers["resolved"][0])
    answers = yield from work.asked(targets.look(found.kind, named, target, work.running))
    indexes = tuple(targets.index(values) for values in answers["index"])
    facts = Facts(target.relation, target.name, answers["gone"] == [(b"t",)], indexes)
    existed = next((index.oid for index in indexes if found.kind == CREATE), None)
    if attached := answers.get("attached"):
        existed = target.relation
        facts = facts._replace(attached=True, finalize=(attached[0][0] or b"").decode())
    return target._replace(existed=existed), facts


def _clean(work: Work, number: int, unit: Unit, target: Target, facts: Facts) -> Iterator[Event]:
    """Drop what an earlier attempt has left INVALID.

    It is announced as the statement is: a run that came late would drop what was built since.
    """
    yield from _limit(work, 0)
    for index in facts.indexes:
        if index.ours and not index.valid:
            yield Note(f"dropping the INVALID index {index.name}", filename=work.running.filename)
            text = f"DROP INDEX CONCURRENTLY IF EXISTS {index.name}".encode()
            drop = Command(targets.mark(work.session.name) + text, "drop", work.running)
            try:
                yield from work.send(
                    [
                        *_announced(work, number, unit, target),
                        drop,
                        work.command(_BEHIND),
                        *work.state.ours(),
                        *work.unlimited(),
                        *work.trusted(),
                        work.of(FORGET, number, "forgotten"),
                        Command(b"COMMIT", "unit", work.running),
                        *work.clean,
                    ]
                )
            except CommandFailed as failed:
                work.session.rollback()
                if failed.command.role == "drop":
                    yield from work.write(FORGET, number, work.session.name)
                raise


def _announced(work: Work, number: int, unit: Unit, target: Target) -> Iterator[Command]:
    """Yield what announces a unit, so that no other run begins with it."""
    announced = {**target._asdict(), "pooled": bool(work.clean)}
    yield from work.clean
    yield from frame.opening(work.session, work.running, MODES, flush=True)
    yield from work.state.ours()
    yield from work.claim(INTENT, number, unit, told(announced))
    if not resume.settles(unit.statements[0].kind):
        yield targets.began(work.running)
    yield Command(b"COMMIT", "unit", work.running)


def _note(work: Work, found: Statement, facts: Facts) -> Iterator[Event]:
    """Say so if PostgreSQL will pass a statement over, or it is another one that is executed."""
    if facts.finalize:
        yield Note(f"ending what was cut off: {facts.finalize}", filename=work.running.filename)
    text = work.running.script.sql(found)
    if found.kind == CREATE and facts.indexes and re.search(rb"(?i)IF\s+NOT\s+EXISTS", text):
        index = facts.indexes[0]
        yield Note(
            f"{index.name} exists already, and IF NOT EXISTS leaves it as it is: "
            f"{index.definition}",
            filename=work.running.filename,
        )


def _run(work: Work, number: int, unit: Unit, target: Target, facts: Facts) -> Iterator[Event]:
    """Announce it, run it, and write down that it is finished."""
    (found,), session = unit.statements, work.session
    marked, prefix, kind = statement(work.running, found), targets.mark(session.name), found.kind
    if facts.finalize:  # whose locks are strong ones
        marked, kind = marked._replace(sql=facts.finalize.encode()), "ALTER TABLE"
    directive, limit_ms = work.running.script.directives.lock_timeout_ms, 0
    if directive is not None and resume.strong(kind, marked.sql):
        limit_ms = directive
    elif resume.limited(kind, marked.sql):
        limit_ms = session.settings.lock_timeout_ms
    yield from _limit(work, limit_ms)
    commands = [
        *_announced(work, number, unit, target),
        marked._replace(sql=prefix + marked.sql),
        *work.kept(FINISH, number, _BEHIND),
        *work.clean,
    ]
    kept = Answers()
    try:
        with session.pipe.opened():
            yield from work.settled(commands, kept)
    except CommandFailed as failed:
        commits = yield from _commits(work, kept)
        session.rollback()
        if "statement" not in kept:
            _place(failed, None if facts.finalize else len(prefix))
            yield from _after(work, failed, number, found, commits)
            raise
        # It is done, and only that could not be written down, such as by a cancel request.
        yield from work.write(TAKEN, number, session.name)
        raise
    work.seen(kept, number)


def _commits(work: Work, before: Answers) -> Generator[Event, None, int | None]:
    """Return how often a statement that has just failed has committed, if that is certain."""
    idle = work.session.conn.info.transaction_status == TransactionStatus.IDLE
    if work.clean or not idle or not before.get("began"):  # a pooler's session had others since
        return None
    after = yield from work.asked([targets.began(work.running)])
    return targets.commits(before["began"], after["began"])


def _place(failed: CommandFailed, prefix: int | None) -> None:
    """Have the error's place in the statement as the file has it; None: it is not in the file."""
    position = failed.diagnostic.position
    if position and failed.command.statement is not None:
        place = None if prefix is None else position - prefix
        failed.diagnostic = failed.diagnostic._replace(position=place)


def _after(
    work: Work, failed: CommandFailed, number: int, found: Statement, commits: int | None
) -> Iterator[Event]:
    """Take the announcement back if the statement failed, and has left nothing that is in doubt."""
    if failed.command.statement is None:
        return
    left = resume.left(found.kind, commits)
    work.running.once = left in (Left.ELSEWHERE, Left.SOMETHING)
    if left is Left.SOMETHING:
        had = "had" if commits else "may have"
        work.running.left = f"So does what it {had} committed itself before it failed."
        return
    yield from work.read()
    row = work.rows.get(number)
    if row is None or not (yield from work.write(FORGET, number, work.session.name)):
        raise work.wrong(
            found,
            f"{failed.diagnostic.message} ({failed.diagnostic.sqlstate}); and its row in the "
            "progress table was changed by somebody else meanwhile.",
            "Look what stands: invoke db.status",
        )
    _, facts = yield from look(work, found, row)
    work.running.left = _left(facts)
    if left is Left.ELSEWHERE:
        work.running.left = "What it did by a connection of its own, if it has one, stays as well."


def _in_doubt(work: Work, number: int, found: Statement) -> LedgerError:
    did, did_not = _answers(work.ledger, work.running.filename, number)
    return work.wrong(
        found,
        "this statement was running when a run was cut off, or failed after it had committed "
        "something, and whether it took effect cannot be told from the catalog. Look, and say so:",
        f"It did:     {did}",
        f"It did not: {did_not}",
    )


def _answers(ledger: Ledger, filename: str, number: int) -> tuple[str, str]:
    """Return what says of a unit that it is executed, and what says that it is not."""
    table, name = ledger.compose("{unfinished}").decode(), sql.Literal(filename).as_string(None)
    where = f"WHERE filename = {name} AND unit = {number}"
    return (
        f"UPDATE {table} SET finished_at = now() {where};",
        f"DELETE FROM {table} {where};",
    )


def _limit(work: Work, limit_ms: int) -> Iterator[Event]:
    """Set how long a statement outside a transaction may wait for a lock, unless the file has."""
    if work.clean or work.session.lock_timeout_ms is None or "lock_timeout" in work.state.set:
        return
    work.state.given["lock_timeout"] = str(limit_ms)
    yield from work.send([work.set("lock_timeout", str(limit_ms))])


def _left(facts: Facts) -> str:
    """Return what a failed statement has left behind, and what becomes of it."""
    if facts.finalize:
        return (
            "The partition is detached half-way: its rows are not seen in the table any more. The "
            f"next run ends it: {facts.finalize}"
        )
    names = [index.name for index in facts.indexes if index.ours and not index.valid]
    if not names:
        return ""
    verb = "stay; the next run drops them" if names[1:] else "stays; the next run drops it"
    return f"The INVALID index {listed(names)} {verb}, and builds again."

"""The rows of one no-transaction file, its session, and its ways to the server."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING

from ..errors import LedgerError, MigrationsError
from ..events import Event
from ..server.pipeline import Arrival, Command, CommandFailed
from ..sql.lexer import Statement
from ..sql.script import Unit
from . import resume, transaction
from .place import Ledger
from .resume import Row
from .running import Running, statement
from .session import Session
from .state import BEGIN, State, parsed

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

Settle = Callable[[Iterable["Arrival | None"]], Iterator[Event]]
Answers = dict[str, list[tuple["bytes | None", ...]]]  # by the role of the question

MODES = BEGIN.removeprefix(b"BEGIN ")

_ROWS = """
SELECT unit, checksum, finished_at IS NOT NULL, run_by, pid, target, session, rows, batches
FROM {unfinished} WHERE filename OPERATOR(pg_catalog.=) $1 ORDER BY unit"""
# The ledger row is written and taken back: that waits for, and then fails on, a run that has
# recorded the file (and removed its progress rows) in the meantime.
_CLAIM = (
    "INSERT INTO {table} (filename) VALUES ($1)",
    "DELETE FROM {table} WHERE filename OPERATOR(pg_catalog.=) $1",
)
FINISHED = """
INSERT INTO {unfinished} (filename, unit, checksum, run_by, finished_at)
VALUES ($1, $2, $3, $4, pg_catalog.now())"""
INTENT = """
INSERT INTO {unfinished} (filename, unit, checksum, run_by, target, pid)
VALUES ($1, $2, $3, $4, $5::pg_catalog.jsonb, pg_catalog.pg_backend_pid())"""
THIS = """
WHERE filename OPERATOR(pg_catalog.=) $1 AND unit OPERATOR(pg_catalog.=) $2::pg_catalog.int4
  AND run_by OPERATOR(pg_catalog.=) $3"""
# The division fails unless it is one row: then nothing of the unit is committed.
NOT_ONE = "22012"  # division by zero
STILL = (
    """
SELECT 1 OPERATOR(pg_catalog./) (pg_catalog.count(*) OPERATOR(pg_catalog.=) 1)::integer
FROM {unfinished}"""
    + THIS
)
KEEP = (
    """
UPDATE {unfinished}
SET session = pg_catalog.current_setting('migrations.session')::pg_catalog.jsonb"""
    + THIS
    + " RETURNING session"
)
FINISH = KEEP.replace("SET session", "SET finished_at = pg_catalog.now(), session")
UNFINISH = "DELETE FROM {unfinished}" + THIS
FORGET = UNFINISH + " AND finished_at IS NULL"
TAKEN = "UPDATE {unfinished} SET finished_at = pg_catalog.now()" + THIS + " AND finished_at IS NULL"
RECORD = """
INSERT INTO {table} (filename, checksum, executed_by, duration_ms)
VALUES ($1, $2, $3, $4::pg_catalog.int4)"""
CLEAR = "DELETE FROM {unfinished} WHERE filename OPERATOR(pg_catalog.=) $1 RETURNING unit"

_QUESTIONS = ("row", "seen", "alive", "gone", "index", "resolved", "kept", "written", "cleared")

# Settings of these names are in no view, unless an extension has declared them.
_INVENTED = re.compile(rb"[A-Za-z_][\w$]*(?:\.[A-Za-z_][\w$]*)+")
_MAY_INVENT = re.compile(rb"(?i)set_config|\A\s*(?:SET|RESET)\b")


class Work:
    """One file under way in one session: nothing here decides what is to be done."""

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        running: Running,
        rows: Callable[[], int],
        settle: Settle,
    ) -> None:
        self.session = session
        self.ledger = ledger
        self.running = running
        self.recorded = rows  # returns how many the ledger has when this file is recorded
        self.settle = settle
        self.rows: dict[int, Row] = {}
        self.state = State(session.server.settings, running)
        self.name = running.filename.encode()
        # On a pooled connection nothing of ours stays, and nothing of others is met.
        pooled = session.server.pooled
        self.clean = [Command(b"DISCARD ALL", about=running)] if pooled else []

    # Its session

    def names(self, units: Iterable[Unit]) -> None:
        """Note the names of settings that a file may set and no view lists."""
        for found in (found for unit in units for found in unit.statements):
            text = self.running.script.sql(found)
            if _MAY_INVENT.search(text):
                self.state.names.update(name.decode() for name in _INVENTED.findall(text))

    def restore(self) -> Iterator[Event]:
        """Set again what the finished part of the file has set for the session."""
        finished = [row for row in self.rows.values() if row.finished]
        last = max((row.unit for row in finished if row.session is not None), default=-1)
        if last >= 0:
            yield from self.send(self.state.again(self.rows[last].session or {}))
        # What an earlier release has finished, or a run that was killed right behind its COMMIT.
        rest = {row.unit for row in finished if row.unit > last}
        for number, unit in enumerate(self.running.script.units() if rest else ()):
            for found in unit.statements if number in rest else ():
                if found.kind in ("SET", "RESET"):
                    yield from self.send([statement(self.running, found)])
        if rest:
            self.state.set = yield from self.look()

    def look(self) -> Generator[Event, None, dict[str, str]]:
        """Return what is set for the session; a lock_timeout of ours would be among it."""
        see = [self.command(BEGIN), self.state.see(), self.command(b"COMMIT")]
        answers = yield from self.send([*self.clean, *see])
        return parsed(answers["seen"][0][0]) or {}

    def set(self, name: str, value: str) -> Command:
        """Return what sets one of our own settings for the session."""
        return Command(f"SET {name} = {value}".encode(), about=self.running)

    # Its rows

    def kept(self, text: str, number: int, begin: bytes = BEGIN) -> Iterator[Command]:
        """Yield what writes down what the file has set for its session by now."""
        yield self.command(begin)
        yield self.state.see()
        yield from self.state.ours()
        yield from self.unlimited()
        yield from self.trusted()
        yield self.of(text, number, "kept")
        yield Command(b"COMMIT", "unit", self.running)

    def seen(self, answers: Answers, number: int) -> None:
        """Take over what the session is like after a unit."""
        if len(answers["kept"]) != 1:
            raise LedgerError(
                f"{self.running.script.path}: statement {number + 1} is executed, but its row in "
                f"{self.ledger.compose('{unfinished}').decode()} is gone.",
                "Somebody else has changed that table. Look, then: invoke db.status",
            )
        self.state.set = parsed(answers["kept"][0][0]) or {}
        if self.clean and self.state.set:
            raise LedgerError(
                f"{self.running.script.path}: statement {number + 1} is executed, and has set "
                f"{', '.join(sorted(self.state.set))} for its session, which does not last behind "
                "a pooler.",
                "Connect to the server directly, and run it again: it goes on from there.",
            )

    def claim(self, insert: str, number: int, unit: Unit, *more: str) -> Iterator[Command]:
        """Yield what makes a unit's row, unless another run has recorded the file or the unit."""
        key = resume.checksum(self.running.script, unit)
        values = (self.running.filename, str(number), key, self.session.name, *more)
        yield from self.trusted()
        for text in _CLAIM:
            yield Command(self.ledger.compose(text), "claim", self.running, (self.name,))
        params = tuple(value.encode() for value in values)
        yield Command(self.ledger.compose(insert), "claim", self.running, params)

    def trusted(self) -> Iterator[Command]:
        """Yield what keeps the tables as they were found, for as long as the transaction lasts."""
        return transaction.trusted(self.session, self.ledger, self.running, unfinished=True)

    def untouched(self) -> Iterator[Command]:
        """Yield what fails if what was sent of the file has changed the ledger."""
        if self.running.traces.touches:
            self.session.exposed = True
            others = self.recorded() - 1
            yield from transaction.untouched(
                self.ledger, self.running, rows=others, unfinished=True
            )

    def of(
        self,
        text: str,
        number: int,
        role: str,
        run: str = "",
        more: tuple[bytes | None, ...] = (),
    ) -> Command:
        """Return a statement about this unit's row, which is this run's or that one's."""
        params = (self.name, str(number).encode(), (run or self.session.name).encode(), *more)
        return Command(self.ledger.compose(text), role, self.running, params)

    def read(self) -> Iterator[Event]:
        """Read the rows of this file."""
        question = Command(self.ledger.compose(_ROWS), "row", self.running, (self.name,))
        answers = yield from self.asked([question])
        self.rows = {row.unit: row for row in map(_row, answers["row"])}

    def write(self, text: str, number: int, run: str) -> Generator[Event, None, bool]:
        """Change a unit's row in a transaction of its own; return whether it was there."""
        command = self.of(text + " RETURNING unit", number, "written", run)
        answers = yield from self.asked([*self.unlimited(), *self.trusted(), command])
        return len(answers["written"]) == 1

    def unlimited(self) -> Iterator[Command]:
        """Yield what lets a row's end be waited for: what it is about has happened already."""
        if self.session.lock_timeout_ms is not None:
            yield self.command(b"SET LOCAL lock_timeout = 0")

    def asked(
        self, commands: Iterable[Command], *, theirs: bool = False
    ) -> Generator[Event, None, Answers]:
        """Run commands of ours in a transaction; `theirs`: in the session as the file has it."""
        ours = () if theirs else self.state.ours()
        limit = self.session.lock_timeout_ms
        limits = [] if limit is None else [self.command(b"SET LOCAL lock_timeout = %d" % limit)]
        return (
            yield from self.send(
                [*self.clean, self.command(BEGIN), *ours, *limits, *commands,
                 self.command(b"COMMIT")]
            )
        )  # fmt: skip

    def send(self, commands: Iterable[Command]) -> Generator[Event, None, Answers]:
        """Send commands through a pipeline of their own, and return the rows of those of ours.

        Of a statement of the file the number of rows is returned that it gave.
        """
        kept = Answers()
        with self.session.pipe.opened():
            yield from self.settled(commands, kept)
        return kept

    def settled(self, commands: Iterable[Command], kept: Answers) -> Iterator[Event]:
        """Send commands through the pipeline that is open; put the rows of those of ours there."""
        for role in _QUESTIONS:
            kept.setdefault(role, [])

        def keep(arrivals: Iterable[Arrival | None]) -> Iterator[Arrival | None]:
            for arrival in arrivals:
                if arrival is not None:
                    command, result = arrival
                    if command.statement is None:
                        values = _values(result)
                    else:
                        rows = result.command_tuples or self.session.pipe.dropped
                        values = [(b"%d" % rows,)]
                    kept.setdefault(command.role, []).extend(values)
                yield arrival

        yield from self.settle(keep(self.session.send(commands)))
        yield from self.settle(keep(self.session.pipe.sync()))

    def gone(self, failed: CommandFailed, found: Statement) -> MigrationsError | CommandFailed:
        """Return the error of a unit that has removed its own row, or what failed otherwise."""
        if failed.command.role not in ("still", "untouched"):
            return failed
        if failed.diagnostic.sqlstate != NOT_ONE:
            return failed
        what = "the ledger's progress table" if failed.command.role == "still" else "the ledger"
        self.session.rollback()
        return self.wrong(
            found,
            f"this changes {what} itself. It was rolled back.",
            "Take that out of the file, and run it again.",
        )

    def command(self, text: bytes) -> Command:
        """Return a command of ours."""
        return Command(text, about=self.running)

    def wrong(self, found: Statement, message: str, *advice: str) -> LedgerError:
        """Return the error about a statement of the file."""
        script = self.running.script
        where, lines = script.location(found.start), script.excerpt(found.start)
        return LedgerError(message, *advice, location=where, excerpt=lines)


def _values(result: PGresult) -> list[tuple[bytes | None, ...]]:
    columns = range(result.nfields)
    return [tuple(result.get_value(n, c) for c in columns) for n in range(result.ntuples)]


def _row(values: tuple[bytes | None, ...]) -> Row:
    unit, key, finished, run_by, pid, target, session, rows, batches = values
    return Row(
        int(unit or 0),
        (key or b"").decode(),
        finished == b"t",
        (run_by or b"").decode(),
        int(pid) if pid else None,
        parsed(target),
        parsed(session),
        int(rows) if rows else None,
        int(batches) if batches else None,
    )

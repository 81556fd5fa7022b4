"""A no-transaction file -> the database, one unit at a time, resumable at the unit that failed.

A unit that may run in a transaction has its progress row in that transaction, so it is never in
doubt. One that may not is announced first, in a row without finished_at; if the run is cut off
then, the next one looks into the catalog whether it took effect.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

from psycopg import sql

from ..errors import LedgerError, ScriptError, SettingsError
from ..events import Event, Note, Waiting
from ..files.plan import Progress
from ..server import watch
from ..server.connection import VANISHED
from ..server.pipeline import Arrival, Command, CommandFailed
from ..sql import kinds
from ..sql.script import Script, Unit
from .ledger import read, read_progress
from .place import Ledger
from .session import Running, Session, statement

Settle = Callable[[Iterable["Arrival | None"]], Iterator[Event]]

_POLL_S = 0.5
_LOOKS = 5

# The ledger row is written and taken back: that waits for, and then fails on, a run that has
# recorded the file (and removed its progress rows) in the meantime.
_CLAIM = ("INSERT INTO {table} (filename) VALUES ($1)", "DELETE FROM {table} WHERE filename = $1")
_FINISHED = """
INSERT INTO {unfinished} (filename, unit, checksum, run_by, finished_at)
VALUES ($1, $2, $3, $4, now())"""
_INTENT = "INSERT INTO {unfinished} (filename, unit, checksum, run_by) VALUES ($1, $2, $3, $4)"
_TAKE_OVER = """
UPDATE {unfinished} SET run_by = %s
WHERE filename = %s AND unit = %s AND run_by = %s AND finished_at IS NULL"""
_FINISH = "UPDATE {unfinished} SET finished_at = now() WHERE filename = %s AND unit = %s"
_FORGET = "DELETE FROM {unfinished} WHERE filename = %s AND unit = %s AND finished_at IS NULL"
_RECORD = """
INSERT INTO {table} (filename, checksum, executed_by, duration_ms) VALUES ($1, $2, $3, $4)"""
_CLEAR = "DELETE FROM {unfinished} WHERE filename = $1"

# An index being built is INVALID as well; its builder holds this lock on the table meanwhile.
_INDEX = """
SELECT format('%%I.%%I', n.nspname, c.relname), i.indisvalid,
       EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
               WHERE l.relation = i.indrelid AND l.mode = 'ShareUpdateExclusiveLock'
                 AND a.backend_type = 'client backend' AND l.pid <> pg_backend_pid()
                 AND a.datname = current_database())
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE """
_BY_NAME = _INDEX + "i.indrelid = to_regclass(%s) AND c.relname = (parse_ident(%s))[1]"
_LEFTOVERS = (
    _INDEX
    + """NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND i.indrelid IN (
    SELECT coalesce((SELECT x.indrelid FROM pg_index x WHERE x.indexrelid = r), r)
    FROM to_regclass(%s) AS r)"""
)

# Doing these once more does no harm.
_REPEATABLE = ("VACUUM", "CLUSTER", "REINDEX", "REPACK", "ALTER SYSTEM", "DISCARD", "CHECKPOINT")


def checksum(script: Script, unit: Unit) -> str:
    """Return the SHA-256 of a unit's statements; what lies between them does not count."""
    text = b"\0".join(script.sql(s) for s in unit.statements).replace(b"\r\n", b"\n")
    return hashlib.sha256(text).hexdigest()


def check(script: Script, progress: Sequence[Progress]) -> None:
    """Raise `ScriptError` if the finished part of an unfinished file was edited."""
    units = [] if script.directives.transaction else list(script.units()) if progress else []
    for row in progress:
        if row.unit < len(units) and checksum(script, units[row.unit]) == row.checksum:
            continue
        offset = units[row.unit].statements[0].start if row.unit < len(units) else 0
        raise ScriptError(
            f"statement {row.unit + 1} is executed already, and was edited since. "
            "Nothing was executed.",
            "Put the executed text back, and the change behind it;",
            f"or, to run the file from its first statement: "
            f"invoke db.repair --name {row.filename} --forget",
            location=script.location(offset),
            excerpt=script.excerpt(offset),
        )


def execute(session: Session, ledger: Ledger, running: Running, settle: Settle) -> Iterator[Event]:
    """Execute what is not finished of the file, and record it.

    Raise `CommandFailed` as the pipeline does, and `LedgerError` if nobody but a person can tell
    whether a statement took effect.
    """
    work = _Work(session, ledger, running, settle)
    started = time.monotonic()
    rows = {row.unit: row for row in work.progress()}
    yield from work.settings()
    for number, unit in enumerate(running.script.units()):
        row = rows.get(number)
        if row is not None and row.finished:
            yield from work.replay(unit)
        elif unit.transactional:
            yield from work.inside(number, unit)
        else:
            yield from work.outside(number, unit, row)
    for unit in running.script.units():
        if not unit.transactional:
            work.gate(unit)
    running.duration_ms = round(1000 * (time.monotonic() - started))
    yield from work.record()


class _Work:
    """One file under way in one session."""

    def __init__(self, session: Session, ledger: Ledger, running: Running, settle: Settle) -> None:
        self.session = session
        self.ledger = ledger
        self.running = running
        self.settle = settle
        self.name = running.filename.encode()

    def progress(self) -> Sequence[Progress]:
        """Return the rows of this file."""
        return read_progress(self.session.conn, self.ledger).get(self.running.filename, ())

    def settings(self) -> Iterator[Event]:
        """Set what holds for the whole file; CONCURRENTLY blocks nobody, so no lock_timeout."""
        server, timeout = self.session.server, self.running.script.directives.statement_timeout_ms
        if server.pooled and (timeout is not None or self.session.settings.role):
            raise SettingsError(
                f"{self.running.script.path}: through a pooler, neither statement-timeout nor "
                "MIGRATIONS_ROLE can be kept for statements outside a transaction.",
                "Connect to the server directly for this file.",
            )
        yield from self._query(b"DISCARD ALL")
        wanted = [f"SET {n} = {value}" for n, value in VANISHED.items() if n in server.settings]
        if server.lock_timeout not in (None, "0"):
            wanted.append("SET lock_timeout = 0")
        if timeout is not None:
            wanted.append(f"SET statement_timeout = {timeout}")
        if server.pooled:
            # By this name other runs see that it is alive; the pooler carries it along.
            wanted.append(f"SET application_name = '{self.session.name}'")
        yield from self._query("; ".join(wanted).encode())

    def replay(self, unit: Unit) -> Iterator[Event]:
        """Set again what a finished unit had set for the session."""
        for found in unit.statements:
            if found.kind in ("SET", "RESET"):
                yield from self._query(self.running.script.sql(found))

    def inside(self, number: int, unit: Unit) -> Iterator[Event]:
        """Execute a unit in a transaction, together with its progress row."""
        leading = [s for s in unit.statements if s.kind == "SET TRANSACTION"]
        rest = [s for s in unit.statements if s.kind != "SET TRANSACTION"]
        yield from self._transaction(
            [
                *self.session.opening(self.running, unit.modes, flush=True),
                *(statement(self.running, s) for s in leading),
                *self._claim(_FINISHED, number, unit),
                *self.session.role(self.running),
                *(statement(self.running, s) for s in rest),
                Command(b"COMMIT", "unit", self.running),
            ]
        )

    def outside(self, number: int, unit: Unit, row: Progress | None) -> Iterator[Event]:
        """Execute a unit that cannot be in a transaction: announced first, then reconciled."""
        conn, key = self.session.conn, (self.running.filename, number)
        row, before = self._row(number), None
        while row != before:  # whoever has announced it by now may be another, and alive
            yield from self._wait_for(row)
            row, before = self._row(number), row
        if row is not None and row.finished:
            return
        done = row is not None and self._took_effect(unit, row)
        if row is None:
            yield from self._transaction(
                [
                    *self.session.opening(self.running, b"", flush=True),
                    *self._claim(_INTENT, number, unit),
                    Command(b"COMMIT", "unit", self.running),
                ]
            )
        else:
            taken = (self.session.name, *key, row.run_by)
            if not conn.execute(self.ledger.compose(_TAKE_OVER), taken).rowcount:
                yield from self.outside(number, unit, self._row(number))
                return
        if not done:
            try:
                yield from self._outside(unit)
            except CommandFailed:
                self.session.rollback()
                conn.execute(self.ledger.compose(_FORGET), key)  # it failed, so it is not in doubt
                raise
        conn.execute(self.ledger.compose(_FINISH), key)

    def _wait_for(self, row: Progress | None) -> Iterator[Event]:
        """Wait until the run that announced a unit has finished it, or is gone.

        Behind a pooler a session is seen only while it does something, so one look is not enough.
        """
        pooled = self.session.server.pooled
        missed, looks = 0, _LOOKS if pooled else 1
        while row is not None and not row.finished:
            missed = 0 if watch.alive(self.session.conn, row.run_by, pooled=pooled) else missed + 1
            if missed >= looks:
                return
            if not missed:
                yield Waiting(f"another run, which executes {self.running.filename}", 0.0)
            time.sleep(_POLL_S * random.uniform(0.5, 1))
            row = self._row(row.unit)

    def gate(self, unit: Unit) -> None:
        """Raise `LedgerError` if an index that the unit builds is INVALID.

        Not if another run has recorded the file: a later one may be dropping that index by now.
        """
        for index, valid, _ in self._indexes(unit):
            if not valid and self.running.filename not in read(self.session.conn, self.ledger):
                raise LedgerError(
                    f"{self.running.script.path}: the index {index} is INVALID; "
                    "the file is not recorded as executed.",
                    f"DROP INDEX CONCURRENTLY {index}, then run it again.",
                )

    def record(self) -> Iterator[Event]:
        """Record the file as executed; its progress rows go in the same transaction."""
        running = self.running
        row = (
            self.name,
            running.script.checksum.encode(),
            self.session.author.encode(),
            str(running.duration_ms).encode(),
        )
        yield from self._transaction(
            [
                *self.session.opening(running, b"", flush=True),
                Command(self.ledger.compose(_RECORD), "claim", running, row),
                Command(self.ledger.compose(_CLEAR), about=running, params=(self.name,)),
                Command(b"COMMIT", "commit", running),
                Command(b"DISCARD ALL", about=running),
            ]
        )

    def _row(self, number: int) -> Progress | None:
        return next((row for row in self.progress() if row.unit == number), None)

    def _claim(self, insert: str, number: int, unit: Unit) -> Iterator[Command]:
        row = (
            self.name,
            str(number).encode(),
            checksum(self.running.script, unit).encode(),
            self.session.name.encode(),
        )
        for text in _CLAIM:
            yield Command(self.ledger.compose(text), "claim", self.running, (self.name,))
        yield Command(self.ledger.compose(insert), "claim", self.running, row)

    def _outside(self, unit: Unit) -> Iterator[Event]:
        """Run the statement itself, after what an earlier try has left INVALID is gone."""
        session = self.session
        (found,) = unit.statements
        while any(building and not valid for _, valid, building in self._indexes(unit)):
            yield Waiting("another session, which builds this index", 0.0)
            time.sleep(_POLL_S * random.uniform(1, 2))
        for index, valid, _ in self._indexes(unit):
            if not valid:
                yield Note(f"dropping the INVALID index {index}", filename=self.running.filename)
                yield from self._query(f"DROP INDEX CONCURRENTLY IF EXISTS {index}".encode())
        role = session.settings.role
        if role:
            yield from self._query(b"SET ROLE " + sql.Identifier(role).as_bytes(None))
        yield from self.settle(session.pipe.query(statement(self.running, found)))
        if role:
            yield from self._query(b"RESET ROLE")
        self.gate(unit)

    def _took_effect(self, unit: Unit, row: Progress) -> bool:
        """Return whether a statement that was cut off did its work; raise if nobody can tell."""
        (found,) = unit.statements
        script = self.running.script
        target = kinds.concurrent_index(script.sql(found))
        if found.kind == "CREATE INDEX CONCURRENTLY":
            return any(valid for _, valid, _ in self._indexes(unit))
        if found.kind == "DROP INDEX CONCURRENTLY" and target:
            gone = "SELECT to_regclass(%s) IS NULL"
            return self.session.conn.execute(gone, [target.name]).fetchone() == (True,)
        if found.kind.startswith(_REPEATABLE):
            return False
        table = self.ledger.compose("{unfinished}").decode()
        filename = sql.Literal(row.filename).as_string(None)
        where = f"WHERE filename = {filename} AND unit = {row.unit}"
        raise LedgerError(
            "this statement was running when a run was cut off, and whether it took effect "
            "cannot be told from the catalog. Look, and say so:",
            f"It did:     UPDATE {table} SET finished_at = now() {where};",
            f"It did not: DELETE FROM {table} {where};",
            location=script.location(found.start),
            excerpt=script.excerpt(found.start),
        )

    def _indexes(self, unit: Unit) -> list[tuple[str, bool, bool]]:
        """Return the indexes that the unit builds, or has left behind: name, valid, being built."""
        (found,) = unit.statements
        target = kinds.concurrent_index(self.running.script.sql(found))
        if target is None or found.kind == "DROP INDEX CONCURRENTLY":
            return []
        if found.kind == "REINDEX CONCURRENTLY":
            query, parameters = _LEFTOVERS, [target.name or target.table]
        else:
            query, parameters = _BY_NAME, [target.table, target.name]
        rows = self.session.conn.execute(query, parameters).fetchall()
        return cast("list[tuple[str, bool, bool]]", rows)

    def _query(self, text: bytes) -> Iterator[Event]:
        command = Command(text, about=self.running)
        yield from self.settle(self.session.pipe.query(command))

    def _transaction(self, commands: Iterable[Command]) -> Iterator[Event]:
        with self.session.pipe.opened():
            yield from self.settle(self.session.send(commands))
            yield from self.settle(self.session.pipe.sync())

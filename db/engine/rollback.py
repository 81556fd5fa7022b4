"""Executed files undone by their .down.sql companions, newest first.

The engine is the runner's. What differs: a file's claim takes its row away, and fails if another
run has taken it or executed a later file; and what remains to be done are the files that still
have one. A file is never undone under a later one, which was written for what is there, nor while
another is half done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

from ..errors import FilesError, LedgerError, MigrationsError
from ..events import Blocker, Event
from ..files.folder import DOWN, Migration, companion, find, load
from ..files.plan import SCHEMA, Executed, Goal, Plan, Progress
from ..server.connection import Target
from ..server.pipeline import Command, CommandFailed
from ..settings import Settings
from ..sql import kinds
from ..sql.script import Script
from . import ledger, place
from .account import Account
from .place import Ledger
from .runner import Run
from .running import Running
from .survey import Survey
from .waiting import patiently

# The division fails where there is no row: then nothing of the file must run.
_UNCLAIM = """
WITH gone AS (
    DELETE FROM {table} AS latest WHERE latest.filename OPERATOR(pg_catalog.=) $1 AND NOT EXISTS (
        SELECT FROM {table} AS later WHERE later.id OPERATOR(pg_catalog.>) latest.id
        AND later.filename OPERATOR(pg_catalog.<>) 'schema.sql')
    RETURNING latest.id)
SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*) FROM gone"""
_DIVISION_BY_ZERO = "22012"
_TOOK = (
    b"SELECT (1000 OPERATOR(pg_catalog.*) extract(epoch FROM pg_catalog.clock_timestamp() "
    b"OPERATOR(pg_catalog.-) pg_catalog.now()))::integer"
)


def undone(down: str) -> str:
    """Return the file that a companion undoes."""
    return down.removesuffix(DOWN) + ".sql"


def companions(
    executed: Mapping[str, Executed], settings: Settings, steps: int, to: str
) -> tuple[Migration, ...]:
    """Return the companions of the latest `steps` files, or of all executed after `to`.

    Raise `FilesError` if one is missing or cannot run in the transaction that removes its row.
    """
    names = [name for name in executed if name != SCHEMA]
    folder = settings.shown(settings.folder)
    wanted = names[names.index(_after(names, to, settings)) + 1 :] if to else names[-steps:]
    paths = [companion(settings.folder / name) for name in reversed(wanted)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FilesError(
            f"Missing in {folder}: {', '.join(missing)}. Nothing was rolled back.",
            f"Write {folder}/{missing[0]}: the SQL that undoes {undone(missing[0])};",
            "or write a new migration that changes what is to be changed.",
        )
    return tuple(load(path, f"{folder}/{path.name}") for path in paths)


def _after(names: Sequence[str], to: str, settings: Settings) -> str:
    """Return which of the executed files is meant. Raise `FilesError` if it is none of them."""
    folder, meant = settings.shown(settings.folder), Path(to).name
    for name in (meant, f"{meant}.sql"):
        if name not in names and (settings.folder / name).is_file():
            raise FilesError(
                f"{name} is not executed. Nothing was rolled back.",
                "What is executed, in its order: invoke db.status",
            )
    rows = [Migration(n, settings.folder / n, f"{folder}/{n}", "") for n in names]
    return find(rows, to).filename


def retyped(executed: Mapping[str, Executed], steps: int, to: str) -> str:
    """Return the command that goes on with this one, however much of it is done.

    A number would count from the latest file again, so it is the file that is to remain.
    """
    names = [name for name in executed if name != SCHEMA]
    if to or 1 < steps < len(names):
        return f"db.rollback --to {quote(to or names[-steps - 1])}"
    return f"db.rollback --steps {steps}" if steps > 1 else "db.rollback"


def shown(downs: Sequence[Migration]) -> list[tuple[str, str]]:
    """Return what is undone, and by what."""
    return [(undone(down.filename), down.shown) for down in downs]


def refuse_half_done(
    executed: Collection[str],
    progress: Mapping[str, Sequence[Progress]],
    state: str = "Nothing was rolled back.",
) -> None:
    """Raise `LedgerError` if a file is executed in part, which may stand on what would go."""
    for name in [name for name in progress if name not in executed][:1]:
        units = progress[name]
        at = next((u.unit for u in units if not u.finished), len(units))
        raise LedgerError(
            f"{name} is half done: it has come to statement {at + 1}, and would go on there on "
            f"what is left. {state}",
            "Finish it: invoke db.migrate-run",
            f"or undo by hand what it did, and: invoke db.repair --name {name} --forget",
        )


def _refuse_outside(script: Script) -> None:
    """Raise `FilesError` for a companion that cannot be a transaction: no line makes it run."""
    if not script.directives.transaction:
        raise FilesError(
            f"{script.path} is no-transaction, but what undoes a file runs in the "
            "transaction that removes its row. Nothing was rolled back.",
            "Write it without CONCURRENTLY and the like, or as a new migration.",
        )
    for found in script.statements():
        if found.kind in kinds.NOT_IN_TRANSACTION:
            plain = "CONCURRENTLY" in found.kind
            raise script.error(
                f"{found.kind} cannot run in the transaction that removes the file's row. "
                "Nothing was rolled back.",
                "Write it without CONCURRENTLY." if plain else "Write it as a new migration.",
                at=found.start,
            )


class _Undone(Account):
    """What a run backwards has executed: companions, which take rows away."""

    def is_done(self, filename: str, executed: Mapping[str, Executed]) -> bool:
        return undone(filename) not in executed

    def is_ours(self, filename: str, executed: Mapping[str, Executed]) -> bool:
        return self.is_done(filename, executed)  # a row that is gone says no more


class Rollback(Run):
    """One run backwards. `executed` are the companions that it has executed."""

    _accounts = _Undone

    def __init__(
        self,
        target: Target,
        settings: Settings,
        downs: Sequence[Migration],
        command: str = "db.rollback",
    ) -> None:
        super().__init__(target, settings, Goal(command))
        self._downs = downs

    def _look(self, *, again: bool = False) -> Iterator[Event]:  # noqa: ARG002  # all, each time
        session = self._session

        def find() -> Ledger:
            return place.find(session.conn, self._settings.ledger, session.tables())

        self._ledger, executed, progress = yield from patiently(
            session, lambda: ledger.look(session.conn, find, session.lock_timeout_ms)
        )
        todo = tuple(d for d in self._downs if not self._account.is_done(d.filename, executed))
        self._survey = Survey(self._ledger, executed, {}, (), Plan((), (), ()), {}, todo)
        yield from self._account.confirm(executed)  # first: a refusal says what is undone
        self._refuse_later(executed)
        if todo:
            refuse_half_done(executed, progress, self._state())

    def _refuse_later(self, executed: Mapping[str, Executed]) -> None:
        """Raise `LedgerError` if a file was executed after those that are to be undone."""
        ours = {undone(down.filename) for down in self._downs}
        names = [name for name in executed if name != SCHEMA]
        left = [name for name in names if name in ours]
        later = [name for name in names[names.index(left[0]) :] if name not in ours] if left else []
        if later:
            raise self._overtaken(left[-1], f"{later[-1]} was executed meanwhile")

    def _overtaken(self, filename: str, why: str) -> LedgerError:
        return LedgerError(
            f"{why}, so {filename} is not the latest file any more. {self._state()}",
            "Look again: invoke db.status",
            "To undo what is the latest now: invoke db.rollback",
        )

    def _state(self) -> str:
        done = ", ".join(map(undone, self.executed))
        return f"Undone before: {done}." if done else "Nothing was rolled back."

    def _check(self) -> bool:
        for down in self._survey.todo:
            with Script.open(down.path, down.shown) as script:
                _refuse_outside(script)
        return super()._check()

    def _claim(self, running: Running) -> Command:
        params = (undone(running.filename).encode(),)
        return Command(self._ledger.compose(_UNCLAIM), "claim", running, params)

    def _record(self, running: Running) -> Command:
        return Command(_TOOK, "record", running)

    def _rows(self) -> int:
        gone = {*map(undone, self._account.executed), *map(undone, self._account.under_way)}
        return len(set(self._survey.executed) - gone)

    def _failed(
        self,
        failed: CommandFailed,
        running: Running,
        todo: Sequence[Migration],
        blockers: tuple[Blocker, ...],
    ) -> MigrationsError:
        if failed.command.role == "claim" and failed.diagnostic.sqlstate == _DIVISION_BY_ZERO:
            return self._overtaken(undone(running.filename), "A later file was executed meanwhile")
        return super()._failed(failed, running, todo, blockers)

    def _standing(self, todo: Sequence[Migration]) -> str:
        done = ", ".join(map(undone, self.executed))
        still = f"{undone(todo[0].filename)} is still executed. " if todo else ""
        return f"{still}Undone: {done or 'nothing'}."

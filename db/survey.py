"""What stands in a database and a folder, and what a command is to do about it. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from . import files, ledger, plan
from .config import Settings
from .connection import Connection
from .errors import LedgerError
from .events import Note
from .files import Migration
from .ledger import Ledger
from .plan import SCHEMA, Executed, Goal, Plan, Progress


class Survey(NamedTuple):
    """What stands, and `todo`: what the goal makes of it, in order."""

    ledger: Ledger
    executed: Mapping[str, Executed]
    progress: Mapping[str, list[Progress]]
    plan: Plan
    todo: tuple[Migration, ...]
    notes: tuple[Note, ...]
    unchecked: Mapping[str, str]  # checksums of files that the Node code executed

    @property
    def idle(self) -> bool:
        """Return whether nothing has to be written."""
        return not self.todo and not self.unchecked and self.ledger.complete


def survey(
    conn: Connection, settings: Settings, goal: Goal, lock_timeout_ms: int | None = None
) -> Survey:
    """Return what stands and what is to be done; nothing is written.

    Raise `FilesError` or `LedgerError` for what must be put right first, and
    `psycopg.errors.LockNotAvailable` if the ledger is locked for longer than that.
    """
    book = ledger.find(conn, settings.ledger)
    executed = ledger.read(conn, book, lock_timeout_ms)
    progress = ledger.read_progress(conn, book, lock_timeout_ms)
    migrations = files.discover(settings.folder, settings.shown(settings.folder))
    made = plan.make(migrations, executed, progress)
    notes = [*_adoption(book, executed), *made.notes]
    if goal.only:
        todo, more = _only(migrations, made, executed, goal)
    else:
        plan.refuse_changed(made)
        todo, more = made.pending, []
        if goal.schema:
            first, more = _schema(conn, settings, book, executed)
            todo = (*first, *todo)
        if not migrations:
            more.append(Note(f"the folder {settings.shown(settings.folder)} holds no migrations"))
    unchecked = {
        m.filename: m.checksum
        for m in migrations
        if m.filename in executed and executed[m.filename].checksum is None
    }
    return Survey(book, executed, progress, made, todo, (*notes, *more), unchecked)


def _adoption(book: Ledger, executed: Mapping[str, Executed]) -> list[Note]:
    if not book.exists or book.complete:
        return []
    return [Note(f"adopting the ledger {book.schema}.{book.table}: {len(executed)} executed")]


def _only(
    migrations: Sequence[Migration], made: Plan, executed: Mapping[str, Executed], goal: Goal
) -> tuple[tuple[Migration, ...], list[Note]]:
    wanted = files.find(migrations, goal.only)
    row = executed.get(wanted.filename)
    if row is not None:
        when = f" on {row.executed_at:%Y-%m-%d at %H:%M:%S %Z}" if row.executed_at else ""
        changed = " It has changed since." if wanted.filename in made.named("changed") else ""
        message = f"{wanted.filename} was already executed{when.rstrip()}.{changed}"
        return (), [Note(message, "warning")]
    earlier = [m.filename for m in made.pending if m.filename < wanted.filename]
    if not earlier:
        return (wanted,), []
    more = f" and {len(earlier) - 1} more" if earlier[1:] else ""
    return (wanted,), [Note(f"earlier files are still pending: {earlier[0]}{more}")]


def _schema(
    conn: Connection, settings: Settings, book: Ledger, executed: Mapping[str, Executed]
) -> tuple[tuple[Migration, ...], list[Note]]:
    shown = settings.shown(settings.schema)
    if not settings.schema.is_file() and SCHEMA in executed:
        return (), []
    row = executed.get(SCHEMA)
    if row is not None:
        known = row.checksum in (None, files.load(settings.schema, shown).checksum)
        if known or files.is_dump(settings.schema):  # which holds what the migrations made
            return (), []
        return (), [Note(f"{shown} was edited after it was loaded; only new databases get it")]
    empty = ledger.is_empty(conn, book)
    if executed or (book.exists and not empty):
        return (), [Note(f"{shown} is taken as loaded: this ledger was set up without it")]
    if not empty:
        raise LedgerError(
            "The database has tables but no ledger, so what is already in it is unknown. "
            "Nothing was executed.",
            "If only the migrations are wanted: invoke db.migrate-run",
            "If the base schema and the migrations are already in it: invoke db.baseline",
        )
    schema = files.load(settings.schema, shown)
    return (Migration(SCHEMA, schema.path, schema.shown, schema.checksum),), []

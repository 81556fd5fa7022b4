"""What stands in a database and a folder, and what a command is to do about it. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from ..errors import LedgerError, ScriptError, listed
from ..events import Note
from ..files import folder, plan, renames
from ..files.folder import Migration
from ..files.plan import SCHEMA, Executed, Goal, Plan, Progress
from ..server.ours import Connection, Row
from ..settings import Settings
from . import ledger, place
from .place import Ledger


class Survey(NamedTuple):
    """Files and ledger side by side, and `todo`: what a goal makes of them, in order."""

    ledger: Ledger
    executed: Mapping[str, Executed]
    progress: Mapping[str, list[Progress]]
    migrations: tuple[Migration, ...]
    plan: Plan
    unchecked: Mapping[str, str]  # checksums of files that the Node code executed
    todo: tuple[Migration, ...] = ()
    notes: tuple[Note, ...] = ()

    @property
    def idle(self) -> bool:
        """Return whether nothing has to be written."""
        return not self.todo and not self.unchecked and self.ledger.complete

    @property
    def half_schema(self) -> bool:
        """Return whether the base schema is executed in part, and its file is there."""
        return SCHEMA in self.progress and SCHEMA not in {
            *self.executed,
            *self.plan.named(plan.STRAY),
        }


def stand(
    conn: Connection,
    settings: Settings,
    lock_timeout_ms: int | None = None,
    *,
    before: Survey | None = None,
    files: tuple[Migration, ...] | None = None,
    tables: list[Row] | None = None,
) -> Survey:
    """Return what stands, with nothing to be done about it. Nothing is written.

    With what stood `before`, only the database is looked at again, with the `files` of the folder,
    that is not read, and with the `tables` that `place.FIND` has just found, it is not asked.
    Raise `FilesError` or `LedgerError` for what must be put right first, and
    `psycopg.errors.LockNotAvailable` if the ledger is locked for longer than that.
    """

    def find() -> Ledger:
        nonlocal tables
        found, tables = tables, None
        return _ledger(conn, settings, found)

    if before is None:
        book, executed, progress = ledger.look(conn, find, lock_timeout_ms)
        migrations = files
        if migrations is None:
            migrations = folder.discover(settings.folder, settings.shown(settings.folder))
    else:
        book, executed, progress = ledger.look_again(conn, before.ledger, find, lock_timeout_ms)
        migrations = before.migrations
    unchecked = {
        m.filename: m.checksum
        for m in migrations
        if m.filename in executed and executed[m.filename].checksum is None
    }
    with folder.readable(settings.shown(settings.schema)):
        without = not settings.schema.is_file()
    made = plan.make(migrations, executed, progress, without_schema=without)
    return Survey(book, executed, progress, migrations, made, unchecked)


def _ledger(conn: Connection, settings: Settings, tables: list[Row] | None) -> Ledger:
    """Return the ledger. One that is nowhere yet belongs where the dump has it that is loaded.

    Otherwise the dump would make a second one there.
    """
    book = place.find(conn, settings.ledger, tables)
    schema, table = place.parted("" if book.exists else _dumped(settings))
    if book.named or not schema or table != book.table:
        return book
    return book._replace(schema=schema, dumped=True)


def _dumped(settings: Settings) -> str:
    return folder.dumped_ledger(settings.schema) or ""


def survey(
    conn: Connection,
    settings: Settings,
    goal: Goal,
    lock_timeout_ms: int | None = None,
    *,
    before: Survey | None = None,
    files: tuple[Migration, ...] | None = None,
    tables: list[Row] | None = None,
) -> Survey:
    """Return what stands and what is to be done; nothing is written. Raise as `stand` does."""
    found = stand(conn, settings, lock_timeout_ms, before=before, files=files, tables=tables)
    if goal.only:
        todo, more = _only(found, goal)
    else:
        plan.refuse_renamed(found.plan)  # first: to accept what has changed would hide it
        plan.refuse_changed(found.plan)
        todo, more = _up_to(found, goal.to) if goal.to else (found.plan.pending, [])
        if goal.among is not None:
            todo = tuple(m for m in todo if m.filename in goal.among)
        if goal.schema:
            first, more = _schema(conn, settings, found)
            todo = (*first, *todo)
        if not found.migrations:
            said = folder.empty(settings.folder, settings.shown(settings.folder))
            more.append(Note(said, "warning"))
    todo, bare = _without_statements(found, todo)
    if not goal.schema:
        _refuse_half_schema(found, settings)
    if todo:  # where nothing is to run, nothing of it can run again: a note will do
        renames.refuse_strays(found.plan.strays)
    notes = (*_adoption(found), *found.plan.notes, *more, *bare)
    return found._replace(todo=todo, notes=notes)


def base_schema(settings: Settings) -> Migration | None:
    """Return the base schema's file, if there is one, under its name in the ledger."""
    shown = settings.shown(settings.schema)
    with folder.readable(shown):
        if not settings.schema.is_file():
            return None
    file = folder.load(settings.schema, shown)
    return file._replace(filename=SCHEMA)


def all_files(settings: Settings, found: Survey) -> list[Migration]:
    """Return the base schema's file, if there is one, and the folder's, in the order they run."""
    return [*filter(None, [base_schema(settings)]), *found.migrations]


def _adoption(found: Survey) -> list[Note]:
    book = found.ledger
    notes = []
    if book.exists and not book.on_path and not book.named:
        notes.append(Note(f"the ledger is {book.shown}, which is not on the search_path"))
    if book.exists and not book.complete:
        number = len(found.executed)
        notes.append(Note(f"adopting the ledger {book.schema}.{book.table}: {number} executed"))
    return notes


def _only(found: Survey, goal: Goal) -> tuple[tuple[Migration, ...], list[Note]]:
    wanted = folder.find(found.migrations, goal.only)
    row = found.executed.get(wanted.filename)
    if row is not None:
        when = f" on {row.executed_at:%Y-%m-%d at %H:%M:%S %Z}" if row.executed_at else ""
        changed = " It has changed since." if wanted.filename in found.plan.named("changed") else ""
        message = f"{wanted.filename} was already executed{when.rstrip()}.{changed}"
        return (), [Note(message, "warning")]
    plan.refuse_renamed(found.plan, wanted.filename)
    earlier = [m.filename for m in found.plan.pending if m.filename < wanted.filename]
    if not earlier:
        return (wanted,), []
    more = f" and {len(earlier) - 1} more" if earlier[1:] else ""
    return (wanted,), [Note(f"earlier files are still pending: {earlier[0]}{more}")]


def _up_to(found: Survey, to: str) -> tuple[tuple[Migration, ...], list[Note]]:
    last = folder.find(found.migrations, to).filename
    later = [m.filename for m in found.plan.pending if m.filename > last]
    left = [Note(f"left pending, behind {last}: {listed(later, 3)}")] if later else []
    return tuple(m for m in found.plan.pending if m.filename <= last), left


def _without_statements(
    found: Survey, todo: tuple[Migration, ...]
) -> tuple[tuple[Migration, ...], list[Note]]:
    """Take out the files that hold no statement yet: recorded now, they could not be written."""
    if not todo:
        return todo, []
    bare = []
    for migration in todo:
        if migration.filename == SCHEMA or migration.filename in found.progress:
            continue
        with migration.script() as script, suppress(ScriptError):
            if next(script.statements(), None) is None:
                bare.append(migration)
    if not bare:
        return todo, []
    names = listed([m.filename for m in bare], 3)
    verb = "hold" if bare[1:] else "holds"
    note = Note(f"not executed, because {names} {verb} no statement yet", "warning")
    return tuple(m for m in todo if m not in bare), [note]


def _refuse_half_schema(found: Survey, settings: Settings) -> None:
    """Raise `LedgerError` if the base schema, which is below all files, is executed in part."""
    if found.half_schema:
        raise LedgerError(
            f"{settings.shown(settings.schema)} is half done, and the migrations are written for "
            "what it makes. Nothing was executed.",
            "Finish it first: invoke db.migrate",
            f"or, if the database has all of it: invoke db.repair --name {SCHEMA} --mark",
        )


def _schema(
    conn: Connection, settings: Settings, found: Survey
) -> tuple[tuple[Migration, ...], list[Note]]:
    shown, executed = settings.shown(settings.schema), found.executed
    schema, row = base_schema(settings), executed.get(SCHEMA)
    if row is None and schema is not None and SCHEMA in found.progress:  # it goes on
        return (schema,), []
    if row is not None:
        known = schema is None or row.checksum in (None, schema.checksum)
        if known or folder.is_dump(settings.schema):  # which holds what the migrations made
            return (), []
        return (), [Note(f"{shown} was edited after it was loaded; only new databases get it")]
    empty = place.is_empty(conn, found.ledger)
    if executed or (found.progress and not empty):
        loaded = Note(f"{shown} is taken as loaded: this ledger was set up without it")
        return (), [] if schema is None else [loaded]
    if not empty:
        raise _unknown(found, shown if schema else "")
    if schema is None and not settings.schema_named:  # a project may do without
        return (), []
    there, here = _dumped(settings), f"{found.ledger.schema}.{found.ledger.table}"
    if there not in ("", here):
        raise LedgerError(
            f"{shown} is a dump whose ledger is {there}, and the one here is {here}: there would "
            "be two. Nothing was executed.",
            f"Set MIGRATIONS_TABLE={there}; or dump it from a database that has it in {here}.",
        )
    return (schema or folder.load(settings.schema, shown),), []


def _unknown(found: Survey, schema: str) -> LedgerError:
    """Return why nothing is done with tables that no row tells of. `schema`: the base schema's."""
    # An empty ledger is what a run leaves whose first file has failed.
    no = "no file in its ledger" if found.ledger.exists else "no ledger"
    by_hand = f"If {schema} is not in it yet: load it by hand (invoke db.console), and then: "
    return LedgerError(
        f"The database has tables but {no}, so what is already in it is unknown. "
        "Nothing was executed.",
        "If only the migrations are wanted: invoke db.migrate-run",
        "If the base schema and the migrations are already in it: invoke db.baseline",
        *([f"{by_hand}invoke db.baseline --to schema.sql"] if schema else []),
    )

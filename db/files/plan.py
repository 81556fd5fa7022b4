"""Files and ledger side by side: what is executed, what would run, what is wrong. No database."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from shlex import quote
from typing import NamedTuple

from ..errors import LedgerError, counted
from ..events import Note
from . import folder, renames
from .folder import Migration
from .renames import Rename, Stray

_SAID = 3  # notes of a kind; the others are counted

SCHEMA = "schema.sql"  # the base schema's name in the ledger
STRAY = "unfinished without file"  # the state of a half-done file that is not in the folder


class Goal(NamedTuple):
    """What a command wants, and how it is typed.

    The base `schema` first; `only` one file; or the pending files up `to` one, that one included;
    of these just those `among` some, if that is said.
    """

    command: str = "db.migrate-run"
    schema: bool = False
    only: str = ""
    to: str = ""
    among: frozenset[str] | None = None

    @property
    def preview(self) -> str:
        """Return the command that shows what this one would do."""
        if self.only:
            return f"db.plan --name {quote(self.only)}"
        run = f"db.plan --to {quote(self.to)}" if self.to else "db.plan --run"
        return "db.plan" if self.schema else run


class Executed(NamedTuple):
    """A row of the ledger. What the Node code recorded has no checksum, duration or author."""

    filename: str
    executed_at: datetime | None
    checksum: str | None = None
    duration_ms: int | None = None
    executed_by: str | None = None


class Progress(NamedTuple):
    """A unit of a no-transaction file that is not whole yet.

    `finished` is false for an intent: the unit was about to run outside a transaction, by the
    session whose application_name is `run_by`. `rows` and `batches`: of a statement that is
    repeated; its batches are committed, and what is left of it is not in doubt.
    """

    filename: str
    unit: int
    checksum: str
    finished: bool
    run_by: str
    rows: int | None = None
    batches: int | None = None

    @property
    def shown(self) -> str:
        """What is done of a statement that is repeated."""
        return repeated(self.rows, self.batches)


def repeated(rows: int | None, batches: int | None) -> str:
    """Return how far a statement is that is repeated: 12,000 rows in 3 batches."""
    return f"{counted(rows or 0, 'row')} in {counted(batches or 0, 'batch')}"


def batched(units: Sequence[Progress]) -> str:
    """Return what stands of the repeated statement that a file has come to, or nothing."""
    return next((u.shown for u in units if u.batches and not u.finished), "")


class Entry(NamedTuple):
    """One file as `db.status` shows it."""

    filename: str
    state: str  # executed, pending, out of order, unfinished, renamed, changed, missing, or STRAY
    executed: Executed | None = None


class Plan(NamedTuple):
    """What stands, and what would run, in order."""

    entries: tuple[Entry, ...]
    pending: tuple[Migration, ...]
    notes: tuple[Note, ...]
    renamed: tuple[Rename, ...] = ()
    strays: tuple[Stray, ...] = ()

    def named(self, *states: str) -> tuple[str, ...]:
        """Return the files that are in one of the states."""
        return tuple(e.filename for e in self.entries if e.state in states)


def make(
    migrations: Sequence[Migration],
    executed: Mapping[str, Executed],
    progress: Mapping[str, Sequence[Progress]],
    *,
    without_schema: bool = False,
) -> Plan:
    """Return the plan. Raise `FilesError` if a pending file would run out of its number's order.

    `without_schema`: there is no file of the base schema, so that it may be one of the others now.
    """
    names = {m.filename for m in migrations}
    pending = {n for n in names if n not in executed}
    folder.check_order(migrations, pending)
    gone = [row for n, row in executed.items() if n not in names]
    if not without_schema:
        gone = [row for row in gone if row.filename != SCHEMA]
    waiting = tuple(m for m in migrations if m.filename in pending)
    changed = _changed(migrations, executed)
    renamed = renames.find(waiting, {row.filename: row.checksum for row in gone}, changed)
    newest = max((n for n in executed if n != SCHEMA), default="")
    entries = [
        Entry(
            m.filename,
            "renamed"
            if m.filename in {r.new for r in renamed}
            else _state(m, executed, changed, newest, progress),
            executed.get(m.filename),
        )
        for m in migrations
    ]
    missing = [Entry(row.filename, "missing", row) for row in gone if row.filename != SCHEMA]
    moved = {r.old for r in renamed}
    lost = [entry.filename for entry in missing if entry.filename not in moved]
    known = {*names, *executed} if without_schema else {*names, *executed, SCHEMA}
    strays = tuple(_strays(known, progress, waiting))
    half = [Entry(each.old, STRAY) for each in strays]
    return Plan(
        tuple(sorted([*entries, *missing, *half], key=lambda e: e.filename)),
        waiting,
        (*_notes(migrations, pending, lost), *map(_half_done, strays)),
        renamed,
        strays,
    )


def _strays(
    known: Collection[str],
    progress: Mapping[str, Sequence[Progress]],
    pending: Sequence[Migration],
) -> Iterator[Stray]:
    for name, units in progress.items():
        if name not in known:
            yield renames.stray(name, sum(unit.finished for unit in units), pending)


def _changed(
    migrations: Sequence[Migration], executed: Mapping[str, Executed]
) -> dict[str, str | None]:
    """Return the files that have another text than they were executed with, and that checksum."""
    rows = {m.filename: (m, executed[m.filename]) for m in migrations if m.filename in executed}
    return {
        name: row.checksum
        for name, (m, row) in rows.items()
        if row.checksum not in (None, m.checksum)
    }


def _state(
    migration: Migration,
    executed: Collection[str],
    changed: Collection[str],
    newest: str,
    progress: Collection[str],
) -> str:
    if migration.filename in executed:
        return "changed" if migration.filename in changed else "executed"
    if migration.filename in progress:
        return "unfinished"
    return "out of order" if migration.filename < newest else "pending"


def _notes(
    migrations: Sequence[Migration], pending: set[str], gone: Sequence[str]
) -> Iterator[Note]:
    twins = folder.duplicates(migrations, pending)
    for pair in twins[:_SAID]:
        done = [name for name in pair if name not in pending]
        run = f"{done[0]} is executed already" if done else "both run, in this order"
        yield Note(f"{pair[0]} and {pair[1]} have the same number; {run}.", "warning")
    if twins[_SAID:]:
        have = "has" if len(twins) == _SAID + 1 else "have"
        more = counted(len(twins) - _SAID, "more pair")
        yield Note(f"{more} of files {have} the same number.", "warning")
    if gone:
        named = ", ".join(gone[:3])
        more = f" and {len(gone) - 3} more" if gone[3:] else ""
        verb = "are executed, but their files are" if gone[1:] else "is executed, but its file is"
        yield Note(f"{named}{more} {verb} missing.", "warning")


def _half_done(stray: Stray) -> Note:
    rename = f"{Rename(stray.old, stray.new).repair}; or: " if stray.new else ""
    said = f"{stray.shown}, but its file is missing. Put it back; or: {rename}{stray.forget}"
    return Note(said, "warning")


def refuse_renamed(plan: Plan, only: str = "") -> None:
    """Raise `FilesError` if a pending file, or this one, is an executed one under another name."""
    renames.refuse([r for r in plan.renamed if only in ("", r.new)])


def refuse_changed(plan: Plan) -> None:
    """Raise `LedgerError` if an executed file has another text now."""
    changed = plan.named("changed")
    if changed:
        raise LedgerError(
            f"Changed since it was executed: {', '.join(changed)}. Nothing was executed.",
            "Put the executed text back and write the change as a new migration;",
            f"or, if the edit is meant: invoke db.repair --name {changed[0]} --accept",
        )

"""db.repair: what the ledger says about one file, put right."""

from __future__ import annotations

from typing import NamedTuple

from ..engine import ledger, resume
from ..engine.survey import Survey, all_files, stand
from ..errors import FilesError, LedgerError, counted
from ..events import Note
from ..files import folder, renames
from ..files.folder import Migration
from ..files.plan import SCHEMA
from ..server.ours import Connection
from ..server.watch import author
from ..settings import Settings
from .opened import Confirm, Screen, changing, connected, read_only
from .status import advice


class Way(NamedTuple):
    """What is done: accept, forget, mark, or renamed-from, which needs the `old` name."""

    how: str
    old: str = ""


def repair(settings: Settings, screen: Screen, confirm: Confirm, name: str, way: Way) -> None:
    """Change what the ledger says about one file.

    What is done is what was shown: raise `LedgerError` if the ledger has changed until somebody
    answers.
    """
    with connected(settings, screen, writing=True) as (target, conn, server):
        with read_only(conn, server):
            found = stand(conn, settings)
        chosen = _chosen(settings, found, name)
        way = way._replace(old=way.old and _chosen(settings, found, way.old).filename)
        change = _change(found, chosen, way)
        if isinstance(change, Note):
            screen.event(change)
            return
        screen.table(("filename", "change"), [(chosen.filename, change)])
        confirm(f"Do this in {server.connected}?")
        with changing(target, conn, server, settings, found) as now:
            if _shown_now(settings, now, chosen, way) != (chosen, change):
                raise LedgerError(ledger.CHANGED, ledger.LOOK_AGAIN)
            _write(conn, now, chosen, way)
        screen.event(Note("done", filename=chosen.filename))


def _shown_now(
    settings: Settings, now: Survey, chosen: Migration, way: Way
) -> tuple[Migration, str | Note] | None:
    try:
        chosen = _chosen(settings, now, chosen.filename)
        return chosen, _change(now, chosen, way)
    except (FilesError, LedgerError):
        return None


def _chosen(settings: Settings, found: Survey, name: str) -> Migration:
    """Return the file of that name, or what the ledger alone has, without a checksum."""
    names = (*found.executed, *found.progress)
    gone = [Migration(n, settings.folder / n, n, "") for n in names]
    known = {m.filename: m for m in (*gone, *all_files(settings, found))}
    return folder.find(tuple(known.values()), name)


def _write(conn: Connection, now: Survey, chosen: Migration, way: Way) -> None:
    book, name, (how, old) = now.ledger, chosen.filename, way
    if how == "accept":
        ledger.accept(conn, book, name, chosen.checksum)
    elif how == "forget":
        ledger.forget(conn, book, name, rows=int(name in now.executed))
    elif how == "mark":
        ledger.record(conn, book, [(name, chosen.checksum)], f"{author()} (db.repair --mark)")
    elif old not in now.executed:
        ledger.rename_units(conn, book, old, name, rows=len(now.progress[old]))
    else:
        before = now.executed[old].checksum
        same = renames.same_text(chosen, old, before)
        ledger.rename(conn, book, old, name, chosen.checksum if same else before)


def _change(found: Survey, chosen: Migration, way: Way) -> str | Note:
    """Return what would change, or a note that nothing has to. Raise if it cannot be done."""
    name, row, (how, old) = chosen.filename, found.executed.get(chosen.filename), way
    if how == "forget":
        return _forgetting(found, chosen)
    if not chosen.checksum:
        raise FilesError(f"There is no file {name}.", *advice(found.plan))
    if how == "renamed-from":
        return _renaming(found, chosen, old)
    if how == "mark":
        already = Note("nothing to mark: it is executed already", filename=name)
        return already if row else "recorded as executed, not run"
    if row is None:
        raise LedgerError(
            f"{name} is not executed, so there is no checksum to accept.", _to_run(found, name)
        )
    if row.checksum == chosen.checksum:
        return Note("nothing to accept: it is as it was executed", filename=name)
    for rename in [rename for rename in found.plan.renamed if rename.old == name]:
        raise FilesError(
            f"The text with which {name} was executed is that of {rename.new} now, and would run "
            "again. Nothing was done.",
            "Let the row go where the text is:",
            *renames.lines([rename]),
        )
    return f"checksum {(row.checksum or 'none')[:12]} becomes {chosen.checksum[:12]}"


def _to_run(found: Survey, name: str) -> str:
    """Return what to type for a file that is not executed."""
    if name != SCHEMA:
        return f"To run it: invoke db.migrate-single --name {name}"
    if found.executed:
        return (
            "This ledger was set up without it, and it is taken as loaded. To record that: "
            f"invoke db.repair --name {SCHEMA} --mark"
        )
    return "To load it, into a database without tables: invoke db.migrate"


def _forgetting(found: Survey, chosen: Migration) -> str | Note:
    if chosen.filename in found.executed:
        return f"its row is removed{_running_then(found, chosen)}"
    if chosen.filename in found.progress:
        return f"what is finished of it is forgotten; {_beginning_then(found, chosen)}"
    return Note("nothing to forget: the ledger does not have it", filename=chosen.filename)


def _running_then(found: Survey, chosen: Migration) -> str:
    """Return which files run once an executed one is forgotten."""
    for rename in found.plan.renamed:
        if rename.old == chosen.filename and rename.there:
            return f"; it runs, and so does {rename.new}, which has the executed text"
        if rename.old == chosen.filename:
            return f"; {rename.new}, which is the same file, runs then"
    if chosen.filename == SCHEMA and chosen.checksum:
        return f"; {_loading_then(found)}"
    return "; it runs again" if chosen.checksum else ""


def _beginning_then(found: Survey, chosen: Migration) -> str:
    """Return what becomes of a half-done file once it is forgotten."""
    if chosen.checksum:
        again = "it starts from its first statement"
        return _loading_then(found) if chosen.filename == SCHEMA else again
    new = [stray.new for stray in found.plan.strays if stray.old == chosen.filename]
    again = f"; if {new[0]} is the same file, that runs again" if any(new) else ""
    return f"what is executed of it stays in the database{again}"


def _loading_then(found: Survey) -> str:
    """Return what becomes of the base schema once it is forgotten."""
    if found.executed.keys() - {SCHEMA}:
        return "it is not loaded again: other files are executed, so it is taken as loaded"
    return "it is loaded again once the database has no tables, by db.migrate"


def _refuse_copy(found: Survey, name: str, old: str) -> None:
    if old in {m.filename for m in found.migrations}:
        raise FilesError(
            f"{old} is still in the folder, so {name} is a copy of it. Nothing was done.",
            "Remove the one that is not wanted.",
        )


def _going_on(found: Survey, chosen: Migration, old: str) -> str:
    """Return what becomes of a half-done file. Raise if the new one does not begin as it does."""
    name, units = chosen.filename, found.progress.get(old)
    if units is None:
        raise LedgerError(f"{old} is not executed, so {name} is no other name of it.")
    if name in found.executed or name in found.progress:
        itself = "executed" if name in found.executed else "half done"
        raise LedgerError(
            f"{name} is {itself} itself. Nothing was done.",
            f"If {old} is to go: invoke db.repair --name {old} --forget",
        )
    _refuse_copy(found, name, old)
    with chosen.script() as script:
        resume.check(script, units)
    done = sum(unit.finished for unit in units)
    is_are = "is" if done == 1 else "are"
    return f"goes on where {old} was: {counted(done, 'statement')} {is_are} executed"


def _renaming(found: Survey, chosen: Migration, old: str) -> str | Note:
    name, row = chosen.filename, found.executed.get(old)
    if row is None:
        return _going_on(found, chosen, old)
    if name in found.executed:
        raise LedgerError(
            f"{name} has a row of its own: both were executed. Nothing was done.",
            f"If {old} is to go: invoke db.repair --name {old} --forget",
        )
    there = old in found.plan.named("changed") and renames.same_text(chosen, old, row.checksum)
    if not there:
        _refuse_copy(found, name, old)
    when = f"{row.executed_at:%Y-%m-%d %H:%M}" if row.executed_at else "an unknown time"
    moved = f"gets the row of {old}, executed at {when}; it does not run again"
    if there:
        return f"{moved}; {renames.Rename(old, name, there).then}"
    if row.checksum is None or renames.same_text(chosen, old, row.checksum):
        return moved
    return f"{moved}; its text is another one, which db.status shows as changed"

"""db.repair: what the ledger says about one file, put right."""

from __future__ import annotations

from ..engine import ledger
from ..engine.survey import Survey, all_files, stand
from ..errors import (
    FilesError,
    LedgerError,
)
from ..events import Note
from ..files import folder
from ..files.folder import Migration
from ..server.watch import author
from ..settings import Settings
from .opened import Confirm, Screen, changing, connected, read_only
from .status import advice


def repair(settings: Settings, screen: Screen, confirm: Confirm, name: str, how: str) -> None:
    """Change what the ledger says about one file. `how`: accept, forget or mark."""
    with connected(settings, screen, writing=True) as (target, conn, server):
        with read_only(conn, server):
            found = stand(conn, settings)
        names = (*found.executed, *found.progress)
        gone = [Migration(n, settings.folder / n, n, "") for n in names]
        known = {m.filename: m for m in (*gone, *all_files(settings, found))}
        chosen = folder.find(tuple(known.values()), name)
        change = _change(found, chosen, how)
        if isinstance(change, Note):
            screen.event(change)
            return
        screen.table(("filename", "change"), [(chosen.filename, change)])
        confirm(f"Do this in {server.connected}?")
        with changing(target, conn, server, settings, found) as book:
            if how == "accept":
                ledger.accept(conn, book, chosen.filename, chosen.checksum)
            elif how == "forget":
                rows = int(chosen.filename in found.executed)
                ledger.forget(conn, book, chosen.filename, rows=rows)
            else:
                row = (chosen.filename, chosen.checksum)
                ledger.record(conn, book, [row], f"{author()} (db.repair --mark)")
        screen.event(Note("done", filename=chosen.filename))


def _change(found: Survey, chosen: Migration, how: str) -> str | Note:
    """Return what would change, or a note that nothing has to. Raise if it cannot be done."""
    name, row = chosen.filename, found.executed.get(chosen.filename)
    if how == "forget":
        return _forgetting(found, chosen)
    if not chosen.checksum:
        raise FilesError(f"There is no file {name}.", *advice(found.plan))
    if how == "mark":
        already = Note("nothing to mark: it is executed already", filename=name)
        return already if row else "recorded as executed, not run"
    if row is None:
        raise LedgerError(
            f"{name} is not executed, so there is no checksum to accept.",
            f"To run it: invoke db.migrate-single --name {name}",
        )
    if row.checksum == chosen.checksum:
        return Note("nothing to accept: it is as it was executed", filename=name)
    return f"checksum {(row.checksum or 'none')[:12]} becomes {chosen.checksum[:12]}"


def _forgetting(found: Survey, chosen: Migration) -> str | Note:
    if chosen.filename in found.executed:
        return "its row is removed" + ("; it runs again" if chosen.checksum else "")
    if chosen.filename in found.progress:
        return "what is finished of it is forgotten; it starts from its first statement"
    return Note("nothing to forget: the ledger does not have it", filename=chosen.filename)

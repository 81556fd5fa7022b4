"""db.baseline: files recorded as executed without running them."""

from __future__ import annotations

from ..engine import ledger, place
from ..engine.survey import Survey, all_files, stand
from ..errors import LedgerError
from ..events import Note
from ..files import folder, renames
from ..files.folder import Migration
from ..server.watch import author
from ..settings import Settings
from .opened import Confirm, Screen, changing, connected, read_only


def baseline(settings: Settings, screen: Screen, confirm: Confirm, to: str) -> list[str]:
    """Record files, the base schema first, as executed without running them, and return them.

    Only what is missing in the ledger is added; rows that it has stay as they are.
    """
    with connected(settings, screen, writing=True) as (target, conn, server):
        with read_only(conn, server):
            found = stand(conn, settings)
        if not found.executed and place.is_empty(conn, found.ledger):
            raise LedgerError(
                "The database is empty, so nothing is in it that could be recorded.",
                "To set it up: invoke db.migrate",
            )
        renames.refuse(found.plan.renamed)
        renames.refuse_strays(found.plan.strays)
        missing = _missing(settings, found, to)
        if not missing:
            screen.event(Note("nothing to record: the ledger has them already"))
            return []
        screen.table(("filename", "change"), [(m.filename, "recorded, not run") for m in missing])
        confirm(f"Record {len(missing)} as executed in {server.connected}?")
        with changing(target, conn, server, settings, found) as now:
            if _missing(settings, now, to) != missing:
                raise LedgerError(ledger.CHANGED, ledger.LOOK_AGAIN)
            rows = [(m.filename, m.checksum) for m in missing]
            ledger.record(conn, now.ledger, rows, f"{author()} (db.baseline)")
        screen.event(Note(f"recorded as executed: {len(missing)}"))
        return [m.filename for m in missing]


def _missing(settings: Settings, found: Survey, to: str) -> list[Migration]:
    """Return the files, as far as `to`, that the ledger does not have."""
    wanted = all_files(settings, found)
    if to:
        wanted = wanted[: wanted.index(folder.find(wanted, to)) + 1]
    return [m for m in wanted if m.filename not in found.executed]

"""A file under way, and the commands of its statements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..files.folder import Migration
from ..server.pipeline import Command
from ..sql.traces import Traces

if TYPE_CHECKING:
    from ..sql.lexer import Statement
    from ..sql.script import Script


class Running:
    """A file under way; its script is kept for the position of an error."""

    def __init__(self, migration: Migration, script: Script, ledger: str) -> None:
        self.migration = migration
        self.script = script
        self.filename = migration.filename  # its name in the ledger
        self.traces = Traces(ledger)  # of what was sent of it
        self.duration_ms = 0
        self.unit = 0  # which one is under way, of a no-transaction file
        self.progressed = False  # a batch was committed since it was sent
        self.once = False  # its failed statement may stand in part: it is not tried again
        self.left = ""  # what its failed statement has left behind, and what becomes of that


def statement(running: Running, found: Statement) -> Command:
    """Return the command of one of a file's statements, with its data if it is a COPY."""
    script = running.script
    text = script.sql(found)
    running.traces.look(found.kind, text)
    copy = script.chunks(found.data) if found.data else None
    return Command(text, "statement", running, statement=found, copy=copy)

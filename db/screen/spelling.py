"""Commands are named in texts as `invoke db.status`; here, as the person has typed this one."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import events as e
from ..errors import MigrationsError, StatementFailed
from .json_lines import JsonLines
from .lines import Lines
from .stream import Cell

if TYPE_CHECKING:
    from .markdown import Markdown

AS_WRITTEN = "invoke db."
_COMMAND = r"(?<![\w./-])(invoke )?db\.([a-z]+(?:-[a-z]+)*)(?!\.?\w|/)"


def typed(argv: Sequence[str], names: Collection[str]) -> str:
    """Return what stands before a command's name: `invoke db.`, or `invoke-pg-migrations `."""
    program = Path(argv[0]).name.replace("__main__.py", "invoke")  # python -m invoke
    for word in argv[1:]:
        namespace, dot, name = word.rpartition(".")
        if name.replace("_", "-") in names:
            return f"{program} {namespace}{dot}"
    return AS_WRITTEN


def respelled(text: str, names: Collection[str], prefix: str) -> str:
    """Return the text with its commands behind this prefix; in a sentence without the program."""
    namespace = prefix.rpartition(" ")[2]

    def command(found: re.Match[str]) -> str:
        if found[2] not in names:
            return found[0]
        return f"{prefix if found[1] else namespace}{found[2]}"

    return re.sub(_COMMAND, command, text)


class Spelled:
    """A report that spells commands like this one."""

    def __init__(
        self, report: Lines | JsonLines | Markdown, names: Collection[str], prefix: str
    ) -> None:
        self._report, self._names, self._prefix = report, names, prefix

    def event(self, event: e.Event) -> None:
        if isinstance(event, e.Note):
            event = event._replace(message=self._respelled(event.message))
        self._report.event(event)

    def error(self, error: MigrationsError) -> None:
        for each in (*error.parts, error):
            if not isinstance(each, StatementFailed):  # whose message is the server's
                each.message = self._respelled(each.message)
            each.advice = tuple(map(self._respelled, each.advice))
        self._report.error(error)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        self._report.table(columns, rows)

    def close(self) -> None:
        self._report.close()

    def _respelled(self, text: str) -> str:
        return respelled(text, self._names, self._prefix)

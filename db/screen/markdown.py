"""Events of a rehearsal -> Markdown, for a pull request's comment or $GITHUB_STEP_SUMMARY."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TextIO

from .. import events as e
from ..errors import MigrationsError
from . import rehearsal
from .lines import Lines, clean, defused
from .stream import Cell, write

# What Markdown or HTML would take for its own; a name or a statement may hold it.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


class Markdown:
    """Tables and lists; errors go where `beside` puts them, and in short into the text as well."""

    def __init__(self, out: TextIO, beside: Lines) -> None:
        self._out, self._beside = out, beside

    def event(self, event: e.Event) -> None:
        match event:
            case e.Connected():
                self._say(f"**{_plain(str(event))}**: sizes read, nothing written\n")
            case e.Note(message):
                self._say(f"{_plain(message)}\n")
            case e.Planned((), executed):
                self._say(f"Nothing to do: executed files: {executed}\n")
            case e.Rehearsing(_, shown, transaction):
                how = "one transaction" if transaction else "no transaction around it"
                self._say(f"\n### {_plain(shown)}\n\n{how}\n")
                self._say("| line | statement | lock | work |\n|---:|---|---|---|")
            case e.Rehearsed():
                for place, text, lock, work in rehearsal.rows([event]):
                    cells = (place, f"<code>{_plain(text)}</code>" if text else "", lock, work)
                    self._say(f"| {' | '.join((cells[0], cells[1], *map(_plain, cells[2:])))} |")
            case e.Finding():
                first, *rest = (line.strip() for line in rehearsal.finding(event, None))
                self._say(f"\n> **{_plain(first)}**" + "".join(f"<br>{_plain(r)}" for r in rest))
            case e.Undone(_, shown, differences):
                stands = "what it was before" if not differences else "**not what it was before**"
                self._say(f"\n{_plain(shown)}: the schema is {stands}")
                for each in differences:
                    self._say(f"- {_plain(each)}")
            case e.Concluded():
                self._say(f"\n**{rehearsal.concluded(event)}**")

    def error(self, error: MigrationsError) -> None:
        at = f"{error.location}: " if error.location else ""
        self._say(f"\n**{_plain(at + error.message)}**")
        if error.excerpt:
            fence = "`" * max(3, *(len(f) + 1 for f in re.findall("`+", error.excerpt) or [""]))
            self._say(f"\n{fence}\n{error.excerpt.strip(chr(10))}\n{fence}")
        for each in error.advice:
            self._say(f"\n{_plain(each)}")
        self._beside.error(error)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        for row in (columns, ["---"] * len(columns), *rows):
            self._say(f"| {' | '.join(_plain(str(cell)) for cell in row)} |")

    def close(self) -> None:
        self._beside.close()

    def _say(self, text: str) -> None:
        write(self._out, defused(clean(text)) + "\n")


def _plain(text: str) -> str:
    """Return what shows as this text, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))

"""Events -> lines for people.

rich is imported when there is something to colour or to redraw: a run that finds nothing to do, or
whose output is no terminal, does without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from .. import events as e
from ..errors import MigrationsError, StatementFailed
from .stream import Cell, write

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text


PLAIN_EVERY_S = 30.0  # between two lines about the same wait, where nothing can be redrawn
_CONTROL = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {0x09, 0x0A}, "\ufffd")
_COLOURS = dict.fromkeys(("changed", "missing", "unfinished"), "bold red")
_COLOURS |= {"executed": "green"} | dict.fromkeys(("pending", "out of order"), "yellow")


class Lines:
    """Lines for people; on a terminal in colour, and one that is redrawn while something lasts."""

    def __init__(
        self, out: TextIO, err: TextIO, environ: Mapping[str, str], every_s: float = PLAIN_EVERY_S
    ) -> None:
        self._out, self._err, self._every_s = out, err, every_s
        self._rich = {stream: _is_rich(stream, environ) for stream in (out, err)}
        self._github = bool(environ.get("GITHUB_ACTIONS"))
        self._began = False
        self._name_width = 0
        self._warnings: list[str] = []
        self._said: dict[str, float] = {}  # what lasts, and when it was said
        self._live: Live | None = None

    def event(self, event: e.Event) -> None:
        if isinstance(event, e.Progress | e.Waiting):
            self._lasts(event)
            return
        self.close()
        match event:
            case e.Connected():
                self._say(str(event))
            case e.Note(message, level, filename):
                label = (level, "yellow" if level == "warning" else "")
                self._say(label, ": ", f"{_one_line(filename)}: " if filename else "", message)
            case e.Planned(filenames, executed):
                self._name_width = max((len(_one_line(name)) for name in filenames), default=0)
                if executed and not filenames:
                    are = "is" if executed == 1 else "are"
                    self._say(f"nothing to do: {_files(executed)} {are} executed")
            case e.Noticed(_, said) if said.severity == "WARNING":
                # Kept until its file has a line to stand under.
                self._warnings.append(said.message.replace("\n", "\n      "))
            case e.Applied(filename, duration_ms, out_of_order):
                late = ("  (out of order)", "yellow") if out_of_order else ""
                took = (f"  {humanised(duration_ms)}", "dim")
                self._say(self._name(filename), ("executed", "green"), took, late)
                for message in self._warnings:
                    self._say("    ", ("warning", "yellow"), f": {message}")
                self._warnings = []
            case e.Retrying(filename, sqlstate, reason, _, pause_s, blockers):
                why = "waits for a lock" if sqlstate == "55P03" else _one_line(reason)
                then = f" ({sqlstate}), tried again in {humanised(pause_s * 1000)}"
                self._say(self._name(filename), (why, "yellow"), then)
                self._say_blockers(_blocked(blockers))
            case e.Reconnected(reason):
                self._say(("reconnected", "yellow"), f": {reason}")
            case e.Finished(executed_now, duration_ms) if executed_now:
                self._say(f"{_files(len(executed_now))} executed in {humanised(duration_ms)}")

    def error(self, error: MigrationsError) -> None:
        self.close()
        if isinstance(error, StatementFailed):
            self._say(self._name(error.filename), ("failed", "bold red"))
        if self._began:
            self._say("")
        at, excerpt = error.location, error.excerpt.strip("\n")
        self._say(f"{at}: " if at else "", (error.message, "bold"), to=self._err)
        said = "\n".join([*([f"\n{excerpt}"] if excerpt else []), *error.details])
        if rest := "\n\n".join(filter(None, [said, "\n".join(error.advice)])):
            self._say(rest, to=self._err)
        if self._github and at:
            place = f"file={_github(at.path, ':,')},line={at.line},col={at.column}"
            self._say(f"::error {place}::{_github(error.message)}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show rows. A column named …_ms holds milliseconds, which people see as 12 ms."""
        self.close()
        names = [name.removesuffix("_ms").replace("_", " ") for name in columns]
        body = [[_shown(*pair) for pair in zip(columns, row, strict=True)] for row in rows]
        if self._out.isatty():
            from rich.table import Table
            from rich.text import Text

            table = Table(*names, box=None, pad_edge=False, padding=(0, 2, 0, 0))
            for row in body:
                table.add_row(*(Text(c, _COLOURS.get(c, ""), overflow="fold") for c in row))
            self._draw(self._out, table)
        else:
            widths = [max(map(len, column)) for column in zip(names, *body, strict=True)]
            for row in (names, *body):
                self._say("  ".join(map(str.ljust, row, widths)).rstrip())

    def close(self) -> None:
        """Take away the line that is redrawn."""
        if self._live:
            self._live.stop()
            self._live = None

    def _lasts(self, event: e.Progress | e.Waiting) -> None:
        if isinstance(event, e.Waiting):
            key, line = "", f"waiting for {event.what}"
        else:
            key, line = event.filename, f"{self._name(event.filename)}running"
        if event.elapsed_s >= 1:
            line += f"  {humanised(event.elapsed_s * 1000)}"
        blocked, phase = [], ""
        if isinstance(event, e.Progress):
            line += "" if event.percent is None else f"  {event.percent:.0f} %"
            blocked, phase = _blocked(event.blockers), event.phase
        now, last = time.monotonic(), self._said.get(key)
        # A wait leaves one line behind; a file that takes long gets its own in the end.
        if self._rich[self._out] and (key or last is not None):
            self._redraw("  ".join(filter(None, [line, *blocked, phase])))
        elif last is None or now - last >= self._every_s:
            self.close()
            self._said[key] = now
            self._say("  ".join(filter(None, [line, phase])))
            self._say_blockers(blocked)

    def _redraw(self, line: str) -> None:
        from rich.live import Live
        from rich.text import Text

        if not self._live:
            console = self._console(self._out)
            self._live = Live(console=console, transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(Text(_clean(line), no_wrap=True, overflow="ellipsis"), refresh=True)

    def _name(self, filename: str) -> str:
        return f"  {_one_line(filename).ljust(self._name_width)}  "

    def _say_blockers(self, blocked: list[str]) -> None:
        try:
            width = os.get_terminal_size(self._out.fileno()).columns - 4
        except OSError:  # no terminal
            width = 116
        for line in blocked:
            self._say("    ", line if len(line) <= width else f"{line[: width - 1]}…")

    def _say(self, *parts: str | tuple[str, str], to: TextIO | None = None) -> None:
        stream, self._began = to or self._out, True
        pairs = [(p, "") if isinstance(p, str) else p for p in parts]
        if self._rich[stream] and any(style for _, style in pairs):
            from rich.text import Text

            line = Text.assemble(*((_clean(text), style) for text, style in pairs))
            self._draw(stream, line, soft_wrap=True)  # a terminal wraps; rich would cut words
        else:
            write(stream, _clean("".join(text for text, _ in pairs)) + "\n")

    def _console(self, stream: TextIO) -> Console:
        from rich.console import Console

        return Console(file=stream, color_system="auto" if self._rich[stream] else None)

    def _draw(self, stream: TextIO, what: Text | Table, *, soft_wrap: bool = False) -> None:
        console = self._console(stream)
        with console.capture() as drawn:  # so that there is one way of writing
            console.print(what, soft_wrap=soft_wrap)
        write(stream, drawn.get())


def humanised(ms: float) -> str:
    """Return a duration as people say it: 12 ms, 3.4 s, 2 min 5 s, 1 h 2 min."""
    if ms < 999.5:
        return f"{ms:.0f} ms"
    if ms < 59_950:
        return f"{ms / 1000:.1f} s"
    minutes, seconds = divmod(round(ms / 1000), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _is_rich(stream: TextIO, environ: Mapping[str, str]) -> bool:
    plain = environ.get("NO_COLOR") or environ.get("CI") or environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def _clean(text: str) -> str:
    return text.replace("\r\n", "\n").translate(_CONTROL)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _blocked(blockers: tuple[e.Blocker, ...]) -> list[str]:
    return [f"blocked by {_one_line(str(blocker))}" for blocker in blockers]


def _files(number: int) -> str:
    return f"{number} file{'' if number == 1 else 's'}"


def _shown(column: str, cell: Cell) -> str:
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%d %H:%M}"
    if isinstance(cell, int) and column.endswith("_ms"):
        return humanised(cell)
    return "" if cell is None else _clean(_one_line(str(cell)))


def _github(text: str, more: str = "") -> str:
    # https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text

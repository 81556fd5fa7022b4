"""Events -> lines for people.

rich is imported when there is something to colour or to redraw: a run that finds nothing to do, or
whose output is no terminal, does without.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from .. import events as e
from ..errors import Diagnostic, MigrationsError, StatementFailed, counted
from . import tables
from .stream import Cell, write

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live


PLAIN_EVERY_S = 30.0  # between two lines about the same wait, where nothing can be redrawn
_CONTROL = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {0x09, 0x0A}, "\ufffd")
# What makes a line of somebody's text a command to GitHub's runner: `::` at its beginning, behind
# any space, and the older `##[` anywhere.
_COMMANDS = re.compile(r"(?m)^\s*:(?=:)|#(?=#\[)")
_LEAST = 8  # characters of a name that is cut
_BESIDE = "    executed  1234 ms"
_OF_A_REHEARSAL = (e.Rehearsing, e.Rehearsed, e.Finding, e.Undone, e.Concluded)
_COLOURS = dict.fromkeys(("changed", "missing", "renamed", "unfinished"), "bold red")
_COLOURS["unfinished without file"] = "bold red"
_COLOURS |= {"executed": "green"} | dict.fromkeys(("pending", "out of order"), "yellow")


class Lines:
    """Lines for people; on a terminal in colour, and one that is redrawn while something lasts."""

    def __init__(
        self, out: TextIO, err: TextIO, environ: Mapping[str, str], every_s: float = PLAIN_EVERY_S
    ) -> None:
        self._out, self._err, self._every_s = out, err, every_s
        forced = environ.get("FORCE_COLOR", "") not in ("", "0") and not environ.get("NO_COLOR")
        self._redraws = _is_rich(out, environ)
        self._rich = {stream: forced or _is_rich(stream, environ) for stream in (out, err)}
        self._github = bool(environ.get("GITHUB_ACTIONS"))
        self._began = False
        self._name_width = 0
        self._notices: list[Diagnostic] = []
        self._said: dict[str, float] = {}  # what lasts, and when it was said
        self._live: Live | None = None
        self._rehearsed: list[e.Rehearsed] = []  # kept until their file has no more

    def event(self, event: e.Event) -> None:
        if isinstance(event, e.Progress | e.Batched | e.Waiting | e.Fleet):
            self._lasts(event)
        elif isinstance(event, e.Difference):
            self._say_difference(event)
        elif not isinstance(event, e.Target | e.Standing):  # of many: people see their sum
            self._happened(event)

    def _say_difference(self, event: e.Difference) -> None:
        from . import differences  # not for the runs of a deploy to load

        self.close()
        for parts in differences.lines(event, self._width(self._out) or 1000):
            self._say(*parts)

    def _happened(self, event: e.Event) -> None:
        self.close()
        if isinstance(event, _OF_A_REHEARSAL):
            self._of_a_rehearsal(event)
            return
        match event:
            case e.Connected():
                self._say(str(event))
            case e.Note(message, level, filename):
                label = (level, "yellow" if level == "warning" else "")
                name = f"{_one_line(filename)}: " if filename else ""
                self._say(label, ": ", name, _hanging(message))
            case e.Planned(filenames, executed):
                self._name_width = max((len(_one_line(name)) for name in filenames), default=0)
                if self._name_width + len(_BESIDE) > (self._width(self._out) or 1000):
                    self._name_width = 0
                if executed and not filenames:
                    are = "is" if executed == 1 else "are"
                    self._say(f"nothing to do: {counted(executed, 'file')} {are} executed")
            case e.Noticed(_, said):
                self._notices.append(said)  # kept until its file has a line to stand under
            case e.Applied(filename, duration_ms, out_of_order):
                late = ("  (out of order)", "yellow") if out_of_order else ""
                took = (f"  {humanised(duration_ms)}", "dim")
                self._say_file(filename, ("executed", "green"), took, late)
                for said in self._notices:
                    self._say_notice(said)
                self._notices = []
            case e.Retrying(filename, sqlstate, reason, _, pause_s, blockers):
                why = "waits for a lock" if sqlstate == "55P03" else _one_line(reason)
                then = f" ({sqlstate}), tried again in {humanised(pause_s * 1000)}"
                self._say_file(filename, (why, "yellow"), then)
                self._say_blockers(_blocked(blockers))
            case e.Reconnected(reason):
                self._say(("reconnected", "yellow"), f": {_hanging(reason)}")
            case e.Finished(executed_now, duration_ms) if executed_now:
                files = counted(len(executed_now), "file")
                self._say(f"{files} executed in {humanised(duration_ms)}")

    def _of_a_rehearsal(self, event: e.Event) -> None:
        if isinstance(event, e.Rehearsed):
            self._rehearsed.append(event)
            return
        from . import rehearsal  # likewise

        self._say_rehearsed()
        match event:
            case e.Rehearsing(_, shown, transaction):
                self._say("")
                how = "one transaction" if transaction else "no transaction around it"
                self._say((shown, "bold"), f", {how}")
            case e.Finding():
                first, *rest = rehearsal.finding(event, self._width(self._out))
                self._say((first, "bold red"))
                for line in rest:
                    self._say(line)
            case e.Undone(_, shown, differences):
                self._say("")
                self._say(shown, ": the schema is ", *_undone(differences))
            case e.Concluded():
                self._say("")
                self._say(rehearsal.concluded(event))

    def _say_rehearsed(self) -> None:
        """Show the statements of a file, now that all are there to be aligned."""
        if not self._rehearsed:
            return
        from . import rehearsal

        done, self._rehearsed = self._rehearsed, []
        for line in rehearsal.statements(done, self._width(self._out)):
            self._say(line)

    def error(self, error: MigrationsError) -> None:
        self.close()
        self._say_rehearsed()
        if isinstance(error, StatementFailed):
            self._say_file(error.filename, ("failed", "bold red"))
        if self._began:
            self._say("")
        at, excerpt = error.location, error.excerpt.strip("\n")
        self._say(f"{at}: " if at else "", (_hanging(error.message), "bold"), to=self._err)
        said = "\n".join([*([f"\n{excerpt}"] if excerpt else []), *error.details])
        if rest := "\n\n".join(filter(None, [said, "\n".join(error.advice)])):
            self._say(rest, to=self._err)
        if self._github:
            for each in error.parts or (error,):
                self._annotate(each)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show rows. A column named …_ms holds milliseconds, which people see as 12 ms."""
        self.close()
        names = [name.removesuffix("_ms").replace("_", " ") for name in columns]
        body = [[_shown(*pair) for pair in zip(columns, row, strict=True)] for row in rows]
        parts: list[str | tuple[str, str]] = []
        for line in tables.lines([names, *body], self._width(self._out)):
            parts += ["\n" if parts else "", *((cell, _COLOURS.get(cell, "")) for cell in line)]
        self._say(*parts)

    def close(self) -> None:
        """Take away the line that is redrawn."""
        if self._live:
            self._live.stop()
            self._live = None

    def _lasts(self, event: e.Progress | e.Batched | e.Waiting | e.Fleet) -> None:
        blocked, phase, filename = [], "", ""
        if isinstance(event, e.Waiting):
            key, line = "", f"waiting for {event.what}"
        elif isinstance(event, e.Fleet):
            key, line, phase = "fleet", _done(event), event.waiting
        elif isinstance(event, e.Batched):
            key = filename = event.filename
            line, phase = f"{counted(event.rows, 'row')}  {event.rows_per_s:,.0f}/s", event.reason
        else:
            key = filename = event.filename
            line = "running"
            blocked, phase = _blocked(event.blockers), event.phase
        if not isinstance(event, e.Batched) and event.elapsed_s >= 1:
            line += f"  {humanised(event.elapsed_s * 1000)}"
        if isinstance(event, e.Progress | e.Batched) and event.percent is not None:
            line += f"  {event.percent:.0f} %"
        line = self._beside(filename, line) if filename else line
        now, last = time.monotonic(), self._said.get(key)
        # A wait leaves one line behind; a file that takes long gets its own in the end.
        if self._redraws and (key or last is not None):
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
        shown = self._clean(line)
        self._live.update(Text(shown, no_wrap=True, overflow="ellipsis"), refresh=True)

    def _beside(self, filename: str, text: str) -> str:
        """Return a line about a file, of whose name is cut what leaves no room for the text."""
        # One column is for the … of what stands behind it.
        name, width = self._name(filename), (self._width(self._out) or 1000) - 1
        if len(name) + len(text) > width:
            kept = max(_LEAST, width - len(text) - len("  …  "))
            name = f"  {_one_line(filename)[:kept]}…  "
        return f"{name}{text}"

    def _name(self, filename: str) -> str:
        return f"  {_one_line(filename).ljust(self._name_width)}  "

    def _annotate(self, error: MigrationsError) -> None:
        if at := error.location:
            place = f"file={_github(at.path, ':,')},line={at.line},col={at.column}"
            write(self._out, f"::error {place}::{clean(_github(error.message))}\n")

    def _say_notice(self, said: Diagnostic) -> None:
        label = (said.severity.lower(), "yellow" if said.severity == "WARNING" else "dim")
        self._say("    ", label, f": {_hanging(said.message, 6)}")
        for name, text in (("detail", said.detail), ("hint", said.hint)):
            if text:
                self._say(f"      {name}: {_hanging(text, 8)}")

    def _say_file(self, filename: str, *parts: str | tuple[str, str]) -> None:
        """Say what became of a file: beside its name, or below it where the terminal is narrow."""
        name = self._name(filename)
        text = "".join(part if isinstance(part, str) else part[0] for part in parts)
        if len(name) + len(text) > (self._width(self._out) or 1000):
            self._say(name.rstrip())
            name = "    "
        self._say(name, *parts)

    def _say_blockers(self, blocked: list[str]) -> None:
        width = (self._width(self._out) or 120) - 4
        for line in blocked:
            self._say("    ", line if len(line) <= width else f"{line[: width - 1]}…")

    def _say(self, *parts: str | tuple[str, str], to: TextIO | None = None) -> None:
        stream, self._began = to or self._out, True
        pairs = [(p, "") if isinstance(p, str) else p for p in parts]
        if self._rich[stream] and any(style for _, style in pairs):
            from rich.text import Text

            line = Text.assemble(*((self._clean(text), style) for text, style in pairs))
            console = self._console(stream)
            with console.capture() as drawn:  # so that there is one way of writing
                console.print(line, soft_wrap=True)  # a terminal wraps; rich would cut words
            write(stream, drawn.get())
        else:
            write(stream, self._clean("".join(text for text, _ in pairs)) + "\n")

    def _clean(self, text: str) -> str:
        text = clean(text)
        return defused(text) if self._github else text

    def _console(self, stream: TextIO) -> Console:
        from rich.console import Console

        rich = self._rich[stream]
        return Console(
            file=stream, force_terminal=rich or None, color_system="auto" if rich else None
        )

    @staticmethod
    def _width(stream: TextIO) -> int | None:
        """Return the terminal's columns; None if there is no terminal."""
        try:
            return os.get_terminal_size(stream.fileno()).columns or 80
        except (OSError, ValueError):
            return None


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


def clean(text: str) -> str:
    """Return the text without what a terminal would obey."""
    return text.replace("\r\n", "\n").translate(_CONTROL)


def defused(text: str) -> str:
    """Return the text without what GitHub's runner would obey."""
    return _COMMANDS.sub(r"\g<0> ", text)


def _hanging(text: str, by: int = 2) -> str:
    """Return the text with its later lines indented: the first column is the program's."""
    return text.replace("\n", "\n" + " " * by)


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())


def _blocked(blockers: tuple[e.Blocker, ...]) -> list[str]:
    return [f"blocked by {_one_line(str(blocker))}" for blocker in blockers]


def _undone(differences: tuple[str, ...]) -> list[str | tuple[str, str]]:
    if not differences:
        return ["what it was before"]
    return [("not what it was before", "bold red"), *(f"\n  {each}" for each in differences)]


def _done(fleet: e.Fleet) -> str:
    failed = f", {fleet.failed:,} failed" if fleet.failed else ""
    done = f"{fleet.done:,} of {counted(fleet.targets, 'target')}"
    return f"{done} done{failed}, {fleet.under_way} under way"


def _shown(column: str, cell: Cell) -> str:
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%d %H:%M}"
    if isinstance(cell, int) and column.endswith("_ms"):
        return humanised(cell)
    return "" if cell is None else clean(_one_line(str(cell)))


def _github(text: str, more: str = "") -> str:
    # https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
    for character in f"%\r\n{more}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text

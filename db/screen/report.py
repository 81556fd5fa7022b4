"""Which way of reporting a command uses."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, TypeAlias

from .json_lines import JsonLines
from .lines import Lines
from .spelling import AS_WRITTEN, Spelled, typed

if TYPE_CHECKING:
    from .markdown import Markdown

Report: TypeAlias = "Lines | JsonLines | Markdown | Spelled"


def choose(
    *,
    json: bool = False,
    markdown: bool = False,
    environ: Mapping[str, str] = os.environ,
    names: Collection[str] = (),
) -> Report:
    """Return the report for this environment, on stdout.

    Errors go to stderr; with `json` everything is on stdout. Close the report in the end.
    Commands of these `names` are spelled as the person has typed this one.
    """
    _open_what_is_closed()
    out = sys.stdout
    for each in (out, sys.stderr):
        if isinstance(each, io.TextIOWrapper):
            each.reconfigure(errors="backslashreplace")  # an odd character must not end a run
    lines = Lines(out, sys.stderr, environ)
    report: Lines | JsonLines | Markdown = lines
    if json:
        report = JsonLines(out)
    elif markdown:
        from .markdown import Markdown

        report = Markdown(out, lines)
    prefix = typed(sys.argv, names)
    return report if prefix == AS_WRITTEN else Spelled(report, names, prefix)


def _open_what_is_closed() -> None:
    """Let stdin, stdout and stderr be nowhere where the shell has closed them (`>&-`).

    The next connection would otherwise be file descriptor 1, and be written to as stdout.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))

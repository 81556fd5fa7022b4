"""Which way of reporting a command uses."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from typing import TextIO, TypeAlias

from .json_lines import JsonLines
from .lines import Lines

Report: TypeAlias = "Lines | JsonLines"


def choose(
    *, json: bool = False, stream: TextIO | None = None, environ: Mapping[str, str] = os.environ
) -> Report:
    """Return the report for this stream (stdout unless given) and environment.

    Errors go to stderr; with `json` everything is on the one stream. Close the report in the end.
    """
    out = stream or sys.stdout
    for each in (out, sys.stderr):
        if isinstance(each, io.TextIOWrapper):
            each.reconfigure(errors="backslashreplace")  # an odd character must not end a run
    return JsonLines(out) if json else Lines(out, sys.stderr, environ)

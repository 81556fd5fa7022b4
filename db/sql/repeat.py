"""A `-- migrate: repeat …` line and its statement -> how it is repeated, or why it cannot be.

Whether it comes to its end is seen while it runs; what its text tells of that is said before.
"""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

from ..durations import milliseconds
from . import kinds, positions
from .lexer import Mark, Statement
from .source import Source

SUCH_AS = "-- migrate: repeat until 0 rows, pause 100ms, max-lag 5s"
_UNTIL = re.compile(r"(?i)\s*repeat\s+until\s+0\s+rows\s*")
_OPTION = re.compile(r"\s*([^\s=]+)(?:\s*=\s*|\s+|$)(.*)", re.S)
_KINDS = ("UPDATE", "DELETE", "INSERT", "MERGE", "SELECT", "WITH")
_OPTIONS = {"pause": "pause_ms", "max-lag": "max_lag_ms", "batch-time": "batch_time_ms"}


class Repeat(NamedTuple):
    """How a statement is repeated until it gives no row. Durations in milliseconds.

    `pause_ms`: between two batches, at least. `max_lag_ms`: how far a replica may be behind; None:
    nobody looks. `batch_time_ms`: how long a batch may take before the pauses grow.
    """

    pause_ms: int = 100
    max_lag_ms: int | None = None
    batch_time_ms: int = 1000


def parse(source: Source, mark: Mark) -> Repeat:
    """Return what the line says. Raise `ScriptError` for what is not understood."""
    text = mark.line.decode(errors="replace")
    start = text.index(":") + 1
    first, *options = text[start:].split(",")
    if not _UNTIL.fullmatch(first):
        message = "repeat needs to be told until when, which is: until 0 rows"
        raise positions.error(source, message, f"Such as: {SUCH_AS}", at=mark.at)
    values: dict[str, int] = {}
    start += len(first)
    for option in options:
        start += 1
        at = mark.at + len(text[: start + len(option) - len(option.lstrip())].encode())
        found = _OPTION.fullmatch(option)
        key = found[1].lower() if found else ""
        if found is None or key not in _OPTIONS:
            close = difflib.get_close_matches(key, _OPTIONS, 1, 0.5)
            meant = f"Did you mean {close[0]}? " if close else ""
            message = f"repeat has no option {found[1]}" if found else "an option has no name"
            raise positions.error(
                source, message, f"{meant}Known are: {', '.join(_OPTIONS)}.", at=at
            )
        duration = milliseconds(found[2])
        if duration is None:
            message, advice = f"{key} needs a duration", f"Such as {key} 100ms, 5s or 1min."
            raise positions.error(source, message, advice, at=at)
        if _OPTIONS[key] in values:
            raise positions.error(source, f"{key} is there twice", "Delete one of them.", at=at)
        values[_OPTIONS[key]] = duration
        start += len(option)
    return Repeat(**values)


def check(source: Source, found: Statement, sql: bytes) -> None:
    """Raise `ScriptError` if the statement cannot be repeated until it gives no row."""
    if found.kind not in _KINDS:
        assert found.mark
        message = f"{found.kind or 'this statement'} gives no number of rows to repeat it by"
        advice = "Repeated can be: UPDATE, DELETE, INSERT, MERGE, SELECT, also behind a WITH."
        raise positions.error(source, message, advice, at=found.mark.at)
    if kinds.skips_locked(sql):
        raise positions.error(
            source,
            "with SKIP LOCKED, 0 rows does not mean that nothing is left",
            "Delete it: a batch that waits for a lock is given up, and tried again.",
            at=found.start,
        )
    verb, table = kinds.changed(sql)
    if verb == "INSERT" and table and kinds.inserts_again(sql, table):
        raise positions.error(
            source,
            "nothing keeps this INSERT from inserting the same rows again, without end",
            "Leave out what is there: ON CONFLICT DO NOTHING, DO UPDATE … WHERE, or "
            f"WHERE NOT EXISTS (SELECT FROM {table} …).",
            at=found.start,
        )

"""Events -> JSON lines, one object each; docs/events.md describes them."""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TextIO

from .. import events as e
from ..errors import Diagnostic, MigrationsError, StatementFailed
from .stream import Cell, write

# What json.dumps lets through, and at which a reader may split lines or a terminal obey.
_JSON_UNSAFE = "[\x7f-\x9f\u2028\u2029\ud800-\udfff]"


class JsonLines:
    """One JSON object a line; docs/events.md describes them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._ascii = (out.encoding or "utf-8").lower() != "utf-8"

    def event(self, event: e.Event) -> None:
        self._line(type(event).__name__.lower(), _fields(event))

    def error(self, error: MigrationsError) -> None:
        for each in error.parts:
            self.error(each)
        said, outcome, advice = Diagnostic("ERROR", "", error.message), "", error.advice
        if isinstance(error, StatementFailed):
            said, outcome = error.diagnostic, error.outcome
            advice = advice[1:]  # the outcome is the first
        fields = {"error": type(error).__name__, "filename": error.filename, **_fields(said)}
        fields |= {"location": error.location and _fields(error.location), "outcome": outcome}
        self._line("failed", fields | {"advice": advice, "exit_code": error.exit_code})

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        for row in rows:
            self._line("row", dict(zip(columns, row, strict=True)))

    def close(self) -> None:
        """Do nothing: every line is on its way already."""

    def _line(self, name: str, fields: Mapping[str, Any]) -> None:
        shown = {"event": name, **fields}
        text = jsonlib.dumps(shown, ensure_ascii=self._ascii, default=datetime.isoformat)
        text = text.replace("##[", "#\\u0023[")  # a command to GitHub's runner, wherever it stands
        write(self._out, re.sub(_JSON_UNSAFE, lambda m: f"\\u{ord(m[0]):04x}", text) + "\n")


def _fields(record: Any) -> Any:
    """Return records as dictionaries, those inside of them too."""
    if hasattr(record, "_asdict"):
        return {name: _fields(value) for name, value in record._asdict().items()}
    return [_fields(each) for each in record] if isinstance(record, tuple) else record

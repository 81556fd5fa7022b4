"""A duration as people write it -> milliseconds."""

from __future__ import annotations

import re

_WRITTEN = re.compile(r"(\d{1,10})\s*(ms|s|min|h|d|)", re.ASCII)
_UNITS_MS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_LONGEST_MS = (1 << 31) - 1  # that PostgreSQL's settings take


def milliseconds(text: str, unit: str = "ms") -> int | None:
    """Return the duration, written as PostgreSQL's settings take it; None if it is not one.

    `unit` is what a bare number means.
    https://www.postgresql.org/docs/current/config-setting.html#CONFIG-SETTING-NAMES-VALUES
    """
    found = _WRITTEN.fullmatch(text.strip())
    value = int(found[1]) * _UNITS_MS[found[2] or unit] if found else -1
    return value if 0 <= value <= _LONGEST_MS else None

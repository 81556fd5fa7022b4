"""Where a schema is not as it is expected -> lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from .. import events as e
from ..errors import counted

_EXPECTED, _FOUND = "  expected  ", "  found     "
_ORDER = "another order of its columns (not counted)"
_SHOWN = 3  # lines of a difference, on each side


def lines(event: e.Difference, width: int) -> Iterator[tuple[str | tuple[str, str], ...]]:
    """Yield the object, and what makes the difference: lines of parts, some with a style.

    Of an object that is only on one side it is the first line.
    """
    state = (_ORDER, "yellow") if event.state == "order" else (event.state, "bold red")
    yield (" ".join(str(event).split()), "  ", state)
    whole = event.state in ("missing", "unexpected")
    room = width - len(_EXPECTED)
    for label, style, texts in (
        (_EXPECTED, "green", event.expected),
        (_FOUND, "red", event.found),
    ):
        shown = texts[: 1 if whole else _SHOWN]
        for text in map(str.strip, shown):
            yield label, (text if len(text) <= room else f"{text[: room - 1]}…", style)
        more = len(texts) - len(shown)
        if more and not whole:
            yield (f"{' ' * len(_EXPECTED)}and {counted(more, 'more line')}",)

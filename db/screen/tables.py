"""Rows -> lines that fit the terminal. A cell is never cut; what does not fit stands below."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

_GAP = "  "
_BELOW = "    "
_ENOUGH = 20  # columns, for the words of a last cell to be wrapped where they begin


def lines(rows: Sequence[Sequence[str]], width: int | None) -> Iterator[list[str]]:
    """Yield lines, each as its cells with what stands between them; the first row is the heads.

    `width` is the terminal's; None: there is none, and lines may be as long as they are.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ends = [sum(widths[: n + 1]) + len(_GAP) * n for n in range(len(widths))]
    fits = len(widths) if width is None else sum(end <= width for end in ends)
    room = 0 if width is None or len(ends) == 1 else width - ends[-2] - len(_GAP)
    words = max((len(word) for row in rows for word in row[-1].split()), default=0)
    if width is not None and fits == len(widths) - 1 and room >= max(_ENOUGH, words):
        for row in rows:
            first, *more = textwrap.wrap(row[-1], room, break_on_hyphens=False) or [""]
            yield _aligned([*row[:-1], first], widths)
            for line in more:
                yield [" " * (ends[-2] + len(_GAP)), line]
        return
    fits = max(fits, 1)
    for row in rows:
        yield _aligned(row[:fits], widths)
        yield from _below(row[fits:], width or 0)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    line: list[str] = []
    for cell, width in zip(cells, widths, strict=False):
        line += [cell, " " * (width - len(cell)) + _GAP]
    while line and not line[-1].strip():
        line.pop()
    return line


def _below(cells: Sequence[str], width: int) -> Iterator[list[str]]:
    """Yield the cells that did not fit, as many in a line as there is room for."""
    line: list[str] = []
    for cell in filter(None, cells):
        if line and len("".join(line)) + len(_GAP) + len(cell) > width:
            yield line
            line = []
        line += [_GAP if line else _BELOW, cell]
        if len("".join(line)) > width:  # long text: its words are wrapped
            text = "".join(line).strip()
            for words in textwrap.wrap(
                text, max(width - len(_BELOW), 1), break_long_words=False, break_on_hyphens=False
            ):
                yield [_BELOW, words]
            line = []
    if line:
        yield line

"""A byte of a text -> the line and column that people count, and what stands around it."""

from __future__ import annotations

import unicodedata

from ..errors import Location, ScriptError
from .source import Source

_NEAR = 400  # bytes of a line that are looked at on both sides


def location(source: Source, offset: int) -> Location:
    """Return the line and column of a byte."""
    start = source.line_start(offset)
    line = 1 + sum(block.count(b"\n") for block in source.chunks((0, start)))
    return Location(source.shown, line, 1 + len(decoded(source.read(start, offset))))


def excerpt(source: Source, offset: int) -> str:
    """Return the line of a byte and the lines around it, with a caret below the byte."""
    number = location(source, offset).line
    start = source.line_start(offset)
    rows = [(number, start)]
    while rows[0][0] > max(number - 2, 1):
        rows.insert(0, (rows[0][0] - 1, source.line_start(rows[0][1] - 1)))
    width = len(str(number + 1))
    lines = [f"   {n:{width}} | {_shown(source, at, at)[0]}".rstrip() for n, at in rows[:-1]]
    shown, before = _shown(source, start, offset)
    lines += [f" > {number:{width}} | {shown}", f"   {'':{width}} | {' ' * before}^"]
    following = _next_line(source, offset)
    after = _shown(source, following, following)[0]
    if after.strip():
        lines.append(f"   {number + 1:{width}} | {after}")
    return "\n".join(lines)


def error(source: Source, message: str, *advice: str, at: int) -> ScriptError:
    """Return the error about what stands at a byte."""
    where, lines = location(source, at), excerpt(source, at)
    return ScriptError(message, *advice, location=where, excerpt=lines)


def decoded(text: bytes) -> str:
    """Return the characters of a text, which may not be UTF-8."""
    return text.decode(errors="surrogateescape")


def _next_line(source: Source, offset: int) -> int:
    for block in source.chunks((offset, source.size)):
        found = block.find(b"\n")
        if found >= 0:
            return offset + found + 1
        offset += len(block)
    return offset


def _shown(source: Source, start: int, offset: int) -> tuple[str, int]:
    """Return what of a line fits around a byte, and how many columns are before the byte."""
    after = source.read(offset, offset + _NEAR).split(b"\n", 1)[0].rstrip(b"\r")
    before = decoded(source.read(max(start, offset - _NEAR), offset))
    if len(before) > 60 or offset - start > _NEAR:
        before = "…" + before[-59:]
    rest = decoded(after)
    room = 100 - len(before)
    left = _printable(before)
    return left + _printable(rest[:room] + "…" * (len(rest) > room)), sum(map(_width, left))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text.replace("\t", "    "))


def _width(character: str) -> int:
    """Return how many columns of a terminal a character takes."""
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1

"""Words of a catalog as Python: strings, comments and docstrings that hold nothing but text.

Whoever may comment on a table, or name a label, would otherwise write code that others import, or
switch off what checks it: a comment may say `type: ignore`.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterator

WIDTH = 100  # of a line
_TOOLS = r"type|noqa|pyright|mypy|pyre|ruff|flake8|fmt|yapf|isort|pylint|nosec|pragma|region"
# What a tool takes for its own word wherever it stands in a comment.
_DIRECTIVE = re.compile(rf"(?i)#[\s#:]*(?=({_TOOLS})\b)")

# Controls, formats, halves of a character, private ones and spaces.
_NOT_SEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs")
# Formats that later editions of Unicode have, tags, and what is no character.
_NEVER_SEEN = (
    *(range(0x890, 0x892), range(0x13430, 0x13460), range(0xE0000, 0xE1000)),
    range(0xFDD0, 0xFDF0),
)


def literal(text: str) -> str:
    """Return a string literal, with the quotes that ruff and black would choose."""
    shown = "".join(_escaped(each) for each in text)
    quote = "'" if text.count('"') > text.count("'") else '"'
    return quote + shown.replace(quote, "\\" + quote) + quote


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    return character if _is_seen(character) else ascii(character)[1:-1]


def _is_seen(character: str) -> bool:
    """Return whether a character is seen, and turns no direction: the same on every Python.

    `isprintable` says no of what is newer than the Unicode that a Python has.
    """
    number = ord(character)
    if number & 0xFFFE == 0xFFFE or any(number in block for block in _NEVER_SEEN):
        return False
    return character == " " or unicodedata.category(character) not in _NOT_SEEN


def comment(text: str, indent: str = "") -> Iterator[str]:
    """Yield lines of a comment. `#:` is what Sphinx reads, and no tool takes for its own."""
    for line in _wrapped(_plain(text), WIDTH - len(indent) - 3):
        yield f"{indent}#: {line}"


def docstring(text: str, indent: str) -> Iterator[str]:
    """Yield lines of a docstring; none for a text of nothing but spaces."""
    escaped = (_quoted(_plain(part)) for part in re.split(r"\n\s*\n", text))
    paragraphs = [part for part in escaped if part]
    if not paragraphs:
        return
    room = WIDTH - len(indent)
    first, *rest = _wrapped(f'"""{paragraphs[0]}', room - 3)  # the end would fit behind it
    if not rest and len(paragraphs) == 1:
        yield f'{indent}{first}"""'
        return
    yield indent + first
    yield from (indent + line for line in rest)
    for paragraph in paragraphs[1:]:
        yield ""
        yield from (indent + line for line in _wrapped(paragraph, room))
    yield f'{indent}"""'


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _plain(text: str) -> str:
    """Return it on one line, without what is not seen, or turns the direction of what is."""
    words = " ".join(text.split())
    seen = "".join(each if _is_seen(each) else "\N{REPLACEMENT CHARACTER}" for each in words)
    return _DIRECTIVE.sub("", seen)


def _quoted(text: str) -> str:
    """Return what can stand between three quotes."""
    escaped = text.replace("\\", "\\\\")
    return re.sub(r'^"|"$|"(?=")|(?<=")"', r"\\" + '"', escaped)

"""A text -> its statements, and where they are. Pure: no database.

Statements are found as psql finds them (its psqlscan.l), with one compiled expression that jumps
from one byte that matters to the next: each byte is passed once, whatever the text is. The text is
looked at through windows, which begin behind a statement and grow until the next one ends in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from ..errors import ScriptError
from . import kinds, positions
from .source import BLOCK, Source

_BACKSLASH, _SEMICOLON = b"\\;"

# What other tools write in comments: passed over in silence, it would change what a file does.
_MARK = (
    rb"--+!?[ \t]*(?i:migrate[ \t]*:|\+(?:goose|migrate)\b|no-transaction\b|codd:|tern:|"
    rb"create[ ]above|transactional:|atlas:txmode|migrate[ \t]+(?:no-transaction\b|"
    rb"(?:lock|statement)-timeout[ \t]*=|outside[ \t]*(?![^\r\n])|repeat[ \t]+until\b))[^\r\n]*"
)
_MARKER = re.compile(_MARK)
_OURS = re.compile(rb"(?i)--+!?[ \t]*migrate[ \t]*:(?!\s*(?:up|down)\b)")
_COLON = re.compile(rb"(?i)(--+!?[ \t]*migrate)[ \t]+")
_FOREIGN = (
    (re.compile(rb"(?i)down\b|create above"), "Move what undoes the file to a file of its own, "
     "named .down.sql (db.rollback runs it), and delete this line."),
    (re.compile(rb"(?i)no[- ]?(?:transaction|txn)|disable-tx|:\s*false|txmode"),
     "Write this instead, on a line at the top: -- migrate: no-transaction"),
    (re.compile(b""), "Delete this line: a file is executed whole, statement by statement."),
)  # fmt: skip

# Each alternative starts with a literal, so that the search for the next one is fast; an empty
# group tells what was found. A `(` goes with its `)` if nothing between them matters.
_TOKENS = rb"""
      '(?<=(?<![\w$\x80-\xff])[eE]')(?P<escaped>) | '[^']*'(?:'[^']*'){0,99} | '(?P<string>)
    | "[^"]*" | "(?P<name>) | ;(?P<end>)
    | \([^'"()$\\/-]*(?:(?:(?<![eE])'[^']*'|-(?!-)|/(?!\*))[^'"()$\\/-]*){0,99}\)
    | \((?P<open>) | \)(?P<close>) | MARK(?P<marker>) | --[^\r\n]* | /\*(?P<comment>)
    | \$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$(?P<dollar>) | \\(?P<psql>)
""".replace(b"MARK", _MARK)
_TOKEN = re.compile(_TOKENS, re.X)
_TOKENS_OF_ROUTINE = _TOKENS + rb"| (?<![\w$\x80-\xff.])(?i:begin)(?![\w$\x80-\xff])(?P<begin>)"
_ATOMIC, _BODY_END = (rb"(?i)%b(?![\w$\x80-\xff])" % word for word in (b"atomic", b"end"))

_GAP = re.compile(rb"[\s;]*(?:(?P<line>--[^\r\n]*)|(?P<block>/\*))?")
_BLANK = re.compile(rb"\s*(--[^\r\n]*)?")
_COMMENT = re.compile(rb"/\*|\*/")
_ESCAPED = re.compile(rb"[^'\\]*(?:\\.[^'\\]*){0,999}", re.S)
_IDENTIFIER = re.compile(rb"[\w$\x80-\xff]*")
_IDENTIFIER_BYTES = frozenset(n for n in range(256) if _IDENTIFIER.fullmatch(bytes([n])))
_PSQL = re.compile(rb"(\\(?:[A-Za-z_]+|[^\r\n])?)[^\r\n]*")
# Blanks and comments; psql would execute anything else once it has read the data below.
_REST_OF_LINE = re.compile(rb"(?:[ \t\r\f\v]|/\*(?:(?!/\*|\*/)[^\n])*\*/)*(?:--[^\n]*)?(?:\n|\Z)")
_DATA_END = re.compile(rb"\n\\\.(?=\r?\n)")
_LAST_DATA_END = re.compile(rb"\n\\\.(?=\r?\n|\r?\Z)")


class Statement(NamedTuple):
    """Where a statement is, in bytes: without what is around it, and without its `;`.

    `kind` is its command as PostgreSQL names it; psql's own are r"\\restrict" and the like.
    `data` is where the data of a COPY … FROM stdin is, without the line that ends it. `mark` is the
    line above it that is about this statement alone.
    """

    start: int
    end: int
    kind: str
    data: tuple[int, int] | None = None
    mark: Mark | None = None


class Mark(NamedTuple):
    """A `-- migrate: …` line, and where it is."""

    at: int
    line: bytes

    @property
    def names(self) -> list[bytes]:
        """What it names, in small letters."""
        return [n for n in re.split(rb"[\s,]+", self.line.split(b":", 1)[1].lower()) if n]

    @property
    def repeats(self) -> bool:
        """Whether it is a `-- migrate: repeat …`."""
        return b"".join(self.names[:1]).partition(b"=")[0] == b"repeat"


class _Cut(Exception):
    """The window ends before what is looked for does."""


def statements(source: Source) -> Iterator[Statement]:
    """Yield the statements, also BEGIN, COMMIT and psql's commands, as the text is read.

    Raise `ScriptError` for what is not closed: a quote, a comment, a parenthesis. The rules:
    https://www.postgresql.org/docs/current/sql-syntax-lexical.html
    """
    start, size, top = source.first, BLOCK, True
    while start < source.size:
        window = _Window(source, start, size)
        size *= 2
        with suppress(_Cut):
            for found, following in window.statements(top=top):
                start, size, top = following, BLOCK, False
                yield found
            return


def header(source: Source) -> list[Mark]:
    """Return the `-- migrate: …` lines above the first statement. Raise as `statements()` does."""
    size = BLOCK
    while True:
        with suppress(_Cut):
            return _Window(source, source.first, size).header()
        size *= 2


class _Window:
    """A part of the text, from a place between two statements on. Positions count from there."""

    def __init__(self, source: Source, start: int, size: int) -> None:
        self._source = source
        self._start = start
        self._text = source.read(start, start + size)
        self._last = start + len(self._text) == source.size  # nothing comes behind it

    def statements(self, *, top: bool) -> Iterator[tuple[Statement, int]]:
        """Yield the statements, and where what follows each of them is in the text."""
        text, pos = self._text, 0
        while True:
            pos, mark = self._between(pos, top=top)
            if pos == len(text):
                return
            top = False
            if text[pos] == _BACKSLASH:
                line = _PSQL.match(text, pos)
                assert line
                start, pos = pos, self._whole(line.end())
                end, kind, data = start + len(line[0].rstrip()), _psql_name(line), None
            else:
                start = pos
                kind, end, pos, data = self._statement(start)
            yield (
                Statement(self._start + start, self._start + end, kind, data, mark),
                self._start + pos,
            )
            if pos > len(text):
                raise _Cut

    def header(self) -> list[Mark]:
        """Return the marks above the first statement."""
        marks: list[Mark] = []
        self._gap(0, marks)
        return marks

    def _between(self, pos: int, *, top: bool) -> tuple[int, Mark | None]:
        """Return where the next statement starts, and the mark that is about it alone."""
        marks: list[Mark] = []
        pos = self._gap(pos, marks)
        found: Mark | None = None
        for mark in marks:
            if not top and mark.names != [b"outside"] and not mark.repeats:
                message = "a directive must stand above the first statement"
                advice = "Move this line to the top of the file."
                more = "Only outside and repeat stand above the statement that they are for."
                raise self._error(message, advice, more, at=mark.at)
            if mark.repeats or b"outside" in mark.names:
                advice = "Put it on a line of its own, directly above the statement it is for."
                if pos == len(self._text):
                    raise self._error("no statement follows this line", advice, at=mark.at)
                if not self._is_alone(mark.at):
                    raise self._error("this stands behind a statement", advice, at=mark.at)
                if found and (found.repeats or mark.repeats):
                    message = "the statement below has another such line already"
                    raise self._error(message, "Delete one of the two.", at=mark.at)
                found = mark
        return pos, found

    def _statement(self, start: int) -> tuple[str, int, int, tuple[int, int] | None]:
        """Return the kind, the end, where what follows is, and the data, of what starts here."""
        text, kind = self._text, kinds.kind(self._text, start)
        following = self._end(start, routine=kind in ("CREATE FUNCTION", "CREATE PROCEDURE"))
        end = following - (text[following - 1] == _SEMICOLON)
        while text[end - 1] in b" \t\n\r\f\v":
            end -= 1
        if kind == "COPY":
            kind = kinds.kind(text, start, end)
        if kind != "COPY FROM STDIN":
            return kind, end, following, None
        line = _REST_OF_LINE.match(text, following)
        self._whole(line.end() if line else following + len(text[following:].split(b"\n", 1)[0]))
        if not line:
            message = "the data of a COPY starts on the line below its ;"
            advice = "Put what follows the ; below the data."
            raise self._error(message, advice, at=self._start + following)
        data, behind = _data(self._source, self._start + line.end())
        return kind, end, behind - self._start, data

    def _whole(self, end: int) -> int:
        """Return an end that is not the window's, behind which more could belong to it."""
        if end == len(self._text) and not self._last:
            raise _Cut
        return end

    def _end(self, pos: int, *, routine: bool) -> int:  # noqa: PLR0912  # a case a token
        """Return where a statement ends, its `;` included."""
        text = self._text
        search = (re.compile(_TOKENS_OF_ROUTINE, re.X) if routine else _TOKEN).search
        depth = outermost = 0
        body: int | None = None  # where the BEGIN ATOMIC is that the scan is inside of
        while token := search(text, pos):
            last, pos, at = pos, token.end(), token.start()
            what = token.lastgroup
            if what is None:
                continue
            if what == "end":
                if not depth and body is None:
                    return pos
                if not depth:
                    body, pos = self._body(body, pos)
            elif what == "open":
                outermost = outermost if depth else at
                depth += 1
            elif what == "close":
                depth -= depth > 0
            elif what == "dollar":
                pos = self._dollar_end(last, at, token[0])
            elif what == "escaped":
                pos = self._escaped_end(at)
            elif what == "comment":
                pos = self._comment_end(at)
            elif what == "marker":
                self._marker(at, pos)
            elif what == "psql":
                raise self._psql_error(at)
            elif what in ("string", "name"):
                mark = text[at:pos]
                while text[at - 1 : at] == mark:  # it goes on after a doubled quote
                    at = text.rfind(mark, 0, at - 1)
                raise self._unclosed("this quote", at)
            elif what == "begin" and not depth and body is None:
                atomic = re.compile(_ATOMIC).match(text, self._gap(pos))
                if atomic:
                    body, pos = self._body(at, atomic.end())
        if depth:
            raise self._unclosed("this parenthesis", outermost)
        if body is not None:
            raise self._unclosed("this BEGIN ATOMIC", body)
        return self._whole(len(text))

    def _body(self, begin: int | None, pos: int) -> tuple[int | None, int]:
        """Return what is open, and where to go on, behind an ATOMIC or a `;` in its body.

        Only there the parser takes END for the body's: elsewhere it is a CASE's, or a name (which
        misleads psql). https://www.postgresql.org/docs/current/sql-createfunction.html
        """
        pos = self._gap(pos)
        return (None if re.compile(_BODY_END).match(self._text, pos) else begin), pos

    def _gap(self, pos: int, marks: list[Mark] | None = None) -> int:
        """Return where the next statement starts; `marks` takes the lines on the way there."""
        while gap := _GAP.match(self._text, pos):
            pos = self._whole(gap.end())
            if gap.lastgroup is None:
                break
            at = gap.start(gap.lastgroup)
            if gap.lastgroup == "block":
                pos = self._comment_end(at)
            elif _MARKER.match(self._text, at):
                self._marker(at, pos, marks)
        return pos

    def _marker(self, at: int, end: int, marks: list[Mark] | None = None) -> None:
        line, at = self._text[at : self._whole(end)], self._start + at
        if _OURS.match(line):
            if marks is None:
                message = "a directive must stand above the first statement"
                raise self._error(message, "Move this line to the top of the file.", at=at)
            marks.append(Mark(at, line))
        elif self._is_alone(at) and _COLON.match(line):
            meant = _COLON.sub(rb"\1: ", line).decode(errors="replace")
            message = "without a colon this line would be a comment"
            raise self._error(message, f"Write: {meant}", at=at)
        elif self._is_alone(at):
            advice = next(advice for pattern, advice in _FOREIGN if pattern.search(line))
            raise self._error("this line is for another migration tool", advice, at=at)

    def _is_alone(self, at: int) -> bool:
        """Return whether only space is before a byte of the text on its line."""
        return not self._source.read(self._source.line_start(at), at).strip()

    def _dollar_end(self, last: int, at: int, tag: bytes) -> int:
        """Return where a dollar quote ends, or the identifier that these dollars are part of."""
        first = at
        while first > last and self._text[first - 1] in _IDENTIFIER_BYTES:
            first -= 1
        if re.search(rb"[A-Za-z_\x80-\xff]", self._text[first:at]):
            rest = _IDENTIFIER.match(self._text, at)
            return rest.end() if rest else at
        end = self._text.find(tag, at + len(tag))
        if end < 0:
            raise self._unclosed(f"the quote {tag.decode(errors='replace')}", at)
        return end + len(tag)

    def _escaped_end(self, at: int) -> int:
        r"""Return where an E'…' ends: it may go on in quotes on a later line, with its escapes."""
        text, pos, size = self._text, at + 1, len(self._text)
        while plain := _ESCAPED.match(text, pos):
            pos = plain.end()
            if pos + (pos < size and text[pos] == _BACKSLASH) >= size:
                break
            if text[pos] == _BACKSLASH:
                continue
            pos += 1
            following = self._blank_end(pos)
            if text[following : following + 1] != b"'" or (
                following > pos and not re.search(rb"[\r\n]", text[pos:following])
            ):
                return pos
            pos = following + 1
        raise self._unclosed("this quote", at)

    def _blank_end(self, pos: int) -> int:
        while blank := _BLANK.match(self._text, pos):
            pos = blank.end()
            if blank[1] is None:
                break
        return pos

    def _comment_end(self, at: int) -> int:
        depth = 0
        for mark in _COMMENT.finditer(self._text, at):
            depth += 1 if mark[0] == b"/*" else -1
            if not depth:
                return mark.end()
        raise self._unclosed("this comment", at)

    def _psql_error(self, at: int) -> ScriptError:
        line = _PSQL.match(self._text, at)
        assert line
        self._whole(line.end())
        name = _psql_name(line)
        advice = kinds.instead(
            name, "A backslash outside of quotes is for psql: end the statement before it with ;"
        )
        return self._error(f"{name} is a command of psql", advice, at=self._start + at)

    def _unclosed(self, what: str, at: int) -> ScriptError:
        self._whole(len(self._text))
        advice = "Close it; it reaches the end of the file."
        return self._error(f"{what} is not closed", advice, at=self._start + at)

    def _error(self, message: str, *advice: str, at: int) -> ScriptError:
        return positions.error(self._source, message, *advice, at=at)


def _data(source: Source, start: int) -> tuple[tuple[int, int], int]:
    r"""Return the span of the data that start here, and where the \. that ends them does."""
    at = start - 1
    while start < source.size:
        block, last = source.read(at, at + BLOCK), at + BLOCK >= source.size
        ends = (_LAST_DATA_END if last else _DATA_END).search(block)
        if ends:
            return (start, at + ends.start() + 1), at + ends.end()
        if last:
            break
        at += BLOCK - 4
    return (start, source.size), source.size


def _psql_name(line: re.Match[bytes]) -> str:
    return line[1].decode(errors="replace")

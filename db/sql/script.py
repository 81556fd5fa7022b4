"""SQL text -> its statements and directives. Pure: bytes over a memory map, no database.

Statements are found as psql finds them (its psqlscan.l), with one compiled expression that jumps
from one byte that matters to the next: each byte is passed once, whatever the text is.
"""

from __future__ import annotations

import codecs
import contextlib
import difflib
import mmap
import os
import re
import unicodedata
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import Location, ScriptError
from . import checksum, kinds

_BLOCK = 1 << 20  # smaller files are read and kept, larger ones mapped and scanned again
_STEP = 4 << 20
_BACKSLASH, _SEMICOLON = b"\\;"

# What other tools write in comments: passed over in silence, it would change what a file does.
_MARK = (
    rb"--+!?[ \t]*(?i:migrate[ \t]*:|\+(?:goose|migrate)\b|no-transaction\b|codd:|tern:|"
    rb"create[ ]above|transactional:|atlas:txmode)[^\r\n]*"
)
_MARKER = re.compile(_MARK)
_OURS = re.compile(rb"(?i)--+!?[ \t]*migrate[ \t]*:(?!\s*(?:up|down)\b)")
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
_REST_OF_LINE = re.compile(rb"[ \t\r\f\v]*(?:--[^\n]*)?(?:\n|\Z)")
_DATA_END = re.compile(rb"\n\\\.(?=\r?\n)")
_LAST_DATA_END = re.compile(rb"\n\\\.(?=\r?\n|\r?\Z)")
_CONTROL = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "PREPARE TRANSACTION"})

# A file changes the database that it runs in, and is recorded there.
_NEVER = {
    "CREATE DATABASE": "Delete it. The database that DATABASE_URL names is made by: "
    "invoke db.create; any other one outside of the migrations, with psql.",
    "DROP DATABASE": "Delete it. If a database has to go, drop it outside of the migrations, "
    "with psql: wherever this file runs, one would be gone.",
}

# pg_dump writes these, and what they mean holds anyway; every other psql command is refused.
_PASSED = re.compile(
    rb"\\(?:restrict|unrestrict)\b|\\\.|\\set[ \t]+ON_ERROR_STOP"
    rb"(?:[ \t]+'?(?i:on|1|true|yes)'?)?\s*$"
)
_INSTEAD = {
    r"\copy": r"Write COPY … FROM stdin; with the data on the lines below it, and \. at its end.",
    r"\i \ir \include \include_relative": "Put that SQL in a migration file of its own.",
    r"\c \connect": "Delete the line: the database is the one that DATABASE_URL names.",
    r"\unset": "Delete the line: psql variables are not expanded, so there is none to unset.",
    r"\set \gset \getenv \prompt": "psql variables are not expanded: write the value "
    "itself, or keep it in a DO block or a temporary table.",
    r"\gexec": "Use a DO block with EXECUTE format(…).",
    r"\if \elif \else \endif": "Use a DO block with IF … THEN … END IF.",
    r"\g \gx \; \gdesc \watch \crosstabview": "End the statement with ; instead.",
    r"\! \o \out \w": "Do it outside the migration: only SQL is executed.",
}

_DIRECTIVE = re.compile(rb"([^\s,=]+)(?:\s*=\s*([^\s,]*))?")
_DURATION = re.compile(r"(\d{1,10})(ms|s|min|h|d|)")
_UNIT_MS = {"": 1, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_KNOWN = ("no-transaction", "lock-timeout=2s", "statement-timeout=10min")


class Statement(NamedTuple):
    """Where a statement is, in bytes: without what is around it, and without its `;`.

    `kind` is its command as PostgreSQL names it; psql's own are r"\\restrict" and the like.
    `data` is where the data of a COPY … FROM stdin is, without the line that ends it.
    """

    start: int
    end: int
    kind: str
    data: tuple[int, int] | None = None


class Directives(NamedTuple):
    """What a file says about itself on `-- migrate: …` lines above its first statement."""

    transaction: bool = True
    lock_timeout_ms: int | None = None
    statement_timeout_ms: int | None = None


class Unit(NamedTuple):
    """What is run as one piece: a statement, or what a file has between a BEGIN and a COMMIT."""

    statements: tuple[Statement, ...]
    transactional: bool
    modes: bytes = b""


class _Frame(NamedTuple):
    """What a transactional file has around its body."""

    modes: bytes
    leading: tuple[Statement, ...]
    passed: frozenset[int]


class Script:
    """A file of SQL: its statements, in order, and where they are."""

    def __init__(self, text: bytes | mmap.mmap, shown: str = "<string>") -> None:
        self.path = shown
        self._text = text
        self._first = 3 if text[:3] == codecs.BOM_UTF8 else 0
        self._kept: tuple[Statement, ...] | None = None

    @classmethod
    def open(cls, path: Path, shown: str) -> Script:
        """Return the script of a file. Raise `OSError` if it cannot be read."""
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size < _BLOCK:
                return cls(file.readall(), shown)
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), shown)

    def close(self) -> None:
        """Give the map back; a scan that was not finished keeps it until it is collected."""
        if isinstance(self._text, mmap.mmap):
            with contextlib.suppress(BufferError):
                self._text.close()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it says

    @cached_property
    def checksum(self) -> str:
        """The SHA-256 of the text with a BOM removed and CRLF as LF."""
        return checksum.of(self.chunks((0, len(self._text))), self.path)

    @cached_property
    def directives(self) -> Directives:
        """What the file says about itself. Raise `ScriptError` for what is not understood."""
        lines: list[tuple[int, bytes]] = []
        self._gap(self._first, lines)
        values: dict[str, Any] = {}
        for at, line in lines:
            words = list(_DIRECTIVE.finditer(line, line.index(b":") + 1))
            if not words:
                raise self.error("this names no directive", _known(""), at=at)
            for word in words:
                key, value = word[1].decode(errors="replace").lower(), word[2]
                if key == "no-transaction" and value is None:
                    values["transaction"] = False
                elif key in ("lock-timeout", "statement-timeout"):
                    duration = _milliseconds((value or b"").decode(errors="replace"))
                    if duration is None:
                        raise self.error(
                            f"{key} needs a duration", f"Such as {key}=500ms, 2s, 10min or 1h.",
                            at=at + word.start(),
                        )  # fmt: skip
                    values[key.replace("-", "_") + "_ms"] = duration
                else:
                    told = word[0].decode(errors="replace")
                    message = f"there is no directive {told}"
                    raise self.error(message, _known(key), at=at + word.start())
        return Directives(**values)

    @property
    def is_empty(self) -> bool:
        """Whether no statement of the file does anything: it holds comments only."""
        return all(found.kind in ("BEGIN", "COMMIT") for found in self._commands())

    @property
    def effects(self) -> kinds.Effects:
        """What the file does that a dump of the schema does not hold. Raise as `check()` does."""
        found = (kinds.effects(self.sql(s), s.kind) for s in self._commands())
        return kinds.summed({name for names in found for name in names})

    @property
    def escapes_matter(self) -> bool:
        """Whether it is split otherwise where standard_conforming_strings is off."""
        return any(kinds.escapes(self.sql(found)) for found in self.statements())

    def check(self) -> None:
        """Raise `ScriptError` for the first thing that cannot be run."""
        if self.directives.transaction:
            _ = self._frame
        else:
            for _unit in self.units():
                pass

    @property
    def modes(self) -> bytes:
        """The modes of a BEGIN that the whole file is wrapped in."""
        return self._frame.modes

    @property
    def leading(self) -> tuple[Statement, ...]:
        """The SET TRANSACTION statements before any other."""
        return self._frame.leading

    def body(self) -> Iterator[Statement]:
        """Yield the other statements of a transactional file, without a BEGIN and COMMIT around."""
        passed = self._frame.passed
        return (found for found in self._commands() if found.start not in passed)

    def units(self) -> Iterator[Unit]:
        """Yield what a no-transaction file is run in. Raise `ScriptError` as `check()` does."""
        opening: Statement | None = None
        block: list[Statement] = []
        for found in self._commands():
            if found.kind == "BEGIN" and not opening:
                opening, block = found, []
            elif found.kind == "COMMIT" and opening:
                if block:
                    yield Unit(tuple(block), True, kinds.modes(self.sql(opening)))
                opening = None
            elif found.kind in _CONTROL:
                raise self.error(
                    f"{found.kind} {'inside of' if opening else 'without'} a BEGIN … COMMIT block",
                    "In a no-transaction file, BEGIN … COMMIT blocks stand one after the other.",
                    at=found.start,
                )
            elif opening:
                if found.kind in kinds.NOT_IN_TRANSACTION:
                    message = f"{found.kind} cannot run inside BEGIN … COMMIT"
                    raise self.error(message, "Move it out of the block.", at=found.start)
                block.append(found)
            else:
                self._check_name(found)
                yield Unit((found,), not kinds.needs_outside(self.sql(found), found.kind))
        if opening:
            message = "this BEGIN is not closed"
            raise self.error(message, "Write COMMIT; where its block ends.", at=opening.start)

    @cached_property
    def _frame(self) -> _Frame:
        opening: Statement | None = None
        closing: Statement | None = None
        leading: list[Statement] = []
        started = False  # a statement was seen that is neither BEGIN nor SET TRANSACTION
        for found in self._commands():
            if found.kind == "BEGIN" and not (opening or started or leading):
                opening = found
            elif found.kind == "COMMIT" and opening and not closing:
                closing = found
            elif closing or found.kind in _CONTROL:
                wrong = closing or found
                message = f"{wrong.kind} inside a migration: a file is one transaction"
                raise self.error(message, *self._without_frames(), at=wrong.start)
            elif found.kind in kinds.NOT_IN_TRANSACTION:
                advice = ["Put this on a line at the top: -- migrate: no-transaction"]
                if opening and not closing:
                    advice.append(f"And end the BEGIN above with a COMMIT before {found.kind}.")
                elif "INDEX CONCURRENTLY" in found.kind:
                    advice.append("It is best alone in its own file.")
                message = f"{found.kind} cannot run in a transaction"
                raise self.error(message, *advice, at=found.start)
            elif found.kind == "SET TRANSACTION" and not started:
                leading.append(found)
            else:
                started = True
        if opening and not closing:
            message = "this BEGIN has no COMMIT at the end of the file"
            raise self.error(
                message, "Delete it: a file is one transaction anyway.", at=opening.start
            )
        passed = frozenset(s.start for s in (opening, closing, *leading) if s)
        return _Frame(kinds.modes(self.sql(opening)) if opening else b"", tuple(leading), passed)

    def _without_frames(self) -> tuple[str, ...]:
        """Return what makes a file with transactions of its own one that runs, in one step."""
        try:
            for _unit in self.units():
                pass
        except ScriptError:
            return (
                "Delete every BEGIN, COMMIT and ROLLBACK in it; or put this on a line at the top, "
                "-- migrate: no-transaction, and close each BEGIN with a COMMIT.",
            )
        return (
            "To keep its transactions, put this on a line at the top: -- migrate: no-transaction",
            "To make it one, delete every BEGIN and COMMIT in it.",
        )

    def _commands(self) -> Iterator[Statement]:
        """Yield what is sent to the server; raise for what cannot be."""
        for found in self.statements():
            if found.kind[:1] == "\\":
                if not _PASSED.match(self.sql(found)):
                    raise self._psql_error(found.start)
                continue
            if found.kind == "COPY TO STDOUT":
                advice = r"Write to a table, or export with psql's \copy outside the migrations."
                raise self.error("there is nobody to read this output", advice, at=found.start)
            if found.kind in _NEVER:
                message = f"{found.kind} does not belong in a migration"
                raise self.error(message, _NEVER[found.kind], at=found.start)
            if found.kind == "COMMIT" and kinds.chains(self.sql(found)):
                advice = "Write COMMIT; and BEGIN; instead, in a no-transaction file."
                raise self.error("AND CHAIN is not understood here", advice, at=found.start)
            yield found

    def _check_name(self, found: Statement) -> None:
        target = found.kind == "CREATE INDEX CONCURRENTLY" and kinds.concurrent_index(
            self.sql(found)
        )
        if target and target.name is None:
            raise self.error(
                "an index that is built CONCURRENTLY needs a name",
                "Without one, what a failed build leaves behind could not be found again.",
                at=found.start,
            )

    def _psql_error(self, at: int, *, inside: bool = False) -> ScriptError:
        command = _psql_name(self._text, at)
        advice = "Delete the line: only psql understands it."
        if inside:
            advice = "A backslash outside of quotes is for psql: end the statement before it with ;"
        for commands, instead in _INSTEAD.items():
            advice = instead if command in commands.split() else advice
        return self.error(f"{command} is a command of psql", advice, at=at)

    # Where its statements are

    def statements(self) -> Iterator[Statement]:
        """Yield the statements, also BEGIN, COMMIT and psql's commands, as the file is read.

        Raise `ScriptError` for what is not closed: a quote, a comment, a parenthesis. The rules:
        https://www.postgresql.org/docs/current/sql-syntax-lexical.html
        """
        return self._scan() if self._kept is None else iter(self._kept)

    def _scan(self) -> Iterator[Statement]:
        size, given_back = len(self._text), 0
        kept: list[Statement] | None = [] if size < _BLOCK else None
        pos = self._gap(self._first, [])
        while pos < size:
            if self._text[pos] == _BACKSLASH:
                line = _PSQL.match(self._text, pos)
                assert line
                end = pos + len(line[0].rstrip())
                found, pos = Statement(pos, end, _psql_name(self._text, pos)), line.end()
            else:
                found, pos = self._statement(pos)
            if kept is not None:
                kept.append(found)
            yield found
            if pos - given_back > _STEP:
                self._give_back(given_back, pos)
                given_back = pos
            pos = self._gap(pos)
        self._kept = None if kept is None else tuple(kept)

    def _statement(self, start: int) -> tuple[Statement, int]:
        """Return the statement that starts here, and where what follows it does."""
        text, kind = self._text, kinds.kind(self._text, start)
        following = self._end(start, routine=kind in ("CREATE FUNCTION", "CREATE PROCEDURE"))
        end = following - (text[following - 1] == _SEMICOLON)
        while text[end - 1] in b" \t\n\r\f\v":
            end -= 1
        data: tuple[int, int] | None = None
        if kind == "COPY":
            kind = kinds.kind(text, start, end)
        if kind == "COPY FROM STDIN":
            line = _REST_OF_LINE.match(text, following)
            if not line:
                message = "the data of a COPY starts on the line below its ;"
                raise self.error(message, "Put what follows the ; below the data.", at=following)
            data, following = self._data(line.end())
        return Statement(start, end, kind, data), following

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
                self._marker(at, token[0])
            elif what == "psql":
                raise self._psql_error(at, inside=True)
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
        return len(text)

    def _body(self, begin: int | None, pos: int) -> tuple[int | None, int]:
        """Return what is open, and where to go on, behind an ATOMIC or a `;` in its body.

        Only there the parser takes END for the body's: elsewhere it is a CASE's, or a name (which
        misleads psql). https://www.postgresql.org/docs/current/sql-createfunction.html
        """
        pos = self._gap(pos)
        return (None if re.compile(_BODY_END).match(self._text, pos) else begin), pos

    def _data(self, start: int) -> tuple[tuple[int, int], int]:
        r"""Return the span of the data that start here, and where the \. that ends them does."""
        size, at = len(self._text), start - 1
        while start < size:
            last = at + _STEP >= size
            ends = (_LAST_DATA_END if last else _DATA_END).search(
                self._text, at, size if last else at + _STEP
            )
            if ends:
                return (start, ends.start() + 1), ends.end()
            if last:
                break
            self._give_back(at, at + _STEP)
            at += _STEP - 4
        return (start, size), size

    def _gap(self, pos: int, top: list[tuple[int, bytes]] | None = None) -> int:
        """Return where the next statement starts; `top` takes the directives on the way there."""
        while gap := _GAP.match(self._text, pos):
            pos = gap.end()
            if gap.lastgroup is None:
                break
            at = gap.start(gap.lastgroup)
            if gap.lastgroup == "block":
                pos = self._comment_end(at)
            elif _MARKER.match(self._text, at):
                self._marker(at, self._text[at:pos], top)
        return pos

    def _marker(self, at: int, line: bytes, top: list[tuple[int, bytes]] | None = None) -> None:
        if _OURS.match(line):
            if top is None:
                message = "a directive must stand above the first statement"
                raise self.error(message, "Move this line to the top of the file.", at=at)
            top.append((at, line))
        elif not self._text[max(self._text.rfind(b"\n", 0, at) + 1, self._first) : at].strip():
            advice = next(advice for pattern, advice in _FOREIGN if pattern.search(line))
            raise self.error("this line is for another migration tool", advice, at=at)

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

    def _give_back(self, start: int, end: int) -> None:
        """Drop pages that were passed from memory; they are read again where they are needed."""
        if isinstance(self._text, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            first, last = (n // mmap.PAGESIZE * mmap.PAGESIZE for n in (start, end))
            if last > first:
                self._text.madvise(mmap.MADV_DONTNEED, first, last - first)

    # What is where

    def sql(self, statement: Statement) -> bytes:
        """Return the text of a statement."""
        return self._text[statement.start : statement.end]

    def chunks(self, span: tuple[int, int], size: int = _BLOCK) -> Iterator[bytes]:
        """Yield the bytes of a span in pieces; what was yielded does not stay in memory."""
        for start in range(*span, size):
            end = min(start + size, span[1])
            yield self._text[start:end]
            self._give_back(start, end)

    def location(self, offset: int) -> Location:
        """Return the line and column of a byte."""
        before = (0, self._line_start(offset))
        line = 1 + sum(block.count(b"\n") for block in self.chunks(before))
        return Location(self.path, line, 1 + len(_decoded(self._text[before[1] : offset])))

    def offset(self, statement: Statement, position: int) -> int:
        """Return the byte at a server's position in a statement: 1-based, counting characters.

        https://www.postgresql.org/docs/current/protocol-error-fields.html
        """
        before = _decoded(self.sql(statement))[: max(position - 1, 0)]
        return statement.start + len(before.encode(errors="surrogateescape"))

    def excerpt(self, offset: int) -> str:
        """Return the line of a byte and the lines around it, with a caret below the byte."""
        number = self.location(offset).line
        start = self._line_start(offset)
        rows = [(number, start)]
        while rows[0][0] > max(number - 2, 1):
            rows.insert(0, (rows[0][0] - 1, self._line_start(rows[0][1] - 1)))
        width = len(str(number + 1))
        lines = [f"   {n:{width}} | {self._shown(at, at)[0]}".rstrip() for n, at in rows[:-1]]
        shown, before = self._shown(start, offset)
        lines += [f" > {number:{width}} | {shown}", f"   {'':{width}} | {' ' * before}^"]
        following = self._text.find(b"\n", offset) + 1
        after = self._shown(following, following)[0] if following else ""
        if after.strip():
            lines.append(f"   {number + 1:{width}} | {after}")
        return "\n".join(lines)

    def error(self, message: str, *advice: str, at: int) -> ScriptError:
        """Return the error about what stands at a byte."""
        where, lines = self.location(at), self.excerpt(at)
        return ScriptError(message, *advice, location=where, excerpt=lines)

    def _unclosed(self, what: str, at: int) -> ScriptError:
        return self.error(
            f"{what} is not closed", "Close it; it reaches the end of the file.", at=at
        )

    def _line_start(self, offset: int) -> int:
        return max(self._text.rfind(b"\n", 0, max(offset, 0)) + 1, self._first)

    def _shown(self, start: int, offset: int) -> tuple[str, int]:
        """Return what of a line fits around a byte, and how many columns are before the byte."""
        end = self._text.find(b"\n", offset, offset + 400)
        after = self._text[offset : end if end >= 0 else offset + 400].rstrip(b"\r")
        before = _decoded(self._text[max(start, offset - 400) : offset])
        if len(before) > 60 or offset - start > 400:
            before = "…" + before[-59:]
        rest = _decoded(after)
        room = 100 - len(before)
        left = _printable(before)
        return left + _printable(rest[:room] + "…" * (len(rest) > room)), sum(map(_width, left))


def _psql_name(text: bytes | mmap.mmap, at: int) -> str:
    found = _PSQL.match(text, at)
    return found[1].decode(errors="replace") if found else "\\"


def _known(name: str) -> str:
    close = difflib.get_close_matches(name, [known.split("=")[0] for known in _KNOWN], 1, 0.5)
    return f"{f'Did you mean {close[0]}? ' if close else ''}Known are: {', '.join(_KNOWN)}."


def _milliseconds(text: str) -> int | None:
    """Return a duration as PostgreSQL's settings take it; None if it is not one."""
    found = _DURATION.fullmatch(text)
    value = int(found[1]) * _UNIT_MS[found[2]] if found else -1
    return value if 0 <= value < 1 << 31 else None


def _decoded(text: bytes) -> str:
    return text.decode(errors="surrogateescape")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text.replace("\t", "    "))


def _width(character: str) -> int:
    """Return how many columns of a terminal a character takes."""
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1

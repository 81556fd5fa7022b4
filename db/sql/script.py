"""A file of SQL: what it says about itself, what is run of it and in which pieces. No database."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..durations import milliseconds
from ..errors import Location, ScriptError
from . import checksum, effects, kinds, lexer, positions, repeat
from .lexer import Statement
from .repeat import Repeat
from .source import BLOCK, Source

_CONTROL = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "PREPARE TRANSACTION"})

# A file changes the database that it runs in, and is recorded there.
_NEVER = {
    "CREATE DATABASE": "Delete it. The database that DATABASE_URL names is made by: "
    "invoke db.create; any other one outside of the migrations, with psql.",
    "DROP DATABASE": "Delete it. If a database has to go, drop it outside of the migrations, "
    "with psql: wherever this file runs, one would be gone.",
}

_DIRECTIVE = re.compile(rb"([^\s,=]+)(?:\s*=\s*([^\s,]*))?")
_KNOWN = (
    "no-transaction", "lock-timeout=2s", "statement-timeout=10min", "outside", "repeat until 0 rows"
)  # fmt: skip


class Directives(NamedTuple):
    """What a file says about itself on `-- migrate: …` lines above its first statement."""

    transaction: bool = True
    lock_timeout_ms: int | None = None
    statement_timeout_ms: int | None = None


class Unit(NamedTuple):
    """What is run as one piece: a statement, or what a file has between a BEGIN and a COMMIT.

    `repeat`: the statement is repeated until it gives no row, each time in a transaction.
    """

    statements: tuple[Statement, ...]
    transactional: bool
    modes: bytes = b""
    repeat: Repeat | None = None


class _Frame(NamedTuple):
    """What a transactional file has around its body."""

    modes: bytes
    leading: tuple[Statement, ...]
    passed: frozenset[int]


class Script:
    """A file of SQL: its statements, in order, and where they are."""

    def __init__(self, text: bytes | Source, shown: str = "<string>") -> None:
        self._source = Source(text, shown) if isinstance(text, bytes) else text
        self._kept: tuple[Statement, ...] | None = None

    @classmethod
    def open(cls, path: Path, shown: str) -> Script:
        """Return the script of a file. Raise `FileChanged` if it cannot be read any more.

        Whatever reads on in it raises that as well, if the file was changed meanwhile. A run looks
        at each file several times, so what was made of a small one is kept with its text.
        """
        source = Source.open(path, shown)
        if source.text is None:
            return cls(source)
        kept = _kept.get((shown, source.text))
        if kept is None:
            with _lock:
                while len(_kept) >= _MANY:
                    del _kept[next(iter(_kept))]
                kept = _kept[shown, source.text] = cls(source)
        return kept

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Script:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What it says

    @cached_property
    def checksum(self) -> str:
        """The SHA-256 of the text with a BOM removed and CRLF as LF."""
        if self._source.text is not None:
            return checksum.whole(self._source.text, self.path)
        return checksum.of(self.chunks((0, self._source.size)), self.path)

    @cached_property
    def directives(self) -> Directives:
        """What the file says about itself. Raise `ScriptError` for what is not understood."""
        values: dict[str, Any] = {}
        for mark in lexer.header(self._source):
            at, line = mark
            if mark.repeats:  # says something about the first statement
                continue
            words = list(_DIRECTIVE.finditer(line, line.index(b":") + 1))
            if not words:
                raise self.error("this names no directive", _known(""), at=at)
            for word in words:
                key, value = word[1].decode(errors="replace").lower(), word[2]
                if key == "no-transaction" and value is None:
                    values["transaction"] = False
                elif key == "outside" and value is None:
                    pass  # says something about the first statement
                elif key in ("lock-timeout", "statement-timeout"):
                    duration = milliseconds((value or b"").decode(errors="replace"))
                    if duration is None:
                        raise self.error(
                            f"{key} needs a duration", f"Such as {key}=500ms, 2s, 10min or 1h.",
                            at=at + word.start(),
                        )  # fmt: skip
                    values[key.replace("-", "_") + "_ms"] = duration
                elif key == "repeat":
                    raise self.error(
                        "repeat is on the line of another directive",
                        "Put it on a line of its own, directly above the statement it is for.",
                        at=at + word.start(),
                    )
                else:
                    told = word[0].decode(errors="replace")
                    message = f"there is no directive {told}"
                    raise self.error(message, _known(key), at=at + word.start())
        return Directives(**values)

    @property
    def effects(self) -> frozenset[str]:
        """What the file does that a dump of the schema does not hold. Raise as `check()` does."""
        return frozenset(name for s in self._commands() for name in effects.of(self.sql(s), s.kind))

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
            if found.mark and (opening or found.kind in _CONTROL):
                raise self.error(
                    "this is for one statement, and a BEGIN … COMMIT block is one transaction",
                    "Move the statement out of the block, or delete this line.",
                    at=found.mark.at,
                )
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
                yield self._unit(found)
        if opening:
            message = "this BEGIN is not closed"
            raise self.error(message, "Write COMMIT; where its block ends.", at=opening.start)

    def _unit(self, found: Statement) -> Unit:
        """Return the unit that a statement is by itself."""
        if found.mark and found.mark.repeats:
            options = repeat.parse(self._source, found.mark)
            repeat.check(self._source, found, self.sql(found))
            return Unit((found,), True, repeat=options)
        self._check_name(found)
        outside = found.mark or kinds.needs_outside(self.sql(found), found.kind)
        return Unit((found,), not outside)

    @cached_property
    def _frame(self) -> _Frame:
        opening: Statement | None = None
        closing: Statement | None = None
        leading: list[Statement] = []
        started = False  # a statement was seen that is neither BEGIN nor SET TRANSACTION
        for found in self._commands():
            if found.mark:
                does = "is repeated" if found.mark.repeats else "runs outside"
                raise self.error(
                    f"a statement {does}, and this file is one transaction",
                    "Put this on a line at the top: -- migrate: no-transaction",
                    "Or delete this line.",
                    at=found.mark.at,
                )
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
        for found in self._understood():
            if found.kind[:1] == "\\":
                if kinds.is_passed(self.sql(found)) and not found.mark:
                    continue
                advice = kinds.instead(found.kind, "Delete the line: only psql understands it.")
                raise self.error(f"{found.kind} is a command of psql", advice, at=found.start)
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

    def _understood(self) -> Iterator[Statement]:
        r"""Yield the statements; raise where a SET of the file's own makes the server read others.

        With standard_conforming_strings off a string does not end at the ' of a \'.
        """
        switch: Statement | None = None
        statements = self.statements()
        while True:
            try:
                found = next(statements)
            except StopIteration:
                return
            except ScriptError:
                rest = self.chunks((switch.end, self._source.size)) if switch else iter(())
                if switch and any(b"\\'" in piece for piece in rest):
                    raise self._misread(switch) from None
                raise
            if switch and (found.kind == "\\'" or kinds.escapes(self.sql(found))):
                raise self._misread(switch)
            if found.kind in ("SET", "SET LOCAL"):
                plain = kinds.switches(self.sql(found))
                switch = switch if plain is None else None if plain else found
            yield found

    def _misread(self, switch: Statement) -> ScriptError:
        return self.error(
            r"this SET makes each \ in the strings below an escape, and one stands before a quote",
            r"Delete it, and write each string that has a \ as E'…'.",
            at=switch.start,
        )

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

    # What is where

    @property
    def is_kept(self) -> bool:
        """Whether its text is in memory, and not read from its file where it is needed."""
        return self._source.text is not None

    @property
    def path(self) -> str:
        """What people call the file."""
        return self._source.shown

    def statements(self) -> Iterator[Statement]:
        """Yield the statements, as the lexer finds them. Raise as `lexer.statements()` does."""
        if self._kept is not None:
            return iter(self._kept)
        found = lexer.statements(self._source)
        return found if self._source.size >= BLOCK else self._keep(found)

    def _keep(self, statements: Iterator[Statement]) -> Iterator[Statement]:
        kept = []
        for found in statements:
            kept.append(found)
            yield found
        self._kept = tuple(kept)

    def sql(self, statement: Statement) -> bytes:
        """Return the text of a statement."""
        return self._source.read(statement.start, statement.end)

    def chunks(self, span: tuple[int, int]) -> Iterator[bytes]:
        """Yield the bytes of a span in pieces."""
        return self._source.chunks(span)

    def location(self, offset: int) -> Location:
        """Return the line and column of a byte."""
        return positions.location(self._source, offset)

    def offset(self, statement: Statement, position: int) -> int:
        """Return the byte at a server's position in a statement: 1-based, counting characters.

        https://www.postgresql.org/docs/current/protocol-error-fields.html
        """
        before = positions.decoded(self.sql(statement))[: max(position - 1, 0)]
        return statement.start + len(before.encode(errors="surrogateescape"))

    def data_line(self, statement: Statement, number: int) -> tuple[int, int]:
        """Return the span of a line of a COPY's data, the first of which is number 1."""
        start, end = statement.data or (statement.end, statement.end)
        left = number - 1
        for block in self.chunks((start, end)):
            lines = block.count(b"\n")
            if left < lines or not left:
                pieces = block.split(b"\n", left + 1)
                start += sum(len(piece) + 1 for piece in pieces[:left])
                return start, min(start + len(pieces[left]), end)
            left, start = left - lines, start + len(block)
        return start, start

    def excerpt(self, offset: int) -> str:
        """Return the line of a byte and the lines around it, with a caret below the byte."""
        return positions.excerpt(self._source, offset)

    def error(self, message: str, *advice: str, at: int) -> ScriptError:
        """Return the error about what stands at a byte."""
        return positions.error(self._source, message, *advice, at=at)


def _known(name: str) -> str:
    names = [re.split("[= ]", known)[0] for known in _KNOWN]
    close = difflib.get_close_matches(name, names, 1, 0.5)
    return f"{f'Did you mean {close[0]}? ' if close else ''}Known are: {', '.join(_KNOWN)}."


_MANY = 2000  # scripts, each of less than 1 MB
_kept: dict[tuple[str, bytes], Script] = {}
_lock = threading.Lock()

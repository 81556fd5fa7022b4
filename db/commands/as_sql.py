"""What a run would send, as a script that people read, and psql runs to the same end."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Callable, Iterator, Sequence

from psycopg import sql

from ..engine import ledger
from ..engine.resume import strong
from ..engine.survey import Survey
from ..errors import MigrationsError
from ..events import Connected, Event, Note
from ..files.folder import Migration
from ..server.watch import author
from ..settings import Settings
from ..sql.lexer import Statement
from ..sql.script import Script, Unit
from .opened import Cell, Screen

_RECORD = "INSERT INTO {table} (filename, checksum, executed_by) VALUES ({row});\n"


class Comments:
    """A screen whose events are comments in the script."""

    def __init__(self, write: Callable[[str], None], errors: Screen) -> None:
        self._write, self._errors = write, errors

    def event(self, event: Event) -> None:
        if isinstance(event, Connected):
            self._line(str(event))
        elif isinstance(event, Note):
            about = f"{event.filename}: " if event.filename else ""
            self._line(f"{event.level}: {about}{event.message}")

    def error(self, error: MigrationsError) -> None:
        self._errors.error(error)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        self._errors.table(columns, rows)

    def _line(self, text: str) -> None:
        self._write(f"-- {' '.join(text.split())}\n")


def pieces(found: Survey, settings: Settings) -> Iterator[str]:
    """Yield the script: the ledger if it is missing, then file by file."""
    yield "\\set ON_ERROR_STOP on\n"
    if found.todo and not found.ledger.exists:
        yield f"\n-- the ledger\n\n{ledger.dumped(found.ledger, ()).replace('RESET ROLE;', '')}"
    for migration in found.todo:
        with Script.open(migration.path, migration.shown) as script:
            yield f"\n-- {' '.join(migration.shown.split())}\n\n"
            if script.directives.transaction:
                yield from _transaction(script, migration, found, settings)
            else:
                yield from _units(script, migration, found, settings)


def _transaction(
    script: Script, migration: Migration, found: Survey, settings: Settings
) -> Iterator[str]:
    yield _begin(script.modes)
    yield _lock_timeout(script, settings, "SET LOCAL")
    yield from _statement_timeout(script, "SET LOCAL")
    for statement in script.leading:
        yield from _sent(script, statement)
    yield _recorded(found, migration, script)
    yield from _role(settings, "SET LOCAL ROLE")
    for statement in script.body():
        yield from _sent(script, statement)
    yield "RESET ROLE;\nCOMMIT;\nDISCARD ALL;\n"


def _units(
    script: Script, migration: Migration, found: Survey, settings: Settings
) -> Iterator[str]:
    finished = {row.unit for row in found.progress.get(migration.filename, ()) if row.finished}
    own = False  # the file has set a lock_timeout, which holds from there on
    for number, unit in enumerate(script.units()):
        if number in finished:
            yield f"-- statement {number + 1} is executed already\n"
            continue
        in_one = unit.transactional and not unit.repeat
        if in_one:
            yield _begin(unit.modes)
        how = "SET LOCAL" if in_one else "SET"
        if not own:
            yield _lock_timeout(script, settings, how, limited=_is_limited(script, unit))
        if unit.transactional:
            yield from _statement_timeout(script, how)
        own = own or any(_sets_lock_timeout(script, found) for found in unit.statements)
        yield from _role(settings, "SET ROLE")
        for statement in unit.statements:
            yield from _repeated(script, unit) if unit.repeat else _sent(script, statement)
        yield "RESET ROLE;\n" if settings.role else ""
        yield "COMMIT;\n" if in_one else ""
    yield _recorded(found, migration, script)
    yield "DISCARD ALL;\n"


def _repeated(script: Script, unit: Unit) -> Iterator[str]:
    """Yield a block that repeats a statement until it gives no row, at the pace of its own pauses.

    It does not look at replicas or at VACUUM, and does not stop at a lock: a run does.
    """
    (found,), pause_ms = unit.statements, unit.repeat.pause_ms if unit.repeat else 0
    text = script.sql(found).decode()
    tag = next(tag for n in itertools.count() if (tag := f"$repeated{n or ''}$") not in text)
    yield (
        f"DO $do{tag[1:]}\nDECLARE\n    number bigint;\nBEGIN\n    LOOP\n        EXECUTE {tag}\n"
        f"{text}\n{tag};\n        GET DIAGNOSTICS number = ROW_COUNT;\n        COMMIT;\n"
        f"        EXIT WHEN number OPERATOR(pg_catalog.=) 0;\n"
        f"        PERFORM pg_catalog.pg_sleep({pause_ms / 1000:g});\n"
        f"    END LOOP;\nEND\n$do{tag[1:]};\n"
    )


def _begin(modes: bytes) -> str:
    return f"{' '.join(filter(None, ('BEGIN', modes.decode())))};\n"


def _lock_timeout(script: Script, settings: Settings, how: str, *, limited: bool = True) -> str:
    own = script.directives.lock_timeout_ms
    limit = settings.lock_timeout_ms if own is None else own
    return f"{how} lock_timeout = '{limit if limited else 0}ms';\n"


def _is_limited(script: Script, unit: Unit) -> bool:
    """Return whether a run lets a unit wait for a lock no longer than that."""
    first = unit.statements[0]
    return unit.transactional or strong(first.kind, script.sql(first))


def _sets_lock_timeout(script: Script, found: Statement) -> bool:
    return found.kind == "SET" and b"lock_timeout" in script.sql(found).lower()


def _statement_timeout(script: Script, how: str) -> Iterator[str]:
    limit = script.directives.statement_timeout_ms
    if limit is not None:
        yield f"{how} statement_timeout = '{limit}ms';\n"


def _role(settings: Settings, how: str) -> Iterator[str]:
    if settings.role:
        yield f"{how} {sql.Identifier(settings.role).as_string(None)};\n"


def _recorded(found: Survey, migration: Migration, script: Script) -> str:
    row = (migration.filename, script.checksum, f"{author()} (db.plan --sql)")
    values = sql.SQL(", ").join(map(sql.Literal, row)).as_string(None)
    table = found.ledger.compose("{table}").decode()
    return _RECORD.format(table=table, row=values)


def _sent(script: Script, statement: Statement) -> Iterator[str]:
    text = script.sql(statement).decode()
    # A comment at the end of a statement would take the ; for its own.
    yield f"{text}\n;\n" if "--" in text.rpartition("\n")[2] else f"{text};\n"
    if statement.data:
        yield from codecs.iterdecode(script.chunks(statement.data), "utf-8")
        yield "\\.\n"

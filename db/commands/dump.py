"""db.dump: the schema and what is executed, in a file that db.migrate can load."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from psycopg import sql

from ..engine import ledger, place
from ..errors import (
    FilesError,
    LedgerError,
    ScriptError,
    SettingsError,
)
from ..events import Note
from ..files import folder
from ..files.plan import SCHEMA, Executed, Progress
from ..server import ours, pg_dump
from ..server.connection import Target
from ..server.ours import Connection
from ..settings import Settings
from ..sql import effects
from ..sql.script import Script
from . import rows
from .opened import Screen, connected, read_only

_NAME = re.compile(r"-- Name: (.*); Type: .*; Schema: (.*); Owner: ")
_RIGHTS = ("GRANT", "REVOKE", "ALTER DEFAULT PRIVILEGES")
_SHOWN = 10
# https://docs.citusdata.com/en/stable/develop/api_metadata.html
_CITUS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.=) 'citus')
   AND pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"""
_DISTRIBUTED = """
SELECT logicalrelid::pg_catalog.regclass::pg_catalog.text
FROM pg_catalog.pg_dist_partition ORDER BY 1"""


class Wanted(NamedTuple):
    """What goes into the file besides the schema, and whether another's may be replaced."""

    path: Path
    data: Sequence[str] = ()  # tables
    privileges: bool = False
    force: bool = False


class LeftOut(NamedTuple):
    """What the dump does not hold: one sentence, the names, and what would put it in."""

    what: str
    names: Sequence[str]
    advice: str = ""


def dump(settings: Settings, screen: Screen, wanted: Wanted) -> None:
    """Write the schema, and what is executed, to a file that db.migrate can load.

    What the file does not hold, though files that it records as executed have made it, is said.
    Raise `FilesError` rather than replace a file that db.dump has not written.
    """
    path = wanted.path.resolve()
    shown = settings.shown(wanted.path.absolute())
    if not wanted.force and _is_anothers(path, shown):
        raise FilesError(
            f"{shown} was not written by db.dump, and would be lost. Nothing was written.",
            *keeping(settings, wanted.path),
            f"To replace it: {typed(settings, wanted.path, '--force', *_options(wanted))}; "
            "to another file: --file NAME",
        )
    check_folder(settings, wanted.path.absolute(), settings.schema, "db.dump --file NAME")
    with (
        connected(settings, screen, writing=False) as (target, conn, server),
        read_only(conn, server),
    ):
        major = conn.info.server_version // 10000
        book = place.find(conn, settings.ledger)
        executed = ledger.read(conn, book)
        _refuse_half(ledger.read_progress(conn, book))
        _refuse_distributed(conn)
        tables = rows.find(conn, wanted.data, book)
        dumped = _dumped(
            target, conn, book, tables, role=settings.role, privileges=wanted.privileges
        )
    numbered = sorted(name for name in executed if folder.is_named(name))
    left_out = [*_not_in_schema(settings, executed), *dumped.left_out]
    recorded = ledger.dumped(book, [executed[n] for n in numbered]) if book.exists else ""
    head = _header(book, major, tables, left_out)
    parts = [head, *dumped.statements, recorded.encode().rstrip()]
    changed = replaced(path, b"\n\n".join(filter(None, parts)) + b"\n", shown)
    for each in left_out:
        names = ", ".join(each.names[:_SHOWN])
        more = f" and {len(each.names) - _SHOWN} more" if each.names[_SHOWN:] else ""
        screen.event(
            Note(
                f"not in it: {each.what} ({len(each.names)}): {names}{more}{each.advice}",
                "warning",
                shown,
            )
        )
    wrote = "written" if changed else "is as it was"
    screen.event(Note(f"{wrote}; executed migrations in it: {len(numbered)}", filename=shown))


def typed(settings: Settings, path: Path, *options: str) -> str:
    """Return db.dump as it is to be typed for this file."""
    file = [] if _is_base(settings, path) else ["--file", quote(str(path))]
    return " ".join(["invoke db.dump", *options, *file])


def keeping(settings: Settings, path: Path) -> tuple[str, ...]:
    """Return how a file that is loaded as the base schema stays what the files build on."""
    if not _is_base(settings, path):
        return ()
    first = f"{settings.shown(settings.folder)}/000_base.sql"
    return (
        "If the files build on it, dump to another file: invoke db.dump --file structure.sql",
        "or make it the first of them, on each database that has it:",
        f"  mv {quote(settings.shown(settings.schema))} {quote(first)}",
        "  invoke db.repair --name 000_base.sql --mark, and then: invoke db.dump",
    )


def _is_base(settings: Settings, path: Path) -> bool:
    return path.resolve() == settings.schema.resolve()


def _options(wanted: Wanted) -> list[str]:
    tables = [f"--data {quote(table)}" for table in wanted.data]
    return [*tables, *(["--privileges"] if wanted.privileges else [])]


def _is_anothers(path: Path, shown: str) -> bool:
    with folder.readable(shown):
        return path.is_file() and path.stat().st_size > 0 and not folder.is_dump(path)


def _refuse_half(progress: dict[str, list[Progress]]) -> None:
    if progress:
        raise LedgerError(
            f"Executed in part: {', '.join(progress)}. A dump would hold the part, and a new "
            "database run the whole file on it. Nothing was written.",
            "Finish it first: invoke db.migrate-run",
        )


def _refuse_distributed(conn: Connection) -> None:
    there = ours.ask(conn, _CITUS)[0][0]
    found = [str(name) for (name,) in ours.ask(conn, _DISTRIBUTED)] if there else []
    if found:
        raise LedgerError(
            f"Tables here are distributed by Citus, which pg_dump does not see: "
            f"{', '.join(found[:_SHOWN])} ({len(found)}). Nothing was written.",
            "Set new databases up by the migrations: they hold the calls that distribute them.",
        )


# What pg_dump says


class _Dumped(NamedTuple):
    statements: list[bytes]
    left_out: list[LeftOut]


def _dumped(
    target: Target,
    conn: Connection,
    book: place.Ledger,
    tables: Sequence[rows.Table],
    *,
    role: str,
    privileges: bool,
) -> _Dumped:
    """Return the statements of the schema, with the tables' rows among them."""
    without = [f"--exclude-table={name}" for name in ledger.relations(conn, book)]
    sections = ["pre-data", "post-data"] if tables else [""]
    statements: list[bytes] = []
    rights: dict[str, None] = {}
    views: dict[str, None] = {}
    for section in sections:
        which = f"--section={section}" if section else "--schema-only"
        text = pg_dump.run(target, conn, which, *without, state="Nothing was written.", role=role)
        for said in pg_dump.statements(text):
            if not said.name and section == "post-data":  # the settings, which the first one has
                continue
            if said.found.kind in _RIGHTS:
                rights[_shown(said.name)] = None
                if not privileges:
                    continue
            if said.found.kind == "CREATE MATERIALIZED VIEW":
                views[_shown(said.name)] = None
            statements.append(said.commented)
        if section == "pre-data":
            statements += _rows(conn, tables, role)
    return _Dumped(statements, list(_not_dumped(list(rights), list(views), privileges=privileges)))


def _rows(conn: Connection, tables: Sequence[rows.Table], role: str) -> list[bytes]:
    if not pg_dump.needs(conn, role):
        return rows.copied(conn, tables)
    conn.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(role)).as_bytes(None))
    made = rows.copied(conn, tables)
    conn.execute(b"RESET ROLE")  # or pg_dump would not be told to become it
    return made


def _not_dumped(rights: list[str], views: list[str], *, privileges: bool) -> Iterator[LeftOut]:
    if rights and not privileges:
        yield LeftOut("privileges", rights, " (--privileges puts them in)")
    if views:
        yield LeftOut("the rows of materialized views", views, " (REFRESH)")


def _shown(name: bytes) -> str:
    parts = _NAME.match(name.decode(errors="replace"))
    if not parts:
        return name.decode(errors="replace")
    return parts[1] if parts[2] in ("-", "public") else f"{parts[1]} in {parts[2]}"


# What is executed, and not in it

# What executed files do -> how it is said, and what would put it in.
_SAID = {
    effects.ROWS: ("what executed files do to rows", " (--data TABLE puts a table's rows in)"),
    effects.SEQUENCES: ("how executed files set sequences", " (--data TABLE sets a table's)"),
    effects.OWNERS: ("owners that executed files give", ""),
    effects.RIGHTS: ("rights that executed files give on a database or role, or take", ""),
    effects.SETTINGS: ("settings that executed files make for a database, role or server", ""),
    effects.OUTSIDE: ("what executed files do outside of the schema, such as to roles", ""),
    effects.MAY: (
        "what executed files do by functions that they call or SQL that they compose, if anything",
        "",
    ),
    "unread": ("what executed files do that are not understood", ""),
    "gone": ("what executed files that are gone from the folder did besides", ""),
}


def _not_in_schema(settings: Settings, executed: dict[str, Executed]) -> Iterator[LeftOut]:
    """Yield which executed files do, or may do, what is in no schema, by what it is."""
    does: dict[str, list[str]] = {what: [] for what in _SAID}
    for name in executed:
        path = settings.folder / name
        if name == SCHEMA:
            path = settings.schema
            with folder.readable(settings.shown(path)):
                if not path.is_file() or folder.is_dump(path):
                    continue
        for what in _does(path, settings.shown(path)):
            does[what].append(name)
    for what, (said, advice) in _SAID.items():
        if does[what]:
            yield LeftOut(said, does[what], advice)


def _does(path: Path, shown: str) -> Collection[str]:
    if not path.is_file():
        return ["gone"]
    with Script.open(path, shown) as script:
        try:
            return script.effects
        except ScriptError:  # another tool has executed it
            return ["unread"]


# The file


def _header(
    book: place.Ledger, major: int, tables: Sequence[rows.Table], left_out: Sequence[LeftOut]
) -> bytes:
    lines = ["-- A new database gets it: invoke db.migrate", f"{folder.SERVER}{major}"]
    if book.exists:
        lines.append(f"{folder.LEDGER}{book.schema}.{book.table}")
    if tables:
        lines.append(f"-- With the rows of: {', '.join(table.shown for table in tables)}")
    for each in left_out:
        lines.append(f"-- Not in it: {each.what} ({len(each.names)}):")
        lines += [f"--   {name}" for name in each.names]
    return folder.DUMPED + "\n".join(" ".join(line.splitlines()) for line in lines).encode()


def check_folder(settings: Settings, path: Path, usual: Path, another: str) -> None:
    """Raise `SettingsError` for a folder that is missing, but that of the `usual` file is made."""
    if path != usual and not path.parent.is_dir():
        message = f"There is no folder {settings.shown(path.parent)}. Nothing was written."
        raise SettingsError(message, f"Make it, or name another file: invoke {another}")


def replaced(path: Path, text: bytes, shown: str) -> bool:
    """Put the text in place of the file, whole or not at all; return whether it is another one."""
    try:
        before = path.read_bytes() if path.exists() else None
        if before == text:
            return False
        mode = path.stat().st_mode & 0o777 if before is not None else 0o644
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            new = Path(file.name)
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                new.chmod(mode)
                new.replace(path)
            except BaseException:
                new.unlink()
                raise
    except OSError as error:
        raise SettingsError(
            f"{shown} cannot be written: {error.strerror}. It is as it was.",
            f"See to the folder {path.parent}, then type the same command again.",
        ) from None
    return True

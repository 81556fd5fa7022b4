"""What is put into a disposable database: the target's schema, or what the files make."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import psycopg
from psycopg import sql

from ..engine import ledger
from ..engine.place import Ledger, make_schema, parted
from ..engine.runner import Run
from ..errors import MigrationsError, one_line
from ..events import Event
from ..files.plan import Goal
from ..server import ours, pg_dump
from ..server.connection import Target
from ..server.ours import Connection
from .database import Scratch

_LOCK_WAIT_S = 5
_NOTHING = "Nothing was executed on the target."
# psql's own lines around the statements, and settings that older servers do not have.
_HEAD = re.compile(rb"^(\\restrict .*|SET \w+_timeout = 0;)$", re.MULTILINE)
_TAIL = re.compile(rb"^\\unrestrict .*$", re.MULTILINE)
_HAS_PUBLIC = "SELECT pg_catalog.to_regnamespace('public') IS NOT NULL"
_FIRST = b"\n-- Name: "
_ROWS = "COPY {} ({}) TO STDOUT"
_FILLED = "COPY {} ({}) FROM STDIN"


def copy(
    target: Target, conn: Connection, book: Ledger, scratch: Scratch, *, role: str = ""
) -> None:
    """Copy the target's schema and the rows of its ledger. Nothing else of it is read.

    `conn` is in a transaction of the target, whose state is copied. In a cluster of its own owners
    and privileges are copied too; elsewhere their roles may not be there. `role` is that of the
    files. Raise `MigrationsError` if pg_dump fails, or what it says cannot be loaded.
    """
    text = _dumped(target, conn, book, scratch, role)
    with scratch.target.once("invoke db scratch") as there:
        try:
            there.execute(text)
        except psycopg.Error as error:
            said = one_line(error.diag.message_primary or str(error))
            raise MigrationsError(
                f"The target's schema cannot be loaded into {scratch.shown}: {said}",
                _NOTHING,
            ) from None
        if book.exists:
            _copy_rows(conn, there, book)


def _dumped(target: Target, conn: Connection, book: Ledger, scratch: Scratch, role: str) -> bytes:
    """Return the statements of the schema, all as one connection without psql takes them."""
    (has_public,) = ours.ask(conn, _HAS_PUBLIC)[0]
    first = b"" if has_public else b"DROP SCHEMA public;\n"  # which a new database has
    if not (book.exists and pg_dump.needs(conn, role)):
        return first + _said(target, conn, scratch)
    names = ledger.relations(conn, book)  # the login's own, which the role need not read
    theirs = _said(target, conn, scratch, *(f"--exclude-table={n}" for n in names), role=role)
    return first + theirs + _said(target, conn, scratch, *(f"--table={n}" for n in names))


def _said(target: Target, conn: Connection, scratch: Scratch, *which: str, role: str = "") -> bytes:
    privileges = [] if scratch.own else ["--no-privileges"]
    text = pg_dump.run(
        target,
        conn,
        *("--schema-only", "--no-tablespaces", *privileges, *which),
        state=_NOTHING,
        role=role,
        owners=scratch.own,
        lock_wait_s=_LOCK_WAIT_S,
    )
    head, named, rest = text.partition(_FIRST)
    if not named:  # there is nothing in it
        return b""
    body, last, tail = rest.rpartition(b"\n--\n-- PostgreSQL database dump complete")
    return _HEAD.sub(b"", head) + named + body + last + _TAIL.sub(b"", tail)


def _copy_rows(conn: Connection, there: Connection, book: Ledger) -> None:
    names = [book.table, *([f"{book.table}_unfinished"] if book.unfinished else [])]
    for name in names:
        table = sql.Identifier(book.schema, name)
        with conn.cursor() as cursor:
            cursor.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(table))
            columns = [column.name for column in cursor.description or ()]
        listed = sql.SQL(", ").join(map(sql.Identifier, columns))
        out = sql.SQL(_ROWS).format(table, listed)
        back = sql.SQL(_FILLED).format(table, listed)
        with conn.cursor().copy(out) as rows, there.cursor().copy(back) as copied:
            for row in rows:
                copied.write(row)
    with ours.transaction(there):
        ledger.mend(there, book)


def replay(
    scratch: Scratch,
    show: Callable[[Event], None] = lambda _: None,
    *,
    schema: bool = True,
    among: Collection[str] | None = None,
) -> None:
    """Run the base `schema`, if the project has one, and the files, by the engine.

    `among`: of all pending files just these. Raise as `Run.events` does.
    """
    if parted(scratch.settings.ledger)[0]:
        with scratch.target.once("invoke db scratch") as conn:
            make_schema(conn, scratch.settings.ledger)
    chosen = None if among is None else frozenset(among)
    run = Run(scratch.target, scratch.settings, Goal("db.migrate", schema, among=chosen))
    for event in run.events():
        show(event)

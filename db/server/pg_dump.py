"""What pg_dump says of a database: its statements, without what differs from dump to dump."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import ConnectionFailed, MigrationsError, one_line
from ..sql.lexer import Statement
from ..sql.script import Script
from . import ours, pooler
from .connection import Target
from .ours import Connection
from .programs import program, reached

# Timeouts that the runner sets, or that older servers lack; and what needs an owner's rights.
_DROPPED = re.compile(
    rb"(?i)\\|SET \w+_timeout\b|COMMENT ON EXTENSION\b|(RE)?SET SESSION AUTHORIZATION\b"
    rb"|ALTER TABLE .* ALTER COLUMN .* SET \(pg_attver=\d+\)$"
)
# A number that 15.20 and its like keep with each column; other servers refuse it.
_COLUMN_VERSION = re.compile(rb", pg_attver=\d+(?=[,)])|(?<=\()pg_attver=\d+, ")
_NAMED = re.compile(rb"^-- Name: .*", re.MULTILINE)

# A role or a database may have others of these, by which pg_dump would write the same otherwise.
_OPTIONS = {"standard_conforming_strings": "on", "quote_all_identifiers": "off"}
_OTHERS = """
SELECT name FROM (VALUES (%s, %s), (%s, %s)) AS plain (name, value)
WHERE pg_catalog.current_setting(name) OPERATOR(pg_catalog.<>) value"""
_NOT_INHERITED = """
SELECT r.oid FROM pg_catalog.pg_roles AS r
WHERE r.rolname OPERATOR(pg_catalog.=) %s AND pg_catalog.pg_has_role(r.oid, 'MEMBER')
  AND NOT pg_catalog.pg_has_role(r.oid, 'USAGE')"""


class Said(NamedTuple):
    """A statement of a dump. `name` is pg_dump's own comment on the object that it belongs to."""

    found: Statement
    sql: bytes  # with its semicolon
    name: bytes
    named_here: bool  # it is the first statement of that object

    @property
    def commented(self) -> bytes:
        """Return the statement with that comment above it, where pg_dump has written it."""
        return (b"--\n%b\n--\n\n" % self.name if self.named_here else b"") + self.sql


def run(
    target: Target,
    conn: Connection,
    *arguments: str,
    state: str,
    role: str = "",
    owners: bool = False,
    lock_wait_s: int = 30,
) -> bytes:
    """Return what pg_dump writes about the schema, as the transaction of the target sees it.

    `conn` is in that transaction. Raise `MigrationsError` if pg_dump fails, or waits for a lock for
    longer than that, and `ConnectionFailed` if it would go through a pooler; `state` is what became
    of the command then. `role`: whose the tables are, if the login needs it to read them.
    """
    if pooler.is_between(conn):  # pg_dump sets its session up before its transaction begins
        raise ConnectionFailed(
            f"A pooler is between here and {target.shown}. In a session of its pool, pg_dump would "
            "leave an empty search_path to whoever gets that next.",
            f"{state} Connect to the server itself for this: DATABASE_URL, with another port.",
        )
    row = conn.execute("SELECT pg_catalog.pg_export_snapshot()").fetchone()
    assert row is not None
    place, env = reached(_as_written_anywhere(target, conn))
    command = [program("pg_dump", conn.info.server_version // 10000), *place]
    command += [f"--lock-wait-timeout={lock_wait_s}s", f"--snapshot={row[0]}", "--encoding=UTF8"]
    command += [f"--role={role}"] if needs(conn, role) else []
    command += [*([] if owners else ["--no-owner"]), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    if done.returncode:
        said = one_line(done.stderr.decode(errors="replace"))
        raise MigrationsError(f"pg_dump failed: {said}", state)
    return done.stdout


def needs(conn: Connection, role: str) -> bool:
    """Return whether the login has the rights of this role only where it becomes the role.

    Otherwise it does not become it: it may read more than the role does.
    """
    return bool(role and ours.ask(conn, _NOT_INHERITED, [role]))


def statements(text: bytes) -> Iterator[Said]:
    """Yield the statements of a dump, each with its comment."""
    script, at, name = Script(text, "the dump"), 0, b""
    for found in script.statements():
        sql, gap = script.sql(found), text[at : found.start]
        at = found.end if sql[:1] == b"\\" else text.index(b";", found.end) + 1
        names = _NAMED.findall(gap)
        name = names[-1] if names else name
        if _DROPPED.match(sql):
            continue
        if b"pg_attver=" in sql and sql.startswith(b"ALTER TABLE"):
            sql = _COLUMN_VERSION.sub(b"", sql)
        sql = re.sub(rb"^CREATE SCHEMA (?!IF\b)", b"CREATE SCHEMA IF NOT EXISTS ", sql)
        yield Said(found, sql + b";", name, bool(names))


def _as_written_anywhere(target: Target, conn: Connection) -> Target:
    """Return the target with settings by which the same schema is written in the same bytes."""
    others = ours.ask(conn, _OTHERS, [word for pair in _OPTIONS.items() for word in pair])
    if not others:  # as almost always; a pooler may refuse options
        return target
    given = target.parameters.get("options") or os.environ.get("PGOPTIONS", "")
    options = [given, *(f"-c {name}={_OPTIONS[name]}" for (name,) in others)]
    return Target({**target.parameters, "options": " ".join(options)}, target.timeout_s)

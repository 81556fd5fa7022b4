"""A project's files on a disposable database, as whom and under what they ran on the target."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg import sql

from ..errors import MigrationsError, SettingsError, StatementFailed
from ..events import Event
from ..server import ours
from ..server.connection import Target
from . import fill
from .database import Scratch

_UNDEFINED, _DUPLICATE = "42704", "42710"
_NOT_AVAILABLE = {"0A000", "58P01"}
_ROLE = re.compile(r'role "(.*)" does not exist', re.DOTALL)
_ROLE_THERE = re.compile(r'role "(.*)" already exists', re.DOTALL)
_SETS = re.compile(rb"(?is)\balter\s+(?:database|role|user)\b[^;]*?\bset\s+\"?([\w.]+)")
_OTHERS = """
SELECT rolname FROM pg_catalog.pg_roles
WHERE rolname OPERATOR(pg_catalog.!~) '^pg_' AND oid OPERATOR(pg_catalog.<>) 10
  AND rolname OPERATOR(pg_catalog.<>) session_user"""
_APPLICATION = "invoke db scratch"


def prepared(scratch: Scratch, role: str) -> Scratch:
    """Return the disposable database as the files' own: they run in it as `role`, if that is said.

    A cluster of its own keeps only the roles that run files. Other roles are made by the files, or
    when they are missed.
    """
    if not scratch.own:
        return scratch
    with scratch.target.once(_APPLICATION) as conn:
        for (name,) in ours.ask(conn, _OTHERS):
            if name != role:
                conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(str(name))))
        if role:
            with suppress(psycopg.errors.DuplicateObject):
                conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            # It may need what an administrator has once given it on the target.
            conn.execute(sql.SQL("ALTER ROLE {} SUPERUSER").format(sql.Identifier(role)))
    return scratch._replace(settings=scratch.settings._replace(role=role))


def run(scratch: Scratch, *, schema: bool = True, among: Collection[str] | None = None) -> None:
    """Run the base `schema`, if the project has one, and the files, all or those `among`.

    Raise `StatementFailed`, which says that it was a replay, or `SettingsError` for an extension
    that the server lacks; else as `fill.replay` does.
    """
    try:
        with_roles(scratch, schema=schema, among=among)
    except StatementFailed as failed:
        raise _explained(failed, scratch) from None


def with_roles(
    scratch: Scratch,
    show: Callable[[Event], None] = lambda _: None,
    *,
    schema: bool = True,
    among: Collection[str] | None = None,
) -> None:
    """Replay as `fill.replay` does; on a server of its own a role that is missing is made."""
    made: set[str] = set()
    while True:
        try:
            fill.replay(scratch, show, schema=schema, among=among)
            return
        except StatementFailed as failed:
            missing = _missing(failed) if scratch.own else ""
            if not missing or missing in made:
                raise
        _create(scratch.target, missing)  # what had run, stands: the next run goes on behind it
        made.add(missing)


def sets(paths: Iterable[Path]) -> set[str]:
    """Return the settings that files give to a database or a role."""
    found: set[str] = set()
    for path in paths:
        with suppress(OSError):  # it is read again before it runs
            found |= {name.decode().lower() for name in _SETS.findall(path.read_bytes())}
    return found


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def _missing(failed: StatementFailed) -> str:
    found = _ROLE.search(failed.diagnostic.message)
    return found[1] if found and failed.diagnostic.sqlstate == _UNDEFINED else ""


def role_in_the_way(failed: StatementFailed) -> str:
    """Return the role that a file was to make, and that is there already."""
    found = _ROLE_THERE.search(failed.diagnostic.message)
    return found[1] if found and failed.diagnostic.sqlstate == _DUPLICATE else ""


def _create(target: Target, role: str) -> None:
    with target.once(_APPLICATION) as conn, suppress(psycopg.errors.DuplicateObject):
        conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))


def _explained(failed: StatementFailed, scratch: Scratch) -> MigrationsError:
    """Return the error of a file that does not run on a new database."""
    said = failed.diagnostic
    outcome = f"This was a replay on {scratch.shown}: nothing was executed elsewhere."
    if said.sqlstate in _NOT_AVAILABLE and "extension" in said.message:
        return SettingsError(
            f"{scratch.shown} lacks what {failed.filename} needs: {said.message}.",
            outcome,
            "Install the extension for that server, or name one that has it:",
            "  MIGRATIONS_SCRATCH=postgresql://user:password@host:5432/postgres",
            location=failed.location,
            excerpt=failed.excerpt,
        )
    if not scratch.own and (role_in_the_way(failed) or "create role" in said.message):
        advice = [
            "Roles belong to the whole server. Let MIGRATIONS_SCRATCH name one that lacks them, by",
            "a role that may make them; without it, a server of its own is used, if this machine",
            f"has the programs of PostgreSQL {scratch.major}.",
        ]
    elif _missing(failed):
        advice = [f"Make the role on that server: CREATE ROLE {_quoted(_missing(failed))} NOLOGIN;"]
    else:
        advice = [
            "A replay begins with an empty database, without the rows and objects that no file",
            "makes; where a file needs them, a new database cannot be set up by the files either.",
            "Let an earlier file make them, or this one do without where they are missing.",
        ]
    return StatementFailed(
        said,
        *advice,
        filename=failed.filename,
        outcome=outcome,
        notices=failed.notices,
        location=failed.location,
        excerpt=failed.excerpt,
    )

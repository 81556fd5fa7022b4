"""A template: a database with the schema, every migration and the seeds in it, made once.

Its name says what is in it, so a change of a file is another template. It is built under another
name, and gets its own when it is complete: a killed process leaves nothing that looks like one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import sql

from ..errors import ConnectionFailed, SettingsError, StatementFailed, one_line
from ..events import Event
from ..files import folder
from ..server import databases, ours
from ..server.databases import ours_named, unlock
from ..server.ours import Connection
from ..settings import Settings
from .server import Place

if TYPE_CHECKING:
    from ..scratch.database import Scratch

TEMPLATE = "migrations_template_"
NEW = "_new"
_KEPT_FOR = timedelta(days=7)

_IS_READY = """
SELECT 1 FROM pg_catalog.pg_database AS d
JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) d.datdba
WHERE d.datname OPERATOR(pg_catalog.=) %s AND d.datistemplate AND NOT d.datallowconn
  AND r.rolname OPERATOR(pg_catalog.=) current_user"""
_LOCK = "SELECT pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended(%s, 0))"
_SHARE = "SELECT pg_catalog.pg_advisory_lock_shared(pg_catalog.hashtextextended(%s, 0))"
_UNSHARE = "SELECT pg_catalog.pg_advisory_unlock_shared(pg_catalog.hashtextextended(%s, 0))"
_END = """
SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity AS a
WHERE a.datname OPERATOR(pg_catalog.=) %s"""
_HAVE_ROLE = """
SELECT DISTINCT d.datname::pg_catalog.text FROM pg_catalog.pg_shdepend AS s
JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.dbid
JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) s.refobjid
WHERE s.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_authid'::pg_catalog.regclass
  AND r.rolname OPERATOR(pg_catalog.=) %s"""
_ROLES = (
    "Roles are the whole server's, and other databases there have this one. Let the file look "
    "whether it is there, as a server with several databases needs it in any case."
)
# What is typed to go on: db.migrate would go to another database.
_AGAIN = ("hen: invoke db.migrate", "hen: run the tests again")

Seed = Callable[["psycopg.Connection[Any]"], object]


class Recipe(NamedTuple):
    """What a template is made of. `seeds` put rows in; `sources` are the files that say which."""

    settings: Settings
    seeds: tuple[Seed, ...] = ()
    sources: tuple[Path, ...] = ()

    def digest(self, major: int, user: str) -> str:
        """Return what is another one for another content. Raise `FilesError`, `SettingsError`."""
        from importlib.metadata import version

        settings = self.settings
        files = list(folder.discover(settings.folder, settings.shown(settings.folder)))
        if settings.schema_named or settings.schema.exists():
            files.append(folder.load(settings.schema, settings.shown(settings.schema)))
        parts = [version("invoke-pg-migrations"), str(major), user, settings.ledger]
        for file in files:
            parts += [file.shown, file.checksum]
        for path in self.sources:
            try:
                parts += [path.name, hashlib.sha256(path.read_bytes()).hexdigest()]
            except OSError as error:
                shown = settings.shown(path)
                raise SettingsError(f"{shown} cannot be read: {error.strerror}.") from None
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def made(conn: Connection, place: Place, recipe: Recipe, show: Callable[[Event], None]) -> str:
    """Return the name of the recipe's template; make it if no process has done so before.

    Nobody removes it as long as this connection lasts.
    `show` is given the events of the run. Raise an error of the files or of the run if it cannot be
    made, and whatever a seed raises; nothing of it is left then.
    """
    name = TEMPLATE + recipe.digest(conn.info.server_version // 10000, conn.info.user)
    ours.ask(conn, _SHARE, [name])
    if not ours.ask(conn, _IS_READY, [name]):
        ours.ask(conn, _UNSHARE, [name])
        with locked(conn, name):
            if not ours.ask(conn, _IS_READY, [name]):
                try:
                    _make(conn, place, recipe, name, show)
                except BaseException:
                    drop(conn, name + NEW)
                    raise
            ours.ask(conn, _SHARE, [name])
    _note_use(conn, name)
    return name


def _make(
    conn: Connection, place: Place, recipe: Recipe, name: str, show: Callable[[Event], None]
) -> None:
    from ..scratch.database import Scratch  # not before: most runs find the template made

    new = name + NEW
    drop(conn, new)
    create(conn, new, "template0", place)
    target = place.database(new)
    settings = recipe.settings._replace(parameters=target.parameters, embedded=None, role="")
    major = conn.info.server_version // 10000
    _fill(conn, Scratch(place.target, target, settings, target.place, major, place.own), show)
    for seed in recipe.seeds:
        with psycopg.connect(place.url(new, secret=True)) as connection:
            seed(connection)
    conn.execute(f'ALTER DATABASE "{new}" IS_TEMPLATE true ALLOW_CONNECTIONS false'.encode())
    rename(conn, new, name)


def _fill(conn: Connection, scratch: Scratch, show: Callable[[Event], None]) -> None:
    """Run the files; where a role that they make is there from an earlier template, that goes."""
    from ..scratch import files

    freed = set[str]()
    while True:
        try:
            files.with_roles(scratch, show)
            return
        except StatementFailed as failed:
            failed.advice = tuple(each.replace(*_AGAIN) for each in failed.advice)
            role = files.role_in_the_way(failed)
            if not role:
                raise
            if not scratch.own or role in freed or not without_role(conn, role):
                failed.advice = (_ROLES, *failed.advice)
                raise
            freed.add(role)


def without_role(conn: Connection, role: str) -> bool:
    """Drop a role that earlier templates have, and them; return False if somebody uses one."""
    if not all(remove(conn, str(name)) for (name,) in ours.ask(conn, _HAVE_ROLE, [role])):
        return False
    try:
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    except psycopg.Error:
        return False
    return True


def create(conn: Connection, name: str, template: str, place: Place) -> None:
    """Make a database. Copying files is the cheaper way only where nothing is flushed.

    https://www.postgresql.org/docs/current/sql-createdatabase.html
    """
    copied = place.own and conn.info.server_version >= 150000
    strategy = " STRATEGY FILE_COPY" if copied else ""
    conn.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"{strategy}'.encode())


def rename(conn: Connection, name: str, to: str) -> None:
    """Give a database another name; who is connected to it is sent away."""
    ours.ask(conn, _END, [name])
    conn.execute(f'ALTER DATABASE "{name}" RENAME TO "{to}"'.encode())


def drop(conn: Connection, name: str) -> None:
    """Remove a database or a template, whoever is connected to it."""
    if name.startswith(TEMPLATE) and ours.ask(conn, _IS_READY, [name]):
        conn.execute(f'ALTER DATABASE "{name}" IS_TEMPLATE false'.encode())
    databases.drop(conn, name)


def remove(conn: Connection, name: str) -> bool:
    """Remove a template, or what a killed process has made of it; False if somebody uses it."""
    wanted = name.removesuffix(NEW)
    if not name.startswith(TEMPLATE) or not databases.lock(conn, wanted):
        return False
    try:
        drop(conn, name)
    finally:
        unlock(conn, wanted)
    return True


@contextmanager
def locked(conn: Connection, name: str) -> Iterator[None]:
    """Hold the server's lock of that name, which ends with this connection."""
    ours.ask(conn, _LOCK, [name])
    try:
        yield
    finally:
        unlock(conn, name)


def note_day(conn: Connection, name: str) -> None:
    """Write into a database's comment that it is wanted today."""
    conn.execute(f"COMMENT ON DATABASE \"{name}\" IS 'used {_today()}'".encode())


def is_old(comment: str) -> bool:
    """Return whether a database was last used more than a week ago, by its comment."""
    try:
        day = datetime.strptime(comment, "used %Y-%m-%d").replace(tzinfo=timezone.utc)
    except ValueError:
        return False
    return datetime.now(timezone.utc) - day > _KEPT_FOR


def _note_use(conn: Connection, name: str) -> None:
    if (name, f"used {_today()}") in ours_named(conn, name):
        return
    try:
        note_day(conn, name)
    except psycopg.Error as error:  # two processes at once: the other has written the same
        if error.sqlstate != "XX000":
            said = one_line(error.diag.message_primary or str(error))
            raise ConnectionFailed(f"The template {name} cannot be used: {said}") from None


def _today() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%d}"

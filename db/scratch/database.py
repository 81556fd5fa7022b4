"""A database for one use, on a server where nobody minds, with the session that the target gives.

Where: the server that MIGRATIONS_SCRATCH names; else a cluster of its own, from the PostgreSQL of
the target's major version that is on this machine; else the target's own server, if that is on
this machine as well. A shared server is never used without being named.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

import psycopg
from psycopg import sql

from ..errors import ConnectionFailed, MigrationsError, SettingsError, one_line
from ..server import databases, ours, pooler
from ..server.connection import Target
from ..server.local import is_local
from ..server.ours import Connection
from ..settings import Settings
from . import roles

PREFIX = "migrations_scratch_"
SPARE = "postgres"  # in a cluster of its own it is not needed
_APPLICATION = "invoke db scratch"
_ADVICE = "Name another server: MIGRATIONS_SCRATCH=postgresql://user:password@host:5432/postgres"

_LIKE = """
SELECT session_user, pg_catalog.current_database(), pg_catalog.pg_encoding_to_char(d.encoding),
       d.datcollate, d.datctype, pg_catalog.to_jsonb(d) OPERATOR(pg_catalog.->>) 'datlocprovider',
       coalesce(pg_catalog.to_jsonb(d) OPERATOR(pg_catalog.->>) 'datlocale',
                pg_catalog.to_jsonb(d) OPERATOR(pg_catalog.->>) 'daticulocale'),
       ARRAY(SELECT r.rolname::pg_catalog.text FROM pg_catalog.pg_roles AS r
             WHERE r.rolname OPERATOR(pg_catalog.!~) '^pg_' ORDER BY 1),
       ARRAY(SELECT e.extname::pg_catalog.text FROM pg_catalog.pg_extension AS e ORDER BY 1),
       ARRAY(SELECT setting FROM pg_catalog.pg_db_role_setting AS s,
                    pg_catalog.unnest(s.setconfig) AS setting
             WHERE s.setdatabase OPERATOR(pg_catalog.=) ANY (ARRAY[0, d.oid])
               AND s.setrole OPERATOR(pg_catalog.=) ANY (ARRAY[0, (
                   SELECT r.oid FROM pg_catalog.pg_roles AS r
                   WHERE r.rolname OPERATOR(pg_catalog.=) session_user)])
             ORDER BY s.setrole OPERATOR(pg_catalog.<>) 0, s.setdatabase OPERATOR(pg_catalog.<>) 0)
FROM pg_catalog.pg_database AS d
WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"""
_LACKS = """
SELECT wanted FROM pg_catalog.unnest(%s::pg_catalog.text[]) AS wanted
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_available_extensions AS a
                  WHERE a.name OPERATOR(pg_catalog.=) wanted)"""
# Settings of a session that would only be in the way: nothing of the target's is there to load, to
# protect, or to wait for.
_NOT_THERE = re.compile(
    r"(?i)timeout$|_preload_libraries$|tablespace|^log_|^lc_messages$"
    r"|^default_transaction_read_only$"
)


class Scratch(NamedTuple):
    """A disposable database. `own`: so is its server, and the target's roles are there."""

    server: Target  # where databases of that server are made
    target: Target
    settings: Settings
    shown: str
    major: int
    own: bool

    def __repr__(self) -> str:
        return f"Scratch({self.shown!r})"


class _Like(NamedTuple):
    """What of the target's database decides what a session there is."""

    user: str
    database: str
    encoding: str
    collate: str
    ctype: str
    provider: str | None
    locale: str | None
    roles: list[str]
    extensions: list[str]
    settings: list[str]

    @property
    def kind(self) -> tuple[str | None, ...]:
        """Return what cannot be changed once it is made."""
        return (self.encoding, self.collate, self.ctype, self.provider, self.locale)


class _Place(NamedTuple):
    """A server for it: where to connect to make the database."""

    target: Target
    shown: str
    own: bool


@contextmanager
def database(
    settings: Settings,
    like: Connection | None = None,
    *,
    major: int = 0,
    unset: Collection[str] = (),
) -> Iterator[Scratch]:
    """Make an empty database and drop it at the end.

    `like` is the target's connection: the database is of the same major version, locale and
    settings (but those that are to stay `unset`), and a cluster of its own has its name and its
    roles. Without it, it is of that `major` version, or of the newest that is here. On a server of
    others, roles that the files make are dropped at the end as well. What a killed process has left
    is removed by the next. Raise `SettingsError` if no server is there for it that can hold it.
    """
    model = _Like(*ours.ask(like, _LIKE)[0]) if like else None
    wanted = like.info.server_version // 10000 if like else major
    with ExitStack() as stack:
        try:
            place, conn = _opened(stack, settings, like, model, wanted)
            name = PREFIX + secrets.token_hex(6)
            if place.own and model and not model.database.startswith("template"):
                name = model.database
            if not place.own:
                _remove_left(conn)
                stack.callback(roles.remove, conn, roles.names(conn), settings)
                stack.callback(_drop, conn, name)
            _create(conn, name, model, own=place.own)
            user = _prepared(conn, name, model, place, unset)
        except psycopg.Error as error:
            said = one_line(error.diag.message_primary or str(error))
            raise ConnectionFailed(
                f"No disposable database could be made: {said}", _ADVICE
            ) from None
        there = {**place.target.parameters, "dbname": name, "user": user}
        if "options" in settings.parameters:
            there["options"] = settings.parameters["options"]
        chosen = settings._replace(parameters=there, embedded=None, role="", scratch={})
        target = Target(there, settings.connect_timeout_s)
        major, minor = divmod(conn.info.server_version, 10000)
        shown = place.shown.replace("PostgreSQL", f"PostgreSQL {major}.{minor}", 1)
        yield Scratch(place.target, target, chosen, shown, major, place.own)


@contextmanager
def another(scratch: Scratch) -> Iterator[Target]:
    """Make one more empty database of that locale on the same server, and drop it at the end.

    Raise psycopg's errors.
    """
    with scratch.target.once(_APPLICATION) as there:
        model = _Like(*ours.ask(there, _LIKE)[0])
    name = PREFIX + secrets.token_hex(6)
    with scratch.server.once(_APPLICATION) as conn:
        _make(conn, name, model, own=scratch.own)
        try:
            yield Target({**scratch.target.parameters, "dbname": name}, scratch.target.timeout_s)
        finally:
            if not scratch.own:  # with a cluster of its own goes whatever is in it
                _drop(conn, name)


# Where


def _opened(
    stack: ExitStack, settings: Settings, like: Connection | None, model: _Like | None, wanted: int
) -> tuple[_Place, Connection]:
    """Return the first place that has all the extensions, and a connection to it."""
    refused: MigrationsError | None = None
    for places in (_named, _cluster, _beside):
        with ExitStack() as tried:
            try:
                place = places(tried, settings, like, wanted)
                if place is None:
                    continue
                conn = tried.enter_context(_connected(place))
                _check(conn, place, model, wanted)
            except SettingsError as error:
                if settings.scratch:
                    raise
                refused = refused or error
                continue
            stack.push(tried.pop_all())
            return place, conn
    assert refused is not None
    raise refused


def _named(_: ExitStack, settings: Settings, __: Connection | None, ___: int) -> _Place | None:
    """Return the server that MIGRATIONS_SCRATCH names."""
    if not settings.scratch:
        return None
    there = Target({"dbname": "postgres", **settings.scratch}, settings.connect_timeout_s)
    return _Place(there, f"PostgreSQL on {there.place}", own=False)


def _cluster(
    stack: ExitStack, settings: Settings, _: Connection | None, wanted: int
) -> _Place | None:
    """Return a cluster of its own, of the wanted major version or the newest here."""
    from . import clusters

    programs = clusters.installed(wanted)
    server = stack.enter_context(clusters.running(programs))
    there = {"host": server.host, "port": str(server.port), "user": server.user}
    target = Target({**there, "dbname": "template1"}, settings.connect_timeout_s)
    kind = "embedded" if clusters.is_of_the_wheel(programs) else "disposable"
    return _Place(target, f"{kind} PostgreSQL", own=True)


def _beside(_: ExitStack, settings: Settings, like: Connection | None, __: int) -> _Place | None:
    """Return the target's own server, if it is shown to be on this machine."""
    if like is None or not is_local(like):
        return None
    there = {**like.info.get_parameters(), "password": like.info.password}
    target = Target({k: v for k, v in there.items() if v}, settings.connect_timeout_s)
    return _Place(target, f"PostgreSQL on {target.place}, the target's own server", own=False)


@contextmanager
def _connected(place: _Place) -> Iterator[Connection]:
    said = ""
    try:
        conn = place.target.once(_APPLICATION)
    except psycopg.OperationalError as error:
        said = one_line(str(error).removeprefix("connection failed: "))
    if said:  # raised out here: libpq's own error, which may quote the password, is no __context__
        raise SettingsError(
            f"Cannot connect to {place.target.shown} for a disposable database: {said}", _ADVICE
        )
    with conn:
        yield conn


def _check(conn: Connection, place: _Place, model: _Like | None, wanted: int) -> None:
    """Raise `SettingsError` if the server cannot stand for the target's."""
    if pooler.is_between(conn):
        raise SettingsError(f"A pooler is between here and {place.shown}.", _ADVICE)
    major = conn.info.server_version // 10000
    if wanted and major != wanted:
        raise SettingsError(
            f"{place.shown} is of major version {major}, and this needs PostgreSQL {wanted}.",
            _ADVICE,
        )
    lacks = [str(name) for (name,) in ours.ask(conn, _LACKS, [model.extensions])] if model else []
    if lacks:
        raise SettingsError(
            f"{place.shown} {major} lacks what the target uses: extension {', '.join(lacks)}.",
            f"Install it there. {_ADVICE}",
        )


# Make and drop


def _create(conn: Connection, name: str, model: _Like | None, *, own: bool) -> None:
    """Make the database, with the target's locale if that is known there."""
    quoted = sql.Identifier(name).as_string(None)
    if own and (model is None or _as_initdb_made_it(conn, model)):  # it is there already
        if name != SPARE:
            conn.execute(f"ALTER DATABASE {SPARE} RENAME TO {quoted}".encode())
        return
    if own and name == SPARE:
        conn.execute(f"DROP DATABASE {SPARE}".encode())
    _make(conn, name, model, own=own)


def _make(conn: Connection, name: str, model: _Like | None, *, own: bool) -> None:
    databases.lock(conn, name)
    create = f"CREATE DATABASE {sql.Identifier(name).as_string(None)} TEMPLATE template0"
    if own and conn.info.server_version >= 150000:  # without fsync the faster way
        create += " STRATEGY file_copy"
    if model is None:
        conn.execute(create.encode())
        return
    encoding = f" ENCODING {sql.Literal(model.encoding).as_string(conn)}"
    try:
        conn.execute(f"{create}{encoding}{_locale(conn, model)}".encode())
    except psycopg.Error:  # this machine, or this build of PostgreSQL, does not have that locale
        conn.execute(f"{create}{encoding} LC_COLLATE 'C' LC_CTYPE 'C'".encode())


def _as_initdb_made_it(conn: Connection, model: _Like) -> bool:
    return _Like(*ours.ask(conn, _LIKE)[0]).kind == model.kind


def _locale(conn: Connection, model: _Like) -> str:
    def quoted(text: str) -> str:
        return sql.Literal(text).as_string(conn)

    locale = f" LC_COLLATE {quoted(model.collate)} LC_CTYPE {quoted(model.ctype)}"
    if model.provider == "i" and model.locale:
        return f"{locale} LOCALE_PROVIDER icu ICU_LOCALE {quoted(model.locale)}"
    if model.provider == "b" and model.locale:
        return f"{locale} LOCALE_PROVIDER builtin BUILTIN_LOCALE {quoted(model.locale)}"
    return f"{locale} LOCALE_PROVIDER libc" if model.provider else locale


def _drop(conn: Connection, name: str) -> None:
    with suppress(psycopg.Error):  # the next one removes it
        databases.drop(conn, name)


def _remove_left(conn: Connection) -> None:
    """Drop what killed processes have left: nobody holds its lock."""
    for name, _ in databases.ours_named(conn, PREFIX):
        if databases.lock(conn, name):
            _drop(conn, name)


def _prepared(
    conn: Connection, name: str, model: _Like | None, place: _Place, unset: Collection[str]
) -> str:
    """Give the database what a session of the target has, and return who connects to it."""
    user = place.target.parameters.get("user", conn.info.user)
    if place.own and model:
        user = model.user
        names = [n for n in model.roles if n not in (place.target.parameters["user"], user)]
        made = [f"CREATE ROLE {sql.Identifier(n).as_string(None)}" for n in names]
        if user != place.target.parameters["user"]:
            made.append(f"CREATE ROLE {sql.Identifier(user).as_string(None)} SUPERUSER LOGIN")
        if made:
            conn.execute(";".join(made).encode())
        owned = f"ALTER DATABASE {{}} OWNER TO {sql.Identifier(user).as_string(None)}"
        conn.execute(owned.format(sql.Identifier(name).as_string(None)).encode())
    for setting in model.settings if model else ():
        key, _, value = setting.partition("=")
        if key not in unset and not _NOT_THERE.search(key):
            with suppress(psycopg.Error):  # of an extension, or not this role's to set
                _set(conn, user, name, key, value)
    return user


def _set(conn: Connection, user: str, database: str, key: str, value: str) -> None:
    """Set it for the role in the database. The value of a list is a list, not a string.

    So what a file sets for the database itself can be told from it.
    """
    alter = sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} ").format(
        sql.Identifier(user), sql.Identifier(database), sql.Identifier(*key.split("."))
    )
    if key != "search_path":
        conn.execute(alter + sql.SQL("TO {}").format(sql.Literal(value)))
        return
    ours.execute(conn, [("SELECT pg_catalog.set_config('search_path', %s, false)", [value])])
    conn.execute(alter + sql.SQL("FROM CURRENT"))
    conn.execute(b"RESET search_path")

"""Which targets there are: of a file, of a query, or a schema each in one database."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psycopg

from ..engine.place import parted
from ..errors import SettingsError, listed, one_line
from ..server import connection, ours
from ..server.connection import Target
from ..server.ours import Connection
from ..settings import Settings
from ..urls import may_tell

Of = Callable[[str], Settings]

_LINE = re.compile(r"(?:(?P<name>[^\s=:/]+)\s*=\s*)?(?P<url>postgres(?:ql)?://\S*)(?:\s+#.*)?")
_SCHEMAS = """
SELECT n.nspname FROM pg_catalog.pg_namespace AS n
WHERE n.nspname::pg_catalog.text OPERATOR(pg_catalog.~~) %s
  AND NOT pg_catalog.starts_with(n.nspname::pg_catalog.text, 'pg_')
  AND n.nspname OPERATOR(pg_catalog.<>) 'information_schema'
ORDER BY n.nspname"""
# Beside what tells one anywhere: a query may put a URL together from pieces.
_SECRET = re.compile("(?i)@|pass")
_DONE = {"executed", "nothing to do"}  # the states of a report that leave nothing to be done


def may_hold_password(text: str) -> bool:
    """Return whether a query, or what a server says of it, is not to be shown."""
    return may_tell(text) or bool(_SECRET.search(text))


class Member(NamedTuple):
    """One of many targets, by the name that a report has for it."""

    name: str
    target: Target
    settings: Settings


class _Found(NamedTuple):
    """A target before all names are known. `where`: in words, where it stands."""

    name: str
    settings: Settings
    where: str


def of_file(path: Path, of: Of) -> list[Member]:
    """Return the targets of a file: a URL a line, or name=URL; `#` begins a comment.

    Raise `SettingsError` with the number of a line that is not understood, and never its text.
    """
    found = []
    for number, text in enumerate(_read(path).splitlines(), 1):
        line = text.strip()
        if not line or line.startswith("#"):
            continue
        where = f"line {number} of {path}"
        match = _LINE.fullmatch(line)
        if match is None:
            raise SettingsError(
                f"{where} is neither a URL nor name=URL.",
                "Such as: acme=postgresql://deploy@db.example.com:5432/acme",
            )
        found.append(_Found(match["name"] or "", _settings(of, match["url"], where), where))
    return _members(found, str(path))


def of_urls(urls: Iterable[tuple[str, str]], of: Of) -> list[Member]:
    """Return the targets of (name or nothing, URL). Raise `SettingsError` as `of_file` does."""
    found = []
    for number, (name, url) in enumerate(urls, 1):
        where = f"target {name or number}"
        found.append(_Found(name, _settings(of, url, where), where))
    return _members(found, "the targets")


def of_query(
    query: str, conn: Connection, target: Target, settings: Settings, of: Of
) -> list[Member]:
    """Return the targets of the user's own query: a column, or two, of which one is the name.

    The other one is a URL, or the name of a database on the same server. The query runs in a
    read-only transaction, as psql would run it.
    """
    found = []
    for number, row in enumerate(_rows(query, conn), 1):
        where = f"row {number} of the query"
        if not _is_target(row):
            message = f"{where} is not a URL or a database's name, with or without a name before it"
            raise SettingsError(f"{message}.", "Such as: SELECT datname FROM pg_database")
        name, place = str(row[0]) if row[1:] else "", str(row[-1])
        if "://" in place:
            found.append(_Found(name, _settings(of, place, where), where))
        else:
            parameters = {**target.parameters, "dbname": place}
            here = settings._replace(parameters=parameters, embedded=None)
            found.append(_Found(name or place, here, where))
    return _members(found, "the query")


def _is_target(row: ours.Row) -> bool:
    """Return whether a row has one or two words, none of which would be shown with a password."""
    if len(row) not in (1, 2) or None in row or "" in row:
        return False
    *names, place = map(str, row)
    is_database = not ("@" in place or may_tell(place))
    return not any(map(may_tell, names)) and ("://" in place or is_database)


def of_schemas(pattern: str, conn: Connection, target: Target, settings: Settings) -> list[Member]:
    """Return the schemas of a database whose names are LIKE the pattern.

    Each has its own ledger, and is in front of the search_path that the role has there.
    """
    schema, table = parted(settings.ledger)
    if schema:
        raise SettingsError(
            f"MIGRATIONS_TABLE={settings.ledger} is one ledger, and each schema has its own.",
            f"Set MIGRATIONS_TABLE={table}",
        )
    names = [str(name) for (name,) in ours.ask(conn, _SCHEMAS, [pattern])]
    found = []
    for name in names:
        path = [other for other in conn.schemas if other != name]
        here = settings._replace(ledger=f"{name}.{table}", embedded=None)
        found.append(Member(name, target.of_schema(name, path), here))
    return _some(found, f"no schema is LIKE {pattern}")


def only(members: Sequence[Member], path: Path) -> list[Member]:
    """Return those that a file names: a name a line, or what --json has printed before.

    Of such a report, those count with which something is left to be done: it may be none.
    """
    known = {member.name: member for member in members}
    text = _read(path)
    wanted = dict.fromkeys(_names(text))
    strange = [name for name in wanted if name not in known]
    if strange:
        raise SettingsError(
            f"{path} names what is no target here: "
            f"{listed(['a URL' if may_tell(name) else name for name in strange])}.",
            "A name is what stands before the = of a target, or its database or schema.",
        )
    found = [known[name] for name in wanted]
    return found if any(_lines(text)) else _some(found, f"{path} names none")


def _names(text: str) -> Iterable[str]:
    for said in _lines(text):
        if said.get("state") not in _DONE:
            yield str(said.get("name"))
    for raw in text.splitlines():
        line = raw.strip()
        if line and not line.startswith(("#", "{")):
            yield line


def _lines(text: str) -> Iterable[dict[str, object]]:
    """Yield the lines of a report that are about a target."""
    for line in text.splitlines():
        if line.strip().startswith("{"):
            with suppress(ValueError):  # cut off: the report of a killed run
                said = json.loads(line)
                if said.get("event") in ("target", "standing"):
                    yield said


def _read(path: Path) -> str:
    shown = "The file of that name, a URL," if may_tell(str(path)) else path
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SettingsError(f"{shown} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 (byte {error.start}).") from None


def _settings(of: Of, url: str, where: str) -> Settings:
    try:
        settings = of(url)
        if settings.embedded is not None:
            raise SettingsError("an embedded server is none of many.")
        return settings
    except SettingsError as error:
        said = error.message.replace("DATABASE_URL", "the URL")  # as Settings.of calls it
        raise SettingsError(f"{where}: {said}", *error.advice) from None


def _rows(query: str, conn: Connection) -> list[ours.Row]:
    try:
        conn.execute("BEGIN READ ONLY")
        with conn.pipeline():  # which takes one statement: another could end the transaction
            cursor = conn.execute(query.encode())
        rows = list(cursor.fetchall()) if cursor.description else []
        conn.execute("ROLLBACK")
    except psycopg.Error as error:
        said = one_line(error.diag.message_primary or str(error))
        if may_hold_password(query + said):
            said = "what the server says of it is not shown, as it may hold a password"
        raise SettingsError(f"The query of the targets fails: {said} ({error.sqlstate})") from None
    return rows


def _members(found: Sequence[_Found], origin: str) -> list[Member]:
    """Return them with names: of those without one, the database's, or also where it is."""
    targets = [connection.outside(each.settings) for each in found]
    databases = [target.parameters.get("dbname", "") for target in targets]
    often = Counter(d for d, each in zip(databases, found, strict=True) if not each.name)
    members, seen = [], dict[str, str]()
    for each, target, database in zip(found, targets, databases, strict=True):
        name = each.name or (database if database and often[database] == 1 else target.shown)
        if name in seen:
            raise SettingsError(f"Two targets are named {name}: {seen[name]}, and {each.where}.")
        seen[name] = each.where
        members.append(Member(name, target, each.settings))
    return _some(members, f"{origin} names none")


def _some(members: list[Member], otherwise: str) -> list[Member]:
    if not members:
        raise SettingsError(f"There are no targets: {otherwise}.")
    return members

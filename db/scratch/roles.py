"""The roles of a server; and those that files make, where the server is used by others as well."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import psycopg
from psycopg import sql

from ..server import ours
from ..server.ours import Connection
from ..settings import Settings

_NAMES = """
SELECT rolname FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.!~) '^pg_'"""


def names(conn: Connection) -> set[str]:
    """Return the roles of a server."""
    return {str(name) for (name,) in ours.ask(conn, _NAMES)}


def remove(conn: Connection, before: Collection[str], settings: Settings) -> None:
    """Drop the roles that were not there `before` and that a file of the project names: no others'.

    What they had in a database is gone with it; one that has anything elsewhere stays.
    """
    with suppress(psycopg.Error):  # the server is away, or they are not this role's to drop
        for name in names(conn) - frozenset(before):
            if _is_named(name.encode(), settings):
                conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def _is_named(name: bytes, settings: Settings) -> bool:
    for path in (settings.schema, *settings.folder.glob("*.sql")):
        with suppress(OSError):
            if name in path.read_bytes():
                return True
    return False

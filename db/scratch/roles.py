"""The roles of a server; and those that files make, where the server is used by others as well."""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress

import psycopg
from psycopg import sql

from ..server import ours
from ..server.ours import Connection
from ..settings import Settings

_NAMES = """
SELECT rolname FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.!~) '^pg_'"""
_MAKES = re.compile(rb"(?i)\bcreate\s+(?:role|user|group)\b")


def names(conn: Connection) -> set[str]:
    """Return the roles of a server."""
    return {str(name) for (name,) in ours.ask(conn, _NAMES)}


def remove(conn: Connection, before: Collection[str], settings: Settings) -> None:
    """Drop the roles that were not there `before` and that a file of the project names: no others'.

    What they had in a database is gone with it; one that has anything elsewhere stays.
    """
    with suppress(psycopg.Error):  # the server is away
        for name in names(conn) - frozenset(before):
            if _is_named(name, settings):
                with suppress(psycopg.Error):  # not this role's to drop, or it has something
                    conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


def _is_named(name: str, settings: Settings) -> bool:
    """Return whether a file that makes roles has this word, in any case: it may not be quoted."""
    word = re.compile(rb"(?i)(?<![\w$\x80-\xff])%b(?![\w$\x80-\xff])" % re.escape(name.encode()))
    for path in (settings.schema, *settings.folder.glob("*.sql")):
        with suppress(OSError):
            text = path.read_bytes()
            if _MAKES.search(text) and word.search(text):
                return True
    return False

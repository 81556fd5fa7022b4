"""A dump, loaded and dumped once more: what two dumps of one schema have in common.

PostgreSQL does not always write an expression as it reads it: `status IN ('a', 'b')` comes back as
an array with a cast, and that one, loaded, with casts inside. Behind the second time it stays, and
whatever one server's release writes otherwise than another's is written by the same one.
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from ..errors import MigrationsError
from ..server import ours, pg_dump
from ..server.ours import Connection
from ..settings import Settings
from . import objects
from .beside import Schema
from .database import database

_ROLES = """
SELECT rolname FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.!~) '^pg_'"""


def roles(conn: Connection) -> set[str]:
    """Return the roles of a server."""
    return {str(name) for (name,) in ours.ask(conn, _ROLES)}


def dumped(
    schema: Schema, settings: Settings, like: Connection | None, wanted: Iterable[str]
) -> bytes | None:
    """Return the dump of a database that the schema was loaded into; None if it cannot be.

    `wanted`: the roles that it may mention, made in a cluster of its own.
    """
    with (
        database(settings, like, major=schema.major) as scratch,
        scratch.target.once("invoke db scratch") as conn,
    ):
        try:
            if scratch.own:
                for role in set(wanted) - roles(conn):
                    conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
            conn.execute(_loaded(schema))
            with ours.transaction(conn, ours.LOOKING):
                return objects.text(scratch.target, conn, None, state="")
        except (psycopg.Error, MigrationsError):
            return None


def _loaded(schema: Schema) -> bytes:
    first = b"" if schema.has_public else b"DROP SCHEMA public;"
    texts = [said.sql for said in pg_dump.statements(schema.dump) if not objects.is_right(said)]
    return b"\n".join([first, *texts])

"""A dump, loaded and dumped once more: what two dumps of one schema have in common.

PostgreSQL does not always write an expression as it reads it: `status IN ('a', 'b')` comes back as
an array with a cast, and that one, loaded, with casts inside. Behind the second time it stays, and
whatever one server's release writes otherwise than another's is written by the same one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg import sql

from ..errors import MigrationsError
from ..server import ours, pg_dump
from . import objects, roles
from .beside import Schema
from .database import Scratch, another

_APPLICATION = "invoke db scratch"


def dumped(
    schemas: Iterable[Schema], kinds: Collection[str], scratch: Scratch, wanted: Iterable[str]
) -> list[bytes | None]:
    """Return the dump of a database that each was loaded into; None if it cannot be.

    Of what no other object needs, it is what is of these `kinds`. They are made on the server of
    `scratch`. `wanted`: the roles that the schemas may mention, made there if it is a cluster of
    its own.
    """
    if scratch.own:
        with scratch.server.once(_APPLICATION) as conn:
            for role in set(wanted) - roles.names(conn):
                conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    with ThreadPoolExecutor() as both:
        return list(both.map(lambda schema: _dumped(schema, kinds, scratch), schemas))


def _dumped(schema: Schema, kinds: Collection[str], scratch: Scratch) -> bytes | None:
    try:
        with another(scratch) as target, target.once(_APPLICATION) as conn:
            conn.execute(_loaded(schema, kinds))
            with ours.transaction(conn, ours.LOOKING):
                return objects.text(target, conn, None, state="")
    except (psycopg.Error, MigrationsError):
        return None


def _loaded(schema: Schema, kinds: Collection[str]) -> bytes:
    first = b"" if schema.has_public else b"DROP SCHEMA public;"
    said = pg_dump.statements(schema.dump)
    return b"\n".join([first, *(s.sql for s in said if not objects.stands_apart(s, kinds))])

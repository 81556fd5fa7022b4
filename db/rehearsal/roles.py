"""Roles that files make: on a server that is shared they would be there for the next rehearsal."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

import psycopg
from psycopg import sql

from ..scratch.again import roles
from ..server.ours import Connection
from .measured import Did


def remove(conn: Connection, before: Collection[str], did: Collection[Did]) -> None:
    """Drop the roles that were not there `before` and that a statement has named: no others'."""
    for name in roles(conn) - frozenset(before):
        if any(name.encode() in each.text for each in did):
            role = sql.Identifier(name)
            with suppress(psycopg.Error):  # somebody else has begun to use it
                conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
                conn.execute(sql.SQL("DROP ROLE {}").format(role))

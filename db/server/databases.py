"""Databases of a server that we have made for a while: found, locked by who uses them, dropped.

Who uses one holds the server's lock of its name, or of a word in it, for as long as it is
connected. So what can be locked is a dead process's.
"""

from __future__ import annotations

from psycopg import sql

from . import ours
from .ours import Connection

_OURS = """
SELECT d.datname::pg_catalog.text, pg_catalog.shobj_description(d.oid, 'pg_database')
FROM pg_catalog.pg_database AS d
JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) d.datdba
WHERE pg_catalog.starts_with(d.datname::pg_catalog.text, %s)
  AND r.rolname OPERATOR(pg_catalog.=) current_user
ORDER BY d.oid"""
_TRY_LOCK = "SELECT pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended(%s, 0))"
_UNLOCK = "SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended(%s, 0))"


def ours_named(conn: Connection, prefix: str) -> list[tuple[str, str]]:
    """Return this role's databases whose name begins so, and their comments, the oldest first."""
    return [(name, comment or "") for name, comment in ours.ask(conn, _OURS, [prefix])]


def lock(conn: Connection, name: str) -> bool:
    """Take the lock of that name for as long as this connection lasts, unless it is taken."""
    return bool(ours.ask(conn, _TRY_LOCK, [name])[0][0])


def unlock(conn: Connection, name: str) -> None:
    """Give the lock of that name back."""
    ours.ask(conn, _UNLOCK, [name])


def drop(conn: Connection, name: str) -> None:
    """Drop a database, if it is there, whoever is connected to it. Raise psycopg's errors."""
    force = " WITH (FORCE)" if conn.info.server_version >= 130000 else ""
    quoted = sql.Identifier(name).as_string(None)
    conn.execute(f"DROP DATABASE IF EXISTS {quoted}{force}".encode())

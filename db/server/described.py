"""A connection -> what it leads to, and whether it can be written to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from ..errors import ConnectionFailed
from ..events import Connected
from . import ours
from .ours import Connection

# By these the server finds out within a minute that a client is gone, even if its machine is: its
# locks would otherwise stay for the two hours of TCP's default.
VANISHED = {
    "client_connection_check_interval": "5000",  # milliseconds
    "tcp_keepalives_idle": "10",  # seconds
    "tcp_keepalives_interval": "5",
    "tcp_user_timeout": "30000",
}
# Settings that some engines lack: they are done without there.
CITUS = "citus.propagate_set_commands"
_OPTIONAL = ["lock_timeout", "synchronous_commit", CITUS, *VANISHED]
# What is changed on another server stays there, whatever a crash of this one takes along: by a
# foreign data wrapper, by Citus and dblink, and by a language that can open a connection.
REACHES_OUT = """
EXISTS (SELECT FROM pg_catalog.pg_foreign_data_wrapper)
OR EXISTS (SELECT FROM pg_catalog.pg_extension
           WHERE extname OPERATOR(pg_catalog.=) ANY ('{citus,dblink}'::pg_catalog.name[]))
OR EXISTS (SELECT FROM pg_catalog.pg_language WHERE lanispl AND NOT lanpltrusted)"""
_IS_WORKER = """
SELECT g.groupid OPERATOR(pg_catalog.<>) 0 FROM pg_catalog.pg_dist_local_group AS g"""
_WHO = (
    """
SELECT pg_catalog.current_database(), current_user, pg_catalog.version(),
       pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('default_transaction_read_only'),
       ARRAY(SELECT s FROM pg_catalog.unnest(%s::pg_catalog.text[]) AS s
             WHERE pg_catalog.current_setting(s, true) IS NOT NULL),
       pg_catalog.current_setting('lock_timeout', true), pg_catalog.pg_backend_pid(),
       pg_catalog.current_setting('synchronous_commit', true),
       EXISTS (SELECT FROM pg_catalog.pg_extension
               WHERE extname OPERATOR(pg_catalog.=) 'citus'), """
    + REACHES_OUT
)
# Asked before anything of ours is set: where unqualified names of a file lead to.
_PATH = b"SELECT pg_catalog.current_schemas(false)"

_READ_ONLY_SOURCE = """
SELECT source FROM pg_catalog.pg_settings 
WHERE name OPERATOR(pg_catalog.=) 'default_transaction_read_only'"""


class StandbyFound(ConnectionFailed):
    """The connection leads to a standby. In a failover it may be the primary a moment later."""


class Server(NamedTuple):
    """What a connection leads to. `settings`: those of the optional ones that it knows.

    `pooled`: a pooler is in between, so that what is set for the session may not stay.
    `reaches_out`: a file may change another server as well.
    `synchronous_commit`: what makes a commit wait for the disk here, as the role has it.
    """

    connected: Connected
    settings: frozenset[str]
    lock_timeout: str | None
    pooled: bool
    reaches_out: bool
    synchronous_commit: str = "on"


def describe(conn: Connection, *, writing: bool = True) -> Server:
    """Return what the connection leads to.

    Raise `StandbyFound` for a standby, and `ConnectionFailed` for a database that is read-only by
    default, unless nothing is to be written.
    """
    return describe_and_ask(conn, [], writing=writing)[0]


def describe_and_ask(
    conn: Connection, queries: Sequence[ours.Query], *, writing: bool = True
) -> tuple[Server, list[list[ours.Row]]]:
    """Return what `describe` does, and the rows of each query, all in one round trip."""
    results = ours.asks(conn, [(_WHO, [_OPTIONAL]), *queries], theirs=_PATH)
    return _described(conn, results[0][0][0], results[1][0], writing=writing), results[2:]


def _described(conn: Connection, path: list[str], row: ours.Row, *, writing: bool) -> Server:
    database, user, version, standby, read_only, known, lock_timeout, pid, commit, citus, out = row
    conn.schemas = tuple(s for s in path if not s.startswith("pg_"))
    product = " ".join(str(version).split(" ")[:2])
    found = Connected(str(database), conn.info.host, conn.info.port, str(user), product)
    if citus and writing and ours.ask(conn, _IS_WORKER) == [(True,)]:
        raise ConnectionFailed(
            f"{found}: this is a worker of Citus, and the ledger is kept on the coordinator.",
            "Point DATABASE_URL at the coordinator.",
        )
    if standby and writing:
        raise StandbyFound(
            f"{found}: this is a standby (pg_is_in_recovery() is true), which cannot be migrated.",
            "Point DATABASE_URL at the primary, or add target_session_attrs=primary to it.",
        )
    if read_only == "on" and writing:
        raise ConnectionFailed(
            f"{found}: default_transaction_read_only is on here, so nothing can be written.",
            _writable(conn, str(user), str(database)),
        )
    return Server(
        found,
        frozenset(cast("list[str]", known)),
        cast("str | None", lock_timeout),
        pooled=pid != conn.info.backend_pid,
        reaches_out=bool(out),
        synchronous_commit="on" if commit in (None, "off") else str(commit),
    )


def _writable(conn: Connection, user: str, database: str) -> str:
    """Return what takes default_transaction_read_only away, where it was set."""
    name, source = "default_transaction_read_only", ours.ask(conn, _READ_ONLY_SOURCE)[0][0]
    where = {
        "user": f'ALTER ROLE "{user}" RESET {name};',
        "database": f'ALTER DATABASE "{database}" RESET {name};',
        "database user": f'ALTER ROLE "{user}" IN DATABASE "{database}" RESET {name};',
        "client": f"Take {name} out of PGOPTIONS, or of the URL's options.",
    }
    if source in where:
        return where[source]
    return f"It is set for the whole server ({source}): SHOW {name};"

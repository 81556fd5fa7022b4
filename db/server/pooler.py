"""What may be between a run and its server, and does not give it what it needs."""

from __future__ import annotations

import select
import time

import psycopg
from psycopg.pq import ExecStatus

from ..errors import ConnectionFailed
from . import ours
from .ours import Connection

# By these words PgBouncer says it; they are in no catalog of translations.
_BY_STATEMENT = "statement pooling mode"
# What it says when it ends a connection by a limit of its own -> that setting. The longer first.
_LIMITS = {
    "query timeout": "query_timeout",
    "query_wait_timeout": "query_wait_timeout",
    "idle transaction timeout": "idle_transaction_timeout",
    "transaction timeout": "transaction_timeout",
    "client_idle_timeout": "client_idle_timeout",
}
# In the others it ends a session that sends a Flush, which the pipeline is made of.
_PGPOOL_WORKS = {"streaming_replication", "logical_replication"}

TOO_SMALL = (
    "the pool gives this run one connection at a time, so it does not hold the lock by which runs "
    "take turns. A run needs two, and a third to look on: default_pool_size = 3 or more"
)

NONE_FREE = (
    "The pool had no connection free in that time.",
    "Who has them: SHOW CLIENTS; on PgBouncer's console. How many: default_pool_size.",
)


def is_between(conn: Connection) -> bool:
    """Return whether the process that was named at the beginning is none of the server's."""
    return ours.ask(conn, "SELECT pg_catalog.pg_backend_pid()") != [(conn.info.backend_pid,)]


def check(conn: Connection) -> None:
    """Raise `ConnectionFailed` if a pooler does not allow transactions.

    Asked of a pooler only. A pipeline would get through as one statement, until a file fails.
    """
    try:
        conn.execute("BEGIN")
        conn.execute("ROLLBACK")
    except psycopg.OperationalError as error:
        if _BY_STATEMENT not in str(error):
            raise
    else:
        return
    raise ConnectionFailed(
        "This is PgBouncer in statement mode, which allows no transactions. No file was executed.",
        "Connect to the server directly, or to a pool with pool_mode = transaction or session.",
    )


def check_pgpool(conn: Connection) -> None:
    """Raise `ConnectionFailed` if pgpool-II is in between, in a mode that has no pipeline.

    The server is asked in words that only pgpool-II understands:
    https://www.pgpool.net/docs/latest/en/html/sql-pgpool-show.html
    """
    said = conn.pgconn.exec_(b"PGPOOL SHOW backend_clustering_mode")
    if said.status != ExecStatus.TUPLES_OK or not said.ntuples:
        return
    mode = (said.get_value(0, 0) or b"").decode()
    if mode in _PGPOOL_WORKS:
        return
    raise ConnectionFailed(
        f"This is pgpool-II with backend_clustering_mode = '{mode}', where it ends the connections "
        "of a run. No file was executed.",
        "Connect to the server directly, or to a pgpool-II in streaming_replication mode.",
    )


def ask(conn: Connection) -> None:
    """Send an empty query, which takes a connection of the pool as any other does."""
    conn.pgconn.send_query(b"")


def answered(conn: Connection, wait_s: float) -> bool:
    """Return whether the answer has come in that time; it is still to come, if not.

    Raise `psycopg.OperationalError` when the connection is lost, with the pooler's words for it.
    """
    give_up = time.monotonic() + wait_s
    while conn.pgconn.is_busy():
        left = give_up - time.monotonic()
        if left <= 0:
            return False
        select.select([conn.pgconn.socket], [], [], left)
        conn.pgconn.consume_input()
    while (said := conn.pgconn.get_result()) is not None:
        if said.status == ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(said)
    return True


def limit(sqlstate: str | None, message: str) -> str:
    """Return the setting of PgBouncer by which it has ended a connection, if it was one."""
    if not (sqlstate or "").startswith("08"):
        return ""
    return next((name for words, name in _LIMITS.items() if words in message), "")


def had_none(error: psycopg.Error) -> bool:
    """Return whether PgBouncer gave up waiting for a connection of its pool."""
    return limit(error.sqlstate, str(error)) == "query_wait_timeout"

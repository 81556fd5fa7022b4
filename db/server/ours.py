"""Our own SQL, which means the same whatever role, database, pooler or file has set.

One connection has two sessions of mind. A file's is the one that a new connection by psql would
have been given: it is there when a transaction begins and nothing is set. Ours is set by `SETTINGS`
for one transaction, never longer: behind a pooler the session is somebody else's as well.

That alone would do for names; but a statement of ours also runs inside a file's transaction, after
whatever the file has set. So each is written to hold without it: names and functions are qualified,
and operators are written OPERATOR(pg_catalog.=). A function or operator whose argument types fit
exactly would be preferred otherwise, in whatever schema of the search_path it stands:
https://www.postgresql.org/docs/current/typeconv-func.html
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from ..errors import LedgerError

Row = tuple[Any, ...]
Query = tuple["str | bytes", "Sequence[Any]"]

# pg_temp is named, or temporary tables and types would come first.
SETTINGS = b"SET LOCAL search_path = pg_catalog, pg_temp"
UNLIMITED = b"SET LOCAL statement_timeout = 0"  # what waits is limited by lock_timeout
READING = b"BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY"
WRITING = b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
LOOKING = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"  # at one moment, however often


class Connection(psycopg.Connection[tuple[object, ...]]):
    """A connection. `schemas`: those of its search_path that exist, without the server's own."""

    schemas: tuple[str, ...] = ()


def ask(
    conn: Connection,
    query: str | bytes,
    parameters: Sequence[Any] = (),
    *,
    lock_timeout_ms: int | None = None,
) -> list[Row]:
    """Return the rows of a query that writes nothing, in one round trip.

    It runs in the transaction that is open, or in one of its own. Raise psycopg's errors.
    """
    return asks(conn, [(query, parameters)], lock_timeout_ms=lock_timeout_ms)[0]


def asks(
    conn: Connection,
    queries: Sequence[Query],
    *,
    theirs: bytes = b"",
    lock_timeout_ms: int | None = None,
) -> list[list[Row]]:
    """Return the rows of each query, all in one round trip.

    `theirs` is a query that is answered first, in the session that a file would be given.
    """
    return _sent(conn, [READING, theirs] if theirs else [READING], queries, lock_timeout_ms)


def execute(
    conn: Connection, queries: Sequence[Query], *, lock_timeout_ms: int | None = None
) -> list[list[Row]]:
    """Run statements that write, however many rows, in one round trip. Raise psycopg's errors.

    Return the rows of those that give any.
    """
    return _sent(conn, [WRITING], queries, lock_timeout_ms)


def change(
    conn: Connection,
    query: str | bytes,
    parameters: Sequence[Any] = (),
    *,
    rows: int | None,
) -> None:
    """Run a statement that writes so many rows; None: any number.

    Raise `LedgerError` if it would be another number, with nothing changed. It runs in the
    transaction that is open, which is left as failed then, or in one of its own.
    """
    with transaction(conn):
        changed = _cursor(conn).execute(query, parameters or None).rowcount
        if rows not in (None, changed):
            raise LedgerError(
                f"The ledger is not as it was a moment ago: {changed} of its rows were changed "
                f"where it had to be {rows}. Nothing was changed.",
                "Look again: invoke db.status",
            )


@contextmanager
def transaction(
    conn: Connection, modes: bytes = WRITING, *, lock_timeout_ms: int | None = None
) -> Iterator[None]:
    """Be in a transaction of ours, or stay in the one that is open; an error rolls it back."""
    if conn.info.transaction_status != TransactionStatus.IDLE:
        yield
        return
    begin(conn, modes, lock_timeout_ms=lock_timeout_ms)
    try:
        yield
        conn.execute("COMMIT")
    finally:
        if not conn.closed:
            conn.rollback()


def begin(conn: Connection, modes: bytes = WRITING, *, lock_timeout_ms: int | None = None) -> None:
    """Open a transaction of ours. One that looks may be idle for however long."""
    limits = _unlimited(conn) if modes == LOOKING else []
    conn.execute(b";".join([modes, *_settings(lock_timeout_ms), *limits]))


def _unlimited(conn: Connection) -> list[bytes]:
    limits = [b"idle_in_transaction_session_timeout"]
    if conn.info.server_version >= 170000:
        limits.append(b"transaction_timeout")
    return [b"SET LOCAL %b = 0" % name for name in limits]


def _sent(
    conn: Connection, opening: list[bytes], queries: Sequence[Query], lock_timeout_ms: int | None
) -> list[list[Row]]:
    alone = conn.info.transaction_status == TransactionStatus.IDLE
    cursor = _cursor(conn)
    # Each by itself: a name in one may hold what looks like a placeholder of another.
    texts = [cursor.mogrify(q, p) if p else q for q, p in queries]
    sent = [text.encode() if isinstance(text, str) else text for text in texts]
    if alone:
        sent = [*opening, *_settings(lock_timeout_ms), *sent, b"COMMIT"]
    try:
        cursor.execute(b";".join(sent))
    except psycopg.Error:
        if alone and not conn.closed:
            conn.rollback()
        raise
    results = []
    while True:
        if cursor.description is not None:
            results.append(cursor.fetchall())
        if not cursor.nextset():
            return results


def _settings(lock_timeout_ms: int | None) -> list[bytes]:
    limit = [] if lock_timeout_ms is None else [b"SET LOCAL lock_timeout = %d" % lock_timeout_ms]
    return [SETTINGS, UNLIMITED, *limit]


def _cursor(conn: Connection) -> psycopg.ClientCursor[tuple[object, ...]]:
    # Several statements in one message take no parameters from the server's side.
    return psycopg.ClientCursor(conn)

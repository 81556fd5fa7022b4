"""How many connections a server has free, so that many workers do not take them all."""

from __future__ import annotations

import psycopg

from ..server import ours
from ..server.connection import Target

A_WORKER = 3  # connections at most: one that works, the guard, and one that looks on
# Since PostgreSQL 16 there are reserved_connections besides. Ours, which asks, is free again.
_FREE = """
SELECT pg_catalog.current_setting('max_connections')::pg_catalog.int8
       OPERATOR(pg_catalog.-)
       pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int8
       OPERATOR(pg_catalog.-)
       coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::pg_catalog.int8
       OPERATOR(pg_catalog.-)
       (SELECT pg_catalog.sum(s.numbackends) FROM pg_catalog.pg_stat_database AS s)::pg_catalog.int8
       OPERATOR(pg_catalog.+) 1::pg_catalog.int8"""


def workers(target: Target, wanted: int) -> int:
    """Return how many workers the target's server has room for: at least one, at most `wanted`.

    One that cannot be asked is left to the run, which waits for a connection or says why not.
    """
    try:
        with target.once("migrations fleet") as conn:
            free = int(ours.ask(conn, _FREE)[0][0])
    except psycopg.Error:
        return wanted
    return max(1, min(wanted, free // A_WORKER))

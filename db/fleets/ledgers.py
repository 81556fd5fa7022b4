"""The ledgers of many schemas of one database, read through one connection.

A connection a schema would cost more than all that is asked. What cannot be read here is left out:
a run of its own says why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psycopg

from ..engine import ledger, place
from ..engine.ledger import Rows, Units
from ..engine.place import Ledger
from ..errors import LedgerError, MigrationsError
from ..server import described, ours
from ..server.ours import Connection
from .roster import Member

_AT_ONCE = 50  # are read, and kept
_LOCK_TIMEOUT_MS = 100  # whoever waits longer is left out


class Seen(NamedTuple):
    """What a target's ledger has."""

    member: Member
    book: Ledger
    executed: Rows
    progress: Units


def read(members: Sequence[Member], *, writing: bool) -> Iterator[Seen]:
    """Yield what stands in each schema, if that is what they are. Reads only.

    `writing`: not where a run would be refused, as on a standby.
    """
    if not all(member.target.schema for member in members):
        return
    try:
        with members[0].target.once("migrations fleet") as conn:
            server = described.describe(conn, writing=writing)
            # An engine without lock_timeout waits for whatever is locked, and so does a pool.
            if "lock_timeout" in server.settings and not server.pooled:
                yield from _read(conn, members)
    except (psycopg.Error, MigrationsError):
        return


def _read(conn: Connection, members: Sequence[Member]) -> Iterator[Seen]:
    table = place.parted(members[0].settings.ledger)[1]
    tables = defaultdict[str, list[ours.Row]](list)
    for row in ours.ask(conn, *place.finding("", table)):
        tables[str(row[0])].append(row)
    for first in range(0, len(members), _AT_ONCE):
        books = list(_books(conn, members[first : first + _AT_ONCE], table, tables))
        try:
            found = ledger.read_many(conn, [book for _, book in books], _LOCK_TIMEOUT_MS)
        except (psycopg.Error, LedgerError):
            if conn.closed:
                return
            continue
        for (member, book), (executed, progress) in zip(books, found, strict=True):
            yield Seen(member, book, executed, progress)


def _books(
    conn: Connection, members: Sequence[Member], table: str, tables: dict[str, list[ours.Row]]
) -> Iterator[tuple[Member, Ledger]]:
    for member in members:
        schema = member.target.schema
        try:
            yield member, place.chosen(conn, tables.get(schema, []), schema, table)
        except LedgerError:
            continue

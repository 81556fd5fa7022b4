"""The `migrations` table: create it, adopt it, read and write it; and the progress table beside it.

A row means: executed, whole, committed. The rows of `<table>_unfinished` are the finished units of
a no-transaction file that is not whole yet; they go in the transaction that records the file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import TypeAlias

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from ..errors import LedgerError
from ..files.plan import SCHEMA, Executed, Progress
from ..server import ours
from ..server.ours import Connection
from . import place
from .place import FIND, OURS, Ledger, chosen, finding

Rows: TypeAlias = "dict[str, Executed]"
Units: TypeAlias = "dict[str, list[Progress]]"
Found: TypeAlias = "tuple[Ledger, Rows, Units]"

_TRIES = 3  # to read a ledger that somebody else drops each time
_CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
    id SERIAL PRIMARY KEY,
    filename VARCHAR(255) NOT NULL UNIQUE,
    executed_at TIMESTAMP WITH TIME ZONE DEFAULT CURRENT_TIMESTAMP,
    checksum pg_catalog.text,
    duration_ms INTEGER,
    executed_by pg_catalog.text
)"""
# Fails, and all of its transaction with it, where there is a table that may be a ledger.
_NOWHERE = f"SELECT 1 OPERATOR(pg_catalog./) (NOT EXISTS ({FIND}))::integer"
_CREATE_SCHEMA = "CREATE SCHEMA IF NOT EXISTS {schema}"
_CREATE_UNFINISHED = """
CREATE TABLE IF NOT EXISTS {unfinished} (
    filename VARCHAR(255) NOT NULL,
    unit INTEGER NOT NULL,
    checksum pg_catalog.text NOT NULL,
    run_by pg_catalog.text NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT CURRENT_TIMESTAMP,
    finished_at TIMESTAMP WITH TIME ZONE,
{columns},
    PRIMARY KEY (filename, unit)
)"""
# What earlier releases did not have in it.
_LATER = {
    "pid": "INTEGER",
    "target": "pg_catalog.jsonb",
    "session": "pg_catalog.jsonb",
    "rows": "BIGINT",
    "batches": "INTEGER",
}
_FILL_IN = """
UPDATE {table} SET checksum = %s WHERE filename OPERATOR(pg_catalog.=) %s AND checksum IS NULL"""
_RECORD = """
INSERT INTO {table} (filename, checksum, executed_by) VALUES (%s, %s, %s)
ON CONFLICT (filename) DO NOTHING"""
_FORGET = "DELETE FROM {table} WHERE filename OPERATOR(pg_catalog.=) %s"
_FORGET_UNITS = "DELETE FROM {unfinished} WHERE filename OPERATOR(pg_catalog.=) %s"
_ACCEPT = "UPDATE {table} SET checksum = %s WHERE filename OPERATOR(pg_catalog.=) %s"
_RENAME = """
UPDATE {table} SET filename = %s, checksum = %s WHERE filename OPERATOR(pg_catalog.=) %s"""
_RENAME_UNITS = """
UPDATE {unfinished} SET filename = %s WHERE filename OPERATOR(pg_catalog.=) %s"""
_HOLD = "LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE"
# The sequence of the ids: the column's own, or the one that its default names.
_BEHIND = """
SELECT s.name, t.highest
FROM (SELECT coalesce(pg_catalog.pg_get_serial_sequence(w.relation, 'id'), (
          SELECT d.refobjid::pg_catalog.regclass::pg_catalog.text
          FROM pg_catalog.pg_attrdef AS a
          JOIN pg_catalog.pg_depend AS d ON d.objid OPERATOR(pg_catalog.=) a.oid
           AND d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass
           AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
          JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) d.refobjid
           AND c.relkind OPERATOR(pg_catalog.=) 'S'
          WHERE a.adrelid OPERATOR(pg_catalog.=) w.relation::pg_catalog.regclass LIMIT 1)) AS name
      FROM (SELECT %s::pg_catalog.text AS relation) AS w) AS s,
     (SELECT pg_catalog.max(id) AS highest FROM {table}) AS t
WHERE s.name IS NOT NULL
  AND coalesce(pg_catalog.pg_sequence_last_value(s.name::pg_catalog.regclass), 0)
      OPERATOR(pg_catalog.<) t.highest"""
_SET_RIGHT = "SELECT pg_catalog.setval(%s::pg_catalog.regclass, %s::pg_catalog.int8)"
CHANGED = "The ledger was changed meanwhile. Nothing was done."
LOOK_AGAIN = "Look again: invoke db.status"
_DUMPED = "INSERT INTO {table} (filename, checksum, executed_by) VALUES\n    "
_SEQUENCE = "SELECT pg_catalog.pg_get_serial_sequence(%s, 'id')"
_ROWS = """
SELECT filename, extract(epoch FROM executed_at), {} FROM {table} ORDER BY id"""
_UNITS = """
SELECT filename, unit, checksum, finished_at IS NOT NULL, run_by, {}
FROM {unfinished} ORDER BY filename, unit"""


def read(conn: Connection, ledger: Ledger) -> dict[str, Executed]:
    """Return the rows of the ledger, oldest first. Reads only: a missing table has no rows.

    Raise `LedgerError` if a row names no file.
    """
    return read_both(conn, ledger._replace(unfinished=()))[0]


def read_progress(conn: Connection, ledger: Ledger) -> dict[str, list[Progress]]:
    """Return the units of unfinished files, in order. Reads only; raise as `read` does."""
    return read_both(conn, ledger._replace(exists=False))[1]


def read_both(
    conn: Connection, ledger: Ledger, lock_timeout_ms: int | None = None
) -> tuple[Rows, Units]:
    """Return what `read` and `read_progress` do, in one round trip.

    Raise `psycopg.errors.LockNotAvailable` if a table is locked for longer than that.
    """
    queries = _reading(ledger)
    results = ours.asks(conn, queries, lock_timeout_ms=lock_timeout_ms) if queries else []
    return _read(ledger, results)


def read_many(
    conn: Connection, ledgers: Iterable[Ledger], lock_timeout_ms: int | None = None
) -> list[tuple[Rows, Units]]:
    """Return what `read_both` does of each, all in one round trip. Raise as it does."""
    parts = [(ledger, _reading(ledger)) for ledger in ledgers]
    queries = [query for _, some in parts for query in some]
    results = iter(ours.asks(conn, queries, lock_timeout_ms=lock_timeout_ms) if queries else [])
    return [_read(ledger, [next(results) for _ in some]) for ledger, some in parts]


def look(conn: Connection, find: Callable[[], Ledger], lock_timeout_ms: int | None = None) -> Found:
    """Find the ledger and read it. One that is dropped in between is looked for again.

    Not in a transaction of the caller's, which ends with that.
    """
    tries = _TRIES
    while True:
        book = find()
        try:
            return book, *read_both(conn, book, lock_timeout_ms)
        except psycopg.errors.UndefinedTable:
            tries -= 1
            if not tries or conn.info.transaction_status != TransactionStatus.IDLE:
                raise


def look_again(
    conn: Connection, ledger: Ledger, find: Callable[[], Ledger], lock_timeout_ms: int | None = None
) -> Found:
    """Do as `look` does, in one round trip if the ledger is where it was."""
    schema = ledger.wanted_schema
    queries: list[ours.Query] = [finding(schema, ledger.table), *_reading(ledger)]
    try:
        rows, *results = ours.asks(conn, queries, lock_timeout_ms=lock_timeout_ms)
    except psycopg.errors.UndefinedTable:
        return look(conn, find, lock_timeout_ms)
    now = chosen(conn, rows, schema, ledger.table)
    now = ledger if ledger.dumped and not now.exists else now
    if now == ledger:
        return now, *_read(ledger, results)
    return now, *read_both(conn, now, lock_timeout_ms)


def _reading(ledger: Ledger) -> list[ours.Query]:
    queries: list[ours.Query] = []
    if ledger.exists:
        columns = _optional(OURS, ledger.columns)
        queries.append((ledger.compose(_ROWS.format(columns, table="{table}")), ()))
    if ledger.unfinished:
        columns = _optional(("rows", "batches"), ledger.unfinished)
        queries.append((ledger.compose(_UNITS.format(columns, unfinished="{unfinished}")), ()))
    return queries


def _optional(wanted: Iterable[str], there: Collection[str]) -> str:
    return ", ".join(name if name in there else f"NULL AS {name}" for name in wanted)


def _read(ledger: Ledger, results: list[list[ours.Row]]) -> tuple[Rows, Units]:
    rows = results[0] if ledger.exists else []
    units = results[-1] if ledger.unfinished else []
    _refuse_nameless(ledger, sum(row[0] is None for row in rows))
    executed = {str(name): Executed(str(name), _when(at), *rest) for name, at, *rest in rows}
    progress: dict[str, list[Progress]] = {}
    for row in units:
        unit = Progress(*row)
        progress.setdefault(unit.filename, []).append(unit)
    return executed, progress


def _refuse_nameless(ledger: Ledger, number: int) -> None:
    """Raise `LedgerError` if rows have no filename, which the Node code's table may allow."""
    if number:
        table = ledger.compose("{table}").decode()
        rows = "1 row names" if number == 1 else f"{number} rows name"
        raise LedgerError(
            f"{rows} no file in {ledger.schema}.{ledger.table}, so what was executed is not known. "
            "Nothing was executed.",
            f"Look at them: SELECT * FROM {table} WHERE filename IS NULL;",
            "Put the names in; or, if they mean nothing: "
            f"DELETE FROM {table} WHERE filename IS NULL;",
        )


def _when(epoch: float | None) -> datetime | None:
    """Return the time on this machine's clock: what a session writes depends on its DateStyle."""
    try:
        return None if epoch is None else datetime.fromtimestamp(float(epoch)).astimezone()
    except (OverflowError, ValueError):  # infinity
        return None


def prepare(
    conn: Connection, ledger: Ledger, lock_timeout_ms: int | None, *, unfinished: bool
) -> Ledger:
    """Create the ledger, or give the Node code's table our columns; return it as it is now.

    `unfinished`: also the table for no-transaction files. All of it is one transaction, and one
    round trip. Raise `LedgerError` as `place.find` does, and psycopg's errors: to wait for a lock,
    or for another run that creates it at the same time, is the caller's part.
    """
    wanted = _wanted(conn, ledger, unfinished=unfinished)
    if not wanted:
        return ledger
    return _made(conn, ledger, wanted, [], lock_timeout_ms)


def prepare_first(
    conn: Connection, ledger: Ledger, lock_timeout_ms: int | None, *, unfinished: bool
) -> Ledger | None:
    """Make a ledger that was nowhere, if it is nowhere still, all in one round trip.

    Return it; None if there is one by now, or it could not be made: nothing has changed then, and
    who looks again will see why. Raise psycopg's error if the connection was lost.
    """
    wanted = _wanted(conn, ledger, unfinished=unfinished)
    first: list[ours.Query] = [(_NOWHERE, finding(ledger.wanted_schema, ledger.table)[1])]
    try:
        return _made(conn, ledger, wanted, first, lock_timeout_ms)
    except psycopg.Error:
        if conn.closed:
            raise
        return None


def _wanted(conn: Connection, ledger: Ledger, *, unfinished: bool) -> list[str]:
    """Return what makes the tables, or what they lack."""
    wanted: list[str] = []
    if not ledger.exists:
        # IF NOT EXISTS is refused as well, if this role may make no schema.
        lacks = ledger.dumped and ledger.schema not in conn.schemas
        wanted += [_CREATE_SCHEMA, _CREATE] if lacks else [_CREATE]
    elif not ledger.complete:
        add = ", ".join(f"ADD COLUMN IF NOT EXISTS {c} {t}" for c, t in OURS.items())
        unique = "" if ledger.is_unique else ", ADD UNIQUE (filename)"
        wanted.append(f"ALTER TABLE {{table}} {add}{unique}")
    later = [(name, kind) for name, kind in _LATER.items() if name not in ledger.unfinished]
    if unfinished and not ledger.unfinished:
        columns = ",\n".join(f"    {name} {kind}" for name, kind in later)
        wanted.append(_CREATE_UNFINISHED.replace("{columns}", columns))
    elif unfinished and later:
        add = ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in later)
        wanted.append(f"ALTER TABLE {{unfinished}} {add}")
    return wanted


def _made(
    conn: Connection,
    ledger: Ledger,
    wanted: list[str],
    first: list[ours.Query],
    lock_timeout_ms: int | None,
) -> Ledger:
    schema, table = ledger.wanted_schema, ledger.table
    # What was there already was passed over, whosesoever it is: so it is looked at, held still.
    held = place.HELD[any("{unfinished}" in text for text in wanted)]
    statements: list[ours.Query] = [(ledger.compose(text), ()) for text in (*wanted, held)]
    queries = [*first, *locally(lock_timeout_ms), *statements, finding(schema, table)]
    *_, rows = ours.execute(conn, queries, lock_timeout_ms=lock_timeout_ms)
    return chosen(conn, rows, schema, table)._replace(dumped=ledger.dumped)


def locally(lock_timeout_ms: int | None) -> list[ours.Query]:
    """Return what keeps a commit of ours from waiting for a standby: a file's does, and says so."""
    return [] if lock_timeout_ms is None else [("SET LOCAL synchronous_commit = local", ())]


def fill_in(
    conn: Connection, ledger: Ledger, checksums: Mapping[str, str], lock_timeout_ms: int | None
) -> None:
    """Record the checksums of files that the Node code executed."""
    text = ledger.compose(_FILL_IN)
    rows: list[ours.Query] = [(text, [checksum, name]) for name, checksum in checksums.items()]
    queries = [*locally(lock_timeout_ms), *still(ledger), *rows]
    ours.execute(conn, queries, lock_timeout_ms=lock_timeout_ms)


def still(ledger: Ledger, *, exposed: bool = False) -> list[ours.Query]:
    """Return what keeps the table as it was found, and fails by a division by zero if it is not.

    Nothing, where nobody else may attach anything to it, unless it was `exposed` since.
    """
    if ledger.closed and not exposed:
        return []
    checks = place.untouched(ledger, unfinished=False)
    held: ours.Query = (ledger.compose(place.HELD[False]), ())
    return [held, *((place.asked(text), params) for text, params in checks)]


def hold(conn: Connection, ledger: Ledger) -> None:
    """Let nobody else write the ledger until the transaction ends; reading goes on."""
    conn.execute(ledger.compose(_HOLD))


def mend(conn: Connection, ledger: Ledger) -> bool:
    """Set the sequence of the ids behind the highest one, and return whether that was needed.

    A restored dump can leave it behind: then every new row collides with an old one. To be called
    where nobody else can write the ledger. Raise `LedgerError` with the statement to type if this
    role cannot.
    """
    table = ledger.compose("{table}").decode()
    try:
        behind = ours.ask(conn, ledger.compose(_BEHIND), [table])
        if behind:
            ours.ask(conn, _SET_RIGHT, behind[0])
    except psycopg.errors.InsufficientPrivilege:
        raise LedgerError(
            f"The sequence of the ids in {table} is behind them, as a restored dump leaves it.",
            f"As its owner: SELECT setval(pg_get_serial_sequence({sql.Literal(table).as_string()}, "
            f"'id'), (SELECT max(id) FROM {table}));",
        ) from None
    return bool(behind)


def record(
    conn: Connection, ledger: Ledger, files: Iterable[tuple[str, str]], executed_by: str
) -> None:
    """Record files (name and checksum) as executed that were not executed by a run."""
    mend(conn, ledger)
    for filename, checksum in files:
        row = [filename, checksum, executed_by]
        ours.change(conn, ledger.compose(_RECORD), row, rows=1)
        _forget_units(conn, ledger, filename)


def forget(conn: Connection, ledger: Ledger, filename: str, *, rows: int) -> None:
    """Remove a file's row (`rows`: 1, or 0 if it has none), and what is finished of it."""
    ours.change(conn, ledger.compose(_FORGET), [filename], rows=rows)
    _forget_units(conn, ledger, filename)


def accept(conn: Connection, ledger: Ledger, filename: str, checksum: str) -> None:
    """Record another checksum for an executed file."""
    ours.change(conn, ledger.compose(_ACCEPT), [checksum, filename], rows=1)


def rename(conn: Connection, ledger: Ledger, old: str, new: str, checksum: str | None) -> None:
    """Give an executed file's row its new name and its checksum, and keep the rest."""
    ours.change(conn, ledger.compose(_RENAME), [new, checksum, old], rows=1)
    _forget_units(conn, ledger, new)


def rename_units(conn: Connection, ledger: Ledger, old: str, new: str, *, rows: int) -> None:
    """Give what is finished of a half-done file its new name."""
    ours.change(conn, ledger.compose(_RENAME_UNITS), [new, old], rows=rows)


def _forget_units(conn: Connection, ledger: Ledger, filename: str) -> None:
    if ledger.unfinished:
        ours.change(conn, ledger.compose(_FORGET_UNITS), [filename], rows=None)


def relations(conn: Connection, ledger: Ledger) -> list[str]:
    """Return the quoted names of all that belongs to the ledger. Reads only."""
    names = [ledger.compose(name).decode() for name in ("{table}", "{unfinished}")]
    rows = ours.ask(conn, _SEQUENCE, names[:1]) if ledger.exists else []
    return [*names, *(str(row[0]) for row in rows if row[0])]


def dumped(ledger: Ledger, executed: Iterable[Executed]) -> str:
    """Return SQL that makes the ledger, if it is missing, and records these files in it."""
    # A run makes a file's objects as MIGRATIONS_ROLE, which need not have rights on the ledger.
    made = f"RESET ROLE;\n\n{ledger.compose(_CREATE).decode().strip()};\n"
    values = [(row.filename, row.checksum, SCHEMA) for row in executed]
    if not values:
        return made
    listed = sql.SQL(",\n    ").join(sql.SQL("({}, {}, {})").format(*row) for row in values)
    rows = listed.as_string(None)
    return f"{made}\n{ledger.compose(_DUMPED).decode()}{rows}\nON CONFLICT (filename) DO NOTHING;\n"

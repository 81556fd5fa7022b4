"""The `migrations` table: find it, create it, adopt it, read it; and the progress table beside it.

A row means: executed, whole, committed. The rows of `<table>_unfinished` are the finished units of
a no-transaction file that is not whole yet; they go in the transaction that records the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import NamedTuple, cast

from psycopg import sql

from ..errors import LedgerError
from ..files.plan import SCHEMA, Executed, Progress
from ..server.connection import Connection

# What the Node code reads and writes, byte for byte, and what is ours and may be null.
_THEIRS = ("id", "filename", "executed_at")
_OURS = {"checksum": "text", "duration_ms": "integer", "executed_by": "text"}

_FIND = """
SELECT n.nspname, c.relname, c.relkind IN ('r', 'p'), to_regclass(%(unfinished)s) IS NOT NULL,
       current_schema(),
       ARRAY(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum),
       ARRAY(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
               AND attnotnull AND NOT atthasdef AND attidentity = ''),
       EXISTS (SELECT FROM pg_index i
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'filename'
               WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                 AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
FROM (SELECT to_regclass(%(table)s) AS oid) AS found
LEFT JOIN pg_class c ON c.oid = found.oid
LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
"""
_CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
    id SERIAL PRIMARY KEY,
    filename VARCHAR(255) NOT NULL UNIQUE,
    executed_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP,
    checksum TEXT,
    duration_ms INTEGER,
    executed_by TEXT
)"""
_CREATE_UNFINISHED = """
CREATE TABLE IF NOT EXISTS {unfinished} (
    filename VARCHAR(255) NOT NULL,
    unit INTEGER NOT NULL,
    checksum TEXT NOT NULL,
    run_by TEXT NOT NULL,
    started_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP,
    finished_at TIMESTAMPTZ,
    pid INTEGER,
    target JSONB,
    session JSONB,
    PRIMARY KEY (filename, unit)
)"""
# What earlier releases did not have in it.
_ADOPT_UNFINISHED = """
ALTER TABLE {unfinished} ADD COLUMN IF NOT EXISTS pid INTEGER,
    ADD COLUMN IF NOT EXISTS target JSONB, ADD COLUMN IF NOT EXISTS session JSONB"""
_IS_ADOPTED = """
SELECT pg_catalog.count(*) OPERATOR(pg_catalog.=) 3 FROM pg_catalog.pg_attribute AS a
WHERE a.attrelid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s) AND NOT a.attisdropped
  AND a.attname OPERATOR(pg_catalog.=) ANY ('{pid,target,session}'::pg_catalog.name[])"""
_FILL_IN = "UPDATE {table} SET checksum = %s WHERE filename = %s AND checksum IS NULL"
_RECORD = """
INSERT INTO {table} (filename, checksum, executed_by) VALUES (%s, %s, %s)
ON CONFLICT (filename) DO NOTHING"""
_FORGET = "DELETE FROM {table} WHERE filename = %s"
_FORGET_UNITS = "DELETE FROM {unfinished} WHERE filename = %s"
_ACCEPT = "UPDATE {table} SET checksum = %s WHERE filename = %s"
_DUMPED = "INSERT INTO {table} (filename, checksum, executed_by) VALUES\n    "
_SEQUENCE = "SELECT pg_get_serial_sequence(%s, 'id')"
_OTHER_TABLES = """
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname = ANY (current_schemas(false))
      AND NOT (n.nspname = %s AND c.relname = ANY (%s))
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e'))
"""


class Ledger(NamedTuple):
    """The table's place, and what was found there."""

    schema: str
    table: str
    exists: bool
    columns: tuple[str, ...]
    has_unfinished: bool
    is_unique: bool = True

    @property
    def complete(self) -> bool:
        """Return whether the table needs no adopting."""
        return self.exists and self.is_unique and set(_OURS) <= set(self.columns)

    @property
    def key(self) -> str:
        """Return what runs that share this ledger, and no others, lock."""
        return f"migrations:{self.schema}.{self.table}"

    def compose(self, text: str) -> bytes:
        """Return SQL with {table} and {unfinished} replaced by their quoted names."""
        return _composed(self.schema, self.table, text)


def find(conn: Connection, name: str) -> Ledger:
    """Return where the ledger is or would be. Reads only.

    `name` is `table` (looked up on the search_path, and made in its first schema) or
    `schema.table`. Raise `LedgerError` if a table of that name is another tool's.
    """
    schema, _, table = name.rpartition(".")
    quoted = sql.Identifier(*filter(None, (schema, table))).as_string(None)
    unfinished = sql.Identifier(*filter(None, (schema, f"{table}_unfinished"))).as_string(None)
    row = conn.execute(_FIND, {"table": quoted, "unfinished": unfinished}).fetchone()
    assert row is not None
    found_in, _, is_table, has_unfinished, current, columns, required, unique = row
    if found_in is None:
        if not (schema or current):
            raise LedgerError(
                "The search_path holds no schema that exists, so there is no place for the ledger.",
                "Set MIGRATIONS_TABLE=schema.table.",
            )
        return Ledger(schema or str(current), table, False, (), bool(has_unfinished))
    names = tuple(cast("list[str]", columns))
    strange = set(cast("list[str]", required)) - {*_THEIRS, *_OURS}
    if not is_table or not set(_THEIRS) <= set(names) or strange:
        raise LedgerError(
            f"{found_in}.{table} is not a ledger of this tool or of the Node scripts: "
            f"its columns are {', '.join(names)}. Nothing was executed.",
            "If another tool owns it, set MIGRATIONS_TABLE to another name, such as db_migrations.",
        )
    return Ledger(str(found_in), table, True, names, bool(has_unfinished), bool(unique))


def read(
    conn: Connection, ledger: Ledger, lock_timeout_ms: int | None = None
) -> dict[str, Executed]:
    """Return the rows of the ledger, oldest first. Reads only: a missing table has no rows.

    Raise `psycopg.errors.LockNotAvailable` if it is locked for longer than that.
    """
    if not ledger.exists:
        return {}
    optional = (c if c in ledger.columns else f"NULL AS {c}" for c in _OURS)
    query = f"SELECT filename, executed_at, {', '.join(optional)} FROM {{table}} ORDER BY id"
    rows = _query(conn, ledger, query, lock_timeout_ms)
    return {
        str(row[0]): Executed(*cast("tuple[str, datetime, str, int, str]", row)) for row in rows
    }


def read_progress(
    conn: Connection, ledger: Ledger, lock_timeout_ms: int | None = None
) -> dict[str, list[Progress]]:
    """Return the units of unfinished files, in order. Reads only."""
    if not ledger.has_unfinished:
        return {}
    progress: dict[str, list[Progress]] = {}
    for row in _query(
        conn,
        ledger,
        "SELECT filename, unit, checksum, finished_at IS NOT NULL, run_by "
        "FROM {unfinished} ORDER BY filename, unit",
        lock_timeout_ms,
    ):
        unit = Progress(*cast("tuple[str, int, str, bool, str]", row))
        progress.setdefault(unit.filename, []).append(unit)
    return progress


def is_empty(conn: Connection, ledger: Ledger) -> bool:
    """Return whether the schemas of the search_path hold nothing but the ledger. Reads only.

    What extensions brought along does not count.
    """
    own = [ledger.table, f"{ledger.table}_unfinished"]
    row = conn.execute(_OTHER_TABLES, [ledger.schema, own]).fetchone()
    return row is not None and not row[0]


def prepare(
    conn: Connection, ledger: Ledger, lock_timeout_ms: int | None, *, unfinished: bool
) -> Ledger:
    """Create the ledger, or give the Node code's table our columns; return it as it is now.

    `unfinished`: also the table for no-transaction files. All of it is one transaction, and one
    round trip. Raise psycopg's errors: to wait for a lock, or for another run that creates it at
    the same time, is the caller's part.
    """
    wanted: list[str] = []
    if not ledger.exists:
        wanted.append(_CREATE)
    elif not ledger.complete:
        add = ", ".join(f"ADD COLUMN IF NOT EXISTS {c} {t}" for c, t in _OURS.items())
        unique = "" if ledger.is_unique else ", ADD UNIQUE (filename)"
        wanted.append(f"ALTER TABLE {{table}} {add}{unique}")
    if unfinished and not ledger.has_unfinished:
        wanted.append(_CREATE_UNFINISHED)
    elif unfinished and not _is_adopted(conn, ledger):
        wanted.append(_ADOPT_UNFINISHED)
    if not wanted:
        return ledger
    if lock_timeout_ms is not None:
        wanted.insert(0, f"SET LOCAL lock_timeout = {lock_timeout_ms}")
        # The first file's commit waits for what has to be waited for, and says so.
        wanted.insert(0, "SET LOCAL synchronous_commit = local")
    conn.execute(ledger.compose(";".join(wanted)))  # several statements: one implicit transaction
    return Ledger(
        ledger.schema,
        ledger.table,
        exists=True,
        columns=(*_THEIRS, *_OURS),
        has_unfinished=ledger.has_unfinished or unfinished,
    )


def _is_adopted(conn: Connection, ledger: Ledger) -> bool:
    name = ledger.compose("{unfinished}").decode()
    return conn.execute(_IS_ADOPTED, [name]).fetchone() == (True,)


def fill_in(conn: Connection, ledger: Ledger, checksums: Mapping[str, str]) -> None:
    """Record the checksums of files that the Node code executed."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.executemany(ledger.compose(_FILL_IN), [(c, name) for name, c in checksums.items()])


def record(
    conn: Connection, ledger: Ledger, files: Iterable[tuple[str, str]], executed_by: str
) -> None:
    """Record files (name and checksum) as executed that were not executed by a run."""
    for filename, checksum in files:
        conn.execute(ledger.compose(_RECORD), [filename, checksum, executed_by])
        if ledger.has_unfinished:
            conn.execute(ledger.compose(_FORGET_UNITS), [filename])


def forget(conn: Connection, ledger: Ledger, filename: str) -> None:
    """Remove a file's row, and what is finished of it."""
    conn.execute(ledger.compose(_FORGET), [filename])
    if ledger.has_unfinished:
        conn.execute(ledger.compose(_FORGET_UNITS), [filename])


def accept(conn: Connection, ledger: Ledger, filename: str, checksum: str) -> None:
    """Record another checksum for an executed file."""
    conn.execute(ledger.compose(_ACCEPT), [checksum, filename])


def relations(conn: Connection, ledger: Ledger) -> list[str]:
    """Return the quoted names of all that belongs to the ledger. Reads only."""
    names = [ledger.compose(name).decode() for name in ("{table}", "{unfinished}")]
    row = conn.execute(_SEQUENCE, names[:1]).fetchone() if ledger.exists else None
    return [*names, str(row[0])] if row and row[0] else names


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


def _query(
    conn: Connection, ledger: Ledger, text: str, lock_timeout_ms: int | None
) -> list[tuple[object, ...]]:
    limit = f"SET LOCAL lock_timeout = {lock_timeout_ms};" if lock_timeout_ms else ""
    cursor = conn.execute(ledger.compose(limit + text))  # both in one implicit transaction
    while cursor.nextset():
        pass
    return cursor.fetchall()


@cache  # the same few, for each file
def _composed(schema: str, table: str, text: str) -> bytes:
    names = {"table": table, "unfinished": f"{table}_unfinished"}
    quoted = {key: sql.Identifier(schema, name).as_string(None) for key, name in names.items()}
    if "%s" in text:  # a percent sign in a name is no placeholder
        quoted = {key: name.replace("%", "%%") for key, name in quoted.items()}
    return text.format(**quoted).encode()

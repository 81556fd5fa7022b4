"""The rows of reference tables, as COPY text that loads once every table is made.

They stand behind the tables and before keys, indexes and triggers, where pg_dump puts rows too: so
no order of the tables is wrong, and no trigger fires.

A table is read by COPY, as pg_dump reads it, and never by a query. For a query the planner looks at
the table's expressions (of indexes, statistics, checks, policies), and calls immutable functions of
its owner that are in them, with our rights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple, cast

from psycopg import sql

from ..engine.place import Ledger
from ..errors import SettingsError
from ..server.ours import Connection

# What pg_dump sets, so that values are written in a way that every server reads.
_FORMATS = b"""
SET LOCAL DateStyle = ISO; SET LOCAL IntervalStyle = postgres; SET LOCAL TimeZone = 'UTC';
SET LOCAL bytea_output = hex; SET LOCAL extra_float_digits = 3; SET LOCAL client_encoding = UTF8;
SET LOCAL row_security = off"""
_TABLES = """
SELECT c.oid, n.nspname, c.relname, c.relkind OPERATOR(pg_catalog.=) 'p',
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
               AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
               AND a.attgenerated OPERATOR(pg_catalog.=) '' ORDER BY a.attnum),
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_index AS i
             CROSS JOIN pg_catalog.unnest(i.indkey::pg_catalog.int2[])
                        WITH ORDINALITY AS k (attnum, place)
             JOIN pg_catalog.pg_attribute AS a
               ON a.attrelid OPERATOR(pg_catalog.=) c.oid
              AND a.attnum OPERATOR(pg_catalog.=) k.attnum
             WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisprimary ORDER BY k.place)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE (c.relkind OPERATOR(pg_catalog.=) 'r' OR c.relkind OPERATOR(pg_catalog.=) 'p')
  AND n.nspname OPERATOR(pg_catalog.<>) 'pg_catalog'
  AND n.nspname OPERATOR(pg_catalog.<>) 'information_schema'
ORDER BY n.nspname, c.relname"""
# What has a table's name and no rows that a COPY would fill again.
_NO_TABLES = """
SELECT CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'f' THEN 'a foreign table'
            WHEN c.relkind OPERATOR(pg_catalog.=) 'v' THEN 'a view' ELSE 'a materialized view' END
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['f', 'v', 'm']::pg_catalog."char"[])
  AND (c.relname OPERATOR(pg_catalog.=) %s
       OR pg_catalog.concat(n.nspname, '.', c.relname) OPERATOR(pg_catalog.=) %s)"""
# A partitioned table has no rows of its own.
_PARTS = """
SELECT n.nspname, c.relname, c.relkind OPERATOR(pg_catalog.=) 'f'
FROM pg_catalog.pg_partition_tree(%s::pg_catalog.oid::pg_catalog.regclass) AS p
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) p.relid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.relkind OPERATOR(pg_catalog.<>) 'p'
ORDER BY n.nspname, c.relname"""
_REFERENCES = """
SELECT k.conrelid, n.nspname, c.relname,
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid OPERATOR(pg_catalog.=) k.conrelid
               AND a.attnum OPERATOR(pg_catalog.=) ANY (k.conkey))
FROM pg_catalog.pg_constraint AS k
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) k.confrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE k.contype OPERATOR(pg_catalog.=) 'f' AND k.convalidated
  AND k.conparentid OPERATOR(pg_catalog.=) 0
  AND k.conrelid OPERATOR(pg_catalog.=) ANY (%(chosen)s::pg_catalog.oid[])
  AND k.confrelid OPERATOR(pg_catalog.<>) ALL (%(chosen)s::pg_catalog.oid[])
ORDER BY k.conname"""
_SEQUENCES = """
SELECT n.nspname, s.relname
FROM pg_catalog.pg_depend AS d
JOIN pg_catalog.pg_class AS s
  ON s.oid OPERATOR(pg_catalog.=) d.objid AND s.relkind OPERATOR(pg_catalog.=) 'S'
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) s.relnamespace
WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
  AND d.refclassid OPERATOR(pg_catalog.=) d.classid
  AND (d.deptype OPERATOR(pg_catalog.=) 'a' OR d.deptype OPERATOR(pg_catalog.=) 'i')
  AND d.refobjid OPERATOR(pg_catalog.=) %s ORDER BY n.nspname, s.relname"""
# A view that has taken a sequence's name meanwhile is refused, as pg_dump does, where a server can.
_NO_VIEWS = """
SELECT pg_catalog.set_config(name, 'view, foreign-table', true) FROM pg_catalog.pg_settings
WHERE name OPERATOR(pg_catalog.=) 'restrict_nonsystem_relation_kind'"""
_NULL = b"\\N"
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")


class Table(NamedTuple):
    """A table whose rows are wanted."""

    oid: int
    schema: str
    name: str
    partitioned: bool
    columns: list[str]  # without the generated ones
    key: list[str]

    @property
    def shown(self) -> str:
        """Return its name as people type it."""
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> sql.Identifier:
        """Return its name for SQL."""
        return sql.Identifier(self.schema, self.name)


def find(conn: Connection, names: Sequence[str], ledger: Ledger) -> list[Table]:
    """Return the tables of these names: `table`, or `schema.table`.

    Raise `SettingsError` if one is not there or is the ledger's, or if a name means several.
    """
    ours = {ledger.table, f"{ledger.table}_unfinished"}
    there = [Table(*cast("tuple[int, str, str, bool, list[str], list[str]]", row))
             for row in conn.execute(_TABLES)]  # fmt: skip
    there = [t for t in there if t.schema != ledger.schema or t.name not in ours]
    found: dict[int, Table] = {}
    for name in names:
        same = [table for table in there if name in (table.name, table.shown)]
        if len(same) != 1:
            several = ", ".join(table.shown for table in same)
            raise SettingsError(
                f"--data {name}: there are several tables of that name: {several}."
                if same
                else f"--data {name}: {_what_is(conn, name)}. Nothing was written.",
                f"Name a table as in: --data {same[0].shown if same else 'public.countries'}",
            )
        found[same[0].oid] = same[0]
    return list(found.values())


def _what_is(conn: Connection, name: str) -> str:
    kinds = conn.execute(_NO_TABLES, [name, name]).fetchall()
    return f"it is {kinds[0][0]}, not a table" if kinds else "there is no such table"


def copied(conn: Connection, tables: Sequence[Table]) -> list[bytes]:
    """Return the statements that fill the tables and set their sequences, with their semicolons.

    Raise `SettingsError` if rows refer to those of a table that is not among them: a new database
    would refuse them.
    """
    conn.execute(_FORMATS)
    rows = {table.oid: _rows(conn, table) for table in tables}
    by_number = {table.oid: table for table in tables}
    for row in conn.execute(_REFERENCES, {"chosen": list(rows)}):
        oid, schema, name, columns = cast("tuple[int, str, str, list[str]]", row)
        _check(by_number[oid], rows[oid], f"{schema}.{name}", columns)
    made = []
    for table in tables:
        into = sql.SQL("COPY {}{} FROM stdin;\n").format(table.quoted, _listed(table))
        made.append(b"".join([into.as_bytes(None), *rows[table.oid], b"\\."]))
        made += _sequences(conn, table)
    return made


def _check(table: Table, rows: Sequence[bytes], other: str, columns: list[str]) -> None:
    """Raise `SettingsError` if a row refers to the other table, whose rows are not dumped."""
    places = [table.columns.index(column) for column in columns if column in table.columns]
    values = (row[:-1].split(b"\t") for row in rows)
    if any(all(row[place] != _NULL for place in places) for row in values):
        raise SettingsError(
            f"--data {table.shown}: its rows refer to rows of {other}, which would not be there. "
            "Nothing was written.",
            f"Give that one as well: --data {other}",
        )


def _rows(conn: Connection, table: Table) -> list[bytes]:
    """Return the lines of the table's rows, in the order of its key, whatever they lie like."""
    key = [table.columns.index(column) for column in table.key if column in table.columns]
    rows = []
    for name in _parts(conn, table):
        query = sql.SQL("COPY {}{} TO STDOUT").format(name, _listed(table))
        with conn.cursor().copy(query.as_bytes(None)) as out:
            rows += b"".join(map(bytes, out)).splitlines(keepends=True)
    return sorted(rows, key=lambda row: _place(row, key))


def _parts(conn: Connection, table: Table) -> list[sql.Identifier]:
    """Return the tables that have the rows. Raise `SettingsError` if one is on another server."""
    if not table.partitioned:
        return [table.quoted]
    parts = []
    for schema, name, foreign in conn.execute(_PARTS, [table.oid]):
        if foreign:
            raise SettingsError(
                f"--data {table.shown}: its partition {schema}.{name} is a foreign table. "
                "Nothing was written.",
                "Name the partitions that are here: --data PARTITION",
            )
        parts.append(sql.Identifier(str(schema), str(name)))
    return parts


def _listed(table: Table) -> sql.Composable:
    columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    return sql.SQL(" ({})").format(columns) if table.columns else sql.SQL("")


def _place(row: bytes, key: Sequence[int]) -> tuple[list[tuple[bool, Decimal, bytes]], bytes]:
    """Return where a row stands: numbers by their value, before all else by its bytes."""
    values = row[:-1].split(b"\t")
    return [_value(values[place]) for place in key], row


def _value(field: bytes) -> tuple[bool, Decimal, bytes]:
    number = _NUMBER.fullmatch(field)
    return not number, Decimal(field.decode()) if number else Decimal(0), field


def _sequences(conn: Connection, table: Table) -> list[bytes]:
    made = []
    conn.execute(_NO_VIEWS)
    for schema, name in conn.execute(_SEQUENCES, [table.oid]).fetchall():
        quoted = sql.Identifier(str(schema), str(name))
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(quoted)
        last, called = conn.execute(query.as_bytes(None)).fetchone() or (1, False)
        text = sql.SQL("SELECT pg_catalog.setval({}, {}, {});")
        made.append(text.format(quoted.as_string(None), last, called).as_bytes(None))
    return made

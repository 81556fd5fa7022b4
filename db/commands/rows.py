"""The rows of reference tables, as COPY text that loads once every table is made.

They stand behind the tables and before keys, indexes and triggers, where pg_dump puts rows too: so
no order of the tables is wrong, and no trigger fires.
"""

from __future__ import annotations

from collections.abc import Sequence
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

    Raise `SettingsError` if one is not there or is the ledger's, if a name means several, or if
    rows refer to those of a table that is not among them: a new database would refuse them.
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
                else f"--data {name}: there is no such table. Nothing was written.",
                f"Name it with its schema: --data {same[0].shown if same else 'public.countries'}",
            )
        found[same[0].oid] = same[0]
    for row in conn.execute(_REFERENCES, {"chosen": list(found)}):
        oid, schema, name, columns = cast("tuple[int, str, str, list[str]]", row)
        _check(conn, found[oid], f"{schema}.{name}", columns)
    return list(found.values())


def _check(conn: Connection, table: Table, other: str, columns: list[str]) -> None:
    """Raise `SettingsError` if a row refers to the other table, whose rows are not dumped."""
    all_there = sql.SQL(" AND ").join(
        sql.SQL("{} IS NOT NULL").format(sql.Identifier(column)) for column in columns
    )
    query = sql.SQL("SELECT EXISTS (SELECT FROM {} WHERE {})").format(table.quoted, all_there)
    row = conn.execute(query.as_bytes(None)).fetchone()
    if row and row[0]:
        raise SettingsError(
            f"--data {table.shown}: its rows refer to rows of {other}, which would not be there. "
            "Nothing was written.",
            f"Give that one as well: --data {other}",
        )


def copied(conn: Connection, table: Table) -> list[bytes]:
    """Return the statements that fill the table and set its sequences, each with its semicolon."""
    conn.execute(_FORMATS)
    columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    # Rows come as they lie on the disk unless they are ordered, and that is another dump each time.
    order = sql.SQL(", ").join(map(sql.Identifier, table.key))
    if not table.key:
        order = sql.Composed([sql.SQL('t::text COLLATE "C"')])
    only = sql.SQL("") if table.partitioned else sql.SQL("ONLY ")
    query = sql.SQL("COPY (SELECT {} FROM {}{} AS t ORDER BY {}) TO STDOUT")
    with conn.cursor().copy(query.format(columns, only, table.quoted, order).as_bytes(None)) as out:
        rows = b"".join(bytes(block) for block in out)
    into = sql.SQL("COPY {} ({}) FROM stdin;\n").format(table.quoted, columns).as_bytes(None)
    return [into + rows + b"\\.", *_sequences(conn, table)]


def _sequences(conn: Connection, table: Table) -> list[bytes]:
    made = []
    for schema, name in conn.execute(_SEQUENCES, [table.oid]).fetchall():
        quoted = sql.Identifier(str(schema), str(name))
        query = sql.SQL("SELECT last_value, is_called FROM {}").format(quoted)
        last, called = conn.execute(query.as_bytes(None)).fetchone() or (1, False)
        text = sql.SQL("SELECT pg_catalog.setval({}, {}, {});")
        made.append(text.format(quoted.as_string(None), last, called).as_bytes(None))
    return made

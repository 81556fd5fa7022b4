"""Which table is the ledger, wherever it is, and whether it can be trusted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from psycopg import sql

from ..errors import LedgerError
from ..server import ours
from ..server.ours import Connection

NOTHING = "Nothing was executed."
# What the Node code reads and writes, byte for byte, and what is ours and may be null.
THEIRS = ("id", "filename", "executed_at")
OURS = {
    "checksum": "pg_catalog.text",
    "duration_ms": "integer",
    "executed_by": "pg_catalog.text",
}
# And of the progress table, since its first release.
_PROGRESS = ("filename", "unit", "checksum", "run_by", "started_at", "finished_at")
# The types that these may have; a char(n) has blanks that no filename has.
_TYPES = {
    "id": (20, 21, 23),  # int8, int2, int4
    "filename": (25, 1043),  # text, varchar
    "executed_at": (1082, 1114, 1184),  # date, timestamp, timestamptz
}
_FIRST_OF_OTHERS = 16384  # the least number of a type that the server did not come with

# Every table of these names, wherever it is. Before a column stands its type, and a `!` if it must
# be given a value. `plain`: ours, with nothing attached that would run with our rights. It is asked
# at the beginning of each run, and planning is most of what it costs: so the rest is asked where it
# is not plain. `closed`: nobody else may attach anything to it, or put another in its place; 10 is
# the superuser that initdb made, 6171 pg_database_owner.
FIND = """
SELECT n.nspname, c.relname, c.oid::pg_catalog.int8, c.relkind::pg_catalog.text,
       pg_catalog.pg_get_userbyid(c.relowner),
       pg_catalog.pg_get_userbyid(c.relowner) OPERATOR(pg_catalog.=) current_user
       AND c.relpersistence OPERATOR(pg_catalog.=) 'p'
       AND NOT (c.relhastriggers OR c.relhasrules OR c.relrowsecurity),
       c.relacl IS NULL
       AND (n.nspowner OPERATOR(pg_catalog.=) ANY ('{10,6171}'::pg_catalog.oid[])
            OR pg_catalog.pg_get_userbyid(n.nspowner) OPERATOR(pg_catalog.=) current_user),
       ARRAY(SELECT pg_catalog.concat(CASE WHEN a.attnotnull AND NOT a.atthasdef
                    AND a.attidentity OPERATOR(pg_catalog.=) '' THEN '!' END,
                    a.atttypid, ' ', a.attname)
             FROM pg_catalog.pg_attribute AS a
             WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
               AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped ORDER BY a.attnum),
       EXISTS (SELECT FROM pg_catalog.pg_index AS i
               JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
                AND a.attname OPERATOR(pg_catalog.=) 'filename'
                AND i.indkey[0] OPERATOR(pg_catalog.=) a.attnum
               WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid AND i.indisunique AND i.indisvalid
                 AND i.indpred IS NULL AND i.indnkeyatts OPERATOR(pg_catalog.=) 1)
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE c.relname OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.name[])
  AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
  AND (%s OPERATOR(pg_catalog.=) '' OR c.relnamespace OPERATOR(pg_catalog.=)
       (SELECT named.oid FROM pg_catalog.pg_namespace AS named
        WHERE named.nspname OPERATOR(pg_catalog.=) %s))
ORDER BY n.nspname"""
# Whether a table can be trusted with our rights.
_TRUST = """
WITH RECURSIVE mine (oid) AS (
    SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) current_user
    UNION
    SELECT m.roleid FROM pg_catalog.pg_auth_members AS m
    JOIN mine ON m.member OPERATOR(pg_catalog.=) mine.oid
)
SELECT owner.rolname,
       owner.rolsuper OR owner.oid OPERATOR(pg_catalog.=) d.datdba
       OR owner.rolname OPERATOR(pg_catalog.=) 'pg_database_owner'
       OR EXISTS (SELECT FROM mine WHERE mine.oid OPERATOR(pg_catalog.=) owner.oid),
       pg_catalog.row_security_active(c.oid),
       ARRAY(SELECT t.tgname::pg_catalog.text FROM pg_catalog.pg_trigger AS t
             WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT t.tgisinternal),
       ARRAY(SELECT r.rulename::pg_catalog.text FROM pg_catalog.pg_rewrite AS r
             WHERE r.ev_class OPERATOR(pg_catalog.=) c.oid),
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
             JOIN pg_catalog.pg_type AS y ON y.oid OPERATOR(pg_catalog.=) a.atttypid
             WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
               AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
               AND y.typtype OPERATOR(pg_catalog.=) 'd'),
       c.relpersistence OPERATOR(pg_catalog.=) 'u'
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_roles AS owner ON owner.oid OPERATOR(pg_catalog.=) c.relowner
JOIN pg_catalog.pg_database AS d
  ON d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
WHERE c.oid OPERATOR(pg_catalog.=) %s::pg_catalog.oid"""
# While it is held, nobody can attach a trigger, a rule or a policy, or put another table there.
HELD = {
    False: "LOCK TABLE {table} IN ROW EXCLUSIVE MODE",
    True: "LOCK TABLE {table}, {unfinished} IN ROW EXCLUSIVE MODE",
}
# The division fails unless the table is that role's, if one is named, with nothing attached.
_UNTOUCHED = """
SELECT 1 OPERATOR(pg_catalog./) coalesce((
    SELECT (c.relkind OPERATOR(pg_catalog.=) 'r'
            AND c.relpersistence OPERATOR(pg_catalog.=) 'p'
            AND (pg_catalog.pg_get_userbyid(c.relowner) OPERATOR(pg_catalog.=) owner.name
                 OR owner.name OPERATOR(pg_catalog.=) ''::pg_catalog.name)
            AND NOT (c.relrowsecurity AND pg_catalog.row_security_active(c.oid))
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t
                            WHERE t.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT t.tgisinternal)
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_rewrite AS r
                            WHERE r.ev_class OPERATOR(pg_catalog.=) c.oid))::integer
    FROM pg_catalog.pg_class AS c, (SELECT $1::pg_catalog.name) AS owner (name)
    WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass($2)::pg_catalog.oid), 0)"""
_OTHER_TABLES = """
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_class AS c
    JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.relkind::pg_catalog.text OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f}'::pg_catalog.text[])
      AND n.nspname OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.name[])
      AND NOT (n.nspname OPERATOR(pg_catalog.=) %s
               AND c.relname OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.name[]))
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                      WHERE d.classid OPERATOR(pg_catalog.=) 
                              'pg_catalog.pg_class'::pg_catalog.regclass
                        AND d.objid OPERATOR(pg_catalog.=) c.oid
                        AND d.deptype OPERATOR(pg_catalog.=) 'e'))
"""


class Ledger(NamedTuple):
    """The table's place, and what was found there.

    `unfinished`: the columns of the progress table beside it; none: it is not there. `owners`: of
    the two. `closed`: nobody who is not trusted may attach anything to one of them.
    `named`: the settings say the schema. `dumped`: the dump says it that sets the database up, so
    that the schema may have to be made first.
    """

    schema: str
    table: str
    exists: bool
    columns: tuple[str, ...]
    unfinished: tuple[str, ...] = ()
    is_unique: bool = True
    named: bool = False
    on_path: bool = True
    dumped: bool = False
    owners: tuple[str, ...] = ()
    closed: bool = True

    @property
    def complete(self) -> bool:
        """Return whether the table needs no adopting."""
        return self.exists and self.is_unique and set(OURS) <= set(self.columns)

    @property
    def wanted_schema(self) -> str:
        """Return the schema that the settings say; nothing, if they leave it open."""
        return self.schema if self.named else ""

    @property
    def keys(self) -> tuple[str, ...]:
        """Return what a run locks: what it shares with all that may come to the same ledger.

        Runs that leave the schema open may find or make it in different ones, so they share a key.
        """
        place = f"migrations:{self.schema}.{self.table}"
        return (place,) if self.named else (f"migrations:{self.table}", place)

    @property
    def shown(self) -> str:
        """Return its name as SQL takes it."""
        return self.compose("{table}").decode()

    def compose(self, text: str) -> bytes:
        """Return SQL with {table} and {unfinished} replaced by their quoted names."""
        return _composed(self.schema, self.table, text)


class _Found(NamedTuple):
    """A table of the ledger's name, or of the progress table's, as the catalog has it."""

    schema: str
    name: str
    oid: int
    kind: str
    owner: str
    plain: bool
    closed: bool
    marked: list[str]
    is_unique: bool

    @property
    def types(self) -> dict[str, int]:
        """Return the number of each column's type."""
        parts = (mark.removeprefix("!").partition(" ") for mark in self.marked)
        return {name: int(number) for number, _, name in parts}

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.types)

    def why_not(self, wanted: Sequence[str], known: Collection[str]) -> str:
        """Return why it is not a table with the `wanted` columns; nothing, if it is one."""
        types = self.types
        required = {mark.partition(" ")[2] for mark in self.marked if mark.startswith("!")}
        strange = sorted(required - {*wanted, *known})
        other = [name for name in wanted if types.get(name) not in _TYPES.get(name, types.values())]
        if self.kind != "r":
            return "it is partitioned" if self.kind == "p" else "it is no table"
        if lacks := sorted(set(wanted) - set(types)):
            return f"it has no column {' and no '.join(lacks)}"
        if strange:
            return f"it cannot do without {', '.join(strange)}"
        return f"its {other[0]} has another type" if other else ""

    @property
    def is_ledger(self) -> bool:
        return not self.why_not(THEIRS, OURS)


class _Trust(NamedTuple):
    """What runs with the rights of whoever writes to a table."""

    owner: str
    trusted: bool
    secured: bool  # by row-level security that applies to us
    triggers: list[str]
    rules: list[str]
    domains: list[str]  # columns whose type's owner says what is checked
    unlogged: bool


def find(conn: Connection, name: str, tables: list[ours.Row] | None = None) -> Ledger:
    """Return where the ledger is or would be. Reads only. `tables`: what `FIND` has just found.

    `name` is `schema.table`, or `table`: the ledger of that name in whatever schema it is, or, if
    there is none, one to be made in the first schema of the search_path. Raise `LedgerError` if
    there are several, or what has the name is another tool's or cannot be trusted.
    """
    schema, table = parted(name)
    if tables is None:
        tables = ours.ask(conn, *finding(schema, table))
    return chosen(conn, tables, schema, table)


def parted(name: str) -> tuple[str, str]:
    """Return the schema, or nothing, and the table."""
    schema, _, table = name.rpartition(".")
    return schema, table


def make_schema(conn: Connection, name: str) -> None:
    """Make the schema of a ledger of that name, in a database that we have made: who else could."""
    schema, _ = parted(name)
    if schema:
        made = sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema))
        conn.execute(made)


def finding(schema: str, table: str) -> tuple[str, list[object]]:
    """Return what finds the tables; those of one schema, if it is named: there may be many."""
    return FIND, [names(table), schema, schema]


def names(table: str) -> list[str]:
    """Return the names of the ledger and of the progress table beside it."""
    return [table, f"{table}_unfinished"]


def chosen(conn: Connection, rows: list[ours.Row], schema: str, table: str) -> Ledger:
    """Return which of the tables that `FIND` has found is the ledger. Raise as `find()` does."""
    every, path = [_Found(*row) for row in rows], conn.schemas
    tables = [f for f in every if f.name == table and (f.schema == schema if schema else True)]
    ledgers = [found for found in tables if schema or found.is_ledger]
    if ledgers[1:]:
        places = [f"{found.schema}.{table}" for found in ledgers]
        raise LedgerError(
            f"This database has {len(places)} ledgers: {', '.join(places)}. {NOTHING}",
            "Say which one is meant, in .env or the environment:",
            *(f"  MIGRATIONS_TABLE={place}" for place in places[:5]),
        )
    # Another tool's table is in the way if unqualified names lead to it.
    found = next(iter(ledgers or [f for f in tables if f.schema in path]), None)
    place = found.schema if found else schema or (path[0] if path else "public")
    beside = next((f for f in every if f.schema == place and f.name != table), None)
    if found and (why := found.why_not(THEIRS, OURS)):
        raise _no_ledger(found, why, "is not a ledger of this tool or of the Node scripts")
    for each in filter(None, (found, beside)):
        if not each.plain or max(each.types.values(), default=0) >= _FIRST_OF_OTHERS:
            for row in ours.ask(conn, _TRUST, [each.oid]):  # none: it is gone again
                _refuse(each, _Trust(*row))
    if beside and (why := beside.why_not(_PROGRESS, ())):
        raise _no_ledger(beside, why, "is not the progress table of a ledger")
    columns = beside.columns if beside else ()
    if found is None:
        return Ledger(place, table, False, (), columns, named=bool(schema))
    return Ledger(
        place,
        table,
        True,
        found.columns,
        columns,
        found.is_unique,
        named=bool(schema),
        on_path=place in path,
        owners=tuple(each.owner for each in (found, beside) if each),
        closed=all(each.closed for each in (found, beside) if each),
    )


def untouched(ledger: Ledger, *, unfinished: bool) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield what fails unless the tables are as they were found, with what it is asked of.

    `unfinished`: the progress table as well.
    """
    names = ("{table}", "{unfinished}") if unfinished else ("{table}",)
    for name, owner in zip(names, ledger.owners, strict=False):
        yield _UNTOUCHED, (owner, ledger.compose(name).decode())


def asked(text: str) -> str:
    """Return a text with psycopg's placeholders in place of the server's."""
    return text.replace("$1", "%s").replace("$2", "%s")


def _no_ledger(found: _Found, why: str, what: str) -> LedgerError:
    """Return the error of a table that is another tool's."""
    return LedgerError(
        f"{found.schema}.{found.name} {what}: {why}. Its columns are "
        f"{', '.join(found.columns)}. {NOTHING}",
        "If another tool owns it, set MIGRATIONS_TABLE to another name, such as db_migrations.",
    )


def _refuse(found: _Found, trust: _Trust) -> None:
    """Raise `LedgerError` for a table that would run others' code as us."""
    place = f"{found.schema}.{found.name}"
    quoted = sql.Identifier(found.schema, found.name).as_string(None)
    if not trust.trusted:
        raise LedgerError(
            f"{place} belongs to {trust.owner}, who is neither this role, nor one that it is a "
            f"member of, nor the owner of the database or a superuser. {NOTHING}",
            "What a table's owner attaches to it runs with the rights of whoever writes to it.",
            "If it is the ledger, let an administrator give it to a role that runs migrations:",
            f"  ALTER TABLE {quoted} OWNER TO …;",
            "If it is not: MIGRATIONS_TABLE=another_name",
        )
    for what, kind, names in (
        ("triggers", "TRIGGER", trust.triggers),
        ("rules", "RULE", trust.rules),
    ):
        if names:
            drops = (
                f"DROP {kind} {sql.Identifier(n).as_string(None)} ON {quoted};" for n in names[:5]
            )
            raise LedgerError(
                f"{place} has {what}, which could change what is recorded: "
                f"{', '.join(names[:5])}. {NOTHING}",
                "Remove them from the ledger:",
                *drops,
                *_let_nobody(found, kind, quoted),
            )
    if trust.secured:
        raise LedgerError(
            f"{place} has row-level security that applies to this role, so that rows of it may "
            f"not be seen. {NOTHING}",
            f"Let its owner run: ALTER TABLE {quoted} DISABLE ROW LEVEL SECURITY;",
        )
    if trust.domains:
        column = sql.Identifier(trust.domains[0]).as_string(None)
        raise LedgerError(
            f"{place} has a column of a domain, {trust.domains[0]}: what that checks runs with the "
            f"rights of whoever writes to it. {NOTHING}",
            "Give the column a type of the server's own, such as:",
            f"  ALTER TABLE {quoted} ALTER COLUMN {column} TYPE text;",
        )
    if trust.unlogged:
        raise LedgerError(
            f"{place} is unlogged: it is empty after a crash of the server, and all files would "
            f"run again. {NOTHING}",
            f"Let its owner run: ALTER TABLE {quoted} SET LOGGED;",
        )


def _let_nobody(found: _Found, kind: str, quoted: str) -> list[str]:
    """Return who should not be able to attach any more, if others may."""
    if found.closed or kind != "TRIGGER":
        return []
    return [
        "If it was not a file that made them, let nobody else (see \\dp):",
        f"  REVOKE TRIGGER ON {quoted} FROM …;",
    ]


def is_empty(conn: Connection, ledger: Ledger) -> bool:
    """Return whether the schemas of the search_path, and its own, hold nothing but the ledger.

    Reads only. What extensions brought along does not count.
    """
    schemas = [*conn.schemas, ledger.schema]
    parameters = [schemas, ledger.schema, names(ledger.table)]
    return not ours.ask(conn, _OTHER_TABLES, parameters)[0][0]


@lru_cache(256)  # the same few, for each file
def _composed(schema: str, table: str, text: str) -> bytes:
    names = {"table": table, "unfinished": f"{table}_unfinished"}
    quoted = {key: sql.Identifier(schema, name).as_string(None) for key, name in names.items()}
    quoted["schema"] = sql.Identifier(schema).as_string(None)
    if "%s" in text:  # a percent sign in a name is no placeholder
        quoted = {key: name.replace("%", "%%") for key, name in quoted.items()}
    return text.format(**quoted).encode()

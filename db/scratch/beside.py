"""What of a schema pg_dump does not say: asked of the catalogs, and put beside it."""

from __future__ import annotations

from typing import NamedTuple

from ..engine import place
from ..engine.place import Ledger
from ..server import ours
from ..server.connection import Target
from ..server.ours import Connection
from . import objects
from .objects import THE_SERVERS, Object

# pg_dump leaves an INVALID index out: https://www.postgresql.org/docs/current/catalog-pg-index.html
_INVALID = """
SELECT n.nspname, c.relname, pg_catalog.pg_get_indexdef(c.oid)
FROM pg_catalog.pg_index AS i
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) i.indexrelid
JOIN pg_catalog.pg_class AS t ON t.oid OPERATOR(pg_catalog.=) i.indrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE NOT i.indisvalid AND c.relkind OPERATOR(pg_catalog.=) 'i'
  AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
  AND n.nspname OPERATOR(pg_catalog.!~) '^pg_'
  AND NOT (n.nspname OPERATOR(pg_catalog.=) %s
           AND t.relname OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.name[]))"""
# The triggers that a foreign key consists of; pg_dump says it of other triggers.
_DISABLED = """
SELECT DISTINCT CASE WHEN k.contype OPERATOR(pg_catalog.=) 'f' THEN 'FK CONSTRAINT'
                ELSE 'CONSTRAINT' END, n.nspname,
       pg_catalog.concat(c.relname, ' ', k.conname), t.tgrelid::pg_catalog.regclass::pg_catalog.text
FROM pg_catalog.pg_trigger AS t
JOIN pg_catalog.pg_constraint AS k ON k.oid OPERATOR(pg_catalog.=) t.tgconstraint
JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) k.conrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
WHERE t.tgisinternal AND t.tgenabled OPERATOR(pg_catalog.<>) 'O'
ORDER BY 2, 3, 4"""
_VERSIONS = """
SELECT e.extname, e.extversion, a.default_version OPERATOR(pg_catalog.=) e.extversion
FROM pg_catalog.pg_extension AS e
LEFT JOIN pg_catalog.pg_available_extensions AS a ON a.name OPERATOR(pg_catalog.=) e.extname"""
_SETTINGS = """
SELECT coalesce(r.rolname, ''), setting
FROM pg_catalog.pg_db_role_setting AS s
CROSS JOIN pg_catalog.unnest(s.setconfig) AS setting
JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.setdatabase
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid OPERATOR(pg_catalog.=) s.setrole
WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"""
_HAS_PUBLIC = "SELECT pg_catalog.to_regnamespace('public') IS NOT NULL"


class Schema(NamedTuple):
    """A database's schema: what pg_dump says, and what was asked beside it."""

    dump: bytes
    facts: dict[Object, str]
    settings: dict[Object, str]  # of the database, and of roles in it
    has_public: bool

    def objects(self, dump: bytes | None = None) -> dict[Object, str]:
        """Return its objects, but the settings; with another `dump` of the same schema, by that."""
        made = objects.parted(self.dump if dump is None else dump)
        if self.has_public:  # which pg_dump takes for granted
            made.setdefault(Object("SCHEMA", "", "public"), "CREATE SCHEMA public;")
        for key, fact in self.facts.items():
            if key.kind != "EXTENSION" or key in made:  # plpgsql is there in any case
                made[key] = "\n".join(filter(None, (made.get(key), fact)))
        return made


def schema(target: Target, conn: Connection, book: Ledger, *, state: str, role: str = "") -> Schema:
    """Return the schema but the ledger, as the transaction of `conn` sees it.

    Raise `MigrationsError` if pg_dump fails; `state` is what became of the command then. `role`:
    that of the files.
    """
    invalid, disabled, versions, own, public = ours.asks(
        conn,
        [
            (_INVALID, [book.schema, place.names(book.table)]),
            (_DISABLED, []),
            (_VERSIONS, []),
            (_SETTINGS, []),
            (_HAS_PUBLIC, []),
        ],
    )
    facts: dict[Object, str] = {}
    for schema, name, definition in invalid:
        facts[Object("INDEX", schema, name)] = f"{definition};\n-- INVALID"
    for kind, schema, name, table in disabled:
        key = Object(kind, schema, name)
        facts[key] = "\n".join(filter(None, (facts.get(key), f"-- disabled on {table}")))
    for name, version, is_default in versions:
        who = THE_SERVERS if is_default else ""
        facts[Object("EXTENSION", "", name)] = f"-- version {version}{who}"
    return Schema(
        objects.text(target, conn, book, state=state, role=role),
        facts,
        dict(_setting(*row) for row in own),
        bool(public[0][0]),
    )


def settings(conn: Connection) -> dict[Object, str]:
    """Return the settings of the database, and of roles in it."""
    return dict(_setting(*row) for row in ours.ask(conn, _SETTINGS))


def _setting(role: str, setting: str) -> tuple[Object, str]:
    name, _, value = setting.partition("=")
    if role:
        return Object("ROLE SETTING", "", f"{role} {name}"), f"SET {name} = {value}"
    return Object("DATABASE SETTING", "", name), f"SET {name} = {value}"

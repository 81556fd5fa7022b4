"""What has to be put right before a file runs again: the file, the rows, or something elsewhere."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import NamedTuple

import psycopg
from psycopg import sql

from ..errors import LedgerError, MigrationsError, one_line
from ..server import pooler
from ..server.ours import Connection
from ..server.pipeline import CommandFailed
from . import place
from .place import Ledger
from .running import Running
from .session import Session

# Conditions that the file did not bring about, by class or code:
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_ELSEWHERE = {
    "53": "See to that on the server",
    "58": "See to that on the server",
    "XX": "See to that on the server; its log may say more",
    "08": "It is another server that did not answer: see to that one",
    "08P01": "It is another server that refused it: see to that one",
    "HV": "See to the foreign server",
}
_UNDEFINED = (
    "42883",
    "42P01",
    "42703",
    "42704",
    "3F000",
)  # function, table, column, object, schema
_CHECKS_ROWS = ("CREATE INDEX", "ALTER TABLE", "ALTER DOMAIN", "CREATE UNIQUE INDEX")
_NO_ROLE = r'role "(.+?)" does not exist'


class Unloaded(NamedTuple):
    """The base schema's file that a database never got, and whether db.migrate would load it."""

    shown: str
    loads: bool


def lines(
    failed: CommandFailed, running: Running, command: str, unloaded: Unloaded | None
) -> list[str]:
    """Return what to do."""
    then = f"then: invoke {command}"
    missing = failed.diagnostic.sqlstate in _UNDEFINED and not re.search(
        _NO_ROLE, failed.diagnostic.message
    )
    if unloaded and missing and running.script.path != unloaded.shown:
        return [*_load(unloaded, command), f"If that is not it: fix the file, {then}"]
    return [f"{_what(failed)}, {then}"]


def _load(unloaded: Unloaded, command: str) -> list[str]:
    """Return how the database gets its base schema."""
    never = f"This database never got {unloaded.shown}"
    if unloaded.loads:
        load = "db.migrate"
        if command.startswith("db.fleet"):  # whose --to and --name stand last
            load = f"{re.sub(' --(?:to|name) .*', '', command)} --migrate"
        return [f"{never}. To load it, and the migrations: invoke {load}"]
    return [
        f"{never}, and db.migrate loads that into an empty database only.",
        f"To load it by hand: invoke db.console, and there: \\i {unloaded.shown}",
        "Then: invoke db.baseline --to schema.sql, and: invoke db.migrate-run",
    ]


def _what(failed: CommandFailed) -> str:
    said, what = failed.diagnostic, "Fix the file"
    kind = getattr(failed.command.statement, "kind", "")
    role = re.search(_NO_ROLE, said.message)
    if failed.command.role == "role":
        what = "It is MIGRATIONS_ROLE that is refused, not the file. See to it"
    elif role:
        what = f'Let an administrator CREATE ROLE "{role[1]}", or fix the file'
    elif said.sqlstate[:2] == "23" and kind.startswith(_CHECKS_ROWS):
        what = "It is the rows that do not fit, not the file. Mend them"
    elif said.sqlstate[:2] == "23":
        what = "Fix the file, or the rows that are in its way"
    elif limit := pooler.limit(said.sqlstate, said.message):
        what = f"The pooler ended it twice, by its {limit}. Raise that, or connect to the server "
        what += "directly"
    elif said.sqlstate[:2] in _ELSEWHERE and said.sqlstate != "58P01":
        what = _ELSEWHERE.get(said.sqlstate) or _ELSEWHERE[said.sqlstate[:2]]
    elif said.sqlstate == "42501":
        what = "Let the owner GRANT it, or own it (MIGRATIONS_ROLE), or fix the file"
    return what


def unusable(session: Session, error: psycopg.Error, command: str) -> LedgerError:
    """Return the error of a ledger that cannot be used. `command` is what to type to go on."""
    said = one_line(error.diag.message_primary or str(error))
    user = session.server.connected.user
    advice = of_the_ledger(error, session.conn, session.settings.ledger, user)
    advice.append(f"Nothing more was executed. To go on: invoke {command}")
    return LedgerError(f"The ledger cannot be used: {said} ({error.sqlstate})", *advice)


def distrusted(session: Session, book: Ledger, stands: str, command: str) -> LedgerError | None:
    """Return the error of a ledger that is not as it was found; None if it is to be trusted.

    `stands`: what is executed. `command`: what to type to go on.
    """
    then = f"Then: invoke {command}"
    try:
        now = place.find(session.conn, session.settings.ledger)
    except LedgerError as why:
        return LedgerError(why.message.replace(place.NOTHING, stands), *why.advice, then)
    if now.owners != book.owners:
        return None
    return LedgerError(
        f"Something was attached to the ledger while files ran, and is gone again. {stands}",
        f"See who may (psql: \\dp {book.shown}), and take TRIGGER from them.",
        then,
    )


def _grants(book: Ledger | None, schema: str, user: str) -> list[str]:
    """Return what lets a role use the ledger, or make it where it is not there."""
    role, quoted = sql.Identifier(user).as_string(None), sql.Identifier(schema).as_string(None)
    make = f"  GRANT USAGE, CREATE ON SCHEMA {quoted} TO {role};"
    if book is None or not book.exists:
        return ["To make it:", make]
    table = book.compose("{table}").decode()
    if not book.complete:
        return ["To adopt it, a role has to own it:", f"  ALTER TABLE {table} OWNER TO {role};"]
    tables = book.compose("{table}, {unfinished}").decode() if book.unfinished else table
    sequence = sql.Identifier(schema, f"{book.table}_id_seq").as_string(None)
    return [
        "To use it:",
        make if not book.unfinished else f"  GRANT USAGE ON SCHEMA {quoted} TO {role};",
        f"  GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {role};",
        f"  GRANT USAGE ON SEQUENCE {sequence} TO {role};",
    ]


def of_the_ledger(error: psycopg.Error, conn: Connection, name: str, user: str) -> list[str]:
    """Return what to type where the ledger cannot be used. `name` is as it is in the settings."""
    book: Ledger | None = None
    with suppress(psycopg.Error, MigrationsError):  # by its real name, if it can be found
        book = place.find(conn, name)
    schema = book.schema if book else name.rpartition(".")[0] or "public"
    table = book.compose("{table}").decode() if book else name
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return _grants(book, schema, user)
    if isinstance(error, psycopg.errors.InvalidSchemaName):
        return [
            f'Make its schema: CREATE SCHEMA "{schema}";',
            "Or set MIGRATIONS_TABLE to another place.",
        ]
    if isinstance(error, psycopg.errors.DuplicateObject):
        return ["Set MIGRATIONS_TABLE to another name, such as db_migrations."]
    if isinstance(error, psycopg.errors.UniqueViolation):
        return [f"{error.diag.message_detail} Leave one row in {table}."]
    return []

"""What of a no-transaction file cannot go through a pooler in transaction mode. Pure: text only.

Outside a transaction each statement may be on another server connection, which others use as well.
So nothing is set for the session there, and a file that needs it is refused before anything runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..settings import Settings
from ..sql.lexer import Statement
from ..sql.script import Script, Unit
from .resume import strong

if TYPE_CHECKING:
    from ..server.described import Server

_DIRECT = "Connect to the server directly for this file: past the pooler, or to its port."
_KINDS = frozenset({"SET", "RESET", "LISTEN", "UNLISTEN", "PREPARE", "EXECUTE", "DEALLOCATE",
                    "DISCARD ALL", "DISCARD PLANS", "DISCARD SEQUENCES", "DISCARD TEMP",
                    "DISCARD TEMPORARY", "LOAD"})  # fmt: skip
_TEMPORARY = re.compile(
    rb"(?is)CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?\b"
    rb"|.*\bINTO\s+TEMP(?:ORARY)?\b"
    rb"|CREATE\s[\w\s]*\"?\bpg_temp\"?\s*\."
    rb"|.*\bINTO\s+(?:TABLE\s+)?\"?pg_temp\"?\s*\."
)
_HOLDS = re.compile(rb"(?is)DECLARE\s+(?:\"[^\"]+\"|\S+)\s[\w\s]*\bWITH\s+HOLD\b")
_DROPPED = re.compile(rb"(?i)\bON\s+COMMIT\s+DROP\b")
_SETS = re.compile(rb"(?i)\bset_config\s*\(")
_SETS_LOCALLY = re.compile(rb"(?i),\s*(?:true|'t(?:rue)?')\s*\)")
_LOCKS = re.compile(rb"(?i)\bpg_(?:try_)?advisory_lock(?:_shared)?\s*\(")
_DEFINES = ("CREATE", "ALTER", "COMMENT", "DROP")


def refuse(script: Script, server: Server, settings: Settings) -> None:
    """Raise `ScriptError` for the first statement that needs the session to be its own.

    Not if there is no pooler: then it is.
    """
    if not server.pooled:
        return
    for unit in script.units():
        for found in unit.statements:
            if what := next(_lasting(script.sql(found), found, unit), None):
                message = f"{what} does not last from one statement to the next behind a pooler"
                inside = "Or put it, as SET LOCAL, into a BEGIN … COMMIT block with what needs it."
                more = (inside,) if found.kind == "SET" else ()
                raise script.error(message, _DIRECT, *more, at=found.start)
        if not unit.transactional:
            _refuse_outside(script, unit, server, settings)


def _refuse_outside(script: Script, unit: Unit, server: Server, settings: Settings) -> None:
    (found,), directives = unit.statements, script.directives
    at = found.start
    where = f"{found.kind or 'this statement'} runs outside a transaction; behind a pooler"
    if directives.statement_timeout_ms is not None:
        raise script.error(f"{where} it can have no statement-timeout", _DIRECT, at=at)
    if settings.role:
        raise script.error(f"{where} it cannot run as MIGRATIONS_ROLE", _DIRECT, at=at)
    lock_timeout_ms = directives.lock_timeout_ms
    if lock_timeout_ms is None:
        lock_timeout_ms = settings.lock_timeout_ms
    if strong(found.kind, script.sql(found)):
        if lock_timeout_ms:
            message = f"{where} it can have no lock-timeout, and the application would queue"
            risk = "Or let it wait for its locks without limit: -- migrate: lock-timeout=0"
            raise script.error(message, _DIRECT, risk, at=at)
    elif server.lock_timeout not in (None, "0") and found.kind.endswith("CONCURRENTLY"):
        message = f"{where} it has the server's lock_timeout ({server.lock_timeout}), and may fail"
        raise script.error(message, _DIRECT, at=at)


def _lasting(sql: bytes, found: Statement, unit: Unit) -> Iterator[str]:
    """Yield what a statement leaves in its session, by name."""
    if found.kind in _KINDS:
        yield f"What {found.kind} does"
    if _TEMPORARY.match(sql) and not (_DROPPED.search(sql) and len(unit.statements) > 1):
        yield "What is temporary"
    if _HOLDS.match(sql):
        yield "A cursor WITH HOLD"
    if not found.kind.startswith(_DEFINES):
        if len(_SETS.findall(sql)) > len(_SETS_LOCALLY.findall(sql)):
            yield "What set_config(…, false) sets"
        if _LOCKS.search(sql):
            yield "A lock of the session (pg_advisory_xact_lock is one of a transaction)"

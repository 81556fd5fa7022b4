"""A refused statement -> the error that tells a person where, why and what to do next."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import Diagnostic, FileChanged, MigrationsError, StatementFailed
from ..events import Blocker
from ..server.pipeline import CommandFailed
from ..sql.lexer import Statement
from ..sql.script import Script
from . import remedy
from .running import Running

_REMOTE = (
    "This server could not reach another one, such as a worker of Citus. With MIGRATIONS_ROLE it "
    "logs in there as that role, which needs LOGIN."
)
# What to do about a SQLSTATE, where the server's own hint does not say it.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_ADVICE = {
    "25001": "A statement that cannot run in a transaction needs this on a line at the top: "
    "-- migrate: no-transaction",
    "2D000": "A procedure or block that commits as it goes needs this on a line at the top: "
    "-- migrate: no-transaction",
    "55P04": "Use the new enum value in a later file: this one must be committed first.",
    "57014": "A statement may take longer in this file if it says at the top: "
    "-- migrate: statement-timeout=10min",
    "53100": "There is no space on the server's disk.",
    "08001": _REMOTE,
    "08006": _REMOTE,
    "25P04": "The file, the role or the database sets transaction_timeout. Without it for this "
    "file, as its first line: SET LOCAL transaction_timeout = 0;",
    "25P03": "The file, the role or the database sets idle_in_transaction_session_timeout. "
    "Without it for this file, as its first line: "
    "SET LOCAL idle_in_transaction_session_timeout = 0;",
    "57P01": "It ended twice at this statement, which was not sent a third time: either the "
    "statement ends its own session, or somebody does.",
    "": "It was not sent a third time. The server's log has the reason.",
    "53200": "The server is out of memory or of locks: see max_locks_per_transaction.",
}

# In a no-transaction file a SET LOCAL does nothing, and what has begun is not edited.
_ENDS_SESSIONS = {
    "25P04": "transaction_timeout",
    "25P03": "idle_in_transaction_session_timeout",
}

# The server's "COPY t, line 3, column a: "x"", in any language.
_ROW = r"(?m)^COPY .+?, [^\d,]+(\d+)(?:, [^\d,]+ \S+: \"(.*)\"$)?"
_LINE = 10_000  # bytes of a row in which its value is looked for


def explain(
    failed: CommandFailed,
    running: Running,
    *,
    outcome: str,
    notices: tuple[Diagnostic, ...],
    blockers: tuple[Blocker, ...],
    doubt: Sequence[str],
    command: str,
    unloaded: remedy.Unloaded | None,
) -> MigrationsError:
    """Return the error. `outcome`: what stands now. `command`: what to type to go on.

    `doubt`: what somebody has to say before that. `unloaded`: the base schema's file, if this
    database never got it.
    """
    said, script = failed.diagnostic, running.script
    if failed.command.role in ("record", "untouched") and said.sqlstate[:2] in ("22", "42"):
        return _touches_the_ledger(said, running, outcome, notices, command)
    advice = [f"blocked by {blocker}" for blocker in blockers]
    if doubt:
        advice += [*_known(said, running, failed.command.statement), *doubt]
        advice.append(f"Then: invoke {command}")
    elif said.sqlstate in ("55P03", "40P01"):
        advice += _in_the_way(running, seen=bool(blockers), locked=said.sqlstate == "55P03")
        advice.append(f"Then: invoke {command}")
    else:
        advice += _known(said, running, failed.command.statement)
        advice += _missing_extension(said)
        advice += remedy.lines(failed, running, command, unloaded)
    location, excerpt = None, ""
    found = failed.command.statement
    if isinstance(found, Statement):
        try:
            offset = _place(said, script, found)
            location, excerpt = script.location(offset), script.excerpt(offset)
        except FileChanged as changed:
            outcome = f"{changed.message} {outcome}"
    else:
        at = failed.command.sql.decode(errors="replace").strip().split("\n")[0][:60]
        outcome = f"{script.path}, at {at}: {outcome}"
    return StatementFailed(
        said,
        *advice,
        filename=running.filename,
        outcome=outcome,
        notices=notices,
        location=location,
        excerpt=excerpt,
    )


def _in_the_way(running: Running, *, seen: bool, locked: bool) -> list[str]:
    """Return what to do about who holds the lock, whom an attempt of some ms is too short to see.

    `locked`: not a deadlock, whose sessions the server names itself.
    """
    if seen:
        return ["End that session, or wait longer for it: MIGRATIONS_LOCK_WAIT=30min"]
    own = running.script.directives.lock_timeout_ms is not None
    longer = "-- migrate: lock-timeout=2s" if own else "MIGRATIONS_LOCK_TIMEOUT=2s"
    unseen = [f"No session was seen in the way: a longer lock-timeout names it: {longer}"]
    return [*(unseen if locked else []), "To wait longer for the lock: MIGRATIONS_LOCK_WAIT=30min"]


def _known(said: Diagnostic, running: Running, statement: object) -> list[str]:
    """Return what is to be done about this SQLSTATE in this file, if it is known."""
    kind = statement.kind if isinstance(statement, Statement) else ""
    if said.sqlstate == "25001" and kind.startswith("SET"):
        return ["Put it above all other statements of the file, or of its BEGIN … COMMIT block."]
    if said.sqlstate in ("25001", "2D000") and not running.script.directives.transaction:
        return [
            "A statement that cannot run in a transaction, though its text does not show it, needs "
            "this on the line above it: -- migrate: outside"
        ]
    if said.sqlstate in _ENDS_SESSIONS and not running.script.directives.transaction:
        name = _ENDS_SESSIONS[said.sqlstate]
        return [
            f"The file, the role or the database sets {name}. Without it for this file, if it is "
            f"not the file itself, begin the command with: PGOPTIONS='-c {name}=0'",
            f"If it is the file, put this above the statement: SET {name} = 0;",
        ]
    return [_ADVICE[said.sqlstate]] if said.sqlstate in _ADVICE else []


def _place(said: Diagnostic, script: Script, found: Statement) -> int:
    """Return the byte that the server's error is about."""
    if said.position:
        return script.offset(found, said.position)
    row = re.findall(_ROW, said.context) if found.data else []
    if not row:
        return found.start
    start, end = script.data_line(found, int(row[-1][0]))
    value = row[-1][1].encode()
    line = b"".join(script.chunks((start, min(end, start + _LINE))))
    return start + (line.index(value) if value and line.count(value) == 1 else 0)


def _touches_the_ledger(
    said: Diagnostic,
    running: Running,
    outcome: str,
    notices: tuple[Diagnostic, ...],
    command: str,
) -> StatementFailed:
    """Return the error of a file behind which the ledger is not as it was."""
    message = (
        "this file changes the ledger itself: rows of it are not there any more, or something is "
        "attached to it"
    )
    return StatementFailed(
        said._replace(message=message),
        "What a file deletes, truncates or renames, and its triggers, rules and policies, must not "
        "include the migrations table;",
        "to change what the ledger says, there is: invoke --help db.repair",
        f"Fix the file, then: invoke {command}",
        filename=running.filename,
        outcome=f"{running.script.path}: {outcome}",
        notices=notices,
    )


def _missing_extension(said: Diagnostic) -> list[str]:
    missing = re.search(r'"(?:.*/)?([\w-]+)(?:\.control)?"', said.message)  # 13 names the file
    if said.sqlstate not in ("0A000", "58P01") or not missing or "extension" not in said.message:
        return []
    return [
        f"The server does not have the extension {missing[1]}: install its package there (Debian: "
        "postgresql-contrib, or the extension's own; a managed service lists what it allows)."
    ]

"""A refused statement -> the error that tells a person where, why and what to do next."""

from __future__ import annotations

import re

from ..errors import Diagnostic, MigrationsError, StatementFailed
from ..events import Blocker
from ..server.pipeline import CommandFailed
from ..sql.script import Statement
from .session import Running

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
    "53100": "Free disk space on the server first.",
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


def explain(
    failed: CommandFailed,
    running: Running,
    *,
    outcome: str,
    notices: tuple[Diagnostic, ...],
    blockers: tuple[Blocker, ...],
    command: str,
) -> MigrationsError:
    """Return the error. `outcome`: what stands now. `command`: what to type to go on."""
    said, script = failed.diagnostic, running.script
    advice = [f"blocked by {blocker}" for blocker in blockers]
    if said.sqlstate in ("55P03", "40P01"):
        advice.append("End that session, or wait longer for it: MIGRATIONS_LOCK_WAIT=30min")
        advice.append(f"Then: invoke {command}")
    else:
        advice += [_ADVICE[said.sqlstate]] if said.sqlstate in _ADVICE else []
        advice += _missing_extension(said)
        advice.append(f"Fix the file, then: invoke {command}")
    location, excerpt = None, ""
    found = failed.command.statement
    if isinstance(found, Statement):
        offset = script.offset(found, said.position) if said.position else found.start
        location, excerpt = script.location(offset), script.excerpt(offset)
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


def _missing_extension(said: Diagnostic) -> list[str]:
    missing = re.search(r'"(?:.*/)?([\w-]+)(?:\.control)?"', said.message)  # 13 names the file
    if said.sqlstate not in ("0A000", "58P01") or not missing or "extension" not in said.message:
        return []
    return [
        f"The server does not have the extension {missing[1]}: install its package there (Debian: "
        "postgresql-contrib, or the extension's own; a managed service lists what it allows)."
    ]

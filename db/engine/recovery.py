"""What a run does about a connection that ended: who is to blame for it, and what stands.

A link that is cut and a server that is restarted are nobody's fault: the file is sent again. A
statement that ends its own session would end the next one as well, so it is not sent a third time.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from typing import cast

import psycopg
from psycopg.pq import ConnStatus

from ..errors import ConnectionFailed, ConnectionLost, Diagnostic, Interrupted, listed, one_line
from ..events import Event, Reconnected
from ..files.folder import Migration
from ..files.plan import Progress
from ..server import ours, pooler
from ..server.pipeline import Command, CommandFailed, LinkLost
from .running import Running
from .session import Session

_LOSSES = 3  # of the connection, without a file getting done in between

_TIMED_OUT = {"25P04"}  # transaction_timeout: the next attempt would take as long
_CRASHED_ELSEWHERE = "57P02"  # the server stopped for the sake of another of its sessions
_TOLD_S = 0.5  # a server that has crashed tells its other sessions at once
_STANDBYS = "SELECT pg_catalog.current_setting('synchronous_standby_names', true)"
# If the server has started since our session did, then somebody else has stopped it.
_RESTARTED = """
SELECT pg_catalog.date_part('epoch', pg_catalog.now() OPERATOR(pg_catalog.-)
       pg_catalog.pg_postmaster_start_time()) OPERATOR(pg_catalog.<) %s::pg_catalog.float8"""


class Recovery:
    """How often the connection was lost, and which statement was under way each time."""

    def __init__(self) -> None:
        self.losses = 0
        self.suspect = ""  # the file that was under way, if it may have been its fault
        self._place: object = None  # its statement, where that is certain
        self._crashed = False

    def progress(self) -> None:
        """Take note that something got done."""
        self.losses, self.suspect, self._place = 0, "", None

    def reconnect(
        self, lost: Session, error: psycopg.Error, files: Sequence[str], command: str
    ) -> Generator[Event, None, tuple[Session, CommandFailed | None]]:
        """Return a new session, and the failure of what ended the old one, if that is certain.

        `files` were under way; `command` is what to type to go on. Raise `ConnectionLost` if it
        cannot be made again, or was lost too often.
        """
        target = lost.target
        reason = one_line(str(error))
        under_way = f"while {listed(files) or 'no file'} was under way: {reason}"
        self.losses += 1
        pooled = lost.server.pooled and (error.sqlstate or "").startswith("08")
        self._crashed = not _words(error) and (pooled or _told(lost))
        lost.close()
        if self.losses > _LOSSES:
            raise ConnectionLost(
                f"The connection was lost {self.losses} times {under_way}",
                _where_to_look(lost, error),
                "What was executed is in the ledger: invoke db.status",
            )
        try:
            opened = type(lost).open(target, lost.settings, create=False, again=True)
            session = yield from opened
        except ConnectionFailed as again:
            raise ConnectionLost(
                f"The connection was lost {under_way}",
                f"It could not be made again: {again.message}",
                f"What was executed is in the ledger; go on with: invoke {command}",
            ) from None
        try:
            session.end(lost)
            pooler.check_pgpool(session.conn)
            yield Reconnected(reason)
            failed = self._culprit(lost, session, error)
        except BaseException:
            session.close()
            raise
        session.suspect, session.alone = self.suspect, lost.alone
        return session, failed

    def _culprit(self, lost: Session, now: Session, error: psycopg.Error) -> CommandFailed | None:
        """Return the failure of the statement that ends its session, if that is certain.

        `now` is the session that was made since. The first time, a statement is a suspect only,
        unless the server has named the reason.
        """
        command = error.command if isinstance(error, LinkLost) else None
        said = _words(error)
        if command is None or command.about is None or _innocent(lost, now, said):
            self.suspect, self._place = "", None
            return None
        running = cast("Running", command.about)
        again, before = self.suspect == running.filename, self._place
        # What a server had still to send is lost in a crash, unless each answer was asked for.
        exact = said is not None or lost.suspect == running.filename
        at = command.statement or command.role
        self.suspect, self._place = running.filename, at if exact else None
        ran = command.statement is not None or command.role.startswith("commit")
        if not (ran and exact):
            return None
        if said is not None and said.sqlstate in _TIMED_OUT:
            return CommandFailed(command, said)
        if again and (said is not None or self._crashed):
            return CommandFailed(command, said or _silent("the server crashed at this, twice"))
        if again and before == at:
            said = _silent(f"the connection was lost at this, twice: {one_line(str(error))}")
            return CommandFailed(command, said)
        return None


def lost(session: Session, error: psycopg.Error) -> bool:
    """Return whether an error is that of a connection which has ended."""
    conn = session.conn
    gone = isinstance(error, LinkLost) or conn.closed or conn.pgconn.status != ConnStatus.OK
    return bool(gone) or (error.sqlstate or "").startswith(("57P", "08"))


def stopped(
    session: Session, current: Command | None, progress: Mapping[str, Sequence[Progress]]
) -> tuple[str, str]:
    """Return what became of the command that ran at an interrupt, and what was committed though.

    The second is a unit of a no-transaction file whose commit may have waited for a standby.
    """
    if current is None:  # a pause
        return "", ""
    running = cast("Running | None", current.about)
    if running is None or running.script.directives.transaction:
        return "The running statement was cancelled and rolled back.", ""
    from . import resume

    unit = running.unit
    rows = [row for row in progress.get(running.filename, ()) if row.run_by == session.name]
    committed = any(row.unit == unit and row.finished for row in rows)
    waited = f"{running.filename}, statement {unit + 1}" if committed else ""
    return resume.cancelled(running.script, rows, unit), waited


def interrupted(
    files: Sequence[Migration],
    left: Sequence[Migration],
    under_way: Sequence[str],
    *,
    cancelled: str,
    waited: str,
    replicated: str,
) -> str:
    """Return what stands after an interrupt: `files` were to be executed, `left` were not.

    `under_way`: what had been sent. `cancelled`: what became of the statement that was running.
    `replicated`: the standbys that a commit waits for; `waited`: a statement that may have.
    """
    names = {migration.filename for migration in left}
    executed = listed([m.filename for m in files if m.filename not in names]) or "nothing"
    cut = any(name in names for name in under_way)
    stopped = f"{cancelled} " if cut and cancelled else ""
    rest = f"{len(left)}, from {left[0].filename} on" if left else "nothing"
    here = [name for name in under_way if name not in names]
    here += [waited] if waited else []
    unsure = (
        f" {listed(here)}: committed on this server; no synchronous standby ({replicated}) has "
        "confirmed it."
    )
    stands = f"Interrupted. {stopped}Executed: {executed}. Not executed: {rest}."
    return f"{stands}{unsure if here and replicated else ''}"


def replicated(session: Session) -> str:
    """Return the standbys that a commit waits for, as the server's setting names them."""
    ((names,),) = ours.ask(session.conn, _STANDBYS)
    return str(names or "")


def nothing_known(*, under_way: bool, signal_number: int, again: str) -> Interrupted:
    """Return the error of an interrupt after which no server can be asked."""
    stands = "What was executed is in the ledger: invoke db.status"
    message = f"Interrupted. {stands if under_way else 'Nothing was executed.'}"
    return Interrupted(message, again, signal_number=signal_number)


def _words(error: psycopg.Error) -> Diagnostic | None:
    """Return what the server said at the end, or a pooler of a limit of its own.

    Of a server that is lost, a pooler says 08….
    """
    said = error.said if isinstance(error, LinkLost) else None
    if said is None or pooler.limit(said.sqlstate, said.message):
        return said
    return None if said.sqlstate.startswith("08") else said


def _where_to_look(lost: Session, error: psycopg.Error) -> str:
    """Return what may show why the connection is lost each time."""
    if limit := pooler.limit(error.sqlstate, str(error)):
        return f"That is {limit} of the pooler: raise it there, or connect to the server directly."
    return f"Look into the log of the server{' and of the pooler' if lost.server.pooled else ''}."


def _told(session: Session) -> bool:
    """Return whether the second connection was told of a crash."""
    return session.guard is not None and session.guard.told(_TOLD_S)


def _innocent(lost: Session, now: Session, said: Diagnostic | None) -> bool:
    if said is not None and said.sqlstate == _CRASHED_ELSEWHERE:
        return True
    with suppress(psycopg.Error):
        return ours.ask(now.conn, _RESTARTED, [lost.age_s]) == [(True,)]
    return False


def _silent(message: str) -> Diagnostic:
    return Diagnostic("FATAL", "", message)

"""What of a file is refused before anything runs, by a run and by db.plan alike."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import FilesError
from ..files.plan import Progress
from ..server.described import Server
from ..server.ours import Connection
from ..settings import Settings
from ..sql.script import Script
from . import pooled, resume
from .survey import Survey


def check(
    script: Script,
    progress: Sequence[Progress],
    conn: Connection,
    server: Server,
    settings: Settings,
) -> None:
    """Raise `FilesError` if the file cannot be run as it is written, or not on this server."""
    script.check()
    _check_strings(script, conn)
    resume.check(script, progress)
    if not script.directives.transaction:
        pooled.refuse(script, server, settings)


def refusals(
    found: Survey, conn: Connection, server: Server, settings: Settings
) -> tuple[list[FilesError], bool]:
    """Return why files are refused, and whether one of them all is no-transaction."""
    refused, outside = list[FilesError](), False
    for migration in found.todo:
        try:
            with migration.script() as script:
                check(script, found.progress.get(migration.filename, ()), conn, server, settings)
                outside |= not script.directives.transaction
        except FilesError as error:
            refused.append(error)
    return refused, outside


def _check_strings(script: Script, conn: Connection) -> None:
    """Raise `FilesError` if the server would split the file otherwise than it was split."""
    plain = conn.info.parameter_status("standard_conforming_strings") != "off"
    if not plain and script.escapes_matter:
        raise FilesError(
            f"{script.path}: standard_conforming_strings is off for this role or database, so "
            "a backslash before a quote means another thing than it says.",
            "Write such strings as E'…', or: ALTER ROLE … RESET standard_conforming_strings;",
        )

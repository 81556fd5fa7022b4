"""What happens in a run, as records: the runner yields them, the report shows them.

docs/events.md describes the same records as `--json` prints them, one a line.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from .errors import Diagnostic


def placed(host: str, port: int | str) -> str:
    """Return host and port as people read them; a socket's folder has none."""
    if host.startswith("/"):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Connected(NamedTuple):
    """The target of the run; the first line that people see. Never holds a password."""

    database: str
    host: str
    port: int
    user: str
    server: str  # such as "PostgreSQL 18.6"

    def __str__(self) -> str:
        place = placed(self.host, self.port)
        return f"{self.database} on {place} as {self.user} ({self.server})"


class Note(NamedTuple):
    """Something worth knowing that does not change what is done. `level`: note or warning."""

    message: str
    level: str = "note"
    filename: str = ""


class Planned(NamedTuple):
    """What is about to run, in order. An empty tuple: nothing to do."""

    filenames: tuple[str, ...]
    executed: int  # files that the ledger has already


class Applied(NamedTuple):
    """A file was executed, committed and recorded."""

    filename: str
    duration_ms: int
    out_of_order: bool = False


class Noticed(NamedTuple):
    """A notice or warning that the server sent while a file ran."""

    filename: str
    diagnostic: Diagnostic


class Blocker(NamedTuple):
    """A session that another one waits for. `age_s`: seconds since its transaction began."""

    pid: int
    user: str
    application: str
    state: str
    age_s: float
    query: str

    def __str__(self) -> str:
        who = f"pid {self.pid} ({self.user}{', ' + self.application if self.application else ''})"
        return f"{who}, {self.state} for {self.age_s:.0f} s: {self.query}"


class Progress(NamedTuple):
    """A statement that has run for more than 2 s: how far it is, or whom it waits for."""

    filename: str
    elapsed_s: float
    phase: str = ""
    percent: float | None = None
    blockers: tuple[Blocker, ...] = ()


class Retrying(NamedTuple):
    """A file gave up a lock it could not have, was rolled back, and is tried again."""

    filename: str
    sqlstate: str
    reason: str
    attempt: int
    pause_s: float
    blockers: tuple[Blocker, ...] = ()


class Waiting(NamedTuple):
    """The run waits for something outside itself: a server, or another runner."""

    what: str
    elapsed_s: float


class Reconnected(NamedTuple):
    """The connection was lost and made again; the run goes on from the ledger."""

    reason: str


class Finished(NamedTuple):
    """The run is over, with everything done."""

    executed: tuple[str, ...]
    duration_ms: int


Event: TypeAlias = (
    Connected
    | Note
    | Planned
    | Applied
    | Noticed
    | Progress
    | Retrying
    | Waiting
    | Reconnected
    | Finished
)

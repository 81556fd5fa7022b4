"""What happens in a run, as records: the runner yields them, the report shows them.

docs/events.md describes the same records as `--json` prints them, one a line.
"""

from __future__ import annotations

from dataclasses import dataclass

from .errors import Diagnostic


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all events."""


@dataclass(frozen=True, slots=True)
class Connected(Event):
    """The target of the run; the first line that people see. Never holds a password."""

    database: str
    host: str
    port: int
    user: str
    server: str  # such as "PostgreSQL 18.6"

    def __str__(self) -> str:
        place = self.host if self.host.startswith("/") else f"{self.host}:{self.port}"
        return f"{self.database} on {place} as {self.user} ({self.server})"


@dataclass(frozen=True, slots=True)
class Note(Event):
    """Something worth knowing that does not change what is done. `level`: note or warning."""

    message: str
    level: str = "note"
    filename: str = ""


@dataclass(frozen=True, slots=True)
class Planned(Event):
    """What is about to run, in order. An empty tuple: nothing to do."""

    filenames: tuple[str, ...]
    executed: int  # files that the ledger has already


@dataclass(frozen=True, slots=True)
class Applied(Event):
    """A file was executed, committed and recorded."""

    filename: str
    duration_ms: int
    out_of_order: bool = False


@dataclass(frozen=True, slots=True)
class Noticed(Event):
    """A notice or warning that the server sent while a file ran."""

    filename: str
    diagnostic: Diagnostic


@dataclass(frozen=True, slots=True)
class Blocker:
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


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """A statement that has run for more than 2 s: how far it is, or whom it waits for."""

    filename: str
    elapsed_s: float
    phase: str = ""
    percent: float | None = None
    blockers: tuple[Blocker, ...] = ()


@dataclass(frozen=True, slots=True)
class Retrying(Event):
    """A file gave up a lock it could not have, was rolled back, and is tried again."""

    filename: str
    sqlstate: str
    reason: str
    attempt: int
    pause_s: float
    blockers: tuple[Blocker, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """The run waits for something outside itself: a server, or another runner."""

    what: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Reconnected(Event):
    """The connection was lost and made again; the run goes on from the ledger."""

    reason: str


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """The run is over, with everything done."""

    executed: tuple[str, ...]
    duration_ms: int

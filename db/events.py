"""What happens in a run, as records: the runner yields them, the report shows them.

docs/events.md describes the same records as `--json` prints them, one a line.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from .errors import Diagnostic, Location


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


class Batched(NamedTuple):
    """A statement is being repeated: what it has done so far, in all runs.

    `rows_per_s`: of this run, pauses included. `percent`: of the rows that the table has, as far as
    the server knows. `reason`: why `pause_s`, what comes now, is longer than it has to be.
    """

    filename: str
    rows: int
    batches: int
    rows_per_s: float
    percent: float | None = None
    pause_s: float = 0.0
    reason: str = ""


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


class Difference(NamedTuple):
    """An object of a schema that is not as it is expected; `kind` and `name` are pg_dump's words.

    `state`: missing, unexpected, differs, or order: only the order of its columns is another one.
    `expected` and `found` are the lines that make the difference, or those of the whole object.
    """

    kind: str  # such as TABLE or FK CONSTRAINT
    schema: str
    name: str
    state: str
    expected: tuple[str, ...]
    found: tuple[str, ...]

    def __str__(self) -> str:
        place = f"{self.schema}." if self.schema else ""
        return f"{self.kind} {place}{self.name}"


class Reconnected(NamedTuple):
    """The connection was lost and made again; the run goes on from the ledger."""

    reason: str


class Finished(NamedTuple):
    """The run is over, with everything done."""

    executed: tuple[str, ...]
    duration_ms: int


class Rehearsing(NamedTuple):
    """A file whose statements follow. `transaction`: the whole of it is one."""

    filename: str
    shown: str  # as people type it
    transaction: bool


class TableLock(NamedTuple):
    """A lock on a table that was there before; `of_index`: on an index of it."""

    schema: str
    table: str
    mode: str
    of_index: bool


class Work(NamedTuple):
    """What a statement does to a table that was there before.

    `what`: reads, indexes, rewrites (bytes), empties, changes (rows). `amount` is None where that
    is unknown; `most`: it may be less. `under`: the strongest lock that is held meanwhile.
    """

    schema: str
    table: str
    what: str
    amount: int | None
    most: bool
    under: str = ""


class Rehearsed(NamedTuple):
    """What a statement would do. A range of seconds; None: unknown, as the sizes are."""

    filename: str
    location: Location
    statement: str  # its beginning
    transaction: bool  # it runs in one
    locks: tuple[TableLock, ...]  # that it takes
    work: tuple[Work, ...]
    low_s: float | None
    high_s: float | None


class Finding(NamedTuple):
    """Something that others would wait for, from a statement to the end of its transaction.

    `blocks`: reads, writes, and rows for writes to rows that it has changed. `reason`: what lasts.
    """

    filename: str
    location: Location
    schema: str
    table: str
    mode: str
    blocks: tuple[str, ...]
    transaction: bool  # up to its COMMIT; otherwise to the end of the statement
    low_s: float | None
    high_s: float | None
    reason: str
    instead: str
    page: str


class Undone(NamedTuple):
    """A companion was tried. `differences`: how the schema is not what it was before the file."""

    filename: str
    shown: str
    differences: tuple[str, ...]


class Concluded(NamedTuple):
    """The rehearsal is over. `stopping`: the files with findings."""

    files: tuple[str, ...]
    stopping: tuple[str, ...]
    duration_ms: int


class Fleet(NamedTuple):
    """How far many targets are. `waiting`: what one of them waits for, behind its name."""

    targets: int
    done: int
    failed: int
    under_way: int
    elapsed_s: float
    waiting: str = ""


class Target(NamedTuple):
    """What became of one of many targets.

    `state`: executed, nothing to do, failed, interrupted, not begun. What it failed with is in the
    fields that a failure has.
    """

    name: str
    state: str
    executed: tuple[str, ...] = ()
    duration_ms: int = 0
    error: str = ""
    sqlstate: str = ""
    message: str = ""
    location: Location | None = None
    outcome: str = ""


class Standing(NamedTuple):
    """Where one of many targets stands.

    `state`: executed, behind, unfinished, changed, or failed, with the reason in `message`.
    """

    name: str
    state: str
    last: str = ""  # the newest file that is executed
    pending: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    message: str = ""


Event: TypeAlias = (
    Connected
    | Note
    | Planned
    | Applied
    | Noticed
    | Progress
    | Batched
    | Retrying
    | Waiting
    | Difference
    | Reconnected
    | Finished
    | Rehearsing
    | Rehearsed
    | Finding
    | Undone
    | Concluded
    | Fleet
    | Target
    | Standing
)

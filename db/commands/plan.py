"""db.plan: what a run would do now, and what it would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from ..engine.check import check, refusals
from ..engine.survey import Survey, survey
from ..errors import FilesError, LedgerError, listed, refuse
from ..events import Note, Planned
from ..files.plan import Goal
from ..server import ours
from ..server.described import Server
from ..server.ours import Connection
from ..settings import Settings
from ..sql.lexer import Statement
from ..sql.script import Script
from . import as_sql
from .opened import Screen, connected, read_only

_SAID = 3
_COLUMNS = ("filename", "state", "runs", "statements")


_REPLICATES = "SELECT pg_catalog.to_regclass('pg_catalog.pg_subscription') IS NOT NULL"
_SUBSCRIPTIONS = """
SELECT s.subname FROM pg_catalog.pg_subscription AS s
JOIN pg_catalog.pg_database AS d ON d.oid OPERATOR(pg_catalog.=) s.subdbid
WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database() ORDER BY s.subname"""
_PUBLICATIONS = "SELECT p.pubname FROM pg_catalog.pg_publication AS p ORDER BY p.pubname"


class Step(NamedTuple):
    """One file of the plan. `runs`: in a transaction, no transaction, refused."""

    filename: str
    state: str  # pending, out of order, unfinished
    runs: str
    statements: str  # their kinds and how many; of a refused file, why
    refused: FilesError | None = None


class Preview(NamedTuple):
    """What a run would do, in order. `executed`: files that the ledger has already."""

    steps: tuple[Step, ...]
    executed: int
    refusal: LedgerError | None = None  # of the goal; the steps are those of the other one then


def plan(
    settings: Settings, screen: Screen, goal: Goal, *, otherwise: Goal | None = None
) -> Preview:
    """Return what a run with this goal would do, or with the other one if this one is refused.

    Raise what it would be refused with as a whole.
    """
    refusal = None
    with connected(settings, screen, writing=False) as (_, conn, server), read_only(conn, server):
        try:
            found = survey(conn, settings, goal)
        except LedgerError as error:
            if otherwise is None:
                raise
            found, refusal = survey(conn, settings, otherwise), error
        preview = _preview(found, conn, server, settings)
        notes = (*found.notes, *_replication(conn)) if found.todo else found.notes
    for note in notes:
        screen.event(note)
    if refusal and otherwise:
        said = f"{goal.command} would be refused; {otherwise.command} would execute this:"
        screen.event(Note(said))
    return preview._replace(refusal=refusal)


def show(preview: Preview, screen: Screen, goal: Goal) -> None:
    """Show it. Raise what it would be refused with, if there is something."""
    steps = preview.steps
    if steps:
        screen.table(_COLUMNS, [(s.filename, s.state, s.runs, s.statements) for s in steps])
    else:
        screen.event(Planned((), preview.executed))
    if preview.refusal:
        raise preview.refusal
    if not steps:
        return
    refused = [step.refused for step in steps if step.refused]
    state = f"{len(refused)} of {len(steps)} refused; nothing would be executed."
    refuse(refused, state, goal.preview)


def show_sql(settings: Settings, screen: Screen, goal: Goal, write: Callable[[str], None]) -> None:
    """Write what would be sent, file by file. Raise what it would be refused with."""
    comments = as_sql.Comments(write, screen)
    with connected(settings, comments, writing=False) as (_, conn, server), read_only(conn, server):
        found = survey(conn, settings, goal)
        refused, _ = refusals(found, conn, server, settings)
    for note in found.notes:
        comments.event(note)
    refuse(refused, "Nothing would be executed.", goal.preview)
    for piece in as_sql.pieces(found, settings):
        write(piece)


def _preview(found: Survey, conn: Connection, server: Server, settings: Settings) -> Preview:
    states = {entry.filename: entry.state for entry in found.plan.entries}
    steps = []
    for migration in found.todo:
        filename, progress = migration.filename, found.progress.get(migration.filename, ())
        with Script.open(migration.path, migration.shown) as script:
            step = _step(filename, states.get(filename, "pending"), script)
            try:
                check(script, progress, conn, server, settings)
            except FilesError as error:
                at = f"{error.location.line}:{error.location.column}: " if error.location else ""
                said = f"{at}{error.message}"
                step = step._replace(runs="refused", statements=said, refused=error)
        steps.append(step)
    return Preview(tuple(steps), len(found.executed))


def _replication(conn: Connection) -> Iterator[Note]:
    """Yield who else has these tables, to whom logical replication brings rows and no DDL."""
    if not ours.ask(conn, _REPLICATES)[0][0]:
        return
    subscriptions, publications = ours.asks(conn, [(_SUBSCRIPTIONS, ()), (_PUBLICATIONS, ())])
    for rows, what, then in (
        (
            subscriptions,
            "subscribes",
            "what a table gains is needed here before the publisher has it",
        ),
        (publications, "publishes", "what a table gains is needed at the subscribers first"),
    ):
        if rows:
            names = listed([str(name) for (name,) in rows], _SAID)
            yield Note(f"this database {what} ({names}): DDL is not replicated, and {then}")


def _step(filename: str, state: str, script: Script) -> Step:
    """Return what the file consists of; of one that is refused, as far as that is known."""
    kinds: Counter[str] = Counter()
    runs = "refused"
    with suppress(FilesError):
        kinds.update(map(_named, script.statements()))
        runs = "in a transaction" if script.directives.transaction else "no transaction"
    for frame in ("", "BEGIN", "COMMIT"):
        kinds.pop(frame, None)
    shown = ", ".join(f"{kind} ×{n}" if n > 1 else kind for kind, n in kinds.items())
    return Step(filename, state, runs, shown)


def _named(found: Statement) -> str:
    """Return what a statement is called in the plan; nothing, if it is for psql."""
    if found.kind[:1] == "\\":
        return ""
    return f"{found.kind} in batches" if found.mark and found.mark.repeats else found.kind

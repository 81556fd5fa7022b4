"""db.plan: what a run would do now, and what it would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TextIO

from ..engine import resume
from ..engine.survey import Survey, survey
from ..errors import FilesError, LedgerError, refuse
from ..events import Note, Planned
from ..files.folder import Migration
from ..files.plan import Goal, Progress
from ..settings import Settings
from ..sql.script import Script
from . import as_sql
from .opened import Screen, reading

_COLUMNS = ("filename", "state", "runs", "statements")


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
    with reading(settings, screen) as conn:
        try:
            found = survey(conn, settings, goal)
        except LedgerError as error:
            if otherwise is None:
                raise
            found, refusal = survey(conn, settings, otherwise), error
    for note in found.notes:
        screen.event(note)
    if refusal and otherwise:
        said = f"{goal.command} would be refused; {otherwise.command} would execute this:"
        screen.event(Note(said))
    return _preview(found)._replace(refusal=refusal)


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


def show_sql(settings: Settings, screen: Screen, goal: Goal, out: TextIO) -> None:
    """Write what would be sent, file by file. Raise what it would be refused with."""
    with reading(settings, as_sql.Comments(out, screen)) as conn:
        found = survey(conn, settings, goal)
    for note in found.notes:
        as_sql.Comments(out, screen).event(note)
    refused = [step.refused for step in _preview(found).steps if step.refused]
    refuse(refused, "Nothing would be executed.", goal.preview)
    for piece in as_sql.pieces(found, settings):
        out.write(piece)


def _preview(found: Survey) -> Preview:
    states = {entry.filename: entry.state for entry in found.plan.entries}
    steps = (
        _step(m, states.get(m.filename, "pending"), found.progress.get(m.filename, ()))
        for m in found.todo
    )
    return Preview(tuple(steps), len(found.executed))


def _step(migration: Migration, state: str, progress: Sequence[Progress]) -> Step:
    kinds: Counter[str] = Counter()
    with Script.open(migration.path, migration.shown) as script:
        try:
            kinds.update(s.kind for s in script.statements() if s.kind[:1] not in ("", "\\"))
            script.check()
            resume.check(script, progress)
            runs = "in a transaction" if script.directives.transaction else "no transaction"
        except FilesError as error:
            at = f"{error.location.line}:{error.location.column}: " if error.location else ""
            return Step(migration.filename, state, "refused", f"{at}{error.message}", error)
    for frame in ("BEGIN", "COMMIT"):
        kinds.pop(frame, None)
    shown = ", ".join(f"{kind} ×{n}" if n > 1 else kind for kind, n in kinds.items())
    return Step(migration.filename, state, runs, shown)

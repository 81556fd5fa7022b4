"""db.rehearse: what the pending files would do to the target, by running them on a copy of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

from ..engine.check import refusals
from ..engine.survey import Survey, base_schema, survey
from ..errors import CheckFailed, LedgerError, counted, listed, refuse
from ..events import Concluded, Event, Note, Planned
from ..files import folder
from ..files.plan import Goal
from ..rehearsal.stage import LASTS, Outcome, Stage
from ..scratch.database import Scratch, database
from ..scratch.fill import copy, replay
from ..server.described import describe
from ..server.ours import Connection
from ..settings import Settings
from .opened import Screen, connected, read_only


def rehearse(
    settings: Settings,
    screen: Screen,
    goal: Goal,
    *,
    replayed: bool = False,
    longest_ms: int = 1000,
) -> Outcome:
    """Run the files on a copy, show what each statement would do, and return it.

    `replayed`: the copy is made by the files before them instead of from the target, so that no
    size is known. What may last longer than `longest_ms` is found. Raise what a run would raise.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        if replayed:
            made = _replayed(stack, settings, screen, goal)
        else:
            made = _copied(stack, settings, screen, goal)
        found, scratch, conn = made
        if scratch is None:
            return Outcome()
        outcome = Stage(scratch, conn, screen.event).play(goal, found.todo, longest_ms / 1000)
    files = tuple(migration.filename for migration in found.todo)
    stopping = tuple(dict.fromkeys(each.filename for each in outcome.findings))
    took_ms = round(1000 * (time.monotonic() - started))
    screen.event(Concluded(files, stopping, took_ms))
    return outcome


def check(outcome: Outcome, longest: str) -> None:
    """Raise `CheckFailed` if something was found."""
    places = list(dict.fromkeys(each.location.path for each in outcome.findings))
    if places:
        raise CheckFailed(
            f"Others would wait for longer than {longest}, or nobody knows how long: "
            f"{listed(places)}.",
            "Each finding says what to do instead. To let them wait: --longest 30s",
        )


Made = tuple[Survey, "Scratch | None", "Connection | None"]


def _copied(stack: ExitStack, settings: Settings, screen: Screen, goal: Goal) -> Made:
    """Return what is pending on the target, and a copy of its schema if anything is."""
    target, conn, server = stack.enter_context(connected(settings, screen, writing=False))
    with read_only(conn, server):
        found = _survey(conn, settings, goal)
        refused, _ = refusals(found, conn, server, settings)
        for note in found.notes:
            screen.event(note)
        refuse(refused, "Nothing was rehearsed.", goal.preview)
        if not found.todo:
            screen.event(Planned((), len(found.executed)))
            return found, None, conn
        scratch = stack.enter_context(database(settings, conn))
        screen.event(Note(f"the files run on a copy: {scratch.shown}, schema only"))
        copy(target, conn, found.ledger, scratch, role=settings.role)
    return found, scratch, conn


def _survey(conn: Connection, settings: Settings, goal: Goal) -> Survey:
    """Return what is to be done, as db.migrate would do it; where that is refused, the rest."""
    if goal.only:
        return survey(conn, settings, goal)
    try:
        return survey(conn, settings, goal._replace(schema=True))
    except LedgerError:
        return survey(conn, settings, goal)


def _replayed(stack: ExitStack, settings: Settings, screen: Screen, goal: Goal) -> Made:
    """Return the files, and a database with what those before them make."""
    migrations = folder.discover(settings.folder, settings.shown(settings.folder))
    only = folder.find(migrations, goal.only).filename if goal.only else ""
    before = [m.filename for m in migrations if m.filename < only]
    scratch = stack.enter_context(database(settings))
    base = ["the base schema"] if base_schema(settings) else []
    after = " and ".join([*base, *([counted(len(before), "file")] if before else [])])
    said = f"after {after}, on" if after else "on an empty database:"
    screen.event(Note(f"the files run {said} {scratch.shown}: sizes are unknown"))
    replay(scratch, _lasting(screen), among=before)
    with scratch.target.once("migrations rehearsal") as conn, read_only(conn, describe(conn)):
        found = survey(conn, scratch.settings, goal)
    for note in found.notes:
        screen.event(note)
    return found, scratch, None


def _lasting(screen: Screen) -> Callable[[Event], None]:
    def show(event: Event) -> None:
        if isinstance(event, LASTS):
            screen.event(event)

    return show

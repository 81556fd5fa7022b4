"""db.status: every file and its state."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from ..engine import place
from ..engine.survey import Survey, base_schema, stand
from ..errors import (
    CheckFailed,
)
from ..events import Note
from ..files import folder, renames
from ..files.plan import SCHEMA, STRAY, Entry, Executed, Plan, batched
from ..server.ours import Connection
from ..settings import Settings
from .opened import Screen, reading

COLUMNS = ("filename", "state", "executed_at", "duration_ms", "executed_by")


class Standing(NamedTuple):
    """Every file, the base schema first, and the plan that tells what to do about them.

    `batches`: how far the statement has come that a file repeats.
    """

    entries: tuple[Entry, ...]
    plan: Plan
    batches: dict[str, str]


def look(settings: Settings, screen: Screen) -> Standing:
    """Return every file and its state."""
    with reading(settings, screen) as conn:
        found = stand(conn, settings)
        entries = (*_schema_entry(conn, settings, found), *found.plan.entries)
    for note in found.plan.notes:
        screen.event(note)
    shown = {filename: batched(units) for filename, units in found.progress.items()}
    return Standing(entries, found.plan, shown)


def status(settings: Settings, screen: Screen, *, check: bool) -> None:
    """Show every file and its state; with `check`, raise `CheckFailed` unless all are executed."""
    entries, plan, batches = look(settings, screen)
    if entries:
        rows = [e.executed or Executed(e.filename, None) for e in entries]
        known = any(batches.values())  # how far a repeated statement has come
        screen.table(
            (*COLUMNS, "progress") if known else COLUMNS,
            [
                (
                    *(e.filename, e.state, r.executed_at, r.duration_ms, r.executed_by),
                    *([batches.get(e.filename)] if known else []),
                )
                for e, r in zip(entries, rows, strict=True)
            ],
        )
    nothing = ""
    if all(entry.state in ("missing", STRAY) for entry in plan.entries):
        nothing = folder.empty(settings.folder, settings.shown(settings.folder))
        screen.event(Note(nothing, "warning"))
    counted = Counter(e.state for e in entries)
    totals = ", ".join(f"{number} {state}" for state, number in counted.items())
    if entries:
        screen.event(Note(totals))
    for rename in plan.renamed:
        message = f"is {rename.old} under another name, and would be refused: {rename.repair}"
        message += f" ({rename.then})" if rename.there else ""
        screen.event(Note(message, "warning", rename.new))
    if check and nothing:
        raise CheckFailed(f"{nothing[0].upper()}{nothing[1:]}.")
    if check and counted.keys() - {"executed"}:
        raise CheckFailed(f"Not everything is executed: {totals}.", *advice(plan))


def _schema_entry(conn: Connection, settings: Settings, found: Survey) -> list[Entry]:
    if SCHEMA in found.executed:
        return [Entry(SCHEMA, "executed", found.executed[SCHEMA])]
    if found.half_schema:
        return [Entry(SCHEMA, "unfinished")]
    loads = not found.executed and base_schema(settings) and place.is_empty(conn, found.ledger)
    return [Entry(SCHEMA, "pending")] if loads else []


def advice(made: Plan) -> list[str]:
    """Return what to type about files that are not as they were executed."""
    advice = []
    old = {rename.old for rename in made.renamed}
    for filename in [name for name in made.named("changed") if name not in old][:1]:
        advice.append(f"Put the executed text of {filename} back, and write a new migration;")
        advice.append(f"or, if the edit is meant: invoke db.repair --name {filename} --accept")
    if made.renamed:
        advice.append("Give a renamed file its old name back, or put the new one into the ledger:")
        advice += renames.lines(made.renamed)
    for filename in [name for name in made.named("missing") if name not in old][:1]:
        advice.append(f"Put {filename} back; or: invoke db.repair --name {filename} --forget")
    for stray in made.strays[:1]:
        advice += stray.advice
    return advice or ["See what would run: invoke db.plan"]

"""db.plan: what db.migrate would do now, and what it would refuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..engine import units
from ..engine.survey import survey
from ..errors import (
    ScriptError,
)
from ..events import Planned
from ..files.folder import Migration
from ..files.plan import Goal, Progress
from ..settings import Settings
from ..sql.script import Script
from .opened import Screen, reading

_COLUMNS = ("filename", "runs", "statements")


def plan(settings: Settings, screen: Screen) -> None:
    """Show what db.migrate would do. Raise what it would be refused with."""
    with reading(settings, screen) as conn:
        found = survey(conn, settings, Goal("db.migrate", schema=True))
    for note in found.notes:
        screen.event(note)
    looked = [_looked_at(m, found.progress.get(m.filename, ())) for m in found.todo]
    if not looked:
        screen.event(Planned((), len(found.executed)))
        return
    screen.table(_COLUMNS, [row for row, _ in looked])
    refused = [error for _, error in looked if error]
    for error in refused[:-1]:
        screen.error(error)
    if refused:
        raise refused[-1]


def _looked_at(
    migration: Migration, progress: Sequence[Progress]
) -> tuple[tuple[str, str, str], ScriptError | None]:
    """Return a file's row of the plan, and why it would be refused."""
    kinds: Counter[str] = Counter()
    runs, refused = "refused", None
    with Script.open(migration.path, migration.shown) as script:
        try:
            kinds.update(s.kind for s in script.statements() if s.kind[:1] not in ("", "\\"))
            script.check()
            units.check(script, progress)
            runs = "in a transaction" if script.directives.transaction else "no transaction"
        except ScriptError as error:
            refused = error
    for frame in ("BEGIN", "COMMIT"):
        kinds.pop(frame, None)
    shown = ", ".join(f"{kind} ×{n}" if n > 1 else kind for kind, n in kinds.items())
    return (migration.filename, runs, shown), refused

"""db.rollback: the latest files undone."""

from __future__ import annotations

from ..engine import rollback as backwards
from ..engine import survey
from ..errors import SettingsError
from ..events import Connected, Event, Note
from ..server import connection
from ..settings import Settings
from .opened import Confirm, Screen, drive, reading


def rollback(
    settings: Settings, screen: Screen, confirm: Confirm, steps: int, to: str
) -> list[str]:
    """Undo the latest `steps` files, or all executed after `to`, and return them."""
    if steps < 1 or (to and steps > 1):
        raise SettingsError("Say how far: --steps with 1 or more, or --to with a file.")
    with connection.target(settings) as target:  # one for both, should it be embedded
        with reading(settings, screen) as conn:
            found = survey.stand(conn, settings)
        downs = backwards.companions(found.executed, settings, steps, to)
        if not downs:
            screen.event(Note("nothing to roll back"))
            return []
        backwards.refuse_half_done(found.executed, found.progress)
        screen.table(("filename", "undone_by"), backwards.shown(downs))
        last = backwards.undone(downs[-1].filename)
        confirm(f"Undo {f'these {len(downs)} files' if downs[1:] else last}?")
        again = backwards.retyped(found.executed, steps, to)
        run = backwards.Rollback(target, settings, downs, again)
        drive(run.events(), screen, shown=_is_new)
        return [backwards.undone(name) for name in run.executed]


def _is_new(event: Event) -> bool:
    return not isinstance(event, Connected)  # the target was named before the question

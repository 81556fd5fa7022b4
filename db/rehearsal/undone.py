"""Each companion of the rehearsed files on the copy, newest first: is the schema what it was?"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ..engine.rollback import Rollback
from ..errors import FilesError
from ..events import Difference, Event
from ..files.folder import Migration, companion, load
from ..scratch.database import Scratch
from ..settings import Settings

_STATES = {
    "missing": "is gone",
    "unexpected": "is left",
    "differs": "is not as it was",
    "order": "has its columns in another order",
}


def loaded(settings: Settings, filename: str) -> Migration | None:
    """Return what undoes a file, if there is such a file beside it."""
    path = companion(settings.folder / filename)
    if not path.is_file():
        return None
    return load(path, f"{settings.shown(settings.folder)}/{path.name}")


def undoable(settings: Settings, filenames: Sequence[str]) -> list[str]:
    """Return the last of the files that have a companion: none is undone under a later one."""
    found: list[str] = []
    for filename in reversed(filenames):
        if loaded(settings, filename) is None:
            break
        found.insert(0, filename)
    return found


def undo(scratch: Scratch, filename: str, command: str) -> Generator[Event, None, Migration]:
    """Undo one file as db.rollback does, and return its companion. Raise as that does.

    `command`: what to type to go on.
    """
    down = loaded(scratch.settings, filename)
    if down is None:
        raise FilesError(f"What undoes {filename} is gone.", "Leave it as it is for so long.")
    yield from Rollback(scratch.target, scratch.settings, [down], command).events()
    return down


def said(differing: Difference) -> str:
    """Return in one line how an object is not what it was before the file."""
    place = f"{differing.schema}." if differing.schema else ""
    name = f"{differing.kind.lower()} {place}{differing.name}"
    stands = f"{name} {_STATES[differing.state]}"
    lines = [
        f"{word} {' '.join(each[0].split())}"
        for word, each in (("was", differing.expected), ("is", differing.found))
        if differing.state == "differs" and each
    ]
    return f"{stands}: {'; '.join(lines)}" if lines else stands

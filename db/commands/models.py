"""db.models: the tables and views that the migrations make, as typed Python."""

from __future__ import annotations

from difflib import unified_diff
from pathlib import Path

from ..engine import place
from ..errors import CheckFailed, FilesError, SettingsError, counted
from ..events import Note
from ..scratch import files
from ..scratch.database import database
from ..server import described
from ..server.ours import Connection
from ..settings import Settings
from ..typed import catalog, module
from .dump import check_folder, replaced
from .opened import Screen, explained, reading

_SHOWN = 12  # lines of a difference


def text(settings: Settings, screen: Screen, *, live: bool = False) -> str:
    """Return the module: from a replay of the files, or from the target as it is.

    Raise what a run would raise, and `SettingsError` if no disposable database can be made, or the
    team's names for tables are wrong.
    """
    if live:
        with reading(settings, screen) as conn:
            return _written(conn, settings)
    with database(settings) as scratch:
        screen.event(Note(f"what the files make of a disposable database ({scratch.shown})"))
        files.run(scratch)
        with explained("Nothing was written."), scratch.target.once("invoke db.models") as conn:
            described.describe(conn, writing=False)  # which knows the search_path
            return _written(conn, scratch.settings)


def _written(conn: Connection, settings: Settings) -> str:
    book = place.find(conn, settings.ledger)
    ledger = [(book.schema, name) for name in place.names(book.table)] if book.exists else []
    first = next(iter(conn.schemas), "public")
    return module.write(catalog.read(conn, first, ledger), settings.styles)


def write(settings: Settings, screen: Screen, path: Path, *, live: bool = False) -> None:
    """Write the module. Raise `FilesError` rather than replace a file of somebody else."""
    shown = settings.shown(path)
    before = _read(path, shown)
    if before and not before.startswith(module.HEAD):
        raise FilesError(
            f"{shown} was not written by db.models, and would be lost. Nothing was written.",
            "Remove it, or name another file: invoke db.models --out PATH",
        )
    check_folder(settings, path, settings.models, "db.models --out PATH")
    changed = replaced(path.resolve(), text(settings, screen, live=live).encode(), shown)
    screen.event(Note("written" if changed else "is as it was", filename=shown))


def check(
    settings: Settings, screen: Screen, path: Path, *, live: bool = False, again: str = "db.models"
) -> None:
    """Raise `CheckFailed` unless the file is what `write` would write, by the command `again`."""
    shown = settings.shown(path)
    before, after = _read(path, shown), text(settings, screen, live=live)
    source = "the database gives" if live else "the files give"
    if before == after:
        screen.event(Note(f"is what {source}", filename=shown))
        return
    lines = unified_diff((before or "").splitlines(), after.splitlines(), lineterm="", n=0)
    differing = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    more = [f"… and {counted(len(differing) - _SHOWN, 'more line')}"] if differing[_SHOWN:] else []
    is_it = "is not there" if before is None else f"is not what {source}"
    raise CheckFailed(
        f"{shown} {is_it}.", *differing[:_SHOWN], *more, f"To write it: invoke {again}"
    )


def _read(path: Path, shown: str) -> str | None:
    try:
        return path.read_bytes().decode(errors="replace") if path.exists() else None
    except OSError as error:
        raise SettingsError(f"{shown} cannot be read: {error.strerror}.") from None

"""db.dump --check: whether the dump is what the files make, without a target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..engine.survey import base_schema
from ..errors import CheckFailed, FilesError, StatementFailed, listed
from ..events import Note
from ..files import folder
from ..files.folder import Migration
from ..files.plan import SCHEMA, Executed
from ..scratch import compared, files
from ..scratch.compared import Comparison, Made
from ..scratch.database import Scratch, database
from ..scratch.objects import PRIVILEGES
from ..settings import Settings
from .dump import keeping, typed
from .opened import Screen

_OVERWRITTEN = (
    "If the dump has overwritten a base schema, keep that as the first file, such as 000_base.sql."
)


def check(settings: Settings, screen: Screen, path: Path) -> None:
    """Raise `CheckFailed` unless the dump and the files make the same schema.

    Both are tried on disposable databases. Raise `FilesError` if db.dump has not written the file,
    `StatementFailed` if it or a file does not run on an empty database.
    """
    shown = settings.shown(path.absolute())
    base = _refuse_anothers(settings, path, shown)
    chosen = settings._replace(schema=path, role="")
    migrations = folder.discover(settings.folder, settings.shown(settings.folder))
    with _empty(chosen, screen, shown, path) as scratch:
        files.run(scratch, among=())
        recorded = compared.recorded(scratch)
        without = PRIVILEGES if folder.lacks_privileges(path) else ()
        dumped = compared.looked_at(scratch)._replace(settings={}, without=without)
    with _made(chosen, screen, base, migrations, recorded) as (made, scratch):
        found = compared.compare(made, dumped, (), scratch)
    for each in found.differences:
        screen.event(each)
    _refuse(shown, typed(settings, path), found, migrations, recorded)
    screen.event(Note(f"what the files make; objects compared: {found.objects}", filename=shown))


def _refuse_anothers(settings: Settings, path: Path, shown: str) -> Path | None:
    """Refuse what db.dump has not written; return the base schema, if the files build on one."""
    with folder.readable(shown):
        there = path.is_file()
        written = there and folder.is_dump(path)
    if not there:
        raise FilesError(
            f"{shown} is not there.",
            f"Write it, from a database that has executed the files: {typed(settings, path)}",
        )
    if not written:
        raise FilesError(
            f"{shown} was not written by db.dump, so it need not be what the files make.",
            *keeping(settings, path),
            "To replace it, from a database that has executed the files: "
            f"{typed(settings, path, '--force')}",
        )
    base = base_schema(settings)
    # A dump there is of the same files, so it is nothing that they build on.
    return base.path if base and not folder.is_dump(base.path) else None


def _refuse(
    shown: str,
    again: str,
    found: Comparison,
    migrations: tuple[Migration, ...],
    recorded: dict[str, Executed],
) -> None:
    lacking = [m.filename for m in migrations if m.filename not in recorded]
    other = [
        m.filename
        for m in migrations
        if m.filename in recorded and recorded[m.filename].checksum not in (None, m.checksum)
    ]
    number = sum(each.state != "order" for each in found.differences)
    wrong = [
        f"{number} object{'s differ' if number > 1 else ' differs'}" if number else "",
        f"not in it: {listed(lacking)}" if lacking else "",
        f"changed since: {listed(other)}" if other else "",
    ]
    if any(wrong):
        raise CheckFailed(
            f"{shown} is not what the files make: {'; '.join(filter(None, wrong))}.",
            "Dump a database that has executed all of them, and nothing else:",
            f"  invoke db.reset, and then: {again}",
        )


@contextmanager
def _made(
    settings: Settings,
    screen: Screen,
    base: Path | None,
    migrations: tuple[Migration, ...],
    recorded: dict[str, Executed],
) -> Iterator[tuple[Made, Scratch]]:
    """Yield what the files make, behind the base schema, or a dump that has replaced some."""
    gone = sorted(recorded.keys() - {SCHEMA, *(m.filename for m in migrations)})
    if gone:
        said = f"no longer in the folder: {listed(gone, 3)}; only what is behind them is checked"
        screen.event(Note(said))
    dump, behind = settings.schema, settings.schema if gone else base
    if behind:
        settings = settings._replace(schema=behind)
    with _empty(settings, screen, "the files", dump) as scratch:
        try:
            files.run(scratch, schema=bool(behind))
        except StatementFailed as failed:
            if not behind:
                failed.advice += (_OVERWRITTEN,)
            raise
        yield compared.looked_at(scratch)._replace(settings={}), scratch


@contextmanager
def _empty(settings: Settings, screen: Screen, what: str, dump: Path) -> Iterator[Scratch]:
    with database(settings, major=folder.dumped_major(dump)) as empty:
        screen.event(Note(f"replaying {what} on {empty.shown}"))
        yield files.prepared(empty, "")

"""db.drift: the database held against what its files make."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from ..engine import place
from ..engine.survey import Survey, base_schema, stand
from ..engine.waiting import nap
from ..errors import CheckFailed, FilesError, LedgerError, listed
from ..events import Difference, Note, Waiting
from ..files import folder
from ..files.plan import SCHEMA
from ..scratch import beside, compared, files, roles
from ..scratch.compared import NOTHING, Made
from ..scratch.database import Scratch, database
from ..scratch.objects import PRIVILEGES, Object
from ..server.connection import Target
from ..server.ours import Connection
from ..server.watch import Guard
from ..settings import Settings
from .opened import Screen, connected, locked, read_only

_SAY_AGAIN_S = 30.0


class Drift(NamedTuple):
    """Where a database is not what its files make; `compared`: how many objects were looked at.

    `ignored`: how many differences MIGRATIONS_DRIFT_IGNORE has left out.
    """

    differences: tuple[Difference, ...]
    in_order: tuple[Difference, ...]  # of nothing but the order of columns
    ignored: int
    compared: int


def drift(settings: Settings, screen: Screen) -> None:
    """Show where the database is not what its files make, and raise `CheckFailed` if it is not."""
    found = compare(settings, screen)
    for each in (*found.differences, *found.in_order):
        screen.event(each)
    if found.ignored:
        screen.event(Note(f"left out by MIGRATIONS_DRIFT_IGNORE: {found.ignored}"))
    number = len(found.differences)
    if number:
        objects_differ = "1 object differs" if number == 1 else f"{number} objects differ"
        raise CheckFailed(
            f"The database is not what its files make: {objects_differ}.",
            "Write what is to stay into a migration, which may find it there (IF NOT EXISTS);",
            "undo what is not. What is no concern of the files: MIGRATIONS_DRIFT_IGNORE.",
        )
    screen.event(Note(f"the database is what its files make; objects compared: {found.compared}"))


def compare(settings: Settings, screen: Screen) -> Drift:
    """Return where the database differs from a replay of the executed files.

    Nothing is written to it. Raise `LedgerError` or `FilesError` if there is nothing to hold it
    against, `StatementFailed` if a file does not run on an empty database, and `SettingsError` if
    there is no place for one.
    """
    with connected(settings, screen, writing=False) as (target, conn, server):
        with _still(target, conn, settings, screen), read_only(conn, server):
            survey = _stand(conn, settings, screen)
            book, role = survey.ledger, settings.role
            state = beside.schema(target, conn, book, state=NOTHING, role=role)
            there = Made(state, state.settings, roles.names(conn))
        with _replayed(settings, survey, conn, screen) as (made, scratch):
            runners = {conn.info.user, settings.role}
            found = compared.compare(made, there, runners, scratch)
    kept = [d for d in found.differences if not _is_ignored(d, settings)]
    return Drift(
        tuple(d for d in kept if d.state != "order"),
        tuple(d for d in kept if d.state == "order"),
        len(found.differences) - len(kept),
        found.objects,
    )


# The target


@contextmanager
def _still(target: Target, conn: Connection, settings: Settings, screen: Screen) -> Iterator[None]:
    """Wait for a run that is under way, and let none begin meanwhile."""
    if not settings.guard:
        yield
        return
    guard = Guard(target, place.find(conn, settings.ledger).keys)
    started, said = time.monotonic(), 0.0
    try:
        while not locked(guard):
            now = time.monotonic()
            if now - said >= _SAY_AGAIN_S:
                screen.event(Waiting(guard.holder(), now - started))
                said = now
            nap()
        yield
    finally:
        guard.close()


def _stand(conn: Connection, settings: Settings, screen: Screen) -> Survey:
    """Return what is executed. Raise `LedgerError` if that says nothing of the schema."""
    found = stand(conn, settings)
    if not found.executed:
        raise LedgerError(
            f"Nothing is executed here, so nothing says what the database should be. {NOTHING}",
            "To set it up: invoke db.migrate; if it has all already: invoke db.baseline",
        )
    if found.progress:
        raise LedgerError(
            f"Executed in part: {listed(list(found.progress))}. {NOTHING}",
            "Finish it first: invoke db.migrate-run",
        )
    changed = found.plan.named("changed")
    if changed:
        message = f"changed since it was executed, and replayed as it is now: {listed(changed)}"
        screen.event(Note(message, "warning"))
    return found


# The replay


@contextmanager
def _replayed(
    settings: Settings, survey: Survey, conn: Connection, screen: Screen
) -> Iterator[tuple[Made, Scratch]]:
    """Yield what the base schema and the executed files make on an empty database, and that."""
    executed = set(survey.executed)
    base = base_schema(settings)
    paths = [m.path for m in (base, *survey.migrations) if m and m.filename in {SCHEMA, *executed}]
    with _empty(settings, conn, paths, screen) as (scratch, before):
        files.run(scratch, among=())
        recorded = set(compared.recorded(scratch))
        ahead = sorted(recorded - executed - {SCHEMA})
        if not ahead:
            _refuse_gone(executed - recorded, survey)
            files.run(scratch, among=executed)
            without = _without(scratch, settings, base is not None, screen)
            yield compared.looked_at(scratch, before, without), scratch
            return
    # A dump of a database that was ahead of this one.
    shown = settings.shown(settings.schema)
    screen.event(Note(f"{shown} holds what is pending here: {listed(ahead, 3)}; replayed without"))
    _refuse_gone(executed, survey)
    with _empty(settings, conn, paths, screen) as (scratch, before):
        files.run(scratch, schema=False, among=executed)
        without = _without(scratch, settings, False, screen)
        yield compared.looked_at(scratch, before, without), scratch


@contextmanager
def _empty(
    settings: Settings, conn: Connection, paths: Collection[Path], screen: Screen
) -> Iterator[tuple[Scratch, Mapping[Object, str]]]:
    """Yield an empty database for these files, and the settings that it was given."""
    with database(settings, conn, unset=files.sets(paths)) as empty:
        screen.event(Note(f"replaying what is executed on {empty.shown}"))
        scratch = files.prepared(empty, settings.role)
        with scratch.target.once("invoke db scratch") as there:
            before = beside.settings(there)
        yield scratch, before


def _refuse_gone(wanted: Collection[str], survey: Survey) -> None:
    """Raise `FilesError` if an executed file is not there to be replayed."""
    there = {SCHEMA, *(m.filename for m in survey.migrations)}
    gone = sorted(set(wanted) - there)
    if gone:
        raise FilesError(
            f"Executed, and not in the folder: {listed(gone)}. What they made cannot be told. "
            f"{NOTHING}",
            "Put them back; or let a dump that has them be the base schema: invoke db.dump",
        )


def _without(scratch: Scratch, settings: Settings, based: bool, screen: Screen) -> tuple[str, ...]:
    """Return the kinds that are not compared, and say why."""
    why = ""
    if not scratch.own:
        why = f"{scratch.shown} has other roles"
    elif based and folder.is_dump(settings.schema) and folder.lacks_privileges(settings.schema):
        why = f"{settings.shown(settings.schema)} is a dump without them (--privileges)"
    if why:
        screen.event(Note(f"privileges are not compared: {why}"))
    return PRIVILEGES if why else ()


def _is_ignored(difference: Difference, settings: Settings) -> bool:
    return any(fnmatchcase(str(difference), glob) for glob in settings.drift_ignore)

"""db.drift: the database held against what its files make."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from psycopg import sql

from ..engine import ledger, place
from ..engine.survey import Survey, base_schema, stand
from ..engine.waiting import nap
from ..errors import CheckFailed, FilesError, LedgerError, listed
from ..events import Difference, Note, Waiting
from ..files import folder
from ..files.plan import SCHEMA
from ..scratch import again, beside, files, objects
from ..scratch.beside import Schema
from ..scratch.database import Scratch, database
from ..scratch.objects import PRIVILEGES, Object
from ..server import ours
from ..server.connection import Target
from ..server.ours import Connection
from ..server.watch import Guard
from ..settings import Settings
from .opened import Screen, connected, locked, read_only

_SAY_AGAIN_S = 30.0
_NOTHING = "Nothing was compared."
_WITHOUT_PRIVILEGES = b"\n-- Not in it: privileges"
_HEAD = 1 << 20  # bytes of a dump, in which its head is


class Drift(NamedTuple):
    """Where a database is not what its files make; `compared`: how many objects were looked at.

    `ignored`: how many differences MIGRATIONS_DRIFT_IGNORE has left out.
    """

    differences: tuple[Difference, ...]
    in_order: tuple[Difference, ...]  # of nothing but the order of columns
    ignored: int
    compared: int


class _Made(NamedTuple):
    """What a database is made of, and the roles of its server. `without`: kinds not compared."""

    schema: Schema
    settings: Mapping[Object, str]
    roles: set[str]
    without: tuple[str, ...] = ()


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
            state = beside.schema(target, conn, survey.ledger, state=_NOTHING)
            there = _Made(state, state.settings, again.roles(conn))
        made = _replayed(settings, survey, conn, screen)
        runners = {conn.info.user, settings.role}
        expected, found = (_objects(each, runners) for each in (made, there))
        differences = objects.compare(expected, found, without=made.without)
        if any(d.state in ("differs", "order") for d in differences):
            differences = _settled(differences, (made, there), runners, settings, conn)
    kept = [d for d in differences if not _is_ignored(d, settings)]
    return Drift(
        tuple(d for d in kept if d.state != "order"),
        tuple(d for d in kept if d.state == "order"),
        len(differences) - len(kept),
        len(expected.keys() | found.keys()),
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
            f"Nothing is executed here, so nothing says what the database should be. {_NOTHING}",
            "To set it up: invoke db.migrate; if it has all already: invoke db.baseline",
        )
    if found.progress:
        raise LedgerError(
            f"Executed in part: {listed(list(found.progress))}. {_NOTHING}",
            "Finish it first: invoke db.migrate-run",
        )
    changed = found.plan.named("changed")
    if changed:
        message = f"changed since it was executed, and replayed as it is now: {listed(changed)}"
        screen.event(Note(message, "warning"))
    return found


# The replay


def _replayed(settings: Settings, survey: Survey, conn: Connection, screen: Screen) -> _Made:
    """Return what the base schema and the executed files make on an empty database."""
    executed = set(survey.executed)
    base = base_schema(settings)
    paths = [m.path for m in (base, *survey.migrations) if m and m.filename in {SCHEMA, *executed}]
    with _empty(settings, conn, paths, screen) as (scratch, before):
        files.run(scratch, among=())
        recorded = _recorded(scratch)
        ahead = sorted(recorded - executed - {SCHEMA})
        if not ahead:
            _refuse_gone(executed - recorded, survey)
            files.run(scratch, among=executed)
            without = _without(scratch, settings, base is not None, screen)
            return _looked_at(scratch, before, without)
    # A dump of a database that was ahead of this one.
    shown = settings.shown(settings.schema)
    screen.event(Note(f"{shown} holds what is pending here: {listed(ahead, 3)}; replayed without"))
    _refuse_gone(executed, survey)
    with _empty(settings, conn, paths, screen) as (scratch, before):
        files.run(scratch, schema=False, among=executed)
        return _looked_at(scratch, before, _without(scratch, settings, False, screen))


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
            f"{_NOTHING}",
            "Put them back; or let a dump that has them be the base schema: invoke db.dump",
        )


def _recorded(scratch: Scratch) -> set[str]:
    with scratch.target.once("invoke db scratch") as conn:
        return set(ledger.read(conn, place.find(conn, scratch.settings.ledger)))


def _without(scratch: Scratch, settings: Settings, based: bool, screen: Screen) -> tuple[str, ...]:
    """Return the kinds that are not compared, and say why."""
    why = ""
    if not scratch.own:
        why = f"{scratch.shown} has other roles"
    elif based and folder.is_dump(settings.schema):
        with settings.schema.open("rb") as file:
            if _WITHOUT_PRIVILEGES in file.read(_HEAD):
                why = f"{settings.shown(settings.schema)} is a dump without them (--privileges)"
    if why:
        screen.event(Note(f"privileges are not compared: {why}"))
    return PRIVILEGES if why else ()


def _looked_at(scratch: Scratch, before: Mapping[Object, str], without: tuple[str, ...]) -> _Made:
    """Return what is there now; what was set `before` is not the files' doing."""
    with scratch.target.once("invoke db scratch") as conn, ours.transaction(conn, ours.LOOKING):
        book = place.find(conn, scratch.settings.ledger)
        schema = beside.schema(scratch.target, conn, book, state=_NOTHING)
        own = {key: text for key, text in schema.settings.items() if before.get(key) != text}
        return _Made(schema, own, again.roles(conn), without)


# The comparison


def _objects(made: _Made, runners: Collection[str], dump: bytes | None = None) -> dict[Object, str]:
    """Return all that is compared; what the files' own roles may do is not."""
    found = {**made.schema.objects(dump), **made.settings}
    names = "|".join(
        f"{re.escape(name)}|{re.escape(sql.Identifier(name).as_string(None))}"
        for name in runners
        if name
    )
    theirs = re.compile(rf"(?m)^GRANT .* TO (?:{names})(?: WITH GRANT OPTION)?;\n?")
    for key in [key for key in found if key.kind == "ACL"]:
        text = theirs.sub("", found.pop(key)).strip()
        if text:
            found[key] = text
    return found


def _settled(
    differences: list[Difference],
    both: tuple[_Made, _Made],
    runners: Collection[str],
    settings: Settings,
    conn: Connection,
) -> list[Difference]:
    """Return those of the differences that are left when both sides are written by one server."""
    roles = both[0].roles | both[1].roles
    dumps = [again.dumped(made.schema, settings, conn, roles) for made in both]
    if None in dumps:
        return differences
    made, there = (_objects(m, runners, dump) for m, dump in zip(both, dumps, strict=True))
    later = {(d.kind, d.schema, d.name): d for d in objects.compare(made, there)}
    settled = []
    for each in differences:
        as_before = each.state not in ("differs", "order") or each.kind in PRIVILEGES
        found = each if as_before else later.get((each.kind, each.schema, each.name))
        settled += [found] if found else []
    return settled


def _is_ignored(difference: Difference, settings: Settings) -> bool:
    return any(fnmatchcase(str(difference), glob) for glob in settings.drift_ignore)

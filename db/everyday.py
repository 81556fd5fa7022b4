"""The ledger shown, checked and put right; the database awaited, created, dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol, TypeAlias, TypeVar

import psycopg
from psycopg import sql

from . import connection, files, ledger, units
from .config import Settings
from .connection import Connection, Server, Target
from .errors import (
    CheckFailed,
    ConnectionFailed,
    FilesError,
    LedgerError,
    MigrationsError,
    ScriptError,
    SettingsError,
)
from .events import Event, Note, Planned
from .files import Migration
from .ledger import Ledger
from .plan import SCHEMA, Entry, Executed, Goal, Plan, Progress
from .script import Script
from .survey import Survey, base_schema, stand, survey
from .watch import Guard, author

T = TypeVar("T")
Cell: TypeAlias = "str | int | datetime | None"
Confirm = Callable[[str], None]  # raises, unless the answer is yes

_READ_ONLY = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_NO_LONG_WAIT = b"SET LOCAL lock_timeout = '5s'"
_STATUS = ("filename", "state", "executed_at", "duration_ms", "executed_by")
_PLAN = ("filename", "runs", "statements")


class Screen(Protocol):
    """What a command needs of a report."""

    def event(self, event: Event) -> None: ...
    def error(self, error: MigrationsError) -> None: ...
    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None: ...


def drive(events: Generator[Event, None, T], screen: Screen) -> T:
    """Show the events, and return what they come to."""
    while True:
        try:
            screen.event(next(events))
        except StopIteration as done:
            value: T = done.value
            return value


@contextmanager
def connected(
    settings: Settings, screen: Screen, *, writing: bool
) -> Iterator[tuple[Target, Connection, Server]]:
    """Yield a connection. Raise `LedgerError` for what the server refuses meanwhile."""
    with (
        connection.target(settings) as target,
        drive(target.connect("invoke db"), screen) as conn,
        _explained(target, "Nothing was changed." if writing else "Nothing was read."),
    ):
        server = connection.describe(conn, writing=writing)
        screen.event(server.connected)
        yield target, conn, server


@contextmanager
def _explained(target: Target, state: str) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        said = target.redacted(error.diag.message_primary or str(error))
        code = f" ({error.sqlstate})" if error.sqlstate else ""
        locked = isinstance(error, psycopg.errors.LockNotAvailable)
        advice = [state, "Another session has locked the ledger; try again."] if locked else [state]
        raise LedgerError(f"{said}{code}", *advice) from None


@contextmanager
def reading(settings: Settings, screen: Screen) -> Iterator[Connection]:
    """Yield a connection in a transaction in which nothing can be written."""
    with connected(settings, screen, writing=False) as (_, conn, server), read_only(conn, server):
        yield conn


@contextmanager
def read_only(conn: Connection, server: Server) -> Iterator[None]:
    """Be in a transaction in which nothing can be written, and no lock is waited for for long."""
    limits = [_NO_LONG_WAIT] if "lock_timeout" in server.settings else []
    conn.execute(b";".join([_READ_ONLY, *limits]))
    yield
    conn.execute("ROLLBACK")


def status(settings: Settings, screen: Screen, *, check: bool) -> None:
    """Show every file and its state; with `check`, raise `CheckFailed` unless all are executed."""
    with reading(settings, screen) as conn:
        found = stand(conn, settings)
        entries = [*_schema_entry(conn, settings, found), *found.plan.entries]
    for note in found.plan.notes:
        screen.event(note)
    if entries:
        rows = [e.executed or Executed(e.filename, None) for e in entries]
        screen.table(
            _STATUS,
            [
                (e.filename, e.state, r.executed_at, r.duration_ms, r.executed_by)
                for e, r in zip(entries, rows, strict=True)
            ],
        )
    else:
        folder = settings.shown(settings.folder)
        screen.event(Note(f"the folder {folder} holds no migrations, and none is executed"))
    counted = Counter(e.state for e in entries)
    totals = ", ".join(f"{number} {state}" for state, number in counted.items())
    if entries:
        screen.event(Note(totals))
    if check and counted.keys() - {"executed"}:
        raise CheckFailed(f"Not everything is executed: {totals}.", *_advice(found.plan))


def _schema_entry(conn: Connection, settings: Settings, found: Survey) -> list[Entry]:
    if SCHEMA in found.executed:
        return [Entry(SCHEMA, "executed", found.executed[SCHEMA])]
    loads = not found.executed and base_schema(settings) and ledger.is_empty(conn, found.ledger)
    return [Entry(SCHEMA, "pending")] if loads else []


def _files(settings: Settings, found: Survey) -> list[Migration]:
    return [*filter(None, [base_schema(settings)]), *found.migrations]


def _advice(made: Plan) -> list[str]:
    advice = []
    for filename in made.named("changed")[:1]:
        advice.append(f"Put the executed text of {filename} back, and write a new migration;")
        advice.append(f"or, if the edit is meant: invoke db.repair --name {filename} --accept")
    for filename in made.named("missing")[:1]:
        advice.append(f"Put {filename} back; or: invoke db.repair --name {filename} --forget")
    return advice or ["See what would run: invoke db.plan"]


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
    screen.table(_PLAN, [row for row, _ in looked])
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


def verify(settings: Settings, screen: Screen) -> None:
    """Raise `CheckFailed` unless every executed file is on disk as it was executed."""
    with reading(settings, screen) as conn:
        found = stand(conn, settings)
    wrong = [e for e in found.plan.entries if e.state in ("changed", "missing")]
    unchecked = [r.filename for r in found.executed.values() if r.checksum is None]
    if unchecked:
        screen.event(Note(f"recorded without a checksum, so not compared: {len(unchecked)}"))
    if not wrong:
        compared = set(found.plan.named("executed")) - set(unchecked)
        screen.event(Note(f"as they were executed: {len(compared)}"))
        return
    screen.table(_STATUS[:2], [(e.filename, e.state) for e in wrong])
    which = [
        f"{state}: {', '.join(names)}"
        for state in ("changed", "missing")
        if (names := found.plan.named(state))
    ]
    raise CheckFailed(f"Not as they were executed. {'; '.join(which)}.", *_advice(found.plan))


def baseline(settings: Settings, screen: Screen, confirm: Confirm, to: str) -> None:
    """Record files, the base schema first, as executed without running them.

    Only what is missing in the ledger is added; rows that it has stay as they are.
    """
    with connected(settings, screen, writing=True) as (target, conn, server):
        with read_only(conn, server):
            found = stand(conn, settings)
        if not found.executed and ledger.is_empty(conn, found.ledger):
            raise LedgerError(
                "The database is empty, so nothing is in it that could be recorded.",
                "To set it up: invoke db.migrate",
            )
        wanted = _files(settings, found)
        if to:
            wanted = wanted[: wanted.index(files.find(wanted, to)) + 1]
        missing = [m for m in wanted if m.filename not in found.executed]
        if not missing:
            screen.event(Note(f"nothing to record; in the ledger already: {len(wanted)}"))
            return
        screen.table(("filename", "change"), [(m.filename, "recorded, not run") for m in missing])
        confirm(f"Record {len(missing)} as executed in {server.connected}?")
        with _changing(target, conn, server, settings, found) as book:
            rows = [(m.filename, m.checksum) for m in missing]
            ledger.record(conn, book, rows, f"{author()} (db.baseline)")
        screen.event(Note(f"recorded as executed: {len(missing)}"))


def repair(settings: Settings, screen: Screen, confirm: Confirm, name: str, how: str) -> None:
    """Change what the ledger says about one file. `how`: accept, forget or mark."""
    with connected(settings, screen, writing=True) as (target, conn, server):
        with read_only(conn, server):
            found = stand(conn, settings)
        names = (*found.executed, *found.progress)
        gone = [Migration(n, settings.folder / n, n, "") for n in names]
        known = {m.filename: m for m in (*gone, *_files(settings, found))}
        chosen = files.find(tuple(known.values()), name)
        change = _change(found, chosen, how)
        if isinstance(change, Note):
            screen.event(change)
            return
        screen.table(("filename", "change"), [(chosen.filename, change)])
        confirm(f"Do this in {server.connected}?")
        with _changing(target, conn, server, settings, found) as book:
            if how == "accept":
                ledger.accept(conn, book, chosen.filename, chosen.checksum)
            elif how == "forget":
                ledger.forget(conn, book, chosen.filename)
            else:
                row = (chosen.filename, chosen.checksum)
                ledger.record(conn, book, [row], f"{author()} (db.repair --mark)")
        screen.event(Note("done", filename=chosen.filename))


def _change(found: Survey, chosen: Migration, how: str) -> str | Note:
    """Return what would change, or a note that nothing has to. Raise if it cannot be done."""
    name, row = chosen.filename, found.executed.get(chosen.filename)
    if how == "forget":
        return _forgetting(found, chosen)
    if not chosen.checksum:
        raise FilesError(f"There is no file {name}.", *_advice(found.plan))
    if how == "mark":
        already = Note("nothing to mark: it is executed already", filename=name)
        return already if row else "recorded as executed, not run"
    if row is None:
        raise LedgerError(
            f"{name} is not executed, so there is no checksum to accept.",
            f"To run it: invoke db.migrate-single --name {name}",
        )
    if row.checksum == chosen.checksum:
        return Note("nothing to accept: it is as it was executed", filename=name)
    return f"checksum {(row.checksum or 'none')[:12]} becomes {chosen.checksum[:12]}"


def _forgetting(found: Survey, chosen: Migration) -> str | Note:
    if chosen.filename in found.executed:
        return "its row is removed" + ("; it runs again" if chosen.checksum else "")
    if chosen.filename in found.progress:
        return "what is finished of it is forgotten; it starts from its first statement"
    return Note("nothing to forget: the ledger does not have it", filename=chosen.filename)


@contextmanager
def _changing(
    target: Target, conn: Connection, server: Server, settings: Settings, found: Survey
) -> Iterator[Ledger]:
    """Yield the ledger, made or adopted, in a transaction while no run is under way."""
    guard = Guard(target, found.ledger.key)
    try:
        if settings.guard and not _locked(guard):
            raise LedgerError(f"Nothing was changed, because of {guard.holder()}.", "Wait for it.")
        with conn.transaction():
            if "lock_timeout" in server.settings:
                conn.execute(_NO_LONG_WAIT)
            book = ledger.prepare(conn, found.ledger, None, unfinished=False)
            yield book
    finally:
        guard.close()


def _locked(guard: Guard) -> bool:
    try:
        return guard.lock()
    except (psycopg.errors.UndefinedFunction, psycopg.errors.FeatureNotSupported):
        return True  # an engine without advisory locks


def wait(settings: Settings, screen: Screen, timeout_s: float) -> None:
    """Wait until the server accepts connections. Raise `ConnectionFailed` if it does not."""
    with connection.target(settings) as target:
        _await(Target(target.parameters, timeout_s), screen)
        screen.event(Note(f"{target.place} accepts connections"))


def _await(target: Target, screen: Screen) -> None:
    if not drive(target.accepts(), screen):
        raise ConnectionFailed(
            f"{target.place} does not accept connections (waited {target.timeout_s:.0f} s).",
            "Is the server started? To wait longer for it: invoke db.wait --timeout 300",
        )


def create(settings: Settings, screen: Screen) -> None:
    """Create the database, if it is missing."""
    with connection.target(settings) as target:
        name = _database(target)
        _await(target, screen)
        if target.create_database():
            screen.event(Note(f"created the database {name} on {target.place}"))
            return
        drive(target.connect("invoke db"), screen).close()
        screen.event(Note(f"the database {name} on {target.place} exists already"))


def drop(settings: Settings, screen: Screen, confirm: Confirm, really: str) -> None:
    """Drop the database. `really`: its name again, which a server elsewhere needs."""
    with connection.target(settings) as target:
        name = _database(target)
        if really not in ("", name):
            raise SettingsError(f"--yes-really-drop {really}: the database is named {name}.")
        with (
            drive(target.maintenance.connect("invoke db"), screen) as conn,
            _explained(target, "Nothing was dropped."),
        ):
            if not (really or connection.is_local(conn)):
                raise SettingsError(
                    f"{target.place} is not a server of this machine: {name} was not dropped.",
                    f"If it really has to go: --yes-really-drop {name}",
                )
            if not really:
                confirm(f"Drop the database {name} on {target.place}, with all that is in it?")
            force = " WITH (FORCE)" if conn.info.server_version >= 130000 else ""
            quoted = sql.Identifier(name).as_string(None)
            conn.execute(f"DROP DATABASE IF EXISTS {quoted}{force}".encode())
            screen.event(Note(f"dropped the database {name} on {target.place}"))


def _database(target: Target) -> str:
    name = target.parameters.get("dbname", "")
    if not name:
        raise SettingsError(
            "DATABASE_URL names no database.", "Put its name behind the host: /name"
        )
    return name

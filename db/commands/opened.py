"""What every command stands on: a screen, a connection, a transaction of its own kind."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Protocol, TypeAlias, TypeVar

import psycopg

from ..engine import ledger
from ..engine.survey import Survey, stand
from ..errors import LedgerError, MigrationsError, one_line
from ..events import Event
from ..server import connection, described, ours, pooler
from ..server.connection import Target
from ..server.described import Server
from ..server.ours import Connection
from ..server.watch import Guard
from ..settings import Settings

T = TypeVar("T")
Cell: TypeAlias = "str | int | datetime | None"
Confirm = Callable[[str], None]  # raises, unless the answer is yes

_NO_LONG_WAIT_MS = 5000


class Screen(Protocol):
    """What a command needs of a report."""

    def event(self, event: Event) -> None: ...
    def error(self, error: MigrationsError) -> None: ...
    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None: ...


class Listener:
    """A screen that hands events to a function, and shows no tables: records are returned."""

    def __init__(self, on_event: Callable[[Event], None] | None) -> None:
        self._on_event = on_event

    def event(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def error(self, error: MigrationsError) -> None:
        raise error

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        pass


def drive(
    events: Generator[Event, None, T], screen: Screen, shown: Callable[[Event], bool] | None = None
) -> T:
    """Show the events, or those that are to be `shown`, and return what they come to.

    A KeyboardInterrupt while one is being shown is thrown into them: they know what stands. Any
    other error of whoever shows it ends them.
    """
    while True:
        try:
            event = next(events)
        except StopIteration as done:
            value: T = done.value
            return value
        try:
            if shown is None or shown(event):
                screen.event(event)
        except KeyboardInterrupt as stop:
            events.throw(stop)
            raise
        except BaseException:
            events.close()  # now, and not when nobody keeps the error any more
            raise


@contextmanager
def connected(
    settings: Settings, screen: Screen, *, writing: bool
) -> Iterator[tuple[Target, Connection, Server]]:
    """Yield a connection. Raise `LedgerError` for what the server refuses meanwhile."""
    with (
        connection.target(settings) as target,
        drive(target.connect("invoke db"), screen) as conn,
        explained(
            "Nothing was changed." if writing else "Nothing was read.",
            lambda error: _about_the_ledger(error, conn, settings),
        ),
    ):
        server = described.describe(conn, writing=writing)
        screen.event(server.connected)
        yield target, conn, server


def _about_the_ledger(error: psycopg.Error, conn: Connection, settings: Settings) -> list[str]:
    from ..engine import remedy

    return remedy.of_the_ledger(error, conn, settings.ledger, conn.info.user)


@contextmanager
def explained(
    state: str, more: Callable[[psycopg.Error], list[str]] = lambda _: []
) -> Iterator[None]:
    """Raise `LedgerError` for what the server refuses. `state`: what became of it."""
    try:
        yield
    except psycopg.Error as error:
        said = one_line(error.diag.message_primary or str(error))
        code = f" ({error.sqlstate})" if error.sqlstate else ""
        locked = isinstance(error, psycopg.errors.LockNotAvailable)
        busy = ["Another session has locked the ledger; try again."] if locked else []
        none = pooler.NONE_FREE if pooler.had_none(error) else ()
        raise LedgerError(f"{said}{code}", state, *busy, *none, *more(error)) from None


@contextmanager
def reading(settings: Settings, screen: Screen) -> Iterator[Connection]:
    """Yield a connection in a transaction in which nothing can be written."""
    with connected(settings, screen, writing=False) as (_, conn, server), read_only(conn, server):
        yield conn


@contextmanager
def read_only(conn: Connection, server: Server) -> Iterator[None]:
    """Be in a transaction in which nothing can be written, and no lock is waited for for long."""
    with ours.transaction(conn, ours.LOOKING, lock_timeout_ms=_limit(server)):
        yield


@contextmanager
def changing(
    target: Target, conn: Connection, server: Server, settings: Settings, found: Survey
) -> Iterator[Survey]:
    """Yield what stands now, with the ledger made or adopted, in a transaction of its own.

    No run is under way, and nobody else can write the ledger. What was shown before somebody
    answered may have changed since: whoever writes compares.
    """
    guard = Guard(target, found.ledger.keys)
    try:
        if settings.guard and not locked(guard):
            raise LedgerError(f"Nothing was changed, because of {guard.holder()}.", "Wait for it.")
        with ours.transaction(conn, lock_timeout_ms=_limit(server)):
            ledger.hold(conn, ledger.prepare(conn, found.ledger, None, unfinished=False))
            yield stand(conn, settings)
    finally:
        guard.close()


def _limit(server: Server) -> int | None:
    return _NO_LONG_WAIT_MS if "lock_timeout" in server.settings else None


def locked(guard: Guard) -> bool:
    """Take the locks of a ledger, unless a run has them; return whether they are free of runs."""
    try:
        return guard.lock()
    except (psycopg.errors.UndefinedFunction, psycopg.errors.FeatureNotSupported):
        return True  # an engine without advisory locks

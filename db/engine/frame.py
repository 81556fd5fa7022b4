"""What stands around a file's statements in each of its transactions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from psycopg import sql

from ..server.described import CITUS, REACHES_OUT, VANISHED
from ..server.pipeline import Command
from .running import Running
from .session import Session

_WAIT = f"SELECT pg_catalog.set_config('synchronous_commit', 'on', true) WHERE {REACHES_OUT}"


def opening(session: Session, running: Running, modes: bytes, *, flush: bool) -> Iterator[Command]:
    """Yield the commands that each transaction of a file opens with.

    SET LOCAL, not set_config(): a query would make a SET TRANSACTION that follows fail.
    """
    directives = running.script.directives
    yield Command(b"BEGIN " + modes, about=running)
    label = f"{session.name} {running.filename}".encode()[:63].decode(errors="ignore")
    yield Command(_local("application_name", label), about=running)
    yield from _known(session, CITUS, "local", running)  # what follows is sent to its workers
    yield from lock_timeout(session, running)
    if directives.statement_timeout_ms is not None:
        timeout = str(directives.statement_timeout_ms)
        yield Command(_local("statement_timeout", timeout), about=running)
    for name, value in VANISHED.items():
        yield from _known(session, name, value, running)
    if not flush:
        yield from _known(session, "synchronous_commit", "off", running)


def lock_timeout(session: Session, running: Running) -> Iterator[Command]:
    """Yield how long the file may wait for a lock."""
    own, general = running.script.directives.lock_timeout_ms, session.settings.lock_timeout_ms
    yield from _known(session, "lock_timeout", str(general if own is None else own), running)


def waiting_commit(session: Session, running: Running) -> Iterator[Command]:
    """Yield what makes the commit wait for the disk if the file can reach out by now."""
    if session.may_not_flush:
        yield Command(_WAIT.encode(), about=running)


def role(session: Session, running: Running) -> Iterator[Command]:
    """Yield what makes the file's objects belong to MIGRATIONS_ROLE."""
    if session.settings.role:
        name = sql.Identifier(session.settings.role).as_bytes(None)
        yield Command(b"SET LOCAL ROLE " + name, "role", running)


def durable(session: Session, running: Running) -> Iterator[Command]:
    """Yield what makes the commit wait for the disk, whatever the file has set."""
    yield from _known(session, "synchronous_commit", session.server.synchronous_commit, running)


def _known(session: Session, name: str, value: str, running: Running) -> Iterator[Command]:
    if name in session.server.settings:
        yield Command(_local(name, value), about=running)


@cache  # the same few, for each file
def _local(name: str, value: str) -> bytes:
    return f"SET LOCAL {name} = ".encode() + sql.Literal(value).as_bytes(None)

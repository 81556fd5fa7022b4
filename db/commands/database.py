"""db.wait, db.create, db.drop: the database awaited, made, dropped."""

from __future__ import annotations

from ..errors import (
    ConnectionFailed,
    SettingsError,
)
from ..events import Note
from ..server import connection, databases
from ..server.connection import Target
from ..server.local import is_local
from ..settings import Settings
from .opened import Confirm, Screen, drive, explained


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
    """Drop the database. `really`: its name, which a server not shown to be here needs."""
    with connection.target(settings) as target:
        name = _database(target)
        if really not in ("", name):
            raise SettingsError(f"{really} is not its name: the database is named {name}.")
        with (
            drive(target.maintenance.connect("invoke db"), screen) as conn,
            explained("Nothing was dropped."),
        ):
            if not connection.is_there(conn, name):
                screen.event(Note(f"the database {name} on {target.place} does not exist"))
                return
            if not (really or is_local(conn)):
                raise SettingsError(
                    f"{target.place} is not shown to be a server of this machine: "
                    f"{name} was not dropped.",
                    f"If it really has to go: --yes {name}",
                )
            if not really:
                confirm(f"Drop the database {name} on {target.place}, with all that is in it?")
            databases.drop(conn, name)
            screen.event(Note(f"dropped the database {name} on {target.place}"))


def _database(target: Target) -> str:
    name = target.parameters.get("dbname", "")
    if not name:
        raise SettingsError(
            "DATABASE_URL names no database.", "Put its name behind the host: /name"
        )
    return name

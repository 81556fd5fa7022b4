"""The database: set it up, migrate it, look at it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from . import report as screen
from .errors import Interrupted, MigrationsError, SettingsError
from .plan import Goal

_JSON = {"json": "print one JSON object a line, as docs/events.md describes"}


@contextmanager
def _reporting(c: Context, json: bool) -> Iterator[screen.Report]:
    """Make errors of ours a message and an exit code, and signals an orderly end."""
    report = screen.choose(json=json)
    try:
        if c.config.run.dry:
            raise SettingsError("--dry does not keep SQL from running.", "See: invoke db.plan")
        with _signals():
            yield report
    except MigrationsError as error:
        report.error(error)
        raise Exit(code=error.exit_code) from None
    except KeyboardInterrupt as stop:
        number = int(stop.args[0]) if stop.args else int(signal.SIGINT)
        report.error(Interrupted("Interrupted.", signal_number=number))
        raise Exit(code=128 + number) from None
    finally:
        report.close()


@contextmanager
def _signals() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP as Ctrl-C, with their own exit codes."""

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(report: screen.Report, goal: Goal) -> None:
    from . import config, connection
    from .runner import Run

    settings = config.read()
    with connection.target(settings) as target:
        events = Run(target, settings, goal).events()
        try:
            for event in events:
                report.event(event)
        except KeyboardInterrupt as stop:
            events.throw(stop)  # it says what stands


@task(help=_JSON)
def migrate(c: Context, json: bool = False) -> None:
    """Set the database up: the base schema if it is empty, then every pending migration."""
    with _reporting(c, json) as report:
        _run(report, Goal("db.migrate", schema=True))


@task(help=_JSON)
def migrate_run(c: Context, json: bool = False) -> None:
    """Run every pending migration."""
    with _reporting(c, json) as report:
        _run(report, Goal("db.migrate-run"))


@task(help={"name": "the file's name, such as 002_add_index.sql", **_JSON})
def migrate_single(c: Context, name: str, json: bool = False) -> None:
    """Run one migration."""
    with _reporting(c, json) as report:
        if name.startswith("-"):
            raise SettingsError(f"{name} is no file name.", "invoke db.migrate-single --name FILE")
        _run(report, Goal(f"db.migrate-single --name {name}", only=name))

"""What every command does with its command line: settings, report, signals, questions, exit."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from invoke.context import Context
from invoke.exceptions import Exit

from .errors import Declined, Interrupted, MigrationsError, SettingsError
from .events import Note
from .files.plan import Goal
from .screen import report as screen
from .screen import stream

if TYPE_CHECKING:
    from .engine.runner import Run
    from .settings import Settings

_ALL_ELSE = "All else is done. To see what stands: invoke db.status"


@contextmanager
def reporting(
    c: Context, names: set[str], *, json: bool, markdown: bool = False
) -> Iterator[screen.Report]:
    """Make errors of ours a message and an exit code, and signals an orderly end.

    `names` are the commands', which texts spell as the person has typed this one.
    """
    report = screen.choose(json=json, markdown=markdown, names=names)
    try:
        if c.config.run.dry:
            raise SettingsError("--dry does not keep SQL from running.", "See: invoke db.plan")
        with _signals():
            yield report
        if why := stream.lost():
            sys.stderr.write(f"What was to be shown could not be written: {why}. {_ALL_ELSE}\n")
            raise Exit(code=SettingsError.exit_code)
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
    """Treat SIGTERM and SIGHUP as Ctrl-C, with their own exit codes.

    One that is ignored stays so: that is what `nohup` is for.
    """

    def stop(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    wanted = (signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def root(c: Context) -> Path:
    """Return the folder of the project's tasks.py, in which invoke looks for invoke.yaml too.

    https://docs.pyinvoke.org/en/stable/concepts/configuration.html calls it the project location.
    """
    return Path(getattr(c.config, "_project_prefix", None) or "").resolve()


def settings(c: Context, report: screen.Report | None = None, *, required: bool = True) -> Settings:
    """Return the settings of the project; `report` its folder, unless one stands in it."""
    from .settings import read

    place = root(c)
    if report and place != Path.cwd():
        report.event(Note(f"working in {place}"))
    return read(place, c.config.get("db"), required=required)


def settings_of_many(c: Context) -> Callable[[str], Settings]:
    """Return what makes the settings of one of many targets out of its URL."""
    from .settings import of_many

    return of_many(root(c), c.config.get("db"))


def number(option: str, text: str) -> int:
    """Return the number that is given."""
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise SettingsError(f"{option} needs a number, and {text} is none.")
    return int(text)


def retyped(command: str, options: Mapping[str, str | bool]) -> str:
    """Return a command as it is to be typed again, with the options that are given."""
    words = [command]
    for name, value in options.items():
        if value:
            words += [
                f"--{name.replace('_', '-')}",
                *([] if value is True else [quote(str(value))]),
            ]
    return " ".join(words)


def run(report: screen.Report, settings: Settings, goal: Goal) -> None:
    """Execute what the goal says, and show it."""
    from .server import connection

    with connection.target(settings) as target:
        target.begin()
        from .engine.runner import Run  # while it is connected

        _show(report, Run(target, settings, goal))


def _show(report: screen.Report, run: Run) -> None:
    events = run.events()
    try:
        for event in events:
            report.event(event)
    except KeyboardInterrupt as stop:
        events.throw(stop)  # it says what stands


def asking(yes: bool, json: bool) -> Callable[[str], None]:
    """Return what asks a person before something is changed."""

    def confirm(question: str) -> None:
        if yes:
            return
        if json or not sys.stdin.isatty():
            raise SettingsError(f"{question} Nobody is here to answer.", "To say yes: --yes")
        stream.write(sys.stdout, f"{question} [y/N] ")
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Declined("Nothing was changed.")

    return confirm


def given(option: str, value: str) -> str:
    """Return the value, unless it is the next option: invoke would take that for it."""
    if value.startswith("-"):
        raise SettingsError(f"{option} needs a name, and {value} is an option.")
    return value


def named(yes: str | bool | None, really: str) -> str:
    """Return the database's name, where it was given to say yes: a bare --yes is True."""
    answer = yes if isinstance(yes, str) else ""
    return given("--yes", answer) or given("--yes-really-drop", really)

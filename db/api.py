"""The same from a program or a test: records instead of lines, and nothing is asked.

Each function takes a URL (libpq's, or `embedded:PATH`) and the folder of the migrations, or
`Settings`, which say both. `settings` are MIGRATIONS_… values as in .env, such as
`{"MIGRATIONS_TABLE": "ops.migrations"}`; those of the environment are not read, but libpq takes
from its PG… variables what the URL leaves out. Relative paths are relative to the working
directory. `on_event` is called with each event of `db.events`. An error is one of `db.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from .commands import baseline as _baseline
from .commands import drift as _drift
from .commands import fleet as _fleet
from .commands import models as _models
from .commands import plan as _plan
from .commands import rehearse as _rehearse
from .commands import rollback as _rollback
from .commands import status as _status
from .commands import verify as _verify
from .commands.opened import Listener, drive
from .commands.plan import Step
from .engine.runner import Run
from .events import Difference, Event, Target
from .files.plan import Entry, Goal
from .fleets import roster
from .fleets.crew import Limits
from .rehearsal.stage import Outcome
from .server import connection
from .settings import Settings

OnEvent = Callable[[Event], None]


def migrate(
    url: str | Settings,
    folder: str | Path | None = None,
    *,
    schema: str | Path | None = None,
    to: str = "",
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> list[str]:
    """Run every pending migration, or those up `to` one, and return the executed files.

    With a base `schema`, it is loaded first into an empty database, which is created if it is
    missing. The process may be stopped by KeyboardInterrupt, which becomes `errors.Interrupted`.
    """
    chosen, screen = _settings(url, folder, schema, settings), Listener(on_event)
    with connection.target(chosen) as target:
        target.begin()
        run = Run(target, chosen, Goal(schema=_has_schema(url, schema), to=to))
        drive(run.events(), screen)
        return run.executed


def status(
    url: str | Settings,
    folder: str | Path | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> tuple[Entry, ...]:
    """Return every file and its state, in their order. Nothing is written."""
    return _status.look(_settings(url, folder, None, settings), Listener(on_event)).entries


def plan(
    url: str | Settings,
    folder: str | Path | None = None,
    *,
    schema: str | Path | None = None,
    to: str = "",
    only: str = "",
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> tuple[Step, ...]:
    """Return what `migrate` would do, in order; `only`: what one file would. Nothing is written.

    A file that would be refused has its reason in `refused`.
    """
    chosen = _settings(url, folder, schema, settings)
    goal = Goal(schema=_has_schema(url, schema) and not only, only=only, to=to)
    return _plan.plan(chosen, Listener(on_event), goal).steps


def rehearse(
    url: str | Settings | None = None,
    folder: str | Path | None = None,
    *,
    schema: str | Path | None = None,
    to: str = "",
    only: str = "",
    replay: bool = False,
    longest_s: float = 1.0,
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> Outcome:
    """Run the pending files on a copy of the schema, and return what they would do to the target.

    `only`: one file; `to`: up to that one. With `replay`, or without a URL, the copy is what the
    base `schema` and the files before `only` make, and sizes are unknown. `findings` are what
    others may wait for longer than `longest_s` seconds. Nothing is written; an error is that of a
    file that would fail.
    """
    chosen = _settings("" if url is None else url, folder, schema, settings)
    goal = Goal("db.rehearse", only=only, to=to)
    return _rehearse.rehearse(
        chosen,
        Listener(on_event),
        goal,
        replayed=replay or url is None,
        longest_ms=round(1000 * longest_s),
    )


def verify(
    url: str | Settings,
    folder: str | Path | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> tuple[Entry, ...]:
    """Return the executed files that have changed since, or are missing. Nothing is written.

    Half-done files that are missing are among them.
    """
    return _verify.compare(_settings(url, folder, None, settings), Listener(on_event)).wrong


def drift(
    url: str | Settings,
    folder: str | Path | None = None,
    *,
    schema: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> tuple[Difference, ...]:
    """Return where the database differs from a replay of its executed files. Nothing is written.

    Where only the order of columns is another one is not among them.
    """
    chosen = _settings(url, folder, schema, settings)
    return _drift.compare(chosen, Listener(on_event)).differences


def rollback(
    url: str | Settings,
    folder: str | Path | None = None,
    *,
    steps: int = 1,
    to: str = "",
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> list[str]:
    """Undo the latest `steps` files, or all executed after `to`, and return them, newest first."""
    chosen = _settings(url, folder, None, settings)
    return _rollback.rollback(chosen, Listener(on_event), _agreed, steps, to)


def baseline(
    url: str | Settings,
    folder: str | Path | None = None,
    *,
    schema: str | Path | None = None,
    to: str = "",
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> list[str]:
    """Record files, up `to` one, as executed without running them, and return what was recorded."""
    chosen = _settings(url, folder, schema, settings)
    return _baseline.baseline(chosen, Listener(on_event), _agreed, to)


def fleet(
    targets: Mapping[str, str] | Iterable[str],
    folder: str | Path,
    *,
    schema: str | Path | None = None,
    to: str = "",
    workers: int = 8,
    canary: int = 3,
    stop_after: int = 5,
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> tuple[Target, ...]:
    """Do as `migrate` does on many targets, and return what became of each.

    `targets` are URLs, with names or without; so many `workers` are at work at a time, in threads.
    `canary` targets come first, and no more are begun after `stop_after` failures (0: however
    many). Raise `errors.FleetFailed` if any failed: its `outcomes` are what would be returned.
    """
    given = targets.items() if isinstance(targets, Mapping) else (("", url) for url in targets)
    members = roster.of_urls(given, lambda url: _settings(url, folder, schema, settings))
    goal, limits = Goal(schema=schema is not None, to=to), Limits(workers, canary, stop_after)
    return _fleet.migrate(members, goal, limits, Listener(on_event))


def typed_models(
    url: str | Settings | None = None,
    folder: str | Path | None = None,
    *,
    schema: str | Path | None = None,
    style: str = "",
    enums: str = "",
    settings: Mapping[str, str] | None = None,
    on_event: OnEvent | None = None,
) -> str:
    """Return the tables and views as a Python module, as `invoke db.models` writes it.

    They are those of the database of `url`, or, without one, those that the base `schema` and the
    files make of a disposable one. `style` is dataclass, pydantic or typeddict; `enums` literal or
    class. With `Settings` the files are replayed, and what is not said here is theirs.
    """
    live = isinstance(url, str)
    chosen = _settings("" if url is None else url, folder, schema, settings)
    chosen = chosen._replace(styles=chosen.styles.chosen(style, enums))
    return _models.text(chosen, Listener(on_event), live=live)


def _agreed(question: str) -> None:
    """Agree: who calls the function has decided."""


def _has_schema(url: str | Settings, schema: str | Path | None) -> bool:
    return url.schema.is_file() if isinstance(url, Settings) else schema is not None


def _settings(
    url: str | Settings,
    folder: str | Path | None,
    schema: str | Path | None,
    values: Mapping[str, str] | None,
) -> Settings:
    if isinstance(url, Settings):
        if folder is not None or schema is not None or values is not None:
            raise TypeError("Settings say the folder, the schema and all else already")
        return url
    return Settings.of(url, folder or "migrations", schema=schema, values=values)

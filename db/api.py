"""The same from a program or a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .engine.runner import Run
from .events import Event
from .files.plan import Goal
from .server import connection
from .settings import from_values


def migrate(
    url: str,
    folder: str | Path,
    *,
    schema: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[str]:
    """Run every pending migration of `folder`, and return the files that were executed.

    `url` is libpq's, or `embedded:PATH`. With `schema`, that base schema is loaded first into an
    empty database, which is created if it is missing. `settings` are MIGRATIONS_… values as in
    .env; the environment is not read. `on_event` is called with each event of `db.events`.
    Raise an error of `db.errors` if it cannot be done.
    """
    values = {**(settings or {}), "MIGRATIONS_DIR": str(Path(folder).absolute())}
    if schema is not None:
        values["MIGRATIONS_SCHEMA"] = str(Path(schema).absolute())
    chosen = from_values(values, url, root=Path.cwd())
    with connection.target(chosen) as target:
        run = Run(target, chosen, Goal(schema=schema is not None))
        for event in run.events():
            if on_event is not None:
                on_event(event)
        return run.executed

"""A migrated database for a test, with or without pytest.

from db import testing

with testing.database() as url:
    ...

Each has schema.sql, every migration and the seeds in it, and is dropped at the end. It is cloned
from a template on a server of the tests' own; the environment's DATABASE_URL is never used.
"""

from __future__ import annotations

import atexit
import io
import os
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from inspect import getsourcefile, isroutine
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MigrationsError, SettingsError
from .events import Event
from .project import find_root
from .settings import offline

if TYPE_CHECKING:
    from .clones.databases import Databases
    from .clones.template import Recipe, Seed

_FILES = ("invoke.yaml", "invoke.yml", "invoke.json", "invoke.py")
_opened: dict[object, Databases] = {}
_opening = threading.Lock()


@contextmanager
def database(
    root: str | Path | None = None,
    *,
    server: str = "",
    seeds: Sequence[Seed] = (),
    sources: Sequence[str | Path] = (),
) -> Iterator[str]:
    """Yield the URL of a new migrated database, which is dropped at the end.

    `root` is the project's folder, unless it is found from the working directory upwards. `server`
    is the URL of a server on which it is to be made. `seeds` are called with a psycopg connection
    to put rows into the template; a change of the files that they stand in, or of the `sources`,
    makes another one. Server and template are kept for all calls of this process with the same
    arguments. Raise an error of `db.errors` if there is no server, or a migration fails.
    """
    with _opening:  # the others wait: they would make the same template
        databases = _databases(root, server, tuple(seeds), tuple(map(Path, sources)))
    name = databases.take()
    try:
        yield databases.url(name)
    finally:
        databases.give_back(name)


@asynccontextmanager
async def database_async(
    root: str | Path | None = None,
    *,
    server: str = "",
    seeds: Sequence[Seed] = (),
    sources: Sequence[str | Path] = (),
) -> AsyncIterator[str]:
    """Yield the URL as `database` does; the event loop goes on while it is waited for."""
    import asyncio

    made = database(root, server=server, seeds=seeds, sources=sources)
    url = await asyncio.to_thread(made.__enter__)
    try:
        yield url
    finally:
        made.__exit__(None, None, None)  # which waits for nothing


def close() -> None:
    """Drop what is left of all calls, and stop the server; the end of the process does it, too."""
    while _opened:
        _opened.popitem()[1].close()


def recipe(
    root: str | Path | None, seeds: Sequence[Seed] = (), sources: Sequence[Path] = ()
) -> Recipe:
    """Return what a template of this project is made of: the files of its settings, and the seeds.

    Raise `SettingsError` for settings that are not understood. No server is asked.
    """
    from .clones.template import Recipe

    place = Path(root).resolve() if root is not None else find_root(Path.cwd(), os.environ)
    settings = offline(place, _committed(place))
    written = [Path(file) for seed in seeds if (file := _source(seed))]
    return Recipe(settings, tuple(seeds), tuple(dict.fromkeys([*written, *sources])))


def _source(seed: object) -> str | None:
    """Return the file that a seed is written in, if there is one."""
    while isinstance(seed, partial):
        seed = seed.func
    written = seed if isroutine(seed) else type(seed)  # which is called
    try:
        return getsourcefile(written)
    except TypeError:  # it is Python's own
        return None


class Picture:
    """What a command would have shown on a terminal of what happened, as a text."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def event(self, event: Event) -> None:
        """Take down what happens."""
        self._events.append(event)

    def of(self, error: MigrationsError) -> str:
        """Return the text that ends with this error."""
        from .screen.lines import Lines

        said = io.StringIO()
        lines = Lines(said, said, os.environ)
        for event in self._events:
            lines.event(event)
        lines.error(error)
        lines.close()
        return said.getvalue()


def _databases(
    root: str | Path | None, server: str, seeds: tuple[Seed, ...], sources: tuple[Path, ...]
) -> Databases:
    from .clones.databases import Databases

    key = (Path.cwd() if root is None else Path(root).resolve(), server, seeds, sources)
    if key not in _opened:
        if not _opened:
            atexit.register(close)
        _opened[key] = Databases(recipe(root, seeds, sources), server)
    return _opened[key]


def _committed(root: Path) -> object:
    """Return what invoke's configuration has under `db`, without that of the home folder."""
    if not any((root / name).is_file() for name in _FILES):
        return None
    from invoke.config import Config

    config = Config(lazy=True)
    config.set_project_location(root)
    try:
        config.load_project()
    except Exception as error:  # whatever its reader raises
        said = str(error).splitlines()[0]
        raise SettingsError(f"The invoke.yaml in {root} cannot be read: {said}.") from None
    return config.get("db")

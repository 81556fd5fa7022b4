"""The databases of one process of tests: a server, a template, its clones; from open to close."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from contextlib import ExitStack, suppress

import psycopg

from ..errors import ConnectionFailed, one_line
from ..events import Event
from ..server.databases import lock, ours_named
from . import leftovers, server, template
from .leftovers import CLONE, KEPT
from .pool import Pool
from .template import Recipe

_APPLICATION = "invoke db testing"


class Databases:
    """A server that has the recipe's template, and databases that are cloned from it.

    `run` is the same for all processes of one run of tests. Raise an error of the family if there
    is no server or the template cannot be made, and whatever a seed raises.
    """

    def __init__(
        self,
        recipe: Recipe,
        url: str = "",
        *,
        run: str = "",
        show: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._word = secrets.token_hex(4)
        self._run = hashlib.sha256(run.encode()).hexdigest()[:8] if run else self._word
        self._project = hashlib.sha256(str(recipe.settings.root).encode()).hexdigest()[:8]
        self._stays = False
        with ExitStack() as stack:
            timeout_s = recipe.settings.connect_timeout_s
            self._place = stack.enter_context(server.running(url, timeout_s, lambda: self._stays))
            try:
                self._conn = stack.enter_context(self._place.target.once(_APPLICATION))
            except psycopg.OperationalError as error:
                failed = self._place.target.failed(error)
                raise ConnectionFailed(
                    failed.message, "Is it the server that --db-server, or db_server, is to name?"
                ) from None
            try:
                lock(self._conn, CLONE + self._word)
                leftovers.remove_kept(self._conn, self._project, self._run)
                made = template.made(self._conn, self._place, recipe, show)
            except psycopg.Error as error:
                said = one_line(error.diag.message_primary or str(error))
                raise ConnectionFailed(
                    f"No database for tests can be made on {self._place.target.place}: {said}",
                    "The role needs CREATEDB, and a database that it may connect to.",
                ) from None
            self._pool = Pool(self._conn, self._place, made, self._word)
            self._closing = stack.pop_all()

    def take(self) -> str:
        """Return the name of a new database. Raise `ConnectionFailed` if none can be made."""
        try:
            return self._pool.take()
        except psycopg.Error as error:
            said = one_line(error.diag.message_primary or str(error))
            where = self._place.target.place
            raise ConnectionFailed(f"No more databases can be made on {where}: {said}") from None

    def url(self, name: str, *, secret: bool = True) -> str:
        """Return the URL of a database, as libpq reads it; without its password if not `secret`."""
        return self._place.url(name, secret=secret)

    def give_back(self, name: str) -> None:
        """Have a database dropped; who is connected to it is sent away."""
        self._pool.give_back(name)

    def kept_name(self, name: str) -> str:
        """Return the name that a database has once it is kept."""
        return f"{KEPT}{self._project}_{self._run}_{name.removeprefix(CLONE)}"

    def keep(self, name: str) -> None:
        """Have a database kept, under its other name, until the project's next run."""
        self._pool.keep(name, self.kept_name(name))

    def close(self) -> None:
        """Drop what is left, and leave the server; it runs on if something on it is kept."""
        self._pool.close()
        with suppress(psycopg.Error):
            self._stays = bool(ours_named(self._conn, KEPT))
        self._closing.close()

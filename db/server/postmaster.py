"""A PostgreSQL of our own: who it runs as, set up, started, found, stopped.

PostgreSQL refuses to run as root. Root runs it as a system user of its own, and changes no
permission of anything that it did not make.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from ..errors import ConnectionFailed, SettingsError

try:
    import fcntl
    import pwd
except ImportError:
    raise SettingsError(
        "DATABASE_URL=embedded: does not work on Windows.",
        "Set DATABASE_URL to a server, or use the Windows Subsystem for Linux.",
    ) from None

ELSEWHERE = "Choose another folder for the database: DATABASE_URL=embedded:PATH."
SUPERUSER = "postgres"
SYSTEM_USER = "embedded_postgres"
SHARED = Path("/var/lib/embedded_postgres")  # only ever used by root

NONE: Mapping[str, str] = MappingProxyType({})
# Of a server of which nothing has to survive.
UNFLUSHED: Mapping[str, str] = MappingProxyType(
    {
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "autovacuum": "off",  # it would be in the way of CREATE DATABASE
        "wal_level": "logical",  # a file may make a publication
    }
)
_START_S = 120  # crash recovery of a large database takes its time
_STOP_S = 30
_POLL_S = 0.005
_SOCKET_BYTES = 100  # sun_path holds 104 on macOS, 108 on Linux


class Account(NamedTuple):
    """Who runs the server: the current user, or the system user if that is root."""

    uid: int
    gid: int

    @property
    def options(self) -> dict[str, Any]:
        """Return the arguments that make `subprocess` run a command as this user."""
        keep = ("PATH", "LD_LIBRARY_PATH", "TZ")  # and no PG* variable, nor anybody's password
        env = {name: os.environ[name] for name in keep if name in os.environ}
        options: dict[str, Any] = {"env": env | {"LC_ALL": "C"}, "stdin": subprocess.DEVNULL}
        if os.geteuid() == 0:
            options |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return options

    def owns(self, path: Path) -> bool:
        return path.exists() and path.stat().st_uid == self.uid

    def make_folder(self, path: Path) -> None:
        """Make a folder that nobody else can look into."""
        path.mkdir(mode=0o700)
        os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def reaches(self, folder: Path) -> bool:
        """Return whether this user can enter the folder; tried, for there may be ACLs."""
        command = ["test", "-x", str(folder)]
        return subprocess.run(command, check=False, cwd="/", **self.options).returncode == 0


class Server(NamedTuple):
    """A running server. `host` is the folder of its socket, as libpq takes it."""

    host: str
    port: int
    pid: int
    data: Path
    user: str = SUPERUSER


def account() -> Account:
    """Return who the server runs as; make the system user if that is needed and missing."""
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--no-create-home", "--home-dir", "/nonexistent"]
        command += ["--shell", "/usr/sbin/nologin", SYSTEM_USER]
        make_home(SHARED)
        with locked(SHARED / "lock"), suppress(OSError):
            subprocess.run(command, capture_output=True, check=False)
        try:
            entry = pwd.getpwnam(SYSTEM_USER)
        except KeyError:
            raise SettingsError(
                f"PostgreSQL refuses to run as root, and no user {SYSTEM_USER} could be made.",
                f"Run: {shlex.join(command)}, or run this as an ordinary user.",
            ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def usable(binaries: Path, who: Account) -> Path:
    """Return the programs, or for root a copy of them if the server's user cannot run them."""
    try:
        version(binaries, who)
    except (OSError, subprocess.CalledProcessError) as error:
        if os.geteuid() != 0:
            said = str(getattr(error, "stderr", "") or error).strip()
            raise SettingsError(f"The programs in {binaries} do not run here: {said}") from None
        return _copied(binaries)
    return binaries


def initdb(
    binaries: Path, data: Path, who: Account, *locks: int, options: Sequence[str] = ()
) -> None:
    """Make a data directory. Killed half-way, it leaves nothing that looks like one.

    `locks` are open files that stay open, and so locked, if initdb outlives this process; `options`
    are more of initdb's own.
    """
    new = data.with_name(data.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    who.make_folder(new)
    locale = ["--locale=C.UTF-8"]
    if version(binaries, who) >= (17,):  # as good, and on every system
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    command = [str(binaries / "initdb"), "-D", str(new), "-U", SUPERUSER, "--auth=trust"]
    try:
        subprocess.run(
            [*command, "--encoding=UTF8", *locale, *options],
            check=True,
            capture_output=True,
            text=True,
            cwd=new,
            start_new_session=True,
            pass_fds=locks,
            **who.options,
        )
        new.rename(data)
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-5:]
        raise ConnectionFailed("The embedded PostgreSQL could not be set up:", *said) from None
    finally:
        shutil.rmtree(new, ignore_errors=True)


def start(
    binaries: Path, data: Path, log: Path, who: Account, options: Mapping[str, str] = NONE
) -> Server:
    """Start a server on the data directory and return it when it accepts connections."""
    deadline = time.monotonic() + _START_S
    host = str(_socket_folder(data, who)).replace('"', '""')
    settings = {
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": f'"{host}"',
        "unix_socket_permissions": "0700",
        **options,
    }
    command = [str(binaries / "postgres"), "-D", str(data)]
    command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    while True:
        _disown(data)
        with open(log, "ab", opener=private) as written:
            begin = written.tell()
            process = subprocess.Popen(
                command,
                stdout=written,
                stderr=written,
                cwd=data,
                start_new_session=True,  # a Ctrl-C in the terminal is not for it
                **who.options,
            )
        try:
            while process.poll() is None and time.monotonic() < deadline:
                server = find(data)
                if server and server.pid == process.pid:
                    return server
                time.sleep(_POLL_S)
        except BaseException:
            process.terminate()
            raise
        finally:
            process.returncode = process.returncode or 0  # it outlives us: nothing to wait for
        with log.open(errors="replace") as said:
            said.seek(begin)
            lines = said.read().splitlines()
        # The children of a killed server need a moment to notice.
        if "pre-existing shared memory block" in "".join(lines) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            continue
        where = f"Its log: {log}"
        raise ConnectionFailed("The embedded PostgreSQL did not start:", *lines[-5:], where)


def stop(data: Path, how: signal.Signals = signal.SIGINT) -> None:
    """Stop the server on the data directory, if there is one, and wait for its end.

    SIGINT is a fast shutdown: https://www.postgresql.org/docs/current/server-shutdown.html
    """
    server = _read(data)[0]
    if server is None or not _alive(server.pid, data):
        return
    os.kill(server.pid, how)
    deadline = time.monotonic() + _STOP_S
    while _alive(server.pid, data):
        if time.monotonic() > deadline:
            os.kill(server.pid, signal.SIGQUIT)
            deadline = float("inf")
        time.sleep(_POLL_S)
    if _is_socket_folder(server.host):
        shutil.rmtree(server.host, ignore_errors=True)


def find(data: Path) -> Server | None:
    """Return the server that is ready on this data directory, waiting for one on its way.

    Reads only. A server that is about to stop is waited for, and is then none.
    """
    deadline = time.monotonic() + _START_S
    while True:
        server, status = _read(data)
        if server is None:
            return None
        # Asked first: a child of a killed server may still hold the socket it listened on.
        if not _alive(server.pid, data):
            return None
        if status == "ready" and _accepts(server):
            return server
        if time.monotonic() > deadline:
            raise ConnectionFailed(
                f"The PostgreSQL in {data} (process {server.pid}) is neither up nor down.",
                f"Look into its log; if there is no such server, remove {data}/postmaster.pid.",
            )
        time.sleep(_POLL_S)


def _read(data: Path) -> tuple[Server | None, str]:
    """Return the server that postmaster.pid names, alive or not, and its status.

    https://www.postgresql.org/docs/current/storage-file-layout.html
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid = int(lines[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None, ""
    lines += [""] * 8
    return Server(lines[4], int(lines[3] or 0), pid, data), lines[7].strip()


def _accepts(server: Server) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(f"{server.host}/.s.PGSQL.{server.port}")
        except OSError:
            return False
    return True


def _alive(pid: int, data: Path) -> bool:
    """Return whether the process is the server on this data directory, not a later namesake."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        if Path("/proc/self/cwd").exists():
            return Path(f"/proc/{pid}/cwd").readlink() == data
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _disown(data: Path) -> None:
    """Make PostgreSQL see that what a dead server left is stale, though its pid is in use.

    It takes any live process of the same user for its predecessor, except for its own parent. The
    other lines stay: they lead it to the shared memory that orphans may still be using.
    """
    server, _ = _read(data)
    if server and not _alive(server.pid, data):
        file = data / "postmaster.pid"
        _, *rest = file.read_text().splitlines(keepends=True)
        file.write_text("".join([f"{os.getpid()}\n", *rest]))
        if server.host == str(data) or _is_socket_folder(server.host):
            Path(server.host, f".s.PGSQL.{server.port}.lock").unlink(missing_ok=True)


def _is_socket_folder(host: str) -> bool:
    return Path(host).name.startswith(SYSTEM_USER + "-")


def _socket_folder(data: Path, who: Account) -> Path:
    """Return the data directory, or a private folder if its path cannot be that of a socket."""
    # A comma separates hosts, also for libpq.
    if len(os.fsencode(data / ".s.PGSQL.65535")) <= _SOCKET_BYTES and "," not in str(data):
        return data
    before = _read(data)[0]  # of a server that crashed
    if before and _is_socket_folder(before.host) and who.owns(Path(before.host)):
        return Path(before.host)
    if os.geteuid() == 0:
        make_home(SHARED)
    folder = tempfile.mkdtemp(prefix=SYSTEM_USER + "-", dir=SHARED if os.geteuid() == 0 else "/tmp")
    os.chown(folder, who.uid, who.gid)
    return Path(folder)


def make_home(folder: Path) -> None:
    """Make a folder that the system user can pass through, if root makes it."""
    with suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0:
            folder.chmod(0o755 if folder == SHARED else 0o711)
    if not folder.is_dir():
        raise SettingsError(f"{folder} is not a folder.", ELSEWHERE)


@functools.cache
def version(binaries: Path, who: Account) -> tuple[int, ...]:
    command = [str(binaries / "postgres"), "--version"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd="/", **who.options
    )
    return tuple(int(number) for number in re.findall(r"\d+", done.stdout)[:2])


def _copied(binaries: Path) -> Path:
    """Return a copy of the programs that everybody can run; the same ones are copied once."""
    digest = hashlib.sha256((binaries / "postgres").read_bytes()).hexdigest()[:16]
    package = binaries.parents[1]
    target = SHARED / digest
    make_home(SHARED)
    with locked(SHARED / "lock"):
        if not target.exists():
            new = target.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            # The programs find their libraries in the sibling folder, by a relative path.
            for part in (package, package.with_name(package.name + ".libs")):
                if part.is_dir():
                    unused = shutil.ignore_patterns("include", "*.py", "__pycache__")
                    shutil.copytree(part, new / part.name, ignore=unused)
            for path in (new, *new.rglob("*")):
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
            new.rename(target)
    return target / package.name / binaries.relative_to(package)


def private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def open_file(path: Path) -> int:
    return private(str(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a lock that the kernel gives back whatever happens to this process."""
    file = open_file(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def not_ours(path: Path, who: Account) -> SettingsError:
    """Return the error of a folder that belongs to somebody else."""

    def name(uid: int) -> str:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"user {uid}"

    owner = name(path.stat().st_uid)
    return SettingsError(
        f"{path} belongs to {owner}, so {name(who.uid)} cannot run the database in it.",
        f"Run this as {'root' if owner == SYSTEM_USER else owner}, as before, or choose another "
        "folder: DATABASE_URL=embedded:PATH.",
    )

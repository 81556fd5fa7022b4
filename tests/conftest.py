"""Fixtures: a real server a session, a database a test, and the real `invoke` program."""

from __future__ import annotations

import atexit
import compileall
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import pq, sql
from psycopg.rows import TupleRow, dict_row

from tests import servers, warm
from tests.proxy import Proxy
from tests.servers import Cluster, PgBouncer, Pgpool, programs

ROOT = Path(__file__).resolve().parents[1]
_FAILED = pytest.StashKey[bool]()

PROOF = {"test_faults.py", "test_races.py"}  # long, and heavy on the machine
# Servers of their own, other installs, many processes, a lot of data: as long as all the others.
LONG = {
    *("test_bench.py", "test_changed_files.py", "test_embedded.py", "test_ends.py"),
    *("test_installed.py", "test_moments.py", "test_split.py", "test_terminals.py"),
}
_PROOF_LIMIT_S = 900  # of one test, against hangs; of the others see pyproject.toml

MakeCluster = Callable[..., Cluster]
MakePgpool = Callable[[Cluster, str], Pgpool]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--postgres",
        default=os.environ.get("TEST_POSTGRES", "embedded"),
        help="the server: embedded, a major version such as 15, or a folder of programs",
    )
    parser.addoption(
        "--keep", action="store_true", help="leave the server running if a test has failed"
    )
    parser.addoption(
        "--all", action="store_true", help="also run the tests that take long, as .ci/run does"
    )
    parser.addoption(
        "--rounds",
        type=int,
        default=int(os.environ.get("FAULT_ROUNDS", "0")),
        help="run faults and races, so much of their full number of rounds: 100 (percent)",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two for each processor: much of a test is waiting for a server."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: only run with --all")
    config.addinivalue_line("markers", "rounds(number): run it so often, each with its own `seed`")
    if not hasattr(config, "workerinput"):
        # Every project of a test is a copy of it, and invoke writes no bytecode.
        compileall.compile_dir(ROOT / "db", quiet=2)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # In the background or under nohup they are ignored, and would be by all that is started
        # here. A handler is not inherited.
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("rounds")
    if marker:
        number = max(2, marker.args[0] * metafunc.config.getoption("--rounds") // 100)
        metafunc.parametrize("seed", range(number))


def pytest_report_header(config: pytest.Config) -> list[str]:
    command = [str(programs(config.getoption("--postgres")) / "postgres"), "--version"]
    server = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    lines = [f"server: {server}; libpq {pq.version_pretty(pq.version())}"]
    if pgbouncer_missing():
        lines.append("no pgbouncer here (apt-get install pgbouncer): its tests are deselected")
    if pgpool_missing():
        lines.append("no pgpool here (apt-get install pgpool2): its tests are deselected")
    if not config.getoption("--all"):
        lines.append("tests that take long are deselected: --all runs them")
    if not config.getoption("--rounds"):
        lines.append("faults and races are deselected: --rounds=4 runs a few, --rounds=100 all")
    return lines


def pgbouncer_missing() -> bool:
    """Return whether its tests are to be left out; in CI they fail instead."""
    return servers.pgbouncer() is None and not os.environ.get("CI")


def pgpool_missing() -> bool:
    """Return whether its tests are to be left out, likewise."""
    return servers.pgpool() is None and not os.environ.get("CI")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    out = []
    if pgbouncer_missing():
        out += [item for item in items if "pgbouncer" in getattr(item, "fixturenames", ())]
    if pgpool_missing():
        out += [item for item in items if "pgpool" in getattr(item, "fixturenames", ())]
    if not config.getoption("--rounds"):
        out += [item for item in items if item.path.name in PROOF]
    if not config.getoption("--all"):
        out += [item for item in items if item.path.name in LONG or item.get_closest_marker("long")]
    for item in items:
        if item.path.name in PROOF:
            item.add_marker(pytest.mark.timeout(_PROOF_LIMIT_S))
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = item.session.stash[_FAILED] = True
        name = getattr(item, "funcargs", {}).get("database")
        if name:
            kept = "kept until the session ends; --keep leaves the server running"
            report.sections.append(("database", f"{name} ({kept})"))
    return report


@pytest.fixture(scope="session")
def binaries(pytestconfig: pytest.Config) -> Path:
    """The programs of the server that the session runs on: psql, pg_dump, …"""
    return programs(pytestconfig.getoption("--postgres"))


@pytest.fixture(scope="session")
def cluster(binaries: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The session's server. A test that stops or crashes one uses `own_cluster`."""
    server = Cluster(binaries)
    yield server
    if request.session.stash.get(_FAILED, False) and request.config.getoption("--keep"):
        sys.stderr.write(f"\nleft running: {server.url()} (its folder: {server.folder})\n")
    else:
        server.remove()


@pytest.fixture
def own_cluster(binaries: Path) -> Iterator[MakeCluster]:
    """Make servers that the test may stop, crash and configure: Cluster's arguments."""
    with contextlib.ExitStack() as made:

        def make(**arguments: Any) -> Cluster:
            server = Cluster(binaries, **arguments)
            made.callback(server.remove)
            return server

        yield make


@pytest.fixture
def database(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a new, empty database; kept when the test fails."""
    name = cluster.create_database()
    yield name
    if not request.node.stash.get(_FAILED, False):
        cluster.drop_database(name)


@pytest.fixture
def url(cluster: Cluster, database: str) -> str:
    """The URL of the test's database, as superuser on the socket."""
    return cluster.url(database)


@pytest.fixture
def conn(cluster: Cluster, database: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """An autocommit connection of the superuser to the test's database."""
    with cluster.connect(database) as connection:
        yield connection


@pytest.fixture(scope="session")
def pgbouncer(cluster: Cluster) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode with a pool of 3, in front of the session's server."""
    pooler = PgBouncer(cluster)
    yield pooler
    pooler.remove()


@pytest.fixture
def pgpool() -> Iterator[MakePgpool]:
    """Make a pgpool-II: the cluster that it is in front of, and its clustering mode."""
    with contextlib.ExitStack() as made:

        def make(cluster: Cluster, mode: str) -> Pgpool:
            pooler = Pgpool(cluster, mode)
            made.callback(pooler.remove)
            return pooler

        yield make


@pytest.fixture
def proxy(cluster: Cluster) -> Iterator[Proxy]:
    """A link to the session's server that can be made slow or broken."""
    with Proxy(cluster.host, cluster.port) as link:
        yield link


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of `invoke` came to."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


@functools.cache
def _package() -> Path:
    """Return a copy of `db`, made once: what a test does to its files is not done to ours."""
    folder = Path(tempfile.mkdtemp(prefix="package-"))
    atexit.register(shutil.rmtree, folder)
    return shutil.copytree(ROOT / "db", folder / "db")


def _linked(source: str, target: str) -> None:
    """Make a hard link, which takes a tenth of a copy's time; copy what commands write."""
    if Path(source).name not in ("models.py", "schema.sql"):
        with contextlib.suppress(OSError):  # --basetemp on another file system
            os.link(source, target)
            return
    shutil.copy2(source, target)


class Project:
    """A copy of the project in a folder of its own, with an empty migrations folder."""

    def __init__(self, folder: Path, cluster: Cluster, database: str) -> None:
        self.folder = folder
        self.cluster = cluster
        self.database = database
        self.url = cluster.url(database)
        self.migrations = folder / "migrations"
        self.home = folder.with_name(folder.name + "-home")
        self._started: list[subprocess.Popen[str]] = []
        self._beside: list[Project] = []
        # Folders of its own: the package finds its .env and its folders beside itself.
        shutil.copytree(_package(), folder / "db", copy_function=_linked)
        for name in ("tasks.py", "invoke.yaml"):
            if (ROOT / name).exists():
                shutil.copy2(ROOT / name, folder / name)
        self.migrations.mkdir()
        self.home.mkdir()

    @classmethod
    def at(cls, other: Project, cluster: Cluster) -> Project:
        """Return a second project beside another, on a new database of another server."""
        folder = other.folder.with_name(f"{other.folder.name}-{cluster.port}")
        folder.mkdir()
        made = cls(folder, cluster, cluster.create_database())
        other._beside.append(made)
        return made

    def write(self, name: str, text: str | bytes) -> Path:
        """Write a migration file."""
        path = self.migrations / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def write_schema(self, text: str) -> None:
        """Replace db/schema.sql."""
        (self.folder / "db" / "schema.sql").write_text(text, encoding="utf-8")

    def environment(self, env: Mapping[str, str | None] | None = None) -> dict[str, str]:
        """Return a program's whole environment; a value of None takes a variable out."""
        programs = Path(sys.executable).parent
        wanted: dict[str, str | None] = {
            "PATH": os.pathsep.join(
                [str(programs), os.environ.get("PATH", os.defpath), str(self.cluster.binaries)]
            ),
            "XDG_CACHE_HOME": str(servers.INSTALLED / "cache"),  # what initdb makes stays there
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONWARNINGS": "error::ResourceWarning",
            "DATABASE_URL": self.url,
            **(env or {}),
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def invoke(
        self,
        *args: str,
        env: Mapping[str, str | None] | None = None,
        input: str = "",  # subprocess's own name for it
        timeout: float = 60,
        cwd: Path | None = None,
    ) -> Result:
        """Run the real `invoke` in the project and return what came of it."""
        started, environment = time.monotonic(), self.environment(env)
        if warm.suits(environment):
            came = warm.run(args, cwd or self.folder, environment, input, timeout)
            return Result(*came, time.monotonic() - started)
        done = subprocess.run(
            [Path(sys.executable).parent / "invoke", *args],
            cwd=cwd or self.folder,
            env=environment,
            input=input,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr, time.monotonic() - started)

    def popen(
        self, *args: str, env: Mapping[str, str | None] | None = None
    ) -> subprocess.Popen[str]:
        """Start `invoke` in a process group of its own, to be killed or interrupted."""
        process = subprocess.Popen(
            [Path(sys.executable).parent / "invoke", *args],
            cwd=self.folder,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def rows(self, table: str = "migrations") -> list[dict[str, Any]]:
        """Return the ledger's rows, oldest first; none if there is no ledger."""
        with self.cluster.connect(self.database, row_factory=dict_row) as conn:
            exists = conn.execute("SELECT to_regclass(%s) AS found", [table]).fetchone()
            if not exists or not exists["found"]:  # type: ignore[call-overload]
                return []
            name = sql.Identifier(*table.split("."))
            query = sql.SQL("SELECT * FROM {} ORDER BY id").format(name)
            return [dict(row) for row in conn.execute(query)]

    def executed(self) -> list[str]:
        """Return the file names in the ledger, oldest first."""
        return [row["filename"] for row in self.rows()]

    def close(self) -> None:
        for other in self._beside:
            other.close()
        for process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def project(tmp_path: Path, cluster: Cluster, database: str) -> Iterator[Project]:
    """A project folder on the test's database, and `invoke` in it."""
    folder = tmp_path / "project"
    folder.mkdir()
    made = Project(folder, cluster, database)
    yield made
    made.close()

"""A suite of tests that each want a migrated database: what a test waits for it."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from psycopg import sql

from db.server.postmaster import SUPERUSER
from tests.servers import Cluster, programs

from ..case import Case, Column, Program, Sample, Samples, Target
from ..peers import home
from ..results import Results
from ..session import Bench

NAME = "testing"
TESTS, TABLES, WORKERS, LASTS_S = 200, 60, 4, 0.04
OURS, OURS_NAMED, OURS_ROLLED_BACK = "db_url", "db_url, --db-server", "rollback per test"
MIGRATED, POSTGRESQL = "migrated per test", "pytest-postgresql"
_ROUNDS = 2

# As those who run such a server for tests set it up; the disk is that of the temporary folder.
_SERVER = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off", "max_connections": "200"}

_CONFTEST = """\
import json, os, time

waited, collected = {}, []


def pytest_collection_finish():
    collected.append(time.perf_counter())


def pytest_runtest_call(item):
    collected[1:] = collected[1:] or [time.perf_counter()]


def pytest_runtest_makereport(item, call):
    if call.when != "call":
        waited[item.nodeid] = waited.get(item.nodeid, 0) + call.duration
    elif call.excinfo:
        raise call.excinfo.value


def pytest_sessionfinish():
    if waited:
        first = collected[1] - collected[0]
        with open(f"waited-{os.getpid()}.json", "w") as file:
            json.dump({"waited": list(waited.values()), "first": first}, file)
"""
_TESTS = f"""\
import time

import psycopg
import pytest


@pytest.mark.parametrize("number", range({TESTS}))
def test_it(db_url, number):
    with psycopg.connect(db_url) as conn:
        used(conn)


def used(conn):
    assert conn.execute("SELECT count(*) FROM t{TABLES}").fetchone() == (0,)
    conn.execute("INSERT INTO t{TABLES} (name) VALUES ('a')")
    time.sleep({LASTS_S})
"""
_CONNECTED = _TESTS.replace("db_url, n", "db_connection, n").replace(
    "    with psycopg.connect(db_url) as conn:\n        used(conn)", "    used(db_connection)"
)
_MARKED = _CONNECTED.replace("\n\n\n@", "\n\npytestmark = pytest.mark.db(transaction=True)\n\n\n@")
_PER_TEST = """
import secrets
import psycopg, pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from invoke_pg_migrations import migrate


@pytest.fixture
def db_url():
    server = os.environ["DATABASE_URL"]
    name = "test_" + secrets.token_hex(6)
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name}")
    url = make_conninfo("", **{**conninfo_to_dict(server), "dbname": name})
    migrate(url, "migrations")
    yield url
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
"""
_FACTORY = """
from pathlib import Path
import pytest
from psycopg.conninfo import conninfo_to_dict
from pytest_postgresql import factories

there = conninfo_to_dict(os.environ["DATABASE_URL"])
server = factories.postgresql_noproc(
    host=there["host"], port=int(there["port"]), user=there["user"], password=there["password"],
    load=sorted(Path("migrations").glob("*.sql")),
)
db_connection = factories.postgresql("server")
"""


class Suite(NamedTuple):
    """A row's project, and how pytest is told to run it."""

    row: str
    folder: Path
    url: str
    options: Sequence[str]


def measure(bench: Bench, present: Sequence[Program]) -> Samples:
    names = {program.name for program in present}
    cluster = Cluster(programs(bench.server), options=_SERVER)
    bench.stack.callback(cluster.remove)
    url = cluster.url(role=SUPERUSER, port=cluster.port)
    named = ("--db-server", url)
    rows: dict[str, Callable[[int], Sample]] = {}
    for row, tests, conftest, options in (
        (OURS, _TESTS, "", ()),
        (OURS_NAMED, _TESTS, "", named),
        (OURS_ROLLED_BACK, _MARKED, "", named),
        (POSTGRESQL, _CONNECTED, _FACTORY, ()),
        (MIGRATED, _TESTS, _PER_TEST, ()),
    ):
        if row in names:
            folder = bench.folder / NAME / row.replace(" ", "-")
            _lay(folder, tests, conftest)
            suite = Suite(row, folder, url, options)
            rows[row] = partial(_once, bench, cluster, suite)
            _run(bench, suite, "-k", "test_it[0]")  # its template, and the bytecode
    return bench.turns(NAME, _ROUNDS, rows)


def _lay(folder: Path, tests: str, conftest: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "migrations").mkdir(parents=True)
    for n in range(1, TABLES + 1):
        (folder / "migrations" / f"{n:03d}_t{n}.sql").write_text(
            f"CREATE TABLE t{n} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text,"
            f" other_id bigint REFERENCES t{max(1, n - 1)});\n"
            f"CREATE INDEX t{n}_other ON t{n} (other_id);\n"
        )
    (folder / "conftest.py").write_text(_CONFTEST + conftest)
    (folder / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\n")


def _once(bench: Bench, cluster: Cluster, suite: Suite, _: int) -> Sample:
    sample, told = _run(bench, suite, "-n", str(WORKERS))
    waited = sorted(1000 * each for one in told for each in one["waited"])
    if not sample.error and len(waited) != TESTS:
        sample.error = f"{len(waited)} of {TESTS} tests"
    if not sample.error:
        sample.figures["median_ms"] = round(statistics.median(waited), 1)
        sample.figures["p95_ms"] = round(waited[int(len(waited) * 0.95)], 1)
        # A second session of one process: everything that can be there is.
        alone, (first,) = _run(bench, suite, "-k", "test_it[0]")
        sample.error = alone.error
        sample.figures["first_ms"] = round(1000 * first["first"])
    _clean(cluster)
    return sample


def _run(bench: Bench, suite: Suite, *words: str) -> tuple[Sample, list[dict[str, Any]]]:
    """Run the suite; return how long it took, and what its processes have waited in s."""
    python, plugins = home(_PEER) / "bin" / "python", ["no:cacheprovider"]
    if suite.row != POSTGRESQL:
        python = Path(sys.executable)
        plugins += ["no:hypothesispytest", "no:timeout", "no:asyncio"]
    command = [str(python), "-m", "pytest", "-q", *(w for p in plugins for w in ("-p", p))]
    command += [*suite.options, *words]
    sample = bench.launch(command, suite.folder, suite.url, timeout_s=300)
    return sample, _told(suite.folder)


def _told(folder: Path) -> list[dict[str, Any]]:
    found = []
    for file in folder.glob("waited-*.json"):
        found.append(json.loads(file.read_text()))
        file.unlink()
    return found


def _clean(cluster: Cluster) -> None:
    """Drop what pytest-postgresql leaves, as its next session would have to."""
    with cluster.connect() as conn:
        left = "SELECT datname FROM pg_database WHERE datname LIKE 'tests%'"
        for (name,) in conn.execute(left).fetchall():
            named = sql.Identifier(str(name))
            conn.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(named))
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(named))


def targets(results: Results) -> Sequence[Target]:
    return [
        *results.at_most(NAME, OURS, 2, "a test waits 2 ms, in the middle", "median_ms"),
        *results.at_most(NAME, OURS, 25, "95 of 100 tests wait at most 25 ms", "p95_ms"),
        *results.at_most(NAME, OURS, 300, "the first test starts within 300 ms", "first_ms"),
    ]


_PEER = Program(
    POSTGRESQL,
    "its template, on a server that is there",
    "pypi pytest-postgresql pytest-xdist psycopg[binary]",
)
CASES = [
    Case(
        NAME,
        "a migrated database for each test",
        measure,
        [
            Program(OURS, "on a server of the tests' own, in memory where there is room"),
            Program(OURS_NAMED, "the same on the server that the others have"),
            Program(OURS_ROLLED_BACK, "one transaction a test, @pytest.mark.db(transaction=True)"),
            _PEER,
            Program(MIGRATED, "one server, and a new database that a test migrates for itself"),
        ],
        columns={
            "median_ms": Column("wait, ms", 1),
            "p95_ms": Column("95th percentile, ms", 1),
            "first_ms": Column("first test, ms", 0),
            "seconds": Column("whole run, s", 1),
        },
        targets=targets,
        about=(
            f"{TESTS} tests of {LASTS_S * 1000:.0f} ms with {TABLES} tables, {WORKERS} workers of "
            "pytest-xdist. The wait is the setup and the teardown of a test. The first test is "
            "that of a later session of one process, from the end of collection."
        ),
        profile=(
            "a clone is 660 files: 10 ms of a processor to make them, and 5 ms to drop them. Four "
            "workers want one every 10 ms, and on 2 processors have 20 ms for that and "
            "for the test itself: what else runs there makes them wait."
        ),
    )
]

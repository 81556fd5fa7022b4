"""The pytest plugin and `db.testing`: real runs of pytest in somebody's project."""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from db import testing
from db.clones import pool
from db.errors import SettingsError
from tests.conftest import Project, Result
from tests.scenarios.test_engine import wait_for
from tests.servers import Cluster
from tests.test_docs import blocks

SCHEMA = "CREATE TABLE users (id bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL);"
PLANS = "CREATE TABLE plans (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);"
SEEDS = """\
from pathlib import Path


def pytest_db_template(connection):
    connection.execute("INSERT INTO plans (name) VALUES ('free'), ('team')")
    with Path("seeded").open("a") as file:
        file.write("once\\n")
"""
TESTS = '''\
import sys
import unittest

import psycopg
import pytest

open_before = []


def test_without_a_database():
    assert True


@pytest.mark.parametrize("n", range(6))
def test_of_its_own(db_url, db_connection, n):
    """Each writes the same row, and sees the schema, the migration and the seeds, and no other."""
    assert db_connection.execute("SELECT count(*) FROM plans").fetchone() == (2,)
    db_connection.execute("INSERT INTO users (name) VALUES ('Ada')")
    db_connection.commit()
    with psycopg.connect(db_url) as other:
        assert other.execute("SELECT name FROM users").fetchall() == [("Ada",)]
    assert all(connection.closed for connection in open_before)
    open_before.append(db_connection)


@pytest.mark.db(transaction=True)
@pytest.mark.parametrize("n", range(3))
def test_rolled_back(db_connection, n):
    db_connection.execute("INSERT INTO plans (name) VALUES ('rolled back')")
    assert db_connection.execute("SELECT count(*) FROM plans").fetchone() == (3,)
    with pytest.raises(psycopg.ProgrammingError, match="commit"):
        db_connection.commit()
    if n == 1:
        with pytest.raises(psycopg.errors.UndefinedColumn):
            db_connection.execute("SELECT nonsense")


class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def _database(self, db_connection):
        self.db = db_connection

    def test_through_the_fixture(self):
        self.assertEqual(self.db.execute("SELECT count(*) FROM users").fetchone(), (0,))
'''


class Suite:
    """Somebody's project with tests in it, and a role of its own on the session's server."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.role = f"suite_{secrets.token_hex(4)}"
        self.password = secrets.token_hex(8)
        with cluster.connect() as conn:
            conn.execute(
                sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}").format(
                    sql.Identifier(self.role), sql.Literal(self.password)
                )
            )
        self.server = f"postgresql://{self.role}:{self.password}@127.0.0.1:{cluster.port}/postgres"
        self.write("sql/schema.sql", SCHEMA)
        self.write("migrations/001_plans.sql", PLANS)
        self.write("invoke.yaml", "db:\n  schema: sql/schema.sql\n")
        self.write("conftest.py", SEEDS)
        self.write("pytest.ini", "[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder.parent),
            "LANG": "C.UTF-8",
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/the_developers_own",
            # What this repository's own tests have besides, and most projects have not.
            "PYTEST_ADDOPTS": "-p no:hypothesispytest -p no:timeout -p no:cacheprovider",
        }

    def run(self, *arguments: str, server: bool = True, asyncio: bool = False) -> Result:
        """Run pytest; it has the plugin because the package is installed."""
        options = [*(["--db-server", self.server] if server else []), *arguments]
        options += [] if asyncio else ["-p", "no:asyncio"]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def databases(self, kind: str = "") -> list[str]:
        query = """SELECT datname::text FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
                   WHERE rolname = %s AND starts_with(datname, %s) ORDER BY 1"""
        with self.cluster.connect() as conn:
            return [row[0] for row in conn.execute(query, [self.role, f"migrations_{kind}"])]

    def seeded(self) -> int:
        return len((self.folder / "seeded").read_text().split())

    def remove(self) -> None:
        with self.cluster.connect() as conn:
            for name in self.databases():
                conn.execute(
                    sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name))
                )
                self.cluster.drop_database(name)
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(self.role)))


@pytest.fixture
def suite(tmp_path: Path, cluster: Cluster) -> Iterator[Suite]:
    folder = tmp_path / "shop"
    folder.mkdir()
    made = Suite(folder, cluster)
    yield made
    made.remove()


@pytest.mark.long
def test_each_test_has_its_own_database_from_a_template_that_is_made_once(suite: Suite) -> None:
    suite.write("test_shop.py", TESTS)
    first = suite.run("-q", "-n", "2")
    assert "11 passed" in first.stdout, first.output
    left = suite.databases()
    assert len(left) == 1, left
    (template,) = left
    assert template.startswith("migrations_template_")
    # Left by others: a process that was killed, in a test and while it made a template, and old.
    with suite.cluster.connect() as conn:
        for name in ("test_dead_1", "template_x_new", "template_old", "kept_x", "template_used"):
            owned = sql.SQL("CREATE DATABASE {} OWNER {}")
            conn.execute(
                owned.format(sql.Identifier(f"migrations_{name}"), sql.Identifier(suite.role))
            )
        for name in ("template_old", "kept_x"):
            conn.execute(f"COMMENT ON DATABASE migrations_{name} IS 'used 2020-01-31'".encode())
        used = f"COMMENT ON DATABASE migrations_template_used IS 'used {time.strftime('%Y-%m-%d')}'"
        conn.execute(used.encode())
    again = suite.run("-q")
    assert "11 passed" in again.stdout, again.output
    assert suite.databases() == sorted([template, "migrations_template_used"])
    assert suite.seeded() == 1
    with suite.cluster.connect() as conn:
        for number in range(20):
            named = sql.Identifier(f"migrations_template_{number}")
            conn.execute(owned.format(named, sql.Identifier(suite.role)))
    suite.write("conftest.py", SEEDS + "\n# changed\n")
    assert suite.run("-q", "-k", "rolled_back").returncode == 0
    assert suite.seeded() == 2
    left = suite.databases("template")
    assert template not in left
    assert len(left) == 20
    assert suite.password not in first.output + again.output


@pytest.mark.long
def test_a_failing_migration_ends_the_run_once_with_the_picture_of_the_command(
    suite: Suite, project: Project
) -> None:
    bad = "CREATE TABLE a (id int);\nALTER TABLE plans ADD CHECK (nam <> '');\n"
    suite.write("migrations/002_bad.sql", bad)
    suite.write("test_shop.py", TESTS)
    project.write("001_plans.sql", PLANS)
    project.write("002_bad.sql", bad)
    shown = project.invoke("db.migrate").stderr
    assert "migrations/002_bad.sql:2:1" in shown
    for workers in ("0", "2"):
        done = suite.run("-q", "-n", workers)
        assert done.returncode == 2
        assert done.output.count(shown.split("Rolled back")[0]) == 1
        assert "Fix the file, then: run the tests again" in done.output
        assert "invoke db.migrate" not in done.output
        assert "failed" not in done.stdout.splitlines()[-1]
    assert suite.databases() == []
    suite.write("migrations/002_bad.sql", "SELECT 1;")
    suite.write("conftest.py", "def pytest_db_template(connection):\n    raise KeyError('plan')\n")
    done = suite.run("-q")
    assert done.returncode == 2
    assert done.output.count("KeyError: 'plan'") == 1
    assert 'conftest.py", line 2' in done.output


@pytest.mark.long
def test_a_failed_tests_database_is_kept_until_the_next_run(suite: Suite) -> None:
    failing = """
def test_fails(db_connection):
    db_connection.execute("INSERT INTO users (name) VALUES ('Ada')")
    db_connection.commit()
    assert False


def test_passes(db_url):
    pass
"""
    suite.write("test_shop.py", failing)
    assert suite.run("-q").returncode == 1
    assert suite.databases("kept") == []
    done = suite.run("-q", "--db-keep")
    assert done.returncode == 1
    (kept,) = suite.databases("kept")
    (url,) = re.findall("psql '(postgresql://.+?)'", done.stdout)
    assert kept in url
    assert suite.password not in url
    assert suite.databases("test_") == []
    with psycopg.connect(url, password=suite.password) as conn:
        assert conn.execute("SELECT name FROM users").fetchall() == [("Ada",)]
    assert suite.run("-q", "-k", "passes").returncode == 0
    assert suite.databases("kept") == []


def test_what_a_transaction_cannot_hold_is_said(suite: Suite) -> None:
    wrong = """
import pytest

pytestmark = pytest.mark.db(transaction=True)


def test_commits(db_connection):
    db_connection.execute("DELETE FROM plans")
    db_connection.execute("COMMIT")


def test_the_next_one_has_a_new_database(db_connection):
    assert db_connection.execute("SELECT count(*) FROM plans").fetchone() == (2,)


def test_connects_by_itself(db_connection, db_url):
    pass
"""
    suite.write("test_shop.py", wrong)
    done = suite.run("-q")
    assert "2 passed, 2 errors" in done.stdout, done.output
    assert "The transaction of this test was ended by a COMMIT" in done.stdout
    assert "db_url is for connections of the test's own" in done.stdout


def test_a_run_that_asks_for_no_database_pays_nothing(suite: Suite) -> None:
    ours = """
import sys


def test_nothing_is_imported():
    there = {name.partition(".")[2] for name in sys.modules if name.startswith("invoke_pg_")}
    assert there == {"", "pytest_plugin"}
    assert not {"psycopg", "invoke", "rich", "asyncio"} & set(sys.modules)
"""
    suite.write("test_shop.py", ours)
    done = suite.run("-q")
    assert done.returncode == 0, done.output
    assert suite.databases() == []


OWN_SERVER = pytest.mark.xdist_group("the tests' own server")  # which ends with its last user


@OWN_SERVER
def test_without_pytest_and_without_a_server_that_is_named(suite: Suite) -> None:
    """The tests' own server, which is gone afterwards."""
    suite.write(
        ".env", "DATABASE_URL=postgresql://nobody@127.0.0.1:1/theirs\nMIGRATIONS_DIR=sql/m\n"
    )
    suite.write("sql/m/001_cats.sql", "CREATE TABLE cats (id int);")
    script = """
import asyncio, sys
import psycopg
from invoke_pg_migrations import testing

def rows(url):
    with psycopg.connect(url) as conn:
        (settings,) = conn.execute("SELECT current_setting('fsync') || current_user").fetchone()
        conn.execute("INSERT INTO cats VALUES (1)")
        return settings, conn.execute("SELECT count(*) FROM cats").fetchone()[0], conn.info.host

async def main():
    async with testing.database_async() as url:
        return rows(url)

with testing.database() as url:
    print(*rows(url), *asyncio.run(main()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=suite.write("src/main.py", "").parent,
        env=suite.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    settings, rows, host, *same = done.stdout.split()
    assert (settings, rows) == ("offpostgres", "1")
    wait_for(lambda: not Path(host, "postmaster.pid").exists())
    assert same == [settings, rows, host]
    assert suite.databases() == []
    named = testing.database(suite.folder, server="embedded:")
    with pytest.raises(SettingsError, match="named by a URL of PostgreSQL"), named:
        pass


@pytest.mark.long
@OWN_SERVER
def test_roles_of_migrations_are_made_on_the_tests_own_server(suite: Suite) -> None:
    """One that a file lacks, and one that an earlier template has made already."""
    lacked, made = f"lacked_{suite.role}", f"made_{suite.role}"
    suite.write(
        "migrations/002_roles.sql",
        f"GRANT SELECT ON plans TO {lacked};\nCREATE ROLE {made};\nGRANT ALL ON plans TO {made};",
    )
    suite.write("test_shop.py", TESTS)
    first = suite.run("-q", server=False)
    assert "11 passed" in first.stdout, first.output
    with testing.database(suite.folder):  # somebody runs tests with that template
        suite.write("migrations/003_more.sql", "SELECT 1;")
        refused = suite.run("-q", server=False)
    assert refused.returncode == 2
    assert f'002_roles.sql:2:1: role "{made}" already exists' in refused.output
    assert "Roles are the whole server's" in refused.output
    testing.close()
    again = suite.run("-q", server=False)
    assert "11 passed" in again.stdout, again.output


@OWN_SERVER
def test_used_databases_do_not_wait_to_be_dropped_where_there_is_no_room(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_ROOM", 1 << 62)
    there = []
    for _ in range(20):
        with testing.database(suite.folder) as url, psycopg.connect(url) as conn:
            own = conn.info.dbname.rpartition("_")[0]  # the process's
            count = "SELECT count(*) FROM pg_database WHERE starts_with(datname, %s)"
            row = conn.execute(count, [f"{own}_"]).fetchone()
            there.append(row[0] if row else 0)
    testing.close()
    assert max(there) <= 8  # with room, about 20


def test_calls_at_the_same_time_have_a_database_each(suite: Suite) -> None:
    async def all_of_them() -> set[str]:
        async def one() -> str:
            async with testing.database_async(suite.folder, server=suite.server) as url:
                return url

        return {*await asyncio.gather(*(one() for _ in range(5)))}

    assert len(asyncio.run(all_of_them())) == 5
    testing.close()
    assert suite.databases("test_") == []


@OWN_SERVER
def test_the_recipes_of_the_page_run(suite: Suite) -> None:
    suite.write("pytest.ini", "[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    names = []
    for block in blocks("docs/testing.md", "python"):
        name = block.split()[1]
        names.append(suite.write(name, block).name)
    tests = {"test_users.py", "test_rename.py", "test_case.py", "test_without.py", "test_async.py"}
    assert {*names} == {*tests, "test_sqlalchemy.py", "test_django.py", "conftest.py"}
    done = suite.run("-q", server=False, asyncio=True)
    assert done.returncode == 0, done.output
    assert "8 passed" in done.stdout


KILLED = """
import random, sys, time
from pathlib import Path
from invoke_pg_migrations import testing

def seed(connection):
    connection.execute("INSERT INTO plans (name) VALUES ('free')")

while True:
    with testing.database(server=sys.argv[1], seeds=[seed], sources=["seeds.txt"]):
        Path("reached").touch()
        time.sleep(random.random() / 20)
"""


@pytest.mark.long
def test_nothing_is_left_by_processes_that_are_killed(
    suite: Suite, pytestconfig: pytest.Config
) -> None:
    rounds = max(4, 50 * int(pytestconfig.getoption("--rounds")) // 100)
    chance = random.Random(7)
    suite.write("killed.py", KILLED)
    for number in range(rounds):
        suite.write("seeds.txt", str(number // 2))  # every other one makes a template
        reached = suite.folder / "reached"
        reached.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, "killed.py", suite.server], cwd=suite.folder, env=suite.environment
        )
        if number % 2:  # while databases are made, used and dropped; otherwise at any time
            while not reached.exists():
                assert process.poll() is None
                time.sleep(0.01)
        time.sleep(chance.random() * (0.3 if number % 2 else 1.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    suite.write("test_shop.py", TESTS)
    done = suite.run("-q")
    assert "11 passed" in done.stdout, done.output
    left = suite.databases()
    assert not [name for name in left if "template" not in name or name.endswith("_new")], left


class Seeds:
    def __call__(self, connection: object) -> None:
        """Put nothing in."""


def test_a_seed_may_be_whatever_can_be_called(tmp_path: Path) -> None:
    class_, written = Seeds(), Path(__file__)
    for seed in (partial(partial(seeded, "word"), rows=2), class_, class_.__call__, seeded):
        assert testing.recipe(tmp_path, [seed]).sources == (written,)
    assert testing.recipe(tmp_path, [print, partial(print)]).sources == ()


def seeded(*_: object, **__: object) -> None:
    """Put nothing in."""

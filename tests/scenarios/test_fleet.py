"""One folder, many databases, or many schemas of one: each target exactly once."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from psycopg import sql

from db import Settings, errors, events, fleet
from db.engine.runner import Run
from db.errors import SettingsError
from db.files.plan import Goal
from db.fleets import roster
from db.server.connection import Target
from db.server.watch import Guard
from db.settings import from_values
from tests.conftest import MakeCluster, Project
from tests.scenarios.test_engine import running, scalar, wait_for
from tests.servers import DEPLOY, DEPLOY_PASSWORD, Cluster, PgBouncer

COUNT = "CREATE TABLE IF NOT EXISTS counts (n int);\nINSERT INTO counts VALUES ({});\n"
TENANTS = [f"tenant_{n:02}" for n in range(30)]


@pytest.fixture(scope="module")
def databases(cluster: Cluster) -> Iterator[list[str]]:
    names = [cluster.create_database() for _ in range(12)]
    yield names
    for name in names:
        cluster.drop_database(name)


@pytest.fixture
def targets(project: Project, databases: list[str]) -> list[str]:
    """Twelve databases without anything in them, and targets.txt, which names them d0 to d11."""
    for name in databases:
        with project.cluster.connect(name) as conn:
            conn.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    lines = [f"d{n} = {project.cluster.url(name)}" for n, name in enumerate(databases)]
    text = "# all of them\n\n" + "\n".join(lines) + "  # the last one\n"
    (project.folder / "targets.txt").write_text(text)
    return databases


@pytest.fixture
def tenants(project: Project) -> list[str]:
    """Thirty schemas of the test's database."""
    with project.cluster.connect(project.database) as conn:
        for name in TENANTS:
            conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    return TENANTS


def ledgers(project: Project, schemas: list[str]) -> dict[str, list[str]]:
    """Return what each schema's ledger has; the counts of its files must be the same."""
    found = {}
    with project.cluster.connect(project.database, autocommit=False) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        for schema in schemas:
            executed, counted = list[str](), list[str]()
            for table, rows in (("migrations", executed), ("counts", counted)):
                there = conn.execute("SELECT to_regclass(%s)", [f"{schema}.{table}"]).fetchone()
                if there and there[0]:
                    column = "filename" if table == "migrations" else "n"
                    query = f"SELECT {column} FROM {schema}.{table} ORDER BY 1"
                    rows += [str(row[0]) for row in conn.execute(query.encode())]
            assert [int(name.split("_")[0]) for name in executed] == list(map(int, counted)), schema
            found[schema] = executed
    return found


def reported(stdout: str, event: str = "target") -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in stdout.splitlines()]
    return {line["name"]: line for line in lines if line["event"] == event}


def test_each_database_of_a_file_has_its_own_state(project: Project, targets: list[str]) -> None:
    project.write("001_a.sql", COUNT.format(1))
    names = [f"d{n}" for n in range(len(targets))]
    one = project.cluster.url(targets[3])
    assert project.invoke("db.migrate-run", env={"DATABASE_URL": one}).returncode == 0
    done = project.invoke("db.fleet", "--targets", "targets.txt", env={"DATABASE_URL": None})
    assert done.returncode == 0, done.output
    assert "12 targets on " in done.stdout
    assert "11 targets migrated, 1 target with nothing to do" in done.stdout
    assert "1 file executed in " in done.stdout
    project.write("002_b.sql", COUNT.format(2))
    done = project.invoke("db.fleet", "--targets", "targets.txt", "--json")
    lines = reported(done.stdout)
    assert sorted(lines) == sorted(names)
    assert {(line["state"], *line["executed"]) for line in lines.values()} == {
        ("executed", "002_b.sql")
    }
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "finished"
    for database in targets:
        with project.cluster.connect(database) as conn:
            assert conn.execute("SELECT n FROM counts ORDER BY n").fetchall() == [(1,), (2,)]
            found = conn.execute("SELECT filename FROM migrations ORDER BY id").fetchall()
            assert found == [("001_a.sql",), ("002_b.sql",)]
    done = project.invoke("db.fleet", "--targets", "targets.txt", "--status", "--check")
    assert done.returncode == 0, done.output
    assert re.search(r"002_b.sql +0 +12", done.stdout)
    query = "SELECT datname FROM pg_database WHERE datname IN ('{}', '{}')".format(*targets[:2])
    done = project.invoke("db.fleet", "--targets-from", query, "--json")
    assert sorted(reported(done.stdout)) == sorted(targets[:2])


@pytest.mark.long
def test_what_failed_is_said_by_error_and_done_by_the_next_run(
    project: Project, targets: list[str]
) -> None:
    project.write("001_a.sql", COUNT.format(1))
    fleet_of = ("db.fleet", "--targets", "targets.txt")
    assert project.invoke(*fleet_of).returncode == 0
    for number in (5, 7, 11):
        with project.cluster.connect(targets[number]) as conn:
            conn.execute("CREATE TABLE taken (n int)")
    with project.cluster.connect(targets[9]) as conn:
        conn.execute("DROP TABLE counts")
    project.write("002_b.sql", "CREATE TABLE taken (n int);\nINSERT INTO counts VALUES (2);\n")
    done = project.invoke(*fleet_of, "--workers", "2", "--json")
    (project.folder / "report.json").write_text(done.stdout)
    assert done.returncode == 1
    states = Counter(line["state"] for line in reported(done.stdout).values())
    assert states == {"executed": 8, "failed": 4}
    failed = reported(done.stdout)["d9"]
    assert failed["sqlstate"] == "42P01"
    assert failed["location"] == {"path": "migrations/002_b.sql", "line": 2, "column": 13}
    assert failed["outcome"].startswith("Rolled back. 001_a.sql is the last executed file")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["error"], last["exit_code"]) == ("failed", "FleetFailed", 1)

    done = project.invoke(*fleet_of, "--canary", "0")
    assert done.returncode == 1
    assert "8 of 12 targets are done, 4 failed." in done.stderr
    by_error = re.findall(r"(?m)^(\d targets?): (.*)\n  (.*)$", done.stderr)
    assert [(many, sorted(names.split(", "))) for many, names, _ in by_error] == [
        ("3 targets", ["d11", "d5", "d7"]),
        ("1 target", ["d9"]),
    ]
    assert 'relation "taken" already exists (42P07)' in by_error[0][2]
    assert "invoke db.fleet --targets targets.txt" in done.stderr
    done = project.invoke(*fleet_of, "--status", "--check")
    assert done.returncode == 3
    assert re.search(r"001_a.sql +1 +4\n", done.stdout)
    assert "behind: 4 targets: d11, d5, d7, d9" in done.stdout

    for number in (5, 7, 11):
        with project.cluster.connect(targets[number]) as conn:
            conn.execute("DROP TABLE taken")
    done = project.invoke(*fleet_of, "--only", "report.json", "--json", "--canary", "0")
    assert done.returncode == 1
    left = {name: line["state"] for name, line in reported(done.stdout).items()}
    assert left == {"d5": "executed", "d7": "executed", "d11": "executed", "d9": "failed"}
    (project.folder / "names.txt").write_text("# by hand\nd9\n")
    with project.cluster.connect(targets[9]) as conn:
        conn.execute("CREATE TABLE counts (n int)")
    done = project.invoke(*fleet_of, "--only", "names.txt")
    assert done.returncode == 0, done.output
    (project.folder / "names.txt").write_text("d99\na=postgresql://u:s3cret@h/d\n")
    done = project.invoke(*fleet_of, "--only", "names.txt")
    assert done.returncode == 2
    assert "is no target here: d99, a URL." in done.stderr


def test_a_schema_each_has_its_path_and_its_ledger(project: Project, tenants: list[str]) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE FUNCTION public.shared() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        conn.execute('CREATE SCHEMA "Tenant 30\'s"')
        conn.execute("CREATE TABLE public.counts (n int)")
    project.write(
        "001_a.sql", "CREATE TABLE counts (n int);\nINSERT INTO counts VALUES (shared());"
    )
    odd = "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY i ON counts (n);\n"
    project.write("002_b.sql", odd + "INSERT INTO counts VALUES (2);\n")
    of_schemas = ("db.fleet", "--schemas", "tenant_%")
    done = project.invoke(*of_schemas)
    assert done.returncode == 0, done.output
    assert "30 targets migrated" in done.stdout
    files = ["001_a.sql", "002_b.sql"]
    assert ledgers(project, tenants) == dict.fromkeys(tenants, files)
    assert scalar(project, "SELECT count(*) FROM public.counts") == 0
    done = project.invoke("db.fleet", "--schemas", "Tenant%", "--json")
    assert reported(done.stdout)["Tenant 30's"]["executed"] == files
    assert scalar(project, 'SELECT count(*) FROM "Tenant 30\'s".migrations') == 2
    done = project.invoke(*of_schemas)
    assert "30 targets with nothing to do" in done.stdout

    project.write("001_a.sql", "SELECT 'edited';")
    done = project.invoke(*of_schemas, "--status")
    assert "changed: 30 targets: tenant_00" in done.stdout
    done = project.invoke(*of_schemas)
    assert done.returncode == 1
    assert "Changed since it was executed: 001_a.sql" in done.stderr
    done = project.invoke(*of_schemas, env={"MIGRATIONS_TABLE": "ops.migrations"})
    assert "MIGRATIONS_TABLE=migrations" in done.stderr
    done = project.invoke(*of_schemas, "--migrate")
    assert (done.returncode, "--migrate" in done.stderr) == (2, True)
    done = project.invoke("db.fleet", "--schemas", "nobody_%")
    assert (done.returncode, "no schema is LIKE nobody_%" in done.stderr) == (2, True)


def test_a_fleet_stops_where_it_fails_everywhere(project: Project, tenants: list[str]) -> None:
    project.write("001_a.sql", "SELECT nothing;\n")
    schemas = ("db.fleet", "--schemas", "tenant_%", "--json")
    for options, begun, why in (
        ((), 3, "one of the canaries failed"),
        (("--canary", "1"), 1, "one of the canaries failed"),
        (("--canary", "0", "--workers", "1"), 3, "the first ones all failed alike"),
    ):
        done = project.invoke(*schemas, *options)
        assert done.returncode == 1
        states = Counter(line["state"] for line in reported(done.stdout).values())
        assert states["failed"] <= begun
        assert states["failed"] + states["not begun"] == len(tenants)
        assert why in json.loads(done.stdout.splitlines()[-1])["message"]
    with project.cluster.connect(project.database) as conn:
        for n, name in enumerate(tenants):
            if n in (0, 2):
                conn.execute(f"CREATE VIEW {name}.odd AS SELECT 1 AS n".encode())
            if n % 2:
                conn.execute(f"CREATE TABLE {name}.odd (m int)".encode())
    project.write("001_a.sql", "SELECT n FROM odd;\n")
    done = project.invoke(*schemas, "--canary", "0", "--workers", "1", "--stop-after", "4")
    states = Counter(line["state"] for line in reported(done.stdout).values())
    assert states["failed"] == 4
    assert "because 4 failed" in done.stdout


@pytest.mark.usefixtures("targets")
def test_one_that_cannot_be_reached_is_no_canary(project: Project) -> None:
    """Nor do others that are down, later, make all of them alike."""
    project.write("001_a.sql", COUNT.format(1))
    assert project.invoke("db.fleet", "--targets", "targets.txt").returncode == 0
    there = (project.folder / "targets.txt").read_text().splitlines()
    gone = [f"gone{n} = {project.cluster.url('nowhere')}" for n in range(3)]
    fleet_of = ("db.fleet", "--targets", "targets.txt", "--workers", "1", "--json")

    def states(*lines: str, options: tuple[str, ...] = ()) -> tuple[Counter[str], str]:
        (project.folder / "targets.txt").write_text("\n".join(lines))
        done = project.invoke(*fleet_of, *options)
        assert done.returncode == 1, done.output
        event = "standing" if options else "target"
        found = Counter(line["state"] for line in reported(done.stdout, event).values())
        return found, json.loads(done.stdout.splitlines()[-1])["message"]

    found, said = states(gone[0], *there, *gone[1:])
    assert found == {"nothing to do": 12, "failed": 3}
    assert "not begun" not in said
    found, said = states(*gone, *there)
    assert found == {"failed": 3, "not begun": 12}
    assert "because the first ones all failed alike" in said

    project.write("002_b.sql", COUNT.format(2))
    found, said = states(*there[:5], *gone, *there[5:], options=("--status",))
    assert found == {"behind": 12, "failed": 3}
    assert said == "3 of 15 targets cannot be looked at."
    found, said = states(*gone, *there, options=("--status",))
    assert found["failed"] == 3
    expected = "12 were not looked at, because the first ones all failed alike."
    assert said == f"3 of 15 targets cannot be looked at, {expected}"


def test_errors_that_differ_are_told_apart(project: Project, tenants: list[str]) -> None:
    """By what is said, but not by a target's own name, or by values."""
    with project.cluster.connect(project.database) as conn:
        for n, name in enumerate(tenants[:8]):
            say = f"'customer {name} has % orders, such as \"%\"', {n}, 'order {n * 7}'"
            if n % 4 == 1:
                say = "'no customer is left'"
            body = f"RAISE EXCEPTION {say};" if n < 4 else f"INSERT INTO {name}.t VALUES (1, 1);"
            more = "UNIQUE" if n % 2 else "PRIMARY KEY"
            conn.execute(
                f"CREATE TABLE {name}.t (a int {more}, b int); INSERT INTO {name}.t VALUES (1, 1);"
                f"CREATE FUNCTION {name}.f() RETURNS void LANGUAGE plpgsql AS "
                f"$$ BEGIN {body} END $$".encode()
            )
    project.write("001_a.sql", "SELECT f();\n")
    done = project.invoke(
        "db.fleet", "--schemas", "tenant_0%", "--canary", "0", "--stop-after", "0"
    )
    assert done.returncode == 1
    found = re.findall(r"(?m)^\d targets?: (.*)\n", done.stderr)
    kinds = {frozenset(names.split(", ")) for names in found}
    called = "tenant_0{}".format
    assert kinds == {
        frozenset({called(0), called(2), called(3)}), frozenset({called(1)}),
        frozenset({called(4), called(6)}), frozenset({called(5), called(7)}),
        frozenset({called(8), called(9)}),
    }  # fmt: skip


def test_a_schema_that_cannot_be_reached_is_explained(
    project: Project, pgbouncer: PgBouncer
) -> None:
    project.write("001_a.sql", "SELECT 1;\n")
    with project.cluster.connect(project.database) as conn:
        conn.execute('CREATE SCHEMA tenant_0; CREATE SCHEMA "$user"')
    url = f"postgresql://{DEPLOY}:{quote(DEPLOY_PASSWORD, safe='')}@127.0.0.1"
    settings = Settings.of(f"{url}:{project.cluster.port}/{project.database}", project.migrations)
    for schema, said, advice in (
        ("tenant_0", "may not use the schema", f'ON SCHEMA "tenant_0" TO "{DEPLOY}"'),
        ("tenant_1", "there is no schema tenant_1 any more", "dropped"),
    ):
        target = Target(settings.parameters, 5).of_schema(schema, ["public"])
        with pytest.raises(errors.ConnectionFailed) as failed:
            list(Run(target, settings, Goal()).events())
        assert said in failed.value.message
        assert advice in " ".join(failed.value.advice)
    done = project.invoke("db.fleet", "--schemas", "$user")
    assert "no search_path leads to a schema named $user" in done.stderr
    through = {"DATABASE_URL": pgbouncer.url(project.database)}
    done = project.invoke("db.fleet", "--schemas", "tenant_%", env=through)
    assert done.returncode == 1
    assert "--schemas needs the server itself" in done.stderr, done.output
    assert "Check " not in done.stderr


@pytest.mark.usefixtures("tenants")
def test_the_advice_of_an_error_is_shown_whole(project: Project) -> None:
    project.write("001_a.sql", COUNT.format(1))
    fleet_of = ("db.fleet", "--schemas", "tenant_0%")
    assert project.invoke(*fleet_of).returncode == 0
    project.write("001_a.sql", COUNT.format(2))
    done = project.invoke(*fleet_of, "--json")
    assert "write the change as a new migration;" in done.output
    for text in (done.stdout, project.invoke(*fleet_of).stderr):
        assert "db.repair --name 001_a.sql --accept" in text
    assert "To begin all the same" not in done.output
    project.write("001_a.sql", COUNT.format(1))
    for option in ("--to", "--name"):
        done = project.invoke(*fleet_of, option, "nothing_like_it")
        assert (done.returncode, "There is no migration named" in done.stderr) == (2, True)
    project.write("002_b.sql", "SELECT 'not closed;\n")
    done = project.invoke(*fleet_of)
    assert (done.returncode, "To begin all the same" in done.output) == (1, False), done.output
    (project.migrations / "002_b.sql").unlink()
    (project.folder / "report.json").write_text(project.invoke(*fleet_of, "--json").stdout)
    for more in ((), ("--status", "--check")):
        done = project.invoke(*fleet_of, "--only", "report.json", *more)
        assert done.returncode == 0, done.output
        assert "nothing is left" in done.stdout
    (project.folder / "report.json").write_text("# nobody\n")
    assert project.invoke(*fleet_of, "--only", "report.json").returncode == 2


def test_others_look_while_a_canary_executes(project: Project, targets: list[str]) -> None:
    project.write("001_a.sql", COUNT.format(1))
    fleet_of = ("db.fleet", "--targets", "targets.txt", "--json")
    assert project.invoke(*fleet_of).returncode == 0
    behind = (1, 8, 9)  # the first is under way long before the others are begun
    for number in behind:
        with project.cluster.connect(targets[number]) as conn:
            conn.execute("DELETE FROM migrations")

    def executed(number: int) -> int:
        with project.cluster.connect(targets[number]) as conn:
            row = conn.execute("SELECT count(*) FROM migrations").fetchone()
        return int(row[0]) if row else 0

    for fails in (True, False):
        with project.cluster.connect(targets[1], autocommit=False) as conn:
            conn.execute("LOCK counts")
            process = project.popen(*fleet_of, "--canary", "1", "--workers", "5")
            assert process.stdout is not None
            looked = list[str]()
            while len(looked) < len(targets) - len(behind):
                line = json.loads(process.stdout.readline())
                looked += [line["state"]] if line["event"] == "target" else []
            assert set(looked) == {"nothing to do"}
            if fails:
                conn.execute("ALTER TABLE counts RENAME TO gone")
                conn.execute("CREATE VIEW counts AS SELECT 1 AS n")
                conn.commit()
        stdout, _ = stopped(process)
        states = {name: line["state"] for name, line in reported(stdout).items()}
        wanted = ["failed", "not begun", "not begun"] if fails else ["executed"] * 3
        assert [states[f"d{number}"] for number in behind] == wanted
        assert [executed(number) for number in behind] == [0 if fails else 1] * 3
        if fails:
            assert process.returncode == 1
            assert "one of the canaries failed" in json.loads(stdout.splitlines()[-1])["message"]
            with project.cluster.connect(targets[1]) as conn:
                conn.execute("DROP VIEW counts")
                conn.execute("ALTER TABLE gone RENAME TO counts")
        else:
            assert process.returncode == 0


def test_no_password_of_a_target_is_shown(project: Project, targets: list[str]) -> None:
    project.write("001_a.sql", COUNT.format(1))
    secret = "p%40ss%3Aw%2Fo%3Fr%23d%25%20x"
    right = f"postgresql://{DEPLOY}:{secret}@127.0.0.1:{project.cluster.port}/{targets[0]}"
    wrong = right.replace("p%40ss", "wr0ngpw")
    (project.folder / "targets.txt").write_text(f"a={right}\nb={wrong}\n")
    done = project.invoke("db.fleet", "--targets", "targets.txt", "--canary", "0")
    assert done.returncode == 1
    assert "permission denied for schema public" in done.stderr
    assert "password authentication failed" in done.stderr
    more = [done]
    for text in (
        f"{right}\n{right.replace('postgresql', 'mysql')}\n",
        f"a={right}\na={right}\n",
        f"a b {right}\n",
        f"a={right}?oops=1\n",
        f"postgresql://{DEPLOY}:s3cr@t@127.0.0.1/x\n",
        f"postgresql://{DEPLOY}:s3cret@127.0.0.1\n",
    ):
        (project.folder / "targets.txt").write_text(text)
        more.append(project.invoke("db.fleet", "--targets", "targets.txt", "--json"))
        assert more[-1].returncode == 2, more[-1].output
        assert "line" in more[-1].output or "names no database" in more[-1].output
    (project.folder / "targets.txt").write_text(right)
    shown = repr(roster.of_file(project.folder / "targets.txt", _of(project)))
    for done in more:
        assert DEPLOY_PASSWORD not in shown
        for word in ("s3cr", DEPLOY_PASSWORD, secret, secret[:9], "wr0ngpw", "Traceback"):
            assert word not in done.output


def test_no_password_of_a_query_is_shown(project: Project, targets: list[str]) -> None:
    project.write("001_a.sql", "SELECT nothing;\n")
    secret, databases = "geheim", f"FROM pg_database WHERE datname IN ('{targets[0]}')"
    url = f"postgresql://{DEPLOY}:{secret}@127.0.0.1:{project.cluster.port}/"
    fails = "The query of the targets fails: what the server says of it is not shown"
    for query, code, said in (
        (f"SELECT '{url}' || datname {databases}", 1, "--targets-from '(the same query)'"),
        (f"SELECT '{url}' || datname::{secret} {databases}", 2, fails),
        (f"SELECT '{url.removeprefix('postgresql://')}'", 2, "row 1 of the query is not a URL"),
    ):
        for more in ((), ("--json",)):
            done = project.invoke("db.fleet", "--targets-from", query, *more)
            assert (done.returncode, secret in done.output) == (code, False), done.output
            assert said in done.output, done.output
    done = project.invoke("db.fleet", "--targets-from", f"SELECT datname {databases}")
    assert "--targets-from 'SELECT datname FROM" in done.stderr


def _of(project: Project) -> roster.Of:
    return lambda url: Settings.of(url, project.migrations)


def test_the_lines_of_a_file_and_what_completes_them(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from db.settings import of_many

    environ = {"PGHOST": "elsewhere", "PGPASSWORD": "secret", "PGDATABASE": "never", "PGUSER": "me"}
    of = of_many(project.folder, {"table": "ops.ledger"}, environ)
    path = project.folder / "targets.txt"
    path.write_text(
        "a=postgresql:///one\n  postgres://h1:5433/two # a comment\npostgresql://h1/three\n"
        "postgresql://h2/three\nb = postgresql:///?service=there\n"
    )
    service = project.folder / "service.conf"
    service.write_text("[there]\nhost=h9\ndbname=nine\n")
    monkeypatch.setenv("PGSERVICEFILE", str(service))
    members = {m.name: m.target.parameters for m in roster.of_file(path, of)}
    assert {name: (p["host"], p["dbname"]) for name, p in members.items()} == {
        "a": ("elsewhere", "one"),
        "two": ("h1", "two"),
        "three on h1:5432": ("h1", "three"),
        "three on h2:5432": ("h2", "three"),
        "b": ("h9", "nine"),
    }
    assert {p.get("password") for p in members.values()} == {"secret"}
    assert members["two"]["port"] == "5433"
    assert {m.settings.ledger for m in roster.of_file(path, of)} == {"ops.ledger"}
    for text in ("", "# nobody\n", "embedded:\n", "host=a dbname=b\n", "a=b\n"):
        path.write_text(text)
        with pytest.raises(SettingsError):
            roster.of_file(path, of)


@pytest.mark.long
def test_workers_leave_room_on_the_server(own_cluster: MakeCluster, project: Project) -> None:
    small = own_cluster(options={"max_connections": "14", "log_connections": "on"})
    there = Project.at(project, small)
    there.write("001_a.sql", COUNT.format(1) + "SELECT pg_sleep(0.05);\n")
    with small.connect(there.database) as conn:
        for name in TENANTS:
            conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        # 14, less 3 for superusers, less this one: room for three workers of the 20.
        done = there.invoke("db.fleet", "--schemas", "tenant_%", "--workers", "20")
    assert done.returncode == 0, done.output
    assert set(map(tuple, ledgers(there, TENANTS).values())) == {("001_a.sql",)}
    log = small.log.read_text()
    assert "too many clients" not in log
    assert "remaining connection slots" not in log
    # A file that is alone takes one connection; where nothing is to be done, one reads all ledgers.
    for name, made, most in (("002_b.sql", "30 targets migrated", 33), ("", "nothing to do", 3)):
        if name:
            there.write(name, COUNT.format(2))
        begin = len(small.log.read_text())
        done = there.invoke("db.fleet", "--schemas", "tenant_%")
        assert made in done.stdout
        assert 0 < small.log.read_text()[begin:].count("connection authorized") <= most


@pytest.mark.usefixtures("tenants")
def test_a_file_that_is_alone_waits_for_its_turn(project: Project) -> None:
    project.write("001_a.sql", COUNT.format(1))
    fleet_of_one = ("db.fleet", "--schemas", "tenant_07", "--json")
    assert project.invoke(*fleet_of_one).returncode == 0
    project.write("002_b.sql", COUNT.format(2))
    guard = Guard(
        Target(from_values({}, project.url).parameters, 30), ("migrations:tenant_07.migrations",)
    )
    assert guard.lock()
    process = project.popen(*fleet_of_one)
    turns = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'migrations guard%'"
    wait_for(lambda: scalar(project, turns) == 2)
    assert scalar(project, "SELECT count(*) FROM tenant_07.counts") == 1
    guard.close()
    stdout, _ = stopped(process)
    assert reported(stdout)["tenant_07"]["executed"] == ["002_b.sql"]
    assert scalar(project, "SELECT count(*) FROM tenant_07.counts") == 2


def test_a_file_that_is_alone_sees_what_others_have_changed(project: Project) -> None:
    """Another run has undone a file between the look at the ledger and the file's transaction."""

    class Late(Run):
        def _is_alone(self, *, unfinished: bool) -> bool:
            with project.cluster.connect(project.database) as conn:
                conn.execute("DELETE FROM migrations WHERE filename = '002_b.sql'")
                conn.execute("DELETE FROM counts WHERE n = 2")
            return super()._is_alone(unfinished=unfinished)

    for number in (1, 2):
        project.write(f"{number:03}_a.sql".replace("002_a", "002_b"), COUNT.format(number))
    assert project.invoke("db.migrate-run").returncode == 0
    project.write("003_c.sql", COUNT.format(3))
    settings = Settings.of(project.url, project.migrations)
    target = Target(settings.parameters, settings.connect_timeout_s)
    run = Late(target, settings, Goal(), sparing=True)
    told = list(run.events())
    assert run.executed == ["002_b.sql", "003_c.sql"]
    assert not any(isinstance(event, events.Retrying) for event in told)
    assert project.executed() == ["001_a.sql", "002_b.sql", "003_c.sql"]


@pytest.mark.long
@pytest.mark.usefixtures("tenants")
def test_a_ledger_that_cannot_be_read_with_the_others_has_a_run_of_its_own(
    project: Project,
) -> None:
    project.write("001_a.sql", COUNT.format(1))
    project.write("002_b.sql", COUNT.format(2))
    schemas = ("db.fleet", "--schemas", "tenant_%", "--canary", "0", "--stop-after", "0", "--json")
    assert project.invoke(*schemas).returncode == 0
    with project.cluster.connect(project.database) as conn:
        conn.execute("DELETE FROM tenant_03.migrations WHERE filename = '002_b.sql'")
        conn.execute("DELETE FROM tenant_03.counts WHERE n = 2")
        conn.execute("UPDATE tenant_05.migrations SET checksum = 'another' WHERE id = 1")
        conn.execute("INSERT INTO tenant_06.migrations (filename) VALUES ('000_gone.sql')")
        conn.execute("ALTER TABLE tenant_07.migrations RENAME TO kept")
        conn.execute("CREATE VIEW tenant_07.migrations AS SELECT * FROM tenant_07.kept")
        conn.execute("ALTER TABLE tenant_08.migrations DROP COLUMN checksum")
    standing = reported(project.invoke(*schemas[:3], "--status", "--json").stdout, "standing")
    states = {name: line["state"] for name, line in standing.items() if line["state"] != "executed"}
    assert states == {
        "tenant_03": "behind", "tenant_05": "changed", "tenant_06": "missing", "tenant_07": "failed"
    }  # fmt: skip
    stdout = project.invoke(*schemas).stdout
    told = reported(stdout)
    states = {
        name: line["state"] for name, line in told.items() if line["state"] != "nothing to do"
    }
    left = {"tenant_03": "executed", "tenant_05": "failed", "tenant_07": "failed"}
    assert states == left
    assert "tenant_07.migrations is not a ledger" in told["tenant_07"]["message"]
    assert "000_gone.sql is executed, but its file is missing. (1 target)" in stdout
    with project.cluster.connect(project.database) as conn:
        assert conn.execute("SELECT count(checksum) FROM tenant_08.migrations").fetchone() == (2,)
        conn.execute("DELETE FROM tenant_03.migrations WHERE filename = '002_b.sql'")
        conn.execute("DELETE FROM tenant_03.counts WHERE n = 2")
    # One that is locked leaves those to runs that are read along with it.
    with project.cluster.connect(project.database, autocommit=False) as conn:
        conn.execute("LOCK tenant_29.migrations")
        process = project.popen(*schemas)
        wait_for(lambda: scalar(project, "SELECT count(*) FROM tenant_03.migrations") == 2)
    told = reported(stopped(process)[0])
    states = {
        name: line["state"] for name, line in told.items() if line["state"] != "nothing to do"
    }
    assert states == left


def stopped(process: subprocess.Popen[str]) -> tuple[str, str]:
    return process.communicate(timeout=60)


@pytest.mark.long
def test_an_interrupt_ends_each_target_in_order(project: Project, tenants: list[str]) -> None:
    project.write("001_a.sql", COUNT.format(1))
    assert project.invoke("db.fleet", "--schemas", "tenant_%").returncode == 0
    project.write("002_b.sql", COUNT.format(2) + "SELECT pg_sleep(60);\n")
    sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
    for number in (signal.SIGINT, signal.SIGTERM):
        process = project.popen("db.fleet", "--schemas", "tenant_%", "--json")
        wait_for(lambda: scalar(project, sleeps) == 3)
        os.kill(process.pid, number)
        stdout, stderr = stopped(process)
        assert process.returncode == 128 + number, stdout + stderr
        assert "Traceback" not in stdout + stderr
        states = Counter(line["state"] for line in reported(stdout).values())
        assert states == {"interrupted": 3, "not begun": 27}
        last = json.loads(stdout.splitlines()[-1])
        assert last["error"] == "Interrupted"
        assert "0 of 30 targets are done, 3 interrupted, 27 not begun" in last["message"]
        assert any("rolled back" in line for line in last["advice"])
        assert scalar(project, sleeps) == 0
        assert set(map(tuple, ledgers(project, tenants).values())) == {("001_a.sql",)}
    # In the middle: the table is locked in one target, for which the run has patience.
    project.write("002_b.sql", COUNT.format(2))
    with project.cluster.connect(project.database, autocommit=False) as conn:
        conn.execute("LOCK tenant_07.counts")
        process = project.popen("db.fleet", "--schemas", "tenant_%", "--json")
        wait_for(
            lambda: set(map(len, ledgers_beside(project, tenants, "tenant_07").values())) == {2}
        )
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGINT)
        stdout, _ = stopped(process)
    assert process.returncode == 130
    states = Counter(line["state"] for line in reported(stdout).values())
    assert states == {"executed": 29, "interrupted": 1}
    assert project.invoke("db.fleet", "--schemas", "tenant_%").returncode == 0
    everything = ("001_a.sql", "002_b.sql")
    assert set(map(tuple, ledgers(project, tenants).values())) == {everything}


def ledgers_beside(project: Project, tenants: list[str], one: str) -> dict[str, list[str]]:
    return ledgers(project, [name for name in tenants if name != one])


def test_two_fleets_at_once_do_each_target_once(project: Project, tenants: list[str]) -> None:
    for number in range(1, 5):
        project.write(f"{number:03}_a.sql", COUNT.format(number))
    processes = [project.popen("db.fleet", "--schemas", "tenant_%", "--json") for _ in range(2)]
    for process in processes:
        stdout, stderr = stopped(process)
        assert process.returncode == 0, stdout + stderr
    assert set(map(len, ledgers(project, tenants).values())) == {4}


def test_the_function_returns_what_became_of_each(project: Project, targets: list[str]) -> None:
    project.write("001_a.sql", COUNT.format(1))
    urls = {f"d{n}": project.cluster.url(name) for n, name in enumerate(targets[:4])}
    seen: list[events.Event] = []
    made = fleet(urls, project.migrations, on_event=seen.append)
    assert {(each.name, each.state, each.executed) for each in made} == {
        (name, "executed", ("001_a.sql",)) for name in urls
    }
    assert {each for each in seen if isinstance(each, events.Target)} == set(made)
    project.write("002_b.sql", "SELECT nothing;")
    with pytest.raises(errors.FleetFailed) as failed:
        fleet(list(urls.values()), project.migrations, canary=1)
    assert {each.name for each in failed.value.outcomes} == set(targets[:4])
    (error, names), *_ = failed.value.failures
    assert isinstance(error, errors.StatementFailed)
    assert names == [targets[0]]
    with pytest.raises(SettingsError):
        fleet([], project.migrations)


def test_a_missing_database_is_made_where_that_is_the_goal(
    project: Project, cluster: Cluster
) -> None:
    names = [f"{project.database}_{n}" for n in range(3)]
    project.write_schema("CREATE TABLE base (id int);\n")
    project.write("001_a.sql", "ALTER TABLE base ADD COLUMN n int;\n")
    (project.folder / "targets.txt").write_text("\n".join(map(cluster.url, names)))
    try:
        done = project.invoke("db.fleet", "--targets", "targets.txt")
        assert done.returncode == 1
        assert "3 targets" in done.stderr  # one error: the names of the databases are left out
        done = project.invoke("db.fleet", "--targets", "targets.txt", "--migrate", "--json")
        assert done.returncode == 0, done.output
        executed = {tuple(line["executed"]) for line in reported(done.stdout).values()}
        assert executed == {("schema.sql", "001_a.sql")}
    finally:
        for name in names:
            with cluster.connect() as conn:
                conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))


def test_what_cannot_be_meant_is_refused(project: Project, tenants: list[str]) -> None:
    project.write("001_a.sql", COUNT.format(1))
    for options in (
        (),
        ("--targets", "a", "--schemas", "b"),
        ("--targets", "nowhere.txt"),
        ("--targets-from", "SELECT nothing"),
        ("--targets-from", "SELECT NULL::text"),
        ("--targets-from", "SELECT 1, 2, 3"),
        ("--targets-from", "SELECT 1; COMMIT; DROP SCHEMA tenant_00; SELECT 1"),
        ("--targets-from", "SELECT 'host=h password=s3cret'"),
        ("--targets-from", "SELECT 'postgresql://u:s3cret@h/d', 'd'"),
        ("--targets", "postgresql://u:s3cret@h/d"),
        ("--schemas", "tenant_%", "--workers", "0"),
        ("--schemas", "tenant_%", "--workers", "many"),
        ("--schemas", "tenant_%", "--to", "001", "--migrate"),
        ("--schemas", "tenant_%", "--check"),
    ):
        done = project.invoke("db.fleet", *options)
        assert done.returncode == 2, (options, done.output)
        assert not re.search("Traceback|s3cret", done.output)
    both = project.invoke("db.fleet", "--schemas", "tenant_%", "--targets", "targets.txt")
    assert both.stderr.startswith("Say one of these: --targets, --targets-from or --schemas.")
    assert set(map(tuple, ledgers(project, tenants).values())) == {()}


@pytest.mark.long
@pytest.mark.usefixtures("tenants")
def test_a_run_that_waits_says_for_whom(project: Project) -> None:
    project.write("001_a.sql", COUNT.format(1))
    assert project.invoke("db.fleet", "--schemas", "tenant_%").returncode == 0
    project.write("002_b.sql", COUNT.format(2))
    with project.cluster.connect(project.database, autocommit=False) as conn:
        conn.execute("LOCK tenant_07.counts")
        process = project.popen("db.fleet", "--schemas", "tenant_%", "--json")
        assert process.stdout is not None
        for line in process.stdout:
            if "tenant_07: 002_b.sql waits for a lock, blocked by pid" in line:
                break
        else:
            pytest.fail("nobody said it")
    stdout, stderr = stopped(process)
    assert process.returncode == 0, stdout + stderr
    assert running(project, "LOCK")() is False


def test_a_host_that_does_not_answer_is_waited_for_no_longer_than_is_said(
    project: Project,
) -> None:
    """It takes the connection, and says nothing. Nor does an interrupt wait for it."""
    project.write("001_a.sql", COUNT.format(1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://{DEPLOY}@127.0.0.1:{silent.getsockname()[1]}"
        (project.folder / "targets.txt").write_text(f"{url}/a\n{url}/b\n{url}/c\n")
        env = {"MIGRATIONS_CONNECT_TIMEOUT": "3s", "DATABASE_URL": f"{url}/a"}
        done = project.invoke("db.migrate-run", env=env)
        assert "(waited 3 s)" in done.stderr, done.output
        for more in ((), ("--status",)):
            process = project.popen("db.fleet", "--targets", "targets.txt", *more)
            assert process.stdout is not None
            assert "3 targets on" in process.stdout.readline()
            time.sleep(0.5)
            began = time.monotonic()
            os.kill(process.pid, signal.SIGINT)
            stdout, stderr = stopped(process)
            assert time.monotonic() - began < 5, stdout + stderr
            assert (process.returncode, "Interrupted" in stderr) == (130, True), stdout + stderr


@pytest.mark.usefixtures("tenants")
def test_an_interrupt_says_whose_end_it_waits_for(project: Project) -> None:
    project.write("001_a.sql", "SELECT pg_sleep(60);\n")
    process = project.popen("db.fleet", "--schemas", "tenant_0%", "--canary", "1", "--json")
    found = "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
    wait_for(lambda: scalar(project, found.replace("pid", "count(*)", 1)) == 1)
    backend = int(str(scalar(project, found)))
    os.kill(backend, signal.SIGSTOP)
    try:
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout is not None
        for line in process.stdout:
            if "waiting for the end of tenant_0" in line:
                break
        else:
            pytest.fail("nobody said it")
    finally:
        os.kill(backend, signal.SIGCONT)
    stopped(process)
    assert process.returncode == 130


@pytest.mark.usefixtures("targets", "tenants")
def test_a_base_schema_is_loaded_by_the_fleet_and_into_databases_only(project: Project) -> None:
    project.write_schema("CREATE TABLE base (id int);\n")
    project.write("001_a.sql", "ALTER TABLE base ADD COLUMN n int;\n")
    expected = "and the migrations: invoke db.fleet --targets targets.txt --migrate\n"
    for more in ((), ("--to", "001_a.sql")):
        assert expected in project.invoke("db.fleet", "--targets", "targets.txt", *more).stderr
    done = project.invoke("db.fleet", "--schemas", "tenant_%")
    assert 'relation "base" does not exist' in done.stderr
    assert "never got" not in done.stderr

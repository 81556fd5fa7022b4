"""Faults at random moments, each with a fixed seed.

After each: ledger and database agree, the next run completes, and every file ran once. The full
number of rounds stands at each fault; `--rounds=100` (percent, or FAULT_ROUNDS) runs them all.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from db.server.connection import Target
from db.server.watch import Guard
from db.settings import from_values
from tests.conftest import MakeCluster, Project
from tests.proxy import Proxy
from tests.scenarios import mixed
from tests.scenarios import test_batches as batches
from tests.scenarios.test_engine import running, scalar, wait_for
from tests.servers import Cluster, temporary_folder

_WORKERS = """
SELECT {function}(pid) FROM pg_stat_activity WHERE datname = %s
AND starts_with(application_name, 'migrations ') AND
    starts_with(application_name, 'migrations guard') = %s"""


@pytest.fixture(scope="module")
def durable(binaries: Path) -> Iterator[Cluster]:
    """A server that may be crashed, and that flushes to disk."""
    server = Cluster(binaries, fsync=True)
    yield server
    server.remove()


# 1. The runner


@pytest.mark.rounds(200)
def test_a_runner_that_is_stopped_anywhere(project: Project, seed: int) -> None:
    rng = random.Random(f"runner {seed}")
    mixed.write(project)
    # A signal may come between the open of a file and the name that would close it.
    process = mixed.start(project, {"PYTHONWARNINGS": ""})
    lines = mixed.follow(process, rng)
    blow = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, blow)
    said = mixed.ended(process)
    if lines and len(mixed.agree(project)) < len(mixed.FILES):
        assert process.returncode == (-blow if blow == signal.SIGKILL else 128 + blow), said
        assert "Traceback" not in said, said
    mixed.next_run_completes(project)


# 2. Its sessions


@pytest.mark.rounds(100)
@pytest.mark.parametrize("function", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_session_that_is_ended_or_cancelled(project: Project, function: str, seed: int) -> None:
    rng = random.Random(f"session {function} {seed}")
    guard = rng.random() < 0.4
    mixed.write(project)
    process = mixed.start(project)
    mixed.follow(process, rng)
    query = _WORKERS.format(function=function).encode()
    with project.cluster.connect() as conn:
        while process.poll() is None:
            if conn.execute(query, [project.database, guard]).fetchall():
                break
    said = mixed.ended(process)
    assert "Traceback" not in said, said
    if guard or function == "pg_terminate_backend":
        assert process.returncode == 0, said
    elif process.returncode:
        assert "(57014)" in said
    mixed.next_run_completes(project)


# 3. The server


@pytest.mark.rounds(50)
def test_a_server_that_crashes_and_comes_back(
    project: Project, durable: Cluster, seed: int
) -> None:
    rng = random.Random(f"server {seed}")
    there = Project.at(project, durable)
    mixed.write(there)
    patient = rng.random() < 0.6
    process = mixed.start(there, {"MIGRATIONS_CONNECT_TIMEOUT": "30s" if patient else "0s"})
    mixed.follow(process, rng)
    durable.crash()
    if not patient:
        process.wait(60)
    durable.start()
    said = mixed.ended(process)
    assert "Traceback" not in said, said
    if patient:
        assert process.returncode == 0, said
    mixed.next_run_completes(there)


# 4. The link


@pytest.mark.rounds(200)
def test_a_link_that_is_cut_anywhere(project: Project, proxy: Proxy, seed: int) -> None:
    rng = random.Random(f"link {seed}")
    mixed.write(project)
    env = {"DATABASE_URL": project.cluster.url(project.database, port=proxy.port)}
    process = mixed.start(project, env)
    for _ in range(rng.randint(1, 2)):
        side, after = rng.choice(["up", "down"]), int(10 ** rng.uniform(0, 4.6))
        proxy.reset_counters()
        proxy.cut_after(**{side: after})
        while process.poll() is None and getattr(proxy, f"bytes_{side}") < after:
            time.sleep(0.002)
        time.sleep(rng.choice([0, 0.1]))
        proxy.resume()
    said = mixed.ended(process)
    assert "Traceback" not in said, said
    if process.returncode:  # cut while it connected, which is not repeated for ever
        assert "annot connect" in said
    mixed.next_run_completes(project, env)


@pytest.mark.parametrize("worker", ["idle", "busy"])
def test_a_link_that_swallows_packets_is_noticed_and_made_again(
    project: Project, worker: str
) -> None:
    """Neither end is told. The server has to notice too, or the lost guard keeps its lock."""
    mixed.write(project)
    slow = "SELECT pg_sleep(4);" if worker == "busy" else ""
    project.write("04_insert.sql", f"INSERT INTO counts VALUES (400), (401);\n{slow}")
    with Proxy("127.0.0.1", project.cluster.port) as link:
        url = project.cluster.url(project.database, port=link.port)
        quick = "tcp_user_timeout=2000&keepalives_idle=1&keepalives_interval=1&keepalives_count=2"
        process = mixed.start(project, {"DATABASE_URL": f"{url}?{quick}"})
        if worker == "busy":
            wait_for(running(project, "pg_sleep(4)"))
        else:
            wait_for(lambda: len(mixed.applications(project)) == 2)
        link.swallow()
        said = mixed.ended(process)
    assert process.returncode == 0, said
    mixed.complete(project)


# 5. A statement that is repeated


@pytest.mark.rounds(25)
def test_batches_that_are_cut_off_anywhere(project: Project, proxy: Proxy, seed: int) -> None:
    """Four blows a round. At each moment as many rows are done as the progress says, each once."""
    rng = random.Random(f"batches {seed}")
    batches.table(project, 3000)
    repeat = f"{batches.HEAD}-- migrate: repeat until 0 rows, pause {rng.choice([0, 5, 20])}ms\n"
    project.write("001_a.sql", repeat + batches.FILL.format(rng.randint(5, 15)))
    env = {"DATABASE_URL": project.cluster.url(project.database, port=proxy.port)}
    terminate = _WORKERS.format(function="pg_terminate_backend").encode()
    for _ in range(4):
        process = mixed.start(project, env)
        if rng.random() < 0.8 and process.stdout is not None:
            while (line := process.stdout.readline()) and " rows  " not in line:
                pass
        time.sleep(rng.uniform(0, 0.4))
        blow = rng.choice(["kill", "kill", "terminate", "cut"])
        if blow == "terminate":
            with project.cluster.connect() as conn:
                conn.execute(terminate, [project.database, False])
        elif blow == "cut":
            proxy.reset_counters()
            proxy.cut_after(**{rng.choice(["up", "down"]): rng.randint(0, 4000)})
            time.sleep(rng.uniform(0, 0.3))
            proxy.resume()
        time.sleep(rng.uniform(0, 0.2))
        process.kill()
        said = mixed.ended(process)
        assert "Traceback" not in said, said
        batches.agree(project)
    done = project.invoke("db.migrate-run", timeout=120)
    assert done.returncode == 0, done.output
    assert batches.each_once(project)
    assert project.executed() == ["001_a.sql"]


# 6. What the server runs out of


@contextlib.contextmanager
def small_disk(cluster: Cluster) -> Iterator[tuple[Path, str]]:
    """Yield a folder for a tablespace that is soon full, and what the server says then.

    A small file system; where mounting is refused, a limit on the size of files.
    """
    folder = temporary_folder()
    place = folder / "small"
    place.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", str(place)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    os.chown(place, cluster.who.uid, cluster.who.gid)
    pid = int((cluster.data / "postmaster.pid").read_text().split("\n")[0])
    if not mounted:  # more than a WAL segment, which is made larger than any table here
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (17 << 20, resource.RLIM_INFINITY))
    try:
        yield place, "No space left on device (53100)" if mounted else "could not extend file"
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        else:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        shutil.rmtree(folder)


def test_a_full_disk_rolls_the_file_back(project: Project, own_cluster: MakeCluster) -> None:
    cluster = own_cluster()
    there = Project.at(project, cluster)
    mixed.write(there)
    fill = "CREATE TABLE filler TABLESPACE small AS\nSELECT repeat('x', 900) AS x\nFROM "
    with small_disk(cluster) as (place, said):
        with cluster.connect() as conn:
            conn.execute(f"CREATE TABLESPACE small LOCATION '{place}'".encode())
        there.write(
            "06_insert.sql", f"{mixed.text('06_insert.sql')}{fill}generate_series(1, 50000)"
        )
        done = there.invoke("db.migrate-run")
        assert done.returncode == 1
        assert said in done.stderr
        assert "06_insert.sql:" in done.stderr
        assert "Rolled back. 05_insert.sql is the last executed file" in done.stderr
        assert len(mixed.agree(there)) == 5
        there.write("06_insert.sql", f"{mixed.text('06_insert.sql')}{fill}generate_series(1, 50)")
        mixed.next_run_completes(there)
        cluster.crash()


def test_no_free_connection_is_waited_for_and_one_is_enough(
    project: Project, own_cluster: MakeCluster
) -> None:
    limits = {"max_connections": "4", "superuser_reserved_connections": "0"}
    cluster = own_cluster(options=limits)
    there = Project.at(project, cluster)
    mixed.write(there)
    with contextlib.ExitStack() as others:
        for _ in range(4):
            others.enter_context(cluster.connect())
        full = there.invoke("db.migrate-run", env={"MIGRATIONS_CONNECT_TIMEOUT": "1s"})
        assert full.returncode == 2
        assert "waited" in full.stderr
        assert "too many clients" in full.stderr or "connection slots" in full.stderr
    with contextlib.ExitStack() as others:

        def one_more() -> bool:
            with contextlib.suppress(psycopg.OperationalError):  # the last four may not be gone yet
                others.enter_context(cluster.connect())
                return True
            return False

        for _ in range(3):
            wait_for(one_more)
        process = mixed.start(there)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
        assert "no second connection" in out
    mixed.complete(there)


def test_no_free_lock_rolls_the_file_back(project: Project, own_cluster: MakeCluster) -> None:
    limits = {"max_locks_per_transaction": "10", "max_connections": "10"}
    there = Project.at(project, own_cluster(options=limits))
    mixed.write(there)
    loop = "FOR n IN 1..{} LOOP EXECUTE format('CREATE TABLE many_%s ()', n); END LOOP;"
    many = f"{mixed.text('08_insert.sql')}DO $$ BEGIN {loop} END $$;"
    there.write("08_insert.sql", many.format(20_000))
    done = there.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "(53200)" in done.stderr
    assert "max_locks_per_transaction" in done.stderr
    assert len(mixed.agree(there)) == 7
    there.write("08_insert.sql", many.format(5))
    mixed.next_run_completes(there)


@pytest.mark.parametrize("name", ["05_insert.sql", "07_unique.sql"])
@pytest.mark.parametrize("fault", ["timeout", "memory"])
def test_a_statement_that_times_out_or_runs_out_of_memory(
    project: Project, name: str, fault: str
) -> None:
    mixed.write(project)
    with project.cluster.connect(project.database) as conn:
        conn.execute(f"ALTER DATABASE {project.database} SET statement_timeout = '500ms'".encode())
        conn.execute(
            "CREATE FUNCTION fail() RETURNS void LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'out of memory' USING ERRCODE = '53200'; END $$"
        )
    statement = {"timeout": "SELECT pg_sleep(60);", "memory": "SELECT fail();"}[fault]
    project.write(name, f"{mixed.text(name)}{statement}\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert {"timeout": "(57014)", "memory": "(53200)"}[fault] in done.stderr
    assert f"{name}:" in done.stderr
    assert len(mixed.agree(project)) == int(name[:2]) - 1
    if fault == "timeout":
        head, _, rest = mixed.text(name).partition("\n")
        longer = "-- migrate: statement-timeout=1min\n"
        text = f"{head}\n{longer}{rest}" if head.startswith("--") else f"{longer}{head}\n{rest}"
        project.write(name, f"{text}SELECT pg_sleep(0.6);\n")
    else:
        project.write(name, mixed.text(name))
    mixed.next_run_completes(project)


# 7. The ledger


@pytest.mark.parametrize("mode", ["ACCESS EXCLUSIVE", "SHARE"])
def test_a_ledger_that_somebody_else_has_locked_is_waited_for_aloud(
    project: Project, mode: str
) -> None:
    mixed.write(project)
    assert project.invoke("db.migrate-single", "01_counts.sql").returncode == 0
    with project.cluster.connect(project.database, autocommit=False) as other:
        other.execute(f"LOCK TABLE migrations IN {mode} MODE".encode())
        pid = other.info.backend_pid
        process = mixed.start(project)
        mixed.wait_for_line(process, "the ledger, which another", f"blocked by pid {pid}")
        other.rollback()
    rest = mixed.ended(process)
    assert process.returncode == 0, rest
    mixed.complete(project)


@pytest.mark.parametrize(
    "command", ["db.status", "db.plan", "db.dump --force", "db.baseline --yes"]
)
def test_a_ledger_that_somebody_else_has_locked_is_not_looked_at(
    project: Project, command: str
) -> None:
    mixed.write(project)
    assert project.invoke("db.migrate-single", "01_counts.sql").returncode == 0
    with project.cluster.connect(project.database, autocommit=False) as other:
        other.execute("LOCK TABLE migrations IN ACCESS EXCLUSIVE MODE")
        done = project.invoke(*command.split())
    assert done.returncode == 2
    assert "lock timeout (55P03)" in done.stderr
    assert "Another session has locked the ledger" in done.stderr


@contextlib.contextmanager
def another_run(project: Project) -> Iterator[None]:
    """Be another run, whose turn it is."""
    target = Target(from_values({}, project.url).parameters, 30)
    guard = Guard(target, ("migrations:public.migrations",))
    assert guard.lock()
    try:
        yield
    finally:
        guard.close()


def harmless(project: Project, count: int) -> list[str]:
    """Write files that may run any number of times, and count how often they did."""
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE runs (n int)")
    names = [f"{n:02}_run.sql" for n in range(1, count + 1)]
    for n, name in enumerate(names, 1):
        head = "-- migrate: no-transaction\n" if n == 3 else ""
        project.write(name, f"{head}INSERT INTO runs VALUES ({n});\n")
    return names


def ran(project: Project) -> object:
    return scalar(project, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM runs")


def test_a_ledger_dropped_between_plan_and_run_is_made_again(project: Project) -> None:
    names = harmless(project, 4)
    assert project.invoke("db.migrate-single", names[0]).returncode == 0
    with another_run(project):
        process = mixed.start(project)
        mixed.wait_for_line(process, "another run")
        with project.cluster.connect(project.database) as conn:
            conn.execute("DROP TABLE migrations")
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert project.executed() == names
    assert ran(project) == "1 1 2 3 4"  # nothing said any more that the first had run


def test_a_ledger_dropped_while_a_file_runs_is_an_error_and_not_a_second_run(
    project: Project,
) -> None:
    """The drop waits for the file that is under way; what comes after has no ledger to be in."""
    names = harmless(project, 4)
    project.write(names[1], "INSERT INTO runs VALUES (2);\nSELECT pg_sleep(1.5);\n")
    process = mixed.start(project)
    wait_for(running(project, "pg_sleep"))
    with project.cluster.connect(project.database) as conn:
        conn.execute("DROP TABLE IF EXISTS migrations, migrations_unfinished")
    said = mixed.ended(process)
    assert "Traceback" not in said, said
    if process.returncode:
        assert process.returncode in (1, 2)
        assert "migrations" in said
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert project.executed() == names


def test_a_row_deleted_by_hand_makes_that_file_run_again(project: Project) -> None:
    names = harmless(project, 4)
    assert project.invoke("db.migrate-run").returncode == 0
    with project.cluster.connect(project.database) as conn:
        conn.execute("DELETE FROM migrations WHERE filename IN (%s, %s)", [names[1], names[2]])
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert ran(project) == "1 2 2 3 3 4"
    assert sorted(project.executed()) == names


# 7. The folder


@pytest.mark.parametrize("change", ["edited", "removed", "added"])
def test_a_folder_that_changes_while_the_run_goes_on(project: Project, change: str) -> None:
    """What was planned is what runs, or it does not run. 03 is not read before 02 is finished."""
    names = harmless(project, 4)
    project.write(
        names[1],
        "-- migrate: no-transaction\nINSERT INTO runs VALUES (2);\nSELECT pg_sleep(1.5);\n",
    )
    process = mixed.start(project)
    wait_for(running(project, "pg_sleep"))
    path, text = project.migrations / names[3], "INSERT INTO runs VALUES (40);\n"
    if change == "edited":
        path.write_text(text)
    elif change == "removed":
        path.unlink()
    else:
        names.append(project.write("05_run.sql", "INSERT INTO runs VALUES (5);\n").name)
    said = mixed.ended(process)
    if change == "added":
        assert process.returncode == 0, said
        assert project.executed() == names[:4]
    else:
        assert process.returncode == 2, said
        assert f"migrations/{names[3]}" in said
        assert "not executed" in said
        assert project.executed() == names[:3]
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    left = names[:3] if change == "removed" else names
    assert project.executed() == left
    assert ran(project) == {"edited": "1 2 3 40", "removed": "1 2 3", "added": "1 2 3 4 5"}[change]


# 8. A fleet


@pytest.mark.rounds(20)
def test_a_fleet_that_is_killed_anywhere(project: Project, seed: int) -> None:
    """Each of thirty targets has each file exactly once: the counts are what its ledger says."""
    rng = random.Random(f"fleet {seed}")
    schemas = [f"tenant_{n:02}" for n in range(30)]
    with project.cluster.connect(project.database) as conn:
        for schema in schemas:
            conn.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.counts (n int)".encode())
    files = [project.write(f"{n:03}_a.sql", f"INSERT INTO counts VALUES ({n});\n") for n in (1, 2)]
    text = "-- migrate: no-transaction\nINSERT INTO counts VALUES (3);\nVACUUM counts;\n"
    files.append(project.write("003_a.sql", text))
    left = [file.name for file in files]
    for blow in (signal.SIGKILL, rng.choice([signal.SIGKILL, signal.SIGTERM])):
        process = project.popen(
            "db.fleet", "--schemas", "tenant_%", "--json", env={"PYTHONWARNINGS": ""}
        )
        assert process.stdout is not None
        for _ in range(rng.randint(0, 25)):
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        os.kill(process.pid, blow)
        said = mixed.ended(process)
        assert "Traceback" not in said, said
    done = project.invoke("db.fleet", "--schemas", "tenant_%", "--json", timeout=120)
    assert done.returncode == 0, done.output
    with project.cluster.connect(project.database) as conn:
        for schema in schemas:
            query = f"SELECT array_agg(filename::text ORDER BY id) FROM {schema}.migrations"
            assert conn.execute(query.encode()).fetchone() == (left,), schema
            query = f"SELECT array_agg(n ORDER BY n) FROM {schema}.counts"
            assert conn.execute(query.encode()).fetchone() == ([1, 2, 3],), schema

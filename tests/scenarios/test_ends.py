"""Sessions that end, servers that crash or fail over, and what is said about it."""

from __future__ import annotations

import json
import subprocess
import sys

import psycopg
import pytest

from tests.conftest import MakeCluster, Project
from tests.scenarios.test_engine import agree, many, running, scalar, wait_for

_ENDS_ITSELF = "SELECT pg_terminate_backend(pg_backend_pid());"
# A crash without a compiler: the process that executes this gets SIGSEGV.
_CRASHES = "COPY (SELECT pg_backend_pid()) TO PROGRAM 'read pid; kill -SEGV $pid; sleep 1';"


@pytest.fixture
def own(project: Project, own_cluster: MakeCluster) -> Project:
    """The project on a server of its own."""
    return Project.at(project, own_cluster())


def accepts(project: Project) -> bool:
    """Return whether the server takes connections, which it does not while it recovers."""
    try:
        project.cluster.connect().close()
    except psycopg.OperationalError:
        return False
    return True


def attempts(project: Project) -> int:
    """Return how often a file got as far as its sequence's next value, which is not rolled back."""
    value = scalar(project, "SELECT last_value FROM attempts")
    return int(str(value))


def write_with(project: Project, statement: str, head: str = "") -> None:
    """Write three files, the second with that statement in its fifth line."""
    project.write("001_t1.sql", "CREATE TABLE t1 (id int);\nCREATE SEQUENCE attempts START 100;\n")
    project.write(
        "002_t2.sql",
        f"{head}CREATE TABLE t2 (id int);\n\nSELECT nextval('attempts');\n{statement}\n",
    )
    project.write("003_t3.sql", "CREATE TABLE t3 (id int);\n")


def test_a_statement_that_ends_its_session_is_named_and_not_sent_a_third_time(
    project: Project,
) -> None:
    write_with(project, _ENDS_ITSELF)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "migrations/002_t2.sql:4:1" in done.output
    assert "terminating connection due to administrator command (57P01)" in done.output
    assert "Rolled back. 001_t1.sql is the last executed file, 2 files still pending" in done.output
    assert project.executed() == ["001_t1.sql"]
    assert attempts(project) == 101
    agree(project)


def test_a_statement_outside_a_transaction_that_ends_its_session_is_named(
    project: Project,
) -> None:
    write_with(project, f"VACUUM t1;\n{_ENDS_ITSELF}", "-- migrate: no-transaction\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "migrations/002_t2.sql:6:1" in done.output
    assert "(57P01)" in done.output
    assert project.executed() == ["001_t1.sql"]
    assert attempts(project) == 100


@pytest.mark.parametrize("outside", [False, True], ids=["in a transaction", "outside of one"])
def test_a_transaction_timeout_is_named_the_first_time(project: Project, outside: bool) -> None:
    if not scalar(project, "SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'"):
        return  # it came with PostgreSQL 17
    head = "-- migrate: no-transaction\n" if outside else ""
    write_with(project, "SET transaction_timeout = '200ms';\nSELECT pg_sleep(30);", head)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert f"migrations/002_t2.sql:{6 if outside else 5}:1" in done.output
    assert "transaction timeout (25P04)" in done.output
    assert "SET LOCAL transaction_timeout = 0;" in done.output
    assert attempts(project) == 100
    assert project.executed() == ["001_t1.sql"]


def test_a_session_that_ends_because_it_is_idle_in_its_transaction_is_named(
    project: Project,
) -> None:
    """The data of a COPY is waited for; the time counts only between two statements."""
    project.write(
        "001_t1.sql",
        "SET idle_in_transaction_session_timeout = 1;\nCREATE TABLE t1 (id int);\n"
        "COPY t1 FROM stdin;\n1\n\\.\n",
    )
    done = project.invoke("db.migrate-run")
    if done.returncode:  # quick enough, and it is not idle for that long
        assert "idle-in-transaction timeout (25P03)" in done.output
    agree(project)


@pytest.mark.parametrize("outside", [False, True], ids=["in a transaction", "outside of one"])
def test_a_statement_that_crashes_the_server_is_named_and_not_sent_a_third_time(
    own: Project, outside: bool
) -> None:
    head = "-- migrate: no-transaction\n" if outside else ""
    write_with(own, _CRASHES, head)
    done = own.invoke("db.migrate-run")
    assert done.returncode == 1
    assert f"migrations/002_t2.sql:{5 if outside else 4}:1" in done.output
    assert "the server crashed at this, twice" in done.output
    assert "The server's log has the reason" in done.output
    assert own.executed() == ["001_t1.sql"]
    log = own.cluster.log.read_text()
    assert log.count("was terminated by signal 11") == 2, log
    assert (scalar(own, "SELECT to_regclass('t2')") is not None) == outside


def test_a_session_that_another_one_crashes_is_no_fault_of_its_file(own: Project) -> None:
    own.write("001_t1.sql", "CREATE TABLE t1 (id int);\nSELECT pg_sleep(1.5);\n")
    process = own.popen("db.migrate-run")
    for _ in range(2):
        wait_for(lambda: accepts(own) and running(own, "pg_sleep")())
        with own.cluster.connect() as conn, pytest.raises(psycopg.OperationalError):
            conn.execute(_CRASHES.encode())
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, output + errors
    assert own.executed() == ["001_t1.sql"]


def test_the_rows_of_a_select_do_not_become_memory(project: Project) -> None:
    project.write("001_t1.sql", "SELECT repeat('x', 1000) FROM generate_series(1, 300000);\n")
    project.write(
        "002_t2.sql",
        "-- migrate: no-transaction\nVACUUM;\n"
        "SELECT repeat('x', 1000) FROM generate_series(1, 300000);\n",
    )
    assert peak_mb(project) < 120


def peak_mb(project: Project) -> int:
    """Run the migrations in a process of its own, and return the most memory that it had."""
    # VmHWM, not ru_maxrss: that one remembers the process which started this one.
    code = (
        f"import re, db; db.migrate({project.url!r}, {str(project.migrations)!r}); "
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_a_file_that_a_crash_of_the_server_takes_along_is_said_and_counted_once(
    own: Project,
) -> None:
    with own.cluster.connect() as conn:
        conn.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")  # or it is on disk by then
        conn.execute("SELECT pg_reload_conf()")
    for n in range(1, 6):
        own.write(f"00{n}_t{n}.sql", f"CREATE TABLE t{n} (id int);\n")
    own.write("006_t6.sql", "CREATE TABLE t6 (id int);\nSELECT pg_sleep(2);\n")
    process = own.popen("db.migrate-run")
    wait_for(running(own, "pg_sleep"))
    with own.cluster.connect() as conn, pytest.raises(psycopg.OperationalError):
        conn.execute(_CRASHES.encode())
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 0, said
    assert "was lost when the server went down, and runs again" in said
    assert "6 files executed" in said
    assert len(own.executed()) == 6
    agree(own)


def test_what_other_runs_execute_is_not_counted(own: Project) -> None:
    """Three runs that do not take turns, while their sessions are ended again and again."""
    names = many(own, 60)
    runs = [own.popen("db.migrate-run", "--json", env={"MIGRATIONS_GUARD": "off"}) for _ in "123"]
    ended = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        " AND application_name LIKE 'migrations %' AND query LIKE 'CREATE INDEX%' LIMIT 1"
    )
    with own.cluster.connect() as conn:
        for _ in range(6):
            wait_for(
                lambda: (
                    all(run.poll() is not None for run in runs)
                    or conn.execute(ended).fetchone() is not None
                )
            )
    counted = []
    for run in runs:
        output, errors = run.communicate(timeout=120)
        assert run.returncode == 0, output + errors
        last = [json.loads(line) for line in output.splitlines()][-1]
        counted += last["executed"]
    assert sorted(counted) == names == own.executed()

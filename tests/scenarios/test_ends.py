"""Sessions that end, servers that crash or fail over, and what is said about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

import db
from db.errors import ConnectionFailed, StatementFailed
from tests.conftest import MakeCluster, MakePgpool, Project
from tests.proxy import Proxy
from tests.scenarios import mixed
from tests.scenarios import test_batches as batches
from tests.scenarios.test_engine import agree, many, running, scalar, wait_for
from tests.scenarios.test_everyday import NODE_LEDGER
from tests.scenarios.test_moments import in_the_way
from tests.servers import (
    DEPLOY,
    SUPERUSER,
    PgBouncer,
    Standby,
)

_ENDS_ITSELF = "SELECT pg_terminate_backend(pg_backend_pid());"
# A crash without a compiler: the process that executes this gets SIGSEGV.
_CRASHES = "COPY (SELECT pg_backend_pid()) TO PROGRAM 'read pid; kill -SEGV $pid; sleep 1';"


@pytest.fixture
def own(project: Project, own_cluster: MakeCluster) -> Project:
    """The project on a server of its own."""
    return Project.at(project, own_cluster())


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
    known = scalar(project, "SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'")
    head = "-- migrate: no-transaction\n" if outside else ""
    write_with(project, "SET transaction_timeout = '200ms';\nSELECT pg_sleep(30);", head)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    if known:
        assert f"migrations/002_t2.sql:{6 if outside else 5}:1" in done.output
        assert "transaction timeout (25P04)" in done.output
        assert ("SET LOCAL transaction_timeout = 0;" in done.output) != outside
    else:  # before PostgreSQL 17
        assert f"migrations/002_t2.sql:{5 if outside else 4}:" in done.output
        assert '"transaction_timeout" (42704)' in done.output
    assert attempts(project) == 100
    assert project.executed() == ["001_t1.sql"]


def test_what_a_statement_outside_a_transaction_does_about_its_timeout(project: Project) -> None:
    if not scalar(project, "SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'"):
        pytest.skip("since PostgreSQL 17")
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE t (id int)")
        conn.execute(f"ALTER DATABASE {project.database} SET transaction_timeout = '1s'".encode())
    head = "-- migrate: no-transaction\n"
    project.write("001_a.sql", f"{head}SELECT 1;\nCREATE INDEX CONCURRENTLY i ON t (id);\n")
    with in_the_way(project, "SET transaction_timeout = 0", "INSERT INTO t VALUES (1)") as other:
        done = project.invoke("db.migrate-run")
        assert done.returncode == 1, done.output
        assert "begin the command with: PGOPTIONS='-c transaction_timeout=0'" in done.stderr
        process = project.popen("db.migrate-run", env={"PGOPTIONS": "-c transaction_timeout=0"})
        wait_for(running(project, "INDEX CONCURRENTLY"))  # the INVALID one is dropped first
        time.sleep(1.5)
        other.rollback()
    said = mixed.ended(process)
    assert process.returncode == 0, said


def test_a_session_that_ends_because_it_is_idle_in_its_transaction_is_named(
    project: Project, proxy: Proxy
) -> None:
    """A COPY is sent when all before it is answered: so long its transaction is idle."""
    project.write("001_t1.sql", "CREATE TABLE t1 (id int);\n")
    project.write(
        "002_t2.sql",
        "SET idle_in_transaction_session_timeout = '20ms';\nCREATE TABLE t2 (id int);\n"
        "COPY t2 FROM stdin;\n1\n\\.\n",
    )
    proxy.latency_s = 0.1
    url = project.cluster.url(project.database, port=proxy.port)
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert done.returncode == 1, done.output
    assert "migrations/002_t2.sql:3:1" in done.output
    assert "idle-in-transaction timeout (25P03)" in done.output
    assert project.executed() == ["001_t1.sql"]
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
    before: list[object] = [None]
    for _ in range(2):
        wait_for(lambda: sleeping(own) not in before)
        before.append(sleeping(own))
        with own.cluster.connect() as conn, pytest.raises(psycopg.OperationalError):
            conn.execute(_CRASHES.encode())
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, output + errors
    assert own.executed() == ["001_t1.sql"]


def sleeping(project: Project) -> object:
    """Return the process that sleeps; None, also while the server goes down and recovers."""
    active = "SELECT pid FROM pg_stat_activity WHERE state = 'active'"
    try:
        return scalar(project, f"{active} AND query LIKE 'SELECT pg_sleep%'")
    except psycopg.OperationalError:
        return None


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
        query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
        row = conn.execute(query).fetchone()
    assert row is not None
    os.kill(row[0], signal.SIGSTOP)  # or all is on disk by then
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


@pytest.fixture
def standby(own: Project) -> Iterator[Standby]:
    made = Standby(own.cluster)
    yield made
    made.remove()


def pair(own: Project, standby: Standby, order: str, more: str = "") -> str:
    """Return the URL of both, in that order."""
    there = [(own.cluster.host, own.cluster.port), (standby.host, standby.port)]
    if order == "standby first":
        there.reverse()
    hosts, ports = ",".join(h for h, _ in there), ",".join(str(p) for _, p in there)
    return f"host={hosts} port={ports} user={SUPERUSER} dbname={own.database} {more}"


@pytest.mark.parametrize("order", ["primary first", "standby first"])
def test_a_standby_that_is_not_promoted_yet_is_waited_for(
    own: Project, standby: Standby, order: str
) -> None:
    own.write("001_t1.sql", "CREATE TABLE t1 (id int);\n")
    own.cluster.crash()
    url = pair(own, standby, order, "target_session_attrs=read-write")
    process = own.popen("db.migrate-run", env={"DATABASE_URL": url})
    time.sleep(2.5)
    assert process.poll() is None
    standby.promote()
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 0, said
    assert "001_t1.sql  executed" in said
    own.cluster.start()


@pytest.mark.parametrize("demanded", [True, False], ids=["demanded", "not demanded"])
def test_a_failover_in_the_middle_of_a_run_is_waited_for(
    own: Project, standby: Standby, demanded: bool
) -> None:
    with own.cluster.connect() as conn:  # what the standby has not received is gone
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        conn.execute("SELECT pg_reload_conf()")
    own.write("001_t1.sql", "CREATE TABLE t1 (id int);\n")
    own.write("002_t2.sql", "CREATE TABLE t2 (id int);\nSELECT pg_sleep(3);\n")
    own.write("003_t3.sql", "CREATE TABLE t3 (id int);\n")
    more = "target_session_attrs=read-write" if demanded else ""
    url = pair(own, standby, "primary first", more)
    process = own.popen("db.migrate-run", env={"DATABASE_URL": url, "MIGRATIONS_SYNC": "each"})
    wait_for(running(own, "pg_sleep"))
    own.cluster.crash()
    time.sleep(2.5)
    assert process.poll() is None
    with psycopg.connect(standby.url("postgres"), autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        conn.execute("SELECT pg_reload_conf()")
    standby.promote()
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 0, said
    with psycopg.connect(standby.url(own.database)) as conn:
        rows = conn.execute("SELECT filename FROM migrations ORDER BY id").fetchall()
    assert [name for (name,) in rows] == ["001_t1.sql", "002_t2.sql", "003_t3.sql"]
    own.cluster.start()


def test_a_standby_is_read_as_its_primary_is(own: Project, standby: Standby) -> None:
    own.write_schema("")
    own.write("001_t.sql", "CREATE TABLE t (id int, s varchar(9) CHECK (s IN ('a', 'b')));")
    assert own.invoke("db.migrate").returncode == 0
    with own.cluster.connect(own.database) as conn:
        conn.execute("INSERT INTO t SELECT n FROM generate_series(1, 50000) n; ANALYZE t")
        conn.execute("CREATE TABLE by_hand (); ALTER TABLE t DROP CONSTRAINT t_s_check")
        conn.execute("ALTER TABLE t ADD CONSTRAINT t_s_check CHECK (s IN ('a'))")
        (sent,) = conn.execute("SELECT pg_current_wal_lsn()").fetchone() or ()
    with psycopg.connect(standby.url(own.database), autocommit=True) as conn:
        behind = "SELECT FROM pg_last_wal_replay_lsn() AS at WHERE at < %s"
        deadline = time.monotonic() + 60
        while conn.execute(behind, [sent]).fetchall():
            assert time.monotonic() < deadline
    own.write("002_t.sql", "UPDATE t SET s = 'a';\nALTER TABLE t ALTER s SET NOT NULL;\n")
    env = {"DATABASE_URL": standby.url(own.database)}
    drift = own.invoke("db.drift", env=env)
    assert drift.returncode == 3, drift.output
    assert "TABLE public.by_hand  unexpected" in drift.stdout
    assert "2 objects differ" in drift.stderr
    done = own.invoke("db.rehearse", env=env)
    assert done.returncode == 0, done.output
    assert "50.0 k rows" in done.stdout
    assert "1 of 1 file would stop the application" in done.stdout


def test_batches_wait_for_a_replica_that_is_behind(own: Project, standby: Standby) -> None:
    """Also where a role may not see it: that is said once. A slot without a reader is named."""
    batches.table(own, 90)
    with own.cluster.connect() as conn:
        conn.execute("SELECT pg_create_physical_replication_slot('unread', true)")
    with psycopg.connect(standby.url("postgres"), autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET recovery_min_apply_delay = '1h'")
        conn.execute("SELECT pg_reload_conf()")
    repeat = "-- migrate: repeat until 0 rows, pause 100ms, max-lag 500ms\n"
    own.write("001_a.sql", f"{batches.HEAD}{repeat}{batches.FILL.format(3)}")
    process = own.popen("db.migrate-run", "--json", env={"PYTHONUNBUFFERED": "1"})
    mixed.wait_for_line(process, "s behind, and may be 0.5 s")
    assert batches.progress(own) < [(0, 90, 30)]
    with psycopg.connect(standby.url("postgres"), autocommit=True) as conn:
        conn.execute("ALTER SYSTEM RESET recovery_min_apply_delay")
        conn.execute("SELECT pg_reload_conf()")
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert batches.each_once(own)
    with own.cluster.connect(own.database) as conn:
        conn.execute(f"GRANT ALL ON DATABASE {own.database} TO {DEPLOY}".encode())
        conn.execute(f"GRANT ALL ON SCHEMA public TO {DEPLOY}".encode())
        conn.execute(f"ALTER TABLE t OWNER TO {DEPLOY}".encode())
        conn.execute(f"ALTER TABLE migrations OWNER TO {DEPLOY}".encode())
        conn.execute(f"ALTER TABLE migrations_unfinished OWNER TO {DEPLOY}".encode())
    again = batches.FILL.format(50).replace("v = 1", "v = 2").replace("NULL", "DISTINCT FROM 2")
    own.write("002_b.sql", f"{batches.HEAD}{repeat}{again}")
    url = own.cluster.url(own.database, role=DEPLOY)
    done = own.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert done.returncode == 0, done.output
    assert done.stdout.count("how far replicas are behind is hidden from this role") == 1
    assert "nobody reads the replication slot unread" in done.stdout


def test_a_commit_that_waits_for_a_standby_says_so_and_can_be_interrupted(own: Project) -> None:
    own.write("001_t1.sql", "CREATE TABLE t1 (id int);\n")
    own.write("002_t2.sql", "CREATE TABLE t2 (id int);\n")
    with own.cluster.connect() as conn:
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        conn.execute("SELECT pg_reload_conf()")
    process = own.popen("db.migrate-run")
    assert process.stdout and process.stderr
    for line in process.stdout:
        if "waiting for a synchronous standby to confirm the commit (nobody)" in line:
            break
    else:
        pytest.fail(process.stderr.read())
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    said = "".join(process.communicate(timeout=60))
    assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert "Executed: 001_t1.sql, 002_t2.sql. Not executed: nothing." in said
    assert "002_t2.sql: committed on this server; no synchronous standby (nobody) has" in said
    assert "rolled back" not in said
    agree(own)


@pytest.mark.parametrize("what", ["adopted", "mended"])
def test_a_ledger_that_is_put_right_waits_for_no_standby(own: Project, what: str) -> None:
    """The first file does, and says so."""
    own.write("001_t1.sql", "CREATE TABLE t1 (id int);\n")
    own.write("002_t2.sql", "CREATE TABLE t2 (id int);\n")
    if what == "mended":
        assert own.invoke("db.migrate-run").returncode == 0
    with own.cluster.connect(own.database) as conn:
        if what == "adopted":
            conn.execute(NODE_LEDGER.encode())
        else:
            conn.execute("SELECT setval('migrations_id_seq', 1, false)")
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        conn.execute("SELECT pg_reload_conf()")
    own.write("003_t3.sql", "CREATE TABLE t3 (id int);\n")
    process = own.popen("db.migrate-run")
    assert process.stdout and process.stderr
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "waiting for a synchronous standby to confirm the commit (nobody)" in line:
            break
    else:
        pytest.fail(process.stderr.read())
    process.send_signal(signal.SIGINT)
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 130, said
    assert ("had been behind" in "".join(lines)) == (what == "mended")


def test_what_is_written_beside_a_statement_waits_for_no_standby(own: Project) -> None:
    """The record of the file does, which comes last."""
    own.write("001_t1.sql", "CREATE TABLE t1 (id int);\n")
    assert own.invoke("db.migrate-run").returncode == 0
    own.write("002_t2.sql", "-- migrate: no-transaction\nVACUUM t1;\nVACUUM t1;\n")
    with own.cluster.connect() as conn:
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        conn.execute("SELECT pg_reload_conf()")
    process = own.popen("db.migrate-run")
    assert process.stdout and process.stderr
    for line in process.stdout:
        if "waiting for a synchronous standby to confirm the commit (nobody)" in line:
            break
    else:
        pytest.fail(process.stderr.read())
    finished = "SELECT count(finished_at) FROM migrations_unfinished"
    assert scalar(own, finished) == 2
    process.send_signal(signal.SIGINT)
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 130
    assert "002_t2.sql: committed on this server; no synchronous standby (nobody) has" in said
    assert own.executed() == ["001_t1.sql", "002_t2.sql"]


def test_a_signal_that_is_ignored_stays_ignored(project: Project) -> None:
    project.write("001_t1.sql", "CREATE TABLE t1 (id int);\nSELECT pg_sleep(1.5);\n")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = project.popen("db.migrate-run")
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(running(project, "pg_sleep"))
    process.send_signal(signal.SIGHUP)
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 0, said


def test_no_error_remembers_one_that_may_quote_the_password(project: Project) -> None:
    url = "postgresql://postgres:not-it@127.0.0.1:1/x"
    with pytest.raises(ConnectionFailed) as caught:
        db.migrate(url, project.migrations, settings={"MIGRATIONS_CONNECT_TIMEOUT": "0s"})
    assert caught.value.__context__ is None
    project.write("001_t1.sql", "SELECT 1 / 0;\n")
    with pytest.raises(StatementFailed) as failed:
        db.migrate(project.url, project.migrations)
    assert failed.value.__context__ is None


@pytest.mark.parametrize("guard", ["on", "off"], ids=["with the lock", "without it"])
def test_a_pooler_that_pools_statements_is_refused_by_name(own: Project, guard: str) -> None:
    own.write("001_t1.sql", "CREATE TABLE t1 (id int);\n")
    pooler = PgBouncer(own.cluster, pool_mode="statement")
    try:
        url = pooler.url(own.database)
        done = own.invoke("db.migrate-run", env={"DATABASE_URL": url, "MIGRATIONS_GUARD": guard})
    finally:
        pooler.remove()
    assert done.returncode == 2
    assert "This is PgBouncer in statement mode" in done.output
    assert "pool_mode = transaction" in done.output
    assert not own.executed()


@pytest.mark.parametrize("patience", ["120", "2"], ids=["patient", "query_wait_timeout"])
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_pool_of_one_is_said_and_the_run_goes_on(own: Project, mode: str, patience: str) -> None:
    many(own, 5)
    limits = {"query_wait_timeout": patience}
    pooler = PgBouncer(own.cluster, pool_size=1, pool_mode=mode, settings=limits)
    try:
        done = own.invoke("db.migrate-run", env={"DATABASE_URL": pooler.url(own.database)})
    finally:
        pooler.remove()
    assert done.returncode == 0, done.output
    assert "default_pool_size = 3 or more" in " ".join(done.output.split())
    assert len(own.executed()) == 5
    assert done.seconds < 40


@pytest.mark.long
def test_a_pool_that_is_far_away_is_not_taken_for_a_small_one(own: Project) -> None:
    """The second connection takes more than the five seconds."""
    many(own, 2)
    pooler = PgBouncer(own.cluster, pool_mode="session")
    try:
        with Proxy("127.0.0.1", pooler.port, latency_s=0.6) as far:
            url = own.cluster.url(own.database, port=far.port)
            done = own.invoke("db.migrate-run", env={"DATABASE_URL": url})
    finally:
        pooler.remove()
    assert done.returncode == 0, done.output
    assert "default_pool_size" not in done.output
    assert len(own.executed()) == 2


@pytest.mark.parametrize("command", ["db.status", "db.migrate-run"])
def test_a_pool_that_is_taken_is_no_wrong_address(own: Project, command: str) -> None:
    own.write("001_t1.sql", "CREATE TABLE t1 (id int);\n")
    limits = {"query_wait_timeout": "2"}
    pooler = PgBouncer(own.cluster, pool_size=1, settings=limits)
    try:
        with psycopg.connect(pooler.url(own.database)) as conn:
            conn.execute("SELECT 1")
            done = own.invoke(command, env={"DATABASE_URL": pooler.url(own.database)})
    finally:
        pooler.remove()
    assert done.returncode == 2, done.output
    assert "default_pool_size" in done.stderr
    assert "DATABASE_URL" not in done.stderr


@pytest.mark.parametrize(("guard", "size"), [("on", 2), ("off", 1)])
def test_behind_a_pool_no_new_session_is_waited_for(own: Project, guard: str, size: int) -> None:
    """Who waits there may be the run's own connection that looks on: it gets what is given back."""
    setting = f"ALTER DATABASE {own.database} SET work_mem = '5MB';\n"
    own.write("001_t1.sql", f"SELECT pg_sleep(1.5);\n{setting}")
    own.write("002_t2.sql", "CREATE TABLE t2 AS SELECT current_setting('work_mem') AS w;\n")
    pooler = PgBouncer(own.cluster, pool_mode="session", pool_size=size)
    try:
        env = {"DATABASE_URL": pooler.url(own.database), "MIGRATIONS_GUARD": guard}
        done = own.invoke("db.migrate-run", env=env)
    finally:
        pooler.remove()
    assert done.returncode == 0, done.output
    assert len(own.executed()) == 2
    assert done.seconds < 10


@pytest.mark.parametrize("head", ["", "-- migrate: no-transaction\n"], ids=["in one", "outside"])
def test_what_the_limit_of_a_pooler_ends_is_named_by_that_limit(own: Project, head: str) -> None:
    """Nothing crashed, and what still runs on the server is not executed behind our back."""
    own.write("001_t1.sql", f"{head}CREATE TABLE t1 (id int);\nSELECT pg_sleep(3);\n")
    pooler = PgBouncer(own.cluster, settings={"query_timeout": "1"})
    try:
        done = own.invoke("db.migrate-run", env={"DATABASE_URL": pooler.url(own.database)})
    finally:
        pooler.remove()
    assert done.returncode == 1
    said = " ".join(done.output.split())
    assert f"migrations/001_t1.sql:{3 if head else 2}:1: query timeout (08P01)" in said
    assert "The pooler ended it twice, by its query_timeout. Raise that" in said
    assert "crashed" not in said
    assert "another server" not in said
    wait_for(lambda: not running(own, "pg_sleep")())
    assert not own.executed()


def test_why_a_connection_ended_is_said_also_while_much_is_being_sent(own: Project) -> None:
    """libpq reads when it cannot send, and sees the end first."""
    many_bytes = f"SELECT 1 /* {'x' * 100_000} */;\n" * 40
    own.write("001_t1.sql", f"SELECT pg_sleep(2);\n{many_bytes}")
    process = own.popen("db.migrate-run")
    wait_for(running(own, "pg_sleep"))
    pid = scalar(own, "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'")
    os.kill(int(str(pid)), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert "reconnected: server closed the connection unexpectedly" in out
    assert own.executed() == ["001_t1.sql"]


_POOLED_FILES = {
    "001_t1.sql": "CREATE TABLE t1 (id int);\nCOPY t1 FROM stdin;\n1\n2\n\\.\n",
    "002_t2.sql": "CREATE TABLE t2 (id int);\nSELECT generate_series(1, 20000);\n",
    "003_t3.sql": "-- migrate: no-transaction\nCREATE TABLE t3 (id int);\n"
    "CREATE INDEX CONCURRENTLY t3_id ON t3 (id);\n",
}


def test_pgpool_works_where_it_streams(own: Project, pgpool: MakePgpool) -> None:
    for name, text in _POOLED_FILES.items():
        own.write(name, text)
    url = pgpool(own.cluster, "streaming_replication").url(own.database)
    done = own.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert done.returncode == 0, done.output
    agree(own)
    own.write("004_t4.sql", "CREATE TABLE t4 (id int);\nSELECT 1 / 0;\n")
    failed = own.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert failed.returncode == 1
    assert "004_t4.sql:2:1: division by zero (22012)" in failed.output
    agree(own)


@pytest.mark.parametrize("mode", ["raw", "native_replication"])
def test_pgpool_in_another_mode_is_refused_by_name(
    own: Project, pgpool: MakePgpool, mode: str
) -> None:
    for name, text in _POOLED_FILES.items():
        own.write(name, text)
    url = pgpool(own.cluster, mode).url(own.database)
    done = own.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert done.returncode == 2
    assert f"pgpool-II with backend_clustering_mode = '{mode}'" in done.output
    assert not own.executed()


def flushes(project: Project, *files: str) -> list[object]:
    """Run files that note how their commit is going to be, and return what they have noted."""
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE noted (n serial, commit text)")
        conn.execute(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO "
            "noted (commit) VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$"
        )
        conn.execute("CREATE TABLE noting (n int)")
        conn.execute(  # as the last thing before the commit
            "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON noting INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION note()"
        )
    for number, text in enumerate((*files, ""), 1):
        project.write(f"{number:03}_f.sql", f"INSERT INTO noting VALUES (1);\n{text}\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    with project.cluster.connect(project.database) as conn:
        return [row[0] for row in conn.execute("SELECT commit FROM noted ORDER BY n")]


def test_files_wait_for_the_disk_where_they_may_change_another_server(project: Project) -> None:
    """The other one keeps what it was told, whatever a crash takes along here."""
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE FOREIGN DATA WRAPPER other_fdw")
    assert flushes(project, "CREATE TABLE t1 (id int);", "") == ["on", "on", "on"]


@pytest.mark.parametrize(
    "text",
    ["CREATE FOREIGN DATA WRAPPER other_fdw;", "DO $$BEGIN CREATE FOREIGN DATA WRAPPER f; END$$;"],
)
def test_files_wait_for_the_disk_from_the_one_on_that_can_reach_out(
    project: Project, text: str
) -> None:
    made = flushes(project, "CREATE TABLE t1 (id int);", text, "CREATE TABLE t2 (id int);", "")
    assert made == ["off", "on", "on", "on", "on"]


def test_the_settings_of_a_file_stay_on_the_coordinator(project: Project) -> None:
    """Citus sends them to its workers only if told to; its setting stands in for it."""
    with project.cluster.connect() as conn:
        name = sql.Identifier(project.database)
        query = "ALTER DATABASE {} SET citus.propagate_set_commands = 'none'"
        conn.execute(sql.SQL(query).format(name))
    project.write(
        "001_t1.sql",
        "CREATE TABLE t1 AS SELECT current_setting('citus.propagate_set_commands') AS v;\n",
    )
    assert project.invoke("db.migrate-run").returncode == 0
    assert scalar(project, "SELECT v FROM t1") == "local"


def test_a_worker_of_citus_is_refused_by_name(own: Project) -> None:
    """Its catalog stands in for it, which only a superuser can write."""
    own.write("001_t1.sql", "CREATE TABLE t1 (id int);\n")
    with own.cluster.connect(own.database) as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("CREATE TABLE pg_catalog.pg_dist_local_group (groupid int)")
        conn.execute("INSERT INTO pg_catalog.pg_dist_local_group VALUES (2)")
        conn.execute(
            "INSERT INTO pg_extension SELECT 90000, 'citus', extowner, extnamespace, false, '14.0' "
            "FROM pg_extension WHERE extname = 'plpgsql'"
        )
    done = own.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "this is a worker of Citus" in done.output
    assert "coordinator" in done.output
    with own.cluster.connect(own.database) as conn:
        conn.execute("UPDATE pg_catalog.pg_dist_local_group SET groupid = 0")
    assert own.invoke("db.migrate-run").returncode == 0
    agree(own)


def test_a_role_that_may_not_log_in_at_a_worker_is_named(project: Project) -> None:
    project.write(
        "001_t1.sql",
        "DO $$BEGIN RAISE EXCEPTION 'connection to the remote node app@w1:5432 failed' "
        "USING ERRCODE = '08006'; END$$;\n",
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "MIGRATIONS_ROLE" in done.output
    assert "LOGIN" in done.output


def test_the_header_of_a_dump_does_not_switch_the_lock_timeout_off(project: Project) -> None:
    note = "CREATE TABLE {} AS SELECT current_setting('lock_timeout') AS v;\n"
    dumped = "SET statement_timeout = 0;\nSET lock_timeout = 0;\nSET client_encoding = 'UTF8';\n"
    project.write("001_t1.sql", dumped + note.format("t1"))
    project.write("002_t2.sql", "SET lock_timeout = 0;\n" + note.format("t2"))
    assert project.invoke("db.migrate-run").returncode == 0
    assert scalar(project, "SELECT v FROM t1") == "500ms"
    assert scalar(project, "SELECT v FROM t2") == "0"  # which the file wants

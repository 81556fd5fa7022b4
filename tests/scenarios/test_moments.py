"""What a run does in moments that are hard to meet: each is brought about here, and held."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from db.engine.session import Session
from db.errors import LedgerError
from db.server import ours
from db.server.connection import Target
from db.settings import Settings, from_values
from tests.conftest import MakeCluster, Project
from tests.proxy import Proxy
from tests.scenarios import mixed
from tests.scenarios.test_engine import many, running, scalar, valid, wait_for
from tests.scenarios.test_faults import another_run
from tests.servers import PgBouncer

GHOST = "SELECT pg_sleep(600) WHERE nextval('tries') = 1;\n"  # only the first time


def tries(project: Project) -> None:
    """Make a sequence that counts the attempts: it does not roll back."""
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE SEQUENCE tries")


@contextmanager
def in_the_way(project: Project, *statements: str) -> Iterator[psycopg.Connection]:
    """Hold a transaction open in which these were executed; roll it back at the end."""
    with project.cluster.connect(project.database, autocommit=False) as conn:
        for statement in statements:
            conn.execute(statement.encode())
        yield conn
        conn.rollback()


# 1. A link that only one side knows to be lost


def opened(target: Target, settings: Settings) -> Session:
    """Return a session of a server that is there."""
    opening = Session.open(target, settings, create=False)
    with pytest.raises(StopIteration) as done:
        next(opening)
    session: Session = done.value.value
    return session


def test_a_lost_guard_is_ended_also_if_nobody_had_asked_for_it(
    project: Project, proxy: Proxy
) -> None:
    """The server keeps it, and its lock, for which the next session would wait."""
    settings = from_values({}, project.cluster.url(project.database, port=proxy.port))
    target = Target(settings.parameters, 5)
    others = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'migrations %'"
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    sessions = [opened(target, settings) for _ in range(2)]
    for session in sessions:
        session.open_guard((f"the lock of {session.name}", f"the ledger of {session.name}"))
    wait_for(lambda: scalar(project, locks) == 4)
    proxy.abandon()
    for session in sessions:
        session.close()
    again = opened(target, settings)
    assert (scalar(project, others), scalar(project, locks)) == (5, 4)
    again.end(sessions[0])
    wait_for(lambda: (scalar(project, others), scalar(project, locks)) == (3, 2))
    again.close()


def test_a_session_that_the_server_still_keeps_is_ended_and_its_file_runs_again(
    project: Project, proxy: Proxy
) -> None:
    """Its locks, its claim and its guard would be waited for without end."""
    tries(project)
    project.write("001_t.sql", f"CREATE TABLE t1 (id int);\n{GHOST}")
    url = project.cluster.url(project.database, port=proxy.port)
    process = mixed.start(project, {"DATABASE_URL": url})
    wait_for(running(project, "pg_sleep"))
    proxy.abandon()
    said = mixed.ended(process, 60)
    assert process.returncode == 0, said
    assert project.executed() == ["001_t.sql"]
    assert scalar(project, "SELECT last_value FROM tries") == 2
    assert not running(project, "pg_sleep")()


def test_a_commit_whose_answer_was_lost_is_reported_as_executed(
    project: Project, proxy: Proxy
) -> None:
    project.write("001_t.sql", "CREATE TABLE t1 (id int);\nSELECT pg_sleep(1.5);\n")
    url = project.cluster.url(project.database, port=proxy.port)
    process = mixed.start(project, {"DATABASE_URL": url})
    wait_for(running(project, "pg_sleep"))
    proxy.hang()
    wait_for(lambda: project.executed() == ["001_t.sql"])
    proxy.cut()
    proxy.resume()
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert "1 file executed" in said


def test_a_connection_that_is_lost_each_time_is_an_error_in_the_end(
    project: Project, proxy: Proxy
) -> None:
    many(project, 1)
    proxy.cut_before(b"INSERT INTO", times=1_000_000)
    env = {"DATABASE_URL": project.cluster.url(project.database, port=proxy.port)}
    done = project.invoke("db.migrate-run", env=env)
    assert done.returncode == 1, done.output
    assert "lost 4 times" in done.stderr
    assert project.executed() == []


def test_a_connection_that_is_lost_again_while_it_is_made_again_is_an_error_of_ours(
    project: Project, proxy: Proxy
) -> None:
    """It is known by then which statement ends it, and the ledger is about to be read."""
    end = "SELECT pg_sleep(1.5);\nSELECT pg_terminate_backend(pg_backend_pid());\n"
    project.write("001_ends.sql", end)
    url = project.cluster.url(project.database, port=proxy.port)
    process = project.popen("db.migrate-run", env={"DATABASE_URL": url})
    mixed.wait_for_line(process, "reconnected")
    proxy.cut_before(b"pg_catalog.pg_terminate_backend")
    said = mixed.ended(process)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert "001_ends.sql" in said
    assert project.executed() == []


def test_a_connection_that_is_lost_now_and_then_is_made_again_each_time(project: Project) -> None:
    """What got done in between shows that it is worth it."""
    tries(project)
    end = "SELECT pg_terminate_backend(pg_backend_pid()) WHERE nextval('tries') % 2 = 1;\n"
    for n in range(1, 7):
        project.write(f"{n:03}_t{n}.sql", f"CREATE TABLE t{n} (id int);\n{end}")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert len(project.executed()) == 6


def test_a_second_connection_that_breaks_at_once_is_asked_for_again(
    project: Project, proxy: Proxy
) -> None:
    names = many(project, 2)
    proxy.cut_before(b"migrations guard", times=2)
    env = {"DATABASE_URL": project.cluster.url(project.database, port=proxy.port)}
    done = project.invoke("db.migrate-run", env=env)
    assert done.returncode == 0, done.output
    assert "no second connection" not in done.stdout
    assert project.executed() == names


def test_what_a_pooled_connection_holds_does_not_meet_the_first_file(project: Project) -> None:
    pooler = PgBouncer(project.cluster, pool_size=1)
    try:
        with psycopg.connect(pooler.url(project.database), autocommit=True) as other:
            other.execute("SET work_mem = '77MB'")
            other.execute("CREATE TEMP TABLE left_over (id int)")
        project.write(
            "001_a.sql",
            "CREATE TABLE seen AS SELECT current_setting('work_mem') AS w, "
            "to_regclass('left_over') IS NULL AS gone;",
        )
        env = {"DATABASE_URL": pooler.url(project.database), "MIGRATIONS_GUARD": "off"}
        done = project.invoke("db.migrate-run", env=env)
    finally:
        pooler.remove()
    assert done.returncode == 0, done.output
    with project.cluster.connect(project.database) as conn:
        assert conn.execute("SELECT w <> '77MB', gone FROM seen").fetchall() == [(True, True)]


# 2. What was committed without waiting for the disk


@pytest.mark.parametrize("end", ["failure", "interrupt"])
def test_what_was_executed_before_the_end_of_a_run_outlives_a_crash(
    project: Project, own_cluster: MakeCluster, end: str
) -> None:
    """The server's own writer comes too late here: every ten seconds."""
    cluster = own_cluster(options={"wal_writer_delay": "10s"})
    there = Project.at(project, cluster)
    names = many(there, 3)
    there.write("0004_t4.sql", "SELECT 1/0;" if end == "failure" else "SELECT pg_sleep(600);")
    process = there.popen("db.migrate-run")
    if end == "interrupt":
        wait_for(running(there, "pg_sleep"))
        process.send_signal(signal.SIGINT)
    process.wait(60)
    assert process.returncode == (1 if end == "failure" else 130)
    cluster.crash()
    cluster.start()
    assert there.executed() == names


# 3. Other sessions


def test_between_two_attempts_a_file_holds_no_lock_that_outlives_its_transaction(
    project: Project,
) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE hot AS SELECT 1 AS id")
    project.write("001_a.sql", "SELECT pg_advisory_lock(77);\nALTER TABLE hot ADD COLUMN n int;\n")
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77"
    with in_the_way(project, "SELECT * FROM hot"):
        process = mixed.start(project)
        mixed.wait_for_line(process, "waits for a lock")
        wait_for(lambda: scalar(project, held) == 0, 15)
        assert process.poll() is None
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert project.executed() == ["001_a.sql"]


def test_a_deadlock_is_tried_again(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a (n int); CREATE TABLE b (n int)")
    project.write(
        "001_a.sql",
        "-- migrate: lock-timeout=1min\nLOCK TABLE a;\nLOCK TABLE b;\nCREATE TABLE t1 (n int);\n",
    )
    # The other one never looks for deadlocks, so it is the run that gives way.
    with in_the_way(project, "SET deadlock_timeout = '1h'", "LOCK TABLE b") as other:
        process = mixed.start(project)
        wait_for(running(project, "LOCK TABLE b"))
        other.execute("LOCK TABLE a")
        other.rollback()
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert "deadlock" in said
    assert project.executed() == ["001_a.sql"]


def test_a_serialization_failure_is_tried_again(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS n")
    change = "UPDATE a SET n = n + 1"
    project.write("001_a.sql", f"BEGIN ISOLATION LEVEL REPEATABLE READ;\n{change};\nCOMMIT;\n")
    env = {"MIGRATIONS_LOCK_TIMEOUT": "1min"}
    with in_the_way(project, change) as other:
        process = mixed.start(project, env)
        wait_for(running(project, change))
        other.commit()
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert "could not serialize" in said
    assert scalar(project, "SELECT n FROM a") == 3


def test_a_file_that_another_run_executes_is_waited_for_however_long_it_takes(
    project: Project,
) -> None:
    """MIGRATIONS_LOCK_WAIT is for locks of the application. It waits at the file's beginning."""
    tries(project)
    wait = "SELECT pg_advisory_xact_lock(77)"
    project.write("001_a.sql", f"SELECT nextval('tries');\n{wait};\n")
    env = {"MIGRATIONS_GUARD": "off", "MIGRATIONS_LOCK_WAIT": "1s"}
    with in_the_way(project, wait):
        first = mixed.start(project, {**env, "MIGRATIONS_LOCK_TIMEOUT": "2min"})
        wait_for(running(project, wait))
        second = mixed.start(project, env)
        mixed.wait_for_line(second, "another run, which executes 001_a.sql")
        time.sleep(2)
        assert second.poll() is None
        # It is in the middle of an attempt, which is then refused because the file is recorded.
        claims = waiting_for("INSERT INTO%migrations", since="0.1s")
        wait_for(lambda: scalar(project, claims) == 1)
    for run in (first, second):
        said = mixed.ended(run)
        assert run.returncode == 0, said
        assert "duplicate key" not in said
    assert project.executed() == ["001_a.sql"]
    assert scalar(project, "SELECT last_value FROM tries") == 1


def test_a_ledger_that_is_locked_in_the_middle_of_a_run_is_waited_for(project: Project) -> None:
    """Whoever waits for it gets it when a file is committed, before the next one's claim."""
    names = many(project, 3)
    project.write(names[1], "CREATE TABLE t2 (id int);\nSELECT pg_sleep(1);\n")
    process = mixed.start(project)
    wait_for(running(project, "pg_sleep"))
    with in_the_way(project, "LOCK TABLE migrations IN ACCESS EXCLUSIVE MODE"):
        mixed.wait_for_line(process, "waits for a lock")
        time.sleep(1.5)
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert project.executed() == names


def test_what_was_sent_before_a_file_that_has_changed_is_executed_and_reported(
    project: Project,
) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a (id int)")
    names = many(project, 3)
    copy = "COPY a FROM stdin;\n1\n\\.\nCREATE TABLE t2 (id int);\n"  # no file is sent ahead
    project.write(names[1], f"-- migrate: lock-timeout=1min\n{copy}")
    with in_the_way(project, "LOCK TABLE a"):
        process = mixed.start(project)
        wait_for(running(project, "COPY a"))
        project.write(names[2], "SELECT 2;\n")
    said = mixed.ended(process)
    assert process.returncode == 2, said
    assert f"{names[1]}  executed" in said
    assert f"migrations/{names[2]}" in said
    assert project.executed() == names[:2]


def test_where_the_guard_is_off_another_run_keeps_nobody_waiting(project: Project) -> None:
    names = many(project, 2)
    with another_run(project):
        done = project.invoke("db.migrate-run", env={"MIGRATIONS_GUARD": "off"})
    assert done.returncode == 0, done.output
    assert project.executed() == names


def test_a_run_that_waits_for_its_turn_ends_when_nothing_is_left_to_do(project: Project) -> None:
    names = many(project, 2)
    with another_run(project):
        waiting = mixed.start(project)
        mixed.wait_for_line(waiting, "another run")
        done = project.invoke("db.migrate-run", env={"MIGRATIONS_GUARD": "off"})
        assert done.returncode == 0, done.output
        said = mixed.ended(waiting)
        assert waiting.returncode == 0, said
    assert project.executed() == names


def test_a_checksum_that_somebody_else_has_recorded_meanwhile_stays(project: Project) -> None:
    names = many(project, 2)
    with project.cluster.connect(project.database) as conn:
        conn.execute(
            "CREATE TABLE migrations (id serial PRIMARY KEY, filename varchar(255) NOT NULL UNIQUE,"
            " executed_at timestamptz DEFAULT now(), checksum text, duration_ms int,"
            " executed_by text)"
        )
        conn.execute("INSERT INTO migrations (filename) VALUES (%s)", [names[0]])
    theirs = "UPDATE migrations SET checksum = 'theirs'"
    with in_the_way(project, theirs) as other:
        process = mixed.start(project)
        wait_for(running(project, "UPDATE"))
        other.commit()
    mixed.ended(process)
    assert project.rows()[0]["checksum"] == "theirs"


def test_no_limit_of_the_server_ends_the_turn_of_a_run(project: Project) -> None:
    """The lock of turns is an open transaction that does nothing for as long as the run takes."""
    limits = ["idle_in_transaction_session_timeout"]
    with project.cluster.connect(project.database) as conn:
        if conn.info.server_version >= 170000:
            limits.append("transaction_timeout")
        for limit in limits:
            conn.execute(f"ALTER DATABASE {project.database} SET {limit} = '1500ms'".encode())
    for n in range(1, 5):
        project.write(f"{n:03}_t{n}.sql", f"CREATE TABLE t{n} ();\nSELECT pg_sleep(0.8);\n")
    process = mixed.start(project)
    mixed.wait_for_line(process, "003_t3.sql")
    held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "
    mine = f"(SELECT oid FROM pg_database WHERE datname = '{project.database}')"
    assert scalar(project, f"{held}{mine}") != 0
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert len(project.executed()) == 4


# 4. Units that cannot be in a transaction


def cut_off(process: subprocess.Popen[str], project: Project, statement: str) -> None:
    """Kill a run, and wait until the server has ended what it executed."""
    process.kill()
    process.wait()
    with project.cluster.connect() as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s "
            "AND state = 'active' AND query LIKE %s",
            [project.database, f"%{statement}%"],
        )
    wait_for(lambda: not running(project, statement)())


def indexed(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS id")
        conn.execute("CREATE INDEX a_id ON a (id)")


def test_a_reindex_that_was_cut_off_leaves_nothing_behind(project: Project) -> None:
    indexed(project)
    reindex = "REINDEX INDEX CONCURRENTLY a_id"
    project.write("001_a.sql", f"-- migrate: no-transaction\n{reindex};\n")
    with in_the_way(project, "INSERT INTO a VALUES (0)"):
        process = project.popen("db.migrate-run")
        wait_for(lambda: scalar(project, "SELECT to_regclass('a_id_ccnew') IS NOT NULL") is True)
        cut_off(process, project, reindex)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    left = (
        "SELECT array_agg(indexrelid::regclass::text) FROM pg_index WHERE indrelid = 'a'::regclass"
    )
    assert scalar(project, left) == ["a_id"]
    assert valid(project, "a_id") is True


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_drop_index_that_was_cut_off_is_done_once(project: Project, by_hand: bool) -> None:
    """What is left of the index is dropped, unless a person was quicker."""
    indexed(project)
    drop = "DROP INDEX CONCURRENTLY a_id"
    project.write("001_a.sql", f"-- migrate: no-transaction\n{drop};\nCREATE TABLE t1 (id int);\n")
    there = "SELECT to_regclass('a_id') IS NOT NULL"
    with in_the_way(project, "SELECT * FROM a"):
        process = project.popen("db.migrate-run")
        wait_for(running(project, drop))
        cut_off(process, project, drop)
    assert scalar(project, there) is True
    if by_hand:
        with project.cluster.connect(project.database) as conn:
            conn.execute("DROP INDEX a_id")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, there) is False
    assert project.executed() == ["001_a.sql"]


def test_of_two_runs_that_find_a_statement_cut_off_one_takes_it_over(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS id")
    build = "CREATE INDEX CONCURRENTLY a_id ON a (id)"
    project.write("001_a.sql", f"-- migrate: no-transaction\n{build};\n")
    with in_the_way(project, "INSERT INTO a VALUES (0)"):
        process = project.popen("db.migrate-run")
        wait_for(running(project, build))
        cut_off(process, project, build)
    with project.cluster.connect(project.database) as conn:
        conn.execute("DROP INDEX IF EXISTS a_id")
    # Both have seen that the announcement is nobody's, and make their own at the same moment.
    env = {"MIGRATIONS_GUARD": "off", "MIGRATIONS_LOCK_TIMEOUT": "1min"}
    with in_the_way(project, "INSERT INTO migrations (filename) VALUES ('001_a.sql')"):
        runs = [mixed.start(project, env) for _ in range(2)]
        wait_for(lambda: scalar(project, waiting_for("INSERT INTO%migrations")) == 2)
    for run in runs:
        said = mixed.ended(run)
        assert run.returncode == 0, said
    assert project.executed() == ["001_a.sql"]
    assert valid(project, "a_id") is True


def waiting_for(text: str, since: str = "1min") -> str:
    """Return a query that counts the statements with this text that wait for a lock."""
    return (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
        f"AND datname = current_database() AND query LIKE '%{text}%' "
        f"AND query_start > clock_timestamp() - interval '{since}'"
    )


def test_a_statement_that_another_run_is_still_at_work_on_is_waited_for(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS id")
    project.write("001_a.sql", "-- migrate: no-transaction\nVACUUM a;\n")
    env = {"MIGRATIONS_GUARD": "off"}
    at_work = (
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' "
        "AND query LIKE '%VACUUM a' AND pid <> pg_backend_pid()"
    )
    with in_the_way(project, "LOCK TABLE a IN SHARE UPDATE EXCLUSIVE MODE"):
        first = mixed.start(project, env)
        wait_for(running(project, "VACUUM a"))
        second = mixed.start(project, env)
        mixed.wait_for_line(second, "another run, which executes 001_a.sql")
        time.sleep(2)
        assert scalar(project, at_work) == 1
    for run in (first, second):
        said = mixed.ended(run)
        assert run.returncode == 0, said
    assert project.executed() == ["001_a.sql"]


def test_an_index_that_another_session_builds_is_no_leftover(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS id")
    build = "CREATE INDEX CONCURRENTLY IF NOT EXISTS a_id ON a (id)"
    project.write("001_a.sql", f"-- migrate: no-transaction\n{build};\n")
    with ThreadPoolExecutor(1) as pool, project.cluster.connect(project.database) as builder:
        with in_the_way(project, "INSERT INTO a VALUES (0)"):
            by_hand = pool.submit(builder.execute, build.replace("IF NOT EXISTS ", "").encode())
            wait_for(lambda: scalar(project, "SELECT to_regclass('a_id') IS NOT NULL") is True)
            process = mixed.start(project)
            mixed.wait_for_line(process, "another session, which builds this index")
        by_hand.result(60)
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert valid(project, "a_id") is True


def test_a_statement_that_failed_is_not_in_doubt(project: Project) -> None:
    project.write("001_a.sql", "-- migrate: no-transaction\nCALL missing();\n")
    for _ in range(2):
        done = project.invoke("db.migrate-run")
        assert done.returncode == 1
        assert "(42883)" in done.stderr


def test_line_ends_are_no_edit_of_a_finished_part(project: Project) -> None:
    head = "-- migrate: no-transaction\nCREATE TABLE a (\n    id int\n);\n"
    project.write("001_a.sql", head + "SELECT 1/0;\n")
    assert project.invoke("db.migrate-run").returncode == 1
    project.write("001_a.sql", f"{head}CREATE TABLE t1 ();\n".replace("\n", "\r\n"))
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_a.sql"]


# 5. What a database holds


@pytest.mark.parametrize("first", ["extension", "failure"])
def test_what_is_no_table_of_anybody_leaves_a_database_empty(project: Project, first: str) -> None:
    """An extension's view, and the ledger's own two tables: the base schema is loaded."""
    if first == "extension":
        with project.cluster.connect(project.database) as conn:
            conn.execute("CREATE EXTENSION pg_buffercache")
    else:
        project.write("001_a.sql", "-- migrate: no-transaction\nSELECT 1;\n")
        good = (project.folder / "db" / "schema.sql").read_text()
        project.write_schema(good + "\nSELECT 1/0;\n")
        assert project.invoke("db.migrate").returncode == 1
        assert scalar(project, "SELECT to_regclass('migrations_unfinished') IS NOT NULL") is True
        project.write_schema(good)
    done = project.invoke("db.migrate")
    assert done.returncode == 0, done.output
    assert project.executed()[0] == "schema.sql"
    assert scalar(project, "SELECT to_regclass('campaigns') IS NOT NULL") is True


# 6. What a file does to the ledger and to its session


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM migrations", "ledger"),
        ("UPDATE migrations SET filename = 'x_' || filename", "ledger"),
    ],
    ids=["delete", "rename"],
)
def test_a_file_that_changes_the_ledger_itself_is_rolled_back(
    project: Project, statement: str, said: str
) -> None:
    names = many(project, 2)
    project.write("0003_x.sql", f"CREATE TABLE t3 (id int);\n{statement};\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode != 0
    assert said in done.stderr
    assert project.executed() == names
    assert scalar(project, "SELECT to_regclass('t3') IS NULL") is True


def test_a_file_cannot_switch_durability_off(project: Project, own_cluster: MakeCluster) -> None:
    """Its commit is the last one, so everything before it rests on it."""
    cluster = own_cluster(options={"wal_writer_delay": "10s"})
    there = Project.at(project, cluster)
    names = many(there, 2)
    there.write(names[1], "SET LOCAL synchronous_commit = off;\nCREATE TABLE t2 (id int);\n")
    done = there.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    cluster.crash()
    cluster.start()
    assert there.executed() == names


@pytest.mark.parametrize("command", ["db.migrate-run", "db.migrate-single"])
def test_a_file_meets_what_the_next_session_is_given(project: Project, command: str) -> None:
    """One run of two files leaves the same as two runs of one."""
    head = f"ALTER DATABASE {project.database} SET search_path = app, public;"
    project.write("001_a.sql", f"CREATE SCHEMA app;\n{head}\n")
    project.write("002_b.sql", "CREATE TABLE t (id int);\n")
    for name in ("001_a.sql", "002_b.sql") if command == "db.migrate-single" else ("",):
        done = project.invoke(command, *filter(None, [name]))
        assert done.returncode == 0, done.output
    assert scalar(project, "SELECT to_regclass('app.t') IS NOT NULL") is True


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE migrations OWNER TO other_owner",
        "CREATE TRIGGER theirs BEFORE INSERT ON migrations EXECUTE FUNCTION theirs()",
        "CREATE RULE theirs AS ON INSERT TO migrations DO ALSO SELECT 1",
        "ALTER TABLE migrations ENABLE ROW LEVEL SECURITY",
    ],
    ids=["owner", "trigger", "rule", "row-level security"],
)
def test_a_ledger_that_cannot_be_trusted_is_refused(project: Project, change: str) -> None:
    names = many(project, 2)
    assert project.invoke("db.migrate-single", names[0]).returncode == 0
    with project.cluster.connect(project.database) as conn:
        role = "CREATE ROLE other_owner; EXCEPTION WHEN duplicate_object THEN"
        conn.execute(f"DO $$ BEGIN {role} END $$".encode())
        conn.execute("GRANT ALL ON SCHEMA public TO deploy, other_owner")
        conn.execute("GRANT ALL ON migrations, migrations_id_seq TO deploy")
        body = "LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$"
        conn.execute(f"CREATE FUNCTION theirs() RETURNS trigger {body}".encode())
        conn.execute(change.encode())
    url = project.cluster.url(project.database, role="deploy")
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert done.returncode == 2, done.output
    assert "Nothing was executed" in done.stderr
    assert project.executed() == names[:1]


def test_of_several_ledgers_none_is_chosen(project: Project) -> None:
    many(project, 2)
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE SCHEMA shop")
    assert project.invoke("db.migrate-run").returncode == 0
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE shop.migrations (LIKE migrations INCLUDING ALL)")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2, done.output
    assert "MIGRATIONS_TABLE=shop.migrations" in done.stderr
    done = project.invoke("db.migrate-run", env={"MIGRATIONS_TABLE": "public.migrations"})
    assert done.returncode == 0, done.output


def test_a_change_of_another_number_of_rows_changes_nothing(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS n FROM generate_series(1, 2)")
    conn = Target(from_values({}, project.url).parameters, 30).once("migrations test")
    try:
        with pytest.raises(LedgerError, match="2 of its rows were changed where it had to be 1"):
            ours.change(conn, "UPDATE public.a SET n = 2", rows=1)
        ours.change(conn, "DELETE FROM public.a", rows=2)
    finally:
        conn.close()


# 7. What does not grow


def test_what_is_sent_ahead_of_its_results_is_limited(project: Project) -> None:
    line = "SELECT length('" + "x" * 1_000_000 + "');\n"
    for n in range(1, 9):
        project.write(f"{n:03}_x.sql", ("SELECT pg_sleep(1.5);\n" if n == 1 else "") + line * 12)
    code = (
        "import re, sys; from db import migrate; migrate(sys.argv[1], sys.argv[2]); "
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, project.url, str(project.migrations)],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 90  # MB; what is sent is 96


def test_a_dump_is_on_the_disk_before_it_replaces_the_file(project: Project) -> None:
    many(project, 1)
    assert project.invoke("db.migrate-run").returncode == 0
    code = (
        "import os\n"
        "flush = os.fsync\n"
        "def seen(file):\n"
        "    flush(file)\n"
        "    print('flushed', os.fstat(file).st_ino)\n"
        "os.fsync = seen\n"
        "from invoke.main import program; program.run()\n"
    )
    dump = project.folder / "dumped.sql"
    done = subprocess.run(
        [sys.executable, "-c", code, "db.dump", "--file", dump],
        cwd=project.folder,
        env=project.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"flushed {dump.stat().st_ino}\n" in done.stdout


def test_of_many_notices_the_latest_are_kept(project: Project) -> None:
    loop = "FOR n IN 1..5000 LOOP RAISE NOTICE 'number %', n; END LOOP;"
    project.write("001_n.sql", f"DO $$ BEGIN {loop} END $$;")
    done = project.invoke("db.migrate-run", "--json")
    assert done.returncode == 0, done.output
    notices = [line for line in done.stdout.splitlines() if "number " in line]
    assert 0 < len(notices) <= 100
    assert "number 5000" in notices[-1]


def test_a_session_that_breaks_before_its_first_answer_is_opened_again(
    project: Project, proxy: Proxy
) -> None:
    """A failover, or a pooler, may take down whom it has just let in."""
    names = many(project, 2)
    proxy.cut_before(b"SELECT", times=2)
    url = project.cluster.url(project.database, port=proxy.port)
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert done.returncode == 0, done.output
    assert project.executed() == names
    assert proxy.connections > 3


def test_a_statement_timeout_of_the_role_ends_nothing_of_ours(project: Project) -> None:
    """It is for the statements of files; the ledger is waited for as long as for any lock."""
    project.write("001_t.sql", "CREATE TABLE t (id int);\n")
    assert project.invoke("db.migrate-run").returncode == 0
    project.write("002_t.sql", "SELECT pg_sleep(5);\n")
    with project.cluster.connect(project.database) as conn:
        name = f"ALTER DATABASE {project.database} SET statement_timeout = '400ms'"
        conn.execute(name.encode())
    with in_the_way(project, "LOCK TABLE migrations"):
        process = mixed.start(project)
        mixed.wait_for_line(process, "the ledger, which another session has locked")
    said = mixed.ended(process)
    assert process.returncode == 1, said
    assert "002_t.sql:1:1: canceling statement due to statement timeout" in said

"""Statements outside a transaction that fail or are cut off: what they leave, and who is told."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

import pytest

from tests.conftest import MakeCluster, Project
from tests.scenarios import mixed
from tests.scenarios.test_engine import running, scalar, version, wait_for
from tests.scenarios.test_moments import cut_off, in_the_way
from tests.scenarios.test_units import HEAD, execute, unfinished

LOG, BUSY = "CREATE TABLE log (x int)", "CREATE TABLE busy (x int)"


def procedure(project: Project, rest: str) -> None:
    """Make one that commits a row, and then does the rest."""
    body = f"BEGIN INSERT INTO log VALUES (1); COMMIT; {rest} END"
    execute(project, LOG, BUSY, f"CREATE PROCEDURE pr() LANGUAGE plpgsql AS $$ {body} $$")


def count(project: Project) -> object:
    return scalar(project, "SELECT count(*) FROM log")


# 1. What commits as it goes


@pytest.mark.parametrize(
    "text", ["CALL pr()", "DO $$ BEGIN INSERT INTO log VALUES (1); COMMIT; LOCK busy; END $$"]
)
def test_what_has_committed_something_is_not_repeated_for_a_lock(
    project: Project, text: str
) -> None:
    procedure(project, "LOCK busy;")
    project.write("001_a.sql", f"{HEAD}-- migrate: lock-timeout=700ms\n{text};\n")
    with in_the_way(project, "SELECT * FROM busy"):
        done = project.invoke("db.migrate-run")
    assert done.returncode == 1, done.output
    assert "(55P03)" in done.stderr
    assert "blocked by pid" in done.stderr
    assert count(project) == 1
    assert unfinished(project) == [(0, False)]


def test_nor_for_a_serialization_failure(project: Project) -> None:
    procedure(project, "RAISE EXCEPTION 'once more' USING ERRCODE = '40001';")
    project.write("001_a.sql", f"{HEAD}CALL pr();\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1, done.output
    assert count(project) == 1


def test_it_has_no_lock_timeout_of_ours(project: Project) -> None:
    """Which would cut it off between two of its transactions."""
    procedure(project, "LOCK busy;")
    project.write("001_a.sql", f"{HEAD}CALL pr();\n")
    with in_the_way(project, "SELECT * FROM busy") as other:
        process = mixed.start(project, {"MIGRATIONS_LOCK_TIMEOUT": "100ms"})
        wait_for(lambda: count(project) == 1)
        mixed.wait_for_line(process, "pid")
        other.rollback()
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert count(project) == 1


def test_one_that_has_committed_nothing_yet_is_repeated(project: Project) -> None:
    execute(project, LOG, BUSY)
    do = "DO $$ BEGIN INSERT INTO log VALUES (1); LOCK busy; COMMIT; END $$"
    project.write("001_a.sql", f"{HEAD}-- migrate: lock-timeout=200ms\n{do};\n")
    with in_the_way(project, "SELECT * FROM busy") as other:
        process = mixed.start(project)
        mixed.wait_for_line(process, "waits for a lock")
        other.rollback()
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert count(project) == 1


@pytest.mark.parametrize("fails", ["PERFORM 1/0;", "PERFORM pg_sleep(60);"])
def test_what_has_committed_something_and_fails_is_in_doubt(project: Project, fails: str) -> None:
    procedure(project, fails)
    project.write("001_a.sql", f"{HEAD}-- migrate: statement-timeout=2s\nCALL pr();\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1, done.output
    assert "So does what it had committed" in done.stderr
    assert "Fix the file, then" not in done.stderr
    again = project.invoke("db.migrate-run")
    assert again.returncode == 2, again.output
    assert "It did not:" in again.stderr
    assert count(project) == 1
    assert "unfinished" in project.invoke("db.status").stdout
    forget = re.search(r"To run it again, edited or not: +(DELETE .*;)", done.stderr)
    assert forget
    execute(project, forget[1])
    project.write("001_a.sql", f"{HEAD}INSERT INTO log VALUES (2);\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output


def test_what_it_is_left_as_by_a_person_stays(project: Project) -> None:
    procedure(project, "PERFORM 1/0;")
    project.write("001_a.sql", f"{HEAD}CALL pr();\nINSERT INTO log VALUES (2);\n")
    done = project.invoke("db.migrate-run")
    leave = re.search(r"To leave it as it is: +(UPDATE .*;)", done.stderr)
    assert leave
    execute(project, leave[1])
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert count(project) == 2


@pytest.mark.parametrize("text", ["CALL fails()", "DO $$ BEGIN PERFORM 1/0; COMMIT; END $$"])
def test_what_has_committed_nothing_and_fails_is_not(project: Project, text: str) -> None:
    body = "BEGIN INSERT INTO log VALUES (1); PERFORM 1/0; COMMIT; END"
    execute(project, LOG, f"CREATE PROCEDURE fails() LANGUAGE plpgsql AS $$ {body} $$")
    project.write("001_a.sql", f"{HEAD}{text};\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1, done.output
    assert "Fix the file, then: invoke db.migrate-run" in done.stderr
    assert unfinished(project) == []
    project.write("001_a.sql", f"{HEAD}INSERT INTO log VALUES (2);\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output


def test_a_session_that_ends_in_the_middle_leaves_it_in_doubt(project: Project) -> None:
    procedure(project, "PERFORM pg_terminate_backend(pg_backend_pid());")
    project.write("001_a.sql", f"{HEAD}CALL pr();\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2, done.output
    assert "It did not:" in done.stderr
    assert count(project) == 1


def test_a_function_that_must_run_outside_is_not_repeated(project: Project) -> None:
    """It may have done something by a connection of its own."""
    execute(
        project,
        "CREATE SEQUENCE s",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('s'); "
        "RAISE EXCEPTION 'once more' USING ERRCODE = '40001'; END $$",
    )
    project.write("001_a.sql", f"{HEAD}-- migrate: outside\nSELECT f();\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1, done.output
    assert "by a connection of its own" in done.stderr
    assert scalar(project, "SELECT last_value FROM s") == 1
    assert unfinished(project) == []


# 2. DETACH PARTITION … CONCURRENTLY


DETACH = "ALTER TABLE t DETACH PARTITION t1 CONCURRENTLY"
PENDING = "SELECT bool_or(inhdetachpending) FROM pg_inherits WHERE inhparent = 't'::regclass"
PARTITIONED = (
    "CREATE TABLE t (i int PRIMARY KEY, x text) PARTITION BY RANGE (i)",
    "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
    "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100) TO (200)",
    "INSERT INTO t SELECT generate_series(1, 199)",
)


def detachable(project: Project) -> None:
    if version(project) < 14:
        pytest.skip("since PostgreSQL 14")
    execute(project, *PARTITIONED)


def detached(project: Project) -> None:
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, PENDING) is False
    assert scalar(project, "SELECT count(*) FROM pg_inherits WHERE inhrelid = 't1'::regclass") == 0
    assert project.executed() == ["001_a.sql"]


@pytest.mark.parametrize("end", ["kill", "interrupt"])
def test_a_partition_whose_detaching_was_cut_off_is_detached(project: Project, end: str) -> None:
    detachable(project)
    project.write("001_a.sql", f"{HEAD}{DETACH};\n")
    with in_the_way(project, "SELECT * FROM t1"):
        process = project.popen("db.migrate-run")
        wait_for(lambda: scalar(project, PENDING) is True)
        if end == "kill":
            cut_off(process, project, DETACH)
        else:
            process.send_signal(signal.SIGINT)
            said = mixed.ended(process)
            assert "rolled back" not in said
            assert "the next run looks what it has left" in said
    assert unfinished(project) == [(0, False)]
    detached(project)


def test_a_partition_whose_detaching_took_too_long_is_said_and_detached(project: Project) -> None:
    detachable(project)
    timeout = "-- migrate: statement-timeout=1s\n"
    project.write("001_a.sql", f"{HEAD}{timeout}{DETACH};\n")
    with in_the_way(project, "SELECT * FROM t1"):
        done = project.invoke("db.migrate-run")
        assert done.returncode == 1, done.output
        assert "detached half-way" in done.stderr
        assert "ALTER TABLE public.t DETACH PARTITION public.t1 FINALIZE" in done.stderr
        process = mixed.start(project)
        mixed.wait_for_line(process, "waits for a lock")
    said = mixed.ended(process)
    assert process.returncode == 0, said
    detached(project)


def test_a_partition_that_was_detached_after_all_is_not_detached_again(project: Project) -> None:
    detachable(project)
    project.write("001_a.sql", f"{HEAD}{DETACH};\n")
    with in_the_way(project, "SELECT * FROM t1"):
        process = project.popen("db.migrate-run")
        wait_for(lambda: scalar(project, PENDING) is True)
        cut_off(process, project, DETACH)
    execute(project, "ALTER TABLE t DETACH PARTITION t1 FINALIZE")
    detached(project)


def test_one_that_was_cut_off_before_it_began_is_executed(project: Project) -> None:
    detachable(project)
    project.write("001_a.sql", f"{HEAD}{DETACH};\n")
    with in_the_way(project, "LOCK t"):
        process = project.popen("db.migrate-run")
        wait_for(running(project, DETACH))
        cut_off(process, project, DETACH)
    detached(project)


# 3. REINDEX … CONCURRENTLY


INVALID = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
# One that the end of an index build waits for.
SNAPSHOT = ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", "SELECT FROM pg_class")


@pytest.mark.parametrize(
    "text",
    [
        "REINDEX TABLE CONCURRENTLY t",
        "REINDEX INDEX CONCURRENTLY t_pkey",
        "REINDEX SCHEMA CONCURRENTLY public",
        "REINDEX (CONCURRENTLY) DATABASE {}",
        "REINDEX TABLE CONCURRENTLY t1",
    ],
)
@pytest.mark.parametrize("end", ["kill", "timeout"])
def test_a_reindex_of_many_leaves_nothing_behind(project: Project, text: str, end: str) -> None:
    if version(project) < 14:
        pytest.skip("of partitioned tables since PostgreSQL 14")
    execute(project, *PARTITIONED)
    text = text.format(project.database)
    timeout = "-- migrate: statement-timeout=2s\n" if end == "timeout" else ""
    project.write("001_a.sql", f"{HEAD}{timeout}{text};\n")
    with in_the_way(project, *SNAPSHOT):
        process = project.popen("db.migrate-run")
        wait_for(lambda: scalar(project, INVALID) != 0)
        if end == "kill":
            cut_off(process, project, text)
        else:
            said = mixed.ended(process)
            assert "t1_pkey_ccnew" in said
            assert "dropped" not in said
    assert scalar(project, INVALID) != 0
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, INVALID) == 0
    assert project.executed() == ["001_a.sql"]


def test_the_index_of_a_toast_table_that_was_left_invalid_is_dropped(project: Project) -> None:
    execute(project, "CREATE TABLE a (x text)")
    number = scalar(project, "SELECT 'a'::regclass::oid")
    text = f"REINDEX INDEX CONCURRENTLY pg_toast.pg_toast_{number}_index"
    project.write("001_a.sql", f"{HEAD}{text};\n")
    with in_the_way(project, *SNAPSHOT):
        process = project.popen("db.migrate-run")
        wait_for(lambda: scalar(project, INVALID) != 0)
        cut_off(process, project, text)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, INVALID) == 0


# 4. Interrupts


def interrupted(project: Project, ready: Callable[[], bool]) -> str:
    process = project.popen("db.migrate-run")
    wait_for(ready)
    process.send_signal(signal.SIGINT)
    said = mixed.ended(process)
    assert process.returncode == 130, said
    return said


def test_an_interrupt_says_what_a_statement_outside_may_have_left(project: Project) -> None:
    procedure(project, "PERFORM pg_sleep(600);")
    project.write("001_a.sql", f"{HEAD}CALL pr();\n")
    said = interrupted(project, lambda: count(project) == 1)
    assert "was cancelled. It ran outside a transaction: what it had committed stays" in said
    assert "rolled back" not in said


def test_an_interrupt_says_what_the_next_run_does_about_an_index(project: Project) -> None:
    execute(project, "CREATE TABLE t (id int)")
    project.write("001_a.sql", f"{HEAD}CREATE INDEX CONCURRENTLY i ON t (id);\n")
    with in_the_way(project, "INSERT INTO t VALUES (0)"):
        said = interrupted(project, lambda: scalar(project, INVALID) == 1)
    assert "the next run looks what it has left" in said
    assert "rolled back" not in said


def test_an_interrupt_says_that_a_unit_with_a_transaction_is_rolled_back(project: Project) -> None:
    project.write("001_a.sql", f"{HEAD}SELECT 1;\nSELECT pg_sleep(600);\n")
    said = interrupted(project, running(project, "pg_sleep"))
    assert "The running statement was cancelled and rolled back." in said


def test_an_interrupted_wait_for_a_standby_is_said_of_a_statement_too(
    project: Project, own_cluster: MakeCluster
) -> None:
    own = Project.at(project, own_cluster())
    with own.cluster.connect() as conn:
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        conn.execute("SELECT pg_reload_conf()")
    own.write("001_a.sql", f"{HEAD}CREATE TABLE t1 (id int);\nCREATE TABLE t2 (id int);\n")
    process = own.popen("db.migrate-run", env={"PYTHONUNBUFFERED": "1"})
    mixed.wait_for_line(process, "waiting for a synchronous standby to confirm the commit (nobody)")
    process.send_signal(signal.SIGINT)
    said = mixed.ended(process)
    assert process.returncode == 130, said
    assert "001_a.sql, statement 1: committed on this server; no synchronous standby" in said
    assert "rolled back" not in said
    assert unfinished(own) == [(0, True)]


# 5. Names


def test_names_that_are_not_ascii_in_a_database_that_knows_only_bytes(project: Project) -> None:
    name = f"{project.database}_bytes"
    with project.cluster.connect() as conn:
        encoding = "ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'"
        conn.execute(f"CREATE DATABASE {name} {encoding}".encode())
    project.database, project.url = name, project.cluster.url(name)
    text = 'CREATE INDEX CONCURRENTLY "naïf" ON t (i);\nDROP INDEX CONCURRENTLY "naïf";\n'
    setting = "SET application_name = 'é';\nSET my.name = 'ï';\n"
    project.write("001_a.sql", f"{HEAD}{setting}CREATE TABLE t (i int);\n{text}SELECT 1;\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output

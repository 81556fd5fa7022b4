"""Statements outside a transaction that fail or are cut off: what they leave, and who is told."""

from __future__ import annotations

import re

import pytest

from tests.conftest import Project
from tests.scenarios import mixed
from tests.scenarios.test_engine import scalar, wait_for
from tests.scenarios.test_moments import in_the_way
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

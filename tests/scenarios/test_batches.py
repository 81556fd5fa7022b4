"""`-- migrate: repeat until 0 rows`: what is committed, what is waited for, and what ends it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import Any

import psycopg
import pytest

from tests.conftest import MakeCluster, Project, Result
from tests.scenarios import mixed
from tests.scenarios.test_engine import scalar, version, wait_for
from tests.scenarios.test_units import execute, unfinished
from tests.servers import PgBouncer, Standby

HEAD = "-- migrate: no-transaction\n"
REPEAT = f"{HEAD}-- migrate: repeat until 0 rows, pause 0ms\n"
FILL = "UPDATE t SET v = 1 WHERE id IN (SELECT id FROM t WHERE v IS NULL ORDER BY id LIMIT {})\n"
TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, v int, times int NOT NULL DEFAULT 0)",
    "INSERT INTO t SELECT n FROM generate_series(1, {}) AS n",
    "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN NEW.times := OLD.times + 1; RETURN NEW; END $$",
    "CREATE TRIGGER counts BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION count_it()",
)


def table(project: Project, rows: int) -> None:
    execute(project, *(text.replace("{}", str(rows)) for text in TABLE))


def each_once(project: Project) -> bool:
    return scalar(project, "SELECT bool_and(times = 1 AND v IS NOT NULL) FROM t") is True


def progress(project: Project) -> list[tuple[Any, ...]]:
    with project.cluster.connect(project.database) as conn:
        query = "SELECT unit, rows, batches FROM migrations_unfinished ORDER BY unit"
        return conn.execute(query).fetchall()


def agree(project: Project) -> None:
    """Assert that as many rows are done as the progress says, and none twice."""
    with project.cluster.connect(project.database, autocommit=False) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        begun = conn.execute("SELECT to_regclass('migrations_unfinished')").fetchone() != (None,)
        ((done, times),) = conn.execute("SELECT count(v), max(times) FROM t").fetchall()
        known = conn.execute("SELECT rows FROM migrations_unfinished").fetchall() if begun else []
        recorded = begun and conn.execute("SELECT filename FROM migrations").fetchall()
        (rows,) = conn.execute("SELECT count(*) FROM t").fetchone() or (0,)
    assert times <= 1
    assert done == (rows if recorded else sum(number for (number,) in known))


def batched(done: Result) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return [event for event in events if event["event"] == "batched"]


def test_a_statement_is_repeated_until_it_gives_no_row(project: Project) -> None:
    """The same through whatever gives rows: a RETURNING, a WITH that changes, a SELECT."""
    table(project, 450)
    execute(project, "CREATE TABLE moved (id int)", "CREATE TABLE after (id int)")
    repeat = "-- migrate: repeat until 0 rows, pause 0ms, max-lag 5s\n"
    some = "WHERE id IN (SELECT id FROM t {} LIMIT 30)"
    project.write(
        "001_a.sql",
        f"{HEAD}{repeat}{FILL.format(150)} RETURNING id, v;\n{repeat}WITH gone AS (DELETE FROM t "
        f"{some.format('WHERE id <= 50')} RETURNING id)\nINSERT INTO moved SELECT id FROM gone;\n"
        f"INSERT INTO after VALUES (1);\n{repeat}"
        "SELECT id FROM t WHERE id > 50 AND id <= 52 AND v < 2 AND set_v(id) LIMIT 1",
    )
    execute(
        project,
        "CREATE FUNCTION set_v(n int) RETURNS bool LANGUAGE plpgsql AS "
        "$$ BEGIN UPDATE t SET v = 2 WHERE id = n; RETURN true; END $$",
    )
    planned = project.invoke("db.plan", "--run")
    assert "UPDATE in batches" in planned.stdout
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    said = [line for line in done.stdout.splitlines() if " batches" in line]
    assert [line.split("sql: ")[1] for line in said] == [
        "450 rows in 3 batches", "50 rows in 2 batches", "2 rows in 2 batches",
    ]  # fmt: skip
    assert scalar(project, "SELECT count(*) FROM moved") == 50
    assert scalar(project, "SELECT count(*) FROM after") == 1
    assert scalar(project, "SELECT count(*) FROM t WHERE v = 2") == 2
    assert project.executed() == ["001_a.sql"]
    assert unfinished(project) == []


def test_behind_a_pooler_each_batch_is_one_transaction(
    project: Project, pgbouncer: PgBouncer
) -> None:
    table(project, 100)
    project.write("001_a.sql", REPEAT + FILL.format(30))
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": pgbouncer.url(project.database)})
    assert done.returncode == 0, done.output
    assert each_once(project)


@pytest.mark.long
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on_at_the_next_batch(
    project: Project, blow: signal.Signals
) -> None:
    table(project, 100)
    project.write(
        "001_a.sql", f"{HEAD}-- migrate: repeat until 0 rows, pause 1h\n{FILL.format(30)}"
    )
    project.write("002_b.sql", "SELECT 1;")
    process = mixed.start(project)
    mixed.wait_for_line(process, "30 rows")
    process.send_signal(blow)
    said = mixed.ended(process)
    assert process.returncode == (130 if blow == signal.SIGINT else -9), said
    if blow == signal.SIGINT:
        assert "001_a.sql has come to 30 rows in 1 batch, which stay" in said
        assert "cancelled" not in said  # in the pause nothing runs
        assert "Go on with: invoke db.migrate-run" in said
    assert progress(project) == [(0, 30, 1)]
    status = project.invoke("db.status")
    assert re.search(r"(?m)^001_a.sql +unfinished +30 rows in 1 batch$", status.stdout)
    assert project.executed() == []
    # How it is paced may be changed, and a later file still does not come before it.
    project.write("001_a.sql", REPEAT + FILL.format(30))
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert "100 rows in 4 batches" in done.stdout
    assert each_once(project)
    assert project.executed() == ["001_a.sql", "002_b.sql"]


def test_an_edited_statement_is_counted_anew_and_one_before_it_is_refused(
    project: Project,
) -> None:
    table(project, 100)
    # The division fails in the second batch.
    fails = FILL.format(30).replace("v = 1", "v = 1 / (CASE WHEN id > 60 THEN 0 ELSE 1 END)")
    project.write("001_a.sql", f"{HEAD}SELECT 1;\n{REPEAT.removeprefix(HEAD)}{fails}")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "001_a.sql:4:" in done.stderr
    assert "1 executed in this file. So do 60 rows in 2 batches of it." in done.stderr
    assert progress(project) == [(0, None, None), (1, 60, 2)]
    project.write("001_a.sql", f"{HEAD}SELECT 2;\n{REPEAT.removeprefix(HEAD)}{fails}")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "statement 1 is executed already, and was edited since" in done.stderr
    project.write("001_a.sql", f"{HEAD}SELECT 1;\n{REPEAT.removeprefix(HEAD)}{FILL.format(10)}")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert "What it did stays, but counts no more: 60 rows in 2 batches" in done.stdout
    assert "40 rows in 4 batches" in done.stdout
    assert each_once(project)


def test_the_progress_table_of_an_earlier_release_is_given_the_columns(project: Project) -> None:
    table(project, 100)
    project.write("001_a.sql", f"{HEAD}SELECT 1;\nSELECT nonsense;\n")
    assert project.invoke("db.migrate-run").returncode == 1
    execute(project, "ALTER TABLE migrations_unfinished DROP COLUMN rows, DROP COLUMN batches")
    assert "unfinished" in project.invoke("db.status").stdout
    repeat = REPEAT.removeprefix(HEAD)
    project.write("001_a.sql", f"{HEAD}SELECT 1;\n{repeat}{FILL.format(30)}")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert each_once(project)


AGAIN = "had 100: it finds again what it has changed"
SOME = "WHERE id IN (SELECT id FROM t ORDER BY id LIMIT 30)"
ENDLESS = {
    "the same rows": (f"UPDATE t SET v = 1 {SOME}", f"public.t {AGAIN}"),
    "nothing changed": ("SELECT 1", "the last two batches gave rows and changed none"),
    "through a view": (f"UPDATE seen SET v = 1 {SOME}", f"public.seen {AGAIN}"),
    "through a trigger": (f"UPDATE joined SET v = 1 {SOME}", f"public.joined {AGAIN}"),
    "in a WITH": (
        f"WITH u AS (UPDATE t SET v = 1 {SOME} RETURNING id) SELECT u.id FROM u",
        f"public.t {AGAIN}",
    ),
    "beside what is inserted": (
        f"WITH u AS (UPDATE t SET v = 1 {SOME} RETURNING id)\n"
        "INSERT INTO log SELECT id FROM u, generate_series(1, 3)",
        f"public.t {AGAIN}",
    ),
}
VIEWS = (
    "CREATE VIEW seen AS SELECT * FROM t WHERE id > 0",
    "CREATE VIEW joined AS SELECT DISTINCT id, v FROM t",
    "CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN UPDATE t SET v = NEW.v WHERE id = NEW.id; RETURN NEW; END $$",
    "CREATE TRIGGER i INSTEAD OF UPDATE ON joined FOR EACH ROW EXECUTE FUNCTION instead()",
    "CREATE TABLE log (id int)",
)


@pytest.mark.long
@pytest.mark.parametrize(("text", "said"), ENDLESS.values(), ids=ENDLESS)
def test_a_statement_that_would_not_end_is_stopped(project: Project, text: str, said: str) -> None:
    table(project, 100)
    execute(project, *VIEWS)
    project.write("001_a.sql", f"{REPEAT}{text};\n")
    done = project.invoke("db.migrate-run", timeout=120)
    assert done.returncode == 2, done.output
    assert "001_a.sql:3:1: " in done.stderr
    assert said in " ".join(done.stderr.split())
    if text.startswith("UPDATE"):
        assert "nothing behind its SET names what it sets" in done.stdout
    project.write("001_a.sql", REPEAT + FILL.format(30))
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output


def test_a_statement_that_removes_rows_is_not_taken_for_endless(project: Project) -> None:
    """Nor one that gives several rows for each that it updates, or whose view becomes empty."""
    table(project, 10)
    more = (
        "INSERT INTO t SELECT n FROM generate_series(11, 400) AS n"  # than the server reckons with
    )
    todo = "CREATE VIEW todo AS SELECT * FROM t WHERE v IS NULL"
    execute(project, *VIEWS, todo, "VACUUM ANALYZE t", more)
    gone = "MERGE INTO t USING (SELECT id FROM t WHERE id <= 320 ORDER BY id LIMIT 300) AS s\n"
    gone += "ON t.id = s.id WHEN MATCHED THEN DELETE;\n"
    if version(project) < 15:  # which have no MERGE
        gone = (
            "DELETE FROM t WHERE id IN (SELECT id FROM t WHERE id <= 320 ORDER BY id LIMIT 300);\n"
        )
    repeat = REPEAT.removeprefix(HEAD)
    project.write("001_a.sql", f"{REPEAT}{gone}")
    some = "(SELECT id FROM {} WHERE v IS NULL ORDER BY id LIMIT 20)"
    project.write(
        "002_b.sql",
        f"{REPEAT}WITH u AS (UPDATE t SET v = 1 WHERE id IN {some.format('t')} AND id <= 360 "
        "RETURNING id)\nINSERT INTO log SELECT id FROM u, generate_series(1, 5);\n"
        f"{repeat}UPDATE todo SET v = 1 WHERE id IN {some.format('todo')};\n",
    )
    done = project.invoke("db.migrate-run", timeout=120)
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT count(*) FROM log") == 200
    assert scalar(project, "SELECT count(*) FROM t WHERE v = 1") == 80


@pytest.mark.parametrize("verb", ["DELETE", "MERGE"])
def test_what_is_left_of_a_table_is_not_what_it_had(project: Project, verb: str) -> None:
    if verb == "MERGE" and version(project) < 15:
        pytest.skip("since PostgreSQL 15")
    table(project, 400)
    execute(project, "ANALYZE t")
    some = "(SELECT id FROM t ORDER BY id LIMIT 20)"
    text = (
        f"DELETE FROM t WHERE id IN {some}"
        if verb == "DELETE"
        else f"MERGE INTO t USING {some} AS s ON t.id = s.id WHEN MATCHED THEN DELETE"
    )
    execute(
        project,
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF OLD.id > 350 THEN RAISE 'not yet'; END IF; RETURN OLD; END $$",
        "CREATE TRIGGER stops BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION stop()",
    )
    project.write("001_a.sql", f"{REPEAT}{text};\n")
    assert "340 rows in 17 batches" in project.invoke("db.migrate-run").stderr
    execute(project, "DROP TRIGGER stops ON t", "VACUUM ANALYZE t")
    done = project.invoke("db.migrate-run", "--json")
    assert done.returncode == 0, done.output
    assert batched(done)[0]["percent"] == 90
    assert "400 rows in 20 batches" in done.stdout


def test_rows_that_only_a_trigger_writes_are_not_the_end(project: Project) -> None:
    table(project, 100)
    execute(
        project,
        "ALTER TABLE t ADD gone bool",
        "CREATE TABLE log (at timestamptz)",
        "CREATE FUNCTION softly() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN UPDATE t SET gone = true WHERE id = OLD.id; RETURN NULL; END $$",
        "CREATE TRIGGER softly BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION softly()",
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN INSERT INTO log VALUES (now()); RETURN NULL; END $$",
        "CREATE TRIGGER noted AFTER UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION noted()",
    )
    text = "DELETE FROM t WHERE id IN (SELECT id FROM t WHERE gone IS NULL ORDER BY id LIMIT 10)"
    project.write("001_a.sql", f"{REPEAT}{text};\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2, done.output
    assert "this gave 0 rows, and has written some all the same" in done.stderr
    assert "what was done before stays: 0 rows in 0 batches" in done.stderr
    assert scalar(project, "SELECT count(gone) FROM t") == 0
    assert project.executed() == []
    # A trigger that notes each statement writes something else, also where nothing is left.
    text = text.replace("DELETE FROM t", "UPDATE t SET gone = true")
    project.write("001_a.sql", f"{REPEAT}{text};\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT count(gone) FROM t") == 100
    assert scalar(project, "SELECT count(*) > 10 FROM log") is True


def test_rows_that_only_a_with_removes_are_not_the_end(project: Project) -> None:
    """What is moved is there already, or not: either way it is gone from where it was."""
    table(project, 100)
    execute(
        project,
        "CREATE TABLE moved (id int PRIMARY KEY, n int)",
        "INSERT INTO moved SELECT n FROM generate_series(31, 60) AS n",
    )
    gone = "WITH gone AS (DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY id LIMIT 30) "
    gone += "RETURNING id)"
    into = "INSERT INTO moved SELECT id FROM gone ON CONFLICT DO NOTHING"
    project.write("001_a.sql", f"{REPEAT}{gone}\n{into};\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2, done.output
    assert "what was done before stays: 30 rows in 1 batch" in done.stderr
    assert scalar(project, "SELECT count(*) FROM t") == 70
    project.write("001_a.sql", f"{REPEAT}{gone}, moved AS ({into})\nSELECT FROM gone;\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT count(*) FROM t") == 0
    assert scalar(project, "SELECT count(*) FROM moved") == 100


def test_many_batches_of_the_same_size_are_not_taken_for_endless(project: Project) -> None:
    """Each batch of as many rows as the one before, on a table that was never analyzed."""
    table(project, 600)
    project.write("001_a.sql", REPEAT + FILL.format(2))
    done = project.invoke("db.migrate-run", "--json", timeout=120)
    assert done.returncode == 0, done.output
    assert each_once(project)
    assert batched(done)[0]["filename"] == "001_a.sql"


def test_a_batch_that_waits_for_a_lock_is_given_up_and_tried_again(project: Project) -> None:
    table(project, 100)
    project.write("001_a.sql", REPEAT + FILL.format(30))
    env = {"MIGRATIONS_LOCK_TIMEOUT": "100ms", "PYTHONUNBUFFERED": "1"}
    with project.cluster.connect(project.database, autocommit=False) as other:
        other.execute("SELECT FROM t WHERE id = 45 FOR UPDATE")
        process = mixed.start(project, env)
        mixed.wait_for_line(process, "waits for a lock")
        assert progress(project) == [(0, 30, 1)]
        other.rollback()
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert "100 rows in 4 batches" in said
    assert each_once(project)


@pytest.mark.long
def test_two_runs_at_once_do_each_row_once(project: Project, pgbouncer: PgBouncer) -> None:
    """Without the lock of turns; one sees the session of the other, and one does not."""
    table(project, 200)
    project.write(
        "001_a.sql", f"{HEAD}-- migrate: repeat until 0 rows, pause 20ms\n{FILL.format(5)}"
    )
    urls = (project.url, pgbouncer.url(project.database), pgbouncer.url(project.database))
    runs = [mixed.start(project, {"MIGRATIONS_GUARD": "off", "DATABASE_URL": url}) for url in urls]
    for run in runs:
        said = mixed.ended(run)
        assert run.returncode == 0, said
    assert each_once(project)
    assert project.executed() == ["001_a.sql"]


def test_a_statement_that_changes_its_own_progress_is_rolled_back(project: Project) -> None:
    table(project, 10)
    text = "WITH x AS (DELETE FROM migrations_unfinished RETURNING 1 AS one)\n"
    project.write("001_a.sql", f"{REPEAT}{text}{FILL.format(5)}")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2, done.output
    assert "this changes the ledger's progress table itself" in done.stderr
    assert progress(project) == [(0, 0, 0)]
    assert scalar(project, "SELECT count(v) FROM t") == 0


# What the pauses grow with

PACED = f"{HEAD}-- migrate: repeat until 0 rows, pause 20ms, max-lag 1s\n"


def wait_for_reason(process: subprocess.Popen[str], words: str) -> dict[str, Any]:
    """Return the first event of batches whose reason has these words."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "batched" and words in event["reason"]:
            return event
    pytest.fail(f"nobody said: {words}")


def stands_still(project: Project, process: subprocess.Popen[str], words: str) -> None:
    """Assert that no batch begins while that reason lasts."""
    wait_for_reason(process, words)
    before = progress(project)
    for _ in range(2):
        wait_for_reason(process, words)
    assert progress(project) == before


def ends(project: Project, process: subprocess.Popen[str]) -> None:
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stdout + stderr
    assert each_once(project)


@pytest.mark.long
def test_no_batch_begins_while_a_standby_is_behind(
    own_cluster: MakeCluster, project: Project
) -> None:
    primary = own_cluster()
    there = Project.at(project, primary)
    table(there, 300)
    standby = Standby(primary)
    try:
        with psycopg.connect(standby.url("postgres"), autocommit=True) as conn:
            # It replies to what is written, and where nothing is, it does not for an hour.
            conn.execute("ALTER SYSTEM SET wal_receiver_status_interval = '1h'")
            conn.execute("SELECT pg_reload_conf(), pg_wal_replay_pause()")
            there.write("001_a.sql", PACED + FILL.format(1))
            process = there.popen("db.migrate-run", "--json")
            stands_still(there, process, "walreceiver is ")
            conn.execute("SELECT pg_wal_replay_resume()")
            ends(there, process)
    finally:
        standby.remove()


@pytest.mark.long
def test_no_batch_begins_while_a_subscription_hangs(
    own_cluster: MakeCluster, project: Project
) -> None:
    """A worker that is stopped replies no more, and the server shows no lag for it."""
    cluster = own_cluster(options={"wal_level": "logical"})
    there = Project.at(project, cluster)
    table(there, 1200)
    slots = (
        "CREATE PUBLICATION everything FOR TABLE t",
        "SELECT pg_create_logical_replication_slot('hanging', 'pgoutput')",
        "SELECT pg_create_logical_replication_slot('unread', 'pgoutput')",
    )
    execute(there, *slots)
    subscriber = cluster.create_database()
    with cluster.connect(subscriber) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, v int, times int)")
        conn.execute(
            f"CREATE SUBSCRIPTION hanging CONNECTION '{there.cluster.url(there.database)}' "
            "PUBLICATION everything WITH (create_slot = false, copy_data = false)".encode()
        )
        streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
        wait_for(lambda: scalar(there, streaming) == 1)
        ((worker,),) = conn.execute(
            "SELECT pid FROM pg_stat_subscription WHERE pid IS NOT NULL"
        ).fetchall()
    there.write("001_a.sql", PACED + FILL.format(1))
    process = there.popen("db.migrate-run", "--json")
    wait_for(lambda: scalar(there, "SELECT count(v) > 5 FROM t") is True)
    os.kill(int(worker), signal.SIGSTOP)
    try:
        stands_still(there, process, "hanging is ")
    finally:
        os.kill(int(worker), signal.SIGCONT)
    before = progress(there)
    wait_for(lambda: progress(there) > before)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    agree(there)


@pytest.mark.long
def test_the_pauses_grow_while_autovacuum_is_at_work(
    own_cluster: MakeCluster, project: Project
) -> None:
    there = Project.at(project, own_cluster(options={"autovacuum_naptime": "1s"}))
    table(there, 5000)
    slow = (
        "autovacuum_vacuum_threshold = 1, autovacuum_vacuum_scale_factor = 0",
        "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1",
    )
    execute(there, f"ALTER TABLE t SET ({', '.join(slow)})")
    there.write("001_a.sql", PACED + FILL.format(10))
    process = there.popen("db.migrate-run", "--json")
    pauses = [wait_for_reason(process, "VACUUM works on public.t")["pause_s"] for _ in range(3)]
    assert 0.02 < pauses[0] < pauses[1] < pauses[2]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    agree(there)

"""What the engine promises, against real servers, real links and real kills."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest

from db.engine import waiting
from db.engine.place import Ledger
from db.engine.session import Session
from db.engine.survey import survey
from db.files.plan import Goal
from db.server.connection import Target
from db.server.watch import Guard, opened, taking
from db.settings import Settings, from_values
from tests.conftest import MakeCluster, Project
from tests.proxy import Proxy
from tests.servers import DEPLOY, PgBouncer

T = TypeVar("T")


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until it holds; the bound is only there against hangs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


def running(project: Project, text: str) -> Callable[[], bool]:
    """Return a condition: a statement with that text is being executed in the test's database."""

    def look() -> bool:
        with project.cluster.connect() as conn:
            row = conn.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND state = 'active' "
                "AND query LIKE %s",
                [project.database, f"%{text}%"],
            ).fetchone()
        return bool(row and row[0])

    return look


def scalar(project: Project, query: str) -> object:
    with project.cluster.connect(project.database) as conn:
        row = conn.execute(query.encode()).fetchone()
    return row[0] if row else None


def version(project: Project) -> int:
    """Return the server's major version."""
    with project.cluster.connect() as conn:
        return conn.info.server_version // 10_000


def valid(project: Project, index: str) -> object:
    return scalar(
        project, f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{index}'::regclass"
    )


def many(project: Project, count: int) -> list[str]:
    names = [f"{n:04}_t{n}.sql" for n in range(1, count + 1)]
    for n, name in enumerate(names, 1):
        project.write(name, f"CREATE TABLE t{n} (id int);\nCREATE INDEX ON t{n} (id);\n")
    return names


def agree(project: Project) -> None:
    """Ledger and database agree: table tN is there exactly if its file is recorded."""
    with project.cluster.connect(project.database) as conn:
        query = "SELECT relname FROM pg_class WHERE relname ~ '^t[0-9]+$'"
        tables = {row[0] for row in conn.execute(query)}
    assert tables == {name.removesuffix(".sql").split("_")[1] for name in project.executed()}


# 1. Pipeline


@pytest.mark.long
@pytest.mark.parametrize("count", [100, 1000])
def test_the_cost_of_distance_does_not_grow_with_the_files(
    project: Project, proxy: Proxy, count: int
) -> None:
    """At 30 ms a round trip, a fifth of the time that a round trip a statement would take."""
    many(project, count)
    project.invoke("db.migrate-run", env={"MIGRATIONS_DIR": "none"})  # warms the file cache
    proxy.latency_s = 0.015
    env = {"DATABASE_URL": project.cluster.url(project.database, port=proxy.port)}
    far = project.invoke("db.migrate-run", env=env, timeout=240)
    assert far.returncode == 0, far.output
    assert len(project.executed()) == count
    near_name = project.cluster.create_database()
    near_env = {"DATABASE_URL": project.cluster.url(near_name)}
    near = project.invoke("db.migrate-run", env=near_env, timeout=240)
    project.cluster.drop_database(near_name)
    assert near.returncode == 0
    # For a busy machine: a round trip a statement would be five times as much.
    assert far.seconds - near.seconds < count * 17 * 0.03 / 5


def test_lines_appear_while_later_files_are_still_running(project: Project) -> None:
    project.write("001_fast.sql", "CREATE TABLE t1 (id int);")
    project.write("002_slow.sql", "SELECT pg_sleep(60);")
    process = project.popen("db.migrate-run", env={"PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    process.stdout.readline()
    assert "001_fast.sql" in process.stdout.readline()
    assert project.executed() == ["001_fast.sql"]
    process.send_signal(signal.SIGINT)
    process.wait(30)


def test_nothing_runs_after_an_error_and_the_statement_is_known(project: Project) -> None:
    many(project, 10)
    body = "".join(f"INSERT INTO t1 VALUES ({n});\n" for n in range(500))
    project.write("0003_t3.sql", f"CREATE TABLE t3 (id int);\n{body}SELECT 1/0;\n{body}")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "migrations/0003_t3.sql:502:1: division by zero (22012)" in done.stderr
    assert project.executed() == ["0001_t1.sql", "0002_t2.sql"]
    agree(project)


def test_a_file_may_set_its_isolation_level(project: Project) -> None:
    check = "INSERT INTO levels VALUES (current_setting('transaction_isolation'));"
    project.write("001_t.sql", "CREATE TABLE levels (level text);")
    project.write("002_set.sql", f"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\n{check}")
    project.write("003_begin.sql", f"BEGIN ISOLATION LEVEL REPEATABLE READ;\n{check}\nCOMMIT;")
    project.write("004_plain.sql", check)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    with project.cluster.connect(project.database) as conn:
        rows = conn.execute("SELECT level FROM levels").fetchall()
    assert rows == [("serializable",), ("repeatable read",), ("read committed",)]


@pytest.mark.long
def test_large_statements_and_large_results_do_not_deadlock(project: Project) -> None:
    project.write(
        "001_x.sql",
        "CREATE TABLE big (t text);\n"
        + f"INSERT INTO big VALUES ('{'x' * 20_000_000}');\n"
        + "SELECT repeat('y', 1000) FROM generate_series(1, 20000);\n" * 3
        + "INSERT INTO big VALUES ('z');\n" * 20_000,
    )
    done = project.invoke("db.migrate-run", timeout=120)
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT count(*) FROM big") == 20_001


# 2. Durability


@pytest.mark.long
def test_a_crashed_server_leaves_a_prefix_and_the_next_run_completes(
    project: Project, own_cluster: MakeCluster
) -> None:
    cluster = own_cluster(fsync=True)
    there = Project.at(project, cluster)
    names = many(there, 300)
    process = there.popen("db.migrate-run", env={"MIGRATIONS_CONNECT_TIMEOUT": "0s"})
    wait_for(lambda: len(there.executed()) > 20)
    cluster.crash()
    process.wait(60)
    assert process.returncode == 1
    cluster.start()
    executed = there.executed()
    assert executed == names[: len(executed)]
    agree(there)
    assert there.invoke("db.migrate-run").returncode == 0
    assert there.executed() == names


def test_only_the_last_commit_waits_for_the_disk(project: Project) -> None:
    trace = "INSERT INTO seen VALUES (current_setting('synchronous_commit'))"
    project.write("001_t.sql", "CREATE TABLE seen (v text);")
    project.write("002_a.sql", trace)
    project.write("003_b.sql", trace)
    assert project.invoke("db.migrate-run").returncode == 0
    project.write("004_c.sql", trace)
    project.write("005_d.sql", trace)
    assert project.invoke("db.migrate-run", env={"MIGRATIONS_SYNC": "each"}).returncode == 0
    with project.cluster.connect(project.database) as conn:
        rows = [row[0] for row in conn.execute("SELECT v FROM seen")]
    assert rows == ["off", "on", "on", "on"]


# 3. Locks


@pytest.mark.long
def test_an_alter_behind_a_long_reader_does_not_queue_the_application(project: Project) -> None:
    """The worst stall of the application's reads stays under a second; the reader is named."""
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE hot AS SELECT 1 AS id")
    project.write("001_alter.sql", "ALTER TABLE hot ADD COLUMN more int;")
    stop, worst = threading.Event(), [0.0]

    def application() -> None:
        with project.cluster.connect(project.database) as conn:
            while not stop.is_set():
                started = time.monotonic()
                conn.execute("SELECT id FROM hot")
                worst[0] = max(worst[0], time.monotonic() - started)
                time.sleep(0.005)

    thread = threading.Thread(target=application)
    with project.cluster.connect(project.database, autocommit=False) as reader:
        reader.execute("SELECT * FROM hot")
        thread.start()
        process = project.popen("db.migrate-run")
        time.sleep(4)
        assert process.poll() is None
        reader.rollback()
    out, err = process.communicate(timeout=60)
    stop.set()
    thread.join()
    assert process.returncode == 0, out + err
    assert "waits for a lock" in out
    assert "blocked by pid" in out
    assert worst[0] < 1.0


@pytest.mark.long
def test_a_lock_that_never_comes_ends_in_an_error_that_names_the_blocker(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE hot AS SELECT 1 AS id")
    project.write("001_ok.sql", "SELECT 1;")
    project.write("002_alter.sql", "ALTER TABLE hot ADD COLUMN more int;")
    with project.cluster.connect(project.database, autocommit=False) as reader:
        reader.execute("SELECT * FROM hot")
        pid = reader.info.backend_pid
        done = project.invoke("db.migrate-run", env={"MIGRATIONS_LOCK_WAIT": "2s"})
    assert done.returncode == 1
    assert "(55P03)" in done.stderr
    assert f"blocked by pid {pid}" in done.stderr
    assert "End that session, or wait longer for it: MIGRATIONS_LOCK_WAIT=30min" in done.stderr
    assert project.executed() == ["001_ok.sql"]


@pytest.mark.parametrize(
    ("head", "env", "longer"),
    [
        ("-- migrate: lock-timeout=50ms\n", {}, "-- migrate: lock-timeout=2s"),
        ("", {"MIGRATIONS_LOCK_TIMEOUT": "50ms"}, "MIGRATIONS_LOCK_TIMEOUT=2s"),
    ],
    ids=["file", "settings"],
)
def test_attempts_too_short_to_see_who_is_in_the_way_do_not_say_to_end_that_session(
    project: Project, head: str, env: dict[str, str], longer: str
) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE hot AS SELECT 1 AS id")
    project.write("001_alter.sql", f"{head}ALTER TABLE hot ADD COLUMN more int;")
    with project.cluster.connect(project.database, autocommit=False) as reader:
        reader.execute("SELECT * FROM hot")
        done = project.invoke("db.migrate-run", env={"MIGRATIONS_LOCK_WAIT": "300ms", **env})
    assert done.returncode == 1
    assert f"a longer lock-timeout names it: {longer}\n" in done.stderr
    assert "End that session" not in done.stderr


def test_timeouts_of_one_file(project: Project) -> None:
    shown = "current_setting('lock_timeout'), current_setting('statement_timeout')"
    show = f"INSERT INTO seen VALUES ({shown})"
    head = "-- migrate: lock-timeout=2s\n-- migrate: statement-timeout=10min\n"
    project.write("001_t.sql", "CREATE TABLE seen (l text, s text);")
    project.write("002_a.sql", head + show)
    project.write("003_b.sql", show)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    with project.cluster.connect(project.database) as conn:
        rows = conn.execute("SELECT * FROM seen").fetchall()
    assert rows == [("2s", "10min"), ("500ms", "0")]
    project.write("004_slow.sql", "-- migrate: statement-timeout=100ms\nSELECT pg_sleep(60);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "(57014)" in done.stderr
    assert "statement-timeout" in done.stderr


# 4. Exactly once


@pytest.mark.parametrize("guard", ["on", "off"])
@pytest.mark.parametrize(
    "pooled", [False, pytest.param(True, marks=pytest.mark.long)], ids=["direct", "PgBouncer"]
)
def test_many_runners_execute_each_file_once_and_all_end_well(
    project: Project, pgbouncer: PgBouncer, guard: str, pooled: bool
) -> None:
    project.write("0001_t1.sql", "CREATE TABLE counts (n int); CREATE TABLE big (id int);")
    project.write("0002_t2.sql", "INSERT INTO big SELECT generate_series(1, 200000);")
    index = "CREATE INDEX CONCURRENTLY big_id ON big (id);"
    project.write(
        "0003_t3.sql",
        f"-- migrate: no-transaction\nINSERT INTO counts VALUES (3);\n{index}\n"
        "INSERT INTO counts VALUES (4);\n",
    )
    for n in range(5, 30):
        project.write(f"{n:04}_t{n}.sql", f"INSERT INTO counts VALUES ({n});")
    env = {"MIGRATIONS_GUARD": guard}
    if pooled:
        env["DATABASE_URL"] = pgbouncer.url(project.database)
    runs = [project.popen("db.migrate-run", env=env) for _ in range(6)]
    for run in runs:
        out, err = run.communicate(timeout=120)
        assert run.returncode == 0, out + err
    with project.cluster.connect(project.database) as conn:
        counted = [row[0] for row in conn.execute("SELECT n FROM counts ORDER BY n")]
        unfinished = conn.execute("SELECT count(*) FROM migrations_unfinished").fetchone()
    assert valid(project, "big_id") is True
    assert counted == list(range(3, 30))
    assert len(project.executed()) == 28
    assert unfinished == (0,)


@pytest.mark.long
def test_runs_that_create_the_ledger_at_the_same_moment_all_get_it(project: Project) -> None:
    """IF NOT EXISTS looks once; what appears after the look is one of three errors."""
    at_once = threading.Barrier(6)

    def create(_: int) -> list[Ledger]:
        made = []
        target = Target(from_values({}, project.url).parameters, 30)
        session = finish(Session.open(target, from_values({}, project.url), create=False))
        try:
            for n in range(200):
                session.settings = from_values({"MIGRATIONS_TABLE": f"ledger_{n}"}, project.url)
                found = survey(session.conn, session.settings, Goal("db.migrate-run"))
                at_once.wait(30)
                made.append(finish(waiting.prepare(session, found, unfinished=True)))
                at_once.wait(30)
        finally:
            session.close()
        return made

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(create, range(6)))
    assert len(made[0]) == 200
    assert all(ledgers == made[0] for ledgers in made)


def test_a_ledger_that_cannot_be_made_is_said_at_once(project: Project) -> None:
    project.write("001_a.sql", "SELECT 1;")
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TYPE migrations AS ENUM ('a')")
        done = project.invoke("db.migrate-run")
        assert done.returncode == 2
        assert 'type "migrations" already exists (42710)\nSet MIGRATIONS_TABLE to' in done.stderr
        conn.execute("DROP TYPE migrations")
        conn.execute("CREATE TABLE migrations (id serial, filename text, executed_at timestamp)")
        conn.execute("INSERT INTO migrations (filename) VALUES ('001_a.sql'), ('001_a.sql')")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "Key (filename)=(001_a.sql) is duplicated." in done.stderr
    assert 'Leave one row in "public"."migrations".' in done.stderr


def finish(steps: Generator[object, None, T]) -> T:
    """Return what a generator returns."""

    def whole() -> Generator[object, None, None]:
        result.append((yield from steps))

    result: list[T] = []
    for _ in whole():
        pass
    return result[0]


@pytest.mark.long
def test_a_waiting_runner_says_whom_it_waits_for(project: Project) -> None:
    project.write("001_slow.sql", "SELECT pg_sleep(4);")
    first = project.popen("db.migrate-run")
    wait_for(running(project, "pg_sleep"))
    second = project.invoke("db.migrate-run")
    assert second.returncode == 0, second.output
    assert "another run" in second.stdout
    assert str(first.pid) in second.stdout
    assert first.wait(30) == 0
    assert project.executed() == ["001_slow.sql"]


# 5. no-transaction files


def test_a_no_transaction_file_resumes_at_the_statement_that_failed(project: Project) -> None:
    text = (
        "-- migrate: no-transaction\n"
        "CREATE TABLE a (id int);\n"
        "INSERT INTO a VALUES (1), (1);\n"
        "CREATE UNIQUE INDEX CONCURRENTLY a_id ON a (id);\n"
        "INSERT INTO a VALUES (7);\n"
    )
    project.write("001_a.sql", text)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "migrations/001_a.sql:4:1: " in done.stderr
    assert "(23505)" in done.stderr
    assert project.executed() == []
    assert valid(project, "a_id") is False
    with project.cluster.connect(project.database) as conn:
        conn.execute("DELETE FROM a WHERE ctid = (SELECT min(ctid) FROM a)")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert "dropping the INVALID index" in done.stdout
    assert valid(project, "a_id") is True
    assert scalar(project, "SELECT count(*) FROM a") == 2
    assert project.executed() == ["001_a.sql"]


def test_an_invalid_index_behind_if_not_exists_is_rebuilt(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS id FROM generate_series(1, 2)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            conn.execute("CREATE UNIQUE INDEX CONCURRENTLY a_id ON a (id)")
    project.write(
        "001_a.sql",
        "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS a_id ON a (id);\n",
    )
    assert project.invoke("db.migrate-run").returncode == 0
    assert valid(project, "a_id") is True


@pytest.mark.long
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_run_cut_off_while_it_builds_an_index_is_finished_by_the_next(
    project: Project, blow: signal.Signals
) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS id")
    project.write(
        "001_a.sql",
        "-- migrate: no-transaction\nINSERT INTO a VALUES (2);\n"
        "CREATE INDEX CONCURRENTLY a_id ON a (id);\nINSERT INTO a VALUES (3);\n",
    )
    with project.cluster.connect(project.database, autocommit=False) as writer:
        writer.execute("INSERT INTO a VALUES (0)")  # CONCURRENTLY waits for this transaction
        process = project.popen("db.migrate-run")
        wait_for(running(project, "CREATE INDEX CONCURRENTLY"))
        process.send_signal(blow)
        process.wait(30)
        assert process.returncode == (-blow if blow == signal.SIGKILL else 128 + blow)
        if blow == signal.SIGKILL and version(project) >= 14:  # 13 does not notice
            wait_for(lambda: not running(project, "CREATE INDEX CONCURRENTLY")(), 60)
        writer.commit()
    assert project.executed() == []
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert valid(project, "a_id") is True
    assert scalar(project, "SELECT array_agg(id ORDER BY id)::text FROM a") == "{0,1,2,3}"


def test_a_finished_part_that_was_edited_is_refused_with_both_ways_out(project: Project) -> None:
    head = "-- migrate: no-transaction\nCREATE TABLE a (id int);\n"
    project.write("001_a.sql", head + "SELECT nonsense;\n")
    assert project.invoke("db.migrate-run").returncode == 1
    project.write("001_a.sql", head.replace("int", "bigint") + "SELECT 1;\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "migrations/001_a.sql:2:1: " in done.stderr
    assert "Put the executed text back" in done.stderr
    assert "db.repair --name 001_a.sql --forget" in done.stderr
    project.write("001_a.sql", head + "SELECT 1;\n")
    assert project.invoke("db.migrate-run").returncode == 0


def test_blocks_of_a_no_transaction_file_are_units(project: Project) -> None:
    project.write(
        "001_a.sql",
        "-- migrate: no-transaction\nCREATE TABLE a (id int);\n"
        "BEGIN ISOLATION LEVEL SERIALIZABLE;\nINSERT INTO a VALUES (1);\n"
        "INSERT INTO a SELECT 2 WHERE current_setting('transaction_isolation') = 'serializable';\n"
        "SELECT 1 / 0;\nCOMMIT;\nVACUUM a;\nINSERT INTO a VALUES (3);\n",
    )
    assert project.invoke("db.migrate-run").returncode == 1
    assert scalar(project, "SELECT count(*) FROM a") == 0
    text = (project.migrations / "001_a.sql").read_text()
    project.write("001_a.sql", text.replace("SELECT 1 / 0;\n", ""))
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT array_agg(id ORDER BY id)::text FROM a") == "{1,2,3}"


def test_a_batched_backfill_may_commit_as_it_goes(project: Project) -> None:
    body = "BEGIN FOR n IN 1..3 LOOP INSERT INTO a VALUES (n); COMMIT; END LOOP; END"
    text = (
        "CREATE TABLE a (id int);\n"
        f"CREATE PROCEDURE fill() LANGUAGE plpgsql AS $$ {body} $$;\n"
        f"CALL fill();\nDO $$ {body} $$;\nINSERT INTO a VALUES (9);\n"
    )
    project.write("001_a.sql", text)
    refused = project.invoke("db.migrate-run")
    assert refused.returncode == 1
    assert "-- migrate: no-transaction" in refused.stderr
    project.write("001_a.sql", "-- migrate: no-transaction\n" + text)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT count(*) FROM a") == 7


def test_settings_of_a_finished_part_hold_again_when_it_is_resumed(project: Project) -> None:
    head = "-- migrate: no-transaction\nCREATE SCHEMA other;\nSET search_path = other;\n"
    project.write("001_a.sql", head + "SELECT nonsense;\n")
    assert project.invoke("db.migrate-run").returncode == 1
    project.write("001_a.sql", head + "CREATE TABLE here (id int);\n")
    assert project.invoke("db.migrate-run").returncode == 0
    assert scalar(project, "SELECT to_regclass('other.here') IS NOT NULL") is True


def test_what_cannot_be_decided_stops_with_the_choice(project: Project) -> None:
    project.write(
        "001_a.sql",
        "-- migrate: no-transaction\nSELECT 1;\nCALL decided_by_a_person();\n",
    )
    project.write("002_b.sql", "SELECT 1;")
    # What a run that was cut off leaves behind.
    assert project.invoke("db.migrate-single", "002_b.sql").returncode == 0
    done = project.invoke("db.migrate-run", env={"MIGRATIONS_ROLE": "no_such_role"})
    assert done.returncode == 1
    with project.cluster.connect(project.database) as conn:
        checksum = "encode(sha256('CALL decided_by_a_person()'), 'hex')"
        conn.execute(
            "INSERT INTO migrations_unfinished (filename, unit, checksum, run_by) "
            f"SELECT '001_a.sql', 1, {checksum}, 'x'".encode()
        )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "migrations/001_a.sql:3:1: " in done.stderr
    assert "DELETE FROM" in done.stderr
    assert "UPDATE" in done.stderr
    with project.cluster.connect(project.database) as conn:
        conn.execute("UPDATE migrations_unfinished SET finished_at = now() WHERE unit = 1")
    assert project.invoke("db.migrate-run").returncode == 0


# 6. Refusals


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("SELECT 1;\nCREATE INDEX CONCURRENTLY i ON t (id);", "2:1", "-- migrate: no-transaction"),
        ("VACUUM;", "1:1", "-- migrate: no-transaction"),
        ("SELECT 1;\nCOMMIT;\nSELECT 2;", "2:1", "COMMIT"),
        ("-- migrate: no-transactoin\nSELECT 1;", "1:", "no-transaction"),
        ("\\i other.sql\n", "1:1", "\\i"),
        ("\\connect other\n", "1:1", "DATABASE_URL"),
        ("\\set x 1\nSELECT 1;", "1:1", "\\set"),
        ("SELECT 'open;", "1:8", "quote"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_runs(
    project: Project, text: str, place: str, said: str
) -> None:
    project.write("001_ok.sql", "CREATE TABLE t (id int);")
    project.write("002_bad.sql", text)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert f"migrations/002_bad.sql:{place}" in done.stderr
    assert said in done.stderr
    assert project.rows() == []


# 7. pg_dump files


def test_a_pg_dump_runs_as_it_is(project: Project, binaries: Path) -> None:
    source = project.cluster.create_database()
    with project.cluster.connect(source) as conn:
        conn.execute("CREATE TABLE dumped (id serial PRIMARY KEY, note text)")
        values = "(E'tab\\there'), (NULL), (E'back\\\\slash'), ('é')"
        conn.execute(f"INSERT INTO dumped (note) VALUES {values}".encode())
    dump = subprocess.run(
        [binaries / "pg_dump", project.cluster.url(source)], check=True, capture_output=True
    )
    project.cluster.drop_database(source)
    assert b"COPY public.dumped" in dump.stdout
    text = dump.stdout
    if version(project) < 17:  # the pg_dump of a newer one may have written it
        text = text.replace(b"SET transaction_timeout = 0;\n", b"")
    project.write("001_dump.sql", text)
    project.write("002_after.sql", "CREATE TABLE after_it (id int);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    notes = scalar(project, "SELECT string_agg(coalesce(note, '-'), '|' ORDER BY id) FROM dumped")
    assert notes == "tab\there|-|back\\slash|é"
    assert scalar(project, "SELECT to_regclass('public.after_it') IS NOT NULL") is True


def test_a_bad_line_of_copy_data_rolls_the_file_back(project: Project) -> None:
    project.write(
        "001_x.sql",
        "CREATE TABLE c (id int);\nCOPY c FROM stdin;\n1\n2\nnonsense\n\\.\nSELECT 1;\n",
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "(22P02)" in done.stderr
    assert "COPY c, line 3" in done.stderr
    assert "migrations/001_x.sql:5:1: invalid input syntax" in done.stderr
    assert " > 5 | nonsense\n" in done.stderr
    assert scalar(project, "SELECT to_regclass('c') IS NULL") is True


@pytest.mark.parametrize(
    ("options", "rows", "place"),
    [
        ("", "1\tone\n2\tdeux\nx\n", "7:1"),  # a column is missing
        ("", "1\tone\n2x\tdeux\n", "6:1"),
        (" WITH (FORMAT csv, HEADER)", 'id,t\n1,"a\nb"\n2,xyz\n', "8:1"),
        (" WITH (FORMAT csv)", "1,aé\n2,sechs\n", "6:3"),
        ("", "1\tone\n1\ttwo\n", "6:1"),  # of a key
    ],
)
def test_an_error_in_copy_data_is_placed_at_its_line(
    project: Project, options: str, rows: str, place: str
) -> None:
    text = "-- x\nCREATE TABLE c (id int PRIMARY KEY,\n  t varchar(4) CHECK (t <> 'xyz'));\n"
    project.write("001_x.sql", f"{text}COPY c (id, t) FROM stdin{options};\n{rows}\\.\nSELECT 1;\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert f"migrations/001_x.sql:{place}: " in done.stderr, done.stderr
    assert scalar(project, "SELECT to_regclass('c') IS NULL") is True


_NOTICES = """CREATE TABLE big (id int, t text);
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE NOTICE '%', repeat('x', 30000); RETURN NEW; END $$;
CREATE TRIGGER told BEFORE INSERT ON big FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION told();
"""


@pytest.mark.long
@pytest.mark.parametrize("bad", [True, False], ids=["refused", "noticed"])
def test_data_are_sent_until_the_server_has_refused_them(project: Project, *, bad: bool) -> None:
    """It reads the rest of refused data, only to throw it away."""
    line = b"1\t" + b"x" * 1000 + b"\n"
    path = project.write("001_big.sql", f"{_NOTICES}COPY big FROM stdin;\n".encode())
    with path.open("ab") as file:
        file.write(b"x\n" if bad else b"")
        for _ in range(40):
            file.write(line * 1000 + line.replace(b"1", b"7", 1) * 5)
        file.write(b"\\.\n")
    code = (
        "import sys, time; from db import migrate; from db.server import pipeline\n"
        "pipeline._SILENCE_S, copy, sent = 0.0, pipeline.Pipeline._copy_data, []\n"
        "def counted(self, data):\n"
        "    return copy(self, (sent.append(len(chunk)) or chunk for chunk in data\n"
        "                if not time.sleep(0.05)))\n"  # in which a server can answer
        "pipeline.Pipeline._copy_data = counted\n"
        "try: migrate(sys.argv[1], sys.argv[2])\n"
        "finally: print(sum(sent))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, project.url, str(project.migrations)],
        cwd=project.folder,
        env=project.environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    size = path.stat().st_size
    if bad:
        assert "(22P02)" in done.stderr
        assert "COPY big, line 1" in done.stderr
        assert int(done.stdout) < size / 2
        assert project.executed() == []
    else:
        assert done.returncode == 0, done.stderr
        assert scalar(project, "SELECT count(*) FROM big") == 40_200


@pytest.mark.long
def test_a_large_copy_file_does_not_become_memory(project: Project) -> None:
    line = b"1234567\t" + b"x" * 991 + b"\n"
    head = b"CREATE TABLE big (id int, t text);\nCOPY big FROM stdin;\n"
    path = project.write("001_big.sql", head)
    with path.open("ab") as file:
        for _ in range(300):
            file.write(line * 1000)
        file.write(b"\\.\n")
    # VmHWM, not ru_maxrss: that one remembers the process which started this one.
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
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MB, of a file of 300
    assert scalar(project, "SELECT count(*) FROM big") == 300_000


_COMMITS = """-- migrate: no-transaction
CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN
    CREATE TABLE a (id int); COMMIT; CREATE TABLE b (id int); END $$;
{mark}DO $$ BEGIN CALL commits(); END $$;
"""


def test_a_statement_that_hides_why_runs_outside_where_its_file_says_so(project: Project) -> None:
    project.write("001_x.sql", _COMMITS.format(mark=""))
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "(2D000)" in done.stderr
    assert "needs this on the line above it: -- migrate: outside" in done.stderr
    assert "needs this on a line at the top" not in done.stderr
    project.write("001_x.sql", _COMMITS.format(mark="-- migrate: outside\n"))
    assert project.invoke("db.migrate-run").returncode == 0
    assert scalar(project, "SELECT count(*) FROM pg_class WHERE relname IN ('a', 'b')") == 2


def test_a_mode_that_is_set_too_late_is_told_where_to_stand(project: Project) -> None:
    project.write("001_x.sql", "SELECT 1;\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE;")
    done = project.invoke("db.migrate-run")
    assert "(25001)" in done.stderr
    assert "Put it above all other statements" in done.stderr
    assert "no-transaction" not in done.stderr
    project.write("001_x.sql", "SET transaction_isolation = 'serializable';\nSELECT 1;")
    assert project.invoke("db.migrate-run").returncode == 0


# 8. Isolation


def test_nothing_leaks_from_one_file_to_the_next(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("DO $$ BEGIN CREATE ROLE leaky; EXCEPTION WHEN duplicate_object THEN END $$")
        conn.execute("GRANT ALL ON SCHEMA public TO leaky")
    # Behind it the run knows what functions there are: the others go through one pipeline.
    project.write("000_seen.sql", "CREATE TABLE seen (what text);\nSELECT 1;\n")
    project.write(
        "001_leak.sql",
        "SET search_path = pg_catalog;\nSET work_mem = '77MB';\n"
        "SET row_security = off;\nCREATE TEMP TABLE left_over (id int);\nLISTEN channel;\n"
        "PREPARE p AS SELECT 1;\nSELECT pg_advisory_lock(42);\nSET ROLE leaky;\n",
    )
    project.write("002_auth.sql", "SET SESSION AUTHORIZATION leaky;")
    project.write(
        "003_look.sql",
        "INSERT INTO seen SELECT 'path' WHERE current_schema() <> 'public';\n"
        "INSERT INTO seen SELECT 'work_mem' WHERE current_setting('work_mem') = '77MB';\n"
        "INSERT INTO seen SELECT 'temp' WHERE to_regclass('pg_temp.left_over') IS NOT NULL;\n"
        "INSERT INTO seen SELECT 'role' WHERE current_user = 'leaky' OR session_user = 'leaky';\n"
        "INSERT INTO seen SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND objid = 42;\n"
        "INSERT INTO seen SELECT 'listen' FROM pg_listening_channels();\n"
        "PREPARE p AS SELECT 1;\n",
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    with project.cluster.connect(project.database) as conn:
        assert conn.execute("SELECT what FROM seen").fetchall() == []


def test_migrations_role_owns_what_is_made(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("GRANT ALL ON SCHEMA public TO deploy")
    project.write("001_t.sql", "CREATE TABLE t (id int);")
    project.write(
        "002_u.sql",
        "-- migrate: no-transaction\nCREATE TABLE u (id int);\n"
        "CREATE INDEX CONCURRENTLY u_id ON u (id);\n",
    )
    done = project.invoke("db.migrate-run", env={"MIGRATIONS_ROLE": "deploy"})
    assert done.returncode == 0, done.output
    with project.cluster.connect(project.database) as conn:
        rows = conn.execute(
            "SELECT relname, relowner::regrole::text FROM pg_class "
            "WHERE relname IN ('t', 'u', 'u_id', 'migrations') ORDER BY 1"
        ).fetchall()
    assert rows == [
        ("migrations", "postgres"),
        ("t", "deploy"),
        ("u", "deploy"),
        ("u_id", "deploy"),
    ]


# 9. Lost connections


def test_a_terminated_backend_is_reconnected_and_the_run_completes(project: Project) -> None:
    project.write("001_t.sql", "CREATE TABLE t1 (id int);")
    project.write("002_slow.sql", "CREATE TABLE t2 (id int);\nSELECT pg_sleep(3);\n")
    project.write("003_t.sql", "CREATE TABLE t3 (id int);")
    process = project.popen("db.migrate-run")
    wait_for(running(project, "pg_sleep"))
    with project.cluster.connect() as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = %s AND query LIKE '%%pg_sleep%%'",
            [project.database],
        )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert project.executed() == ["001_t.sql", "002_slow.sql", "003_t.sql"]


@pytest.mark.long
def test_a_restarted_server_is_waited_for_and_the_run_goes_on(
    project: Project, own_cluster: MakeCluster
) -> None:
    cluster = own_cluster()
    there = Project.at(project, cluster)
    names = many(there, 20)
    there.write("0010_t10.sql", "CREATE TABLE t10 (id int);\nSELECT pg_sleep(2);\n")
    process = there.popen("db.migrate-run")
    wait_for(running(there, "pg_sleep"))
    cluster.restart()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    assert there.executed() == names
    agree(there)


@pytest.mark.parametrize("after", [1, 700, 9_000, 30_000])
def test_a_link_cut_anywhere_neither_repeats_nor_skips(
    project: Project, proxy: Proxy, after: int
) -> None:
    names = many(project, 60)
    env = {"DATABASE_URL": project.cluster.url(project.database, port=proxy.port)}
    proxy.cut_after(down=after)
    process = project.popen("db.migrate-run", env=env)
    time.sleep(1.5)
    proxy.resume()
    out, err = process.communicate(timeout=60)
    if process.returncode:  # cut while connecting, which is no run yet
        assert project.invoke("db.migrate-run", env=env).returncode == 0, out + err
    assert project.executed() == names
    agree(project)


@pytest.mark.long
def test_the_server_notices_that_its_client_is_gone(project: Project) -> None:
    """From PostgreSQL 14 on; before that it does when the statement has come to its end."""
    seconds = 600 if version(project) >= 14 else 15
    project.write("001_slow.sql", f"SELECT pg_sleep({seconds});")
    process = project.popen("db.migrate-run")
    wait_for(running(project, "pg_sleep"))
    process.kill()
    process.wait()
    wait_for(lambda: not running(project, "pg_sleep")(), 30)


def test_the_server_notices_that_the_machine_of_its_client_is_gone(project: Project) -> None:
    """Nobody pulls a plug here: that it looks often enough is what a run can see to."""
    shown = "SELECT name || ' ' || setting FROM pg_settings WHERE name LIKE 'tcp_%' ORDER BY name"
    project.write("001_transaction.sql", f"CREATE TABLE shown AS {shown};")
    project.write(
        "002_units.sql", f"-- migrate: no-transaction\nINSERT INTO shown {shown}; VACUUM shown;"
    )
    url = project.cluster.url(project.database, port=project.cluster.port)  # a socket has none
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert done.returncode == 0, done.output
    with project.cluster.connect(project.database) as conn:
        rows = [row[0] for row in conn.execute("TABLE shown")]
    for setting in (
        "tcp_keepalives_idle 10",
        "tcp_keepalives_interval 5",
        "tcp_user_timeout 30000",
    ):
        assert rows.count(setting) == 2, rows


# 10. Signals


@pytest.mark.parametrize(("blow", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_cancels_rolls_back_and_says_what_stands(
    project: Project, blow: signal.Signals, code: int
) -> None:
    project.write("001_t.sql", "CREATE TABLE t1 (id int);")
    project.write("002_slow.sql", "CREATE TABLE t2 (id int);\nSELECT pg_sleep(600);\n")
    process = project.popen("db.migrate-run")
    wait_for(running(project, "pg_sleep"))
    os.kill(process.pid, blow)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "001_t.sql" in err
    assert "002_slow.sql" in err
    assert "Traceback" not in out + err
    assert not running(project, "pg_sleep")()
    assert project.executed() == ["001_t.sql"]
    assert scalar(project, "SELECT to_regclass('t2') IS NULL") is True


def test_a_second_connection_that_does_not_come_is_not_waited_for_in_the_end(
    project: Project, proxy: Proxy
) -> None:
    """A pooler may have no connection left for it for as long as others work."""
    proxy.hang()
    url = project.cluster.url(project.database, port=proxy.port)
    opening = opened(
        Target(from_values({}, url).parameters, 30), ("key",), "migrations 000000", lock=True
    )
    started = time.monotonic()
    opening.close()
    assert time.monotonic() - started < 8  # its own limit is 10
    proxy.resume()
    wait_for(lambda: not opening.is_alive())
    others = "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "
    wait_for(lambda: scalar(project, f"{others}'{project.database}'") == 0)


def test_kill_nine_needs_no_cleaning_up(project: Project) -> None:
    names = many(project, 5)
    project.write("0003_t3.sql", "CREATE TABLE t3 (id int);\nSELECT pg_sleep(3);\n")
    process = project.popen("db.migrate-run")
    wait_for(running(project, "pg_sleep"))
    process.kill()
    process.wait()
    agree(project)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert project.executed() == names


# 11. Errors


def test_the_caret_is_right_in_multi_byte_text_with_tabs(project: Project) -> None:
    project.write("001_x.sql", "SELECT 1;\nSELECT 'größe 漢字',\tnonsense;\n")
    done = project.invoke("db.migrate-run")
    assert "migrations/001_x.sql:2:20: " in done.stderr
    lines = done.stderr.splitlines()
    source = next(i for i, line in enumerate(lines) if "größe" in line)
    assert "^" in lines[source + 1]


def test_an_error_in_a_function_shows_its_context_and_inner_query(project: Project) -> None:
    project.write(
        "001_f.sql",
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$\n"
        "BEGIN RAISE NOTICE 'about to fail'; EXECUTE 'SELECT nonsense'; RETURN 1; END $$;\n"
        "SELECT f();\n",
    )
    done = project.invoke("db.migrate-run")
    assert "PL/pgSQL function f()" in done.stderr
    assert "SELECT nonsense" in done.stderr
    assert "about to fail" in done.stderr


def test_who_has_the_turn_is_said_as_far_as_the_server_tells(project: Project) -> None:
    def target(role: str) -> Target:
        url = project.cluster.url(project.database, role=role)
        return Target(Settings.of(url, project.migrations).parameters, 5)

    keys = ("a ledger",)
    theirs = Guard(target(DEPLOY), keys)
    with project.cluster.connect(project.database, application_name="migrations 3fa2b1") as file:
        with file.transaction():  # as a file of db.fleet takes its turn
            file.execute(taking(keys))
            assert theirs.holder() == "another run, migrations 3fa2b1 (as postgres)"
            own = Guard(target("postgres"), keys)
            assert re.fullmatch(
                r"another run, migrations 3fa2b1 \(as postgres from [^,]+, for \d+ s\)",
                own.holder(),
            )
        assert own.lock()
    assert re.fullmatch(r"another run, \S+@\S+ \(as postgres\)", theirs.holder())
    own.close()
    theirs.close()


def test_a_notice_without_text_is_shown_before_the_error(project: Project) -> None:
    project.write(
        "001_n.sql", "DO $$ BEGIN RAISE NOTICE ''; RAISE NOTICE E'\\n'; END $$;\nSELECT 1/0;\n"
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "001_n.sql:2:1: division by zero" in done.stderr
    assert "\n  notice:\n" in done.stderr


def test_a_missing_extension_says_how_to_get_it(project: Project) -> None:
    project.write("001_x.sql", "CREATE EXTENSION no_such_extension;")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "install its package" in done.stderr


def test_an_error_at_commit_is_said_to_be_one(project: Project) -> None:
    project.write(
        "001_x.sql",
        "CREATE TABLE p (id int PRIMARY KEY);\n"
        "CREATE TABLE c (id int REFERENCES p DEFERRABLE INITIALLY DEFERRED);\n"
        "INSERT INTO c VALUES (1);\n",
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "COMMIT" in done.stderr
    assert "(23503)" in done.stderr
    assert project.executed() == []


def test_notices_are_shown_under_their_file_the_latest_twenty_and_a_count(
    project: Project,
) -> None:
    project.write("001_few.sql", "DROP TABLE IF EXISTS never_made;")
    loop = "FOR n IN 1..1500 LOOP RAISE NOTICE 'row %', n; END LOOP;"
    project.write("002_many.sql", f"DO $$BEGIN {loop} END$$;")
    out = project.invoke("db.migrate-run").stdout
    assert '    notice: table "never_made" does not exist, skipping\n' in out
    assert "note: 002_many.sql: 1,480 earlier messages of the server are not shown\n" in out
    assert re.findall(r"    notice: row (\d+)\n", out) == [str(n) for n in range(1481, 1501)]


def test_an_interrupt_names_ten_files_and_counts_the_others(project: Project) -> None:
    for n in range(1, 31):
        project.write(f"{n:03}_x.sql", f"CREATE TABLE t{n} ();")
    project.write("031_slow.sql", "SELECT pg_sleep(60);")
    process = project.popen("db.migrate-run")
    wait_for(running(project, "SELECT pg_sleep(60)"))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert "009_x.sql, 010_x.sql and 20 more. Not executed: 1, from 031_slow.sql on." in said


@pytest.mark.parametrize("text", ["", "-- nothing\n", "/* nothing */", "\n;;\n"])
def test_a_file_without_a_statement_stays_pending_so_that_it_can_be_written(
    project: Project, text: str
) -> None:
    project.write("001_x.sql", text)
    project.write("002_x.sql", "-- migrate: no-transaction\n" + text)
    project.write("003_x.sql", "CREATE TABLE t (id int);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert "because 001_x.sql, 002_x.sql hold no statement yet" in done.stdout
    assert project.executed() == ["003_x.sql"]
    assert project.invoke("db.status", "--check").returncode == 3
    for name in ("001_x.sql", "002_x.sql"):
        project.write(name, f"CREATE TABLE t{name[2]} (id int);")
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.executed() == ["003_x.sql", "001_x.sql", "002_x.sql"]


# 12. Watching


def test_a_long_index_build_shows_how_far_it_is_and_whom_it_waits_for(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS id")
    project.write(
        "001_a.sql", "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY a_id ON a (id);\n"
    )
    with project.cluster.connect(project.database, autocommit=False) as writer:
        writer.execute("INSERT INTO a VALUES (0)")
        pid = writer.info.backend_pid
        process = project.popen("db.migrate-run", "--json")
        assert process.stdout is not None
        line = next(line for line in process.stdout if '"progress"' in line)
        writer.commit()
    process.communicate(timeout=30)
    assert "waiting for writers" in line
    assert f'"pid": {pid}' in line


# 13. Engines


def test_to_look_on_never_keeps_an_index_build_waiting(project: Project) -> None:
    """It waits for the end of every transaction that has a snapshot when it comes to that point."""
    guard = Guard(Target(from_values({}, project.url).parameters, 30), ("key",))
    assert guard.lock()
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE a AS SELECT 1 AS id")
        conn.execute("SET statement_timeout = '30s'")

        def look() -> None:
            for _ in range(200):
                guard.look("migrations ", progress=True)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            while looking.is_alive():
                conn.execute("CREATE INDEX CONCURRENTLY a_id ON a (id)")
                conn.execute("DROP INDEX a_id")
        finally:
            looking.join()
            guard.close()


def test_a_server_without_advisory_locks_is_said_once_and_works(project: Project) -> None:
    many(project, 3)
    with project.cluster.connect(project.database) as conn:
        conn.execute("GRANT ALL ON SCHEMA public TO deploy")
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("ALTER FUNCTION pg_try_advisory_xact_lock(bigint) RENAME TO gone")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert done.stdout.count("no advisory locks") == 1
    assert len(project.executed()) == 3


@pytest.mark.parametrize(
    ("shared", "reason"),
    [
        ("CREATE SCHEMA IF NOT EXISTS shared", "pg_namespace_nspname_index"),
        ("GRANT USAGE ON SCHEMA public TO public", "tuple concurrently updated"),
    ],
)
def test_what_two_sessions_do_to_a_catalog_at_once_is_tried_again(
    project: Project, shared: str, reason: str
) -> None:
    project.write("001_a.sql", f"CREATE TABLE a (id int);\n{shared};\n")
    with project.cluster.connect(project.database, autocommit=False) as other:
        other.execute(shared.encode())
        process = project.popen("db.migrate-run", "--json", env={"MIGRATIONS_LOCK_TIMEOUT": "0"})
        wait_for(running(project, shared[:20]))
        wait_for(lambda: scalar(project, "SELECT count(*) FROM pg_locks WHERE NOT granted") == 1)
        other.commit()
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    again = [line for line in map(json.loads, stdout.splitlines()) if line["event"] == "retrying"]
    assert [reason in line["reason"] for line in again] == [True]
    assert project.executed() == ["001_a.sql"]

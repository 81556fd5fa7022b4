"""no-transaction files: what they leave, whom they keep waiting, and what is known after a kill."""

from __future__ import annotations

import json
import re
import signal
import threading
import time

import psycopg
import pytest

from tests.conftest import MakeCluster, Project
from tests.scenarios import mixed
from tests.scenarios.test_engine import running, scalar, valid, version, wait_for
from tests.servers import PgBouncer

HEAD = "-- migrate: no-transaction\n"
INDEX = "CREATE INDEX CONCURRENTLY i ON t (id);\n"


def execute(project: Project, *statements: str) -> None:
    with project.cluster.connect(project.database) as conn:
        for text in statements:
            conn.execute(text.encode())


def unfinished(project: Project) -> list[tuple[object, ...]]:
    with project.cluster.connect(project.database) as conn:
        query = "SELECT unit, finished_at IS NOT NULL FROM migrations_unfinished ORDER BY unit"
        return conn.execute(query).fetchall()


def announce(project: Project, unit: int, statement: str, target: object = None) -> None:
    """Leave behind what a run that was killed leaves."""
    with project.cluster.connect(project.database) as conn:
        conn.execute(
            "INSERT INTO migrations_unfinished (filename, unit, checksum, run_by, target) "
            "VALUES ('001_a.sql', %s, encode(sha256(%s), 'hex'), 'migrations x', %s::jsonb)",
            [unit, statement.encode(), target and json.dumps(target)],
        )


# 1. Behind a pooler


def test_behind_a_pooler_nothing_is_set_for_a_session(
    project: Project, own_cluster: MakeCluster
) -> None:
    cluster = own_cluster(options={"log_statement": "all", "log_line_prefix": "%d "})
    there = Project.at(project, cluster)
    there.write("001_t.sql", "CREATE TABLE t (id int);")
    there.write("002_i.sql", f"{HEAD}INSERT INTO t VALUES (1);\n{INDEX}VACUUM t;\n")
    pooler = PgBouncer(cluster)
    try:
        done = there.invoke("db.migrate-run", env={"DATABASE_URL": pooler.url(there.database)})
    finally:
        pooler.remove()
    assert done.returncode == 0, done.output
    log = cluster.log.read_text()
    said = re.findall(rf"^{there.database} LOG:  (?:statement|execute \S+): (.*)", log, re.M)
    assert any("CREATE INDEX CONCURRENTLY" in text for text in said)
    # Names, encodings and formats are the pooler's own doing.
    ours = r"(?i)\s*(?:RESET|SET)\s+(?!LOCAL|TRANSACTION|application_name|client_encoding|DateStyle"
    ours += r"|TimeZone|IntervalStyle|standard_conforming_strings|search_path\b.*pgbouncer)"
    lasting = [text for text in said if re.match(ours, text)]
    # For a whole file these go with the DISCARD ALL that the same connection gets.
    assert set(lasting) <= {"SET SESSION AUTHORIZATION DEFAULT", "RESET ROLE"}
    assert not [text for text in said if re.search(r"set_config\(.*false\)", text)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("SELECT 1;\nSET search_path = app;\n", 3),
        ("SELECT set_config('search_path', 'app', false);\n", 2),
        ("CREATE TEMP TABLE x (id int);\n", 2),
        ("CREATE TABLE IF NOT EXISTS pg_temp.x (id int);\n", 2),
        ('CREATE VIEW "pg_temp" . x AS SELECT 1;\n', 2),
        ("BEGIN;\nDECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT 1;\nCOMMIT;\n", 3),
        (f"{INDEX}VACUUM FULL t;\n", 3),
    ],
    ids=["setting", "function", "temporary", "pg_temp", "temporary view", "held cursor", "lock"],
)
def test_a_file_that_needs_a_session_is_refused_behind_a_pooler(
    project: Project, pgbouncer: PgBouncer, text: str, line: int
) -> None:
    execute(project, "CREATE SCHEMA app", "CREATE TABLE t (id int)")
    project.write("001_b.sql", "CREATE TABLE before (id int);")
    project.write("002_a.sql", HEAD + text)
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": pgbouncer.url(project.database)})
    assert done.returncode == 2, done.output
    assert f"migrations/002_a.sql:{line}:1: " in done.stderr
    assert "Connect to the server directly" in done.stderr
    assert project.executed() == []
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output


def test_what_a_function_sets_behind_a_pooler_is_said_and_kept(
    project: Project, pgbouncer: PgBouncer
) -> None:
    body = "BEGIN PERFORM set_config('search_path', 'app', false); END"
    execute(
        project,
        "CREATE SCHEMA app",
        f"CREATE FUNCTION enter() RETURNS void LANGUAGE plpgsql AS $$ {body} $$",
    )
    project.write("001_a.sql", f"{HEAD}SELECT enter();\nCREATE TABLE here (id int);\n")
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": pgbouncer.url(project.database)})
    assert done.returncode == 2, done.output
    assert "search_path" in done.stderr
    assert "directly" in done.stderr
    for _ in range(10):  # it is in none of the pool's connections
        with psycopg.connect(pgbouncer.url(project.database), autocommit=True) as other:
            assert other.execute("SELECT current_schema()").fetchone() == ("public",)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT to_regclass('app.here') IS NOT NULL") is True


@pytest.mark.long
def test_a_run_behind_a_pooler_is_waited_for_while_its_statement_goes_on(
    project: Project, pgbouncer: PgBouncer
) -> None:
    """Also without the lock of turns: by the statement that the server executes."""
    execute(project, "CREATE TABLE t (id int)")
    project.write("001_a.sql", HEAD + INDEX)
    env = {"DATABASE_URL": pgbouncer.url(project.database), "MIGRATIONS_GUARD": "off"}
    with project.cluster.connect(project.database, autocommit=False) as writer:
        writer.execute("INSERT INTO t VALUES (0)")  # CONCURRENTLY waits for this transaction
        first = mixed.start(project, env)
        wait_for(running(project, "CREATE INDEX CONCURRENTLY"))
        second = mixed.start(project, env)
        mixed.wait_for_line(second, "another run, which executes 001_a.sql")
        time.sleep(4)  # longer than a run that is not seen is looked for
        assert unfinished(project) == [(0, False)]
        writer.commit()
    for run in (first, second):
        said = mixed.ended(run)
        assert run.returncode == 0, said
        assert "INVALID" not in said
    assert valid(project, "i") is True


@pytest.mark.long
def test_what_a_statement_waits_for_is_seen_behind_a_pooler_too(
    project: Project, pgbouncer: PgBouncer
) -> None:
    execute(project, "CREATE TABLE t (id int)")
    project.write("001_a.sql", HEAD + INDEX)
    env = {"DATABASE_URL": pgbouncer.url(project.database), "PYTHONUNBUFFERED": "1"}
    with project.cluster.connect(project.database, autocommit=False) as writer:
        writer.execute("INSERT INTO t VALUES (0)")
        pid = writer.info.backend_pid
        process = project.popen("db.migrate-run", "--json", env=env)
        mixed.wait_for_line(process, f'"pid": {pid}')
        mixed.wait_for_line(process, "waiting for writers")
        writer.commit()
    said = mixed.ended(process)
    assert process.returncode == 0, said


# 2. Names


LONG = "a_name_that_is_longer_than_the_sixty_three_bytes_that_the_server_keeps_of_it_" + "x" * 20


@pytest.mark.parametrize(
    "name", [LONG, f'"{LONG}"', f"{LONG}_ß_ü_é", 'U&"\\0069dx"', "IDX"], ids=range(5)
)
def test_an_index_is_found_again_by_the_name_that_the_server_gives_it(
    project: Project, name: str
) -> None:
    execute(project, "CREATE TABLE t AS SELECT 1 AS id FROM generate_series(1, 2)")
    project.write(
        "001_a.sql", f"{HEAD}CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS {name} ON t (id);\n"
    )
    for _ in range(2):
        done = project.invoke("db.migrate-run")
        assert done.returncode == 1, done.output
        assert "(23505)" in done.stderr
        assert project.executed() == []
    execute(project, "DELETE FROM t WHERE ctid = (SELECT min(ctid) FROM t)")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT bool_and(indisvalid) AND count(*) = 1 FROM pg_index "
                           "WHERE indrelid = 't'::regclass") is True  # fmt: skip


def test_an_index_of_that_name_that_was_there_is_named_and_left(project: Project) -> None:
    execute(project, "CREATE TABLE t (id int, other int)", "CREATE INDEX i ON t (other)")
    text = "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (id)"
    project.write("001_a.sql", f"{HEAD}{text};\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert "public.i exists already" in done.stdout
    assert "(other)" in done.stdout


def test_an_index_of_that_name_that_was_there_is_not_what_a_run_has_built(
    project: Project,
) -> None:
    execute(project, "CREATE TABLE t (id int, other int)")
    project.write("001_a.sql", f"{HEAD}SELECT nonsense;\n{INDEX}")
    assert project.invoke("db.migrate-run").returncode == 1
    execute(project, "CREATE INDEX i ON t (other)")
    project.write("001_a.sql", f"{HEAD}SELECT 1;\n{INDEX}")
    oid = scalar(project, "SELECT 'i'::regclass::oid::bigint")
    relation = scalar(project, "SELECT 't'::regclass::oid::bigint")
    text = INDEX.strip().rstrip(";")
    announce(project, 1, text, {"relation": relation, "name": "i", "existed": oid})
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1, done.output
    assert '"i" already exists' in done.stderr
    assert project.executed() == []
    assert unfinished(project) == [(0, True)]


def test_a_failed_build_says_what_stays_and_that_it_is_the_data(project: Project) -> None:
    execute(project, "CREATE TABLE t AS SELECT 1 AS id FROM generate_series(1, 2)")
    project.write("001_a.sql", HEAD + INDEX.replace("INDEX", "UNIQUE INDEX"))
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "The INVALID index public.i stays; the next run drops it" in done.stderr
    assert "Fix the file" not in done.stderr
    assert "It is the rows that do not fit" in done.stderr


def test_an_index_that_turns_out_invalid_is_built_again_before_the_file_is_recorded(
    project: Project,
) -> None:
    execute(project, "CREATE TABLE t AS SELECT 1 AS id")
    project.write("001_a.sql", f"{HEAD}{INDEX}SELECT nonsense;\n")
    assert project.invoke("db.migrate-run").returncode == 1
    execute(project, "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'i'::regclass")
    project.write("001_a.sql", f"{HEAD}{INDEX}SELECT 1;\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert valid(project, "i") is True


# 3. Settings


@pytest.mark.parametrize(
    "setting",
    [
        "SELECT set_config('search_path', 'app', false)",
        "DO $$ BEGIN PERFORM set_config('search_path', 'app', false); END $$",
        "BEGIN;\nSET search_path = app;\nCOMMIT",
    ],
    ids=["function", "block", "transaction"],
)
def test_what_was_set_by_any_means_holds_again_when_a_file_is_resumed(
    project: Project, setting: str
) -> None:
    custom = "SELECT set_config('app.tenant', 'ten', false)"
    head = f"{HEAD}CREATE SCHEMA app;\n{setting};\n{custom};\n"
    project.write("001_a.sql", f"{head}SELECT nonsense;\n")
    assert project.invoke("db.migrate-run").returncode == 1
    project.write(
        "001_a.sql", f"{head}CREATE TABLE here AS SELECT current_setting('app.tenant') AS tenant;\n"
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT tenant FROM app.here") == "ten"


def wait_until_noticed(project: Project, statement: str) -> None:
    """Wait until the server has ended a statement whose client is gone; 13 never looks."""
    if version(project) < 14:
        query = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
        execute(project, f"{query} AND query LIKE '%{statement}%'")
    wait_for(lambda: not running(project, statement)(), 60)


@pytest.mark.long
def test_a_drop_that_was_cut_off_is_of_the_index_that_it_was_announced_for(
    project: Project,
) -> None:
    execute(
        project,
        "CREATE SCHEMA app",
        "CREATE TABLE app.t (id int)",
        "CREATE INDEX i ON app.t (id)",
    )
    project.write(
        "001_a.sql",
        f"{HEAD}SELECT set_config('search_path', 'app', false);\nDROP INDEX CONCURRENTLY i;\n",
    )
    with project.cluster.connect(project.database, autocommit=False) as reader:
        reader.execute("SELECT * FROM app.t")
        process = project.popen("db.migrate-run")
        wait_for(running(project, "DROP INDEX CONCURRENTLY"))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        wait_until_noticed(project, "DROP INDEX CONCURRENTLY")
    assert scalar(project, "SELECT to_regclass('app.i') IS NOT NULL") is True
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_a.sql"]
    assert scalar(project, "SELECT to_regclass('app.i') IS NULL") is True


@pytest.mark.long
@pytest.mark.parametrize(
    "setting",
    [
        "SET client_encoding = 'LATIN1'",
        "SET search_path = nowhere",
        "SET DateStyle = 'SQL, DMY'",
        "SET default_transaction_read_only = on",
        "SET default_transaction_isolation = 'serializable'",
        "SET standard_conforming_strings = off",
        "SET row_security = off",
        "SET ROLE outsider",
        "SET SESSION AUTHORIZATION outsider",
        "SET application_name = 'mine'",
        "DISCARD ALL",
    ],
)
def test_our_own_statements_hold_whatever_a_file_has_set(project: Project, setting: str) -> None:
    """And what the file has set holds for the rest of it."""
    with project.cluster.connect(project.database) as conn:
        make = "DO $$ BEGIN CREATE ROLE outsider; EXCEPTION WHEN duplicate_object THEN END $$"
        conn.execute(make.encode())
        conn.execute("CREATE TABLE t (id int)")
        conn.execute("ALTER TABLE t OWNER TO outsider")
    name = "001_größe.sql"
    text = f"{HEAD}{setting};\nSELECT 1;\nVACUUM public.t;\nSELECT nonsense;\n"
    project.write(name, text)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1, done.output
    assert "(42703)" in done.stderr
    assert unfinished(project) == [(0, True), (1, True), (2, True)]
    role = "BEGIN ASSERT current_user = 'outsider'; END" if "outsider" in setting else "BEGIN END"
    project.write(name, text.replace("SELECT nonsense;", f"DO $$ {role} $$;"))
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert project.executed() == [name]
    assert unfinished(project) == []


def test_a_role_that_a_file_takes_owns_what_the_rest_of_it_makes(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("GRANT ALL ON SCHEMA public TO deploy")
    project.write(
        "001_a.sql",
        f"{HEAD}SET ROLE deploy;\nCREATE TABLE t (id int);\n{INDEX}RESET ROLE;\n"
        "CREATE TABLE u (id int);\n",
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    with project.cluster.connect(project.database) as conn:
        query = (
            "SELECT relname, relowner::regrole::text FROM pg_class WHERE relname IN ('t','i','u')"
        )
        owners: dict[str, str] = dict(conn.execute(query).fetchall())
    assert owners == {"t": "deploy", "i": "deploy", "u": "postgres"}


# 4. Locks


@pytest.mark.long
@pytest.mark.parametrize(
    "text",
    [
        "VACUUM FULL hot",
        "-- migrate: lock-timeout=500ms\nDO $$ BEGIN LOCK hot; COMMIT; END $$",
    ],
    ids=["known", "of a file"],
)
def test_a_strong_lock_outside_a_transaction_does_not_queue_the_application(
    project: Project, text: str
) -> None:
    execute(project, "CREATE TABLE hot AS SELECT 1 AS id")
    project.write("001_a.sql", f"{HEAD}{text};\n")
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
        process = mixed.start(project)
        mixed.wait_for_line(process, "waits for a lock")
        time.sleep(3)
        assert process.poll() is None
        reader.rollback()
    said = mixed.ended(process)
    stop.set()
    thread.join()
    assert process.returncode == 0, said
    assert worst[0] < 2.0
    assert project.executed() == ["001_a.sql"]


def test_an_index_waits_for_as_long_as_it_takes(project: Project) -> None:
    """Nobody queues behind it; a lock_timeout would leave it INVALID each time."""
    execute(project, "CREATE TABLE t (id int)")
    execute(project, f'ALTER DATABASE "{project.database}" SET lock_timeout = 100')
    project.write("001_a.sql", f"{HEAD}-- migrate: lock-timeout=100ms\n{INDEX}")
    with project.cluster.connect(project.database, autocommit=False) as writer:
        writer.execute("INSERT INTO t VALUES (0)")
        process = project.popen("db.migrate-run")
        wait_for(running(project, "CREATE INDEX CONCURRENTLY"))
        time.sleep(2)
        writer.commit()
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert "INVALID" not in said
    assert valid(project, "i") is True


# 5. The progress table


def test_a_progress_table_of_an_earlier_release_is_adopted(project: Project) -> None:
    project.write("000_x.sql", "CREATE SCHEMA app;")
    assert project.invoke("db.migrate-run").returncode == 0
    execute(
        project,
        "CREATE TABLE migrations_unfinished (filename VARCHAR(255) NOT NULL, unit INTEGER NOT NULL,"
        " checksum TEXT NOT NULL, run_by TEXT NOT NULL,"
        " started_at TIMESTAMPTZ NOT NULL DEFAULT CURRENT_TIMESTAMP, finished_at TIMESTAMPTZ,"
        " PRIMARY KEY (filename, unit))",
        "INSERT INTO migrations_unfinished (filename, unit, checksum, run_by, finished_at) VALUES"
        " ('001_a.sql', 0, encode(sha256('SET search_path = app'), 'hex'), 'migrations x', now())",
    )
    project.write("001_a.sql", f"{HEAD}SET search_path = app;\nCREATE TABLE t (id int);\n{INDEX}")
    assert project.invoke("db.status").returncode == 0
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert valid(project, "app.i") is True


@pytest.mark.parametrize(
    "text",
    ["DELETE FROM migrations_unfinished", "UPDATE migrations_unfinished SET run_by = 'me'"],
)
def test_a_unit_that_changes_the_progress_table_is_rolled_back(project: Project, text: str) -> None:
    project.write(
        "001_a.sql", f"{HEAD}CREATE TABLE t (id int);\nBEGIN;\nDROP TABLE t;\n{text};\nCOMMIT;\n"
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2, done.output
    assert "migrations/001_a.sql:5:1: " in done.stderr
    assert "changes the ledger's progress table itself" in done.stderr
    assert scalar(project, "SELECT to_regclass('t') IS NOT NULL") is True
    assert unfinished(project) == [(0, True)]
    assert project.executed() == []


def test_a_file_whose_progress_somebody_has_removed_is_not_recorded(project: Project) -> None:
    project.write("001_a.sql", f"{HEAD}SELECT 1;\nSELECT pg_sleep(2);\n")
    process = project.popen("db.migrate-run")
    wait_for(running(project, "pg_sleep"))
    execute(project, "DELETE FROM migrations_unfinished WHERE unit = 0")
    said = mixed.ended(process)
    assert process.returncode == 2, said
    assert "has rows of 1" in said
    assert project.executed() == []


def test_an_announced_statement_that_was_edited_is_said_to_have_been_running(
    project: Project,
) -> None:
    text = "VACUUM t"
    project.write("001_a.sql", f"{HEAD}CREATE TABLE t (id int);\nSELECT nonsense;\n")
    assert project.invoke("db.migrate-run").returncode == 1
    announce(project, 1, text)
    project.write("001_a.sql", f"{HEAD}CREATE TABLE t (id int);\nVACUUM ANALYZE t;\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "migrations/001_a.sql:3:1: " in done.stderr
    assert "was running when a run was cut off, and was edited since" in done.stderr
    assert "executed already" not in done.stderr


# 6. What a file says must run outside


def test_a_statement_that_must_run_outside_is_one_of_no_transaction(project: Project) -> None:
    """Its function refuses a transaction block, which its text does not show."""
    body = "BEGIN CREATE TABLE made (id int); COMMIT; END"
    execute(project, f"CREATE PROCEDURE make() LANGUAGE plpgsql AS $$ {body} $$")
    do = "DO $$ BEGIN CALL make(); END $$"
    project.write("001_a.sql", f"{HEAD}{do};\n")
    refused = project.invoke("db.migrate-run")
    assert refused.returncode == 1
    assert "-- migrate: outside" in refused.stderr
    project.write("001_a.sql", f"{HEAD}-- migrate: outside\n{do};\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert scalar(project, "SELECT to_regclass('made') IS NOT NULL") is True


@pytest.mark.long
def test_one_that_was_cut_off_is_in_doubt(project: Project) -> None:
    project.write("001_a.sql", f"{HEAD}SELECT 1;\n-- migrate: outside\nSELECT pg_sleep(600);\n")
    process = project.popen("db.migrate-run")
    wait_for(running(project, "pg_sleep"))
    process.kill()
    process.wait()
    wait_until_noticed(project, "pg_sleep")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2, done.output
    assert "migrations/001_a.sql:4:1: " in done.stderr
    assert "It did:" in done.stderr
    assert "It did not:" in done.stderr
    yes = re.search(r"It did: +(UPDATE .*;)", done.stderr)
    assert yes
    execute(project, yes[1])
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_a.sql"]


def test_a_lock_timeout_of_the_file_that_is_also_ours_is_kept(project: Project) -> None:
    """A resumed file gets it again, for what runs outside of a transaction, too."""
    head = "-- migrate: no-transaction\nSET lock_timeout = '500ms';\n"
    project.write("001_t.sql", f"{head}SELECT 1/0;\n")
    assert project.invoke("db.migrate-run").returncode == 1
    kept = "SELECT session ->> 'lock_timeout' FROM migrations_unfinished"
    with project.cluster.connect(project.database) as conn:
        assert conn.execute(kept).fetchall() == [("500",)]
    seen = "CREATE TABLE seen AS SELECT current_setting('lock_timeout') AS value;"
    project.write("001_t.sql", f"{head}SELECT 1;\nVACUUM;\n{seen}\n")
    assert project.invoke("db.migrate-run").returncode == 0
    with project.cluster.connect(project.database) as conn:
        assert conn.execute("SELECT value FROM seen").fetchall() == [("500ms",)]

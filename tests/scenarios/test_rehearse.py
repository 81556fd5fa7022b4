"""db.rehearse: it says of a statement what it does, and only reads the target."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from db import events, rehearse
from db.files.plan import Goal
from db.rehearsal import findings, sizes
from db.rehearsal.measured import There
from db.rehearsal.outside import Gate
from db.rehearsal.run import Rehearsal
from db.server.connection import Target
from db.server.ours import Connection
from db.settings import Settings
from tests.conftest import MakeCluster, Project, Result
from tests.scenarios import mixed
from tests.scenarios.test_engine import wait_for
from tests.scenarios.test_ours import THEIRS, unqualified
from tests.servers import DEPLOY, Cluster
from tests.test_docs import LOCKS, OUTSIDE, ROOT, TABLE, slug

Event = dict[str, Any]


def told(done: Result) -> list[Event]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def of(events: list[Event], *kinds: str) -> list[Event]:
    return [event for event in events if event["event"] in kinds]


# What the page of safe migrations says


def test_each_statement_is_said_to_do_what_the_table_of_the_page_says(project: Project) -> None:
    """Each has a schema of its own, which its file sets as the search_path."""
    project.write_schema("")
    with project.cluster.connect(project.database) as conn:
        for number, row in enumerate(LOCKS):
            statement, schema = row[0].strip("`"), f"of_{number}"
            conn.execute(f"CREATE SCHEMA {schema}; SET search_path = {schema}; {TABLE}".encode())
            setting = f"SET LOCAL search_path = {schema};\n"
            if OUTSIDE.search(statement):
                setting = f"-- migrate: no-transaction\nSET search_path = {schema};\n"
            # The runner wants a name where a build may be cut off.
            text = f"{setting}{statement.replace('CONCURRENTLY ON', 'CONCURRENTLY x ON')};\n"
            project.write(f"{number:03}_statement.sql", text)
    done = project.invoke("db.rehearse", "--json", timeout=120)
    assert done.returncode == 0, done.output
    said = {event["filename"]: event for event in of(told(done), "rehearsed")}
    wrong = {}
    for number, row in enumerate(LOCKS):
        event = said[f"{number:03}_statement.sql"]
        works = {work["what"] for work in event["work"] if work["table"] == "t"}
        modes = [k["mode"] for k in event["locks"] if k["table"] == "t" and not k["of_index"]]
        reads = "yes" if works & {"reads", "indexes", "rewrites", "changes"} else "no"
        rewrites = "yes" if works & {"rewrites", "empties"} else "no"
        if [f"`{modes[0]}`", reads, rewrites] != row[1:4]:
            wrong[row[0]] = event
        assert {work["schema"] for work in event["work"]} <= {f"of_{number}"}
        assert not modes[1:] or modes[0] != modes[1]
    assert not wrong


def test_what_to_do_instead_stands_on_the_page() -> None:
    text = (ROOT / findings.PAGE).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    assert {*map(slug, headings)} >= findings.ANCHORS


# What a person sees


BASE = """
CREATE TABLE contacts (id bigint PRIMARY KEY, name text NOT NULL, region text);
CREATE TABLE orders (id bigint, contact_id bigint, placed_on date NOT NULL)
    PARTITION BY RANGE (placed_on);
CREATE TABLE orders_old PARTITION OF orders FOR VALUES FROM ('2020-01-01') TO ('2026-01-01');
CREATE TABLE orders_new PARTITION OF orders FOR VALUES FROM ('2026-01-01') TO ('2030-01-01');
"""
FILES = {
    "002_region.sql": """\
-- Description: Where a contact is.
ALTER TABLE contacts ADD COLUMN zone text;

UPDATE contacts SET zone = 'north';
UPDATE contacts SET region = 'x' WHERE id = 7;

ALTER TABLE contacts
    ALTER COLUMN zone SET NOT NULL;
CREATE TABLE zones (name text PRIMARY KEY);
CREATE INDEX zones_lower ON zones (lower(name));
ALTER TABLE zones ADD COLUMN code int NOT NULL DEFAULT 1;
""",
    "002_region.down.sql": "ALTER TABLE contacts DROP COLUMN zone;\n",
    "003_orders.sql": """\
ALTER TABLE orders ADD CHECK (id > 0);
SAVEPOINT a;
LOCK TABLE contacts;
ROLLBACK TO a;
DELETE FROM orders WHERE placed_on < '2021-01-01';
DO $$ BEGIN UPDATE contacts SET name = 'y'; END $$;
""",
    "003_orders.down.sql": "ALTER TABLE orders DROP CONSTRAINT orders_id_check;\n",
    "004_index.sql": """\
-- migrate: no-transaction
CREATE INDEX CONCURRENTLY contacts_name ON contacts (name);
ALTER TABLE contacts SET (fillfactor = 90);
VACUUM FULL contacts;

-- migrate: repeat until 0 rows
UPDATE contacts SET zone = 'south'
 WHERE id IN (SELECT id FROM contacts WHERE zone = 'north' LIMIT 5000);
""",
    "004_index.down.sql": "DROP INDEX contacts_name; ALTER TABLE contacts RESET (fillfactor);\n",
}


def filled(project: Project, rows: int = 60_000) -> Project:
    """Return the project with its first file executed, and rows in the tables."""
    project.write_schema("")
    project.write("001_base.sql", BASE)
    assert project.invoke("db.migrate").returncode == 0
    with project.cluster.connect(project.database) as conn:
        conn.execute(
            f"INSERT INTO contacts SELECT n, repeat('x', 100) FROM generate_series(1, {rows}) n;"
            f"INSERT INTO orders SELECT n, n, '2020-01-01'::date + n % 3000"
            f"    FROM generate_series(1, {rows}) n".encode()
        )
        conn.execute("VACUUM ANALYZE")
    return project


def state(project: Project) -> tuple[Any, ...]:
    """Return what a rehearsal must not change: relations, ledger, rows, databases, roles."""
    with project.cluster.connect(project.database) as conn:
        queries = (
            "SELECT oid::int, relname, relfilenode::int FROM pg_class ORDER BY 1",
            "SELECT * FROM migrations ORDER BY id",
            "SELECT xmin::text, count(*) FROM contacts GROUP BY 1 ORDER BY 1",
            "SELECT rolname FROM pg_roles ORDER BY 1",
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%rehears%'",
        )
        return tuple(conn.execute(query).fetchall() for query in queries)


@pytest.mark.long
def test_what_each_statement_would_do_and_what_would_wait_for_it(project: Project) -> None:
    filled(project)
    for name, text in FILES.items():
        project.write(name, text)
    before = state(project)
    done = project.invoke("db.rehearse", "--check", "--longest", "500ms", timeout=120)
    assert done.returncode == 3, done.output
    assert state(project) == before
    said = re.sub(r"[\d.]+ [kMG]B", "N", re.sub(r" +", " ", done.stdout))
    for line in (
        "migrations/002_region.sql, one transaction",
        "2 ALTER TABLE contacts ADD COLUMN zone text ACCESS EXCLUSIVE contacts catalog only",
        "4 UPDATE contacts SET zone = 'north' ROW EXCLUSIVE contacts up to 60.0 k rows",
        "5 UPDATE contacts SET region = 'x' WHERE id = 7 ACCESS EXCLUSIVE contacts 1 row",
        "7 ALTER TABLE contacts ALTER COLUMN zone SET NOT NULL ACCESS EXCLUSIVE contacts reads N",
        "9-11 3 statements nothing new",
        "contacts: no reads and no writes from line 2 to COMMIT: up to 6 s",
        "for the most part: line 4: UPDATE contacts SET zone = 'north'",
        "instead: three files, a CHECK first, docs/safe-migrations.md#not-null",
        "migrations/003_orders.sql, one transaction",
        "1 ALTER TABLE orders ADD CHECK (id > 0) ACCESS EXCLUSIVE orders reads N\n",
        "3 LOCK TABLE contacts ACCESS EXCLUSIVE contacts catalog only",
        "5 DELETE FROM orders WHERE placed_on < '2021-01-01' ROW EXCLUSIVE orders 7.",
        "orders: no reads and no writes from line 1 to COMMIT",
        "contacts: no writes to these rows from line 6 to COMMIT",
        "migrations/004_index.sql, no transaction around it",
        "2 CREATE INDEX CONCURRENTLY contacts_name ON contacts (name) "
        "SHARE UPDATE EXCLUSIVE contacts indexes N",
        "4 VACUUM FULL contacts ACCESS EXCLUSIVE contacts rewrites",
        "7 UPDATE contacts SET zone = 'south' WHERE id IN (SELECT id F… ROW EXCLUSIVE contacts "
        "up to 60.0 k rows",
        "contacts: no reads and no writes from line 4 to its end",
        "migrations/004_index.down.sql: the schema is what it was before",
        "migrations/003_orders.down.sql: the schema is what it was before",
        "migrations/002_region.down.sql: the schema is not what it was before",
        "table public.zones is left",
        "3 of 3 files would stop the application.",
    ):
        assert line in said, f"{line}\n{said}"
    assert "no writes to these rows from line 7" not in said  # each batch gives them back
    # The lock of line 3 is given back before anything lasts.
    assert "contacts: no reads and no writes from line 3" not in said
    assert "migrations/002_region.sql, migrations/003_orders.sql" in done.stderr
    again = project.invoke("db.rehearse", "--longest", "500ms", "--json", timeout=120)
    assert again.returncode == 0, again.output
    events = told(again)
    assert events[-1]["stopping"] == [n for n in FILES if "down" not in n]
    assert {e["location"]["line"] for e in of(events, "finding")} == {1, 2, 4, 6}
    calm = project.invoke("db.rehearse", "--check", "--longest", "1h", timeout=120)
    assert calm.returncode == 0
    assert "3 files rehearsed: nobody would wait for long." in calm.stdout


@pytest.mark.long
def test_a_file_that_fails_is_shown_as_a_run_would_show_it(project: Project) -> None:
    filled(project, 10)
    project.write("002_fine.sql", "ALTER TABLE contacts ADD COLUMN zone text;\n")
    project.write("003_wrong.sql", "DROP INDEX contacts_pkey_2;\n")
    project.write(
        "003_wrong.sql", "CREATE TABLE n (id int);\nUPDATE contacts\nSET zone = upper(nme);\n"
    )
    before = state(project)
    done = project.invoke("db.rehearse", timeout=120)
    assert state(project) == before
    real = project.invoke("db.migrate-run")
    assert (done.returncode, real.returncode) == (1, 1)
    shown, as_run = done.stderr.split("\n\n"), real.stderr.split("\n\n")
    assert shown[:2] == as_run[:2]  # place, message, excerpt, hint
    assert 'migrations/003_wrong.sql:3:18: column "nme" does not exist (42703)' in done.stderr
    assert "This was on a copy. Nothing was executed on the target." in done.stderr
    assert done.stderr.endswith("Fix the file, then: invoke db.rehearse\n")
    assert "ACCESS EXCLUSIVE contacts" in done.stdout  # what was done before is shown
    as_text = project.invoke("db.rehearse", "--markdown", timeout=120)
    assert (as_text.returncode, as_text.stderr) == (1, done.stderr)
    assert "**migrations/003\\_wrong.sql:3:18: column" in as_text.stdout
    project.write("003_wrong.sql", "SELECT 1;\n")
    project.write("003_wrong.down.sql", "DROP TABLE nothing;\n")
    down = project.invoke("db.rehearse", timeout=120)
    assert down.returncode == 1
    assert 'migrations/003_wrong.down.sql:1:1: table "nothing" does not exist' in down.stderr
    assert down.stderr.endswith("then: invoke db.rehearse\n")
    (project.migrations / "003_wrong.down.sql").unlink()
    project.write("003_wrong.sql", "ALTER TABLE contacts ADD COLUMN place text;\n")
    outcome = rehearse(project.url, project.migrations)
    assert outcome.statements[0].locks == (
        events.TableLock("public", "contacts", "ACCESS EXCLUSIVE", of_index=False),
    )
    assert (outcome.findings, outcome.undone) == ((), ())
    project.write("003_wrong.sql", "VACUUM;\n")
    refused = project.invoke("db.rehearse")
    assert refused.returncode == 2
    assert "VACUUM cannot run in a transaction" in refused.stderr


def test_without_a_target_on_what_the_files_before_make(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("XDG_CACHE_HOME", "PATH"):
        monkeypatch.setenv(name, project.environment()[name])
    project.write_schema("CREATE TABLE accounts (id int PRIMARY KEY);\n")
    project.write("001_base.sql", BASE)
    project.write("002_null.sql", "ALTER TABLE contacts ALTER COLUMN region SET NOT NULL;\n")
    project.write("003_wrong.sql", "SELECT nonsense;\n")
    replay = ("db.rehearse", "--replay", "--name", "002_null.sql", "--check")
    env = {"DATABASE_URL": None}
    done = project.invoke(*replay, env=env, timeout=120)
    assert done.returncode == 3, done.output
    said = re.sub(" +", " ", done.stdout)
    assert "SET NOT NULL ACCESS EXCLUSIVE contacts reads all of it" in said
    assert (
        "contacts: no reads and no writes from line 1 to COMMIT: how long depends on its size"
        in said
    )
    told = project.invoke(*replay, "--markdown", env=env, timeout=120)
    assert told.returncode == 3
    assert (
        "| 1 | <code>ALTER TABLE contacts ALTER COLUMN region SET NOT NULL</code> |" in told.stdout
    )
    assert "> **contacts: no reads and no writes from line 1 to COMMIT" in told.stdout
    schema = project.folder / "db" / "schema.sql"
    for url, anew in ((None, False), ("postgresql://127.0.0.1:1/nowhere", True)):
        outcome = rehearse(url, project.migrations, schema=schema, only="002_null.sql", replay=anew)
        assert [each.filename for each in outcome.findings] == ["002_null.sql"]
        assert [work.amount for each in outcome.statements for work in each.work] == [None]
    first = project.invoke("db.rehearse", "--replay", "--to", "001_base.sql", "--check", env=env)
    assert first.returncode == 0, first.output
    assert "1 file rehearsed: nobody would wait for long." in first.stdout
    options = ("--name", "003_wrong.sql", "--replay", "--check", "--longest", "2s")
    failed = project.invoke("db.rehearse", *options, env=env, timeout=120)
    assert failed.returncode == 1, failed.output
    assert failed.stderr.endswith(f"then: invoke db.rehearse {' '.join(options)}\n")
    assert "on a disposable database" in failed.stderr
    assert "the target" not in failed.stderr


def test_the_files_of_this_project_would_stop_nobody(project: Project) -> None:
    shutil.copytree(ROOT / "migrations", project.migrations, dirs_exist_ok=True)
    for options in ((), ("--replay",)):
        done = project.invoke("db.rehearse", "--check", *options, timeout=120)
        assert done.returncode == 0, done.output
    assert project.invoke("db.migrate").returncode == 0
    assert "nothing to do" in project.invoke("db.rehearse").stdout


# How large the target is

SIZED = """
CREATE TABLE many (id int, v text);
CREATE TABLE locked (id int);
CREATE TABLE none (id int);
CREATE TABLE hidden (id int);
CREATE TABLE "Parted" (id int) PARTITION BY RANGE (id);
CREATE TABLE "Parted %s" PARTITION OF "Parted" FOR VALUES FROM (0) TO (100000);
ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE remote (id int) SERVER far;
INSERT INTO many SELECT n, repeat('x', 30) FROM generate_series(1, 60000) n;
INSERT INTO locked SELECT generate_series(1, 1000);
INSERT INTO hidden SELECT generate_series(1, 1000);
INSERT INTO "Parted" SELECT generate_series(1, 40000);
"""


def test_how_many_rows_there_are_is_told_of_what_was_never_analyzed(project: Project) -> None:
    reader = f"reader_{project.database}"
    with project.cluster.connect(project.database) as conn:
        conn.execute(SIZED.encode())
        conn.execute(f"CREATE ROLE {reader}; GRANT SELECT ON many, hidden TO {reader}".encode())
        tables = ("many", "locked", "none", "hidden", "Parted %s", "remote", "gone")
        names = [("public", name) for name in tables]
        with Connection.connect(project.url, autocommit=True) as target, conn.transaction():
            conn.execute("LOCK TABLE locked")
            found = sizes.sizes(target, names)
            target.execute(f"SET ROLE {reader}".encode())
            other = sizes.sizes(target, names)
            target.execute("RESET ROLE")
        conn.execute("ANALYZE many")
        with Connection.connect(project.url, autocommit=True) as target:
            conn.execute("INSERT INTO many SELECT * FROM many")
            (grown,) = sizes.sizes(target, [("public", "many")]).values()
        conn.execute(f"DROP OWNED BY {reader}; DROP ROLE {reader}".encode())
    rows = {name: size.rows for (_, name), size in found.items()}
    assert rows["many"] in range(30_000, 120_000)  # by the width of its types
    assert rows["Parted %s"] in range(20_000, 80_000)
    assert (rows["none"], rows["locked"], rows["remote"], len(rows)) == (0, None, None, 6)
    assert other["public", "many"] == found["public", "many"]
    assert other["public", "hidden"].rows is None
    assert grown.rows in range(110_000, 130_000)
    assert grown.heap > 1.9 * found["public", "many"].heap


# What it leaves


def dumped(cluster: Cluster, database: str, binaries: Path) -> list[str]:
    command = [str(binaries / "pg_dump"), "--dbname", cluster.url(database)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = re.sub(r"(?m)^\\(un)?restrict .*\n", "", done.stdout).splitlines()
    # Of the ledger's rows the names: times and sessions differ.
    return [line.split("\t")[1] if ".sql\t" in line else line for line in lines]


def test_a_rehearsed_run_leaves_what_a_run_leaves(project: Project, binaries: Path) -> None:
    project.write_schema("")
    mixed.write(project)
    project.write("13_session.sql", "SET search_path = nowhere; SET LOCAL bytea_output = 'escape';")
    project.write(
        "14_made.sql",
        "BEGIN ISOLATION LEVEL SERIALIZABLE; SET TRANSACTION READ WRITE; SAVEPOINT a;"
        "CREATE TABLE gone (); ROLLBACK TO a; CREATE VIEW v AS SELECT lastval() AS made FROM big;"
        "SET client_encoding = 'LATIN1'; COMMENT ON VIEW v IS 'x'; COMMIT;",
    )
    other = project.cluster.create_database()
    try:
        chosen = Settings.of(project.cluster.url(other), project.migrations)
        run = Rehearsal(Target(chosen.parameters, 10), chosen, Goal(), There({}, frozenset()))
        for _ in run.events():
            pass
        assert project.invoke("db.migrate-run").returncode == 0
        assert len({did.filename for did in run.did}) == len(mixed.FILES) + 2
        there = dumped(project.cluster, other, binaries)
        assert there == dumped(project.cluster, project.database, binaries)
        assert "CREATE VIEW public.v AS" in there
    finally:
        project.cluster.drop_database(other)


@pytest.mark.long
def test_nothing_of_a_rehearsal_stays_on_a_server_that_was_named(project: Project) -> None:
    filled(project, 10)
    name = f"made_{project.database}"
    project.write("002_role.sql", f"CREATE ROLE {name}; GRANT SELECT ON contacts TO {name};\n")
    env = {"MIGRATIONS_SCRATCH": project.cluster.url("postgres")}
    before = state(project)
    for _ in range(2):
        done = project.invoke("db.rehearse", env=env, timeout=120)
        assert done.returncode == 0, done.output
    assert state(project) == before
    project.write("003_sleeps.sql", "SELECT pg_sleep(600) /* the rehearsal */;\n")
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process = project.popen("db.rehearse", env=env)
        with project.cluster.connect(project.database) as conn:
            sleeps = "SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(600)%'"
            deadline = time.monotonic() + 60
            while not conn.execute(sleeps.encode()).fetchall():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
            os.killpg(process.pid, number)
            out, err = process.communicate(timeout=60)
            (project.migrations / "002_role.sql").unlink(missing_ok=True)  # kill -9 leaves roles
            assert process.returncode == code, out + err
            if number == signal.SIGINT:
                assert "Interrupted. This was on a copy." in err
    project.write("003_sleeps.sql", "SELECT 1;\n")
    assert project.invoke("db.rehearse", env=env, timeout=120).returncode == 0
    assert state(project) == before
    with project.cluster.connect(project.database) as conn:
        left = "SELECT datname FROM pg_database WHERE datname LIKE 'migrations_scratch%'"
        assert conn.execute(left).fetchall() == []


# What is sent


@pytest.mark.long
def test_no_row_is_read_and_what_is_sent_means_the_same_for_everybody(
    project: Project, own_cluster: MakeCluster
) -> None:
    """On one server, which logs everything: the target, and the database that is made beside it."""
    options = {"log_statement": "all", "log_line_prefix": "@@%a@@%d@@ ", "log_min_messages": "log"}
    logged = Project.at(project, own_cluster(options=options))
    filled(logged, 100)
    logged.write("002_rows.sql", f"UPDATE {THEIRS} contacts SET region = 'x' WHERE id < 50;\n")
    logged.write(
        "003_index.sql",
        "-- migrate: no-transaction\n"
        f"CREATE INDEX {THEIRS} CONCURRENTLY named ON contacts (name);\n"
        f"INSERT {THEIRS} INTO orders SELECT * FROM orders_old;\n",
    )
    logged.write("003_index.down.sql", f"DROP INDEX {THEIRS} named;\n")
    reader, database = f"reader_{logged.database}", logged.database
    with logged.cluster.connect(database) as conn:
        conn.execute(f"CREATE ROLE {reader} LOGIN PASSWORD 'x'".encode())
        conn.execute(f"GRANT SELECT ON migrations TO {reader}".encode())
    port = logged.cluster.port
    env = {
        "DATABASE_URL": f"postgresql://{reader}:x@127.0.0.1:{port}/{database}",
        "MIGRATIONS_SCRATCH": logged.cluster.url("postgres"),
    }
    refused = logged.invoke("db.rehearse", env=env, timeout=120)
    assert refused.returncode == 1
    assert "permission denied for table contacts" in refused.stderr
    with logged.cluster.connect(database) as conn:
        conn.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}".encode())
    assert "up to 100 rows" in logged.invoke("db.rehearse", env=env, timeout=120).stdout
    with logged.cluster.connect(database) as conn:
        conn.execute(f"GRANT UPDATE ON contacts TO {reader}".encode())
    begin = logged.cluster.log.stat().st_size
    done = logged.invoke("db.rehearse", env=env, timeout=120)
    assert done.returncode == 0, done.output
    assert re.search(r"UPDATE .* [45]\d rows, reads", done.stdout), done.stdout
    sent = logged.cluster.log.read_bytes()[begin:].decode()
    pattern = r"(?s)@@(.*?)@@(.*?)@@ LOG:  (?:statement|execute <unnamed>): (.*?)(?=^@@|\Z)"
    found = re.findall(pattern, sent, re.MULTILINE)
    on_target = [(who, text) for who, where, text in found if where == database]
    assert any("pg_export_snapshot" in text for _, text in on_target)
    for who, text in on_target:
        if who == "pg_dump":
            assert "COPY" not in text
            assert "contacts" not in text or text.startswith("LOCK TABLE") or "pg_catalog" in text
        elif THEIRS in text:
            assert text.startswith("EXPLAIN (VERBOSE, FORMAT JSON) ")
        else:
            executed = re.sub(r"EXPLAIN \(FORMAT JSON\) SELECT FROM ONLY [^;]*", "", text)
            assert not re.search(r"(?i)(from|join|table|into|copy)\b.*contacts", executed)
    ours = {text for who, _, text in found if who != "pg_dump" and THEIRS not in text}
    assert any("pg_stat_get_xact_numscans" in text for text in ours)
    texts = [text for text in ours if not text.startswith("LOCK TABLE ONLY")]
    asked = [text for text in texts if "numscans" in text or "pg_relation_size" in text]
    assert {text: wrong for text in asked if (wrong := unqualified(text))} == {}


# What happens

LASTING = {
    "002_null.sql": "ALTER TABLE big ALTER COLUMN a SET NOT NULL;\n",
    "003_type.sql": "ALTER TABLE big ALTER COLUMN a TYPE bigint;\n",
    "004_index.sql": "CREATE INDEX big_v ON big (v);\n",
    "005_rows.sql": "ALTER TABLE big ADD COLUMN c int;\nUPDATE big SET v = v || '.';\n",
    "006_gone.sql": "LOCK TABLE big IN SHARE MODE;\nDELETE FROM big WHERE id > 1;\n",
    "007_calm.sql": "ALTER TABLE big ADD COLUMN d int DEFAULT 7;\n",
}


class Application(threading.Thread):
    """Somebody who runs a query over and over, and waits where it is blocked."""

    def __init__(self, cluster: Cluster, database: str, query: str) -> None:
        super().__init__(daemon=True)
        self.conn = cluster.connect(database, prepare_threshold=None)
        self.query = query.encode()
        self.began = self.longest = 0.0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            self.conn.execute(self.query)
            self.longest = max(self.longest, time.monotonic() - began)

    def end(self) -> float:
        self.over.set()
        self.join()
        self.conn.close()
        return self.longest


@pytest.mark.long
def test_a_million_rows_take_as_long_as_was_said(project: Project) -> None:
    project.write_schema("")
    project.write("001_big.sql", "CREATE TABLE big (id int PRIMARY KEY, a int, v text);\n")
    assert project.invoke("db.migrate").returncode == 0
    with project.cluster.connect(project.database) as conn:
        conn.execute(
            "INSERT INTO big SELECT n, n, 'some text of a row ' || n "
            "FROM generate_series(1, 1000000) n"
        )
        conn.execute("VACUUM ANALYZE big")
    for name, text in LASTING.items():
        project.write(name, text)
    said = told(project.invoke("db.rehearse", "--longest", "10ms", "--json", timeout=120))
    findings = {event["filename"]: event for event in of(said, "finding")}
    assert [*findings] == [name for name in LASTING if "calm" not in name]
    queries = {"reads": "SELECT a FROM big LIMIT 1", "writes": "UPDATE big SET a = 1 WHERE id = 1"}
    for name in LASTING:
        applications = {
            what: Application(project.cluster, project.database, query)
            for what, query in queries.items()
        }
        for each in applications.values():
            each.start()
        done = project.invoke("db.migrate-run", "--to", name, "--json", timeout=120)
        waited = {what: each.end() for what, each in applications.items()}
        (applied,) = of(told(done), "applied")
        if name not in findings:
            assert applied["duration_ms"] < 5000  # it only had to wait for the application
            continue
        finding, took_s = findings[name], applied["duration_ms"] / 1000
        # Other tests run on this machine at the same time, and it is no fast one.
        assert finding["low_s"] <= took_s <= 3 * finding["high_s"], (name, took_s)
        for what in finding["blocks"]:
            assert finding["low_s"] / 2 <= waited[what], (name, waited)
        if "reads" not in finding["blocks"]:
            assert waited["reads"] < waited["writes"], (name, waited)


def test_a_gate_that_cannot_lock_leaves_no_connection(project: Project) -> None:
    url = project.cluster.url(project.database, role=DEPLOY)
    target = Target(Settings.of(url, project.migrations).parameters, 5)
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE t (id int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as kept:
            Gate(target, conn.info.backend_pid, ())
        there = "SELECT FROM pg_stat_activity WHERE application_name = 'migrations rehearsal'"
        wait_for(lambda: not conn.execute(there).fetchall(), 10)
    assert kept.value.__traceback__ is not None

"""db.rehearse: it says of a statement what it does, and only reads the target."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

from db.rehearsal import findings
from tests.conftest import Project, Result
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
        "5 UPDATE contacts SET region = 'x' WHERE id = 7 contacts 1 row",
        "7 ALTER TABLE contacts ALTER COLUMN zone SET NOT NULL contacts reads N",
        "9-11 3 statements no table that was there",
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
        "contacts: no reads and no writes from line 4 to its end",
        "migrations/004_index.down.sql: the schema is what it was before",
        "migrations/003_orders.down.sql: the schema is what it was before",
        "migrations/002_region.down.sql: the schema is not what it was before",
        "table public.zones is left",
        "3 of 3 files would stop the application.",
    ):
        assert line in said, f"{line}\n{said}"
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
    project.write("003_wrong.sql", "SELECT 1;\n")
    project.write("003_wrong.down.sql", "DROP TABLE nothing;\n")
    down = project.invoke("db.rehearse", timeout=120)
    assert down.returncode == 1
    assert 'migrations/003_wrong.down.sql:1:1: table "nothing" does not exist' in down.stderr
    project.write("003_wrong.sql", "VACUUM;\n")
    refused = project.invoke("db.rehearse")
    assert refused.returncode == 2
    assert "VACUUM cannot run in a transaction" in refused.stderr


def test_without_a_target_on_what_the_files_before_make(project: Project) -> None:
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
    assert "contacts: no reads and no writes from line 1 to COMMIT: as long as it is large" in said
    told = project.invoke(*replay, "--markdown", env=env, timeout=120)
    assert told.returncode == 3
    assert (
        "| 1 | <code>ALTER TABLE contacts ALTER COLUMN region SET NOT NULL</code> |" in told.stdout
    )
    assert "> **contacts: no reads and no writes from line 1 to COMMIT" in told.stdout
    first = project.invoke("db.rehearse", "--replay", "--to", "001_base.sql", "--check", env=env)
    assert first.returncode == 0, first.output
    assert "1 file rehearsed: nobody would wait for long." in first.stdout


def test_the_files_of_this_project_would_stop_nobody(project: Project) -> None:
    shutil.copytree(ROOT / "migrations", project.migrations, dirs_exist_ok=True)
    for options in ((), ("--replay",)):
        done = project.invoke("db.rehearse", "--check", *options, timeout=120)
        assert done.returncode == 0, done.output
    assert project.invoke("db.migrate").returncode == 0
    assert "nothing to do" in project.invoke("db.rehearse").stdout

"""db.dump: what a new database gets from it, what it leaves out, and what it refuses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow

from db.files import folder
from tests.conftest import Project
from tests.scenarios.test_engine import version
from tests.scenarios.test_everyday import execute, write
from tests.servers import DEPLOY, DEPLOY_PASSWORD

SHOP = """
CREATE SCHEMA app;
CREATE TABLE app.countries (
    code text PRIMARY KEY, name text NOT NULL, shown text GENERATED ALWAYS AS (upper(name)) STORED,
    parent text REFERENCES app.countries, capital int);
CREATE TABLE cities (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, code text NOT NULL REFERENCES app.countries,
    founded date, note text, flag bytea);
ALTER TABLE app.countries ADD FOREIGN KEY (capital) REFERENCES cities;
CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trigger'; END $$;
CREATE TABLE logs (at timestamptz, said jsonb);
"""
ROWS = r"""
INSERT INTO app.countries (code, name, parent)
VALUES ('de', E'tab\there\\', NULL), ('by', 'x', 'de');
INSERT INTO cities (code, founded, note, flag)
VALUES ('de', '1237-10-28', E'two\nlines', '\xff00');
UPDATE app.countries SET capital = 1 WHERE code = 'de';
CREATE TRIGGER no BEFORE INSERT ON cities FOR EACH ROW EXECUTE FUNCTION no();
"""
DATA = ("--data", "countries", "--data", "public.cities")


@contextmanager
def copy_of(project: Project, **env: str) -> Iterator[psycopg.Connection[TupleRow]]:
    """Migrate a new database from what was dumped, and connect to it."""
    name = f"{project.database}_copy"
    url = project.cluster.url(name)
    try:
        done = project.invoke("db.migrate", env={"DATABASE_URL": url, **env})
        assert done.returncode == 0, done.output
        status = project.invoke("db.status", "--check", env={"DATABASE_URL": url, **env})
        assert status.returncode == 0, status.output
        with project.cluster.connect(name) as conn:
            yield conn
    finally:
        project.cluster.drop_database(name)


def dumped(project: Project) -> str:
    return (project.folder / "db" / "schema.sql").read_text(encoding="utf-8")


def shop(project: Project) -> None:
    project.write("001_tables.sql", SHOP)
    project.write("002_rows.sql", ROWS)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output


def test_a_new_database_has_the_rows_of_reference_tables_and_goes_on_counting(
    project: Project,
) -> None:
    shop(project)
    done = project.invoke("db.dump", "--force", *DATA)
    assert done.returncode == 0, done.output
    assert "-- With the rows of: app.countries, public.cities\n" in dumped(project)
    with copy_of(project) as copy, project.cluster.connect(project.database) as first:
        for query in ("SELECT * FROM app.countries ORDER BY code", "SELECT * FROM cities"):
            rows = copy.execute(query.encode()).fetchall()
            assert rows == first.execute(query.encode()).fetchall()
            assert rows
        copy.execute("ALTER TABLE cities DISABLE TRIGGER no")
        made = copy.execute("INSERT INTO cities (code) VALUES ('by') RETURNING id").fetchone()
        assert made == (2,)


def test_the_dump_is_the_same_bytes_wherever_the_rows_lie_on_the_disk(project: Project) -> None:
    shop(project)
    project.invoke("db.dump", "--force", *DATA)
    before = dumped(project)
    execute(project, "UPDATE app.countries SET name = name WHERE code = 'by'")
    execute(project, f"ALTER DATABASE {project.database} SET bytea_output = 'escape'")
    again = project.invoke("db.dump", *DATA)
    assert "is as it was" in again.stdout
    assert dumped(project) == before


def test_partitions_and_tables_without_a_key_are_dumped_whole(project: Project) -> None:
    project.write("001_p.sql", "CREATE TABLE p (n int, t json) PARTITION BY RANGE (n);"
                  "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);"
                  "CREATE TABLE p2 PARTITION OF p DEFAULT;"
                  "INSERT INTO p SELECT n, '{}' FROM generate_series(5, 15) n;")  # fmt: skip
    project.invoke("db.migrate-run")
    assert project.invoke("db.dump", "--force", "--data", "p").returncode == 0
    with copy_of(project) as copy:
        query = "SELECT tableoid::regclass::text, count(*) FROM p GROUP BY 1 ORDER BY 1"
        assert copy.execute(query).fetchall() == [("p1", 5), ("p2", 6)]


def test_rows_stand_in_the_order_of_their_key_numbers_by_their_value(project: Project) -> None:
    project.write("001_t.sql", "CREATE TABLE t (a text, n numeric, PRIMARY KEY (n, a));"
                  "INSERT INTO t VALUES ('b', 10), ('a', 10), ('c', 9.5), ('d', -1);"
                  "CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES;")  # fmt: skip
    project.invoke("db.migrate-run")
    assert project.invoke("db.dump", "--force", "--data", "t", "--data", "bare").returncode == 0
    ordered = 'COPY "public"."t" ("a", "n") FROM stdin;\nd\t-1\nc\t9.5\na\t10\nb\t10\n\\.\n'
    assert ordered in dumped(project)
    with copy_of(project) as copy:
        assert copy.execute("SELECT count(*) FROM bare").fetchone() == (1,)


def test_a_partition_on_another_server_is_refused_by_name(project: Project) -> None:
    execute(project, "CREATE TABLE p (n int) PARTITION BY RANGE (n)",
            "CREATE FOREIGN DATA WRAPPER nowhere", "CREATE SERVER far FOREIGN DATA WRAPPER nowhere",
            "CREATE FOREIGN TABLE p1 PARTITION OF p DEFAULT SERVER far")  # fmt: skip
    done = project.invoke("db.dump", "--file", "out.sql", "--data", "p")
    assert done.returncode == 2, done.output
    assert "--data public.p: its partition public.p1 is a foreign table" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nonsense"], "there is no such table"),
        (["--data", "cities"], "Give that one as well: --data app.countries"),
        (["--data", "migrations"], "there is no such table"),
        (["--data", "shown"], "--data shown: it is a view, not a table. Nothing was written."),
        (["--data", "app.kept"], "--data app.kept: it is a materialized view, not a table"),
        (["--data", "twice"], "several tables of that name: app.twice, public.twice"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_rows_that_a_new_database_could_not_have_are_refused(
    project: Project, arguments: list[str], said: str
) -> None:
    shop(project)
    execute(
        project,
        "CREATE TABLE twice ()",
        "CREATE TABLE app.twice ()",
        "CREATE VIEW shown AS SELECT 1",
        "CREATE MATERIALIZED VIEW app.kept AS SELECT 1",
    )
    before = dumped(project)
    done = project.invoke("db.dump", "--force", *arguments)
    assert done.returncode == 2, done.output
    assert said in done.stderr
    assert dumped(project) == before


def test_what_executed_files_do_to_rows_is_said_in_the_output_and_in_the_file(
    project: Project,
) -> None:
    shop(project)
    project.write("003_do.sql", "DO $$ BEGIN DELETE FROM logs; END $$;")
    project.write("004_with.sql", "WITH a AS (SELECT 1) INSERT INTO logs SELECT FROM a;")
    project.write("005_copy.sql", "COPY logs (said) FROM stdin;\n{}\n\\.\n")
    merge = "MERGE INTO logs USING cities ON false WHEN NOT MATCHED THEN INSERT VALUES (now());"
    if version(project) < 15:  # which have no MERGE
        merge = "INSERT INTO logs VALUES (now());"
    project.write("006_merge.sql", merge)
    write(project, 7, 8)
    project.write("010_f.sql", "SELECT txid_current();")
    assert project.invoke("db.migrate-run").returncode == 0
    (project.migrations / "008_t8.sql").unlink()
    write(project, 9)
    done = project.invoke("db.dump", "--force")
    assert done.returncode == 0, done.output
    writing = ["002_rows.sql", "003_do.sql", "004_with.sql", "005_copy.sql", "006_merge.sql"]
    assert f"not in it: what executed files do to rows (5): {', '.join(writing)}" in done.stdout
    assert "gone from the folder did besides (1): 008_t8.sql" in done.stdout
    assert "or SQL that they compose, if anything (1): 010_f.sql" in done.stdout
    listed = "".join(f"--   {name}\n" for name in writing)
    assert f"-- Not in it: what executed files do to rows (5):\n{listed}-- Not" in dumped(project)


BESIDES = {
    "002_owner.sql": (f"ALTER TABLE t OWNER TO {DEPLOY};", "owners that executed files give"),
    "003_role.sql": (f"SET ROLE {DEPLOY}; RESET ROLE;", "owners that executed files give"),
    "004_database.sql": (
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = app, public', "
        "current_database()); END $$;",
        "settings that executed files make for a database, role or server",
    ),
    "005_connect.sql": (
        "DO $$ BEGIN EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM public', "
        "current_database()); END $$;",
        "rights that executed files give on a database or role, or take",
    ),
    "006_restart.sql": (
        "ALTER TABLE t ALTER id RESTART WITH 1000;", "how executed files set sequences"
    ),
    "007_perform.sql": (
        "DO $$ BEGIN PERFORM app.seed(); END $$;",
        "what executed files do by functions that they call or SQL that they compose, if anything",
    ),
    "008_composed.sql": (
        "DO $$ DECLARE s text := 'INSERT INTO t DEFAULT VALUES'; BEGIN EXECUTE s; END $$;",
        "what executed files do by functions that they call or SQL that they compose, if anything",
    ),
    "009_comment.sql": (
        "DO $$ BEGIN INSERT /* seeds */ INTO t DEFAULT VALUES; END $$;",
        "what executed files do to rows",
    ),
    "010_database.sql": (
        "DO $$ BEGIN EXECUTE format('COMMENT ON DATABASE %I IS ''ours''', current_database()); "
        "END $$;",
        "what executed files do outside of the schema, such as to roles",
    ),
}  # fmt: skip
PLAIN = f"""
CREATE SCHEMA app;
CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY, v varchar(10) CHECK (length(v) > 1));
CREATE FUNCTION app.seed() RETURNS void LANGUAGE sql AS 'INSERT INTO t DEFAULT VALUES';
CREATE INDEX ON t (lower(v));
CREATE VIEW v AS SELECT count(*) FROM t;
CREATE POLICY p ON t USING (true);
COMMENT ON TABLE t IS 'INSERT INTO t';
SELECT pg_catalog.set_config('search_path', 'public', true);
SET LOCAL work_mem = '8MB';
ALTER TABLE t ADD n numeric(10, 2), ALTER v SET DEFAULT 'none';
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_type WHERE typname = 'mood') THEN
        CREATE TYPE mood AS ENUM ('glad'); EXECUTE 'ALTER TABLE t ADD m mood';
    END IF;
EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT ALL ON SCHEMA app TO {DEPLOY};
"""


def test_what_is_in_no_schema_is_said_by_the_files_that_do_it(project: Project) -> None:
    project.write("001_plain.sql", PLAIN)
    for name, (text, _) in BESIDES.items():
        project.write(name, text)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    done = project.invoke("db.dump", "--force", "--privileges")
    assert done.returncode == 0, done.output
    for what in {what for _, what in BESIDES.values()}:
        names = [name for name, (_, said) in BESIDES.items() if said == what]
        assert f"not in it: {what} ({len(names)}): {', '.join(names)}" in done.stdout
        listed = "".join(f"--   {name}\n" for name in names)
        assert f"-- Not in it: {what} ({len(names)}):\n{listed}" in dumped(project)
    assert "001_plain.sql" not in done.stdout


def test_a_hand_written_schema_with_rows_is_named_when_it_is_replaced(project: Project) -> None:
    project.write_schema("CREATE TABLE a (n int); INSERT INTO a VALUES (1);")
    project.invoke("db.migrate")
    done = project.invoke("db.dump", "--force")
    assert "what executed files do to rows (1): schema.sql" in done.stdout


def test_privileges_are_counted_and_named_or_in_the_file(project: Project) -> None:
    project.write("001_t.sql", "CREATE SCHEMA app; CREATE TABLE app.t (a int, b int);"
                  "CREATE TABLE u (b int); CREATE FUNCTION f() RETURNS int LANGUAGE sql AS "
                  f"'SELECT 1'; GRANT USAGE ON SCHEMA app TO {DEPLOY};"
                  f"GRANT SELECT ON app.t TO {DEPLOY}; GRANT UPDATE (b) ON u TO {DEPLOY};"
                  "REVOKE ALL ON FUNCTION f() FROM public;"
                  "ALTER DEFAULT PRIVILEGES IN SCHEMA app "
                  f"GRANT INSERT ON TABLES TO {DEPLOY};")  # fmt: skip
    assert project.invoke("db.migrate-run").returncode == 0
    done = project.invoke("db.dump", "--force")
    assert done.returncode == 0, done.output
    own = version(project) < 15  # of schema public, where the tests' databases have granted them
    assert f"not in it: privileges ({5 + own}): " in done.stdout
    for name in ("SCHEMA app", "TABLE t in app", "COLUMN u.b", "FUNCTION f()", "DEFAULT"):
        assert name in done.stdout
        assert f"--   {name}" in dumped(project)
    assert "GRANT" not in dumped(project)
    done = project.invoke("db.dump", "--privileges")
    assert "privileges (" not in done.output + dumped(project)
    rights = f"""
        SELECT has_schema_privilege('{DEPLOY}', 'app', 'USAGE'),
               has_table_privilege('{DEPLOY}', 'app.t', 'SELECT'),
               has_column_privilege('{DEPLOY}', 'u', 'b', 'UPDATE'),
               has_function_privilege('{DEPLOY}', 'f()', 'EXECUTE'),
               has_table_privilege('{DEPLOY}', 'app.later', 'INSERT')"""
    with copy_of(project) as copy:
        copy.execute("CREATE TABLE app.later (n int)")
        assert copy.execute(rights.encode()).fetchone() == (True, True, True, False, True)


def test_a_materialized_view_is_said_to_be_empty(project: Project) -> None:
    project.write("001_v.sql", "CREATE MATERIALIZED VIEW v AS SELECT 1 AS n;")
    project.invoke("db.migrate-run")
    done = project.invoke("db.dump", "--force")
    assert "not in it: the rows of materialized views (1): v" in done.stdout


def test_a_schema_that_somebody_wrote_is_replaced_only_by_force(project: Project) -> None:
    write(project, 1)
    project.invoke("db.migrate-run")
    project.write_schema("-- ours, and not committed yet\n")
    done = project.invoke("db.dump")
    assert done.returncode == 2
    assert "db/schema.sql was not written by db.dump" in done.stderr
    assert dumped(project) == "-- ours, and not committed yet\n"
    assert project.invoke("db.dump", "--force").returncode == 0
    write(project, 2)
    project.invoke("db.migrate-run")
    assert project.invoke("db.dump").returncode == 0  # its own
    assert "002_t2.sql" in dumped(project)


def test_advice_writes_the_file_that_was_named(project: Project) -> None:
    write(project, 1)
    project.invoke("db.migrate-run")
    project.write_schema("-- ours\n")
    other = project.folder / "it's.sql"
    other.write_text("SELECT 1;")
    done = project.invoke("db.dump", "--file", "it's.sql", "--privileges")
    assert done.returncode == 2
    (command,) = re.findall("To replace it: invoke (.*); to another", done.stderr)
    assert "base" not in done.stderr
    assert project.invoke(*shlex.split(command)).returncode == 0
    assert folder.is_dump(other)
    assert dumped(project) == "-- ours\n"


@pytest.mark.parametrize("command", ["db.dump", "db.models"])
def test_a_folder_that_is_missing_is_made_where_the_file_usually_is(
    project: Project, command: str
) -> None:
    write(project, 1)
    project.invoke("db.migrate-run")
    option = "--file" if command == "db.dump" else "--out"
    done = project.invoke(command, option, "nowhere/it")
    assert done.returncode == 2
    assert "There is no folder nowhere. Nothing was written." in done.stderr
    assert f"invoke {command} {option} " in done.stderr
    setting = "MIGRATIONS_SCHEMA" if command == "db.dump" else "MIGRATIONS_MODELS"
    done = project.invoke(command, env={setting: "made/new/it"}, timeout=120)
    assert done.returncode == 0, done.output
    assert (project.folder / "made" / "new" / "it").is_file()
    (project.folder / "file").touch()
    done = project.invoke(command, env={setting: "file/it"}, timeout=120)
    assert done.returncode == 2
    assert "file/it cannot be written: " in done.stderr
    assert str(project.folder / "file" / "it") not in done.stderr


def test_a_file_that_is_executed_in_part_is_not_dumped(project: Project) -> None:
    project.write("001_n.sql", "-- migrate: no-transaction\nCREATE TABLE a ();\nSELECT 1/0;")
    assert project.invoke("db.migrate-run").returncode == 1
    done = project.invoke("db.dump", "--file", "out.sql")
    assert done.returncode == 2
    assert "Executed in part: 001_n.sql" in done.stderr
    assert "invoke db.migrate-run" in done.stderr
    assert not (project.folder / "out.sql").exists()


def test_tables_that_citus_distributes_are_refused(project: Project) -> None:
    # A stand-in: what Citus leaves in the catalog, as far as db.dump looks at it.
    execute(project, "CREATE TABLE t (n int)")
    with project.cluster.connect(project.database) as conn:
        conn.execute("SET allow_system_table_mods = on")
        conn.execute("CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass)")
        conn.execute(
            "INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, "
            "extversion) SELECT 999999, 'citus', 10, 11, false, '14.0'"
        )
        assert project.invoke("db.dump", "--file", "out.sql").returncode != 2
        conn.execute("INSERT INTO pg_catalog.pg_dist_partition VALUES ('t')")
    done = project.invoke("db.dump", "--file", "out.sql")
    assert done.returncode == 2
    assert "distributed by Citus" in done.stderr
    assert ": public.t (1)" in done.stderr


def test_a_dump_names_its_ledger(project: Project, tmp_path: Path) -> None:
    write(project, 1)
    env = {"MIGRATIONS_TABLE": "ops.ledger"}
    execute(project, "CREATE SCHEMA ops")
    assert project.invoke("db.migrate-run", env=env).returncode == 0
    project.invoke("db.dump", "--file", "out.sql", env=env)
    assert folder.dumped_ledger(project.folder / "out.sql") == "ops.ledger"
    assert folder.dumped_ledger(project.folder / "db" / "schema.sql") is None  # hand-written
    assert folder.dumped_ledger(tmp_path / "nowhere.sql") is None
    forged = tmp_path / "forged.sql"
    forged.write_text("-- mine\n-- The ledger: a.b\n")
    assert folder.dumped_ledger(forged) is None
    forged.write_bytes(folder.DUMPED + b"CREATE TABLE a ();\n-- The ledger: a.b\n")
    assert folder.dumped_ledger(forged) is None


@pytest.mark.long
@pytest.mark.parametrize("role", ["postgres", DEPLOY])
def test_a_new_database_has_its_ledger_where_the_dump_has_it(project: Project, role: str) -> None:
    write(project, 1, 2)
    execute(project, "CREATE SCHEMA app", f"ALTER DATABASE {project.database} SET search_path=app")
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.invoke("db.dump", "--force").returncode == 0
    assert "-- The ledger: app.migrations\n" in dumped(project)
    name = f"{project.database}_copy"
    with project.cluster.connect() as conn:
        conn.execute(f"CREATE DATABASE {name} OWNER {role}".encode())
    env = {"DATABASE_URL": project.cluster.url(name, role=role)}
    try:
        write(project, 3)
        for command, said in (
            ("db.status", "4 pending"),
            ("db.migrate", "003_t3.sql"),
            ("db.migrate", "nothing to do"),
        ):
            done = project.invoke(command, env=env)
            assert done.returncode == 0, done.output
            assert said in done.stdout
        with project.cluster.connect(name) as copy:
            found = copy.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'migrations'")
            assert found.fetchall() == [("app",)]
    finally:
        project.cluster.drop_database(name)


def test_no_limit_of_the_server_ends_what_only_looks(project: Project) -> None:
    """A transaction is idle while pg_dump works, or a copy is made."""
    write(project, 1)
    assert project.invoke("db.migrate-run").returncode == 0
    write(project, 2)
    with project.cluster.connect(project.database) as conn:
        new = conn.info.server_version >= 170000
        limits = ["idle_in_transaction_session_timeout", *["transaction_timeout"] * new]
        for limit in limits:
            conn.execute(f"ALTER DATABASE {project.database} SET {limit} = '150ms'".encode())
    for command in (["db.dump", "--force"], ["db.rehearse"]):
        done = project.invoke(*command, timeout=120)
        assert done.returncode == 0, done.output


def test_a_dump_is_loaded_by_a_role_that_may_make_no_schema(project: Project) -> None:
    write(project, 1)
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.invoke("db.dump", "--force").returncode == 0
    name = f"{project.database}_copy"
    with project.cluster.connect() as conn:
        conn.execute(f"CREATE DATABASE {name}".encode())
    try:
        with project.cluster.connect(name) as copy:
            copy.execute(f"GRANT CREATE ON SCHEMA public TO {DEPLOY}".encode())
        env = {"DATABASE_URL": project.cluster.url(name, role=DEPLOY)}
        done = project.invoke("db.migrate", env=env)
        assert done.returncode == 0, done.output
    finally:
        project.cluster.drop_database(name)


def test_a_dump_with_another_ledger_than_the_one_that_is_set_is_not_loaded(
    project: Project,
) -> None:
    write(project, 1)
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.invoke("db.dump", "--force").returncode == 0
    url = project.cluster.url(f"{project.database}_copy")
    try:
        for table in ("ops.migrations", "ledger"):
            env = {"DATABASE_URL": url, "MIGRATIONS_TABLE": table}
            done = project.invoke("db.migrate", env=env)
            assert done.returncode == 2, done.output
            assert "MIGRATIONS_TABLE=public.migrations" in done.stderr
    finally:
        project.cluster.drop_database(f"{project.database}_copy")


@pytest.mark.parametrize("inherits", [True, False], ids=["INHERIT", "NOINHERIT"])
def test_tables_of_the_role_of_the_files_are_read_whatever_the_login_inherits(
    project: Project, *, inherits: bool
) -> None:
    owner, login = f"owner_{project.database}", f"login_{project.database}"
    with project.cluster.connect(project.database) as conn:
        kind = "INHERIT" if inherits else "NOINHERIT"
        conn.execute(
            f"CREATE ROLE {owner}; CREATE ROLE {login} LOGIN {kind} "
            f"PASSWORD '{DEPLOY_PASSWORD}'".encode()
        )
        try:
            conn.execute(f"GRANT {owner} TO {login}; CREATE SCHEMA app".encode())
            conn.execute(f"GRANT ALL ON SCHEMA app, public TO {owner}, {login}".encode())
            conn.execute(f"SET ROLE {login}".encode())
            conn.execute("CREATE TABLE app.own (n int)")  # which the other role must not read
            conn.execute("RESET ROLE" if inherits else "RESET ROLE; DROP TABLE app.own")
            project.url = project.cluster.url(project.database, role=login)
            env = {"MIGRATIONS_ROLE": owner}
            text = "CREATE TABLE app.t (n int PRIMARY KEY); INSERT INTO app.t VALUES (7);"
            project.write("001_t.sql", text)
            assert project.invoke("db.migrate-run", env=env).returncode == 0
            done = project.invoke("db.dump", "--force", "--data", "app.t", env=env)
            assert done.returncode == 0, done.output
            assert "\n7\n" in dumped(project)
            project.write_schema("CREATE SCHEMA app;")
            drift = project.invoke("db.drift", env=env)
            assert "pg_dump failed" not in drift.output
            assert "permission denied" not in drift.output
            project.write("002_t.sql", "ALTER TABLE app.t ADD m int;")
            done = project.invoke("db.rehearse", "--to", "002_t", env=env, timeout=120)
            assert done.returncode == 0, done.output
        finally:
            conn.execute(f"RESET ROLE; DROP OWNED BY {owner}, {login} CASCADE".encode())
            conn.execute(f"DROP ROLE {owner}, {login}".encode())

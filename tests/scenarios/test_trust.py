"""The ledger is what it was found to be, at each write: nobody's code runs with a run's rights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.conftest import Project
from tests.scenarios import mixed
from tests.scenarios.test_engine import running, scalar, wait_for
from tests.servers import DEPLOY_PASSWORD, Cluster

# A role that would be somebody else's, in its own schema, which the files below never name.
FUNCTION = """
CREATE FUNCTION {0}.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE 'ALTER ROLE {0} SUPERUSER'; RETURN NEW; END $$;
GRANT EXECUTE ON FUNCTION {0}.f() TO public"""
TRIGGER = "CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON {1} EXECUTE FUNCTION {0}.f()"
LEDGER = """
CREATE TABLE {1} (id serial PRIMARY KEY, filename varchar(255) NOT NULL UNIQUE,
    executed_at timestamptz DEFAULT now(), checksum text, duration_ms int, executed_by text)"""
PROGRESS = """
CREATE TABLE {1} (filename varchar(255), unit int, checksum text, run_by text,
    started_at timestamptz DEFAULT now(), finished_at timestamptz, pid int, target jsonb,
    session jsonb, rows bigint, batches int, PRIMARY KEY (filename, unit))"""


@pytest.fixture
def mal(cluster: Cluster, project: Project) -> Iterator[str]:
    """Return a role that may create in public, and has a schema of its own."""
    name = f"mal_{project.database}"
    execute(
        project,
        f"CREATE ROLE {name} LOGIN",
        f"GRANT CREATE ON SCHEMA public TO {name}",
        f"CREATE SCHEMA {name} AUTHORIZATION {name}",
        f"SET SESSION AUTHORIZATION {name}",
        FUNCTION.format(name),
    )
    yield name
    with cluster.connect(project.database) as conn:
        conn.execute(f"DROP OWNED BY {name} CASCADE".encode())
        conn.execute(f"DROP ROLE {name}".encode())


def execute(project: Project, *statements: str) -> None:
    with project.cluster.connect(project.database) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@contextmanager
def begun(project: Project, role: str, *statements: str) -> Iterator[psycopg.Connection]:
    """Have that role execute these in a transaction that is open."""
    with project.cluster.connect(project.database) as conn:
        conn.execute(f"SET SESSION AUTHORIZATION {role}".encode())
        conn.execute(b"BEGIN")
        for statement in statements:
            conn.execute(statement.format(role, "public.migrations").encode())
        yield conn


def held(project: Project, mal: str) -> None:
    """Assert that nothing of that role's was executed with another's rights."""
    assert scalar(project, f"SELECT rolsuper FROM pg_roles WHERE rolname = '{mal}'") is False


@pytest.mark.parametrize("table", ["migrations", "migrations_unfinished"])
def test_a_table_that_comes_while_the_ledger_is_made_is_looked_at(
    project: Project, mal: str, table: str
) -> None:
    head = "-- migrate: no-transaction\n" if table.endswith("unfinished") else ""
    if head:
        assert project.invoke("db.migrate-run").returncode == 0
    project.write("001_a.sql", f"{head}CREATE TABLE t (id int);\n")
    make = PROGRESS if head else LEDGER
    for commits_at_once in (True, False):
        with begun(project, mal) as conn:
            for text in (make, TRIGGER):
                conn.execute(text.format(mal, f"public.{table}").encode())
            process = mixed.start(project, {"MIGRATIONS_LOCK_TIMEOUT": "300ms"})
            if commits_at_once:
                wait_for(lambda: waits(project))
            else:
                mixed.wait_for_line(process, "which another session has locked")
            conn.execute(b"COMMIT")
        said = mixed.ended(process)
        assert process.returncode == 2, said
        assert f"public.{table} belongs to {mal}" in said
        held(project, mal)
        execute(project, f"DROP TABLE public.{table}")
    assert project.invoke("db.migrate-run").returncode == 0


def waits(project: Project) -> bool:
    """Return whether a session of a run waits for a lock."""
    query = """SELECT count(*) FROM pg_stat_activity
               WHERE application_name LIKE 'migrations %' AND wait_event_type = 'Lock'"""
    return bool(scalar(project, query))


def attached(
    project: Project, mal: str, *statements: str, env: str = "", codes: tuple[int, ...] = (2,)
) -> str:
    """Have `mal` execute these between the files 002 and 003 of a run; return what that said."""
    # An INSERT, which says all that it does: a SELECT alone would have the next file look.
    sleep = "INSERT INTO b SELECT 1 FROM pg_sleep(2);"
    project.write("002_b.sql", f"CREATE TABLE b (id int);\n{sleep}\n")
    project.write("003_c.sql", "CREATE TABLE c (id int);\n")
    process = mixed.start(project, {"MIGRATIONS_TABLE": env} if env else None)
    wait_for(running(project, "pg_sleep"))
    with project.cluster.connect(project.database) as conn:
        conn.execute(f"SET SESSION AUTHORIZATION {mal}".encode())
        conn.execute(";".join(statements).encode())  # one transaction
    said = mixed.ended(process)
    assert process.returncode in codes, said
    held(project, mal)
    return said


RIGHTS = {
    "granted before": ("GRANT ALL ON ALL TABLES IN SCHEMA public TO {0}", ""),
    "by default": ("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {0}", ""),
    "by a file": ("", "GRANT ALL ON ALL TABLES IN SCHEMA public TO {0};\n"),
    "by a block": ("", "DO $$ BEGIN EXECUTE 'GRANT ALL ON migrations TO {0}'; END $$;\n"),
}


@pytest.mark.parametrize(("first", "file"), RIGHTS.values(), ids=RIGHTS)
def test_a_trigger_that_comes_between_two_files_is_not_fired(
    project: Project, mal: str, first: str, file: str
) -> None:
    made = [project.invoke("db.migrate-run")] if first.startswith("GRANT") else []
    assert not any(done.returncode for done in made)
    if first:
        execute(project, first.format(mal))
    project.write("001_a.sql", file.format(mal) or "CREATE TABLE a (id int);\n")
    said = attached(project, mal, TRIGGER.format(mal, "public.migrations"))
    assert "public.migrations has triggers, which could change what is recorded: t." in said
    assert "002_b.sql is the last executed file, 1 file still pending." in " ".join(said.split())
    assert "REVOKE TRIGGER ON" in said
    assert project.executed() == ["001_a.sql", "002_b.sql"]
    if first.startswith("ALTER"):
        execute(project, "ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM " + mal)
    execute(project, "DROP TRIGGER t ON migrations", f"REVOKE ALL ON migrations FROM {mal}")
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.executed() == ["001_a.sql", "002_b.sql", "003_c.sql"]


def test_a_trigger_of_a_temporary_function_is_not_fired_either(project: Project, mal: str) -> None:
    """It goes with its session, so that nobody finds it afterwards, or not even then."""
    assert project.invoke("db.migrate-run").returncode == 0
    execute(project, f"GRANT ALL ON migrations TO {mal}")
    # Behind it the run knows what functions there are, and sends 003 while 002 is executed.
    project.write("001_a.sql", "CREATE TABLE a (id int);\nINSERT INTO a VALUES (1);\n")
    said = attached(
        project,
        mal,
        FUNCTION.replace("{0}.f", "pg_temp.f").format(mal),
        TRIGGER.replace("{0}.f", "pg_temp.f").format(mal, "public.migrations"),
        codes=(0, 2),
    )
    if "3 files executed" not in said:  # it was there when 003 was to be claimed
        assert "attached to the ledger while files ran" in said or "has triggers" in said
        assert project.executed() == ["001_a.sql", "002_b.sql"]
        assert project.invoke("db.migrate-run").returncode == 0
    assert project.executed() == ["001_a.sql", "002_b.sql", "003_c.sql"]


def test_another_table_that_the_owner_of_its_schema_puts_there_is_no_ledger(
    project: Project, mal: str
) -> None:
    table = f"{mal}.migrations"
    project.write("001_a.sql", "CREATE TABLE a (id int);\n")
    texts = (LEDGER.format("", table), TRIGGER.format(mal, table))
    said = attached(project, mal, f"DROP TABLE {table}", *texts, env=table)
    assert f"{table} belongs to {mal}" in said
    assert scalar(project, f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("text", ["SELECT pg_sleep(2);\nSELECT 1;\n", "VACUUM c;\nSELECT 1;\n"])
def test_a_trigger_that_comes_between_two_units_is_not_fired(
    project: Project, mal: str, text: str
) -> None:
    head = "-- migrate: no-transaction\n"
    project.write("000_u.sql", f"{head}CREATE TABLE c (id int);\n")
    assert project.invoke("db.migrate-run").returncode == 0
    execute(project, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {mal}")
    project.write("001_u.sql", f"{head}CREATE TABLE d (id int);\nSELECT pg_sleep(2);\n{text}")
    process = mixed.start(project)
    wait_for(running(project, "pg_sleep"))
    execute(
        project,
        f"SET SESSION AUTHORIZATION {mal}",
        TRIGGER.format(mal, "public.migrations_unfinished"),
    )
    said = mixed.ended(process)
    assert process.returncode == 2, said
    assert "public.migrations_unfinished has triggers" in said
    held(project, mal)
    execute(project, "DROP TRIGGER t ON migrations_unfinished")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert project.executed() == ["000_u.sql", "001_u.sql"]


# What a file does to the ledger

AUDIT = """
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
DO $$ DECLARE r record; BEGIN
    FOR r IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('{made}', r.tablename);
    END LOOP; END $$;
"""
CHANGES = {
    "a trigger on every table": AUDIT.format(
        body="RETURN NULL;",
        made="CREATE TRIGGER a BEFORE INSERT OR UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION audit()",
    ),
    "a trigger that deletes": AUDIT.format(
        body="DELETE FROM migrations; RETURN NULL;",
        made="CREATE TRIGGER a AFTER UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION audit()",
    ),
    "a deferred trigger": AUDIT.format(
        body="DELETE FROM migrations; RETURN NULL;",
        made="CREATE CONSTRAINT TRIGGER a AFTER UPDATE ON %I DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION audit()",
    ),
    "a rule": "CREATE RULE r AS ON INSERT TO migrations DO INSTEAD NOTHING;\n",
    "row-level security": "ALTER TABLE migrations ENABLE ROW LEVEL SECURITY;\n"
    "ALTER TABLE migrations FORCE ROW LEVEL SECURITY;\n",
    "the rows of others": "DELETE FROM migrations WHERE executed_at < now();\n",
    "the table is emptied": "TRUNCATE migrations;\n",
    "all tables are emptied": "DO $$ DECLARE r record; BEGIN FOR r IN SELECT tablename FROM "
    "pg_tables WHERE schemaname = 'public' LOOP EXECUTE format('TRUNCATE %I', r.tablename); "
    "END LOOP; END $$;\n",
    "it is made unlogged": "ALTER TABLE migrations SET UNLOGGED;\n",
}
WAYS = {"in a transaction": "", "in units": "-- migrate: no-transaction\n"}


@pytest.mark.parametrize("head", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("text", CHANGES.values(), ids=CHANGES)
def test_a_file_that_changes_the_ledger_is_rolled_back(
    project: Project, text: str, head: str, worker_role: str
) -> None:
    """Whatever it does to it, and it is said; the rows of the others stay."""
    project.write("001_a.sql", "CREATE TABLE money (n int);\n")
    project.write("002_b.sql", head + text)
    project.write("003_c.sql", "INSERT INTO money VALUES (100);\n")
    env = {"DATABASE_URL": worker_role}
    done = project.invoke("db.migrate-run", env=env)
    assert done.returncode in (1, 2), done.output
    assert "changes the ledger itself" in done.stderr
    assert "002_b.sql" in done.stderr
    assert project.executed() == ["001_a.sql"]
    project.write("002_b.sql", "CREATE TABLE b (id int);\n")
    project.invoke(
        "db.repair", "--name", "002_b.sql", "--forget", "--yes", env=env
    )  # what came before it
    again = project.invoke("db.migrate-run", env=env)
    assert again.returncode == 0, again.output
    assert scalar(project, "SELECT sum(n) FROM money") == 100


@pytest.mark.parametrize("call", ["SELECT wipe();", "DO $$ BEGIN PERFORM wipe(); END $$;"])
def test_a_file_that_calls_what_changes_the_ledger_is_rolled_back(
    project: Project, call: str
) -> None:
    """Its own text says nothing of the ledger."""
    wipes = "DELETE FROM migrations WHERE filename < '003'"
    made = f"CREATE FUNCTION wipe() RETURNS void LANGUAGE sql AS $$ {wipes} $$;\n"
    project.write("001_a.sql", made)
    project.write("002_b.sql", "CREATE TABLE b (id int);\n")
    assert project.invoke("db.migrate-run").returncode == 0
    project.write("003_c.sql", f"{call}\nINSERT INTO b VALUES (1);\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1, done.output
    assert "this file changes the ledger itself" in done.stderr
    assert project.executed() == ["001_a.sql", "002_b.sql"]


@pytest.fixture
def worker_role(project: Project, cluster: Cluster) -> Iterator[str]:
    """Return the URL of a role that owns the database, and is no superuser: RLS applies to it."""
    name = f"owner_{project.database}"
    execute(
        project,
        f"CREATE ROLE {name} LOGIN PASSWORD '{DEPLOY_PASSWORD}'",
        f"ALTER DATABASE {project.database} OWNER TO {name}",
        f"ALTER SCHEMA public OWNER TO {name}",
    )
    yield cluster.url(project.database, role=name)
    execute(
        project,
        f"ALTER DATABASE {project.database} OWNER TO CURRENT_USER",
        f"REASSIGN OWNED BY {name} TO CURRENT_USER",
        f"DROP OWNED BY {name}",
        f"DROP ROLE {name}",
    )


def test_what_undoes_a_file_takes_its_own_row_only(project: Project) -> None:
    for name in ("001_a", "002_b", "003_c"):
        project.write(f"{name}.sql", f"CREATE TABLE {name[4:]} (id int);\n")
    project.write("003_c.down.sql", CHANGES["all tables are emptied"])
    assert project.invoke("db.migrate-run").returncode == 0
    done = project.invoke("db.rollback", "--yes")
    assert done.returncode in (1, 2), done.output
    assert "changes the ledger itself" in done.stderr
    assert project.executed() == ["001_a.sql", "002_b.sql", "003_c.sql"]
    project.write("003_c.down.sql", "DROP TABLE c;\n")
    assert project.invoke("db.rollback", "--yes").returncode == 0
    assert project.executed() == ["001_a.sql", "002_b.sql"]


def test_a_reference_to_the_ledger_is_nothing_attached(project: Project) -> None:
    """What a foreign key checks is the server's own."""
    project.write("001_a.sql", "CREATE TABLE a (id int REFERENCES migrations (id));\n")
    project.write("002_b.sql", "CREATE TABLE b (id int);\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    project.write("003_c.sql", "GRANT SELECT ON migrations TO public;\n")
    project.write("004_d.sql", "-- migrate: no-transaction\nCREATE TABLE d (id int);\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert project.invoke("db.status", "--check").returncode == 0


# What is no ledger

REFUSED = {
    "unlogged": (LEDGER.replace("TABLE", "UNLOGGED TABLE"), "SET LOGGED"),
    "partitioned": (
        LEDGER.replace("id serial PRIMARY KEY", "id serial") + " PARTITION BY LIST (filename)",
        "it is partitioned",
    ),
    "a domain": (
        "CREATE DOMAIN d AS text CHECK (VALUE <> '');" + LEDGER.replace("varchar(255)", "d"),
        "its filename has another type",
    ),
    "a domain beside it": (
        "CREATE DOMAIN d AS text CHECK (VALUE <> '');"
        + LEDGER.replace("executed_by text", "executed_by d"),
        "a column of a domain, executed_by",
    ),
    "blanks behind names": (
        LEDGER.replace("varchar(255)", "char(60)"),
        "its filename has another type",
    ),
    "ids that are not counted": (
        LEDGER.replace("id serial", "id uuid DEFAULT gen_random_uuid()"),
        "its id has another type",
    ),
    "another progress table": (
        LEDGER + ";CREATE TABLE public.migrations_unfinished (id int)",
        "public.migrations_unfinished is not the progress table of a ledger: it has no column",
    ),
}


@pytest.mark.parametrize(("text", "why"), REFUSED.values(), ids=REFUSED)
def test_a_table_that_cannot_be_the_ledger_is_refused(
    project: Project, text: str, why: str
) -> None:
    execute(project, *text.format("", "public.migrations").split(";"))
    project.write("001_a.sql", "CREATE TABLE a (id int);\n")
    for command in ("db.migrate-run", "db.status"):
        done = project.invoke(command)
        assert done.returncode == 2, done.output
        assert why in " ".join(done.stderr.split())


def test_a_file_may_give_the_ledger_to_another_owner(project: Project, worker_role: str) -> None:
    """One that is trusted; files that name every table of a schema do so."""
    assert worker_role
    moves = f"ALTER TABLE migrations OWNER TO owner_{project.database};\n"
    for number, text in enumerate(("CREATE TABLE a ();\n", moves, "CREATE TABLE b ();\n")):
        project.write(f"00{number}_x.sql", text)
    project.write("004_y.sql", "-- migrate: no-transaction\nCREATE TABLE c ();\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert len(project.executed()) == 4


@pytest.mark.parametrize("head", WAYS.values(), ids=WAYS)
def test_a_role_without_rights_on_the_ledger_is_told_all_that_it_needs(
    project: Project, mal: str, head: str
) -> None:
    project.write("001_a.sql", "-- migrate: no-transaction\nCREATE TABLE a (id int);\n")
    assert project.invoke("db.migrate-run").returncode == 0
    project.write("002_b.sql", f"{head}CREATE TABLE b (id int);\n")
    execute(project, f"ALTER ROLE {mal} PASSWORD '{DEPLOY_PASSWORD}'")
    env = {"DATABASE_URL": project.cluster.url(project.database, role=mal)}
    done = project.invoke("db.migrate-run", env=env)
    assert done.returncode == 2, done.output
    grants = [line for line in done.stderr.splitlines() if line.startswith("  GRANT")]
    execute(project, *grants)
    done = project.invoke("db.migrate-run", env=env)
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_a.sql", "002_b.sql"]

"""Which table is the ledger, and what a file may do to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Timer

import pytest

from db.engine import ledger, place
from db.engine.place import Ledger
from db.engine.runner import Run
from db.events import Note
from db.files.plan import Goal
from db.server.connection import Target
from db.server.described import describe
from db.settings import from_values
from tests.conftest import MakeCluster, Project
from tests.proxy import Proxy

# Which table is the ledger


def as_superuser(project: Project, *statements: str) -> None:
    with project.cluster.connect(project.database) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def value(project: Project, query: str) -> object:
    with project.cluster.connect(project.database) as conn:
        row = conn.execute(query.encode()).fetchone()
    return row and row[0]


@pytest.fixture
def mallory(project: Project) -> Iterator[str]:
    """A role that may create in schema public, and owns nothing yet."""
    name = f"mallory_{project.database}"
    as_superuser(project, f"CREATE ROLE {name}", f"GRANT CREATE ON SCHEMA public TO {name}")
    yield name
    as_superuser(project, f"DROP OWNED BY {name} CASCADE", f"DROP ROLE {name}")


LEDGER = "(id serial PRIMARY KEY, filename varchar(255) NOT NULL UNIQUE, executed_at timestamptz)"
NOISY = """
CREATE FUNCTION public.noisy() RETURNS trigger LANGUAGE plpgsql
AS $$ BEGIN RAISE EXCEPTION 'the trigger ran as %', current_user; END $$"""


def test_a_ledger_that_a_stranger_has_made_is_refused(project: Project, mallory: str) -> None:
    as_superuser(project, f"SET ROLE {mallory}", f"CREATE TABLE public.migrations {LEDGER}", NOISY)
    project.write("001_x.sql", "CREATE TABLE x (id int);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert f"public.migrations belongs to {mallory}" in done.stderr
    assert "OWNER TO" in done.stderr and "MIGRATIONS_TABLE=" in done.stderr
    assert value(project, "SELECT to_regclass('x')") is None
    assert project.invoke("db.status").returncode == 2


def test_a_progress_table_that_a_stranger_has_made_is_refused(
    project: Project, mallory: str
) -> None:
    table = "public.migrations_unfinished (filename text, unit int, checksum text)"
    as_superuser(project, f"SET ROLE {mallory}", f"CREATE TABLE {table}")
    project.write("001_x.sql", "-- migrate: no-transaction\nCREATE TABLE x (id int);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert f"public.migrations_unfinished belongs to {mallory}" in done.stderr
    assert value(project, "SELECT to_regclass('x')") is None


def test_a_ledger_that_goes_away_while_it_is_read_is_looked_for_again(project: Project) -> None:
    project.write("001_x.sql", "CREATE TABLE x (id int);")
    assert project.invoke("db.migrate-run").returncode == 0
    settings, moves = from_values({}, project.url), ["SET SCHEMA later", "SET SCHEMA public"]
    as_superuser(project, "CREATE SCHEMA later")
    with Target(settings.parameters, 30).once("a test") as conn:
        describe(conn)

        def find() -> Ledger:
            found = place.find(conn, "migrations")
            if moves:
                as_superuser(project, f"ALTER TABLE {found.shown} {moves.pop(0)}")
            return found

        before, executed, _ = ledger.look(conn, find)
        assert (list(executed), before.schema) == (["001_x.sql"], "public")
        assert not moves
        as_superuser(project, "DROP TABLE migrations")
        now, executed, _ = ledger.look_again(conn, before, find)
        assert (executed, now.exists) == ({}, False)


@pytest.mark.parametrize("owner", ["current", "member", "database", "superuser"])
def test_a_ledger_of_somebody_who_is_trusted_is_used(project: Project, owner: str) -> None:
    role = f"owner_{project.database}"
    project.write("001_x.sql", "SELECT 1;")
    as_superuser(
        project,
        f"CREATE ROLE {role}",
        f"CREATE TABLE public.migrations {LEDGER}",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO deploy",
        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO deploy",
        "ALTER TABLE public.migrations ADD checksum text, ADD duration_ms int",
        "ALTER TABLE public.migrations ADD executed_by text",
    )
    try:
        if owner == "current":
            as_superuser(project, "ALTER TABLE public.migrations OWNER TO deploy")
        elif owner != "superuser":
            as_superuser(project, f"ALTER TABLE public.migrations OWNER TO {role}")
        if owner == "member":
            as_superuser(project, f"GRANT {role} TO deploy")
        if owner == "database":
            as_superuser(project, f"ALTER DATABASE {project.database} OWNER TO {role}")
        url = project.cluster.url(project.database, role="deploy")
        done = project.invoke("db.migrate-run", env={"DATABASE_URL": url})
        assert done.returncode == 0, done.output
        assert project.executed() == ["001_x.sql"]
    finally:
        as_superuser(
            project,
            f"ALTER DATABASE {project.database} OWNER TO postgres",
            f"DROP OWNED BY {role} CASCADE",
            f"DROP ROLE {role}",
        )


@pytest.mark.parametrize(
    ("change", "drop"),
    [
        (
            "CREATE TRIGGER odd BEFORE INSERT ON migrations EXECUTE FUNCTION noisy()",
            'DROP TRIGGER "odd" ON "public"."migrations";',
        ),
        (
            "CREATE RULE odd AS ON INSERT TO migrations DO ALSO SELECT 1",
            'DROP RULE "odd" ON "public"."migrations";',
        ),
    ],
    ids=["trigger", "rule"],
)
def test_a_ledger_that_does_more_than_to_store_is_refused(
    project: Project, change: str, drop: str
) -> None:
    project.write("001_x.sql", "SELECT 1;")
    assert project.invoke("db.migrate-run").returncode == 0
    as_superuser(project, NOISY, change)
    project.write("002_y.sql", "CREATE TABLE y (id int);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert drop in done.stderr
    as_superuser(project, drop)
    assert project.invoke("db.migrate-run").returncode == 0


def test_row_level_security_that_would_hide_rows_is_refused(project: Project) -> None:
    project.write("001_x.sql", "SELECT 1;")
    url = project.cluster.url(project.database, role="deploy")
    env = {"DATABASE_URL": url}
    as_superuser(project, "GRANT CREATE ON SCHEMA public TO deploy")
    assert project.invoke("db.migrate-run", env=env).returncode == 0
    as_superuser(project, "ALTER TABLE migrations ENABLE ROW LEVEL SECURITY")
    assert project.invoke("db.status", "--check", env=env).returncode == 0  # not for its owner
    as_superuser(project, "ALTER TABLE migrations FORCE ROW LEVEL SECURITY")
    for command in (("db.status",), ("db.migrate-run",)):
        done = project.invoke(*command, env=env)
        assert done.returncode == 2
        assert "row-level security" in done.stderr
        assert 'ALTER TABLE "public"."migrations" DISABLE ROW LEVEL SECURITY;' in done.stderr


def test_a_file_that_sets_the_search_path_of_its_database_runs_once(project: Project) -> None:
    project.write(
        "001_app.sql",
        "CREATE SCHEMA IF NOT EXISTS app; CREATE TABLE IF NOT EXISTS app.t (i int);\n"
        f"INSERT INTO app.t VALUES (1); ALTER DATABASE {project.database} SET search_path = app;\n",
    )
    assert project.invoke("db.migrate-run").returncode == 0
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert "nothing to do" in done.stdout
    assert 'the ledger is "public"."migrations", which is not on the search_path' in done.stdout
    assert value(project, "SELECT count(*) FROM app.t") == 1
    assert value(project, "SELECT count(*) FROM pg_class WHERE relname = 'migrations'") == 1


def test_another_role_with_a_schema_of_its_own_finds_the_same_ledger(project: Project) -> None:
    project.write("001_x.sql", "CREATE TABLE public.x (id int);")
    as_superuser(
        project, "CREATE SCHEMA deploy AUTHORIZATION deploy", "GRANT ALL ON SCHEMA public TO deploy"
    )
    url = project.cluster.url(project.database, role="deploy")
    assert project.invoke("db.migrate", env={"DATABASE_URL": url}).returncode == 0
    done = project.invoke("db.migrate")
    assert done.returncode == 2, done.output
    assert "deploy.migrations belongs to deploy" in done.stderr
    as_superuser(project, "ALTER TABLE deploy.migrations OWNER TO postgres")
    done = project.invoke("db.migrate")
    assert done.returncode == 0, done.output
    assert "nothing to do" in done.stdout
    places = "SELECT string_agg(relnamespace::regnamespace::text, ',') FROM pg_class "
    assert value(project, f"{places} WHERE relname = 'migrations'") == "deploy"


def test_several_ledgers_are_named_and_none_is_chosen(project: Project) -> None:
    as_superuser(project, "CREATE SCHEMA a", "CREATE SCHEMA b")
    for schema in "ab":
        as_superuser(project, f"CREATE TABLE {schema}.migrations {LEDGER}")
    project.write("001_x.sql", "CREATE TABLE public.x (id int);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "2 ledgers: a.migrations, b.migrations" in done.stderr
    assert "MIGRATIONS_TABLE=a.migrations" in done.stderr
    done = project.invoke("db.migrate-run", env={"MIGRATIONS_TABLE": "b.migrations"})
    assert done.returncode == 0, done.output
    assert [row["filename"] for row in project.rows("b.migrations")] == ["001_x.sql"]
    assert project.rows("a.migrations") == []


def test_a_table_of_another_tool_in_another_schema_is_no_ledger(project: Project) -> None:
    as_superuser(
        project, "CREATE SCHEMA other", "CREATE TABLE other.migrations (version int NOT NULL)"
    )
    project.write("001_x.sql", "SELECT 1;")
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.executed() == ["001_x.sql"]


def test_the_progress_table_stands_beside_its_ledger(project: Project) -> None:
    as_superuser(
        project,
        "CREATE SCHEMA a",
        f"CREATE TABLE a.migrations {LEDGER}",
        "CREATE TABLE public.migrations_unfinished (filename text)",
    )
    project.write("001_x.sql", "-- migrate: no-transaction\nCREATE TABLE public.x (id int);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert value(project, "SELECT to_regclass('a.migrations_unfinished') IS NOT NULL") is True


def test_first_runs_of_roles_with_different_paths_make_one_ledger(project: Project) -> None:
    as_superuser(
        project, "CREATE SCHEMA deploy AUTHORIZATION deploy", "GRANT ALL ON SCHEMA public TO deploy"
    )
    for number in range(20):
        project.write(f"{number:03}_t.sql", f"CREATE TABLE public.t{number} (id int);")
    url = project.cluster.url(project.database, role="deploy")
    runs = [project.popen("db.migrate-run", env={"DATABASE_URL": u}) for u in (url, project.url)]
    said = [run.communicate(timeout=120) for run in runs]
    codes = sorted(run.returncode for run in runs)
    # Whoever comes second may not be allowed to use what the first has made.
    assert codes in ([0, 0], [0, 2]), said
    assert value(project, "SELECT count(*) FROM pg_class WHERE relname = 'migrations'") == 1
    assert value(project, "SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]+$'") == 20


def run_until_noted(project: Project, then: Callable[[], None], **more: str) -> tuple[Run, str]:
    """Run two files in here, doing something between the first look and the lock.

    Return the run, and all that it has said.
    """
    project.write("001_x.sql", "CREATE TABLE x (id int);")
    project.write("001_y.sql", "CREATE TABLE y (id int);")  # the same number, which is noted
    values = {"MIGRATIONS_DIR": str(project.migrations), **more}
    settings = from_values(values, project.url)
    run = Run(Target(settings.parameters, 30), settings, Goal())
    said, noted = list[str](), False
    for event in run.events():
        said.append(repr(event))
        if isinstance(event, Note) and not noted:
            noted = True
            then()
    assert noted
    return run, "\n".join(said)


def test_a_ledger_that_another_run_has_made_elsewhere_meanwhile_is_the_one(
    project: Project,
) -> None:
    as_superuser(project, "CREATE SCHEMA other")

    def another() -> None:
        env = {"PGOPTIONS": "-c search_path=other"}
        assert project.invoke("db.migrate-run", env=env).returncode == 0

    run, said = run_until_noted(project, another)
    assert run.executed == [], said
    assert value(project, "SELECT count(*) FROM pg_class WHERE relname = 'migrations'") == 1
    assert value(project, "SELECT to_regclass('public.x') IS NULL") is True


def test_a_ledger_that_somebody_else_is_about_to_make_is_waited_for(project: Project) -> None:
    columns = LEDGER.removesuffix(")") + ", checksum text, duration_ms int, executed_by text)"
    with project.cluster.connect(project.database) as conn:
        conn.autocommit = False

        def another() -> None:
            conn.execute(f"CREATE TABLE public.migrations {columns}".encode())
            Timer(2, conn.commit).start()

        run, said = run_until_noted(project, another, MIGRATIONS_LOCK_TIMEOUT="200ms")
    assert run.executed == ["001_x.sql", "001_y.sql"]
    assert "the ledger, which another session has locked" in said


def test_a_start_takes_few_round_trips(project: Project, proxy: Proxy) -> None:
    """Of both connections together; each connects with two, where nothing is asked for first."""
    url = f"{project.cluster.url(project.database, port=proxy.port)}?sslmode=disable"
    project.write("001_x.sql", "CREATE TABLE x (id int);")
    counts = []
    for _ in "new", "nothing to do":
        before = proxy.round_trips
        done = project.invoke("db.migrate-run", env={"DATABASE_URL": url})
        assert done.returncode == 0, done.output
        counts.append(proxy.round_trips - before)
    assert counts[0] <= 10  # 8, if nothing is answered while the files are being sent
    assert counts[1] == 4


# What a file does to the ledger


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM migrations;",
        "DO $$ DECLARE t name; BEGIN FOR t IN SELECT tablename FROM pg_tables WHERE schemaname = "
        "'public' LOOP EXECUTE format('TRUNCATE %I CASCADE', t); END LOOP; END $$;",
        "UPDATE migrations SET filename = 'x' || filename;",
        "DROP TABLE migrations;",
        "ALTER TABLE migrations RENAME TO old_migrations;",
    ],
    ids=["delete", "truncate", "rename", "drop", "rename the table"],
)
def test_a_file_that_takes_its_own_row_away_is_rolled_back(project: Project, text: str) -> None:
    project.write("001_x.sql", "CREATE TABLE x (id int);")
    project.write("002_y.sql", f"CREATE TABLE y (id int);\n{text}\n")
    project.write("003_z.sql", "CREATE TABLE z (id int);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "this file changes the ledger itself" in done.stderr
    assert "002_y.sql" in done.stderr
    assert project.executed() == ["001_x.sql"]
    assert value(project, "SELECT to_regclass('y')") is None
    assert value(project, "SELECT to_regclass('z')") is None


def test_functions_before_the_servers_own_do_not_complete_the_row(project: Project) -> None:
    project.write(
        "001_x.sql",
        "CREATE SCHEMA fake; CREATE FUNCTION fake.now() RETURNS timestamptz LANGUAGE sql "
        "AS $$ SELECT '-infinity'::timestamptz $$;\nSET search_path = fake, pg_catalog;\n",
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    duration = project.rows()[0]["duration_ms"]
    assert 0 <= duration < 60_000


def test_a_file_in_another_encoding_completes_its_row(project: Project) -> None:
    project.write("001_größe.sql", "SET client_encoding = 'LATIN1';\nCREATE TABLE x (id int);\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_größe.sql"]
    assert [row["id"] for row in project.rows()] == [1]


@pytest.mark.long
@pytest.mark.parametrize(
    "how",
    ["SET LOCAL synchronous_commit = off", "SELECT set_config('synchronous_commit', 'off', false)"],
)
def test_a_file_cannot_switch_the_durability_of_its_commit_off(
    project: Project, own_cluster: MakeCluster, how: str
) -> None:
    options = {"wal_writer_delay": "10s", "wal_writer_flush_after": "0"}
    own = Project.at(project, own_cluster(options=options))
    own.write("001_x.sql", f"CREATE TABLE x (id int);\n{how};\n")
    assert own.invoke("db.migrate-run").returncode == 0
    own.cluster.crash()
    own.cluster.start()
    assert own.executed() == ["001_x.sql"]
    assert value(own, "SELECT to_regclass('x') IS NOT NULL") is True


def test_what_is_executed_was_surveyed_under_the_lock(project: Project) -> None:
    """Another run has undone a file since this one has looked, and has gone again."""
    project.write("001_x.sql", "CREATE TABLE x (id int);")
    project.write("002_y.sql", "CREATE TABLE y (id int);")
    project.write("002_y.down.sql", "DROP TABLE y;")
    assert project.invoke("db.migrate-run").returncode == 0
    project.write("003_z.sql", "CREATE TABLE z AS SELECT * FROM y;")
    project.write("003_zz.sql", "SELECT 1;")  # the same number, which is noted before the lock
    settings = from_values({"MIGRATIONS_DIR": str(project.migrations)}, project.url)
    run = Run(Target(settings.parameters, 30), settings, Goal())
    undone = False
    for event in run.events():
        if isinstance(event, Note) and not undone:
            assert project.invoke("db.rollback", "--yes").returncode == 0
            undone = True
    assert undone
    assert run.executed == ["002_y.sql", "003_z.sql", "003_zz.sql"]


def test_backslashes_before_quotes_are_refused_where_they_mean_another_thing(
    project: Project,
) -> None:
    as_superuser(
        project, f"ALTER DATABASE {project.database} SET standard_conforming_strings = off"
    )
    project.write("001_x.sql", r"CREATE TABLE x AS SELECT 'a\'; SELECT 1; --' AS c;")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "standard_conforming_strings" in done.stderr
    assert project.executed() == []

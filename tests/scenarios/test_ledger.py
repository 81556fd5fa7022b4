"""Which table is the ledger, what a file may do to it, and what session a file is given."""

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
from tests.servers import Cluster

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


# What a file is given


def test_one_run_leaves_what_several_leave(project: Project, cluster: Cluster) -> None:
    """Settings of the database are given to sessions that begin later."""
    other = Project.at(project, cluster)
    for each in (project, other):
        each.write(
            "001_path.sql",
            "CREATE SCHEMA app;\nDO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = "
            "app, public', current_database()); END $$;\n",
        )
        each.write("002_t.sql", "CREATE TABLE t (id int);\n")
        each.write("003_lib.sql", "LOAD 'auto_explain';\n")
        loaded = "current_setting('auto_explain.log_min_duration', true)"
        each.write("004_lib.sql", f"CREATE TABLE lib AS SELECT {loaded} AS is_set;\n")
    assert project.invoke("db.migrate-run").returncode == 0
    for name in ("001_path", "002_t", "003_lib", "004_lib"):
        assert other.invoke("db.migrate-single", "--name", name).returncode == 0
    for each in (project, other):
        assert value(each, "SELECT to_regclass('app.t') IS NOT NULL") is True
        assert value(each, "SELECT is_set FROM app.lib") is None


IS_SET = "CREATE TABLE seen AS SELECT current_setting('app.x', true) AS a;\n"
FUNCTION = "CREATE FUNCTION leave() RETURNS {} LANGUAGE {};\n"
SETS = "AS $$ BEGIN PERFORM set_config('app.x', '1', true); RETURN NULL; END $$"
SETS_IN_SQL = "AS $$ SELECT set_config('app.x', '1', true) $$"
SETS_WITH = "SET app.x = '1' AS $$ SELECT current_setting('app.x') $$"
TRIGGER = (
    "CREATE TABLE t (id int);\n"
    f"{FUNCTION.format('trigger', f'plpgsql {SETS}')}"
    "CREATE TRIGGER leave BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION leave();\n"
)
ALTERS = """
CREATE FUNCTION leave() RETURNS text LANGUAGE plpgsql AS $$ BEGIN
    EXECUTE format('ALTER DATABASE %I SET app.x = 1', current_database()); RETURN NULL; END $$;
"""
OUTSIDE = "-- migrate: no-transaction\n"
# What a file leaves in its session, with what comes before it; the next file sees it.
LEAVES = {
    "SET": ("", "SET app.x = '1';\n"),
    "SET LOCAL": ("", "SET /* of this file */ LOCAL \"app\" . x = '1';\n"),
    "RESET": ("", "RESET app.x;\n"),
    "set_config": ("", "SELECT pg_catalog.set_config ( 'app.x', '1', true);\n"),
    "set_config of a name": ("", "SELECT set_config('app' || '.x', '1', true);\n"),
    "a block": ("", "DO $$ BEGIN EXECUTE format('SET LOCAL %I.%I = 1', 'app', 'x'); END $$;\n"),
    "without a transaction": ("", f"{OUTSIDE}SET app.x = '1';\n"),
    "a function": (FUNCTION.format("text", f"plpgsql {SETS}"), "SELECT leave();\n"),
    "a function outside": (
        FUNCTION.format("text", f"sql {SETS_IN_SQL}"), f"{OUTSIDE}SELECT leave();\n"
    ),
    "a function's own setting": (FUNCTION.format("text", f"sql {SETS_WITH}"), "SELECT leave();\n"),
    "a function's own body": (
        FUNCTION.format("text", "sql RETURN set_config('app.x', '1', true)"), "SELECT leave();\n"
    ),
    "a function that alters": (ALTERS, "SELECT leave();\n"),
    "a query in a table": (
        FUNCTION.format("text", f"sql {SETS_IN_SQL}"), "CREATE TABLE made AS SELECT leave() AS a;\n"
    ),
    "a default": (
        FUNCTION.format("text", f"sql {SETS_IN_SQL}") + "CREATE TABLE t AS SELECT 1 AS id;\n",
        "ALTER TABLE t ADD COLUMN made text DEFAULT leave();\n",
    ),
    "a trigger": (TRIGGER, "INSERT INTO t VALUES (1);\n"),
}  # fmt: skip


@pytest.mark.parametrize("earlier", [True, False], ids=["by an earlier run", "in one run"])
@pytest.mark.parametrize(("before", "leaves"), LEAVES.values(), ids=LEAVES)
def test_what_a_file_leaves_in_its_session_the_next_does_not_see(
    project: Project, cluster: Cluster, before: str, leaves: str, *, earlier: bool
) -> None:
    """A setting that somebody has invented is empty for ever where it was set, and was NULL."""
    if "sql RETURN" in before and int(str(value(project, "SHOW server_version_num"))) < 140000:
        pytest.skip("since PostgreSQL 14")
    other = Project.at(project, cluster)
    names = ["001_before.sql"] * bool(before) + ["002_leaves.sql", "003_seen.sql"]
    for each in (project, other):
        texts = {"001_before.sql": before, "002_leaves.sql": leaves, "003_seen.sql": IS_SET}
        for name in names:
            each.write(name, texts[name])
    for name in names:
        assert other.invoke("db.migrate-single", "--name", name).returncode == 0
    for name in names[:-2] if earlier else ():
        assert project.invoke("db.migrate-single", "--name", name).returncode == 0
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    seen = value(other, "SELECT a FROM seen")
    assert seen == ("1" if "ALTER" in before else None)
    assert value(project, "SELECT a FROM seen") == seen


def test_the_library_of_an_extension_is_not_there_for_the_next_file(project: Project) -> None:
    """It declares settings; where it is not loaded nobody has heard of them."""
    project.write("001_trgm.sql", "CREATE EXTENSION pg_trgm;\nSELECT 'a' % 'b';\n")
    limit = "current_setting('pg_trgm.similarity_threshold', true)"
    project.write("002_seen.sql", f"CREATE TABLE seen AS SELECT {limit} AS a;\n")
    assert project.invoke("db.migrate-run").returncode == 0
    assert value(project, "SELECT a FROM seen") is None


def test_a_connection_of_dblink_is_not_there_for_the_next_file(project: Project) -> None:
    project.write("001_dblink.sql", "CREATE EXTENSION dblink;\n")
    url = project.cluster.url(project.database)
    for name in ("002_one", "003_two"):
        project.write(f"{name}.sql", f"SELECT dblink_connect('c', '{url}');\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output


def test_numbers_are_as_random_as_in_a_session_of_their_own(project: Project) -> None:
    project.write("001_seed.sql", "SELECT setseed(0.5);\n")
    project.write("002_seen.sql", "CREATE TABLE seen AS SELECT random() AS r;\n")
    assert project.invoke("db.migrate-run").returncode == 0
    with project.cluster.connect(project.database) as conn:
        conn.execute("SELECT setseed(0.5)")
        drawn = conn.execute("SELECT random()").fetchone()
        seen = conn.execute("SELECT r FROM seen").fetchone()
    assert drawn != seen


def test_what_a_failed_attempt_has_left_the_next_does_not_see(project: Project) -> None:
    """A file that waits for a lock is sent again, each time as if it were new."""
    project.write("001_t.sql", "CREATE TABLE t (id int);\n")
    assert project.invoke("db.migrate-run").returncode == 0
    project.write("002_seen.sql", f"{IS_SET}SET LOCAL app.x = '1';\nALTER TABLE t ADD a int;\n")
    with project.cluster.connect(project.database) as conn:
        conn.execute("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
        Timer(1.5, conn.commit).start()
        done = project.invoke("db.migrate-run", env={"MIGRATIONS_LOCK_TIMEOUT": "200ms"})
    assert done.returncode == 0, done.output
    assert "tried again" in done.output
    assert value(project, "SELECT a FROM seen") is None


def test_a_function_that_nobody_may_look_at_is_taken_to_leave_something(project: Project) -> None:
    """Some take the right to read pg_proc away."""
    with project.cluster.connect(project.database) as conn:
        conn.execute("GRANT CREATE ON SCHEMA public TO deploy")
        conn.execute("REVOKE SELECT ON pg_catalog.pg_proc FROM PUBLIC")
    project.write("001_t.sql", "CREATE TABLE t (id int);\nINSERT INTO t VALUES (1);\n")
    project.write("002_seen.sql", IS_SET)
    url = project.cluster.url(project.database, role="deploy")
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert done.returncode == 0, done.output
    assert value(project, "SELECT a FROM seen") is None


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_an_index_build_does_not_wait_for_the_lock_of_its_own_run(
    project: Project, level: str
) -> None:
    """At these levels a query's snapshot stays for as long as its transaction."""
    setting = f"ALTER DATABASE {project.database} SET default_transaction_isolation = '{level}'"
    as_superuser(project, setting)
    project.write("001_x.sql", "CREATE TABLE x (id int);")
    project.write("002_i.sql", "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY i ON x (id);")
    done = project.invoke("db.migrate-run", timeout=60)
    assert done.returncode == 0, done.output


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

"""What session a file is given: a new one, whatever the files before it have left in theirs."""

from __future__ import annotations

import random
from threading import Timer

import pytest

from tests.conftest import Project
from tests.scenarios.test_ledger import as_superuser, value
from tests.servers import Cluster


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


CASES = [
    pytest.param(before, leaves, earlier, id=f"{name}, before" if earlier else name)
    for name, (before, leaves) in LEAVES.items()
    for earlier in ((False, True) if before else (False,))
]


@pytest.mark.parametrize(("before", "leaves", "earlier"), CASES)
def test_what_a_file_leaves_in_its_session_the_next_does_not_see(
    project: Project, before: str, leaves: str, *, earlier: bool
) -> None:
    """A setting that somebody has invented is empty for ever where it was set, and was NULL."""
    if "sql RETURN" in before and int(str(value(project, "SHOW server_version_num"))) < 140000:
        pytest.skip("since PostgreSQL 14")
    project.write("001_before.sql", before or "CREATE TABLE first (id int);\n")
    if earlier:  # so that the text of what is called is in no file of the run
        assert project.invoke("db.migrate-run").returncode == 0
    project.write("002_leaves.sql", leaves)
    project.write("003_seen.sql", IS_SET)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert value(project, "SELECT a FROM seen") == ("1" if "ALTER" in before else None)


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


# Any files

MAKES = """
CREATE SCHEMA app;
CREATE TABLE t (id int);
CREATE TABLE other (id int);
INSERT INTO other VALUES (1);
CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ SELECT set_config('app.f', '1', true) $$;
CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('app.f', '2', true); END $$;
CREATE FUNCTION tf() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('app.t', '1', true); RETURN NULL; END $$;
CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH STATEMENT EXECUTE FUNCTION tf();
CREATE MATERIALIZED VIEW m AS SELECT f() AS a;
"""
OF_DATABASE = "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET {}', current_database()); END $$;"
SOME = (
    *("SET app.x = '1';", "SET LOCAL app.x = '2';", "RESET app.x;", "SET LOCAL work_mem = '5MB';"),
    *(
        "SET search_path = app, public;",
        "SET DateStyle = 'SQL, DMY';",
        "SET TimeZone = 'Asia/Tokyo';",
    ),
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE;",
    *("SELECT set_config('app.y', '1', false);", f"{OUTSIDE}SET app.x = '3';\nVACUUM public.t;"),
    f"{OUTSIDE}SELECT set_config('work_mem', '9MB', false);\nVACUUM public.t;",
    *("PREPARE p AS SELECT 1;", "LISTEN chan;", "CREATE TEMP TABLE tt (id int);"),
    *("SELECT pg_advisory_lock(7);", "DECLARE c CURSOR WITH HOLD FOR SELECT 1;"),
    *(OF_DATABASE.format("work_mem = ''7MB''"), OF_DATABASE.format("search_path = app, public")),
    "DO $$ BEGIN EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET app.y = 5', "
    "current_database()); END $$;",
    *("SELECT public.f();", "VALUES (public.f());", "WITH w AS (SELECT public.f()) TABLE w;"),
    *("EXPLAIN ANALYZE SELECT public.f();", "CALL public.p();", "TABLE public.t;"),
    *("INSERT INTO public.t VALUES (1);", "UPDATE public.t SET id = 2;", "DELETE FROM public.t;"),
    *("COPY public.t FROM stdin;\n1\n\\.", "REFRESH MATERIALIZED VIEW public.m;"),
    "CREATE TABLE IF NOT EXISTS public.made AS SELECT public.f() AS a;",
    "ALTER TABLE public.other ADD COLUMN IF NOT EXISTS a text DEFAULT public.f();",
)
NAMES = ("app.x", "app.y", "app.f", "app.t", "search_path", "work_mem", "DateStyle", "TimeZone",
         "default_transaction_isolation")  # fmt: skip
LOOKS = f"""
CREATE TABLE public.seen_{{}} AS
SELECT n, current_setting(n, true) FROM unnest('{{{{{",".join(NAMES)}}}}}'::text[]) AS n
UNION ALL SELECT 'user', concat(current_user, session_user)
UNION ALL SELECT name, statement FROM pg_prepared_statements
UNION ALL SELECT name, statement FROM pg_cursors WHERE name = 'c'
UNION ALL SELECT 'listens', c FROM pg_listening_channels() AS c
UNION ALL SELECT 'temporary', 'tt' WHERE to_regclass('pg_temp.tt') IS NOT NULL
UNION ALL SELECT 'locks', objid::text FROM pg_locks
          WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = 7;
"""


def seen(project: Project, number: int) -> list[object]:
    """Return what all files of a project that look have seen."""
    with project.cluster.connect(project.database) as conn:
        tables = (conn.execute(f"TABLE public.seen_{n}".encode()) for n in range(number))
        return [table.fetchall() for table in tables]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_any_files_leave_the_same_in_one_run_and_in_several(
    project: Project, cluster: Cluster, seed: int
) -> None:
    rng = random.Random(seed)
    chosen = rng.sample(SOME, 6)
    texts = {"000_makes.sql": MAKES}
    for number, text in enumerate(chosen):
        texts |= {f"{number}1_does.sql": f"{text}\n", f"{number}2_looks.sql": LOOKS.format(number)}
    other = Project.at(project, cluster)
    for each in (project, other):
        for name, text in texts.items():
            each.write(name, text)
    if rng.random() < 0.5:  # what the functions do is in no file of the run
        assert project.invoke("db.migrate-single", "--name", "000_makes.sql").returncode == 0
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    for name in texts:
        assert other.invoke("db.migrate-single", "--name", name).returncode == 0
    assert seen(project, len(chosen)) == seen(other, len(chosen)), chosen

"""More than one server, or more than one table: what is found out, and what is sent then."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.conftest import MakeCluster, Project
from tests.scenarios.test_engine import agree, scalar, valid

# What Citus has under these names, as far as it is looked at: there is none for the tests.
_CONTROL = "default_version = '14.0'\nrelocatable = false\nschema = pg_catalog\n"
_SCRIPT = """\
CREATE TABLE pg_catalog.pg_dist_local_group (groupid int);
INSERT INTO pg_catalog.pg_dist_local_group VALUES (0);
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass);
CREATE FUNCTION public.create_distributed_table(which regclass) RETURNS void LANGUAGE sql
    AS $$ INSERT INTO pg_catalog.pg_dist_partition VALUES (which) $$;
"""
_SEEN = "(SELECT current_setting('citus.propagate_set_commands', true) AS propagated, " + (
    "current_setting('synchronous_commit') AS waits)"
)


@pytest.fixture
def standing_in(project: Project, own_cluster: MakeCluster) -> Project:
    """The project on a server of its own, on which CREATE EXTENSION citus makes a stand-in."""
    there = Project.at(project, own_cluster())
    with there.cluster.connect() as conn:
        name = there.database
        conn.execute(f"ALTER DATABASE {name} SET citus.propagate_set_commands = 'none'".encode())
        conn.execute(f"ALTER DATABASE {name} SET allow_system_table_mods = on".encode())
        if conn.info.server_version >= 180000:
            folder = there.cluster.folder / "share" / "extension"
            folder.mkdir(parents=True)
            (folder / "citus.control").write_text(_CONTROL)
            (folder / "citus--14.0.sql").write_text(_SCRIPT)
            for path in (there.cluster.folder / "share", folder, *folder.iterdir()):
                path.chmod(0o755)
            text = f"ALTER SYSTEM SET extension_control_path = '$system:{folder.parent}'"
            conn.execute(text.encode())
            conn.execute("SELECT pg_reload_conf()")
    return there


def install(project: Project) -> str:
    """Return what installs it; before 18 an extension has to be among the server's own files."""
    with project.cluster.connect() as conn:
        if conn.info.server_version >= 180000:
            return "CREATE EXTENSION citus;\n"
    return _SCRIPT + (
        "INSERT INTO pg_extension SELECT 90000, 'citus', extowner, extnamespace, false, '14.0' "
        "FROM pg_extension WHERE extname = 'plpgsql';\n"
    )


@pytest.mark.long
def test_citus_is_found_and_gets_what_it_needs(standing_in: Project) -> None:
    project = standing_in
    project.write("001_t1.sql", f"CREATE TABLE t1 AS {_SEEN};\n")
    project.write("002_t2.sql", f"CREATE TABLE t2 AS {_SEEN};\n")
    assert project.invoke("db.migrate-run").returncode == 0
    # Without it: settings stay here, and only the last commit of a run waits.
    assert scalar(project, "SELECT waits FROM t1") == "off"
    project.write("003_t3.sql", f"{install(project)}CREATE TABLE t3 ();\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    for number in (4, 5):
        project.write(f"00{number}_t{number}.sql", f"CREATE TABLE t{number} AS {_SEEN};\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    for number in (4, 5):
        assert scalar(project, f"SELECT propagated || ' ' || waits FROM t{number}") == "local on"
    assert project.invoke("db.dump", "--file", "out.sql").returncode == 0

    project.write("006_t6.sql", "CREATE TABLE t6 ();\nSELECT create_distributed_table('t6');\n")
    assert project.invoke("db.migrate-run").returncode == 0
    done = project.invoke("db.dump", "--file", "again.sql")
    assert (done.returncode, "distributed by Citus" in done.stderr) == (2, True)
    agree(project)

    with project.cluster.connect(project.database) as conn:
        conn.execute("UPDATE pg_catalog.pg_dist_local_group SET groupid = 2")
    project.write("007_t7.sql", "CREATE TABLE t7 ();\n")
    done = project.invoke("db.migrate-run")
    assert (done.returncode, "this is a worker of Citus" in done.stderr) == (2, True)
    assert project.invoke("db.status").returncode == 0
    agree(project)


def test_an_index_of_a_partitioned_table_is_built_in_steps(project: Project) -> None:
    project.write(
        "001_events.sql",
        "CREATE TABLE events (at date NOT NULL) PARTITION BY RANGE (at);\n"
        "CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') "
        "TO ('2027-01-01');\n",
    )
    project.write(
        "002_index.sql", "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY i ON events (at);\n"
    )
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert "migrations/002_index.sql:2:1" in done.stderr
    assert project.executed() == ["001_events.sql"]
    page = (Path(__file__).parents[2] / "docs" / "clusters.md").read_text()
    project.write("002_index.sql", page.partition("```sql\n")[2].partition("```")[0])
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert valid(project, "events_at") is True
    assert project.invoke("db.migrate-run").returncode == 0


def test_a_plan_names_who_replicates_these_tables(
    project: Project, conn: psycopg.Connection[tuple[object, ...]]
) -> None:
    project.write("001_t1.sql", "CREATE TABLE t1 (id int PRIMARY KEY);\n")
    assert "DDL is not replicated" not in project.invoke("db.plan", "--run").output
    conn.execute("CREATE PUBLICATION outwards")
    conn.execute(
        "CREATE SUBSCRIPTION inwards CONNECTION 'dbname=elsewhere' PUBLICATION p "
        "WITH (connect = false, slot_name = NONE)"
    )
    try:
        done = project.invoke("db.plan", "--run")
        assert done.returncode == 0, done.output
        assert "this database subscribes (inwards): DDL is not replicated" in done.stdout
        assert "this database publishes (outwards): DDL is not replicated" in done.stdout
        assert project.invoke("db.migrate-run").returncode == 0
        assert "not replicated" not in project.invoke("db.plan", "--run").output
    finally:
        conn.execute("DROP SUBSCRIPTION inwards")

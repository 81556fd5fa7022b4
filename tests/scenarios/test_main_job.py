"""The three commands, from an empty machine to a migrated database, through the real invoke."""

from __future__ import annotations

import os
import re
import socket

import pytest

from tests.conftest import MakeCluster, Project
from tests.servers import Cluster

NODE_LEDGER = """
CREATE TABLE migrations (
    id SERIAL PRIMARY KEY,
    filename VARCHAR(255) NOT NULL UNIQUE,
    executed_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP
)"""


def five(project: Project) -> None:
    for number in range(1, 6):
        project.write(f"{number:03}_t{number}.sql", f"CREATE TABLE t{number} (id int);")


def tables(project: Project) -> set[str]:
    with project.cluster.connect(project.database) as conn:
        return {
            str(row[0])
            for row in conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        }


# db.migrate


def test_an_empty_database_gets_the_schema_and_every_migration(project: Project) -> None:
    five(project)
    done = project.invoke("db.migrate")
    assert done.returncode == 0, done.output
    assert project.executed() == ["schema.sql", *(f"{n:03}_t{n}.sql" for n in range(1, 6))]
    assert {"users", "campaigns", "contacts", "messages", "t5"} <= tables(project)
    assert done.stdout.startswith(f"{project.database} on ")


def test_a_second_run_has_nothing_to_do(project: Project) -> None:
    five(project)
    project.invoke("db.migrate")
    before = project.rows()
    again = project.invoke("db.migrate")
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert project.rows() == before


def test_a_missing_database_is_created(project: Project, cluster: Cluster) -> None:
    five(project)
    name = f"{project.database}_new"
    try:
        done = project.invoke("db.migrate", env={"DATABASE_URL": cluster.url(name)})
        assert done.returncode == 0, done.output
        assert done.stdout.splitlines()[0].startswith(f"{name} on ")
        assert "the database was created" in done.stdout
    finally:
        cluster.drop_database(name)


def test_a_database_that_the_role_may_not_create_is_a_sentence(
    project: Project, cluster: Cluster
) -> None:
    name = f"{project.database}_new"
    done = project.invoke("db.migrate", env={"DATABASE_URL": cluster.url(name, role="deploy")})
    assert done.returncode == 2
    assert "may not create it" in done.stderr
    assert "Traceback" not in done.output


def test_tables_without_a_ledger_are_refused_with_both_ways_out(project: Project) -> None:
    five(project)
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE theirs (id int)")
    done = project.invoke("db.migrate")
    assert done.returncode == 2
    assert "db.migrate-run" in done.stderr
    assert "db.baseline" in done.stderr
    assert tables(project) == {"theirs"}


def test_a_failing_schema_leaves_nothing_and_the_next_run_loads_it(project: Project) -> None:
    five(project)
    good = (project.folder / "db" / "schema.sql").read_text()
    project.write_schema(good + "\nSELECT nonsense;\n")
    done = project.invoke("db.migrate")
    assert done.returncode == 1
    assert "db/schema.sql:" in done.stderr
    assert tables(project) == {"migrations"}
    project.write_schema(good)
    assert project.invoke("db.migrate").returncode == 0
    assert "users" in tables(project)


def test_a_schema_edited_after_it_was_loaded_is_a_note(project: Project) -> None:
    project.invoke("db.migrate")
    schema = project.folder / "db" / "schema.sql"
    schema.write_text(schema.read_text() + "\n-- later\n")
    done = project.invoke("db.migrate")
    assert done.returncode == 0
    assert "was edited after it was loaded" in done.stdout


def test_a_server_that_is_not_there_is_waited_for(project: Project) -> None:
    """A port that nobody listens on: the run says that it waits, and gives up in time."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    env = {"DATABASE_URL": f"postgresql://u@127.0.0.1:{port}/d", "MIGRATIONS_CONNECT_TIMEOUT": "1s"}
    done = project.invoke("db.migrate", env=env)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}" in done.stdout
    assert "Cannot connect" in done.stderr
    assert "Connection refused. Is the server running" in done.stderr
    assert 1 <= done.seconds < 30


# db.migrate-run


def test_migrate_run_creates_the_ledger_and_leaves_the_schema_alone(project: Project) -> None:
    five(project)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert tables(project) == {"migrations", "t1", "t2", "t3", "t4", "t5"}
    assert re.search(r"^ +003_t3\.sql +executed +\d+ ms$", done.stdout, re.MULTILINE)


def test_a_failing_third_file_stops_the_run_and_the_next_one_goes_on(project: Project) -> None:
    five(project)
    project.write("003_t3.sql", "CREATE TABLE t3 (id int);\nINSERT INTO t3 VALUES ('x');\n")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1
    assert project.executed() == ["001_t1.sql", "002_t2.sql"]
    assert tables(project) == {"migrations", "t1", "t2"}
    assert "migrations/003_t3.sql:2:24: " in done.stderr
    assert "(22P02)" in done.stderr
    assert "002_t2.sql is the last executed file" in done.stderr
    assert "invoke db.migrate-run" in done.stderr
    project.write("003_t3.sql", "CREATE TABLE t3 (id int);")
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.executed() == [f"{n:03}_t{n}.sql" for n in range(1, 6)]


def test_a_missing_folder_is_an_error_and_an_empty_one_is_said(project: Project) -> None:
    empty = project.invoke("db.migrate-run")
    assert empty.returncode == 0
    assert "holds no migrations" in empty.stdout
    project.migrations.rmdir()
    missing = project.invoke("db.migrate-run")
    assert missing.returncode == 2
    assert "There is no folder migrations" in missing.stderr
    assert "Create it (invoke db.init), or set MIGRATIONS_DIR" in missing.stderr


def test_a_file_that_sorts_before_the_newest_runs_and_is_said(project: Project) -> None:
    project.write("002_b.sql", "SELECT 1;")
    project.invoke("db.migrate-run")
    project.write("001_a.sql", "SELECT 1;")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0
    assert "out of order" in done.stdout


def test_commands_work_from_a_folder_below(project: Project) -> None:
    five(project)
    assert project.invoke("db.migrate-run", cwd=project.migrations).returncode == 0


# db.migrate-single


@pytest.mark.parametrize("arguments", [["--name", "002_t2.sql"], ["002_t2.sql"]])
def test_migrate_single_runs_that_file_and_notes_earlier_ones(
    project: Project, arguments: list[str]
) -> None:
    five(project)
    done = project.invoke("db.migrate-single", *arguments)
    assert done.returncode == 0, done.output
    assert project.executed() == ["002_t2.sql"]
    assert "still pending: 001_t1.sql" in done.stdout


def test_an_unknown_name_is_answered_with_the_closest(project: Project) -> None:
    project.write("001_add_users.sql", "SELECT 1;")
    done = project.invoke("db.migrate-single", "--name", "001_add_user.sql")
    assert done.returncode == 2
    assert "001_add_users.sql" in done.stderr


def test_an_already_executed_file_is_a_warning_with_its_time(project: Project) -> None:
    five(project)
    project.invoke("db.migrate-run")
    done = project.invoke("db.migrate-single", "001_t1.sql")
    assert done.returncode == 0
    said = r"warning: 001_t1\.sql was already executed on \d{4}-\d\d-\d\d at"
    assert re.search(said, done.stdout)


def test_a_flag_for_a_name_and_a_name_too_long_are_refused(project: Project) -> None:
    assert project.invoke("db.migrate-single", "--name", "--oops").returncode == 2
    long = project.invoke("db.migrate-single", "--name", "1" * 256)
    assert long.returncode == 2
    assert "longer than 255 characters" in long.stderr


# The ledger


def test_the_ledger_of_the_node_code_is_adopted_and_still_works_for_it(project: Project) -> None:
    five(project)
    with project.cluster.connect(project.database) as conn:
        conn.execute(NODE_LEDGER.encode())
        conn.execute("INSERT INTO migrations (filename) VALUES ('001_t1.sql'), ('002_t2.sql')")
    done = project.invoke("db.migrate")
    assert done.returncode == 0, done.output
    assert "taken as loaded" in done.stdout
    assert {"users", "t1", "t2"} & tables(project) == set()
    assert {"t3", "t4", "t5"} <= tables(project)
    assert all(row["checksum"] for row in project.rows())


def test_nothing_is_said_of_a_base_schema_where_there_is_none(project: Project) -> None:
    (project.folder / "db" / "schema.sql").unlink(missing_ok=True)
    project.write("001_a.sql", "CREATE TABLE a (id int);")
    replayed = project.invoke("db.rehearse", "--replay", timeout=120)
    assert "the files run on an empty database: " in replayed.stdout, replayed.output
    for command in (["db.migrate"], ["db.migrate"], ["db.plan"], ["db.plan", "--sql"]):
        done = project.invoke(*command)
        assert done.returncode == 0, done.output
        assert "schema" not in done.output
    for command in (["db.rehearse"], ["db.rehearse", "--replay", "--name", "002_b.sql"]):
        project.write("002_b.sql", "CREATE TABLE b (id int);")
        done = project.invoke(*command, timeout=120)
        assert done.returncode == 0, done.output
        assert not re.search(r"base schema|schema\.sql", done.output)
    assert "the files run after 1 file, on " in done.stdout
    with project.cluster.connect(project.database) as conn:
        conn.execute("INSERT INTO migrations (filename) VALUES (%s)", ["006_theirs.sql"])
        rows = conn.execute("SELECT filename FROM migrations ORDER BY id").fetchall()
    assert [r[0] for r in rows][-1] == "006_theirs.sql"


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ("id serial PRIMARY KEY, migration varchar(255) NOT NULL, batch int NOT NULL", "batch"),
        ('id serial PRIMARY KEY, "timestamp" bigint NOT NULL, name varchar NOT NULL', "timestamp"),
        (
            "id int PRIMARY KEY, name varchar(100) UNIQUE NOT NULL, hash varchar(40) NOT NULL,"
            " executed_at timestamp DEFAULT current_timestamp",
            "hash",
        ),
    ],
    ids=["Laravel", "TypeORM", "postgres-migrations"],
)
def test_a_foreign_migrations_table_is_refused_with_its_columns(
    project: Project, columns: str, named: str
) -> None:
    five(project)
    with project.cluster.connect(project.database) as conn:
        conn.execute(f"CREATE TABLE migrations ({columns})".encode())
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert named in done.stderr
    assert "MIGRATIONS_TABLE" in done.stderr
    elsewhere = project.invoke("db.migrate-run", env={"MIGRATIONS_TABLE": "db_migrations"})
    assert elsewhere.returncode == 0, elsewhere.output
    assert len(project.rows("db_migrations")) == 5


def test_a_ledger_in_another_schema(project: Project) -> None:
    five(project)
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE SCHEMA ops")
    done = project.invoke("db.migrate-run", env={"MIGRATIONS_TABLE": "ops.migrations"})
    assert done.returncode == 0, done.output
    assert len(project.rows("ops.migrations")) == 5


# What a user types wrong


def test_no_settings_at_all_shows_what_to_write(project: Project) -> None:
    done = project.invoke("db.migrate", env={"DATABASE_URL": None})
    assert done.returncode == 2
    assert "DATABASE_URL=embedded:" in done.stderr


def test_settings_come_from_the_env_file_of_the_project(project: Project) -> None:
    (project.folder / ".env").write_text(f"DATABASE_URL={project.url}\n")
    (project.folder.parent / ".env").write_text("DATABASE_URL=postgresql://stray/\n")
    assert project.invoke("db.migrate-run", env={"DATABASE_URL": None}).returncode == 0
    (project.folder / ".env").unlink()
    assert project.invoke("db.migrate-run", env={"DATABASE_URL": None}).returncode == 2


def test_pg_variables_take_passwords_as_they_are(project: Project, cluster: Cluster) -> None:
    (project.folder / ".env").write_text(
        f"PGHOST=127.0.0.1\nPGPORT={cluster.port}\nPGDATABASE={project.database}\n"
        "PGUSER=deploy\nPGPASSWORD='p@ss:w/o?r#d% x'\n"
    )
    with cluster.connect(project.database) as conn:
        conn.execute("GRANT ALL ON SCHEMA public TO deploy")
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": None})
    assert done.returncode == 0, done.output
    assert " as deploy (" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:s3cret@h/d", "not PostgreSQL's scheme"),
        ("postgresql://u:s3cr@et@h/d", "%40"),
        ("postgresql://u:s3c/ret@h/d", "%2F"),
        ("postgresql://u:s3c#ret@h/d", "%23"),
        ("postgresql://u:s3c%ret@h/d", "%25"),
        ("postgresql://u:s3cret@h/d?schema=public", "schema"),
        ("s3cret", "not a PostgreSQL URL"),
        ("host=h passwor=s3cret", "passwor"),
        ("postgresql://u:s3cret@h:port/d", "port"),
    ],
)
def test_a_bad_url_is_a_sentence_without_the_password(
    project: Project, url: str, said: str
) -> None:
    done = project.invoke(
        "db.migrate", env={"DATABASE_URL": url, "MIGRATIONS_CONNECT_TIMEOUT": "1"}
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert not re.search("s3c|cret|Traceback", done.output)


def test_a_wrong_password_is_said_at_once_and_not_shown(project: Project, cluster: Cluster) -> None:
    url = f"postgresql://deploy:wr0ng@127.0.0.1:{cluster.port}/{project.database}"
    done = project.invoke("db.migrate", env={"DATABASE_URL": url})
    assert done.returncode == 2
    assert "password authentication failed" in done.stderr
    assert "wr0ng" not in done.output
    assert done.seconds < 20


@pytest.mark.parametrize("name", ["add_users.sql", "001-add.sql", "001_.sql", "001_x.SQL"])
def test_a_file_that_is_not_named_by_the_pattern_is_named_and_nothing_runs(
    project: Project, name: str
) -> None:
    five(project)
    project.write(name, "SELECT 1;")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert f"migrations/{name}" in done.stderr
    assert ("in small letters" in done.stderr) == name.endswith(".SQL")
    assert tables(project) == set()


def test_a_folder_and_a_pipe_named_like_a_migration_are_refused(project: Project) -> None:
    (project.migrations / "001_x.sql").mkdir()
    assert "is a folder" in project.invoke("db.migrate-run").stderr
    (project.migrations / "001_x.sql").rmdir()
    os.mkfifo(project.migrations / "001_x.sql")
    done = project.invoke("db.migrate-run", timeout=30)
    assert done.returncode == 2
    assert "not a file that can be read" in done.stderr


def test_a_file_that_is_not_utf8_is_refused_with_the_byte(project: Project) -> None:
    project.write("001_x.sql", b"SELECT 'caf\xe9';")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "migrations/001_x.sql" in done.stderr
    assert "byte 11" in done.stderr


def test_numbers_of_different_width_are_told_to_be_padded(project: Project) -> None:
    project.write("2_x.sql", "SELECT 1;")
    project.write("10_y.sql", "SELECT 1;")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "02_x.sql" in done.stderr
    assert project.executed() == []


def test_the_same_number_twice_is_a_warning_and_both_run(project: Project) -> None:
    project.write("001_b.sql", "SELECT 1;")
    project.write("001_a.sql", "SELECT 1;")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0
    assert "warning: 001_a.sql and 001_b.sql have the same number" in done.stdout
    assert project.executed() == ["001_a.sql", "001_b.sql"]


def test_an_executed_file_that_changed_is_refused_with_both_ways_out(project: Project) -> None:
    five(project)
    project.invoke("db.migrate-run")
    project.write("002_t2.sql", "CREATE TABLE t2 (id bigint);")
    project.write("006_t6.sql", "CREATE TABLE t6 (id int);")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "002_t2.sql" in done.stderr
    assert "new migration" in done.stderr
    assert "db.repair --name 002_t2.sql --accept" in done.stderr
    assert "t6" not in tables(project)


def test_line_endings_and_a_bom_do_not_change_a_file(project: Project) -> None:
    project.write("001_x.sql", "SELECT 1;\nSELECT 2;\n")
    project.invoke("db.migrate-run")
    project.write("001_x.sql", b"\xef\xbb\xbfSELECT 1;\r\nSELECT 2;\r\n")
    assert project.invoke("db.migrate-run").returncode == 0


def test_an_executed_file_that_is_missing_is_a_warning(project: Project) -> None:
    five(project)
    project.invoke("db.migrate-run")
    (project.migrations / "002_t2.sql").unlink()
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0
    assert "warning: 002_t2.sql is executed, but its file is missing" in done.stdout


@pytest.mark.parametrize(
    ("where", "advice"),
    [
        ("ALTER DATABASE {database}", "ALTER DATABASE {database} RESET"),
        ("ALTER ROLE postgres IN DATABASE {database}", "ALTER ROLE {user} IN DATABASE {database}"),
    ],
    ids=["of the database", "of the role there"],
)
def test_a_read_only_default_is_refused_with_what_takes_it_away(
    project: Project, where: str, advice: str
) -> None:
    five(project)
    names = {"database": f'"{project.database}"', "user": '"postgres"'}
    with project.cluster.connect(project.database) as conn:
        conn.execute(f"{where.format(**names)} SET default_transaction_read_only = on".encode())
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "default_transaction_read_only is on" in done.stderr
    assert advice.format(**names) in done.stderr


def test_a_read_only_option_of_the_url_is_named_as_that(project: Project) -> None:
    five(project)
    env = {"PGOPTIONS": "-cdefault_transaction_read_only=on"}
    done = project.invoke("db.migrate-run", env=env)
    assert "Take default_transaction_read_only out of PGOPTIONS" in done.stderr


def test_invokes_dry_is_refused_because_sql_would_run(project: Project) -> None:
    five(project)
    done = project.invoke("--dry", "db.migrate-run")
    assert done.returncode == 2
    assert "db.plan" in done.stderr
    assert tables(project) == set()


def test_a_home_configuration_cannot_rename_the_commands(project: Project) -> None:
    (project.home / ".invoke.yaml").write_text("tasks:\n  auto_dash_names: false\n")
    assert project.invoke("db.migrate-run").returncode == 0


# Python


def test_the_python_api_does_the_same(project: Project) -> None:
    from db import errors, migrate

    five(project)
    assert migrate(project.url, project.migrations) == [f"{n:03}_t{n}.sql" for n in range(1, 6)]
    assert migrate(project.url, project.migrations) == []
    project.write("006_x.sql", "SELECT nonsense;")
    with pytest.raises(errors.StatementFailed) as failed:
        migrate(project.url, project.migrations)
    assert failed.value.location is not None
    assert failed.value.location.line == 1
    with pytest.raises(errors.ConnectionFailed):
        migrate("host=/nowhere", project.migrations, settings={"MIGRATIONS_CONNECT_TIMEOUT": "0s"})


@pytest.mark.long
def test_a_standby_is_refused_by_name(project: Project, own_cluster: MakeCluster) -> None:
    cluster = own_cluster()
    there = Project.at(project, cluster)
    five(there)
    cluster.stop()
    (cluster.data / "standby.signal").touch()
    cluster.start()
    done = there.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "standby" in done.stderr


def test_the_target_line_names_the_role_and_never_the_password(
    project: Project, cluster: Cluster
) -> None:
    with cluster.connect(project.database) as conn:
        conn.execute("GRANT ALL ON SCHEMA public TO deploy")
    url = cluster.url(project.database, role="deploy")
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": url})
    first = done.stdout.splitlines()[0]
    assert re.fullmatch(
        rf"{project.database} on 127\.0\.0\.1:\d+ as deploy \(PostgreSQL [\d.]+\)", first
    )


def test_psycopg_is_not_paid_for_by_invoke_list(project: Project) -> None:
    listed = project.invoke("--list", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert listed.returncode == 0
    assert "db.migrate-run" in listed.stdout
    assert "psycopg" not in listed.stderr
    assert " rich" not in listed.stderr

"""What to do next is right for what went wrong."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.conftest import Project
from tests.servers import DEPLOY


def failing(project: Project, text: str, **env: str) -> str:
    project.write("001_x.sql", text)
    done = project.invoke("db.migrate-run", env=env)
    assert done.returncode in (1, 2), done.output
    return done.stderr


def raising(sqlstate: str) -> str:
    return f"DO $$BEGIN RAISE 'it broke' USING ERRCODE = '{sqlstate}'; END$$;"


@pytest.mark.long
@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("SELECT 1 / 0;", "Fix the file, then: invoke db.migrate-run"),
        ("CREATE TABLE t (); GRANT ALL ON t TO nobody_here;", 'CREATE ROLE "nobody_here"'),
        (
            "CREATE TABLE t AS SELECT 1 AS a FROM generate_series(1, 2);\n"
            "CREATE UNIQUE INDEX i ON t (a);",
            "It is the rows that do not fit, not the file. Mend them, then: invoke",
        ),
        (
            "CREATE TABLE t AS SELECT NULL::int AS a;\nALTER TABLE t ALTER a SET NOT NULL;",
            "It is the rows that do not fit, not the file. Mend them, then: invoke",
        ),
        (
            "CREATE TABLE t (a int UNIQUE);\nINSERT INTO t VALUES (1), (1);",
            "Fix the file, or the rows that are in its way, then: invoke",
        ),
        (raising("53100"), "See to that on the server, then: invoke"),
        (raising("08P01"), "It is another server that refused it: see to that one, then"),
        (raising("08001"), "It is another server that did not answer: see to that one, then"),
        (raising("HV000"), "See to the foreign server, then: invoke"),
        (raising("XX000"), "its log may say more, then: invoke"),
    ],
    ids=[
        "the file",
        "role",
        "duplicates",
        "nulls",
        "insert",
        "disk",
        "refused",
        "worker",
        "foreign",
        "bug",
    ],
)
def test_what_has_to_be_put_right_is_named(project: Project, text: str, advice: str) -> None:
    said = failing(project, text)
    assert advice in said
    assert ("Fix the file" in said) == ("Fix the file" in advice)


def test_a_role_of_the_settings_that_is_missing_is_not_the_files_fault(project: Project) -> None:
    said = failing(project, "SELECT 1;", MIGRATIONS_ROLE="nobody_here")
    assert "It is MIGRATIONS_ROLE that is refused" in said
    assert "Fix the file" not in said


def test_a_database_that_never_got_the_base_schema_is_told_where_to_get_it(
    project: Project,
) -> None:
    project.write_schema("CREATE TABLE base (id int);")
    text = "ALTER TABLE base ADD COLUMN name text;"
    assert "To load it, and the migrations: invoke db.migrate\n" in failing(project, text)
    assert project.invoke("db.migrate").returncode == 0
    project.write("002_x.sql", "ALTER TABLE bass ADD COLUMN name text;")
    later = project.invoke("db.migrate-run").stderr
    assert "never got" not in later
    assert "Fix the file" in later


def test_a_base_schema_that_migrate_would_not_load_is_loaded_by_hand(project: Project) -> None:
    project.write_schema("CREATE TABLE base (id int);")
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE theirs (id int)")
    said = failing(project, "ALTER TABLE base ADD COLUMN name text;")
    assert "db.migrate loads that into an empty database only" in said
    assert "To load it, and the migrations" not in said
    again = project.invoke("db.migrate")  # the ledger that the failed run has left is no other case
    assert again.returncode == 2
    assert "has tables but no file in its ledger" in again.stderr
    assert "load it by hand (invoke db.console)" in again.stderr
    with project.cluster.connect(project.database) as conn:
        conn.execute((project.folder / "db" / "schema.sql").read_bytes())
    for command in re.findall(r"invoke (db\.(?:baseline|migrate-run)[^,\n]*)", said)[:2]:
        yes = ["--yes"] if "baseline" in command else []
        assert project.invoke(*command.split(), *yes).returncode == 0
    assert project.executed() == ["schema.sql", "001_x.sql"]


@pytest.mark.parametrize(
    "options", ["db.migrate-single --name '001_a b.sql'", "db.migrate-run --to '001_a b.sql'"]
)
def test_a_name_with_a_space_is_quoted_to_be_typed_again(project: Project, options: str) -> None:
    project.write("001_a b.sql", "SELECT 1/0;")
    done = project.invoke(*shlex.split(options))
    assert done.stderr.endswith(f"then: invoke {options}\n")


@pytest.mark.parametrize("name", ["schema.sql", "001_x.sql"])
def test_a_file_cut_off_in_a_database_without_a_row_is_gone_on_with(
    project: Project, name: str
) -> None:
    text = "-- migrate: no-transaction\nCREATE TABLE a ();\n{};\nCREATE TABLE b ();"
    path = project.folder / "db" / name if name == "schema.sql" else project.migrations / name
    (project.folder / "db" / "schema.sql").unlink(missing_ok=True)
    path.write_text(text.format("SELECT 1/0"))
    assert project.invoke("db.migrate").returncode == 1
    assert f"\n{name}  unfinished\n" in re.sub(" +\n", "\n", project.invoke("db.status").stdout)
    path.write_text(text.format("SELECT 1"))
    done = project.invoke("db.migrate")
    assert done.returncode == 0, done.output
    assert project.executed() == [name]


def test_a_right_on_the_ledger_is_granted_by_its_real_name(project: Project) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE SCHEMA app")
        name = project.database
        conn.execute(f'ALTER DATABASE "{name}" SET search_path = app'.encode())
        conn.execute(f"GRANT USAGE, CREATE ON SCHEMA app TO {DEPLOY}".encode())
    project.write("001_x.sql", "SELECT 1;")
    assert project.invoke("db.migrate-run").returncode == 0
    url = project.cluster.url(project.database, role=DEPLOY)
    done = project.invoke("db.migrate-run", env={"DATABASE_URL": url})
    assert f'ON "app"."migrations" TO "{DEPLOY}";' in done.stderr
    assert f'ON SCHEMA "app" TO "{DEPLOY}";' in done.stderr
    looked = project.invoke("db.status", env={"DATABASE_URL": url})
    assert f'ON "app"."migrations" TO "{DEPLOY}";' in looked.stderr


def test_a_schema_of_the_ledger_that_is_missing_is_told_to_be_made(project: Project) -> None:
    said = failing(project, "SELECT 1;", MIGRATIONS_TABLE="ops.migrations")
    assert 'CREATE SCHEMA "ops";' in said


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ("id int, version text", "it has no column executed_at and no filename"),
        (
            "id int, filename text, executed_at timestamptz, batch int NOT NULL",
            "it cannot do without batch",
        ),
    ],
    ids=["lacks columns", "wants another"],
)
def test_a_table_that_is_no_ledger_says_by_which_column(
    project: Project, columns: str, why: str
) -> None:
    with project.cluster.connect(project.database) as conn:
        conn.execute(f"CREATE TABLE migrations ({columns})".encode())
    assert f"{why}. Its columns are id, " in failing(project, "SELECT 1;")

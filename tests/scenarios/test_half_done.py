"""A no-transaction file that is half done, and what must not be done about it meanwhile."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Project
from tests.scenarios.test_engine import wait_for
from tests.scenarios.test_everyday import asked_on_terminal, execute, states, tables, write
from tests.scenarios.test_records import renamed

BROKEN = "-- migrate: no-transaction\nINSERT INTO t1 VALUES (1);\nSELECT 1/0;"
MENDED = BROKEN.replace("1/0", "1")
STRAY = "unfinished without file"


def half_done(project: Project) -> None:
    """Execute 001_t1.sql, and 002_y.sql up to its second statement, which fails."""
    write(project, 1, down=True)
    project.write("002_y.sql", BROKEN)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 1, done.output


def left(project: Project) -> list[tuple[int, ...]]:
    with project.cluster.connect(project.database) as conn:
        return conn.execute("SELECT id FROM t1").fetchall()


def progress(project: Project) -> list[tuple[str, int]]:
    with project.cluster.connect(project.database) as conn:
        query = "SELECT filename, unit FROM migrations_unfinished ORDER BY 1, 2"
        return conn.execute(query).fetchall()


# Its file is not there any more


@pytest.mark.parametrize(
    "command",
    [
        ["db.migrate-run"],
        ["db.migrate"],
        ["db.migrate-single", "003_y.sql"],
        ["db.plan"],
        ["db.plan", "--run", "--sql"],
        ["db.baseline", "--yes"],
    ],
    ids=" ".join,
)
def test_a_half_done_file_that_was_renumbered_does_not_begin_again(
    project: Project, command: list[str]
) -> None:
    half_done(project)
    (project.migrations / "002_y.sql").unlink()
    project.write("003_y.sql", MENDED)
    done = project.invoke(*command)
    assert done.returncode == 2, done.output
    assert (
        "002_y.sql is half done (1 statement is executed), but its file is missing" in done.stderr
    )
    assert "Put 002_y.sql back" in done.stderr
    assert "invoke db.repair --name 003_y.sql --renamed-from 002_y.sql" in done.stderr
    assert "invoke db.repair --name 002_y.sql --forget" in done.stderr
    assert left(project) == [(1,)]
    assert project.executed() == ["001_t1.sql"]
    forget = project.invoke("db.repair", "--name", "002_y.sql", "--forget")
    assert "if 003_y.sql is the same file, that runs again" in forget.stdout


def test_a_half_done_file_goes_on_under_the_name_that_a_repair_gives_it(project: Project) -> None:
    half_done(project)
    (project.migrations / "002_y.sql").unlink()
    project.write("003_y.sql", MENDED)
    repair = ("db.repair", "--name", "003_y.sql", "--renamed-from", "002_y.sql")
    with asked_on_terminal(project, *repair) as answer:
        assert progress(project) == [("002_y.sql", 0)]
        code, seen = answer("y\n")
    assert code == 0, seen
    assert "goes on where 002_y.sql was: 1 statement is executed" in seen
    assert progress(project) == [("003_y.sql", 0)]
    assert states(project) == {"001_t1.sql": "executed", "003_y.sql": "unfinished"}
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert left(project) == [(1,)]
    assert progress(project) == []


def test_a_half_done_file_goes_on_where_it_is_put_back(project: Project) -> None:
    half_done(project)
    renamed(project, "002_y.sql", "003_y.sql")
    assert project.invoke("db.migrate-run").returncode == 2
    renamed(project, "003_y.sql", "002_y.sql")
    project.write("002_y.sql", MENDED)
    assert project.invoke("db.migrate-run").returncode == 0
    assert left(project) == [(1,)]


def test_a_half_done_file_that_is_deleted_is_shown_until_it_is_forgotten(
    project: Project,
) -> None:
    half_done(project)
    (project.migrations / "002_y.sql").unlink()
    assert states(project) == {"001_t1.sql": "executed", "002_y.sql": STRAY}
    for command in (["db.status", "--check"], ["db.verify"]):
        done = project.invoke(*command)
        assert done.returncode == 3, done.output
        assert STRAY in done.output
        assert "invoke db.repair --name 002_y.sql --forget" in done.stderr
    for command in (["db.plan"], ["db.migrate-run"]):  # where nothing is to run, nothing is refused
        done = project.invoke(*command)
        assert done.returncode == 0, done.output
        assert "1 statement is executed), but its file is missing" in done.stdout
        assert "invoke db.repair --name 002_y.sql --forget" in done.stdout
    assert project.invoke("db.dump", "--force").returncode == 2
    forget = project.invoke("db.repair", "--name", "002_y.sql", "--forget", "--yes")
    assert forget.returncode == 0, forget.output
    assert "what is executed of it stays in the database" in forget.stdout
    assert project.invoke("db.status", "--check").returncode == 0
    assert project.invoke("db.verify").returncode == 0
    write(project, 3)
    assert project.invoke("db.migrate-run").returncode == 0


def test_a_repair_gives_no_file_the_progress_of_another(project: Project) -> None:
    half_done(project)
    repair = ("db.repair", "--renamed-from", "002_y.sql", "--yes", "--name")
    project.write("003_z.sql", MENDED)
    copy = project.invoke(*repair, "003_z.sql")
    assert copy.returncode == 2
    assert "is a copy of it" in copy.stderr
    (project.migrations / "002_y.sql").unlink()
    project.write("003_z.sql", MENDED.replace("VALUES (1)", "VALUES (2)"))
    other = project.invoke(*repair, "003_z.sql")
    assert other.returncode == 2
    assert "migrations/003_z.sql:2" in other.stderr
    assert "statement 1 is executed already, and was edited since" in other.stderr
    assert "invoke db.repair --name 002_y.sql --forget" in other.stderr
    project.write("004_w.sql", BROKEN.replace("VALUES (1)", "VALUES (4)"))
    execute(project, "UPDATE migrations_unfinished SET filename = '004_w.sql'")
    execute(
        project,
        "INSERT INTO migrations_unfinished (filename, unit, checksum, run_by) "
        "VALUES ('002_y.sql', 0, 'x', 'y')",
    )
    both = project.invoke(*repair, "004_w.sql")
    assert both.returncode == 2
    assert "004_w.sql is half done itself" in both.stderr
    assert progress(project) == [("002_y.sql", 0), ("004_w.sql", 0)]


def test_an_answer_about_a_half_done_file_that_went_on_meanwhile_does_nothing(
    project: Project,
) -> None:
    half_done(project)
    renamed(project, "002_y.sql", "003_y.sql")
    repair = ("db.repair", "--name", "003_y.sql", "--renamed-from", "002_y.sql")
    with asked_on_terminal(project, *repair) as answer:
        execute(
            project,
            "INSERT INTO migrations_unfinished (filename, unit, checksum, run_by) "
            "VALUES ('002_y.sql', 1, 'x', 'y')",
        )
        code, seen = answer("y\n")
    assert code == 2, seen
    assert "was changed meanwhile. Nothing was done." in seen
    assert progress(project) == [("002_y.sql", 0), ("002_y.sql", 1)]


def test_a_fleet_shows_a_half_done_file_that_is_gone_as_unfinished(project: Project) -> None:
    half_done(project)
    (project.migrations / "002_y.sql").unlink()
    (project.folder / "targets").write_text(f"one={project.url}\n")
    done = project.invoke("db.fleet", "--targets", "targets", "--status", "--check", "--json")
    assert done.returncode == 3, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["unfinished"] for row in rows if row["event"] == "standing"] == [["002_y.sql"]]
    assert tables(project) >= {"t1"}


# The base schema


def test_a_base_schema_that_is_half_done_goes_on_before_any_file(project: Project) -> None:
    text = "-- migrate: no-transaction\nCREATE TABLE base (id int);\nSELECT 1/0;\n"
    project.write_schema(f"{text}CREATE TABLE rest (id int);")
    write(project, 1)
    assert project.invoke("db.migrate").returncode == 1
    project.write_schema(text.replace("1/0", "1") + "CREATE TABLE rest (id int);")
    assert states(project) == {"schema.sql": "unfinished", "001_t1.sql": "pending"}
    assert project.invoke("db.status", "--check").returncode == 3
    for command in (["db.migrate-run"], ["db.migrate-single", "001_t1.sql"], ["db.plan", "--run"]):
        done = project.invoke(*command)
        assert done.returncode == 2, done.output
        assert "schema.sql is half done" in done.stderr
        assert "Finish it first: invoke db.migrate\n" in done.stderr
    assert "t1" not in tables(project)
    done = project.invoke("db.migrate")
    assert done.returncode == 0, done.output
    assert tables(project) >= {"base", "rest", "t1"}
    assert project.executed() == ["schema.sql", "001_t1.sql"]
    assert project.invoke("db.migrate-run").returncode == 0


def test_a_half_done_base_schema_that_is_gone_or_forgotten(project: Project) -> None:
    project.write_schema("-- migrate: no-transaction\nCREATE TABLE base (id int);\nSELECT 1/0;")
    write(project, 1)
    assert project.invoke("db.migrate").returncode == 1
    schema = project.folder / "db" / "schema.sql"
    text = schema.read_text()
    schema.unlink()
    assert states(project) == {"001_t1.sql": "pending", "schema.sql": STRAY}
    gone = project.invoke("db.migrate")
    assert gone.returncode == 2
    assert "schema.sql is half done (1 statement is executed), but its file is" in gone.stderr
    schema.write_text(text)
    forget = project.invoke("db.repair", "--name", "schema.sql", "--forget", "--yes")
    assert "it is loaded again once the database has no tables, by db.migrate" in forget.stdout
    refused = project.invoke("db.migrate")
    assert refused.returncode == 2
    assert "The database has tables but no file in its ledger" in refused.stderr
    assert "invoke db.baseline --to schema.sql" in refused.stderr


# What it stands on is not taken away


def no_companion_ran(project: Project) -> bool:
    return "t1" in tables(project) and project.executed() == ["001_t1.sql"]


def test_a_rollback_below_a_half_done_file_is_refused(project: Project) -> None:
    half_done(project)
    done = project.invoke("db.rollback", "--yes")
    assert done.returncode == 2, done.output
    assert "002_y.sql is half done: it has come to statement 2" in done.stderr
    assert "Nothing was rolled back." in done.stderr
    assert "invoke db.migrate-run" in done.stderr
    assert "invoke db.repair --name 002_y.sql --forget" in done.stderr
    assert no_companion_ran(project)
    forget = project.invoke("db.repair", "--name", "002_y.sql", "--forget", "--yes")
    assert forget.returncode == 0, forget.output
    assert project.invoke("db.rollback", "--yes").returncode == 0
    project.write("002_y.sql", MENDED)
    assert project.invoke("db.migrate-run").returncode == 0
    assert left(project) == [(1,)]  # in the table of now


def test_a_rollback_is_refused_also_where_a_file_became_half_done_behind_the_question(
    project: Project,
) -> None:
    write(project, 1, down=True)
    assert project.invoke("db.migrate-run").returncode == 0
    with asked_on_terminal(project, "db.rollback") as answer:
        project.write("002_y.sql", BROKEN)
        assert project.invoke("db.migrate-run").returncode == 1
        code, seen = answer("y\n")
    assert code == 2, seen
    assert "002_y.sql is half done: it has come to statement 2" in seen
    assert no_companion_ran(project)


@pytest.mark.long
def test_a_rollback_is_refused_also_where_a_file_became_half_done_while_it_waited(
    project: Project,
) -> None:
    write(project, 1, down=True)
    assert project.invoke("db.migrate-run").returncode == 0
    slow = BROKEN.replace("1/0", "pg_sleep(3), 1/(random() * 0)::int")
    project.write("002_y.sql", slow.replace("INSERT", "SELECT pg_sleep(2);\nINSERT"))
    run = project.popen("db.migrate-run")
    with project.cluster.connect(project.database) as conn:
        query = "SELECT 1 FROM pg_stat_activity WHERE query ~ 'pg_sleep.2.' AND state = 'active'"
        mine = f"{query} AND datname = current_database() AND pid <> pg_backend_pid()"
        wait_for(lambda: conn.execute(mine.encode()).fetchone() is not None, 40)
    done = project.invoke("db.rollback", "--yes")  # at whose survey no unit is finished
    run.communicate(timeout=60)
    assert run.returncode == 1
    assert done.returncode == 2, done.output
    assert "waiting for" in done.stdout
    assert "002_y.sql is half done: it has come to statement 3" in done.stderr
    assert no_companion_ran(project)

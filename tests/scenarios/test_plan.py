"""What would run, what would be refused, and how far a run goes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.servers import PgBouncer

FRAMES = "BEGIN;\nCREATE TABLE a ();\nCOMMIT;\nBEGIN;\nCREATE TABLE b ();\nCOMMIT;\n"


def write(project: Project, *numbers: int) -> None:
    for n in numbers:
        project.write(f"{n:03}_t{n}.sql", f"CREATE TABLE t{n} (id int);")


# What is refused


@pytest.mark.parametrize("command", ["db.migrate-run", "db.migrate", "db.plan"])
def test_all_refusals_are_shown_at_once(project: Project, command: str) -> None:
    write(project, 1)
    for n in range(2, 32):
        project.write(f"{n:03}_v.sql", "VACUUM;" if n % 2 else FRAMES)
    done = project.invoke(command)
    assert done.returncode == 2
    assert len(re.findall(r"^migrations/0.._v\.sql:\d+:1: ", done.stderr, re.MULTILINE)) == 10
    assert "... and 20 more" in done.stderr
    assert "30 files cannot be run as they are." in done.stderr
    assert "Nothing was executed." in done.stderr or "30 of 32 refused; nothing" in done.stderr
    assert "In 15: Put this on a line at the top: -- migrate: no-transaction" in done.stderr
    assert "All of them: invoke db.plan" in done.stderr
    assert project.rows() == []
    if command == "db.plan":
        assert len(re.findall(r" refused +\d+:1: ", done.stdout)) == 30
    assert "\n\n\n" not in done.output


@pytest.mark.parametrize("command", ["db.migrate-run", "db.migrate", "db.plan", "db.status"])
def test_wrong_names_and_encodings_are_refused_at_once(project: Project, command: str) -> None:
    write(project, 1)
    for n in range(2, 10):
        project.write(f"{n:03}-t.sql", "SELECT 1;")
    for n in range(10, 15):
        (project.migrations / f"{n:03}_t.sql").write_bytes(b"SELECT 1;\nSELECT '\xe4';\n")
    done = project.invoke(command)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "13 files cannot be run as they are. Nothing was executed." in said
    assert len(re.findall(r"^migrations/0..-t\.sql is not named", done.stderr, re.MULTILINE)) == 8
    assert len(re.findall(r"^migrations/01._t\.sql: byte 18 ", done.stderr, re.MULTILINE)) == 2
    assert "... and 3 more" in said
    assert "In 8: Migrations are named [number]_[description].sql" in said
    assert "In 5: In a shell, such as from Windows-1252: iconv" in said
    assert project.rows() == []
    events = project.invoke("db.status", "--json").stdout.splitlines()
    assert sum(json.loads(line)["event"] == "failed" for line in events) == 14  # and what counts


def test_a_plan_refuses_what_a_pooler_cannot_carry(project: Project, pgbouncer: PgBouncer) -> None:
    write(project, 1)
    project.write("002_t2.sql", "-- migrate: no-transaction\nSET search_path = a;\nVACUUM;\n")
    assert project.invoke("db.plan").returncode == 0
    pooled = {"DATABASE_URL": pgbouncer.url(project.database)}
    for command in (("db.plan",), ("db.plan", "--sql"), ("db.migrate-run",)):
        done = project.invoke(*command, env=pooled)
        assert done.returncode == 2, done.output
        assert "migrations/002_t2.sql:2:1: What SET does does not last" in done.stderr
        assert "Connect to the server directly for this file" in done.stderr
        assert "CREATE TABLE" not in done.stdout or "refused" in done.stdout
    assert project.rows() == []


def test_tables_without_a_ledger_show_why_and_what_migrate_run_would_do(project: Project) -> None:
    write(project, 1, 2)
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE theirs (id int)")
    done = project.invoke("db.plan")
    assert done.returncode == 2
    assert "db.migrate would be refused; db.migrate-run would execute this:" in done.stdout
    assert re.findall(r"^00\d_t\d\.sql", done.stdout, re.MULTILINE) == ["001_t1.sql", "002_t2.sql"]
    assert "has tables but no ledger" in done.stderr
    assert "invoke db.migrate-run" in done.stderr
    assert project.rows() == []


def test_the_sql_of_a_plan_is_sql_from_any_folder(project: Project) -> None:
    write(project, 1)
    done = project.invoke("db.plan", "--run", "--sql", cwd=project.migrations)
    assert done.returncode == 0, done.output
    assert not re.search(r"^note", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("statements", "reader", "code", "said"),
    [
        (20_000, "| head -1", 0, ""),
        (1, "| true", 0, ""),
        (1, "> /dev/full", 2, "The output cannot be written: No space left on device."),
    ],
    ids=["head", "nobody", "a full disk"],
)
def test_the_sql_of_a_plan_that_is_not_read_to_its_end(
    project: Project, statements: int, reader: str, code: int, said: str
) -> None:
    project.write("001_t1.sql", "SELECT 'some text that fills a pipe';\n" * statements)
    invoke = Path(sys.executable).parent / "invoke"
    done = subprocess.run(
        ["bash", "-c", f"{invoke} db.plan --run --sql {reader}; exit ${{PIPESTATUS[0]}}"],
        cwd=project.folder,
        env=project.environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said)
    assert "Error" not in done.stderr
    assert bool(done.stderr) == bool(said)


def test_one_refusal_says_that_nothing_was_executed(project: Project) -> None:
    write(project, 1)
    project.write("002_v.sql", "VACUUM;")
    done = project.invoke("db.migrate-run")
    assert done.stderr.splitlines()[-2:] == [
        "Nothing was executed.",
        "Put this on a line at the top: -- migrate: no-transaction",
    ]


def test_each_refusal_is_a_line_of_json_and_an_annotation(project: Project) -> None:
    for n in range(1, 13):
        project.write(f"{n:03}_v.sql", "VACUUM;")
    done = project.invoke("db.migrate-run", "--json")
    failed = [json.loads(line) for line in done.stdout.splitlines()][-13:]
    assert [line["filename"] for line in failed[:-1]] == [f"{n:03}_v.sql" for n in range(1, 13)]
    assert failed[-1]["error"] == "Refused"
    done = project.invoke("db.migrate-run", env={"GITHUB_ACTIONS": "true"})
    assert done.stdout.count("::error file=migrations/0") == 12


@pytest.mark.parametrize(
    ("text", "mends"),
    [
        (FRAMES, ["top", "delete"]),
        (FRAMES + "VACUUM;\n", ["top"]),
        ("VACUUM;\n" + FRAMES, ["top"]),
        ("BEGIN;\nCREATE TABLE a ();\nROLLBACK;\n", ["delete"]),
    ],
    ids=["blocks", "blocks and VACUUM", "VACUUM and blocks", "ROLLBACK"],
)
def test_a_file_with_its_own_transactions_is_mended_in_one_step(
    project: Project, text: str, mends: list[str]
) -> None:
    project.write("001_x.sql", text)
    said = project.invoke("db.migrate-run").stderr
    assert ("line at the top" in said and "-- migrate: no-transaction" in said) or mends == []
    for mend in mends:
        mended = "-- migrate: no-transaction\n" + text
        if mend == "delete":
            mended = re.sub(r"(?m)^(BEGIN|COMMIT|ROLLBACK);\n", "", text)
        project.write("001_x.sql", mended)
        done = project.invoke("db.plan")
        assert done.returncode == 0, done.output


def test_twins_say_which_one_is_executed_and_many_notes_are_counted(project: Project) -> None:
    project.write("001_a.sql", "SELECT 1;")
    project.invoke("db.migrate-run")
    for n in range(1, 12):
        project.write(f"{n:03}_b.sql", "SELECT 1;")
        project.write(f"{n:03}_c.sql", "SELECT 1;")
    out = project.invoke("db.plan", "--run").stdout
    assert "001_a.sql and 001_b.sql have the same number; 001_a.sql is executed already." in out
    assert "001_b.sql and 001_c.sql have the same number; both run, in this order." in out
    assert "warning: 9 more pairs of files have the same number." in out
    assert out.count("warning: ") == 4


def test_a_missing_folder_is_said_before_a_database_is_made(project: Project) -> None:
    name = f"{project.database}_new"
    project.migrations.rmdir()
    done = project.invoke("db.migrate", env={"DATABASE_URL": project.cluster.url(name)})
    assert done.returncode == 2
    assert "There is no folder migrations" in done.stderr
    with project.cluster.connect() as conn:
        query = "SELECT 1 FROM pg_database WHERE datname = %s"
        assert conn.execute(query, [name]).fetchone() is None


# How far


def test_a_run_goes_to_a_file_and_no_further(project: Project) -> None:
    write(project, 1, 2, 3, 4)
    planned = project.invoke("db.plan", "--to", "002_t2.sql")
    assert re.findall(r"^00\S+", planned.stdout, re.MULTILINE) == ["001_t1.sql", "002_t2.sql"]
    done = project.invoke("db.migrate-run", "--to", "002_t2")
    assert done.returncode == 0, done.output
    assert "left pending, behind 002_t2.sql: 003_t3.sql, 004_t4.sql" in done.stdout
    assert project.executed() == ["001_t1.sql", "002_t2.sql"]
    assert project.invoke("db.migrate-run", "--to", "002_t2.sql").returncode == 0
    unknown = project.invoke("db.migrate-run", "--to", "003_t4.sql")
    assert unknown.returncode == 2
    assert "Did you mean" in unknown.stderr


def test_a_failed_run_to_a_file_says_how_to_go_on(project: Project) -> None:
    write(project, 1, 3)
    project.write("002_x.sql", "SELECT nonsense;")
    done = project.invoke("db.migrate-run", "--to", "002_x.sql")
    assert "then: invoke db.migrate-run --to 002_x.sql" in done.stderr


# What db.plan shows


def test_plan_shows_each_goal(project: Project) -> None:
    project.write_schema("CREATE TABLE base (id int);")
    write(project, 1, 2)

    def planned(*options: str) -> list[str]:
        done = project.invoke("db.plan", *options)
        assert done.returncode == 0, done.output
        return re.findall(r"^\S+\.sql", done.stdout, re.MULTILINE)

    assert planned() == ["schema.sql", "001_t1.sql", "002_t2.sql"]
    assert planned("--run") == ["001_t1.sql", "002_t2.sql"]
    assert planned("--name", "002_t2.sql") == ["002_t2.sql"]
    assert project.invoke("db.plan", "--run", "--name", "x").returncode == 2


def test_plan_marks_what_is_out_of_order(project: Project) -> None:
    write(project, 2)
    project.invoke("db.migrate-run")
    write(project, 1, 3)
    out = project.invoke("db.plan", "--run").stdout
    assert re.search(r"^001_t1.sql +out of order +in a transaction", out, re.MULTILINE)
    assert re.search(r"^003_t3.sql +pending ", out, re.MULTILINE)


def test_plan_of_tables_without_a_ledger_shows_what_migrate_run_would_do(project: Project) -> None:
    write(project, 1)
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE theirs ()")
    assert project.invoke("db.plan").returncode == 2
    done = project.invoke("db.plan", "--run")
    assert done.returncode == 0, done.output
    assert "001_t1.sql" in done.stdout


def test_psql_runs_what_plan_shows_as_sql_to_the_same_end(project: Project, binaries: Path) -> None:
    project.write_schema("CREATE TABLE base (id int, word text);")
    project.write("001_copy.sql", "COPY base FROM stdin;\n1\tgrün\n2\t\\N\n\\.\nSELECT 1 -- end\n;")
    project.write(
        "002_index.sql",
        "-- migrate: no-transaction\nBEGIN;\nCREATE TABLE c (id int);\nCOMMIT;\n"
        "CREATE INDEX CONCURRENTLY i ON base (id);\n",
    )
    project.write(
        "004_batches.sql",
        "-- migrate: no-transaction\n-- migrate: repeat until 0 rows, pause 0ms\n"
        "UPDATE base SET word = '$repeated$' -- x\nWHERE id IN (SELECT id FROM base "
        "WHERE word IS DISTINCT FROM '$repeated$' LIMIT 1);\n",
    )
    project.write("003_isolated.sql", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\nTABLE base;")
    done = project.invoke("db.plan", "--sql")
    assert done.returncode == 0, done.output
    assert f"-- {project.database} on " in done.stdout
    assert project.rows() == []
    psql = [str(binaries / "psql"), "-X", "-q", "-o", "/dev/null", "-f", "-", project.url]
    ran = subprocess.run(psql, input=done.stdout, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    files = ["001_copy.sql", "002_index.sql", "003_isolated.sql", "004_batches.sql"]
    assert project.executed() == ["schema.sql", *files]
    assert project.invoke("db.status", "--check").returncode == 0
    assert "as they were executed: 4" in project.invoke("db.verify").stdout
    with project.cluster.connect(project.database) as conn:
        assert conn.execute("SELECT word FROM base ORDER BY id").fetchall() == [("$repeated$",)] * 2


def test_the_sql_of_each_unit_waits_for_a_lock_as_long_as_in_a_run(project: Project) -> None:
    seen = "INSERT INTO seen VALUES (current_setting('lock_timeout'));\n"
    repeat = "-- migrate: repeat until 0 rows, pause 0ms\n"
    project.write_schema("CREATE TABLE seen (value text);")
    project.write(
        "001_u.sql",
        f"-- migrate: no-transaction\n{repeat}DELETE FROM seen;\n{seen}VACUUM seen;\n"
        f"VACUUM FULL seen;\nSET lock_timeout = '3s';\n{seen}VACUUM FULL seen;\n",
    )
    done = project.invoke("db.plan", "--sql")
    assert done.returncode == 0, done.output
    said = done.stdout[done.stdout.index("001_u.sql") :]
    lines = [line for line in said.splitlines() if "lock_timeout =" in line or "VACUUM" in line]
    assert lines == [
        "SET lock_timeout = '500ms';",  # the batches
        "SET LOCAL lock_timeout = '500ms';",
        "SET lock_timeout = '0ms';",
        "VACUUM seen;",
        "SET lock_timeout = '500ms';",
        "VACUUM FULL seen;",
        "SET LOCAL lock_timeout = '500ms';",
        "SET lock_timeout = '3s';",
        "VACUUM FULL seen;",
    ]
    assert "EXIT WHEN number OPERATOR(pg_catalog.=) 0" in said


def test_sql_of_a_refused_file_is_not_shown(project: Project) -> None:
    project.write("001_v.sql", "VACUUM;")
    done = project.invoke("db.plan", "--sql")
    assert done.returncode == 2
    assert "VACUUM" not in done.stdout

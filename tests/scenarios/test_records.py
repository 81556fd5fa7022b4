"""The ledger put right: renamed files, answers that come late, rows that another tool has left."""

from __future__ import annotations

import re
import time

import pytest

from tests.conftest import Project
from tests.scenarios.test_everyday import (
    NODE_LEDGER,
    asked_on_terminal,
    execute,
    states,
    tables,
    write,
)
from tests.servers import DEPLOY

ONCE = "CREATE TABLE IF NOT EXISTS once (id int); INSERT INTO once VALUES (1);"


def renamed(project: Project, old: str, new: str) -> None:
    (project.migrations / old).rename(project.migrations / new)


def times(project: Project) -> int:
    with project.cluster.connect(project.database) as conn:
        row = conn.execute("SELECT count(*) FROM once").fetchone()
        assert row is not None
        return int(row[0])


# A file under another name


@pytest.mark.parametrize(
    "command",
    [
        ["db.migrate-run"],
        ["db.migrate"],
        ["db.migrate-single", "003_b.sql"],
        ["db.plan"],
        ["db.baseline", "--yes"],
    ],
    ids=" ".join,
)
def test_a_renamed_file_is_refused_with_what_to_type(project: Project, command: list[str]) -> None:
    write(project, 1)
    project.write("002_b.sql", ONCE)
    project.invoke("db.migrate-run")
    renamed(project, "002_b.sql", "003_b.sql")
    done = project.invoke(*command)
    assert done.returncode == 2, done.output
    said = done.stderr
    assert "003_b.sql is 002_b.sql under another name, which is executed" in said
    assert "invoke db.repair --name 003_b.sql --renamed-from 002_b.sql" in said
    assert "--forget" not in said
    assert times(project) == 1
    assert project.executed() == ["001_t1.sql", "002_b.sql"]


def test_the_repair_moves_the_row_as_it_is_and_runs_go_on(project: Project) -> None:
    project.write("001_b.sql", ONCE)
    project.invoke("db.migrate-run")
    before = project.rows()[0]
    renamed(project, "001_b.sql", "002_c.sql")
    done = project.invoke(
        "db.repair", "--name", "002_c.sql", "--renamed-from", "001_b.sql", "--yes"
    )
    assert done.returncode == 0, done.output
    assert "gets the row of 001_b.sql, executed at 20" in done.stdout
    assert project.rows() == [{**before, "filename": "002_c.sql"}]
    write(project, 3)
    assert project.invoke("db.migrate-run").returncode == 0
    assert times(project) == 1
    assert states(project) == {"002_c.sql": "executed", "003_t3.sql": "executed"}


def test_status_and_verify_show_a_rename_and_never_advise_to_forget_it(project: Project) -> None:
    project.write("001_b.sql", ONCE)
    write(project, 2)
    project.invoke("db.migrate-run")
    renamed(project, "001_b.sql", "003_c.sql")
    assert states(project) == {
        "001_b.sql": "missing",
        "002_t2.sql": "executed",
        "003_c.sql": "renamed",
    }
    for command in (["db.status", "--check"], ["db.verify"]):
        done = project.invoke(*command)
        assert done.returncode == 3
        assert "invoke db.repair --name 003_c.sql --renamed-from 001_b.sql" in done.stderr
        assert "--forget" not in done.output
    forgotten = project.invoke("db.repair", "--name", "001_b.sql", "--forget")
    assert "003_c.sql, which is the same file, runs then" in forgotten.stdout


def test_twelve_renames_are_named_at_once_and_each_pair_by_its_words(project: Project) -> None:
    for n in range(1, 13):
        project.write(f"{n:02}_same_{n}.sql", ONCE)
    project.invoke("db.migrate-run")
    for n in range(1, 13):
        renamed(project, f"{n:02}_same_{n}.sql", f"{n + 100}_same_{n}.sql")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "12 pending files are executed ones under another name" in done.stderr
    pairs = re.findall(r"--name 1\d\d_(\S+) --renamed-from \d\d_(\S+)", done.stderr)
    assert len(pairs) == 10
    assert all(new == old for new, old in pairs)
    assert "and 2 more" in done.stderr
    assert times(project) == 12


@pytest.mark.parametrize(
    ("old", "new"),
    [("6_b.sql", "006_b.sql"), ("006_b.sql", "006_better.sql")],
    ids=["another width of its number", "other words"],
)
def test_a_rename_is_known_though_the_name_in_its_header_went_with_it(
    project: Project, old: str, new: str
) -> None:
    text = "-- Migration: {}\n" + ONCE
    project.write(old, text.format(old.removesuffix(".sql")))
    project.invoke("db.migrate-run")
    (project.migrations / old).unlink()
    project.write(new, text.format(new.removesuffix(".sql")))
    refused = project.invoke("db.migrate-run")
    assert refused.returncode == 2, refused.output
    command = refused.stderr[refused.stderr.index("db.repair --name") :].split("\n")[0].split()
    assert project.invoke(*command, "--yes").returncode == 0
    assert project.invoke("db.verify").returncode == 0
    assert times(project) == 1


def test_a_row_without_a_checksum_is_known_by_its_number_and_words(project: Project) -> None:
    write(project, 2)
    execute(project, NODE_LEDGER)
    renamed(project, "002_t2.sql", "0002_t2.sql")
    done = project.invoke("db.migrate-run")
    assert done.returncode == 2
    assert "--name 0002_t2.sql --renamed-from 002_t2.sql" in done.stderr
    assert tables(project) == {"migrations"}


def test_a_copy_is_no_rename_and_neither_is_a_new_text(project: Project) -> None:
    project.write("001_b.sql", ONCE)
    project.write("002_c.sql", "SELECT 2;")
    project.invoke("db.migrate-run")
    project.write("003_copy.sql", ONCE)  # the first is still there
    (project.migrations / "002_c.sql").unlink()
    project.write("004_d.sql", "SELECT 3;")
    refused = project.invoke(
        "db.repair", "--name", "003_copy.sql", "--renamed-from", "001_b.sql", "--yes"
    )
    assert refused.returncode == 2
    assert "is a copy of it" in refused.stderr
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert "002_c.sql is executed, but its file is missing" in done.stdout
    assert times(project) == 2


def test_of_two_new_files_only_one_can_be_what_is_missing(project: Project) -> None:
    project.write("001_a.sql", ONCE)
    project.invoke("db.migrate-run")
    (project.migrations / "001_a.sql").unlink()
    project.write("002_a.sql", ONCE)
    project.write("003_a.sql", ONCE)
    repair = ("db.repair", "--renamed-from", "001_a.sql", "--yes", "--name")
    assert "--name 002_a.sql" in project.invoke("db.migrate-run").stderr
    assert project.invoke(*repair, "002_a.sql").returncode == 0
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.executed() == ["002_a.sql", "003_a.sql"]
    again = project.invoke(*repair, "003_a.sql")
    assert again.returncode == 2
    assert project.executed() == ["002_a.sql", "003_a.sql"]


def moved_on(project: Project) -> None:
    """Execute 002_seed.sql, move its text to 003_seed.sql, and write another one in its place."""
    write(project, 1)
    project.write("002_seed.sql", ONCE)
    assert project.invoke("db.migrate-run").returncode == 0
    renamed(project, "002_seed.sql", "003_seed.sql")
    project.write("002_seed.sql", "CREATE TABLE colleague (id int);")


@pytest.mark.parametrize(
    "command",
    [
        ["db.migrate-run"],
        ["db.migrate-single", "003_seed.sql"],
        ["db.plan"],
        ["db.baseline", "--yes"],
        ["db.repair", "--name", "002_seed.sql", "--accept", "--yes"],
    ],
    ids=" ".join,
)
def test_an_executed_text_that_moved_on_is_known_though_its_name_has_another_one(
    project: Project, command: list[str]
) -> None:
    moved_on(project)
    before = project.rows()
    done = project.invoke(*command)
    assert done.returncode == 2, done.output
    assert "invoke db.repair --name 003_seed.sql --renamed-from 002_seed.sql" in done.stderr
    assert "--accept" not in done.output
    assert "002_seed.sql, which has another text now, is pending then" in done.stderr
    assert project.rows() == before
    assert times(project) == 1


def test_the_repair_of_a_text_that_moved_on_lets_the_one_in_its_place_run(
    project: Project,
) -> None:
    moved_on(project)
    assert states(project) == {
        "001_t1.sql": "executed",
        "002_seed.sql": "changed",
        "003_seed.sql": "renamed",
    }
    for command in (["db.status", "--check"], ["db.verify"]):
        done = project.invoke(*command)
        assert done.returncode == 3
        assert "--renamed-from 002_seed.sql" in done.stderr
        assert "--accept" not in done.output
    forget = project.invoke("db.repair", "--name", "002_seed.sql", "--forget")
    assert "it runs, and so does 003_seed.sql, which has the executed text" in forget.stdout
    repair = ("db.repair", "--name", "003_seed.sql", "--renamed-from", "002_seed.sql", "--yes")
    done = project.invoke(*repair)
    assert done.returncode == 0, done.output
    assert "002_seed.sql, which has another text now, is pending then" in done.stdout
    run = project.invoke("db.migrate-run")
    assert run.returncode == 0, run.output
    assert times(project) == 1
    assert "colleague" in tables(project)
    assert project.invoke("db.verify").returncode == 0


def test_a_text_that_moved_on_is_known_though_the_name_in_its_header_went_with_it(
    project: Project,
) -> None:
    project.write("002_seed.sql", f"-- Migration: 002_seed\n{ONCE}")
    project.invoke("db.migrate-run")
    project.write("003_seed.sql", f"-- Migration: 003_seed\n{ONCE}")
    project.write("002_seed.sql", "SELECT 2;")
    assert "--renamed-from 002_seed.sql" in project.invoke("db.migrate-run").stderr
    project.write("003_seed.sql", "SELECT 3;")  # the same words, and a text of its own
    edited = project.invoke("db.migrate-run")
    assert "invoke db.repair --name 002_seed.sql --accept" in edited.stderr
    assert times(project) == 1


def test_numbers_that_moved_by_one_are_repaired_from_the_last_to_the_first(
    project: Project,
) -> None:
    for n in (1, 2):
        project.write(f"00{n}_migration.sql", f"{ONCE} -- {n}")
    project.invoke("db.migrate-run")
    renamed(project, "002_migration.sql", "003_migration.sql")
    renamed(project, "001_migration.sql", "002_migration.sql")
    project.write("001_migration.sql", "CREATE TABLE colleague (id int);")
    for old in ("002", "001"):
        refused = project.invoke("db.migrate-run")
        assert refused.returncode == 2
        assert f"--renamed-from {old}_migration.sql" in refused.stderr
        command = refused.stderr[refused.stderr.index("db.repair --name") :].split("\n")[0].split()
        assert project.invoke(*command, "--yes").returncode == 0
    assert project.invoke("db.migrate-run").returncode == 0
    assert times(project) == 2
    assert "colleague" in tables(project)


def test_a_base_schema_that_became_a_migration_is_not_loaded_again(project: Project) -> None:
    project.write_schema(ONCE)
    assert project.invoke("db.migrate").returncode == 0
    schema = project.folder / "db" / "schema.sql"
    schema.rename(project.migrations / "001_init.sql")
    refused = project.invoke("db.migrate-run")
    assert refused.returncode == 2
    assert "--name 001_init.sql --renamed-from schema.sql" in refused.stderr
    done = project.invoke(
        "db.repair", "--name", "001_init.sql", "--renamed-from", "schema.sql", "--yes"
    )
    assert done.returncode == 0, done.output
    assert project.invoke("db.migrate-run").returncode == 0
    assert times(project) == 1


def test_another_single_file_runs_beside_a_renamed_one(project: Project) -> None:
    project.write("001_b.sql", ONCE)
    project.invoke("db.migrate-run")
    renamed(project, "001_b.sql", "002_b.sql")
    write(project, 3)
    assert project.invoke("db.migrate-single", "003_t3.sql").returncode == 0
    assert times(project) == 1


def test_advice_to_pad_an_executed_file_names_the_repair_and_leads_to_one_execution(
    project: Project,
) -> None:
    project.write("6_b.sql", ONCE)
    project.invoke("db.migrate-run")
    write(project, 7)
    refused = project.invoke("db.migrate-run")
    assert refused.returncode == 2
    assert "invoke db.repair --name 006_b.sql --renamed-from 6_b.sql" in refused.stderr
    renamed(project, "6_b.sql", "006_b.sql")
    command = ["db.repair", "--name", "006_b.sql", "--renamed-from", "6_b.sql", "--yes"]
    assert project.invoke(*command).returncode == 0
    assert project.invoke("db.migrate-run").returncode == 0
    assert times(project) == 1


# The next name


@pytest.mark.parametrize(
    ("there", "made"),
    [
        (["6_b.sql"], "7_c.sql"),
        (["001_a.sql", "002_a.sql", "6_b.sql"], "7_c.sql"),
        (["5_a.sql", "006_b.sql"], None),
        (["008_a.sql", "9_b.sql"], None),
        (["1_a.sql", "20240101120000_b.sql"], None),
        (["20240101120000_b.sql", "3_a.sql"], None),
        (["001_a.sql", "0002_b.sql"], None),
        (["999_a.sql"], None),
    ],
    ids=str,
)
def test_the_next_run_takes_what_new_has_written(
    project: Project, there: list[str], made: str | None
) -> None:
    execute(project, NODE_LEDGER, "DELETE FROM migrations")
    for name in there:
        project.write(name, f"SELECT '{name}';")
        execute(project, f"INSERT INTO migrations (filename) VALUES ('{name}')")
    before = sorted(path.name for path in project.migrations.iterdir())
    done = project.invoke("db.new", "c")
    if made:
        assert done.stdout == f"migrations/{made}\n"
    if done.returncode:
        assert "would sort before" in done.stderr
        assert sorted(path.name for path in project.migrations.iterdir()) == before
    else:
        with (project.folder / done.stdout.strip()).open("a") as file:
            file.write("SELECT 1;\n")
        run = project.invoke("db.migrate-run")
        assert run.returncode == 0, run.output
        assert project.executed()[-1] == done.stdout.strip().removeprefix("migrations/")


# Answers that come late


@pytest.mark.long
@pytest.mark.parametrize(
    ("asked", "meanwhile"),
    [
        (["db.repair", "--name", "001_t1.sql", "--accept"], "--forget"),
        (["db.repair", "--name", "001_t1.sql", "--forget"], "--forget"),
        (["db.repair", "--name", "001_t1.sql", "--forget"], "--accept"),
        (["db.repair", "--name", "009_t1.sql", "--renamed-from", "003_t3.sql"], "003"),
        (["db.repair", "--name", "002_t2.sql", "--mark"], "--mark"),
        (["db.baseline"], "--mark"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else f"after {value}",
)
def test_an_answer_to_what_has_changed_meanwhile_does_nothing_and_says_so(
    project: Project, asked: list[str], meanwhile: str
) -> None:
    write(project, 1, 3)
    project.invoke("db.migrate-run")
    write(project, 2)
    project.write("001_t1.sql", "SELECT 'edited';")
    renamed(project, "003_t3.sql", "009_t1.sql")
    if asked == ["db.baseline"]:
        renamed(project, "009_t1.sql", "003_t3.sql")
    other = {
        "--forget": ["--name", "001_t1.sql", "--forget"],
        "--accept": ["--name", "001_t1.sql", "--accept"],
        "--mark": ["--name", "002_t2.sql", "--mark"],
        "003": ["--name", "003_t3.sql", "--forget"],
    }[meanwhile]
    with asked_on_terminal(project, *asked) as answer:
        first = project.invoke("db.repair", *other, "--yes")
        assert first.returncode == 0, first.output
        before = project.rows()
        code, seen = answer("y\n")
    if (asked[-1], meanwhile) == ("--forget", "--accept"):  # it is the same row still
        assert code == 0, seen
        return
    assert code == 2, seen
    assert "was changed meanwhile. Nothing was done." in seen
    assert "invoke db.status" in seen
    assert project.rows() == before


@pytest.mark.long
def test_what_is_asked_about_with_the_ledger_in_use_is_a_sentence(project: Project) -> None:
    write(project, 1)
    project.invoke("db.migrate-run")
    with project.cluster.connect(project.database) as other, other.transaction():
        other.execute("UPDATE migrations SET checksum = checksum")
        done = project.invoke("db.repair", "--name", "001_t1.sql", "--forget", "--yes")
    assert done.returncode == 2, done.output
    assert "Another session has locked the ledger" in done.stderr
    assert project.executed() == ["001_t1.sql"]


# What another tool has left


def behind(project: Project) -> None:
    """Leave the ledger as a restored dump may: with its ids ahead of their sequence."""
    execute(project, NODE_LEDGER, "SELECT setval('migrations_id_seq', 1, false)")


def test_ids_that_are_behind_are_set_right_and_never_taken_for_another_run(
    project: Project,
) -> None:
    write(project, 1, 2, 3, 4)
    project.write("005_n.sql", "-- migrate: no-transaction\nCREATE TABLE n (id int);")
    behind(project)
    done = project.invoke("db.migrate-run")
    assert done.returncode == 0, done.output
    assert "tried again" not in done.output
    assert "had been behind its rows" in done.stdout
    assert [row["id"] for row in project.rows()][:4] == [1, 2, 3, 4]
    assert len(project.rows()) == 5


@pytest.mark.parametrize("command", [["db.baseline"], ["db.repair", "--name", "003", "--mark"]])
def test_ids_that_are_behind_do_not_stop_a_repair(project: Project, command: list[str]) -> None:
    write(project, 1, 2)
    project.write("003_t3.sql", "SELECT 3;")
    behind(project)
    command = [word.replace("003", "003_t3.sql") for word in command]
    done = project.invoke(*command, "--yes")
    assert done.returncode == 0, done.output
    assert "003_t3.sql" in project.executed()


def test_a_role_that_may_not_set_the_ids_right_is_told_the_statement(project: Project) -> None:
    write(project, 1, 2, 3)
    behind(project)
    execute(
        project,
        "ALTER TABLE migrations ADD checksum text, ADD duration_ms int, ADD executed_by text",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON migrations TO {DEPLOY}",
        f"GRANT USAGE ON SEQUENCE migrations_id_seq TO {DEPLOY}",
        f"GRANT CREATE ON SCHEMA public TO {DEPLOY}",
    )
    env = {"DATABASE_URL": project.cluster.url(project.database, role=DEPLOY)}
    done = project.invoke("db.migrate-run", env=env)
    assert done.returncode == 2, done.output
    assert "SELECT setval(pg_get_serial_sequence('" in done.stderr
    assert len(project.executed()) == 2


@pytest.mark.parametrize(
    "command",
    [
        ["db.status"],
        ["db.migrate-run"],
        ["db.repair", "--name", "None", "--forget", "--yes"],
        ["db.rollback", "--yes"],
        ["db.dump", "--force"],
    ],
    ids=" ".join,
)
def test_rows_that_name_no_file_are_refused_with_what_to_do(
    project: Project, command: list[str]
) -> None:
    write(project, 1, 2, 3)
    execute(
        project,
        NODE_LEDGER,
        "ALTER TABLE migrations ALTER filename DROP NOT NULL",
        "INSERT INTO migrations (filename) VALUES (NULL), (NULL)",
    )
    done = project.invoke(*command)
    assert done.returncode == 2, done.output
    assert "2 rows name no file in public.migrations" in done.stderr
    assert "filename IS NULL" in done.stderr
    assert "None" not in done.output.replace("--name None", "")
    assert len(project.rows()) == 4


# Back, while others go forward


@pytest.mark.long
@pytest.mark.parametrize("sequence", ["of the default", "none"])
def test_ids_of_a_sequence_that_is_not_the_columns_own_do_not_keep_a_run_for_ever(
    project: Project, sequence: str
) -> None:
    default = "nextval('elsewhere')" if sequence == "of the default" else "7"
    execute(
        project,
        NODE_LEDGER,
        "CREATE SEQUENCE elsewhere",
        "UPDATE migrations SET id = id + 5",
        f"ALTER TABLE migrations ALTER id SET DEFAULT {default}",
        "DROP SEQUENCE migrations_id_seq",
        "SELECT setval('elsewhere', 6, false)",
    )
    write(project, 1, 2, 3)
    env = {"MIGRATIONS_LOCK_WAIT": "1s"}
    done = project.invoke("db.migrate-run", env=env, timeout=30)
    if sequence == "none":
        assert done.returncode == 1
        assert "(id)=(7) already exists" in done.stderr
        return
    assert done.returncode == 0, done.output
    assert "had been behind its rows" in done.stdout
    assert project.executed()[-1] == "003_t3.sql"


def test_a_rollback_stops_where_a_later_file_was_executed_meanwhile(project: Project) -> None:
    write(project, 1, 2, 4, down=True)
    assert project.invoke("db.migrate-run").returncode == 0
    project.write("004_t4.down.sql", "DROP TABLE t4; SELECT pg_sleep(3);")
    env = {"MIGRATIONS_GUARD": "off"}
    back = project.popen("db.rollback", "--steps", "2", "--yes", env=env)
    with project.cluster.connect(project.database) as conn:
        active = (
            "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3)' AND datname = %s"
        )
        deadline = time.monotonic() + 40
        while not conn.execute(active, [project.database]).fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        conn.execute("INSERT INTO migrations (filename) VALUES ('003_later.sql')")
    stdout, stderr = back.communicate(timeout=60)
    assert back.returncode == 2, stdout + stderr
    assert "002_t2.sql is not the latest file any more. Undone before: 004_t4.sql" in stderr
    assert project.executed() == ["001_t1.sql", "002_t2.sql", "003_later.sql"]
    assert "t2" in tables(project)


def test_a_rollback_that_had_to_wait_leaves_what_is_not_the_latest_any_more(
    project: Project,
) -> None:
    write(project, 1, 2, down=True)
    assert project.invoke("db.migrate-run").returncode == 0
    with asked_on_terminal(project, "db.rollback") as answer:
        write(project, 3)
        assert project.invoke("db.migrate-run").returncode == 0
        code, seen = answer("y\n")
    assert code == 2, seen
    assert "003_t3.sql was executed meanwhile, so 002_t2.sql is not the latest file" in seen
    assert "Nothing was rolled back" in seen
    assert len(project.executed()) == 3


# The base schema


def test_what_a_repair_says_of_the_base_schema_is_what_happens(project: Project) -> None:
    repair = ("db.repair", "--name", "schema.sql", "--yes")
    project.write_schema("CREATE TABLE base (id int);")
    write(project, 1)
    accept = project.invoke(*repair, "--accept")
    assert accept.returncode == 2
    assert "To load it, into a database without tables: invoke db.migrate\n" in accept.stderr
    assert "db.migrate-single" not in accept.stderr
    assert project.invoke("db.migrate").returncode == 0
    assert "base" in tables(project)
    forget = project.invoke(*repair, "--forget")
    assert "it is not loaded again: other files are executed, so it is taken as" in forget.stdout
    assert states(project) == {"001_t1.sql": "executed"}
    again = project.invoke("db.migrate")
    assert again.returncode == 0
    assert "is taken as loaded" in again.stdout
    accept = project.invoke(*repair, "--accept")
    assert accept.returncode == 2
    assert "To record that: invoke db.repair --name schema.sql --mark\n" in accept.stderr
    assert project.invoke(*repair, "--mark").returncode == 0
    assert states(project) == {"schema.sql": "executed", "001_t1.sql": "executed"}


def test_a_base_schema_that_is_forgotten_is_loaded_again_into_an_empty_database(
    project: Project,
) -> None:
    project.write_schema("CREATE TABLE base (id int);")
    assert project.invoke("db.migrate").returncode == 0
    forget = project.invoke("db.repair", "--name", "schema.sql", "--forget", "--yes")
    assert "it is loaded again once the database has no tables, by db.migrate" in forget.stdout
    assert states(project) == {}
    execute(project, "DROP TABLE base")
    assert states(project) == {"schema.sql": "pending"}
    assert project.invoke("db.migrate").returncode == 0
    assert "base" in tables(project)

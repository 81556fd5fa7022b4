"""The everyday commands through the real invoke: output, exit code, effect."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from db.engine.rollback import Rollback
from db.server.connection import Target
from db.server.local import is_local
from db.server.ours import Connection
from db.settings import Settings
from tests.conftest import MakeCluster, Project
from tests.proxy import Proxy
from tests.servers import DEPLOY, DEPLOY_PASSWORD, Cluster, PgBouncer

NODE_LEDGER = """
CREATE TABLE migrations (
    id SERIAL PRIMARY KEY,
    filename VARCHAR(255) NOT NULL UNIQUE,
    executed_at TIMESTAMPTZ DEFAULT CURRENT_TIMESTAMP
);
INSERT INTO migrations (filename) VALUES ('001_t1.sql'), ('002_t2.sql')"""
LOOKS = [["db.status"], ["db.plan"], ["db.verify"]]


def write(project: Project, *numbers: int, down: bool = False) -> None:
    for n in numbers:
        project.write(f"{n:03}_t{n}.sql", f"CREATE TABLE t{n} (id int);")
        if down:
            project.write(f"{n:03}_t{n}.down.sql", f"DROP TABLE t{n};")


def execute(project: Project, *queries: str) -> None:
    with project.cluster.connect(project.database) as conn:
        for query in queries:
            conn.execute(query.encode())


def tables(project: Project) -> set[str]:
    with project.cluster.connect(project.database) as conn:
        found = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {str(row[0]) for row in found}


def lines(output: str, event: str) -> list[dict[str, Any]]:
    """Return the JSON lines of one event."""
    found: list[dict[str, Any]] = [json.loads(line) for line in output.splitlines()]
    return [line for line in found if line["event"] == event]


def states(project: Project) -> dict[str, str]:
    done = project.invoke("db.status", "--json")
    assert done.returncode == 0, done.output
    return {row["filename"]: row["state"] for row in lines(done.stdout, "row")}


def nowhere() -> dict[str, str | None]:
    """An environment whose server nobody has started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return {"DATABASE_URL": f"postgresql://u@127.0.0.1:{port}/d", "MIGRATIONS_CONNECT_TIMEOUT": "0"}


@contextlib.contextmanager
def asked_on_terminal(project: Project, *args: str) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Run invoke on a terminal up to its question; what is yielded answers it, and waits."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [Path(sys.executable).parent / "invoke", *args],
        cwd=project.folder,
        env=project.environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = b""
    while b"[y/N]" not in seen:
        piece = os.read(ours, 4096)
        assert piece, seen.decode()
        seen += piece

    def answer(text: str) -> tuple[int, str]:
        nonlocal seen
        os.write(ours, text.encode())
        with contextlib.suppress(OSError):  # the other side is closed
            while piece := os.read(ours, 4096):
                seen += piece
        return process.wait(30), seen.decode()

    try:
        yield answer
    finally:
        os.close(ours)
        process.kill()
        process.wait()


def on_terminal(project: Project, text: str, *args: str) -> tuple[int, str]:
    """Run invoke on a terminal on which somebody types an answer."""
    with asked_on_terminal(project, *args) as answer:
        return answer(text)


# What all of them do


@pytest.mark.long
@pytest.mark.parametrize(
    "command",
    [
        *LOOKS,
        ["db.baseline", "--yes"],
        ["db.repair", "--name", "001_t1.sql", "--mark", "--yes"],
        ["db.rollback", "--yes"],
        ["db.dump", "--force"],
        ["db.lint"],
        ["db.wait", "--timeout", "1"],
        ["db.create"],
        ["db.drop", "--yes"],
        ["db.reset", "--yes"],
    ],
    ids=" ".join,
)
def test_a_server_that_is_down_is_a_sentence_and_exit_2(
    project: Project, command: list[str]
) -> None:
    write(project, 1)
    done = project.invoke(*command, env=nowhere())
    assert done.returncode == 2, done.output
    assert "127.0.0.1:" in done.stderr
    assert "Traceback" not in done.output


def test_a_server_that_is_down_is_looked_for_where_it_was_named(project: Project) -> None:
    write(project, 1)
    env = nowhere()
    url = env["DATABASE_URL"] or ""
    done = project.invoke("db.status", env=env)
    assert "Check DATABASE_URL in the environment." in done.stderr
    (project.folder / ".env").write_text(f"DATABASE_URL={url}\n")
    done = project.invoke("db.status", env={**env, "DATABASE_URL": None})
    assert "Check DATABASE_URL in .env." in done.stderr
    (project.folder / "targets").write_text(f"a={url}\n")
    done = project.invoke("db.fleet", "--targets", "targets", env=env)
    assert "Check its URL." in done.stderr
    assert "DATABASE_URL" not in done.stderr


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_looking_at_an_empty_database_writes_nothing(project: Project, command: list[str]) -> None:
    write(project, 1)
    done = project.invoke(*command)
    assert done.returncode == 0, done.output
    assert done.stdout.startswith(f"{project.database} on ")
    assert tables(project) == set()


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_looking_at_a_ledger_of_the_node_code_leaves_it_as_it_is(
    project: Project, command: list[str]
) -> None:
    write(project, 1, 2, 3)
    execute(project, NODE_LEDGER)
    assert project.invoke(*command).returncode == 0
    assert set(project.rows()[0]) == {"id", "filename", "executed_at"}


@pytest.mark.parametrize(
    "command",
    [
        ["db.baseline"],
        ["db.repair", "--name", "001_t1.sql", "--forget"],
        ["db.rollback"],
        ["db.drop"],
        ["db.reset"],
    ],
    ids=" ".join,
)
def test_without_a_terminal_and_without_yes_nothing_is_changed(
    project: Project, command: list[str]
) -> None:
    write(project, 1, down=True)
    assert project.invoke("db.migrate-run").returncode == 0
    done = project.invoke(*command)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert project.executed() == ["001_t1.sql"]


@pytest.mark.parametrize(("answer", "left"), [("y\n", []), ("\n", ["001_t1.sql"])])
def test_on_a_terminal_the_answer_decides(project: Project, answer: str, left: list[str]) -> None:
    write(project, 1)
    project.invoke("db.migrate-run")
    code, seen = on_terminal(project, answer, "db.repair", "--name", "001_t1.sql", "--forget")
    assert code == (2 if left else 0), seen
    assert "[y/N]" in seen
    assert project.executed() == left


@pytest.mark.parametrize("command", ["db.baseline", "db.rollback"])
def test_an_option_in_the_place_of_a_name_is_refused(project: Project, command: str) -> None:
    write(project, 1, down=True)
    project.invoke("db.migrate-run")
    done = project.invoke(command, "--to", "--yes")
    assert done.returncode != 0
    assert "Traceback" not in done.output
    assert project.executed() == ["001_t1.sql"]


def test_no_output_holds_the_password(project: Project, cluster: Cluster) -> None:
    write(project, 1)
    env = {"DATABASE_URL": cluster.url(project.database, role="deploy")}
    execute(project, "GRANT CREATE ON SCHEMA public TO deploy")
    for command in (*LOOKS, ["db.migrate-run"], ["db.dump", "--force"], ["db.drop", "--yes"]):
        assert DEPLOY_PASSWORD not in project.invoke(*command, env=env).output


# db.status


def test_status_names_every_state(project: Project) -> None:
    write(project, 1, 2, 4)
    project.write(
        "005_t5.sql", "-- migrate: no-transaction\nCREATE TABLE t5 (id int);\nSELECT 1/0;"
    )
    project.invoke("db.migrate-run")
    project.write("001_t1.sql", "CREATE TABLE t1 (id bigint);")
    (project.migrations / "002_t2.sql").unlink()
    write(project, 3, 6)
    assert states(project) == {
        "001_t1.sql": "changed",
        "002_t2.sql": "missing",
        "003_t3.sql": "out of order",
        "004_t4.sql": "executed",
        "005_t5.sql": "unfinished",
        "006_t6.sql": "pending",
    }


def test_status_shows_when_how_long_and_by_whom(project: Project) -> None:
    write(project, 1, 2)
    project.invoke("db.migrate-single", "001_t1.sql")
    done = project.invoke("db.status")
    assert re.search(r"^001_t1.sql  executed  20\d\d-\d\d-\d\d \d\d:\d\d  \d+ ms +\S+@\S+ \(\w+\)$",
                     done.stdout, re.MULTILINE), done.stdout  # fmt: skip
    assert re.search(r"^002_t2.sql  pending$", done.stdout, re.MULTILINE)
    assert "1 executed, 1 pending" in done.stdout


def test_status_check_exits_3_until_everything_is_executed(project: Project) -> None:
    write(project, 1)
    before = project.invoke("db.status", "--check")
    assert before.returncode == 3
    assert "1 pending" in before.stderr or "2 pending" in before.stderr
    project.invoke("db.migrate")
    assert project.invoke("db.status", "--check").returncode == 0


def test_status_of_an_empty_database_shows_the_base_schema_as_pending(project: Project) -> None:
    assert states(project) == {"schema.sql": "pending"}
    project.invoke("db.migrate")
    assert states(project) == {"schema.sql": "executed"}


def test_status_of_an_adopted_ledger_shows_what_it_knows(project: Project) -> None:
    write(project, 1, 2, 3)
    execute(project, NODE_LEDGER)
    done = project.invoke("db.status", "--json")
    first, _, third = lines(done.stdout, "row")
    assert (first["state"], third["state"]) == ("executed", "pending")
    assert first["executed_at"]
    assert first["duration_ms"] is None


def test_status_notes_two_files_with_the_same_number(project: Project) -> None:
    project.write("001_a.sql", "SELECT 1;")
    project.write("001_b.sql", "SELECT 1;")
    assert "have the same number" in project.invoke("db.status").stdout


def test_status_works_as_a_role_that_may_only_read(project: Project, cluster: Cluster) -> None:
    write(project, 1)
    project.invoke("db.migrate-run")
    env = {"DATABASE_URL": cluster.url(project.database, role="deploy")}
    refused = project.invoke("db.status", env=env)
    assert refused.returncode == 2
    assert "permission denied" in refused.stderr
    execute(project, "GRANT SELECT ON migrations TO deploy")
    assert project.invoke("db.status", env=env).returncode == 0


# db.plan


def test_plan_shows_the_files_in_order_with_their_statements(project: Project) -> None:
    execute(project, NODE_LEDGER)
    write(project, 1, 2)
    project.write(
        "003_x.sql", "BEGIN; CREATE TABLE x (id int); CREATE INDEX ON x (id); "
        "CREATE INDEX ON x (id, id); COMMIT;"
    )  # fmt: skip
    project.write("004_i.sql", "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY i ON x (id);")
    done = project.invoke("db.plan", "--json")
    assert done.returncode == 0, done.output
    assert lines(done.stdout, "row") == [
        {
            "event": "row",
            "filename": "003_x.sql",
            "state": "pending",
            "runs": "in a transaction",
            "statements": "CREATE TABLE, CREATE INDEX ×2",
        },
        {
            "event": "row",
            "filename": "004_i.sql",
            "state": "pending",
            "runs": "no transaction",
            "statements": "CREATE INDEX CONCURRENTLY",
        },
    ]


def test_plan_of_an_empty_database_begins_with_the_base_schema(project: Project) -> None:
    write(project, 1)
    done = project.invoke("db.plan")
    assert re.search(r"^schema.sql .*CREATE TABLE.*\n001_t1.sql", done.stdout, re.MULTILINE)
    project.invoke("db.migrate")
    assert "nothing to do" in project.invoke("db.plan").stdout


def test_plan_shows_every_file_that_would_be_refused(project: Project) -> None:
    project.write("001_a.sql", "VACUUM;")
    write(project, 2)
    project.write("003_c.sql", "SELECT 'open;")
    done = project.invoke("db.plan")
    assert done.returncode == 2
    assert "migrations/001_a.sql:1:1: VACUUM cannot run in a transaction" in done.stderr
    assert "migrations/003_c.sql:1:8: this quote is not closed" in done.stderr
    assert len(re.findall(r"^00._..sql +pending +refused", done.stdout, re.MULTILINE)) == 2


def test_plan_refuses_a_changed_file_as_migrate_does(project: Project) -> None:
    write(project, 1)
    project.invoke("db.migrate-run")
    project.write("001_t1.sql", "SELECT 2;")
    planned, run = project.invoke("db.plan"), project.invoke("db.migrate")
    assert planned.returncode == run.returncode == 2
    assert planned.stderr == run.stderr


# db.new


def test_new_takes_the_next_number_and_fills_in_the_header(project: Project) -> None:
    write(project, 1, 9, down=True)
    done = project.invoke("db.new", "add index to Campaigns", env={"DATABASE_URL": None})
    assert done.returncode == 0, done.output
    assert done.stdout == "migrations/010_add_index_to_campaigns.sql\n"
    text = (project.migrations / "010_add_index_to_campaigns.sql").read_text()
    assert text.startswith(
        "-- Migration: 010_add_index_to_campaigns\n"
        f"-- Created at: {date.today()}\n"
        "-- Description: Add index to Campaigns.\n"
    )


def test_new_in_an_empty_folder_begins_with_001(project: Project) -> None:
    assert project.invoke("db.new", "addUsers").stdout == "migrations/001_add_users.sql\n"


def test_new_keeps_the_width_of_the_numbers_that_are_there(project: Project) -> None:
    project.write("00007_x.sql", "SELECT 1;")
    assert project.invoke("db.new", "y").stdout == "migrations/00008_y.sql\n"


def test_what_new_writes_is_ready_for_a_statement(project: Project) -> None:
    for options in (["first"], ["second", "--no-transaction"]):
        path = project.folder / project.invoke("db.new", *options).stdout.strip()
        assert "holds no statement yet" in project.invoke("db.plan").stdout
        with path.open("a") as file:
            file.write("SELECT 1;\n")
    done = project.invoke("db.plan", "--json")
    runs = [row["runs"] for row in lines(done.stdout, "row")]
    assert runs[-2:] == ["in a transaction", "no transaction"]
    assert project.invoke("db.lint").returncode == 0


@pytest.mark.parametrize("description", ["a/b", "../up", "it's", "x.sql", "näher", " ", "a\nb;"])
def test_new_refuses_what_cannot_be_in_a_name(project: Project, description: str) -> None:
    done = project.invoke("db.new", description)
    assert done.returncode == 2, done.output
    assert list(project.migrations.iterdir()) == []


def test_new_never_overwrites_and_never_sorts_before_its_neighbours(project: Project) -> None:
    project.write("999_last.sql", "SELECT 1;")
    done = project.invoke("db.new", "next")
    assert done.returncode == 2
    assert "would sort before" in done.stderr
    assert [p.name for p in project.migrations.iterdir()] == ["999_last.sql"]


# db.verify


def test_verify_exits_3_and_says_which_are_changed_and_which_are_missing(project: Project) -> None:
    write(project, 1, 2, 3)
    project.invoke("db.migrate-run")
    assert "as they were executed: 3" in project.invoke("db.verify").stdout
    project.write("001_t1.sql", "SELECT 2;")
    (project.migrations / "003_t3.sql").unlink()
    done = project.invoke("db.verify", "--json")
    assert done.returncode == 3
    rows = {row["filename"]: row["state"] for row in lines(done.stdout, "row")}
    assert rows == {"001_t1.sql": "changed", "003_t3.sql": "missing"}


def test_verify_says_what_the_node_code_left_without_a_checksum(project: Project) -> None:
    write(project, 1, 2)
    execute(project, NODE_LEDGER)
    done = project.invoke("db.verify")
    assert done.returncode == 0
    assert "without a checksum" in done.stdout


# db.baseline


def test_baseline_records_without_running_and_migrate_goes_on_from_there(project: Project) -> None:
    write(project, 1, 2, 3)
    execute(project, "CREATE TABLE t1 (id int)", "CREATE TABLE t2 (id int)")
    assert project.invoke("db.migrate").returncode == 2
    done = project.invoke("db.baseline", "--to", "002_t2.sql", "--yes")
    assert done.returncode == 0, done.output
    assert project.executed() == ["schema.sql", "001_t1.sql", "002_t2.sql"]
    assert all(row["checksum"] for row in project.rows())
    assert project.invoke("db.migrate").returncode == 0
    assert tables(project) == {"migrations", "t1", "t2", "t3"}
    assert "nothing to record" in project.invoke("db.baseline", "--yes").stdout


def test_baseline_of_an_adopted_ledger_leaves_its_rows(project: Project) -> None:
    write(project, 1, 2, 3)
    execute(project, NODE_LEDGER)
    before = project.rows()
    assert project.invoke("db.baseline", "--yes").returncode == 0
    after = project.rows()
    assert [r["executed_at"] for r in after[:2]] == [r["executed_at"] for r in before]
    assert project.executed() == ["001_t1.sql", "002_t2.sql", "schema.sql", "003_t3.sql"]


def test_baseline_of_an_empty_database_is_refused(project: Project) -> None:
    write(project, 1)
    done = project.invoke("db.baseline", "--yes")
    assert done.returncode == 2
    assert "is empty" in done.stderr
    assert tables(project) == set()


def test_baseline_up_to_an_unknown_name_records_nothing(project: Project) -> None:
    write(project, 1)
    execute(project, "CREATE TABLE t1 (id int)")
    done = project.invoke("db.baseline", "--to", "001_t.sql", "--yes")
    assert done.returncode == 2
    assert "001_t1.sql" in done.stderr
    assert project.rows() == []


def test_baseline_while_a_run_is_under_way_is_refused(project: Project) -> None:
    write(project, 1)
    execute(project, "CREATE TABLE t0 (id int)")
    project.write("002_slow.sql", "SELECT pg_sleep(30);")
    run = project.popen("db.migrate-run")
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with project.cluster.connect(project.database) as conn:
            query = (
                "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%pg_sleep(30)' AND state = %s"
            )
            if conn.execute(query, ["active"]).fetchone():
                break
        time.sleep(0.05)
    done = project.invoke("db.baseline", "--yes")
    run.terminate()
    run.wait(20)
    assert done.returncode == 2
    assert "another run" in done.stderr


# db.repair


def test_repair_accept_takes_the_edited_text_as_executed(project: Project) -> None:
    write(project, 1)
    project.invoke("db.migrate-run")
    project.write("001_t1.sql", "CREATE TABLE t1 (id int); -- edited")
    assert project.invoke("db.migrate-run").returncode == 2
    done = project.invoke("db.repair", "--name", "001_t1.sql", "--accept", "--yes")
    assert done.returncode == 0, done.output
    assert re.search(r"checksum \w{12} becomes \w{12}", done.stdout)
    assert project.invoke("db.migrate-run").returncode == 0
    again = project.invoke("db.repair", "--name", "001_t1.sql", "--accept", "--yes")
    assert "nothing to accept" in again.stdout


def test_repair_forget_removes_the_row_also_of_a_missing_file(project: Project) -> None:
    write(project, 1, 2)
    project.invoke("db.migrate-run")
    (project.migrations / "002_t2.sql").unlink()
    assert project.invoke("db.repair", "--name", "002_t2.sql", "--forget", "--yes").returncode == 0
    assert project.executed() == ["001_t1.sql"]


def test_repair_forget_starts_an_unfinished_file_from_its_first_statement(
    project: Project,
) -> None:
    broken = "-- migrate: no-transaction\nCREATE TABLE a (id int);\nSELECT 1/0;\n"
    project.write("001_a.sql", broken)
    assert project.invoke("db.migrate-run").returncode == 1
    project.write("001_a.sql", broken.replace("a (id int)", "b (id int)").replace("1/0", "1"))
    assert project.invoke("db.migrate-run").returncode == 2
    done = project.invoke("db.repair", "--name", "001_a.sql", "--forget", "--yes")
    assert done.returncode == 0, done.output
    assert project.invoke("db.migrate-run").returncode == 0
    assert tables(project) >= {"a", "b"}


def test_repair_mark_records_a_file_without_running_it(project: Project) -> None:
    write(project, 1)
    done = project.invoke("db.repair", "--name", "001_t1.sql", "--mark", "--yes")
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_t1.sql"]
    assert tables(project) == {"migrations"}
    assert project.invoke("db.verify").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [[], ["--accept", "--forget"], ["--accept", "--forget", "--mark"]],
    ids=["none", "two", "three"],
)
def test_repair_wants_exactly_one_way(project: Project, arguments: list[str]) -> None:
    write(project, 1)
    done = project.invoke("db.repair", "--name", "001_t1.sql", "--yes", *arguments)
    assert done.returncode == 2
    assert "--accept, --forget, --mark or --renamed-from" in done.stderr


def test_repair_of_an_unknown_name_is_answered_with_the_closest(project: Project) -> None:
    write(project, 1)
    done = project.invoke("db.repair", "--name", "001_t.sql", "--mark", "--yes")
    assert done.returncode == 2
    assert "001_t1.sql" in done.stderr
    assert project.rows() == []


def test_repair_adopts_a_ledger_of_the_node_code(project: Project) -> None:
    write(project, 1, 2)
    execute(project, NODE_LEDGER)
    done = project.invoke("db.repair", "--name", "001_t1.sql", "--accept", "--yes")
    assert done.returncode == 0, done.output
    assert [bool(row["checksum"]) for row in project.rows()] == [True, False]


# db.rollback


def test_rollback_undoes_the_latest_file_and_its_row(project: Project) -> None:
    write(project, 1, 2, 3, down=True)
    project.invoke("db.migrate-run")
    done = project.invoke("db.rollback", "--yes")
    assert done.returncode == 0, done.output
    assert re.search(r"^ +003_t3.down.sql +executed", done.stdout, re.MULTILINE)
    assert project.executed() == ["001_t1.sql", "002_t2.sql"]
    assert tables(project) == {"migrations", "t1", "t2"}
    assert project.invoke("db.migrate-run").returncode == 0
    assert "t3" in tables(project)


def test_rollback_goes_back_in_the_order_of_execution(project: Project) -> None:
    write(project, 1, 3, down=True)
    project.invoke("db.migrate-run")
    write(project, 2, down=True)
    project.invoke("db.migrate-run")
    done = project.invoke("db.rollback", "--steps", "2", "--yes")
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_t1.sql"]


def test_rollback_to_a_file_undoes_all_that_came_after_it(project: Project) -> None:
    write(project, 1, 2, 3, 4, down=True)
    project.invoke("db.migrate")
    done = project.invoke("db.rollback", "--to", "002_t2.sql", "--yes")
    assert done.returncode == 0, done.output
    assert project.executed() == ["schema.sql", "001_t1.sql", "002_t2.sql"]
    assert done.stdout.count(project.database) == 1
    assert "nothing to roll back" in project.invoke("db.rollback", "--to", "002_t2.sql").stdout


def test_rollback_with_a_missing_companion_runs_nothing(project: Project) -> None:
    write(project, 1, 2, 3, down=True)
    (project.migrations / "002_t2.down.sql").unlink()
    project.invoke("db.migrate-run")
    done = project.invoke("db.rollback", "--steps", "3", "--yes")
    assert done.returncode == 2
    assert "002_t2.down.sql" in done.stderr
    assert tables(project) == {"migrations", "t1", "t2", "t3"}


def test_a_companion_that_fails_is_shown_with_its_place_and_changes_nothing(
    project: Project,
) -> None:
    write(project, 1, 2, 3, down=True)
    project.invoke("db.migrate-run")
    project.write("002_t2.down.sql", "DROP TABLE t2;\nDROP TABLE nonsense;")
    done = project.invoke("db.rollback", "--steps", "3", "--yes")
    assert done.returncode == 1
    assert "migrations/002_t2.down.sql:2:12: " in done.stderr or ":2:1: " in done.stderr
    assert "002_t2.sql is still executed" in done.stderr
    assert "Undone: 003_t3.sql" in done.stderr
    assert done.stderr.endswith("then: invoke db.rollback --steps 3\n")
    assert project.executed() == ["001_t1.sql", "002_t2.sql"]
    assert tables(project) == {"migrations", "t1", "t2"}


@pytest.mark.parametrize("options", [("--steps", "3"), ("--to", "001_t1.sql")])
def test_a_rollback_that_failed_half_way_goes_on_as_far_as_was_wanted(
    project: Project, options: tuple[str, ...]
) -> None:
    write(project, 1, 2, 3, 4, down=True)
    project.invoke("db.migrate-run")
    project.write("003_t3.down.sql", "DROP TABLE nonsense;")
    said = project.invoke("db.rollback", *options, "--yes").stderr
    again = said.rpartition("then: invoke ")[2].split()
    project.write("003_t3.down.sql", "DROP TABLE t3;")
    assert project.invoke(*again, "--yes").returncode == 0
    assert project.executed() == ["001_t1.sql"]


@pytest.mark.parametrize("name", ["002_t2.sql", "002_t2", "migrations/002_t2.sql"])
def test_rollback_to_a_file_that_is_pending_says_so(project: Project, name: str) -> None:
    write(project, 1, down=True)
    project.invoke("db.migrate-run")
    write(project, 2)
    done = project.invoke("db.rollback", "--to", name, "--yes")
    assert done.returncode == 2
    assert "002_t2.sql is not executed. Nothing was rolled back." in done.stderr
    gone = project.invoke("db.rollback", "--to", "003_t3.sql", "--yes")
    assert "There is no migration named '003_t3.sql'" in gone.stderr
    assert project.executed() == ["001_t1.sql"]


def test_a_no_transaction_companion_is_refused_before_anything_runs(project: Project) -> None:
    write(project, 1, 2, down=True)
    project.invoke("db.migrate-run")
    project.write("001_t1.down.sql", "-- migrate: no-transaction\nVACUUM;")
    done = project.invoke("db.rollback", "--steps", "2", "--yes")
    assert done.returncode == 2
    assert "001_t1.down.sql" in done.stderr
    assert project.executed() == ["001_t1.sql", "002_t2.sql"]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("SELECT 1;\nDROP INDEX CONCURRENTLY i;", "Write it without CONCURRENTLY."),
        ("SELECT 1;\nVACUUM;", "Write it as a new migration."),
    ],
    ids=["concurrently", "another"],
)
def test_a_companion_that_cannot_be_a_transaction_is_not_told_to_say_so(
    project: Project, text: str, advice: str
) -> None:
    write(project, 1, 2, down=True)
    project.invoke("db.migrate-run")
    project.write("001_t1.down.sql", text)
    done = project.invoke("db.rollback", "--steps", "2", "--yes")
    assert done.returncode == 2
    assert "001_t1.down.sql:2:1: " in done.stderr
    assert "Nothing was rolled back." in done.stderr
    assert done.stderr.endswith(f"{advice}\n")
    assert "no-transaction" not in done.stderr
    assert project.executed() == ["001_t1.sql", "002_t2.sql"]


def test_a_companion_that_waits_for_a_lock_lets_it_go_and_tries_again(project: Project) -> None:
    write(project, 1, down=True)
    project.invoke("db.migrate-run")
    with project.cluster.connect(project.database) as reader, reader.transaction():
        reader.execute("SELECT * FROM t1")
        run = project.popen("db.rollback", "--yes")
        assert run.stdout
        seen = ""
        while "tried again" not in seen:
            line = run.stdout.readline()
            assert line, seen
            seen += line
    assert run.wait(30) == 0
    assert project.executed() == []


def test_a_rollback_with_nothing_left_to_do_says_what_it_has_undone(project: Project) -> None:
    """Another one may have undone the rest meanwhile."""
    run = Rollback(Target({}, 0), Settings.of(project.url, project.migrations), ())
    assert run._standing(()) == "Undone: nothing."


def test_two_rollbacks_at_once_undo_each_file_once(project: Project) -> None:
    write(project, 1, down=True)
    project.write("002_t2.sql", "CREATE TABLE t2 (id int); CREATE TABLE log (id serial);")
    project.write("002_t2.down.sql", "SELECT pg_sleep(0.5); DROP TABLE t2;")
    project.invoke("db.migrate-run")
    env = {"MIGRATIONS_GUARD": "off"}
    runs = [project.popen("db.rollback", "--yes", "--to", "001_t1.sql", env=env) for _ in range(2)]
    assert [run.wait(30) for run in runs] == [0, 0]
    assert project.executed() == ["001_t1.sql"]


@pytest.mark.long
def test_a_rollback_goes_on_after_its_connection_was_lost(project: Project) -> None:
    write(project, 1, 2, down=True)
    project.invoke("db.migrate-run")
    project.write("001_t1.down.sql", "DROP TABLE t1; SELECT pg_sleep(2);")
    run = project.popen("db.rollback", "--steps", "2", "--yes")
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE query LIKE %s AND datname = %s AND state = 'active' AND pid <> pg_backend_pid()"
    )
    with project.cluster.connect() as conn:
        deadline = time.monotonic() + 20
        while not conn.execute(kill, ["SELECT pg_sleep(2)%", project.database]).rowcount:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    stdout, stderr = run.communicate(timeout=30)
    assert run.returncode == 0, stdout + stderr
    assert "reconnected" in stdout
    assert project.executed() == []
    assert tables(project) == {"migrations"}


def test_rollback_of_an_adopted_ledger_and_of_none(project: Project) -> None:
    write(project, 1, 2, down=True)
    assert "nothing to roll back" in project.invoke("db.rollback", "--yes").stdout
    assert tables(project) == set()
    execute(project, NODE_LEDGER, "CREATE TABLE t1 (id int)", "CREATE TABLE t2 (id int)")
    done = project.invoke("db.rollback", "--yes")
    assert done.returncode == 0, done.output
    assert project.executed() == ["001_t1.sql"]
    assert tables(project) == {"migrations", "t1"}


# db.dump


def test_a_dump_sets_up_a_new_database_with_nothing_left_to_run(
    project: Project, cluster: Cluster
) -> None:
    shutil.copy(
        Path(__file__).parents[2] / "migrations" / "001_add_whatsapp_instances_table.sql",
        project.migrations,
    )
    write(project, 2)
    assert project.invoke("db.migrate").returncode == 0
    assert project.invoke("db.dump", "--force").returncode == 0
    text = (project.folder / "db" / "schema.sql").read_text()
    assert "restrict" not in text
    assert "Dumped" not in text
    assert "edited" not in project.invoke("db.migrate").stdout
    write(project, 3)
    other = {"DATABASE_URL": cluster.url(f"{project.database}_copy")}
    try:
        done = project.invoke("db.migrate", env=other)
        assert done.returncode == 0, done.output
        assert "003_t3.sql" in done.stdout
        copied = project.invoke("db.status", "--json", env=other)
        rows = lines(copied.stdout, "row")
        assert {row["state"] for row in rows} == {"executed"}
        assert len(rows) == 4
        assert project.invoke("db.verify", env=other).returncode == 0
        assert project.invoke("db.repair", "--name", "003_t3.sql", "--forget", "--yes",
                              env=other).returncode == 0  # fmt: skip
        with cluster.connect(f"{project.database}_copy") as conn:
            conn.execute("DROP TABLE t3")
        again = project.invoke("db.dump", "--file", "again.sql", env=other)
        assert again.returncode == 0, again.output
        assert (project.folder / "again.sql").read_text() == text
    finally:
        cluster.drop_database(f"{project.database}_copy")


def test_a_dump_loads_with_psql_too(project: Project, binaries: Path) -> None:
    write(project, 1)
    project.invoke("db.migrate")
    project.invoke("db.dump", "--file", "out.sql")
    execute(project, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    command = [str(binaries / "psql"), "-v", "ON_ERROR_STOP=1", "-qf", "out.sql", project.url]
    subprocess.run(command, check=True, capture_output=True, cwd=project.folder)
    assert project.executed() == ["001_t1.sql"]


def test_a_dump_loads_where_another_role_owns_what_files_make(
    project: Project, cluster: Cluster
) -> None:
    write(project, 1)
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.invoke("db.dump", "--force").returncode == 0
    name = f"{project.database}_copy"
    env = {"DATABASE_URL": cluster.url(name), "MIGRATIONS_ROLE": "deploy"}
    try:
        project.invoke("db.create", env=env)
        with cluster.connect(name) as conn:
            conn.execute("GRANT CREATE ON SCHEMA public TO deploy")
        done = project.invoke("db.migrate", env=env)
        assert done.returncode == 0, done.output
        with cluster.connect(name) as conn:
            owners = "SELECT tablename, tableowner FROM pg_tables WHERE schemaname = 'public'"
            assert dict(conn.execute(owners)) == {"migrations": "postgres", "t1": "deploy"}
    finally:
        cluster.drop_database(name)


def test_a_second_dump_of_the_same_schema_changes_no_byte(project: Project) -> None:
    write(project, 1)
    project.invoke("db.migrate")
    project.invoke("db.dump", "--file", "one.sql")
    again = project.invoke("db.dump", "--file", "one.sql")
    assert "is as it was" in again.stdout
    project.invoke("db.dump", "--file", "two.sql")
    assert (project.folder / "one.sql").read_bytes() == (project.folder / "two.sql").read_bytes()


def test_a_dump_leaves_the_ledger_out_of_the_schema_and_knows_odd_names(project: Project) -> None:
    project.write("001_{it}'s 100%.sql", "SELECT 1;")
    project.write("002_f.sql", "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$\n"
                  "SELECT '\n\n\n-- Name: x\nSET lock_timeout = 0;'$$;")  # fmt: skip
    project.write("003_s.sql", "CREATE SCHEMA s; CREATE TABLE s.a (id serial);")
    assert project.invoke("db.migrate-run").returncode == 0
    assert project.invoke("db.dump", "--force").returncode == 0
    text = (project.folder / "db" / "schema.sql").read_text()
    assert text.count("CREATE TABLE IF NOT EXISTS") == 1
    assert "migrations_id_seq" not in text
    assert "'\n\n\n-- Name: x\nSET lock_timeout = 0;'" in text
    drop = [f"DROP SCHEMA {name} CASCADE" for name in ("public", "s")]
    execute(project, *drop, "CREATE SCHEMA public", "CREATE SCHEMA s")
    done = project.invoke("db.migrate")
    assert done.returncode == 0, done.output
    assert len(project.executed()) == 4


def test_a_dump_that_cannot_be_written_leaves_the_file_as_it_was(project: Project) -> None:
    done = project.invoke("db.dump", "--file", "nowhere/schema.sql")
    assert done.returncode == 2
    assert "There is no folder nowhere. Nothing was written." in done.stderr


# db.lint


def test_lint_finds_what_would_lock_a_busy_table_in_pending_files_only(project: Project) -> None:
    write(project, 1)
    project.write("002_a.sql", "CREATE TABLE IF NOT EXISTS a (id bigint PRIMARY KEY);")
    project.invoke("db.migrate-run")
    clean = project.invoke("db.lint")
    assert clean.returncode == 0, clean.output
    project.write("003_b.sql", "-- é\nSELECT 'é'; CREATE INDEX a_idx ON a (id);")
    done = project.invoke("db.lint", env={"GITHUB_ACTIONS": "true"})
    assert done.returncode == 1
    assert re.search(r"migrations/003_b.sql:2:13 +require-concurrent-index-creation", done.stdout)
    assert "::error file=migrations/003_b.sql,line=2,col=13::" in done.stdout
    assert "001_t1.sql" not in done.output
    named = project.invoke("db.lint", "--file", "001_t1.sql", "--file", "migrations/002_a.sql",
                           env=nowhere())  # fmt: skip
    assert named.returncode == 1
    assert "001_t1.sql:1:" in named.stdout


def test_lint_without_a_database_looks_at_all_files(project: Project) -> None:
    write(project, 1)
    done = project.invoke("db.lint", env={"DATABASE_URL": None})
    assert done.returncode == 1
    assert "001_t1.sql:1:" in done.stdout


def test_lint_is_silent_on_what_the_runner_takes(project: Project) -> None:
    project.write("001_a.sql", "BEGIN;\nSELECT 1;\nCOMMIT;\n")
    project.write(
        "002_b.sql",
        "-- migrate: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (id);\n"
        "BEGIN;\nSELECT 1;\nCOMMIT;\n",
    )
    shutil.copy(Path(__file__).parents[2] / ".squawk.toml", project.folder)
    done = project.invoke("db.lint", env={"DATABASE_URL": None})
    assert done.returncode == 0, done.output


def test_lint_counts_by_file_and_by_rule_and_leaves_no_blank_lines(project: Project) -> None:
    for n in range(1, 13):
        project.write(f"{n:03}_t.sql", f"CREATE TABLE t{n} (id int);\n" * n)
    done = project.invoke("db.lint", env={"DATABASE_URL": None})
    assert "in 12 of 12 files: 012_t.sql " in done.stderr
    assert " and 2 more." in done.stderr
    assert re.search(r"^prefer-\S+ 78: ", done.stderr, re.MULTILINE)
    assert "\n\n" not in done.stdout.rstrip()
    assert len(done.output.splitlines()) < 250
    lines_of = project.invoke("db.lint", "--json", env={"DATABASE_URL": None}).stdout.splitlines()
    found = [json.loads(line) for line in lines_of]
    assert {line["event"] for line in found} == {"failed"}
    assert {line["filename"] for line in found[:-1]} == {f"{n:03}_t.sql" for n in range(1, 13)}


def test_lint_without_squawk_says_how_to_install_it(project: Project, tmp_path: Path) -> None:
    write(project, 1)
    python = tmp_path / "bin" / "python"  # squawk is looked for beside it
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    code = (
        f"import sys; sys.executable = {str(python)!r}; sys.argv = ['invoke', 'db.lint'];"
        "from invoke.main import program; program.run()"
    )
    env = {**project.environment({"DATABASE_URL": None}), "PATH": os.defpath}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder, env=env, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "pip install '.[lint]'" in done.stderr


# db.wait, db.create, db.drop, db.reset, db.console


@pytest.mark.long
def test_wait_returns_when_the_server_has_come(project: Project, own_cluster: MakeCluster) -> None:
    cluster = own_cluster()
    cluster.stop()
    env = {"DATABASE_URL": cluster.url("not_there_yet")}
    waiting = project.popen("db.wait", env=env)
    assert waiting.stdout
    assert "waiting for the server" in waiting.stdout.readline()
    cluster.start()
    assert waiting.wait(30) == 0


def test_create_drop_and_reset_on_a_server_of_this_machine(
    project: Project, cluster: Cluster
) -> None:
    write(project, 1)
    name = f"{project.database}_made"
    env = {"DATABASE_URL": cluster.url(name)}
    missing = project.invoke("db.status", env=env)
    assert missing.returncode == 2
    assert "invoke db.create" in missing.stderr
    assert "created the database" in project.invoke("db.create", env=env).stdout
    assert "exists already" in project.invoke("db.create", env=env).stdout
    with cluster.connect(name) as other:
        other.execute("CREATE TABLE theirs (id int)")
        done = project.invoke("db.reset", "--yes", env=env)  # though somebody is connected
        assert done.returncode == 0, done.output
    assert "001_t1.sql" in project.invoke("db.status", env=env).stdout
    assert "dropped the database" in project.invoke("db.drop", "--yes", env=env).stdout
    with cluster.connect() as conn:
        assert not conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    for options in (["--yes"], []):  # nobody is asked about what is not there
        again = project.invoke("db.drop", *options, env=env)
        assert again.returncode == 0, again.output
        assert f"the database {name} on" in again.stdout
        assert "does not exist" in again.stdout
        assert "dropped" not in again.stdout


def test_a_database_that_is_there_needs_no_right_to_create_one(project: Project) -> None:
    env = {"DATABASE_URL": project.cluster.url(project.database, role=DEPLOY)}
    assert "exists already" in project.invoke("db.create", env=env).stdout
    with project.cluster.connect() as conn:
        conn.execute(f"REVOKE CONNECT ON DATABASE {project.database} FROM public".encode())
    done = project.invoke("db.migrate", env=env)
    assert done.returncode == 2
    assert f'permission denied for database "{project.database}"' in done.stderr
    assert "CREATE DATABASE" not in done.stderr


@pytest.mark.long
def test_drop_on_a_server_elsewhere_wants_the_name_again(
    project: Project, own_cluster: MakeCluster
) -> None:
    address = _address()
    cluster = own_cluster(options={"listen_addresses": "*"})
    with (cluster.data / "pg_hba.conf").open("a") as hba:
        hba.write("host all all samenet trust\n")
    with cluster.connect() as conn:
        conn.execute("SELECT pg_reload_conf()")
        conn.execute("CREATE DATABASE precious")
    env = {"DATABASE_URL": f"postgresql://postgres@{address}:{cluster.port}/precious"}
    for arguments in ([], ["--yes"], ["--yes", "other"], ["--yes-really-drop", "other"]):
        for command in ("db.drop", "db.reset"):
            done = project.invoke(command, *arguments, env=env)
            assert done.returncode == 2, done.output
            assert "precious" in done.stderr
    for arguments in (["--yes", "precious"], ["--yes-really-drop", "precious"]):
        done = project.invoke("db.drop", *arguments, env=env)
        assert done.returncode == 0, done.output


def _address() -> str:
    """An address of this machine that is not a loopback one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            address: str = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        pytest.skip("this machine has no other address than the loopback one")
    return address


def test_a_socket_whose_other_end_is_not_told_is_no_proof(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    with Connection.connect(url, autocommit=True) as conn:
        assert is_local(conn)
        monkeypatch.delattr(socket, "SO_PEERCRED")
        assert not is_local(conn)


def test_through_a_pooler_all_is_the_same_but_what_needs_pg_dump_and_where_it_is(
    project: Project, pgbouncer: PgBouncer
) -> None:
    write(project, 1, 2, down=True)
    env = {"DATABASE_URL": pgbouncer.url(project.database)}
    assert project.invoke("db.migrate", env=env).returncode == 0
    for command in (
        *LOOKS,
        ["db.rollback", "--yes"],
        ["db.repair", "--name", "001_t1.sql", "--forget", "--yes"],
        ["db.baseline", "--yes"],
        ["db.wait"],
    ):
        done = project.invoke(*command, env=env)
        assert done.returncode == 0, done.output
    write(project, 3)
    for command in (["db.dump", "--force"], ["db.drift"], ["db.rehearse"]):
        done = project.invoke(*command, env=env)  # it would leave its settings to others
        assert done.returncode == 2, done.output
        assert f"A pooler is between here and {project.database} on" in done.stderr
    (project.migrations / "003_t3.sql").unlink()
    assert project.executed() == ["schema.sql", "001_t1.sql", "002_t2.sql"]
    done = project.invoke("db.drop", "--yes", env=env)
    assert done.returncode == 2
    assert f"--yes {project.database}" in done.stderr


@pytest.mark.parametrize("kind", ["tcp", "socket"])
def test_a_tunnel_on_this_machine_is_no_server_of_this_machine(
    project: Project, cluster: Cluster, proxy: Proxy, tmp_path: Path, kind: str
) -> None:
    name = cluster.create_database()
    env = {"DATABASE_URL": f"postgresql://postgres@127.0.0.1:{proxy.port}/{name}"}
    with contextlib.ExitStack() as stack:
        if kind == "socket":
            stack.enter_context(forwarded(tmp_path, proxy.port))
            env["DATABASE_URL"] = f"postgresql://postgres@/{name}?host={tmp_path}&port=5432"
        for command in ("db.drop", "db.reset"):
            done = project.invoke(command, "--yes", env=env)
            assert done.returncode == 2, done.output
            assert f"--yes {name}" in done.stderr
        assert project.invoke("db.drop", "--yes", name, env=env).returncode == 0


@contextlib.contextmanager
def forwarded(folder: Path, port: int) -> Iterator[None]:
    """Forward a socket in the folder to a port, as `ssh -L` does."""

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                near = stack.enter_context(listener.accept()[0])
                far = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()

    with contextlib.ExitStack() as stack, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / ".s.PGSQL.5432"))
        listener.listen()
        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def test_a_server_of_this_machine_is_known_over_tcp(project: Project, cluster: Cluster) -> None:
    name = cluster.create_database()
    env = {"DATABASE_URL": cluster.url(name, port=cluster.port)}
    done = project.invoke("db.drop", "--yes", env=env)
    assert done.returncode == 0, done.output


def test_a_service_file_names_the_database(
    project: Project, cluster: Cluster, tmp_path: Path
) -> None:
    name = cluster.create_database()
    services = tmp_path / "services"
    services.write_text(f"[here]\nhost={cluster.host}\nport={cluster.port}\ndbname={name}\n")
    env = {"DATABASE_URL": None, "PGSERVICE": "here", "PGSERVICEFILE": str(services)}
    env["PGUSER"] = "postgres"
    assert f"the database {name} on " in project.invoke("db.create", env=env).stdout
    assert f"dropped the database {name} on " in project.invoke("db.drop", "--yes", env=env).stdout
    assert project.invoke("db.migrate-run", env=env).stderr.startswith(
        f"Cannot connect to {name} on "
    )


@pytest.mark.long  # the server waits for five seconds, each time
def test_a_template_in_use_is_said(project: Project, cluster: Cluster) -> None:
    env = {"DATABASE_URL": cluster.url("never_made")}
    with cluster.connect("template1"):
        for command in ("db.create", "db.migrate"):
            done = project.invoke(command, env=env)
            assert done.returncode == 2
            assert "is being accessed by other users" in done.stderr
            assert "invoke db.create" not in done.stderr


def test_a_role_that_may_not_drop_is_a_sentence(project: Project, cluster: Cluster) -> None:
    env = {"DATABASE_URL": cluster.url(project.database, role="deploy")}
    done = project.invoke("db.drop", "--yes", env=env)
    assert done.returncode == 2
    assert "must be owner" in done.stderr


def test_console_is_psql_on_the_target_without_the_password_in_its_arguments(
    project: Project, cluster: Cluster
) -> None:
    env = {"DATABASE_URL": cluster.url(project.database, role="deploy")}
    typed = "SELECT current_user || '@' || current_database();\n\\! cat /proc/$PPID/cmdline\n"
    done = project.invoke("db.console", env=env, input=typed)
    assert done.returncode == 0, done.output
    assert f"deploy@{project.database}" in done.stdout
    assert "--dbname" in done.stdout
    assert DEPLOY_PASSWORD not in done.stdout


def test_console_passes_on_the_exit_code_of_psql(project: Project) -> None:
    assert (
        project.invoke("db.console", input="\\set ON_ERROR_STOP 1\nSELECT 1/0;\n").returncode == 3
    )


def test_console_keeps_an_embedded_server_running(project: Project) -> None:
    env = {"DATABASE_URL": f"embedded:{project.folder}/pg"}
    assert project.invoke("db.create", env=env).returncode == 0
    done = project.invoke("db.console", env=env, input="SELECT 'it ' || 'lives';\n")
    assert "it lives" in done.stdout, done.output


# What it costs


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        (["--list"], {"psycopg", "rich", "dotenv"}),
        (["db.new", "x"], {"psycopg", "rich"}),
        (["db.status"], {"rich"}),
        (["db.migrate-run"], {"rich", "db.everyday", "db.rollback", "db.dump", "db.new"}),
    ],
    ids=["--list", "db.new", "db.status", "db.migrate-run with nothing to do"],
)
def test_a_command_imports_only_what_it_needs(
    project: Project, command: list[str], absent: set[str]
) -> None:
    project.invoke("db.migrate-run")
    done = project.invoke(*command, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0, done.output
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "db.tasks" in loaded
    assert loaded & absent == set()


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_output_that_is_lost_is_no_success(project: Project, options: tuple[str, ...]) -> None:
    """What is to be done is done all the same."""
    project.write("001_a.sql", "SELECT 1;\n")
    for command in ("db.migrate-run", "db.status"):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [Path(sys.executable).parent / "invoke", command, *options],
                check=False,
                cwd=project.folder,
                env=project.environment(None),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert (done.returncode, "No space left" in done.stderr) == (2, True), done.stderr
        assert project.executed() == ["001_a.sql"]

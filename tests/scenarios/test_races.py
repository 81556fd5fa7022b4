"""Many runs at once, and commands that change the ledger while a run is under way."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.conftest import Project
from tests.scenarios import mixed
from tests.scenarios.test_engine import running, wait_for
from tests.servers import PgBouncer

RUNS = 20


@pytest.mark.rounds(50)
def test_twenty_runs_at_once_of_which_one_is_killed(
    project: Project, pgbouncer: PgBouncer, seed: int
) -> None:
    """Directly and through a pool of 3, with the guard and without it."""
    rng = random.Random(f"race {seed}")
    mixed.write(project)
    pooled, guard = seed % 2 == 1, rng.choice(["on", "on", "off"])
    env = {"MIGRATIONS_GUARD": guard}
    if pooled:
        env["DATABASE_URL"] = pgbouncer.url(project.database)
    runs = [project.popen("db.migrate-run", env=env) for _ in range(RUNS)]
    wait_for(lambda: bool(mixed.agree(project)), 60)
    time.sleep(rng.uniform(0, 1))
    # The one whose turn it is, or one that waits.
    victim = rng.choice(runs)
    turn = [int(name.rpartition(":")[2]) for _, name in mixed.applications(project) if ":" in name]
    if turn and rng.random() < 0.7:
        victim = next((run for run in runs if run.pid in turn), victim)
    victim.kill()
    for run in runs:
        said = mixed.ended(run, 240)
        assert run is victim or run.returncode == 0, said
        assert "Traceback" not in said, said
    mixed.next_run_completes(project, env)


@contextlib.contextmanager
def a_run_under_way(project: Project) -> Iterator[subprocess.Popen[str]]:
    """Yield a run whose third file does not end before this does."""
    name = counting(project)[2]
    text = (project.migrations / name).read_text()
    wait = "SELECT pg_advisory_xact_lock(77)"
    project.write(name, f"-- migrate: lock-timeout=2min\n{text}{wait};\n")
    with project.cluster.connect(project.database) as conn:
        conn.execute("SELECT pg_advisory_lock(77)")
        process = mixed.start(project)
        wait_for(running(project, wait))
        yield process


def counting(project: Project) -> list[str]:
    """Write four files with companions that take back what they did."""
    with project.cluster.connect(project.database) as conn:
        conn.execute("CREATE TABLE counts (n int PRIMARY KEY)")
    names = [f"{n:02}_count.sql" for n in range(1, 5)]
    for n, name in enumerate(names, 1):
        project.write(name, f"INSERT INTO counts VALUES ({n});\n")
        project.write(f"{n:02}_count.down.sql", f"DELETE FROM counts WHERE n = {n};\n")
    return names


def agree(project: Project) -> list[str]:
    """Assert that a number is there exactly if its file is in the ledger; return the files."""
    with project.cluster.connect(project.database) as conn:
        (both,) = conn.execute(  # by one snapshot: other runs may be under way
            "SELECT ARRAY(SELECT filename::text FROM migrations ORDER BY 1),"
            " ARRAY(SELECT lpad(n::text, 2, '0') || '_count.sql' FROM counts ORDER BY 1)"
        )
    executed, counted = both
    assert executed == counted
    return list(executed)


@pytest.mark.parametrize(
    "command",
    [
        ("db.repair", "--name", "01_count.sql", "--forget"),
        ("db.repair", "--name", "04_count.sql", "--mark"),
        ("db.baseline",),
    ],
    ids=["forget", "mark", "baseline"],
)
def test_the_ledger_is_not_put_right_under_a_run(
    project: Project, command: tuple[str, ...]
) -> None:
    with a_run_under_way(project) as process:
        done = project.invoke(*command, "--yes")
        assert done.returncode == 2, done.output
        assert "Nothing was changed, because of another run" in done.stderr
        assert str(process.pid) in done.stderr
    said = mixed.ended(process)
    assert process.returncode == 0, said
    assert len(agree(project)) == 4


def test_a_rollback_that_waited_never_undoes_a_file_under_a_later_one(project: Project) -> None:
    with a_run_under_way(project) as process:
        back = project.popen("db.rollback", "--yes", env={"PYTHONUNBUFFERED": "1"})
        mixed.wait_for_line(back, "another run")  # it has looked: the second is the last
    said = mixed.ended(process)
    assert process.returncode == 0, said
    said = mixed.ended(back)
    assert back.returncode == 2, said
    assert "04_count.sql was executed meanwhile, so 02_count.sql is not the latest" in said
    assert "Nothing was rolled back" in said
    assert len(agree(project)) == 4
    assert project.invoke("db.rollback", "--yes").returncode == 0
    assert agree(project) == ["01_count.sql", "02_count.sql", "03_count.sql"]


@pytest.mark.rounds(50)
def test_runs_and_rollbacks_at_once(project: Project, seed: int) -> None:
    rng = random.Random(f"rollback {seed}")
    names = counting(project)
    assert project.invoke("db.migrate-run").returncode == 0
    env = {"MIGRATIONS_GUARD": rng.choice(["on", "off"])}
    several = [
        ("db.rollback", "--steps", "2", "--yes"),
        ("db.migrate-run",),
        ("db.rollback", "--to", names[0], "--yes"),
        ("db.migrate-run",),
        ("db.rollback", "--yes"),
    ]
    rng.shuffle(several)
    runs = []
    for command in several:
        runs.append(project.popen(*command, env=env))
        time.sleep(rng.uniform(0, 0.3))
    for run in runs:
        said = mixed.ended(run)
        overtaken = run.returncode == 2 and "is not the latest file any more" in said
        assert run.returncode == 0 or overtaken, said
        agree(project)
    assert project.invoke("db.migrate-run").returncode == 0
    assert agree(project) == names

"""A folder of transactional and no-transaction files, and what has to hold of it at any moment.

Every insert of a file or unit puts a number of its own into `counts`, so that what is in the
database tells exactly what was executed, and how often.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Mapping

from tests.conftest import Project

_HEAD = "-- migrate: no-transaction\n"
_ROWS = "".join(f"{n}\n" for n in range(3000))
_PAUSE = "SELECT pg_sleep(0.02);\n"


def _insert(*numbers: int) -> str:
    return "".join(f"INSERT INTO counts VALUES ({n});\n" for n in numbers)


# A file's units: SQL, and the numbers that it inserts. A file with a transaction has one.
_Unit = tuple[str, tuple[int, ...]]

_NO_TRANSACTION: dict[str, tuple[_Unit, ...]] = {
    "03_index.sql": (
        (_insert(300), (300,)),
        ("CREATE INDEX CONCURRENTLY big_id ON big (id);\n", ()),
        (_insert(302), (302,)),
        (f"BEGIN;\n{_insert(303, 304)}COMMIT;\n", (303, 304)),
        ("REINDEX INDEX CONCURRENTLY big_id;\n", ()),
        (_insert(305), (305,)),
    ),
    "07_unique.sql": (
        ("CREATE UNIQUE INDEX CONCURRENTLY big_unique ON big (id);\n", ()),
        (_insert(701), (701,)),
        ("DROP INDEX CONCURRENTLY big_id;\n", ()),
        ("VACUUM big;\n", ()),
        (_insert(704), (704,)),
    ),
}
_TRANSACTIONAL: dict[str, _Unit] = {
    "01_counts.sql": (f"CREATE TABLE counts (n int);\n{_insert(100)}", (100,)),
    "02_big.sql": (
        f"CREATE TABLE big (id int);\nCOPY big FROM stdin;\n{_ROWS}\\.\n{_insert(200)}",
        (200,),
    ),
} | {
    f"{n:02}_insert.sql": (_insert(100 * n) + _PAUSE + _insert(100 * n + 1), (100 * n, 100 * n + 1))
    for n in (4, 5, 6, 8, 9, 10, 11, 12)
}
FILES = tuple(sorted([*_NO_TRANSACTION, *_TRANSACTIONAL]))


def text(name: str) -> str:
    """Return a file's text."""
    if name in _TRANSACTIONAL:
        return _TRANSACTIONAL[name][0]
    return _HEAD + "".join(unit for unit, _ in _NO_TRANSACTION[name])


def write(project: Project) -> None:
    """Write the files."""
    for name in FILES:
        project.write(name, text(name))


def agree(project: Project) -> list[str]:
    """Assert that ledger and database agree; return the files in the ledger."""
    with project.cluster.connect(project.database, autocommit=False) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        tables = {
            name: conn.execute("SELECT to_regclass(%s) IS NOT NULL", [name]).fetchone() == (True,)
            for name in ("migrations", "migrations_unfinished", "counts")
        }
        executed, finished, counted = [], [], []
        if tables["migrations"]:
            query = "SELECT filename FROM migrations ORDER BY id"
            executed = [row[0] for row in conn.execute(query)]
        if tables["migrations_unfinished"]:
            query = "SELECT filename, unit FROM migrations_unfinished WHERE finished_at IS NOT NULL"
            finished = conn.execute(query).fetchall()
        if tables["counts"]:
            counted = [row[0] for row in conn.execute("SELECT n FROM counts ORDER BY n")]
    assert executed == list(FILES[: len(executed)]), "the ledger is no prefix of the files"
    expected: list[int] = []
    for name in executed:
        expected += _TRANSACTIONAL[name][1] if name in _TRANSACTIONAL else ()
        expected += [n for _, numbers in _NO_TRANSACTION.get(name, ()) for n in numbers]
    for name, unit in finished:
        assert name not in executed, f"{name} is executed, and unfinished"
        expected += _NO_TRANSACTION[name][unit][1]
    assert counted == sorted(expected)
    return executed


def complete(project: Project) -> None:
    """Assert that every file ran, once, and nothing is left over."""
    assert agree(project) == list(FILES)
    with project.cluster.connect(project.database) as conn:
        left = conn.execute("SELECT * FROM migrations_unfinished").fetchall()
        query = "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = %s"
        indexes = conn.execute(query + "::regclass", ["big"]).fetchall()
    assert left == []
    assert indexes == [("big_unique", True)], indexes


def next_run_completes(project: Project, env: Mapping[str, str | None] | None = None) -> None:
    """Assert that it does, from wherever things stand."""
    agree(project)
    done = project.invoke("db.migrate-run", env=env, timeout=120)
    assert done.returncode == 0, done.output
    complete(project)


def start(project: Project, env: Mapping[str, str | None] | None = None) -> subprocess.Popen[str]:
    """Start a run whose lines can be read as they come."""
    return project.popen("db.migrate-run", env={"PYTHONUNBUFFERED": "1", **(env or {})})


def follow(process: subprocess.Popen[str], rng: random.Random) -> int:
    """Let a random part of the run pass, and then a random moment; return how many lines it said.

    With none it is still starting.
    """
    assert process.stdout is not None
    wanted = rng.choice([0, 1, *range(1, len(FILES) + 1)])
    lines = 0
    while lines < wanted and process.stdout.readline():
        lines += 1
    time.sleep(rng.uniform(0, 0.05 if lines else 0.5))
    return lines


def wait_for_line(process: subprocess.Popen[str], *texts: str) -> None:
    """Read lines until one holds one of the texts; the bound is only there against hangs."""
    assert process.stdout is not None
    bound = threading.Timer(30, process.kill)
    bound.start()
    said = []
    for line in process.stdout:
        said.append(line)
        if any(text in line for text in texts):
            bound.cancel()
            return
    raise AssertionError(f"no {texts} in {said}")


def ended(process: subprocess.Popen[str], seconds: float = 90) -> str:
    """Wait for its end, and return what it has said since."""
    out, err = process.communicate(timeout=seconds)
    return out + err


def applications(project: Project) -> list[tuple[int, str]]:
    """Return pid and application_name of the runs' sessions in the test's database."""
    with project.cluster.connect() as conn:
        return conn.execute(
            "SELECT pid, application_name FROM pg_stat_activity "
            "WHERE datname = %s AND starts_with(application_name, 'migrations ')",
            [project.database],
        ).fetchall()
